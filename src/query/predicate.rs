//! Predicates on columns: `column op value`, combined by AND.
//!
//! Every predicate is compiled once into closed ranges of the values of its column. A value with more digits than a
//! decimal column is never rounded into a match; for a column of floats a value is the float its text parses to. Rows,
//! zones and chunks are then checked against the same ranges.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, ErrorCode, Result};
use crate::format::order_key::{KeyCell, NativeType};
use crate::query::condition::{Condition, Ranges};
use crate::query::result::NumberFormat;
use crate::types::number::{self, NumberError};
use crate::types::time::{Bound, parse_param};
use crate::types::width::narrow;
use crate::types::{Column, ColumnType, Dictionary, SeriesDef, TimeUnit};

/// How a cell is compared. A null matches `is_null` only.
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
    /// Texts, enum values and bytes that start with the value.
    Prefix,
    /// Takes no value.
    IsNull,
    /// Takes no value.
    IsNotNull,
}

/// How many values an operator takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arity {
    Exactly(usize),
    AtLeastOne,
}

impl Operator {
    /// All operators with their names.
    pub const ALL: [(Operator, &'static str); 13] = [
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
        (Operator::Prefix, "prefix"),
        (Operator::IsNull, "is_null"),
        (Operator::IsNotNull, "is_not_null"),
    ];

    /// Parses an operator name; `-` is read as `_`.
    pub fn from_name(name: &str) -> Result<Self> {
        let plain = name.replace('-', "_");
        Self::ALL.iter().find(|(_, known)| *known == plain).map(|(operator, _)| *operator).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|(_, name)| *name).collect();
            Error::invalid(format!("operator {name:?} is not one of {}", known.join(", ")))
        })
    }

    /// The name of the operator.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(known, _)| *known == self).map_or("", |(_, name)| name)
    }

    fn arity(self) -> Arity {
        match self {
            Self::IsNull | Self::IsNotNull => Arity::Exactly(0),
            Self::Between | Self::BetweenExclusive => Arity::Exactly(2),
            Self::In | Self::NotIn => Arity::AtLeastOne,
            Self::Eq | Self::Ne | Self::Gt | Self::Gte | Self::Lt | Self::Lte | Self::Prefix => Arity::Exactly(1),
        }
    }

    /// Whether cells of a type can be compared so.
    fn applies_to(self, kind: ColumnType) -> bool {
        let is_label = matches!(kind, ColumnType::Enum | ColumnType::Text);
        match self {
            Self::Eq | Self::Ne | Self::In | Self::NotIn | Self::IsNull | Self::IsNotNull => true,
            Self::Prefix => is_label || matches!(kind, ColumnType::Bytes { .. }),
            Self::Gt | Self::Gte | Self::Lt | Self::Lte | Self::Between | Self::BetweenExclusive => {
                !is_label && kind != ColumnType::Bool
            }
        }
    }

    fn check(self, kind: ColumnType, values: usize) -> Result<()> {
        if !self.applies_to(kind) {
            let known = Self::ALL.iter().filter(|(operator, _)| operator.applies_to(kind));
            let known: Vec<&str> = known.map(|(_, name)| *name).collect();
            return Err(Error::invalid(format!("operator {} does not apply to type {}", self.name(), kind.name()))
                .with_hint(format!("use one of {}", known.join(", "))));
        }
        match self.arity() {
            Arity::AtLeastOne if values == 0 => Err(Error::invalid("the set of values is empty")),
            Arity::Exactly(0) if values > 0 => Err(Error::invalid(format!("operator {} takes no value", self.name()))),
            Arity::Exactly(wanted) if values != wanted => {
                let plural = if wanted == 1 { "" } else { "s" };
                Err(Error::invalid(format!("operator {} takes {wanted} value{plural}, not {values}", self.name())))
            }
            _ => Ok(()),
        }
    }
}

/// A predicate as a caller writes it. Numbers can be given as text so that no digit is lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Predicate {
    /// `ts` or another column; a scalar's `value` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    pub op: Operator,
    /// One value, two for `between`, a list for `in` and `not_in`, none for `is_null` and `is_not_null`. For `ts` and
    /// other times an epoch number, RFC 3339 text or a date, which means its whole day; for `bool` true or false; for
    /// `bytes` hexadecimal text.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub value: Value,
}

