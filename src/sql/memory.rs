//! The memory of statements: each has a maximum, and all together.
//!
//! Rows mapped from files are not counted: they are the page cache's.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::error::{DataFusionError, Result as SqlResult};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

/// The memory of all statements.
#[derive(Debug)]
pub struct SharedMemory {
    used: AtomicUsize,
    max: usize,
}

impl SharedMemory {
    pub fn new(max: usize) -> Self {
        Self { used: AtomicUsize::new(0), max }
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn try_take(&self, bytes: usize) -> bool {
        let add = |used: usize| used.checked_add(bytes).filter(|total| *total <= self.max);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }
}

/// The memory of one statement.
#[derive(Debug)]
pub struct QueryMemory {
    own: FairSpillPool,
    shared: Arc<SharedMemory>,
    max: usize,
    peak: AtomicUsize,
}

impl QueryMemory {
    pub fn new(max: usize, shared: Arc<SharedMemory>) -> Self {
        Self { own: FairSpillPool::new(max), shared, max, peak: AtomicUsize::new(0) }
    }

    /// The largest number of bytes in use so far.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    fn note_peak(&self) {
        self.peak.fetch_max(self.own.reserved(), Ordering::Relaxed);
    }
}

impl fmt::Display for QueryMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "query_memory(used: {}, max: {})", self.own.reserved(), self.max)
    }
}

impl MemoryPool for QueryMemory {
    fn name(&self) -> &'static str {
        "query_memory"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.own.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.own.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.own.grow(reservation, additional);
        self.shared.used.fetch_add(additional, Ordering::Relaxed);
        self.note_peak();
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.own.shrink(reservation, shrink);
        self.shared.used.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> SqlResult<()> {
        self.own.try_grow(reservation, additional)?;
        if !self.shared.try_take(additional) {
            self.own.shrink(reservation, additional);
            let detail = format!("statements together use {} of {} bytes", self.shared.used(), self.shared.max);
            return Err(DataFusionError::ResourcesExhausted(detail));
        }
        self.note_peak();
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.own.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_limited_by_its_own_maximum_and_by_that_of_all() {
        let shared = Arc::new(SharedMemory::new(150));
        let pool = |max| Arc::new(QueryMemory::new(max, Arc::clone(&shared))) as Arc<dyn MemoryPool>;
        let (one, other) = (pool(100), pool(100));
        let mut first = MemoryConsumer::new("a").register(&one);
        let mut second = MemoryConsumer::new("b").register(&other);
        assert!(first.try_grow(101).is_err() && first.try_grow(100).is_ok());
        assert!(second.try_grow(51).is_err() && second.try_grow(50).is_ok());
        first.try_shrink(60).unwrap();
        assert!(second.try_grow(50).is_ok());
        drop((first.take(), second.take()));
        assert_eq!((shared.used(), one.reserved()), (0, 0));
    }
}
