//! The loops that combine the cells of buckets.
//!
//! A fold gets the rows of consecutive buckets block by block, as spans of rows; the first span of a block can continue
//! the last bucket of the block before. Columns of 8 bytes without nulls and conditions are combined span by span over
//! slices. Doubles are added row by row in the order of time, so that a sum does not depend on how the rows lie in
//! blocks.

use multiversion::multiversion;

use super::aggregate::{AggregateRule, ResolvedAggregate};
use crate::store::Block;
use crate::types::number::{DECIMAL_LIMIT, WIDE_DECIMAL_LIMIT};
use crate::types::row_key::compare_cells;
use crate::types::{Cell, CellSlice, ColumnCells, ColumnType, cells, number, wide};

/// Rows of a block, bucket by bucket.
#[derive(Clone, Debug, Default)]
pub struct BucketSpans {
    /// Whether the first span continues the last bucket of the block before.
    pub continues: bool,
    /// Half-open ranges of rows, ascending.
    pub rows: Vec<(usize, usize)>,
}

/// Combines one column.
#[derive(Debug)]
pub struct BucketFold {
    /// Position of the column in the blocks, and its type.
    column: Option<(usize, ColumnType)>,
    weight: Option<(usize, ColumnType)>,
    rule: AggregateRule,
    kind: ColumnType,
    state: FoldState,
}

/// Values of the buckets so far.
#[derive(Debug)]
enum FoldState {
    /// A cell of the column, and whether there was one.
    Cells {
        cells: ColumnCells,
        found: Vec<bool>,
    },
    /// Sums of integers; the cells that are not null, and the rows.
    Integers {
        sums: Vec<i128>,
        cells: Vec<u64>,
        rows: Vec<u64>,
    },
    Doubles {
        sums: Vec<f64>,
        cells: Vec<u64>,
        rows: Vec<u64>,
    },
    Counts(Vec<u64>),
    /// Σ(price·quantity) and Σ(quantity).
    Products {
        products: Vec<i128>,
        weights: Vec<i128>,
    },
    DoubleProducts {
        products: Vec<f64>,
        weights: Vec<f64>,
    },
}

/// A value that does not fit: the position of its bucket.
pub type FoldOverflow = usize;

impl BucketFold {
    /// A fold without rows. `column` and `weight` are positions in the blocks.
    pub fn new(aggregate: &ResolvedAggregate, column: Option<usize>, weight: Option<usize>) -> Self {
        let of = |at: Option<usize>, kind: Option<(usize, ColumnType)>| at.zip(kind).map(|(at, (_, kind))| (at, kind));
        let (column, weight) = (of(column, aggregate.column), of(weight, aggregate.weight));
        let is_float = |kind: ColumnType| matches!(kind, ColumnType::Float64 | ColumnType::Float32);
        let state = match aggregate.rule {
            AggregateRule::First | AggregateRule::Last | AggregateRule::Min | AggregateRule::Max => {
                FoldState::Cells { cells: ColumnCells::new(aggregate.kind.layout()), found: Vec::new() }
            }
            AggregateRule::Count => FoldState::Counts(Vec::new()),
            AggregateRule::Vwap if is_float(aggregate.kind) => {
                FoldState::DoubleProducts { products: Vec::new(), weights: Vec::new() }
            }
            AggregateRule::Vwap => FoldState::Products { products: Vec::new(), weights: Vec::new() },
            _ if column.is_some_and(|(_, kind)| is_float(kind)) => {
                FoldState::Doubles { sums: Vec::new(), cells: Vec::new(), rows: Vec::new() }
            }
            _ => FoldState::Integers { sums: Vec::new(), cells: Vec::new(), rows: Vec::new() },
        };
        Self { column, weight, rule: aggregate.rule, kind: aggregate.kind, state }
    }

