//! Predicates on columns: `column op value`, combined by AND.
//!
//! Every predicate is compiled once into closed ranges of order keys. A value with more digits than a decimal column is
//! never rounded into a match; for a column of doubles a value is the double its text parses to. Rows, zones and chunks
//! are then checked against the same ranges.
//!
//! The ranges ascend, so a key is found by binary search: even a large set of values costs a few comparisons a row.

use std::sync::Arc;

use multiversion::multiversion;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, ErrorCode, Result};
use crate::format::order_key::KeyCell;
use crate::query::result::NumberFormat;
use crate::types::number::{self, NumberError};
use crate::types::time::{Bound, parse_param};
use crate::types::{ColumnType, SeriesDef, TimeUnit};

/// How a cell is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Operator {
    Eq,
    Ne,
    Gt,
    Gte,
    Lt,
    Lte,
    /// From the first to the second value, both included.
    Between,
    /// Between two values, both excluded.
    BetweenExclusive,
    In,
    NotIn,
}

impl Operator {
    /// All operators with their names.
    pub const ALL: [(Operator, &'static str); 10] = [
        (Operator::Eq, "eq"),
        (Operator::Ne, "ne"),
        (Operator::Gt, "gt"),
        (Operator::Gte, "gte"),
        (Operator::Lt, "lt"),
        (Operator::Lte, "lte"),
        (Operator::Between, "between"),
        (Operator::BetweenExclusive, "between_exclusive"),
        (Operator::In, "in"),
        (Operator::NotIn, "not_in"),
    ];

    /// Parses an operator name; `-` is read as `_`.
    pub fn from_name(name: &str) -> Result<Self> {
        let plain = name.replace('-', "_");
        Self::ALL.iter().find(|(_, known)| *known == plain).map(|(operator, _)| *operator).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|(_, name)| *name).collect();
            Error::invalid(format!("operator {name:?} is not one of {}", known.join(", ")))
        })
    }
}

/// A predicate as a caller writes it. Values are numbers, or numbers as text so that no digit is lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Predicate {
    /// `ts` or a number column; a scalar's `value` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    pub op: Operator,
    /// One value, two for `between`, a list for `in` and `not_in`. For `ts` an epoch number, RFC 3339 text or a date,
    /// which means its whole day.
    pub value: Value,
}

impl Predicate {
    /// Parses `column:op:value[,value…]`; the column may be left out.
    pub fn parse(text: &str) -> Result<Self> {
        let malformed =
            || Error::invalid(format!("predicate {text:?} is not column:op:value")).with_hint(syntax_hint(text));
        let parts: Vec<&str> = text.splitn(3, ':').collect();
        let (column, op, values) = match parts.as_slice() {
            [column, op, values] => (Some((*column).to_owned()), *op, *values),
            [op, values] => (None, *op, *values),
            _ => return Err(malformed()),
        };
        if values.is_empty() {
            return Err(malformed());
        }
        let values: Vec<Value> = values.split(',').map(|value| Value::String(value.trim().to_owned())).collect();
        let value = match <[Value; 1]>::try_from(values) {
            Ok([one]) => one,
            Err(several) => Value::Array(several),
        };
        Ok(Self { column, op: Operator::from_name(op)?, value })
    }
}

/// Hint for a malformed predicate: its correct form where it uses an operator sign, else an example.
fn syntax_hint(text: &str) -> String {
    const SIGNS: [(&str, &str); 8] =
        [(">=", "gte"), ("<=", "lte"), ("!=", "ne"), ("<>", "ne"), ("==", "eq"), (">", "gt"), ("<", "lt"), ("=", "eq")];
    let found = SIGNS.iter().find_map(|(sign, name)| Some((text.split_once(sign)?, name)));
    match found {
        Some(((column, value), name)) if text.len() <= 80 => format!("write {}:{name}:{}", column.trim(), value.trim()),
        _ => "such as close:gt:100".to_owned(),
    }
}

