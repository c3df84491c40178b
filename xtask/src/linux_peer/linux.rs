//! Debian's Linux with our module: its packages unpacked, never installed, into `target/linux-peer`;
//! the module built against them; a boot that runs it.

use super::{Measured, Peer, cpio, measured};
use crate::{kernel, run};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The Linuxes that we look for. Budgets are shares of the first.
pub const SERIES: [&str; 2] = ["6.1", "6.12"];

const ARGUMENTS: &str = "-machine q35 -cpu max -nic none -no-reboot -m 1G -display none \
                         -serial stdio -monitor none";
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 quiet loglevel=7 tsc=reliable \
                            nokaslr mitigations=off init_on_alloc=0";

const MINUTE: Duration = Duration::from_secs(60);
/// How long a boot may take: half a minute on an idle machine.
const BOOT: Duration = Duration::from_secs(20 * 60);

/// Why there are no figures of a Linux.
pub enum Failure {
    /// This machine lacks something, said with the remedy.
    Lacking(String),
    /// All was there, and it did not work.
    Broken(String),
}

/// Counts the workloads on the newest Linux of `series` that the package lists know.
///
/// # Errors
///
/// [`Failure`].
pub fn run(root: &Path, series: &str) -> Result<Peer, Failure> {
    let version = newest(series)?;
    let dir = run::target_dir(root).join("linux-peer").join(&version);
    unpack(&dir, &version)?;
    let initramfs = build(root, &dir, &version)?;
    let rows = boot(&dir, &version, &initramfs)?;
    Ok(Peer { version, rows })
}

/// The newest version, as in the packages' names: `6.1.0-56`.
fn newest(series: &str) -> Result<String, Failure> {
    let name = format!("^linux-image-{}\\..*-cloud-amd64-unsigned$", series.replace('.', "\\."));
    let mut search = Command::new("apt-cache");
    let found =
        run::capture(search.args(["search", "--names-only", &name]), MINUTE).ok_or_else(|| {
            Failure::Lacking("no `apt-cache`: it comes from Debian's packages".into())
        })?;
    let version = |line: &str| {
        let name = line.split_whitespace().next()?;
        name.strip_prefix("linux-image-")?.strip_suffix("-cloud-amd64-unsigned").map(str::to_owned)
    };
    found.lines().filter_map(version).max_by_key(|version| numbers(version)).ok_or_else(|| {
        Failure::Lacking(
            "Debian's package lists do not have it: run `apt-get update`, on Debian 12".into(),
        )
    })
}

/// The numbers in a version, by which versions are ordered.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Downloads and unpacks the packages, unless that was done before.
fn unpack(dir: &Path, version: &str) -> Result<(), Failure> {
    let done = dir.join("unpacked");
    if done.exists() {
        return Ok(());
    }
    let headers = format!("linux-headers-{version}-cloud-amd64");
    let depends = run::capture(Command::new("apt-cache").args(["depends", &headers]), MINUTE)
        .ok_or_else(|| Failure::Lacking(format!("no package {headers}: run `apt-get update`")))?;
    let built_with = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .filter(|name| name.starts_with("linux-kbuild-") || name.ends_with("-common"));
    let debs = dir.join("debs");
    std::fs::create_dir_all(&debs).map_err(|error| broken(&debs, &error))?;
    let mut download = Command::new("apt-get");
    // As ourselves, as the directory is ours.
    download.args(["-o", "APT::Sandbox::User=root", "--quiet", "--quiet", "download"]);
    download.arg(format!("linux-image-{version}-cloud-amd64-unsigned")).arg(&headers);
    run::run(download.args(built_with).current_dir(&debs), 10 * MINUTE)
        .map_err(|why| Failure::Lacking(format!("apt-get download: {why}; is there a network?")))?;
    for entry in std::fs::read_dir(&debs).map_err(|error| broken(&debs, &error))? {
        let deb = entry.map_err(|error| broken(&debs, &error))?.path();
        let mut extract = Command::new("dpkg-deb");
        run::run(extract.arg("-x").arg(deb).arg(dir), 5 * MINUTE).map_err(Failure::Broken)?;
    }
    let _ = std::fs::remove_dir_all(&debs);
    // The headers look for their other half where they would be installed.
    let makefile = dir.join("usr/src").join(&headers).join("Makefile");
    let text = std::fs::read_to_string(&makefile).map_err(|error| broken(&makefile, &error))?;
    let text = text.replace("/usr/src/", &format!("{}/usr/src/", dir.display()));
    std::fs::write(&makefile, text).map_err(|error| broken(&makefile, &error))?;
    std::fs::write(&done, "").map_err(|error| broken(&done, &error))
}

