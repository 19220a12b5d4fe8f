//! Cells by position. A position outside of the cells is a defect of the caller: the access panics and names both, and
//! never yields a value that was not stored. A request that panics returns `internal`; a stream is aborted.

#![allow(clippy::panic, reason = "no value may replace a missing cell")]

use std::ops::Range;

/// The cell at a position.
#[inline]
#[track_caller]
pub fn at<T: Copy>(cells: &[T], at: usize) -> T {
    match cells.get(at) {
        Some(cell) => *cell,
        None => out_of_range(&(at..at + 1), cells.len()),
    }
}

/// The cells at a range of positions.
#[inline]
#[track_caller]
pub fn range<T>(cells: &[T], range: Range<usize>) -> &[T] {
    match cells.get(range.clone()) {
        Some(cells) => cells,
        None => out_of_range(&range, cells.len()),
    }
}

/// The cells at a range of positions, to be written.
#[inline]
#[track_caller]
pub fn range_mut<T>(cells: &mut [T], range: Range<usize>) -> &mut [T] {
    let count = cells.len();
    match cells.get_mut(range.clone()) {
        Some(cells) => cells,
        None => out_of_range(&range, count),
    }
}

/// The cells from a position on; none at the end.
#[inline]
#[track_caller]
pub fn from<T>(cells: &[T], at: usize) -> &[T] {
    range(cells, at..cells.len())
}

/// The column at a position.
#[inline]
#[track_caller]
pub fn column<T>(columns: &[T], at: usize) -> &T {
    match columns.get(at) {
        Some(column) => column,
        None => out_of_range(&(at..at + 1), columns.len()),
    }
}

/// The first and the last cell.
#[inline]
#[track_caller]
pub fn ends<T: Copy>(cells: &[T]) -> (T, T) {
    match (cells.first(), cells.last()) {
        (Some(first), Some(last)) => (*first, *last),
        _ => out_of_range(&(0..1), 0),
    }
}

/// Exactly `N` cells from a position on, such as the bytes of a number.
#[inline]
#[track_caller]
pub fn array<const N: usize, T: Copy>(cells: &[T], at: usize) -> [T; N] {
    match cells.get(at..).and_then(<[T]>::first_chunk) {
        Some(cells) => *cells,
        None => out_of_range(&(at..at + N), cells.len()),
    }
}

/// Replaces the cells from a position on.
#[inline]
#[track_caller]
pub fn put<T: Copy>(cells: &mut [T], at: usize, new: &[T]) {
    range_mut(cells, at..at + new.len()).copy_from_slice(new);
}

#[cold]
#[inline(never)]
#[track_caller]
fn out_of_range(range: &Range<usize>, count: usize) -> ! {
    panic!("positions {}..{} of {count}", range.start, range.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_outside_of_the_cells_panics_and_yields_no_value() {
        let words = [7_i64, 8];
        assert_eq!((at(&words, 1), range(&words, 0..2), *column(&words, 0)), (8, &words[..], 7));
        assert_eq!((ends(&words), array::<1, _>(&words, 1)), ((7, 8), [8]));
        let read: [fn(&[i64]); 8] = [
            |words| _ = at(words, 2),
            |words| _ = range(words, 1..3),
            |words| _ = range(words, 3..4),
            |words| _ = column(words, 9),
            |words| _ = at(&words[..0], 0),
            |words| _ = ends(&words[..0]),
            |words| _ = array::<2, _>(words, 1),
            |words| put(&mut words.to_vec(), 1, &[1, 2]),
        ];
        for read in read {
            assert!(std::panic::catch_unwind(|| read(&words)).is_err());
        }
    }
}
