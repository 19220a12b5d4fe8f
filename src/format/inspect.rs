//! Any FastK file as JSON, the output of `fastk inspect`.

use serde_json::{Value, json};

use super::{chunk, chunk_salvage, coverage, current, manifest, receipt, run, tombstone, value_index, wal, zone_map};
use crate::error::{Error, ErrorCode, Result};

/// Detects the kind of a file by its first bytes, verifies its checksums and describes it. `intact` in the result is
/// true if no byte is damaged; otherwise the other fields describe the intact parts.
///
/// # Errors
/// `invalid_argument` for other files; `corrupt_data` when no part can be read; `unsupported_format` for a newer file.
pub fn inspect(bytes: &[u8]) -> Result<Value> {
    match magic_of(bytes) {
        Some(magic) if magic == chunk::ARROW_MAGIC => inspect_chunk(bytes),
        Some(magic) => {
            let magic: &[u8; 8] = magic.try_into().unwrap_or(&[0; 8]);
            match magic {
                wal::SEGMENT_MAGIC => inspect_segment(bytes),
                run::RUN_MAGIC => inspect_run(bytes),
                manifest::EDIT_MAGIC => inspect_edit(bytes),
                receipt::RECEIPTS_MAGIC => inspect_receipts(bytes),
                _ => inspect_small(magic, bytes).map(|report| with(report, "intact", Value::Bool(true))),
            }
        }
        None => Err(Error::invalid("not a FastK file").with_hint(
            "pass a chunk, zone map, value index, coverage file, log segment, run, receipt file, manifest edit or \
             checkpoint, CURRENT, tombstone, drop marker or registration",
        )),
    }
}

/// The magic of the file: its first bytes, or other marks where these are damaged.
fn magic_of(bytes: &[u8]) -> Option<&'static [u8]> {
    const SMALL: [&[u8; 8]; 9] = [
        manifest::CHECKPOINT_MAGIC,
        current::CURRENT_MAGIC,
        tombstone::TOMBSTONE_MAGIC,
        tombstone::DROP_MAGIC,
        tombstone::REGISTRATION_MAGIC,
        zone_map::ZONE_MAP_MAGIC,
        coverage::COVERAGE_MAGIC,
        value_index::VALUE_INDEX_MAGIC,
        receipt::RECEIPTS_MAGIC,
    ];
    const LARGE: [&[u8]; 4] = [chunk::ARROW_MAGIC, wal::SEGMENT_MAGIC, run::RUN_MAGIC, manifest::EDIT_MAGIC];
    let all = || LARGE.into_iter().chain(SMALL.into_iter().map(|magic| magic.as_slice()));
    let has_second_copy =
        || bytes.get(manifest::COPY_ALIGNMENT..).is_some_and(|copy| copy.starts_with(manifest::EDIT_MAGIC));
    all()
        .find(|magic| bytes.starts_with(magic))
        .or_else(|| [LARGE[0], LARGE[2]].into_iter().find(|magic| bytes.ends_with(magic)))
        .or_else(|| has_second_copy().then_some(manifest::EDIT_MAGIC.as_slice()))
        .or_else(|| wal::first_frame(bytes).map(|_| wal::SEGMENT_MAGIC.as_slice()))
}

/// Files of a single envelope, which are either intact or unreadable.
fn inspect_small(magic: &[u8; 8], bytes: &[u8]) -> Result<Value> {
    let crc = |crc: u32| format!("{crc:08x}");
    Ok(match magic {
        manifest::CHECKPOINT_MAGIC => inspect_manifest("manifest checkpoint", &manifest::decode_checkpoint(bytes)?),
        current::CURRENT_MAGIC => {
            let found = current::decode_current(bytes)?;
            json!({"kind": "current", "edit": found.edit, "wal_segment": found.wal_segment})
        }
        tombstone::TOMBSTONE_MAGIC => json!({"kind": "tombstone", "tombstone": tombstone::decode_tombstone(bytes)?}),
        tombstone::DROP_MAGIC => json!({"kind": "drop marker", "drop": tombstone::decode_drop(bytes)?}),
        tombstone::REGISTRATION_MAGIC => {
            json!({"kind": "registration", "registration": tombstone::decode_registration(bytes)?})
        }
        zone_map::ZONE_MAP_MAGIC => {
            let map = zone_map::ZoneMap::decode(bytes)?;
            json!({"kind": "zone map", "chunk_id": map.chunk_id, "footer_crc32c": crc(map.footer_crc),
                   "zones": map.zones(), "columns": map.columns.len()})
        }
        coverage::COVERAGE_MAGIC => {
            // The unit only affects the length of months, which is not shown.
            let found = coverage::Coverage::decode(bytes, crate::types::TimeUnit::Ms)?;
            let interval = match found.grid {
                crate::types::Grid::Fixed { length, phase } => json!({"ticks": length, "phase": phase}),
                crate::types::Grid::Months { length, phase, .. } => json!({"months": length, "phase": phase}),
            };
            json!({"kind": "coverage", "chunk_id": found.chunk_id, "footer_crc32c": crc(found.footer_crc),
                   "interval": interval, "aligned": found.aligned.len(), "off_grid": found.off_grid.len()})
        }
        value_index::VALUE_INDEX_MAGIC => {
            let index = value_index::ValueIndex::check(bytes)?;
            let columns: Vec<Value> =
                index.columns.iter().map(|c| json!({"position": c.position, "pages": c.pages.len()})).collect();
            json!({"kind": "value index", "chunk_id": index.chunk_id, "footer_crc32c": crc(index.footer_crc),
                   "rows": index.rows, "columns": columns})
        }
        _ => return Err(Error::invalid("not a FastK file")),
    })
}

