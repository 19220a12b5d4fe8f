//! Salvage of damaged chunk files.
//!
//! The head has the identity of the chunk, the footer the other metadata and the block table. Each can be rebuilt: a
//! head from the footer, and a footer from the head and the messages after it. The manifest verifies the result: a
//! footer with the checksum of the manifest proves head, blocks and itself. With further damage each block is verified
//! by its own checksum in the manifest.

use arrow::ipc::{Message, root_as_message};

use super::body;
use super::bytes::ByteReader;
use super::chunk::{self, BlockMeta, ChunkMeta, DictionaryMeta};
use super::ipc;
use super::manifest::ChunkRecord;
use super::message::{self, BufferSizes};
use crate::error::{Error, ErrorCode, Result};
use crate::types::width::to_usize;
use crate::types::{SeriesDef, cells};

/// The intact parts of a chunk file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkSalvage {
    /// Metadata and block table; without a footer, those of the blocks found.
    pub meta: ChunkMeta,
    /// Checksum of the footer, as found or as rebuilt.
    pub footer_crc: u32,
    /// Positions in the block table of `meta` of the verified blocks.
    pub intact: Vec<usize>,
    /// Positions of blocks found in a file without a footer that cannot be verified, neither by the manifest nor by the
    /// file itself.
    pub unproven: Vec<usize>,
    /// Byte ranges with lost rows.
    pub damaged: Vec<DamagedBlock>,
    /// Why each damaged dictionary is not used. Rows are not lost by it: the series has the texts too.
    pub damaged_dictionaries: Vec<String>,
    /// The rebuilt head, where that of the file is damaged.
    pub head: Option<Vec<u8>>,
    /// All bytes after the last block, rebuilt, where those of the file are damaged.
    pub tail: Option<Vec<u8>>,
    /// Whether the footer is damaged and could not be rebuilt.
    pub footer_lost: bool,
}

/// A byte range of a chunk file with lost rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedBlock {
    /// Position of the block in the file; of the first one where there may be several.
    pub position: usize,
    pub offset: u64,
    pub bytes: u64,
    /// Number of lost rows, where known.
    pub rows: Option<u64>,
    /// Bounds of the timestamps of the rows.
    pub ts: Option<(i64, i64)>,
    pub reason: String,
}

impl ChunkSalvage {
    /// Whether the file is undamaged.
    pub fn is_intact(&self) -> bool {
        self.is_complete()
            && self.damaged_dictionaries.is_empty()
            && self.head.is_none()
            && self.tail.is_none()
            && !self.footer_lost
    }

    /// Whether all rows are present and verified.
    pub fn is_complete(&self) -> bool {
        self.damaged.is_empty() && self.unproven.is_empty()
    }

    /// The original file, when all rows and dictionaries are present and head and footer are known.
    pub fn repaired(&self, file: &[u8]) -> Option<Vec<u8>> {
        if !self.is_complete() || !self.damaged_dictionaries.is_empty() || self.footer_lost {
            return None;
        }
        let (begin, end) = (to_usize(self.meta.blocks.first()?.offset), to_usize(self.meta.messages_end()?));
        let mut out = match &self.head {
            Some(head) => head.clone(),
            None => file.get(..begin)?.to_vec(),
        };
        out.extend_from_slice(file.get(begin..end)?);
        out.extend_from_slice(match &self.tail {
            Some(tail) => tail,
            None => file.get(end..)?,
        });
        Some(out)
    }
}

/// The metadata of a file with a damaged footer, rebuilt from its head and its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuiltFooter {
    pub meta: ChunkMeta,
    /// The end-of-stream marker, the footer and the trailer.
    pub tail: Vec<u8>,
    /// Checksum of that footer. It equals that of the manifest when head and blocks are undamaged.
    pub footer_crc: u32,
    /// End of the last message. Without an end-of-stream marker at this offset, messages are missing.
    pub end: u64,
}

