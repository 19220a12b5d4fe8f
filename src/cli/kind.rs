//! `fastk kind`: kinds of series.

use std::path::PathBuf;

use clap::Subcommand;

use super::print;
use super::target::{CommandTarget, PlainArgs};
use crate::error::{Error, Result};
use crate::service::operations::{DescribeKind, DropKind, KindRequest, ListKinds, NoRequest, RegisterKind};

#[derive(Debug, clap::Args)]
pub struct KindArgs {
    #[command(subcommand)]
    command: KindCommand,
}

#[derive(Debug, Subcommand)]
enum KindCommand {
    /// Register a kind of series.
    Register(KindFileArgs),
    /// List the kinds of series.
    List(PlainArgs),
    /// Print the definition of a kind.
    Show(KindNameArgs),
    /// Drop a kind that has no series.
    Drop(KindNameArgs),
}

#[derive(Debug, clap::Args)]
struct KindFileArgs {
    /// Definition as JSON, like the body of POST /v1/kinds; `-` reads standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    plain: PlainArgs,
}

#[derive(Debug, clap::Args)]
struct KindNameArgs {
    /// Name of the kind.
    kind: String,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Runs one of the commands under `kind`.
pub fn run(args: KindArgs) -> Result<u8> {
    match args.command {
        KindCommand::Register(KindFileArgs { file, plain }) => {
            let bytes = super::write::read_input(Some(&file))?;
            let kind = serde_json::from_slice(&bytes)
                .map_err(|error| Error::invalid(format!("kind in {}: {error}", file.display())))?;
            let reply = CommandTarget::open(&plain.target, true)?.run::<RegisterKind>(kind)?;
            print::reply(&reply, plain.json)?;
        }
        KindCommand::Show(KindNameArgs { kind, plain }) => {
            let target = CommandTarget::open(&plain.target, false)?;
            print::reply(&target.run::<DescribeKind>(KindRequest { kind })?, plain.json)?;
        }
        KindCommand::Drop(KindNameArgs { kind, plain }) => {
            let target = CommandTarget::open(&plain.target, false)?;
            print::reply(&target.run::<DropKind>(KindRequest { kind })?, plain.json)?;
        }
        KindCommand::List(plain) => {
            let list = CommandTarget::open(&plain.target, false)?.run::<ListKinds>(NoRequest {})?;
            if plain.json {
                print::reply(&list, true)?;
            } else {
                let rows = list.kinds.into_iter().map(|kind| {
                    let fields: Vec<String> =
                        kind.fields.iter().map(|field| format!("{} {}", field.name, field.kind.text())).collect();
                    vec![kind.kind, kind.key.join("/"), kind.unit.name().to_owned(), fields.join(", ")]
                });
                print::out(&print::table(&["kind", "key", "unit", "fields"], rows.collect()))?;
            }
        }
    }
    Ok(0)
}
