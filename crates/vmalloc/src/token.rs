//! Tokens: a region's name, small enough to print, put into a message, or type.
//!
//! ```text
//!   vm1-5f3a9c21-1c40-7-100      layout, pool, area, generation, pages; hexadecimal
//! ```
//!
//! A token holds no pointer and grants nothing by itself: whoever redeems it must have the pool.
//! It comes from outside, so it is parsed strictly, and each number is checked against the pool
//! before it is used. A token of another pool, or of an area that was freed, is an error.

use crate::header::Shape;
use std::fmt;
use std::str::FromStr;
use vmalloc_core::{AreaId, Pages};

/// Names a published area of one pool.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token {
    pub(crate) pool: u32,
    pub(crate) area: AreaId,
    pub(crate) generation: u64,
    pub(crate) pages: Pages,
}

/// The text is not a token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseTokenError {
    text: String,
}

impl Token {
    /// The area's pages, of 4096 bytes.
    #[must_use]
    pub const fn pages(&self) -> Pages {
        self.pages
    }

    pub(crate) fn of(shape: &Shape, token: &vmalloc_core::Token) -> Token {
        let (area, generation, pages) = (token.area, token.generation, token.pages);
        Token { pool: shape.pool_number(), area, generation, pages }
    }

    pub(crate) const fn core(&self) -> vmalloc_core::Token {
        vmalloc_core::Token {
            area: self.area,
            generation: self.generation,
            pages: self.pages,
            backing: 0,
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Token { pool, area, generation, pages } = self;
        write!(f, "vm1-{pool:08x}-{:x}-{generation:x}-{:x}", area.0, pages.0)
    }
}

impl FromStr for Token {
    type Err = ParseTokenError;

    /// Reads what `Display` wrote, and nothing else.
    fn from_str(text: &str) -> Result<Token, ParseTokenError> {
        let fail = || ParseTokenError { text: text.chars().take(64).collect() };
        let mut parts = text.strip_prefix("vm1-").ok_or_else(fail)?.split('-');
        let mut number = || {
            let digits = parts.next().filter(|d| !d.is_empty() && !d.starts_with('+'));
            digits.and_then(|d| u64::from_str_radix(d, 16).ok()).ok_or_else(fail)
        };
        let token = Token {
            pool: u32::try_from(number()?).map_err(|_| fail())?,
            area: AreaId(u32::try_from(number()?).map_err(|_| fail())?),
            generation: number()?,
            pages: Pages(number()?),
        };
        // One spelling each: no upper case, no leading zeros, nothing behind.
        if token.to_string() == text { Ok(token) } else { Err(fail()) }
    }
}

impl fmt::Display for ParseTokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a token: one looks like vm1-5f3a9c21-1c40-7-100", self.text)
    }
}

impl std::error::Error for ParseTokenError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_as_it_was_printed() {
        let pages = Pages(u64::from(u32::MAX));
        let token = Token { pool: 0xab, area: AreaId(0), generation: (1 << 48) - 1, pages };
        assert_eq!(token.to_string().parse(), Ok(token));
    }

    #[test]
    fn only_the_one_spelling_of_a_token_is_read() {
        let good = "vm1-000000ab-1c40-7-100";
        assert!(good.parse::<Token>().is_ok());
        for bad in [
            "",
            "vm1-",
            "vm1",
            "vm2-000000ab-1c40-7-100",
            "vm1-ab-1c40-7-100",
            "vm1-000000ab-1C40-7-100",
            "vm1-000000ab-01c40-7-100",
            "vm1-000000ab-1c40-7",
            "vm1-000000ab-1c40-7-100-",
            "vm1-000000ab-1c40-7-100-1",
            "vm1-000000ab-+c40-7-100",
            " vm1-000000ab-1c40-7-100",
            "vm1-000000ab-1c40-10000000000000000-100",
            "vm1-1000000ab-1c40-7-100",
            "vm1-000000ab-1c4000000-7-100",
        ] {
            assert!(bad.parse::<Token>().is_err(), "{bad:?}");
        }
    }
}
