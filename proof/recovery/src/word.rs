//! The state word, as `State` in `crates/vmalloc-core/src/record.rs`.

/// What the area is. FROZEN goes as SHARED does, GIVEN as LIVE: they are not told apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    Free,
    Building,
    Live,
    Shared,
    Dying,
    Parked,
    Purging,
}

/// A state word.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Word {
    pub kind: Kind,
    pub owner: Option<u8>,
    pub generation: u8,
}

impl Word {
    pub fn new(kind: Kind, owner: Option<usize>, generation: u8) -> Word {
        Word { kind, owner: owner.map(|owner| owner as u8), generation }
    }

    /// The same tenant in another state.
    pub fn to(self, kind: Kind, owner: Option<usize>) -> Word {
        Word::new(kind, owner, self.generation)
    }

    pub fn is(self, kind: Kind, generation: u8) -> bool {
        self.kind == kind && self.generation == generation
    }
}
