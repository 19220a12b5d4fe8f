//! `fastk admin`: what is stored, how it is, whether it is whole, and sealing on request.

use clap::Subcommand;
use serde::Serialize;

use super::backup::{self, BackupArgs, RestoreArgs};
use super::repair::{self, RepairArgs};
use super::target::{CommandTarget, PlainArgs};
use super::{print, stats, token, verify};
use crate::error::{Error, Result};
use crate::service::{HealthStatus, Inventory, SeriesFilter, SeriesPage};
use crate::types::schema::series_not_found;
use crate::types::{Kind, SeriesKey};

#[derive(Debug, clap::Args)]
pub struct AdminArgs {
    #[command(subcommand)]
    verb: AdminCommand,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// Rows, bytes and time span of every series.
    Inventory(FilterArgs),
    /// Registered series.
    ListSeries(FilterArgs),
    /// The store in one look: totals, and what upkeep did since it was opened.
    Stats(PlainArgs),
    /// How predicates on each series can be answered.
    Capabilities(FilterArgs),
    /// How the store is; exit status 1 when something was found.
    Health(PlainArgs),
    /// Move rows of the log into chunk files.
    Compact(CompactArgs),
    /// Copy the whole store as it is now into a directory, while everything goes on.
    Backup(BackupArgs),
    /// Check a backup and make a store of it.
    Restore(RestoreArgs),
    /// Put what is whole of a damaged store into new files, and set the rest aside.
    Repair(RepairArgs),
    /// Make the manifest anew from the other files.
    RebuildManifest(RepairArgs),
    /// Check every file of a store; also beside the process that owns it. Exit status 1 when something was found.
    Verify(verify::VerifyArgs),
    /// Check every file and write damaged sidecars anew. Exit status 1 when something is left.
    Scrub(verify::ScrubArgs),
    /// Files of a data directory that nothing names, and why they may be there.
    ListOrphans(PlainArgs),
    /// Which chunks span the same times, which one wins there, and what compaction would do.
    ExplainOverlap(PlainArgs),
    /// Whether a server is ready and takes writes; needs no token. Exit status 1 when not.
    Ping(PlainArgs),
    /// Make, list and take away the tokens that clients of a server need.
    Token(token::TokenArgs),
}

#[derive(Debug, clap::Args)]
pub struct FilterArgs {
    /// kline or scalar.
    #[arg(long)]
    kind: Option<String>,
    #[arg(long)]
    symbol: Option<String>,
    #[arg(long)]
    timeframe: Option<String>,
    #[arg(long)]
    category: Option<String>,
    #[arg(long)]
    name: Option<String>,
    /// Beginning of the key.
    #[arg(long)]
    prefix: Option<String>,
    #[command(flatten)]
    pub plain: PlainArgs,
}

#[derive(Debug, clap::Args)]
struct CompactArgs {
    /// Series keys; all when left out.
    series: Vec<String>,
    /// Only tell what there is to do.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    plain: PlainArgs,
}

impl FilterArgs {
    fn filter(&self) -> Result<SeriesFilter> {
        let kind = match self.kind.as_deref() {
            None => None,
            Some("kline") => Some(Kind::Kline),
            Some("scalar") => Some(Kind::Scalar),
            Some(other) => return Err(Error::invalid(format!("kind {other:?} is not kline or scalar"))),
        };
        Ok(SeriesFilter {
            kind,
            symbol: self.symbol.clone(),
            timeframe: self.timeframe.clone(),
            category: self.category.clone(),
            name: self.name.clone(),
            prefix: self.prefix.clone(),
            limit: Some(10_000),
            cursor: None,
            months: false,
        })
    }

    /// Every registered series that is meant.
    pub fn list(&self, target: &CommandTarget) -> Result<SeriesPage> {
        let mut filter = self.filter()?;
        let mut whole = target.list(&filter)?;
        while let Some(cursor) = whole.next_cursor.take() {
            filter.cursor = Some(cursor);
            let page = target.list(&filter)?;
            whole.series.extend(page.series);
            whole.next_cursor = page.next_cursor;
        }
        Ok(whole)
    }
}

/// Runs one of the verbs under `admin`.
pub fn run(args: AdminArgs) -> Result<u8> {
    match args.verb {
        AdminCommand::Inventory(args) => inventory(&args),
        AdminCommand::ListSeries(args) => list_series(&args),
        AdminCommand::Stats(args) => stats::stats(&args),
        AdminCommand::Capabilities(args) => stats::capabilities(&args),
        AdminCommand::Health(args) => health(&args),
        AdminCommand::Compact(args) => {
            let series = args.series.iter().map(|text| SeriesKey::parse(text)).collect::<Result<Vec<_>>>()?;
            let target = CommandTarget::open(&args.plain.target, false)?;
            if args.dry_run {
                print::reply(&to_compact(&target, &series)?, args.plain.json)?;
            } else {
                print::reply(&target.compact(&series)?, args.plain.json)?;
            }
            Ok(0)
        }
        AdminCommand::Backup(args) => backup::backup(args),
        AdminCommand::Restore(args) => backup::restore(args),
        AdminCommand::Repair(args) => repair::run(&args, false),
        AdminCommand::RebuildManifest(args) => repair::run(&args, true),
        AdminCommand::Verify(args) => verify::verify(&args),
        AdminCommand::Scrub(args) => verify::scrub(&args),
        AdminCommand::ListOrphans(args) => verify::list_orphans(&args),
        AdminCommand::ExplainOverlap(args) => verify::explain_overlap(&args),
        AdminCommand::Ping(args) => {
            let ready = CommandTarget::running(&args.target)?.ready()?;
            print::reply(&ready, args.json)?;
            if ready.writer_stopped {
                print::note("writes are refused until the server is started again; `fastk admin health` says why");
            }
            Ok(u8::from(ready.status == HealthStatus::Failing || ready.writer_stopped))
        }
        AdminCommand::Token(args) => token::run(args),
    }
}

