//! Writing: rows of one or many series become one commit, or none.
//!
//! What can be done before the lock is done before it: hashing, sorting, reading stored rows. Under the lock only the
//! condition is checked again and, when another commit came in between, the stored rows are read again. So a merge
//! is atomic among any number of writers, and of two retries under one idempotency key exactly one applies.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::datatypes::ToByteSlice;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::error::{Error, ErrorCode, Result, RowError};
use crate::format::receipt::{Receipt, SeriesReceipt};
use crate::format::wal::{Commit, LoggedChange, encode_commit};
use crate::store::facade::{IfVersion, Store, current, def_json, wall_ms};
use crate::store::read::chunk::MapCache;
use crate::store::read::state::{SeriesId, SeriesState};
use crate::store::wal::commit_queue::{CommitBatch, Durability, QueuedCommits};
use crate::types::grid::check_phase;
use crate::types::schema::{ColumnType, DECIMAL_LIMIT, MergeRule, SeriesDef};
use crate::types::{Rows, SeriesKey};

/// How long a receipt answers retries: 24 hours.
pub const RECEIPT_KEEP_MS: i64 = 86_400_000;
/// Most receipts kept at once.
pub const RECEIPTS_MAX: usize = 1_000_000;

/// How rows that exist already are treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteMode {
    /// The new row replaces the old one.
    #[default]
    Upsert,
    /// Any stored timestamp refuses the write.
    Insert,
    /// Any timestamp at or before the last stored one refuses the write.
    Append,
    /// Stored and new row become one, column by column, by the rules of the registration. Rows of the same timestamp
    /// in one write are taken one after the other.
    Merge {
        /// Rule of the first column instead of its own.
        first: Option<MergeRule>,
    },
}

/// Rows for one series.
#[derive(Clone, Debug)]
pub struct SeriesWrite {
    pub key: SeriesKey,
    /// In any order, except under `append`.
    pub rows: Rows,
    pub mode: WriteMode,
    pub if_version: IfVersion,
    /// Rows the caller left out beforehand; only carried into the reply.
    pub skipped: u64,
    /// Positions and timestamps of rows that have to be on the grid that the first stored row starts: only the turn of
    /// the write tells which row that is. Empty where there is nothing to check.
    pub phased: Vec<(u64, i64)>,
    /// Registers the series in the same commit when it is not there; one that is has to have the same rows.
    pub create: Option<Arc<SeriesDef>>,
}

impl SeriesWrite {
    pub fn new(key: SeriesKey, rows: Rows, mode: WriteMode) -> Self {
        Self { key, rows, mode, if_version: None, skipped: 0, phased: Vec::new(), create: None }
    }
}

/// What a write of several series did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteOutcome {
    /// One entry a series, in the order of the write.
    pub written: Vec<SeriesReceipt>,
    /// The commit, or that of the store when there was nothing to write.
    pub commit: u64,
    /// The idempotency key was used before: this is what its first write did, and nothing was changed now.
    pub repeated: bool,
}

/// A write that is decided but not durable yet. Others may be decided behind it before it is waited for, so that they
/// share a sync.
#[derive(Debug)]
#[must_use = "it is not durable before it is finished"]
pub struct DecidedWrite {
    outcome: WriteOutcome,
    decided: Arc<CommitBatch>,
    /// Series whose tail is long enough for a chunk.
    due: Vec<SeriesId>,
}

impl DecidedWrite {
    /// What the write will have done once it is durable.
    pub fn outcome(&self) -> &WriteOutcome {
        &self.outcome
    }
}

/// What was found out before the lock, good as long as the series is still at this version.
struct PreparedWrite {
    seen: Option<Arc<SeriesState>>,
    found: StoredRows,
    duplicates: u64,
}

/// Stored rows the write is about.
enum StoredRows {
    Unknown,
    Count(u64),
    /// Cells of every row of the write that is stored.
    Rows(Vec<Option<Vec<i64>>>),
}

impl Store {
    /// Writes rows of one series as one commit: all of them, or none. Returns when they are durable under the
    /// configured mode and visible to every reader.
    ///
    /// # Errors
    /// `series_not_found`, `schema_mismatch`, `rows_exist`, `out_of_order`, `invalid_rows` for a repeated timestamp
    /// under `insert` or `append`, a sum out of range under `merge` and a row off the grid, `commit_conflict`,
    /// `writer_stopped`, `storage_full`.
    pub fn write(&self, key: &SeriesKey, rows: Rows, mode: WriteMode, if_version: IfVersion) -> Result<SeriesReceipt> {
        let write = SeriesWrite { if_version, ..SeriesWrite::new(key.clone(), rows, mode) };
        let outcome = self.write_many(vec![write], None)?;
        outcome.written.first().copied().ok_or_else(|| Error::internal("a write without a result"))
    }

