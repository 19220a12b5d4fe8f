//! Registrations: columns, time unit, partitioning and other properties of a series.
//!
//! [`SeriesDef`] is a complete registration: it has everything that the engine needs of the kind of the series.
//! [`SeriesSpec`](super::SeriesSpec) is the input of a caller, from which it is made.

use serde::{Deserialize, Serialize};

use super::cells;
use super::column::CellLayout;
use super::key::SeriesKey;
use super::number::DIGITS_MAX;
use super::rules::RowRule;
use super::time::TimeUnit;
use crate::error::{Error, ErrorCode, Result};

/// Maximum number of columns of a series, without `ts`.
pub const COLUMNS_MAX: usize = 64;
/// Names that columns cannot have: those of the time and of the series in results.
const RESERVED_COLUMNS: [&str; 2] = ["ts", "series"];

/// Type of the cells of a column. All cells of a type have the same width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// Fixed point: `i64` scaled by a power of ten, |raw| < 10^18.
    Decimal {
        digits: u8,
    },
    /// Fixed point of 16 bytes: `i128` scaled by a power of ten, |raw| < 10^38.
    WideDecimal {
        digits: u8,
    },
    /// IEEE 754, finite.
    Float64,
    Float32,
    Int64,
    Int32,
    Int16,
    Int8,
    UInt64,
    UInt32,
    UInt16,
    UInt8,
    Bool,
    /// A time in UTC, as `i64` in its own unit.
    Timestamp {
        unit: TimeUnit,
    },
    /// One of the values that the column lists, as its position (`u8`).
    Enum,
    /// A text of the dictionary of the series, as its position (`u32`).
    Text,
    /// A fixed number of bytes.
    Bytes {
        length: u16,
    },
}

impl ColumnType {
    /// How the cells lie in memory.
    pub fn layout(self) -> CellLayout {
        match self {
            ColumnType::Decimal { .. }
            | ColumnType::Float64
            | ColumnType::Int64
            | ColumnType::UInt64
            | ColumnType::Timestamp { .. } => CellLayout::WORD,
            ColumnType::WideDecimal { .. } => CellLayout::Bytes(16),
            ColumnType::Float32 | ColumnType::Int32 | ColumnType::UInt32 | ColumnType::Text => CellLayout::Bytes(4),
            ColumnType::Int16 | ColumnType::UInt16 => CellLayout::Bytes(2),
            ColumnType::Int8 | ColumnType::UInt8 | ColumnType::Enum => CellLayout::Bytes(1),
            ColumnType::Bytes { length } => CellLayout::Bytes(length),
            ColumnType::Bool => CellLayout::Flag,
        }
    }

    /// The type as messages and listings name it, such as `decimal(2)`.
    pub fn text(self) -> String {
        match self {
            ColumnType::Decimal { digits } => format!("decimal({digits})"),
            ColumnType::WideDecimal { digits } => format!("decimal({digits}, wide)"),
            ColumnType::Timestamp { unit } => format!("timestamp({})", unit.name()),
            ColumnType::Bytes { length } => format!("bytes({length})"),
            other => other.name().to_owned(),
        }
    }

    /// The type without its parameters, as registrations name it.
    pub fn name(self) -> &'static str {
        match self {
            ColumnType::Decimal { .. } | ColumnType::WideDecimal { .. } => "decimal",
            ColumnType::Float64 => "float64",
            ColumnType::Float32 => "float32",
            ColumnType::Int64 => "int64",
            ColumnType::Int32 => "int32",
            ColumnType::Int16 => "int16",
            ColumnType::Int8 => "int8",
            ColumnType::UInt64 => "uint64",
            ColumnType::UInt32 => "uint32",
            ColumnType::UInt16 => "uint16",
            ColumnType::UInt8 => "uint8",
            ColumnType::Bool => "bool",
            ColumnType::Timestamp { .. } => "timestamp",
            ColumnType::Enum => "enum",
            ColumnType::Text => "text",
            ColumnType::Bytes { .. } => "bytes",
        }
    }

    /// Whether cells are positions in a list of texts.
    pub fn has_dictionary(self) -> bool {
        matches!(self, ColumnType::Enum | ColumnType::Text)
    }

    /// Digits after the decimal point of a decimal column of 8 bytes.
    pub fn digits(self) -> Option<u8> {
        match self {
            ColumnType::Decimal { digits } => Some(digits),
            _ => None,
        }
    }
}

