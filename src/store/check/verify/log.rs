//! The log: every segment from the first one the manifest needs, every frame, and what the frames say of each other.
//!
//! Damage below a position that a later frame knows to be synced is damaged data; damage after it is the torn end of an
//! unacknowledged write. A frame that is being written while it is read looks damaged, so a segment with damage is
//! read again as long as it changes.

use crate::disk;
use crate::error::Result;
use crate::format::wal::{
    self, FRAME_ALIGNMENT, FRAME_HEADER_BYTES, FrameKind, FrameRead, LoggedChange, SEGMENT_HEADER_BYTES, decode_commit,
    decode_segment_header, frame_bytes,
};
use crate::store::check::verify::finding::{Finding, FindingKind, Severity};
use crate::store::check::verify::manifest::number_of;
use crate::store::check::verify::read_file::{FileReadOutcome, READ_ATTEMPTS};
use crate::store::check::verify::run::VerifyRun;
use crate::types::cells;
use crate::types::width::to_usize;

/// A place that holds no intact frame.
struct LogGap {
    file: String,
    offset: u64,
    bytes: u64,
    /// Positions that could have been there; the last one is known once a frame follows.
    lsn_min: u64,
    lsn_max: Option<u64>,
    message: String,
}

/// What the frames said so far.
#[derive(Default)]
struct LogWalk {
    next_lsn: Option<u64>,
    /// Whether only a header reported it so far: the first frame may have a lower one.
    by_header: bool,
    durable_lsn: u64,
    gaps: Vec<LogGap>,
    findings: Vec<Finding>,
    /// A segment that is cut, missing or without a frame: the next frame shows which positions are lost.
    open_ended: Option<Finding>,
    /// Registrations and drops, in order.
    operations: Vec<LoggedChange>,
    last_commit: u64,
}