    /// Writes rows of many series as one commit with one sync: all of them, or none.
    ///
    /// Under an idempotency key a repeat within 24 hours, also after a restart, is answered as the first time and
    /// changes nothing.
    ///
    /// # Errors
    /// Those of [`Store::write`], each naming its series; `invalid_argument` for a series named twice;
    /// `idempotency_mismatch` when the key was used for something else; `overloaded` when a million keys are kept.
    pub fn write_many(&self, writes: Vec<SeriesWrite>, idempotency_key: Option<&str>) -> Result<WriteOutcome> {
        self.finish_write(self.begin_write(writes, idempotency_key)?)
    }

    /// Decides a write as [`Store::write_many`] does and does not wait for it. Nothing of it is acknowledged or visible
    /// before [`Store::finish_write`]; writes become durable in the order in which they were begun.
    ///
    /// # Errors
    /// Those of [`Store::write_many`].
    pub fn begin_write(&self, mut writes: Vec<SeriesWrite>, idempotency_key: Option<&str>) -> Result<DecidedWrite> {
        let mut named = HashSet::with_capacity(writes.len());
        if let Some(twice) = writes.iter().find(|write| !named.insert(&write.key)) {
            return Err(Error::invalid(format!("series {} stands twice in one write", twice.key))
                .with_hint("put all its rows into one entry"));
        }
        let once = idempotency_key.map(|key| (xxh3_128(key.as_bytes()), fingerprint(&writes)));
        let queue = &self.inner.queue;
        if let Some(once) = once {
            let known = answered(&queue.lock(), once)?;
            if let Some(known) = known {
                return Ok(known);
            }
        }
        // Under a key the receipt has to be as durable as the rows: that is the log's work.
        if let (None, [write]) = (once, writes.as_slice())
            && self.inner.can_be_load(write)
            && let Some(written) = self.inner.load(write)?
        {
            let outcome = WriteOutcome { commit: written.commit, written: vec![written], repeated: false };
            return Ok(DecidedWrite { outcome, decided: Arc::new(CommitBatch::done()), due: Vec::new() });
        }
        let before = self.snapshot();
        let mut prepared = Vec::with_capacity(writes.len());
        for write in &mut writes {
            prepared.push(prepare(write, before.get(&write.key), &self.inner.cache)?);
        }

        let mut pending = queue.lock_to_read(writes.iter().map(|write| &write.key));
        if let Some(once) = once
            && let Some(known) = answered(&pending, once)?
        {
            return Ok(known);
        }
        pending.check_writable()?;
        let mut state = pending.state.as_ref().clone();
        let commit = state.commit + 1;
        let wall_ms = wall_ms();
        let durable = self.inner.options.durability == Durability::Sync;
        let mut outcome = WriteOutcome { written: Vec::new(), commit: state.commit, repeated: false };
        let mut operations = Vec::with_capacity(writes.len());
        let mut touched = Vec::with_capacity(writes.len());
        for (mut write, prepared) in writes.into_iter().zip(prepared) {
            let registers = match write.create.take() {
                None => false,
                Some(def) => match state.get(&write.key) {
                    Some(known) => known.def.check_same_rows_as(&def).map(|()| false)?,
                    None => {
                        let series_id = self.inner.next_series_id.fetch_add(1, Ordering::Relaxed);
                        operations.push(LoggedChange::Register { series_id, def: def_json(&def)? });
                        state.put(SeriesState::new(series_id, def, commit));
                        true
                    }
                },
            };
            let series = match prepared.seen.as_ref().filter(|seen| write.if_version.is_none() && state.has(seen)) {
                Some(unchanged) => Arc::clone(unchanged),
                None => current(&state, &write.key, write.if_version)?,
            };
            let duplicates = prepared.duplicates;
            let replaced = decide(&series, &mut write, prepared, &self.inner.cache)?;
            let rows = write.rows;
            let changes = !rows.is_empty();
            outcome.written.push(SeriesReceipt {
                series_id: series.id,
                rows_written: rows.len() as u64,
                rows_replaced: replaced,
                rows_duplicate: duplicates,
                rows_skipped: write.skipped,
                version: series.version + u64::from(changes),
                commit: if changes || registers { commit } else { state.commit },
                first_ts: rows.ts.first().copied(),
                last_ts: rows.ts.last().copied(),
                durable,
            });
            if changes {
                operations.push(LoggedChange::Write { series_id: series.id, replaced, rows });
                touched.push(series);
            }
        }
        if operations.is_empty() {
            return Ok(DecidedWrite { outcome, decided: pending.decided()?, due: Vec::new() });
        }
        outcome.commit = commit;
        state.commit = commit;
        let receipt = match once {
            None => None,
            // A registration alone can be repeated without one.
            Some(_) if touched.is_empty() => None,
            Some(_) if state.receipts.len() >= RECEIPTS_MAX => {
                return Err(Error::new(
                    ErrorCode::Overloaded,
                    format!("{RECEIPTS_MAX} idempotency keys of the last 24 hours are kept already"),
                )
                .with_hint("put more rows under one key"));
            }
            Some((key, fingerprint)) => Some(Receipt { key, fingerprint, wall_ms, written: outcome.written.clone() }),
        };
        if let Some(receipt) = &receipt {
            state.receipts.insert(receipt.key, Arc::new(receipt.clone()));
        }
        let frame = Commit { receipt, wall_ms, operations };
        let payload = encode_commit(&frame);
        let mut due = Vec::new();
        let mut touched = touched.into_iter();
        for operation in frame.operations {
            if let LoggedChange::Write { replaced, rows, .. } = operation
                && let Some(series) = touched.next()
            {
                let next = series.with_rows(rows, replaced, commit, wall_ms, &state.fences);
                if next.tail_rows() >= self.inner.options.tail_rows_max {
                    due.push(next.id);
                }
                state.replace(next);
            }
        }
        let decided = queue.enqueue(&mut pending, state, payload)?;
        Ok(DecidedWrite { outcome, decided, due })
    }

