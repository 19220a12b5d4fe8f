//! `fastk query` (to standard output) and `fastk export` (to a file, atomically).

use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::print;
use super::rows::{OutputOptions, time_value};
use super::target::{CommandTarget, TargetArgs};
use super::write::format_of;
use crate::disk::local;
use crate::error::{Error, ErrorCode, Result};
use crate::query::resample::spec::split_list;
use crate::query::{LimitTies, MultiLayout, NumberFormat, PanelJoin, Predicate, Query, RowOrder};

/// Rows of a table when neither --limit nor --latest is given.
const TABLE_ROWS_DEFAULT: u64 = 50;
/// Most rows of a table, which is held in memory to compute its column widths.
const TABLE_ROWS_MAX: u64 = 100_000;

#[derive(Debug, clap::Args)]
struct SelectArgs {
    /// kline/{symbol}/{timeframe}, scalar/{category}/{symbol}/{timeframe}/{name}, or a registered kind and its words; * in
    /// a segment matches any characters. For several keys or a glob the first column is series.
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
    /// by_series or by_time, for several series; wide has one row per timestamp, one column per series and field.
    #[arg(long)]
    layout: Option<String>,
    /// exact or asof:TOLERANCE such as asof:5m, for --layout wide: all timestamps of all series, or those of the first
    /// series with the last known rows of the others. asof:5m:ts takes rows as known at their ts.
    #[arg(long, value_name = "JOIN")]
    join: Option<String>,
    /// First timestamp: epoch in the unit of the series, RFC 3339, or a date. The range is closed.
    #[arg(long, allow_negative_numbers = true)]
    start: Option<String>,
    /// Last timestamp, as --start; a date means its last instant.
    #[arg(long, allow_negative_numbers = true)]
    end: Option<String>,
    /// The last N rows of the range.
    #[arg(long, value_name = "N")]
    latest: Option<u64>,
    /// The rows of the last N intervals that have no gap.
    #[arg(long, value_name = "N", conflicts_with = "latest")]
    latest_complete: Option<u64>,
    /// At most N rows, in the order of --order.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// whole or split: whether --limit may separate rows of one timestamp of a series.
    #[arg(long, default_value = "whole")]
    ties: String,
    /// asc or desc.
    #[arg(long, default_value = "asc")]
    order: String,
    /// Columns, separated by commas; ts always comes first.
    #[arg(long, value_delimiter = ',')]
    columns: Vec<String>,
    /// Only rows whose cell matches: column:op:value[,value…] with op eq, ne, gt, gte, lt, lte, between,
    /// between_exclusive, in, not_in, prefix, is_null or is_not_null (without a value); repeatable, all must match.
    /// Values of ts are times as in --start.
    #[arg(long = "where", value_name = "PREDICATE")]
    predicates: Vec<String>,
    /// Combine the rows to one row per bucket of this length: a count and one of s, m, h, d, w, M (months), q and y, such
    /// as 1h or 65m. --start and --end select buckets by their start.
    #[arg(long, value_name = "LENGTH")]
    every: Option<String>,
    /// utc, local or session: what the borders of buckets follow.
    #[arg(long, value_name = "RULE")]
    align: Option<String>,
    /// IANA zone of the buckets, such as America/New_York.
    #[arg(long, value_name = "ZONE")]
    tz: Option<String>,
    /// Trading sessions: 09:30-16:00, mon-fri 09:30-16:00, several separated by commas, an exchange such as XNYS,
    /// or calendar.
    #[arg(long, value_name = "TIMES")]
    session: Option<String>,
    /// Shifts the borders of buckets: 09:30, -02:00, 30m or -1d.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    offset: Option<String>,
    /// none, null, prev, zero or linear: what a bucket without rows, between buckets with rows, becomes.
    #[arg(long, value_name = "RULE")]
    fill: Option<String>,
    /// mark or drop: what becomes of buckets that are not complete or not closed.
    #[arg(long, value_name = "RULE")]
    partial: Option<String>,
    /// Columns of buckets: COLUMN:first|last|min|max|sum|wide_sum|mean|count, vwap(PRICE,QUANTITY) or count, with `if
    /// COLUMN:OP:VALUE` and `as NAME` where wanted; separated by commas or repeated.
    #[arg(long, value_name = "AGGREGATE")]
    agg: Vec<String>,
    /// Read under this snapshot, or dataset:NAME@VERSION.
    #[arg(long, value_name = "NAME")]
    as_of: Option<String>,
    /// stored, float64, decimal128, raw or string.
    #[arg(long, default_value = "stored")]
    numbers: String,
    /// epoch or rfc3339, in text formats.
    #[arg(long)]
    times: Option<String>,
    /// rows or columns, in JSON.
    #[arg(long)]
    shape: Option<String>,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, clap::Args)]
