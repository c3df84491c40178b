//! Names of published areas, as programs use them; the table is in `names.rs`.

use crate::error::NameError;
use crate::names::{self, NAME_BYTES_MAX, NAMES, Writer};
use crate::pool::Pool;
use crate::token::Token;

impl Pool {
    /// Gives a published area a name, 1 to 64 bytes, by which others find it. A name lasts until
    /// its area is freed, or somebody calls [`Pool::unname`]; an area may have several. A pool has
    /// room for 256.
    ///
    /// # Errors
    ///
    /// [`NameError`]; the names are as they were.
    pub fn name(&self, token: &Token, name: impl AsRef<[u8]>) -> Result<(), NameError> {
        let name = self.check_name(name.as_ref())?;
        self.check_pool(token).map_err(|(token, pool)| NameError::OtherPool { token, pool })?;
        self.look(token).map_err(NameError::Engine)?;
        let ground = &self.member().ground;
        let writer = self.writer()?;
        // Names of areas that are gone make room.
        for entry in names::all(ground) {
            match self.living(&entry) {
                None => writer.unset(entry.entry),
                Some(token) if entry.name == name => return Err(NameError::Taken { token }),
                Some(_) => {}
            }
        }
        let entry = writer.free_entry().ok_or(NameError::Full { names: NAMES })?;
        writer.set(entry, name, &token.core());
        drop(writer);
        self.signal().notify();
        Ok(())
    }

    /// Takes a name away; its area stays. Returns what it named.
    ///
    /// # Errors
    ///
    /// [`NameError`]; the names are as they were.
    pub fn unname(&self, name: impl AsRef<[u8]>) -> Result<Token, NameError> {
        let name = self.check_name(name.as_ref())?;
        let writer = self.writer()?;
        let entry = names::all(&self.member().ground).find(|entry| entry.name == name);
        let entry = entry.ok_or(NameError::Missing)?;
        writer.unset(entry.entry);
        drop(writer);
        self.signal().notify();
        self.living(&entry).ok_or(NameError::Missing)
    }

    /// What a name names. Takes no lock. To wait for it: [`crate::Signal::wait_for`].
    #[must_use]
    pub fn named(&self, name: impl AsRef<[u8]>) -> Option<Token> {
        let name = name.as_ref();
        names::all(&self.member().ground)
            .filter(|entry| entry.name == name)
            .find_map(|entry| self.living(&entry))
    }

    /// All names and what they name. Bytes that somebody else chose: escape them before you print
    /// them.
    #[must_use]
    pub fn names(&self) -> Vec<(Vec<u8>, Token)> {
        names::all(&self.member().ground)
            .filter_map(|entry| self.living(&entry).map(|token| (entry.name, token)))
            .collect()
    }

    fn check_name<'n>(&self, name: &'n [u8]) -> Result<&'n [u8], NameError> {
        if self.member().is_forked() {
            return Err(NameError::Forked);
        }
        match name.len() {
            1..=NAME_BYTES_MAX => Ok(name),
            bytes => Err(NameError::Length { bytes }),
        }
    }

    fn writer(&self) -> Result<Writer<'_>, NameError> {
        let member = self.member();
        let writer = Writer::new(&member.ground, member.me);
        writer.map_err(|busy| NameError::Busy { member: busy.member })
    }

    /// The token of an entry, if its area lives.
    fn living(&self, entry: &names::Named) -> Option<Token> {
        let token = Token::of(&self.member().ground.shape, &entry.token);
        self.look(&token).ok().map(|_| token)
    }
}
