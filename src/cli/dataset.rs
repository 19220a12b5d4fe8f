//! `fastk dataset`: versioned sets of series under a snapshot.

use clap::Subcommand;

use super::print;
use super::target::{CommandTarget, PlainArgs};
use crate::error::{Error, Result};
use crate::registry::{RecordKind, RecordRef};
use crate::service::operations::{
    ChangeDataset, CreateDataset, DescribeDataset, ListDatasetVersions, ListDatasets, ReadLineage, RecordChange,
    RecordRequest,
};
use crate::service::{DatasetPage, DatasetSpec, RecordFilter, RecordPatch};
use crate::types::SeriesKey;

#[derive(Debug, clap::Args)]
pub struct DatasetArgs {
    #[command(subcommand)]
    command: DatasetCommand,
}

#[derive(Debug, Subcommand)]
enum DatasetCommand {
    /// Create the next version of a dataset; reads every row of its members.
    Create(DatasetCreateArgs),
    /// List datasets by name and version.
    List(DatasetListArgs),
    /// Print one version with its members; for a name without a version the latest.
    Show(DatasetVersionArgs),
    /// List the versions of a dataset.
    Versions(DatasetNameArgs),
    /// Print what a dataset is derived from, and what is derived from it.
    Lineage(DatasetVersionArgs),
    /// Change the status of a version.
    Status(DatasetStatusArgs),
}

#[derive(Debug, clap::Args)]
struct DatasetCreateArgs {
    /// 1 to 48 lower-case letters, digits and . _ -; the first is a letter or digit.
    name: String,
    /// Keys of series, and globs such as 'kline/*/1m'.
    #[arg(required = true, value_name = "KEY")]
    members: Vec<String>,
    /// An existing snapshot [default: a new one].
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,
    /// Origin of the rows.
    #[arg(long)]
    source: Option<String>,
    /// Market of the traded instruments.
    #[arg(long)]
    market: Option<String>,
    /// Text for people.
    #[arg(long)]
    description: Option<String>,
    /// draft or active.
    #[arg(long, default_value = "active")]
    status: String,
    /// What the dataset is derived from: NAME@VERSION of a dataset, feature:NAME@VERSION, factor:NAME@VERSION; repeatable.
    #[arg(long, value_name = "RECORD")]
    derived_from: Vec<String>,
    #[command(flatten)]
    plain: PlainArgs,
}

