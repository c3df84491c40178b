//! `info`, `list` and what a terminal gets to see.

mod common;

use common::{Place, VMALLOC, command, good, json, noise, refused, skip, stop, text, vmalloc};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use vmalloc::Pool;

/// The row of the pool with this number, if `vmalloc list` has it.
fn listed(id: &str) -> Option<Value> {
    let rows = json(vmalloc(&["list", "--json"]));
    let mut found = rows.as_array().unwrap().iter().filter(|row| row["id"] == id);
    let row = found.next().cloned();
    assert_eq!(found.count(), 0, "listed twice: {id}");
    row
}

#[test]
fn info_shows_totals_members_and_areas_and_takes_no_slot() {
    let place = Place::with_pool("info", "1M");
    let token = place.put(&noise(5000, 1));
    let info = place.info();
    assert_eq!(info["capacity_bytes"], 1 << 20);
    assert_eq!(info["stats"]["used_bytes"], 8192);
    assert_eq!(info["members"], serde_json::json!([]));
    assert_eq!(info["areas"][0]["token"], token.as_str());
    assert_eq!(info["areas"][0]["bytes"], 5000);
    assert_eq!(info["areas"][0]["kind"], "frozen");
    let area = &info["areas"][0];
    assert_eq!((&area["pages"], &area["guard_pages"]), (&2.into(), &1.into()), "{area}");
    assert_eq!((&area["what"], &area["user"]), (&"vmalloc".into(), &false.into()), "{area}");
    // Its maker has left, so it is nobody's.
    assert_eq!(
        (&area["huge"], &area["owner"]),
        (&false.into(), &serde_json::Value::Null),
        "{area}"
    );
    assert_eq!(area["caller"], 0x70_7574, "{area}");
    assert!(token.starts_with(&format!("vm1-{}-", info["id"].as_str().unwrap())));

    let shown = text(vmalloc(&["info", place.str()]));
    for part in [&token, "8 KiB of 1 MiB", "members: none", "pages=2 vmalloc frozen"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }

    let pool = Pool::open(place.path()).unwrap();
    let members = place.info()["members"].clone();
    assert_eq!(members[0]["pid"], std::process::id());
    assert_eq!(members[0]["alive"], true);
    assert_eq!(members.as_array().unwrap().len(), 1);
    drop(pool);
}

/// Goal: the pools of a process are found by its number, memfds among them.
#[test]
fn info_of_a_process_shows_the_pools_it_has_open() {
    let pool = Pool::options().name("of-a-process").create(1 << 20).unwrap();
    let id = format!("{:08x}", pool.info().id);
    let me = std::process::id().to_string();
    let pools = json(vmalloc(&["info", &me, "--json"]));
    assert!(pools.as_array().unwrap().iter().any(|pool| pool["id"] == id.as_str()), "{pools}");
    assert!(text(vmalloc(&["info", &me])).contains(&format!("pool {id} at /proc/{me}/fd/")));

    assert!(refused(vmalloc(&["info", "4194303"]), 1).contains("there is no process 4194303"));
    let mut idle = Command::new("sleep").arg("60").spawn().unwrap();
    let message = refused(vmalloc(&["info", &idle.id().to_string()]), 1);
    idle.kill().unwrap();
    idle.wait().unwrap();
    assert!(message.contains("has no pool open"), "{message}");
}

#[test]
fn list_shows_a_memfd_and_a_pool_in_dev_shm_whether_open_or_not() {
    let pool = Pool::options().name("listed").create(4 << 20).unwrap();
    let _buf = pool.vmalloc(1 << 20).unwrap();
    let row = listed(&format!("{:08x}", pool.info().id)).expect("the memfd of this process");
    assert!(row["name"].as_str().unwrap().contains("listed"), "{row}");
    assert!(row["pids"].as_array().unwrap().contains(&std::process::id().into()), "{row}");
    assert_eq!((&row["used_bytes"], &row["areas"]), (&(1 << 20).into(), &1.into()));

    let place = Place::with_pool("listed", "1M");
    let id = place.info()["id"].as_str().unwrap().to_owned();
    let row = listed(&id).expect("a pool that nobody has open");
    assert_eq!((row["name"].as_str(), &row["pids"]), (Some(place.str()), &serde_json::json!([])));

    let open = Pool::open(place.path()).unwrap();
    let row = listed(&id).expect("a pool that somebody has open");
    assert_eq!(row["pids"], serde_json::json!([std::process::id()]));
    let table = text(vmalloc(&["list"]));
    assert!(table.lines().any(|line| line.starts_with(&id) && line.ends_with(place.str())));
    assert!(table.starts_with("POOL "), "{table}");
    drop(open);

    good(vmalloc(&["rm", place.str()]));
    assert_eq!(listed(&id), None);
}