/// How a column behaves when an open bar is merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum MergeRule {
    /// The first value stays (`open`).
    First,
    Sum,
    Min,
    Max,
    #[default]
    Last,
}

impl MergeRule {
    /// The rule as JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Sum => "sum",
            Self::Min => "min",
            Self::Max => "max",
            Self::Last => "last",
        }
    }
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "ColumnJson", into = "ColumnJson")]
pub struct Column {
    pub name: String,
    pub kind: ColumnType,
    pub merge: MergeRule,
    /// Whether cells can be null.
    pub nullable: bool,
    /// The values of an enum; no other type has any.
    pub values: Vec<String>,
}

impl Column {
    /// A column whose cells are never null.
    pub fn new(name: impl Into<String>, kind: ColumnType) -> Self {
        Self { name: name.into(), kind, merge: MergeRule::default(), nullable: false, values: Vec::new() }
    }
}

/// A column as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ColumnJson {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digits: Option<u8>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    wide: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<TimeUnit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    length: Option<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    values: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    nullable: bool,
    #[serde(default)]
    merge: MergeRule,
}

impl From<Column> for ColumnJson {
    fn from(column: Column) -> Self {
        let Column { name, kind, merge, nullable, values } = column;
        let (mut digits, mut unit, mut length) = (None, None, None);
        match kind {
            ColumnType::Decimal { digits: count } | ColumnType::WideDecimal { digits: count } => digits = Some(count),
            ColumnType::Timestamp { unit: of } => unit = Some(of),
            ColumnType::Bytes { length: bytes } => length = Some(bytes),
            _ => {}
        }
        let wide = matches!(kind, ColumnType::WideDecimal { .. });
        Self { name, kind: kind.name().to_owned(), digits, wide, unit, length, values, nullable, merge }
    }
}

impl TryFrom<ColumnJson> for Column {
    type Error = Error;

    fn try_from(json: ColumnJson) -> Result<Self> {
        let kind = column_type(
            &json.name,
            &ColumnParameters {
                kind: Some(&json.kind),
                digits: json.digits,
                wide: json.wide,
                unit: json.unit,
                length: json.length,
                values: &json.values,
            },
        )?;
        let ColumnJson { name, merge, nullable, values, .. } = json;
        Ok(Self { name, kind, merge, nullable, values })
    }
}

/// Maximum bytes of a cell of `bytes`.
pub const BYTES_LENGTH_MAX: u16 = 1_024;
/// Maximum number of values of an enum.
pub const ENUM_VALUES_MAX: usize = 256;
/// Maximum digits of a decimal of 16 bytes.
pub const WIDE_DIGITS_MAX: u8 = 38;

/// A type and its parameters as callers give them.
#[derive(Clone, Copy, Debug, Default)]
pub struct ColumnParameters<'a> {
    /// Without a type, digits make it `decimal`; else it is `float64`.
    pub kind: Option<&'a str>,
    pub digits: Option<u8>,
    pub wide: bool,
    pub unit: Option<TimeUnit>,
    pub length: Option<u16>,
    pub values: &'a [String],
}

