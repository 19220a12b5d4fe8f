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

use crate::types::{CellLayout, CellSlice, Rows, SharedCells, cells};

/// Columns start on multiples of this many bytes: those of the widest cell.
const ALIGNMENT: usize = size_of::<u128>();

/// The cells: column after column, each with space for `capacity` cells. Freed with the last view.
struct AppendCells {
    memory: NonNull<u128>,
    /// Length of the memory in units of [`ALIGNMENT`] bytes.
    units: usize,
    capacity: usize,
    columns: Vec<BufferColumn>,
    /// Rows that are written or being written. Only grows.
    used: AtomicUsize,
    /// Rows that are written.
    written: AtomicUsize,
}

/// Where the cells of a column lie.
#[derive(Clone, Copy)]
struct BufferColumn {
    layout: CellLayout,
    /// Offsets in bytes of the cells and, where some can be null, of the flags that say which are present.
    cells_at: usize,
    valid_at: Option<usize>,
}

// SAFETY: a cell is written once, by the thread that moved `used` over it, and read only through columns of rows that
// `written` was moved over after that write. So no cell is ever read and written at the same time.
unsafe impl Send for AppendCells {}
// SAFETY: as above.
unsafe impl Sync for AppendCells {}

impl std::panic::RefUnwindSafe for AppendCells {}

