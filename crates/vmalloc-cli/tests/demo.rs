//! The demo runs to its end on both machines, says nothing that is not so, and leaves nothing
//! behind, however it ends.

mod common;

use common::{finish, good, json, refused, stop, text, until, vmalloc};
use serde_json::Value;
use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// A run of 8 MiB, by which everything is shown and nobody waits.
fn demo(machine: &str, seed: &str) -> Value {
    let args = ["demo", "--machine", machine, "--pool", "8M", "--seed", seed, "--json"];
    json(vmalloc(&args))
}

fn bytes(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Goal: both stories are told to the end, in lines that fit a terminal.
#[test]
fn the_demo_tells_its_story_to_the_end_on_both_machines() {
    for machine in ["linux", "sim"] {
        let told = text(vmalloc(&["--machine", machine, "--pool", "8M", "--seed", "7"]));
        for line in told.lines() {
            assert!(line.chars().count() <= 80, "{machine}: {line:?}");
        }
        let words = told.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("It must refuse."), "{machine}: {told}");
        assert!(told.contains("vmallocinfo") && told.contains(" pages="), "{machine}: {told}");
        let last = told.lines().last().unwrap();
        assert!(last.starts_with("All checks passed"), "{machine}: {last}");
    }
}

/// Goal: the seed, and nothing else, decides the sizes.
#[test]
fn the_same_seed_gives_the_same_sizes_on_both_machines() {
    let sizes = |machine, seed| demo(machine, seed)["fill"]["sizes_bytes"].clone();
    let first = sizes("linux", "5");
    assert_eq!(first, sizes("linux", "5"));
    assert_eq!(first, sizes("sim", "5"));
    assert_ne!(first, sizes("linux", "6"));
    let sum: u64 = first.as_array().unwrap().iter().map(bytes).sum();
    assert_eq!(sum, 8 << 20);
}

/// Goal: the one block has all the bytes that are free, which no contiguous allocator had in one
/// piece; the members see it at different addresses; one was killed, and recovered.
#[test]
fn the_summary_of_the_linux_demo_holds_together() {
    let args = ["demo", "--pool", "8M", "--seed", "7", "--members", "4", "--json"];
    let summary = json(vmalloc(&args));
    let free = bytes(&summary["fill"]["free_bytes"]);
    assert_eq!(bytes(&summary["block"]["bytes"]), free);
    assert!(bytes(&summary["contiguous"]["largest_free_bytes"]) < free / 2, "{summary}");
    let members = summary["members"].as_array().unwrap();
    let addresses: HashSet<u64> = members.iter().map(|m| bytes(&m["address"])).collect();
    let pids: HashSet<u64> = members.iter().map(|m| bytes(&m["pid"])).collect();
    assert_eq!((members.len(), pids.len()), (4, 4));
    assert!(addresses.len() > 1, "address space randomisation is off, or: {addresses:?}");
    let ways: Vec<&Value> = members.iter().map(|m| &m["way"]).collect();
    assert_eq!(ways, [&Value::Null, &"path".into(), &"socket".into(), &"inherited".into()]);
    let wrote: u64 = members[1..].iter().map(|m| bytes(&m["wrote_bytes"])).sum();
    assert!(wrote >= free / 2 && members[1..].iter().all(|m| bytes(&m["checked_bytes"]) == free));
    assert_eq!(members.iter().filter(|m| m["killed"] == true).count(), 1);
    assert_eq!(summary["recovered"], serde_json::json!({ "areas": 1, "detached": 1 }));
    let [new, full, end] = [0, 1, 2].map(|i| bytes(&summary["resident_bytes"][i]));
    assert!(full >= 8 << 20 && end < new + (2 << 20), "{new}, {full}, {end}");
    assert!(bytes(&summary["vmas"]["pool"]) < 10, "{summary}");
    assert_eq!(bytes(&summary["stats"]["areas"]), 0);
}

