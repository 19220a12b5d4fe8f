//! The columns of a result, and how those of each series are converted to them.

use std::sync::Arc;

use crate::error::{Error, ErrorCode, Result};
use crate::query::result::{NumberFormat, ResultColumn};
use crate::store::SeriesState;
use crate::types::schema::ENUM_VALUES_MAX;
use crate::types::width::{narrow, to_usize};
use crate::types::{Cell, CellLayout, CellSlice, Column, ColumnCells, ColumnType, Dictionary, SeriesDef};
use crate::types::{cells, number, wide};

/// Maximum number of texts of all series that one query maps to common dictionaries.
const MAPPED_TEXTS_MAX: usize = 4_000_000;

/// How the cells of one column of one series are converted, so that all series have the same type in the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnCast {
    Keep,
    /// More digits of a decimal of 8 bytes; exact, or an error.
    Rescale {
        from: u8,
        to: u8,
    },
    /// The double nearest to a decimal of this many digits.
    Double {
        from: u8,
    },
    /// To a decimal of 16 bytes, from one of 8.
    Widen {
        from: u8,
        to: u8,
    },
    /// More digits of a decimal of 16 bytes; exact, or an error.
    RescaleWide {
        from: u8,
        to: u8,
    },
    /// The double nearest to a decimal of 16 bytes.
    WideDouble {
        from: u8,
    },
    /// A float of 4 bytes as a double.
    Float,
    /// An integer of more bytes.
    Integer {
        from: ColumnType,
        to: ColumnType,
    },
    /// Positions in the values of the result, by those in the values of the series.
    Enum(Arc<[u8]>),
    /// Positions in the dictionary of the result, by those in the dictionary of the series.
    Text(Arc<[u32]>),
}

impl ColumnCast {
    /// Layout of converted cells.
    pub fn layout(&self, from: CellLayout) -> CellLayout {
        match self {
            Self::Keep => from,
            Self::Rescale { .. } | Self::Double { .. } | Self::WideDouble { .. } | Self::Float => CellLayout::WORD,
            Self::Widen { .. } | Self::RescaleWide { .. } => CellLayout::Bytes(16),
            Self::Integer { to, .. } => to.layout(),
            Self::Enum(_) => ColumnType::Enum.layout(),
            Self::Text(_) => ColumnType::Text.layout(),
        }
    }

    /// Whether the conversion is one of cells of 8 bytes to such cells.
    pub fn is_of_words(&self) -> bool {
        matches!(self, Self::Keep | Self::Rescale { .. } | Self::Double { .. })
    }

    /// Appends the converted cells at these positions. Nulls stay nulls.
    ///
    /// # Errors
    /// The position of a cell that does not fit the type of the result.
    pub fn append(
        &self,
        to: &mut ColumnCells,
        from: CellSlice<'_>,
        rows: impl ExactSizeIterator<Item = usize> + Clone,
    ) -> Result<(), usize> {
        let double = |value: f64| Some(value.to_bits());
        match self {
            Self::Keep => to.extend_picked(from, rows),
            Self::Rescale { from: of, to: digits } => {
                each::<i64, i64>(to, from, rows, |raw| number::rescale(raw, *of, *digits))?;
            }
            Self::Double { from: of } => {
                each::<i64, u64>(to, from, rows, |raw| double(number::decimal_to_f64(raw, *of)))?;
            }
            Self::Widen { from: of, to: digits } => {
                each::<i64, i128>(to, from, rows, |raw| wide::rescale_wide(raw.into(), *of, *digits))?;
            }
            Self::RescaleWide { from: of, to: digits } => {
                each::<i128, i128>(to, from, rows, |raw| wide::rescale_wide(raw, *of, *digits))?;
            }
            Self::WideDouble { from: of } => {
                each::<i128, u64>(to, from, rows, |raw| double(wide::wide_to_f64(raw, *of)))?;
            }
            Self::Float => each::<f32, u64>(to, from, rows, |value| double(value.into()))?,
            Self::Integer { from: of, to: wider } => match of {
                ColumnType::Int8 => integers::<i8>(*wider, to, from, rows)?,
                ColumnType::Int16 => integers::<i16>(*wider, to, from, rows)?,
                ColumnType::Int32 => integers::<i32>(*wider, to, from, rows)?,
                ColumnType::UInt8 => integers::<u8>(*wider, to, from, rows)?,
                ColumnType::UInt16 => integers::<u16>(*wider, to, from, rows)?,
                ColumnType::UInt32 => integers::<u32>(*wider, to, from, rows)?,
                _ => integers::<i64>(*wider, to, from, rows)?,
            },
            Self::Enum(positions) => {
                each::<u8, u8>(to, from, rows, |position| positions.get(usize::from(position)).copied())?;
            }
            Self::Text(positions) => {
                each::<u32, u32>(to, from, rows, |position| positions.get(to_usize(position)).copied())?;
            }
        }
        Ok(())
    }