/// The type that a caller describes.
///
/// # Errors
/// `invalid_argument` naming the column, for an unknown type and for parameters that it lacks or does not take.
pub fn column_type(name: &str, given: &ColumnParameters<'_>) -> Result<ColumnType> {
    let invalid = |what: String| Error::invalid(format!("column {name}: {what}"));
    let kind = given.kind.unwrap_or(if given.digits.is_some() { "decimal" } else { "float64" });
    let misplaced = [
        ("digits", given.digits.is_some(), "decimal"),
        ("wide", given.wide, "decimal"),
        ("unit", given.unit.is_some(), "timestamp"),
        ("length", given.length.is_some(), "bytes"),
        ("values", !given.values.is_empty(), "enum"),
    ];
    if let Some((what, _, of)) = misplaced.into_iter().find(|(_, is_given, of)| *is_given && *of != kind) {
        return Err(invalid(format!("only {of} takes {what}")));
    }
    Ok(match kind {
        "decimal" => {
            let digits = given.digits.ok_or_else(|| invalid("decimal needs digits".into()))?;
            let most = if given.wide { WIDE_DIGITS_MAX } else { DIGITS_MAX };
            if digits > most {
                return Err(invalid(format!("{digits} digits are more than {most}")));
            }
            if given.wide { ColumnType::WideDecimal { digits } } else { ColumnType::Decimal { digits } }
        }
        "timestamp" => {
            ColumnType::Timestamp { unit: given.unit.ok_or_else(|| invalid("timestamp needs a unit".into()))? }
        }
        "bytes" => match given.length {
            Some(length @ 1..=BYTES_LENGTH_MAX) => ColumnType::Bytes { length },
            Some(length) => return Err(invalid(format!("length {length} is not 1 to {BYTES_LENGTH_MAX}"))),
            None => return Err(invalid("bytes needs a length".into())),
        },
        "enum" => {
            check_values(name, given.values)?;
            ColumnType::Enum
        }
        other => {
            let plain = [
                ColumnType::Float64,
                ColumnType::Float32,
                ColumnType::Int64,
                ColumnType::Int32,
                ColumnType::Int16,
                ColumnType::Int8,
                ColumnType::UInt64,
                ColumnType::UInt32,
                ColumnType::UInt16,
                ColumnType::UInt8,
                ColumnType::Bool,
                ColumnType::Text,
            ];
            plain.into_iter().find(|kind| kind.name() == other).ok_or_else(|| {
                let known: Vec<&str> = plain.iter().map(|kind| kind.name()).collect();
                invalid(format!("type {other:?} is not one of decimal, timestamp, bytes, enum, {}", known.join(", ")))
            })?
        }
    })
}

/// Checks that the cells of a column can be merged by its rule: sums need numbers, the smallest and the largest an order.
///
/// # Errors
/// `invalid_argument` naming the column.
pub fn check_merge(column: &Column) -> Result<()> {
    let kind = column.kind;
    let has_order = !matches!(kind, ColumnType::Bool | ColumnType::Enum | ColumnType::Text);
    let is_number = has_order && !matches!(kind, ColumnType::Timestamp { .. } | ColumnType::Bytes { .. });
    let can_merge = match column.merge {
        MergeRule::First | MergeRule::Last => true,
        MergeRule::Min | MergeRule::Max => has_order,
        MergeRule::Sum => is_number,
    };
    if can_merge {
        return Ok(());
    }
    let possible = if has_order { "first, min, max or last" } else { "first or last" };
    Err(Error::invalid(format!("column {}: {} cannot be merged by {}", column.name, kind.text(), column.merge.name()))
        .with_hint(format!("merge is {possible}")))
}

/// Whether a text can be a value of an enum.
pub fn is_enum_value(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && !text.contains(|c: char| c.is_control() || c == ',' || c == '"')
}

/// Checks the values of an enum.
fn check_values(name: &str, values: &[String]) -> Result<()> {
    let invalid = |what: String| Err(Error::invalid(format!("column {name}: {what}")));
    if values.is_empty() || values.len() > ENUM_VALUES_MAX {
        return invalid(format!("an enum has 1 to {ENUM_VALUES_MAX} values, not {}", values.len()));
    }
    for (position, value) in values.iter().enumerate() {
        if !is_enum_value(value) {
            return invalid(format!("enum value {value:?} is not 1 to 64 bytes without quotes, commas and controls"));
        }
        if values.iter().take(position).any(|earlier| earlier == value) {
            return invalid(format!("enum value {value:?} is listed twice"));
        }
    }
    Ok(())
}

/// A column in the OpenAPI document: one object, since client generators do not support the union of [`ColumnType`].
#[cfg(feature = "server")]
mod document {
    use super::{Column, MergeRule, TimeUnit};

