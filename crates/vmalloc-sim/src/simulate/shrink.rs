//! A failing list, made short: parts are left out as long as it still fails.
//!
//! Zeller's ddmin, by halves, quarters … single ones, until none can go or `RUNS` are used up.
//! Any part of a list is a list, in both languages.

/// How many runs one failure is worth.
const RUNS: usize = 1_000;

/// The shortest part of `list` that was found for which `fails`.
pub(super) fn shrink<T: Clone>(list: &[T], mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut list = list.to_vec();
    let mut part = list.len().div_ceil(2);
    let mut runs = 0;
    while part > 0 && runs < RUNS {
        let mut from = 0;
        let len_before = list.len();
        while from < list.len() && runs < RUNS {
            let mut shorter = list.clone();
            shorter.drain(from..(from + part).min(list.len()));
            runs += 1;
            if fails(&shorter) {
                list = shorter;
            } else {
                from += part;
            }
        }
        if part > 1 {
            part = part.div_ceil(2);
        } else if list.len() == len_before {
            break;
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is not needed goes. Method: a list that fails for two of its numbers.
    #[test]
    fn a_list_shrinks_to_what_makes_it_fail() {
        let list: Vec<u32> = (0..200).collect();
        let short = shrink(&list, |part| part.contains(&17) && part.contains(&150));
        assert_eq!(short, [17, 150]);
    }
}