    /// The error of a cell that does not fit, of a column of a series.
    pub fn error(&self, def: &SeriesDef, column: usize, from: CellSlice<'_>, row: usize) -> Error {
        let (key, name) = (&def.key, def.columns.get(column).map_or("", |column| column.name.as_str()));
        let mut cell = Vec::new();
        let (limit, to) = match self {
            Self::Rescale { from: of, to } => {
                number::write_decimal(&mut cell, cells::at(from.typed(), row), *of);
                (18, *to)
            }
            Self::Widen { from: of, to } => {
                number::write_decimal(&mut cell, cells::at(from.typed(), row), *of);
                (38, *to)
            }
            Self::RescaleWide { from: of, to } => {
                wide::write_wide(&mut cell, cells::at(from.typed(), row), *of);
                (38, *to)
            }
            _ => return Error::corrupt(format!("column {name} of series {key} has a cell that no text belongs to")),
        };
        let cell = String::from_utf8_lossy(&cell);
        let detail = format!(
            "column {name} of series {key} holds {cell}, which does not fit {limit} digits, {to} after the point"
        );
        mismatch(detail).with_hint("numbers=float64 returns doubles; or query series of equal digits")
    }
}

/// Appends converted cells, and nulls for nulls.
fn each<S: Cell, T: Cell>(
    to: &mut ColumnCells,
    from: CellSlice<'_>,
    rows: impl Iterator<Item = usize>,
    convert: impl Fn(S) -> Option<T>,
) -> Result<(), usize> {
    let source = from.typed::<S>();
    for row in rows {
        if from.is_valid(row) {
            to.push(convert(cells::at(source, row)).ok_or(row)?);
        } else {
            to.push_null();
        }
    }
    Ok(())
}

/// Appends integers of another width.
fn integers<S: Cell + Into<i64>>(
    kind: ColumnType,
    to: &mut ColumnCells,
    from: CellSlice<'_>,
    rows: impl Iterator<Item = usize>,
) -> Result<(), usize> {
    match kind {
        ColumnType::Int16 => each::<S, i16>(to, from, rows, |value| value.into().try_into().ok()),
        ColumnType::Int32 => each::<S, i32>(to, from, rows, |value| value.into().try_into().ok()),
        ColumnType::UInt16 => each::<S, u16>(to, from, rows, |value| value.into().try_into().ok()),
        ColumnType::UInt32 => each::<S, u32>(to, from, rows, |value| value.into().try_into().ok()),
        ColumnType::UInt64 => each::<S, u64>(to, from, rows, |value| value.into().try_into().ok()),
        _ => each::<S, i64>(to, from, rows, |value| Some(value.into())),
    }
}

/// The columns of several series mapped to those of one result.
#[derive(Debug)]
pub struct CommonColumns {
    /// Columns of the result.
    pub columns: Vec<ResultColumn>,
    /// For each series the positions of those columns and their conversions.
    pub members: Vec<(Vec<usize>, Vec<ColumnCast>)>,
}

pub(super) fn mismatch(detail: String) -> Error {
    Error::new(ErrorCode::SchemaMismatch, detail)
}

