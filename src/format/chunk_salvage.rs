//! What is left of a damaged chunk file.
//!
//! The head has the identity of the chunk, the footer the rest and the block table. Either can be made from the other:
//! a head follows from the footer, and a footer from the head and the messages between. What was made so is proven by
//! the manifest: a footer with the checksum the manifest has proves head, blocks and itself. When something else is
//! damaged too, each block is proven by its own checksum in the manifest.

use arrow::ipc::root_as_message;

use super::bytes::ByteReader;
use super::chunk::{self, BlockMeta, ChunkMeta};
use super::ipc;
use super::manifest::ChunkRecord;
use crate::error::{Error, ErrorCode, Result};

/// A chunk file that was read as far as it is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkSalvage {
    /// Metadata and block table; after a lost footer, of the blocks that were found.
    pub meta: ChunkMeta,
    /// Checksum of the footer, as found or as made anew.
    pub footer_crc: u32,
    /// Positions in the block table of `meta` of the blocks that are proven whole.
    pub intact: Vec<usize>,
    /// Blocks found in a file without footer that nothing proves: neither the manifest nor, by itself, the file.
    pub unproven: Vec<usize>,
    /// Places where rows are lost.
    pub damaged: Vec<DamagedBlock>,
    /// The head, where that of the file is damaged and could be made anew.
    pub head: Option<Vec<u8>>,
    /// All bytes behind the last block, where those of the file are damaged and could be made anew.
    pub tail: Option<Vec<u8>>,
    /// The footer is damaged and could not be made anew as it was.
    pub footer_lost: bool,
}

/// A place of a chunk file where rows are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedBlock {
    /// Position of the block in the file, of the first one where there can be several.
    pub position: usize,
    pub offset: u64,
    pub bytes: u64,
    /// Rows lost, where that is known.
    pub rows: Option<u64>,
    /// The rows lie between these timestamps.
    pub ts: Option<(i64, i64)>,
    pub reason: String,
}

impl ChunkSalvage {
    /// Whether nothing is damaged.
    pub fn is_whole(&self) -> bool {
        self.is_complete() && self.head.is_none() && self.tail.is_none() && !self.footer_lost
    }

    /// Whether every row is there and proven.
    pub fn is_complete(&self) -> bool {
        self.damaged.is_empty() && self.unproven.is_empty()
    }

    /// The file as it was, when every row is there and head and footer are known.
    pub fn mended(&self, file: &[u8]) -> Option<Vec<u8>> {
        if !self.is_complete() || self.footer_lost {
            return None;
        }
        let begin = self.meta.blocks.first().map_or(usize::MAX, |block| wide(block.offset));
        let end = self.meta.blocks.last().map_or(0, |block| wide(block.offset.saturating_add(block.bytes())));
        let mut out = match &self.head {
            Some(head) => head.clone(),
            None => file.get(..begin.min(file.len())).unwrap_or_default().to_vec(),
        };
        out.extend_from_slice(file.get(begin..end).unwrap_or_default());
        out.extend_from_slice(match &self.tail {
            Some(tail) => tail,
            None => file.get(end..).unwrap_or_default(),
        });
        Some(out)
    }
}

fn wide(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// The metadata of a file whose footer is damaged, made anew from its head and its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuiltFooter {
    pub meta: ChunkMeta,
    /// The end-of-stream mark, the footer and the trailer.
    pub tail: Vec<u8>,
    /// Checksum of that footer. The manifest has the same when head and blocks are as they were written.
    pub footer_crc: u32,
    /// Where the messages end. Less than all of them were found when no end-of-stream mark stands there.
    pub end: u64,
}

/// Makes a footer from the head and the messages behind it. Bytes that hold no message are passed over.
///
/// # Errors
/// `corrupt_data` when the head cannot be read, `unsupported_format` for a newer chunk.
pub fn rebuild_footer(file: &[u8]) -> Result<RebuiltFooter> {
    let (identity, head_bytes) = chunk::decode_head(file)?;
    let mut meta = identity.into_meta();
    meta.head_crc = crc32c::crc32c(file.get(..head_bytes).unwrap_or_default());
    let columns = meta.series.columns.len() + 1;
    let (mut at, mut end) = (head_bytes, head_bytes);
    while at < file.len() {
        match block_at(file, at, columns).filter(|block| meta.rows == 0 || block.ts_min > meta.ts_max) {
            Some(block) => {
                at = wide(block.offset.saturating_add(block.bytes()));
                end = at;
                meta.push(block);
            }
            None if at == end && file.get(at..at + ipc::END_OF_STREAM.len()) == Some(&ipc::END_OF_STREAM) => break,
            None => at += ipc::ALIGNMENT,
        }
    }
    let (tail, footer_crc) = chunk::rebuild_tail(&meta)?;
    Ok(RebuiltFooter { meta, tail, footer_crc, end: end as u64 })
}