impl Predicate {
    /// The form that [`Predicate::parse`] parses.
    pub fn to_text(&self) -> String {
        let name = Operator::ALL.iter().find(|(op, _)| *op == self.op).map_or("", |(_, name)| *name);
        let values = texts_of(&self.value).unwrap_or_default().join(",");
        match &self.column {
            Some(column) => format!("{column}:{name}:{values}"),
            None => format!("{name}:{values}"),
        }
    }
}

/// Maximum number of values of all predicates of a query together.
pub const VALUES_MAX: usize = 100_000;

/// A predicate compiled for one column: closed, ascending, disjoint ranges of order keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRanges {
    /// Position of the column; `ts` is 0.
    pub column: usize,
    pub is_float: bool,
    /// Shared between scans with the same predicate: a set of values can be large.
    pub ranges: Arc<Vec<(i64, i64)>>,
}

impl KeyRanges {
    /// Whether a cell matches.
    pub fn matches(&self, word: i64) -> bool {
        let key = order_key(word, self.is_float);
        let at = self.ranges.partition_point(|(_, high)| *high < key);
        self.ranges.get(at).is_some_and(|(low, _)| *low <= key)
    }

    /// Number of cells that match.
    pub fn count(&self, words: &[i64]) -> usize {
        match (self.ranges.as_slice(), self.is_float) {
            ([range], false) => count_words(words, *range),
            ([range], true) => count_doubles(words, *range),
            _ => words.iter().filter(|word| self.matches(**word)).count(),
        }
    }

    /// Clears the marks of rows that do not match.
    pub fn keep(&self, words: &[i64], marks: &mut [bool]) {
        match (self.ranges.as_slice(), self.is_float) {
            ([range], false) => unmark_words_outside(words, *range, marks),
            ([range], true) => unmark_doubles_outside(words, *range, marks),
            _ => {
                for (mark, word) in marks.iter_mut().zip(words) {
                    *mark &= self.matches(*word);
                }
            }
        }
    }
}

#[inline(always)]
fn order_key(word: i64, is_float: bool) -> i64 {
    if is_float { f64::from_bits(word.cast_unsigned()).order() } else { word }
}

// Branch-free loops that the compiler vectorizes, for the widest vectors of the processor, which is detected once. One
// subtraction and one comparison decide whether a key is within a range.

#[inline(always)]
fn within(key: i64, (low, high): (i64, i64)) -> bool {
    key.wrapping_sub(low).cast_unsigned() <= high.wrapping_sub(low).cast_unsigned()
}

#[multiversion(targets = "simd")]
fn count_words(words: &[i64], range: (i64, i64)) -> usize {
    words.iter().map(|word| usize::from(within(*word, range))).sum()
}

#[multiversion(targets = "simd")]
fn count_doubles(words: &[i64], range: (i64, i64)) -> usize {
    words.iter().map(|word| usize::from(within(order_key(*word, true), range))).sum()
}

#[multiversion(targets = "simd")]
fn unmark_words_outside(words: &[i64], range: (i64, i64), marks: &mut [bool]) {
    for (mark, word) in marks.iter_mut().zip(words) {
        *mark &= within(*word, range);
    }
}

#[multiversion(targets = "simd")]
fn unmark_doubles_outside(words: &[i64], range: (i64, i64), marks: &mut [bool]) {
    for (mark, word) in marks.iter_mut().zip(words) {
        *mark &= within(order_key(*word, true), range);
    }
}

/// Compiles predicates for a series. `numbers=raw` reads values as scaled integers.
///
/// # Errors
/// `schema_mismatch` for an unknown column, `invalid_argument` for a value that is not a number or a wrong number of
/// values, `too_large` for more than [`VALUES_MAX`] values.
pub fn compile(def: &SeriesDef, predicates: &[Predicate], numbers: NumberFormat) -> Result<Vec<KeyRanges>> {
    let values: usize = predicates.iter().map(|predicate| predicate.value.as_array().map_or(1, Vec::len)).sum();
    if values > VALUES_MAX {
        let detail = format!("the predicates have {values} values, more than {VALUES_MAX}");
        return Err(Error::new(ErrorCode::TooLarge, detail)
            .with_hint("query the set in several parts, or a range with between"));
    }
    predicates.iter().map(|predicate| compile_one(def, predicate, numbers)).collect()
}

