//! The write-ahead log on disk: segments, appended and synced by one thread at a time, read back at recovery.
//!
//! Invariants: a segment is published and its directory synced before its first frame is acknowledged; a segment is
//! synced before the first frame of the next one is written; LSNs rise by one from frame to frame; every segment that a
//! batch of frames needs exists before the first byte of the batch is written, so that a full disk costs the batch and
//! nothing else.

use std::collections::VecDeque;
use std::io::{Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::disk::{self, DiskPath, StagedFile, WriteFile};
use crate::error::{Error, ErrorCode, Result};
use crate::format::wal::{
    self, FrameHeader, FrameKind, FrameRead, SEGMENT_HEADER_BYTES, SegmentHeader, decode_segment_header,
    encode_segment_header, frame_bytes,
};
use crate::store::open_progress::{OpenProgress, OpenStep};
use crate::types::width::to_usize;

/// Frames with shorter payloads are gathered and written together; longer ones are not copied.
const COPY_BYTES_MAX: usize = 256 * 1024;

/// A frame waiting to be written.
#[derive(Debug)]
pub struct QueuedFrame {
    pub kind: FrameKind,
    pub lsn: u64,
    pub commit: u64,
    pub durable_lsn: u64,
    pub payload: Vec<u8>,
}

/// The log open for appending.
#[derive(Debug)]
pub struct Log {
    dir: DiskPath,
    tmp: DiskPath,
    segment_bytes: u64,
    /// The newest segment; `None` for a damaged log, which takes no frames.
    open: Option<Segment>,
    /// Number and bytes of every segment on disk, oldest first; the last one is open.
    segments: VecDeque<(u64, u64)>,
    /// Bytes of the log, readable without its lock.
    byte_counts: Arc<LogBytes>,
    /// A file of zeros that becomes the next segment.
    spare: Option<StagedFile>,
    /// Lets the segment for the next frames fail with this error.
    #[cfg(test)]
    pub fail_once: Option<Error>,
}

/// Bytes of a log as last recorded: reading them waits for no disk.
#[derive(Debug, Default)]
pub struct LogBytes {
    all: AtomicU64,
    used: AtomicU64,
}

impl LogBytes {
    /// Bytes of all segments on disk, and those written since the start of the oldest.
    pub fn now(&self) -> (u64, u64) {
        (self.all.load(Ordering::Relaxed), self.used.load(Ordering::Relaxed))
    }
}

/// A segment open for appending.
#[derive(Debug)]
struct Segment {
    number: u64,
    file: WriteFile,
    epoch: u64,
    /// Where the next frame goes.
    offset: u64,
    bytes: u64,
}

/// Why appending failed, and whether the log is still as it was before.
#[derive(Debug)]
pub struct AppendError {
    pub error: Error,
    /// No byte of any frame was written: the caller may retry later.
    pub untouched: bool,
}

/// Where reading of the log starts and what must be there, as far as the manifest knows.
#[derive(Clone, Copy, Debug)]
pub struct ReplayStart {
    /// First segment that is needed.
    pub segment: u64,
    /// Frames before this LSN are skipped.
    pub lsn: u64,
    /// Highest segment known to have existed; 0 when unknown.
    pub last_segment: u64,
    /// Whether the store is new, so that no segment has to exist.
    pub new: bool,
}

/// What recovery found in the log. Reading changed nothing on disk.
#[derive(Debug, Default)]
pub struct RecoveredLog {
    /// Commit frames in order.
    pub commits: Vec<(FrameHeader, Vec<u8>)>,
    /// LSN after the last intact frame.
    pub next_lsn: u64,
    /// Highest LSN that some frame says was synced.
    pub durable_lsn: u64,
    /// Torn ends of unacknowledged writes, to be cut.
    pub torn: Vec<String>,
    /// Damage in data that was synced: the store is read-only until it is repaired.
    pub damaged_places: Vec<String>,
    /// Closed ranges of LSNs that are lost for it.
    pub lost: Vec<(u64, u64)>,
    /// LSN from which on frames may be lost without a trace, because the end of the log is missing.
    pub lost_from: Option<u64>,
    /// Upper bound of the number of frames lost from `lost_from` on: as many as fit into the missing bytes.
    pub lost_frames_max: u64,
    /// Number and bytes of every segment, oldest first; bytes as the header states them, where it can be read.
    pub segments: Vec<(u64, u64)>,
    /// Segments before the first one that is needed.
    superseded: Vec<u64>,
    /// Where the log ends.
    end: Option<LogEnd>,
}

/// The position after the last intact frame of the newest segment.
#[derive(Clone, Copy, Debug)]
struct LogEnd {
    segment: u64,
    epoch: u64,
    offset: u64,
    /// Bytes of the segment as its header states them; bytes that were added to the file later are not used.
    bytes: u64,
}

impl RecoveredLog {
    /// Whether frames are lost, or may be.
    pub fn has_lost(&self) -> bool {
        !self.lost.is_empty() || self.lost_from.is_some()
    }
}

/// Path of a segment.
pub fn segment_path(dir: &DiskPath, number: u64) -> DiskPath {
    dir.join(format!("{number:020}.wal"))
}

/// The number in the name of a segment.
pub fn segment_number(name: &str) -> Option<u64> {
    name.strip_suffix(".wal")?.parse().ok()
}

/// Reads the log. Nothing on disk is changed.
pub fn read_log(root: &DiskPath, start: ReplayStart, opening: &OpenProgress) -> Result<RecoveredLog> {
    let dir = root.join("wal");
    let all: Vec<u64> = disk::list(&dir)?.iter().filter_map(|name| segment_number(name)).collect();
    let (superseded, numbers): (Vec<u64>, Vec<u64>) = all.into_iter().partition(|number| *number < start.segment);
    let mut found = RecoveredLog { next_lsn: start.lsn, superseded, ..RecoveredLog::default() };
    let mut scan =
        LogScan { next_lsn: None, first_lsn: start.lsn, segment_bytes_max: 0, damage: Vec::new(), found: &mut found };
    let mut expected = start.segment;
    opening.begin(OpenStep::Log, numbers.len() as u64);
    for (number, named) in in_order(&dir, &numbers, &mut scan)? {
        opening.advance();
        if number < expected {
            scan.note(format!("{} repeats segment {number}", segment_path(&dir, named).display()), (named, 0), true);
            scan.found.segments.push((named, 0));
            continue;
        }
        if number != expected {
            scan.note_missing(&dir, expected, number - 1);
        }
        expected = number + 1;
        let path = segment_path(&dir, named);
        let bytes = disk::read(&path)?;
        let end = scan.segment(named, &path, &bytes);
        scan.found.segments.push((named, end.bytes));
        scan.found.end = Some(end);
    }
    let last = start.last_segment.max(if start.new { 0 } else { start.segment });
    if expected <= last {
        scan.note_missing(&dir, expected, last);
    } else if let Some(next) = scan.next_lsn.filter(|next| *next < start.lsn) {
        // The manifest was published after its positions were synced, so these frames existed.
        let path = segment_path(&dir, expected.saturating_sub(1));
        let place = format!("{} ends at lsn {next}, the manifest starts at {}", path.display(), start.lsn);
        let frames = scan.segment_bytes_max / wal::FRAME_ALIGNMENT as u64;
        scan.note_end(place, (expected.saturating_sub(1), 0), Some(frames));
    }
    let (damage, segment_bytes_max) = (std::mem::take(&mut scan.damage), scan.segment_bytes_max);
    let next_lsn = scan.next_lsn.unwrap_or(start.lsn).max(start.lsn);
    found.next_lsn = next_lsn;
    let is_corrupt = damage.iter().any(|damage| damage.was_synced || damage.lsn <= found.durable_lsn);
    if is_corrupt {
        found.damaged_places = damage.iter().map(|damage| damage.place.clone()).collect();
        // Frames before the first position are in the manifest.
        let needed = |(first, last): (u64, u64)| (first.max(start.lsn), last);
        let lost = damage.iter().filter_map(|damage| damage.lost).map(needed);
        found.lost = lost.filter(|(first, last)| first <= last).collect();
        let at_end = |damage: &&LogDamage| {
            damage.frames_max.is_some() && damage.lost.is_none() && damage.lsn.max(start.lsn) >= next_lsn
        };
        found.lost_from = damage.iter().find(at_end).map(|_| next_lsn);
        let segment_bytes = if segment_bytes_max == 0 { SEGMENT_BYTES_LARGEST } else { segment_bytes_max };
        let segment_frames = segment_bytes / wal::FRAME_ALIGNMENT as u64;
        found.lost_frames_max = damage.iter().filter(at_end).fold(0, |sum, damage| {
            sum.saturating_add(match damage.frames_max {
                Some(FramesMax::Frames(frames)) => frames,
                Some(FramesMax::Segments(segments)) => segments.saturating_mul(segment_frames),
                None => 0,
            })
        });
        if found.durable_lsn >= next_lsn {
            found.lost.push((next_lsn, found.durable_lsn));
            found.next_lsn = found.durable_lsn + 1;
            found.lost_from = found.lost_from.map(|_| found.next_lsn);
        }
    } else if let Some(first) = damage.first() {
        // The torn end of unacknowledged writes: it is cut, with everything after it.
        found.torn = damage.iter().map(|damage| damage.place.clone()).collect();
        found.commits.retain(|(frame, _)| frame.lsn < first.lsn);
        found.next_lsn = first.lsn;
        let bytes = found.segments.iter().find(|(number, _)| *number == first.at.0).map(|(_, bytes)| *bytes);
        let bytes = bytes.ok_or_else(|| Error::internal(format!("{} is in no segment", first.place)))?;
        found.end = Some(LogEnd { segment: first.at.0, epoch: first.epoch, offset: first.at.1, bytes });
    }
    Ok(found)
}

/// The segments in the order in which they were written: their number by their header, and by their name.
fn in_order(dir: &DiskPath, numbers: &[u64], scan: &mut LogScan<'_>) -> Result<Vec<(u64, u64)>> {
    let mut order = Vec::with_capacity(numbers.len());
    for named in numbers {
        let path = segment_path(dir, *named);
        let file = disk::open(&path)?;
        let head = SEGMENT_HEADER_BYTES.min(to_usize(disk::file_bytes(&file, &path)?));
        let number = match decode_segment_header(&disk::read_at(&file, &path, 0, head)?) {
            Ok(header) => header.number,
            Err(error) if error.code() == ErrorCode::UnsupportedFormat => return Err(error),
            Err(_) => *named,
        };
        if number != *named {
            scan.note(format!("{} holds segment {number}", path.display()), (*named, 0), true);
        }
        order.push((number, *named));
    }
    order.sort_unstable();
    Ok(order)
}

fn missing(dir: &DiskPath, from: u64, to: u64) -> String {
    let first = segment_path(dir, from);
    if from == to {
        format!("{} is missing", first.display())
    } else {
        format!("{} to {} are missing", first.display(), segment_path(dir, to).display())
    }
}

impl Log {
    /// Opens the log that was read for appending: cuts what is torn and removes what is superseded. The first segment
    /// of a new store is created.
    pub fn open(root: &DiskPath, start: ReplayStart, found: &RecoveredLog, segment_bytes: u64) -> Result<Self> {
        let (dir, tmp) = (root.join("wal"), root.join("tmp"));
        for old in &found.superseded {
            disk::remove(&segment_path(&dir, *old))?;
        }
        let mut log = Self {
            dir,
            tmp,
            segment_bytes,
            open: None,
            segments: VecDeque::new(),
            byte_counts: Arc::default(),
            spare: None,
            #[cfg(test)]
            fail_once: None,
        };
        let Some(LogEnd { segment: number, epoch, offset, bytes: stated_bytes }) = found.end else {
            let first = log.create(start.segment, start.lsn, segment_bytes, true)?;
            log.segments.push_back((first.number, first.bytes));
            log.open = Some(first);
            log.record_bytes();
            return Ok(log);
        };
        let (kept, cut): (Vec<_>, Vec<_>) = found.segments.iter().partition(|(segment, _)| *segment <= number);
        for (segment, _) in &cut {
            disk::remove(&segment_path(&log.dir, *segment))?;
        }
        if !cut.is_empty() {
            disk::sync_dir(&log.dir)?;
        }
        log.segments = kept.into();
        let file = WriteFile::open(&segment_path(&log.dir, number))?;
        let bytes = file.bytes()?.min(stated_bytes);
        zero_after(&file, offset)?;
        // What was read may be in the page cache only; from here on it counts as durable.
        // The open segment can be empty, with unsynced frames in the one before it.
        for (earlier, _) in log.segments.iter().filter(|(earlier, _)| *earlier != number) {
            WriteFile::open(&segment_path(&log.dir, *earlier))?.sync()?;
        }
        file.sync()?;
        log.open = Some(Segment { number, file, epoch, offset, bytes });
        log.record_bytes();
        Ok(log)
    }

    /// A damaged log, which stays as it is and takes no frames.
    pub fn closed(root: &DiskPath, found: &RecoveredLog, segment_bytes: u64) -> Self {
        let log = Self {
            dir: root.join("wal"),
            tmp: root.join("tmp"),
            segment_bytes,
            open: None,
            segments: found.segments.iter().copied().collect(),
            byte_counts: Arc::default(),
            spare: None,
            #[cfg(test)]
            fail_once: None,
        };
        log.record_bytes();
        log
    }

    fn current(&self) -> Result<&Segment> {
        self.open.as_ref().ok_or_else(|| Error::internal("a damaged log was written to"))
    }

    /// Publishes a new segment; durable on return.
    fn create(&mut self, number: u64, first_lsn: u64, bytes: u64, zeroed: bool) -> Result<Segment> {
        let epoch = disk::random(&self.dir)?;
        let header = encode_segment_header(&SegmentHeader { number, epoch, first_lsn, segment_bytes: bytes });
        let target = segment_path(&self.dir, number);
        // The name is not in use: a segment was prepared and then not needed.
        disk::remove(&target)?;
        let file = match self.spare.take().filter(|_| bytes == self.segment_bytes) {
            Some(spare) => WriteFile::begin(spare, &target, &header)?,
            None => WriteFile::create(&self.tmp, &target, &header, bytes, zeroed)?,
        };
        Ok(Segment { number, file, epoch, offset: SEGMENT_HEADER_BYTES as u64, bytes })
    }

    /// Publishes the segments that these frames need after the open one. When one cannot be created none is retained.
    fn prepare(&mut self, frames: &[QueuedFrame]) -> Result<VecDeque<Segment>> {
        #[cfg(test)]
        if let Some(error) = self.fail_once.take() {
            return Err(error);
        }
        let current = self.current()?;
        let (mut number, mut offset, mut capacity) = (current.number, current.offset, current.bytes);
        let mut prepared = VecDeque::new();
        for frame in frames {
            let need = frame_bytes(frame.payload.len()) as u64;
            if offset + need > capacity {
                number += 1;
                let whole = need + SEGMENT_HEADER_BYTES as u64;
                capacity = whole.max(self.segment_bytes);
                // A frame that fills a segment by itself gains nothing from zeros written before it.
                match self.create(number, frame.lsn, capacity, whole <= self.segment_bytes) {
                    Ok(segment) => prepared.push_back(segment),
                    Err(error) => {
                        for segment in prepared {
                            disk::remove(&segment_path(&self.dir, segment.number))?;
                        }
                        return Err(error);
                    }
                }
                offset = SEGMENT_HEADER_BYTES as u64;
            }
            offset += need;
        }
        Ok(prepared)
    }

    /// Writes frames; with `sync` they are durable on return.
    pub fn append(&mut self, frames: &[QueuedFrame], sync: bool) -> std::result::Result<(), AppendError> {
        let prepared = self.prepare(frames).map_err(|error| {
            // Without space or a file descriptor no byte of a frame was written and the next batch may succeed. After a
            // failed sync nothing is known of what is on disk.
            let untouched = error.code() == ErrorCode::StorageFull || error.is_refusal();
            AppendError { error, untouched }
        })?;
        self.write(frames, prepared, sync).map_err(|error| AppendError { error, untouched: false })
    }

    fn write(&mut self, frames: &[QueuedFrame], mut prepared: VecDeque<Segment>, sync: bool) -> Result<()> {
        let mut durable_lsn = 0;
        let mut buffer = Vec::new();
        for frame in frames {
            let need = frame_bytes(frame.payload.len()) as u64;
            let current = self.current()?;
            if current.offset + buffer.len() as u64 + need > current.bytes {
                // The old segment is durable before the new one has a frame.
                self.put(&buffer)?;
                self.sync()?;
                buffer.clear();
                durable_lsn = frame.lsn.saturating_sub(1);
                let next = prepared.pop_front().ok_or_else(|| Error::internal("a log segment was not prepared"))?;
                self.segments.push_back((next.number, next.bytes));
                self.open = Some(next);
                self.record_bytes();
            }
            let header = FrameHeader {
                kind: frame.kind,
                lsn: frame.lsn,
                epoch: self.current()?.epoch,
                durable_lsn: frame.durable_lsn.max(durable_lsn),
                commit: frame.commit,
                payload_bytes: frame.payload.len(),
            };
            if frame.payload.len() < COPY_BYTES_MAX {
                wal::put_frame(&mut buffer, &header, &frame.payload);
                continue;
            }
            wal::put_frame_head(&mut buffer, &header, &frame.payload);
            self.put(&buffer)?;
            self.put(&frame.payload)?;
            buffer.clear();
            wal::put_frame_padding(&mut buffer, frame.payload.len());
        }
        self.put(&buffer)?;
        if sync { self.sync() } else { Ok(()) }
    }

    fn put(&mut self, buffer: &[u8]) -> Result<()> {
        let current = self.open.as_mut().ok_or_else(|| Error::internal("a damaged log was written to"))?;
        if !buffer.is_empty() {
            current.file.write_at(buffer, current.offset)?;
            current.offset += buffer.len() as u64;
            metrics::counter!("fastk_wal_written_bytes_total").increment(buffer.len() as u64);
            self.record_bytes();
        }
        Ok(())
    }

    /// Whether a spare segment is needed: there is none, and the open one is filling.
    pub fn needs_spare(&self) -> bool {
        self.spare.is_none() && self.open.as_ref().is_some_and(|open| open.offset > open.bytes / 2)
    }

    /// What a spare segment is made of: the directory for it and its bytes.
    pub fn spare_of(&self) -> (DiskPath, u64) {
        (self.tmp.clone(), self.segment_bytes)
    }

    /// Takes a file of zeros as the next segment.
    pub fn set_spare(&mut self, spare: StagedFile) {
        self.spare = Some(spare);
    }

    /// Whether a marker fits without a new segment.
    pub fn has_space_for_marker(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.offset + frame_bytes(0) as u64 <= open.bytes)
    }

    /// Makes everything appended durable.
    pub fn sync(&self) -> Result<()> {
        let started = Instant::now();
        self.current()?.file.sync()?;
        metrics::counter!("fastk_wal_syncs_total").increment(1);
        metrics::histogram!("fastk_wal_sync_seconds").record(started.elapsed());
        Ok(())
    }

    /// Number of the newest segment; 0 when there is none.
    pub fn segment(&self) -> u64 {
        self.segments.back().map_or(0, |(number, _)| *number)
    }

    /// Where the bytes of the log can be read, also while it is being synced.
    pub fn byte_counts(&self) -> Arc<LogBytes> {
        Arc::clone(&self.byte_counts)
    }

    /// Records the current bytes.
    fn record_bytes(&self) {
        self.byte_counts.all.store(self.bytes(), Ordering::Relaxed);
        self.byte_counts.used.store(self.used_bytes(), Ordering::Relaxed);
    }

    /// Bytes of all segments on disk.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Bytes written since the start of the oldest segment.
    pub fn used_bytes(&self) -> u64 {
        let unused = self.open.as_ref().map_or(0, |open| open.bytes - open.offset);
        self.bytes().saturating_sub(unused)
    }

    /// Removes segments before `first`, which the manifest no longer needs.
    pub fn trim(&mut self, first: u64) -> Result<()> {
        while let Some((number, _)) = self.segments.front().copied() {
            if number >= first || self.segments.len() == 1 {
                return Ok(());
            }
            disk::remove(&segment_path(&self.dir, number))?;
            self.segments.pop_front();
            self.record_bytes();
        }
        Ok(())
    }
}

