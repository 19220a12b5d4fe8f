//! The write-ahead log on disk: segments, appended and synced by one thread at a time, read back at recovery.
//!
//! Invariants: a segment is published and its directory synced before its first frame is acknowledged; a segment is
//! synced before the first frame of the next one is written; LSNs rise by one from frame to frame.

use std::collections::VecDeque;

use crate::disk::{self, DiskPath, WriteFile};
use crate::error::{Error, Result};
use crate::format::wal::{
    self, Found, FrameHeader, FrameKind, SEGMENT_HEADER_BYTES, SegmentHeader, decode_segment_header,
    encode_segment_header, frame_bytes,
};
use crate::planted::{Bug, planted};

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
    file: WriteFile,
    epoch: u64,
    /// Where the next frame goes.
    offset: u64,
    capacity: u64,
    /// Number and bytes of every segment on disk, oldest first; the last one is open.
    segments: VecDeque<(u64, u64)>,
    /// Lets the next frames find the disk full.
    #[cfg(test)]
    pub full_once: bool,
}

/// Why appending failed, and whether the log is still as it was before.
#[derive(Debug)]
pub struct AppendError {
    pub error: Error,
    /// No byte of any frame was written: the caller may go on later.
    pub untouched: bool,
}

/// What recovery found in the log.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Commit frames in order.
    pub commits: Vec<(FrameHeader, Vec<u8>)>,
    /// LSN after the last whole frame.
    pub next_lsn: u64,
    /// Highest LSN that some frame says was synced.
    pub durable_lsn: u64,
    /// Torn ends that were cut, for the report.
    pub torn: Vec<String>,
    /// Damage in data that was synced: the store is read-only until it is repaired.
    pub rot: Option<String>,
}

fn segment_path(dir: &DiskPath, number: u64) -> DiskPath {
    dir.join(format!("{number:020}.wal"))
}

fn create_segment(
    dir: &DiskPath,
    tmp: &DiskPath,
    number: u64,
    first_lsn: u64,
    bytes: u64,
    zeroed: bool,
) -> Result<(WriteFile, u64)> {
    let epoch = if planted(Bug::ConstantEpoch) { 1 } else { disk::random(dir)? };
    let header = encode_segment_header(&SegmentHeader { number, epoch, first_lsn });
    let file = WriteFile::create(tmp, &segment_path(dir, number), &header, bytes, zeroed)?;
    Ok((file, epoch))
}

impl Log {
    /// Reads the log from segment `first_segment` on and opens it for appending. Frames before `first_lsn` are
    /// skipped. `first_segment` is created when the log is empty.
    pub fn open(root: &DiskPath, first_segment: u64, first_lsn: u64, segment_bytes: u64) -> Result<(Self, Recovered)> {
        let dir = root.join("wal");
        let tmp = root.join("tmp");
        let mut numbers: Vec<u64> =
            disk::list(&dir)?.iter().filter_map(|name| name.strip_suffix(".wal")?.parse().ok()).collect();
        for old in numbers.iter().filter(|number| **number < first_segment) {
            disk::remove(&segment_path(&dir, *old))?;
        }
        numbers.retain(|number| *number >= first_segment);
        let mut found = Recovered { next_lsn: first_lsn, ..Recovered::default() };
        let Some(last_number) = numbers.last().copied() else {
            let (file, epoch) = create_segment(&dir, &tmp, first_segment, first_lsn, segment_bytes, true)?;
            let log = Self {
                dir,
                tmp,
                segment_bytes,
                file,
                epoch,
                offset: SEGMENT_HEADER_BYTES as u64,
                capacity: segment_bytes,
                segments: VecDeque::from([(first_segment, segment_bytes)]),
                #[cfg(test)]
                full_once: false,
            };
            return Ok((log, found));
        };
        let mut scan = Scan { next_lsn: None, first_lsn, damage: Vec::new(), found: &mut found };
        let mut segments = VecDeque::new();
        let mut end = (0, SEGMENT_HEADER_BYTES as u64);
        for (position, number) in numbers.iter().enumerate() {
            let expected = first_segment + position as u64;
            if *number != expected {
                scan.note(format!("log segment {expected} is missing"), (expected, 0), true);
                break;
            }
            let path = segment_path(&dir, *number);
            let bytes = disk::read(&path)?;
            segments.push_back((*number, bytes.len() as u64));
            end = scan.segment(*number, &path, &bytes);
        }
        let damage = std::mem::take(&mut scan.damage);
        found.next_lsn = scan.next_lsn.unwrap_or(first_lsn).max(first_lsn);
        let rotten = damage
            .iter()
            .find(|damage| damage.was_synced || damage.lsn <= found.durable_lsn)
            .filter(|_| !planted(Bug::RotTakenForTorn));
        let mut last_number = last_number;
        if let Some(rotten) = rotten {
            found.rot = Some(format!("{} (lsn {} was synced)", rotten.place, rotten.lsn));
        } else if let Some(first) = damage.first() {
            // The torn end of writes nobody was told of: cut it, and whatever came after it.
            let (number, offset) = first.at;
            found.torn = damage.iter().map(|damage| damage.place.clone()).collect();
            found.commits.retain(|(frame, _)| frame.lsn < first.lsn);
            found.next_lsn = first.lsn;
            for (later, _) in segments.iter().filter(|(segment, _)| *segment > number) {
                disk::remove(&segment_path(&dir, *later))?;
            }
            segments.retain(|(segment, _)| *segment <= number);
            last_number = number;
            end = (first.epoch, offset);
        }
        let path = segment_path(&dir, last_number);
        let file = WriteFile::open(&path)?;
        let capacity = file.bytes()?;
        let (epoch, offset) = end;
        let log = Self {
            dir,
            tmp,
            segment_bytes,
            file,
            epoch,
            offset,
            capacity,
            segments,
            #[cfg(test)]
            full_once: false,
        };
        if found.rot.is_none() && !planted(Bug::TornTailKept) {
            log.clear_from_offset(&path)?;
        }
        // What was read may stand in the page cache only; from here on it counts as durable.
        if !planted(Bug::RecoveryNotSynced) {
            log.sync()?;
        }
        Ok((log, found))
    }