    /// Waits until a write is durable under the configured mode and visible to every reader.
    ///
    /// # Errors
    /// `writer_stopped`, `storage_full`: then nothing of it was written.
    pub fn finish_write(&self, writing: DecidedWrite) -> Result<WriteOutcome> {
        self.inner.queue.wait(&writing.decided)?;
        if let Some(upkeep) = &self.upkeep {
            writing.due.into_iter().for_each(|id| upkeep.seal_soon(id));
        }
        Ok(writing.outcome)
    }
}

/// The answer to a repeat: the receipt of the earlier write under this key, which may be under way and may still be
/// refused; or why the key does not fit.
fn answered(pending: &QueuedCommits, (key, fingerprint): (u128, u128)) -> Result<Option<DecidedWrite>> {
    let alive = |receipt: &&Arc<Receipt>| receipt.wall_ms.saturating_add(RECEIPT_KEEP_MS) > wall_ms();
    let Some(receipt) = pending.state.receipts.get(&key).filter(alive) else { return Ok(None) };
    if receipt.fingerprint != fingerprint {
        return Err(Error::new(ErrorCode::IdempotencyMismatch, "the idempotency key was used for another write")
            .with_hint("a retry repeats the same rows in the same mode; a new write takes a new key"));
    }
    let commit = receipt.written.iter().map(|written| written.commit).max().unwrap_or(0);
    let outcome = WriteOutcome { written: receipt.written.clone(), commit, repeated: true };
    Ok(Some(DecidedWrite { outcome, decided: pending.decided()?, due: Vec::new() }))
}

/// Hash of everything that decides what a write does.
fn fingerprint(writes: &[SeriesWrite]) -> u128 {
    let mut hash = Xxh3::new();
    for write in writes {
        hash.update(write.key.as_str().as_bytes());
        hash.update(format!("\n{:?} {} {}\n", write.mode, write.rows.len(), write.rows.columns.len()).as_bytes());
        hash.update(write.rows.ts.to_byte_slice());
        for column in &write.rows.columns {
            hash.update(column.as_slice().to_byte_slice());
        }
    }
    hash.digest128()
}

