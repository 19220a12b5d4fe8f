//! Chunk files before they count: staged without a name, then given one.

use std::sync::Arc;

use crate::disk::{self, DiskPath, StagedFile};
use crate::error::{Error, Result};
use crate::format::chunk::{ChunkHead, SliceNumber};
use crate::format::coverage::Coverage;
use crate::format::manifest::ChunkRecord;
use crate::format::zone_map::ZoneMap;
use crate::store::publish::chunk_builder::fill;
use crate::store::publish::records::chunk_record;
use crate::store::publish::sidecars::index_new_chunk;
use crate::store::publish::slices;
use crate::store::read::chunk::{ChunkFile, MapCache};
use crate::store::read::chunk_paths::{chunk_name, series_dir};
use crate::store::read::merge::Merge;
use crate::store::read::merge_source::MergeSource;
use crate::store::read::series_state::SeriesState;
use crate::store::read::sidecar::{coverage_path, zone_map_path};
use crate::store::read::tombstone::Tombstone;
use crate::types::SeriesDef;

/// Writes chunk files that do not count yet.
#[derive(Debug)]
pub struct ChunkStager {
    root: DiskPath,
    cache: Arc<MapCache>,
    /// Most bytes of rows in one chunk.
    bytes_max: u64,
}

/// What goes into a chunk.
pub struct ChunkWrite<'a> {
    pub partition: &'a str,
    /// Closed range of the rows: of the partition, or of a slice of it.
    pub range: (i64, i64),
    /// Those of all slices that are written together: the commits of a chunk are theirs.
    pub sources: Vec<MergeSource>,
    /// Deletes whose rows are left out.
    pub tombstones: Vec<Tombstone>,
    /// The rows are those as of this commit, when it is later than the last one of the sources.
    pub as_of: Option<u64>,
    /// The rows are of commits after this one.
    pub after: u64,
    pub replaces: Vec<u64>,
    pub slice: SliceNumber,
}

/// Chunks that are staged before they get their names together: each holds up to three open files.
pub const STAGED_MAX: usize = 64;

/// A chunk that is written and has no name yet.
pub struct StagedChunk {
    pub record: ChunkRecord,
    def: Arc<SeriesDef>,
    /// The chunk, then its sidecars, each with its path to be.
    files: Vec<(StagedFile, DiskPath)>,
}

/// Checks a chunk before it gets a name: its rows lie inside its range, and its sidecars describe these rows.
pub fn assert_publishable_chunk(record: &ChunkRecord, range: (i64, i64), zones: &ZoneMap, coverage: Option<&Coverage>) {
    let (bounds, chunk) = ((record.ts_min, record.ts_max), bounds_of(record));
    assert!(range.0 <= bounds.0 && bounds.1 <= range.1, "{chunk}: rows outside of {range:?}");
    let times = zones.chunk_summaries().first().map(|times| times.keys);
    assert_eq!(times, Some(bounds), "{chunk}: bounds of its zone map");
    if let Some(coverage) = coverage {
        assert_eq!(coverage.rows(), record.rows, "{chunk}: rows of its coverage");
    }
}

/// A chunk in the message of a failed check.
pub fn bounds_of(record: &ChunkRecord) -> String {
    let ChunkRecord { id, series_id, rows, ts_min, ts_max, commit_lo, commit_hi, .. } = record;
    format!(
        "chunk {id} of series {series_id}: {rows} rows, timestamps {ts_min} to {ts_max}, commits {commit_lo} to {commit_hi}"
    )
}

impl ChunkStager {
    pub fn new(root: &DiskPath, cache: Arc<MapCache>, bytes_max: u64) -> Self {
        Self { root: root.clone(), cache, bytes_max }
    }

    /// Most rows of a chunk of a series.
    pub fn rows_max(&self, def: &SeriesDef) -> u64 {
        slices::rows_max(def, self.bytes_max)
    }

    /// A merge of rows of a series as chunks get them.
    pub fn merge(
        &self,
        series: &SeriesState,
        mut sources: Vec<MergeSource>,
        tombstones: &[Tombstone],
        range: (i64, i64),
    ) -> Merge {
        sources.retain(|source| source.ts_min() <= range.1 && range.0 <= source.ts_max());
        let (tombstones, cache) = (Arc::new(tombstones.to_vec()), Arc::clone(&self.cache));
        Merge::new(sources, tombstones, Arc::clone(&series.def), cache, range, false)
    }

