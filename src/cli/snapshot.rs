//! `fastk snapshot`: named snapshots of the whole store.

use clap::Subcommand;

use super::print;
use super::target::{CommandTarget, PlainArgs};
use crate::error::Result;
use crate::service::operations::{CreateSnapshot, DropSnapshot, ListSnapshots, NoRequest, SnapshotSpec};

#[derive(Debug, clap::Args)]
pub struct SnapshotArgs {
    #[command(subcommand)]
    command: SnapshotCommand,
}

#[derive(Debug, Subcommand)]
enum SnapshotCommand {
    /// Create a snapshot of the current commit, for --as-of.
    Create(SnapshotNameArgs),
    /// List named snapshots.
    List(PlainArgs),
    /// Drop a snapshot; data that only it needs is removed later.
    Drop(SnapshotNameArgs),
}

#[derive(Debug, clap::Args)]
struct SnapshotNameArgs {
    /// Name of the snapshot.
    name: String,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Runs one of the commands under `snapshot`.
pub fn run(args: SnapshotArgs) -> Result<u8> {
    match args.command {
        SnapshotCommand::Create(SnapshotNameArgs { name, plain }) => {
            let target = CommandTarget::open(&plain.target, false)?;
            print::reply(&target.run::<CreateSnapshot>(SnapshotSpec { name })?, plain.json)?;
        }
        SnapshotCommand::Drop(SnapshotNameArgs { name, plain }) => {
            let target = CommandTarget::open(&plain.target, false)?;
            print::reply(&target.run::<DropSnapshot>(SnapshotSpec { name })?, plain.json)?;
        }
        SnapshotCommand::List(plain) => {
            let list = CommandTarget::open(&plain.target, false)?.run::<ListSnapshots>(NoRequest {})?;
            if plain.json {
                print::reply(&list, true)?;
            } else {
                let rows = list.snapshots.into_iter().map(|one| vec![one.name, one.commit.to_string(), one.created_at]);
                print::out(&print::table(&["name", "commit", "created_at"], rows.collect()))?;
            }
        }
    }
    Ok(0)
}