fn compile_one(def: &SeriesDef, predicate: &Predicate, numbers: NumberFormat) -> Result<KeyRanges> {
    let (column, kind) = match predicate.column.as_deref() {
        Some("ts") => (0, ColumnType::Int64),
        None if def.columns.len() != 1 => {
            return Err(Error::invalid("a predicate on a series of several columns must name its column"));
        }
        name => {
            let position = name.map_or(Ok(0), |name| def.column_named(name))?;
            (position + 1, def.columns.get(position).map_or(ColumnType::Int64, |column| column.kind))
        }
    };
    let kind = match kind {
        ColumnType::Decimal { .. } if numbers == NumberFormat::Raw => ColumnType::Int64,
        other => other,
    };
    let texts = texts_of(&predicate.value)?;
    let value_neighbours =
        |text: &String| if column == 0 { time_neighbours(text, def.unit) } else { neighbours(text, kind) };
    let values = texts.iter().map(value_neighbours).collect::<Result<Vec<KeyNeighbours>>>().map_err(|error| {
        let name = predicate.column.as_deref().unwrap_or("value");
        let named = Error::new(error.code(), format!("predicate on {name}: {}", error.detail()));
        error.hint().map_or(named.clone(), |hint| named.with_hint(hint))
    })?;
    let ranges = ranges_of(predicate.op, &values)?;
    Ok(KeyRanges { column, is_float: kind == ColumnType::Float64, ranges: Arc::new(ranges) })
}

fn texts_of(value: &Value) -> Result<Vec<String>> {
    match value {
        Value::Number(number) => Ok(vec![number.to_string()]),
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Array(values) => {
            let mut texts = Vec::with_capacity(values.len());
            for value in values {
                match value {
                    Value::Number(number) => texts.push(number.to_string()),
                    Value::String(text) => texts.push(text.clone()),
                    other => return Err(Error::invalid(format!("predicate value {other} is not a number"))),
                }
            }
            Ok(texts)
        }
        other => Err(Error::invalid(format!("predicate value {other} is not a number"))),
    }
}

/// Where a value lies among the keys of a column: the highest key at or below its end, and the lowest at or above its
/// start. Both are the same key when the column can hold the value. Start and end differ only for a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KeyNeighbours {
    floor: Option<i64>,
    ceil: Option<i64>,
}

fn neighbours(text: &str, kind: ColumnType) -> Result<KeyNeighbours> {
    let (floor, ceil) = match kind {
        ColumnType::Float64 => number::doubles_around(text.as_bytes()).map(|(below, above)| {
            let key = |value: f64| order_key(value.to_bits().cast_signed(), true);
            (below.map(key), above.map(key))
        }),
        ColumnType::Decimal { digits } => number::integers_around(text.as_bytes(), digits),
        ColumnType::Int64 => number::integers_around(text.as_bytes(), 0),
        other => return Err(Error::internal(format!("a predicate on a column of type {}", other.text()))),
    }
    .map_err(|error| match error {
        NumberError::NotANumber => Error::invalid(format!("{text:?} is not a number")),
        other => Error::invalid(format!("{text:?} cannot be compared: {}", other.reason())),
    })?;
    Ok(KeyNeighbours { floor, ceil })
}

/// Where a time lies among timestamps: an epoch number, RFC 3339, or a date, which means its whole day.
fn time_neighbours(text: &str, unit: TimeUnit) -> Result<KeyNeighbours> {
    if let Ok((floor, ceil)) = number::integers_around(text.as_bytes(), 0) {
        return Ok(KeyNeighbours { floor, ceil });
    }
    let floor = parse_param(text, unit, Bound::End)?;
    let ceil = parse_param(text, unit, Bound::Start)?;
    Ok(KeyNeighbours { floor: Some(floor), ceil: Some(ceil) })
}

