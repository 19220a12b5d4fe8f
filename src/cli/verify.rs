//! `fastk admin verify`, `scrub`, `list-orphans` and `explain-overlap`: damaged, orphaned and overlapping files.
//!
//! All but `scrub` read the files even while another process owns them, and use a server only with `--server`.

use std::collections::BTreeMap;

use super::target::{CommandTarget, PlainArgs, chunk_bytes_max, root_of};
use super::{job, print};
use crate::disk::DiskPath;
use crate::error::Result;
use crate::service::operations::{ExplainOverlaps, JobOperation, ListOrphans, NoRequest, Scrub, Verify};
use crate::service::{
    FindingKind, OrphanReport, OverlapReport, ScrubRequest, VerifyOptions, VerifyReport, VerifyRequest,
};
use crate::store::{self, Finding, OrphanKind, Severity};

#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    plain: PlainArgs,
    /// Read at most this many bytes per second, such as 64M [default: unlimited].
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    rate: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub struct ScrubArgs {
    #[command(flatten)]
    plain: PlainArgs,
    /// Read at most this many bytes per second, 0 for unlimited [default: 64M].
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    rate: Option<u64>,
    /// Only print what would be rebuilt.
    #[arg(long)]
    dry_run: bool,
}

/// Parses a number of bytes with an optional suffix `K`, `M` or `G`.
pub fn bytes(text: &str) -> std::result::Result<u64, String> {
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (text.get(..at), 10),
        Some((at, 'm' | 'M')) => (text.get(..at), 20),
        Some((at, 'g' | 'G')) => (text.get(..at), 30),
        _ => (Some(text), 0),
    };
    digits
        .and_then(|digits| digits.parse::<u64>().ok())
        .and_then(|count| count.checked_mul(1 << shift))
        .ok_or_else(|| format!("{text:?} is not a number of bytes such as 65536, 512K or 64M"))
}

/// Verifies every file.
pub fn verify(args: &VerifyArgs) -> Result<u8> {
    let request = VerifyRequest { bytes_per_second: args.rate };
    let report = match &args.plain.target.server {
        Some(_) => CommandTarget::open(&args.plain.target, false)?.run_job::<Verify>(&request)?,
        None => {
            let root = root_of(&args.plain.target)?;
            let control = Verify::control(&request);
            job::local(&control, Verify::UNIT, || {
                store::verify(&DiskPath::os(&root), VerifyOptions::default(), &control)
            })?
        }
    };
    print_report(&report, args.plain.json)
}

/// Verifies every file and rebuilds damaged sidecars.
pub fn scrub(args: &ScrubArgs) -> Result<u8> {
    let request = ScrubRequest { bytes_per_second: args.rate, dry_run: args.dry_run };
    let report = CommandTarget::open(&args.plain.target, false)?.run_job::<Scrub>(&request)?;
    print_report(&report, args.plain.json)
}

/// Lists files that the manifest does not name.
pub fn list_orphans(args: &PlainArgs) -> Result<u8> {
    let report: OrphanReport = match &args.target.server {
        Some(_) => CommandTarget::open(&args.target, false)?.run::<ListOrphans>(NoRequest {})?,
        None => store::orphans(&DiskPath::os(&root_of(&args.target)?))?,
    };
    // Files that are removed automatically are no finding.
    let counts = |kind: OrphanKind| matches!(kind, OrphanKind::GivenUp | OrphanKind::Unfinished | OrphanKind::Foreign);
    let status = u8::from(report.orphans.iter().any(|orphan| counts(orphan.kind)));
    if args.json {
        print::reply(&report, true)?;
        return Ok(status);
    }
    let mut text = String::new();
    for orphan in &report.orphans {
        text.push_str(&format!("{}  {} bytes  {}\n", orphan.file, orphan.bytes, orphan.why));
    }
    let (files, bytes) = (counted(report.files, "file"), counted(report.bytes, "byte"));
    text.push_str(&format!("{files} that the manifest does not name, {bytes}\n"));
    print::out(&text)?;
    Ok(status)
}