    /// Adds the rows of a block; only marked ones, where there are marks.
    ///
    /// # Errors
    /// The position of a bucket whose sum exceeds 128 bits.
    pub fn add(&mut self, block: &Block, spans: &BucketSpans, marks: Option<&[bool]>) -> Result<(), FoldOverflow> {
        let column = self.column.map(|(at, kind)| (block.column(at), kind));
        let weight = self.weight.map(|(at, kind)| (block.column(at), kind));
        let rule = self.rule;
        match (&mut self.state, column) {
            (FoldState::Counts(counts), column) => {
                let is_counted = column.is_some_and(|(cells, _)| cells.has_validity()) || marks.is_some();
                let valid = |row: usize| column.is_none_or(|(cells, _)| cells.is_valid(row));
                let count = |lo: usize, hi: usize| match is_counted {
                    true => (lo..hi).filter(|row| is_marked(marks, *row) && valid(*row)).count() as u64,
                    false => (hi - lo) as u64,
                };
                for (lo, hi, is_new) in spans.each() {
                    *slot(counts, is_new) += count(lo, hi);
                }
            }
            (FoldState::Cells { cells, found }, Some((from, kind))) => match rule {
                AggregateRule::First | AggregateRule::Last => {
                    pick(cells, found, from, spans, marks, rule == AggregateRule::Last);
                }
                _ => extremes(cells, found, (from, kind), spans, marks, rule == AggregateRule::Max),
            },
            (FoldState::Integers { sums, cells, rows }, Some((from, kind))) => {
                count_cells(cells, rows, from, spans, marks);
                return add_integers(sums, (from, kind), spans, marks);
            }
            (FoldState::Doubles { sums, cells, rows }, Some((from, kind))) => {
                count_cells(cells, rows, from, spans, marks);
                let is_plain = !from.has_validity() && marks.is_none();
                let value = doubles(kind, from);
                for (lo, hi, is_new) in spans.each() {
                    let sum = slot(sums, is_new);
                    match kind {
                        ColumnType::Float64 if is_plain => {
                            cells::range(from.typed::<f64>(), lo..hi).iter().for_each(|value| *sum += value);
                        }
                        _ => (lo..hi)
                            .filter(|row| is_marked(marks, *row) && from.is_valid(*row))
                            .for_each(|row| *sum += value(row)),
                    }
                }
            }
            (FoldState::Products { products, weights }, Some((price, kind))) => {
                let Some((quantity, of)) = weight else { return Ok(()) };
                let (price_of, quantity_of) = (integers(kind, price), integers(of, quantity));
                let before = products.len().saturating_sub(usize::from(spans.continues));
                for (at, (lo, hi, is_new)) in spans.each().enumerate() {
                    let (product, weight) = (slot(products, is_new), slot(weights, is_new));
                    for row in lo..hi {
                        if is_marked(marks, row) && price.is_valid(row) && quantity.is_valid(row) {
                            let quantity = quantity_of(row);
                            let sum = price_of(row).checked_mul(quantity).and_then(|one| product.checked_add(one));
                            *product = sum.ok_or(before + at)?;
                            *weight = weight.checked_add(quantity).ok_or(before + at)?;
                        }
                    }
                }
            }
            (FoldState::DoubleProducts { products, weights }, Some((price, kind))) => {
                let Some((quantity, of)) = weight else { return Ok(()) };
                let (price_of, quantity_of) = (doubles(kind, price), doubles(of, quantity));
                for (lo, hi, is_new) in spans.each() {
                    let (product, weight) = (slot(products, is_new), slot(weights, is_new));
                    for row in lo..hi {
                        if is_marked(marks, row) && price.is_valid(row) && quantity.is_valid(row) {
                            let quantity = quantity_of(row);
                            *product += price_of(row) * quantity;
                            *weight += quantity;
                        }
                    }
                }
            }
            (_, None) => {}
        }
        Ok(())
    }

