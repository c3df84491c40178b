//! `cargo xtask kernel`: builds the test kernel for each architecture and boots it in QEMU.
//!
//! The kernel says itself what passed (`kernel/src/main.rs`); here it is built, given two CPUs and a
//! limit, and its last line and its status are read. A missing emulator or target is a skip that
//! says which package brings it. `cargo xtask bench kernel` (`crate::linux_peer`) boots the
//! x86_64 kernel once more, to count.

use crate::run;
use crate::suite::Tally;
use clap::{Args, ValueEnum};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long one boot may take: a loaded machine is many times slower than an idle one.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// Which kernels, and how often.
#[derive(Args)]
pub struct Options {
    /// Which architecture.
    #[arg(long, value_enum, default_value = "all")]
    arch: Which,
    /// How often each is booted.
    #[arg(long, default_value_t = 1)]
    boots: u32,
}

/// An architecture, or all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Which {
    #[value(name = "x86_64")]
    X86_64,
    Aarch64,
    Riscv64,
    All,
}

/// How an architecture's kernel is built and booted.
struct Arch {
    which: Which,
    target: &'static str,
    emulator: &'static str,
    /// The Debian packages that bring the emulator.
    packages: &'static str,
    arguments: &'static str,
    /// What the emulator exits with when the kernel says that all is well.
    success: &'static str,
}

const ARCHS: [Arch; 3] = [
    Arch {
        which: Which::X86_64,
        target: "x86_64-unknown-none",
        emulator: "qemu-system-x86_64",
        packages: "qemu-system-x86",
        arguments: "-machine q35 -cpu max -nic none -no-reboot \
                    -device isa-debug-exit,iobase=0xf4,iosize=4",
        success: "exit status: 33",
    },
    Arch {
        which: Which::Aarch64,
        target: "aarch64-unknown-none",
        emulator: "qemu-system-aarch64",
        packages: "qemu-system-arm",
        arguments: "-machine virt -cpu cortex-a57 -semihosting-config enable=on,target=native",
        success: "exit status: 0",
    },
    Arch {
        which: Which::Riscv64,
        target: "riscv64gc-unknown-none-elf",
        emulator: "qemu-system-riscv64",
        packages: "qemu-system-misc opensbi",
        arguments: "-machine virt -cpu rv64 -bios default",
        success: "exit status: 0",
    },
];

/// Runs what `options` say. Whether all that was there passed.
pub fn run(root: &Path, options: &Options) -> bool {
    let mut tally = Tally::default();
    let mut is_ok = true;
    let wanted = |arch: &&Arch| matches!(options.arch, Which::All) || options.arch == arch.which;
    for arch in ARCHS.iter().filter(wanted) {
        if let Err(why) = boots(root, arch, options.boots, &mut tally) {
            println!("{}: {why}", arch.target);
            is_ok = false;
        }
    }
    if !is_ok {
        tally.fail_once();
    }
    tally.print();
    is_ok
}

/// Lints the kernel, for x86_64, as `cargo clippy --workspace` passes it by.
///
/// # Errors
///
/// How to see what is wrong.
pub fn lint(root: &Path) -> Result<(), String> {
    let target = ARCHS[0].target;
    if !crate::ci::is_installed(target) {
        // `boots` says so.
        return Ok(());
    }
    let mut command = run::cargo();
    command.args(["clippy", "--quiet", "--release", "--target", target, "--", "-D", "warnings"]);
    command.current_dir(root.join("kernel")).env("CARGO_TARGET_DIR", root.join("kernel/target"));
    run::run(&mut command, Duration::from_secs(10 * 60))
        .map_err(|why| format!("clippy for {target} in kernel/: {why}"))
}

/// Boots every kernel once, for `cargo xtask ci` and `cargo xtask test`.
///
/// # Errors
///
/// Which did not pass.
pub fn run_all(root: &Path, tally: &mut Tally) -> Result<(), String> {
    for arch in &ARCHS {
        boots(root, arch, 1, tally).map_err(|why| format!("{}: {why}", arch.target))?;
    }
    Ok(())
}

fn boots(root: &Path, arch: &Arch, count: u32, tally: &mut Tally) -> Result<(), String> {
    if let Some(why) = missing(arch) {
        tally.skip(format!("the kernel for {}: {why}", arch.target));
        return Ok(());
    }
    build(root, arch)?;
    for boot in 1..=count {
        let closing = boot_once(root, arch, "", LIMIT, &mut |line| {
            if count == 1 {
                println!("{line}");
            }
        })?;
        tally.closing(&closing);
        println!("{}, boot {boot} of {count}: {closing}", arch.target);
    }
    Ok(())
}