/// Sorts the rows and reads what is stored at their timestamps.
fn prepare(write: &mut SeriesWrite, series: Option<&Arc<SeriesState>>, cache: &Arc<MapCache>) -> Result<PreparedWrite> {
    let (rows, mode) = (&mut write.rows, write.mode);
    if let Some(series) = series {
        rows.check_shape(series.def.columns.len())?;
    }
    if mode == WriteMode::Append {
        check_rising(rows)?;
    }
    let duplicates = match (mode, series) {
        (WriteMode::Merge { first }, Some(series)) => fold(rows, &series.def, first)?,
        (WriteMode::Merge { .. }, None) => 0,
        _ => rows.sort_last_wins(),
    };
    if mode == WriteMode::Insert && duplicates > 0 {
        return Err(Error::new(
            ErrorCode::InvalidRows,
            format!("{}: {duplicates} rows repeat a timestamp of the same write", write.key),
        )
        .with_hint("mode=upsert keeps the last of them"));
    }
    let found = match (mode, series) {
        (WriteMode::Append, _) | (_, None) => StoredRows::Unknown,
        (WriteMode::Merge { .. }, Some(series)) => StoredRows::Rows(series.rows_at(cache, &rows.ts)?),
        (_, Some(series)) => StoredRows::Count(series.count_present(cache, &rows.ts)?),
    };
    Ok(PreparedWrite { seen: series.cloned(), found, duplicates: duplicates as u64 })
}

/// Checks the condition of the mode and tells how many rows exist; under `merge` the rows become those to store.
fn decide(
    series: &SeriesState,
    write: &mut SeriesWrite,
    prepared: PreparedWrite,
    cache: &Arc<MapCache>,
) -> Result<u64> {
    let (key, rows) = (&write.key, &mut write.rows);
    rows.check_shape(series.def.columns.len())?;
    check_phase(&series.def, series.bounds.map(|(first, _)| first), &write.phased)?;
    let fresh = prepared.seen.as_ref().is_some_and(|seen| (seen.id, seen.version) == (series.id, series.version));
    match write.mode {
        WriteMode::Append => match (rows.ts.first(), series.bounds) {
            (Some(first), Some((_, last))) if *first <= last => Err(Error::new(
                ErrorCode::OutOfOrder,
                format!("{key}: timestamp {first} does not follow the last stored one, {last}"),
            )
            .with_hint("mode=upsert accepts rows in any order")),
            _ => Ok(0),
        },
        WriteMode::Merge { first } => {
            if prepared.seen.is_none_or(|seen| seen.id != series.id) {
                fold(rows, &series.def, first)?;
            }
            let stored = match prepared.found {
                StoredRows::Rows(stored) if fresh => stored,
                _ => series.rows_at(cache, &rows.ts)?,
            };
            for (row, stored) in stored.iter().enumerate() {
                if let Some(stored) = stored {
                    combine(rows, row, stored, &series.def, first)?;
                }
            }
            Ok(stored.iter().flatten().count() as u64)
        }
        WriteMode::Upsert | WriteMode::Insert => {
            let replaced = match prepared.found {
                StoredRows::Count(count) if fresh => count,
                _ => series.count_present(cache, &rows.ts)?,
            };
            if write.mode == WriteMode::Insert && replaced > 0 {
                return Err(Error::new(
                    ErrorCode::RowsExist,
                    format!("{key}: {replaced} of {} timestamps are stored already", rows.len()),
                )
                .with_hint("mode=upsert replaces them"));
            }
            Ok(replaced)
        }
    }
}

fn rule_of(def: &SeriesDef, column: usize, first: Option<MergeRule>) -> (MergeRule, ColumnType) {
    let own = def.columns.get(column).map_or((MergeRule::Last, ColumnType::Int64), |c| (c.merge, c.kind));
    match (column, first) {
        (0, Some(rule)) => (rule, own.1),
        _ => own,
    }
}

/// Sorts by timestamp, rows of the same one folded in the order given. Returns how many were folded away.
fn fold(rows: &mut Rows, def: &SeriesDef, first: Option<MergeRule>) -> Result<usize> {
    if rows.is_ascending() {
        return Ok(0);
    }
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|row| rows.ts.get(*row).copied());
    let before = rows.len();
    let mut folded = Rows::with_capacity(rows.columns.len(), before);
    for row in order {
        let Some(ts) = rows.ts.get(row).copied() else { continue };
        let cells: Vec<i64> = rows.columns.iter().filter_map(|column| column.get(row).copied()).collect();
        if folded.ts.last() == Some(&ts) {
            let at = folded.len() - 1;
            let stored: Vec<i64> = folded.columns.iter().filter_map(|column| column.get(at).copied()).collect();
            for (column, cell) in folded.columns.iter_mut().zip(&cells) {
                if let Some(last) = column.last_mut() {
                    *last = *cell;
                }
            }
            combine(&mut folded, at, &stored, def, first)?;
        } else {
            folded.push(ts, &cells);
        }
    }
    *rows = folded;
    Ok(before - rows.len())
}