impl Predicate {
    /// Parses `column:op:value[,value…]`; the column may be left out. A value with commas, quotes or blanks at its ends
    /// is written in double quotes, with quotes inside doubled. Operators without a value end the text.
    pub fn parse(text: &str) -> Result<Self> {
        let malformed =
            || Error::invalid(format!("predicate {text:?} is not column:op:value")).with_hint(syntax_hint(text));
        let is_operator = |word: &str| Operator::from_name(word).is_ok();
        let takes_none = |word: &str| Operator::from_name(word).is_ok_and(|op| op.arity() == Arity::Exactly(0));
        let parts: Vec<&str> = text.splitn(3, ':').collect();
        let (column, op, values) = match parts.as_slice() {
            // A value has a colon, and the column is left out.
            [op, value, _] if is_operator(op) && !is_operator(value) => {
                (None, *op, text.get(op.len() + 1..).unwrap_or_default())
            }
            [column, op, values] => (Some((*column).to_owned()), *op, *values),
            [column, op] if takes_none(op) => (Some((*column).to_owned()), *op, ""),
            [op, values] => (None, *op, *values),
            [op] if takes_none(op) => (None, *op, ""),
            _ => return Err(malformed()),
        };
        let op = Operator::from_name(op)?;
        if op.arity() == Arity::Exactly(0) && values.is_empty() {
            return Ok(Self { column, op, value: Value::Null });
        }
        if values.is_empty() {
            return Err(malformed());
        }
        let values: Vec<Value> = split_values(values)?.into_iter().map(Value::String).collect();
        let value = match <[Value; 1]>::try_from(values) {
            Ok([one]) => one,
            Err(several) => Value::Array(several),
        };
        Ok(Self { column, op, value })
    }
}

/// Splits values at commas; those in double quotes can have commas.
fn split_values(text: &str) -> Result<Vec<String>> {
    let mut values = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.trim_start().strip_prefix('"') else {
            let (value, tail) = rest.split_once(',').map_or((rest, None), |(value, tail)| (value, Some(tail)));
            values.push(value.trim().to_owned());
            match tail {
                Some(tail) => rest = tail,
                None => return Ok(values),
            }
            continue;
        };
        let mut value = String::new();
        let mut tail = quoted;
        loop {
            let Some((part, after)) = tail.split_once('"') else {
                return Err(Error::invalid(format!("a quote in the values {text:?} is not closed")));
            };
            value.push_str(part);
            match after.strip_prefix('"') {
                Some(after) => {
                    value.push('"');
                    tail = after;
                }
                None => {
                    tail = after.trim_start();
                    break;
                }
            }
        }
        values.push(value);
        match tail.strip_prefix(',') {
            Some(tail) => rest = tail,
            None if tail.is_empty() => return Ok(values),
            None => return Err(Error::invalid(format!("a quoted value of {text:?} is not followed by a comma"))),
        }
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
        let quoted = |value: String| {
            let is_plain = !value.is_empty() && !value.contains([',', '"']) && value.trim().len() == value.len();
            if is_plain { value } else { format!("\"{}\"", value.replace('"', "\"\"")) }
        };
        let values: Vec<String> = texts_of(&self.value).unwrap_or_default().into_iter().map(quoted).collect();
        let column = self.column.as_ref().map_or_else(String::new, |column| format!("{column}:"));
        let values =
            if self.op.arity() == Arity::Exactly(0) { String::new() } else { format!(":{}", values.join(",")) };
        format!("{column}{}{values}", self.op.name())
    }
}

/// Maximum number of values of all predicates of a query together.
pub const VALUES_MAX: usize = 100_000;

