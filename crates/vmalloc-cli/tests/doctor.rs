//! `vmalloc doctor`: the dead, the living and the damaged.

mod common;

use common::{Place, json, noise, refused, text, vmalloc};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use vmalloc::Pool;

/// Names the pool that a child is to be a member of.
const POOL: &str = "VMALLOC_DOCTOR_POOL";

/// Goal: none of its own. Method: a member that holds an area of its own, a frozen one and a
/// shared one, and waits to be killed.
#[test]
fn child_main() {
    let Some(path) = std::env::var_os(POOL) else { return };
    let pool = Pool::open(path).unwrap();
    let _own = pool.vmalloc(100_000).unwrap();
    let _frozen = pool.vmalloc(5000).unwrap().freeze().unwrap();
    let _shared = pool.vzalloc(5000).unwrap().share().unwrap();
    println!("\n@ready");
    let _ = std::io::stdin().read(&mut [0]);
}

/// Such a member, at work.
fn member(place: &Place) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_main", "--nocapture"]).env(POOL, place.path());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "@ready"), "it died before");
    child
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The report of a pool, of a command that ends with `code`.
#[track_caller]
fn report(output: &Output, code: i32, place: &Place) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let reports: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    reports.into_iter().find(|report| report["path"] == place.str()).expect("the pool's report")
}

/// Goal: a killed member is shown with what it holds, and nothing is changed by the look; with
/// --repair it is recovered, what it published stays, and the pool is well.
#[test]
fn a_killed_member_is_shown_and_then_recovered() {
    let place = Place::with_pool("doctor-dead", "8M");
    kill(member(&place));
    let at = ["doctor", place.str(), "--json"];
    for _ in 0..2 {
        let found = report(&vmalloc(&at), 1, &place);
        assert_eq!(found["well"], false, "{found}");
        let dead = &found["members"][0];
        assert_eq!(dead["alive"], false, "{found}");
        assert_eq!((&dead["areas"], &dead["bytes"]), (&1.into(), &102_400.into()), "{found}");
        assert_eq!((&dead["published"], &dead["attachments"]), (&2.into(), &2.into()), "{found}");
        assert_eq!(found["repaired"], Value::Null);
    }
    let told = vmalloc(&["doctor", place.str()]);
    let message = String::from_utf8_lossy(&told.stderr);
    assert!(message.contains("has dead members") && message.contains("--repair"), "{message}");
    let shown = String::from_utf8_lossy(&told.stdout);
    assert!(shown.contains("holds 1 area of its own (100 KiB), 2 published"), "{shown}");

    let repaired = json(vmalloc(&["doctor", place.str(), "--repair", "--json"]))[0].clone();
    let did = &repaired["repaired"];
    assert_eq!((&did["members"], &did["areas"]), (&1.into(), &1.into()), "{repaired}");
    assert_eq!(did["detached"], 2, "{repaired}");
    assert_eq!((&repaired["well"], &repaired["members"]), (&true.into(), &Value::Array(vec![])));
    assert_eq!(repaired["check"]["result"], "holds");
    assert_eq!(repaired["check"]["areas"], 2, "what it had published: {repaired}");
    assert!(text(vmalloc(&["doctor", place.str()])).ends_with("  well"));
}

/// Goal: a pool whose members live and work is well, and none of them is disturbed.
/// Method: one idle member, and two threads that allocate and free all the time.
#[test]
fn a_pool_with_members_at_work_is_well() {
    let place = Place::with_pool("doctor-alive", "8M");
    let idle = member(&place);
    let pool = Pool::open(place.path()).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for size in [5000, 700_000] {
            let (pool, stop) = (&pool, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    drop(pool.vmalloc(size).unwrap().freeze().unwrap().free());
                }
            });
        }
        for _ in 0..5 {
            let found = report(&vmalloc(&["doctor", place.str(), "--repair", "--json"]), 0, &place);
            assert_eq!(found["well"], true, "{found}");
            let alive = |member: &Value| member["alive"] == true;
            assert!(found["members"].as_array().unwrap().iter().all(alive), "{found}");
            assert_eq!(found["members"].as_array().unwrap().len(), 2, "{found}");
            assert_eq!(found["repaired"], Value::Null);
        }
        stop.store(true, Ordering::Relaxed);
    });
    kill(idle);
}

/// Goal: bytes that make no sense give an error that says so, with and without living members,
/// whether the tables or the header are spoiled; never a panic.
/// Method: the second half of the tables, then a word of the header, overwritten in the file.
#[test]
fn a_damaged_pool_is_not_well_and_never_a_panic() {
    let place = Place::with_pool("doctor-damaged", "8M");
    place.put(&noise(5000, 1));
    let pool = Pool::open(place.path()).unwrap();
    let tables = pool.info().tables_bytes;
    let mut file = std::fs::File::options().write(true).open(place.path()).unwrap();
    let mut overwrite = |at: u64, bytes: &[u8]| {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(bytes).unwrap();
    };
    overwrite(tables / 8, &vec![0xa5; (tables - tables / 8) as usize]);
    for args in
        [&["doctor", place.str(), "--json"][..], &["doctor", place.str(), "--json", "--repair"]]
    {
        let found = report(&vmalloc(args), 1, &place);
        assert_eq!(found["check"]["result"], "broken", "{found}");
    }
    let message = vmalloc(&["doctor", place.str()]).stderr;
    assert!(String::from_utf8_lossy(&message).contains("is damaged"));

    overwrite(24, &[0xa5; 8]); // the capacity
    refused(vmalloc(&["doctor", place.str()]), 1);
    let found = report(&vmalloc(&["doctor", "--json"]), 1, &place);
    assert_eq!((&found["check"]["result"], &found["id"]), (&"unreadable".into(), &Value::Null));
    drop(pool);

    let nothing = Place::new("doctor-nothing");
    assert!(refused(vmalloc(&["doctor", nothing.str()]), 1).contains("vmalloc create"));
}