/// A block by its message at `at`.
fn block_at(file: &[u8], at: usize, columns: usize) -> Option<BlockMeta> {
    let message = file.get(at..)?;
    let mut reader = ByteReader::new(message, "block");
    if reader.take(4).ok()? != ipc::CONTINUATION {
        return None;
    }
    let length = reader.length().ok()?;
    let header = root_as_message(reader.take(length).ok()?).ok()?;
    let rows = usize::try_from(header.header_as_record_batch()?.length()).ok()?;
    if rows == 0 || rows > chunk::BLOCK_ROWS_MAX {
        return None;
    }
    let sizes = vec![rows * 8; columns];
    let (header_bytes, body_bytes) = (ipc::PREFIX_BYTES + length, ipc::body_bytes(&sizes));
    let expected = ipc::framed(&ipc::batch_header(rows, &sizes));
    let body = message.get(header_bytes..header_bytes + body_bytes)?;
    if message.get(..header_bytes) != Some(expected.as_slice()) {
        return None;
    }
    let word = |row: usize| Some(i64::from_le_bytes(body.get(row * 8..row * 8 + 8)?.try_into().ok()?));
    Some(BlockMeta {
        offset: u64::try_from(at).ok()?,
        header_bytes: u32::try_from(header_bytes).ok()?,
        body_bytes: u32::try_from(body_bytes).ok()?,
        rows: u32::try_from(rows).ok()?,
        ts_min: word(0)?,
        ts_max: word(rows - 1)?,
        crc: crc32c::crc32c(message.get(..header_bytes + body_bytes)?),
    })
}

/// Reads what is whole of a chunk file. `record` is what the manifest says of it; without, a file that lost its footer
/// proves nothing.
///
/// # Errors
/// `corrupt_data` when head and footer are both lost, or when the file is another chunk's; `unsupported_format` for a
/// newer chunk.
pub fn salvage_chunk(file: &[u8], record: Option<&ChunkRecord>) -> Result<ChunkSalvage> {
    let found = match chunk::find_footer(file) {
        Ok((footer_at, meta, crc)) => with_footer(file, footer_at, meta, crc)?,
        Err(error) if error.code() == ErrorCode::UnsupportedFormat => return Err(error),
        Err(_) => without_footer(file, record)?,
    };
    if let Some(record) = record {
        let is_other = found.meta.chunk_id != record.id || found.meta.series_id != record.series_id;
        // A footer that proves itself and is not the one of the manifest is another file's.
        if is_other || (!found.footer_lost && found.footer_crc != record.footer_crc) {
            return Err(Error::corrupt(format!(
                "chunk {} of series {} with footer checksum {:08x} stands where chunk {} of series {} with {:08x} was",
                found.meta.chunk_id,
                found.meta.series_id,
                found.footer_crc,
                record.id,
                record.series_id,
                record.footer_crc
            )));
        }
    }
    Ok(found)
}

/// The footer is whole and tells everything.
fn with_footer(file: &[u8], footer_at: usize, meta: ChunkMeta, footer_crc: u32) -> Result<ChunkSalvage> {
    let mut found = ChunkSalvage {
        footer_crc,
        intact: Vec::new(),
        unproven: Vec::new(),
        damaged: Vec::new(),
        head: None,
        tail: None,
        footer_lost: false,
        meta,
    };
    let mut end = chunk::head_bytes(&found.meta)?;
    if chunk::check_head(&found.meta, file.get(..end).unwrap_or_default()).is_err() {
        // Programs differ in their flatbuffers: a head that is not the one that was cannot be given out for it.
        found.head = Some(chunk::rebuild_head(&found.meta)?)
            .filter(|head| head.len() == end && chunk::check_head(&found.meta, head).is_ok());
        if found.head.is_none() {
            return Err(Error::corrupt("chunk head: it is damaged and cannot be made anew"));
        }
    }
    for (position, block) in found.meta.blocks.iter().enumerate() {
        let begin = end;
        end = begin.saturating_add(wide(block.bytes()));
        let crc = crc32c::crc32c(file.get(begin..end).unwrap_or_default());
        if crc == block.crc {
            found.intact.push(position);
            continue;
        }
        found.damaged.push(DamagedBlock {
            position,
            offset: block.offset,
            bytes: block.bytes(),
            rows: Some(u64::from(block.rows)),
            ts: Some((block.ts_min, block.ts_max)),
            reason: format!("checksum {crc:08x}, expected {:08x}", block.crc),
        });
    }
    if file.get(end..footer_at) != Some(ipc::END_OF_STREAM.as_slice()) {
        let mut tail = ipc::END_OF_STREAM.to_vec();
        tail.extend_from_slice(file.get(footer_at..).unwrap_or_default());
        found.tail = Some(tail);
    }
    Ok(found)
}