    /// The cells of all buckets.
    ///
    /// # Errors
    /// The position of a bucket whose value does not fit the type.
    pub fn finish(self) -> Result<ColumnCells, FoldOverflow> {
        let is_mean = self.rule == AggregateRule::Mean;
        let kind = self.kind;
        match self.state {
            FoldState::Cells { cells, .. } => Ok(cells),
            FoldState::Counts(counts) => Ok(counts.into()),
            FoldState::Integers { sums, cells, rows } => {
                let value = |sum: i128, cells: u64, rows: u64| match (is_mean, cells) {
                    (true, 0) => None,
                    (true, count) => Some(divide_half_even(sum, count.into())),
                    // The sum of no rows is 0, that of nulls is null.
                    (false, 0) if rows > 0 => None,
                    (false, _) => Some(sum),
                };
                if is_mean && kind == ColumnType::Float64 {
                    #[allow(clippy::cast_precision_loss, reason = "the nearest double is wanted")]
                    let mean = |(sum, count): (&i128, &u64)| (*count > 0).then(|| *sum as f64 / *count as f64);
                    return Ok(optional(sums.iter().zip(&cells).map(mean), kind));
                }
                let values = sums.iter().zip(&cells).zip(&rows);
                integer_cells(values.map(|((sum, cells), rows)| value(*sum, *cells, *rows)), kind)
            }
            FoldState::Doubles { sums, cells, rows } => {
                #[allow(clippy::cast_precision_loss, reason = "no bucket has 2^53 rows")]
                let value = |sum: f64, cells: u64, rows: u64| match (is_mean, cells) {
                    (true, 0) => None,
                    (true, count) => Some(sum / count as f64),
                    (false, 0) if rows > 0 => None,
                    (false, _) => Some(sum),
                };
                let values = sums.iter().zip(&cells).zip(&rows);
                finite(values.map(|((sum, cells), rows)| value(*sum, *cells, *rows)), kind)
            }
            FoldState::Products { products, weights } => {
                let value =
                    |(product, weight): (&i128, &i128)| (*weight != 0).then(|| divide_half_even(*product, *weight));
                // The quantities have digits of their own, which the quotient cancels.
                integer_cells(products.iter().zip(&weights).map(value), kind)
            }
            FoldState::DoubleProducts { products, weights } => {
                let value = |(product, weight): (&f64, &f64)| (*weight != 0.0).then(|| product / weight);
                finite(products.iter().zip(&weights).map(value), kind)
            }
        }
    }
}

impl BucketSpans {
    /// First row, end, and whether a new bucket starts.
    fn each(&self) -> impl Iterator<Item = (usize, usize, bool)> + '_ {
        self.rows.iter().enumerate().map(|(at, (lo, hi))| (*lo, *hi, at > 0 || !self.continues))
    }

    /// The spans of new buckets.
    fn new_rows(&self) -> &[(usize, usize)] {
        self.rows.get(usize::from(self.continues)..).unwrap_or_default()
    }

    /// The span that continues a bucket.
    fn continued(&self) -> Option<(usize, usize)> {
        self.rows.first().copied().filter(|_| self.continues)
    }
}

/// The value of the last bucket, or of a new one.
#[inline]
#[allow(clippy::panic, reason = "a bucket that was never started cannot continue")]
fn slot<T: Copy + Default>(values: &mut Vec<T>, is_new: bool) -> &mut T {
    if is_new {
        values.push(T::default());
    }
    match values.last_mut() {
        Some(value) => value,
        None => panic!("a bucket continues that has no rows"),
    }
}

#[inline]
fn is_marked(marks: Option<&[bool]>, row: usize) -> bool {
    marks.is_none_or(|marks| cells::at(marks, row))
}

fn count_cells(
    counts: &mut Vec<u64>,
    rows: &mut Vec<u64>,
    from: CellSlice<'_>,
    spans: &BucketSpans,
    marks: Option<&[bool]>,
) {
    let is_plain = !from.has_validity() && marks.is_none();
    for (lo, hi, is_new) in spans.each() {
        let (count, row_count) = (slot(counts, is_new), slot(rows, is_new));
        if is_plain {
            *count += (hi - lo) as u64;
            *row_count += (hi - lo) as u64;
            continue;
        }
        for row in (lo..hi).filter(|row| is_marked(marks, *row)) {
            *count += u64::from(from.is_valid(row));
            *row_count += 1;
        }
    }
}

