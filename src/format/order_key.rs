//! Order keys: cells of every type as integers of 8 bytes that order as the values do.
//!
//! | cells | key |
//! |---|---|
//! | signed integers, decimals, times | the integer itself |
//! | unsigned integers of up to 4 bytes, positions of enums and texts | the integer itself |
//! | unsigned integers of 8 bytes | the integer less 2^63 |
//! | doubles, floats | the bits as a signed integer, with all but the sign flipped when it is negative; 0 for both zeros |
//! | bool | 0 or 1 |
//! | wide decimals | the integer, or the nearest one that 8 bytes hold |
//! | bytes | the first 8 bytes as a big-endian integer less 2^63, with zeros after cells of fewer |
//!
//! Keys never order two cells differently than their values. Only different wide decimals, and cells of more than 8
//! bytes, can have the same key. A null has no key.

use crate::types::column::Cell;
use crate::types::width::narrow;
use crate::types::{CellSlice, ColumnType, SeriesDef, cells};

/// How the cells of a column are compared, whatever they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NativeType {
    I8,
    I16,
    I32,
    I64,
    I128,
    U8,
    U16,
    U32,
    U64,
    F32,
    F64,
    Flag,
    /// So many bytes, compared one after the other.
    Bytes(u16),
}

impl NativeType {
    /// How the cells of a type are compared.
    pub fn of(kind: ColumnType) -> Self {
        match kind {
            ColumnType::Decimal { .. } | ColumnType::Int64 | ColumnType::Timestamp { .. } => Self::I64,
            ColumnType::WideDecimal { .. } => Self::I128,
            ColumnType::Float64 => Self::F64,
            ColumnType::Float32 => Self::F32,
            ColumnType::Int32 => Self::I32,
            ColumnType::Int16 => Self::I16,
            ColumnType::Int8 => Self::I8,
            ColumnType::UInt64 => Self::U64,
            ColumnType::UInt32 | ColumnType::Text => Self::U32,
            ColumnType::UInt16 => Self::U16,
            ColumnType::UInt8 | ColumnType::Enum => Self::U8,
            ColumnType::Bool => Self::Flag,
            ColumnType::Bytes { length } => Self::Bytes(length),
        }
    }

    /// How the cells of all columns of a series are compared, `ts` first.
    pub fn of_series(def: &SeriesDef) -> Vec<Self> {
        std::iter::once(Self::I64).chain(def.columns.iter().map(|column| Self::of(column.kind))).collect()
    }

    /// The lowest and the highest key that cells can have.
    pub fn keys(self) -> (i64, i64) {
        match self {
            Self::I8 => (i8::MIN.into(), i8::MAX.into()),
            Self::I16 => (i16::MIN.into(), i16::MAX.into()),
            Self::I32 | Self::F32 => (i32::MIN.into(), i32::MAX.into()),
            Self::U8 => (0, u8::MAX.into()),
            Self::U16 => (0, u16::MAX.into()),
            Self::U32 => (0, u32::MAX.into()),
            Self::Flag => (0, 1),
            Self::I64 | Self::U64 | Self::F64 | Self::I128 | Self::Bytes(_) => (i64::MIN, i64::MAX),
        }
    }
}

/// A cell of a fixed width with an order key.
pub trait KeyCell: Cell {
    /// An integer of the width of the cell that orders as the cells do.
    type Order: Copy + Ord;
    const LOWEST: Self::Order;
    const HIGHEST: Self::Order;

    fn order(self) -> Self::Order;

    /// The order key of such an integer.
    fn widen(order: Self::Order) -> i64;

    fn order_key(self) -> i64 {
        Self::widen(self.order())
    }
}

macro_rules! integer_cells {
    ($($integer:ty),*) => {$(
        impl KeyCell for $integer {
            type Order = Self;
            const LOWEST: Self = Self::MIN;
            const HIGHEST: Self = Self::MAX;

            #[inline(always)]
            fn order(self) -> Self {
                self
            }

            #[inline(always)]
            fn widen(order: Self) -> i64 {
                order.into()
            }
        }
    )*};
}

