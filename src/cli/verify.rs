//! `fastk admin verify`, `scrub`, `list-orphans` and `explain-overlap`: what is damaged, what lies around, what overlaps.
//!
//! All but `scrub` read the files beside whatever process owns them; a server is asked only with `--server`.

use std::collections::BTreeMap;

use super::print;
use super::target::{CommandTarget, PlainArgs, root_of};
use super::{engine, job};
use crate::error::Result;
use crate::service::{
    FindingKind, OrphanReport, OverlapReport, ScrubRequest, VerifyReport, VerifyRequest, scrub_watch,
};
use crate::store::{Finding, OrphanKind, Severity, TaskControl};

#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    plain: PlainArgs,
    /// Bytes to read a second at most, such as 64M; as many as it can when left out.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    rate: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub struct ScrubArgs {
    #[command(flatten)]
    plain: PlainArgs,
    /// Bytes to read a second at most, such as 64M, which is the default; 0 for as many as it can.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    rate: Option<u64>,
    /// Only tell what would be written anew.
    #[arg(long)]
    dry_run: bool,
}

/// A count of bytes with `K`, `M` or `G` behind it.
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

/// Checks every file.
pub fn verify(args: &VerifyArgs) -> Result<u8> {
    let request = VerifyRequest { bytes_per_second: args.rate };
    let report = match &args.plain.target.server {
        Some(_) => CommandTarget::open(&args.plain.target, false)?.verify(request)?,
        None => {
            let root = root_of(&args.plain.target)?;
            let watch = TaskControl::with_rate(args.rate.unwrap_or(0));
            job::local(&watch, "bytes", || engine::verify(&root, &watch))?
        }
    };
    tell(&report, args.plain.json)
}

/// Checks every file and writes damaged sidecars anew.
pub fn scrub(args: &ScrubArgs) -> Result<u8> {
    let request = ScrubRequest { bytes_per_second: args.rate, dry_run: args.dry_run };
    let report = match CommandTarget::open(&args.plain.target, false)? {
        CommandTarget::Local(service) => {
            let watch = scrub_watch(request);
            job::local(&watch, "bytes", || service.scrub(request.dry_run, &watch))?
        }
        remote @ CommandTarget::Remote(_) => remote.scrub(request)?,
    };
    tell(&report, args.plain.json)
}

/// Files that nothing names.
pub fn list_orphans(args: &PlainArgs) -> Result<u8> {
    let report: OrphanReport = match &args.target.server {
        Some(_) => CommandTarget::open(&args.target, false)?.orphans()?,
        None => engine::orphans(&root_of(&args.target)?)?,
    };
    // Files that go by themselves are no finding.
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

/// Chunks that span the same times.
pub fn explain_overlap(args: &PlainArgs) -> Result<u8> {
    let report: OverlapReport = match &args.target.server {
        Some(_) => CommandTarget::open(&args.target, false)?.overlaps()?,
        None => engine::overlaps(&root_of(&args.target)?)?,
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
                "  from {} to {} both {} and {} have rows: where both have one, that of {} is read\n",
                pair.ts_min, pair.ts_max, pair.older, pair.newer, pair.newer
            ));
        }
        if overlap.rows_hidden > 0 {
            text.push_str(&format!("  {} of {} rows are not read any more\n", overlap.rows_hidden, overlap.rows));
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

/// Prints a report: a line a finding, then what to do about each kind. Gives the exit status.
fn tell(report: &VerifyReport, json: bool) -> Result<u8> {
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
    fn rates_are_bytes_with_a_letter_behind_them() {
        assert_eq!(
            (bytes("0"), bytes("512K"), bytes("64M"), bytes("2g")),
            (Ok(0), Ok(512 << 10), Ok(64 << 20), Ok(2 << 30))
        );
        for bad in ["", "M", "-1", "1.5M", "1T", "99999999999999G", "6\u{20ac}"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
