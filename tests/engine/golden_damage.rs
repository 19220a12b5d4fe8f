//! Every byte of every golden file flipped, and every file cut at every byte: a decoder refuses it, and what reads as
//! much as there is loses only what was hit.
//!
//! Files up to [`SMALL`] bytes get every bit flipped, larger ones a bit of every byte. Below the whole of
//! `FASTK_PROOF` the files of
//! the store are left out, and those beyond [`LARGE`] bytes are hit at every byte near their begin and end only.

use fastk::ErrorCode;
use fastk::format::backup::decode_backup;
use fastk::format::chunk;
use fastk::format::chunk_salvage::salvage_chunk;
use fastk::format::coverage::Coverage;
use fastk::format::current::decode_current;
use fastk::format::envelope;
use fastk::format::inspect::inspect;
use fastk::format::manifest::{ChunkRecord, decode_checkpoint, decode_edit};
use fastk::format::receipt::{PAGE_RECEIPTS, RECEIPTS_MAGIC, decode_receipts, salvage_receipts};
use fastk::format::run::{RunEntry, decode_run, salvage_run};
use fastk::format::tombstone::{decode_drop, decode_registration, decode_tombstone};
use fastk::format::value_index::ValueIndex;
use fastk::format::wal::{self, FrameRead};
use fastk::format::zone_map::ZoneMap;
use fastk::types::TimeUnit;

use crate::golden::{dir, tree};

/// Files up to this size in bytes get every bit flipped.
const SMALL: usize = 1_024;
/// Files up to this size in bytes are damaged at every byte.
const LARGE: usize = 8_192;

fn is_proof() -> bool {
    crate::proof_amount::percent() >= 100.0
}

/// Golden files with this extension.
fn golden(ending: &str) -> Vec<(String, Vec<u8>)> {
    let expected = |name: &str| name.ends_with(ending) && (is_proof() || !name.starts_with("store"));
    let found: Vec<_> = tree(&dir()).into_iter().filter(|(name, _)| expected(name)).collect();
    assert!(!found.is_empty(), "no golden file ends in {ending}");
    found
}

/// Offsets at which a file of this size is damaged or cut.
fn places(bytes: usize) -> impl Iterator<Item = usize> {
    let all = bytes <= LARGE || is_proof();
    (0..bytes).filter(move |at| all || at.min(&(bytes - at)) < &SMALL || at % 13 == 0)
}

/// Calls `check` with each damaged file and the offset of the flipped bit.
fn flipped(file: &[u8], mut check: impl FnMut(&[u8], usize)) {
    let mut damaged = file.to_vec();
    for byte in places(file.len()) {
        let bits = if file.len() <= SMALL { 0..8 } else { byte % 8..byte % 8 + 1 };
        for bit in bits {
            damaged[byte] ^= 1 << bit;
            check(&damaged, byte);
            damaged[byte] ^= 1 << bit;
        }
    }
}

/// Asserts that a damaged file is refused, and that `inspect` reports the damage.
fn refuses_all<T>(ending: &str, decode: impl Fn(&[u8]) -> fastk::Result<T>) {
    for (name, file) in golden(ending) {
        assert!(decode(&file).is_ok(), "{name}");
        flipped(&file, |damaged, byte| {
            let error = decode(damaged).err().unwrap_or_else(|| panic!("{name}: byte {byte} goes unnoticed"));
            assert_eq!(error.code(), ErrorCode::CorruptData, "{name}: byte {byte}: {error}");
        });
        for length in places(file.len()) {
            assert!(decode(&file[..length]).is_err(), "{name}: cut at {length}");
        }
    }
}

#[test]
fn small_files_are_refused() {
    refuses_all(".checkpoint", decode_checkpoint);
    refuses_all("CURRENT", decode_current);
    refuses_all(".tombstone", decode_tombstone);
    refuses_all("dropped", decode_drop);
    refuses_all(".registration", decode_registration);
    refuses_all("backup.json", decode_backup);
}

#[test]
fn sidecars_are_refused() {
    refuses_all(".zmap", ZoneMap::decode);
    refuses_all(".cov", |file| Coverage::decode(file, TimeUnit::Ms));
    refuses_all(".vix", ValueIndex::check);
}

#[test]
fn large_files_are_refused_by_decoders_of_whole_files() {
    refuses_all(".arrow", chunk::decode_chunk);
    refuses_all(".run", decode_run);
    refuses_all(".receipts", decode_receipts);
}

