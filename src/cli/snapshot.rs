//! `fastk snapshot`: named views of the whole store.

use clap::Subcommand;

use super::show;
use super::target::{PlainArgs, Target};
use crate::error::Result;

#[derive(Debug, clap::Args)]
pub struct SnapshotArgs {
    #[command(subcommand)]
    verb: SnapshotVerb,
}

#[derive(Debug, Subcommand)]
enum SnapshotVerb {
    /// Name the store as it is now, for --as-of.
    Create(NameArgs),
    /// Named snapshots.
    List(PlainArgs),
    /// Take a name away; what only it showed is removed in time.
    Drop(NameArgs),
}

#[derive(Debug, clap::Args)]
struct NameArgs {
    name: String,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Runs one of the verbs under `snapshot`.
pub fn run(args: SnapshotArgs) -> Result<u8> {
    match args.verb {
        SnapshotVerb::Create(NameArgs { name, plain }) => {
            show::reply(&Target::open(&plain.target, false)?.create_snapshot(&name)?, plain.json)?;
        }
        SnapshotVerb::Drop(NameArgs { name, plain }) => {
            show::reply(&Target::open(&plain.target, false)?.drop_snapshot(&name)?, plain.json)?;
        }
        SnapshotVerb::List(plain) => {
            let list = Target::open(&plain.target, false)?.snapshots()?;
            if plain.json {
                show::reply(&list, true)?;
            } else {
                let rows = list.snapshots.into_iter().map(|one| vec![one.name, one.commit.to_string(), one.created_at]);
                show::out(&show::table(&["name", "commit", "created_at"], rows.collect()))?;
            }
        }
    }
    Ok(0)
}
