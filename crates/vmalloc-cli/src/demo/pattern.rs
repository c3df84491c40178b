//! Bytes that say where they belong: a key and a position give a word, so any that is lost,
//! swapped or stale is seen.

use super::plan::mix;

const BLOCK_WORDS: usize = 512;

/// The word at `index` under `key`.
pub fn word(key: u64, index: u64) -> u64 {
    // One multiplication a word, so that filling is as fast as memory; the key is mixed once.
    key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)) ^ (index << 32)
}

/// The key of area or part `number` of a demo.
pub fn key(seed: u64, number: u64) -> u64 {
    mix(seed ^ mix(number.wrapping_add(1)))
}

/// Fills `bytes`, whole words, which lie at word `first` of what `key` covers.
pub fn fill(bytes: &mut [u8], key: u64, first: u64) {
    for (index, chunk) in (first..).zip(bytes.as_chunks_mut::<8>().0) {
        *chunk = word(key, index).to_le_bytes();
    }
}

/// The position in `bytes` of the first word that is not the pattern's.
pub fn first_wrong(bytes: &[u8], key: u64, first: u64) -> Option<usize> {
    // By blocks without an early end, which the compiler turns into vector instructions.
    let wrong = |first: u64, block: &[[u8; 8]]| {
        (first..)
            .zip(block)
            .fold(0, |sum, (i, chunk)| sum | (u64::from_le_bytes(*chunk) ^ word(key, i)))
    };
    let words = bytes.as_chunks::<8>().0;
    let at = |block: usize| first + (block * BLOCK_WORDS) as u64;
    let bad = words.chunks(BLOCK_WORDS).enumerate().find(|(i, block)| wrong(at(*i), block) != 0);
    let (i, block) = bad?;
    let index = (at(i)..).zip(block).position(|(i, chunk)| wrong(i, &[*chunk]) != 0)?;
    Some((i * BLOCK_WORDS + index) * 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the check sees one flipped bit anywhere, and a shift by one word.
    #[test]
    fn a_filled_range_checks_and_any_other_does_not() {
        let mut bytes = [0; 8 * (BLOCK_WORDS + 8)];
        fill(&mut bytes, 5, 100);
        assert_eq!(first_wrong(&bytes, 5, 100), None);
        assert_eq!(first_wrong(&bytes, 6, 100), Some(0));
        assert_eq!(first_wrong(&bytes, 5, 101), Some(0));
        for bit in (0..bytes.len() * 8).step_by(61) {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(first_wrong(&bytes, 5, 100), Some(bit / 64 * 8));
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
