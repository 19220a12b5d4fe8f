//! The protocol of TradingView's charting library (UDF, "universal data feed") over series of klines, at `/udf`.
//!
//! - A symbol of the chart is a symbol of klines. Each resolution is read from the coarsest series of the symbol whose
//!   bars make up its bars, combined where none has it.
//! - `countback` decides over `from`, as the client expects: its updates ask for the last two bars, which may be older
//!   than `from` over a weekend.
//! - Errors are `{"s": "error", "errmsg": …}` with status 200: the client reads no others.
//! - Parameters that this server does not know are ignored, as the client adds some of its own.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{AsArray, Float64Array};
use arrow::datatypes::Float64Type;
use axum::Router;
use axum::extract::Query as UrlQuery;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value as Json, json};

use super::problem::HandlerResult;
use super::reply;
use super::state::{AppState, RequestState};
use crate::clock;
use crate::error::{Error, Result};
use crate::query::{NumberFormat, Query, TimeValue};
use crate::service::{SeriesFilter, SeriesInfo, Service};
use crate::types::key::KLINE;
use crate::types::{ColumnType, TimeUnit};

/// Most bars of a response.
const BARS_MAX: u64 = 20_000;
/// Symbols of a search without a limit.
const SEARCH_LIMIT: usize = 30;
/// Series of one request to the list of series.
const PAGE: u64 = 10_000;

const SECOND_MS: i64 = 1_000;
const MINUTE_MS: i64 = 60 * SECOND_MS;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;

/// Resolutions in minutes that a chart offers where they can be made.
const MINUTES: [i64; 11] = [1, 3, 5, 15, 30, 60, 120, 240, 360, 480, 720];
/// Resolutions in seconds.
const SECONDS: [i64; 5] = [1, 5, 10, 15, 30];

type Parameters = UrlQuery<HashMap<String, String>>;

/// The routes of the protocol.
pub fn routes() -> Router<RequestState> {
    Router::new()
        .route("/udf/config", get(config))
        .route("/udf/time", get(time))
        .route("/udf/search", get(search))
        .route("/udf/symbols", get(symbol))
        .route("/udf/history", get(history))
}

fn answer(result: Result<Json>) -> HandlerResult {
    let value = result.unwrap_or_else(|error| json!({"s": "error", "errmsg": error.detail()}));
    Ok(reply::json(axum::http::StatusCode::OK, &value)?)
}

async fn config(_app: AppState) -> HandlerResult {
    let resolutions = Offer::of(|_| true).resolutions();
    answer(Ok(json!({
        "supports_search": true,
        "supports_group_request": false,
        "supports_marks": false,
        "supports_timescale_marks": false,
        "supports_time": true,
        "supported_resolutions": resolutions,
        "exchanges": [{"value": "", "name": "All", "desc": ""}],
        "symbols_types": [{"name": "All", "value": ""}],
    })))
}

/// Seconds since 1970 as text.
async fn time(_app: AppState) -> Response {
    let seconds = clock::wall_ms() / SECOND_MS;
    ([(header::CONTENT_TYPE, "text/plain")], seconds.to_string()).into_response()
}

async fn search(app: AppState, UrlQuery(parameters): Parameters) -> HandlerResult {
    let found = app.blocking(move |service| Ok(found(service, &parameters))).await?;
    answer(found)
}

/// Symbols that contain the text of a search.
fn found(service: &Service, parameters: &HashMap<String, String>) -> Result<Json> {
    let text = |name: &str| parameters.get(name).map_or("", String::as_str);
    let wanted = text("query").to_uppercase();
    let limit = text("limit").parse().unwrap_or(SEARCH_LIMIT);
    let mut symbols: BTreeMap<String, String> = BTreeMap::new();
    for series in klines(service, None)? {
        let Some(symbol) = series.symbol else { continue };
        if symbol.to_uppercase().contains(&wanted) {
            symbols.entry(symbol).or_insert_with(|| series.description.unwrap_or_default());
        }
    }
    let shown = symbols.into_iter().take(limit).map(|(symbol, description)| {
        json!({
            "symbol": symbol, "full_name": symbol, "ticker": symbol, "description": description,
            "exchange": "", "type": "",
        })
    });
    Ok(shown.collect())
}