integer_cells!(i8, i16, i32, i64, u8, u16, u32);

impl KeyCell for u64 {
    type Order = i64;
    const LOWEST: i64 = i64::MIN;
    const HIGHEST: i64 = i64::MAX;

    #[inline(always)]
    fn order(self) -> i64 {
        (self ^ (1 << 63)).cast_signed()
    }

    #[inline(always)]
    fn widen(order: i64) -> i64 {
        order
    }
}

impl KeyCell for f64 {
    type Order = i64;
    const LOWEST: i64 = i64::MIN;
    const HIGHEST: i64 = i64::MAX;

    #[inline(always)]
    fn order(self) -> i64 {
        let word = self.to_bits().cast_signed();
        // Only the sign bit set is minus zero.
        let bits = if word == i64::MIN { 0 } else { word };
        // Negative doubles order backwards by their bits: flip all but the sign.
        bits ^ ((bits >> 63) & i64::MAX)
    }

    #[inline(always)]
    fn widen(order: i64) -> i64 {
        order
    }
}

impl KeyCell for f32 {
    type Order = i32;
    const LOWEST: i32 = i32::MIN;
    const HIGHEST: i32 = i32::MAX;

    #[inline(always)]
    fn order(self) -> i32 {
        let word = self.to_bits().cast_signed();
        let bits = if word == i32::MIN { 0 } else { word };
        bits ^ ((bits >> 31) & i32::MAX)
    }

    #[inline(always)]
    fn widen(order: i32) -> i64 {
        order.into()
    }
}

impl KeyCell for i128 {
    type Order = Self;
    const LOWEST: Self = Self::MIN;
    const HIGHEST: Self = Self::MAX;

    #[inline(always)]
    fn order(self) -> Self {
        self
    }

    #[inline(always)]
    fn widen(order: Self) -> i64 {
        narrow(order.clamp(i64::MIN.into(), i64::MAX.into()))
    }
}

/// Order key of a cell of `bytes`.
#[inline]
pub fn bytes_key(cell: &[u8]) -> i64 {
    let mut first = [0; 8];
    first.iter_mut().zip(cell).for_each(|(to, from)| *to = *from);
    u64::from_be_bytes(first).order()
}

/// The bytes of each cell of a column of `bytes`.
pub fn byte_cells(column: CellSlice<'_>, length: u16) -> impl ExactSizeIterator<Item = &[u8]> {
    column.plain().unwrap_or_default().chunks_exact(length.into())
}

/// Evaluates an expression for the cells of a column as a slice of their type, or for flags and bytes.
macro_rules! by_native_type {
    ($native:expr, $column:expr, $cells:ident => $typed:expr, Flag => $flag:expr, Bytes($length:ident) => $bytes:expr) => {
        match $native {
            $crate::format::order_key::NativeType::I8 => {
                let $cells = $column.typed::<i8>();
                $typed
            }
            $crate::format::order_key::NativeType::I16 => {
                let $cells = $column.typed::<i16>();
                $typed
            }
            $crate::format::order_key::NativeType::I32 => {
                let $cells = $column.typed::<i32>();
                $typed
            }
            $crate::format::order_key::NativeType::I64 => {
                let $cells = $column.typed::<i64>();
                $typed
            }
            $crate::format::order_key::NativeType::I128 => {
                let $cells = $column.typed::<i128>();
                $typed
            }
            $crate::format::order_key::NativeType::U8 => {
                let $cells = $column.typed::<u8>();
                $typed
            }
            $crate::format::order_key::NativeType::U16 => {
                let $cells = $column.typed::<u16>();
                $typed
            }
            $crate::format::order_key::NativeType::U32 => {
                let $cells = $column.typed::<u32>();
                $typed
            }
            $crate::format::order_key::NativeType::U64 => {
                let $cells = $column.typed::<u64>();
                $typed
            }
            $crate::format::order_key::NativeType::F32 => {
                let $cells = $column.typed::<f32>();
                $typed
            }
            $crate::format::order_key::NativeType::F64 => {
                let $cells = $column.typed::<f64>();
                $typed
            }
            $crate::format::order_key::NativeType::Flag => $flag,
            $crate::format::order_key::NativeType::Bytes($length) => $bytes,
        }
    };
}