/// Columns of a result over at least one series: the named ones, or those common to all in the order of the first
/// series. A decimal column has the most digits of any series, an integer the fewest bytes that hold all of them, an enum
/// the values of all series, and a column can have nulls where that of any series can. The `leading` columns come first,
/// named or not.
///
/// # Errors
/// `schema_mismatch` naming series and column where a series lacks a named column, types are incompatible, or units
/// differ; `invalid_argument` for a column listed twice; `too_large` for too many texts.
pub fn common(
    series: &[Arc<SeriesState>],
    names: Option<&[&str]>,
    leading: &[&str],
    numbers: NumberFormat,
) -> Result<CommonColumns> {
    let defs: Vec<&SeriesDef> = series.iter().map(|series| series.def.as_ref()).collect();
    let first = check_units(&defs)?;
    let names: Vec<&str> = match names {
        Some(names) => {
            let names: Vec<&str> = names.iter().copied().filter(|name| !leading.contains(name)).collect();
            for (position, name) in names.iter().enumerate() {
                if names.iter().take(position).any(|earlier| earlier == name) {
                    return Err(Error::invalid(format!("column {name:?} is listed twice")));
                }
            }
            names
        }
        None => {
            let is_common = |name: &str| defs.iter().all(|def| def.column(name).is_some());
            first.columns.iter().map(|column| column.name.as_str()).filter(|name| is_common(name)).collect()
        }
    };
    if let ([only], [state]) = (defs.as_slice(), series) {
        let mut columns = Vec::with_capacity(names.len());
        let mut positions = Vec::with_capacity(names.len());
        for name in names {
            let position = only.column_named(name)?;
            let column = cells::column(&only.columns, position);
            columns.push(ResultColumn::of(column, state.dictionaries.get(position)));
            positions.push(position);
        }
        let casts = vec![ColumnCast::Keep; positions.len()];
        return Ok(CommonColumns { columns, members: vec![(positions, casts)] });
    }
    let mut columns = Vec::with_capacity(names.len());
    let mut members = vec![(Vec::with_capacity(names.len()), Vec::with_capacity(names.len())); defs.len()];
    let mut texts_left = MAPPED_TEXTS_MAX;
    for name in names {
        let places = places_of(&defs, name)?;
        let kind = common_kind(&defs, name, &places, numbers)?;
        let (labels, mapped) = match kind {
            ColumnType::Enum => common_values(name, &places)?,
            ColumnType::Text => common_texts(name, series, &places, &mut texts_left)?,
            _ => (None, Vec::new()),
        };
        let mut mapped = mapped.into_iter();
        for ((positions, casts), (position, column)) in members.iter_mut().zip(&places) {
            positions.push(*position);
            casts.push(mapped.next().unwrap_or_else(|| number_cast(column.kind, kind)));
        }
        let nullable = places.iter().any(|(_, column)| column.nullable);
        columns.push(ResultColumn { name: name.to_owned(), kind, nullable, labels });
    }
    Ok(CommonColumns { columns, members })
}

/// The first of several series, all of which have timestamps of its unit.
///
/// # Errors
/// `schema_mismatch` naming two series of different units.
pub fn check_units<'a>(defs: &[&'a SeriesDef]) -> Result<&'a SeriesDef> {
    let first = *defs.first().ok_or_else(|| Error::invalid("series names no series"))?;
    match defs.iter().find(|def| def.unit != first.unit) {
        None => Ok(first),
        Some(other) => Err(mismatch(format!(
            "series {} has timestamps in {}, series {} in {}",
            first.key,
            first.unit.name(),
            other.key,
            other.unit.name()
        ))
        .with_hint("a query takes series of one unit")),
    }
}

