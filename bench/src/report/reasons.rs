//! Why a budget is missed, where it is, and what was tried: prose, an entry a budget.
//!
//! An entry is printed only under budgets that the run has missed, so it stands for itself. What
//! a run measures is in the tables of the page, and not repeated here. Whoever changes what
//! a contender costs changes the entry that explains it.

use super::NOBODY;
use crate::scale::TWO_THREADS;

/// The entries: the case's name, as far as it goes, or a promise; the peer, or [`NOBODY`]; why.
const REASONS: &[(&str, &str, &str)] = &[
    (
        "areas/",
        "tree",
        "The tree here has ranges and nothing else, under one lock. Ours is the whole engine: a record of \
         a cache line an area, a generation, the state's one CAS, the lazy list, so that any thread may \
         look while another frees and any process may die. What it saves shows where many areas make the \
         tree deep. Tried: hints that stay while an area comes and goes, counters without atomic steps, \
         the last parked area first, a look-up that decodes a tag in two steps. Two threads that take random \
         sizes make chunks side by side, whose words share cache lines, and search the same trees of them: \
         there, unlike in warm pairs, both together do less than one.",
    ),
    (
        "areas/find",
        "tree",
        "A look-up loads a tag and a record, at random addresses: both rise with the memory that they \
         touch, as the tree does.",
    ),
    (
        "heaps/warm",
        "mimalloc",
        "A tenth of mimalloc's call leaves room for little but atomic steps, of which a pair of ours takes \
         six: two move the state word, which another member may move at the same moment; two or more are \
         the claim that keeps two views of a page apart in this process (SAFETY.md, point 3; more for an \
         area of 1 MiB, which is not aligned to a word of 64 pages); two count a reference to the \
         member. The rest of its instructions, which the table of that name counts, check \
         words that any member may have written. Tried: taking again what was parked last without a search, frees \
         that look a record up once, tags and lanes looked up once a step, one count a buffer instead of two. \
         Not built: claims with a word an \
         area instead of a bit a page; records may lie, and then such words would not keep two areas apart.",
    ),
    (
        "heaps/warm/threads=1",
        "budget: 100 ns",
        "A pair takes six atomic steps, five more for an area of 1 MiB, and checks each word that another member may have written. \
         Whatever else ran on this machine is in the figure, too.",
    ),
    ("heaps/warm/threads=2", "budget: 100 ns", TWO),
    (
        "heaps/touch",
        "mimalloc",
        "Below 1 MiB the call itself is the cost, and mimalloc's is a list of the thread's own. From there on \
         it is the writing of the pages, the same for both: what is missed there is to be read beside the \
         spread of the samples.",
    ),
    (
        "heaps/touch",
        "mmap",
        "Ours writes to pages that are there; a new mapping has a fault for each of its 256: the ratio is the \
         price of a fault here, and varies with it.",
    ),
    (
        "heaps/random/",
        "mimalloc",
        "Of random sizes an exact fit is seldom parked: the nearest area is made longer or shorter, and what \
         it gives back or takes is about half a MiB a step; mimalloc takes next to none. By `perf` more than \
         half of the CPU time is the kernel's zeroing of such pages, and a fifth the writing that is \
         measured. Tried: as much parked as is in use before areas are made to fit, instead of half of it: 813 MB \
         at the peak for 641, and no faster. Tried, in a model of it: only sizes within a half or a \
         quarter: more at the peak, about as much to commit. Not built: frames that stay with a shorter \
         area, behind its guard.",
    ),
    (
        "heaps/random-peak/",
        "mimalloc",
        "What is parked counts. Areas are made to fit once more is parked than half of what is in use; until \
         then, and where no size is within a factor of two, fresh frames are taken.",
    ),
    (
        "share/",
        "iceoryx2",
        "Filling and reading the bytes is most of the cycle, and the same for both. What is left is a token \
         that is looked up, a claim and a presence cell.",
    ),
    (
        "share/",
        "boost.interprocess",
        "Filling and reading the bytes is most of the cycle, and the same for both. What is left is a token \
         that is looked up, a claim and a presence cell; boost hands over an offset.",
    ),
    (
        "share/",
        "memfd + SCM_RIGHTS",
        "Filling and reading the bytes is most of a warm cycle, and the same for both: the larger the block, \
         the less of it is the memfd's new pages.",
    ),
    (TWO_THREADS, NOBODY, TWO),
];

/// Of two threads.
const TWO: &str = "Two threads use chunks, records and words of claims of their own, whatever threads before them left \
                   behind; what they share is the sum of the parked pages, which each tells of now and then. So a pair \
                   costs each what it costs one alone, and what else ran on this machine is in the figure.";

/// The entries of the budgets that were missed: what, and beside whom.
pub fn why(missed: &[(&str, &str)]) -> Vec<String> {
    let is_missed = |name: &str, peer: &str| {
        missed.iter().any(|(what, beside)| what.starts_with(name) && *beside == peer)
    };
    let line = |name: &str, peer: &str, why: &str| match peer {
        NOBODY => format!("- {name}: {why}"),
        peer => format!("- `{name}`, beside {peer}: {why}"),
    };
    let entries = REASONS.iter().filter(|(name, peer, _)| is_missed(name, peer));
    entries.map(|(name, peer, why)| line(name, peer, why)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks.md"));

    /// Goal: an entry stands under what was missed, and under nothing else: a promise has one as a
    /// ratio has, and one name is not taken for another that begins with it.
    #[test]
    fn entries_are_those_of_what_was_missed() {
        assert_eq!(why(&[]), [""; 0]);
        assert_eq!(
            why(&[("share/size=1M", "tree"), ("a promise without an entry", NOBODY)]),
            [""; 0]
        );
        let peak = why(&[("heaps/random-peak/threads=1", "mimalloc")]);
        assert!(
            peak.len() == 1 && peak[0].starts_with("- `heaps/random-peak/`, beside mimalloc: What")
        );
        let threads = why(&[(TWO_THREADS, NOBODY)]);
        assert_eq!(threads, [format!("- {TWO_THREADS}: {TWO}")]);
    }

    /// Goal: the page explains what it says was missed, in the words that stand here. Method: what
    /// was missed, from the page's own table.
    #[test]
    fn the_page_has_these_words() {
        let row = |line: &'static str| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            (cells.len() == 5 && cells[4] == "**no**").then(|| (cells[0], cells[1]))
        };
        let missed: Vec<_> = PAGE.lines().filter_map(row).collect();
        let (_, told) = PAGE.split_once("\nWhy, where a budget is missed:\n\n").unwrap();
        let told: Vec<&str> = told.lines().take_while(|line| line.starts_with("- ")).collect();
        assert_eq!(told, why(&missed));
        assert!(!told.is_empty());
    }
}