#[test]
fn a_damaged_edit_is_recovered_from_its_second_copy() {
    for (name, file) in golden(".edit") {
        let (whole, none) = decode_edit(&file).unwrap();
        assert!(none.is_none(), "{name}");
        flipped(&file, |damaged, byte| {
            let (edit, damage) = decode_edit(damaged).unwrap();
            assert!(edit == whole && damage.is_some(), "{name}: byte {byte}");
        });
        let copy_bytes = file.len() % 4_096;
        for length in places(file.len()) {
            match decode_edit(&file[..length]) {
                Ok((edit, damage)) => assert!(edit == whole && damage.is_some(), "{name}: cut at {length}"),
                Err(_) => assert!(length < copy_bytes, "{name}: cut at {length}"),
            }
        }
    }
}

/// The commits of a segment with the bytes of their frames, read like recovery does.
fn frames(segment: &[u8]) -> Vec<(std::ops::Range<usize>, u64, Vec<u8>)> {
    let header = wal::decode_segment_header(segment).ok().map(|header| header.epoch);
    let epoch = header.or_else(|| Some(wal::first_frame(segment)?.1.epoch));
    let Some(epoch) = epoch else { return Vec::new() };
    let (mut offset, mut found) = (wal::SEGMENT_HEADER_BYTES, Vec::new());
    while offset < segment.len() {
        match wal::frame_at(segment, offset, epoch) {
            FrameRead::Frame(frame, payload) => {
                let end = offset + wal::FRAME_HEADER_BYTES + payload.len();
                found.push((offset..end, frame.lsn, payload.to_vec()));
                offset += wal::frame_bytes(payload.len());
            }
            FrameRead::Empty | FrameRead::Damaged => offset += wal::FRAME_ALIGNMENT,
        }
    }
    found
}

#[test]
fn a_log_segment_loses_the_frame_that_was_hit() {
    for (name, file) in golden(".wal") {
        let whole = frames(&file);
        assert!(whole.len() > 3, "{name}");
        flipped(&file, |damaged, byte| {
            let mut left = whole.clone();
            left.retain(|(range, ..)| !range.contains(&byte));
            assert_eq!(frames(damaged), left, "{name}: byte {byte}");
            let header = wal::decode_segment_header(damaged).is_ok();
            assert_eq!(header, byte >= wal::SEGMENT_HEADER_BYTES, "{name}: byte {byte}");
        });
        for length in places(file.len()) {
            let mut left = whole.clone();
            left.retain(|(range, ..)| range.end <= length);
            assert_eq!(frames(&file[..length]), left, "{name}: cut at {length}");
            let stated_bytes =
                wal::decode_segment_header(&file[..length]).map_or(u64::MAX, |header| header.segment_bytes);
            assert_ne!(stated_bytes, length as u64, "{name}: a cut at {length} goes unnoticed");
        }
    }
}

fn record_of(file: &[u8]) -> ChunkRecord {
    let (meta, footer_crc) = chunk::decode_chunk(file).unwrap();
    ChunkRecord {
        id: meta.chunk_id,
        series_id: meta.series_id,
        rows: meta.rows,
        ts_min: meta.ts_min,
        ts_max: meta.ts_max,
        file_bytes: file.len() as u64,
        file_crc: crc32c::crc32c(file),
        footer_crc,
        block_crcs: meta.blocks.iter().map(|block| block.crc).collect(),
        texts: meta.texts(),
        ..ChunkRecord::default()
    }
}

#[test]
fn a_chunk_loses_the_block_that_was_hit() {
    // Damaged dictionaries are written again from those of the series: `record_damage`.
    for (name, file) in golden(".arrow").into_iter().filter(|(name, _)| !name.contains("every-type")) {
        let record = record_of(&file);
        let whole = salvage_chunk(&file, Some(&record)).unwrap();
        let blocks: Vec<_> =
            whole.meta.blocks.iter().map(|b| b.offset as usize..(b.offset + b.bytes()) as usize).collect();
        flipped(&file, |damaged, byte| {
            let found = salvage_chunk(damaged, Some(&record)).unwrap();
            let hit = blocks.iter().position(|block| block.contains(&byte));
            let lost: Vec<usize> = found.damaged.iter().map(|block| block.position).collect();
            assert_eq!(lost, Vec::from_iter(hit), "{name}: byte {byte}");
            assert_eq!((found.footer_crc, &found.meta), (record.footer_crc, &whole.meta), "{name}: byte {byte}");
            assert_eq!(found.intact.len(), blocks.len() - lost.len(), "{name}: byte {byte}");
            assert!(hit.is_some() || found.repaired(damaged).unwrap() == file, "{name}: byte {byte}");
        });
        for length in places(file.len()).filter(|length| *length >= blocks[0].start) {
            let cut = &file[..length];
            let found = salvage_chunk(cut, Some(&record)).unwrap();
            let left = blocks.iter().filter(|block| block.end <= length).count();
            assert_eq!(found.intact.len(), left, "{name}: cut at {length}");
            let kept: u64 = whole.meta.blocks[..left].iter().map(|block| u64::from(block.rows)).sum();
            let lost: Vec<Option<u64>> = found.damaged.iter().map(|block| block.rows).collect();
            let expected = if left < blocks.len() { vec![Some(record.rows - kept)] } else { Vec::new() };
            assert_eq!(lost, expected, "{name}: cut at {length}");
            assert!(left < blocks.len() || found.repaired(cut).unwrap() == file, "{name}: cut at {length}");
        }
    }
}

