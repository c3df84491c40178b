//! The modules of the command `vmalloc`, for the target `arguments`: those that its `main.rs` names.

use std::fmt::Write as _;
use std::path::Path;

fn main() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/vmalloc-cli/src");
    let main = src.join("main.rs");
    println!("cargo::rerun-if-changed={}", main.display());
    let text = std::fs::read_to_string(&main).expect("the command's main.rs");
    let mut modules = String::new();
    let names = text.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    for name in names {
        let file = src.join(format!("{name}.rs"));
        let path = if file.exists() { file } else { src.join(name).join("mod.rs") };
        writeln!(modules, "#[path = {path:?}]\nmod {name};").expect("a string has room");
    }
    let out = std::env::var_os("OUT_DIR").expect("cargo sets it");
    std::fs::write(Path::new(&out).join("modules.rs"), modules).expect("cargo's own directory");
}