#[derive(Debug, clap::Args)]
struct DatasetListArgs {
    /// Only versions of this name.
    #[arg(long)]
    name: Option<String>,
    /// draft, active, deprecated or archived.
    #[arg(long)]
    status: Option<String>,
    /// Only datasets with this origin of the rows.
    #[arg(long)]
    source: Option<String>,
    /// Only datasets of this market.
    #[arg(long)]
    market: Option<String>,
    /// Only datasets with this member.
    #[arg(long, value_name = "KEY")]
    series: Option<String>,
    /// Only datasets derived directly from this one.
    #[arg(long, value_name = "RECORD")]
    derived_from: Option<String>,
    #[command(flatten)]
    pages: DatasetPageArgs,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Which page of a list to print.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DatasetPageArgs {
    /// At most N, 1 to 1,000 [default: 100].
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Continue after an earlier page: the next_cursor of that page.
    #[arg(long)]
    pub cursor: Option<String>,
}

/// Flags of a command on all versions of a name.
#[derive(Debug, clap::Args)]
pub struct DatasetNameArgs {
    /// Name without a version.
    pub name: String,
    #[command(flatten)]
    pub pages: DatasetPageArgs,
    #[command(flatten)]
    pub plain: PlainArgs,
}

/// Flags of a command on one version of a record.
#[derive(Debug, clap::Args)]
pub struct DatasetVersionArgs {
    /// NAME@VERSION, or NAME for the latest.
    #[arg(value_name = "NAME[@VERSION]")]
    pub record: String,
    #[command(flatten)]
    pub plain: PlainArgs,
}

/// A version and its next status.
#[derive(Debug, clap::Args)]
pub struct DatasetStatusArgs {
    /// NAME@VERSION.
    #[arg(value_name = "NAME@VERSION")]
    pub record: String,
    /// active, deprecated or archived.
    pub status: String,
    #[command(flatten)]
    pub plain: PlainArgs,
}

/// The request that changes the status of NAME@VERSION.
///
/// # Errors
/// `invalid_argument` without a version.
pub fn change(kind: RecordKind, record: &str, status: &str) -> Result<RecordChange> {
    let (name, version) = RecordRef::parse_short(kind, record)?;
    if version.is_none() {
        return Err(Error::invalid(format!("the version of {} {name} is missing", kind.name()))
            .with_hint(format!("give it as NAME@VERSION, such as {name}@1")));
    }
    Ok(RecordChange { kind, name, version, change: RecordPatch { status: status.parse()? } })
}

/// The filter of all versions of a name.
pub fn versions(kind: RecordKind, name: String, pages: DatasetPageArgs) -> RecordFilter {
    RecordFilter { kind, name: Some(name), limit: pages.limit, cursor: pages.cursor, ..RecordFilter::default() }
}

/// Runs one of the commands under `dataset`.
pub fn run(args: DatasetArgs) -> Result<u8> {
    match args.command {
        DatasetCommand::Create(args) => create(args)?,
        DatasetCommand::List(args) => {
            let filter = RecordFilter {
                kind: RecordKind::Dataset,
                name: args.name,
                status: args.status.as_deref().map(str::parse).transpose()?,
                source: args.source,
                market: args.market,
                series: args.series.as_deref().map(SeriesKey::parse).transpose()?,
                derived_from: args.derived_from.as_deref().map(str::parse).transpose()?,
                limit: args.pages.limit,
                cursor: args.pages.cursor,
            };
            page(&CommandTarget::open(&args.plain.target, false)?.run::<ListDatasets>(filter)?, args.plain.json)?;
        }
        DatasetCommand::Show(DatasetVersionArgs { record, plain }) => {
            let (name, version) = RecordRef::parse_short(RecordKind::Dataset, &record)?;
            let request = RecordRequest { kind: RecordKind::Dataset, name, version };
            print::reply(&CommandTarget::open(&plain.target, false)?.run::<DescribeDataset>(request)?, plain.json)?;
        }
        DatasetCommand::Versions(DatasetNameArgs { name, pages, plain }) => {
            let filter = versions(RecordKind::Dataset, name, pages);
            page(&CommandTarget::open(&plain.target, false)?.run::<ListDatasetVersions>(filter)?, plain.json)?;
        }
        DatasetCommand::Lineage(args) => lineage(RecordKind::Dataset, &args)?,
        DatasetCommand::Status(DatasetStatusArgs { record, status, plain }) => {
            let change = change(RecordKind::Dataset, &record, &status)?;
            print::reply(&CommandTarget::open(&plain.target, false)?.run::<ChangeDataset>(change)?, plain.json)?;
        }
    }
    Ok(0)
}

fn create(args: DatasetCreateArgs) -> Result<()> {
    let spec = DatasetSpec {
        name: args.name,
        members: args.members,
        snapshot: args.snapshot,
        source: args.source,
        market: args.market,
        description: args.description,
        status: args.status.parse()?,
        derived_from: args.derived_from.iter().map(|text| text.parse()).collect::<Result<_>>()?,
    };
    print::reply(&CommandTarget::open(&args.plain.target, false)?.run::<CreateDataset>(spec)?, args.plain.json)
}

fn page(page: &DatasetPage, json: bool) -> Result<()> {
    if json {
        return print::reply(page, true);
    }
    let dash = || "-".to_owned();
    let rows = page.datasets.iter().map(|one| {
        vec![
            one.dataset.short(),
            one.status.name().to_owned(),
            one.series_count.to_string(),
            one.rows.to_string(),
            one.start.clone().unwrap_or_else(dash),
            one.end.clone().unwrap_or_else(dash),
            one.source.clone().unwrap_or_else(dash),
            one.market.clone().unwrap_or_else(dash),
        ]
    });
    let header = ["dataset", "status", "series", "rows", "start", "end", "source", "market"];
    print::out(&print::table(&header, rows.collect()))?;
    more(page.next_cursor.as_deref());
    Ok(())
}

/// Prints how to get the next page, if there is one.
pub fn more(cursor: Option<&str>) {
    if let Some(cursor) = cursor {
        print::note(&format!("there are more: continue with --cursor {cursor}"));
    }
}

/// Prints the lineage of a record.
pub fn lineage(kind: RecordKind, args: &DatasetVersionArgs) -> Result<()> {
    let (name, version) = RecordRef::parse_short(kind, &args.record)?;
    let request = RecordRequest { kind, name, version };
    let found = CommandTarget::open(&args.plain.target, false)?.run::<ReadLineage>(request)?;
    if args.plain.json {
        return print::reply(&found, true);
    }
    let upstream = found.upstream.iter().map(|node| ("from", node));
    let rows = upstream.chain(found.downstream.iter().map(|node| ("into", node))).map(|(way, node)| {
        vec![way.to_owned(), node.depth.to_string(), node.record.to_string(), node.status.name().to_owned()]
    });
    print::out(&print::table(&[&found.record.to_string(), "steps", "record", "status"], rows.collect()))?;
    if found.truncated {
        print::note("the lineage is longer than shown");
    }
    Ok(())
}
