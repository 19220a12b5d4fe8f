//! `fastk admin`: inventory, health, maintenance, backup, verification and repair of a store, and its tokens.

use clap::Subcommand;
use serde::Serialize;

use super::backup::{self, BackupArgs, RestoreArgs};
use super::repair::{self, RepairArgs};
use super::series_filter::{FilterArgs, full_inventory};
use super::target::{CommandTarget, PlainArgs};
use super::{print, stats, token, verify};
use crate::error::Result;
use crate::service::operations::{Compact, ExplainOverlaps, HealthOf, NoRequest, Readiness};
use crate::service::{CompactRequest, HealthStatus, SeriesFilter};
use crate::types::SeriesKey;
use crate::types::schema::series_not_found;

#[derive(Debug, clap::Args)]
pub struct AdminArgs {
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// Print rows, bytes and time range of every series.
    Inventory(FilterArgs),
    /// List registered series.
    ListSeries(FilterArgs),
    /// Print totals of the store, and what maintenance did since it was opened.
    Stats(PlainArgs),
    /// Print how predicates on each series can be evaluated.
    Capabilities(FilterArgs),
    /// Print the health of the store. Exit status 1 unless it is healthy.
    Health(PlainArgs),
    /// Seal rows of the log into chunk files and compact partitions.
    Compact(CompactArgs),
    /// Back up the current commit into a directory; reads and writes continue meanwhile.
    Backup(BackupArgs),
    /// Verify a backup and create a store from it.
    Restore(RestoreArgs),
    /// Repair a damaged store: write intact data into new files, and move damaged files into quarantine.
    Repair(RepairArgs),
    /// Rebuild the manifest from the other files.
    RebuildManifest(RepairArgs),
    /// Verify every file of a store, even while another process owns it. Exit status 1 when there are findings.
    Verify(verify::VerifyArgs),
    /// Verify every file and rebuild damaged sidecars. Exit status 1 when findings remain.
    Scrub(verify::ScrubArgs),
    /// List files of a data directory that the manifest does not name, and why they may exist.
    ListOrphans(PlainArgs),
    /// List chunks that cover the same times, which of them takes precedence, and what compaction would do.
    ExplainOverlap(PlainArgs),
    /// Check whether a server is ready and accepts writes; needs no token. Exit status 1 when it does not.
    Ping(PlainArgs),
    /// Create, list and revoke the tokens that clients of a server need.
    Token(token::TokenArgs),
}

#[derive(Debug, clap::Args)]
struct CompactArgs {
    /// Series keys [default: all].
    series: Vec<String>,
    /// Only print what would be compacted.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Runs one of the commands under `admin`.
pub fn run(args: AdminArgs) -> Result<u8> {
    match args.command {
        AdminCommand::Inventory(args) => inventory(&args),
        AdminCommand::ListSeries(args) => list_series(&args),
        AdminCommand::Stats(args) => stats::stats(&args),
        AdminCommand::Capabilities(args) => stats::capabilities(&args),
        AdminCommand::Health(args) => health(&args),
        AdminCommand::Compact(args) => {
            let series = args.series.iter().map(|text| SeriesKey::parse(text)).collect::<Result<Vec<_>>>()?;
            let target = CommandTarget::open(&args.plain.target, false)?;
            if args.dry_run {
                print::reply(&preview_compaction(&target, &series)?, args.plain.json)?;
            } else {
                print::reply(&target.run_job::<Compact>(&CompactRequest { series })?, args.plain.json)?;
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
            let ready = CommandTarget::running(&args.target)?.run::<Readiness>(NoRequest {})?;
            print::reply(&ready, args.json)?;
            if ready.writer_stopped {
                print::note("writes are refused until the server is restarted; `fastk admin health` says why");
            }
            Ok(u8::from(ready.status == HealthStatus::Failing || ready.writer_stopped))
        }
        AdminCommand::Token(args) => token::run(args),
    }
}

/// What a compaction would do.
#[derive(Debug, Serialize)]
struct CompactPreview {
    dry_run: bool,
    /// Series with rows that are in no chunk yet.
    series_to_seal: u64,
    rows_to_seal: u64,
    /// Partitions of the whole store with more than one chunk, before the seal.
    partitions_to_compact: u64,
    /// Bytes of chunks that hold only unreadable rows.
    garbage_bytes: u64,
}

fn preview_compaction(target: &CommandTarget, series: &[SeriesKey]) -> Result<CompactPreview> {
    let all = full_inventory(target, SeriesFilter { limit: Some(10_000), ..SeriesFilter::default() })?;
    if let Some(missing) = series.iter().find(|key| !all.series.iter().any(|row| row.series == **key)) {
        return Err(series_not_found(missing));
    }
    let mut found = CompactPreview {
        dry_run: true,
        series_to_seal: 0,
        rows_to_seal: 0,
        partitions_to_compact: target.run::<ExplainOverlaps>(NoRequest {})?.partitions,
        garbage_bytes: 0,
    };
    for row in all.series.iter().filter(|row| series.is_empty() || series.contains(&row.series)) {
        found.series_to_seal += u64::from(row.tail_rows > 0);
        found.rows_to_seal += row.tail_rows;
        found.garbage_bytes += row.garbage_bytes;
    }
    Ok(found)
}

fn inventory(args: &FilterArgs) -> Result<u8> {
    let target = CommandTarget::open(&args.plain.target, false)?;
    let all = full_inventory(&target, args.filter()?)?;
    if args.plain.json {
        print::reply(&all, true)?;
        return Ok(0);
    }
    let or_dash = |value: Option<String>| value.unwrap_or("-".into());
    let rows = all.series.iter().map(|row| {
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
    let t = &all.totals;
    print::out(&format!(
        "{} series, {} rows, {} bytes in {} chunks, {} tail rows, {} bytes of log, {} snapshots, commit {}\n",
        t.series, t.rows, t.bytes, t.chunks, t.tail_rows, t.wal_bytes, t.snapshots, all.commit
    ))?;
    Ok(0)
}

fn list_series(args: &FilterArgs) -> Result<u8> {
    let all = args.list(&CommandTarget::open(&args.plain.target, false)?)?;
    if args.plain.json {
        print::reply(&all, true)?;
        return Ok(0);
    }
    let rows = all.series.iter().map(|info| {
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
    let health = CommandTarget::open(&args.target, false)?.run::<HealthOf>(NoRequest {})?;
    print::reply(&health, args.json)?;
    Ok(u8::from(health.status != HealthStatus::Ok))
}