    /// Type of a column.
    #[derive(utoipa::ToSchema)]
    #[schema(as = ColumnKind, rename_all = "lowercase")]
    #[allow(dead_code, reason = "documents a field")]
    enum ColumnKind {
        Decimal,
        Float64,
        Float32,
        Int64,
        Int32,
        Int16,
        Int8,
        UInt64,
        UInt32,
        UInt16,
        UInt8,
        Bool,
        Timestamp,
        Enum,
        Text,
        Bytes,
    }

    /// One column.
    #[derive(utoipa::ToSchema)]
    #[schema(as = Column)]
    #[allow(dead_code, reason = "documents a type")]
    struct ColumnObject {
        name: String,
        r#type: ColumnKind,
        /// Digits after the decimal point, of a decimal column: up to 18, or up to 38 when it is wide.
        #[schema(required = false, value_type = u8, maximum = 38)]
        digits: Option<u8>,
        /// Whether a decimal has 16 bytes, for |scaled integer| < 10^38 instead of 10^18.
        #[schema(required = false)]
        wide: bool,
        /// Unit of a timestamp column.
        #[schema(required = false, value_type = TimeUnit)]
        unit: Option<TimeUnit>,
        /// Bytes of a cell of a bytes column.
        #[schema(required = false, value_type = u16, minimum = 1, maximum = 1024)]
        length: Option<u16>,
        /// The values of an enum, at most 256.
        #[schema(required = false)]
        values: Vec<String>,
        /// Whether cells can be null.
        #[schema(required = false)]
        nullable: bool,
        #[schema(required = false)]
        merge: MergeRule,
    }

    impl utoipa::PartialSchema for Column {
        fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
            ColumnObject::schema()
        }
    }

    impl utoipa::ToSchema for Column {
        fn name() -> std::borrow::Cow<'static, str> {
            "Column".into()
        }

        fn schemas(schemas: &mut Vec<(String, utoipa::openapi::RefOr<utoipa::openapi::Schema>)>) {
            ColumnObject::schemas(schemas);
        }
    }
}

/// Partitioning of the time axis, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum Partition {
    Hour,
    Day,
    Month,
    Year,
    All,
}

impl Partition {
    /// The name in registrations.
    pub fn name(self) -> &'static str {
        match self {
            Partition::Hour => "hour",
            Partition::Day => "day",
            Partition::Month => "month",
            Partition::Year => "year",
            Partition::All => "all",
        }
    }
}

/// Partitioning as a kind or a caller gives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PartitionRule {
    /// The smallest partition that holds a block of intervals; a day where there are no intervals.
    #[default]
    Auto,
    Fixed(Partition),
}

impl PartitionRule {
    /// The names of all rules.
    pub const NAMES: [&'static str; 6] = ["auto", "hour", "day", "month", "year", "all"];

    /// The name in registrations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fixed(partition) => partition.name(),
        }
    }
}

impl std::str::FromStr for PartitionRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let fixed = [Partition::Hour, Partition::Day, Partition::Month, Partition::Year, Partition::All];
        fixed
            .into_iter()
            .find(|partition| partition.name() == text)
            .map(Self::Fixed)
            .ok_or_else(|| Error::invalid(format!("partition {text:?} is not one of {}", Self::NAMES.join(", "))))
    }
}

impl Serialize for PartitionRule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for PartitionRule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error: Error| serde::de::Error::custom(error.detail()))
    }
}

/// How rows of one series are ordered, and which of them replace others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "OrderJson", into = "OrderJson")]
pub enum OrderRule {
    /// One row per timestamp and values of these columns; the newest wins. Rows of one timestamp are in the order of the
    /// columns.
    Unique(Vec<String>),
    /// Any number of rows per timestamp, in the order of arrival: by commit, then by row of the commit. No row replaces
    /// another one.
    Arrival,
}

impl Default for OrderRule {
    /// One row per timestamp.
    fn default() -> Self {
        Self::Unique(Vec::new())
    }
}

impl OrderRule {
    /// Whether there is at most one row per timestamp.
    pub fn is_by_timestamp(&self) -> bool {
        matches!(self, Self::Unique(columns) if columns.is_empty())
    }

