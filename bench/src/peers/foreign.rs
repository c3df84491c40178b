//! Peers in other languages: a compiler or an interpreter that this machine may lack.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where their sources are.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");

/// The program of boost.interprocess, compiled once a run.
///
/// # Errors
///
/// What to install.
pub fn boost() -> Result<PathBuf, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(compile).clone()
}

fn compile() -> Result<PathBuf, String> {
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    let program = me.with_file_name("peer-boost");
    let output = Command::new("g++")
        .args(["-O2", "-std=c++17", "-o"])
        .arg(&program)
        .arg(Path::new(SOURCES).join("boost.cpp"))
        .args(["-lrt", "-lpthread"])
        .output();
    let Ok(output) = output else { return Err("apt install g++".into()) };
    if output.status.success() {
        return Ok(program);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    match text.lines().find(|line| line.contains("error")) {
        Some(line) if !line.contains("managed_shared_memory.hpp") => {
            Err(format!("boost.cpp: {line}"))
        }
        _ => Err("apt install libboost-dev".into()),
    }
}

/// Python with our script.
///
/// # Errors
///
/// What to install.
pub fn python() -> Result<Command, String> {
    if python_version().is_none() {
        return Err("apt install python3".into());
    }
    let mut command = Command::new("python3");
    command.arg(Path::new(SOURCES).join("shared_memory.py"));
    Ok(command)
}

/// The version of Python, if it is there and has `shared_memory`.
pub fn python_version() -> Option<String> {
    static VERSION: OnceLock<Option<String>> = OnceLock::new();
    let ask = "import sys, multiprocessing.shared_memory; print(sys.version.split()[0])";
    let ask = || {
        let output = Command::new("python3").args(["-c", ask]).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (!text.is_empty()).then_some(text)
    };
    VERSION.get_or_init(ask).clone()
}

/// The version of boost, from its headers.
pub fn boost_version() -> Option<String> {
    let text = std::fs::read_to_string("/usr/include/boost/version.hpp").ok()?;
    let line = text.lines().find(|line| line.starts_with("#define BOOST_LIB_VERSION"))?;
    Some(line.split('"').nth(1)?.replace('_', "."))
}