pub(crate) use by_native_type;

/// Appends the order keys of the cells of a column that are not null, with their rows counted from `first_row`.
pub fn append_keys(column: CellSlice<'_>, native: NativeType, first_row: u32, entries: &mut Vec<(i64, u32)>) {
    let rows = (first_row..).zip(0..column.len()).filter(|(_, at)| column.is_valid(*at));
    by_native_type!(native, column,
        values => entries.extend(rows.map(|(row, at)| (cells::at(values, at).order_key(), row))),
        Flag => entries.extend(rows.map(|(row, at)| (i64::from(column.flag(at)), row))),
        Bytes(length) => {
            let keys = (first_row..).zip(byte_cells(column, length)).enumerate();
            let present = keys.filter(|(at, _)| column.is_valid(*at));
            entries.extend(present.map(|(_, (row, cell))| (bytes_key(cell), row)));
        }
    );
}

/// Lowest and highest order key of the cells of a column that are not null; `None` when all are.
pub fn key_bounds(column: CellSlice<'_>, native: NativeType) -> Option<(i64, i64)> {
    if column.null_count() == column.len() {
        return None;
    }
    let valid = column.validity_bytes();
    let valid = valid.as_deref();
    let bounds = by_native_type!(native, column,
        values => typed_bounds(values, valid),
        Flag => {
            let (set, present) = (column.set_count(), column.len() - column.null_count());
            (i64::from(set == present), i64::from(set > 0))
        },
        Bytes(length) => {
            let present = byte_cells(column, length).enumerate().filter(|(row, _)| column.is_valid(*row));
            let keys = present.map(|(_, cell)| bytes_key(cell));
            keys.fold((i64::MAX, i64::MIN), |(min, max), key| (min.min(key), max.max(key)))
        }
    );
    Some(bounds)
}