    /// The columns that tell rows of one timestamp apart.
    pub fn key_columns(&self) -> &[String] {
        match self {
            Self::Unique(columns) => columns,
            Self::Arrival => &[],
        }
    }
}

/// An order rule as JSON: `"arrival"` or `{"unique":["ts","seq"]}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OrderJson {
    Arrival,
    Unique(Vec<String>),
}

impl From<OrderRule> for OrderJson {
    fn from(rule: OrderRule) -> Self {
        match rule {
            OrderRule::Arrival => Self::Arrival,
            OrderRule::Unique(columns) => Self::Unique(std::iter::once("ts".to_owned()).chain(columns).collect()),
        }
    }
}

impl TryFrom<OrderJson> for OrderRule {
    type Error = Error;

    fn try_from(json: OrderJson) -> Result<Self> {
        match json {
            OrderJson::Arrival => Ok(Self::Arrival),
            OrderJson::Unique(columns) => match columns.split_first() {
                Some((first, rest)) if first == "ts" => Ok(Self::Unique(rest.to_vec())),
                _ => Err(Error::invalid(r#"order: unique must list ts first, such as {"unique":["ts"]}"#)),
            },
        }
    }
}

/// When old rows expire, by age or count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Retention {
    /// Maximum age of rows, such as `30d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<String>,
    /// Maximum number of rows.
    #[cfg_attr(feature = "server", schema(minimum = 1))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rows: Option<u64>,
}

impl Serialize for Retention {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Retention {
    /// Only from an object: derived code would also accept a list of the field values in order.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = serde_json::Map::deserialize(deserializer)?;
        Self::deserialize(serde_json::Value::Object(object)).map_err(serde::de::Error::custom)
    }
}

impl Retention {
    /// The maximum age in milliseconds.
    ///
    /// # Errors
    /// `invalid_argument` unless it is a count and one of `s m h d w`.
    pub fn max_age_ms(&self) -> Result<Option<i64>> {
        let Some(text) = &self.max_age else { return Ok(None) };
        let age = timeframe_ms(text).ok_or_else(|| {
            Error::invalid(format!("retention: max_age {text:?} is not a duration"))
                .with_hint("such as 90m, 30d or 52w")
        })?;
        Ok(Some(age))
    }

    /// Validates the values.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub fn check(&self) -> Result<()> {
        self.max_age_ms()?;
        match self.max_rows {
            Some(0) => Err(Error::invalid("retention: max_rows is 0").with_hint("delete or drop the series instead")),
            _ => Ok(()),
        }
    }
}

/// Name of the word of a key that states the interval between rows.
pub const TIMEFRAME: &str = "timeframe";

