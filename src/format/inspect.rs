//! Any FastK file as JSON for people: what `fastk inspect` prints.

use serde_json::{Value, json};

use super::{chunk, coverage, manifest, receipt, run, tombstone, value_index, wal, zone_map};
use crate::error::{Error, Result};

/// Describes a file by its first bytes and checks its checksums.
///
/// # Errors
/// `invalid_argument` when the bytes are no FastK file, `corrupt_data` when they are a damaged one.
pub fn inspect(bytes: &[u8]) -> Result<Value> {
    let magic = bytes.get(..8).unwrap_or(bytes);
    if magic.starts_with(chunk::ARROW_MAGIC) {
        inspect_chunk(bytes)
    } else if magic == wal::SEGMENT_MAGIC {
        inspect_segment(bytes)
    } else if magic == run::RUN_MAGIC {
        inspect_run(bytes)
    } else if magic == manifest::EDIT_MAGIC {
        Ok(inspect_manifest("manifest edit", &manifest::decode_edit(bytes)?))
    } else if magic == manifest::CHECKPOINT_MAGIC {
        Ok(inspect_manifest("manifest checkpoint", &manifest::decode_checkpoint(bytes)?))
    } else if magic == tombstone::TOMBSTONE_MAGIC {
        Ok(json!({"kind": "tombstone", "tombstone": tombstone::decode_tombstone(bytes)?}))
    } else if magic == zone_map::ZONE_MAP_MAGIC {
        let map = zone_map::ZoneMap::decode(bytes)?;
        let crc = format!("{:08x}", map.footer_crc);
        Ok(json!({"kind": "zone map", "chunk_id": map.chunk_id, "footer_crc32c": crc, "zones": map.zones(),
                  "columns": map.columns.len()}))
    } else if magic == coverage::COVERAGE_MAGIC {
        // The unit only tells the length of months, which is not shown.
        let found = coverage::Coverage::decode(bytes, crate::types::TimeUnit::Ms)?;
        let crc = format!("{:08x}", found.footer_crc);
        let interval = match found.grid {
            crate::types::Grid::Fixed { length, phase } => json!({"ticks": length, "phase": phase}),
            crate::types::Grid::Months { length, phase, .. } => json!({"months": length, "phase": phase}),
        };
        Ok(json!({"kind": "coverage", "chunk_id": found.chunk_id, "footer_crc32c": crc, "interval": interval,
                  "aligned": found.aligned.len(), "off_grid": found.off_grid.len()}))
    } else if magic == value_index::VALUE_INDEX_MAGIC {
        let index = value_index::ValueIndex::check(bytes)?;
        let crc = format!("{:08x}", index.footer_crc);
        let columns: Vec<Value> =
            index.columns.iter().map(|c| json!({"position": c.position, "pages": c.pages.len()})).collect();
        Ok(json!({"kind": "value index", "chunk_id": index.chunk_id, "footer_crc32c": crc, "rows": index.rows,
                  "columns": columns}))
    } else if magic == receipt::RECEIPTS_MAGIC {
        inspect_receipts(bytes)
    } else if magic == tombstone::DROP_MAGIC {
        Ok(json!({"kind": "drop marker", "drop": tombstone::decode_drop(bytes)?}))
    } else {
        Err(Error::invalid("the file is no FastK file").with_hint(
            "chunks, zone maps, value indexes, coverage, log segments, runs, receipts, manifest edits and \
             checkpoints, tombstones and drop markers are",
        ))
    }
}

