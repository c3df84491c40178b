//! Rust source without its comments and literals, so that a search finds code and nothing else.
//!
//! Both halves keep every line end, and a blank for each character taken out, so line *n* of
//! either is line *n* of the file. Knows comments (nested too), strings, raw, byte and C strings,
//! characters against lifetimes, raw identifiers. Knows no grammar.

/// A source, split.
pub struct Source {
    /// The code: comments and the insides of literals are blanks.
    pub code: String,
    /// The comments, with their slashes: everything else is blanks.
    pub comments: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

impl Source {
    /// Splits `text`. What does not lex (an open string) runs to the end of the file.
    pub fn new(text: &str) -> Source {
        let chars: Vec<char> = text.chars().collect();
        let mut source = Source { code: String::new(), comments: String::new() };
        let mut at = 0;
        while at < chars.len() {
            let (kind, end) = token(&chars, at);
            for &c in &chars[at..end.min(chars.len())] {
                let blank = if c == '\n' { '\n' } else { ' ' };
                source.code.push(if kind == Kind::Code { c } else { blank });
                source.comments.push(if kind == Kind::Comment { c } else { blank });
            }
            at = end;
        }
        source
    }

    /// The identifiers and single punctuation marks of the code, each with its line from 1.
    pub fn tokens(&self) -> Vec<(usize, &str)> {
        let mut tokens = Vec::new();
        for (index, line) in self.code.lines().enumerate() {
            let mut rest = line.trim_start();
            while let Some(first) = rest.chars().next() {
                let len = if is_word(first) {
                    rest.find(|c| !is_word(c)).unwrap_or(rest.len())
                } else {
                    first.len_utf8()
                };
                let (token, tail) = rest.split_at(len);
                tokens.push((index + 1, token));
                rest = tail.trim_start();
            }
        }
        tokens
    }

    /// For each line, whether it belongs to an inline module under `#[cfg(test)]`.
    pub fn test_lines(&self) -> Vec<bool> {
        let mut is_test = vec![false; self.code.lines().count()];
        let tokens = self.tokens();
        let words: Vec<&str> = tokens.iter().map(|&(_, word)| word).collect();
        let start = ["#", "[", "cfg", "(", "test", ")", "]"];
        for first in 0..words.len() {
            if !words[first..].starts_with(&start) {
                continue;
            }
            let Some(open) = (first + start.len()..words.len())
                .find(|&at| words[at] == "{" || words[at] == ";")
                .filter(|&at| words[at] == "{" && words[first + start.len()..at].contains(&"mod"))
            else {
                continue;
            };
            let close = closing(&words, open);
            for is_test in &mut is_test[tokens[first].0 - 1..tokens[close].0] {
                *is_test = true;
            }
        }
        is_test
    }
}

/// Whether `c` may stand in an identifier.
pub fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// The index of the bracket that closes the one at `open`, or of the last token.
pub fn closing(words: &[&str], open: usize) -> usize {
    let mut depth = 0;
    for (at, word) in words.iter().enumerate().skip(open) {
        match *word {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    words.len() - 1
}

/// The kind of what starts at `at`, and where it ends.
fn token(chars: &[char], at: usize) -> (Kind, usize) {
    let ahead = |n: usize| chars.get(at + n).copied().unwrap_or('\0');
    match (ahead(0), ahead(1)) {
        ('/', '/') => {
            let len = chars[at..].iter().position(|&c| c == '\n').unwrap_or(chars.len() - at);
            (Kind::Comment, at + len)
        }
        ('/', '*') => (Kind::Comment, block_comment_end(chars, at)),
        ('"', _) => (Kind::Literal, quoted_end(chars, at + 1, '"')),
        ('\'', '\\') => (Kind::Literal, quoted_end(chars, at + 1, '\'')),
        ('\'', _) if ahead(2) == '\'' => (Kind::Literal, at + 3),
        (first, _) if is_word(first) => {
            let len = chars[at..].iter().position(|&c| !is_word(c)).unwrap_or(chars.len() - at);
            let word: String = chars[at..at + len].iter().collect();
            literal_after_prefix(chars, at + len, &word)
                .map_or((Kind::Code, at + len), |end| (Kind::Literal, end))
        }
        _ => (Kind::Code, at + 1),
    }
}

/// The end of the literal that `prefix` (as in `br#"…"#`) introduces, if it does.
fn literal_after_prefix(chars: &[char], at: usize, prefix: &str) -> Option<usize> {
    let next = *chars.get(at)?;
    match prefix {
        "b" if next == '\'' => Some(quoted_end(chars, at + 1, '\'')),
        "b" | "c" if next == '"' => Some(quoted_end(chars, at + 1, '"')),
        "r" | "br" | "cr" if next == '"' || next == '#' => {
            let hashes = chars[at..].iter().take_while(|&&c| c == '#').count();
            // `r#type` is an identifier.
            (chars.get(at + hashes) == Some(&'"')).then(|| {
                let body = at + hashes + 1;
                let is_end = |&i: &usize| {
                    chars[i] == '"'
                        && chars[i + 1..].iter().take(hashes).filter(|&&c| c == '#').count()
                            == hashes
                };
                (body..chars.len()).find(is_end).map_or(chars.len(), |i| i + 1 + hashes)
            })
        }
        _ => None,
    }
}

/// Past the next `quote` from `at` that no backslash escapes.
fn quoted_end(chars: &[char], mut at: usize, quote: char) -> usize {
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let source = Source::new(text);
        source.tokens().into_iter().map(|(_, word)| word.to_owned()).collect()
    }

    /// Goal: nothing inside a comment or a literal of any kind is taken for code.
    #[test]
    fn literals_and_comments_are_not_code() {
        for text in [
            "// hidden",
            "/* a /* nested */ hidden */",
            r#""hidden \" hidden""#,
            "r\"hidden\\\"",
            "r##\"a \"# hidden\"##",
            "b\"hidden\"",
            "c\"hidden\"",
            "br#\"hidden\"#",
            "\"two\nlines hidden\"",
        ] {
            let words = words(&format!("{text}\nseen"));
            assert_eq!(words, ["seen"], "{text}");
        }
    }

    /// Goal: a quote that is a lifetime, a character or part of a raw name opens no string.
    #[test]
    fn quotes_that_open_no_string_hide_nothing() {
        assert_eq!(words("<'a>(&'a u8)").concat(), "<'a>(&'a u8)".replace(' ', ""));
        assert_eq!(words(r"'\'' seen '\u{1F}' b'\'' '\\' '/' '/' seen"), ["seen", "seen"]);
        assert_eq!(words("'\"' seen '\"'"), ["seen"]);
        assert_eq!(words("r#type seen"), ["r", "#", "type", "seen"]);
    }

    /// Goal: line numbers survive whatever was taken out.
    #[test]
    fn line_numbers_survive() {
        let source = Source::new("/* é\n */ a\n\"ü\n\"\nb // c\n");
        assert_eq!(source.tokens(), [(2, "a"), (5, "b")]);
        assert_eq!(source.comments.lines().nth(4).unwrap().trim(), "// c");
    }

    /// Goal: only inline test modules are test lines.
    #[test]
    fn test_modules_are_marked_with_their_attribute() {
        let text = "a\n#[cfg(test)]\nmod tests {\n {}\n}\nb\n#[cfg(test)]\nmod more;\nfn c() {}\n";
        let lines = Source::new(text).test_lines();
        assert_eq!(lines, [false, true, true, true, true, false, false, false, false]);
    }
}