    /// Writes one chunk and its derived sidecars, without names yet; `None` when there are no rows for it.
    pub fn stage_chunk(
        &self,
        series: &SeriesState,
        write: ChunkWrite<'_>,
        next_file_id: &mut u64,
    ) -> Result<Option<StagedChunk>> {
        let ChunkWrite { partition, range, sources, tombstones, as_of, after, replaces, slice } = write;
        let commit_lo = sources.iter().map(MergeSource::commit_lo).min();
        let commit_hi = sources.iter().map(MergeSource::commit_hi).chain(as_of).max();
        let (Some(commit_lo), Some(commit_hi)) = (commit_lo, commit_hi) else { return Ok(None) };
        let commit_lo = commit_lo.max(after + 1).min(commit_hi);
        let merge = self.merge(series, sources, &tombstones, range);
        let dir = series_dir(&self.root, series.id);
        loop {
            // Files of this name can exist from a seal that never reached the manifest: take the next id.
            let chunk_id = *next_file_id;
            *next_file_id += 1;
            let path = dir.join(chunk_name(partition, chunk_id));
            let (zones_path, coverage_path) = (zone_map_path(&path), coverage_path(&path));
            if path.found()? || zones_path.found()? || coverage_path.found()? {
                continue;
            }
            let head = ChunkHead {
                series_id: series.id,
                chunk_id,
                partition: partition.to_owned(),
                series: &series.def,
                commit_lo,
                commit_hi,
                replaces,
                slice,
                dictionaries: &series.dictionaries,
            };
            let tmp = self.root.join("tmp");
            let mut staged = StagedFile::create(&tmp)?;
            let coverage = series.grid().ok().map(|grid| Coverage::new(chunk_id, grid));
            let Some((summary, mut zones, coverage)) = fill(&mut staged, head, merge, coverage)? else {
                return Ok(None);
            };
            let mut files = vec![(staged, path)];
            let mut derived = |path: DiskPath, bytes: &[u8]| -> Result<()> {
                let mut staged = StagedFile::create(&tmp)?;
                staged.put(bytes)?;
                files.push((staged, path));
                Ok(())
            };
            let record = chunk_record(&summary);
            assert_publishable_chunk(&record, range, &zones, coverage.as_ref());
            zones.footer_crc = summary.footer_crc;
            derived(zones_path, &zones.encode())?;
            if let Some(mut coverage) = coverage {
                coverage.footer_crc = summary.footer_crc;
                coverage.optimize();
                derived(coverage_path, &coverage.encode())?;
            }
            return Ok(Some(StagedChunk { record, def: Arc::clone(&series.def), files }));
        }
    }

    /// Gives staged chunks and their sidecars their names, durably: all files are synced, then linked, the chunk before
    /// its sidecars, then their directories synced. Syncs of many small chunks so share their flushes.
    pub fn place_chunks(&self, mut chunks: Vec<StagedChunk>) -> Result<()> {
        let mut files: Vec<&mut StagedFile> =
            chunks.iter_mut().flat_map(|chunk| chunk.files.iter_mut().map(|(staged, _)| staged)).collect();
        StagedFile::sync_all(&mut files)?;
        let mut dirs = Vec::new();
        let mut placed = Vec::new();
        for StagedChunk { record, def, files } in chunks {
            for (staged, path) in files {
                if !staged.place(&path)? {
                    return Err(Error::internal(format!(
                        "{} was created by another process or thread",
                        path.display()
                    )));
                }
                dirs.extend(path.parent());
            }
            placed.push((record, def));
        }
        disk::sync_dirs(dirs)?;
        for (record, def) in placed {
            self.index(&ChunkFile::new(&self.root, record), &def);
        }
        Ok(())
    }

    /// Writes the value index of a chunk that is linked, or has it written later.
    pub fn index(&self, chunk: &ChunkFile, def: &SeriesDef) {
        if let Err(error) = index_new_chunk(chunk, &self.root.join("tmp"), def) {
            tracing::warn!(%error, "a chunk has no value index for now");
            self.cache.sidecar_requests.add_chunk(chunk.record.series_id, chunk.record.id);
        }
    }
}