fn inspect_chunk(bytes: &[u8]) -> Result<Value> {
    let trailer_at = bytes.len().checked_sub(chunk::TRAILER_BYTES).ok_or_else(|| Error::corrupt("chunk is cut"))?;
    let length = chunk::footer_bytes(bytes.get(trailer_at..).unwrap_or_default())?;
    let footer_at = trailer_at.checked_sub(length).ok_or_else(|| Error::corrupt("chunk is cut"))?;
    let file_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let (meta, footer_crc) = chunk::decode_footer(bytes.get(footer_at..trailer_at).unwrap_or_default(), file_bytes)?;
    let damaged: Vec<usize> = meta
        .blocks
        .iter()
        .enumerate()
        .filter(|(_, block)| {
            let begin = usize::try_from(block.offset).unwrap_or(usize::MAX);
            let end = usize::try_from(block.offset.saturating_add(block.bytes())).unwrap_or(usize::MAX);
            bytes.get(begin..end).map(crc32c::crc32c) != Some(block.crc)
        })
        .map(|(position, _)| position)
        .collect();
    let mut report = json!({
        "kind": "chunk",
        "file_bytes": bytes.len(),
        "file_crc32c": format!("{:08x}", crc32c::crc32c(bytes)),
        "footer_crc32c": format!("{footer_crc:08x}"),
        "damaged_blocks": damaged,
    });
    if let (Some(report), Ok(Value::Object(meta))) = (report.as_object_mut(), serde_json::to_value(&meta)) {
        report.extend(meta);
    }
    Ok(report)
}

fn inspect_segment(bytes: &[u8]) -> Result<Value> {
    let header = wal::decode_segment_header(bytes)?;
    let mut frames = Vec::new();
    let mut offset = wal::SEGMENT_HEADER_BYTES;
    let end = loop {
        match wal::frame_at(bytes, offset, header.epoch) {
            wal::Found::Nothing => break "clean",
            wal::Found::Damaged => break "damaged",
            wal::Found::Frame(frame, payload) => {
                frames.push(inspect_frame(offset, &frame, payload));
                offset = offset.saturating_add(wal::frame_bytes(frame.payload_bytes));
            }
        }
    };
    Ok(json!({
        "kind": "log segment", "number": header.number, "epoch": format!("{:016x}", header.epoch),
        "first_lsn": header.first_lsn, "file_bytes": bytes.len(), "used_bytes": offset, "end": end, "frames": frames,
    }))
}

fn inspect_frame(offset: usize, frame: &wal::FrameHeader, payload: &[u8]) -> Value {
    let operations: Vec<Value> = match frame.kind {
        wal::FrameKind::Marker => Vec::new(),
        wal::FrameKind::Commit => match wal::decode_commit(payload) {
            Err(error) => vec![json!({"unreadable": error.detail()})],
            Ok(commit) => commit.operations.iter().map(inspect_operation).collect(),
        },
    };
    json!({
        "offset": offset, "lsn": frame.lsn, "durable_lsn": frame.durable_lsn, "commit": frame.commit,
        "payload_bytes": frame.payload_bytes, "operations": operations,
    })
}

fn inspect_operation(operation: &wal::Operation) -> Value {
    match operation {
        wal::Operation::Write { series_id, replaced, rows } => json!({
            "write": {"series_id": series_id, "rows": rows.len(), "replaced": replaced,
                      "ts_min": rows.ts.first(), "ts_max": rows.ts.last()}
        }),
        wal::Operation::Delete { series_id, start, end, deleted, .. } => {
            json!({"delete": {"series_id": series_id, "start": start, "end": end, "rows": deleted}})
        }
        wal::Operation::Register { series_id, def } => {
            let def = serde_json::from_str(def).unwrap_or_else(|_| Value::String(def.clone()));
            json!({"register": {"series_id": series_id, "series": def}})
        }
        wal::Operation::Drop { series_id } => json!({"drop": {"series_id": series_id}}),
        wal::Operation::CreateSnapshot { name } => json!({"create_snapshot": {"name": name}}),
        wal::Operation::DropSnapshot { name } => json!({"drop_snapshot": {"name": name}}),
    }
}

