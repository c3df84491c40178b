//! `vmalloc stress` runs Linux's cases and ours on both machines, says what became of each, and
//! leaves nothing behind.

mod common;

use common::{json, refused, text, vmalloc};
use serde_json::Value;

/// Linux's names, in Linux's order.
const LINUX: [&str; 13] = [
    "fix_size_alloc_test",
    "full_fit_alloc_test",
    "long_busy_list_alloc_test",
    "random_size_alloc_test",
    "fix_align_alloc_test",
    "random_size_align_alloc_test",
    "align_shift_alloc_test",
    "pcpu_alloc_test",
    "kvfree_rcu_1_arg_vmalloc_test",
    "kvfree_rcu_2_arg_vmalloc_test",
    "vm_map_ram_test",
    "no_block_alloc_test",
    "vrealloc_test",
];

/// The cases of many processes: a name, how many loops, and words of what each says.
const POOL: [(&str, &str, &str); 5] = [
    ("kill", "24", "24 killed of 4 members"),
    ("frag", "2", "2 of 2 seeds in pools of 256 MiB"),
    ("full", "50", "50 refusals each"),
    ("members", "1", "of 63 members"),
    ("quota", "50", "50 refusals at a quota"),
];

fn stress(args: &[&str]) -> Value {
    json(vmalloc(&[&["stress", "--json"], args].concat()))
}

fn names(worker: &Value) -> Vec<&str> {
    worker["cases"].as_array().unwrap().iter().map(|case| case["case"].as_str().unwrap()).collect()
}

/// Goal: each of the thirteen passes, fails as expected, or says why this machine has it not; with
/// two workers, and nothing leaked.
#[test]
fn linux_s_thirteen_cases_end_well_on_both_machines() {
    for machine in ["linux", "sim"] {
        let args = ["--case", "linux", "--machine", machine, "--loops", "300", "--threads", "2"];
        let report = stress(&args);
        let workers = report["workers"].as_array().unwrap();
        assert_eq!(workers.len(), 2, "{report}");
        for worker in workers {
            let mut all = names(worker);
            all.sort_unstable();
            let mut expected = LINUX.to_vec();
            expected.sort_unstable();
            assert_eq!(all, expected, "{machine}");
            for case in worker["cases"].as_array().unwrap() {
                assert_eq!(case["failed"], 0, "{machine}: {case}");
                assert_eq!(case["unsupported"], Value::Null, "{machine}: {case}");
                let ended = case["passed"].as_u64().unwrap() + case["xfailed"].as_u64().unwrap();
                assert_eq!(ended, 1, "{machine}: {case}");
                if case["case"] == "align_shift_alloc_test" {
                    assert_eq!(case["xfailed"], 1, "{machine}: an alignment of 2^63 was served");
                }
            }
        }
        assert_eq!(report["leaked"], Value::Null);
        assert_eq!(report["settled"]["areas"], 0);
        assert_eq!(report["settled"]["frames"], 0);
        assert!(report["settled"]["allocs"].as_u64().unwrap() > 10_000, "{report}");
    }
}

/// Goal: the lines are Linux's, in Linux's order if asked for.
#[test]
fn the_summary_reads_as_linux_s() {
    let args = ["stress", "--case", "fix_size_alloc_test", "--case", "align_shift_alloc_test"];
    let rest = ["--machine", "sim", "--loops", "20", "--repeat", "3", "--sequential"];
    let told = text(vmalloc(&[&args[..], &rest].concat()));
    let lines: Vec<&str> = told.lines().collect();
    let first =
        "Summary: fix_size_alloc_test passed: 3 failed: 0 xfailed: 0 repeat: 3 loops: 20 avg: ";
    assert!(lines[0].starts_with(first) && lines[0].ends_with(" usec"), "{told}");
    let second = "Summary: align_shift_alloc_test passed: 0 failed: 0 xfailed: 3 ";
    assert!(lines[1].starts_with(second), "{told}");
    assert!(told.contains("\nAll test took worker0="), "{told}");
    assert!(told.contains("\nNothing leaked: "), "{told}");
}

/// Goal: every case of ours passes where it can run.
#[test]
fn our_own_cases_pass_on_both_machines() {
    for machine in ["linux", "sim"] {
        let report = stress(&["--case", "ours", "--machine", machine, "--loops", "50"]);
        let cases = report["alone"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let is_unsupported = case["unsupported"].is_string();
            assert!(!is_unsupported || machine == "linux", "{case}");
            assert_eq!(
                (case["passed"] == 1, case["failed"] == 0),
                (!is_unsupported, true),
                "{case}"
            );
        }
    }
}

/// Goal: each case of many processes passes in real memory, says what it saw, and is told as
/// unsupported on the simulated machine.
#[test]
fn the_cases_of_a_pool_pass_and_say_what_they_saw() {
    for (name, loops, saw) in POOL {
        let report = stress(&["--case", name, "--loops", loops, "--seed", "3"]);
        let case = &report["alone"][0];
        assert_eq!((&case["case"], &case["passed"]), (&Value::from(name), &1.into()), "{report}");
        assert!(case["saw"].as_str().unwrap().contains(saw), "{case}");
    }
    let report = stress(&["--case", "pool", "--machine", "sim"]);
    let cases = report["alone"].as_array().unwrap();
    assert_eq!(cases.len(), POOL.len());
    assert!(cases.iter().all(|case| case["unsupported"].is_string()), "{report}");
}

/// Goal: the seed decides the order; `--sequential` is Linux's own.
#[test]
fn cases_are_shuffled_by_seed_unless_in_sequence() {
    let order = |args: &[&str]| {
        let report =
            stress(&[&["--case", "linux", "--machine", "sim", "--loops", "1"], args].concat());
        names(&report["workers"][0]).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(order(&["--sequential"]), LINUX);
    let shuffled = order(&["--seed", "7"]);
    assert_eq!(shuffled, order(&["--seed", "7"]));
    assert!(shuffled.iter().zip(LINUX).all(|(name, at)| name != at), "{shuffled:?}");
}

#[test]
fn a_wrong_command_line_is_told_with_what_there_is() {
    let told = refused(vmalloc(&["stress", "--case", "abacus"]), 2);
    assert!(told.contains("no such case") && told.contains("vrealloc_test"), "{told}");
    refused(vmalloc(&["stress", "--loops", "0"]), 2);
    refused(vmalloc(&["stress", "--threads", "0"]), 2);
    refused(vmalloc(&["stress", "--preset", "forever"]), 2);
}
