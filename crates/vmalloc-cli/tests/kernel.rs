//! `info --kernel` and `map --kernel`, on a saved copy and on the machine's own.

mod common;

use common::{json, refused, skip, text, vmalloc};
use std::io::Write as _;
use tempfile::NamedTempFile;

/// A copy in which addresses are real ones.
const COPY: &str = "\
0xffffc90000000000-0xffffc90000005000   20480 kernel_clone+0xb8/0x400 pages=4 vmalloc N0=3 N1=1
0xffffc90000008000-0xffffc9000000d000   20480 kernel_clone+0xb8/0x400 pages=4 vmalloc N1=4
0xffffc90000010000-0xffffc90000012000    8192 map_it+0x1/0x2 [driver] phys=0x00000000000a0000 ioremap
0xffffc90001000000-0xffffc90001100000 1048576 vm_map_ram
0xffffc90000020000-0xffffc90000025000   20480 unpurged vm_area
";

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn info_of_the_kernel_adds_up_a_saved_copy() {
    let copy = file(COPY);
    let path = copy.path().to_str().unwrap();
    let all = json(vmalloc(&["info", "--kernel", "--file", path, "--json"]));
    assert_eq!((&all["areas"], &all["bytes"]), (&5.into(), &(3 * 20480 + 8192 + 1_048_576).into()));
    assert_eq!((&all["unpurged_areas"], &all["unpurged_bytes"]), (&1.into(), &20480.into()));
    assert_eq!(all["callers"][1]["name"], "kernel_clone");
    assert_eq!(
        (&all["callers"][1]["areas"], &all["callers"][1]["pages_bytes"]),
        (&2.into(), &32768.into())
    );
    assert_eq!(all["callers"][2]["name"], "map_it [driver]");
    assert_eq!(
        all["nodes"],
        serde_json::json!([{"node": 0, "bytes": 12288}, {"node": 1, "bytes": 20480}])
    );
    assert_eq!(all["largest"][0]["bytes"], 1_048_576);
    assert_eq!(all["has_addresses"], true);

    let shown = text(vmalloc(&["info", "--kernel", "--file", path]));
    for part in ["5 areas in", "nodes     N0 12 KiB, N1 20 KiB", "unpurged  20 KiB in 1 area"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("hidden") && shown.lines().all(|l| l.chars().count() <= 80), "{shown}");
}

#[test]
fn map_of_the_kernel_places_areas_and_nodes() {
    let copy = file(COPY);
    let path = copy.path().to_str().unwrap();
    let shown = text(vmalloc(&["map", "--kernel", "--file", path]));
    assert!(shown.contains("0xffffc90000000000") && shown.contains("node 1"), "{shown}");
    assert!(shown.contains("32 KiB of memory on 2 nodes"), "{shown}");
    let svg = text(vmalloc(&["map", "--kernel", "--file", path, "--svg", "-"]));
    assert_eq!(svg.matches("class=\"w p").count(), 5);
    assert_eq!(svg.matches("class=\"r p").count(), 3, "a run for each node of each area");

    let hidden =
        file("0x00000000b63e0042-0x00000000ce948c7c 8192 f+0x1/0x2 pages=1 vmalloc N0=1\n");
    let shown = text(vmalloc(&["map", "--kernel", "--file", hidden.path().to_str().unwrap()]));
    assert!(shown.contains("in the order of the list") && !shown.contains("0xb63e"), "{shown}");
}

#[test]
fn what_is_no_vmallocinfo_is_refused_with_its_line() {
    let copy = file(&format!("{COPY}hello\n"));
    let path = copy.path().to_str().unwrap();
    for command in ["info", "map"] {
        let message = refused(vmalloc(&[command, "--kernel", "--file", path]), 1);
        assert!(message.contains("line 6: "), "{message}");
    }
    assert!(refused(vmalloc(&["info", "--kernel", "--file", "/none"]), 1).contains("/none: "));
    for wrong in [&["info"][..], &["info", "--file", "x"], &["info", "--kernel", "/dev/shm/x"]] {
        refused(vmalloc(wrong), 2);
    }
}

/// Goal: whatever this kernel prints is understood, to the last word.
#[test]
fn vmallocinfo_of_this_machine_is_understood() {
    let output = vmalloc(&["info", "--kernel", "--json"]);
    if std::fs::read("/proc/vmallocinfo").is_err() {
        let message = refused(output, 1);
        assert!(message.contains("/proc/vmallocinfo"), "{message}");
        return skip("the machine's own vmallocinfo", "needs root");
    }
    let all = json(output);
    assert!(all["areas"].as_u64().unwrap() > 0, "{all}");
    assert!(all["bytes"].as_u64() >= all["unpurged_bytes"].as_u64(), "{all}");
    assert!(text(vmalloc(&["map", "--kernel"])).contains("vmalloc areas, /proc/vmallocinfo"));
}