/// Goal: on the simulated machine no stale translation is ever used, unless the shootdown is left
/// out.
#[test]
fn the_summary_of_the_sim_demo_counts_stale_hits_only_where_they_were_provoked() {
    let summary = demo("sim", "7");
    assert_eq!(summary["block"]["bytes"], summary["fill"]["free_bytes"]);
    assert_eq!(bytes(&summary["tlb"]["stale_hits"]), 0);
    assert!(bytes(&summary["tlb"]["stale_hits_when_omitted"]) > 0);
    assert!(bytes(&summary["tlb"]["shootdowns"]) > 0);
    assert_eq!(bytes(&summary["resident_bytes"][2]), 0);
}

#[test]
fn the_smallest_demo_works_with_two_members_and_with_many() {
    for (machine, members) in [("linux", "2"), ("linux", "9"), ("sim", "2"), ("sim", "5")] {
        let args = ["demo", "--machine", machine, "--pool", "1M", "--members", members];
        good(vmalloc(&args));
    }
}

#[test]
fn a_demo_that_cannot_be_is_refused_with_the_limits() {
    assert!(refused(vmalloc(&["--pool", "64K"]), 1).contains("1 MiB at least"));
    let large = vmalloc(&["--machine", "sim", "--pool", "1T"]);
    assert!(refused(large, 1).contains("at most"));
    assert!(refused(vmalloc(&["--members", "1"]), 2).contains("2..=32"));
    assert!(refused(vmalloc(&["--pool", "8X"]), 2).contains("is no unit"));
    refused(vmalloc(&["--machine", "abacus"]), 2);
    // Its own options do not go with another command.
    refused(vmalloc(&["--pool", "8M", "list"]), 2);
}

/// The processes that carry `mark` in their environment.
fn marked(mark: &str) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let carries = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    pids.filter(carries).collect()
}

/// Goal: a reader that goes away ends the demo quietly, and its members with it.
#[test]
fn a_demo_that_nobody_reads_ends_quietly_and_leaves_no_process() {
    let mark = format!("VMALLOC_TEST_MARK=unread-{}", std::process::id());
    let (name, value) = mark.split_once('=').unwrap();
    let mut child = common::command(&["--pool", "32M"]).env(name, value).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("vmalloc demo"));
    drop(lines);
    let output = finish(child);
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));
    until("its members are gone", || marked(&mark).is_empty().then_some(()), || ());
}

/// Goal: a demo that is killed in the middle leaves no member, and so no memory.
#[test]
fn a_demo_that_is_killed_leaves_no_process() {
    let mark = format!("VMALLOC_TEST_MARK=killed-{}", std::process::id());
    let (name, value) = mark.split_once('=').unwrap();
    // It may be too quick for us: then once more.
    for _ in 0..20 {
        let mut command = common::command(&["--pool", "128M", "--members", "6"]);
        let mut child = command.env(name, value).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // A member is there when it says that it has attached; others are still to do so.
        let step = |line: &String| line.contains("opened it by");
        assert!(lines.map_while(Result::ok).any(|line| step(&line)), "it never came so far");
        stop(child.id());
        let caught = marked(&mark).len() > 1;
        child.kill().unwrap();
        child.wait().unwrap();
        until("its members are gone", || marked(&mark).is_empty().then_some(()), || ());
        if caught {
            return;
        }
    }
    panic!("it was never caught with its members");
}

/// Goal: while the demo stays, others see its pool with all that are attached; nobody can look
/// into a simulated machine, which is said.
#[test]
fn a_demo_that_stays_can_be_looked_into() {
    let mut child = common::command(&["demo", "--pool", "8M", "--stay", "600"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Kept open: a demo that nobody reads ends.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let pid = child.id().to_string();
    let told = |line: &String| line.contains(&format!("vmalloc top {pid}"));
    assert!(lines.by_ref().map_while(Result::ok).any(|line| told(&line)), "it never stayed");
    let pools = json(vmalloc(&["info", &pid, "--json"]));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(pools[0]["members"].as_array().unwrap().len(), 3, "{pools}");
    let shared = |area: &&Value| area["kind"] == "shared";
    assert_eq!(pools[0]["areas"].as_array().unwrap().iter().filter(shared).count(), 1, "{pools}");
    let why = refused(vmalloc(&["demo", "--machine", "sim", "--stay", "1"]), 1);
    assert!(why.contains("--stay is for the machine linux"), "{why}");
}
