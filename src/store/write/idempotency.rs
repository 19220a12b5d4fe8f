//! Idempotency keys: a repeated write returns the receipt of the first one.

use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, ErrorCode, Result};
use crate::format::receipt::Receipt;
use crate::store::wal::commit_queue::QueuedCommits;
use crate::store::write::request::{DecidedWrite, SeriesWrite, WriteMode, WriteOutcome};
use crate::types::{CellLayout, Dictionary, MergeRule};

/// How long a retry gets the receipt of its write: 24 hours.
pub const RECEIPT_RETENTION_MS: i64 = 86_400_000;

/// Most receipts at once.
pub const RECEIPTS_MAX: usize = 1_000_000;

/// The result of a repeat: the receipt of the earlier write under this key, which may be in flight and may still be
/// refused; or why the key does not fit.
pub fn find_receipt(
    pending: &QueuedCommits,
    wall_ms: i64,
    (key, fingerprint): (u128, u128),
) -> Result<Option<DecidedWrite>> {
    let alive = |receipt: &&Arc<Receipt>| receipt.wall_ms.saturating_add(RECEIPT_RETENTION_MS) > wall_ms;
    let Some(receipt) = pending.state.receipts.get(&key).filter(alive) else { return Ok(None) };
    if receipt.fingerprint != fingerprint {
        return Err(Error::new(ErrorCode::IdempotencyMismatch, "the idempotency key was used for another write")
            .with_hint("a retry must repeat the same rows in the same mode; a new write needs a new key"));
    }
    let commit = receipt.written.iter().map(|written| written.commit).max();
    let commit = commit.ok_or_else(|| Error::corrupt("the receipt of an idempotency key lists no series"))?;
    let outcome = WriteOutcome { written: receipt.written.clone(), commit, repeated: true };
    Ok(Some(DecidedWrite { outcome, decided: pending.decided()?, due: Vec::new() }))
}

/// Hash of everything that decides what a write does: XXH3 of 128 bits over the fields below, numbers in little-endian
/// order. Receipts in files have it, so that it is the same in every version; `docs/format.md` has the same list.
///
/// | type | field |
/// |---|---|
/// | `u64` | number of series; then for each, in the order of the write: |
/// | `u64`, bytes | length and text of the key |
/// | `u8` | mode: 1 upsert, 2 insert, 3 append, 4 merge |
/// | `u8` | rule that a merge has for the first column: 0 its own, 1 first, 2 sum, 3 min, 4 max, 5 last |
/// | `u64` | number of columns, including `ts`; then for each, `ts` first: |
/// | `u64`, `u64`, bytes | number of cells, bytes of one (0 for flags, which have one), and the cells |
/// | `u64`, bytes | 0 without nulls, or the number of cells, and a byte per cell: 1 where it is present |
/// | `u64` | number of texts of the column; then for each: |
/// | `u64`, bytes | length and bytes of the text |
pub fn fingerprint(writes: &[SeriesWrite]) -> u128 {
    let mut hash = Xxh3::new();
    let put_length = |hash: &mut Xxh3, length: usize| hash.update(&(length as u64).to_le_bytes());
    put_length(&mut hash, writes.len());
    for write in writes {
        let key = write.key.as_str().as_bytes();
        put_length(&mut hash, key.len());
        hash.update(key);
        hash.update(&mode_bytes(write.mode));
        put_length(&mut hash, write.rows.columns.len() + 1);
        for (position, column) in write.rows.slices().into_iter().enumerate() {
            put_length(&mut hash, column.len());
            put_length(&mut hash, if column.layout() == CellLayout::Flag { 0 } else { column.layout().width() });
            hash.update(&column.cell_bytes());
            let valid = column.validity_bytes().filter(|_| column.null_count() > 0).unwrap_or_default();
            put_length(&mut hash, valid.len());
            hash.update(&valid);
            let texts = position.checked_sub(1).and_then(|column| write.rows.texts.get(column));
            put_length(&mut hash, texts.map_or(0, Dictionary::len));
            for text in texts.into_iter().flat_map(Dictionary::texts) {
                put_length(&mut hash, text.len());
                hash.update(text.as_bytes());
            }
        }
    }
    hash.digest128()
}