pub struct QueryArgs {
    #[command(flatten)]
    select: SelectArgs,
    /// table, csv, json, ndjson, arrow or parquet.
    #[arg(long, default_value = "table")]
    format: String,
}

#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    #[command(flatten)]
    select: SelectArgs,
    /// File to write; it appears when it is complete.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// csv, json, ndjson, arrow (a stream), arrow-file or parquet [default: by the file extension].
    #[arg(long)]
    format: Option<String>,
    /// Replace the file if it exists.
    #[arg(long)]
    force: bool,
}

/// A value of an enumeration, if it is given.
fn word<T: serde::de::DeserializeOwned>(name: &str, text: Option<&str>, known: &str) -> Result<Option<T>> {
    let Some(text) = text else { return Ok(None) };
    let word = serde_json::from_value(text.into());
    word.map(Some).map_err(|_| Error::invalid(format!("{name} {text:?} is not one of {known}")))
}

impl SelectArgs {
    fn query(&self) -> Result<Query> {
        let mut query = Query { series: self.keys.clone(), ..Query::default() };
        query.layout = self.layout.as_deref().map(MultiLayout::from_name).transpose()?;
        query.join = self.join.as_deref().map(PanelJoin::parse).transpose()?;
        query.start = self.start.as_deref().map(time_value);
        query.end = self.end.as_deref().map(time_value);
        query.latest = self.latest;
        query.as_of = self.as_of.clone();
        query.latest_complete = self.latest_complete;
        query.limit = self.limit;
        query.ties = word("ties", Some(&self.ties), "whole, split")?.unwrap_or_default();
        query.every = self.every.clone();
        query.align = word("align", self.align.as_deref(), "utc, local, session")?;
        query.tz = self.tz.clone();
        query.session = self.session.clone();
        query.offset = self.offset.clone();
        query.fill = word("fill", self.fill.as_deref(), "none, null, prev, zero, linear")?;
        query.partial = word("partial", self.partial.as_deref(), "mark, drop")?;
        let agg: Vec<String> = self.agg.iter().flat_map(|text| split_list(text)).collect();
        query.agg = (!agg.is_empty()).then_some(agg);
        query.order = match self.order.as_str() {
            "asc" => RowOrder::Asc,
            "desc" => RowOrder::Desc,
            other => return Err(Error::invalid(format!("order {other:?} is not asc or desc"))),
        };
        query.columns = (!self.columns.is_empty()).then(|| self.columns.clone());
        let predicates = self.predicates.iter().map(|text| Predicate::parse(text)).collect::<Result<Vec<_>>>()?;
        query.predicates = (!predicates.is_empty()).then_some(predicates);
        query.numbers = serde_json::from_value::<NumberFormat>(self.numbers.as_str().into()).map_err(|_| {
            let detail = format!("numbers {:?} is not one of stored, float64, decimal128, raw, string", self.numbers);
            Error::invalid(detail)
        })?;
        Ok(query)
    }

    fn options(&self, format: &str) -> OutputOptions {
        OutputOptions { format: format.to_string(), times: self.times.clone(), shape: self.shape.clone() }
    }
}

