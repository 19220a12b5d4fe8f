//! Idempotency keys: a repeated write returns the receipt of the first one.

use std::sync::Arc;

use arrow::datatypes::ToByteSlice;
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, ErrorCode, Result};
use crate::format::receipt::Receipt;
use crate::store::clock::wall_ms;
use crate::store::wal::commit_queue::QueuedCommits;
use crate::store::write::request::{DecidedWrite, SeriesWrite, WriteOutcome};

/// How long a retry gets the receipt of its write: 24 hours.
pub const RECEIPT_KEEP_MS: i64 = 86_400_000;

/// Most receipts at once.
pub const RECEIPTS_MAX: usize = 1_000_000;

/// The result of a repeat: the receipt of the earlier write under this key, which may be in flight and may still be
/// refused; or why the key does not fit.
pub fn find_receipt(pending: &QueuedCommits, (key, fingerprint): (u128, u128)) -> Result<Option<DecidedWrite>> {
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
pub fn fingerprint(writes: &[SeriesWrite]) -> u128 {
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