fn inspect_run(bytes: &[u8]) -> Result<Value> {
    let (crc, entries) = run::decode_run(bytes)?;
    let entries: Vec<Value> = entries
        .iter()
        .map(|entry| {
            json!({"series_id": entry.series_id, "commit_lo": entry.commit_lo, "commit_hi": entry.commit_hi,
                   "rows": entry.rows, "columns": entry.columns, "offset": entry.offset,
                   "ts_min": entry.ts_min, "ts_max": entry.ts_max})
        })
        .collect();
    Ok(json!({"kind": "run", "file_bytes": bytes.len(), "crc32c": format!("{crc:08x}"), "entries": entries}))
}

fn inspect_receipts(bytes: &[u8]) -> Result<Value> {
    let receipts: Vec<Value> = receipt::decode_receipts(bytes)?
        .iter()
        .map(|r| {
            let commits: Vec<u64> = r.written.iter().map(|written| written.commit).collect();
            json!({"key_hash": format!("{:032x}", r.key), "wall_ms": r.wall_ms, "commits": commits})
        })
        .collect();
    Ok(json!({"kind": "receipts", "file_bytes": bytes.len(), "receipts": receipts}))
}

fn inspect_manifest(kind: &str, edit: &manifest::Edit) -> Value {
    let tombstones = |records: &[manifest::TombstoneRecord]| -> Vec<Value> {
        records
            .iter()
            .map(|t| json!({"series_id": t.series_id, "commit": t.commit, "start": t.start, "end": t.end}))
            .collect()
    };
    let series: Vec<Value> = edit
        .series
        .iter()
        .map(|s| {
            let def = serde_json::from_str(&s.def).unwrap_or_else(|_| Value::String(s.def.clone()));
            json!({"id": s.id, "series": def, "version": s.version, "rows": s.rows, "first_ts": s.first_ts,
                   "last_ts": s.last_ts, "sealed_commit": s.sealed_commit, "created_commit": s.created_commit,
                   "last_commit": s.last_commit, "dropped_commit": s.dropped_commit,
                   "views": s.views.iter().map(|v| json!({"commit": v.commit, "version": v.version, "rows": v.rows}))
                       .collect::<Vec<_>>()})
        })
        .collect();
    let chunks: Vec<Value> = edit
        .chunks
        .iter()
        .map(|c| {
            json!({"id": c.id, "series_id": c.series_id, "partition": c.partition, "rows": c.rows,
                   "ts_min": c.ts_min, "ts_max": c.ts_max, "commit_lo": c.commit_lo, "commit_hi": c.commit_hi,
                   "file_bytes": c.file_bytes, "file_crc32c": format!("{:08x}", c.file_crc),
                   "footer_crc32c": format!("{:08x}", c.footer_crc)})
        })
        .collect();
    json!({
        "kind": kind, "number": edit.number, "epoch": edit.epoch, "base_commit": edit.base_commit,
        "wal_first_segment": edit.wal_first_segment, "wal_first_lsn": edit.wal_first_lsn,
        "next_series_id": edit.next_series_id, "next_file_id": edit.next_file_id,
        "series": series, "series_dropped": edit.series_dropped, "chunks": chunks,
        "chunks_removed": edit.chunks_removed, "tombstones": tombstones(&edit.tombstones),
        "tombstones_removed": tombstones(&edit.tombstones_removed),
        "runs": edit.runs.iter().map(|r| json!({"id": r.id, "bytes": r.bytes, "level": r.level,
            "base_commit": r.base_commit, "crc32c": format!("{:08x}", r.crc)})).collect::<Vec<_>>(),
        "runs_removed": edit.runs_removed,
        "snapshots": edit.snapshots.iter().map(|s| json!({"name": s.name, "commit": s.commit})).collect::<Vec<_>>(),
        "snapshots_removed": edit.snapshots_removed,
        "receipts": edit.receipts.iter().map(|r| json!({"id": r.id, "bytes": r.bytes})).collect::<Vec<_>>(),
        "receipts_removed": edit.receipts_removed, "chunks_unlinked": edit.chunks_unlinked,
        "chunks_waiting": edit.chunks_waiting.iter().map(|c| c.id).collect::<Vec<_>>(),
    })
}