/// The series of klines, of one symbol or of all.
fn klines(service: &Service, symbol: Option<&str>) -> Result<Vec<SeriesInfo>> {
    let mut filter = SeriesFilter {
        kind: Some(KLINE.into()),
        symbol: symbol.map(String::from),
        limit: Some(PAGE),
        ..SeriesFilter::default()
    };
    let mut all = Vec::new();
    loop {
        let page = service.list(&filter)?;
        all.extend(page.series);
        match page.next_cursor {
            Some(cursor) => filter.cursor = Some(cursor),
            None => return Ok(all),
        }
    }
}

/// The series of a symbol.
///
/// # Errors
/// `invalid_argument` when it has none, or is not named.
fn of_symbol(service: &Service, parameters: &HashMap<String, String>) -> Result<(String, Vec<SeriesInfo>)> {
    let symbol = parameters.get("symbol").ok_or_else(|| Error::invalid("parameter symbol is missing"))?;
    let all = klines(service, Some(symbol))?;
    if all.is_empty() {
        return Err(Error::invalid(format!("there are no klines of the symbol {symbol}")));
    }
    Ok((symbol.clone(), all))
}

async fn symbol(app: AppState, UrlQuery(parameters): Parameters) -> HandlerResult {
    let info = app.blocking(move |service| Ok(symbol_info(service, &parameters))).await?;
    answer(info)
}

fn symbol_info(service: &Service, parameters: &HashMap<String, String>) -> Result<Json> {
    let (symbol, all) = of_symbol(service, parameters)?;
    let offer = Offer::of(|resolution| source(&all, resolution).is_some());
    let finest = all.iter().min_by_key(|series| series.interval_ms.unwrap_or(i64::MAX));
    let digits = |name: &str| {
        let columns = finest.map_or(&[][..], |series| &series.columns);
        columns.iter().find(|column| column.name == name).and_then(|column| match column.kind {
            ColumnType::Decimal { digits } | ColumnType::WideDecimal { digits } => Some(digits),
            ColumnType::Int64 => Some(0),
            _ => None,
        })
    };
    // Doubles do not say how many digits are meant.
    let price_scale = 10_i64.pow(u32::from(digits("close").unwrap_or(5).min(16)));
    let resolutions = offer.resolutions();
    let Offer { seconds, minutes, days } = offer;
    Ok(json!({
        "name": symbol,
        "ticker": symbol,
        "description": finest.and_then(|series| series.description.clone()).unwrap_or_else(|| symbol.clone()),
        "type": "",
        "session": "24x7",
        "timezone": "Etc/UTC",
        "exchange": "",
        "listed_exchange": "",
        "minmov": 1,
        "pricescale": price_scale,
        "volume_precision": digits("volume").unwrap_or(8),
        "has_intraday": !minutes.is_empty(),
        "intraday_multipliers": minutes,
        "has_seconds": !seconds.is_empty(),
        "seconds_multipliers": seconds,
        "has_daily": days.contains(&"1D"),
        "has_weekly_and_monthly": days.contains(&"1W") && days.contains(&"1M"),
        "supported_resolutions": resolutions,
        "data_status": "streaming",
        "format": "price",
    }))
}

/// Resolutions that a chart can have: numbers of seconds and of minutes, and names of longer ones.
struct Offer {
    seconds: Vec<String>,
    minutes: Vec<String>,
    days: Vec<&'static str>,
}

impl Offer {
    /// Those of the usual resolutions that can be made.
    fn of(can: impl Fn(Resolution) -> bool) -> Self {
        let multiples = |counts: &[i64], unit_ms: i64| {
            let possible = counts.iter().filter(|count| can(Resolution::Fixed(*count * unit_ms)));
            possible.map(i64::to_string).collect()
        };
        let days = [("1D", Resolution::Fixed(DAY_MS)), ("1W", Resolution::Weeks(1)), ("1M", Resolution::Months(1))];
        Self {
            seconds: multiples(&SECONDS, SECOND_MS),
            minutes: multiples(&MINUTES, MINUTE_MS),
            days: days.into_iter().filter(|(_, resolution)| can(*resolution)).map(|(name, _)| name).collect(),
        }
    }

