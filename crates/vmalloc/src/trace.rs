//! What happened in a pool, as a file: written by programs under `vmalloc record`, read by tools.
//!
//! ```text
//!   header (40 bytes)   "vmtrace\0" │ version │ 40 │ began, ns since 1970 │ 0
//!   event  (40 bytes)   at ns · op · member │ pool · area │ generation · flags │ bytes │ page
//!   event …             each one write(2) that appends: whole, in order, and there after a kill
//! ```
//!
//! All words are little-endian. Who reads a trace reads what another process wrote: every event is
//! checked, and a file of another version, or one that ends within an event, is refused.

use std::fmt;
use vmalloc_core::layout::MEMBERS_MAX;
use vmalloc_core::planted::{Bug, is_planted};

/// The environment variable that names the file to record to, which must begin as a trace.
pub const VARIABLE: &str = "VMALLOC_RECORD";
/// Bytes of an event, and of the header.
pub const EVENT_BYTES: usize = 40;
/// The version of the format that this crate writes, and the only one that it reads.
pub const VERSION: u64 = 1;
const MAGIC: u64 = u64::from_le_bytes(*b"vmtrace\0");
/// The most bytes that an event can speak of: more than any pool's window.
pub(crate) const BYTES_MAX: u64 = 1 << 47;
const PAGES_MAX: u64 = BYTES_MAX >> 12;

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Op {
    /// A member joined: `bytes` is the pool's capacity, `page` how many members there can be.
    Join = 1,
    /// A member left.
    Leave = 2,
    /// An area was allocated.
    Alloc = 3,
    /// An allocation of `bytes` was refused.
    Refused = 4,
    /// An area was freed.
    Free = 5,
    /// A buffer was frozen.
    Freeze = 6,
    /// A buffer was shared.
    Share = 7,
    /// A member attached once more.
    Attach = 8,
    /// A handle of a member's went.
    Detach = 9,
    /// A buffer was given another size: `bytes` is the new one.
    Resize = 10,
    /// A member purged all that was parked.
    Purge = 11,
    /// A buffer was given away.
    Give = 12,
    /// A buffer that was given away was taken: `generation` is the new one.
    Take = 13,
}

/// Bits of [`Event::flags`]; the alignment's logarithm stands above them.
pub mod flags {
    /// Zeroed on request.
    pub const ZEROED: u16 = 1;
    /// In huge pages where they fit.
    pub const HUGE: u16 = 1 << 1;
    /// Without a guard page.
    pub const NO_GUARD: u16 = 1 << 2;
    /// Never parked for reuse.
    pub const NO_REUSE: u16 = 1 << 3;
    /// Where log2 of the alignment in bytes stands, in six bits.
    pub const ALIGN_SHIFT: u32 = 8;
}

/// One thing that happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Since the trace began, up to 78 hours.
    pub at_ns: u64,
    /// What.
    pub op: Op,
    /// Whose doing, from 1 on.
    pub member: u8,
    /// The pool's number.
    pub pool: u32,
    /// The area's record.
    pub area: u32,
    /// Which tenant of the record, 48 bits.
    pub generation: u64,
    /// See [`flags`].
    pub flags: u16,
    /// How long.
    pub bytes: u64,
    /// The area's first page in the window.
    pub page: u64,
}

/// Why some bytes are no trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TraceError {
    /// It does not begin as one.
    Magic,
    /// Another version's.
    Version {
        /// What stands there.
        found: u64,
    },
    /// The last event is not whole.
    Cut {
        /// Bytes of it that are there.
        bytes: usize,
    },
    /// A word of an event is none of ours.
    Event {
        /// Which event, from 0 on.
        index: usize,
        /// Which of its words.
        what: &'static str,
        /// What stands there.
        found: u64,
    },
}

impl Op {
    const ALL: [Op; 13] = [
        Op::Join,
        Op::Leave,
        Op::Alloc,
        Op::Refused,
        Op::Free,
        Op::Freeze,
        Op::Share,
        Op::Attach,
        Op::Detach,
        Op::Resize,
        Op::Purge,
        Op::Give,
        Op::Take,
    ];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Op::Join => "join",
            Op::Leave => "leave",
            Op::Alloc => "alloc",
            Op::Refused => "refused",
            Op::Free => "free",
            Op::Freeze => "freeze",
            Op::Share => "share",
            Op::Attach => "attach",
            Op::Detach => "detach",
            Op::Resize => "resize",
            Op::Purge => "purge",
            Op::Give => "give",
            Op::Take => "take",
        }
    }
}

impl Event {
    /// The event as it stands in a file.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; EVENT_BYTES] {
        words_to_bytes([
            self.at_ns.min((1 << 48) - 1) << 16
                | u64::from(self.op as u8) << 8
                | u64::from(self.member),
            u64::from(self.pool) << 32 | u64::from(self.area),
            self.generation << 16 | u64::from(self.flags),
            self.bytes,
            self.page,
        ])
    }

    /// The event with number `index`, checked.
    fn of_words(index: usize, words: [u64; 5]) -> Result<Event, TraceError> {
        let wrong = |what, found| TraceError::Event { index, what, found };
        let [when, which, tenant, bytes, page] = words;
        let code = when >> 8 & 0xff;
        let op = Op::ALL.into_iter().find(|op| *op as u64 == code).ok_or(wrong("op", code))?;
        let member = (when & 0xff) as u8;
        if member == 0 || usize::from(member) > MEMBERS_MAX {
            return Err(wrong("member", member.into()));
        }
        if bytes > BYTES_MAX {
            return Err(wrong("bytes", bytes));
        }
        // Without the check where that is planted, for the fuzzer to find.
        if page > PAGES_MAX && !is_planted(Bug::PageUnchecked) {
            return Err(wrong("page", page));
        }
        Ok(Event {
            at_ns: when >> 16,
            op,
            member,
            pool: (which >> 32) as u32,
            area: which as u32,
            generation: tenant >> 16,
            flags: tenant as u16,
            bytes,
            page,
        })
    }

    /// The alignment that was asked for, in bytes.
    #[must_use]
    pub const fn align_bytes(&self) -> u64 {
        1 << (self.flags >> flags::ALIGN_SHIFT & 63)
    }
}

