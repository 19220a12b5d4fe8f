//! `fastk admin repair` and `fastk admin rebuild-manifest`: for the bad day. They need the directory to themselves, and
//! only show what they would do without `--apply`.

use std::path::PathBuf;

use super::show;
use super::target::root_or_configured;
use crate::disk::DiskPath;
use crate::error::Result;
use crate::store::{RepairOptions, RepairReport, repair};

#[derive(Debug, clap::Args)]
pub struct RepairArgs {
    /// Data directory, which no process may have open; the one of the configuration when left out.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Do it; without this only what would be done is shown.
    #[arg(long)]
    apply: bool,
    /// Print the reply as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs either verb. Exit status 0 for a store that was or is whole now, 1 when there is something to do or rows are
/// lost.
pub fn run(args: &RepairArgs, rebuild_manifest: bool) -> Result<u8> {
    let options = RepairOptions { apply: args.apply, rebuild_manifest };
    let report = repair(&DiskPath::os(&root_or_configured(args.root.as_deref())?), options)?;
    if args.json {
        show::reply(&report, true)?;
    } else {
        show::out(&text(&report, args.apply))?;
    }
    let pending = !report.clean && !report.applied;
    let lost = !report.lost.is_empty() || !report.lost_lsns.is_empty() || report.lost_from.is_some();
    Ok(u8::from(pending || lost))
}

fn text(report: &RepairReport, apply: bool) -> String {
    let mut out = String::new();
    for action in &report.actions {
        let file = if action.file.is_empty() { "the store" } else { &action.file };
        out.push_str(&format!("{:<10} {file}: {}\n", action.action, action.reason));
    }
    for lost in &report.lost {
        let span = match (lost.ts_min, lost.ts_max) {
            (Some(first), Some(last)) => format!("timestamps {first} to {last}"),
            _ => "timestamps unknown".to_owned(),
        };
        let rows = lost.rows.map_or("rows".to_owned(), |rows| format!("at most {rows} rows"));
        out.push_str(&format!("lost       {}: {rows}, {span} ({}: {})\n", lost.series, lost.file, lost.reason));
    }
    for (first, last) in &report.lost_lsns {
        out.push_str(&format!("lost       commits of log sequence numbers {first} to {last}\n"));
    }
    if let Some(first) = report.lost_from {
        out.push_str(&format!("lost       commits from log sequence number {first} on, if there were any\n"));
    }
    for forgotten in &report.forgotten {
        out.push_str(&format!("forgotten  {forgotten}\n"));
    }
    out.push_str(&match (report.clean, apply) {
        (true, _) => "nothing to repair\n".to_owned(),
        (false, true) => {
            format!("repaired: {} series, {} rows, commit {}\n", report.series, report.rows, report.commit)
        }
        (false, false) => {
            "nothing was changed; --apply does it, and keeps every damaged file under quarantine/\n".to_owned()
        }
    });
    out
}
