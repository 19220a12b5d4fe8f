//! The columns of a body by name.

use super::row_errors::quote;
use crate::error::{Error, ErrorCode, Result};
use crate::types::SeriesDef;

/// Bit of a field in a set of fields.
pub(super) fn bit(field: usize) -> u128 {
    1_u128.checked_shl(u32::try_from(field).unwrap_or(u32::MAX)).unwrap_or(0)
}

/// Finds the field of a name, trying the successor of the last one first.
#[derive(Debug, Default)]
pub(super) struct FieldFinder {
    next: usize,
}

impl FieldFinder {
    /// Position of a field: 0 for `ts`, else the position of the column plus one.
    pub(super) fn find(&mut self, def: &SeriesDef, name: &str) -> Option<usize> {
        let at = |field: usize| match field.checked_sub(1) {
            None => Some("ts"),
            Some(column) => def.columns.get(column).map(|column| column.name.as_str()),
        };
        let count = def.columns.len() + 1;
        let found =
            if at(self.next) == Some(name) { self.next } else { (0..count).find(|field| at(*field) == Some(name))? };
        self.next = (found + 1) % count;
        Some(found)
    }
}

/// `schema_mismatch` for columns the series does not have.
pub(super) fn unknown_columns(def: &SeriesDef, names: &[String]) -> Error {
    let names: Vec<String> = names.iter().take(10).map(|name| quote(name.as_bytes())).collect();
    let known: Vec<&str> = std::iter::once("ts").chain(def.columns.iter().map(|c| c.name.as_str())).collect();
    Error::new(ErrorCode::SchemaMismatch, format!("series {} has no column {}", def.key, names.join(", ")))
        .with_hint(format!("its columns are {}", known.join(", ")))
}

/// `schema_mismatch` for columns a header lacks.
pub(super) fn missing_columns(def: &SeriesDef, names: &[&str]) -> Error {
    Error::new(ErrorCode::SchemaMismatch, format!("column {} of series {} is missing", names.join(", "), def.key))
        .with_hint("every column must be present, unless it is nullable")
}

/// `schema_mismatch` for a repeated column.
pub(super) fn repeated_column(name: &str) -> Error {
    Error::new(ErrorCode::SchemaMismatch, format!("column {} is listed twice", quote(name.as_bytes())))
}

/// Checks a header against the registration and returns the field of each of its names.
///
/// # Errors
/// `schema_mismatch` naming unknown, missing or repeated columns. Nullable columns may be missing.
pub(super) fn fields_of_header<'n>(def: &SeriesDef, names: impl Iterator<Item = &'n str>) -> Result<Vec<usize>> {
    let mut finder = FieldFinder::default();
    let mut fields = Vec::new();
    let mut unknown = Vec::new();
    let mut seen = 0;
    for name in names {
        match finder.find(def, name) {
            None => unknown.push(name.to_owned()),
            Some(field) if seen & bit(field) != 0 => return Err(repeated_column(name)),
            Some(field) => {
                seen |= bit(field);
                fields.push(field);
            }
        }
    }
    if !unknown.is_empty() {
        return Err(unknown_columns(def, &unknown));
    }
    let needed = def.columns.iter().map(|column| (column.name.as_str(), !column.nullable));
    let needed = std::iter::once(("ts", true)).chain(needed).enumerate();
    let missing: Vec<&str> = needed
        .filter(|(field, (_, is_needed))| *is_needed && seen & bit(*field) == 0)
        .map(|(_, (name, _))| name)
        .collect();
    if missing.is_empty() { Ok(fields) } else { Err(missing_columns(def, &missing)) }
}