/// Compiles predicates for a series with these dictionaries, one per column. `numbers=raw` reads values of decimals as
/// scaled integers.
///
/// # Errors
/// `schema_mismatch` for an unknown column; `invalid_argument` for a value that is not one of the type of the column, a
/// wrong number of values, or an operator that does not apply to the type; `too_large` for more than [`VALUES_MAX`]
/// values.
pub fn compile(
    def: &SeriesDef,
    dictionaries: &[Dictionary],
    predicates: &[Predicate],
    numbers: NumberFormat,
) -> Result<Vec<Condition>> {
    let values: usize = predicates.iter().map(|predicate| predicate.value.as_array().map_or(1, Vec::len)).sum();
    if values > VALUES_MAX {
        let detail = format!("the predicates have {values} values, more than {VALUES_MAX}");
        return Err(Error::new(ErrorCode::TooLarge, detail)
            .with_hint("query the set in several parts, or a range with between"));
    }
    let compile = |predicate: &Predicate| {
        let target = Target::of(def, predicate)?;
        target.compile(predicate, dictionaries, numbers).map_err(|error| {
            let named = Error::new(error.code(), format!("predicate on {}: {}", target.name, error.detail()));
            error.hint().map_or(named.clone(), |hint| named.with_hint(hint))
        })
    };
    predicates.iter().map(compile).collect()
}

/// Whether the conditions of the predicates depend on the dictionaries of the series.
pub fn depend_on_dictionaries(def: &SeriesDef, predicates: &[Predicate]) -> bool {
    predicates.iter().any(|predicate| Target::of(def, predicate).is_ok_and(|target| target.kind() == ColumnType::Text))
}

/// The column of a predicate.
struct Target<'a> {
    name: &'a str,
    /// Position of the column; `ts` is 0.
    position: usize,
    unit: TimeUnit,
    /// Absent for `ts`.
    column: Option<&'a Column>,
}

impl<'a> Target<'a> {
    fn of(def: &'a SeriesDef, predicate: &'a Predicate) -> Result<Self> {
        let position = match predicate.column.as_deref() {
            Some("ts") => return Ok(Self { name: "ts", position: 0, unit: def.unit, column: None }),
            None if def.columns.len() != 1 => {
                return Err(Error::invalid("a predicate on a series of several columns must name its column"));
            }
            None => 0,
            Some(name) => def.column_named(name)?,
        };
        let name = predicate.column.as_deref().unwrap_or("value");
        Ok(Self { name, position: position + 1, unit: def.unit, column: def.columns.get(position) })
    }

    fn kind(&self) -> ColumnType {
        self.column.map_or(ColumnType::Timestamp { unit: self.unit }, |column| column.kind)
    }

    fn compile(&self, predicate: &Predicate, dictionaries: &[Dictionary], numbers: NumberFormat) -> Result<Condition> {
        let (op, position) = (predicate.op, self.position);
        let texts = texts_of(&predicate.value)?;
        op.check(self.kind(), texts.len())?;
        match op {
            Operator::IsNull if self.column.is_some_and(|column| column.nullable) => {
                return Ok(Condition::is_null(position));
            }
            Operator::IsNull => return Ok(Condition::nothing(position)),
            Operator::IsNotNull => return Ok(Condition::is_not_null(position)),
            _ => {}
        }
        let native = NativeType::of(self.kind());
        let ranges = match (self.kind(), numbers) {
            (ColumnType::WideDecimal { digits }, _) => {
                let digits = if numbers == NumberFormat::Raw { 0 } else { digits };
                let values = texts.iter().map(|text| around(text, number::wide_around(text.as_bytes(), digits)));
                let values = values.collect::<Result<Vec<_>>>()?;
                return Ok(Condition::of_wide(position, ranges_of(op, &values, &(i128::MIN, i128::MAX))?));
            }
            (ColumnType::Bytes { length }, _) => {
                return Ok(Condition::of_bytes(position, length, byte_ranges(op, &texts, length)?));
            }
            (ColumnType::Enum, _) => {
                let labels = || self.column.into_iter().flat_map(|column| &column.values).map(String::as_str);
                let position_of = |text: &str| match labels().position(|label| label == text) {
                    Some(position) => Ok(Some(narrow(position))),
                    None => {
                        let known: Vec<&str> = labels().collect();
                        Err(Error::invalid(format!("{text:?} is not one of its values"))
                            .with_hint(format!("its values are {}", known.join(", "))))
                    }
                };
                label_ranges(op, &texts, native.keys(), labels, position_of)?
            }
            (ColumnType::Text, _) => {
                let dictionary = position.checked_sub(1).and_then(|column| dictionaries.get(column));
                let dictionary = dictionary.ok_or_else(|| Error::internal("the column has no dictionary"))?;
                let position_of = |text: &str| Ok(dictionary.position(text));
                label_ranges(op, &texts, native.keys(), || dictionary.texts().map(|text| &**text), position_of)?
            }
            (ColumnType::Decimal { .. }, NumberFormat::Raw) => {
                keys_of(op, &texts, native, |text| around(text, number::integers_around(text.as_bytes(), 0)))?
            }
            (kind, _) => keys_of(op, &texts, native, |text| neighbours(text, kind))?,
        };
        Ok(Condition::of_keys(position, native, ranges))
    }
}

