//! Memory for decoded rows: a budget that all bodies share, whatever their format and the listener they came by.
//!
//! A small body can decode into many rows: run lengths, dictionaries and shared buffers cost nothing on the wire. So the
//! cells of a body are counted before any of them is decoded ([`reserve`]), and each takes [`CELL_BYTES`] of the budget
//! until its rows are written.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{BodyFormat, arrow_stream, parquet_file};
use crate::error::{Error, ErrorCode, Result};

/// Memory that one decoded cell takes at most from the first read to the end of the write: as a word in a column that
/// grows (16 bytes), in the frame of the log and in the tail of the series, and while a batch is split by series.
pub const CELL_BYTES: u64 = 48;

/// The budget. See the head of this module.
#[derive(Debug)]
pub struct DecodeMemory {
    bytes_max: u64,
    used: Mutex<u64>,
    freed: Condvar,
}

/// Part of the budget; given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    memory: Arc<DecodeMemory>,
    bytes: u64,
    patience: Duration,
}

impl DecodeMemory {
    /// A budget of so many bytes.
    pub fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { bytes_max, used: Mutex::new(0), freed: Condvar::new() })
    }

    /// An empty part, which waits for `patience` where others hold what it needs.
    pub fn reservation(self: &Arc<Self>, patience: Duration) -> Reservation {
        Reservation { memory: Arc::clone(self), bytes: 0, patience }
    }

    fn used(&self) -> MutexGuard<'_, u64> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that are reserved now.
    pub fn reserved_bytes(&self) -> u64 {
        *self.used()
    }
}

impl Reservation {
    /// Reserves more bytes; may block for its patience.
    ///
    /// # Errors
    /// `too_large` when the whole budget is less than that, `overloaded` when others hold it.
    pub fn grow(&mut self, more: u64) -> Result<()> {
        let wanted = self.bytes.saturating_add(more);
        if wanted > self.memory.bytes_max {
            return Err(Error::new(
                ErrorCode::TooLarge,
                format!(
                    "the rows of the body take {wanted} bytes of memory, more than the {} of limits.decoded_bytes_max",
                    self.memory.bytes_max
                ),
            )
            .with_hint("send the rows in several bodies"));
        }
        let begun = Instant::now();
        let mut used = self.memory.used();
        while *used + more > self.memory.bytes_max {
            let left = self.patience.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(Error::new(
                    ErrorCode::Overloaded,
                    format!(
                        "{more} bytes for the rows of the body exceed what other bodies leave of the memory for rows"
                    ),
                )
                .with_hint("send it again in a moment"));
            }
            used = self.memory.freed.wait_timeout(used, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *used += more;
        self.bytes += more;
        Ok(())
    }

    /// Reserves memory for so many rows with so many columns.
    ///
    /// # Errors
    /// Those of [`Reservation::grow`].
    pub fn grow_cells(&mut self, rows: u64, columns: u64) -> Result<()> {
        self.grow(rows.saturating_mul(columns).saturating_mul(CELL_BYTES))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut used = self.memory.used();
        *used = used.saturating_sub(self.bytes);
        drop(used);
        self.memory.freed.notify_all();
    }
}

/// Reserves the memory that reading and writing a body takes, before anything of it is decoded.
///
/// # Errors
/// Those of [`Reservation::grow`], and `invalid_argument` for an Arrow or Parquet body whose structure is damaged.
pub fn reserve(format: BodyFormat, body: &[u8], reservation: &mut Reservation) -> Result<()> {
    match format {
        BodyFormat::Json | BodyFormat::Ndjson | BodyFormat::Csv => reservation.grow_cells(text_cells(body), 1),
        BodyFormat::Arrow => arrow_stream::reserve(body, reservation),
        BodyFormat::Parquet => parquet_file::reserve(body, reservation),
    }
}

/// Most cells that a text can hold: each is followed by a comma or the end of its line, or is the last one of a list or
/// an object.
fn text_cells(body: &[u8]) -> u64 {
    let ends = body.iter().filter(|byte| matches!(byte, b',' | b'\n' | b'\r' | b'[' | b'{')).count();
    ends as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_bounded_and_given_back() {
        let memory = DecodeMemory::new(100);
        let part = || memory.reservation(Duration::ZERO);
        let mut first = part();
        first.grow(60).unwrap();
        assert_eq!(first.grow(41).unwrap_err().code(), ErrorCode::TooLarge);
        let mut second = part();
        assert_eq!(second.grow(41).unwrap_err().code(), ErrorCode::Overloaded);
        second.grow(40).unwrap();
        assert_eq!(memory.reserved_bytes(), 100);
        assert_eq!(part().grow(u64::MAX).unwrap_err().code(), ErrorCode::TooLarge);
        drop(first);
        second.grow(60).unwrap();
        drop(second);
        assert_eq!(memory.reserved_bytes(), 0);
    }

    #[test]
    fn a_patient_reservation_waits_for_others_to_end() {
        let memory = DecodeMemory::new(100);
        let mut first = memory.reservation(Duration::ZERO);
        first.grow(100).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| memory.reservation(Duration::from_secs(60)).grow(50));
            drop(first);
            waiting.join().unwrap().unwrap();
        });
    }

    #[test]
    fn no_text_has_more_cells_than_are_counted() {
        let texts = [
            ("ts,v\n1,2\n3,4", 4),
            ("[{\"ts\":1,\"v\":2},{\"ts\":3,\"v\":4}]", 4),
            ("{\"columns\":{\"ts\":[1,2,3],\"v\":[1,2,3]}}", 6),
            ("[[1,2],[3,4]]", 4),
            ("{\"ts\":1,\"v\":2}\n{\"ts\":3,\"v\":4}", 4),
            ("1", 1),
        ];
        for (text, cells) in texts {
            assert!(text_cells(text.as_bytes()) >= cells, "{text}");
        }
    }
}