impl VerifyRun<'_> {
    pub fn log(&mut self) -> Result<()> {
        let Some(numbers) = self.segments()? else { return Ok(()) };
        let mut walk = LogWalk::default();
        let mut expected = self.contents().wal_first_segment;
        for number in numbers {
            for missing in expected..number {
                let file = format!("wal/{missing:020}.wal");
                let finding = Finding::new(FindingKind::MissingSegment, file, "rows that were only in it are lost");
                walk.leave_open(finding, self.contents().wal_first_lsn);
            }
            expected = number + 1;
            self.segment(number, &mut walk)?;
        }
        let first_lsn = self.contents().wal_first_lsn;
        let unexplained = walk.open_ended.is_none() && self.reading.whole && !self.live;
        if let Some(next) = walk.next_lsn.filter(|next| *next < first_lsn && unexplained) {
            let file = format!("wal/{:020}.wal", expected.saturating_sub(1));
            let message = format!("the log ends at position {next}, the manifest begins at {first_lsn}");
            walk.findings.push(Finding::new(FindingKind::MissingSegment, file, message));
        }
        let newest = self.reading.current.wal_segment;
        if newest >= expected && self.reading.whole {
            let file = format!("wal/{expected:020}.wal");
            let message = format!("CURRENT names segment {newest}; rows that were only in it are lost");
            walk.leave_open(Finding::new(FindingKind::MissingSegment, file, message), first_lsn);
        }
        walk.close_at_end();
        let durable = walk.durable_lsn;
        for gap in walk.gaps {
            let synced = gap.lsn_max.is_some() || gap.lsn_min <= durable;
            let kind = if synced { FindingKind::DamagedFrame } else { FindingKind::TornTail };
            let mut finding = Finding::new(kind, gap.file, gap.message).at(gap.offset, gap.bytes);
            finding.lsn_min = Some(gap.lsn_min);
            finding.lsn_max = gap.lsn_max;
            self.add(finding);
        }
        walk.findings.into_iter().for_each(|finding| self.add(finding));
        for operation in walk.operations {
            match operation {
                LoggedChange::Register { series_id, def } => {
                    if let Ok(def) = serde_json::from_str(&def) {
                        self.defs.insert(series_id, def);
                    }
                }
                LoggedChange::Drop { series_id } => {
                    self.dropped.insert(series_id);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Numbers of the segments that recovery would read; `None`, and a finding, when there is no log at all.
    fn segments(&mut self) -> Result<Option<Vec<u64>>> {
        for attempt in 0..READ_ATTEMPTS {
            let first = self.contents().wal_first_segment;
            let names = disk::list(&self.root.join("wal"))?;
            let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name, ".wal")).collect();
            numbers.retain(|number| *number >= first);
            let begins = numbers.first() == Some(&first);
            if begins || !self.reading.whole {
                return Ok(Some(numbers));
            }
            if self.live && attempt + 1 < READ_ATTEMPTS {
                // The writer may have trimmed it: then the manifest starts later now.
                crate::store::check::verify::read_file::pause();
                let fresh = crate::store::check::verify::manifest::read(self.root)?;
                if fresh.whole {
                    self.reading.contents = fresh.contents;
                    self.reading.ever = fresh.ever;
                    self.reading.names = fresh.names;
                }
                continue;
            }
            if numbers.is_empty() {
                if !self.contents().epoch.is_empty() {
                    let file = format!("wal/{first:020}.wal");
                    let message = "the log has no segment; rows that were only in it are lost";
                    self.add(Finding::new(FindingKind::MissingSegment, file, message));
                }
                return Ok(None);
            }
            return Ok(Some(numbers));
        }
        Ok(None)
    }

    /// Reads one segment, again while it changes under the eye.
    fn segment(&mut self, number: u64, walk: &mut LogWalk) -> Result<()> {
        let path = self.root.join("wal").join(format!("{number:020}.wal"));
        let file = self.name(&path);
        let mut before: Option<Vec<u8>> = None;
        let mut same = 0;
        loop {
            let bytes = match crate::store::check::verify::read_file::read(&path) {
                FileReadOutcome::Is(bytes) => bytes,
                FileReadOutcome::Missing => {
                    if self.still(|contents| contents.wal_first_segment <= number)? {
                        let message = "it disappeared while the log was read";
                        walk.findings.push(Finding::new(FindingKind::MissingSegment, file, message));
                    }
                    walk.next_lsn = None;
                    return Ok(());
                }
                FileReadOutcome::Unreadable(error) => {
                    walk.findings.push(crate::store::check::verify::read_file::unreadable(&file, &error));
                    walk.next_lsn = None;
                    return Ok(());
                }
            };
            let (next_lsn, by_header) = (walk.next_lsn, walk.by_header);
            let open_ended = walk.open_ended.clone();
            let mut found =
                LogWalk { next_lsn, by_header, durable_lsn: walk.durable_lsn, open_ended, ..LogWalk::default() };
            found.segment(number, &file, &bytes, self.contents().wal_first_lsn);
            let clean = found.gaps.is_empty() && found.findings.is_empty();
            same = if before.as_ref() == Some(&bytes) { same + 1 } else { 0 };
            if clean || !self.live || same + 1 >= READ_ATTEMPTS {
                walk.next_lsn = found.next_lsn;
                walk.by_header = found.by_header;
                walk.durable_lsn = found.durable_lsn;
                walk.last_commit = walk.last_commit.max(found.last_commit);
                walk.open_ended = found.open_ended;
                walk.gaps.extend(found.gaps);
                walk.findings.extend(found.findings);
                walk.operations.extend(found.operations);
                self.report.files_checked += 1;
                self.report.bytes_checked += bytes.len() as u64;
                return self.control.advance(bytes.len() as u64);
            }
            self.control.check()?;
            before = Some(bytes);
            crate::store::check::verify::read_file::pause();
        }
    }
}

impl LogWalk {
    fn segment(&mut self, number: u64, file: &str, bytes: &[u8], first_lsn: u64) {
        let damaged = |message: &str| Finding::new(FindingKind::DamagedSegment, file, message);
        let mut cut = None;
        let mut stated_bytes = bytes.len();
        let (epoch, first) = match decode_segment_header(bytes) {
            Ok(header) if header.number == number => {
                let (expected, found) = (header.segment_bytes, bytes.len() as u64);
                if expected != found {
                    let message = if found < expected { "its end is missing" } else { "bytes were added to it" };
                    let finding = damaged(message).at(expected.min(found), expected.abs_diff(found));
                    let finding = finding.compared(format!("{expected} bytes"), format!("{found} bytes"));
                    match found < expected {
                        true => cut = Some(finding),
                        false => {
                            let mut finding = finding.severity(Severity::Warning);
                            finding.remedy =
                                "`admin repair --apply` keeps its frames and starts a new log; nothing is lost".into();
                            self.findings.push(finding);
                        }
                    }
                    stated_bytes = stated_bytes.min(to_usize(expected));
                }
                (header.epoch, Some(header.first_lsn))
            }
            Ok(header) => {
                let finding = damaged("it is the segment of another number").at(0, bytes.len() as u64);
                self.findings.push(finding.compared(number, header.number));
                self.next_lsn = None;
                return;
            }
            Err(error) => {
                let header_bytes = (bytes.len() as u64).min(SEGMENT_HEADER_BYTES as u64);
                // Any intact frame shows what the header recorded.
                let Some((_, frame)) = wal::first_frame(bytes) else {
                    let message = format!("{}; it has no intact frame", error.detail());
                    self.leave_open(damaged(&message).at(0, header_bytes), first_lsn);
                    return;
                };
                let message = format!("{}; its frames can be read", error.detail());
                self.findings.push(damaged(&message).at(0, header_bytes));
                (frame.epoch, None)
            }
        };
        if self.next_lsn.is_none() {
            self.next_lsn = first;
            self.by_header = true;
        }
        let bytes = bytes.get(..stated_bytes).unwrap_or(bytes);
        let mut offset = SEGMENT_HEADER_BYTES;
        let mut end = offset;
        let mut damaged_at: Option<usize> = None;
        while offset < bytes.len() {
            match wal::frame_at(bytes, offset, epoch) {
                FrameRead::Frame(frame, payload) => {
                    self.close_before(frame.lsn, damaged_at.is_none());
                    let expected_lsn = self.next_lsn.unwrap_or(frame.lsn);
                    let expected = match damaged_at {
                        _ if !self.by_header => expected_lsn,
                        None => expected_lsn.min(frame.lsn),
                        Some(_) => expected_lsn.min(first_lsn.min(frame.lsn)),
                    };
                    if damaged_at.is_some() || expected != frame.lsn {
                        let from = damaged_at.take().unwrap_or(offset);
                        self.gap(file, (from, offset), expected, Some(frame.lsn.saturating_sub(1)));
                    }
                    self.frame(file, bytes, offset, &frame, payload, first_lsn);
                    offset += frame_bytes(frame.payload_bytes);
                    end = offset;
                }
                FrameRead::Empty if damaged_at.is_none() && is_zero(bytes, offset) => break,
                FrameRead::Empty | FrameRead::Damaged => {
                    damaged_at.get_or_insert(offset);
                    offset += FRAME_ALIGNMENT;
                }
            }
        }
        // What is before the cut of a segment belongs to that damage.
        if let Some(from) = damaged_at.filter(|_| cut.is_none()) {
            let expected = self.next_lsn.or(first).unwrap_or(0);
            // Zeros at the end belong to what was never used.
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(from, |last| last + 1);
            self.gap(file, (from, used.max(from)), expected, None);
        }
        if let Some(first) = first.filter(|_| end == SEGMENT_HEADER_BYTES && self.open_ended.is_some()) {
            // It was created for the frame after those that the segments before it held at most.
            self.close_before(first, true);
        }
        // Where the next frame would start and nothing was written, none followed.
        let is_log_end = bytes.get(end..end + FRAME_ALIGNMENT).is_some_and(|next| is_zero(next, 0));
        match cut {
            Some(finding) if is_log_end => self.findings.push(finding),
            Some(finding) => self.leave_open(finding, first_lsn),
            None => {}
        }
    }

    /// Records a finding about positions that follow the last one; which ones is known at the next frame.
    fn leave_open(&mut self, mut finding: Finding, first_lsn: u64) {
        if self.open_ended.is_some() {
            self.findings.push(finding);
            return;
        }
        finding.lsn_min = Some(self.next_lsn.unwrap_or(first_lsn).max(first_lsn));
        self.open_ended = Some(finding);
    }

    /// A frame, or a segment created for one, was found: what is between is lost.
    fn close_before(&mut self, lsn: u64, follows: bool) {
        let Some(mut finding) = self.open_ended.take() else { return };
        match finding.lsn_min.filter(|first| lsn > *first) {
            Some(first) => {
                finding.lsn_max = Some(lsn - 1);
                finding.message = format!("{}: positions {first} to {} are lost", finding.message, lsn - 1);
                if follows {
                    self.next_lsn = Some(lsn);
                }
            }
            None => finding.lsn_min = None,
        }
        self.findings.push(finding);
    }

    fn close_at_end(&mut self) {
        let Some(mut finding) = self.open_ended.take() else { return };
        if let Some(first) = finding.lsn_min {
            finding.message = format!("{}: positions from {first} on are lost, if any", finding.message);
        }
        self.findings.push(finding);
    }

    fn gap(&mut self, file: &str, (from, to): (usize, usize), lsn_min: u64, lsn_max: Option<u64>) {
        let message = match lsn_max {
            Some(last) if last < lsn_min => format!("bytes {from} to {to} contain no frame; no position is missing"),
            Some(last) => {
                format!("bytes {from} to {to} contain no intact frame: positions {lsn_min} to {last} are lost")
            }
            None => format!("bytes {from} to {to} contain no intact frame: positions from {lsn_min} on"),
        };
        let (offset, bytes) = (from as u64, to.saturating_sub(from) as u64);
        self.gaps.push(LogGap { file: file.into(), offset, bytes, lsn_min, lsn_max, message });
    }

    fn frame(
        &mut self,
        file: &str,
        bytes: &[u8],
        offset: usize,
        frame: &wal::FrameHeader,
        payload: &[u8],
        first_lsn: u64,
    ) {
        self.next_lsn = Some(frame.lsn + 1);
        self.by_header = false;
        self.durable_lsn = self.durable_lsn.max(frame.durable_lsn);
        self.last_commit = self.last_commit.max(frame.commit);
        let (begin, end) = (offset + FRAME_HEADER_BYTES + payload.len(), offset + frame_bytes(frame.payload_bytes));
        let padding = cells::range(bytes, begin..end.min(bytes.len()));
        if padding.iter().any(|byte| *byte != 0) {
            let message = format!("the bytes after frame {} are not zero", frame.lsn);
            let finding = Finding::new(FindingKind::StrayBytes, file, message);
            self.findings.push(finding.at(begin as u64, padding.len() as u64));
        }
        if frame.kind != FrameKind::Commit || frame.lsn < first_lsn {
            return;
        }
        match decode_commit(payload) {
            Ok(commit) => self.operations.extend(
                commit
                    .operations
                    .into_iter()
                    .filter(|operation| matches!(operation, LoggedChange::Register { .. } | LoggedChange::Drop { .. })),
            ),
            Err(error) => {
                let message = format!("frame {} is intact but cannot be decoded: {}", frame.lsn, error.detail());
                let finding = Finding::new(FindingKind::DamagedFrame, file, message);
                let mut finding = finding.at(offset as u64, frame_bytes(frame.payload_bytes) as u64);
                finding.lsn_min = Some(frame.lsn);
                finding.lsn_max = Some(frame.lsn);
                self.findings.push(finding);
            }
        }
    }
}

fn is_zero(bytes: &[u8], from: usize) -> bool {
    bytes.get(from..).is_none_or(|rest| rest.iter().all(|byte| *byte == 0))
}
