//! How a mapping may be used: its rights, how the CPU caches it, and whether user code may.
//!
//! Writing and executing exclude each other **by type**: [`Rights`] has no value for both. Code is
//! written first and then made executable, which takes the right to write away.
//!
//! ```
//! # use vmalloc_core::{Cache, Prot, Rights};
//! assert!(!Prot::READ_WRITE.rights.may_execute());
//! let registers = Prot::READ_WRITE.cached(Cache::Uncached);
//! assert_eq!(registers.rights, Rights::ReadWrite);
//! ```
//!
//! Linux: `pgprot_t`, the architecture's own bits, in any combination.

use crate::record::flags;

/// The protection of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Prot {
    /// What an access may do.
    pub rights: Rights,
    /// How the CPU caches what it finds there.
    pub cache: Cache,
    /// Whether user code may access it. Kernel code always may.
    pub user: bool,
}

/// What an access may do. There is no value for writing *and* executing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Rights {
    /// Loads. Linux: `PAGE_KERNEL_RO`.
    Read,
    /// Loads and stores. Linux: `PAGE_KERNEL`.
    ReadWrite,
    /// Loads and instruction fetches. Linux: `PAGE_KERNEL_ROX`.
    ReadExecute,
}

/// How the CPU caches a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Cache {
    /// Loads and stores are cached: RAM. Linux: `MEMREMAP_WB`.
    #[default]
    WriteBack,
    /// Loads are cached, stores go through. Linux: `MEMREMAP_WT`, `ioremap_wt`.
    WriteThrough,
    /// Nothing is cached, stores may be gathered: a frame buffer. Linux: `MEMREMAP_WC`,
    /// `ioremap_wc`.
    WriteCombining,
    /// Each access goes to the device, in order: registers. Linux: `ioremap`.
    Uncached,
}

impl Prot {
    /// Loads only, cached.
    pub const READ: Prot = Prot::new(Rights::Read);
    /// Loads and stores, cached.
    pub const READ_WRITE: Prot = Prot::new(Rights::ReadWrite);
    /// Loads and instruction fetches, cached.
    pub const READ_EXECUTE: Prot = Prot::new(Rights::ReadExecute);

    /// These rights, cached, for kernel code.
    #[must_use]
    pub const fn new(rights: Rights) -> Prot {
        Prot { rights, cache: Cache::WriteBack, user: false }
    }

    /// The same with other rights.
    #[must_use]
    pub const fn rights(self, rights: Rights) -> Prot {
        Prot { rights, ..self }
    }

    /// The same, cached otherwise.
    #[must_use]
    pub const fn cached(self, cache: Cache) -> Prot {
        Prot { cache, ..self }
    }

    /// The same, for user code, too.
    #[must_use]
    pub const fn user(self) -> Prot {
        Prot { user: true, ..self }
    }

    /// As bits of an area's flags word. An area lies in a kernel's window: `user` is not in them.
    pub(crate) const fn to_flags(self) -> u64 {
        let rights = match self.rights {
            Rights::Read => flags::READ_ONLY,
            Rights::ReadWrite => 0,
            Rights::ReadExecute => flags::READ_ONLY | flags::EXECUTE,
        };
        rights | (self.cache as u64) << flags::CACHE.trailing_zeros()
    }

    /// What a flags word says; the word may be anything.
    pub(crate) const fn from_flags(bits: u64) -> Prot {
        let rights = match (bits & flags::READ_ONLY != 0, bits & flags::EXECUTE != 0) {
            (false, _) => Rights::ReadWrite,
            (true, false) => Rights::Read,
            (true, true) => Rights::ReadExecute,
        };
        let cache = match (bits & flags::CACHE) >> flags::CACHE.trailing_zeros() {
            0 => Cache::WriteBack,
            1 => Cache::WriteThrough,
            2 => Cache::WriteCombining,
            _ => Cache::Uncached,
        };
        Prot::new(rights).cached(cache)
    }

    /// Whether all that `other` allows is allowed here, and cached alike.
    #[must_use]
    pub fn allows(self, other: Prot) -> bool {
        let rights = self.rights == other.rights || other.rights == Rights::Read;
        rights && self.cache == other.cache && self.user >= other.user
    }
}

impl Rights {
    /// Whether stores are allowed.
    #[must_use]
    pub const fn may_write(self) -> bool {
        matches!(self, Rights::ReadWrite)
    }

    /// Whether instruction fetches are allowed.
    #[must_use]
    pub const fn may_execute(self) -> bool {
        matches!(self, Rights::ReadExecute)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a protection allows what is no more than it: reading, or the same; for a user only if it is a
    /// user's; never what is cached otherwise. Method: all pairs, against that rule in other words.
    #[test]
    fn a_protection_allows_no_more_than_it_says() {
        const RIGHTS: [Rights; 3] = [Rights::Read, Rights::ReadWrite, Rights::ReadExecute];
        const CACHES: [Cache; 4] =
            [Cache::WriteBack, Cache::WriteThrough, Cache::WriteCombining, Cache::Uncached];
        let all = || {
            RIGHTS.into_iter().flat_map(|rights| {
                let cached = move |cache| Prot::new(rights).cached(cache);
                CACHES.into_iter().map(cached).flat_map(|prot| [prot, prot.user()])
            })
        };
        for (has, wants) in all().flat_map(|has| all().map(move |wants| (has, wants))) {
            let writes = wants.rights.may_write() && !has.rights.may_write();
            let executes = wants.rights.may_execute() && !has.rights.may_execute();
            let allowed =
                !writes && !executes && has.cache == wants.cache && (has.user || !wants.user);
            assert_eq!(has.allows(wants), allowed, "{has:?}, {wants:?}");
            assert_eq!(Prot::from_flags(has.to_flags()), Prot { user: false, ..has });
        }
    }
}