/// Mode and rule of a fingerprint.
fn mode_bytes(mode: WriteMode) -> [u8; 2] {
    match mode {
        WriteMode::Upsert => [1, 0],
        WriteMode::Insert => [2, 0],
        WriteMode::Append => [3, 0],
        WriteMode::Merge { first: None } => [4, 0],
        WriteMode::Merge { first: Some(MergeRule::First) } => [4, 1],
        WriteMode::Merge { first: Some(MergeRule::Sum) } => [4, 2],
        WriteMode::Merge { first: Some(MergeRule::Min) } => [4, 3],
        WriteMode::Merge { first: Some(MergeRule::Max) } => [4, 4],
        WriteMode::Merge { first: Some(MergeRule::Last) } => [4, 5],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::types::{ColumnCells, Rows, SeriesKey};

    fn write(symbol: &str) -> SeriesWrite {
        let rows = Rows::of_words(vec![60_000, 120_000], vec![vec![1, -2], vec![3, 4]]);
        let mode = WriteMode::Merge { first: Some(MergeRule::Sum) };
        SeriesWrite::new(SeriesKey::scalar("metric", symbol, "1m", "x").unwrap(), rows, mode)
    }

    #[test]
    fn the_fingerprint_of_a_write_is_the_hash_of_its_documented_encoding() {
        let mut bytes = Vec::new();
        for text in ["scalar/metric/A/1m/x", "scalar/metric/B/1m/x"] {
            bytes.extend_from_slice(&20_u64.to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
            bytes.extend_from_slice(&[4, 2]);
            bytes.extend_from_slice(&3_u64.to_le_bytes());
            for column in [[60_000_i64, 120_000], [1, -2], [3, 4]] {
                bytes.extend([2_u64, 8].map(u64::to_le_bytes).concat());
                column.iter().for_each(|cell| bytes.extend_from_slice(&cell.to_le_bytes()));
                // No nulls, no texts.
                bytes.extend([0_u64; 2].map(u64::to_le_bytes).concat());
            }
        }
        let bytes = [2_u64.to_le_bytes().to_vec(), bytes].concat();
        let found = fingerprint(&[write("A"), write("B")]);
        assert_eq!(found, xxhash_rust::xxh3::xxh3_128(&bytes));
        assert_eq!(found, GOLDEN, "a retry under a key that an earlier version recorded would be refused");
    }

    const GOLDEN: u128 = 0xf9ba_2b5b_0b57_0e6c_a8f8_6ac5_e776_6012;

    #[test]
    fn every_field_of_a_write_changes_its_fingerprint() {
        let changed = |change: &dyn Fn(&mut SeriesWrite)| {
            let mut writes = [write("A"), write("B")];
            change(&mut writes[0]);
            fingerprint(&writes)
        };
        let mut found = vec![
            changed(&|_| {}),
            fingerprint(&[]),
            fingerprint(&[write("A")]),
            fingerprint(&[write("B"), write("A")]),
            changed(&|write| write.key = SeriesKey::scalar("metric", "C", "1m", "x").unwrap()),
            changed(&|write| write.rows.ts[1] += 1),
            changed(&|write| write.rows.columns[1].words_mut()[0] += 1),
            changed(&|write| write.rows.columns.swap(0, 1)),
            changed(&|write| drop(write.rows.columns.pop())),
            changed(&|write| write.rows.columns[0] = ColumnCells::from([1_i32, -2])),
            changed(&|write| {
                write.rows.columns[0] = ColumnCells::new(CellLayout::WORD);
                write.rows.columns[0].push(1_i64);
                write.rows.columns[0].push_null();
            }),
            changed(&|write| write.rows.texts = vec![[std::sync::Arc::from("x")].into_iter().collect()]),
            // The same cells with other lengths.
            changed(&|write| {
                let words = write.rows.columns[1].words().to_vec();
                write.rows.columns[0].push(words[0]);
                write.rows.columns[1] = words[1..].to_vec().into();
            }),
        ];
        let rules = [MergeRule::First, MergeRule::Min, MergeRule::Max, MergeRule::Last];
        let merges = rules.into_iter().map(Some).chain([None]).map(|first| WriteMode::Merge { first });
        for mode in merges.chain([WriteMode::Upsert, WriteMode::Insert, WriteMode::Append]) {
            found.push(changed(&|write| write.mode = mode));
        }
        assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), found.len(), "{found:x?}");
    }
}
