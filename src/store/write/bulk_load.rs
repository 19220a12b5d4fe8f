//! Bulk loads: many ordered rows, in a range in which their series has no rows, are written directly to chunk files and
//! not to the log.
//!
//! - The files are written and synced first, with the number of the next commit. When another commit takes that number,
//!   the head and the footer, which contain it, are rewritten; the blocks stay.
//! - One manifest edit publishes all files atomically and makes the commit durable. All earlier commits are durable in
//!   the log by then, so the commits that survive a crash are a prefix of the history.
//! - The edit records that all rows of the series up to this commit are in chunks, so recovery skips the older rows and
//!   deletes of the series in the log. They are therefore sealed first.
//! - A write that turns out not to qualify goes to the log, and its files are removed.

use std::io::BufWriter;
use std::sync::{Arc, TryLockError};
use std::time::{Duration, Instant};

use crate::disk::{self, DiskPath, StagedFile};
use crate::error::{Error, Result};
use crate::format::chunk::{ChunkHead, ChunkSummary, Renumbered, SliceNumber, block_rows, renumber};
use crate::format::coverage::Coverage;
use crate::format::manifest::{ChunkRecord, Edit};
use crate::format::receipt::SeriesReceipt;
use crate::format::zone_map::ZoneMap;
use crate::store::publish::chunk_builder::ChunkBuilder;
use crate::store::publish::publisher::{PublishedFiles, assert_publishable_chunks};
use crate::store::publish::records::{chunk_record, series_record};
use crate::store::publish::series_files;
use crate::store::publish::slices::ranges_of_rows;
use crate::store::publish::stager::assert_publishable_chunk;
use crate::store::read::chunk::ChunkFile;
use crate::store::read::chunk_paths::{chunk_name, series_dir};
use crate::store::read::series_state::SeriesState;
use crate::store::read::sidecar::{coverage_path, zone_map_path};
use crate::store::read::store_state::StoreState;
use crate::store::write::request::{SeriesWrite, WriteMode};
use crate::store::write::writes::Writes;
use crate::sync::MutexGuard;
use crate::types::{CellSlice, ColumnType, Grid, OrderRule, Rows, SeriesKey, cells};

/// How often a load is tried while other writes change its series.
const ATTEMPTS: usize = 3;
/// How long a load waits for other maintenance before its rows go to the log.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);
/// A load has at least `tail_rows_max` divided by this many rows per partition on average. A write with fewer goes to the
/// log.
const PARTITION_ROWS_DIVISOR: u64 = 64;
/// Maximum chunks of a load: each has three files, which are open until the commit.
const CHUNKS_MAX: u64 = 128;

/// One chunk of a load, and its sidecars.
#[derive(Debug)]
pub struct LoadChunk {
    /// The staged file, until it is placed.
    chunk: Option<StagedFile>,
    path: DiskPath,
    summary: ChunkSummary,
    zones: ZoneMap,
    coverage: Option<Coverage>,
    sidecars: Vec<(StagedFile, DiskPath)>,
}

/// A load with its commit number.
struct BulkLoad {
    next: Arc<SeriesState>,
    parts: Vec<(LoadChunk, Option<Renumbered>)>,
}

/// Whether rows are in the order of their series and have no key twice, as far as timestamps show.
fn is_in_order(series: &SeriesState, ts: &[i64]) -> bool {
    let arrival = series.def.order == OrderRule::Arrival;
    ts.is_sorted_by(|a, b| a < b || arrival && a == b)
}

/// Whether rows have positions of texts, which a load cannot add: the log has the texts of a commit.
fn has_texts(series: &SeriesState) -> bool {
    series.def.columns.iter().any(|column| column.kind == ColumnType::Text)
}

impl Writes {
    /// Whether a write has enough rows for a load. The other conditions are not checked.
    pub fn can_be_load(&self, write: &SeriesWrite) -> bool {
        // Registrations and grid phases are decided in commit order, by the commit queue; a load bypasses it.
        write.create.is_none()
            && write.phase_pending.is_empty()
            && write.rows.ts.len() as u64 >= self.tail_rows_max.max(1)
    }

