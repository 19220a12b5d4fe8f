//! `fastk admin backup` and `fastk admin restore`.

use std::path::PathBuf;

use super::target::{CommandTarget, TargetArgs};
use super::verify::bytes;
use super::{job, print};
use crate::error::Result;
use crate::service::operations::StartBackup;
use crate::service::{BackupRequest, RestoreOptions, TaskControl, restore_backup};

#[derive(Debug, clap::Args)]
pub struct BackupArgs {
    /// Directory of the backup: new, empty, or with an earlier backup of this store, which is then replaced. Through a
    /// server, a name below its `backup_dir`.
    dir: PathBuf,
    /// An earlier backup of this store; unchanged files are hard-linked from it.
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Copy files instead of hard-linking those of the store.
    #[arg(long)]
    copy: bool,
    /// Do not verify linked files.
    #[arg(long)]
    no_verify: bool,
    /// Back up damaged files as they are, and list them.
    #[arg(long)]
    allow_damaged: bool,
    /// Read at most this many bytes per second, such as 64M [default: unlimited].
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    rate: Option<u64>,
    /// Change nothing; print what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    target: TargetArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// Directory of the backup.
    backup: PathBuf,
    /// Data directory to create: new or empty.
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Restore the store as of this named snapshot.
    #[arg(long, value_name = "SNAPSHOT")]
    as_of: Option<String>,
    /// Hard-link the files of the backup into the store instead of copying them.
    #[arg(long)]
    link: bool,
    /// Restore damaged chunks as they are, and leave damaged sidecars out.
    #[arg(long)]
    allow_damaged: bool,
    /// Restore; without this, only verify the backup and print what would be done.
    #[arg(long)]
    apply: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Backs up a store; exit status 1 when something in it is damaged.
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
    let reply = CommandTarget::open(&args.target, false)?.run_job::<StartBackup>(&request)?;
    print::reply(&reply, args.json)?;
    Ok(u8::from(!reply.damaged.is_empty()))
}

/// Restores a backup, or prints what that would do; exit status 1 when something in it is damaged.
pub fn restore(args: RestoreArgs) -> Result<u8> {
    let options =
        RestoreOptions { apply: args.apply, as_of: args.as_of, link: args.link, allow_damaged: args.allow_damaged };
    let control = TaskControl::new();
    let reply = job::local(&control, "bytes", || restore_backup(&args.backup, &args.root, &options, &control))?;
    print::reply(&reply, args.json)?;
    if !reply.applied {
        print::note("nothing was restored; --apply restores");
    }
    Ok(u8::from(!reply.damaged.is_empty()))
}
