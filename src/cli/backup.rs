//! `fastk admin backup` and `fastk admin restore`.

use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::show;
use super::target::{Target, TargetArgs};
use crate::error::Result;
use crate::service::{BackupRequest, RestoreOptions, restore_backup};
use crate::store::Watch;

/// How often a bar is drawn.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);

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
    /// Bytes read a second at most.
    #[arg(long, value_name = "BYTES")]
    bytes_per_second: Option<u64>,
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
        bytes_per_second: args.bytes_per_second,
    };
    let reply = Target::open(&args.target, false)?.backup(&request)?;
    show::reply(&reply, args.json)?;
    Ok(u8::from(!reply.damaged.is_empty()))
}

/// Restores a backup, or tells what that would do; exit status 1 when something in it is damaged.
pub fn restore(args: RestoreArgs) -> Result<u8> {
    let options =
        RestoreOptions { apply: args.apply, as_of: args.as_of, link: args.link, allow_damaged: args.allow_damaged };
    let watch = Watch::new();
    let phase = if options.apply { "restoring" } else { "checking" };
    let reply = watched(&watch, phase, || restore_backup(&args.backup, &args.root, &options, &watch))?;
    show::reply(&reply, args.json)?;
    if !reply.applied {
        show::note("nothing was made: --apply restores");
    }
    Ok(u8::from(!reply.damaged.is_empty()))
}

/// Does long work with a bar over its bytes, on a terminal only.
pub fn watched<T: Send>(watch: &Watch, phase: &'static str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg:10} {bar:40} {bytes}/{total_bytes} {eta}") {
        bar.set_style(style);
    }
    bar.set_message(phase);
    let outcome = std::thread::scope(|scope| {
        let working = scope.spawn(work);
        while !working.is_finished() {
            let (done, total) = watch.progress();
            bar.set_length(total);
            bar.set_position(done);
            std::thread::sleep(DRAW_INTERVAL.min(Duration::from_millis(1 + done)));
        }
        working.join()
    });
    bar.finish_and_clear();
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
