//! Memory that a run grows in: rows are appended after those that readers see, and nothing is copied.
//!
//! A buffer holds whole columns, each with space for more rows. A run is a view of its first rows. Appending rows
//! after the last ones of a buffer makes a longer view; every shorter one stays as it is, because no cell is written
//! twice. With [`crate::disk::mmap`] the only `unsafe` of the project.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::alloc::Allocation;
use arrow::buffer::Buffer;

use crate::types::Rows;
use crate::types::cells;

/// The cells: column after column, each of `capacity` words. Freed with the last view.
struct AppendCells {
    words: NonNull<i64>,
    capacity: usize,
    columns: usize,
    /// Rows that are written or being written. Only grows.
    used: AtomicUsize,
    /// Rows that are written.
    written: AtomicUsize,
}

// SAFETY: a cell is written once, by the thread that moved `used` over it, and read only through columns of rows that
// `written` was moved over after that write. So no cell is ever read and written at the same time.
unsafe impl Send for AppendCells {}
// SAFETY: as above.
unsafe impl Sync for AppendCells {}

impl std::panic::RefUnwindSafe for AppendCells {}

impl Drop for AppendCells {
    fn drop(&mut self) {
        let words = self.capacity * self.columns;
        // SAFETY: `AppendBuffer::with` made the words from a vector of exactly this length and capacity, and every
        // column that reads them holds this alive.
        drop(unsafe { Vec::from_raw_parts(self.words.as_ptr(), words, words) });
    }
}

/// Cells with space for more rows.
#[derive(Clone)]
pub struct AppendBuffer(Arc<AppendCells>);

impl fmt::Debug for AppendBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppendBuffer").field("capacity", &self.0.capacity).field("used", &self.0.used).finish()
    }
}

impl AppendBuffer {
    /// A buffer for `capacity` rows that starts with these columns, all of one length of at most that.
    pub fn with(capacity: usize, columns: &[&[i64]]) -> Self {
        let rows = cells::column(columns, 0).len();
        let capacity = capacity.max(rows).max(1);
        let mut words = Vec::with_capacity(capacity * columns.len());
        for column in columns {
            words.extend_from_slice(column);
            words.resize(words.len() + capacity - column.len(), 0);
        }
        // A boxed slice has no memory beyond its length.
        let words = NonNull::from(Box::leak(words.into_boxed_slice())).cast::<i64>();
        let (used, written) = (AtomicUsize::new(rows), AtomicUsize::new(rows));
        Self(Arc::new(AppendCells { words, capacity, columns: columns.len(), used, written }))
    }

    /// The first rows, column by column. A column spans its own written cells and nothing else: code that reads all of
    /// its memory, or adds up its size, touches no cell of another row.
    pub fn columns(&self, rows: usize) -> Arc<[Buffer]> {
        let AppendCells { words, capacity, columns, ref written, .. } = *self.0;
        let all = written.load(Ordering::Acquire);
        assert!(rows <= all, "{rows} rows of a buffer with {all}");
        let column = |column: usize| {
            let owner: Arc<dyn Allocation> = Arc::clone(&self.0) as _;
            // SAFETY: `column < columns` and `rows <= written <= capacity`, so the cells lie within the allocation,
            // which `owner` keeps alive, and no thread writes them again.
            unsafe { Buffer::from_custom_allocation(words.add(column * capacity).cast(), rows * 8, owner) }
        };
        (0..columns).map(column).collect()
    }

    /// Whether no row follows the first `rows` yet.
    pub fn ends_at(&self, rows: usize) -> bool {
        self.0.used.load(Ordering::Acquire) == rows
    }

    /// Appends rows of as many columns after the first `rows`. Returns false without effect when there is no space or
    /// other rows are there already: of two writers that continue from the same view one has to copy.
    pub fn append(&self, rows: usize, new: &Rows) -> bool {
        let AppendCells { words, capacity, columns, ref used, ref written } = *self.0;
        let count = new.len();
        let fits = rows.checked_add(count).filter(|end| *end <= capacity);
        let alike = new.columns.len() + 1 == columns && new.columns.iter().all(|column| column.len() == count);
        let Some(end) = fits.filter(|_| alike) else { return false };
        if used.compare_exchange(rows, end, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        for (column, cells) in std::iter::once(&new.ts).chain(&new.columns).enumerate() {
            // SAFETY: `column < columns` and `rows + count <= capacity`, so the cells lie within the allocation. They
            // belong to no other thread: `used` was moved over them just now, once, and no column reaches beyond `rows`
            // yet.
            unsafe {
                let at = words.as_ptr().add(column * capacity + rows);
                std::ptr::copy_nonoverlapping(cells.as_ptr(), at, count);
            }
        }
        written.store(end, Ordering::Release);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(ts: &[i64]) -> Rows {
        Rows { ts: ts.to_vec(), columns: vec![ts.iter().map(|ts| ts * 10).collect()] }
    }

    fn shown(view: &[Buffer]) -> Vec<&[i64]> {
        view.iter().map(|column| column.typed_data::<i64>()).collect()
    }

    #[test]
    fn a_view_does_not_change_while_rows_are_appended() {
        let buffer = AppendBuffer::with(4, &[&[1, 2], &[10, 20]]);
        let before = buffer.columns(2);
        assert!(buffer.append(2, &rows(&[3])));
        let after = buffer.columns(3);
        assert_eq!(shown(&before), [[1, 2], [10, 20]]);
        assert_eq!(shown(&after), [[1, 2, 3], [10, 20, 30]]);
        assert_eq!(after[1].capacity(), 24, "a column claims no more than itself");
        assert_eq!(before[1].capacity(), 16);
        assert_eq!(before[0].as_ptr(), after[0].as_ptr(), "nothing was copied");
        drop(buffer);
        assert_eq!(shown(&after), [[1, 2, 3], [10, 20, 30]]);
    }

    #[test]
    fn only_one_state_appends_to_a_buffer_and_none_beyond_its_end() {
        let buffer = AppendBuffer::with(4, &[&[1, 2], &[10, 20]]);
        assert!(buffer.append(2, &rows(&[3])));
        assert!(!buffer.append(2, &rows(&[4])), "another row is there");
        assert!(!buffer.append(3, &rows(&[4, 5])), "no space");
        assert!(!buffer.append(3, &Rows { ts: vec![4], columns: Vec::new() }), "other columns");
        assert!(buffer.append(3, &rows(&[4])));
        assert_eq!(shown(&buffer.columns(4)), [[1, 2, 3, 4], [10, 20, 30, 40]]);
    }

    #[test]
    fn readers_see_complete_rows_while_others_are_appended() {
        let buffer = AppendBuffer::with(10_000, &[&[0], &[0]]);
        let newest = std::sync::Mutex::new(buffer.columns(1));
        std::thread::scope(|scope| {
            let reader = || {
                loop {
                    let view = newest.lock().unwrap().clone();
                    let columns = shown(&view);
                    assert!(columns[0].iter().zip(columns[1]).all(|(ts, cell)| ts * 10 == *cell));
                    if columns[0].len() == 10_000 {
                        return;
                    }
                }
            };
            scope.spawn(reader);
            scope.spawn(reader);
            for ts in 1..10_000 {
                assert!(buffer.append(usize::try_from(ts).unwrap(), &rows(&[ts])));
                *newest.lock().unwrap() = buffer.columns(usize::try_from(ts + 1).unwrap());
            }
        });
    }
}