/// Rebuilds a footer from the head and the messages after it. Bytes without a message are skipped.
///
/// # Errors
/// `corrupt_data` when the head is damaged, `unsupported_format` for a newer chunk.
pub fn rebuild_footer(file: &[u8]) -> Result<RebuiltFooter> {
    let (identity, head_bytes) = chunk::decode_head(file)?;
    let mut meta = identity.into_meta();
    meta.head_crc = crc32c::crc32c(cells::range(file, 0..head_bytes));
    let (mut at, mut end) = (head_bytes, head_bytes);
    let by_timestamp = meta.series.order.is_by_timestamp();
    let mut columns =
        meta.series.columns.clone().into_iter().zip(0_u32..).filter(|(column, _)| column.kind.has_dictionary());
    while at < file.len() {
        let follows = |block: &BlockMeta| {
            meta.rows == 0 || block.ts_min > meta.ts_max || !by_timestamp && block.ts_min == meta.ts_max
        };
        if let Some(block) = block_at(file, at, &meta.series).filter(follows) {
            at = to_usize(block.offset + block.bytes());
            end = at;
            meta.push(block);
        } else if let Some(entry) = dictionary_at(file, at) {
            at = to_usize(entry.offset + entry.bytes());
            end = at;
            if let Some((_, column)) = columns.next() {
                meta.dictionaries.push(DictionaryMeta { column, ..entry });
            }
        } else if at == end && file.get(at..at + ipc::END_OF_STREAM.len()) == Some(&ipc::END_OF_STREAM) {
            break;
        } else {
            at += ipc::ALIGNMENT;
        }
    }
    let (tail, footer_crc) = chunk::rebuild_tail(&meta)?;
    Ok(RebuiltFooter { meta, tail, footer_crc, end: end as u64 })
}

/// The message that starts at `at`, its header and the size of prefix and header.
fn message_at(file: &[u8], at: usize) -> Option<(&[u8], Message<'_>, usize)> {
    let message = file.get(at..)?;
    let mut reader = ByteReader::new(message, "message");
    if reader.take(4).ok()? != ipc::CONTINUATION {
        return None;
    }
    let length = reader.length().ok()?;
    let header = root_as_message(reader.take(length).ok()?).ok()?;
    Some((message, header, ipc::PREFIX_BYTES + length))
}

/// The block whose message starts at `at`.
fn block_at(file: &[u8], at: usize, def: &SeriesDef) -> Option<BlockMeta> {
    let (message, header, header_bytes) = message_at(file, at)?;
    let batch = header.header_as_record_batch()?;
    let rows = usize::try_from(batch.length()).ok()?;
    let nodes = batch.nodes()?;
    if rows == 0 || rows > chunk::BLOCK_ROWS_MAX || nodes.len() != def.columns.len() + 1 {
        return None;
    }
    let null_counts: Vec<usize> = nodes.iter().map(|node| usize::try_from(node.null_count()).unwrap_or(0)).collect();
    let nulls =
        null_counts.iter().skip(1).enumerate().fold(0, |nulls, (at, count)| nulls | u64::from(*count > 0) << at);
    let sizes = |(place, nulls): (body::ColumnPlace, &usize)| BufferSizes {
        nulls: *nulls,
        validity_bytes: place.valid.map_or(0, |valid| valid.len()),
        cells_bytes: place.cells.len(),
    };
    let sizes: Vec<BufferSizes> = body::places(def.all_layouts(), rows, nulls).zip(&null_counts).map(sizes).collect();
    let body_bytes = body::body_bytes(def.all_layouts(), rows, nulls);
    let expected = ipc::framed(&message::batch_header_of(rows, &sizes));
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
        nulls,
        crc: crc32c::crc32c(message.get(..header_bytes + body_bytes)?),
    })
}

/// The dictionary whose message starts at `at`, of an unknown column.
fn dictionary_at(file: &[u8], at: usize) -> Option<DictionaryMeta> {
    let (message, header, header_bytes) = message_at(file, at)?;
    let texts = header.header_as_dictionary_batch()?.data()?.length();
    let body_bytes = usize::try_from(header.bodyLength()).ok()?;
    Some(DictionaryMeta {
        column: 0,
        texts: u32::try_from(texts).ok()?,
        offset: u64::try_from(at).ok()?,
        header_bytes: u32::try_from(header_bytes).ok()?,
        body_bytes: u32::try_from(body_bytes).ok()?,
        crc: crc32c::crc32c(message.get(..header_bytes.checked_add(body_bytes)?)?),
    })
}