    /// Zeros what stands after the last whole frame, so that no later recovery takes it for a frame.
    fn clear_from_offset(&self, path: &DiskPath) -> Result<()> {
        let bytes = disk::read(path)?;
        let from = usize::try_from(self.offset).unwrap_or(usize::MAX);
        let rest = bytes.get(from..).unwrap_or_default();
        let Some(last) = rest.iter().rposition(|byte| *byte != 0) else { return Ok(()) };
        self.file.write_at(&vec![0; last + 1], self.offset)?;
        self.file.sync()
    }

    /// Writes frames; with `sync` they are durable on return.
    pub fn append(&mut self, frames: &[QueuedFrame], sync: bool) -> std::result::Result<(), AppendError> {
        #[cfg(test)]
        if std::mem::take(&mut self.full_once) {
            let error = Error::new(crate::ErrorCode::StorageFull, "no room");
            return Err(AppendError { error, untouched: true });
        }
        let mut written = false;
        let mut durable_lsn = 0;
        let mut buffer = Vec::new();
        let fail = |error: Error, written: bool| AppendError { error, untouched: !written };
        for frame in frames {
            let bytes = frame_bytes(frame.payload.len()) as u64;
            if self.offset + buffer.len() as u64 + bytes > self.capacity {
                if !buffer.is_empty() {
                    written = true;
                    self.put(&buffer).map_err(|error| fail(error, true))?;
                    buffer.clear();
                }
                // The old segment is durable before the new one has a frame.
                if !planted(Bug::SegmentNotSyncedAtRotation) {
                    self.file.sync().map_err(|error| fail(error, true))?;
                }
                durable_lsn = frame.lsn.saturating_sub(1);
                self.rotate(frame.lsn, bytes).map_err(|error| fail(error, written))?;
            }
            let header = FrameHeader {
                kind: frame.kind,
                lsn: frame.lsn,
                epoch: self.epoch,
                durable_lsn: frame.durable_lsn.max(durable_lsn),
                commit: frame.commit,
                payload_bytes: frame.payload.len(),
            };
            wal::put_frame(&mut buffer, &header, &frame.payload);
        }
        self.put(&buffer).map_err(|error| fail(error, true))?;
        if sync && !planted(Bug::AppendNotSynced) {
            self.file.sync().map_err(|error| fail(error, true))?;
        }
        Ok(())
    }

    fn put(&mut self, buffer: &[u8]) -> Result<()> {
        self.file.write_at(buffer, self.offset)?;
        self.offset += buffer.len() as u64;
        Ok(())
    }

