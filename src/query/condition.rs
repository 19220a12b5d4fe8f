//! Conditions: predicates compiled for the cells of one column.
//!
//! - A null meets no condition but the one for nulls.
//! - What a condition says about order keys never excludes a cell that it accepts, so that zones, indexes and rows are
//!   checked against the same condition.
//! - Ranges ascend, so a cell is found by binary search: even a large set of values costs a few comparisons a row.

use std::sync::Arc;

use multiversion::multiversion;

use crate::format::order_key::{KeyCell, NativeType, by_native_type, byte_cells, bytes_key};
use crate::store::WantedKeys;
use crate::types::{CellSlice, cells};

/// Closed ranges of values, ascending and disjoint.
pub type Ranges<T> = Vec<(T, T)>;

/// A predicate compiled for one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Position of the column; `ts` is 0.
    pub column: usize,
    /// Order keys that matching cells have; other cells can have them too where the test is not by key.
    keys: Arc<Ranges<i64>>,
    test: CellTest,
}

/// Which cells match. Values are shared between scans with the same predicate: a set of them can be large.
#[derive(Clone, Debug, PartialEq, Eq)]
enum CellTest {
    Nothing,
    Null,
    NotNull,
    /// Cells of this type with a key in the ranges.
    Keys(NativeType),
    /// Cells of a byte, by the byte.
    Table(NativeType, Arc<[bool; 256]>),
    Wide(Arc<Ranges<i128>>),
    /// Cells of so many bytes.
    Bytes(u16, Arc<Ranges<Vec<u8>>>),
}

/// Ranges of keys, by the loop that checks them.
enum KeyShape {
    Inside((i64, i64)),
    /// All keys of the type but these.
    Outside((i64, i64)),
    Several,
}

impl KeyShape {
    fn of(ranges: &[(i64, i64)], native: NativeType) -> Self {
        match ranges {
            [range] => Self::Inside(*range),
            [(lowest, before), (after, highest)] if (*lowest, *highest) == native.keys() => {
                match (before.checked_add(1), after.checked_sub(1)) {
                    (Some(low), Some(high)) if low <= high => Self::Outside((low, high)),
                    _ => Self::Several,
                }
            }
            _ => Self::Several,
        }
    }
}

fn has_key(ranges: &[(i64, i64)], key: i64) -> bool {
    let at = ranges.partition_point(|(_, high)| *high < key);
    ranges.get(at).is_some_and(|(low, _)| *low <= key)
}

fn has_wide(ranges: &[(i128, i128)], cell: i128) -> bool {
    let at = ranges.partition_point(|(_, high)| *high < cell);
    ranges.get(at).is_some_and(|(low, _)| *low <= cell)
}

fn has_bytes(ranges: &[(Vec<u8>, Vec<u8>)], cell: &[u8]) -> bool {
    let at = ranges.partition_point(|(_, high)| high.as_slice() < cell);
    ranges.get(at).is_some_and(|(low, _)| low.as_slice() <= cell)
}

/// Ascending ranges of keys, with those that overlap made one.
fn coalesce(ranges: impl Iterator<Item = (i64, i64)>) -> Ranges<i64> {
    let mut joined: Ranges<i64> = Vec::with_capacity(ranges.size_hint().0);
    for (low, high) in ranges {
        match joined.last_mut() {
            Some(last) if low <= last.1 => last.1 = last.1.max(high),
            _ => joined.push((low, high)),
        }
    }
    joined
}

impl Condition {
    /// Cells of a type whose order key is inside one of these ranges, which lie among the keys of the type.
    pub fn of_keys(column: usize, native: NativeType, keys: Ranges<i64>) -> Self {
        let is_byte = matches!(native, NativeType::U8 | NativeType::I8);
        let test = match KeyShape::of(&keys, native) {
            KeyShape::Several if is_byte => {
                let mut table = [false; 256];
                for (byte, slot) in (0..=u8::MAX).zip(&mut table) {
                    let key = if native == NativeType::I8 { byte.cast_signed().into() } else { byte.into() };
                    *slot = has_key(&keys, key);
                }
                CellTest::Table(native, Arc::new(table))
            }
            _ => CellTest::Keys(native),
        };
        Self { column, keys: Arc::new(keys), test }
    }

