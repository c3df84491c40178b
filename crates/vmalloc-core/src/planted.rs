//! Bugs to choose from, for the tests of the tests: a tool that finds none of them proves nothing.
//!
//! Only with the feature `planted`; in every other build [`is_planted`] is the constant `false`, and
//! what it guards is not there. Chosen a thread, so that tests run side by side. The last four are for
//! the fuzzers, and three of them lie in the crates above: so this is public, and in no document.

/// A bug, one a kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// A flush that does nothing, and says that it did.
    MissingFlush,
    /// A purge sends frames home before the flush, as Linux does.
    FreedBeforeFlush,
    /// A plan without the guard page that was asked for.
    GuardForgotten,
    /// A revive that does not look whether its compare-and-swap won: two owners of one area.
    DoublePublish,
    /// An area that its owner takes back from the lazy list stays counted as parked.
    LostCounter,
    /// Two ranges of a flush that touch become one that is a page short.
    WrongMerge,
    /// A tag that names a size class without slots is taken for one of a class with them.
    ClassUnchecked,
    /// `vmalloc_bare`: a change of rights passes large leaves by.
    LargeLeafPassedBy,
    /// `vmalloc`: an event of a trace may lie at any page.
    PageUnchecked,
    /// `vmalloc-cli`: a unit that is none is cut in the midst of a character.
    CutInACharacter,
}

/// Whether this thread's engines have the bug: never, in this build.
#[cfg(not(feature = "planted"))]
pub const fn is_planted(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted")]
pub use chosen::{is_planted, with_planted};

#[cfg(feature = "planted")]
mod chosen {
    extern crate std;

    use super::Bug;
    use core::cell::Cell;

    std::thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether this thread's engines have `bug`.
    pub fn is_planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Runs `body` on engines that have `bug`.
    pub fn with_planted<R>(bug: Bug, body: impl FnOnce() -> R) -> R {
        PLANTED.set(Some(bug));
        let result = body();
        PLANTED.set(None);
        result
    }
}
