//! `fastk feature` and `fastk factor`: how series are computed, and from which inputs.

use std::path::Path;

use clap::Subcommand;

use super::dataset::{
    DatasetNameArgs, DatasetPageArgs, DatasetStatusArgs, DatasetVersionArgs, change, lineage, more, versions,
};
use super::print;
use super::target::{CommandTarget, PlainArgs};
use crate::disk::local;
use crate::error::{Error, Result};
use crate::registry::{RecordKind, RecordRef};
use crate::service::operations::{
    ChangeDefinition, Define, DefineRequest, DescribeDefinition, ListDefinitionVersions, ListDefinitions, RecordRequest,
};
use crate::service::{DefinitionPage, DefinitionSpec, RecordFilter};
use crate::types::SeriesKey;

#[derive(Debug, clap::Args)]
pub struct DefinitionArgs {
    #[command(subcommand)]
    command: DefinitionCommand,
}

#[derive(Debug, Subcommand)]
enum DefinitionCommand {
    /// Register a definition: returns the identical version, or creates the next one.
    Create(DefinitionCreateArgs),
    /// List definitions by name and version.
    List(DefinitionListArgs),
    /// Print one version; for a name without a version the latest.
    Show(DatasetVersionArgs),
    /// List the versions of a name.
    Versions(DatasetNameArgs),
    /// Print what a definition is derived from, and what is derived from it.
    Lineage(DatasetVersionArgs),
    /// Change the status of a version.
    Status(DatasetStatusArgs),
}

#[derive(Debug, clap::Args)]
struct DefinitionCreateArgs {
    /// 1 to 48 lower-case letters, digits and . _ -; the first is a letter or digit.
    name: String,
    /// How the outputs are computed: a JSON object, or @FILE with one.
    #[arg(long, value_name = "JSON")]
    definition: String,
    /// Version of the code that computes the outputs, such as a commit.
    #[arg(long, value_name = "TEXT")]
    code_version: String,
    /// What the outputs are computed from: the key of a series, NAME@VERSION of a dataset, feature:NAME@VERSION,
    /// factor:NAME@VERSION; repeatable.
    #[arg(long = "input", value_name = "INPUT", required = true)]
    inputs: Vec<String>,
    /// Key of a series that stores the result; repeatable.
    #[arg(long = "output", value_name = "KEY")]
    outputs: Vec<String>,
    /// Text for people.
    #[arg(long)]
    description: Option<String>,
    /// draft or active.
    #[arg(long, default_value = "active")]
    status: String,
    #[command(flatten)]
    plain: PlainArgs,
}

#[derive(Debug, clap::Args)]
struct DefinitionListArgs {
    /// Only versions of this name.
    #[arg(long)]
    name: Option<String>,
    /// draft, active, deprecated or archived.
    #[arg(long)]
    status: Option<String>,
    /// Only definitions with this series among inputs and outputs.
    #[arg(long, value_name = "KEY")]
    series: Option<String>,
    /// Only definitions computed directly from this one.
    #[arg(long, value_name = "RECORD")]
    derived_from: Option<String>,
    #[command(flatten)]
    pages: DatasetPageArgs,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Runs one of the commands under `feature` or `factor`.
pub fn run(kind: RecordKind, args: DefinitionArgs) -> Result<u8> {
    match args.command {
        DefinitionCommand::Create(args) => create(kind, args)?,
        DefinitionCommand::List(args) => {
            let filter = RecordFilter {
                kind,
                name: args.name,
                status: args.status.as_deref().map(str::parse).transpose()?,
                series: args.series.as_deref().map(SeriesKey::parse).transpose()?,
                derived_from: args.derived_from.as_deref().map(str::parse).transpose()?,
                limit: args.pages.limit,
                cursor: args.pages.cursor,
                ..RecordFilter::default()
            };
            page(
                kind,
                &CommandTarget::open(&args.plain.target, false)?.run::<ListDefinitions>(filter)?,
                args.plain.json,
            )?;
        }
        DefinitionCommand::Show(DatasetVersionArgs { record, plain }) => {
            let (name, version) = RecordRef::parse_short(kind, &record)?;
            let request = RecordRequest { kind, name, version };
            print::reply(&CommandTarget::open(&plain.target, false)?.run::<DescribeDefinition>(request)?, plain.json)?;
        }
        DefinitionCommand::Versions(DatasetNameArgs { name, pages, plain }) => {
            let filter = versions(kind, name, pages);
            let found = CommandTarget::open(&plain.target, false)?.run::<ListDefinitionVersions>(filter)?;
            page(kind, &found, plain.json)?;
        }
        DefinitionCommand::Lineage(args) => lineage(kind, &args)?,
        DefinitionCommand::Status(DatasetStatusArgs { record, status, plain }) => {
            let change = change(kind, &record, &status)?;
            print::reply(&CommandTarget::open(&plain.target, false)?.run::<ChangeDefinition>(change)?, plain.json)?;
        }
    }
    Ok(0)
}

fn create(kind: RecordKind, args: DefinitionCreateArgs) -> Result<()> {
    let text = match args.definition.strip_prefix('@') {
        None => args.definition,
        Some(file) => {
            let path = Path::new(file);
            local::read_text(path)?
        }
    };
    let spec = DefinitionSpec {
        name: args.name,
        definition: serde_json::from_str(&text)
            .map_err(|error| Error::invalid(format!("the definition is not valid JSON: {error}")))?,
        code_version: args.code_version,
        inputs: args.inputs,
        outputs: args.outputs.iter().map(|text| SeriesKey::parse(text)).collect::<Result<_>>()?,
        description: args.description,
        status: args.status.parse()?,
    };
    let request = DefineRequest { kind, spec };
    print::reply(&CommandTarget::open(&args.plain.target, false)?.run::<Define>(request)?, args.plain.json)
}

fn page(kind: RecordKind, page: &DefinitionPage, json: bool) -> Result<()> {
    if json {
        return print::reply(page, true);
    }
    let rows = page.definitions.iter().map(|one| {
        vec![
            one.reference.short(),
            one.status.name().to_owned(),
            one.code_version.clone(),
            one.series_count.to_string(),
            one.config_hash.clone(),
        ]
    });
    print::out(&print::table(&[kind.name(), "status", "code_version", "series", "config_hash"], rows.collect()))?;
    more(page.next_cursor.as_deref());
    Ok(())
}