    /// All of them as a chart names them.
    fn resolutions(&self) -> Vec<String> {
        let seconds = self.seconds.iter().map(|count| format!("{count}S"));
        seconds.chain(self.minutes.iter().cloned()).chain(self.days.iter().map(|name| (*name).to_owned())).collect()
    }
}

/// Length of the bars of a chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resolution {
    /// A number of milliseconds, up to a day.
    Fixed(i64),
    Weeks(i64),
    Months(i64),
}

impl Resolution {
    /// `5` minutes, `30S`, `D`, `1D`, `1W`, `1M`.
    ///
    /// # Errors
    /// `invalid_argument` for others.
    fn parse(text: &str) -> Result<Self> {
        let invalid = || Error::invalid(format!("resolution {text:?} is none of minutes, S, D, W and M"));
        let (count, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        let count: i64 = if count.is_empty() { 1 } else { count.parse().map_err(|_| invalid())? };
        if !(1..=1_440).contains(&count) {
            return Err(invalid());
        }
        Ok(match unit {
            "" => Self::Fixed(count * MINUTE_MS),
            "S" => Self::Fixed(count * SECOND_MS),
            "H" => Self::Fixed(count * 60 * MINUTE_MS),
            "D" => Self::Fixed(count * DAY_MS),
            "W" => Self::Weeks(count),
            "M" => Self::Months(count),
            _ => return Err(invalid()),
        })
    }

    /// The value of `every`.
    fn every(self) -> String {
        match self {
            Self::Fixed(ms) if ms % DAY_MS == 0 => format!("{}d", ms / DAY_MS),
            Self::Fixed(ms) if ms % MINUTE_MS == 0 => format!("{}m", ms / MINUTE_MS),
            Self::Fixed(ms) => format!("{}s", ms / SECOND_MS),
            Self::Weeks(count) => format!("{count}w"),
            Self::Months(count) => format!("{count}M"),
        }
    }

    /// Whether bars of this length are made of whole bars of `interval_ms`.
    fn is_made_of(self, interval_ms: i64) -> bool {
        match self {
            Self::Fixed(ms) => ms % interval_ms == 0,
            Self::Weeks(_) | Self::Months(_) => DAY_MS % interval_ms == 0,
        }
    }

    /// Whether bars of this series have this length.
    fn is_that_of(self, series: &SeriesInfo) -> bool {
        match self {
            Self::Fixed(ms) => series.interval_ms == Some(ms),
            other => series.timeframe.as_deref() == Some(&other.every()),
        }
    }
}

/// The series that bars are read from, and whether they are combined.
fn source(all: &[SeriesInfo], resolution: Resolution) -> Option<(&SeriesInfo, bool)> {
    if let Some(series) = all.iter().find(|series| resolution.is_that_of(series)) {
        return Some((series, false));
    }
    let fits = |series: &&SeriesInfo| series.interval_ms.is_some_and(|interval| resolution.is_made_of(interval));
    all.iter().filter(fits).max_by_key(|series| series.interval_ms).map(|series| (series, true))
}

async fn history(app: AppState, UrlQuery(parameters): Parameters) -> HandlerResult {
    let bars = app.blocking(move |service| Ok(bars(service, &parameters))).await?;
    answer(bars)
}

fn bars(service: &Service, parameters: &HashMap<String, String>) -> Result<Json> {
    let number = |name: &str| -> Result<Option<i64>> {
        let Some(text) = parameters.get(name) else { return Ok(None) };
        let value = seconds(text).ok_or_else(|| Error::invalid(format!("{name}={text} is no number of seconds")))?;
        Ok(Some(value))
    };
    let resolution = Resolution::parse(parameters.get("resolution").map_or("", String::as_str))?;
    let (symbol, all) = of_symbol(service, parameters)?;
    let (series, is_combined) = source(&all, resolution)
        .ok_or_else(|| Error::invalid(format!("no series of {symbol} has bars for this resolution")))?;
    let to = number("to")?.ok_or_else(|| Error::invalid("parameter to is missing"))?;
    let from = number("from")?;
    let count = number("countback")?.and_then(|count| u64::try_from(count).ok()).filter(|count| *count > 0);
    let ticks = |seconds: i64| seconds.saturating_mul(series.unit.per_second());
    let base = Query {
        numbers: NumberFormat::Float64,
        every: is_combined.then(|| resolution.every()),
        // The end is not among the bars.
        end: Some(TimeValue::Epoch(ticks(to).saturating_sub(1))),
        ..Query::of(&series.series)
    };
    let query = match count {
        Some(count) => Query { latest: Some(count.min(BARS_MAX)), ..base.clone() },
        None => Query { start: from.map(|from| TimeValue::Epoch(ticks(from))), limit: Some(BARS_MAX), ..base.clone() },
    };
    let found = Bars::read(service, &query, series.unit)?;
    if found.times.is_empty() {
        // The last bar before those that were asked for, so that the client skips the gap.
        let before = from.unwrap_or(to);
        let end = Some(TimeValue::Epoch(ticks(before).saturating_sub(1)));
        let last = Bars::read(service, &Query { end, latest: Some(1), ..base }, series.unit)?;
        return Ok(match last.times.first() {
            Some(time) => json!({"s": "no_data", "nextTime": time}),
            None => json!({"s": "no_data"}),
        });
    }
    let Bars { times, columns } = found;
    let mut response = json!({"s": "ok", "t": times});
    for (short, name) in [("o", "open"), ("h", "high"), ("l", "low"), ("c", "close"), ("v", "volume")] {
        if let (Some(cells), Some(fields)) = (columns.get(name), response.as_object_mut()) {
            fields.insert(short.into(), json!(cells));
        }
    }
    Ok(response)
}

/// Seconds, rounded up: bars begin at whole ones, and scripts may send fractions. `None` for other text.
fn seconds(text: &str) -> Option<i64> {
    /// Beyond any time of a bar.
    const MAX: i64 = 1_000_000_000_000;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let value: i64 = whole.parse().ok().filter(|value| (-MAX..=MAX).contains(value))?;
    let is_number = fraction.bytes().all(|byte| byte.is_ascii_digit());
    let rounds_up = !whole.starts_with('-') && fraction.bytes().any(|byte| byte != b'0');
    is_number.then_some(value + i64::from(rounds_up))
}

/// Bars: seconds since 1970, and the columns by name.
struct Bars {
    times: Vec<i64>,
    columns: HashMap<String, Vec<f64>>,
}

impl Bars {
    fn read(service: &Service, query: &Query, unit: TimeUnit) -> Result<Self> {
        let result = service.read(query)?;
        let shape = result.shape.clone();
        let schema = shape.arrow_schema();
        let mut bars = Self { times: Vec::new(), columns: HashMap::new() };
        for block in result {
            let block = block?;
            bars.times.extend(block.timestamps().iter().map(|ts| ts.div_euclid(unit.per_second())));
            let batch = shape.record_batch(&schema, &block)?;
            for (field, array) in schema.fields().iter().zip(batch.columns()) {
                if let Some(cells) = array.as_primitive_opt::<Float64Type>() {
                    let cells: &Float64Array = cells;
                    bars.columns.entry(field.name().clone()).or_default().extend(cells.values().iter().copied());
                }
            }
        }
        Ok(bars)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_rounded_up() {
        for (text, value) in [("7", 7), ("7.0", 7), ("7.01", 8), ("-7.5", -7), ("-7", -7), ("0.5", 1)] {
            assert_eq!(seconds(text), Some(value), "{text}");
        }
        for text in ["", "a", "1e3", "1.5e3", "7.x", "99999999999999999999", "1000000000001", "."] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn resolutions_of_charts_are_intervals() {
        let every = |text: &str| Resolution::parse(text).unwrap().every();
        for (text, interval) in [
            ("1", "1m"),
            ("240", "240m"),
            ("30S", "30s"),
            ("D", "1d"),
            ("1D", "1d"),
            ("3D", "3d"),
            ("W", "1w"),
            ("1M", "1M"),
            ("12M", "12M"),
            ("1440", "1d"),
        ] {
            assert_eq!(every(text), interval, "{text}");
        }
        for text in ["", "0", "1X", "-5", "1.5", "99999999999", "1DD", "é"] {
            assert!(Resolution::parse(text).is_err() || text.is_empty(), "{text}");
        }
    }
}