fn ranges_of(op: Operator, values: &[KeyNeighbours]) -> Result<Vec<(i64, i64)>> {
    let check_count = |wanted: usize| {
        if values.len() == wanted {
            Ok(())
        } else {
            let name = Operator::ALL.iter().find(|(known, _)| *known == op).map_or("", |(_, name)| name);
            let plural = if wanted == 1 { "" } else { "s" };
            Err(Error::invalid(format!("operator {name} takes {wanted} value{plural}, not {}", values.len())))
        }
    };
    let one = || -> Result<KeyNeighbours> {
        check_count(1)?;
        values.first().copied().ok_or_else(|| Error::invalid("a predicate has no value"))
    };
    // The keys equal to the value, if there are any.
    let exact = |value: &KeyNeighbours| value.ceil.zip(value.floor).filter(|(first, last)| first <= last);
    let at_least = |value: KeyNeighbours| value.ceil.map(|low| (low, i64::MAX));
    let at_most = |value: KeyNeighbours| value.floor.map(|high| (i64::MIN, high));
    let above = |value: KeyNeighbours| match exact(&value) {
        Some((_, last)) => last.checked_add(1).map(|low| (low, i64::MAX)),
        None => at_least(value),
    };
    let below = |value: KeyNeighbours| match exact(&value) {
        Some((first, _)) => first.checked_sub(1).map(|high| (i64::MIN, high)),
        None => at_most(value),
    };
    let intersect = |a: Option<(i64, i64)>, b: Option<(i64, i64)>| {
        let (a, b) = (a?, b?);
        let (low, high) = (a.0.max(b.0), a.1.min(b.1));
        (low <= high).then_some((low, high))
    };
    let points = || {
        let mut points: Vec<(i64, i64)> = values.iter().filter_map(exact).collect();
        points.sort_unstable();
        // A time can lie within a date of the same list.
        points.dedup_by(|next, last| {
            let is_within = next.0 <= last.1;
            last.1 = if is_within { last.1.max(next.1) } else { last.1 };
            is_within
        });
        points
    };
    Ok(match op {
        Operator::Eq => {
            one()?;
            points()
        }
        Operator::Ne => {
            one()?;
            complement(&points())
        }
        Operator::Gt => above(one()?).into_iter().collect(),
        Operator::Gte => at_least(one()?).into_iter().collect(),
        Operator::Lt => below(one()?).into_iter().collect(),
        Operator::Lte => at_most(one()?).into_iter().collect(),
        Operator::Between | Operator::BetweenExclusive => {
            check_count(2)?;
            let [first, second] = values else { return Err(Error::invalid("between takes two values")) };
            if op == Operator::Between {
                intersect(at_least(*first), at_most(*second)).into_iter().collect()
            } else {
                intersect(above(*first), below(*second)).into_iter().collect()
            }
        }
        Operator::In | Operator::NotIn => {
            if values.is_empty() {
                return Err(Error::invalid("the set of values is empty"));
            }
            if op == Operator::In { points() } else { complement(&points()) }
        }
    })
}