/// A complete registration. Its JSON form is stored in every chunk file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeriesDef {
    pub key: SeriesKey,
    /// What the words of the key after the kind are, such as `symbol` and `timeframe`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key_names: Vec<String>,
    /// Unit of `ts`.
    pub unit: TimeUnit,
    pub partition: Partition,
    /// Length of one interval in milliseconds, where the timeframe has a fixed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<i64>,
    /// Phase of several-day bars: a timestamp in `unit` that starts a bar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<i64>,
    /// When rows are expected; `24x7` when absent. See [`Calendar`](super::Calendar).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calendar: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Columns that get a value index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub value_index: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Incremented by each change of columns. Files have the registration of their rows, and are read under a later one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub schema_version: u32,
    /// One row per timestamp when absent.
    #[serde(default, skip_serializing_if = "OrderRule::is_by_timestamp")]
    pub order: OrderRule,
    /// Rules that each row must follow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RowRule>,
    /// Columns in order; `ts` comes before them and is not listed.
    pub columns: Vec<Column>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl SeriesDef {
    /// How the cells of all columns lie in memory, `ts` first.
    pub fn all_layouts(&self) -> impl Iterator<Item = CellLayout> + Clone + '_ {
        std::iter::once(CellLayout::WORD).chain(self.columns.iter().map(|column| column.kind.layout()))
    }

    /// Positions of the columns that tell rows of one timestamp apart; `ts` is column 0. Empty where there is one row per
    /// timestamp, and for rows in the order of arrival.
    pub fn unique_columns(&self) -> Vec<usize> {
        match &self.order {
            OrderRule::Unique(names) => names.iter().filter_map(|name| Some(self.column(name)? + 1)).collect(),
            OrderRule::Arrival => Vec::new(),
        }
    }

    /// Name of the kind: the first word of the key.
    pub fn kind(&self) -> &str {
        self.key.kind()
    }

    /// The word of the key that has this name, such as `symbol`.
    pub fn key_word(&self, name: &str) -> Option<&str> {
        let at = self.key_names.iter().position(|known| known == name)?;
        self.key.words().nth(at)
    }

    /// The label of the timeframe, for kinds with a `timeframe` in their key.
    pub fn timeframe(&self) -> Option<&str> {
        self.key_word(TIMEFRAME)
    }

    /// How the cells of a column lie in memory; `ts` is column 0.
    pub fn layout(&self, column: usize) -> CellLayout {
        column.checked_sub(1).map_or(CellLayout::WORD, |column| cells::column(&self.columns, column).kind.layout())
    }

    /// How the cells of the columns lie in memory, without `ts`.
    pub fn layouts(&self) -> impl ExactSizeIterator<Item = CellLayout> + '_ {
        self.columns.iter().map(|column| column.kind.layout())
    }

    /// Position of a number column by name.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// Position of a number column named by a caller.
    ///
    /// # Errors
    /// `schema_mismatch`, listing the columns of the series.
    pub fn column_named(&self, name: &str) -> Result<usize> {
        self.column(name).ok_or_else(|| {
            let known: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
            Error::new(ErrorCode::SchemaMismatch, format!("series {} has no column {name:?}", self.key))
                .with_hint(format!("it has ts, {}", known.join(", ")))
        })
    }
}

/// A column in a registration request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct ColumnSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `decimal`, `float64` or `int64`; `decimal` when digits are given, else `float64`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digits: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge: Option<MergeRule>,
}

/// `true` for every column, or the columns by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum ValueIndexSpec {
    All(bool),
    Columns(Vec<String>),
}

impl ValueIndexSpec {
    /// The selected columns, by name.
    ///
    /// # Errors
    /// `invalid_argument` for a name that is not a column.
    pub fn resolve(self, columns: &[Column]) -> Result<Vec<String>> {
        match self {
            ValueIndexSpec::All(false) => Ok(Vec::new()),
            ValueIndexSpec::All(true) => Ok(columns.iter().map(|column| column.name.clone()).collect()),
            ValueIndexSpec::Columns(names) => {
                match names.iter().find(|name| !columns.iter().any(|column| column.name == **name)) {
                    Some(unknown) => {
                        Err(Error::invalid(format!("value_index lists {unknown:?}, which is not a column")))
                    }
                    None => Ok(names),
                }
            }
        }
    }
}

/// Rejects a description that is too long to be stored in every file.
///
/// # Errors
/// `invalid_argument`.
pub fn check_description(text: &str) -> Result<()> {
    if text.len() > 4096 {
        return Err(Error::invalid("description is longer than 4096 bytes"));
    }
    Ok(())
}

/// Rejects names that columns cannot have.
///
/// # Errors
/// `invalid_argument`.
pub fn check_column_name(name: &str) -> Result<()> {
    if RESERVED_COLUMNS.contains(&name) {
        return Err(Error::invalid(format!("column name {name:?} is reserved")));
    }
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
    if !first || name.len() > 32 || !bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
        return Err(Error::invalid(format!("column name {:?} is not [a-z][a-z0-9_]{{0,31}}", name)));
    }
    Ok(())
}

/// Milliseconds of a timeframe label with a fixed length: `<n>` + `s m h d w`. Months have no fixed length.
pub fn timeframe_ms(label: &str) -> Option<i64> {
    let split = label.len().checked_sub(1)?;
    let (count, unit) = (label.get(..split)?, label.get(split..)?);
    if count.starts_with('0') || !count.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: i64 = count.parse().ok()?;
    let unit_ms: i64 = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 604_800_000,
        _ => return None,
    };
    count.checked_mul(unit_ms)
}

