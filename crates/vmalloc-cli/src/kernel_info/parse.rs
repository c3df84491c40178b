//! `/proc/vmallocinfo`, parsed: strictly, since a guess in a total is worse than an error.
//!
//! ```text
//!   0xffff…-0xffff… 20480 kernel_clone+0xb8/0x400 pages=4 vmalloc N0=4
//!   start   end     bytes caller                  words, each of them known
//! ```
//!
//! The size counts the guard page. Unless `kernel.kptr_restrict` is 1 (and the reader is root),
//! the kernel prints hashes for addresses: lengths are right, places are not.
//!
//! Linux: `vmallocinfo_show`, `show_purge_info`, `show_numa_info`.

use std::fmt;
use vmalloc::core::PAGE_SIZE;

/// An area of the kernel's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub start: u64,
    pub end: u64,
    /// Bytes of addresses, the guard page too.
    pub bytes: u64,
    pub caller: Option<String>,
    /// Pages of memory, where the kernel counts them.
    pub pages: Option<u64>,
    pub phys: Option<u64>,
    pub kind: Kind,
    /// Its page array lies in the window, too.
    pub vpages: bool,
    /// Pages on each node.
    pub nodes: Vec<(u32, u64)>,
}

/// What the kernel made it for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Vmalloc,
    User,
    Vmap,
    VmMapRam,
    Ioremap,
    DmaCoherent,
    Sparse,
    /// A reservation with none of these words.
    Other,
    /// Freed, waiting for the next flush.
    Unpurged,
}

/// A line that is not of `vmallocinfo`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError {
    /// From 1 on.
    pub line: usize,
    pub what: What,
}

/// What is wrong with a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// It does not begin with `0x…-0x…` and a size.
    Head,
    /// The size is no positive multiple of a page.
    Size { bytes: u64 },
    /// A word that no kernel we know prints.
    Word { word: String },
    /// A word is there twice.
    Twice { word: String },
    /// The nodes have more pages than the area.
    Nodes { on_nodes: u64, pages: u64 },
}

impl Kind {
    /// Every kind, in the order of the tables.
    pub const ALL: [Kind; 9] = [
        Kind::Vmalloc,
        Kind::User,
        Kind::Vmap,
        Kind::VmMapRam,
        Kind::Ioremap,
        Kind::DmaCoherent,
        Kind::Sparse,
        Kind::Other,
        Kind::Unpurged,
    ];

    /// The kernel's word.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Vmalloc => "vmalloc",
            Kind::User => "user",
            Kind::Vmap => "vmap",
            Kind::VmMapRam => "vm_map_ram",
            Kind::Ioremap => "ioremap",
            Kind::DmaCoherent => "dma-coherent",
            Kind::Sparse => "sparse",
            Kind::Other => "other",
            Kind::Unpurged => "unpurged",
        }
    }

    fn of_word(word: &str) -> Option<Kind> {
        // The last two are not words of their own.
        Kind::ALL[..7].iter().copied().find(|kind| kind.name() == word)
    }
}

/// Every line of a `vmallocinfo`.
///
/// # Errors
///
/// [`ParseError`], at the first line that is none.
pub fn parse(text: &str) -> Result<Vec<Entry>, ParseError> {
    let entry = |(i, line): (usize, &str)| {
        parse_line(line).map_err(|what| ParseError { line: i + 1, what })
    };
    text.lines().enumerate().map(entry).collect()
}

