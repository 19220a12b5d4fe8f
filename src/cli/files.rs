//! `fastk files`: the chunk files of a series, for programs that read them without FastK.

use std::path::Path;

use super::print;
use super::target::{CommandTarget, PlainArgs};
use crate::error::Result;
use crate::service::operations::{Compact, ListFiles};
use crate::service::{CompactRequest, FilesReply, FilesRequest};
use crate::types::SeriesKey;

#[derive(Debug, clap::Args)]
pub struct FilesArgs {
    /// kline/{symbol}/{timeframe}, scalar/{category}/{symbol}/{timeframe}/{name}, or a registered kind and its words
    key: String,
    /// First seal the rows of the log into chunk files and compact each partition.
    #[arg(long, conflicts_with = "as_of")]
    exact: bool,
    /// The files of the series under this snapshot, or dataset:NAME@VERSION.
    #[arg(long, value_name = "NAME")]
    as_of: Option<String>,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Prints the files, one per line, when they are exactly the series. Otherwise prints why they are not; exit status 1.
/// With `--json` prints every file with its readable row ranges in both cases.
pub fn run(args: FilesArgs) -> Result<u8> {
    let series = SeriesKey::parse(&args.key)?;
    let target = CommandTarget::open(&args.plain.target, false)?;
    if args.exact {
        target.run_job::<Compact>(&CompactRequest { series: vec![series.clone()] })?;
    }
    let reply = target.run::<ListFiles>(FilesRequest { series, as_of: args.as_of.clone() })?;
    if args.plain.json {
        print::reply(&reply, true)?;
    } else if reply.exact {
        // Paths start with the directory as the user gave it.
        let root = args.plain.target.root.as_deref().unwrap_or_else(|| Path::new(&reply.root));
        let lines: Vec<String> =
            reply.files.iter().map(|file| format!("{}\n", root.join(&file.file).display())).collect();
        print::out(&lines.concat())?;
    }
    if !reply.exact {
        print::note(&why(&reply, &args));
    }
    Ok(u8::from(!reply.exact))
}

/// Why the files are not exactly the series, and what to do.
fn why(reply: &FilesReply, args: &FilesArgs) -> String {
    let mut reasons = Vec::new();
    if reply.rows_left_out > 0 {
        reasons.push(format!(
            "{} of the {} rows in them were overwritten or deleted later",
            reply.rows_left_out,
            reply.rows_left_out + reply.rows_in_files
        ));
    }
    if reply.rows_outside > 0 {
        reasons.push(format!("{} of the {} rows of the series are not in them yet", reply.rows_outside, reply.rows));
    }
    let text = format!("the chunk files are not exactly {}: {}", reply.series, reasons.join("; "));
    let rest = "--json lists the readable row ranges of each file; `fastk export` writes one file of all rows";
    let hint = match (args.as_of.is_none(), reply.snapshots.is_empty()) {
        (true, true) if !args.exact => format!("--exact compacts the series first; {rest}"),
        (true, false) => {
            let first = if args.exact { "" } else { "--exact compacts the series first, but " };
            let names = reply.snapshots.join(", ");
            format!("{first}the files of snapshots stay separate until the snapshots are dropped ({names}); {rest}")
        }
        _ => rest.to_owned(),
    };
    format!("{text}\nhint: {hint}")
}