/// Number of calendar months of a label `<n>M`.
pub fn timeframe_months(label: &str) -> Option<u32> {
    let count = label.strip_suffix('M')?;
    if count.starts_with('0') { None } else { count.parse().ok() }
}

/// Rejects a label that means a timeframe but is spelled differently, such as `1D`, `60min` or `0m`: its bars would
/// have no length and a different series. Other labels are not interpreted.
///
/// # Errors
/// `invalid_argument` with the right spelling.
pub fn check_timeframe(label: &str) -> Result<()> {
    if timeframe_ms(label).is_some() || timeframe_months(label).is_some() {
        return Ok(());
    }
    let (count, word) = label.split_at(label.find(|c: char| !c.is_ascii_digit()).unwrap_or(label.len()));
    let word = word.trim_start_matches(['-', '_', '.']).to_ascii_lowercase();
    let (months, unit) = match word.as_str() {
        "s" | "sec" | "secs" | "second" | "seconds" => (1, "s"),
        "m" | "min" | "mins" | "minute" | "minutes" => (1, "m"),
        "h" | "hr" | "hrs" | "hour" | "hours" => (1, "h"),
        "d" | "day" | "days" => (1, "d"),
        "w" | "wk" | "wks" | "week" | "weeks" => (1, "w"),
        "mo" | "mon" | "mth" | "month" | "months" => (1, "M"),
        "y" | "yr" | "yrs" | "year" | "years" => (12, "M"),
        _ => return Ok(()),
    };
    // Without a count it is an ordinary label.
    if count.is_empty() {
        return Ok(());
    }
    let unit = if label.ends_with('M') && word == "m" { "M" } else { unit };
    let rule = "a timeframe is a count from 1 on and one of s, m, h, d, w and M (months)";
    let right = count.parse::<u32>().ok().and_then(|count| count.checked_mul(months)).filter(|count| *count > 0);
    Err(match right {
        Some(count) => {
            let right = format!("{count}{unit}");
            Error::invalid(format!("timeframe {label:?} must be written as {right:?}"))
                .with_hint(format!("use {right}; {rule}"))
        }
        None => Error::invalid(format!("timeframe {label:?} has no valid count")).with_hint(rule),
    })
}

/// The error for a series that is not registered.
pub fn series_not_found(key: &SeriesKey) -> Error {
    Error::new(ErrorCode::SeriesNotFound, format!("series {key} is not registered"))
        .with_hint("register it with POST /v1/series or `fastk register`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_spellings_of_a_timeframe_are_rejected_with_the_right_one() {
        for (label, right) in [
            ("1D", "1d"),
            ("1H", "1h"),
            ("4H", "4h"),
            ("1W", "1w"),
            ("1min", "1m"),
            ("60min", "60m"),
            ("1Min", "1m"),
            ("15-minutes", "15m"),
            ("1hour", "1h"),
            ("1day", "1d"),
            ("01m", "1m"),
            ("1mo", "1M"),
            ("03M", "3M"),
            ("1Y", "12M"),
            ("30S", "30s"),
        ] {
            let error = check_timeframe(label).unwrap_err();
            assert!(error.hint().unwrap().starts_with(&format!("use {right};")), "{label}: {error:?}");
        }
        for label in ["0m", "00h", "0M", "99999999999999999999m"] {
            assert!(check_timeframe(label).unwrap_err().detail().contains("count"), "{label}");
        }
        for label in ["1m", "60m", "1M", "12M", "3d", "2w", "tick", "100tick", "5R", "m", "day", "60", "v1000", "1T"] {
            assert!(check_timeframe(label).is_ok(), "{label}");
        }
    }

    #[test]
    fn every_partition_rule_has_a_name() {
        for name in PartitionRule::NAMES {
            assert_eq!(name.parse::<PartitionRule>().unwrap().name(), name);
        }
        assert!("week".parse::<PartitionRule>().is_err());
    }
}