    /// Timestamps inside one of these ranges.
    pub fn on_ts(ranges: Ranges<i64>) -> Self {
        Self::of_keys(0, NativeType::I64, ranges)
    }

    /// Cells of 16 bytes inside one of these ranges.
    pub fn of_wide(column: usize, ranges: Ranges<i128>) -> Self {
        let keys = ranges.iter().map(|(low, high)| (low.order_key(), high.order_key()));
        Self { column, keys: Arc::new(coalesce(keys)), test: CellTest::Wide(Arc::new(ranges)) }
    }

    /// Cells of `length` bytes inside one of these ranges of as many bytes.
    pub fn of_bytes(column: usize, length: u16, ranges: Ranges<Vec<u8>>) -> Self {
        let keys = ranges.iter().map(|(low, high)| (bytes_key(low), bytes_key(high)));
        Self { column, keys: Arc::new(coalesce(keys)), test: CellTest::Bytes(length, Arc::new(ranges)) }
    }

    /// Nulls.
    pub fn is_null(column: usize) -> Self {
        Self { column, keys: Arc::default(), test: CellTest::Null }
    }

    /// Cells that are not null.
    pub fn is_not_null(column: usize) -> Self {
        Self { column, keys: Arc::new(vec![(i64::MIN, i64::MAX)]), test: CellTest::NotNull }
    }

    /// No cell.
    pub fn nothing(column: usize) -> Self {
        Self { column, keys: Arc::default(), test: CellTest::Nothing }
    }

    /// Whether no cell matches.
    pub fn is_nothing(&self) -> bool {
        self.keys.is_empty() && self.test != CellTest::Null
    }

    /// Number of ranges.
    pub fn ranges(&self) -> usize {
        match &self.test {
            CellTest::Wide(ranges) => ranges.len(),
            CellTest::Bytes(_, ranges) => ranges.len(),
            _ => self.keys.len(),
        }
    }

    /// The order keys of matching cells: closed, ascending, disjoint ranges.
    pub fn keys(&self) -> &[(i64, i64)] {
        &self.keys
    }

    /// What zone maps and value indexes are asked for.
    pub fn wanted_keys(&self) -> WantedKeys {
        WantedKeys { column: self.column, ranges: Arc::clone(&self.keys), nulls: self.test == CellTest::Null }
    }

    /// Number of matching cells, where that is known sooner than which ones match.
    pub fn count(&self, column: CellSlice<'_>) -> Option<usize> {
        match &self.test {
            CellTest::Nothing => return Some(0),
            CellTest::Null => return Some(column.null_count()),
            CellTest::NotNull => return Some(column.len() - column.null_count()),
            _ if column.has_validity() => return None,
            _ => {}
        }
        let CellTest::Keys(native) = self.test else { return None };
        if native == NativeType::Flag {
            let set = column.set_count();
            let count = |flag: bool, count: usize| if has_key(&self.keys, flag.into()) { count } else { 0 };
            return Some(count(true, set) + count(false, column.len() - set));
        }
        let count_inside = |(low, high): (i64, i64)| match native {
            NativeType::I64 => count_words(column.words(), (low, high)),
            NativeType::U64 => count_words(column.words(), (low ^ i64::MIN, high ^ i64::MIN)),
            NativeType::F64 => count_doubles(column.words(), (low, high)),
            NativeType::F32 => count_floats(column.typed(), (bits(low), bits(high))),
            NativeType::I32 | NativeType::U32 => count_u32(column.typed(), bounds_u32(low, high)),
            NativeType::I16 | NativeType::U16 => count_u16(column.typed(), bounds_u16(low, high)),
            NativeType::I8 | NativeType::U8 => count_u8(column.typed(), bounds_u8(low, high)),
            NativeType::I128 | NativeType::Flag | NativeType::Bytes(_) => unreachable_type(native),
        };
        match KeyShape::of(&self.keys, native) {
            KeyShape::Inside(range) => Some(count_inside(range)),
            KeyShape::Outside(range) => Some(column.len() - count_inside(range)),
            KeyShape::Several => None,
        }
    }

