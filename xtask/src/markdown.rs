//! What a Markdown document mentions: code spans, link targets, shell commands, with their lines.
//!
//! Enough of CommonMark for our documents: fences, spans of any number of backticks that may wrap
//! over a line, inline links and link definitions. Indented code is read as prose.

/// One mention.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mention {
    /// The inside of a code span.
    Span(String),
    /// The target of a link.
    Link(String),
    /// A command line of a shell block, continuation lines joined.
    Shell(String),
}

/// Every mention in `text`, with its line from 1.
pub fn mentions(text: &str) -> Vec<(usize, Mention)> {
    let mut found = Vec::new();
    let mut prose: Vec<(usize, &str)> = Vec::new();
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    while let Some((number, line)) = lines.next() {
        if let Some(fence) = Fence::open(line) {
            flush(&mut prose, &mut found);
            let block = lines.by_ref().take_while(|(_, line)| !fence.is_closed_by(line)).collect();
            shell_lines(fence.language, block, &mut found);
        } else if line.trim().is_empty() {
            flush(&mut prose, &mut found);
        } else {
            prose.push((number, line));
        }
    }
    flush(&mut prose, &mut found);
    found
}

/// A block of shell commands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// Why it is not to be run: what the comment on the line before it says.
    pub not_run: Option<String>,
    /// The commands with their lines, continuation lines joined.
    pub commands: Vec<(usize, String)>,
    /// What it shows that they print, if it has prompts; `…` stands for what is left out.
    pub shown: Vec<(usize, String)>,
}

/// The blocks of `text` that have commands, in order.
pub fn shell_blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut not_run = None;
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    while let Some((_, line)) = lines.next() {
        let Some(fence) = Fence::open(line) else {
            let comment = line.trim().strip_prefix("<!-- not run: ");
            not_run =
                comment.and_then(|text| text.strip_suffix("-->")).map(|why| why.trim().to_owned());
            continue;
        };
        let block: Vec<(usize, &str)> =
            lines.by_ref().take_while(|(_, line)| !fence.is_closed_by(line)).collect();
        let shown = output_lines(&block);
        let mut found = Vec::new();
        shell_lines(fence.language, block, &mut found);
        let command = |(line, mention)| match mention {
            Mention::Shell(command) => Some((line, command)),
            _ => None,
        };
        let commands: Vec<_> = found.into_iter().filter_map(command).collect();
        let not_run = not_run.take();
        if !commands.is_empty() {
            blocks.push(Block { not_run, commands, shown });
        }
    }
    blocks
}

/// What a session shows between its prompts.
fn output_lines(block: &[(usize, &str)]) -> Vec<(usize, String)> {
    let is_prompt = |line: &str| line.trim_start().starts_with("$ ");
    let Some(first) = block.iter().position(|(_, line)| is_prompt(line)) else {
        return Vec::new();
    };
    let mut goes_on = false;
    let mut shown = Vec::new();
    for &(number, line) in &block[first..] {
        let is_output = !goes_on && !is_prompt(line);
        goes_on = !is_output && line.ends_with('\\');
        if is_output && !matches!(line.trim(), "" | "…") {
            shown.push((number, line.trim().to_owned()));
        }
    }
    shown
}

/// The line that opens a fenced block.
struct Fence<'a> {
    mark: char,
    len: usize,
    language: &'a str,
}

impl Fence<'_> {
    fn open(line: &str) -> Option<Fence<'_>> {
        let line = line.trim_start().trim_start_matches("> ");
        let mark = line.chars().next().filter(|&c| c == '`' || c == '~')?;
        let info = line.trim_start_matches(mark);
        let len = line.len() - info.len();
        if len < 3 || info.contains('`') {
            return None;
        }
        let language = info.trim().split([' ', ',', '{']).next().unwrap_or("");
        Some(Fence { mark, len, language })
    }

    fn is_closed_by(&self, line: &str) -> bool {
        let line = line.trim().trim_start_matches("> ");
        line.len() >= self.len && line.chars().all(|c| c == self.mark)
    }
}

/// The commands of a block: all lines of a script, but if any line has a prompt, only those.
fn shell_lines(language: &str, block: Vec<(usize, &str)>, found: &mut Vec<(usize, Mention)>) {
    let is_script = matches!(language, "sh" | "bash" | "shell" | "console" | "zsh");
    let has_prompt = block.iter().any(|(_, line)| line.trim_start().starts_with("$ "));
    if !has_prompt && (!is_script || language == "console") {
        return;
    }
    if has_prompt && !is_script && !matches!(language, "" | "text") {
        return;
    }
    let mut open: Option<(usize, String)> = None;
    for (number, line) in block {
        let (number, mut command) = match open.take() {
            Some((number, start)) => (number, start + " " + line.trim()),
            None => match line.trim_start().strip_prefix("$ ") {
                Some(command) => (number, command.trim().to_owned()),
                None if has_prompt => continue,
                None => (number, line.trim().to_owned()),
            },
        };
        if command.ends_with('\\') {
            command.pop();
            open = Some((number, command));
        } else if !command.is_empty() && !command.starts_with('#') {
            found.push((number, Mention::Shell(command)));
        }
    }
}