fn parse_line(line: &str) -> Result<Entry, What> {
    let mut words = line.split_ascii_whitespace().peekable();
    let range = words.next().and_then(|word| word.split_once('-')).ok_or(What::Head)?;
    let (start, end) = (hex(range.0).ok_or(What::Head)?, hex(range.1).ok_or(What::Head)?);
    let bytes = words.next().and_then(|word| word.parse().ok()).ok_or(What::Head)?;
    if bytes == 0 || !is_whole_pages(bytes) {
        return Err(What::Size { bytes });
    }
    let mut entry = Entry {
        start,
        end,
        bytes,
        caller: None,
        pages: None,
        phys: None,
        kind: Kind::Other,
        vpages: false,
        nodes: Vec::new(),
    };
    if words.peek() == Some(&"unpurged") {
        let rest: Vec<&str> = words.collect();
        entry.kind = Kind::Unpurged;
        return match rest[..] {
            ["unpurged", "vm_area"] => Ok(entry),
            _ => Err(What::Word { word: rest.join(" ") }),
        };
    }
    // The caller comes first, and is a symbol or an address; a module's name follows in brackets.
    if let Some(caller) = words.next_if(|word| is_caller(word)) {
        let module = words.next_if(|word| word.starts_with('[') && word.ends_with(']'));
        entry.caller = Some(match module {
            Some(module) => format!("{caller} {module}"),
            None => caller.to_owned(),
        });
    }
    for word in words {
        entry.take(word)?;
    }
    let on_nodes = entry.nodes.iter().fold(0_u64, |sum, (_, pages)| sum.saturating_add(*pages));
    match entry.pages {
        Some(pages) if on_nodes > pages => Err(What::Nodes { on_nodes, pages }),
        _ => Ok(entry),
    }
}

impl Entry {
    fn take(&mut self, word: &str) -> Result<(), What> {
        let unknown = || What::Word { word: word.chars().take(40).collect() };
        let twice = || What::Twice { word: word.chars().take(40).collect() };
        if let Some(kind) = Kind::of_word(word) {
            // `vmalloc user` is one kind: memory that may be shown to programs.
            self.kind = match (self.kind, kind) {
                (Kind::Other, kind) => kind,
                (Kind::Vmalloc, Kind::User) => Kind::User,
                _ => return Err(twice()),
            };
            return Ok(());
        }
        if word == "vpages" {
            return if std::mem::replace(&mut self.vpages, true) { Err(twice()) } else { Ok(()) };
        }
        let (name, value) = word.split_once('=').ok_or_else(unknown)?;
        match name {
            "pages" => set(&mut self.pages, value.parse().ok().ok_or_else(unknown)?, twice),
            "phys" => set(&mut self.phys, hex(value).ok_or_else(unknown)?, twice),
            _ => {
                let node = name.strip_prefix('N').and_then(|node| node.parse().ok());
                let (node, pages) = node.zip(value.parse().ok()).ok_or_else(unknown)?;
                if self.nodes.iter().any(|(n, _)| *n == node) {
                    return Err(twice());
                }
                self.nodes.push((node, pages));
                Ok(())
            }
        }
    }

    /// The caller without its offset: `kernel_clone`, `do_init [module]`.
    pub fn function(&self) -> String {
        match &self.caller {
            None => self.kind.name().to_owned(),
            Some(caller) => {
                let (name, module) = caller.split_once(' ').unwrap_or((caller, ""));
                let name = name.split('+').next().unwrap_or(name);
                format!("{name} {module}").trim_end().to_owned()
            }
        }
    }
}

/// Whether the addresses are the real ones: each range is as long as it says.
pub fn has_addresses(entries: &[Entry]) -> bool {
    entries.iter().all(|entry| entry.end.checked_sub(entry.start) == Some(entry.bytes))
}

fn set<T>(place: &mut Option<T>, value: T, twice: impl FnOnce() -> What) -> Result<(), What> {
    if place.is_some() {
        return Err(twice());
    }
    *place = Some(value);
    Ok(())
}

fn is_caller(word: &str) -> bool {
    word.contains("+0x") || hex(word).is_some()
}

fn is_whole_pages(bytes: u64) -> bool {
    bytes.is_multiple_of(PAGE_SIZE as u64)
}

/// `0x…`, at most 16 digits, as the kernel writes it.
fn hex(word: &str) -> Option<u64> {
    let digits = word.strip_prefix("0x").filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u64::from_str_radix(digits, 16).ok()
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        match &self.what {
            What::Head => write!(f, "not `0x…-0x… size …`: this is no vmallocinfo"),
            What::Size { bytes } => write!(f, "{bytes} bytes are no whole pages"),
            What::Word { word } => write!(f, "{word:?} is no word of vmallocinfo that we know"),
            What::Twice { word } => write!(f, "{word:?} is there twice"),
            What::Nodes { on_nodes, pages } => {
                write!(f, "{on_nodes} pages on its nodes, but {pages} in all")
            }
        }
    }
}

