//! Series and chunks as the manifest records them.

use crate::error::Result;
use crate::format::chunk::ChunkSummary;
use crate::format::manifest::{ChunkRecord, SeriesRecord, ViewRecord};
use crate::store::read::series_state::SeriesState;
use crate::store::registration::def_json;

/// A series as the manifest keeps it.
pub fn series_record(series: &SeriesState, sealed_commit: u64) -> Result<SeriesRecord> {
    let views = series.views.iter().map(|view| {
        Ok(ViewRecord {
            commit: view.commit,
            last_commit: view.last_commit,
            def: if view.def == series.def { String::new() } else { def_json(&view.def)? },
            version: view.version,
            rows: view.rows,
            first_ts: view.bounds.map(|(first, _)| first),
            last_ts: view.bounds.map(|(_, last)| last),
        })
    });
    Ok(SeriesRecord {
        id: series.id,
        def: def_json(&series.def)?,
        version: series.version,
        rows: series.rows,
        first_ts: series.bounds.map(|(first, _)| first),
        last_ts: series.bounds.map(|(_, last)| last),
        sealed_commit,
        last_write_ms: series.last_write_ms,
        created_commit: series.created_commit,
        last_commit: series.last_commit,
        dropped_commit: series.dropped_commit.unwrap_or(0),
        views: views.collect::<Result<Vec<_>>>()?,
    })
}

/// What the manifest says of a chunk that was written.
pub fn chunk_record(summary: &ChunkSummary) -> ChunkRecord {
    let meta = &summary.meta;
    ChunkRecord {
        id: meta.chunk_id,
        series_id: meta.series_id,
        partition: meta.partition.clone(),
        rows: meta.rows,
        ts_min: meta.ts_min,
        ts_max: meta.ts_max,
        commit_lo: meta.commit_lo,
        commit_hi: meta.commit_hi,
        file_bytes: summary.file_bytes,
        file_crc: summary.file_crc,
        footer_crc: summary.footer_crc,
        block_crcs: meta.blocks.iter().map(|block| block.crc).collect(),
        texts: meta.texts(),
    }
}