/// The head and the messages tell what the footer said.
fn without_footer(file: &[u8], record: Option<&ChunkRecord>) -> Result<ChunkSalvage> {
    let RebuiltFooter { meta, tail, footer_crc, end } = rebuild_footer(file)?;
    let all: Vec<usize> = (0..meta.blocks.len()).collect();
    let mut found = ChunkSalvage {
        footer_crc,
        intact: Vec::new(),
        unproven: Vec::new(),
        damaged: Vec::new(),
        head: None,
        tail: None,
        footer_lost: true,
        meta,
    };
    match record {
        Some(record) if record.footer_crc == footer_crc => {
            found.tail = Some(tail);
            found.footer_lost = false;
            found.intact = all;
        }
        Some(record) if !record.block_crcs.is_empty() => found.prove(record, end),
        _ => found.unproven = all,
    }
    Ok(found)
}

impl ChunkSalvage {
    /// Sorts the blocks found by the checksums the manifest has, and says what lies between them.
    fn prove(&mut self, record: &ChunkRecord, end: u64) {
        let mut wanted = record.block_crcs.iter().enumerate();
        // What is lost begins behind the block before.
        let (mut position, mut offset) = (0, self.meta.blocks.first().map_or(end, |block| block.offset));
        let head_bytes = chunk::rebuild_head(&self.meta).map_or(offset, |head| head.len() as u64);
        offset = offset.min(head_bytes);
        let mut ts_low = Some(record.ts_min);
        let mut damaged = Vec::new();
        let mut lose = |from: (usize, u64, Option<i64>), to: (usize, u64, i64)| {
            if to.0 > from.0 {
                damaged.push(DamagedBlock {
                    position: from.0,
                    offset: from.1,
                    bytes: to.1.saturating_sub(from.1),
                    rows: None,
                    ts: from.2.map(|low| (low, to.2)).filter(|(low, high)| low <= high),
                    reason: format!("no block with the checksum of the manifest ({} lost)", to.0 - from.0),
                });
            }
        };
        for (at, block) in self.meta.blocks.iter().enumerate() {
            let Some((place, _)) = wanted.clone().find(|(_, crc)| **crc == block.crc) else { continue };
            lose((position, offset, ts_low), (place, block.offset, block.ts_min.saturating_sub(1)));
            self.intact.push(at);
            wanted.by_ref().take_while(|(passed, _)| *passed < place).for_each(drop);
            (position, offset) = (place + 1, block.offset.saturating_add(block.bytes()));
            ts_low = block.ts_max.checked_add(1);
        }
        let file_end = record.file_bytes.max(offset);
        lose((position, offset, ts_low), (record.block_crcs.len(), file_end, record.ts_max));
        // One gap lost all rows that are missing.
        let kept: u64 = self.intact.iter().filter_map(|at| self.meta.blocks.get(*at)).map(|b| u64::from(b.rows)).sum();
        if let [only] = damaged.as_mut_slice() {
            only.rows = record.rows.checked_sub(kept);
        }
        self.damaged = damaged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chunk of two blocks and what the manifest says of it.
    fn sample() -> (Vec<u8>, ChunkRecord) {
        let (file, summary) = chunk::tests::sample();
        let meta = &summary.meta;
        let record = ChunkRecord {
            id: meta.chunk_id,
            series_id: meta.series_id,
            partition: meta.partition.clone(),
            rows: meta.rows,
            ts_min: meta.ts_min,
            ts_max: meta.ts_max,
            commit_lo: meta.commit_lo,
            commit_hi: meta.commit_hi,
            file_bytes: file.len() as u64,
            file_crc: summary.file_crc,
            footer_crc: summary.footer_crc,
            block_crcs: meta.blocks.iter().map(|block| block.crc).collect(),
        };
        (file, record)
    }

    fn offsets(found: &ChunkSalvage) -> Vec<u64> {
        found.intact.iter().map(|at| found.meta.blocks[*at].offset).collect()
    }

    #[test]
    fn a_flipped_bit_costs_the_block_it_hits_and_nothing_else() {
        let (file, record) = sample();
        let whole = salvage_chunk(&file, Some(&record)).unwrap();
        assert!(whole.is_whole() && whole.intact == [0, 1]);
        // A bit of every byte, each time another one.
        for bit in (0..file.len()).map(|byte| byte * 8 + byte % 8) {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let found = salvage_chunk(&damaged, Some(&record)).unwrap();
            let at = bit as u64 / 8;
            let hit = whole.meta.blocks.iter().position(|b| (b.offset..b.offset + b.bytes()).contains(&at));
            assert_eq!(found.footer_crc, record.footer_crc, "bit {bit}");
            assert_eq!(found.damaged.iter().map(|d| d.position).collect::<Vec<_>>(), Vec::from_iter(hit), "bit {bit}");
            assert_eq!(found.intact.len(), 2 - found.damaged.len(), "bit {bit}");
            assert!(!found.is_whole(), "bit {bit} goes unnoticed");
            if hit.is_none() {
                assert!(found.mended(&damaged).unwrap() == file, "bit {bit}");
            } else {
                assert_eq!(found.mended(&damaged), None, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_cut_costs_the_blocks_behind_it() {
        let (file, record) = sample();
        let whole = salvage_chunk(&file, Some(&record)).unwrap();
        let ends: Vec<u64> = whole.meta.blocks.iter().map(|b| b.offset + b.bytes()).collect();
        for length in (0..file.len()).step_by(3).chain(file.len() - 20..file.len()) {
            let cut = &file[..length];
            let Ok(found) = salvage_chunk(cut, Some(&record)) else {
                assert!(length < whole.meta.blocks[0].offset as usize, "cut at {length}");
                continue;
            };
            let left = ends.iter().filter(|end| **end <= length as u64).count();
            assert_eq!(offsets(&found), offsets(&whole)[..left], "cut at {length}");
            assert_eq!(found.is_complete(), left == 2, "cut at {length}");
            if left == 2 {
                assert!(found.mended(cut).unwrap() == file, "cut at {length}");
            } else {
                let lost = &found.damaged[0];
                assert_eq!((found.damaged.len(), lost.position), (1, left), "cut at {length}");
                assert_eq!(lost.rows, Some(200 - 100 * left as u64), "cut at {length}");
                let low = if left == 0 { record.ts_min } else { whole.meta.blocks[0].ts_max + 1 };
                assert_eq!(lost.ts, Some((low, record.ts_max)), "cut at {length}");
            }
        }
    }

    #[test]
    fn a_lost_stretch_costs_the_blocks_it_hits() {
        let (file, record) = sample();
        let whole = salvage_chunk(&file, Some(&record)).unwrap();
        for (bytes, step) in [(512, 64), (4_096, 192)] {
            for from in (0..file.len()).step_by(step) {
                let mut damaged = file.clone();
                let to = (from + bytes).min(file.len());
                damaged[from..to].fill(0);
                let kept = |block: &&BlockMeta| {
                    let range = block.offset as usize..(block.offset + block.bytes()) as usize;
                    file[range.clone()] == damaged[range]
                };
                let left: Vec<u64> = whole.meta.blocks.iter().filter(kept).map(|block| block.offset).collect();
                match salvage_chunk(&damaged, Some(&record)) {
                    Ok(found) => assert_eq!(offsets(&found), left, "{bytes} bytes at {from}"),
                    Err(error) => panic!("{bytes} bytes at {from}: {error}"),
                }
            }
        }
    }

    #[test]
    fn without_the_manifest_a_footer_made_anew_proves_nothing() {
        let (mut file, record) = sample();
        let at = file.len() - 40;
        file[at] ^= 1;
        let found = salvage_chunk(&file, None).unwrap();
        assert_eq!((found.intact.as_slice(), found.unproven.as_slice()), (&[][..], &[0, 1][..]));
        assert_eq!(found.footer_crc, record.footer_crc);
        let other = ChunkRecord { id: 9, ..record.clone() };
        assert!(salvage_chunk(&file, Some(&other)).is_err());
        let (whole, _) = sample();
        let other = ChunkRecord { footer_crc: 1, ..record };
        assert!(salvage_chunk(&whole, Some(&other)).is_err());
    }
}