/// Reads the intact parts of a chunk file. `record` is its entry in the manifest; without it, a file without a footer
/// cannot be verified.
///
/// # Errors
/// `corrupt_data` when head and footer are both lost, or when the file belongs to another chunk; `unsupported_format`
/// for a newer chunk.
pub fn salvage_chunk(file: &[u8], record: Option<&ChunkRecord>) -> Result<ChunkSalvage> {
    let found = match chunk::find_footer(file) {
        Ok((footer_at, meta, crc)) => with_footer(file, footer_at, meta, crc)?,
        Err(error) if error.code() == ErrorCode::UnsupportedFormat => return Err(error),
        Err(_) => without_footer(file, record)?,
    };
    if let Some(record) = record {
        let is_other = found.meta.chunk_id != record.id || found.meta.series_id != record.series_id;
        // A valid footer that differs from the one in the manifest belongs to another file.
        if is_other || (!found.footer_lost && found.footer_crc != record.footer_crc) {
            return Err(Error::corrupt(format!(
                "found chunk {} of series {} with footer checksum {:08x}, expected chunk {} of series {} with {:08x}",
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

/// Salvage of a file with an intact footer.
fn with_footer(file: &[u8], footer_at: usize, meta: ChunkMeta, footer_crc: u32) -> Result<ChunkSalvage> {
    let mut found = ChunkSalvage {
        footer_crc,
        intact: Vec::new(),
        unproven: Vec::new(),
        damaged: Vec::new(),
        damaged_dictionaries: Vec::new(),
        head: None,
        tail: None,
        footer_lost: false,
        meta,
    };
    let mut end = chunk::head_bytes(&found.meta)?;
    if file.get(..end).is_none_or(|head| chunk::check_head(&found.meta, head).is_err()) {
        // Versions of the flatbuffers library can encode differently, so the rebuilt head is used only if its checksum
        // matches.
        found.head = Some(chunk::rebuild_head(&found.meta)?)
            .filter(|head| head.len() == end && chunk::check_head(&found.meta, head).is_ok());
        if found.head.is_none() {
            return Err(Error::corrupt("chunk head: damaged and cannot be rebuilt"));
        }
    }
    for (position, block) in found.meta.blocks.iter().enumerate() {
        let begin = end;
        end = begin.saturating_add(to_usize(block.bytes()));
        let reason = match file.get(begin..end).map(crc32c::crc32c) {
            Some(crc) if crc == block.crc => {
                found.intact.push(position);
                continue;
            }
            Some(crc) => format!("checksum {crc:08x}, expected {:08x}", block.crc),
            None => "the file is truncated".to_owned(),
        };
        found.damaged.push(DamagedBlock {
            position,
            offset: block.offset,
            bytes: block.bytes(),
            rows: Some(u64::from(block.rows)),
            ts: Some((block.ts_min, block.ts_max)),
            reason,
        });
    }
    for entry in &found.meta.dictionaries {
        let begin = end;
        end = begin.saturating_add(to_usize(entry.bytes()));
        if let Err(error) = chunk::read_dictionary(&found.meta.series, entry, file.get(begin..end).unwrap_or(&[])) {
            // Without the texts their positions mean nothing, but a repair has the dictionary of the series.
            found.damaged_dictionaries.push(error.detail().to_owned());
        }
    }
    if file.get(end..footer_at) != Some(ipc::END_OF_STREAM.as_slice()) {
        let mut tail = ipc::END_OF_STREAM.to_vec();
        tail.extend_from_slice(cells::range(file, footer_at..file.len()));
        found.tail = Some(tail);
    }
    Ok(found)
}

/// Salvage of a file without a footer, from its head and messages.
fn without_footer(file: &[u8], record: Option<&ChunkRecord>) -> Result<ChunkSalvage> {
    let RebuiltFooter { meta, tail, footer_crc, end } = rebuild_footer(file)?;
    let all: Vec<usize> = (0..meta.blocks.len()).collect();
    let mut found = ChunkSalvage {
        footer_crc,
        intact: Vec::new(),
        unproven: Vec::new(),
        damaged: Vec::new(),
        damaged_dictionaries: Vec::new(),
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
        Some(record) if !record.block_crcs.is_empty() => found.verify_blocks(record, end),
        _ => found.unproven = all,
    }
    Ok(found)
}

impl ChunkSalvage {
    /// Verifies the blocks found by the checksums in the manifest, and records the damage between them.
    fn verify_blocks(&mut self, record: &ChunkRecord, end: u64) {
        let mut expected = record.block_crcs.iter().enumerate();
        // Damage starts after the previous block.
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
            let Some((place, _)) = expected.clone().find(|(_, crc)| **crc == block.crc) else { continue };
            lose((position, offset, ts_low), (place, block.offset, block.ts_min.saturating_sub(1)));
            self.intact.push(at);
            expected.by_ref().take_while(|(passed, _)| *passed < place).for_each(drop);
            (position, offset) = (place + 1, block.offset.saturating_add(block.bytes()));
            ts_low = block.ts_max.checked_add(1);
        }
        let file_end = record.file_bytes.max(offset);
        lose((position, offset, ts_low), (record.block_crcs.len(), file_end, record.ts_max));
        // A single damaged range contains all missing rows.
        let intact_rows: u64 =
            self.intact.iter().filter_map(|at| self.meta.blocks.get(*at)).map(|b| u64::from(b.rows)).sum();
        if let [only] = damaged.as_mut_slice() {
            only.rows = record.rows.checked_sub(intact_rows);
        }
        self.damaged = damaged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chunk of two blocks and its entry in the manifest.
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
            texts: 0,
        };
        (file, record)
    }

    fn offsets(found: &ChunkSalvage) -> Vec<u64> {
        found.intact.iter().map(|at| found.meta.blocks[*at].offset).collect()
    }

    #[test]
    fn a_flipped_bit_loses_only_the_block_it_hits() {
        let (file, record) = sample();
        let undamaged = salvage_chunk(&file, Some(&record)).unwrap();
        assert!(undamaged.is_intact() && undamaged.intact == [0, 1]);
        // One bit of every byte, at varying positions.
        for bit in (0..file.len()).map(|byte| byte * 8 + byte % 8) {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let found = salvage_chunk(&damaged, Some(&record)).unwrap();
            let at = bit as u64 / 8;
            let hit = undamaged.meta.blocks.iter().position(|b| (b.offset..b.offset + b.bytes()).contains(&at));
            assert_eq!(found.footer_crc, record.footer_crc, "bit {bit}");
            assert_eq!(found.damaged.iter().map(|d| d.position).collect::<Vec<_>>(), Vec::from_iter(hit), "bit {bit}");
            assert_eq!(found.intact.len(), 2 - found.damaged.len(), "bit {bit}");
            assert!(!found.is_intact(), "bit {bit} is not detected");
            if hit.is_none() {
                assert!(found.repaired(&damaged).unwrap() == file, "bit {bit}");
            } else {
                assert_eq!(found.repaired(&damaged), None, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_truncation_loses_the_blocks_after_it() {
        let (file, record) = sample();
        let undamaged = salvage_chunk(&file, Some(&record)).unwrap();
        let ends: Vec<u64> = undamaged.meta.blocks.iter().map(|b| b.offset + b.bytes()).collect();
        for length in (0..file.len()).step_by(3).chain(file.len() - 20..file.len()) {
            let cut = &file[..length];
            let Ok(found) = salvage_chunk(cut, Some(&record)) else {
                assert!(length < undamaged.meta.blocks[0].offset as usize, "cut at {length}");
                continue;
            };
            let left = ends.iter().filter(|end| **end <= length as u64).count();
            assert_eq!(offsets(&found), offsets(&undamaged)[..left], "cut at {length}");
            assert_eq!(found.is_complete(), left == 2, "cut at {length}");
            if left == 2 {
                assert!(found.repaired(cut).unwrap() == file, "cut at {length}");
            } else {
                let lost = &found.damaged[0];
                assert_eq!((found.damaged.len(), lost.position), (1, left), "cut at {length}");
                assert_eq!(lost.rows, Some(200 - 100 * left as u64), "cut at {length}");
                let low = if left == 0 { record.ts_min } else { undamaged.meta.blocks[0].ts_max + 1 };
                assert_eq!(lost.ts, Some((low, record.ts_max)), "cut at {length}");
            }
        }
    }

    #[test]
    fn a_zeroed_range_loses_the_blocks_it_hits() {
        let (file, record) = sample();
        let undamaged = salvage_chunk(&file, Some(&record)).unwrap();
        for (bytes, step) in [(512, 64), (4_096, 192)] {
            for from in (0..file.len()).step_by(step) {
                let mut damaged = file.clone();
                let to = (from + bytes).min(file.len());
                damaged[from..to].fill(0);
                let is_undamaged = |block: &&BlockMeta| {
                    let range = block.offset as usize..(block.offset + block.bytes()) as usize;
                    file[range.clone()] == damaged[range]
                };
                let left: Vec<u64> =
                    undamaged.meta.blocks.iter().filter(is_undamaged).map(|block| block.offset).collect();
                match salvage_chunk(&damaged, Some(&record)) {
                    Ok(found) => assert_eq!(offsets(&found), left, "{bytes} bytes at {from}"),
                    Err(error) => panic!("{bytes} bytes at {from}: {error}"),
                }
            }
        }
    }

    #[test]
    fn without_the_manifest_a_rebuilt_footer_verifies_nothing() {
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