/// What a compaction would find to do.
#[derive(Debug, Serialize)]
struct CompactPreview {
    dry_run: bool,
    /// Series with rows that are in no chunk yet, and these rows.
    series_to_seal: u64,
    rows_to_seal: u64,
    /// Partitions of the whole store with more than one chunk; what has just been sealed adds to them.
    partitions_to_compact: u64,
    /// Bytes of chunks that hold nothing readable any more.
    garbage_bytes: u64,
}

fn to_compact(target: &CommandTarget, series: &[SeriesKey]) -> Result<CompactPreview> {
    let whole = whole_inventory(target, SeriesFilter { limit: Some(10_000), ..SeriesFilter::default() })?;
    if let Some(missing) = series.iter().find(|key| !whole.series.iter().any(|row| row.series == **key)) {
        return Err(series_not_found(missing));
    }
    let mut found = CompactPreview {
        dry_run: true,
        series_to_seal: 0,
        rows_to_seal: 0,
        partitions_to_compact: target.overlaps()?.partitions,
        garbage_bytes: 0,
    };
    for row in whole.series.iter().filter(|row| series.is_empty() || series.contains(&row.series)) {
        found.series_to_seal += u64::from(row.tail_rows > 0);
        found.rows_to_seal += row.tail_rows;
        found.garbage_bytes += row.garbage_bytes;
    }
    Ok(found)
}

fn whole_inventory(target: &CommandTarget, mut filter: SeriesFilter) -> Result<Inventory> {
    let mut whole = target.inventory(&filter)?;
    while let Some(cursor) = whole.next_cursor.take() {
        filter.cursor = Some(cursor);
        let page = target.inventory(&filter)?;
        whole.series.extend(page.series);
        whole.next_cursor = page.next_cursor;
    }
    Ok(whole)
}

fn inventory(args: &FilterArgs) -> Result<u8> {
    let target = CommandTarget::open(&args.plain.target, false)?;
    let whole = whole_inventory(&target, args.filter()?)?;
    if args.plain.json {
        print::reply(&whole, true)?;
        return Ok(0);
    }
    let or_dash = |value: Option<String>| value.unwrap_or("-".into());
    let rows = whole.series.iter().map(|row| {
        vec![
            row.series.to_string(),
            row.rows.to_string(),
            row.bytes.to_string(),
            row.chunks.to_string(),
            row.tail_rows.to_string(),
            or_dash(row.first_ts.map(|ts| ts.to_string())),
            or_dash(row.last_ts.map(|ts| ts.to_string())),
            or_dash(row.coverage_ratio.map(|ratio| format!("{ratio:.4}"))),
            row.version.to_string(),
        ]
    });
    let header = ["series", "rows", "bytes", "chunks", "tail_rows", "first_ts", "last_ts", "coverage", "version"];
    print::out(&print::table(&header, rows.collect()))?;
    let t = &whole.totals;
    print::out(&format!(
        "{} series, {} rows, {} bytes in {} chunks, {} tail rows, {} bytes of log, {} snapshots, commit {}\n",
        t.series, t.rows, t.bytes, t.chunks, t.tail_rows, t.wal_bytes, t.snapshots, whole.commit
    ))?;
    Ok(0)
}

fn list_series(args: &FilterArgs) -> Result<u8> {
    let whole = args.list(&CommandTarget::open(&args.plain.target, false)?)?;
    if args.plain.json {
        print::reply(&whole, true)?;
        return Ok(0);
    }
    let rows = whole.series.iter().map(|info| {
        let columns: Vec<String> = info
            .columns
            .iter()
            .map(|column| match column.kind.digits() {
                Some(digits) => format!("{}:{digits}", column.name),
                None => column.name.clone(),
            })
            .collect();
        vec![info.series.to_string(), info.unit.name().into(), columns.join(" "), info.version.to_string()]
    });
    print::out(&print::table(&["series", "unit", "columns", "version"], rows.collect()))?;
    Ok(0)
}

fn health(args: &PlainArgs) -> Result<u8> {
    let health = CommandTarget::open(&args.target, false)?.health()?;
    print::reply(&health, args.json)?;
    Ok(u8::from(health.status != HealthStatus::Ok))
}