#[test]
fn a_run_file_loses_the_run_that_was_hit() {
    for (name, file) in golden(".run") {
        let whole = salvage_run(&file).unwrap();
        let columns = |run: &RunEntry| run.offset as usize..(run.offset + run.bytes()) as usize;
        flipped(&file, |damaged, byte| {
            let found = salvage_run(damaged).unwrap();
            let mut left = whole.runs.clone();
            left.retain(|run| !columns(run).contains(&byte));
            assert_eq!(found.runs, left, "{name}: byte {byte}");
            let lost: Vec<RunEntry> = found.damaged.iter().map(|place| place.run.unwrap()).collect();
            let hit: Vec<RunEntry> = whole.runs.iter().copied().filter(|run| columns(run).contains(&byte)).collect();
            assert_eq!(lost, hit, "{name}: byte {byte}");
            assert!(found.complete && found.origin == whole.origin, "{name}: byte {byte}");
        });
        for length in places(file.len()) {
            let found = salvage_run(&file[..length]).unwrap();
            let mut left = whole.runs.clone();
            left.retain(|run| columns(run).end <= length);
            assert_eq!(found.runs, left, "{name}: cut at {length}");
            assert!(!found.complete, "{name}: cut at {length}");
        }
    }
}

#[test]
fn a_receipt_file_loses_the_page_that_was_hit() {
    for (name, file) in golden(".receipts") {
        let receipts = decode_receipts(&file).unwrap();
        let mut pages = Vec::new();
        let mut rest = file.as_slice();
        while let Ok((_, after)) = envelope::open_first("page", RECEIPTS_MAGIC, 1, rest) {
            pages.push(file.len() - rest.len()..file.len() - after.len());
            rest = after;
        }
        flipped(&file, |damaged, byte| {
            let found = salvage_receipts(damaged).unwrap();
            let page = pages.iter().position(|page| page.contains(&byte)).unwrap();
            assert_eq!(
                found.damaged,
                std::slice::from_ref(&(pages[page].start as u64..pages[page].end as u64)),
                "{name}: byte {byte}"
            );
            let (first, end) = (page * PAGE_RECEIPTS, ((page + 1) * PAGE_RECEIPTS).min(receipts.len()));
            let left = receipts[..first].iter().chain(&receipts[end..]);
            assert!(found.receipts.iter().eq(left), "{name}: byte {byte}");
        });
        for length in places(file.len()) {
            let found = salvage_receipts(&file[..length]).unwrap();
            let whole = pages.iter().filter(|page| page.end <= length).count();
            let left = &receipts[..(whole * PAGE_RECEIPTS).min(receipts.len())];
            assert!(found.receipts == left, "{name}: cut at {length}");
            assert_ne!(found.pages_lost, Some(0), "{name}: cut at {length}");
        }
    }
}

#[test]
fn inspect_reports_the_damage_of_every_file() {
    for (name, file) in golden("") {
        let is_log = name.ends_with(".wal");
        if name.ends_with("FORMAT") || name.ends_with(".json") || file.len() > LARGE {
            continue;
        }
        let whole = inspect(&file).unwrap();
        flipped(&file, |damaged, byte| match inspect(damaged) {
            Err(error) => assert!(error.code().http() < 600, "{name}: byte {byte}"),
            // Padding between frames is not checked.
            Ok(report) if is_log && report == whole => {}
            Ok(report) => assert_eq!(report["intact"], false, "{name}: byte {byte}"),
        });
        for length in places(file.len()) {
            let report = inspect(&file[..length]);
            assert!(report.is_err() || report.is_ok_and(|report| report["intact"] == false), "{name}: cut at {length}");
        }
    }
}
