//! The columns of a result, and how those of each series are converted to them.

use crate::error::{Error, ErrorCode, Result};
use crate::query::result::{NumberFormat, ResultColumn};
use crate::types::{ColumnType, SeriesDef, cells};

/// How the words of one column of one series are converted, so that all series have the same type in the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnCast {
    Keep,
    /// More digits; exact, or an error.
    Rescale {
        from: u8,
        to: u8,
    },
    /// The double nearest to a decimal of this many digits.
    Double {
        from: u8,
    },
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
/// series. A decimal column has the most digits of any series. The `leading` columns come first, named or not.
///
/// # Errors
/// `schema_mismatch` naming series and column where a series lacks a named column, types are incompatible, or units
/// differ; `invalid_argument` for a column listed twice.
pub fn common(
    defs: &[&SeriesDef],
    names: Option<&[&str]>,
    leading: &[&str],
    numbers: NumberFormat,
) -> Result<CommonColumns> {
    let first = *defs.first().ok_or_else(|| Error::invalid("series names no series"))?;
    if let Some(other) = defs.iter().find(|def| def.unit != first.unit) {
        return Err(mismatch(format!(
            "series {} has timestamps in {}, series {} in {}",
            first.key,
            first.unit.name(),
            other.key,
            other.unit.name()
        ))
        .with_hint("a query takes series of one unit"));
    }
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
    if let [only] = defs {
        let mut columns = Vec::with_capacity(names.len());
        let mut positions = Vec::with_capacity(names.len());
        for name in names {
            let position = only.column_named(name)?;
            columns.push(ResultColumn { name: name.to_owned(), kind: cells::column(&only.columns, position).kind });
            positions.push(position);
        }
        let casts = vec![ColumnCast::Keep; positions.len()];
        return Ok(CommonColumns { columns, members: vec![(positions, casts)] });
    }
    let mut columns = Vec::with_capacity(names.len());
    let mut members = vec![(Vec::with_capacity(names.len()), Vec::with_capacity(names.len())); defs.len()];
    for name in names {
        let kinds = kinds_of(defs, name)?;
        let kind = common_kind(defs, name, &kinds, numbers)?;
        for ((positions, casts), (position, column_kind)) in members.iter_mut().zip(kinds) {
            positions.push(position);
            casts.push(match (column_kind, kind) {
                (ColumnType::Decimal { digits: from }, ColumnType::Decimal { digits: to }) if from != to => {
                    ColumnCast::Rescale { from, to }
                }
                (ColumnType::Decimal { digits: from }, ColumnType::Float64) => ColumnCast::Double { from },
                _ => ColumnCast::Keep,
            });
        }
        columns.push(ResultColumn { name: name.to_owned(), kind });
    }
    Ok(CommonColumns { columns, members })
}

/// Position and type of a column in each series.
fn kinds_of(defs: &[&SeriesDef], name: &str) -> Result<Vec<(usize, ColumnType)>> {
    let position_and_kind = |def: &&SeriesDef| {
        let position = def.column_named(name)?;
        Ok((position, cells::column(&def.columns, position).kind))
    };
    defs.iter().map(position_and_kind).collect()
}

/// The type a column of several series has in the result.
fn common_kind(
    defs: &[&SeriesDef],
    name: &str,
    kinds: &[(usize, ColumnType)],
    numbers: NumberFormat,
) -> Result<ColumnType> {
    let (Some((_, first)), Some(def)) = (kinds.first(), defs.first()) else {
        return Err(Error::internal("a result of no series"));
    };
    let Some((other, (_, kind))) = defs.iter().zip(kinds).find(|(_, (_, kind))| kind != first) else {
        return Ok(*first);
    };
    let differ = || {
        let (a, b) = (first.text(), kind.text());
        mismatch(format!("column {name} is {a} in series {} and {b} in series {}", def.key, other.key))
    };
    if kinds.iter().any(|(_, kind)| *kind == ColumnType::Int64) {
        return Err(differ().with_hint("select other columns, or query the series separately"));
    }
    if numbers == NumberFormat::Float64 {
        return Ok(ColumnType::Float64);
    }
    let digits: Option<Vec<u8>> = kinds.iter().map(|(_, kind)| kind.digits()).collect();
    match digits.and_then(|digits| digits.into_iter().max()) {
        Some(_) if numbers == NumberFormat::Raw => {
            Err(differ().with_hint("numbers=raw needs equal digits; numbers=stored rescales, numbers=float64 converts"))
        }
        Some(digits) => Ok(ColumnType::Decimal { digits }),
        None => Err(differ().with_hint("numbers=float64 returns both as doubles")),
    }
}

/// Checks that predicates on scaled integers mean the same in every series.
///
/// # Errors
/// `schema_mismatch` naming the column.
pub fn check_raw(defs: &[&SeriesDef], columns: &[&str]) -> Result<()> {
    for name in columns.iter().filter(|name| **name != "ts") {
        common_kind(defs, name, &kinds_of(defs, name)?, NumberFormat::Raw)?;
    }
    Ok(())
}