fn with(mut report: Value, field: &str, value: Value) -> Value {
    if let Some(fields) = report.as_object_mut() {
        fields.insert(field.to_owned(), value);
    }
    report
}

fn inspect_chunk(bytes: &[u8]) -> Result<Value> {
    let found = chunk_salvage::salvage_chunk(bytes, None)?;
    let lost: Vec<Value> = found
        .damaged
        .iter()
        .map(|block| {
            json!({"position": block.position, "offset": block.offset, "bytes": block.bytes, "rows": block.rows,
                   "ts_min": block.ts.map(|ts| ts.0), "ts_max": block.ts.map(|ts| ts.1), "reason": block.reason})
        })
        .collect();
    let mut report = json!({
        "kind": "chunk",
        "intact": found.is_intact(),
        "file_bytes": bytes.len(),
        "file_crc32c": format!("{:08x}", crc32c::crc32c(bytes)),
        "footer_crc32c": format!("{:08x}", found.footer_crc),
        "head_intact": found.head.is_none(),
        "footer_intact": found.tail.is_none() && !found.footer_lost,
        "damaged_blocks": found.damaged.iter().map(|block| block.position).collect::<Vec<_>>(),
        "damage": lost,
        "unproven_blocks": found.unproven,
    });
    if let (Some(report), Ok(Value::Object(meta))) = (report.as_object_mut(), serde_json::to_value(&found.meta)) {
        report.extend(meta);
        if !found.damaged_dictionaries.is_empty() {
            report.insert("damaged_dictionaries".into(), json!(found.damaged_dictionaries));
        }
    }
    Ok(report)
}

fn inspect_segment(bytes: &[u8]) -> Result<Value> {
    let header = match wal::decode_segment_header(bytes) {
        Err(error) if error.code() == ErrorCode::CorruptData => None,
        header => Some(header?),
    };
    // Frames also have the epoch.
    let epoch = header.map(|header| header.epoch).or_else(|| Some(wal::first_frame(bytes)?.1.epoch));
    let Some(epoch) = epoch else {
        return Err(Error::corrupt("log segment: the header is damaged, and there is no frame"));
    };
    let mut frames = Vec::new();
    let mut offset = wal::SEGMENT_HEADER_BYTES;
    let end = loop {
        match wal::frame_at(bytes, offset, epoch) {
            wal::FrameRead::Empty => break "clean",
            wal::FrameRead::Damaged => break "damaged",
            wal::FrameRead::Frame(frame, payload) => {
                frames.push(inspect_frame(offset, &frame, payload));
                offset = offset.saturating_add(wal::frame_bytes(frame.payload_bytes));
            }
        }
    };
    let has_all_bytes = header.is_some_and(|header| header.segment_bytes == bytes.len() as u64);
    Ok(json!({
        "kind": "log segment", "intact": has_all_bytes && end == "clean",
        "header_intact": header.is_some(), "number": header.map(|header| header.number),
        "epoch": format!("{epoch:016x}"), "first_lsn": header.map(|header| header.first_lsn),
        "segment_bytes": header.map(|header| header.segment_bytes),
        "file_bytes": bytes.len(), "used_bytes": offset, "end": end, "frames": frames,
    }))
}