    /// Clears the marks of cells that do not match.
    pub fn keep(&self, column: CellSlice<'_>, marks: &mut [bool]) {
        match &self.test {
            CellTest::Nothing => return marks.fill(false),
            CellTest::Null => return column.keep_marks_by_null(true, marks),
            CellTest::NotNull => {}
            CellTest::Keys(native) => self.keep_keys(*native, column, marks),
            CellTest::Table(_, table) => keep_table(column.typed(), table, marks),
            CellTest::Wide(ranges) => {
                for (mark, cell) in marks.iter_mut().zip(column.typed::<i128>()) {
                    *mark &= has_wide(ranges, *cell);
                }
            }
            CellTest::Bytes(length, ranges) => {
                for (mark, cell) in marks.iter_mut().zip(byte_cells(column, *length)) {
                    *mark = *mark && has_bytes(ranges, cell);
                }
            }
        }
        if column.has_validity() {
            column.keep_marks_by_null(false, marks);
        }
    }

    fn keep_keys(&self, native: NativeType, column: CellSlice<'_>, marks: &mut [bool]) {
        match (native, KeyShape::of(&self.keys, native)) {
            (NativeType::Flag, _) => {
                for flag in [false, true] {
                    if !has_key(&self.keys, flag.into()) {
                        column.keep_marks_by_flag(!flag, marks);
                    }
                }
            }
            (NativeType::I64, KeyShape::Inside(range)) => unmark_words_outside(column.words(), range, marks),
            (NativeType::I64, KeyShape::Outside(range)) => unmark_words_inside(column.words(), range, marks),
            (NativeType::U64, KeyShape::Inside((low, high))) => {
                unmark_words_outside(column.words(), (low ^ i64::MIN, high ^ i64::MIN), marks);
            }
            (NativeType::U64, KeyShape::Outside((low, high))) => {
                unmark_words_inside(column.words(), (low ^ i64::MIN, high ^ i64::MIN), marks);
            }
            (NativeType::F64, KeyShape::Inside(range)) => unmark_doubles_outside(column.words(), range, marks),
            (NativeType::F64, KeyShape::Outside(range)) => unmark_doubles_inside(column.words(), range, marks),
            (NativeType::F32, KeyShape::Inside((low, high))) => {
                unmark_floats_outside(column.typed(), (bits(low), bits(high)), marks);
            }
            (NativeType::F32, KeyShape::Outside((low, high))) => {
                unmark_floats_inside(column.typed(), (bits(low), bits(high)), marks);
            }
            (NativeType::I32 | NativeType::U32, KeyShape::Inside((low, high))) => {
                unmark_u32_outside(column.typed(), bounds_u32(low, high), marks);
            }
            (NativeType::I32 | NativeType::U32, KeyShape::Outside((low, high))) => {
                unmark_u32_inside(column.typed(), bounds_u32(low, high), marks);
            }
            (NativeType::I16 | NativeType::U16, KeyShape::Inside((low, high))) => {
                unmark_u16_outside(column.typed(), bounds_u16(low, high), marks);
            }
            (NativeType::I16 | NativeType::U16, KeyShape::Outside((low, high))) => {
                unmark_u16_inside(column.typed(), bounds_u16(low, high), marks);
            }
            (NativeType::I8 | NativeType::U8, KeyShape::Inside((low, high))) => {
                unmark_u8_outside(column.typed(), bounds_u8(low, high), marks);
            }
            (NativeType::I8 | NativeType::U8, KeyShape::Outside((low, high))) => {
                unmark_u8_inside(column.typed(), bounds_u8(low, high), marks);
            }
            _ => by_native_type!(native, column,
                values => {
                    for (mark, value) in marks.iter_mut().zip(values) {
                        *mark &= has_key(&self.keys, value.order_key());
                    }
                },
                Flag => unreachable_type(native),
                Bytes(_length) => unreachable_type(native)
            ),
        }
    }

