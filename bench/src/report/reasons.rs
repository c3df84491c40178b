//! Why a budget is missed, where it is, and what was tried: prose, an entry a budget.
//!
//! An entry is printed only under budgets that the run has missed. Whoever changes what a
//! contender costs changes the entry that explains it.

/// The entries: the case's name, as far as it goes; the peer; why.
pub const REASONS: &[(&str, &str, &str)] = &[
    (
        "areas/",
        "tree",
        "The tree here has ranges and nothing else, under one lock. Ours is the whole engine: a record of \
         a cache line an area, a generation, the state's one CAS, the lazy list, so that any thread may \
         look while another frees and any process may die. What it saves shows where many areas make the \
         tree deep. Tried: hints that stay while an area comes and goes, counters without atomic steps, \
         the last parked area first, a look-up that decodes a tag in two steps.",
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
        "A tenth of mimalloc's call is some 40 ns. A pair of ours takes eight atomic steps of 3 ns each: \
         two move the state word, which another member may move at the same moment; two or more are \
         the claim that keeps two views of a page apart in this process (SAFETY.md, point 3; an area of \
         1 MiB is not aligned to a word of 64 pages, and takes seven); four count references, to the \
         member and to the mapping. The rest of its 1,400 instructions check words that any member may \
         have written. Tried: taking again what was parked last without a search, frees that look a \
         record up once, tags and lanes looked up once a step. Not built: claims with a word an area \
         instead of a bit a page; records may lie, and then such words would not keep two areas apart.",
    ),
    (
        "heaps/warm",
        "budget: 100 ns",
        "The same atomic steps, and whatever else ran on this machine.",
    ),
    (
        "heaps/touch",
        "mimalloc",
        "Below 1 MiB the call itself is the cost, and mimalloc's is a list of the thread's own.",
    ),
    (
        "heaps/touch",
        "mmap",
        "256 warm pages cost 2 µs to touch, whoever does it: the ratio is the price of 256 faults here, and varies with it.",
    ),
    (
        "heaps/random",
        "mimalloc",
        "Of random sizes an exact fit is seldom parked, and a step then pays for fresh pages.",
    ),
    (
        "share/",
        "iceoryx2",
        "Filling and reading the bytes is most of the cycle, and the same for both. A slot of iceoryx2 goes to \
         its next message as it is; an area of ours that was shared is zeroed before its next owner has it.",
    ),
    (
        "share/",
        "boost.interprocess",
        "As beside iceoryx2: a block of boost goes to its next owner as it is.",
    ),
    (
        "share/",
        "memfd + SCM_RIGHTS",
        "Filling and reading the bytes is most of a warm cycle, and the same for both; an area that was \
         shared is zeroed before its next owner has it, which is one more pass.",
    ),
];
