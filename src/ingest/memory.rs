//! Memory for decoded rows: one budget shared by all bodies of all formats and listeners.
//!
//! A small body can decode into many rows: run lengths, dictionaries and shared buffers take almost no bytes on the
//! wire. The cells of a body are therefore counted before any is decoded ([`reserve`](super::reserve())), and each takes [`CELL_BYTES`]
//! of the budget until its rows are written.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorCode, Result};
use crate::types::{Column, SeriesDef};

/// Maximum number of bytes of cells one body may decode into.
pub const DECODED_BYTES_MAX: u64 = 1 << 30;

/// Maximum memory of one decoded cell from decoding to the end of the write, in bytes: a word in a growing column (16
/// bytes), in the WAL frame and in the tail of the series, and while a batch is split by series.
pub const CELL_BYTES: u64 = 48;

/// The memory budget, see the module documentation.
#[derive(Debug)]
pub struct DecodeMemory {
    bytes_max: u64,
    used: Mutex<u64>,
    freed: Condvar,
}

/// Reserved part of the budget; released on drop.
#[derive(Debug)]
pub struct Reservation {
    memory: Arc<DecodeMemory>,
    bytes: u64,
    timeout: Duration,
}

impl DecodeMemory {
    /// A budget of `bytes_max` bytes.
    pub fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { bytes_max, used: Mutex::new(0), freed: Condvar::new() })
    }

    /// An empty reservation; growing it waits up to `timeout` for other reservations to be released.
    pub fn reservation(self: &Arc<Self>, timeout: Duration) -> Reservation {
        Reservation { memory: Arc::clone(self), bytes: 0, timeout }
    }

    fn used(&self) -> MutexGuard<'_, u64> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes currently reserved.
    pub fn reserved_bytes(&self) -> u64 {
        *self.used()
    }
}

impl Reservation {
    /// Reserves more bytes; may block up to the timeout.
    ///
    /// # Errors
    /// `too_large` when the reservation would exceed the budget, `overloaded` when the timeout expires.
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
            .with_hint("split the rows into several bodies"));
        }
        let started = Instant::now();
        let mut used = self.memory.used();
        while *used + more > self.memory.bytes_max {
            let remaining = self.timeout.saturating_sub(started.elapsed());
            if remaining.is_zero() {
                return Err(Error::new(
                    ErrorCode::Overloaded,
                    format!("{more} bytes for the rows of the body exceed the free memory for rows"),
                )
                .with_hint("retry shortly"));
            }
            used = self.memory.freed.wait_timeout(used, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
        *used += more;
        self.bytes += more;
        Ok(())
    }

    /// Reserves memory for so many cells of up to 8 bytes.
    ///
    /// # Errors
    /// Those of [`Reservation::grow`].
    pub fn grow_cells(&mut self, cells: u64) -> Result<()> {
        self.grow(cells.saturating_mul(CELL_BYTES))
    }
}

/// Maximum memory of a decoded row from decoding to the end of the write, in bytes.
pub fn row_memory(def: &SeriesDef) -> u64 {
    /// Copies of a cell of [`CELL_BYTES`].
    const COPIES: u64 = CELL_BYTES / 8;
    let cell = |column: &Column| (COPIES * column.kind.layout().width() as u64).max(CELL_BYTES);
    CELL_BYTES + def.columns.iter().map(cell).sum::<u64>()
}

/// Reserves the memory of this many rows of a series, or of this many columns of an unknown one.
pub(super) fn grow_rows(reservation: &mut Reservation, def: Option<&SeriesDef>, rows: u64, columns: u64) -> Result<()> {
    let row = def.map_or(0, row_memory).max(columns.saturating_mul(CELL_BYTES));
    reservation.grow(rows.saturating_mul(row))
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut used = self.memory.used();
        *used = used.saturating_sub(self.bytes);
        drop(used);
        self.memory.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_are_bounded_and_released_on_drop() {
        let memory = DecodeMemory::new(100);
        let reservation = || memory.reservation(Duration::ZERO);
        let mut first = reservation();
        first.grow(60).unwrap();
        assert_eq!(first.grow(41).unwrap_err().code(), ErrorCode::TooLarge);
        let mut second = reservation();
        assert_eq!(second.grow(41).unwrap_err().code(), ErrorCode::Overloaded);
        second.grow(40).unwrap();
        assert_eq!(memory.reserved_bytes(), 100);
        assert_eq!(reservation().grow(u64::MAX).unwrap_err().code(), ErrorCode::TooLarge);
        drop(first);
        second.grow(60).unwrap();
        drop(second);
        assert_eq!(memory.reserved_bytes(), 0);
    }

    #[test]
    fn a_reservation_with_a_timeout_waits_for_others_to_be_released() {
        let memory = DecodeMemory::new(100);
        let mut first = memory.reservation(Duration::ZERO);
        first.grow(100).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| memory.reservation(Duration::from_secs(60)).grow(50));
            drop(first);
            waiting.join().unwrap().unwrap();
        });
    }
}