/// The values of a predicate as text; none for null.
fn texts_of(value: &Value) -> Result<Vec<String>> {
    let text_of = |value: &Value| match value {
        Value::Number(number) => Ok(number.to_string()),
        Value::String(text) => Ok(text.clone()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Null => Err(Error::invalid("predicate value null: a null equals nothing")
            .with_hint("use the operator is_null or is_not_null")),
        other => Err(Error::invalid(format!("predicate value {other} is not a number or text"))),
    };
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(values) => values.iter().map(text_of).collect(),
        one => Ok(vec![text_of(one)?]),
    }
}

/// Where a value lies among those of a column: the highest one at or below its end, and the lowest at or above its
/// start. Both are the same when the column can hold the value. Start and end differ only for a date.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Neighbours<T> {
    floor: Option<T>,
    ceil: Option<T>,
}

impl<T: Clone> Neighbours<T> {
    fn exactly(value: &T) -> Self {
        Self { floor: Some(value.clone()), ceil: Some(value.clone()) }
    }
}

fn around<T>(text: &str, found: std::result::Result<(Option<T>, Option<T>), NumberError>) -> Result<Neighbours<T>> {
    match found {
        Ok((floor, ceil)) => Ok(Neighbours { floor, ceil }),
        Err(NumberError::NotANumber) => Err(Error::invalid(format!("{text:?} is not a number"))),
        Err(other) => Err(Error::invalid(format!("{text:?} cannot be compared: {}", other.reason()))),
    }
}

/// Where a value lies among the order keys of a type.
fn neighbours(text: &str, kind: ColumnType) -> Result<Neighbours<i64>> {
    let bytes = text.as_bytes();
    match kind {
        ColumnType::Float64 => {
            let keys = |(floor, ceil): (Option<f64>, Option<f64>)| (floor.map(f64::order), ceil.map(f64::order));
            around(text, number::doubles_around(bytes).map(keys))
        }
        ColumnType::Float32 => {
            let keys = |(floor, ceil): (Option<f32>, Option<f32>)| {
                (floor.map(KeyCell::order_key), ceil.map(KeyCell::order_key))
            };
            around(text, number::floats_around(bytes).map(keys))
        }
        ColumnType::Decimal { digits } => around(text, number::integers_around(bytes, digits)),
        ColumnType::UInt64 => {
            let highest = i128::from(u64::MAX);
            // Less than 0 is below all keys, more than the highest integer above all.
            let key = |value: i128| u64::try_from(value.clamp(0, highest)).ok().map(u64::order);
            let keys = |(floor, ceil): (Option<i128>, Option<i128>)| {
                (floor.filter(|floor| *floor >= 0).and_then(key), ceil.filter(|ceil| *ceil <= highest).and_then(key))
            };
            around(text, number::wide_around(bytes, 0).map(keys))
        }
        ColumnType::Timestamp { unit } => time_neighbours(text, unit),
        ColumnType::Bool => match text {
            "false" => Ok(Neighbours::exactly(&0)),
            "true" => Ok(Neighbours::exactly(&1)),
            _ => Err(Error::invalid(format!("{text:?} is not true or false"))),
        },
        ColumnType::Int64
        | ColumnType::Int32
        | ColumnType::Int16
        | ColumnType::Int8
        | ColumnType::UInt32
        | ColumnType::UInt16
        | ColumnType::UInt8 => around(text, number::integers_around(bytes, 0)),
        ColumnType::WideDecimal { .. } | ColumnType::Enum | ColumnType::Text | ColumnType::Bytes { .. } => {
            Err(Error::internal(format!("a predicate by key on a column of type {}", kind.text())))
        }
    }
}

/// Where a time lies among timestamps: an epoch number, RFC 3339, or a date, which means its whole day.
fn time_neighbours(text: &str, unit: TimeUnit) -> Result<Neighbours<i64>> {
    if let Ok((floor, ceil)) = number::integers_around(text.as_bytes(), 0) {
        return Ok(Neighbours { floor, ceil });
    }
    let floor = parse_param(text, unit, Bound::End)?;
    let ceil = parse_param(text, unit, Bound::Start)?;
    Ok(Neighbours { floor: Some(floor), ceil: Some(ceil) })
}