fn inspect_edit(bytes: &[u8]) -> Result<Value> {
    let (edit, damage) = manifest::decode_edit(bytes)?;
    let intact = damage.is_none();
    let damage = damage.map(|damage| json!({"offset": damage.offset, "reason": damage.reason}));
    let report = with(inspect_manifest("manifest edit", &edit), "damage", json!(damage.as_slice()));
    Ok(with(report, "intact", Value::Bool(intact)))
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

fn inspect_operation(operation: &wal::LoggedChange) -> Value {
    match operation {
        wal::LoggedChange::Write { series_id, replaced, rows, .. } => json!({
            "write": {"series_id": series_id, "rows": rows.len(), "replaced": replaced,
                      "ts_min": rows.ts.first(), "ts_max": rows.ts.last()}
        }),
        wal::LoggedChange::Delete { series_id, start, end, deleted, .. } => {
            json!({"delete": {"series_id": series_id, "start": start, "end": end, "rows": deleted}})
        }
        wal::LoggedChange::Register { series_id, def } => {
            let def = serde_json::from_str(def).unwrap_or_else(|_| Value::String(def.clone()));
            json!({"register": {"series_id": series_id, "series": def}})
        }
        wal::LoggedChange::Drop { series_id } => json!({"drop": {"series_id": series_id}}),
        wal::LoggedChange::CreateSnapshot { name } => json!({"create_snapshot": {"name": name}}),
        wal::LoggedChange::DropSnapshot { name } => json!({"drop_snapshot": {"name": name}}),
        wal::LoggedChange::RegisterKind { def } => {
            json!({"register_kind": serde_json::from_str::<Value>(def).unwrap_or_default()})
        }
        wal::LoggedChange::DropKind { name } => json!({"drop_kind": {"name": name}}),
    }
}

fn inspect_run(bytes: &[u8]) -> Result<Value> {
    let found = run::salvage_run(bytes)?;
    let show = |entry: &run::RunEntry| {
        json!({"series_id": entry.series_id, "commit_lo": entry.commit_lo, "commit_hi": entry.commit_hi,
               "rows": entry.rows, "columns": entry.columns, "offset": entry.offset,
               "ts_min": entry.ts_min, "ts_max": entry.ts_max})
    };
    let damaged = found.damaged.iter().map(|place| {
        json!({"offset": place.offset, "bytes": place.bytes, "reason": place.reason,
               "run": place.run.as_ref().map(show)})
    });
    let damaged: Vec<Value> = damaged.collect();
    let harmless: Vec<Value> = found.harmless.iter().map(shown_range).collect();
    Ok(json!({
        "kind": "run", "intact": damaged.is_empty() && harmless.is_empty() && found.complete,
        "file_bytes": bytes.len(), "crc32c": found.crc.map(|crc| format!("{crc:08x}")),
        "level": found.origin.map(|origin| origin.level),
        "base_commit": found.origin.map(|origin| origin.base_commit),
        "index_intact": found.index_intact, "complete": found.complete,
        "entries": found.runs.iter().map(show).collect::<Vec<_>>(), "series": found.defs,
        "damage": damaged, "damage_without_loss": harmless,
    }))
}

/// A damaged range of bytes.
fn shown_range(range: &std::ops::Range<u64>) -> Value {
    json!({"offset": range.start, "bytes": range.end.saturating_sub(range.start)})
}

fn inspect_receipts(bytes: &[u8]) -> Result<Value> {
    let found = receipt::salvage_receipts(bytes)?;
    let receipts: Vec<Value> = found
        .receipts
        .iter()
        .map(|r| {
            let commits: Vec<u64> = r.written.iter().map(|written| written.commit).collect();
            json!({"key_hash": format!("{:032x}", r.key), "wall_ms": r.wall_ms, "commits": commits})
        })
        .collect();
    let intact = found.damaged.is_empty() && found.pages_lost == Some(0);
    Ok(json!({"kind": "receipts", "intact": intact, "file_bytes": bytes.len(), "receipts": receipts,
              "pages_lost": found.pages_lost,
              "damage": found.damaged.iter().map(shown_range).collect::<Vec<_>>()}))
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
        "kinds": edit.kinds.iter().map(|k| json!({"name": k.name, "commit": k.commit})).collect::<Vec<_>>(),
        "kinds_removed": edit.kinds_removed,
        "receipts": edit.receipts.iter().map(|r| json!({"id": r.id, "bytes": r.bytes})).collect::<Vec<_>>(),
        "receipts_removed": edit.receipts_removed, "chunks_unlinked": edit.chunks_unlinked,
        "chunks_waiting": edit.chunks_waiting.iter().map(|c| c.id).collect::<Vec<_>>(),
    })
}
