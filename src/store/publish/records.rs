//! Series and chunks as the manifest records them.

use crate::error::Result;
use crate::format::chunk::ChunkSummary;
use crate::format::manifest::{ChunkRecord, KindRecord, SeriesRecord, TextsRecord, ViewRecord};
use crate::format::texts::{ColumnTexts, add_all, put_texts};
use crate::store::manifest::edits::Contents;
use crate::store::read::series_state::SeriesState;
use crate::store::read::store_state::RegisteredKind;
use crate::store::registration::{def_json, kind_json};
use crate::types::Dictionary;

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

/// The texts of a series that the manifest does not have yet; `None` without any.
///
/// # Errors
/// `corrupt_data` for texts in the manifest that cannot be read.
pub fn new_texts(series: &SeriesState, contents: &Contents) -> Result<Option<TextsRecord>> {
    let total: u64 = series.dictionaries.iter().map(|dictionary| dictionary.len() as u64).sum();
    let recorded = contents.texts.get(&series.id);
    if recorded.map_or(0, |recorded| recorded.total) >= total {
        return Ok(None);
    }
    let mut known = vec![Dictionary::default(); series.dictionaries.len()];
    if let Some(recorded) = recorded {
        add_all(&recorded.texts, &mut known)?;
    }
    let mut texts = Vec::new();
    put_texts(&mut texts, &ColumnTexts::added(&series.dictionaries, &known));
    Ok(Some(TextsRecord { series_id: series.id, texts, total }))
}

/// A kind as the manifest has it.
pub fn kind_record(kind: &RegisteredKind) -> Result<KindRecord> {
    Ok(KindRecord { name: kind.def.name.clone(), commit: kind.commit, def: kind_json(&kind.def)? })
}