/// The keys outside ascending, disjoint, closed ranges.
fn complement(points: &[(i64, i64)]) -> Vec<(i64, i64)> {
    let mut ranges = Vec::with_capacity(points.len() + 1);
    let mut low = Some(i64::MIN);
    for (first, last) in points {
        if let (Some(from), Some(to)) = (low, first.checked_sub(1))
            && from <= to
        {
            ranges.push((from, to));
        }
        low = last.checked_add(1);
    }
    ranges.extend(low.map(|low| (low, i64::MAX)));
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{SeriesKey, SeriesSpec};

    fn doubles() -> SeriesDef {
        SeriesSpec::of_key(&SeriesKey::scalar("c", "X", "1m", "n").unwrap()).resolve().unwrap()
    }

    fn matching(predicate: &str, values: &[f64]) -> Vec<f64> {
        let compiled = compile(&doubles(), &[Predicate::parse(predicate).unwrap()], NumberFormat::Stored).unwrap();
        let words: Vec<i64> = values.iter().map(|value| value.to_bits().cast_signed()).collect();
        let mut marks = vec![true; words.len()];
        compiled[0].keep(&words, &mut marks);
        let matched: Vec<f64> = values.iter().zip(&marks).filter(|(_, mark)| **mark).map(|(value, _)| *value).collect();
        assert_eq!(compiled[0].count(&words), matched.len());
        matched
    }

    #[test]
    fn every_text_of_a_double_finds_it_and_no_neighbour() {
        let near = [0.1_f64.next_down(), 0.1, 0.1_f64.next_up()];
        for text in ["0.1", "0.10", "1e-1", "0.1000000000000000055511151231257827", "0.10000000000000001"] {
            assert_eq!(matching(&format!("eq:{text}"), &near), [0.1], "{text}");
            assert_eq!(matching(&format!("in:7,{text}"), &near), [0.1], "{text}");
            assert_eq!(matching(&format!("ne:{text}"), &near), [near[0], near[2]], "{text}");
            assert_eq!(matching(&format!("not_in:7,{text}"), &near), [near[0], near[2]], "{text}");
            assert_eq!(matching(&format!("gt:{text}"), &near), [near[2]], "{text}");
            assert_eq!(matching(&format!("gte:{text}"), &near), near[1..], "{text}");
            assert_eq!(matching(&format!("lt:{text}"), &near), [near[0]], "{text}");
            assert_eq!(matching(&format!("lte:{text}"), &near), near[..2], "{text}");
            assert_eq!(matching(&format!("between:{text},{text}"), &near), [0.1], "{text}");
            assert!(matching(&format!("between_exclusive:{text},{text}"), &near).is_empty(), "{text}");
        }
        assert!(matching("eq:0.2", &near).is_empty());
        // Beyond the largest double no value is equal, and all are less.
        assert!(matching("eq:1e400", &[f64::MAX]).is_empty());
        assert_eq!(matching("lt:1e400", &[f64::MAX]), [f64::MAX]);
        assert_eq!(matching("eq:-0", &[0.0]), [0.0]);
    }

    #[test]
    fn binary_search_of_a_large_set_agrees_with_a_check_of_each_value() {
        let mut spec = SeriesSpec::of_key(&SeriesKey::scalar("c", "X", "1m", "n").unwrap());
        spec.value = serde_json::from_str(r#"{"type":"int64"}"#).unwrap();
        let def = spec.resolve().unwrap();
        // Every third number: one value in three matches, wherever it lies among 90,000.
        let set: Vec<Value> = (0..90_000_i64).rev().map(|n| Value::from((n - 45_000) * 3)).collect();
        for op in [Operator::In, Operator::NotIn] {
            let predicate = Predicate { column: None, op, value: Value::Array(set.clone()) };
            let compiled = compile(&def, &[predicate], NumberFormat::Stored).unwrap();
            let words: Vec<i64> = (-150_000..150_000).collect();
            let is_in = |word: i64| word % 3 == 0 && (-135_000..=134_997).contains(&word);
            let wanted = words.iter().filter(|word| is_in(**word) == (op == Operator::In)).count();
            assert_eq!(compiled[0].count(&words), wanted);
            assert!(words.iter().all(|word| compiled[0].matches(*word) == (is_in(*word) == (op == Operator::In))));
        }
    }

    #[test]
    fn more_values_than_the_limit_are_rejected_with_a_hint() {
        let list = |count: usize| Value::Array((0..count).map(Value::from).collect());
        let compile_lists = |values: &[usize]| {
            let predicates: Vec<Predicate> =
                values.iter().map(|count| Predicate { column: None, op: Operator::In, value: list(*count) }).collect();
            compile(&doubles(), &predicates, NumberFormat::Stored)
        };
        assert!(compile_lists(&[VALUES_MAX]).is_ok());
        for values in [&[VALUES_MAX + 1][..], &[VALUES_MAX, 1]] {
            let error = compile_lists(values).unwrap_err();
            assert_eq!(error.code(), ErrorCode::TooLarge);
            assert!(error.detail().contains("100001") && error.hint().unwrap().contains("between"), "{error:?}");
        }
    }
}
