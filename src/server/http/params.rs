//! Query parameters: unknown, repeated or malformed ones are rejected.
//!
//! The structs document the parameters in the OpenAPI document; their fields are the known names (tested).

use axum::extract::Query as UrlQuery;
use axum::http::Uri;
use utoipa::IntoParams;

use crate::egress::{EncodeOptions, JsonShape, OutFormat, TimeFormat};
use crate::error::{Error, Result};
use crate::ingest;
use crate::query::{FillRule, LimitTies, MultiLayout, NumberFormat, PartialRule, RowOrder};
use crate::service::{MergeOp, RowMode};
use crate::types::similar::distance;
use crate::types::{BucketAlign, Rounding};

macro_rules! documented {
    ($(#[$outer:meta])* $name:ident $(repeating $repeated:literal)* { $($(#[$inner:meta])* $field:ident,)* }) => {
        $(#[$outer])*
        #[derive(Debug, IntoParams)]
        #[into_params(parameter_in = Query)]
        #[allow(dead_code, reason = "documents parameters that are read one by one")]
        pub struct $name {
            $($(#[$inner])* $field: Option<String>,)*
        }

        impl RouteParams for $name {
            const NAMES: &'static [&'static str] = &[$(field_name(stringify!($field)),)*];
            const REPEATED: &'static [&'static str] = &["where", $($repeated,)*];
        }
    };
}

/// A field name without the prefix of a raw identifier.
const fn field_name(name: &'static str) -> &'static str {
    match name.as_bytes() {
        b"r#where" => "where",
        _ => name,
    }
}

/// The parameters of a route.
pub trait RouteParams {
    const NAMES: &'static [&'static str];
    /// Parameters that may be repeated.
    const REPEATED: &'static [&'static str];
}

documented! {
    /// Parameters of a read.
    ReadParams repeating "agg" {
        /// First timestamp: an epoch integer in the unit of the series, RFC 3339, or a date. The range is closed.
        start,
        /// Last timestamp; a date means its last instant.
        end,
        /// Number columns to return, separated by commas; `ts` always comes first.
        columns,
        /// A condition `column:op:value[,value…]`; may be repeated, and rows must satisfy all of them. Operators: eq,
        /// ne, gt, gte, lt, lte, between, between_exclusive, in, not_in, prefix, is_null, is_not_null; the last two
        /// take no value. A null satisfies is_null only. For a scalar the column may be omitted. Values of `ts` are
        /// times as in `start`; a date is the whole day. A text with commas is written in double quotes.
        #[param(value_type = Option<Vec<String>>)]
        r#where,
        /// Keep only the last N of these rows; for several series the last N of each.
        #[param(value_type = Option<u64>, minimum = 1)]
        latest,
        /// Keep only the rows of the last N consecutive complete intervals, by the calendar of the series; no rows when
        /// there are fewer. Excludes `latest`; `where` filters these rows.
        #[param(value_type = Option<u64>, minimum = 1)]
        latest_complete,
        /// Direction of the rows.
        #[param(value_type = Option<RowOrder>)]
        order,
        /// Return at most this many rows. JSON: 10,000 by default, with the headers `fastk-truncated` and `Link` when
        /// more rows follow; at most 1,000,000. Other formats have no limit.
        #[param(value_type = Option<u64>, minimum = 1)]
        limit,
        /// Whether `limit` may separate rows of one timestamp of a series: `whole` (the default) returns the rest of
        /// them too, `split` does not. Without effect where a series has one row per timestamp.
        #[param(value_type = Option<LimitTies>)]
        ties,
        /// Continues an earlier response to the same query: its `next_cursor`. Only JSON responses carry one;
        /// `columns`, `numbers`, `limit`, `ties` and the format may change.
        cursor,
        /// Format of number columns.
        #[param(value_type = Option<NumberFormat>)]
        numbers,
        /// Format of timestamps in JSON, NDJSON and CSV.
        #[param(value_type = Option<TimeFormat>)]
        times,
        /// Layout of JSON.
        #[param(value_type = Option<JsonShape>)]
        shape,
        /// Format of the response; takes precedence over `Accept`.
        #[param(value_type = Option<OutFormat>)]
        format,
        /// Read the store at the snapshot of this name, or a dataset: `dataset:NAME@VERSION`, or `dataset:NAME` for its
        /// latest version.
        as_of,
        /// Combine the rows to one row per bucket of this length: a count and one of s, m, h, d, w, M (months), q
        /// (quarters) and y, such as `1h` or `65m`. `start` and `end` select buckets by their start; each has all of its
        /// rows. Adds the columns `source_rows`, `complete` and `closed`.
        every,
        /// What the borders of buckets follow: by default `session` with `session`, `local` with `tz`, else `utc`.
        #[param(value_type = Option<BucketAlign>)]
        align,
        /// IANA zone of `align` `local` and `session`, such as `America/New_York`.
        tz,
        /// Trading sessions: `09:30-16:00`, `mon-fri 09:30-16:00`, several separated by commas, an exchange such as
        /// `XNYS`, or `calendar` for those of the calendar of the series. Rows outside of them are in no bucket.
        session,
        /// Shifts the borders: `09:30`, `-02:00`, `30m` or `-1d`; under `local` by local time.
        offset,
        /// What a bucket without rows, between buckets with rows, becomes; `none` by default.
        #[param(value_type = Option<FillRule>)]
        fill,
        /// What becomes of buckets that are not complete or not closed; `mark` by default.
        #[param(value_type = Option<PartialRule>)]
        partial,
        /// Columns of the result, separated by commas or repeated: `COLUMN:RULE` with a rule of first, last, min, max, sum,
        /// wide_sum, mean and count, `vwap(PRICE,QUANTITY)` or `count`; each optionally followed by ` if COLUMN:OP:VALUE`
        /// and ` as NAME`. By default each column of the series by its merge rule.
        #[param(value_type = Option<Vec<String>>)]
        agg,
        /// Return statistics of the scan: at the end of JSON, for other formats in the header or trailer `fastk-stats`.
        #[param(value_type = Option<bool>)]
        explain,
    }
}

documented! {
    /// Parameters of a read of several series, in addition to [`ReadParams`].
    ReadManyParams repeating "series" {
        /// Series keys and globs, separated by commas, or repeated: all of one kind, with `layout=wide` of any kinds.
        #[param(value_type = Vec<String>, explode = true)]
        series,
        /// Layout of several series: `wide` has one row per timestamp and one column per series and field.
        #[param(value_type = Option<MultiLayout>)]
        layout,
        /// How the series of `layout=wide` are joined: `exact` (the default), all timestamps of all series; or `asof:5m`, the
        /// rows of the first series with the last known row of each other series, no older than that. `asof:5m:ts` takes
        /// rows as known at their `ts` instead of the end of their interval.
        join,
    }
}

documented! {
    /// Parameters of a query whose other options are in the body.
    QueryParams {
        /// Format of timestamps in JSON, NDJSON and CSV.
        #[param(value_type = Option<TimeFormat>)]
        times,
        /// Layout of JSON.
        #[param(value_type = Option<JsonShape>)]
        shape,
        /// Format of the response; takes precedence over `Accept`.
        #[param(value_type = Option<OutFormat>)]
        format,
    }
}

documented! {
    /// Parameters of a SQL statement.
    SqlParams {
        /// Format of timestamps in JSON, NDJSON and CSV.
        #[param(value_type = Option<TimeFormat>)]
        times,
        /// Format of the response; takes precedence over `Accept`. JSON has at most `sql.json_rows_max` rows.
        #[param(value_type = Option<OutFormat>)]
        format,
    }
}

documented! {
    /// Parameters of a write.
    WriteParams {
        /// How rows whose timestamp is already stored are treated.
        #[param(value_type = Option<RowMode>)]
        mode,
        /// Which rules between the columns of a kline are checked.
        #[param(value_type = Option<ingest::RowRules>)]
        validate,
        /// How values with more digits than a column are treated.
        #[param(value_type = Option<Rounding>)]
        rounding,
        /// Whether decimals are written as numbers or as scaled integers.
        #[param(value_type = Option<ingest::DecimalInput>)]
        numbers,
        /// How rows with a missing value are treated; `skip` is for scalars.
        #[param(value_type = Option<ingest::MissingCells>)]
        missing,
        /// Whether timestamps must be on the grid of the timeframe; timeframes without a length have no grid.
        #[param(value_type = Option<ingest::GridRule>)]
        grid,
        /// Whether timestamps in early 1970 that apparently have another unit are rejected.
        #[param(value_type = Option<ingest::ImplausibleTs>)]
        implausible_ts,
        /// Format of the body; takes precedence over `Content-Type`.
        #[param(value_type = Option<ingest::BodyFormat>)]
        format,
    }
}

documented! {
    /// Parameters of a merge into a kline series.
    MergeKlineParams {
        /// Which rules between the columns of the sent rows are checked.
        #[param(value_type = Option<ingest::RowRules>)]
        validate,
        /// How values with more digits than a column are treated.
        #[param(value_type = Option<Rounding>)]
        rounding,
        /// Whether decimals are written as numbers or as scaled integers.
        #[param(value_type = Option<ingest::DecimalInput>)]
        numbers,
        /// How rows with a missing value are treated; `skip` is for scalars.
        #[param(value_type = Option<ingest::MissingCells>)]
        missing,
        /// Whether timestamps must be on the grid of the timeframe; timeframes without a length have no grid.
        #[param(value_type = Option<ingest::GridRule>)]
        grid,
        /// Whether timestamps in early 1970 that apparently have another unit are rejected.
        #[param(value_type = Option<ingest::ImplausibleTs>)]
        implausible_ts,
        /// Format of the body; takes precedence over `Content-Type`.
        #[param(value_type = Option<ingest::BodyFormat>)]
        format,
    }
}

documented! {
    /// Parameters of a merge into a scalar series.
    MergeScalarParams {
        /// How the sent value is merged into the stored one; by default the rule of the registration.
        #[param(value_type = Option<MergeOp>)]
        op,
        /// For klines; scalars have no rules between columns.
        #[param(value_type = Option<ingest::RowRules>)]
        validate,
        /// How values with more digits than the column are treated.
        #[param(value_type = Option<Rounding>)]
        rounding,
        /// Whether decimals are written as numbers or as scaled integers.
        #[param(value_type = Option<ingest::DecimalInput>)]
        numbers,
        /// How rows with a missing value are treated.
        #[param(value_type = Option<ingest::MissingCells>)]
        missing,
        /// Whether timestamps must be on the grid of the timeframe; timeframes without a length have no grid.
        #[param(value_type = Option<ingest::GridRule>)]
        grid,
        /// Whether timestamps in early 1970 that apparently have another unit are rejected.
        #[param(value_type = Option<ingest::ImplausibleTs>)]
        implausible_ts,
        /// Format of the body; takes precedence over `Content-Type`.
        #[param(value_type = Option<ingest::BodyFormat>)]
        format,
    }
}

documented! {
    /// A route without parameters.
    NoParams {}
}

/// The parameters of one request.
#[derive(Debug)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Parses the parameters of a request.
    ///
    /// # Errors
    /// `invalid_argument` for an unknown or repeated parameter.
    pub fn of<P: RouteParams>(uri: &Uri) -> Result<Self> {
        Self::known(uri, P::NAMES, P::REPEATED)
    }

    /// Like [`of`](Self::of), for a route whose parameters are documented by two structs.
    pub fn of_both<P: RouteParams, Q: RouteParams>(uri: &Uri) -> Result<Self> {
        Self::known(uri, &[P::NAMES, Q::NAMES].concat(), &[P::REPEATED, Q::REPEATED].concat())
    }

    /// Parses the parameters of a request with these names.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn known(uri: &Uri, names: &[&str], repeated: &[&str]) -> Result<Self> {
        let UrlQuery(pairs) = UrlQuery::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| Error::invalid(format!("the query string is invalid: {error}")))?;
        for (position, (name, _)) in pairs.iter().enumerate() {
            if !names.contains(&name.as_str()) {
                return Err(unknown(name, names));
            }
            let is_repeated = pairs.iter().take(position).any(|(earlier, _)| earlier == name);
            if is_repeated && !repeated.contains(&name.as_str()) {
                return Err(Error::invalid(format!("parameter {name} is given twice")));
            }
        }
        Ok(Self(pairs))
    }

    /// The value of a parameter.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// All values of a repeatable parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// A non-negative integer.
    pub fn count(&self, name: &str) -> Result<Option<u64>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let count = text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        count.map(Some).ok_or_else(|| {
            Error::invalid(format!("parameter {name}: {:?} is not a non-negative integer", excerpt(text)))
        })
    }

    /// `true` or `false`; false when absent.
    pub fn flag(&self, name: &str) -> Result<bool> {
        match self.text(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(Error::invalid(format!("parameter {name}: {:?} is not true or false", excerpt(other)))),
        }
    }

    /// A value of an enumeration; its default when absent.
    pub fn word<T: serde::de::DeserializeOwned + Default>(&self, name: &str) -> Result<T> {
        let Some(text) = self.text(name) else { return Ok(T::default()) };
        let read: std::result::Result<T, serde::de::value::Error> =
            T::deserialize(serde::de::value::StrDeserializer::new(text));
        read.map_err(|error| Error::invalid(format!("parameter {name}: {error}")))
    }

    /// A value of an enumeration, if it is given.
    pub fn optional_word<T: serde::de::DeserializeOwned + Default>(&self, name: &str) -> Result<Option<T>> {
        self.text(name).map(|_| self.word(name)).transpose()
    }

    /// Options of the response: `format=`, else `Accept`.
    pub fn options(&self, accept: &str) -> Result<EncodeOptions> {
        let format = match self.text("format") {
            Some(name) => OutFormat::from_name(name)?,
            None => OutFormat::from_accept(accept)?,
        };
        let options = EncodeOptions { format, times: self.word("times")?, shape: self.word("shape")? };
        options.check()?;
        Ok(options)
    }
}

fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

fn unknown(name: &str, known: &[&str]) -> Error {
    let error = Error::invalid(format!("unknown parameter {:?}", excerpt(name)));
    let nearest = known.iter().map(|known| (distance(name, known), known)).min();
    match nearest {
        Some((distance, nearest)) if distance <= 2 => error.with_hint(format!("did you mean {nearest}?")),
        Some(_) => error.with_hint(format!("known parameters: {}", known.join(", "))),
        None => error.with_hint("this path has no parameters"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    fn read(query: &str) -> Result<Params> {
        Params::of::<ReadParams>(&format!("/x?{query}").parse().unwrap())
    }

    #[test]
    fn unknown_parameters_are_rejected_with_the_nearest_known_one() {
        let error = read("strat=1").unwrap_err();
        assert_eq!((error.code(), error.hint()), (ErrorCode::InvalidArgument, Some("did you mean start?")));
        assert!(read("something=1").unwrap_err().hint().unwrap().starts_with("known parameters: start"));
        assert!(read("limit=1&limit=2").unwrap_err().detail().contains("twice"));
    }

    #[test]
    fn values_are_decoded_and_checked() {
        let params = read("start=2024-01-01T00%3A00%3A00Z&limit=5&order=desc&numbers=float64").unwrap();
        assert_eq!(params.text("start"), Some("2024-01-01T00:00:00Z"));
        assert_eq!(params.count("limit").unwrap(), Some(5));
        assert_eq!(params.word::<RowOrder>("order").unwrap(), RowOrder::Desc);
        assert_eq!(params.word::<NumberFormat>("numbers").unwrap(), NumberFormat::Float64);
        for bad in ["-1", "+1", "1.5", "", "x", "99999999999999999999"] {
            assert!(read(&format!("limit={}", bad.replace('+', "%2B"))).unwrap().count("limit").is_err(), "{bad:?}");
        }
        assert!(read("order=up").unwrap().word::<RowOrder>("order").unwrap_err().detail().contains("order"));
        assert!(read("explain=yes").unwrap().flag("explain").is_err());
    }

    #[test]
    fn known_parameters_are_the_documented_ones() {
        fn check<P: RouteParams + IntoParams>() {
            let documented: Vec<String> = P::into_params(|| None).into_iter().map(|param| param.name).collect();
            assert_eq!(documented, P::NAMES);
        }
        check::<ReadParams>();
        check::<ReadManyParams>();
        check::<QueryParams>();
        check::<WriteParams>();
        check::<MergeKlineParams>();
        check::<MergeScalarParams>();
    }
}
