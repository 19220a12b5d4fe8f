//! `fastk admin repair` and `fastk admin rebuild-manifest`. Both need a directory that no process has open; without
//! `--apply` they only print what they would do.

use std::path::PathBuf;

use super::print;
use super::target::root_or_configured;
use crate::disk::{DiskPath, Lock};
use crate::error::Result;
use crate::registry::{FILE as REGISTRY_FILE, Registry};
use crate::store::{LOCK_FILE, RepairAction, RepairOptions, RepairReport, repair};

#[derive(Debug, clap::Args)]
pub struct RepairArgs {
    /// Data directory, which no process may have open [default: the configured one].
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Repair; without this, only print what would be done.
    #[arg(long)]
    apply: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs either command. Exit status 0 for a store that is now intact; 1 when repairs are pending, or acknowledged rows,
/// commits, snapshots or series are lost.
pub fn run(args: &RepairArgs, rebuild_manifest: bool) -> Result<u8> {
    let options = RepairOptions { apply: args.apply, rebuild_manifest };
    let root = DiskPath::os(&root_or_configured(args.root.as_deref())?);
    let mut report = repair(&root, options)?;
    if args.apply {
        repair_registry(&root, &mut report)?;
    }
    if args.json {
        print::reply(&report, true)?;
    } else {
        print::out(&text(&report, args.apply))?;
    }
    let pending = !report.clean && !report.applied;
    Ok(u8::from(pending || report.has_lost()))
}

/// Creates a new registry if the repair quarantined the old one, and quarantines one that cannot be read.
fn repair_registry(root: &DiskPath, report: &mut RepairReport) -> Result<()> {
    let expected = report.actions.iter().any(|action| action.file == REGISTRY_FILE);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let wall_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    let _lock = Lock::acquire(&root.join(LOCK_FILE))?;
    let registry = Registry::open(root, expected, wall_ms);
    if let Some(problem) = registry.problem() {
        report.clean = false;
        report.applied = true;
        report.actions.push(RepairAction { action: "rewrite", file: REGISTRY_FILE.to_owned(), reason: problem });
    }
    Ok(())
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
        out.push_str(&format!("lost       log sequence numbers {first} to {last}\n"));
    }
    if let Some(first) = report.lost_from {
        out.push_str(&format!("lost       log sequence numbers from {first} on, if any\n"));
    }
    for (first, last) in &report.lost_commits {
        out.push_str(&match last {
            Some(last) if last == first => format!("lost       commit {first}\n"),
            Some(last) => format!("lost       commits {first} to {last}\n"),
            None => format!("lost       commits from {first} on, if any\n"),
        });
    }
    for snapshot in &report.lost_snapshots {
        out.push_str(&format!("lost       snapshot {} at commit {}\n", snapshot.name, snapshot.commit));
    }
    for series in &report.lost_series {
        out.push_str(&format!("lost       {}: {}\n", series.series, series.reason));
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
            "nothing was changed; --apply repairs the store and keeps every damaged file under quarantine/\n".to_owned()
        }
    });
    out
}