/// Zeros everything after the last intact frame, so that no later recovery reads it as a frame.
fn zero_after(file: &WriteFile, offset: u64) -> Result<()> {
    let bytes = file.read()?;
    // A truncated segment can end before `offset`.
    let Some(rest) = bytes.get(to_usize(offset)..) else { return Ok(()) };
    let Some(last) = rest.iter().rposition(|byte| *byte != 0) else { return Ok(()) };
    file.write_at(&vec![0; last + 1], offset)
}

/// Publishes an empty segment that follows all others, for a log that continues after what is lost.
pub fn restart(root: &DiskPath, number: u64, first_lsn: u64, bytes: u64) -> Result<()> {
    let dir = root.join("wal");
    let header = SegmentHeader { number, epoch: disk::random(root)?, first_lsn, segment_bytes: bytes };
    let target = segment_path(&dir, number);
    WriteFile::create(&root.join("tmp"), &target, &encode_segment_header(&header), bytes, true).map(|_| ())
}

/// A file of zeros to become a segment, created in advance.
pub fn make_spare(tmp: &DiskPath, bytes: u64) -> Result<StagedFile> {
    let mut spare = StagedFile::create(tmp)?;
    spare.reserve(bytes)?;
    spare.put_zeros(bytes)?;
    spare.seek(SeekFrom::Start(0)).map_err(|error| Error::io("write", spare.path(), &error))?;
    Ok(spare)
}

