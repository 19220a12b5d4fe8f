//! Writing: rows of one or many series become one commit, or none.
//!
//! What can be done before the lock is done before it: hashing, sorting, reading stored rows. Under the lock only the
//! condition is checked again and, when another commit came in between, the stored rows are read again. So a merge
//! is atomic among any number of writers, and of two retries under one idempotency key exactly one applies.

use std::collections::HashSet;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

use crate::error::{Error, ErrorCode, Result};
use crate::format::receipt::{Receipt, SeriesReceipt};
use crate::format::wal::{Commit, LoggedChange, encode_commit};
use crate::store::options::Durability;
use crate::store::read::precondition::current;
use crate::store::read::series_state::{SeriesId, SeriesState};
use crate::store::registration::def_json;
use crate::store::wal::commit_queue::CommitBatch;
use crate::store::write::adopt_texts::{AdoptedTexts, adopt_texts};
use crate::store::write::idempotency::{RECEIPTS_MAX, find_receipt, fingerprint};
use crate::store::write::prepare::{decide, prepare};
use crate::store::write::request::{DecidedWrite, SeriesWrite, WriteOutcome};
use crate::store::write::writes::Writes;

impl Writes {
    /// Decides a write as [`Store::write_many`] does and does not wait for it. Nothing of it is acknowledged or visible
    /// before [`Store::finish_write`]; writes become durable in the order in which they were decided.
    ///
    /// # Errors
    /// Those of [`Store::write_many`].
    pub fn begin_write(&self, mut writes: Vec<SeriesWrite>, idempotency_key: Option<&str>) -> Result<DecidedWrite> {
        let mut named = HashSet::with_capacity(writes.len());
        if let Some(twice) = writes.iter().find(|write| !named.insert(&write.key)) {
            return Err(Error::invalid(format!("series {} is listed twice in one write", twice.key))
                .with_hint("combine its rows in one entry"));
        }
        let once = idempotency_key.map(|key| (xxh3_128(key.as_bytes()), fingerprint(&writes)));
        let queue = &self.wal.queue;
        if let Some(once) = once {
            let known = find_receipt(&queue.lock(), queue.wall_ms(), once)?;
            if let Some(known) = known {
                return Ok(known);
            }
        }
        // Under a key the receipt has to be as durable as the rows: that is the log's work.
        if let (None, [write]) = (once, writes.as_slice())
            && self.can_be_load(write)
            && let Some(written) = self.load(write)?
        {
            let outcome = WriteOutcome { commit: written.commit, written: vec![written], repeated: false };
            return Ok(DecidedWrite { outcome, decided: Arc::new(CommitBatch::done()), due: Vec::new() });
        }
        let before = self.wal.queue.published();
        let mut prepared = Vec::with_capacity(writes.len());
        for write in &mut writes {
            prepared.push(prepare(write, before.get(&write.key), &self.reads.cache)?);
        }

        let mut pending = queue.lock_to_read(writes.iter().map(|write| &write.key));
        if let Some(once) = once
            && let Some(known) = find_receipt(&pending, queue.wall_ms(), once)?
        {
            return Ok(known);
        }
        pending.check_writable()?;
        let mut state = pending.state.as_ref().clone();
        let commit = state.commit + 1;
        let wall_ms = queue.wall_ms();
        let durable = self.wal.queue.durability() == Durability::Sync;
        let mut outcome = WriteOutcome { written: Vec::new(), commit: state.commit, repeated: false };
        let mut operations = Vec::with_capacity(writes.len());
        let mut touched = Vec::with_capacity(writes.len());
        for (mut write, prepared) in writes.into_iter().zip(prepared) {
            let registers = match write.create.take() {
                None => false,
                Some(def) => match state.get(&write.key) {
                    Some(known) => known.def.check_same_rows_as(&def).map(|()| false)?,
                    None => {
                        state.check_kind(&def)?;
                        let series_id = self.take_series_id();
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
            let replaced = decide(&series, &mut write, prepared, &self.reads.cache)?;
            let AdoptedTexts { dictionaries, added } = adopt_texts(&series, &mut write.rows)?;
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
                operations.push(LoggedChange::Write { series_id: series.id, replaced, rows, texts: added });
                touched.push((series, dictionaries));
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
                    format!("{RECEIPTS_MAX} idempotency keys were used within the last 24 hours"),
                )
                .with_hint("write more rows under one key"));
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
                && let Some((series, dictionaries)) = touched.next()
            {
                let mut next = series.with_rows(rows, replaced, commit, wall_ms, &state.snapshot_commits);
                next.dictionaries = dictionaries;
                if next.tail_rows() >= self.tail_rows_max {
                    due.push(next.id);
                }
                state.replace(next);
            }
        }
        let decided = queue.enqueue(&mut pending, state, payload)?;
        Ok(DecidedWrite { outcome, decided, due })
    }

    /// Waits until a write is durable under the configured mode and visible to every reader. Returns what it did, and
    /// the series whose tail is long enough for a chunk.
    ///
    /// # Errors
    /// `writer_stopped`, `storage_full`: then nothing of it was written.
    pub fn finish_write(&self, writing: DecidedWrite) -> Result<(WriteOutcome, Vec<SeriesId>)> {
        self.wal.queue.wait(&writing.decided)?;
        Ok((writing.outcome, writing.due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::wall_ms;
    use crate::store::facade::Store;
    use crate::store::options::StoreOptions;
    use crate::store::read::precondition::ExpectedVersion;
    use crate::store::write::request::WriteMode;
    use crate::types::{Rows, SeriesDef, SeriesKey, SeriesSpec};

    fn store() -> (tempfile::TempDir, Store, SeriesKey) {
        let root = tempfile::tempdir().unwrap();
        let store =
            Store::open(root.path(), true, StoreOptions { background_maintenance: false, ..StoreOptions::default() })
                .unwrap();
        let key = SeriesKey::kline("BTC", "1m").unwrap();
        let mut spec = SeriesSpec::of_key(&key);
        (spec.price_digits, spec.volume_digits) = (Some(2), Some(0));
        store.register(spec.resolve().unwrap()).unwrap();
        (root, store, key)
    }

    fn rows(ts: i64) -> Rows {
        Rows::of_words(vec![ts * 60_000], vec![vec![ts]; 5])
    }

    /// Queues a write whose frame is not written yet.
    fn queue_write(store: &Store, key: &SeriesKey, ts: i64, idempotency_key: &str) -> Arc<CommitBatch> {
        let queue = &store.engine.wal.queue;
        let write = SeriesWrite::new(key.clone(), rows(ts), WriteMode::Upsert);
        let fingerprint = fingerprint(std::slice::from_ref(&write));
        let mut pending = queue.lock();
        let mut state = pending.state.as_ref().clone();
        state.commit += 1;
        let series = state.get(key).unwrap().with_rows(write.rows.clone(), 0, state.commit, 0, &state.snapshot_commits);
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
        let operations =
            vec![LoggedChange::Write { series_id: series.id, replaced: 0, rows: write.rows, texts: Vec::new() }];
        state.put(series);
        let payload = encode_commit(&Commit { receipt: Some(receipt), wall_ms: 0, operations });
        queue.enqueue(&mut pending, state, payload).unwrap()
    }

    #[test]
    fn a_retry_of_a_write_that_was_refused_is_refused_too() {
        let (_root, store, key) = store();
        let first = queue_write(&store, &key, 1, "once");
        let write = SeriesWrite::new(key, rows(1), WriteMode::Upsert);
        let once = (xxh3_128(b"once"), fingerprint(&[write]));
        let seen = find_receipt(&store.engine.wal.queue.lock(), wall_ms(), once).unwrap().unwrap();
        store.engine.wal.queue.fill_disk_once();
        assert_eq!(store.engine.wal.queue.wait(&first).unwrap_err().code(), ErrorCode::StorageFull);
        assert_eq!(store.finish_write(seen).unwrap_err().code(), ErrorCode::StorageFull);
        assert!(find_receipt(&store.engine.wal.queue.lock(), wall_ms(), once).unwrap().is_none());
    }

    #[test]
    fn a_log_file_that_cannot_be_created_refuses_its_write_and_the_next_write_succeeds() {
        let numbers = [(24, ErrorCode::Overloaded), (23, ErrorCode::Overloaded), (13, ErrorCode::Io)];
        for (number, code) in numbers {
            let (_root, store, key) = store();
            let refused = Error::io("create", std::path::Path::new("x"), &std::io::Error::from_raw_os_error(number));
            store.engine.wal.queue.fail_segment_once(refused);
            assert_eq!(store.write(&key, rows(1), WriteMode::Upsert, None).unwrap_err().code(), code, "{number}");
            assert_eq!(store.writer_stopped(), None, "{number}");
            store.write(&key, rows(2), WriteMode::Upsert, None).unwrap();
            assert_eq!(store.snapshot().get(&key).unwrap().rows, 1, "{number}");
        }
        // What is not known to have changed nothing stops the writer.
        let (_root, store, key) = store();
        let failed = Error::io("sync directory", std::path::Path::new("x"), &std::io::Error::from_raw_os_error(5));
        store.engine.wal.queue.fail_segment_once(failed);
        let stopped = store.write(&key, rows(1), WriteMode::Upsert, None).unwrap_err();
        assert_eq!(stopped.code(), ErrorCode::WriterStopped);
        assert!(store.writer_stopped().is_some());
    }

    #[test]
    fn a_write_refused_after_a_freeze_reaches_neither_chunk_nor_run_file() {
        for sealing in [true, false] {
            let (root, store, key) = store();
            let first = queue_write(&store, &key, 1, "once");
            let id = store.engine.wal.queue.lock().state.get(&key).unwrap().id;
            let frozen = store.engine.wal.queue.freeze(Some(&[id])).unwrap();
            store.engine.wal.queue.fill_disk_once();
            assert_eq!(store.engine.wal.queue.wait(&first).unwrap_err().code(), ErrorCode::StorageFull);
            let mut files = store.engine.publisher.lock();
            let outcome = if sealing {
                let series = frozen.state.series.get(&id).unwrap();
                store.engine.publisher.seal_frozen(&mut files, std::slice::from_ref(series), &frozen).map(|_| ())
            } else {
                store.engine.maintenance.publish_frozen(&mut files, &frozen)
            };
            drop(files);
            assert_eq!(outcome.unwrap_err().code(), ErrorCode::StorageFull);
            // There is space again; the refused commit's number goes to another write, which must stay.
            store.write(&key, rows(2), WriteMode::Upsert, None).unwrap();
            drop(store);
            let store = Store::open(root.path(), false, StoreOptions::default()).unwrap();
            let state = store.snapshot();
            let series = state.get(&key).unwrap();
            assert_eq!((series.rows, series.bounds), (1, Some((120_000, 120_000))), "sealing {sealing}");
            assert_eq!(series.tail_rows(), 1);
        }
    }

    /// The store refuses writes for this reason, readers go on, and the next process has every acknowledged row.
    fn assert_read_only(root: &tempfile::TempDir, store: Store, key: &SeriesKey, reason: &str) {
        for _ in 0..2 {
            let refused = store.write(key, rows(7), WriteMode::Upsert, None).unwrap_err();
            assert_eq!(refused.code(), ErrorCode::WriterStopped);
            assert!(refused.detail().contains(reason), "{refused}");
        }
        assert_eq!(store.checkpoint().unwrap_err().code(), ErrorCode::WriterStopped);
        assert_eq!(store.snapshot().get(key).unwrap().rows, 1);
        drop(store);
        let store = Store::open(root.path(), false, StoreOptions::default()).unwrap();
        assert_eq!(store.snapshot().get(key).unwrap().bounds, Some((60_000, 60_000)));
        store.write(key, rows(2), WriteMode::Upsert, None).unwrap();
    }

    #[test]
    fn frames_that_fail_their_check_are_not_written_and_the_store_is_read_only() {
        let (root, store, key) = store();
        store.write(&key, rows(1), WriteMode::Upsert, None).unwrap();
        let queue = &store.engine.wal.queue;
        let mut pending = queue.lock();
        let mut state = pending.state.as_ref().clone();
        state.commit -= 1;
        let batch = queue.enqueue(&mut pending, state, encode_commit(&Commit::default())).unwrap();
        drop(pending);
        // Two wait for the batch: the one that leads, and another.
        let refused = std::thread::scope(|scope| {
            let other = scope.spawn(|| queue.wait(&batch).unwrap_err());
            [queue.wait(&batch).unwrap_err(), other.join().unwrap()]
        });
        let reason = "a check of the program failed: commit 1 in lsn 3 follows commit 2";
        assert!(refused.iter().all(|refused| refused.code() == ErrorCode::WriterStopped), "{refused:?}");
        assert_read_only(&root, store, &key, reason);
    }

    #[test]
    fn an_edit_that_fails_its_check_is_not_published_and_the_store_is_read_only() {
        for background_maintenance in [false, true] {
            let (root, store, key) = store();
            store.write(&key, rows(1), WriteMode::Upsert, None).unwrap();
            drop(store);
            // With background threads every look at the log leads to a checkpoint.
            let options = StoreOptions { background_maintenance, wal_bytes_max: 0, ..StoreOptions::default() };
            let store = Store::open(root.path(), false, options).unwrap();
            let edits = || std::fs::read_dir(root.path().join("manifest")).unwrap().count();
            let (before, mut files) = (edits(), store.engine.publisher.lock());
            files.manifest.contents.base_commit = 1_000_000;
            files.manifest.contents.wal_first_lsn = 0;
            let published = edits() - before;
            drop(files);
            if background_maintenance {
                let started = std::time::Instant::now();
                while store.writer_stopped().is_none() {
                    assert!(started.elapsed().as_secs() < 60, "the background thread continues");
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
            } else {
                assert_eq!(store.checkpoint().unwrap_err().code(), ErrorCode::WriterStopped);
            }
            assert_eq!(edits(), before + published);
            assert_read_only(&root, store, &key, "base_commit 2 follows 1000000");
        }
    }

    #[test]
    fn a_panic_while_a_load_is_published_refuses_the_load_and_later_writes() {
        let (root, store, key) = store();
        store.write(&key, rows(1), WriteMode::Upsert, None).unwrap();
        let id = store.snapshot().get(&key).unwrap().id;
        let decide = |before: &crate::store::read::store_state::StoreState| {
            let mut after = before.clone();
            after.commit += 1;
            Ok(Some((after, ())))
        };
        let refused = store.engine.wal.queue.commit_outside_log(id, decide, |()| panic!("chunk 7")).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::WriterStopped);
        assert_read_only(&root, store, &key, "a check of the program failed: chunk 7");
    }

    fn new_def(symbol: &str, timeframe: &str) -> Arc<SeriesDef> {
        Arc::new(SeriesSpec::of_key(&SeriesKey::kline(symbol, timeframe).unwrap()).resolve().unwrap())
    }

    /// A write of one row at each of these days that registers its series.
    fn creating(def: &Arc<SeriesDef>, mode: WriteMode, days: &[i64]) -> SeriesWrite {
        let ts: Vec<i64> = days.iter().map(|day| day * 86_400_000).collect();
        let rows = {
            let columns = vec![vec![0; ts.len()]; 5];
            Rows::of_words(ts, columns)
        };
        SeriesWrite { create: Some(Arc::clone(def)), ..SeriesWrite::new(def.key.clone(), rows, mode) }
    }

    #[test]
    fn a_write_registers_its_series_in_the_same_commit_or_not_at_all() {
        let (root, store, _) = store();
        let def = new_def("NEW", "1d");
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
        // A refused series of the same commit refuses the registration too.
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
        let empty = new_def("EMPTY", "1d");
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
        let def = new_def("NEW", "1d");
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
        let def = new_def("NEW", "3d");
        let on_grid = |days: &[i64]| {
            let write = creating(&def, WriteMode::Upsert, days);
            SeriesWrite { phase_pending: (0..).zip(write.rows.ts.iter().copied()).collect(), ..write }
        };
        // Both were read when the series was empty.
        let (first, second) = (on_grid(&[1, 4]), on_grid(&[2, 5, 7]));
        store.write_many(vec![first], None).unwrap();
        let refused = store.write_many(vec![second], None).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::InvalidRows);
        let rows: Vec<(u64, &str)> = refused.rows().iter().map(|row| (row.row, row.reason.as_str())).collect();
        assert_eq!(rows, [(0, "off_grid"), (1, "off_grid")]);
        store.write_many(vec![on_grid(&[-2])], None).unwrap();
        store.delete_range(&def.key, (i64::MIN, i64::MAX), None).unwrap();
        store.write_many(vec![on_grid(&[2, 5])], None).unwrap();
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
            let pending = store.engine.wal.queue.lock();
            let deleting = scope.spawn(|| store.delete_range(&key, (i64::MIN, 60_000), None).unwrap());
            let started = std::time::Instant::now();
            while chunk.opened().is_none() && started.elapsed().as_secs() < 20 {
                std::thread::yield_now();
            }
            assert!(chunk.opened().is_some(), "nothing was read while the lock was held");
            drop(pending);
            assert_eq!(deleting.join().unwrap().rows_deleted, 1);
        });
        assert_eq!(store.snapshot().get(&key).unwrap().bounds, Some((180_000, 180_000)));
    }

    #[test]
    fn retention_that_was_changed_meanwhile_deletes_nothing() {
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
        assert_eq!(
            store.engine.maintenance.retain_series(&before, true).unwrap_err().code(),
            ErrorCode::CommitConflict
        );
        assert_eq!(store.snapshot().get(&key).unwrap().rows, 20);
        assert_eq!(store.apply_retention(&[]).unwrap()[0].1.rows_deleted, 5);
    }

    #[test]
    fn the_number_of_cached_snapshot_views_is_bounded() {
        let (_root, store, key) = store();
        for number in 0..40 {
            store.create_snapshot(&format!("s{number}")).unwrap();
            store.write(&key, rows(number), WriteMode::Upsert, None).unwrap();
        }
        for number in (0..40).chain(0..40) {
            let view = store.as_of(&format!("s{number}")).unwrap();
            assert_eq!(view.get(&key).unwrap().rows, u64::try_from(number).unwrap());
        }
        assert_eq!(store.engine.reads.views.len(), 16);
    }
}