/// Merges the stored cells into a row of the write.
fn combine(rows: &mut Rows, row: usize, stored: &[i64], def: &SeriesDef, first: Option<MergeRule>) -> Result<()> {
    let ts = rows.ts.get(row).copied().unwrap_or_default();
    for (position, (column, old)) in rows.columns.iter_mut().zip(stored).enumerate() {
        let (rule, kind) = rule_of(def, position, first);
        let Some(cell) = column.get_mut(row) else { continue };
        *cell = match (rule, kind) {
            (MergeRule::Last, _) => *cell,
            (MergeRule::First, _) => *old,
            (MergeRule::Max, ColumnType::Float64) => double(f64::max(as_double(*old), as_double(*cell))),
            (MergeRule::Min, ColumnType::Float64) => double(f64::min(as_double(*old), as_double(*cell))),
            (MergeRule::Max, _) => (*cell).max(*old),
            (MergeRule::Min, _) => (*cell).min(*old),
            (MergeRule::Sum, kind) => sum(*old, *cell, kind).ok_or_else(|| sum_error(def, position, row, ts))?,
        };
    }
    Ok(())
}

fn as_double(word: i64) -> f64 {
    f64::from_bits(word.cast_unsigned())
}

fn double(value: f64) -> i64 {
    value.to_bits().cast_signed()
}

fn sum(old: i64, new: i64, kind: ColumnType) -> Option<i64> {
    match kind {
        ColumnType::Float64 => Some(as_double(old) + as_double(new)).filter(|sum| sum.is_finite()).map(double),
        ColumnType::Int64 => old.checked_add(new),
        ColumnType::Decimal { .. } => {
            old.checked_add(new).filter(|sum| sum.unsigned_abs() < DECIMAL_LIMIT.unsigned_abs())
        }
    }
}

fn sum_error(def: &SeriesDef, column: usize, row: usize, ts: i64) -> Error {
    let name = def.columns.get(column).map_or("", |column| column.name.as_str());
    let message = format!("the sum of {name} at timestamp {ts} does not fit the column");
    Error::new(ErrorCode::InvalidRows, format!("{}: {message}", def.key)).with_rows(vec![RowError {
        series: None,
        row: row as u64,
        field: name.into(),
        reason: "overflow".into(),
        message,
    }])
}