/// Goal: the memfd of a running demo is found by its name.
/// Method: a demo that is stopped once it has its pool.
#[test]
fn list_shows_the_pool_of_a_running_demo() {
    let mut demo = command(&["--pool", "64M"]).stderr(Stdio::null()).spawn().unwrap();
    let pid = demo.id();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("A pool")), "it never came so far");
    stop(pid);
    let is_it = |row: &Value| {
        row["name"].as_str().unwrap().contains("demo")
            && row["pids"].as_array().unwrap().contains(&pid.into())
    };
    let rows = json(vmalloc(&["list", "--json"]));
    let row = rows.as_array().unwrap().iter().find(|row| is_it(row)).expect("the demo's pool");
    assert_eq!(row["capacity_bytes"], 64 << 20);
    demo.kill().unwrap();
    demo.wait().unwrap();
}

/// Goal: a name that somebody else chose does nothing to the terminal of who looks.
#[test]
fn names_of_others_are_printed_escaped() {
    let place = Place::with_pool("\x1b[2J\x07\nPOOL fake", "1M");
    for output in [vmalloc(&["list"]), vmalloc(&["info", place.str()])] {
        let shown = text(output);
        assert!(shown.contains("\\u{1b}[2J\\u{7}\\nPOOL fake"), "{shown:?}");
        assert!(!shown.contains(['\x1b', '\x07']), "{shown:?}");
    }
    let missing = Place::new("\x1b[31mred");
    let message = refused(vmalloc(&["info", missing.str()]), 1);
    assert!(message.contains("\\u{1b}[31mred") && !message.contains('\x1b'), "{message:?}");
}

#[test]
fn help_teaches_and_a_wrong_command_line_is_code_2() {
    assert!(text(vmalloc(&["--help"])).contains("Examples:"));
    assert!(text(vmalloc(&["--version"])).starts_with("vmalloc "));
    for name in ["demo", "create", "put", "get", "rm", "info", "list"] {
        let help = text(vmalloc(&[name, "--help"]));
        assert!(help.contains("Usage: vmalloc"), "{name}: {help}");
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{name}: {help}");
    }
    assert!(!text(vmalloc(&["--help"])).contains("demo-member"), "ours alone");
    for wrong in [&["bogus"][..], &["put"], &["get", "/dev/shm/x"], &["list", "--bogus"]] {
        assert!(refused(vmalloc(wrong), 2).contains("--help"), "{wrong:?}");
    }
}

/// Runs a shell command with a terminal for stdin, stdout and stderr; what the terminal got.
fn on_a_terminal(shell: &str) -> Option<(Option<i32>, String)> {
    let mut script = Command::new("script");
    script.args(["-qefc", shell, "/dev/null"]).stdin(Stdio::null());
    let output = script.output().ok()?;
    Some((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Goal: a terminal gets text, and nothing that it might obey, unless somebody insists.
#[test]
fn get_keeps_what_is_not_text_from_a_terminal() {
    let place = Place::with_pool("terminal", "8M");
    let (pool, umlauts) = (place.str(), "größe\tja\n".repeat(300_000));
    let tokens = [b"\x1b[31mred\n".to_vec(), vec![0, 1, 2], vec![0xc3], noise(5000, 9)]
        .map(|bytes| place.put(&bytes));
    for token in tokens {
        let Some((code, shown)) = on_a_terminal(&format!("'{VMALLOC}' get {pool} {token}")) else {
            return skip("what a terminal gets to see", "needs the program script (util-linux)");
        };
        assert!(code == Some(1) && shown.contains("is not text"), "{shown:?}");
        for insisting in ["--force", "-o -"] {
            let (code, _) =
                on_a_terminal(&format!("'{VMALLOC}' get {pool} {token} {insisting}")).unwrap();
            assert_eq!(code, Some(0), "{insisting}");
        }
    }
    let token = place.put(umlauts.as_bytes());
    let (code, shown) = on_a_terminal(&format!("'{VMALLOC}' get {pool} {token}")).unwrap();
    assert_eq!((code, shown.replace("\r\n", "\n") == umlauts), (Some(0), true));
}

/// Goal: a long copy shows how far it is, on a terminal; `good` elsewhere shows that a pipe gets
/// nothing.
#[test]
fn progress_is_shown_on_a_terminal_only() {
    let place = Place::with_pool("progress", "128M");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), noise(100 << 20, 10)).unwrap();
    let put = format!("'{VMALLOC}' put {} {}", place.str(), file.path().display());
    let Some((code, shown)) = on_a_terminal(&put) else {
        return skip("progress on a terminal", "needs the program script (util-linux)");
    };
    assert!(code == Some(0) && shown.contains("/100.00 MiB"), "{shown:?}");
    let token = place.info()["areas"][0]["token"].as_str().unwrap().to_owned();
    let get = format!("'{VMALLOC}' get {} {token} -o /dev/null", place.str());
    let (code, shown) = on_a_terminal(&get).unwrap();
    assert!(code == Some(0) && shown.contains("/100.00 MiB"), "{shown:?}");
    good(vmalloc(&["get", place.str(), &token]));
}