impl std::error::Error for ParseError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: &str = "0xffffc90000000000-0xffffc90000005000   20480";

    fn one(rest: &str) -> Result<Entry, What> {
        parse_line(&format!("{HEAD} {rest}"))
    }

    #[test]
    fn each_kind_of_line_is_read() {
        let entry = one("kernel_clone+0xb8/0x400 pages=4 vmalloc vpages N0=3 N1=1").unwrap();
        assert_eq!(entry.function(), "kernel_clone");
        assert_eq!((entry.pages, entry.kind, entry.vpages), (Some(4), Kind::Vmalloc, true));
        assert_eq!(entry.nodes, [(0, 3), (1, 1)]);
        let entry = one("map_it+0x1/0x2 [driver] phys=0x00000000000a0000 ioremap").unwrap();
        assert_eq!((entry.function().as_str(), entry.phys), ("map_it [driver]", Some(0xa_0000)));
        assert_eq!(one("unpurged vm_area").unwrap().kind, Kind::Unpurged);
        assert_eq!(one("vm_map_ram").unwrap().function(), "vm_map_ram");
        assert_eq!(one("0xffffffff81000000 pages=4 vmalloc user").unwrap().kind, Kind::User);
        assert_eq!(one("").unwrap().kind, Kind::Other);
        assert!(has_addresses(&[one("").unwrap()]));
        assert!(!has_addresses(&parse("0x00000000b63e0042-0x00000000ce948c7c 4096").unwrap()));
    }

    #[test]
    fn what_the_kernel_does_not_print_is_refused_with_the_line() {
        for (rest, what) in [
            ("f+0x1/0x2 pages=4 vmalloc bogus", What::Word { word: "bogus".into() }),
            ("f+0x1/0x2 pages=-1", What::Word { word: "pages=-1".into() }),
            ("f+0x1/0x2 M0=1", What::Word { word: "M0=1".into() }),
            ("pages=4 pages=4", What::Twice { word: "pages=4".into() }),
            ("N0=1 N0=2", What::Twice { word: "N0=2".into() }),
            ("vmalloc vmap", What::Twice { word: "vmap".into() }),
            ("pages=4 N0=3 N1=2", What::Nodes { on_nodes: 5, pages: 4 }),
            ("unpurged", What::Word { word: "unpurged".into() }),
        ] {
            assert_eq!(one(rest), Err(what), "{rest}");
        }
        for head in ["", "x", "0x1-0x2", "0x1-0x2 x", "0x1 0x2 4096", "0x-0x 4096", "0x+1-0x2 4096"]
        {
            assert_eq!(parse_line(head), Err(What::Head), "{head:?}");
        }
        for bytes in [0, 5000] {
            assert_eq!(parse_line(&format!("0x1-0x2 {bytes}")), Err(What::Size { bytes }));
        }
        let text = format!("{HEAD} unpurged vm_area\n\n");
        assert_eq!(parse(&text), Err(ParseError { line: 2, what: What::Head }));
    }

    proptest! {
        /// Goal: no text makes the parser fail otherwise than by an error.
        #[test]
        fn any_text_is_parsed_or_refused(
            head in "(0x[0-9a-f]{1,20}-0x[0-9a-f]{1,18} +[0-9]{1,22})?",
            words in prop::collection::vec(
                prop_oneof![
                    "[a-z_]{1,8}\\+0x[0-9a-f]{1,4}/0x[0-9a-f]{1,4}",
                    "(pages|phys|N[0-9]{1,12}|[a-z]{1,3})=[0-9a-fx-]{0,22}",
                    "vmalloc|vmap|user|vpages|unpurged|vm_area|ioremap|\\[[a-z]*\\]?",
                    "\\PC{0,6}",
                ],
                0..7,
            ),
        ) {
            let text = format!("{head} {}\n", words.join(" "));
            match parse(&text) {
                Ok(entries) => {
                    for entry in entries {
                        prop_assert!(entry.bytes > 0 && is_whole_pages(entry.bytes));
                        prop_assert!(!entry.function().contains('+'));
                    }
                }
                Err(error) => prop_assert!(error.to_string().starts_with("line 1: ")),
            }
        }
    }
}
