//! What must be true of a pool's areas, from what was asked and answered alone.

use super::moves::MEMBERS;
use std::collections::BTreeSet;
use vmalloc_core::{Area, Kind, Token};

/// An area that somebody uses, or that is to be found when its user is dead.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// Its number here; never used twice.
    pub(super) key: usize,
    pub(super) area: Area,
    /// Who made it, and has not been recovered since.
    pub(super) owner: Option<usize>,
    pub(super) published: bool,
    pub(super) frozen: bool,
    pub(super) freed: bool,
    /// Whose cell holds it, its maker's included.
    pub(super) attached: BTreeSet<usize>,
    /// Page `i` begins with this, and `i` in the lowest bits.
    pub(super) stamp: u64,
    /// This member was killed while it did something to it: one of two things is true.
    pub(super) doubt: Option<usize>,
}

impl Held {
    /// Who can see it.
    pub(super) fn viewers(&self) -> BTreeSet<usize> {
        let mut viewers = self.attached.clone();
        if !self.published {
            viewers.extend(self.owner);
        }
        viewers
    }

    /// Whether it is gone, or its going waits for nobody.
    pub(super) fn is_over(&self) -> bool {
        self.freed && self.viewers().is_empty()
    }
}

/// Everything that the oracle knows.
#[derive(Default)]
pub(super) struct Oracle {
    pub(super) held: Vec<Held>,
    pub(super) tokens: Vec<(Token, usize)>,
    pub(super) dead: Vec<usize>,
    /// How often each member has lived.
    pub(super) lives: [u64; MEMBERS + 1],
    /// The area that an act in flight works on.
    pub(super) flying: Option<usize>,
    /// Whether that act may end the area: then others may have it before the act says so.
    pub(super) may_end: bool,
    pub(super) next_key: usize,
    pub(super) next_stamp: u64,
}

impl Oracle {
    pub(super) fn is_alive(&self, who: usize) -> bool {
        !self.dead.contains(&who)
    }

    pub(super) fn living(&self) -> impl Iterator<Item = usize> {
        (1..=MEMBERS).filter(|who| self.is_alive(*who))
    }

    /// Member and life in the highest bits, a number in the middle, the page in the lowest.
    pub(super) fn stamp(&mut self, who: usize) -> u64 {
        self.next_stamp += 1;
        self.origin(who) | (self.next_stamp & 0xf_ffff) << 12
    }

    /// The part of a stamp that says whose it is.
    pub(super) fn origin(&self, who: usize) -> u64 {
        (who as u64) << 56 | self.lives[who] << 32
    }

    /// Whether what is found at the beginning of a page that is new to `who` may be there.
    pub(super) fn may_see(&self, who: usize, word: u64) -> bool {
        word == 0 || word >> 32 == self.origin(who) >> 32
    }

    pub(super) fn of(&mut self, key: usize) -> Option<&mut Held> {
        self.held.iter_mut().find(|held| held.key == key)
    }

    /// The `nth` of those for which `fits`.
    pub(super) fn nth(&self, nth: usize, fits: impl Fn(&Held) -> bool) -> Option<Held> {
        let all: Vec<&Held> = self.held.iter().filter(|held| fits(held)).collect();
        (!all.is_empty()).then(|| all[nth % all.len()].clone())
    }

    /// Notes a new area of `who`.
    pub(super) fn hold(&mut self, who: usize, area: Area) -> Result<usize, String> {
        let end = |area: &Area| area.pages.end().0 + area.guard.0;
        let ends = |held: &Held| self.may_end && self.flying == Some(held.key);
        // A recovery that was cut short, or goes on, may have taken what is the dead's alone.
        let is_lost = |held: &Held| {
            (held.freed || !held.published) && !held.viewers().iter().any(|&who| self.is_alive(who))
        };
        let lives = |held: &&Held| held.doubt.is_none() && !is_lost(held) && !ends(held);
        for held in self.held.iter().filter(lives) {
            if area.pages.start.0 < end(&held.area) && held.area.pages.start.0 < end(&area) {
                return Err(format!("{area} for member {who} overlaps {}", held.area));
            }
        }
        let key = self.next_key;
        self.next_key += 1;
        let stamp = self.stamp(who);
        self.held.push(Held {
            key,
            area,
            owner: Some(who),
            published: false,
            frozen: false,
            freed: false,
            attached: BTreeSet::new(),
            stamp,
            doubt: None,
        });
        Ok(key)
    }

    /// Forgets what is over.
    pub(super) fn sweep(&mut self) {
        self.held.retain(|held| !held.is_over());
    }

    /// `dead` was recovered: what was its alone is gone, what it was killed at is decided by
    /// `look`, which finds the same tenant of an area.
    pub(super) fn recovered(
        &mut self,
        dead: usize,
        look: impl Fn(&Area) -> Option<Area>,
    ) -> Result<(), String> {
        let mut tokens = Vec::new();
        for held in &mut self.held {
            let is_its = held.owner == Some(dead) || held.doubt == Some(dead);
            held.attached.remove(&dead);
            if !is_its {
                continue;
            }
            let (sure, found) = (held.doubt.is_none(), look(&held.area));
            let kind = found.map(|area| area.kind);
            if held.owner == Some(dead) {
                held.owner = None;
            }
            held.doubt = None;
            let published = match kind {
                Some(Kind::Frozen | Kind::Shared) => true,
                Some(Kind::Dying) => false,
                _ => {
                    held.attached.clear();
                    if sure && held.published && !held.freed {
                        return Err(format!("{} is gone with member {dead}", held.area));
                    }
                    held.freed = true;
                    held.published = true;
                    continue;
                }
            };
            if sure && (!held.published || published == held.freed) {
                return Err(format!("{} is {kind:?} after member {dead} died", held.area));
            }
            if let (true, Some(area)) = (!held.published, found) {
                let Area { id, generation, backing, .. } = area;
                let token = Token { area: id, generation, pages: area.pages.len, backing };
                tokens.push((token, held.key));
                held.frozen = kind == Some(Kind::Frozen);
            }
            held.published = true;
            held.freed = !published;
        }
        self.tokens.append(&mut tokens);
        self.dead.retain(|&who| who != dead);
        self.lives[dead] += 1;
        Ok(())
    }
}