/// The conversion of a number to the type of the result.
fn number_cast(from: ColumnType, to: ColumnType) -> ColumnCast {
    use ColumnType::{Decimal, Float32, Float64, WideDecimal};
    match (from, to) {
        (from, to) if from == to => ColumnCast::Keep,
        (Decimal { digits: from }, Decimal { digits: to }) => ColumnCast::Rescale { from, to },
        (Decimal { digits: from }, WideDecimal { digits: to }) => ColumnCast::Widen { from, to },
        (WideDecimal { digits: from }, WideDecimal { digits: to }) => ColumnCast::RescaleWide { from, to },
        (Decimal { digits: from }, Float64) => ColumnCast::Double { from },
        (WideDecimal { digits: from }, Float64) => ColumnCast::WideDouble { from },
        (Float32, Float64) => ColumnCast::Float,
        (from, to) => ColumnCast::Integer { from, to },
    }
}

/// The texts of a column of several series, and the conversion of each series.
type CommonLabels = (Option<Dictionary>, Vec<ColumnCast>);

/// The values of an enum of several series: those of the first, then the others' that are new.
fn common_values(name: &str, places: &[(usize, &Column)]) -> Result<CommonLabels> {
    let mut all = Dictionary::default();
    let mut casts: Vec<ColumnCast> = Vec::with_capacity(places.len());
    let mut last: Option<&[String]> = None;
    for (_, column) in places {
        // Thousands of series mostly have the same values.
        if let (Some(same), Some(cast)) = (last, casts.last())
            && same == column.values.as_slice()
        {
            casts.push(cast.clone());
            continue;
        }
        last = Some(&column.values);
        let positions: Option<Vec<u32>> = column.values.iter().map(|value| all.insert(value)).collect();
        let positions = positions.filter(|_| all.len() <= ENUM_VALUES_MAX).ok_or_else(|| {
            mismatch(format!("column {name} has more than {ENUM_VALUES_MAX} different values in these series"))
                .with_hint("select other columns, or query fewer series")
        })?;
        casts.push(match positions.iter().copied().eq(0..narrow(positions.len())) {
            true => ColumnCast::Keep,
            false => ColumnCast::Enum(positions.into_iter().map(narrow).collect()),
        });
    }
    Ok((Some(all), casts))
}

/// The texts of a column of several series: those of the first, then the others' that are new.
fn common_texts(
    name: &str,
    series: &[Arc<SeriesState>],
    places: &[(usize, &Column)],
    texts_left: &mut usize,
) -> Result<CommonLabels> {
    let too_many = || {
        Error::new(ErrorCode::TooLarge, format!("column {name} has too many different texts in these series"))
            .with_hint("select other columns, or query fewer series")
    };
    let mut all: Option<Dictionary> = None;
    let mut casts = Vec::with_capacity(places.len());
    for (state, (position, _)) in series.iter().zip(places) {
        let texts = state.dictionaries.get(*position);
        let Some(texts) = texts.filter(|texts| !texts.is_empty()) else {
            casts.push(ColumnCast::Keep);
            continue;
        };
        let Some(all) = &mut all else {
            all = Some(texts.clone());
            casts.push(ColumnCast::Keep);
            continue;
        };
        *texts_left = texts_left.checked_sub(texts.len()).ok_or_else(too_many)?;
        if all.extends(texts) {
            casts.push(ColumnCast::Keep);
            continue;
        }
        let positions: Option<Vec<u32>> = texts.texts().map(|text| all.insert(text)).collect();
        let positions = positions.ok_or_else(too_many)?;
        casts.push(match positions.iter().copied().eq(0..narrow(positions.len())) {
            true => ColumnCast::Keep,
            false => ColumnCast::Text(positions.into()),
        });
    }
    Ok((Some(all.unwrap_or_default()), casts))
}

/// A column in each series, and its position there.
fn places_of<'a>(defs: &[&'a SeriesDef], name: &str) -> Result<Vec<(usize, &'a Column)>> {
    let place = |def: &&'a SeriesDef| {
        let position = def.column_named(name)?;
        Ok((position, cells::column(&def.columns, position)))
    };
    defs.iter().map(place).collect()
}

/// Bytes of an integer, and whether it has a sign.
fn integer(kind: ColumnType) -> Option<(u8, bool)> {
    Some(match kind {
        ColumnType::Int8 => (1, true),
        ColumnType::Int16 => (2, true),
        ColumnType::Int32 => (4, true),
        ColumnType::Int64 => (8, true),
        ColumnType::UInt8 => (1, false),
        ColumnType::UInt16 => (2, false),
        ColumnType::UInt32 => (4, false),
        ColumnType::UInt64 => (8, false),
        _ => return None,
    })
}