struct LogDamage {
    place: String,
    /// First LSN that could be lost.
    lsn: u64,
    /// LSNs that are certainly lost, once a later frame was seen.
    lost: Option<(u64, u64)>,
    /// Segment and offset of its start, and the epoch of that segment.
    at: (u64, u64),
    epoch: u64,
    /// Whether the bytes were certainly synced, regardless of what the frames record.
    was_synced: bool,
    /// How many frames can be missing at this place without a trace; `None` when none can.
    frames_max: Option<FramesMax>,
}

/// Upper bound of the missing frames.
#[derive(Clone, Copy, Debug)]
enum FramesMax {
    Frames(u64),
    /// All frames of this many segments.
    Segments(u64),
}

/// Bytes of a segment where no header states them: the most that can be configured.
const SEGMENT_BYTES_LARGEST: u64 = 1 << 30;

struct LogScan<'a> {
    /// LSN the next frame must have, once a frame was seen.
    next_lsn: Option<u64>,
    first_lsn: u64,
    /// Bytes of the longest segment, as the headers state them.
    segment_bytes_max: u64,
    damage: Vec<LogDamage>,
    found: &'a mut RecoveredLog,
}

impl LogScan<'_> {
    fn note(&mut self, place: String, at: (u64, u64), was_synced: bool) {
        let lsn = self.next_lsn.unwrap_or(self.first_lsn);
        self.damage.push(LogDamage { place, lsn, lost: None, at, epoch: 0, was_synced, frames_max: None });
    }

    /// Records synced bytes that are missing together with everything after them; recorded after the frames before them
    /// were read.
    fn note_end(&mut self, place: String, at: (u64, u64), frames_max: Option<u64>) {
        self.note(place, at, true);
        if let Some(damage) = self.damage.last_mut() {
            damage.frames_max = frames_max.map(FramesMax::Frames);
        }
    }

    fn note_missing(&mut self, dir: &DiskPath, from: u64, to: u64) {
        self.note(missing(dir, from, to), (from, 0), true);
        if let Some(damage) = self.damage.last_mut() {
            damage.frames_max = Some(FramesMax::Segments(to - from + 1));
        }
    }

    /// Reads a segment; returns the position after its last intact frame.
    fn segment(&mut self, number: u64, path: &DiskPath, file: &[u8]) -> LogEnd {
        let damage_before = self.damage.len();
        let mut bytes = file;
        let (epoch, header) = match decode_segment_header(file) {
            Ok(header) => {
                self.segment_bytes_max = self.segment_bytes_max.max(header.segment_bytes);
                // It had its full length before it had a name: bytes after it were added by another program.
                let stated = to_usize(header.segment_bytes);
                bytes = file.get(..stated).unwrap_or(file);
                (header.epoch, Some(header))
            }
            Err(error) => {
                // A header is synced before its segment gets a name. Every frame repeats what it says.
                self.note(format!("{}: {}", path.display(), error.detail()), (number, 0), true);
                match wal::first_frame(file) {
                    Some((_, frame)) => (frame.epoch, None),
                    None => {
                        if let Some(damage) = self.damage.last_mut() {
                            damage.frames_max = Some(FramesMax::Segments(1));
                        }
                        let length = file.len() as u64;
                        return LogEnd { segment: number, epoch: 0, offset: length, bytes: length };
                    }
                }
            }
        };
        let length = bytes.len() as u64;
        let stated = header.map_or(length, |header| header.segment_bytes);
        let is_cut = length < stated;
        let mut offset = SEGMENT_HEADER_BYTES;
        let mut end = offset;
        let mut damaged_at: Option<usize> = None;
        while offset < bytes.len() {
            match wal::frame_at(bytes, offset, epoch) {
                FrameRead::Frame(frame, payload) => {
                    if let Some(at) = damaged_at.take() {
                        self.note_damage(number, path, at, offset);
                    }
                    self.take(number, path, offset, frame, payload);
                    offset += frame_bytes(frame.payload_bytes);
                    end = offset;
                }
                FrameRead::Empty if damaged_at.is_none() && is_zero(bytes, offset) => break,
                FrameRead::Empty | FrameRead::Damaged => {
                    damaged_at.get_or_insert(offset);
                    offset += wal::FRAME_ALIGNMENT;
                }
            }
        }
        // What is before the cut of a segment belongs to that damage.
        if let Some(at) = damaged_at.filter(|_| !is_cut) {
            self.note_damage(number, path, at, bytes.len());
        }
        if let Some(header) = header.filter(|_| end == SEGMENT_HEADER_BYTES) {
            self.take_header(header.first_lsn);
        }
        // Frames follow each other without a gap: where one would start and nothing was written, none followed.
        let is_log_end = bytes.get(end..end + wal::FRAME_ALIGNMENT).is_some_and(|next| is_zero(next, 0));
        let frames_max = (stated.saturating_sub(end as u64) / wal::FRAME_ALIGNMENT as u64).max(1);
        if is_cut {
            let place = format!("{}: {length} bytes, expected {stated}", path.display());
            self.note_end(place, (number, length), (!is_log_end).then_some(frames_max));
        } else if header.is_none() && !is_log_end {
            let place =
                format!("{}: its length is not recorded, and its frames continue to its last byte", path.display());
            self.note(place, (number, length), true);
            if let Some(damage) = self.damage.last_mut() {
                damage.frames_max = Some(FramesMax::Segments(1));
            }
        }
        for damage in self.damage.iter_mut().skip(damage_before) {
            damage.epoch = epoch;
        }
        LogEnd { segment: number, epoch, offset: end as u64, bytes: stated }
    }

    /// A segment without a frame records in its header which position the frames before it reached at most.
    fn take_header(&mut self, first_lsn: u64) {
        let expected = self.next_lsn.unwrap_or(self.first_lsn).max(self.first_lsn);
        let open_ended = |damage: &&mut LogDamage| damage.frames_max.is_some() && damage.lost.is_none();
        if first_lsn > expected
            && let Some(damage) = self.damage.last_mut().filter(open_ended)
        {
            damage.lost = Some((expected, first_lsn - 1));
            self.next_lsn = Some(first_lsn);
        }
    }

    fn note_damage(&mut self, number: u64, path: &DiskPath, from: usize, to: usize) {
        let place = format!("{}: bytes {from} to {to} contain no intact frame", path.display());
        self.note(place, (number, from as u64), false);
    }

    fn take(&mut self, number: u64, path: &DiskPath, offset: usize, frame: FrameHeader, payload: &[u8]) {
        let expected = self.next_lsn.unwrap_or(self.first_lsn);
        let first = self.next_lsn.is_none();
        // The first segment may start with frames that the manifest covers.
        if frame.lsn != expected && !(first && frame.lsn < expected) {
            if self.damage.last().is_none_or(|damage| damage.lsn != expected || damage.lost.is_some()) {
                let place = format!("{}: byte {offset}: lsn {} instead of {expected}", path.display(), frame.lsn);
                self.note(place, (number, offset as u64), false);
            }
            if let Some(damage) = self.damage.last_mut().filter(|_| frame.lsn > expected) {
                damage.lost = Some((expected, frame.lsn - 1));
            }
        }
        if frame.lsn < expected && !first {
            return;
        }
        self.next_lsn = Some(frame.lsn + 1);
        self.found.durable_lsn = self.found.durable_lsn.max(frame.durable_lsn);
        if frame.kind == FrameKind::Commit && frame.lsn >= self.first_lsn {
            self.found.commits.push((frame, payload.to_vec()));
        }
    }
}