impl Drop for AppendCells {
    fn drop(&mut self) {
        // SAFETY: `AppendBuffer::with` made the memory from a vector of exactly this length and capacity, and every
        // column that reads it holds this alive.
        drop(unsafe { Vec::from_raw_parts(self.memory.as_ptr(), self.units, self.units) });
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
    /// A buffer for `capacity` rows that starts with these columns, all of one length of at most that. Columns of
    /// `next`, rows that will follow, have the same layouts; where they or the first ones can be null, so can all.
    pub fn with(capacity: usize, columns: &[CellSlice<'_>], next: &[CellSlice<'_>]) -> Self {
        let rows = cells::column(columns, 0).len();
        let capacity = capacity.max(rows).max(1);
        let mut bytes = 0;
        let mut reserve = |width: usize| {
            let at = bytes;
            bytes += (capacity * width).next_multiple_of(ALIGNMENT);
            at
        };
        let mut places = Vec::with_capacity(columns.len());
        for (position, column) in columns.iter().enumerate() {
            let is_nullable = column.has_validity() || next.get(position).is_some_and(CellSlice::has_validity);
            places.push(BufferColumn {
                layout: column.layout(),
                cells_at: reserve(column.layout().width()),
                valid_at: is_nullable.then(|| reserve(1)),
            });
        }
        let units = bytes / ALIGNMENT;
        let mut memory = vec![0_u128; units].into_boxed_slice();
        let raw: &mut [u8] = bytemuck::cast_slice_mut(&mut memory);
        for (place, column) in places.iter().zip(columns) {
            cells::put(raw, place.cells_at, &column.cell_bytes());
            if let Some(valid_at) = place.valid_at {
                cells::put(raw, valid_at, &column.validity_bytes().unwrap_or_else(|| vec![1; rows]));
            }
        }
        // A boxed slice has no memory beyond its length.
        let memory = NonNull::from(Box::leak(memory)).cast::<u128>();
        let (used, written) = (AtomicUsize::new(rows), AtomicUsize::new(rows));
        Self(Arc::new(AppendCells { memory, units, capacity, columns: places, used, written }))
    }

    /// The first rows, column by column. A column spans its own written cells and nothing else: code that reads all of
    /// its memory, or adds up its size, touches no cell of another row.
    pub fn columns(&self, rows: usize) -> Arc<[SharedCells]> {
        let all = self.0.written.load(Ordering::Acquire);
        assert!(rows <= all, "{rows} rows of a buffer with {all}");
        let view = |at: usize, bytes: usize| {
            let owner: Arc<dyn Allocation> = Arc::clone(&self.0) as _;
            // SAFETY: `at` is the place of a column and `bytes` its width times `rows <= written <= capacity`, so the
            // cells lie within the allocation, which `owner` keeps alive, and no thread writes them again.
            unsafe { Buffer::from_custom_allocation(self.0.memory.cast::<u8>().add(at), bytes, owner) }
        };
        let column = |place: &BufferColumn| {
            let cells = view(place.cells_at, rows * place.layout.width());
            SharedCells::unpacked(place.layout, cells, place.valid_at.map(|at| view(at, rows)))
        };
        self.0.columns.iter().map(column).collect()
    }

    /// Whether no row follows the first `rows` yet.
    pub fn ends_at(&self, rows: usize) -> bool {
        self.0.used.load(Ordering::Acquire) == rows
    }

    /// Appends rows of the same columns after the first `rows`. Returns false without effect when there is no space,
    /// for nulls in a column without space for them, or when other rows are there already: of two writers that continue
    /// from the same view one has to copy.
    pub fn append(&self, rows: usize, new: &Rows) -> bool {
        let AppendCells { memory, capacity, ref columns, ref used, ref written, .. } = *self.0;
        let count = new.len();
        let slices = new.slices();
        let fits = rows.checked_add(count).filter(|end| *end <= capacity);
        let takes = |(place, cells): (&BufferColumn, &CellSlice<'_>)| {
            let has_space = place.valid_at.is_some() || !cells.has_validity();
            cells.len() == count && cells.layout() == place.layout && has_space
        };
        let alike = slices.len() == columns.len() && columns.iter().zip(&slices).all(takes);
        let Some(end) = fits.filter(|_| alike) else { return false };
        if used.compare_exchange(rows, end, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        let put = |at: usize, bytes: &[u8]| {
            // SAFETY: `at` is the place of row `rows` of a column, `bytes` are `count` cells of it, and `rows + count <=
            // capacity`, so they lie within the allocation. They belong to no other thread: `used` was moved over them
            // just now, once, and no column reaches beyond `rows` yet.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.as_ptr().cast::<u8>().add(at), bytes.len()) };
        };
        for (place, cells) in columns.iter().zip(&slices) {
            put(place.cells_at + rows * place.layout.width(), &cells.cell_bytes());
            if let Some(valid_at) = place.valid_at {
                put(valid_at + rows, &cells.validity_bytes().unwrap_or_else(|| vec![1; count]));
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
        Rows::of_words(ts.to_vec(), vec![ts.iter().map(|ts| ts * 10).collect()])
    }

    fn shown(view: &[SharedCells]) -> Vec<&[i64]> {
        view.iter().map(SharedCells::words).collect()
    }

    #[test]
    fn a_view_does_not_change_while_rows_are_appended() {
        let buffer = AppendBuffer::with(4, &[[1, 2], [10, 20]].each_ref().map(|words| CellSlice::of_words(words)), &[]);
        let before = buffer.columns(2);
        assert!(buffer.append(2, &rows(&[3])));
        let after = buffer.columns(3);
        assert_eq!(shown(&before), [[1, 2], [10, 20]]);
        assert_eq!(shown(&after), [[1, 2, 3], [10, 20, 30]]);
        assert_eq!(after[1].buffer().capacity(), 24, "a column claims no more than itself");
        assert_eq!(before[1].buffer().capacity(), 16);
        assert_eq!(before[0].words().as_ptr(), after[0].words().as_ptr(), "nothing was copied");
        drop(buffer);
        assert_eq!(shown(&after), [[1, 2, 3], [10, 20, 30]]);
    }

    #[test]
    fn only_one_state_appends_to_a_buffer_and_none_beyond_its_end() {
        let buffer = AppendBuffer::with(4, &[[1, 2], [10, 20]].each_ref().map(|words| CellSlice::of_words(words)), &[]);
        assert!(buffer.append(2, &rows(&[3])));
        assert!(!buffer.append(2, &rows(&[4])), "another row is there");
        assert!(!buffer.append(3, &rows(&[4, 5])), "no space");
        assert!(!buffer.append(3, &Rows::of_words(vec![4], Vec::new())), "other columns");
        assert!(buffer.append(3, &rows(&[4])));
        assert_eq!(shown(&buffer.columns(4)), [[1, 2, 3, 4], [10, 20, 30, 40]]);
    }

    #[test]
    fn readers_see_complete_rows_while_others_are_appended() {
        let buffer = AppendBuffer::with(10_000, &[CellSlice::of_words(&[0]); 2], &[]);
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
