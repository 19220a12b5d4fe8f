//! `fastk admin backup` and `fastk admin restore`.

use std::path::PathBuf;

use super::target::{CommandTarget, TargetArgs};
use super::verify::bytes;
use super::{job, print};
use crate::error::Result;
use crate::service::{BackupRequest, RestoreOptions, TaskControl, restore_backup};

#[derive(Debug, clap::Args)]
pub struct BackupArgs {
    /// Directory of the backup: a new or empty one, or one with an earlier backup of this store, which then becomes this
    /// one. Through a server, a name below its `backup_dir`.
    dir: PathBuf,
    /// An earlier backup of this store, whose files are linked where they are the same.
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Give the backup files of its own, where links to those of the store would do.
    #[arg(long)]
    copy: bool,
    /// Do not read linked files.
    #[arg(long)]
    no_verify: bool,
    /// Take files that are damaged in the store as they are, and list them.
    #[arg(long)]
    allow_damaged: bool,
    /// Bytes to read a second at most, such as 64M; as many as it can when left out.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    rate: Option<u64>,
    /// Change nothing, and tell what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    target: TargetArgs,
    /// Print the reply as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// Directory of the backup.
    backup: PathBuf,
    /// Data directory to make: a new or empty one.
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Restore the store as this named snapshot showed it.
    #[arg(long, value_name = "SNAPSHOT")]
    as_of: Option<String>,
    /// Give the store the files of the backup under a second name instead of copies.
    #[arg(long)]
    link: bool,
    /// Take damaged chunks as they are, and leave damaged sidecars out.
    #[arg(long)]
    allow_damaged: bool,
    /// Do it; else only check the backup and tell what would be done.
    #[arg(long)]
    apply: bool,
    /// Print the reply as JSON.
    #[arg(long)]
    json: bool,
}

/// Backs a store up; exit status 1 when something in it was damaged.
pub fn backup(args: BackupArgs) -> Result<u8> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let request = BackupRequest {
        dir: text(args.dir),
        base: args.base.map(text),
        copy: args.copy,
        no_verify: args.no_verify,
        allow_damaged: args.allow_damaged,
        dry_run: args.dry_run,
        bytes_per_second: args.rate,
    };
    let reply = CommandTarget::open(&args.target, false)?.backup(&request)?;
    print::reply(&reply, args.json)?;
    Ok(u8::from(!reply.damaged.is_empty()))
}

/// Restores a backup, or tells what that would do; exit status 1 when something in it is damaged.
pub fn restore(args: RestoreArgs) -> Result<u8> {
    let options =
        RestoreOptions { apply: args.apply, as_of: args.as_of, link: args.link, allow_damaged: args.allow_damaged };
    let watch = TaskControl::new();
    let reply = job::local(&watch, "bytes", || restore_backup(&args.backup, &args.root, &options, &watch))?;
    print::reply(&reply, args.json)?;
    if !reply.applied {
        print::note("nothing was made: --apply restores");
    }
    Ok(u8::from(!reply.damaged.is_empty()))
}