/// Prints rows.
pub fn query(args: QueryArgs) -> Result<u8> {
    let mut query = args.select.query()?;
    let target = CommandTarget::open(&args.select.target, false)?;
    if args.format == "table" {
        let bounded = query.limit.or(query.latest);
        if bounded.is_some_and(|rows| rows > TABLE_ROWS_MAX) {
            return Err(Error::invalid(format!("a table has at most {TABLE_ROWS_MAX} rows")).with_hint("--format csv"));
        }
        if bounded.is_none() {
            // One more row shows whether there are more.
            query.limit = Some(TABLE_ROWS_DEFAULT + 1);
            query.ties = LimitTies::Split;
        }
        let options = OutputOptions {
            format: "csv".into(),
            times: Some(args.select.times.clone().unwrap_or("rfc3339".into())),
            shape: None,
        };
        let (header, mut rows) = table_rows(&target, &query, &options)?;
        let more = bounded.is_none() && rows.len() as u64 > TABLE_ROWS_DEFAULT;
        if more {
            rows.pop();
        }
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        print::out(&print::table(&header, rows))?;
        if more {
            print::note(&format!("first {TABLE_ROWS_DEFAULT} rows only; --limit, --latest or --format give more"));
        }
        return Ok(0);
    }
    let mut stdout = BufWriter::with_capacity(1 << 18, std::io::stdout().lock());
    let mut is_closed = false;
    let result = target.read(&query, &args.select.options(&args.format), &mut |bytes| {
        write_until_closed(&mut stdout, &bytes, &mut is_closed)
    });
    if is_closed {
        return Ok(0);
    }
    result?;
    stdout.flush().or_else(|error| match error.kind() {
        ErrorKind::BrokenPipe => Ok(()),
        _ => Err(Error::io("write to", Path::new("standard output"), &error)),
    })?;
    Ok(0)
}

/// Writes to standard output and records whether its reader closed it, which is no failure of the command.
fn write_until_closed(out: &mut impl Write, bytes: &[u8], is_closed: &mut bool) -> Result<()> {
    out.write_all(bytes).map_err(|error| {
        *is_closed = error.kind() == ErrorKind::BrokenPipe;
        Error::io("write to", Path::new("standard output"), &error)
    })
}

/// Header and rows of a result, read as CSV.
pub fn table_rows(
    target: &CommandTarget,
    query: &Query,
    options: &OutputOptions,
) -> Result<(Vec<String>, Vec<Vec<String>>)> {
    let mut text = Vec::new();
    target.read(query, options, &mut |bytes: Bytes| {
        text.extend_from_slice(&bytes);
        Ok(())
    })?;
    let broken = |error: csv::Error| Error::internal(format!("result as CSV: {error}"));
    let words = |record: &csv::StringRecord| record.iter().map(str::to_string).collect::<Vec<_>>();
    let mut reader = csv::Reader::from_reader(text.as_slice());
    let header = words(reader.headers().map_err(broken)?);
    let rows =
        reader.records().map(|record| record.map(|record| words(&record)).map_err(broken)).collect::<Result<_>>()?;
    Ok((header, rows))
}

/// Format of a new file by its extension. `.arrow` and `.feather` are files of the Arrow format, `.arrows` is a stream.
fn file_format(path: &Path) -> Option<&'static str> {
    let is_file =
        ["arrow", "feather"].iter().any(|name| path.extension().is_some_and(|found| found.eq_ignore_ascii_case(name)));
    if is_file { Some("arrow-file") } else { format_of(path) }
}

/// Writes rows to a file, under a temporary name until the result is complete.
pub fn export(args: ExportArgs) -> Result<u8> {
    let query = args.select.query()?;
    let path = &args.output;
    let format = match args.format.as_deref().or_else(|| file_format(path)) {
        Some(format) => format.to_string(),
        None => {
            return Err(Error::invalid(format!("the extension of {} names no format", path.display()))
                .with_hint("--format csv|json|ndjson|arrow|arrow-file|parquet"));
        }
    };
    if !args.force && path.exists() {
        return Err(Error::invalid(format!("{} exists", path.display())).with_hint("--force replaces it"));
    }
    let target = CommandTarget::open(&args.select.target, false)?;
    let mut partial = path.clone().into_os_string();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let result = write_file(&partial, &target, &query, &args.select.options(&format)).and_then(|bytes| {
        local::rename(&partial, path)?;
        Ok(bytes)
    });
    match result {
        Ok(bytes) => {
            print::note(&format!("{} as {format}, {bytes} bytes: {}", query.series.join(", "), path.display()));
            Ok(0)
        }
        Err(error) => {
            let _ = local::remove(&partial);
            Err(error)
        }
    }
}

fn write_file(path: &Path, target: &CommandTarget, query: &Query, options: &OutputOptions) -> Result<u64> {
    let failed = |error: std::io::Error| Error::io("write", path, &error);
    let mut file = BufWriter::with_capacity(1 << 20, local::create(path)?);
    let mut total = 0_u64;
    target.read(query, options, &mut |bytes| {
        total += bytes.len() as u64;
        file.write_all(&bytes).map_err(failed)
    })?;
    let file = file.into_inner().map_err(|error| Error::new(ErrorCode::Io, error.to_string()))?;
    file.sync_all().map_err(failed)?;
    Ok(total)
}
