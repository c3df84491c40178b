//! Every example runs to its end and says what it is there to show.

use std::process::Command;

/// Each example of this crate, and a line of its output.
const EXAMPLES: [(&str, &str); 10] = [
    ("arrow", "there: sum 549755289600, rows 1000 to 1009: 10045"),
    ("checkpoint", "saved: 8388608 bytes of \"step 1\""),
    ("growable", "in 8 parts, one slice, where the first byte was"),
    ("index", "key 219359: value 982007569"),
    ("module", "exit: 0 areas left"),
    ("pipeline", "20 frames of 8 MiB, each read by three processes: 60 readings, 0 copies"),
    ("ring", "written across the end, read at the front: \"und\""),
    ("shared", "the other process answered \"pong\""),
    ("sparse", "196608 bytes hold 3 rows"),
    ("vec", "the other process: 588890 bytes, the last line is Some(\"99999\")"),
];

/// Goal: what the examples say is true. Method: cargo runs them, as a reader would.
#[test]
fn every_example_runs_and_says_what_it_shows() {
    let root = env!("CARGO_MANIFEST_DIR");
    let files = std::fs::read_dir(format!("{root}/examples")).unwrap().count();
    assert_eq!(files, EXAMPLES.len(), "an example that nobody runs");
    for (example, line) in EXAMPLES {
        let mut cargo = Command::new(env!("CARGO"));
        let args = ["run", "--quiet", "--package", env!("CARGO_PKG_NAME"), "--example", example];
        // One has a feature, and all are built with it, so that none is built twice.
        let args = args.iter().chain(&["--features", "allocator-api2"]);
        let output = cargo.current_dir(root).args(args).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{example}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(told.lines().any(|said| said.contains(line)), "{example}: {told}");
        assert!(told.ends_with(" 0 areas left\n") || told.ends_with("\n0 areas left\n"), "{told}");
        if example == "module" {
            assert!(told.contains("\ninit: ENOMEM: "), "{told}");
        }
    }
}