fn is_zero(bytes: &[u8], from: usize) -> bool {
    bytes.get(from..).is_none_or(|rest| rest.iter().all(|byte| *byte == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_one_append_are_read_back_whether_copied_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = DiskPath::os(dir.path());
        disk::create_dirs(&[root.join("wal"), root.join("tmp")]).unwrap();
        let start = ReplayStart { segment: 1, lsn: 1, last_segment: 0, new: true };
        let read = || read_log(&root, start, &OpenProgress::default()).unwrap();
        let sizes = [10, COPY_BYTES_MAX - 1, COPY_BYTES_MAX, 20, COPY_BYTES_MAX + 1, COPY_BYTES_MAX + 7, 30];
        let frames = |first_lsn: u64| -> Vec<QueuedFrame> {
            let frame = |(lsn, bytes): (u64, usize)| {
                let payload = vec![u8::try_from(lsn).unwrap(); bytes];
                QueuedFrame { kind: FrameKind::Commit, lsn, commit: lsn, durable_lsn: 0, payload }
            };
            (first_lsn..).zip(sizes).map(frame).collect()
        };
        let mut written = Vec::new();
        // In one segment, then over several.
        for segment_bytes in [4 << 20, 64 << 10] {
            let next = frames(written.len() as u64 + 1);
            let mut log = Log::open(&root, start, &read(), segment_bytes).unwrap();
            log.append(&next, true).unwrap();
            written.extend(next.into_iter().map(|frame| frame.payload));
            let found = read();
            assert_eq!((found.torn, found.damaged_places), (Vec::new(), Vec::new()));
            assert!(found.commits.into_iter().map(|(_, payload)| payload).eq(written.iter().cloned()));
        }
    }
}