fn keys_of(
    op: Operator,
    texts: &[String],
    native: NativeType,
    parse: impl Fn(&str) -> Result<Neighbours<i64>>,
) -> Result<Ranges<i64>> {
    let values = texts.iter().map(|text| parse(text)).collect::<Result<Vec<_>>>()?;
    ranges_of(op, &values, &native.keys())
}

/// Positions of labels, such as the texts of a dictionary.
fn label_ranges<'l, L: Iterator<Item = &'l str>>(
    op: Operator,
    texts: &[String],
    positions: (i64, i64),
    labels: impl Fn() -> L,
    position_of: impl Fn(&str) -> Result<Option<u32>>,
) -> Result<Ranges<i64>> {
    let mut found: Vec<i64> = match op {
        Operator::Prefix => {
            let starts = |label: &str| texts.iter().any(|prefix| label.starts_with(prefix));
            (0..).zip(labels()).filter(|(_, label)| starts(label)).map(|(position, _)| position).collect()
        }
        _ => {
            let found = texts.iter().map(|text| position_of(text)).collect::<Result<Vec<_>>>()?;
            found.into_iter().flatten().map(i64::from).collect()
        }
    };
    found.sort_unstable();
    let mut ranges: Ranges<i64> = Vec::new();
    for position in found {
        match ranges.last_mut() {
            Some(last) if position <= last.1 + 1 => last.1 = position,
            _ => ranges.push((position, position)),
        }
    }
    Ok(if matches!(op, Operator::Ne | Operator::NotIn) { complement(&ranges, &positions) } else { ranges })
}

/// Cells of `length` bytes.
fn byte_ranges(op: Operator, texts: &[String], length: u16) -> Result<Ranges<Vec<u8>>> {
    let length = usize::from(length);
    let values = texts.iter().map(|text| parse_hex(text)).collect::<Result<Vec<_>>>()?;
    let is_prefix = op == Operator::Prefix;
    let is_right = |value: &Vec<u8>| value.len() == length || is_prefix && value.len() < length;
    if let Some(wrong) = values.iter().find(|value| !is_right(value)) {
        let detail = format!("a value has {} bytes, a cell has {length}", wrong.len());
        return Err(Error::invalid(detail).with_hint(format!("write {} hexadecimal digits", 2 * length)));
    }
    let filled = |value: &Vec<u8>, byte: u8| {
        let mut filled = value.clone();
        filled.resize(length, byte);
        filled
    };
    if is_prefix {
        return Ok(values.iter().map(|value| (filled(value, 0), filled(value, u8::MAX))).collect());
    }
    let values: Vec<Neighbours<Vec<u8>>> = values.iter().map(Neighbours::exactly).collect();
    ranges_of(op, &values, &(vec![0; length], vec![u8::MAX; length]))
}

fn parse_hex(text: &str) -> Result<Vec<u8>> {
    let invalid = || Error::invalid(format!("{text:?} is not bytes in hexadecimal, two digits each"));
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return Err(invalid());
    }
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    pairs.iter().map(byte).collect::<Option<Vec<u8>>>().ok_or_else(invalid)
}

/// Values that follow each other without another one between them.
trait Discrete: Clone + Ord {
    fn next(&self) -> Option<Self>;
    fn previous(&self) -> Option<Self>;
}

impl Discrete for i64 {
    fn next(&self) -> Option<Self> {
        self.checked_add(1)
    }

    fn previous(&self) -> Option<Self> {
        self.checked_sub(1)
    }
}

impl Discrete for i128 {
    fn next(&self) -> Option<Self> {
        self.checked_add(1)
    }

    fn previous(&self) -> Option<Self> {
        self.checked_sub(1)
    }
}

impl Discrete for Vec<u8> {
    fn next(&self) -> Option<Self> {
        stepped(self, u8::MAX, |byte| byte.wrapping_add(1))
    }

    fn previous(&self) -> Option<Self> {
        stepped(self, 0, |byte| byte.wrapping_sub(1))
    }
}