    /// Waits until all decided commits of a series are published. Returns the error of a refused one: a load must not
    /// commit when an earlier write of its writer failed.
    fn wait_for_series(&self, key: &SeriesKey) -> Result<Arc<StoreState>> {
        let (decided, version) = {
            let pending = self.wal.queue.lock();
            (pending.decided()?, pending.state.get(key).map(|series| (series.id, series.version)))
        };
        let published = self.wal.queue.published();
        if published.get(key).map(|series| (series.id, series.version)) == version {
            return Ok(published);
        }
        self.wal.queue.wait(&decided)?;
        Ok(self.wal.queue.published())
    }

    /// Writes rows as a load. `None` when they must go to the log; then nothing was changed.
    ///
    /// # Errors
    /// `writer_stopped`, `storage_full` and `io` of the commit: no row was stored.
    pub fn load(&self, write: &SeriesWrite) -> Result<Option<SeriesReceipt>> {
        if self.loadable(write, &self.wal.queue.published())?.is_none() || !self.wal.queue.takes_writes() {
            return Ok(None);
        }
        let started = Instant::now();
        let Some(mut files) = self.lock_with_timeout() else { return Ok(None) };
        let written = self.wal.queue.stop_on_panic(|| self.load_locked(&mut files, write))?;
        if written.is_some() {
            metrics::histogram!("fastk_load_seconds").record(started.elapsed());
        }
        Ok(written)
    }

