//! Sizes as people write them: `64K`, `256M`, `1G`, `1GiB`.
//!
//! As GNU's tools have it: `K`, `M`, `G`, `T` and `KiB`, `MiB`, … are powers of 1024, `kB`, `MB`,
//! … powers of 1000, `B` or nothing is bytes. Whole numbers only, since a byte has no half.

use std::fmt;
use std::str::FromStr;
use vmalloc_core::planted::{Bug, is_planted};

/// A number of bytes, read from text and printed with three digits or so.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Size(pub u64);

/// Why a text is no size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SizeError {
    /// It does not begin with a digit, or the digits are no whole number.
    Number,
    /// What follows the number is no unit.
    Unit(String),
    /// More than 2^64 - 1 bytes.
    TooBig,
}

const CAPACITY_MIN: u64 = 4 << 10;
const CAPACITY_MAX: u64 = 512 << 30;

/// 1024 to the power of 1, 2, 3, 4.
const LETTERS: &str = "KMGT";

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Size, SizeError> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        if number.is_empty() || unit.starts_with(['.', ',']) {
            return Err(SizeError::Number);
        }
        let number: u64 = number.parse().map_err(|_| SizeError::TooBig)?;
        // Planted, for the fuzzer to find: bytes are counted where characters are meant.
        let cut = |unit: &str| match is_planted(Bug::CutInACharacter) {
            true => unit[..unit.len().min(16)].to_owned(),
            false => unit.chars().take(16).collect(),
        };
        let unit = unit_bytes(unit).ok_or_else(|| SizeError::Unit(cut(unit)))?;
        number.checked_mul(unit).map(Size).ok_or(SizeError::TooBig)
    }
}

/// The bytes of one unit, in whatever case it is written.
fn unit_bytes(unit: &str) -> Option<u64> {
    let upper = unit.to_ascii_uppercase();
    if upper.is_empty() || upper == "B" {
        return Some(1);
    }
    let power = LETTERS.find(upper.chars().next()?)? as u32 + 1;
    match &upper[1..] {
        "" | "IB" => Some(1024_u64.pow(power)),
        "B" => Some(1000_u64.pow(power)),
        _ => None,
    }
}

impl fmt::Display for Size {
    /// `117 MiB`, `1.5 GiB`, `4096 bytes` never: `4 KiB`; below 1 KiB in bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut unit = 1_u64;
        let mut letters = LETTERS.chars();
        let mut letter = None;
        while self.0 / unit >= 1024
            && let Some(next) = letters.next()
        {
            unit *= 1024;
            letter = Some(next);
        }
        let Some(letter) = letter else {
            return f.pad(&format!("{} byte{}", self.0, if self.0 == 1 { "" } else { "s" }));
        };
        let whole = self.0 / unit;
        // Rounded down, so that what is free is never said to be more than it is.
        let tenth = (self.0 % unit) / (unit / 10).max(1);
        if whole >= 100 || self.0.is_multiple_of(unit) {
            f.pad(&format!("{whole} {letter}iB"))
        } else {
            f.pad(&format!("{whole}.{} {letter}iB", tenth.min(9)))
        }
    }
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SizeError::Number => write!(f, "not a whole number: write 64K, 256M, 1G or 1GiB"),
            SizeError::Unit(unit) => {
                write!(f, "{unit:?} is no unit: use K, M, G or T, as in 256M or 256MiB")
            }
            SizeError::TooBig => write!(f, "more than 2^64 bytes"),
        }
    }
}

impl std::error::Error for SizeError {}

/// A pool's capacity, for the command line: what no pool can have is a wrong command line.
pub fn capacity(text: &str) -> Result<Size, String> {
    let size: Size = text.parse().map_err(|e: SizeError| e.to_string())?;
    match size.0 {
        CAPACITY_MIN..=CAPACITY_MAX => Ok(size),
        _ => Err(format!("{size} is out of range: 4K to 512G are possible")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_gnu_tools_read_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4096B", 4096),
            ("64K", 64 << 10),
            ("64k", 64 << 10),
            ("256M", 256 << 20),
            ("1G", 1 << 30),
            ("1GiB", 1 << 30),
            ("2gib", 2 << 30),
            ("3T", 3 << 40),
            ("1MB", 1_000_000),
            ("1kB", 1000),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_reason() {
        for text in ["", "K", "-1", "+1", "1.5G", "1,5G", " 1", "0x10"] {
            assert!(text.parse::<Size>().is_err(), "{text:?}");
        }
        assert_eq!("1.5G".parse::<Size>(), Err(SizeError::Number));
        assert_eq!("1Q".parse::<Size>(), Err(SizeError::Unit("Q".into())));
        assert_eq!("1 M".parse::<Size>(), Err(SizeError::Unit(" M".into())));
        assert_eq!("1é".parse::<Size>(), Err(SizeError::Unit("é".into())));
        assert_eq!("99999999999999999999".parse::<Size>(), Err(SizeError::TooBig));
        assert_eq!("16777216T".parse::<Size>(), Err(SizeError::TooBig));
    }

    #[test]
    fn sizes_are_printed_short_and_never_too_high() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (4096, "4 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1023 KiB"),
            (117 << 20, "117 MiB"),
            ((117 << 20) + 4096, "117 MiB"),
            ((2 << 30) - 1, "1.9 GiB"),
            (5 << 40, "5 TiB"),
            (u64::MAX, "16777215 TiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
        assert_eq!(format!("{:>8}|", Size(4096)), "   4 KiB|");
    }
}