/// Lists chunks that cover the same times.
pub fn explain_overlap(args: &PlainArgs) -> Result<u8> {
    let report: OverlapReport = match &args.target.server {
        Some(_) => CommandTarget::open(&args.target, false)?.run::<ExplainOverlaps>(NoRequest {})?,
        None => store::overlaps(&DiskPath::os(&root_of(&args.target)?), chunk_bytes_max()?)?,
    };
    let status = u8::from(report.overlapping > 0);
    if args.json {
        print::reply(&report, true)?;
        return Ok(status);
    }
    let mut text = String::new();
    for overlap in &report.overlaps {
        text.push_str(&format!("{} {}\n", overlap.series, overlap.partition));
        for chunk in &overlap.chunks {
            text.push_str(&format!(
                "  chunk {}: {} rows from {} to {}, commits {} to {}, {} bytes\n",
                chunk.id, chunk.rows, chunk.ts_min, chunk.ts_max, chunk.commit_lo, chunk.commit_hi, chunk.bytes
            ));
        }
        for pair in &overlap.pairs {
            text.push_str(&format!(
                "  from {} to {} both {} and {} have rows: at the same timestamp the row of {} is read\n",
                pair.ts_min, pair.ts_max, pair.older, pair.newer, pair.newer
            ));
        }
        if overlap.rows_hidden > 0 {
            text.push_str(&format!("  {} of {} rows are hidden by newer ones\n", overlap.rows_hidden, overlap.rows));
        }
        for sentence in &overlap.compaction {
            text.push_str(&format!("  {sentence}\n"));
        }
    }
    text.push_str(&format!(
        "{} with more than one chunk; in {} of them chunks overlap\n",
        counted(report.partitions, "partition"),
        report.overlapping
    ));
    print::out(&text)?;
    Ok(status)
}

/// Prints a report: one line per finding, then the remedy for each kind. Returns the exit status.
fn print_report(report: &VerifyReport, json: bool) -> Result<u8> {
    let status = u8::from(!report.clean);
    if json {
        print::reply(report, true)?;
        return Ok(status);
    }
    let mut text = String::new();
    let mut remedies: BTreeMap<FindingKind, Vec<&str>> = BTreeMap::new();
    for finding in &report.findings {
        text.push_str(&line(finding));
        let known = remedies.entry(finding.kind).or_default();
        if !known.contains(&finding.remedy.as_str()) {
            known.push(&finding.remedy);
        }
    }
    for finding in &report.rebuilt {
        text.push_str(&format!("rebuilt  {}: {}\n", finding.file, finding.message));
    }
    if report.findings_left_out > 0 {
        text.push_str(&format!("and {} more\n", report.findings_left_out));
    }
    if !remedies.is_empty() {
        text.push_str("what to do:\n");
    }
    for (kind, remedy) in remedies.iter().flat_map(|(kind, remedies)| remedies.iter().map(move |one| (kind, one))) {
        text.push_str(&format!("  {}: {remedy}\n", kind.name()));
    }
    let verdict = if report.clean { "clean" } else { "not clean" };
    text.push_str(&format!(
        "{verdict}: {}, {}, {}, {} rebuilt; {}, {}, {} in {}, edit {}\n",
        counted(report.errors, "error"),
        counted(report.warnings, "warning"),
        counted(report.notes, "note"),
        report.rebuilt.len(),
        counted(report.files_checked, "file"),
        counted(report.bytes_checked, "byte"),
        counted(report.rows, "row"),
        counted(report.chunks, "chunk"),
        report.edit
    ));
    print::out(&text)?;
    Ok(status)
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn line(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    };
    let mut text = format!("{severity}  {}  {}", finding.kind.name(), finding.file);
    if let (Some(offset), Some(bytes)) = (finding.offset, finding.bytes) {
        text.push_str(&format!(", {bytes} bytes at {offset}"));
    }
    text.push_str(&format!(": {}", finding.message));
    if let (Some(expected), Some(found)) = (&finding.expected, &finding.found) {
        text.push_str(&format!(" (expected {expected}, found {found})"));
    }
    if let Some(series) = &finding.series {
        text.push_str(&format!("; {series}"));
    }
    match (finding.rows, finding.ts_min, finding.ts_max) {
        (Some(rows), Some(first), Some(last)) => text.push_str(&format!(", {rows} rows from {first} to {last}")),
        (Some(rows), ..) => text.push_str(&format!(", {rows} rows")),
        _ => {}
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn byte_counts_have_an_optional_suffix() {
        assert_eq!(
            (bytes("0"), bytes("512K"), bytes("64M"), bytes("2g")),
            (Ok(0), Ok(512 << 10), Ok(64 << 20), Ok(2 << 30))
        );
        for bad in ["", "M", "-1", "1.5M", "1T", "99999999999999G", "6\u{20ac}"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