/// Builds the module and the first process; the initramfs of both.
fn build(root: &Path, dir: &Path, version: &str) -> Result<PathBuf, Failure> {
    let (from, module) = (root.join("bench/linux-peer"), dir.join("module"));
    std::fs::create_dir_all(&module).map_err(|error| broken(&module, &error))?;
    for name in ["Makefile", "vmalloc_bench.c"] {
        std::fs::copy(from.join(name), module.join(name))
            .map_err(|error| broken(&module, &error))?;
    }
    let mut make = Command::new("make");
    make.arg("--silent")
        .arg("-C")
        .arg(dir.join(format!("usr/src/linux-headers-{version}-cloud-amd64")));
    make.arg(format!("M={}", module.display())).args(["CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]);
    let needs = |why| Failure::Lacking(format!("{why}; it needs `make` and `gcc-12`"));
    run::run(&mut make, 5 * MINUTE).map_err(needs)?;
    let init = dir.join("init");
    let mut gcc = Command::new("gcc-12");
    gcc.args("-Os -static -nostdlib -ffreestanding -fno-stack-protector -o".split_whitespace());
    run::run(gcc.arg(&init).arg(from.join("init.c")), MINUTE).map_err(needs)?;
    let read = |path: &Path| std::fs::read(path).map_err(|error| broken(path, &error));
    let (init, module) = (read(&init)?, read(&module.join("vmalloc_bench.ko"))?);
    let initramfs = dir.join("initramfs");
    let archive = cpio::archive(&[("init", &init), ("vmalloc_bench.ko", &module)]);
    std::fs::write(&initramfs, archive).map_err(|error| broken(&initramfs, &error))?;
    Ok(initramfs)
}

/// Boots it; the instructions of its first pass, the shootdowns of its second.
fn boot(dir: &Path, version: &str, initramfs: &Path) -> Result<Vec<Measured>, Failure> {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(kernel::COUNTING.split_whitespace()).args(ARGUMENTS.split_whitespace());
    command.arg("-kernel").arg(dir.join(format!("boot/vmlinuz-{version}-cloud-amd64")));
    command.arg("-initrd").arg(initramfs).args(["-append", COMMAND_LINE]);
    let mut lines = Vec::new();
    let ended = run::run_lines(&mut command, BOOT, |line| lines.push(line.trim_end().to_owned()));
    let failed = |why: String| {
        let last = &lines[lines.len().saturating_sub(20)..];
        Failure::Broken(format!("{why}; its last lines:\n{}", last.join("\n")))
    };
    ended.map_err(failed)?;
    passes(&lines).map_err(failed)
}

/// What both passes said, put together.
fn passes(lines: &[String]) -> Result<Vec<Measured>, String> {
    let ticks = lines.iter().find_map(|line| line.split_once("calibrate ticks=")?.1.parse().ok());
    match ticks {
        Some(1000..=1020_u64) => {}
        ticks => return Err(format!("1,000 instructions are {ticks:?} ticks of its counter")),
    }
    if !lines.iter().any(|line| line.ends_with("ended 0")) {
        return Err("the workloads did not end well".into());
    }
    let rows: Vec<Measured> = lines.iter().filter_map(|line| measured(line)).collect();
    let (counted, probed) = rows.split_at(rows.len() / 2);
    let is_same = counted.iter().zip(probed).all(|(one, other)| one.is_of(other));
    if rows.is_empty() || counted.len() != probed.len() || !is_same {
        return Err("its two passes differ".into());
    }
    let joined = |(one, other): (&Measured, &Measured)| {
        let shootdowns = other.shootdowns;
        Measured { shootdowns, ..one.clone() }
    };
    Ok(counted.iter().zip(probed).map(joined).collect())
}

fn broken(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Broken(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: versions are ordered by their numbers, not as text.
    #[test]
    fn newest_version_is_the_one_with_the_largest_numbers() {
        assert!(numbers("6.1.0-56") > numbers("6.1.0-9"));
        assert!(numbers("6.12.117+deb12") > numbers("6.12.99+deb12"));
    }

    fn said(ticks: u32, second: &str) -> Vec<String> {
        let row = |name, instructions, shootdowns| {
            format!(
                "[ 1.0] bench {name} pages=1 count=9 instructions={instructions} shootdowns={shootdowns}"
            )
        };
        let calibrate = format!("[ 1.0] calibrate ticks={ticks}");
        vec![calibrate, row("vmap", 90, 0), row(second, 95, 7), "[ 2.0] ended 0".into()]
    }

    /// Goal: instructions are the first pass's, shootdowns the second's.
    #[test]
    fn passes_give_instructions_of_the_first_and_shootdowns_of_the_second() {
        let rows = passes(&said(1003, "vmap")).unwrap();
        assert_eq!((rows.len(), rows[0].instructions, rows[0].shootdowns), (1, 90, 7));
    }

    /// Goal: a counter that does not count instructions, passes that differ and a run that broke off
    /// are no figures.
    #[test]
    fn passes_that_prove_nothing_are_refused() {
        assert!(passes(&said(4000, "vmap")).unwrap_err().contains("4000"));
        assert!(passes(&said(1003, "vmalloc")).unwrap_err().contains("differ"));
        assert!(passes(&said(1003, "vmap")[..3]).unwrap_err().contains("end well"));
    }
}
