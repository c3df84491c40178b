//! Bytes that say who wrote them and how many they are, so that any reader can check them.
//!
//! The first word is the key of a pattern, and made of these: the writer's number, which no other
//! process of the run has, some random bits, and the count of words. What comes after them, in an
//! area that grew, is zeros.

use crate::demo::pattern;

const WORDS_MASK: u64 = 0xffff_ffff;
const WRITER_SHIFT: u32 = 40;

/// Fills `bytes`, whole words and one at least; the key.
pub fn fill(bytes: &mut [u8], writer: u32, random: u64) -> u64 {
    let words = bytes.len() as u64 / 8;
    let key = u64::from(writer) << WRITER_SHIFT | (random & 0xff) << 32 | words;
    pattern::fill(bytes, key, 0);
    key
}

/// The key of a filled area; what is wrong, if it is not as it was filled.
pub fn key(bytes: &[u8]) -> Result<u64, String> {
    let first = bytes.first_chunk().ok_or("shorter than a word")?;
    let key = u64::from_le_bytes(*first);
    let len = (key & WORDS_MASK) as usize * 8;
    if len == 0 || len > bytes.len() {
        return Err(format!("{} bytes begin with {key:#x}, the key of {len}", bytes.len()));
    }
    let (filled, rest) = bytes.split_at(len);
    if let Some(at) = pattern::first_wrong(filled, key, 0) {
        return Err(format!("byte {at} of {len} is not that of key {key:#x}"));
    }
    match rest.iter().position(|&byte| byte != 0) {
        Some(at) => Err(format!("byte {at} behind {len} bytes of key {key:#x} is not 0")),
        None => Ok(key),
    }
}

/// The number of the process that made this key.
pub fn writer(key: u64) -> u32 {
    (key >> WRITER_SHIFT) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmalloc_core::PAGE_SIZE;

    /// Goal: what is not as it was filled is seen, a page of zeros and another's page, too.
    #[test]
    fn a_page_that_is_lost_or_another_s_is_seen() {
        let mut bytes = vec![0; 5 * PAGE_SIZE];
        let filled = 3 * PAGE_SIZE + 8;
        let made = fill(&mut bytes[..filled], 77, 5);
        assert_eq!((key(&bytes), writer(made)), (Ok(made), 77));
        for page in 0..4 {
            let mut bad = bytes.clone();
            bad[page * PAGE_SIZE..].iter_mut().take(PAGE_SIZE).for_each(|byte| *byte = 0);
            assert!(key(&bad).is_err(), "a lost page {page}");
            fill(&mut bad[page * PAGE_SIZE..][..PAGE_SIZE], 78, 5);
            assert_ne!(key(&bad), Ok(made), "another's page {page}");
        }
        bytes[filled] = 1;
        assert!(key(&bytes).is_err());
    }
}