/// The first or the last cells.
fn pick(
    out: &mut ColumnCells,
    found: &mut Vec<bool>,
    from: CellSlice<'_>,
    spans: &BucketSpans,
    marks: Option<&[bool]>,
    is_last: bool,
) {
    if !from.has_validity() && marks.is_none() {
        if let Some((lo, hi)) = spans.continued()
            && let Some(found) = found.last_mut()
            && (is_last || !*found)
        {
            let at = out.len() - 1;
            out.set(at, from, if is_last { hi - 1 } else { lo });
            *found = true;
        }
        let new = spans.new_rows();
        out.extend_picked(from, new.iter().map(|(lo, hi)| if is_last { hi - 1 } else { *lo }));
        found.resize(found.len() + new.len(), true);
        return;
    }
    for (lo, hi, is_new) in spans.each() {
        let counts = |row: &usize| is_marked(marks, *row) && from.is_valid(*row);
        let row = if is_last { (lo..hi).rev().find(counts) } else { (lo..hi).find(counts) };
        keep(out, found, from, row, is_new, |_, _, was_found| is_last || !was_found);
    }
}

/// Keeps a cell of a row as the value of a bucket, if it replaces the one before.
fn keep(
    out: &mut ColumnCells,
    found: &mut Vec<bool>,
    from: CellSlice<'_>,
    row: Option<usize>,
    is_new: bool,
    replaces: impl Fn(&ColumnCells, usize, bool) -> bool,
) {
    let was_found = slot(found, is_new);
    match (row, is_new) {
        (Some(row), true) => out.extend(from.slice(row, 1)),
        (None, true) => out.push_null(),
        (Some(row), false) if replaces(out, row, *was_found) => out.set(out.len() - 1, from, row),
        _ => return,
    }
    *was_found |= row.is_some();
}