/// What the machine lacks for this architecture, and how to get it.
fn missing(arch: &Arch) -> Option<String> {
    let mut version = Command::new(arch.emulator);
    if run::capture(version.arg("--version"), Duration::from_secs(60)).is_none() {
        return Some(format!("no {}: run `apt-get install {}`", arch.emulator, arch.packages));
    }
    if !crate::ci::is_installed(arch.target) {
        return Some(format!("run `rustup target add {}`", arch.target));
    }
    None
}

fn build(root: &Path, arch: &Arch) -> Result<(), String> {
    let mut command = run::cargo();
    command.args(["build", "--release", "--target", arch.target]).current_dir(root.join("kernel"));
    // Its own directory, whatever the workspace uses: its settings are others.
    command.env("CARGO_TARGET_DIR", root.join("kernel/target"));
    run::run(&mut command, Duration::from_secs(15 * 60))
}

/// One boot; the closing line, `N passed, 0 failed`.
fn boot_once(
    root: &Path,
    arch: &Arch,
    more: &str,
    limit: Duration,
    on_line: &mut dyn FnMut(&str),
) -> Result<String, String> {
    let image = root.join("kernel/target").join(arch.target).join("release/vmalloc-kernel");
    let mut command = Command::new(arch.emulator);
    command.args(arch.arguments.split_whitespace()).args(more.split_whitespace());
    command.args("-m 256M -display none -serial stdio -monitor none".split_whitespace());
    if !more.contains("-smp") {
        command.args(["-smp", "2"]);
    }
    command.arg("-kernel").arg(image);
    let mut closing = String::new();
    let ended = run::run_lines(&mut command, limit, |line| {
        let line = line.trim_end();
        if line.ends_with(" failed") {
            line.clone_into(&mut closing);
        }
        on_line(line);
    });
    verdict(arch, &ended, &closing).map(|()| closing)
}

/// Whether the status and the closing line say that all passed: both must.
fn verdict(arch: &Arch, ended: &Result<(), String>, closing: &str) -> Result<(), String> {
    let is_success = match ended {
        Ok(()) => arch.success == "exit status: 0",
        Err(why) => why.ends_with(arch.success),
    };
    match ended {
        _ if is_success && closing.ends_with(" passed, 0 failed") => Ok(()),
        Err(why) => Err(format!("{why}; its closing line: `{closing}`")),
        Ok(()) => Err(format!("it ended well, but its closing line is `{closing}`")),
    }
}

/// Boots the x86_64 kernel as one CPU whose clock counts instructions; what it prints goes to
/// `on_line`.
///
/// # Errors
///
/// What is missing, or how the boot ended.
pub fn count(root: &Path, on_line: &mut dyn FnMut(&str)) -> Result<(), String> {
    let arch = &ARCHS[0];
    missing(arch).map_or(Ok(()), Err)?;
    build(root, arch)?;
    let more = format!("{COUNTING} -append bench");
    boot_once(root, arch, &more, LIMIT, on_line).map(|_| ())
}

/// The emulator's arguments for a clock that ticks once an instruction, and waits for nothing.
pub const COUNTING: &str = "-smp 1 -icount shift=0,sleep=off";

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a kernel passes if its status and its closing line say so, and not otherwise.
    #[test]
    fn status_and_closing_line_must_both_say_that_all_passed() {
        let (x86_64, aarch64) = (&ARCHS[0], &ARCHS[1]);
        let ended = |status: &str| Err(format!("it ended with {status}"));
        let good = "57 passed, 0 failed";
        assert!(verdict(x86_64, &ended("exit status: 33"), good).is_ok());
        assert!(verdict(aarch64, &Ok(()), good).is_ok());
        assert!(verdict(x86_64, &Ok(()), good).is_err());
        assert!(verdict(aarch64, &ended("exit status: 33"), good).is_err());
        assert!(verdict(x86_64, &ended("exit status: 35"), "3 passed, 1 failed").is_err());
        assert!(verdict(aarch64, &Ok(()), "").is_err());
        assert!(verdict(aarch64, &Ok(()), "56 passed, 1 failed").is_err());
    }
}
