//! `record`, `replay` and the picture of a recorded run.

mod common;

use common::{Place, VMALLOC, finish, json, refused, text, vmalloc};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use vmalloc::trace::{Op, parse};

/// Records a program, which must do well.
fn record(folder: &Path, program: &[&str]) -> (PathBuf, Output) {
    let trace = folder.join("run.trace");
    let mut command = Command::new(VMALLOC);
    command.args(["record", "-o", trace.to_str().unwrap(), "--"]).args(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    (trace, finish(command.spawn().unwrap()))
}

/// Goal: every verb of every process of a run is in the trace, that of a killed one too; and the
/// run can be played again, to the last event, under several settings.
/// Method: the demo, which has three members, shares a block and kills one.
#[test]
fn run_of_several_processes_is_recorded_and_played_again() {
    let folder = tempfile::tempdir().unwrap();
    let (trace, output) = record(folder.path(), &[VMALLOC, "demo", "--pool", "16M", "--seed", "7"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("All checks passed"));
    let events = parse(&std::fs::read(&trace).unwrap()).unwrap();
    assert!(said.contains(&format!("{} events of 1 pool recorded to", events.len())), "{said}");
    let count = |op: Op| events.iter().filter(|event| event.op == op).count();
    assert!(count(Op::Join) >= 3 && count(Op::Join) > count(Op::Leave), "one was killed");
    assert!(count(Op::Attach) >= 2 && count(Op::Share) == 1 && count(Op::Alloc) > 20);
    assert!(events.iter().map(|event| event.at_ns).is_sorted(), "one clock, in order");

    let path = trace.to_str().unwrap();
    let columns =
        json(vmalloc(&["replay", path, "--lazy-limit", "none,0", "--no-reuse", "--json"]));
    let columns = columns.as_array().unwrap();
    assert_eq!(columns.len(), 4);
    for column in columns {
        assert_eq!((&column["played"], &column["skipped"]), (&events.len().into(), &0.into()));
        assert_eq!(column["used_bytes"], 16 << 20, "{column}");
    }
    let flushes = |i: usize| columns[i]["flushes"].as_u64().unwrap();
    // With nothing parked each free is a flush; with no limit one serves many.
    assert!(flushes(0) * 4 < flushes(2), "{columns:#?}");
    assert_eq!((&columns[1]["revived"], &columns[1]["reuse"]), (&0.into(), &false.into()));

    let table = text(vmalloc(&["replay", path, "--machine", "linux,sim"]));
    for part in
        ["machine                       linux            sim", "flushes", "walks of the mapper"]
    {
        assert!(table.contains(part), "{part}: {table}");
    }
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
}

#[test]
fn recorded_run_is_drawn_with_a_slider() {
    let folder = tempfile::tempdir().unwrap();
    let (trace, _) = record(folder.path(), &[VMALLOC, "demo", "--pool", "8M", "--seed", "7"]);
    let path = trace.to_str().unwrap();
    let page = text(vmalloc(&["map", "--trace", path, "--html", "-"]));
    assert!(page.contains("id=\"time\"") && page.contains("8 MiB of 8 MiB in"), "{page}");
    let allocs = parse(&std::fs::read(&trace).unwrap()).unwrap();
    let allocs = allocs.iter().filter(|event| event.op == Op::Alloc).count();
    assert_eq!(page.matches("class=\"l p").count(), allocs, "a life for each area");
    assert!(text(vmalloc(&["map", "--trace", path])).contains("when it was fullest"));
}

#[test]
fn record_ends_as_its_program_does_and_says_if_it_used_no_pool() {
    let folder = tempfile::tempdir().unwrap();
    let (trace, output) = record(folder.path(), &["sh", "-c", "exit 7"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert!(said.contains("nothing recorded: sh used no pool"), "{said}");
    assert!(refused(vmalloc(&["replay", trace.to_str().unwrap()]), 1).contains("holds no event"));
    let (_, output) = record(folder.path(), &["sh", "-c", "kill -9 $$"]);
    assert_eq!(output.status.code(), Some(137));
    let (_, output) = record(folder.path(), &["/none/such"]);
    assert!(refused(output, 1).contains("/none/such: "));
}

/// Goal: only a file that begins as a trace is ever written to, whatever the environment says.
#[test]
fn nothing_but_a_trace_is_recorded_to() {
    let folder = tempfile::tempdir().unwrap();
    let (file, none) = (folder.path().join("mine"), folder.path().join("none"));
    std::fs::write(&file, "precious, and longer than the header of a trace is").unwrap();
    for path in [&file, &none] {
        let place = Place::new("record");
        let mut command = Command::new(VMALLOC);
        command.args(["create", place.str(), "--capacity", "1M"]).env("VMALLOC_RECORD", path);
        assert!(command.status().unwrap().success());
    }
    assert!(std::fs::read_to_string(&file).unwrap().ends_with("a trace is") && !none.exists());
}

#[test]
fn replay_refuses_what_is_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.trace");
    std::fs::write(&file, "hello").unwrap();
    let path = file.to_str().unwrap();
    for command in [&["replay", path][..], &["map", "--trace", path]] {
        assert!(refused(vmalloc(command), 1).contains("no trace: it does not begin"));
    }
    refused(vmalloc(&["replay", path, "--lazy-limit", "much"]), 2);
    refused(vmalloc(&["record"]), 2);
}