/// The big-endian number next to one: the last byte that is not `end` takes the step, and those after it wrap.
fn stepped(number: &[u8], end: u8, step: impl Fn(u8) -> u8) -> Option<Vec<u8>> {
    let at = number.iter().rposition(|byte| *byte != end)?;
    let step = |(position, byte): (usize, &u8)| if position < at { *byte } else { step(*byte) };
    Some(number.iter().enumerate().map(step).collect())
}

/// The values that match, among those from the lowest to the highest of the column.
fn ranges_of<T: Discrete>(op: Operator, values: &[Neighbours<T>], domain: &(T, T)) -> Result<Ranges<T>> {
    let (lowest, highest) = domain;
    let one = || values.first().ok_or_else(|| Error::internal("a predicate without its value"));
    // The values equal to the given one, if there are any.
    let exact = |value: &Neighbours<T>| value.ceil.clone().zip(value.floor.clone()).filter(|(a, b)| a <= b);
    let at_least = |value: &Neighbours<T>| value.ceil.clone().map(|low| (low, highest.clone()));
    let at_most = |value: &Neighbours<T>| value.floor.clone().map(|high| (lowest.clone(), high));
    let above = |value: &Neighbours<T>| match exact(value) {
        Some((_, last)) => last.next().map(|low| (low, highest.clone())),
        None => at_least(value),
    };
    let below = |value: &Neighbours<T>| match exact(value) {
        Some((first, _)) => first.previous().map(|high| (lowest.clone(), high)),
        None => at_most(value),
    };
    let within_domain = |(low, high): (T, T)| {
        let (low, high) = (low.max(lowest.clone()), high.min(highest.clone()));
        (low <= high).then_some((low, high))
    };
    let intersect = |a: Option<(T, T)>, b: Option<(T, T)>| {
        let (a, b) = (a?, b?);
        Some((a.0.max(b.0), a.1.min(b.1)))
    };
    let points = || {
        let mut points: Ranges<T> = values.iter().filter_map(exact).filter_map(within_domain).collect();
        points.sort_unstable();
        // A time can lie within a date of the same list.
        points.dedup_by(|next, last| {
            let is_within = next.0 <= last.1;
            if is_within && next.1 > last.1 {
                last.1 = next.1.clone();
            }
            is_within
        });
        points
    };
    let range = match op {
        Operator::Eq | Operator::In => return Ok(points()),
        Operator::Ne | Operator::NotIn => return Ok(complement(&points(), domain)),
        Operator::Gt => above(one()?),
        Operator::Gte => at_least(one()?),
        Operator::Lt => below(one()?),
        Operator::Lte => at_most(one()?),
        Operator::Between | Operator::BetweenExclusive => {
            let [first, second] = values else { return Err(Error::internal("a range without two values")) };
            if op == Operator::Between {
                intersect(at_least(first), at_most(second))
            } else {
                intersect(above(first), below(second))
            }
        }
        Operator::Prefix | Operator::IsNull | Operator::IsNotNull => {
            return Err(Error::internal(format!("operator {} has no range", op.name())));
        }
    };
    Ok(range.and_then(within_domain).into_iter().collect())
}

