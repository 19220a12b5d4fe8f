//! Registration requests: what a caller says of a series that is to be registered.

use serde::{Deserialize, Serialize};

use super::calendar::Calendar;
use super::grid::interval_ticks;
use super::key::{KLINE, SCALAR, SeriesKey};
use super::kind::{KindDef, built_in_named, is_preset, kind_not_found};
use super::number::DIGITS_MAX;
use super::schema::{
    COLUMNS_MAX, Column, ColumnParameters, ColumnSpec, ColumnType, Partition, PartitionRule, Retention, SeriesDef,
    TIMEFRAME, ValueIndexSpec, check_column_name, check_description, column_type, timeframe_months, timeframe_ms,
};
use super::tick_kinds::{self, TickTypes};
use super::time::TimeUnit;
use crate::error::{Error, Result};

/// A registration request: the body of `POST /v1/series`, `create` of a Flight write, and the flags of the command
/// line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct SeriesSpec {
    /// `kline`, `scalar`, or a registered kind.
    pub kind: String,
    /// The words of the key after the kind, for every kind but kline and scalar.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    /// Of a kline or scalar, as are the next fields up to `extra_columns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeframe: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Digits of open, high, low and close, or of all prices of a kind of market events; without them these columns are
    /// float64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_digits: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_digits: Option<u8>,
    /// Of a kind of market events: the field, `trade_id` or `seq`, that tells rows of one timestamp apart; the newest row
    /// of an id wins. Without one all rows are kept, in the order of arrival.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup: Option<String>,
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
    /// Unit of `ts`; `ms`, or that of the kind, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<TimeUnit>,
    /// `auto`, `hour`, `day`, `month`, `year` or `all`.
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
        let words = key.words().map(str::to_owned);
        Self {
            kind: key.kind().into(),
            key: if is_preset(key.kind()) { Vec::new() } else { words.collect() },
            symbol: key.symbol().map(Into::into),
            timeframe: key.timeframe().map(Into::into),
            category: key.category().map(Into::into),
            name: key.name().map(Into::into),
            price_digits: None,
            volume_digits: None,
            dedup: None,
            price_scale: None,
            volume_scale: None,
            value: None,
            extra_columns: Vec::new(),
            unit: None,
            partition: None,
            interval_ms: None,
            origin: None,
            calendar: None,
            retention: None,
            value_index: None,
            description: None,
        }
    }

    /// The key of the series.
    ///
    /// # Errors
    /// `invalid_argument`, naming the field that is missing or superfluous.
    pub fn series_key(&self) -> Result<SeriesKey> {
        let needed = |what: &str| Error::invalid(format!("a {} needs a {what}", self.kind));
        let word = |what: &str, word: &'_ Option<String>| word.clone().ok_or_else(|| needed(what));
        if is_preset(&self.kind) && !self.key.is_empty() {
            return Err(Error::invalid(format!("a {} has no key, but a symbol and a timeframe", self.kind)));
        }
        if is_preset(&self.kind) && self.dedup.is_some() {
            return Err(Error::invalid(format!("dedup: a {} has one row per timestamp", self.kind)));
        }
        match self.kind.as_str() {
            KLINE => {
                if self.category.is_some() || self.name.is_some() || self.value.is_some() {
                    return Err(Error::invalid("a kline has no category, name or value"));
                }
                SeriesKey::kline(&word("symbol", &self.symbol)?, &word("timeframe", &self.timeframe)?)
            }
            SCALAR => SeriesKey::scalar(
                &word("category", &self.category)?,
                &word("symbol", &self.symbol)?,
                &word("timeframe", &self.timeframe)?,
                &word("name", &self.name)?,
            ),
            kind => {
                let is_registered = built_in_named(kind).is_none();
                let preset = [
                    ("symbol", self.symbol.is_some()),
                    ("timeframe", self.timeframe.is_some()),
                    ("category", self.category.is_some()),
                    ("name", self.name.is_some()),
                    ("price_digits", is_registered && self.price_digits.is_some()),
                    ("volume_digits", is_registered && self.volume_digits.is_some()),
                    ("dedup", is_registered && self.dedup.is_some()),
                    ("price_scale", self.price_scale.is_some()),
                    ("volume_scale", self.volume_scale.is_some()),
                    ("value", self.value.is_some()),
                    ("extra_columns", !self.extra_columns.is_empty()),
                ];
                if let Some((field, _)) = preset.into_iter().find(|(_, is_given)| *is_given) {
                    return Err(Error::invalid(format!("{field} is for klines and scalars, not for kind {kind:?}"))
                        .with_hint("the words of the key are in key, the fields in the kind"));
                }
                if self.key.is_empty() {
                    return Err(Error::invalid(format!("a series of kind {kind:?} needs a key"))
                        .with_hint(r#"such as {"kind":"greeks","key":["SPX","C5000"]}"#));
                }
                let words: Vec<&str> = self.key.iter().map(String::as_str).collect();
                SeriesKey::new(kind, &words)
            }
        }
    }

    /// Validates the spec of a series of a built-in kind and completes it.
    ///
    /// # Errors
    /// `invalid_argument`, naming the field; `not_found` for another kind, which [`SeriesSpec::resolve_as`] takes.
    pub fn resolve(self) -> Result<SeriesDef> {
        let key = self.series_key()?;
        let kind = built_in_named(&self.kind).ok_or_else(|| kind_not_found(&self.kind, std::iter::empty()))?;
        if is_preset(&kind.name) {
            let columns = self.columns(kind)?;
            return self.complete(kind, key, columns);
        }
        self.check_words(kind)?;
        let types = TickTypes {
            price_digits: self.price_digits,
            volume_digits: self.volume_digits,
            unit: self.unit.unwrap_or(kind.unit),
            dedup: self.dedup.as_deref(),
        };
        let (columns, order) = tick_kinds::typed(&kind.name, &kind.fields, &kind.order, types)?;
        Ok(SeriesDef { order, ..self.complete(kind, key, columns)? })
    }

    fn check_words(&self, kind: &KindDef) -> Result<()> {
        if self.key.len() == kind.key.len() {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "key of a series of kind {} has {} words, not {}: {}",
            kind.name,
            self.key.len(),
            kind.key.len(),
            kind.key.join(", ")
        )))
    }

    /// Validates the spec of a series of this kind and completes it.
    ///
    /// # Errors
    /// As [`SeriesSpec::resolve`].
    pub fn resolve_as(self, kind: &KindDef) -> Result<SeriesDef> {
        if self.kind != kind.name {
            return Err(Error::internal(format!("kind {:?} is not {:?}", kind.name, self.kind)));
        }
        if built_in_named(&self.kind).is_some() {
            return self.resolve();
        }
        let key = self.series_key()?;
        self.check_words(kind)?;
        self.complete(kind, key, kind.fields.clone())
    }

    fn complete(self, kind: &KindDef, key: SeriesKey, columns: Vec<Column>) -> Result<SeriesDef> {
        let at = kind.key.iter().position(|name| name == TIMEFRAME);
        let timeframe = at.and_then(|at| key.words().nth(at)).map(str::to_owned);
        let implied = timeframe.as_deref().and_then(timeframe_ms);
        let unit = self.unit.unwrap_or(kind.unit);
        let interval_ms = match (self.interval_ms, implied) {
            (Some(given), _) if given <= 0 => {
                return Err(Error::invalid(format!("interval_ms {given} is not positive")));
            }
            (Some(given), Some(implied)) if given != implied => {
                return Err(Error::invalid(format!(
                    "interval_ms {given} contradicts timeframe {} ({implied} ms)",
                    timeframe.unwrap_or_default()
                )));
            }
            (given, implied) => given.or(implied),
        };
        // A unit that is finer than the interval; one that is too fine is reported by what needs intervals.
        if let (Some(given), TimeUnit::S) = (interval_ms, unit) {
            interval_ticks(given, unit)?;
        }
        let partition = match self.partition.as_deref() {
            None => kind.partition,
            Some(given) => given.parse()?,
        };
        let partition = match partition {
            PartitionRule::Fixed(partition) => partition,
            PartitionRule::Auto => auto_partition(timeframe.as_deref(), interval_ms),
        };
        let value_index = match self.value_index {
            None => Vec::new(),
            Some(requested) => requested.resolve(&columns)?,
        };
        if let Some(retention) = &self.retention {
            retention.check()?;
        }
        Calendar::of(self.calendar.as_ref())?;
        self.description.as_deref().map_or(Ok(()), check_description)?;
        Ok(SeriesDef {
            key,
            key_names: kind.key.clone(),
            unit,
            partition,
            interval_ms,
            origin: self.origin,
            calendar: self.calendar,
            retention: self.retention,
            value_index,
            description: self.description,
            schema_version: 0,
            order: kind.order.clone(),
            rules: kind.rules.clone(),
            columns,
        })
    }

    /// The columns of a kline or scalar: the fields of its kind with the types of this registration.
    fn columns(&self, kind: &KindDef) -> Result<Vec<Column>> {
        let mut columns = kind.fields.clone();
        if kind.name == KLINE {
            let price = number_kind("price", self.price_digits, self.price_scale)?;
            let volume = number_kind("volume", self.volume_digits, self.volume_scale)?;
            for column in &mut columns {
                column.kind = if column.name == "volume" { volume } else { price };
            }
        } else {
            if self.price_digits.or(self.volume_digits).is_some() || self.price_scale.or(self.volume_scale).is_some() {
                return Err(Error::invalid("the digits of a scalar belong in value, not in price_digits"));
            }
            let value = self.value.clone().unwrap_or(ColumnSpec { name: None, kind: None, digits: None, merge: None });
            if value.name.as_deref().is_some_and(|name| name != "value") {
                return Err(Error::invalid("the column of a scalar must be named value"));
            }
            for column in &mut columns {
                column.kind = column_kind("value", &value)?;
                column.merge = value.merge.unwrap_or_default();
            }
        }
        for extra in &self.extra_columns {
            let name = extra.name.clone().ok_or_else(|| Error::invalid("an extra column needs a name"))?;
            check_column_name(&name)?;
            if columns.iter().any(|column| column.name == name) {
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

/// The smallest partition that holds at least one full block of intervals. Without intervals it is a day; a label of a
/// timeframe that states none, a month.
fn auto_partition(timeframe: Option<&str>, interval_ms: Option<i64>) -> Partition {
    const DAY_MS: i64 = 86_400_000;
    if timeframe.and_then(timeframe_months).is_some() {
        return Partition::All;
    }
    let Some(interval_ms) = interval_ms else {
        return if timeframe.is_some() { Partition::Month } else { Partition::Day };
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;
    use crate::types::OrderRule;

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

    #[test]
    fn a_series_of_a_kind_has_the_fields_of_the_kind() {
        let kind: KindDef = serde_json::from_str(
            r#"{"kind":"greeks","key":["underlying","contract"],"unit":"us","order":"arrival",
                "fields":[{"name":"delta","type":"float64","nullable":true}],
                "rules":[{"rule":"non_negative","field":"delta"}]}"#,
        )
        .unwrap();
        let of = |json: &str| serde_json::from_str::<SeriesSpec>(json).unwrap().resolve_as(&kind);
        let def = of(r#"{"kind":"greeks","key":["SPX","C5000"],"value_index":["delta"]}"#).unwrap();
        assert_eq!((def.key.as_str(), def.unit, def.partition), ("greeks/SPX/C5000", TimeUnit::Us, Partition::Day));
        assert_eq!((&def.order, &def.columns, &def.rules), (&OrderRule::Arrival, &kind.fields, &kind.rules));
        assert_eq!((def.key_word("contract"), def.timeframe()), (Some("C5000"), None));
        kind.check_series(&def).unwrap();
        assert_eq!(KindDef::of_series([&def]).unwrap().fields, kind.fields);
        let text = serde_json::to_string(&def).unwrap();
        assert_eq!(serde_json::from_str::<SeriesDef>(&text).unwrap(), def);
        let other = of(r#"{"kind":"greeks","key":["SPX","C5000"],"unit":"ns","partition":"hour"}"#).unwrap();
        assert_eq!((other.unit, other.partition), (TimeUnit::Ns, Partition::Hour));
        for (json, reason) in [
            (r#"{"kind":"greeks","key":["SPX"]}"#, "has 1 words, not 2"),
            (r#"{"kind":"greeks"}"#, "needs a key"),
            (r#"{"kind":"greeks","key":["SPX","C5000"],"price_digits":2}"#, "price_digits"),
            (r#"{"kind":"greeks","key":["SPX","../x"]}"#, "not allowed"),
            (r#"{"kind":"greeks","key":["SPX","C5000"],"partition":"week"}"#, "week"),
        ] {
            let error = of(json).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{reason}");
            assert!(error.detail().contains(reason), "{reason}: {}", error.detail());
        }
    }

    #[test]
    fn a_word_named_timeframe_states_the_interval() {
        let kind: KindDef = serde_json::from_str(
            r#"{"kind":"bars","key":["venue","timeframe"],"unit":"s","fields":[{"name":"c","type":"int32"}]}"#,
        )
        .unwrap();
        let of = |label: &str| SeriesSpec::of_key(&SeriesKey::new("bars", &["X", label]).unwrap()).resolve_as(&kind);
        let def = of("1m").unwrap();
        assert_eq!((def.timeframe(), def.interval_ms, def.partition), (Some("1m"), Some(60_000), Partition::Month));
        let spec =
            SeriesSpec { interval_ms: Some(500), ..SeriesSpec::of_key(&SeriesKey::new("bars", &["X", "t"]).unwrap()) };
        assert!(spec.resolve_as(&kind).unwrap_err().detail().contains("no multiple of unit s"));
    }
}