/// Reads the spans and links of the paragraph in `prose`, and empties it.
fn flush(prose: &mut Vec<(usize, &str)>, found: &mut Vec<(usize, Mention)>) {
    let mut chars: Vec<(usize, char)> = Vec::new();
    for (number, line) in prose.drain(..) {
        if let Some(target) = definition(line) {
            found.push((number, Mention::Link(target.to_owned())));
            continue;
        }
        chars.extend(line.chars().map(|c| (number, c)));
        chars.push((number, ' '));
    }
    let run_len = |at: usize| chars[at..].iter().take_while(|(_, c)| *c == '`').count();
    let mut at = 0;
    while at < chars.len() {
        let number = chars[at].0;
        match chars[at].1 {
            '\\' => at += 2,
            '`' => {
                let len = run_len(at);
                let mut end = at + len;
                while end < chars.len() && run_len(end) != len {
                    end += run_len(end).max(1);
                }
                if end < chars.len() {
                    let inside: String = chars[at + len..end].iter().map(|&(_, c)| c).collect();
                    found.push((number, Mention::Span(inside.trim().to_owned())));
                    at = end;
                }
                at += len;
            }
            ']' if chars.get(at + 1).is_some_and(|&(_, c)| c == '(') => {
                let inside = chars[at + 2..].iter().map(|&(_, c)| c);
                let target: String = inside.take_while(|&c| c != ')' && c != ' ').collect();
                found.push((number, Mention::Link(target)));
                at += 2;
            }
            _ => at += 1,
        }
    }
}

/// The target of a link definition, `[name]: target`.
fn definition(line: &str) -> Option<&str> {
    let (_, target) = line.trim_start().strip_prefix('[')?.split_once("]:")?;
    target.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(line: usize, text: &str) -> (usize, Mention) {
        (line, Mention::Span(text.into()))
    }

    fn shell(line: usize, text: &str) -> (usize, Mention) {
        (line, Mention::Shell(text.into()))
    }

    fn link(line: usize, text: &str) -> (usize, Mention) {
        (line, Mention::Link(text.into()))
    }

    /// Goal: spans are found with their line, wrapped ones and ones with backticks inside too.
    #[test]
    fn spans_are_found_with_their_line() {
        let text = "a `b`\nand ``c ` d`` `cargo\ntest` \\`no\\`\n\nlonely ` end\n\n`e`";
        let expect = [span(1, "b"), span(2, "c ` d"), span(2, "cargo test"), span(7, "e")];
        assert_eq!(mentions(text), expect);
    }

    /// Goal: inline links, links around code and definitions give their targets.
    #[test]
    fn links_give_their_targets() {
        let text = "[a](docs/a.md \"t\") [`b`](../b.md#c)\n[d]: e.md 'title'\n";
        let expect = [link(2, "e.md"), link(1, "docs/a.md"), span(1, "b"), link(1, "../b.md#c")];
        assert_eq!(mentions(text), expect);
    }

    /// Goal: a block has its commands, and the reason on the line before it, which is for it alone.
    #[test]
    fn shell_blocks_have_their_marks() {
        let text = "<!-- not run: an hour -->\n```sh\na\n```\n```sh\nb\\\n c # d\n```\n\
                    <!-- not run: x -->\n\n```console\n$ e\n  out\n…\n\n```\n```rust\nf\n```\n";
        let block = |why: Option<&str>, line, command: &str| Block {
            not_run: why.map(str::to_owned),
            commands: vec![(line, command.to_owned())],
            shown: if line == 12 { vec![(13, "out".to_owned())] } else { vec![] },
        };
        assert_eq!(
            shell_blocks(text),
            [block(Some("an hour"), 3, "a"), block(None, 6, "b c # d"), block(None, 12, "e")]
        );
    }

    /// Goal: a script gives its lines, a session only its prompts, other languages nothing.
    #[test]
    fn shell_blocks_give_commands_and_not_output() {
        let text = "```sh\n# why\ncargo a \\\n  --b\n```\n```console\n$ vmalloc c\nout `put`\n```\n\
                    ```rust\nlet `x`;\n```\n```\n$ d\n```\n~~~\nno prompt\n~~~\n";
        assert_eq!(
            mentions(text),
            [shell(3, "cargo a  --b"), shell(7, "vmalloc c"), shell(14, "d")]
        );
    }
}