/// The integer of the fewest bytes that holds those of all kinds; `None` for `uint64` next to integers with a sign.
fn common_integer(kinds: &[(u8, bool)]) -> Option<ColumnType> {
    let is_signed = kinds.iter().any(|(_, signed)| *signed);
    // Without a sign, an integer needs twice the bytes next to those with one.
    let bytes = kinds.iter().map(|(bytes, signed)| if is_signed && !signed { 2 * bytes } else { *bytes }).max()?;
    Some(match (bytes, is_signed) {
        (1, true) => ColumnType::Int8,
        (2, true) => ColumnType::Int16,
        (4, true) => ColumnType::Int32,
        (8, true) => ColumnType::Int64,
        (1, false) => ColumnType::UInt8,
        (2, false) => ColumnType::UInt16,
        (4, false) => ColumnType::UInt32,
        (8, false) => ColumnType::UInt64,
        _ => return None,
    })
}

/// The type a column of several series has in the result.
fn common_kind(
    defs: &[&SeriesDef],
    name: &str,
    places: &[(usize, &Column)],
    numbers: NumberFormat,
) -> Result<ColumnType> {
    let (Some((_, first)), Some(def)) = (places.first(), defs.first()) else {
        return Err(Error::internal("a result of no series"));
    };
    let Some((other, (_, column))) = defs.iter().zip(places).find(|(_, (_, column))| column.kind != first.kind) else {
        return Ok(first.kind);
    };
    let differ = || {
        let (a, b) = (first.kind.text(), column.kind.text());
        mismatch(format!("column {name} is {a} in series {} and {b} in series {}", def.key, other.key))
    };
    let kinds: Vec<ColumnType> = places.iter().map(|(_, column)| column.kind).collect();
    let integers: Option<Vec<(u8, bool)>> = kinds.iter().map(|kind| integer(*kind)).collect();
    if let Some(integers) = integers {
        return common_integer(&integers).ok_or_else(|| {
            differ().with_hint("no integer holds both; select other columns, or query them separately")
        });
    }
    let is_float = |kind: &ColumnType| matches!(kind, ColumnType::Float64 | ColumnType::Float32);
    let digits_of = |kind: &ColumnType| match kind {
        ColumnType::Decimal { digits } | ColumnType::WideDecimal { digits } => Some(*digits),
        _ => None,
    };
    if kinds.iter().any(|kind| !is_float(kind) && digits_of(kind).is_none()) {
        return Err(differ().with_hint("select other columns, or query the series separately"));
    }
    if numbers == NumberFormat::Float64 || kinds.iter().all(is_float) {
        return Ok(ColumnType::Float64);
    }
    let digits: Option<Vec<u8>> = kinds.iter().map(digits_of).collect();
    let Some(digits) = digits else {
        return Err(differ().with_hint("numbers=float64 returns both as doubles"));
    };
    if numbers == NumberFormat::Raw && digits.windows(2).any(|pair| matches!(pair, [a, b] if a != b)) {
        let hint = "numbers=raw needs equal digits; numbers=stored rescales, numbers=float64 converts";
        return Err(differ().with_hint(hint));
    }
    let digits = digits.into_iter().max().unwrap_or_default();
    let is_wide = kinds.iter().any(|kind| matches!(kind, ColumnType::WideDecimal { .. }));
    Ok(if is_wide { ColumnType::WideDecimal { digits } } else { ColumnType::Decimal { digits } })
}

/// Checks that predicates on scaled integers mean the same in every series.
///
/// # Errors
/// `schema_mismatch` naming the column.
pub fn check_raw(defs: &[&SeriesDef], columns: &[&str]) -> Result<()> {
    for name in columns.iter().filter(|name| **name != "ts") {
        common_kind(defs, name, &places_of(defs, name)?, NumberFormat::Raw)?;
    }
    Ok(())
}