/// The values outside ascending, disjoint, closed ranges.
fn complement<T: Discrete>(points: &[(T, T)], (lowest, highest): &(T, T)) -> Ranges<T> {
    let mut ranges = Vec::with_capacity(points.len() + 1);
    let mut low = Some(lowest.clone());
    for (first, last) in points {
        if let (Some(from), Some(to)) = (low, first.previous())
            && from <= to
        {
            ranges.push((from, to));
        }
        low = last.next();
    }
    ranges.extend(low.filter(|low| low <= highest).map(|low| (low, highest.clone())));
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{CellSlice, ColumnCells, SeriesKey, SeriesSpec};

    fn doubles() -> SeriesDef {
        SeriesSpec::of_key(&SeriesKey::scalar("c", "X", "1m", "n").unwrap()).resolve().unwrap()
    }

    fn matching(predicate: &str, values: &[f64]) -> Vec<f64> {
        let predicates = [Predicate::parse(predicate).unwrap()];
        let compiled = compile(&doubles(), &[], &predicates, NumberFormat::Stored).unwrap();
        let cells = ColumnCells::from(values.to_vec());
        let mut marks = vec![true; values.len()];
        compiled[0].keep(cells.as_slice(), &mut marks);
        let matched: Vec<f64> = values.iter().zip(&marks).filter(|(_, mark)| **mark).map(|(value, _)| *value).collect();
        assert!(compiled[0].count(cells.as_slice()).is_none_or(|count| count == matched.len()));
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
            let compiled = compile(&def, &[], &[predicate], NumberFormat::Stored).unwrap();
            let words: Vec<i64> = (-150_000..150_000).collect();
            let is_in = |word: i64| word % 3 == 0 && (-135_000..=134_997).contains(&word);
            let wanted: Vec<bool> = words.iter().map(|word| is_in(*word) == (op == Operator::In)).collect();
            let mut marks = vec![true; words.len()];
            compiled[0].keep(CellSlice::of_words(&words), &mut marks);
            assert!(marks == wanted);
            let mut rows: Vec<u32> = (0..300_000).collect();
            compiled[0].retain(CellSlice::of_words(&words), &mut rows);
            assert!(rows.iter().copied().eq((0..).zip(&wanted).filter(|(_, wanted)| **wanted).map(|(row, _)| row)));
        }
    }

    #[test]
    fn a_predicate_is_the_same_as_text() {
        let predicate = |column: Option<&str>, op: Operator, values: &[&str]| {
            let value = match values {
                [] => Value::Null,
                [one] => Value::from(*one),
                several => Value::from(several.to_vec()),
            };
            Predicate { column: column.map(str::to_owned), op, value }
        };
        for (text, same) in [
            ("close:gt:100", predicate(Some("close"), Operator::Gt, &["100"])),
            ("gt:100", predicate(None, Operator::Gt, &["100"])),
            ("close:not-in: 1, 2", predicate(Some("close"), Operator::NotIn, &["1", "2"])),
            ("venue:is_null", predicate(Some("venue"), Operator::IsNull, &[])),
            ("venue:is-not-null", predicate(Some("venue"), Operator::IsNotNull, &[])),
            ("is_null", predicate(None, Operator::IsNull, &[])),
            ("ts:eq:2024-01-01T10:30", predicate(Some("ts"), Operator::Eq, &["2024-01-01T10:30"])),
            ("prefix:XNAS:A", predicate(None, Operator::Prefix, &["XNAS:A"])),
            ("venue:eq:", predicate(Some("venue"), Operator::Eq, &[""])),
            (
                r#"venue:in:"a,b", "say ""x""",c,"" ,"  d""#,
                predicate(Some("venue"), Operator::In, &["a,b", "say \"x\"", "c", "", "  d"]),
            ),
        ] {
            if !text.ends_with(':') {
                assert_eq!(Predicate::parse(text).unwrap(), same, "{text}");
            }
            assert_eq!(Predicate::parse(&same.to_text()).unwrap(), same, "{}", same.to_text());
        }
        for malformed in ["", "close", "close:gt:", "close:between", r#"close:eq:"1"#, r#"close:eq:"1"2"#, "close:is:1"]
        {
            assert_eq!(Predicate::parse(malformed).unwrap_err().code(), ErrorCode::InvalidArgument, "{malformed}");
        }
        let json = r#"{"column":"venue","op":"is_null"}"#;
        let parsed: Predicate = serde_json::from_str(json).unwrap();
        assert_eq!(parsed, predicate(Some("venue"), Operator::IsNull, &[]));
        assert_eq!(serde_json::to_string(&parsed).unwrap(), json);
    }

    #[test]
    fn more_values_than_the_limit_are_rejected_with_a_hint() {
        let list = |count: usize| Value::Array((0..count).map(Value::from).collect());
        let compile_lists = |values: &[usize]| {
            let predicates: Vec<Predicate> =
                values.iter().map(|count| Predicate { column: None, op: Operator::In, value: list(*count) }).collect();
            compile(&doubles(), &[], &predicates, NumberFormat::Stored)
        };
        assert!(compile_lists(&[VALUES_MAX]).is_ok());
        for values in [&[VALUES_MAX + 1][..], &[VALUES_MAX, 1]] {
            let error = compile_lists(values).unwrap_err();
            assert_eq!(error.code(), ErrorCode::TooLarge);
            assert!(error.detail().contains("100001") && error.hint().unwrap().contains("between"), "{error:?}");
        }
    }
}