/// The smallest or largest cells.
fn extremes(
    out: &mut ColumnCells,
    found: &mut Vec<bool>,
    (from, kind): (CellSlice<'_>, ColumnType),
    spans: &BucketSpans,
    marks: Option<&[bool]>,
    is_max: bool,
) {
    let is_better = |a: CellSlice<'_>, row_a: usize, b: CellSlice<'_>, row_b: usize| {
        let order = compare_cells(kind, a, row_a, b, row_b);
        if is_max { order.is_gt() } else { order.is_lt() }
    };
    if from.has_validity() || marks.is_some() {
        for (lo, hi, is_new) in spans.each() {
            let rows = (lo..hi).filter(|row| is_marked(marks, *row) && from.is_valid(*row));
            let best = rows.reduce(|best, row| if is_better(from, row, from, best) { row } else { best });
            keep(out, found, from, best, is_new, |out, row, was_found| {
                !was_found || is_better(from, row, out.as_slice(), out.len() - 1)
            });
        }
        return;
    }
    let spans_of = &spans.rows;
    let best: ColumnCells = match kind {
        ColumnType::Decimal { .. } | ColumnType::Int64 | ColumnType::Timestamp { .. } => {
            if is_max { max_words(from.words(), spans_of) } else { min_words(from.words(), spans_of) }.into()
        }
        ColumnType::Float64 => {
            let keys = if is_max { max_doubles(from.typed(), spans_of) } else { min_doubles(from.typed(), spans_of) };
            keys.into_iter().map(double_of).collect::<Vec<f64>>().into()
        }
        ColumnType::WideDecimal { .. } => best_of::<i128>(from, spans_of, is_max),
        ColumnType::Int32 => best_of::<i32>(from, spans_of, is_max),
        ColumnType::Int16 => best_of::<i16>(from, spans_of, is_max),
        ColumnType::Int8 => best_of::<i8>(from, spans_of, is_max),
        ColumnType::UInt64 => best_of::<u64>(from, spans_of, is_max),
        ColumnType::UInt32 | ColumnType::Text => best_of::<u32>(from, spans_of, is_max),
        ColumnType::UInt16 => best_of::<u16>(from, spans_of, is_max),
        ColumnType::UInt8 | ColumnType::Enum => best_of::<u8>(from, spans_of, is_max),
        ColumnType::Float32 => best_of::<f32>(from, spans_of, is_max),
        // Types without an order have no such rule.
        ColumnType::Bool | ColumnType::Bytes { .. } => return,
    };
    let best = best.as_slice();
    let new = usize::from(spans.continued().is_some());
    if new > 0 {
        keep(out, found, best, Some(0), false, |out, row, was_found| {
            !was_found || is_better(best, row, out.as_slice(), out.len() - 1)
        });
    }
    let count = best.len() - new;
    out.extend(best.slice(new, count));
    found.resize(found.len() + count, true);
}

/// The smallest or largest of each span.
fn best_of<T: Cell + PartialOrd>(from: CellSlice<'_>, spans: &[(usize, usize)], is_max: bool) -> ColumnCells {
    let cells = from.typed::<T>();
    let best = |(lo, hi): &(usize, usize)| {
        let span = cells::range(cells, *lo..*hi);
        let better = |best: T, cell: &T| if (*cell > best) == is_max && *cell != best { *cell } else { best };
        span.iter().skip(1).fold(cells::at(span, 0), better)
    };
    spans.iter().map(best).collect::<Vec<T>>().into()
}

#[multiversion(targets = "simd")]
fn max_words(words: &[i64], spans: &[(usize, usize)]) -> Vec<i64> {
    let mut best = Vec::with_capacity(spans.len());
    for (lo, hi) in spans {
        best.push(cells::range(words, *lo..*hi).iter().fold(i64::MIN, |best, word| best.max(*word)));
    }
    best
}

#[multiversion(targets = "simd")]
fn min_words(words: &[i64], spans: &[(usize, usize)]) -> Vec<i64> {
    let mut best = Vec::with_capacity(spans.len());
    for (lo, hi) in spans {
        best.push(cells::range(words, *lo..*hi).iter().fold(i64::MAX, |best, word| best.min(*word)));
    }
    best
}

/// The bits of a double as an integer in the order of doubles, and back.
#[inline(always)]
fn order_of(bits: i64) -> i64 {
    bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed()
}

fn double_of(key: i64) -> f64 {
    f64::from_bits(order_of(key).cast_unsigned())
}

#[multiversion(targets = "simd")]
fn max_doubles(words: &[i64], spans: &[(usize, usize)]) -> Vec<i64> {
    let mut best = Vec::with_capacity(spans.len());
    for (lo, hi) in spans {
        best.push(cells::range(words, *lo..*hi).iter().fold(i64::MIN, |best, word| best.max(order_of(*word))));
    }
    best
}

#[multiversion(targets = "simd")]
fn min_doubles(words: &[i64], spans: &[(usize, usize)]) -> Vec<i64> {
    let mut best = Vec::with_capacity(spans.len());
    for (lo, hi) in spans {
        best.push(cells::range(words, *lo..*hi).iter().fold(i64::MAX, |best, word| best.min(order_of(*word))));
    }
    best
}

/// Sums of the upper and of the lower halves of each span, of words shifted to be not negative: both are loops without
/// carries, and the sum is exact.
#[multiversion(targets = "simd")]
fn sum_halves(words: &[i64], spans: &[(usize, usize)]) -> Vec<(u64, u64)> {
    let mut sums = Vec::with_capacity(spans.len());
    for (lo, hi) in spans {
        let (mut upper, mut lower) = (0_u64, 0_u64);
        for word in cells::range(words, *lo..*hi) {
            let shifted = (word ^ i64::MIN).cast_unsigned();
            upper = upper.wrapping_add(shifted >> 32);
            lower = lower.wrapping_add(shifted & 0xffff_ffff);
        }
        sums.push((upper, lower));
    }
    sums
}

fn add_integers(
    sums: &mut Vec<i128>,
    (from, kind): (CellSlice<'_>, ColumnType),
    spans: &BucketSpans,
    marks: Option<&[bool]>,
) -> Result<(), FoldOverflow> {
    let before = sums.len().saturating_sub(usize::from(spans.continues));
    let is_plain = !from.has_validity() && marks.is_none();
    if is_plain && matches!(kind, ColumnType::Decimal { .. } | ColumnType::Int64) {
        let halves = sum_halves(from.words(), &spans.rows);
        for ((lo, hi, is_new), (upper, lower)) in spans.each().zip(halves) {
            // Rows of a block: fewer than 2^32, and sums of 8 bytes fit 16.
            let shift = i128::from((hi - lo) as u64) << 63;
            *slot(sums, is_new) += (i128::from(upper) << 32) + i128::from(lower) - shift;
        }
        return Ok(());
    }
    let value = integers(kind, from);
    for (at, (lo, hi, is_new)) in spans.each().enumerate() {
        let sum = slot(sums, is_new);
        for row in lo..hi {
            if is_plain || is_marked(marks, row) && from.is_valid(row) {
                *sum = sum.checked_add(value(row)).ok_or(before + at)?;
            }
        }
    }
    Ok(())
}

/// The cells of a column of integers or decimals as scaled integers.
fn integers<'a>(kind: ColumnType, from: CellSlice<'a>) -> Box<dyn Fn(usize) -> i128 + 'a> {
    fn of<'a, T: Cell + Into<i128>>(from: CellSlice<'a>) -> Box<dyn Fn(usize) -> i128 + 'a> {
        let cells = from.typed::<T>();
        Box::new(move |row| cells::at(cells, row).into())
    }
    match kind {
        ColumnType::WideDecimal { .. } => of::<i128>(from),
        ColumnType::UInt64 => of::<u64>(from),
        ColumnType::Int32 => of::<i32>(from),
        ColumnType::Int16 => of::<i16>(from),
        ColumnType::Int8 => of::<i8>(from),
        ColumnType::UInt32 => of::<u32>(from),
        ColumnType::UInt16 => of::<u16>(from),
        ColumnType::UInt8 => of::<u8>(from),
        _ => of::<i64>(from),
    }
}

