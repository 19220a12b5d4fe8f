//! Registrations: columns, time unit, partitioning and other properties of a series.
//!
//! [`SeriesSpec`] is the input of a caller; [`SeriesDef`] is its validated and completed form. The engine works on any
//! `SeriesDef`; `kline` and `scalar` only decide which columns a spec expands to.

use serde::{Deserialize, Serialize};

use super::cells;
use super::column::CellLayout;
use super::key::{Kind, SeriesKey};
use super::number::DIGITS_MAX;
use super::time::TimeUnit;
use crate::error::{Error, ErrorCode, Result};

/// Maximum number of columns of a series, without `ts`.
pub const COLUMNS_MAX: usize = 64;

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

/// Checks the values of an enum.
fn check_values(name: &str, values: &[String]) -> Result<()> {
    let invalid = |what: String| Err(Error::invalid(format!("column {name}: {what}")));
    if values.is_empty() || values.len() > ENUM_VALUES_MAX {
        return invalid(format!("an enum has 1 to {ENUM_VALUES_MAX} values, not {}", values.len()));
    }
    let is_word = |value: &str| {
        !value.is_empty() && value.len() <= 64 && !value.contains(|c: char| c.is_control() || c == ',' || c == '"')
    };
    for (position, value) in values.iter().enumerate() {
        if !is_word(value) {
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
    use super::{Column, MergeRule};

    /// Type of a column.
    #[derive(utoipa::ToSchema)]
    #[schema(as = ColumnKind, rename_all = "lowercase")]
    #[allow(dead_code, reason = "documents a field")]
    enum ColumnKind {
        Decimal,
        Float64,
        Int64,
    }

    /// One number column.
    #[derive(utoipa::ToSchema)]
    #[schema(as = Column)]
    #[allow(dead_code, reason = "documents a type")]
    struct ColumnObject {
        name: String,
        r#type: ColumnKind,
        /// Digits after the decimal point, of a decimal column.
        #[schema(required = false, value_type = u8, maximum = 18)]
        digits: Option<u8>,
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
    Day,
    Month,
    Year,
    All,
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
                _ => Err(Error::invalid("order: unique must list ts first").with_hint(r#"such as {"unique":["ts"]}"#)),
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

/// A complete registration. Its JSON form is stored in every chunk file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeriesDef {
    pub key: SeriesKey,
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
    /// Number columns in order; `ts` comes before them and is not listed.
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

    pub fn kind(&self) -> Kind {
        self.key.kind()
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

    /// Whether two registrations describe the same rows. Fields that `PATCH` can change are ignored.
    pub fn same_rows_as(&self, other: &SeriesDef) -> bool {
        self.key == other.key
            && self.unit == other.unit
            && self.partition == other.partition
            && self.interval_ms == other.interval_ms
            && self.origin == other.origin
            && self.columns == other.columns
    }

    /// # Errors
    /// `series_exists` unless this registered definition describes the same rows as the requested one.
    pub fn check_same_rows_as(&self, requested: &SeriesDef) -> Result<()> {
        if self.same_rows_as(requested) {
            return Ok(());
        }
        Err(Error::new(ErrorCode::SeriesExists, format!("series {} is registered with another definition", self.key))
            .with_hint("GET the series to compare; drop it first to register it again"))
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

/// A registration request: the body of `POST /v1/series`, `create` of a Flight write, and the flags of the command
/// line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct SeriesSpec {
    pub kind: Kind,
    pub symbol: String,
    pub timeframe: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Digits of open, high, low and close; without them these columns are float64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_digits: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_digits: Option<u8>,
    /// 10^price_digits, the form of the fastk_bridge contract 0.1.0-rc.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_scale: Option<i64>,
    /// 10^volume_digits, the form of the fastk_bridge contract 0.1.0-rc.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_scale: Option<i64>,
    /// The value column of a scalar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<ColumnSpec>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_columns: Vec<ColumnSpec>,
    #[serde(default)]
    pub unit: TimeUnit,
    /// `auto`, `day`, `month`, `year` or `all`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calendar: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_index: Option<ValueIndexSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

impl SeriesSpec {
    /// A spec with only the parts of the key.
    pub fn of_key(key: &SeriesKey) -> Self {
        Self {
            kind: key.kind(),
            symbol: key.symbol().into(),
            timeframe: key.timeframe().into(),
            category: key.category().map(Into::into),
            name: key.name().map(Into::into),
            price_digits: None,
            volume_digits: None,
            price_scale: None,
            volume_scale: None,
            value: None,
            extra_columns: Vec::new(),
            unit: TimeUnit::default(),
            partition: None,
            interval_ms: None,
            origin: None,
            calendar: None,
            retention: None,
            value_index: None,
            description: None,
        }
    }

    /// Validates the spec and completes it.
    ///
    /// # Errors
    /// `invalid_argument`, naming the field.
    pub fn resolve(self) -> Result<SeriesDef> {
        let key = match self.kind {
            Kind::Kline => {
                if self.category.is_some() || self.name.is_some() || self.value.is_some() {
                    return Err(Error::invalid("a kline has no category, name or value"));
                }
                SeriesKey::kline(&self.symbol, &self.timeframe)?
            }
            Kind::Scalar => {
                let needed = |what: &str| Error::invalid(format!("a scalar needs a {what}"));
                let category = self.category.as_deref().ok_or_else(|| needed("category"))?;
                let name = self.name.as_deref().ok_or_else(|| needed("name"))?;
                SeriesKey::scalar(category, &self.symbol, &self.timeframe, name)?
            }
        };
        let columns = self.columns()?;
        let interval_ms = match (self.interval_ms, timeframe_ms(&self.timeframe)) {
            (Some(given), _) if given <= 0 => {
                return Err(Error::invalid(format!("interval_ms {given} is not positive")));
            }
            (Some(given), Some(implied)) if given != implied => {
                return Err(Error::invalid(format!(
                    "interval_ms {given} contradicts timeframe {} ({implied} ms)",
                    self.timeframe
                )));
            }
            (given, implied) => given.or(implied),
        };
        let partition = match self.partition.as_deref() {
            None | Some("auto") => auto_partition(&self.timeframe, interval_ms),
            Some("day") => Partition::Day,
            Some("month") => Partition::Month,
            Some("year") => Partition::Year,
            Some("all") => Partition::All,
            Some(other) => {
                return Err(Error::invalid(format!("partition {other:?} is not one of auto, day, month, year, all")));
            }
        };
        let value_index = match self.value_index {
            None => Vec::new(),
            Some(requested) => requested.resolve(&columns)?,
        };
        if let Some(retention) = &self.retention {
            retention.check()?;
        }
        super::calendar::Calendar::of(self.calendar.as_ref())?;
        self.description.as_deref().map_or(Ok(()), check_description)?;
        Ok(SeriesDef {
            key,
            unit: self.unit,
            partition,
            interval_ms,
            origin: self.origin,
            calendar: self.calendar,
            retention: self.retention,
            value_index,
            description: self.description,
            schema_version: 0,
            order: OrderRule::default(),
            columns,
        })
    }

    fn columns(&self) -> Result<Vec<Column>> {
        let mut columns = Vec::new();
        match self.kind {
            Kind::Kline => {
                let price = number_kind("price", self.price_digits, self.price_scale)?;
                let volume = number_kind("volume", self.volume_digits, self.volume_scale)?;
                for (name, kind, merge) in [
                    ("open", price, MergeRule::First),
                    ("high", price, MergeRule::Max),
                    ("low", price, MergeRule::Min),
                    ("close", price, MergeRule::Last),
                    ("volume", volume, MergeRule::Sum),
                ] {
                    columns.push(Column { merge, ..Column::new(name, kind) });
                }
            }
            Kind::Scalar => {
                if self.price_digits.or(self.volume_digits).is_some()
                    || self.price_scale.or(self.volume_scale).is_some()
                {
                    return Err(Error::invalid("the digits of a scalar belong in value, not in price_digits"));
                }
                let value =
                    self.value.clone().unwrap_or(ColumnSpec { name: None, kind: None, digits: None, merge: None });
                if value.name.as_deref().is_some_and(|name| name != "value") {
                    return Err(Error::invalid("the column of a scalar must be named value"));
                }
                columns.push(Column {
                    merge: value.merge.unwrap_or_default(),
                    ..Column::new("value", column_kind("value", &value)?)
                });
            }
        }
        for extra in &self.extra_columns {
            let name = extra.name.clone().ok_or_else(|| Error::invalid("an extra column needs a name"))?;
            check_column_name(&name)?;
            if name == "ts" || name == "series" || columns.iter().any(|column| column.name == name) {
                return Err(Error::invalid(format!("extra column {name:?} already exists")));
            }
            let kind = column_kind(&name, extra)?;
            columns.push(Column { merge: extra.merge.unwrap_or_default(), ..Column::new(name, kind) });
        }
        if columns.len() > COLUMNS_MAX {
            return Err(Error::invalid(format!("{} columns are more than {COLUMNS_MAX}", columns.len())));
        }
        Ok(columns)
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

fn check_column_name(name: &str) -> Result<()> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
    if !first || name.len() > 32 || !bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
        return Err(Error::invalid(format!("column name {:?} is not [a-z][a-z0-9_]{{0,31}}", name)));
    }
    Ok(())
}

fn check_digits(what: &str, digits: u8) -> Result<u8> {
    if digits > DIGITS_MAX {
        return Err(Error::invalid(format!("{what}: {digits} digits are more than {DIGITS_MAX}")));
    }
    Ok(digits)
}

fn number_kind(what: &str, digits: Option<u8>, scale: Option<i64>) -> Result<ColumnType> {
    let from_scale = match scale {
        None => None,
        Some(scale) => {
            let digits = (0..=DIGITS_MAX).find(|digits| 10_i64.checked_pow(u32::from(*digits)) == Some(scale));
            Some(digits.ok_or_else(|| Error::invalid(format!("{what}_scale {scale} is not a power of ten")))?)
        }
    };
    match (digits, from_scale) {
        (Some(given), Some(implied)) if given != implied => {
            Err(Error::invalid(format!("{what}_digits {given} contradicts {what}_scale of {implied} digits")))
        }
        (Some(digits), _) | (None, Some(digits)) => {
            Ok(ColumnType::Decimal { digits: check_digits(&format!("{what}_digits"), digits)? })
        }
        (None, None) => Ok(ColumnType::Float64),
    }
}

fn column_kind(name: &str, spec: &ColumnSpec) -> Result<ColumnType> {
    let kind = spec.kind.as_deref();
    if kind.is_some_and(|kind| !["decimal", "float64", "int64"].contains(&kind)) {
        let shown = kind.unwrap_or_default();
        return Err(Error::invalid(format!("column {name}: type {shown:?} is not one of decimal, float64, int64")));
    }
    column_type(name, &ColumnParameters { kind, digits: spec.digits, ..ColumnParameters::default() })
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

/// The smallest partition that holds at least one full block of intervals.
fn auto_partition(timeframe: &str, interval_ms: Option<i64>) -> Partition {
    const DAY_MS: i64 = 86_400_000;
    if timeframe_months(timeframe).is_some() {
        return Partition::All;
    }
    let Some(interval_ms) = interval_ms else { return Partition::Month };
    if interval_ms >= DAY_MS {
        return Partition::All;
    }
    let span_min = interval_ms.saturating_mul(16_384);
    // By the shortest month and year, so that every partition is long enough.
    if span_min <= DAY_MS {
        Partition::Day
    } else if span_min <= 28 * DAY_MS {
        Partition::Month
    } else if span_min <= 365 * DAY_MS {
        Partition::Year
    } else {
        Partition::All
    }
}

/// The error for a series that is not registered.
pub fn series_not_found(key: &SeriesKey) -> Error {
    Error::new(ErrorCode::SeriesNotFound, format!("series {key} is not registered"))
        .with_hint("register it with POST /v1/series or `fastk register`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Result<SeriesDef> {
        serde_json::from_str::<SeriesSpec>(json).unwrap().resolve()
    }

    #[test]
    fn digits_and_scales_are_equivalent() {
        let a =
            spec(r#"{"kind":"kline","symbol":"BTCUSDT","timeframe":"1m","price_digits":2,"volume_digits":8}"#).unwrap();
        let b =
            spec(r#"{"kind":"kline","symbol":"BTCUSDT","timeframe":"1m","price_scale":100,"volume_scale":100000000}"#)
                .unwrap();
        assert_eq!(a, b);
        assert_eq!(a.columns[0].kind, ColumnType::Decimal { digits: 2 });
        assert!(spec(r#"{"kind":"kline","symbol":"X","timeframe":"1m","price_scale":7}"#).is_err());
        assert!(spec(r#"{"kind":"kline","symbol":"X","timeframe":"1m","price_digits":19}"#).is_err());
    }

    #[test]
    fn the_automatic_partition_holds_a_block_of_intervals() {
        let partition_of = |timeframe: &str| {
            spec(&format!(r#"{{"kind":"kline","symbol":"X","timeframe":"{timeframe}"}}"#)).unwrap().partition
        };
        assert_eq!(partition_of("1s"), Partition::Day);
        assert_eq!(partition_of("1m"), Partition::Month);
        assert_eq!(partition_of("5m"), Partition::Year);
        assert_eq!(partition_of("1h"), Partition::All);
        assert_eq!(partition_of("1d"), Partition::All);
        assert_eq!(partition_of("3d"), Partition::All);
        assert_eq!(partition_of("1M"), Partition::All);
        assert_eq!(partition_of("tick"), Partition::Month);
    }

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
    fn a_definition_survives_its_json_form() {
        let def = spec(
            r#"{"kind":"kline","symbol":"BTCUSDT","timeframe":"1m","price_digits":2,"unit":"us","value_index":["close"],
                "extra_columns":[{"name":"quote_volume","type":"decimal","digits":4,"merge":"sum"},{"name":"trades","type":"int64"}]}"#,
        )
        .unwrap();
        let text = serde_json::to_string(&def).unwrap();
        assert_eq!(serde_json::from_str::<SeriesDef>(&text).unwrap(), def);
        for bad in ["ts", "close", "Trades", "1x", ""] {
            let json =
                format!(r#"{{"kind":"kline","symbol":"X","timeframe":"1m","extra_columns":[{{"name":"{bad}"}}]}}"#);
            assert!(spec(&json).is_err(), "{bad}");
        }
    }
}
