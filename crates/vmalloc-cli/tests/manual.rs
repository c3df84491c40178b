//! What a shell and `man` are told of the command: that it is whole, and that they take it.

mod common;

use common::{Place, refused, skip, text, vmalloc};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

const SHELLS: [&str; 5] = ["bash", "elvish", "fish", "powershell", "zsh"];

/// The commands that `--help` shows.
fn commands() -> Vec<String> {
    let help = text(vmalloc(&["-h"]));
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    let name =
        |line: &str| line.strip_prefix("  ")?.split_once(' ').map(|(name, _)| name.to_owned());
    listed.filter_map(name).filter(|name| !name.is_empty()).collect()
}

/// Goal: the help of each command, and of the whole, fits in 80 columns.
#[test]
fn every_help_fits_in_eighty_columns() {
    let all = commands().into_iter().map(Some).chain([None]);
    for command in all {
        for help in ["-h", "--help"] {
            let args: Vec<&str> = command.as_deref().into_iter().chain([help]).collect();
            let shown = text(vmalloc(&args));
            assert!(shown.lines().all(|line| line.chars().count() <= 80), "{args:?}: {shown}");
        }
    }
}

/// Goal: every shell's script knows every command that is shown, and none that is hidden.
#[test]
fn completions_know_what_the_help_shows() {
    let commands = commands();
    assert!(commands.len() > 12 && commands.contains(&"top".to_owned()), "{commands:?}");
    for shell in SHELLS {
        let script = text(vmalloc(&["completions", shell]));
        for command in &commands {
            assert!(script.contains(command.as_str()), "{shell}: {command}");
        }
        for hidden in ["demo-member", "stress-member"] {
            assert!(!script.contains(hidden), "{shell}: {hidden}");
        }
    }
    assert!(refused(vmalloc(&["completions", "tcsh"]), 2).contains("bash"));
}

/// Goal: bash completes a command, an option and its values. Method: the function that the script
/// defines, called as bash would call it.
#[test]
fn bash_completes_commands_options_and_values() {
    let place = Place::new("completions");
    fs::write(place.path(), text(vmalloc(&["completions", "bash"]))).unwrap();
    for (words, found) in [
        (&["vmalloc", "to"][..], "top"),
        (&["vmalloc", "top", "--so"], "--sort"),
        (&["vmalloc", "top", "--sort", "si"], "size"),
    ] {
        let (word, before) = (words[words.len() - 1], words[words.len() - 2]);
        let ask = format!(
            "source {}; COMP_WORDS=({}); COMP_CWORD={}; _vmalloc vmalloc '{word}' '{before}'; \
             echo \"${{COMPREPLY[@]}}\"",
            place.str(),
            words.join(" "),
            words.len() - 1
        );
        let Ok(output) = Command::new("bash").args(["--norc", "-c", &ask]).output() else {
            return skip("completions in bash", "needs the program bash");
        };
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), found, "{words:?}");
    }
}

/// Goal: a page a command, each with its name, and its examples line by line; no old page is the
/// reason that a write fails.
#[test]
fn man_writes_a_page_for_each_command() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("man/man1");
    for _ in 0..2 {
        assert_eq!(text(vmalloc(&["man", to.to_str().unwrap()])), "");
    }
    let page = |name: &str| fs::read_to_string(to.join(name)).unwrap();
    let whole = page("vmalloc.1");
    assert_eq!(whole.trim_end(), text(vmalloc(&["man"])));
    for command in commands() {
        assert!(whole.contains(&format!("vmalloc\\-{command}(1)")), "{command}: {whole}");
        assert!(page(&format!("vmalloc-{command}.1")).contains(".SH NAME\n"), "{command}");
    }
    assert_eq!(fs::read_dir(&to).unwrap().count(), commands().len() + 1);
    let top = page("vmalloc-top.1");
    assert!(top.contains(".SH NOTES\n.nf\n"), "{top}");
    read_by_groff(&to);

    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(refused(vmalloc(&["man", file.to_str().unwrap()]), 1).contains("a folder of your own"));
}

/// What `man` shows pages with: it warns of nothing, and keeps an example's line.
fn read_by_groff(pages: &Path) {
    let read = |page: &Path| {
        let mut groff = Command::new("groff");
        groff.args(["-man", "-ww", "-Kutf8", "-Tutf8", "-P-c", "-rLL=80n"]).arg(page);
        groff.stdin(Stdio::null()).output().ok().filter(|output| output.status.success())
    };
    for page in fs::read_dir(pages).unwrap() {
        let Some(output) = read(&page.unwrap().path()) else {
            return skip("manual pages through groff", "install groff-base with its macros");
        };
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
    let shown = read(&pages.join("vmalloc-top.1")).unwrap().stdout;
    let line = "vmalloc top --once --sort size   print one look, every area, and leave";
    assert!(String::from_utf8_lossy(&shown).contains(line), "{}", String::from_utf8_lossy(&shown));
}