/// The cells of a column of numbers as the nearest doubles.
fn doubles<'a>(kind: ColumnType, from: CellSlice<'a>) -> Box<dyn Fn(usize) -> f64 + 'a> {
    match kind {
        ColumnType::Float64 => {
            let cells = from.typed::<f64>();
            Box::new(move |row| cells::at(cells, row))
        }
        ColumnType::Float32 => {
            let cells = from.typed::<f32>();
            Box::new(move |row| cells::at(cells, row).into())
        }
        ColumnType::Decimal { digits } => {
            let cells = from.words();
            Box::new(move |row| number::decimal_to_f64(cells::at(cells, row), digits))
        }
        ColumnType::WideDecimal { digits } => {
            let cells = from.typed::<i128>();
            Box::new(move |row| wide::wide_to_f64(cells::at(cells, row), digits))
        }
        _ => {
            let value = integers(kind, from);
            #[allow(clippy::cast_precision_loss, reason = "the nearest double is wanted")]
            Box::new(move |row| value(row) as f64)
        }
    }
}

/// The quotient rounded half to even.
pub fn divide_half_even(dividend: i128, divisor: i128) -> i128 {
    let (quotient, rest) = (dividend / divisor, dividend % divisor);
    let half = rest.unsigned_abs().cmp(&(divisor.unsigned_abs() - rest.unsigned_abs()));
    let is_negative = (dividend < 0) != (divisor < 0);
    match half {
        std::cmp::Ordering::Less => quotient,
        std::cmp::Ordering::Equal if quotient % 2 == 0 => quotient,
        _ if is_negative => quotient - 1,
        _ => quotient + 1,
    }
}

/// Whether a scaled integer is one of the type.
pub fn fits(value: i128, kind: ColumnType) -> bool {
    match kind {
        ColumnType::Decimal { .. } => value.unsigned_abs() < u128::from(DECIMAL_LIMIT.unsigned_abs()),
        ColumnType::WideDecimal { .. } => value.unsigned_abs() < WIDE_DECIMAL_LIMIT.unsigned_abs(),
        ColumnType::UInt64 => u64::try_from(value).is_ok(),
        _ => i64::try_from(value).is_ok(),
    }
}