fn typed_bounds<T: KeyCell>(values: &[T], valid: Option<&[u8]>) -> (i64, i64) {
    let orders = values.iter().map(|value| value.order());
    let empty = (T::HIGHEST, T::LOWEST);
    let (min, max) = match valid {
        None => orders.fold(empty, |(min, max), order| (min.min(order), max.max(order))),
        // Without a branch, so that the compiler vectorizes it.
        Some(valid) => orders.zip(valid).fold(empty, |(min, max), (order, valid)| {
            let (low, high) = if *valid == 1 { (order, order) } else { empty };
            (min.min(low), max.max(high))
        }),
    };
    (T::widen(min), T::widen(max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{CellLayout, ColumnCells};

    fn keys(column: &ColumnCells, native: NativeType) -> Vec<i64> {
        let mut entries = Vec::new();
        append_keys(column.as_slice(), native, 0, &mut entries);
        entries.into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn keys_of_floats_preserve_their_order() {
        let ascending = [f64::NEG_INFINITY, -1e300, -2.5, -1e-300, 0.0, 1e-300, 1.0, 1.5, 1e300, f64::INFINITY];
        let found = keys(&ascending.into(), NativeType::F64);
        assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{found:?}");
        let ascending = [f32::NEG_INFINITY, -1e30, -2.5, -1e-30, 0.0, 1e-30, 1.0, 1.5, 1e30, f32::INFINITY];
        let found = keys(&ascending.into(), NativeType::F32);
        assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{found:?}");
        assert_eq!((-0.0_f64).order_key(), 0.0_f64.order_key());
        assert_eq!((-0.0_f32).order_key(), 0.0_f32.order_key());
    }

    #[test]
    fn keys_of_every_integer_preserve_order_and_keep_their_bounds() {
        let columns: [(ColumnCells, NativeType); 9] = [
            ([i8::MIN, -1, 0, 1, i8::MAX].into(), NativeType::I8),
            ([i16::MIN, -1, 0, 1, i16::MAX].into(), NativeType::I16),
            ([i32::MIN, -1, 0, 1, i32::MAX].into(), NativeType::I32),
            ([i64::MIN, -1, 0, 1, i64::MAX].into(), NativeType::I64),
            ([i128::from(i64::MIN), -1, 0, 1, i128::from(i64::MAX)].into(), NativeType::I128),
            ([0, 1, u8::MAX / 2, u8::MAX / 2 + 1, u8::MAX].into(), NativeType::U8),
            ([0, 1, u16::MAX / 2, u16::MAX / 2 + 1, u16::MAX].into(), NativeType::U16),
            ([0, 1, u32::MAX / 2, u32::MAX / 2 + 1, u32::MAX].into(), NativeType::U32),
            ([0, 1, u64::MAX / 2, u64::MAX / 2 + 1, u64::MAX].into(), NativeType::U64),
        ];
        for (column, native) in columns {
            let found = keys(&column, native);
            assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{native:?}: {found:?}");
            assert_eq!((found[0], found[4]), native.keys(), "{native:?}");
            assert_eq!(key_bounds(column.as_slice(), native), Some(native.keys()));
        }
        let beyond = ColumnCells::from([i128::MIN, i128::from(i64::MIN) - 1, i128::from(i64::MAX) + 1, i128::MAX]);
        assert_eq!(keys(&beyond, NativeType::I128), [i64::MIN, i64::MIN, i64::MAX, i64::MAX]);
    }

    #[test]
    fn keys_of_bytes_are_those_of_their_first_8_bytes() {
        let column = |cells: &[&[u8]]| {
            let mut column = ColumnCells::new(CellLayout::Bytes(cells[0].len() as u16));
            for cell in cells {
                let bytes: arrow::buffer::Buffer = cell.to_vec().into();
                let one = crate::types::SharedCells::unpacked(column.layout(), bytes, None);
                column.extend(one.slice(0, 1));
            }
            column
        };
        let short = column(&[b"\x00\x00", b"\x00\x01", b"\x01\x00", b"\x7f\xff", b"\x80\x00", b"\xff\xff"]);
        let found = keys(&short, NativeType::Bytes(2));
        assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{found:?}");
        let long = column(&[b"123456789", b"12345678a", b"123456790"]);
        let found = keys(&long, NativeType::Bytes(9));
        assert!(found[0] == found[1] && found[1] < found[2], "{found:?}");
    }

    #[test]
    fn nulls_have_no_key() {
        let mut column = ColumnCells::new(CellLayout::Bytes(2));
        column.push_null();
        assert_eq!((key_bounds(column.as_slice(), NativeType::I16), keys(&column, NativeType::I16)), (None, vec![]));
        column.push(7_i16);
        column.push(9_i16);
        assert_eq!(key_bounds(column.as_slice(), NativeType::I16), Some((7, 9)));
        let mut entries = Vec::new();
        append_keys(column.as_slice(), NativeType::I16, 40, &mut entries);
        assert_eq!(entries, [(7, 41), (9, 42)]);
        let mut flags = ColumnCells::new(CellLayout::Flag);
        flags.push_null();
        assert_eq!(key_bounds(flags.as_slice(), NativeType::Flag), None);
        flags.push(1_u8);
        assert_eq!(key_bounds(flags.as_slice(), NativeType::Flag), Some((1, 1)));
        flags.push(0_u8);
        assert_eq!(key_bounds(flags.as_slice(), NativeType::Flag), Some((0, 1)));
    }
}