    /// Removes the rows, positions in the column, whose cell does not match.
    pub fn retain(&self, column: CellSlice<'_>, rows: &mut Vec<u32>) {
        if column.has_validity() || matches!(self.test, CellTest::Null) {
            let wants_null = self.test == CellTest::Null;
            rows.retain(|row| column.is_valid(*row as usize) != wants_null);
        }
        match &self.test {
            CellTest::Nothing => rows.clear(),
            CellTest::Null | CellTest::NotNull => {}
            CellTest::Keys(native) | CellTest::Table(native, _) => by_native_type!(*native, column,
                values => rows.retain(|row| has_key(&self.keys, cells::at(values, *row as usize).order_key())),
                Flag => rows.retain(|row| has_key(&self.keys, column.flag(*row as usize).into())),
                Bytes(_length) => unreachable_type(*native)
            ),
            CellTest::Wide(ranges) => {
                let values = column.typed::<i128>();
                rows.retain(|row| has_wide(ranges, cells::at(values, *row as usize)));
            }
            CellTest::Bytes(length, ranges) => {
                let (bytes, length) = (column.plain().unwrap_or_default(), usize::from(*length));
                rows.retain(|row| {
                    let at = *row as usize * length;
                    has_bytes(ranges, cells::range(bytes, at..at + length))
                });
            }
        }
    }
}

#[cold]
#[allow(clippy::unreachable, reason = "conditions by key are made for types whose keys are exact")]
fn unreachable_type(native: NativeType) -> ! {
    unreachable!("a condition by key on cells of type {native:?}")
}

/// The low bits of a key, which determine a key of a type of 4 bytes.
fn bits(key: i64) -> u32 {
    u32::from_le_bytes(cells::array(&key.to_le_bytes(), 0))
}

// Bounds of narrow cells: the lowest one, and the distance to the highest.

fn bounds_u32(low: i64, high: i64) -> (u32, u32) {
    (bits(low), bits(high.wrapping_sub(low)))
}

fn bounds_u16(low: i64, high: i64) -> (u16, u16) {
    let bits = |key: i64| u16::from_le_bytes(cells::array(&key.to_le_bytes(), 0));
    (bits(low), bits(high.wrapping_sub(low)))
}

fn bounds_u8(low: i64, high: i64) -> (u8, u8) {
    let bits = |key: i64| cells::at(&key.to_le_bytes(), 0);
    (bits(low), bits(high.wrapping_sub(low)))
}

// Branch-free loops that the compiler vectorizes, for the widest vectors of the processor, which is detected once. One
// subtraction and one comparison decide whether a key is within a range. The sums are of the width of the cells, so that
// as many cells are counted at a time as are compared. No closures: they would be compiled for the same vectors, and then
// not be inlined into the adapters of iterators, which are not.

#[inline(always)]
fn within(key: i64, (low, high): (i64, i64)) -> bool {
    key.wrapping_sub(low).cast_unsigned() <= high.wrapping_sub(low).cast_unsigned()
}

#[inline(always)]
fn double_key(word: i64) -> i64 {
    f64::from_bits(word.cast_unsigned()).order()
}

#[inline(always)]
fn float_within(float: f32, (low, high): (u32, u32)) -> bool {
    float.order().cast_unsigned().wrapping_sub(low) <= high.wrapping_sub(low)
}

#[multiversion(targets = "simd")]
fn count_words(words: &[i64], range: (i64, i64)) -> usize {
    let mut count = 0;
    for word in words {
        count += usize::from(within(*word, range));
    }
    count
}

#[multiversion(targets = "simd")]
fn count_doubles(words: &[i64], range: (i64, i64)) -> usize {
    let mut count = 0;
    for word in words {
        count += usize::from(within(double_key(*word), range));
    }
    count
}

#[multiversion(targets = "simd")]
fn unmark_words_outside(words: &[i64], range: (i64, i64), marks: &mut [bool]) {
    for (mark, word) in marks.iter_mut().zip(words) {
        *mark &= within(*word, range);
    }
}

#[multiversion(targets = "simd")]
fn unmark_words_inside(words: &[i64], range: (i64, i64), marks: &mut [bool]) {
    for (mark, word) in marks.iter_mut().zip(words) {
        *mark &= !within(*word, range);
    }
}