/// Integers as cells of a type of 8 or 16 bytes.
fn integer_cells(values: impl ExactSizeIterator<Item = Option<i128>>, kind: ColumnType) -> Result<ColumnCells, usize> {
    let mut out = ColumnCells::with_capacity(kind.layout(), values.len());
    for (at, value) in values.enumerate() {
        let Some(value) = value else {
            out.push_null();
            continue;
        };
        if !fits(value, kind) {
            return Err(at);
        }
        match kind {
            ColumnType::WideDecimal { .. } => out.push(value),
            ColumnType::UInt64 => out.push(u64::try_from(value).map_err(|_| at)?),
            _ => out.push(i64::try_from(value).map_err(|_| at)?),
        }
    }
    Ok(out)
}

fn optional(values: impl ExactSizeIterator<Item = Option<f64>>, kind: ColumnType) -> ColumnCells {
    let mut out = ColumnCells::with_capacity(kind.layout(), values.len());
    for value in values {
        match value {
            Some(value) => out.push(value),
            None => out.push_null(),
        }
    }
    out
}

/// Doubles, all of which must be finite.
fn finite(values: impl ExactSizeIterator<Item = Option<f64>> + Clone, kind: ColumnType) -> Result<ColumnCells, usize> {
    match values.clone().position(|value| value.is_some_and(|value| !value.is_finite())) {
        Some(at) => Err(at),
        None => Ok(optional(values, kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aggregate(rule: AggregateRule, of: ColumnType, kind: ColumnType) -> ResolvedAggregate {
        let gap = super::super::aggregate::GapValue::Own;
        let weight = (rule == AggregateRule::Vwap).then_some((1, of));
        ResolvedAggregate { rule, column: Some((0, of)), weight, conditions: Vec::new(), kind, gap }
    }

    fn block(columns: Vec<ColumnCells>) -> Block {
        let rows = columns[0].len();
        let ts = ColumnCells::from((0..i64::try_from(rows).unwrap()).collect::<Vec<_>>());
        Block::new(rows, std::iter::once(ts).chain(columns).map(Into::into).collect::<Vec<_>>()).unwrap()
    }

    /// Two buckets over two blocks: the second bucket continues.
    fn fold(rule: AggregateRule, of: ColumnType, kind: ColumnType, columns: Vec<ColumnCells>) -> ColumnCells {
        let mut fold = BucketFold::new(&aggregate(rule, of, kind), Some(1), Some(2));
        let all = block(columns);
        fold.add(&all.slice(0, 3), &BucketSpans { continues: false, rows: vec![(0, 1), (1, 3)] }, None).unwrap();
        fold.add(&all.slice(3, 2), &BucketSpans { continues: true, rows: vec![(0, 2)] }, None).unwrap();
        fold.finish().unwrap()
    }

    const DECIMAL: ColumnType = ColumnType::Decimal { digits: 2 };

    #[test]
    fn buckets_continue_over_blocks() {
        let words = || vec![ColumnCells::from([5_i64, -7, 9, -9, 2])];
        for (rule, expected) in [
            (AggregateRule::First, [5, -7]),
            (AggregateRule::Last, [5, 2]),
            (AggregateRule::Min, [5, -9]),
            (AggregateRule::Max, [5, 9]),
            (AggregateRule::Sum, [5, -5]),
            // -1.25 is rounded to -1.
            (AggregateRule::Mean, [5, -1]),
        ] {
            assert_eq!(fold(rule, DECIMAL, DECIMAL, words()), expected, "{rule:?}");
        }
        let doubles = || vec![ColumnCells::from([5.0_f64, -7.0, 9.0, -9.0, 2.0])];
        for (rule, expected) in
            [(AggregateRule::Min, [5.0, -9.0]), (AggregateRule::Max, [5.0, 9.0]), (AggregateRule::Sum, [5.0, -5.0])]
        {
            let kind = ColumnType::Float64;
            assert_eq!(fold(rule, kind, kind, doubles()).as_slice().typed::<f64>(), expected, "{rule:?}");
        }
        let counts = fold(AggregateRule::Count, DECIMAL, ColumnType::UInt64, words());
        assert_eq!(counts.as_slice().typed::<u64>(), [1, 4]);
        let narrow = vec![ColumnCells::from([255_u8, 255, 255, 1, 1])];
        let sums = fold(AggregateRule::Sum, ColumnType::UInt8, ColumnType::UInt64, narrow);
        assert_eq!(sums.as_slice().typed::<u64>(), [255, 512]);
    }

    #[test]
    fn nulls_are_left_out_and_a_bucket_of_nulls_is_null() {
        let column = || {
            let mut column = ColumnCells::new(DECIMAL.layout());
            column.push_null();
            for word in [None, Some(4_i64), None, Some(-6)] {
                match word {
                    Some(word) => column.push(word),
                    None => column.push_null(),
                }
            }
            vec![column]
        };
        for (rule, expected) in [
            (AggregateRule::First, 4),
            (AggregateRule::Last, -6),
            (AggregateRule::Min, -6),
            (AggregateRule::Max, 4),
            (AggregateRule::Sum, -2),
            (AggregateRule::Mean, -1),
        ] {
            let cells = fold(rule, DECIMAL, DECIMAL, column());
            assert_eq!((cells.as_slice().is_valid(0), cells.words()[1]), (false, expected), "{rule:?}");
        }
        let counts = fold(AggregateRule::Count, DECIMAL, ColumnType::UInt64, column());
        assert_eq!(counts.as_slice().typed::<u64>(), [0, 2]);
    }

    #[test]
    fn sums_of_many_large_words_are_exact() {
        let words: Vec<i64> =
            (0..100_000).map(|n| i64::MAX - n * 7_919).chain((0..50_000).map(|n| i64::MIN + n)).collect();
        let expected: i128 = words.iter().map(|word| i128::from(*word)).sum();
        let halves = sum_halves(&words, &[(0, words.len())])[0];
        let shift = i128::from(words.len() as u64) << 63;
        assert_eq!((i128::from(halves.0) << 32) + i128::from(halves.1) - shift, expected);
        let kind = ColumnType::Int64;
        let mut sum = BucketFold::new(&aggregate(AggregateRule::Sum, kind, kind), Some(1), None);
        let spans = BucketSpans { continues: false, rows: vec![(0, 1), (1, 3)] };
        sum.add(&block(vec![ColumnCells::from([1, i64::MAX, 1])]), &spans, None).unwrap();
        assert_eq!(sum.finish().unwrap_err(), 1, "the position of the bucket");
    }

    #[test]
    fn a_vwap_is_divided_once_and_rounded_half_to_even() {
        let columns = vec![ColumnCells::from([100_i64, 1, 2, 0, 0]), ColumnCells::from([3_i64, 1, 1, 0, 0])];
        // (1·1 + 2·1)/2 = 1.5
        assert_eq!(fold(AggregateRule::Vwap, DECIMAL, DECIMAL, columns), [100, 2]);
        for (dividend, divisor, quotient) in
            [(5, 2, 2), (7, 2, 4), (-5, 2, -2), (-7, 2, -4), (5, -2, -2), (8, 3, 3), (-8, 3, -3)]
        {
            assert_eq!(divide_half_even(dividend, divisor), quotient, "{dividend}/{divisor}");
        }
    }

    #[test]
    fn only_marked_rows_count() {
        let mut fold = BucketFold::new(&aggregate(AggregateRule::Sum, DECIMAL, DECIMAL), Some(1), None);
        let spans = BucketSpans { continues: false, rows: vec![(0, 2), (2, 3)] };
        fold.add(&block(vec![ColumnCells::from([1_i64, 2, 4])]), &spans, Some(&[false, true, false])).unwrap();
        // The sum of no rows is 0.
        assert_eq!(fold.finish().unwrap(), [2, 0]);
    }
}