    /// Writes a load under the maintenance lock.
    fn load_locked(&self, files: &mut PublishedFiles, write: &SeriesWrite) -> Result<Option<SeriesReceipt>> {
        for _ in 0..ATTEMPTS {
            let state = self.wait_for_series(&write.key)?;
            let Some(series) = self.loadable(write, &state)? else { return Ok(None) };
            if series.tail().next().is_some() {
                if self.publisher.seal_with(files, &[series.id]).is_err() {
                    return Ok(None);
                }
                continue;
            }
            let first = files.manifest.contents.next_file_id;
            let mut next_file_id = first;
            let parts = match self.stage(&series, &write.rows, state.commit + 1, &mut next_file_id) {
                Ok(parts) => parts,
                Err(error) => {
                    tracing::debug!(%error, "rows are written to the WAL, because they could not be written directly to chunks");
                    return Ok(None);
                }
            };
            match self.commit_load(files, write, &series, parts, next_file_id) {
                Ok(None) => {}
                Ok(written) => return Ok(written),
                Err(error) => {
                    self.publisher.remove_unpublished(series.id, first);
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// The maintenance lock; `None` after [`LOCK_TIMEOUT`].
    fn lock_with_timeout(&self) -> Option<MutexGuard<'_, PublishedFiles>> {
        if cfg!(feature = "schedules") {
            // Time does not pass in schedules.
            return Some(self.publisher.lock());
        }
        let started = Instant::now();
        loop {
            match self.publisher.try_lock() {
                Ok(files) => return Some(files),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if started.elapsed() > LOCK_TIMEOUT => return None,
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// The series of a write that can be a load in this state.
    fn loadable(&self, write: &SeriesWrite, state: &StoreState) -> Result<Option<Arc<SeriesState>>> {
        let rows = &write.rows;
        let Some(series) = state.get(&write.key) else { return Ok(None) };
        let (Some(first), Some(last)) = (rows.ts.first().copied(), rows.ts.last().copied()) else { return Ok(None) };
        let arrival = series.def.order == OrderRule::Arrival;
        let is_after = series.bounds.is_none_or(|(_, high)| first > high || arrival && first == high);
        let fits = match write.mode {
            WriteMode::Upsert | WriteMode::Insert => true,
            WriteMode::Append => is_after,
            WriteMode::Merge { .. } => false,
        };
        let version_matches = write.if_version.is_none_or(|expected| {
            expected.version == series.version && expected.series_id.is_none_or(|id| id == series.id)
        });
        let has_columns = || rows.check_columns(&series.def.columns).is_ok();
        if !fits
            || !version_matches
            || !self.can_be_load(write)
            || !has_columns()
            || !is_in_order(series, &rows.ts)
            || has_texts(series)
        {
            return Ok(None);
        }
        let partitions = spans(series, &rows.ts).count() as u64;
        let rows_min = (self.tail_rows_max / PARTITION_ROWS_DIVISOR).max(1);
        let is_scattered = partitions.saturating_mul(rows_min) > rows.ts.len() as u64;
        if is_scattered || self.chunk_spans(series, &rows.ts).count() as u64 > CHUNKS_MAX {
            return Ok(None);
        }
        let free = is_after || series.merge(&self.reads.cache, (first, last), false).next_piece()?.is_none();
        Ok(free.then(|| Arc::clone(series)))
    }

    /// Writes the chunks of a load and their sidecars under `tmp/`, synced.
    fn stage(&self, series: &SeriesState, rows: &Rows, commit: u64, next_file_id: &mut u64) -> Result<Vec<LoadChunk>> {
        let dir = series_dir(&self.root, series.id);
        disk::create_dir(&dir)?;
        let first = rows.ts.first().copied().into_iter().chain(series.bounds.map(|(first, _)| first)).min();
        let grid = Grid::of(&series.def, first).ok();
        let mut parts = Vec::new();
        for (partition, range) in self.chunk_spans(series, &rows.ts) {
            let path = loop {
                // A file of this name can exist from an edit that was never published.
                let path = dir.join(chunk_name(&partition, *next_file_id));
                if !path.found()? {
                    break path;
                }
                *next_file_id += 1;
            };
            let head = ChunkHead {
                series_id: series.id,
                chunk_id: *next_file_id,
                partition,
                series: &series.def,
                commit_lo: commit,
                commit_hi: commit,
                replaces: Vec::new(),
                slice: SliceNumber::ONLY,
                dictionaries: &series.dictionaries,
            };
            *next_file_id += 1;
            parts.push(self.stage_part(path, head, rows, range, grid)?);
        }
        for part in &mut parts {
            part.chunk.as_mut().map_or(Ok(()), StagedFile::sync)?;
            part.stage_sidecars(&self.root.join("tmp"))?;
        }
        Ok(parts)
    }

    /// The chunks for ascending timestamps: name of the partition, and positions of the timestamps inside.
    fn chunk_spans<'a>(
        &self,
        series: &'a SeriesState,
        ts: &'a [i64],
    ) -> impl Iterator<Item = (String, std::ops::Range<usize>)> + use<'a> {
        let rows_max = self.publisher.stager.rows_max(&series.def);
        spans(series, ts).flat_map(move |(partition, range)| {
            ranges_of_rows(ts, range, rows_max).into_iter().map(move |range| (partition.clone(), range))
        })
    }

    fn stage_part(
        &self,
        path: DiskPath,
        head: ChunkHead<'_>,
        rows: &Rows,
        range: std::ops::Range<usize>,
        grid: Option<Grid>,
    ) -> Result<LoadChunk> {
        let full = block_rows(head.series.all_layouts());
        let coverage = grid.map(|grid| Coverage::new(head.chunk_id, grid));
        let mut chunk = StagedFile::create(&self.root.join("tmp"))?;
        let staged = chunk.path().clone();
        let fail = |error: std::io::Error| Error::io("write", &staged, &error);
        let out = BufWriter::with_capacity(1 << 16, &mut chunk);
        let mut blocks = ChunkBuilder::new(out, head, coverage).map_err(fail)?;
        for lo in range.clone().step_by(full) {
            let block = lo..range.end.min(lo + full);
            let columns: Vec<CellSlice<'_>> =
                rows.slices().iter().map(|column| column.slice(block.start, block.len())).collect();
            blocks.write(&columns).map_err(fail)?;
        }
        let (out, summary, zones, mut coverage) = blocks.finish().map_err(fail)?;
        out.into_inner().map_err(|error| fail(error.into_error()))?;
        // The disk has work while the next chunk is made.
        chunk.begin_sync();
        if let Some(coverage) = &mut coverage {
            coverage.optimize();
        }
        Ok(LoadChunk { chunk: Some(chunk), path, summary, zones, coverage, sidecars: Vec::new() })
    }

    /// Commits the staged chunks; `None` when the series changed since.
    fn commit_load(
        &self,
        files: &mut PublishedFiles,
        write: &SeriesWrite,
        seen: &SeriesState,
        parts: Vec<LoadChunk>,
        next_file_id: u64,
    ) -> Result<Option<SeriesReceipt>> {
        let (mut written, mut late, mut added) = (None, Vec::new(), Vec::new());
        let committed = self.wal.queue.commit_outside_log(
            seen.id,
            |before| {
                let same = |series: &&Arc<SeriesState>| {
                    let tail = series.tail().next().is_some();
                    (series.id, series.version) == (seen.id, seen.version) && !tail
                };
                let Some(series) = before.get(&write.key).filter(same) else { return Ok(None) };
                let commit = before.commit + 1;
                let mut numbered = Vec::with_capacity(parts.len());
                for part in parts {
                    if part.summary.meta.commit_hi == commit {
                        numbered.push((part, None));
                        continue;
                    }
                    let Some(renumbered) = renumber(&part.summary, commit)? else { return Ok(None) };
                    numbered.push((part, Some(renumbered)));
                }
                let mut state = before.clone();
                state.commit = commit;
                let mut next = series.as_ref().clone();
                next.count_rows_written(&write.rows, 0, commit, self.wal.queue.wall_ms(), &state.snapshot_commits);
                next.sealed_commit = commit;
                let record = |(part, renumbered): &(LoadChunk, Option<Renumbered>)| {
                    chunk_record(renumbered.as_ref().map_or(&part.summary, |renumbered| &renumbered.summary))
                };
                let records: Vec<ChunkRecord> = numbered.iter().map(record).collect();
                assert_publishable_chunks(series, &records, &[]);
                added.extend(records.into_iter().map(|record| Arc::new(ChunkFile::new(&self.root, record))));
                next.chunks = Arc::new(series.chunks.iter().chain(&added).cloned().collect());
                next.tombstones = Arc::new(next.needed_tombstones());
                written = Some(SeriesReceipt {
                    series_id: next.id,
                    rows_written: write.rows.len() as u64,
                    rows_replaced: 0,
                    rows_duplicate: 0,
                    rows_skipped: write.skipped,
                    version: next.version,
                    commit,
                    first_ts: write.rows.ts.first().copied(),
                    last_ts: write.rows.ts.last().copied(),
                    durable: true,
                });
                state.replace(next.clone());
                Ok(Some((state, BulkLoad { next: Arc::new(next), parts: numbered })))
            },
            |load| self.publish_load(files, load, next_file_id, &mut late),
        )?;
        if committed.is_none() {
            return Ok(None);
        }
        // Sidecars are derived, so they are written after the commit.
        for mut part in late {
            let tmp = self.root.join("tmp");
            if let Err(error) = part.stage_sidecars(&tmp).and_then(|()| part.place_sidecars()) {
                tracing::warn!(%error, "a chunk has no sidecars for now");
            }
        }
        for chunk in &added {
            self.publisher.stager.index(chunk, &seen.def);
            chunk.close();
        }
        files.uncompacted.insert(seen.id);
        Ok(written)
    }

    /// Gives the files their names and publishes the edit that commits them.
    ///
    /// Parts whose sidecars have to be rewritten are put into `late`.
    fn publish_load(
        &self,
        files: &mut PublishedFiles,
        load: BulkLoad,
        next_file_id: u64,
        late: &mut Vec<LoadChunk>,
    ) -> Result<u64> {
        let BulkLoad { next, parts } = load;
        let mut edit =
            Edit { series: vec![series_record(&next, next.sealed_commit)?], next_file_id, ..Edit::default() };
        for (mut part, renumbered) in parts {
            let mut chunk = part.chunk.take().ok_or_else(|| Error::internal("a chunk of a load is placed twice"))?;
            let is_late = renumbered.is_some();
            if let Some(renumbered) = renumbered {
                chunk.put_at(0, &renumbered.head)?;
                chunk.put_at(renumbered.tail_at, &renumbered.tail)?;
                part.summary = renumbered.summary;
            }
            let record = chunk_record(&part.summary);
            let range = next.def.partition.span_of(record.ts_min, next.def.unit);
            assert_publishable_chunk(&record, (range.start, range.end), &part.zones, part.coverage.as_ref());
            if !chunk.place(&part.path)? {
                return Err(Error::internal(format!(
                    "{} was created by another process or thread",
                    part.path.display()
                )));
            }
            edit.chunks.push(record);
            if is_late {
                late.push(part);
            } else {
                part.place_sidecars()?;
            }
        }
        disk::sync_dir(&series_dir(&self.root, next.id))?;
        series_files::tombstone_files(&self.root, &files.manifest.contents, &next, &next.tombstones, &mut edit)?;
        self.publisher.publish(files, edit)
    }
}

impl LoadChunk {
    /// Writes and syncs the sidecars, which contain the checksum of the present footer.
    fn stage_sidecars(&mut self, tmp: &DiskPath) -> Result<()> {
        let footer_crc = self.summary.footer_crc;
        self.zones.footer_crc = footer_crc;
        let mut files = vec![(self.zones.encode(), zone_map_path(&self.path))];
        if let Some(coverage) = &mut self.coverage {
            coverage.footer_crc = footer_crc;
            files.push((coverage.encode(), coverage_path(&self.path)));
        }
        self.sidecars.clear();
        for (bytes, path) in files {
            let mut staged = StagedFile::create(tmp)?;
            staged.put(&bytes)?;
            staged.sync()?;
            self.sidecars.push((staged, path));
        }
        Ok(())
    }

    /// Gives the sidecars their names. An existing file of such a name belongs to no chunk, and is replaced when a
    /// reader finds it.
    fn place_sidecars(&mut self) -> Result<()> {
        self.sidecars.drain(..).try_for_each(|(sidecar, path)| sidecar.place(&path).map(drop))
    }
}

/// The partitions that ascending timestamps touch: name, and positions of the timestamps inside.
fn spans<'a>(series: &'a SeriesState, ts: &'a [i64]) -> impl Iterator<Item = (String, std::ops::Range<usize>)> + 'a {
    let mut at = 0;
    std::iter::from_fn(move || {
        let first = ts.get(at)?;
        let span = series.def.partition.span_of(*first, series.def.unit);
        let lo = at;
        at += cells::from(ts, lo).partition_point(|ts| *ts <= span.end);
        Some((span.name, lo..at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;
    use crate::store::check::repair::{RepairOptions, repair};
    use crate::store::facade::Store;
    use crate::store::options::StoreOptions;
    use crate::store::read::precondition::ExpectedVersion;
    use crate::store::task_control::TaskControl;
    use crate::store::write::request::WriteOutcome;
    use crate::types::SeriesSpec;

    const MINUTE: i64 = 60_000;
    const DAY: i64 = 1_440;

    fn options() -> StoreOptions {
        StoreOptions {
            tail_rows_max: 100,
            wal_segment_bytes: 64 << 10,
            background_maintenance: false,
            ..StoreOptions::default()
        }
    }

    fn key(symbol: &str) -> SeriesKey {
        SeriesKey::scalar("metric", symbol, "1m", "x").unwrap()
    }

    fn store(root: &std::path::Path) -> Store {
        let store = Store::open(root, true, options()).unwrap();
        for symbol in ["A", "B"] {
            let mut spec = SeriesSpec::of_key(&key(symbol));
            spec.partition = Some("day".into());
            store.register(spec.resolve().unwrap()).unwrap();
        }
        store
    }

    /// Rows of these minutes, each with its minute plus `add` as value.
    fn minutes(range: std::ops::Range<i64>, add: i64) -> Rows {
        let ts: Vec<i64> = range.clone().map(|minute| minute * MINUTE).collect();
        {
            let columns = vec![range.map(|minute| minute + add).collect()];
            Rows::of_words(ts, columns)
        }
    }

    fn upsert(store: &Store, rows: Rows) -> Result<SeriesReceipt> {
        store.write(&key("A"), rows, WriteMode::Upsert, None)
    }

    fn read(store: &Store, state: &StoreState) -> Vec<(i64, i64)> {
        let series = state.get(&key("A")).unwrap();
        let mut rows = Vec::new();
        let mut merge = series.merge(store.cache(), (i64::MIN, i64::MAX), false);
        while let Some(piece) = merge.next_piece().unwrap() {
            let words = |column: usize| piece.block().words(column).iter().copied();
            rows.extend(words(0).map(|ts| ts / MINUTE).zip(words(1)));
        }
        rows
    }

    fn expected(parts: &[(std::ops::Range<i64>, i64)]) -> Vec<(i64, i64)> {
        parts.iter().flat_map(|(range, add)| range.clone().map(move |minute| (minute, minute + add))).collect()
    }

    /// Rows of the series that the log or a run file has, and how many chunks it has.
    fn counts(store: &Store) -> (u64, usize) {
        let state = store.snapshot();
        let series = state.get(&key("A")).unwrap();
        (series.tail_rows(), series.chunks.len())
    }

    #[test]
    fn a_load_is_in_chunks_when_it_is_acknowledged_and_stays_there() {
        let dir = tempfile::tempdir().unwrap();
        let opened = store(dir.path());
        let (_, before) = opened.log_bytes();
        let written = upsert(&opened, minutes(-200..DAY + 300, 0)).unwrap();
        assert_eq!((written.rows_written, written.version, written.commit), (DAY.unsigned_abs() + 500, 2, 3));
        assert!(written.durable);
        assert_eq!((counts(&opened), opened.log_bytes().1), ((0, 3), before), "nothing of it is in the log");
        let next = upsert(&opened, minutes(DAY + 300..DAY + 302, 7)).unwrap();
        assert_eq!((next.version, next.commit), (3, 4));
        let expected_rows = expected(&[(-200..DAY + 300, 0), (DAY + 300..DAY + 302, 7)]);
        for _ in 0..2 {
            assert_eq!(read(&opened, &opened.snapshot()), expected_rows);
        }
        drop(opened);
        let opened = Store::open(dir.path(), false, options()).unwrap();
        assert_eq!(read(&opened, &opened.snapshot()), expected_rows);
        assert_eq!((opened.snapshot().commit, counts(&opened)), (4, (2, 3)));
        let found = opened.verify(&TaskControl::default()).unwrap();
        assert!(found.findings.is_empty(), "{:?}", found.findings);
    }

    #[test]
    fn older_rows_and_deletes_leave_the_log_before_a_load() {
        let dir = tempfile::tempdir().unwrap();
        let opened = store(dir.path());
        upsert(&opened, minutes(0..500, 0)).unwrap();
        upsert(&opened, minutes(600..650, 1)).unwrap();
        opened.delete_range(&key("A"), (100 * MINUTE, 199 * MINUTE), None).unwrap();
        opened.write(&key("B"), minutes(0..5, 0), WriteMode::Upsert, None).unwrap();
        upsert(&opened, minutes(1_000..1_400, 2)).unwrap();
        // The deleted range has no rows.
        upsert(&opened, minutes(100..200, 3)).unwrap();
        assert_eq!(counts(&opened).0, 0);
        let expected_rows = expected(&[(0..100, 0), (100..200, 3), (200..500, 0), (600..650, 1), (1_000..1_400, 2)]);
        assert_eq!(read(&opened, &opened.snapshot()), expected_rows);
        drop(opened);
        let opened = Store::open(dir.path(), false, options()).unwrap();
        assert_eq!(read(&opened, &opened.snapshot()), expected_rows);
        opened.compact(&[], true).unwrap();
        assert_eq!((read(&opened, &opened.snapshot()), counts(&opened)), (expected_rows, (0, 1)));
    }

    #[test]
    fn a_write_that_is_not_a_load_goes_to_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let opened = store(dir.path());
        upsert(&opened, minutes(0..300, 0)).unwrap();
        let chunks = |written: Result<WriteOutcome>| {
            written.unwrap();
            let counts = counts(&opened);
            opened.seal(&[]).unwrap();
            counts
        };
        let write = |rows, mode| SeriesWrite::new(key("A"), rows, mode);
        let mut turned = minutes(1_000..1_200, 0);
        turned.ts.reverse();
        assert_eq!(chunks(opened.write_many(vec![write(turned, WriteMode::Upsert)], None)).0, 200, "not in order");
        let short = write(minutes(2_000..2_099, 0), WriteMode::Append);
        assert_eq!(chunks(opened.write_many(vec![short], None)).0, 99, "too few");
        let over = write(minutes(2_098..2_298, 1), WriteMode::Upsert);
        assert_eq!(chunks(opened.write_many(vec![over], None)).0, 200, "over a stored row");
        let once = write(minutes(3_000..3_200, 0), WriteMode::Upsert);
        assert_eq!(chunks(opened.write_many(vec![once], Some("k"))).0, 200, "under an idempotency key");
        let merged = write(minutes(4_000..4_200, 0), WriteMode::Merge { first: None });
        assert_eq!(chunks(opened.write_many(vec![merged], None)).0, 200, "merged");
        let both = vec![
            write(minutes(5_000..5_200, 0), WriteMode::Upsert),
            SeriesWrite::new(key("B"), minutes(0..200, 0), WriteMode::Upsert),
        ];
        assert_eq!(chunks(opened.write_many(both, None)).0, 200, "two series");
        let sparse = Rows::of_words((6..106).map(|day| day * DAY * MINUTE).collect(), vec![vec![1; 100]]);
        assert_eq!(chunks(opened.write_many(vec![write(sparse, WriteMode::Insert)], None)), (0, 107), "a row a day");
        let sparser = Rows::of_words((206..406).map(|day| day * DAY * MINUTE).collect(), vec![vec![1; 200]]);
        assert_eq!(chunks(opened.write_many(vec![write(sparser, WriteMode::Insert)], None)).0, 200, "too many chunks");

        let insert = opened.write(&key("A"), minutes(200..400, 9), WriteMode::Insert, None).unwrap_err();
        assert_eq!(insert.code(), ErrorCode::RowsExist);
        let append = opened.write(&key("A"), minutes(8_000..8_200, 9), WriteMode::Append, None).unwrap_err();
        assert_eq!(append.code(), ErrorCode::OutOfOrder);
        let version = Some(ExpectedVersion { series_id: None, version: 1 });
        let late = opened.write(&key("A"), minutes(900_000..900_200, 9), WriteMode::Upsert, version).unwrap_err();
        assert_eq!(late.code(), ErrorCode::CommitConflict);
        assert_eq!(counts(&opened).0, 0);
    }

    #[test]
    fn a_load_takes_the_number_of_its_turn_and_is_not_in_a_snapshot_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let opened = store(dir.path());
        upsert(&opened, minutes(0..100, 0)).unwrap();
        let (writes, publisher) = (&opened.engine.writes, &opened.engine.publisher);
        let state = opened.snapshot();
        let series = state.get(&key("A")).unwrap();
        let rows = minutes(DAY - 200..DAY + 200, 0);
        let write = SeriesWrite::new(key("A"), rows, WriteMode::Upsert);
        let mut files = publisher.lock();
        let mut next_file_id = files.manifest.contents.next_file_id;
        let parts = writes.stage(series, &write.rows, state.commit + 1, &mut next_file_id).unwrap();
        // From one digit to two, in what the head and the footer say.
        for n in 0..7 {
            opened.create_snapshot(&format!("s{n}")).unwrap();
            opened.write(&key("B"), minutes(n..n + 1, 0), WriteMode::Upsert, None).unwrap();
        }
        opened.create_snapshot("then").unwrap();
        let written =
            writes.commit_load(&mut files, &write, series, parts, next_file_id).unwrap().expect("the head is as long");
        drop(files);
        assert_eq!((state.commit, written.commit), (3, 19));
        let then = opened.as_of("then").unwrap();
        assert_eq!(read(&opened, &then), expected(&[(0..100, 0)]));
        assert_eq!(read(&opened, &opened.snapshot()).len(), 500);
        drop(opened);
        let opened = Store::open(dir.path(), false, options()).unwrap();
        let then = opened.as_of("then").unwrap();
        assert_eq!(read(&opened, &then), expected(&[(0..100, 0)]));
        assert_eq!(read(&opened, &opened.snapshot()).len(), 500);
        let found = opened.verify(&TaskControl::default()).unwrap();
        assert!(found.findings.is_empty(), "{:?}", found.findings);
    }

    #[test]
    fn a_load_whose_series_was_changed_meanwhile_is_not_committed() {
        let dir = tempfile::tempdir().unwrap();
        let opened = store(dir.path());
        let state = opened.snapshot();
        let series = state.get(&key("A")).unwrap();
        let write = SeriesWrite::new(key("A"), minutes(0..200, 0), WriteMode::Upsert);
        let staged = || disk::list(&opened.engine.root.join("tmp")).unwrap();
        let before = staged();
        let mut files = opened.engine.publisher.lock();
        let mut next = files.manifest.contents.next_file_id;
        let parts = opened.engine.writes.stage(series, &write.rows, state.commit + 1, &mut next).unwrap();
        assert!(staged().len() > before.len());
        upsert(&opened, minutes(5..6, 7)).unwrap();
        assert!(opened.engine.writes.commit_load(&mut files, &write, series, parts, next).unwrap().is_none());
        drop(files);
        assert_eq!(read(&opened, &opened.snapshot()), [(5, 12)]);
        assert_eq!((staged(), counts(&opened)), (before, (1, 0)));
    }

    #[test]
    fn commit_numbers_continue_after_loads_when_the_manifest_is_rebuilt() {
        let dir = tempfile::tempdir().unwrap();
        let opened = store(dir.path());
        for part in 0..5 {
            upsert(&opened, minutes(part * 200..part * 200 + 150, 0)).unwrap();
        }
        drop(opened);
        let options_of = RepairOptions { apply: true, rebuild_manifest: true };
        repair(&DiskPath::os(dir.path()), options_of).unwrap();
        let opened = Store::open(dir.path(), false, options()).unwrap();
        assert_eq!(opened.snapshot().commit, 7);
        assert_eq!(upsert(&opened, minutes(810..815, 9)).unwrap().commit, 8);
        opened.delete_range(&key("A"), (820 * MINUTE, 829 * MINUTE), None).unwrap();
        let parts =
            [(0..150, 0), (200..350, 0), (400..550, 0), (600..750, 0), (800..810, 0), (810..815, 9), (815..820, 0)];
        let expected_rows = [expected(&parts), expected(&[(830..950, 0)])].concat();
        assert_eq!(read(&opened, &opened.snapshot()), expected_rows);
        opened.compact(&[], true).unwrap();
        assert_eq!(read(&opened, &opened.snapshot()), expected_rows);
    }

    #[test]
    fn a_checkpoint_after_loads_only_counts_them() {
        let dir = tempfile::tempdir().unwrap();
        let opened = store(dir.path());
        opened.checkpoint().unwrap();
        upsert(&opened, minutes(0..200, 0)).unwrap();
        opened.checkpoint().unwrap();
        assert_eq!(opened.engine.publisher.lock().manifest.contents.base_commit, opened.snapshot().commit);
    }

    #[test]
    fn concurrent_loads_and_writes_are_all_stored() {
        let dir = tempfile::tempdir().unwrap();
        let opened = store(dir.path());
        std::thread::scope(|scope| {
            let opened = &opened;
            scope.spawn(move || {
                for part in 0..20 {
                    upsert(opened, minutes(part * 150..part * 150 + 150, 0)).unwrap();
                    upsert(opened, minutes(part * 150..part * 150 + 3, 1)).unwrap();
                }
            });
            scope.spawn(move || {
                for n in 0..300 {
                    opened.write(&key("B"), minutes(n..n + 1, 0), WriteMode::Append, None).unwrap();
                }
            });
            scope.spawn(move || {
                for _ in 0..20 {
                    opened.checkpoint().unwrap();
                    opened.compact(&[], false).unwrap();
                }
            });
        });
        let expected_rows: Vec<(i64, i64)> =
            (0..3_000).map(|minute| (minute, minute + i64::from(minute % 150 < 3))).collect();
        let commit = opened.snapshot().commit;
        assert_eq!((read(&opened, &opened.snapshot()), commit), (expected_rows.clone(), 2 + 40 + 300));
        drop(opened);
        let opened = Store::open(dir.path(), false, options()).unwrap();
        assert_eq!((read(&opened, &opened.snapshot()), opened.snapshot().commit), (expected_rows, commit));
        assert_eq!(opened.snapshot().get(&key("B")).unwrap().rows, 300);
    }
}