    /// Opens the next segment with room for a frame of `need` bytes.
    fn rotate(&mut self, first_lsn: u64, need: u64) -> Result<()> {
        let number = self.segments.back().map_or(1, |(number, _)| number + 1);
        let need = need + SEGMENT_HEADER_BYTES as u64;
        // A frame that fills a segment by itself gains nothing from zeros written before it.
        let zeroed = need <= self.segment_bytes;
        let bytes = need.max(self.segment_bytes);
        // Left behind where the name was made and its directory could not be synced; it never had a frame.
        if !planted(Bug::FailedRotationLeft) {
            disk::remove(&segment_path(&self.dir, number))?;
        }
        let (file, epoch) = create_segment(&self.dir, &self.tmp, number, first_lsn, bytes, zeroed)?;
        self.file = file;
        self.epoch = epoch;
        self.offset = SEGMENT_HEADER_BYTES as u64;
        self.capacity = bytes;
        self.segments.push_back((number, bytes));
        Ok(())
    }

    /// Whether a marker fits without a new segment.
    pub fn has_room_for_marker(&self) -> bool {
        self.offset + frame_bytes(0) as u64 <= self.capacity
    }

    /// Makes everything appended durable.
    pub fn sync(&self) -> Result<()> {
        self.file.sync()
    }

    /// Number of the open segment.
    pub fn segment(&self) -> u64 {
        self.segments.back().map_or(1, |(number, _)| *number)
    }

    /// Bytes of all segments on disk.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Bytes written since the oldest segment began.
    pub fn used_bytes(&self) -> u64 {
        self.bytes() - self.capacity + self.offset
    }

    /// Removes segments before `first`, which the manifest no longer needs.
    pub fn trim(&mut self, first: u64) -> Result<()> {
        while let Some((number, _)) = self.segments.front().copied() {
            if number >= first || self.segments.len() == 1 {
                return Ok(());
            }
            disk::remove(&segment_path(&self.dir, number))?;
            self.segments.pop_front();
        }
        Ok(())
    }
}

struct Damage {
    place: String,
    /// First LSN that could be lost.
    lsn: u64,
    /// Segment and offset where it begins, and the epoch of that segment.
    at: (u64, u64),
    epoch: u64,
    /// Whether the bytes were synced for certain, whatever the frames say.
    was_synced: bool,
}

struct Scan<'a> {
    /// LSN the next frame must have, once a frame was seen.
    next_lsn: Option<u64>,
    first_lsn: u64,
    damage: Vec<Damage>,
    found: &'a mut Recovered,
}

impl Scan<'_> {
    fn note(&mut self, place: String, at: (u64, u64), was_synced: bool) {
        let lsn = self.next_lsn.unwrap_or(self.first_lsn);
        self.damage.push(Damage { place, lsn, at, epoch: 0, was_synced });
    }

    /// Reads a segment; gives its epoch and the offset after its last whole frame.
    fn segment(&mut self, number: u64, path: &DiskPath, bytes: &[u8]) -> (u64, u64) {
        let header = match decode_segment_header(bytes) {
            Ok(header) => header,
            Err(error) => {
                // A header is synced before its segment gets a name.
                self.note(format!("{}: {}", path.display(), error.detail()), (number, 0), true);
                return (0, bytes.len() as u64);
            }
        };
        let noted = self.damage.len();
        let mut offset = SEGMENT_HEADER_BYTES;
        let mut end = offset;
        let mut damaged_at: Option<usize> = None;
        while offset < bytes.len() {
            match wal::frame_at(bytes, offset, header.epoch) {
                Found::Frame(frame, payload) => {
                    if let Some(at) = damaged_at.take() {
                        self.note_damage(number, path, at, offset);
                    }
                    self.take(number, path, offset, frame, payload);
                    offset += frame_bytes(frame.payload_bytes);
                    end = offset;
                }
                Found::Nothing if damaged_at.is_none() && is_zero(bytes, offset) => break,
                Found::Nothing | Found::Damaged => {
                    damaged_at.get_or_insert(offset);
                    offset += wal::FRAME_ALIGNMENT;
                }
            }
        }
        if let Some(at) = damaged_at {
            self.note_damage(number, path, at, bytes.len());
        }
        for damage in self.damage.iter_mut().skip(noted) {
            damage.epoch = header.epoch;
        }
        (header.epoch, end as u64)
    }

    fn note_damage(&mut self, number: u64, path: &DiskPath, from: usize, to: usize) {
        let place = format!("{}: bytes {from} to {to} hold no whole frame", path.display());
        self.note(place, (number, from as u64), false);
    }

    fn take(&mut self, number: u64, path: &DiskPath, offset: usize, frame: FrameHeader, payload: &[u8]) {
        let expected = self.next_lsn.filter(|_| !planted(Bug::LsnGapUnnoticed));
        if let Some(expected) = expected.filter(|expected| *expected != frame.lsn) {
            let place = format!("{}: byte {offset}: lsn {} follows lsn {}", path.display(), frame.lsn, expected - 1);
            self.note(place, (number, offset as u64), false);
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
