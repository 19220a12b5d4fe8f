//! `fastk dataset`: series as a snapshot shows them, in versions.

use clap::Subcommand;

use super::print;
use super::target::{CommandTarget, PlainArgs};
use crate::error::{Error, Result};
use crate::registry::{RecordKind, RecordRef, RecordStatus};
use crate::service::{DatasetPage, DatasetSpec, LineageReply, RecordFilter};
use crate::types::SeriesKey;

#[derive(Debug, clap::Args)]
pub struct DatasetArgs {
    #[command(subcommand)]
    verb: DatasetCommand,
}

#[derive(Debug, Subcommand)]
enum DatasetCommand {
    /// Make the next version of a dataset; reads every row of its members.
    Create(DatasetCreateArgs),
    /// Datasets by name and version.
    List(DatasetListArgs),
    /// One version with its members; the latest for a name alone.
    Show(DatasetVersionArgs),
    /// Versions of a dataset.
    Versions(DatasetNameArgs),
    /// What a dataset was made from, and what was made from it.
    Lineage(DatasetVersionArgs),
    /// Change where a version stands.
    Status(DatasetStatusArgs),
}

#[derive(Debug, clap::Args)]
struct DatasetCreateArgs {
    /// 1 to 48 of lower-case letters, digits and . _ -, a letter or digit first.
    name: String,
    /// Keys of series, and globs such as 'kline/*/1m'.
    #[arg(required = true, value_name = "KEY")]
    members: Vec<String>,
    /// A snapshot that is there already; one of its own is made when left out.
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,
    /// Where the rows come from.
    #[arg(long)]
    source: Option<String>,
    /// Where they were traded.
    #[arg(long)]
    market: Option<String>,
    #[arg(long)]
    description: Option<String>,
    /// draft or active.
    #[arg(long, default_value = "active")]
    status: String,
    /// What it was made from: NAME@VERSION of a dataset, feature:NAME@VERSION, factor:NAME@VERSION; may be repeated.
    #[arg(long, value_name = "RECORD")]
    derived_from: Vec<String>,
    #[command(flatten)]
    plain: PlainArgs,
}

#[derive(Debug, clap::Args)]
struct DatasetListArgs {
    #[arg(long)]
    name: Option<String>,
    /// draft, active, deprecated or archived.
    #[arg(long)]
    status: Option<String>,
    #[arg(long)]
    source: Option<String>,
    #[arg(long)]
    market: Option<String>,
    /// Only those with this member.
    #[arg(long, value_name = "KEY")]
    series: Option<String>,
    /// Only those made from this one, in one step.
    #[arg(long, value_name = "RECORD")]
    derived_from: Option<String>,
    #[command(flatten)]
    pages: DatasetPageArgs,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Which part of a list to show.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DatasetPageArgs {
    /// At most N, 1 to 1,000; 100 when left out.
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Go on behind an earlier answer: its next_cursor.
    #[arg(long)]
    pub cursor: Option<String>,
}

/// A name alone.
#[derive(Debug, clap::Args)]
pub struct DatasetNameArgs {
    pub name: String,
    #[command(flatten)]
    pub pages: DatasetPageArgs,
    #[command(flatten)]
    pub plain: PlainArgs,
}

/// One version.
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

/// A version that is named with its number, since it is changed.
pub fn named(kind: RecordKind, text: &str) -> Result<(String, u32)> {
    match RecordRef::parse_short(kind, text)? {
        (name, Some(version)) => Ok((name, version)),
        (name, None) => Err(Error::invalid(format!("{} {name} is named without a version", kind.name()))
            .with_hint(format!("such as {name}@1"))),
    }
}

/// Runs one of the verbs under `dataset`.
pub fn run(args: DatasetArgs) -> Result<u8> {
    match args.verb {
        DatasetCommand::Create(args) => create(args)?,
        DatasetCommand::List(args) => {
            let filter = RecordFilter {
                name: args.name,
                status: args.status.as_deref().map(str::parse).transpose()?,
                source: args.source,
                market: args.market,
                series: args.series.as_deref().map(SeriesKey::parse).transpose()?,
                derived_from: args.derived_from.as_deref().map(str::parse).transpose()?,
                limit: args.pages.limit,
                cursor: args.pages.cursor,
            };
            page(&CommandTarget::open(&args.plain.target, false)?.datasets(&filter)?, args.plain.json)?;
        }
        DatasetCommand::Show(DatasetVersionArgs { record, plain }) => {
            let (name, version) = RecordRef::parse_short(RecordKind::Dataset, &record)?;
            print::reply(&CommandTarget::open(&plain.target, false)?.dataset(&name, version)?, plain.json)?;
        }
        DatasetCommand::Versions(DatasetNameArgs { name, pages, plain }) => {
            let filter = RecordFilter { limit: pages.limit, cursor: pages.cursor, ..RecordFilter::default() };
            page(&CommandTarget::open(&plain.target, false)?.dataset_versions(&name, &filter)?, plain.json)?;
        }
        DatasetCommand::Lineage(args) => lineage(RecordKind::Dataset, &args)?,
        DatasetCommand::Status(DatasetStatusArgs { record, status, plain }) => {
            let (name, version) = named(RecordKind::Dataset, &record)?;
            let status: RecordStatus = status.parse()?;
            let changed = CommandTarget::open(&plain.target, false)?.set_dataset_status(&name, version, status)?;
            print::reply(&changed, plain.json)?;
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
    print::reply(&CommandTarget::open(&args.plain.target, false)?.create_dataset(&spec)?, args.plain.json)
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

/// Says how to go on.
pub fn more(cursor: Option<&str>) {
    if let Some(cursor) = cursor {
        print::note(&format!("there are more: --cursor {cursor}"));
    }
}

/// Shows the lineage of a record.
pub fn lineage(kind: RecordKind, args: &DatasetVersionArgs) -> Result<()> {
    let (name, version) = RecordRef::parse_short(kind, &args.record)?;
    let found: LineageReply = CommandTarget::open(&args.plain.target, false)?.lineage(kind, &name, version)?;
    if args.plain.json {
        return print::reply(&found, true);
    }
    let upstream = found.upstream.iter().map(|node| ("from", node));
    let rows = upstream.chain(found.downstream.iter().map(|node| ("into", node))).map(|(way, node)| {
        vec![way.to_owned(), node.depth.to_string(), node.record.to_string(), node.status.name().to_owned()]
    });
    print::out(&print::table(&[&found.record.to_string(), "steps", "record", "status"], rows.collect()))?;
    if found.truncated {
        print::note("there is more than is shown");
    }
    Ok(())
}
