//! Interpolation search in ascending timestamps. Most series have a row in every interval, so the position of a
//! timestamp can be interpolated from the first and the last one. This takes two probes; binary search takes one per
//! halving, and each can be a cache miss.

use crate::types::cells;
use crate::types::width::narrow;

/// Number of these ascending timestamps that are less than `ts`.
pub fn lower_bound(rising: &[i64], ts: i64) -> usize {
    let (Some(first), Some(last)) = (rising.first(), rising.last()) else { return 0 };
    if ts <= *first {
        return 0;
    }
    if ts > *last {
        return rising.len();
    }
    // `first < ts <= last`, so the divisor is not zero and the guess is a valid position.
    let (part, whole) = (ts.abs_diff(*first), last.abs_diff(*first));
    let guess = u128::from(part) * (rising.len() as u128 - 1) / u128::from(whole);
    let guess: usize = narrow(guess);
    let lies_before = |at: usize| rising.get(at).is_some_and(|other| *other < ts);
    // All timestamps at positions below `low` are less than `ts`, none from `high` on is.
    let (mut low, mut high, mut step) = (0, rising.len(), 1);
    if lies_before(guess) {
        low = guess + 1;
        while let Some(at) = low.checked_add(step - 1).filter(|at| *at < high) {
            if !lies_before(at) {
                high = at;
                break;
            }
            (low, step) = (at + 1, step * 2);
        }
    } else {
        high = guess;
        while let Some(at) = high.checked_sub(step) {
            if lies_before(at) {
                low = at + 1;
                break;
            }
            (high, step) = (at, step * 2);
        }
    }
    low + cells::range(rising, low..high).partition_point(|other| *other < ts)
}

/// Number of these ascending timestamps that are less than or equal to `ts`.
pub fn upper_bound(rising: &[i64], ts: i64) -> usize {
    ts.checked_add(1).map_or(rising.len(), |next| lower_bound(rising, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_timestamp_is_found_where_halving_finds_it() {
        let regular: Vec<i64> = (0..100).map(|n| n * 60).collect();
        let gaps: Vec<i64> = (0..100).map(|n| n * 60 + if n > 40 { 1_000_000 } else { 0 }).collect();
        let skewed: Vec<i64> = (0..60).map(|n| (1 << n) - 7).collect();
        let wide = vec![i64::MIN, -1, 0, i64::MAX];
        for rising in [regular, gaps, skewed, wide, vec![5], vec![5, 6], Vec::new()] {
            let mut asked: Vec<i64> =
                rising.iter().flat_map(|ts| [ts.saturating_sub(1), *ts, ts.saturating_add(1)]).collect();
            asked.extend([i64::MIN, 0, 17, 500_000, i64::MAX]);
            for ts in asked {
                assert_eq!(lower_bound(&rising, ts), rising.partition_point(|other| *other < ts), "{ts} in {rising:?}");
                assert_eq!(
                    upper_bound(&rising, ts),
                    rising.partition_point(|other| *other <= ts),
                    "{ts} in {rising:?}"
                );
            }
        }
    }
}