fn check_rising(rows: &Rows) -> Result<()> {
    let mut previous = None;
    for (row, ts) in rows.ts.iter().enumerate() {
        if let Some(previous) = previous
            && *ts <= previous
        {
            let (code, reason) = if *ts == previous {
                (ErrorCode::InvalidRows, "duplicate")
            } else {
                (ErrorCode::OutOfOrder, "out_of_order")
            };
            let message = format!("timestamp {ts} does not follow {previous}");
            return Err(Error::new(code, format!("row {row}: {message}"))
                .with_hint("append needs rising timestamps; mode=upsert accepts rows in any order")
                .with_rows(vec![RowError {
                    series: None,
                    row: row as u64,
                    field: "ts".into(),
                    reason: reason.into(),
                    message,
                }]));
        }
        previous = Some(*ts);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::facade::{ExpectedVersion, StoreOptions};
    use crate::types::SeriesSpec;

    fn store() -> (tempfile::TempDir, Store, SeriesKey) {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), true, StoreOptions { upkeep: false, ..StoreOptions::default() }).unwrap();
        let key = SeriesKey::kline("BTC", "1m").unwrap();
        let mut spec = SeriesSpec::of_key(&key);
        (spec.price_digits, spec.volume_digits) = (Some(2), Some(0));
        store.register(spec.resolve().unwrap()).unwrap();
        (root, store, key)
    }

    fn rows(ts: i64) -> Rows {
        Rows { ts: vec![ts * 60_000], columns: vec![vec![ts]; 5] }
    }

    /// Queues a write whose writer did not yet come to write its frame.
    fn queue_write(store: &Store, key: &SeriesKey, ts: i64, idempotency_key: &str) -> Arc<CommitBatch> {
        let queue = &store.inner.queue;
        let write = SeriesWrite::new(key.clone(), rows(ts), WriteMode::Upsert);
        let fingerprint = fingerprint(std::slice::from_ref(&write));
        let mut pending = queue.lock();
        let mut state = pending.state.as_ref().clone();
        state.commit += 1;
        let series = state.get(key).unwrap().with_rows(write.rows.clone(), 0, state.commit, 0, &state.fences);
        let written = SeriesReceipt {
            series_id: series.id,
            rows_written: 1,
            rows_replaced: 0,
            rows_duplicate: 0,
            rows_skipped: 0,
            version: series.version,
            commit: state.commit,
            first_ts: None,
            last_ts: None,
            durable: true,
        };
        let key = xxh3_128(idempotency_key.as_bytes());
        let receipt = Receipt { key, fingerprint, wall_ms: wall_ms(), written: vec![written] };
        state.receipts.insert(key, Arc::new(receipt.clone()));
        let operations = vec![LoggedChange::Write { series_id: series.id, replaced: 0, rows: write.rows }];
        state.put(series);
        let payload = encode_commit(&Commit { receipt: Some(receipt), wall_ms: 0, operations });
        queue.enqueue(&mut pending, state, payload).unwrap()
    }

    #[test]
    fn a_retry_that_saw_a_write_which_was_then_refused_is_refused_too() {
        let (_root, store, key) = store();
        let first = queue_write(&store, &key, 1, "once");
        let write = SeriesWrite::new(key, rows(1), WriteMode::Upsert);
        let once = (xxh3_128(b"once"), fingerprint(&[write]));
        let seen = answered(&store.inner.queue.lock(), once).unwrap().unwrap();
        store.inner.queue.fill_disk_once();
        assert_eq!(store.inner.queue.wait(&first).unwrap_err().code(), ErrorCode::StorageFull);
        assert_eq!(store.finish_write(seen).unwrap_err().code(), ErrorCode::StorageFull);
        assert!(answered(&store.inner.queue.lock(), once).unwrap().is_none());
    }

    #[test]
    fn a_log_file_that_cannot_be_created_refuses_its_write_and_the_next_one_is_taken() {
        let numbers = [(24, ErrorCode::Overloaded), (23, ErrorCode::Overloaded), (13, ErrorCode::Io)];
        for (number, code) in numbers {
            let (_root, store, key) = store();
            let refused = Error::io("create", std::path::Path::new("x"), &std::io::Error::from_raw_os_error(number));
            store.inner.queue.fail_segment_once(refused);
            assert_eq!(store.write(&key, rows(1), WriteMode::Upsert, None).unwrap_err().code(), code, "{number}");
            assert_eq!(store.writer_stopped(), None, "{number}");
            store.write(&key, rows(2), WriteMode::Upsert, None).unwrap();
            assert_eq!(store.snapshot().get(&key).unwrap().rows, 1, "{number}");
        }
        // What is not known to have changed nothing stops the writer.
        let (_root, store, key) = store();
        let failed = Error::io("sync directory", std::path::Path::new("x"), &std::io::Error::from_raw_os_error(5));
        store.inner.queue.fail_segment_once(failed);
        let stopped = store.write(&key, rows(1), WriteMode::Upsert, None).unwrap_err();
        assert_eq!(stopped.code(), ErrorCode::WriterStopped);
        assert!(store.writer_stopped().is_some());
    }

    #[test]
    fn a_write_refused_after_a_freeze_reaches_neither_chunk_nor_run_file() {
        for sealing in [true, false] {
            let (root, store, key) = store();
            let first = queue_write(&store, &key, 1, "once");
            let id = store.inner.queue.lock().state.get(&key).unwrap().id;
            let frozen = store.inner.queue.freeze(Some(&[id])).unwrap();
            store.inner.queue.fill_disk_once();
            assert_eq!(store.inner.queue.wait(&first).unwrap_err().code(), ErrorCode::StorageFull);
            let mut maintenance = store.inner.maintenance();
            let outcome = if sealing {
                let series = frozen.state.series.get(&id).unwrap();
                store.inner.seal_frozen(&mut maintenance, std::slice::from_ref(series), &frozen).map(|_| ())
            } else {
                store.inner.settle(&mut maintenance, &frozen)
            };
            drop(maintenance);
            assert_eq!(outcome.unwrap_err().code(), ErrorCode::StorageFull);
            // There is room again; the refused commit's number goes to another write, which must stay.
            store.write(&key, rows(2), WriteMode::Upsert, None).unwrap();
            drop(store);
            let store = Store::open(root.path(), false, StoreOptions::default()).unwrap();
            let state = store.snapshot();
            let series = state.get(&key).unwrap();
            assert_eq!((series.rows, series.bounds), (1, Some((120_000, 120_000))), "sealing {sealing}");
            assert_eq!(series.tail_rows(), 1);
        }
    }

    fn wanted(symbol: &str, timeframe: &str) -> Arc<SeriesDef> {
        Arc::new(SeriesSpec::of_key(&SeriesKey::kline(symbol, timeframe).unwrap()).resolve().unwrap())
    }

    /// A write of one row at each of these days that registers its series.
    fn creating(def: &Arc<SeriesDef>, mode: WriteMode, days: &[i64]) -> SeriesWrite {
        let ts: Vec<i64> = days.iter().map(|day| day * 86_400_000).collect();
        let rows = Rows { columns: vec![vec![0; ts.len()]; 5], ts };
        SeriesWrite { create: Some(Arc::clone(def)), ..SeriesWrite::new(def.key.clone(), rows, mode) }
    }

    #[test]
    fn a_write_registers_its_series_in_the_same_commit_or_not_at_all() {
        let (root, store, _) = store();
        let def = wanted("NEW", "1d");
        let before = store.snapshot().commit;
        for (mode, days, code) in
            [(WriteMode::Insert, [1, 1], ErrorCode::InvalidRows), (WriteMode::Append, [2, 1], ErrorCode::OutOfOrder)]
        {
            let refused = store.write_many(vec![creating(&def, mode, &days)], None).unwrap_err();
            assert_eq!(refused.code(), code);
        }
        let expected = Some(ExpectedVersion { series_id: None, version: 7 });
        let write = SeriesWrite { if_version: expected, ..creating(&def, WriteMode::Upsert, &[1]) };
        assert_eq!(store.write_many(vec![write], None).unwrap_err().code(), ErrorCode::CommitConflict);
        // A series of the same commit that is refused takes the registration with it.
        let other = SeriesWrite::new(SeriesKey::kline("NONE", "1d").unwrap(), Rows::default(), WriteMode::Upsert);
        let writes = vec![creating(&def, WriteMode::Upsert, &[1]), other];
        assert_eq!(store.write_many(writes, None).unwrap_err().code(), ErrorCode::SeriesNotFound);
        assert!(store.snapshot().get(&def.key).is_none());
        assert_eq!(store.snapshot().commit, before);

        let outcome = store.write_many(vec![creating(&def, WriteMode::Upsert, &[1, 2])], Some("once")).unwrap();
        assert_eq!(
            (outcome.commit, outcome.written[0].commit, outcome.written[0].version),
            (before + 1, before + 1, 2)
        );
        let again = store.write_many(vec![creating(&def, WriteMode::Upsert, &[1, 2])], Some("once")).unwrap();
        assert!(again.repeated);
        let another = Arc::new(SeriesDef { interval_ms: Some(1), ..def.as_ref().clone() });
        let refused = store.write_many(vec![creating(&another, WriteMode::Upsert, &[3])], None).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::SeriesExists);
        // The registration of a stream without rows is no use of its key.
        let empty = wanted("EMPTY", "1d");
        for _ in 0..2 {
            store.write_many(vec![creating(&empty, WriteMode::Upsert, &[])], Some("empty")).unwrap();
        }
        store.write_many(vec![creating(&empty, WriteMode::Upsert, &[5])], Some("empty")).unwrap();
        drop(store);
        let store = Store::open(root.path(), false, StoreOptions::default()).unwrap();
        let state = store.snapshot();
        let found = |def: &Arc<SeriesDef>| state.get(&def.key).map(|series| (series.rows, series.version)).unwrap();
        assert_eq!((found(&def), found(&empty)), ((2, 2), (1, 2)));
        assert_eq!(state.get(&def.key).unwrap().created_commit, before + 1);
    }

    #[test]
    fn of_writers_that_register_the_same_series_at_once_one_does_and_all_write() {
        let (_root, store, _) = store();
        let def = wanted("NEW", "1d");
        let ids: HashSet<u64> = std::thread::scope(|scope| {
            let (store, def) = (&store, &def);
            let writers: Vec<_> = (0..8)
                .map(|day| {
                    scope.spawn(move || store.write_many(vec![creating(def, WriteMode::Insert, &[day])], None).unwrap())
                })
                .collect();
            writers.into_iter().map(|writer| writer.join().unwrap().written[0].series_id).collect()
        });
        assert_eq!(ids.len(), 1);
        let state = store.snapshot();
        assert_eq!((state.get(&def.key).unwrap().rows, state.get(&def.key).unwrap().version), (8, 9));
    }

    #[test]
    fn the_phase_of_a_grid_is_checked_against_the_row_that_is_first_in_turn() {
        let (_root, store, _) = store();
        let def = wanted("NEW", "3d");
        let phased = |days: &[i64]| {
            let write = creating(&def, WriteMode::Upsert, days);
            SeriesWrite { phased: (0..).zip(write.rows.ts.iter().copied()).collect(), ..write }
        };
        // Both were read when the series was empty.
        let (first, second) = (phased(&[1, 4]), phased(&[2, 5, 7]));
        store.write_many(vec![first], None).unwrap();
        let refused = store.write_many(vec![second], None).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::InvalidRows);
        let rows: Vec<(u64, &str)> = refused.rows().iter().map(|row| (row.row, row.reason.as_str())).collect();
        assert_eq!(rows, [(0, "off_grid"), (1, "off_grid")]);
        store.write_many(vec![phased(&[-2])], None).unwrap();
        store.delete_range(&def.key, (i64::MIN, i64::MAX), None).unwrap();
        store.write_many(vec![phased(&[2, 5])], None).unwrap();
    }

    #[test]
    fn a_delete_reads_its_range_before_it_takes_the_lock() {
        let (_root, store, key) = store();
        store.write(&key, rows(1), WriteMode::Upsert, None).unwrap();
        store.write(&key, rows(3), WriteMode::Upsert, None).unwrap();
        store.seal(&[]).unwrap();
        let chunk = Arc::clone(&store.snapshot().get(&key).unwrap().chunks[0]);
        assert!(chunk.opened().is_none());
        std::thread::scope(|scope| {
            let pending = store.inner.queue.lock();
            let deleting = scope.spawn(|| store.delete_range(&key, (i64::MIN, 60_000), None).unwrap());
            let begun = std::time::Instant::now();
            while chunk.opened().is_none() && begun.elapsed().as_secs() < 20 {
                std::thread::yield_now();
            }
            assert!(chunk.opened().is_some(), "nothing was read while the lock was held");
            drop(pending);
            assert_eq!(deleting.join().unwrap().rows_deleted, 1);
        });
        assert_eq!(store.snapshot().get(&key).unwrap().bounds, Some((180_000, 180_000)));
    }

    #[test]
    fn retention_that_was_changed_in_between_takes_nothing() {
        use crate::types::schema::Retention;
        let (_root, store, key) = store();
        for ts in 0..20 {
            store.write(&key, rows(ts), WriteMode::Upsert, None).unwrap();
        }
        let set = |max_rows| {
            let retention = Some(Retention { max_rows: Some(max_rows), max_age: None });
            store
                .change_series(&key, None, |def| {
                    def.retention = retention;
                    Ok(())
                })
                .unwrap()
        };
        let before = set(5);
        set(15);
        assert_eq!(store.inner.retain_series(&before, true).unwrap_err().code(), ErrorCode::CommitConflict);
        assert_eq!(store.snapshot().get(&key).unwrap().rows, 20);
        assert_eq!(store.apply_retention(&[]).unwrap()[0].1.rows_deleted, 5);
    }

    #[test]
    fn views_of_few_snapshots_are_held_however_many_are_asked_for() {
        let (_root, store, key) = store();
        for number in 0..40 {
            store.create_snapshot(&format!("s{number}")).unwrap();
            store.write(&key, rows(number), WriteMode::Upsert, None).unwrap();
        }
        for number in (0..40).chain(0..40) {
            let view = store.as_of(&format!("s{number}")).unwrap();
            assert_eq!(view.get(&key).unwrap().rows, u64::try_from(number).unwrap());
        }
        assert_eq!(store.inner.views.len(), 16);
    }
}
