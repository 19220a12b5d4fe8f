//! `fastk write`, `delete` and `drop`.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::print;
use super::rows::{BodyOptions, time_value};
use super::target::{CommandTarget, TargetArgs};
use crate::disk::local;
use crate::error::{Error, Result};
use crate::service::operations::{Delete, DeleteRequest, DropRequest, DropSeries};
use crate::service::{Precondition, WriteMethod, WriteOptions};
use crate::types::SeriesKey;

#[derive(Debug, clap::Args)]
pub struct WriteArgs {
    /// kline/{symbol}/{timeframe}, scalar/{category}/{symbol}/{timeframe}/{name}, or a registered kind and its words; the
    /// file under --many.
    #[arg(value_name = "KEY", required_unless_present = "many")]
    key: Option<String>,
    /// File with rows; standard input when left out or `-`.
    file: Option<PathBuf>,
    /// Rows of many series as one commit: {"writes": […]} in JSON, else a column named series.
    #[arg(long, conflicts_with = "if_version")]
    many: bool,
    /// json, ndjson, csv, arrow or parquet [default: by the file extension, else json].
    #[arg(long)]
    format: Option<String>,
    /// upsert, insert, append or merge. merge combines each row with the stored one: a kline keeps open and gets the
    /// larger high, the smaller low, the new close and the sum of volumes.
    #[arg(long, default_value = "upsert")]
    mode: String,
    /// How merge combines a scalar: set, add, min, max or last [default: the rule of the registration].
    #[arg(long)]
    op: Option<String>,
    /// Apply the write once: a retry with the same key within 24 hours returns the first result and changes nothing.
    /// Required for merge.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// ohlc or none.
    #[arg(long)]
    validate: Option<String>,
    /// exact or nearest.
    #[arg(long)]
    rounding: Option<String>,
    /// raw: numbers are scaled integers.
    #[arg(long)]
    numbers: Option<String>,
    /// reject or skip rows without a value; scalars only.
    #[arg(long)]
    missing: Option<String>,
    /// reject (default) or allow rows between the grid points of the timeframe.
    #[arg(long, value_name = "RULE")]
    grid: Option<String>,
    /// reject (default) or allow timestamps of early 1970 that look like another unit, such as seconds.
    #[arg(long, value_name = "RULE")]
    implausible_ts: Option<String>,
    #[command(flatten)]
    condition: ConditionArgs,
    #[command(flatten)]
    target: TargetArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// Key of the series.
    key: String,
    /// First timestamp; the range is closed.
    #[arg(long, required_unless_present = "all", requires = "end", allow_negative_numbers = true)]
    start: Option<String>,
    /// Last timestamp; the range is closed.
    #[arg(long, requires = "start", allow_negative_numbers = true)]
    end: Option<String>,
    /// Delete every row; the series stays registered.
    #[arg(long, conflicts_with_all = ["start", "end"])]
    all: bool,
    /// Only print how many rows would be deleted.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    condition: ConditionArgs,
    #[command(flatten)]
    target: TargetArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct DropArgs {
    /// Key of the series.
    key: String,
    /// Only print how many rows would be deleted.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    condition: ConditionArgs,
    #[command(flatten)]
    target: TargetArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct ConditionArgs {
    /// Fail with commit_conflict unless the series is at this version.
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
}

impl ConditionArgs {
    fn condition(&self) -> Precondition {
        Precondition { if_match: None, if_version: self.if_version }
    }
}

/// Writes the rows of a file as one commit.
pub fn write(args: WriteArgs) -> Result<u8> {
    let (key, file) = match (args.many, args.key, args.file) {
        (true, Some(_), Some(_)) => return Err(Error::invalid("--many takes a file and no key")),
        (true, key, file) => (None, key.map(PathBuf::from).or(file)),
        (false, Some(key), file) => (Some(SeriesKey::parse(&key)?), file),
        (false, None, _) => return Err(Error::invalid("the series key is missing, or --many")),
    };
    let format = match &args.format {
        Some(format) => format.clone(),
        None => file.as_deref().and_then(format_of).unwrap_or("json").to_string(),
    };
    let options = BodyOptions {
        format,
        validate: args.validate,
        rounding: args.rounding,
        numbers: args.numbers,
        missing: args.missing,
        grid: args.grid,
        implausible_ts: args.implausible_ts,
    };
    let method = WriteMethod::of(Some(&args.mode), args.op.as_deref())?;
    let idempotency_key = args.idempotency_key.as_deref().map(str::parse).transpose()?;
    let Some(key) = key else {
        let mode = method.of_many()?;
        let body = read_input(file.as_deref())?;
        let target = CommandTarget::open(&args.target, false)?;
        let done = target.write_many(body.into(), &options, mode, idempotency_key.as_ref())?;
        note_repeat(done.repeated);
        print::reply(&done.reply, args.json)?;
        return Ok(0);
    };
    let write_options = WriteOptions { method, condition: args.condition.condition(), idempotency_key, create: None };
    write_options.check(&key)?;
    let body = read_input(file.as_deref())?;
    let target = CommandTarget::open(&args.target, false)?;
    let done = target.write(&key, body.into(), &options, &write_options)?;
    note_repeat(done.repeated);
    print::reply(&done.reply, args.json)?;
    Ok(0)
}

fn note_repeat(repeated: bool) {
    if repeated {
        print::note("the idempotency key was used before: this is the first result, nothing was changed now");
    }
}

/// Deletes a closed range.
pub fn delete(args: DeleteArgs) -> Result<u8> {
    let request = DeleteRequest {
        series: SeriesKey::parse(&args.key)?,
        start: args.start.as_deref().map(time_value),
        end: args.end.as_deref().map(time_value),
        all: args.all,
        dry_run: args.dry_run,
        if_version: args.condition.if_version,
    };
    let reply = CommandTarget::open(&args.target, false)?.run::<Delete>(request)?;
    print::reply(&reply, args.json)?;
    Ok(0)
}

/// What a drop would remove.
#[derive(Debug, Serialize)]
struct DropPreview {
    dry_run: bool,
    series: SeriesKey,
    rows: u64,
    version: u64,
}

/// Drops a series.
pub fn drop(args: DropArgs) -> Result<u8> {
    let key = SeriesKey::parse(&args.key)?;
    let target = CommandTarget::open(&args.target, false)?;
    if args.dry_run {
        let info = target.series_at(&key, args.condition.if_version)?;
        print::reply(&DropPreview { dry_run: true, series: key, rows: info.rows, version: info.version }, args.json)?;
        return Ok(0);
    }
    let request = DropRequest { series: key, if_version: args.condition.if_version };
    print::reply(&target.run::<DropSeries>(request)?, args.json)?;
    Ok(0)
}

/// Reads the file, or standard input for `-` or `None`.
pub fn read_input(path: Option<&Path>) -> Result<Vec<u8>> {
    match path.filter(|path| path.as_os_str() != "-") {
        Some(path) => local::read(path),
        None => {
            let mut bytes = Vec::new();
            let read = std::io::stdin().lock().read_to_end(&mut bytes);
            read.map_err(|error| Error::io("read", Path::new("standard input"), &error))?;
            Ok(bytes)
        }
    }
}

/// Format by the file extension.
pub fn format_of(path: &Path) -> Option<&'static str> {
    Some(match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "json" => "json",
        "ndjson" | "jsonl" => "ndjson",
        "csv" => "csv",
        "arrow" | "arrows" | "feather" => "arrow",
        "parquet" => "parquet",
        _ => return None,
    })
}
