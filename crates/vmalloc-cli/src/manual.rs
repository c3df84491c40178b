//! `vmalloc completions` and `vmalloc man`: what a shell and `man` should know of the command,
//! made from the same description that reads the command line, so that neither can be out of date.
//!
//! Both know only what `--help` shows: the commands that start members are hidden.

use crate::args::Args;
use crate::failure::{Done, Failure};
use clap::{Args as ClapArgs, Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use std::fs;
use std::io::{self, Write as _};
use std::mem;
use std::path::{Path, PathBuf};

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  source <(vmalloc completions bash)        for this shell
  vmalloc completions bash > ~/.local/share/bash-completion/completions/vmalloc
  vmalloc completions zsh > ~/.zfunc/_vmalloc
  vmalloc completions fish > ~/.config/fish/completions/vmalloc.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  vmalloc man | man -l -                    the page of the whole
  vmalloc man ~/.local/share/man/man1       a page a command, from then on:
  man vmalloc-top";

/// For which shell.
#[derive(ClapArgs, Debug)]
#[command(after_help = COMPLETIONS_EXAMPLES)]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Where to write pages.
#[derive(ClapArgs, Debug)]
#[command(after_help = MAN_EXAMPLES)]
pub struct ManArgs {
    /// Write a page a command to this folder, made if need be; without it, one page to stdout.
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

/// Prints a script that teaches the shell our commands and options.
pub fn completions(args: &CompletionsArgs) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut shown(), "vmalloc", &mut script);
    print(&script)
}

/// Prints the manual's first page, or writes them all.
pub fn man(args: &ManArgs) -> Done {
    match &args.folder {
        None => print(&page(&shown()).map_err(|e| Failure::output(&e))?.1),
        Some(folder) => pages(folder).map_err(|e| {
            Failure::new(format_args!("{}: {e}; name a folder of your own", folder.display()))
        }),
    }
}

/// The command as `--help` shows it: without what is hidden.
fn shown() -> Command {
    let whole = Args::command();
    let visible: Vec<Command> =
        whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    // No way to take a subcommand away: what describes the whole is put together again.
    let mut shown = Command::new("vmalloc").args(whole.get_arguments().cloned());
    shown = shown.version(env!("CARGO_PKG_VERSION")).subcommands(visible);
    if let (Some(about), Some(long), Some(after)) =
        (whole.get_about(), whole.get_long_about(), whole.get_after_help())
    {
        shown = shown.about(about.clone()).long_about(long.clone()).after_help(after.clone());
    }
    let mut shown = shown.disable_help_subcommand(true).args_conflicts_with_subcommands(true);
    shown.build();
    shown
}

/// The name of a command's page, and the page.
fn page(command: &Command) -> io::Result<(String, Vec<u8>)> {
    let man = Man::new(command.clone()).source(concat!("vmalloc ", env!("CARGO_PKG_VERSION")));
    let mut bytes = Vec::new();
    man.render(&mut bytes)?;
    let page = String::from_utf8_lossy(&bytes);
    Ok((man.get_filename(), as_written(&page).into_bytes()))
}

/// The examples and notes at the end of a help keep their lines: they are commands and tables.
fn as_written(page: &str) -> String {
    let mut out = String::with_capacity(page.len() + 64);
    let mut is_as_written = false;
    for line in page.lines() {
        if line.starts_with(".SH") && mem::take(&mut is_as_written) {
            out += ".in\n.fi\n";
        }
        if line == ".SH EXTRA" {
            is_as_written = true;
            // From the left edge: the lines are as long as a terminal is wide.
            out += ".SH NOTES\n.nf\n.in 0\n";
        } else {
            out += line;
            out.push('\n');
        }
    }
    out
}

fn pages(folder: &Path) -> io::Result<()> {
    let shown = shown();
    fs::create_dir_all(folder)?;
    for command in [&shown].into_iter().chain(shown.get_subcommands()) {
        let (name, page) = page(command)?;
        fs::write(folder.join(name), page)?;
    }
    Ok(())
}

fn print(bytes: &[u8]) -> Done {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| Failure::output(&e))
}