/// The first bytes of a trace that begins `began_ns` nanoseconds after 1970.
#[must_use]
pub fn header(began_ns: u64) -> [u8; EVENT_BYTES] {
    words_to_bytes([MAGIC, VERSION, EVENT_BYTES as u64, began_ns, 0])
}

/// When a trace with this header began; see [`header`].
///
/// # Errors
///
/// [`TraceError::Magic`], [`TraceError::Version`].
pub fn began_ns(header: &[u8]) -> Result<u64, TraceError> {
    match words(header).as_slice() {
        [[MAGIC, VERSION, bytes, began, 0], ..] if *bytes == EVENT_BYTES as u64 => Ok(*began),
        [[MAGIC, version, ..], ..] => Err(TraceError::Version { found: *version }),
        _ => Err(TraceError::Magic),
    }
}

/// The events of a trace, in the order in which they happened.
///
/// # Errors
///
/// [`TraceError`], at the first that is none.
pub fn parse(bytes: &[u8]) -> Result<Vec<Event>, TraceError> {
    began_ns(bytes)?;
    let rest = bytes.len() % EVENT_BYTES;
    if rest != 0 {
        return Err(TraceError::Cut { bytes: rest });
    }
    let events = words(bytes).into_iter().skip(1).enumerate();
    events.map(|(index, words)| Event::of_words(index, words)).collect()
}

fn words(bytes: &[u8]) -> Vec<[u64; 5]> {
    let (events, _) = bytes.as_chunks::<EVENT_BYTES>();
    let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
    events
        .iter()
        .map(|event| {
            let (words, _) = event.as_chunks::<8>();
            std::array::from_fn(|i| word(&words[i]))
        })
        .collect()
}

fn words_to_bytes(words: [u64; 5]) -> [u8; EVENT_BYTES] {
    let mut bytes = [0; EVENT_BYTES];
    for (place, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    bytes
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            TraceError::Magic => {
                write!(f, "no trace: it does not begin as `vmalloc record` writes")
            }
            TraceError::Version { found } => {
                write!(f, "a trace of version {found}; this program reads version {VERSION}")
            }
            TraceError::Cut { bytes } => {
                write!(f, "the last event has {bytes} bytes of {EVENT_BYTES}: the file was cut")
            }
            TraceError::Event { index, what, found } => {
                write!(f, "event {index} is damaged: its {what} is {found}")
            }
        }
    }
}

impl std::error::Error for TraceError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event() -> impl Strategy<Value = Event> {
        let who = (0..1_u64 << 48, 0..Op::ALL.len(), 1..=64_u8);
        let what = (any::<u32>(), any::<u32>(), 0..1_u64 << 48, any::<u16>());
        (who, what, 0..=BYTES_MAX, 0..=PAGES_MAX).prop_map(|(who, what, bytes, page)| Event {
            at_ns: who.0,
            op: Op::ALL[who.1],
            member: who.2,
            pool: what.0,
            area: what.1,
            generation: what.2,
            flags: what.3,
            bytes,
            page,
        })
    }

    proptest! {
        #[test]
        fn events_come_back_as_they_were_written(events in prop::collection::vec(event(), 0..20)) {
            let mut file = header(7).to_vec();
            file.extend(events.iter().flat_map(Event::to_bytes));
            prop_assert_eq!(began_ns(&file), Ok(7));
            prop_assert_eq!(parse(&file), Ok(events));
        }

        /// Goal: no bytes make the parser fail otherwise than by an error, and what it takes is in
        /// bounds.
        #[test]
        fn any_bytes_are_parsed_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            whole in any::<bool>(),
        ) {
            let mut file = if whole { header(0).to_vec() } else { Vec::new() };
            file.extend(bytes);
            if let Ok(events) = parse(&file) {
                prop_assert!(events.iter().all(|e| (1..=64).contains(&e.member)));
                prop_assert!(events.iter().all(|e| e.bytes <= BYTES_MAX && e.page <= PAGES_MAX));
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_trace_is_said() {
        let good = Event {
            at_ns: 1,
            op: Op::Alloc,
            member: 1,
            pool: 2,
            area: 3,
            generation: 4,
            flags: 0,
            bytes: 5,
            page: 6,
        };
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut file = [header(0), good.to_bytes()].concat();
            change(&mut file);
            parse(&file)
        };
        let event = |what, found| Err(TraceError::Event { index: 0, what, found });
        assert_eq!(with(&|_| ()), Ok(vec![good]));
        assert_eq!(with(&|file| file.truncate(39)), Err(TraceError::Magic));
        assert_eq!(with(&|file| file[0] = b'x'), Err(TraceError::Magic));
        assert_eq!(with(&|file| file[8] = 9), Err(TraceError::Version { found: 9 }));
        assert_eq!(with(&|file| file.truncate(60)), Err(TraceError::Cut { bytes: 20 }));
        assert_eq!(with(&|file| file[41] = 0), event("op", 0));
        assert_eq!(with(&|file| file[40] = 65), event("member", 65));
        assert_eq!(with(&|file| file[40] = 0), event("member", 0));
        assert_eq!(with(&|file| file[71] = 1), event("bytes", 5 | 1 << 56));
        assert_eq!(with(&|file| file[79] = 1), event("page", 6 | 1 << 56));
    }
}