#[multiversion(targets = "simd")]
fn unmark_doubles_outside(words: &[i64], range: (i64, i64), marks: &mut [bool]) {
    for (mark, word) in marks.iter_mut().zip(words) {
        *mark &= within(double_key(*word), range);
    }
}

#[multiversion(targets = "simd")]
fn unmark_doubles_inside(words: &[i64], range: (i64, i64), marks: &mut [bool]) {
    for (mark, word) in marks.iter_mut().zip(words) {
        *mark &= !within(double_key(*word), range);
    }
}

#[multiversion(targets = "simd")]
fn count_floats(floats: &[f32], range: (u32, u32)) -> usize {
    let mut count = 0;
    for floats in floats.chunks(1 << 16) {
        let mut part = 0_u32;
        for float in floats {
            part += u32::from(float_within(*float, range));
        }
        count += part as usize;
    }
    count
}

#[multiversion(targets = "simd")]
fn unmark_floats_outside(floats: &[f32], range: (u32, u32), marks: &mut [bool]) {
    for (mark, float) in marks.iter_mut().zip(floats) {
        *mark &= float_within(*float, range);
    }
}

#[multiversion(targets = "simd")]
fn unmark_floats_inside(floats: &[f32], range: (u32, u32), marks: &mut [bool]) {
    for (mark, float) in marks.iter_mut().zip(floats) {
        *mark &= !float_within(*float, range);
    }
}

macro_rules! count_narrow {
    ($count:ident, $int:ty) => {
        #[multiversion(targets = "simd")]
        fn $count(cells: &[$int], (low, span): ($int, $int)) -> usize {
            let mut count = 0;
            for cells in cells.chunks(1 << 15) {
                let mut part: $int = 0;
                for cell in cells {
                    part += <$int>::from(cell.wrapping_sub(low) <= span);
                }
                count += part as usize;
            }
            count
        }
    };
}

/// Counts in bytes, which are added up before one of them can overflow: adding up the lanes of a vector takes
/// long.
#[multiversion(targets = "simd")]
fn count_u8(cells: &[u8], (low, span): (u8, u8)) -> usize {
    const COUNTERS: usize = 128;
    let mut count = 0;
    // Up to 254 whole blocks and a part of one.
    for cells in cells.chunks(COUNTERS * 254) {
        let mut counters = [0_u8; COUNTERS];
        let (blocks, rest) = cells.as_chunks::<COUNTERS>();
        for block in blocks {
            for (counter, cell) in counters.iter_mut().zip(block) {
                *counter += u8::from(cell.wrapping_sub(low) <= span);
            }
        }
        for (counter, cell) in counters.iter_mut().zip(rest) {
            *counter += u8::from(cell.wrapping_sub(low) <= span);
        }
        for counter in counters {
            count += usize::from(counter);
        }
    }
    count
}

macro_rules! narrow_loops {
    ($outside:ident, $inside:ident, $int:ty) => {
        #[multiversion(targets = "simd")]
        fn $outside(cells: &[$int], (low, span): ($int, $int), marks: &mut [bool]) {
            for (mark, cell) in marks.iter_mut().zip(cells) {
                *mark &= cell.wrapping_sub(low) <= span;
            }
        }

        #[multiversion(targets = "simd")]
        fn $inside(cells: &[$int], (low, span): ($int, $int), marks: &mut [bool]) {
            for (mark, cell) in marks.iter_mut().zip(cells) {
                *mark &= cell.wrapping_sub(low) > span;
            }
        }
    };
}

count_narrow!(count_u32, u32);
count_narrow!(count_u16, u16);
narrow_loops!(unmark_u32_outside, unmark_u32_inside, u32);
narrow_loops!(unmark_u16_outside, unmark_u16_inside, u16);
narrow_loops!(unmark_u8_outside, unmark_u8_inside, u8);

fn keep_table(bytes: &[u8], table: &[bool; 256], marks: &mut [bool]) {
    for (mark, byte) in marks.iter_mut().zip(bytes) {
        *mark &= cells::at(table, usize::from(*byte));
    }
}
