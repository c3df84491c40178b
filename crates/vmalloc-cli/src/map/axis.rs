//! A number line that folds what is empty: pages of a window, or frames of a machine.
//!
//! ```text
//!   pages   0 ───── 40        9,000,000 ── 9,000,100
//!   axis    ├───────┤ ≈ ≈ ≈ ≈ ├───────────┤            one scale, but for the folds
//! ```
//!
//! A window is 64 times as long as what may live in it, and frames lie all over the machine: at
//! one scale there would be nothing to see. Runs keep one scale among themselves, so that lengths
//! can be compared; only gaps over a limit become folds of a fixed width, and say how long they
//! are.

/// The width of a fold.
pub const FOLD: f64 = 22.0;
/// The most of an axis that may go into folds, in parts.
const FOLDED_MAX: f64 = 0.3;

/// A piece of the axis.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Segment {
    /// From here …
    pub start: u64,
    /// … to before here.
    pub end: u64,
    /// Where that is drawn.
    pub x: f64,
    /// And how wide.
    pub width: f64,
    /// It is a fold: nothing lives here.
    pub is_fold: bool,
}

/// A folded number line.
#[derive(Clone, PartialEq, Debug)]
pub struct Axis {
    segments: Vec<Segment>,
}

impl Axis {
    /// An axis of `width` on which each of `spans` (start, length) is drawn, in any order. Gaps
    /// over `fold_over` are folded, and longer ones only if there would be too many.
    pub fn new(spans: &[(u64, u64)], width: f64, fold_over: u64) -> Axis {
        let mut spans: Vec<(u64, u64)> =
            spans.iter().map(|&(start, len)| (start, start.saturating_add(len))).collect();
        spans.sort_unstable();
        let mut limit = fold_over.max(1);
        loop {
            let runs = merged(&spans, limit);
            let folds = runs.len().saturating_sub(1) as f64 * FOLD;
            if folds <= width * FOLDED_MAX || runs.len() < 2 {
                return Axis { segments: laid_out(&runs, width) };
            }
            limit = limit.saturating_mul(2);
        }
    }

    /// Where `at` is drawn. Never decreases; what lies outside is at the nearer end.
    pub fn x(&self, at: u64) -> f64 {
        let i = self.segments.partition_point(|segment| segment.end <= at);
        let Some(segment) = self.segments.get(i) else {
            return self.segments.last().map_or(0.0, |last| last.x + last.width);
        };
        let part = at.saturating_sub(segment.start) as f64;
        segment.x + segment.width * part / (segment.end - segment.start).max(1) as f64
    }

    /// Its pieces, in order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

/// Spans whose gaps are at most `limit` become one.
fn merged(spans: &[(u64, u64)], limit: u64) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &(start, end) in spans {
        match runs.last_mut() {
            Some((_, last)) if start.saturating_sub(*last) <= limit => *last = (*last).max(end),
            _ => runs.push((start, end)),
        }
    }
    runs
}

fn laid_out(runs: &[(u64, u64)], width: f64) -> Vec<Segment> {
    let total: u64 = runs.iter().fold(0, |sum, (start, end)| sum.saturating_add(end - start));
    let folds = runs.len().saturating_sub(1) as f64 * FOLD;
    let scale = (width - folds).max(1.0) / total.max(1) as f64;
    let mut segments: Vec<Segment> = Vec::new();
    let mut x = 0.0;
    for &(start, end) in runs {
        if let Some(last) = segments.last() {
            let gap = Segment { start: last.end, end: start, x, width: FOLD, is_fold: true };
            segments.push(gap);
            x += FOLD;
        }
        let width = (end - start) as f64 * scale;
        segments.push(Segment { start, end, x, width, is_fold: false });
        x += width;
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_gaps_are_folded_and_runs_keep_one_scale() {
        let axis = Axis::new(&[(1000, 10), (0, 20), (22, 8)], 122.0, 5);
        let folds: Vec<bool> = axis.segments().iter().map(|s| s.is_fold).collect();
        assert_eq!(folds, [false, true, false]);
        // 40 pages on 100: 2.5 each.
        assert_eq!((axis.x(0), axis.x(20), axis.x(22), axis.x(30)), (0.0, 50.0, 55.0, 75.0));
        assert_eq!((axis.x(1000), axis.x(1004), axis.x(5000)), (97.0, 107.0, 122.0));
    }

    proptest! {
        /// Goal: whatever is drawn, nothing leaves the axis, and order is kept.
        #[test]
        fn axis_keeps_order_and_stays_within_its_width(
            spans in prop::collection::vec((any::<u64>(), 0..1_u64 << 40), 0..60),
            fold_over in any::<u64>(),
        ) {
            let axis = Axis::new(&spans, 1000.0, fold_over);
            let mut ends: Vec<u64> = spans.iter().flat_map(|&(s, l)| [s, s.saturating_add(l)]).collect();
            ends.sort_unstable();
            let xs: Vec<f64> = ends.iter().map(|&at| axis.x(at)).collect();
            prop_assert!(xs.iter().all(|x| (0.0..=1000.001).contains(x)), "{:?}", xs);
            prop_assert!(xs.is_sorted_by(|a, b| *a <= b + 1e-6), "{:?}", xs);
        }
    }
}
