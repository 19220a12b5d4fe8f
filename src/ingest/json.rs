//! JSON bodies (an array of rows, `{"rows": …}`, `{"columns": …}`) and NDJSON.
//!
//! A row is an object, or an array of cells in the order of the registration with `ts` first, as exchanges and ccxt
//! return them. Cells are parsed from their source text, so that a decimal never passes through a double. Cells are not
//! parsed recursively: nested values are skipped without a stack, then rejected.

use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{Error, ErrorCode, ROW_ERRORS_MAX, Result};
use crate::types::{ColumnType, SeriesDef, SeriesKey};

use super::body_keys::{BodyKeys, SERIES};
use super::cell::TextForm;
use super::column_set::ColumnSet;
use super::header::{FieldFinder, fields_of_header, repeated_column, unknown_columns};
use super::options::DecodeOptions;
use super::parsed::Part;
use super::row_errors::quote;
use super::row_reader::RowReader;

/// Text of a body, without a byte order mark.
pub(super) fn as_text(body: &[u8]) -> Result<&str> {
    let text = std::str::from_utf8(body)
        .map_err(|error| Error::invalid(format!("json body is not UTF-8 after byte {}", error.valid_up_to())))?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// Decodes a JSON body.
pub(super) fn parse_json(def: &SeriesDef, body: &[u8], options: &DecodeOptions) -> Result<Part> {
    let mut reader = serde_json::Deserializer::from_str(as_text(body)?);
    let mut state = ParseState::new(def, options);
    let read = JsonBody(&mut state).deserialize(&mut reader).and_then(|()| reader.end());
    if let Some(failure) = state.failure {
        return Err(failure);
    }
    match read {
        // The maximum number of row errors was reached; the rest of the body was not read.
        Err(_) if state.stopped => {}
        Err(error) => return Err(Error::invalid(format!("json body is malformed: {error}"))),
        Ok(()) => {}
    }
    Ok(state.into_parts())
}

/// Decodes an NDJSON body: one row object per line.
pub(super) fn parse_ndjson(def: &SeriesDef, body: &[u8], options: &DecodeOptions) -> Result<Part> {
    let mut state = ParseState::new(def, options);
    for (line, text) in (1_u64..).zip(as_text(body)?.split('\n')) {
        if text.trim_ascii().is_empty() {
            continue;
        }
        if state.rows.errors().is_full() {
            break;
        }
        let mut reader = serde_json::Deserializer::from_str(text);
        let read = RowObject(&mut state).deserialize(&mut reader).and_then(|()| reader.end());
        if let Some(failure) = state.failure {
            return Err(failure);
        }
        read.map_err(|error| Error::invalid(format!("ndjson line {line} is malformed: {error}")))?;
    }
    Ok(state.into_parts())
}

/// Decodes the rows or columns of one entry of `{"writes": […]}`.
///
/// # Errors
/// Errors that reject the entire body; row errors are part of the result.
pub(super) fn parse_raw(def: &SeriesDef, raw: &str, is_rows: bool, options: &DecodeOptions) -> Result<Part> {
    let mut reader = serde_json::Deserializer::from_str(raw);
    let mut state = ParseState::new(def, options);
    let read = if is_rows {
        RowList(&mut state).deserialize(&mut reader)
    } else {
        ColumnMap(&mut state).deserialize(&mut reader)
    };
    if let Some(failure) = state.failure {
        return Err(failure);
    }
    match read {
        Err(_) if state.stopped => {}
        Err(error) => return Err(Error::invalid(format!("the entry is malformed: {error}"))),
        Ok(()) => {}
    }
    Ok(state.into_parts())
}

/// The non-empty lines of an NDJSON body, with their numbers from 1.
fn lines(body: &[u8]) -> Result<impl Iterator<Item = (u64, &str)>> {
    Ok((1_u64..).zip(as_text(body)?.split('\n')).filter(|(_, text)| !text.trim_ascii().is_empty()))
}

/// The `series` field of a line, which is parsed first.
#[derive(serde::Deserialize)]
struct SeriesOf<'l> {
    #[serde(borrow)]
    series: Option<std::borrow::Cow<'l, str>>,
}

/// The keys of an NDJSON body, and for each row the position of its key.
pub(super) fn series_of_rows(body: &[u8]) -> Result<(Vec<SeriesKey>, Vec<u32>)> {
    let mut labels = BodyKeys::default();
    for (line, text) in lines(body)? {
        let found: SeriesOf<'_> = serde_json::from_str(text)
            .map_err(|error| Error::invalid(format!("ndjson line {line} is malformed: {error}")))?;
        labels.push(found.series.ok_or_else(|| labels.missing())?.as_bytes())?;
    }
    Ok(labels.into_parts())
}

/// Decodes an NDJSON body whose rows have a `series` field.
pub(super) fn parse_labelled(
    defs: &[Arc<SeriesDef>],
    of_row: &[u32],
    body: &[u8],
    options: &DecodeOptions,
) -> Result<Vec<Part>> {
    let mut states: Vec<ParseState<'_>> =
        defs.iter().map(|def| ParseState { is_labelled: true, ..ParseState::new(def, options) }).collect();
    let mut error_count = 0;
    for ((line, text), label) in lines(body)?.zip(of_row) {
        let Some(state) = states.get_mut(*label as usize) else { continue };
        let errors_before = state.rows.errors().len();
        let mut reader = serde_json::Deserializer::from_str(text);
        let read = RowObject(&mut *state).deserialize(&mut reader).and_then(|()| reader.end());
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        read.map_err(|error| Error::invalid(format!("ndjson line {line} is malformed: {error}")))?;
        error_count += state.rows.errors().len() - errors_before;
        if error_count >= ROW_ERRORS_MAX {
            break;
        }
    }
    Ok(states.into_iter().map(|state| state.rows.into_parts()).collect())
}

/// State of a decoder.
struct ParseState<'a> {
    rows: RowReader<'a>,
    finder: FieldFinder,
    /// An error of this module, which the decoder's error type cannot hold.
    failure: Option<Error>,
    columns: Option<ColumnSet<'a>>,
    /// Whether decoding stopped early at the maximum number of row errors.
    stopped: bool,
    /// Whether rows have a `series` field; its value is already known.
    is_labelled: bool,
}

impl<'a> ParseState<'a> {
    fn new(def: &'a SeriesDef, options: &'a DecodeOptions) -> Self {
        Self {
            rows: RowReader::new(def, options, 0),
            finder: FieldFinder::default(),
            failure: None,
            columns: None,
            stopped: false,
            is_labelled: false,
        }
    }
}

impl ParseState<'_> {
    /// The rows read so far, and their errors.
    fn into_parts(self) -> Part {
        match self.columns {
            Some(columns) => columns.into_parts(),
            None => self.rows.into_parts(),
        }
    }

    /// Sets one cell of the row.
    fn cell(&mut self, field: usize, raw: &RawValue) {
        match CellToken::of(raw) {
            CellToken::Number(text) => self.rows.text(field, text, TextForm::Bare),
            CellToken::Text(text) => self.rows.text(field, text.as_bytes(), TextForm::String),
            CellToken::Flag(text) if takes_flags(self.rows.def(), field) => {
                self.rows.text(field, text, TextForm::Bare);
            }
            CellToken::Null => self.rows.missing(field),
            CellToken::Flag(_) | CellToken::Other => self.rows.wrong_type(field, raw.get().as_bytes()),
        }
    }

    /// Stores an error and stops the decoder.
    fn fail<E: serde::de::Error>(&mut self, error: Error) -> E {
        self.failure = Some(error);
        E::custom("rejected")
    }
}

/// Whether a field takes `true` and `false`.
fn takes_flags(def: &SeriesDef, field: usize) -> bool {
    let column = field.checked_sub(1).and_then(|column| def.columns.get(column));
    column.is_some_and(|column| column.kind == ColumnType::Bool)
}

/// A JSON value, classified by its first byte.
enum CellToken<'t> {
    Number(&'t [u8]),
    Text(std::borrow::Cow<'t, str>),
    /// `true` or `false`.
    Flag(&'t [u8]),
    Null,
    Other,
}

impl<'t> CellToken<'t> {
    fn of(raw: &'t RawValue) -> Self {
        let text = raw.get();
        match text.as_bytes() {
            [b'0'..=b'9' | b'-', ..] => CellToken::Number(text.as_bytes()),
            [b'n', ..] => CellToken::Null,
            [b't' | b'f', ..] => CellToken::Flag(text.as_bytes()),
            [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => CellToken::Text(String::from_utf8_lossy(inner)),
            [b'"', ..] => {
                serde_json::from_str(text).map_or(CellToken::Other, |text: String| CellToken::Text(text.into()))
            }
            _ => CellToken::Other,
        }
    }
}

/// Visitor of the body.
struct JsonBody<'s, 'a>(&'s mut ParseState<'a>);

impl<'de> DeserializeSeed<'de> for JsonBody<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for JsonBody<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of rows, {\"rows\": [...]} or {\"columns\": {...}}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        RowList(self.0).visit_seq(seq)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let state = self.0;
        let mut found = false;
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if !matches!(name.as_ref(), "rows" | "columns") {
                let known = def_has(state.rows.def(), &name);
                let error =
                    Error::invalid(format!("the body has a field {}", quote(name.as_bytes()))).with_hint(if known {
                        "rows must be in an array"
                    } else {
                        "an array of rows, {\"rows\": …} or {\"columns\": …}"
                    });
                return Err(state.fail(error));
            }
            if std::mem::replace(&mut found, true) {
                return Err(state.fail(Error::invalid("the body has more than one of rows and columns")));
            }
            if name == "rows" {
                map.next_value_seed(RowList(state))?;
            } else {
                map.next_value_seed(ColumnMap(state))?;
            }
        }
        if found { Ok(()) } else { Err(A::Error::custom("neither rows nor columns")) }
    }
}

fn def_has(def: &SeriesDef, name: &str) -> bool {
    name == "ts" || def.column(name).is_some()
}

/// Visitor of an array of rows.
struct RowList<'s, 'a>(&'s mut ParseState<'a>);

impl<'de> DeserializeSeed<'de> for RowList<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for RowList<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(RowObject(self.0))?.is_some() {
            if self.0.rows.errors().is_full() {
                self.0.stopped = true;
                return Err(A::Error::custom("too many invalid rows"));
            }
        }
        Ok(())
    }
}

/// Visitor of one row.
struct RowObject<'s, 'a>(&'s mut ParseState<'a>);

impl<'de> DeserializeSeed<'de> for RowObject<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for RowObject<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row {} to be an object such as {{\"ts\": …}} or an array of cells", self.0.rows.row())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let state = self.0;
        let def = state.rows.def();
        if state.is_labelled {
            let error = Error::invalid(format!("row {} is an array and has no series", state.rows.row()))
                .with_hint("rows of several series must be objects: {\"series\": …, \"ts\": …, …}");
            return Err(state.fail(error));
        }
        let (mut cells, fields) = (0, def.columns.len() + 1);
        while let Some(raw) = seq.next_element::<&'de RawValue>()? {
            if cells == 0 && raw.get().starts_with('{') {
                let error = Error::invalid(format!("row {} is an array of objects", state.rows.row()))
                    .with_hint("an array of rows is JSON, not NDJSON: Content-Type: application/json");
                return Err(state.fail(error));
            }
            if cells < fields {
                state.rows.mark(cells);
                state.cell(cells, raw);
            }
            cells += 1;
        }
        if cells != fields {
            let names: Vec<&str> = def.columns.iter().map(|column| column.name.as_str()).collect();
            let detail = format!("row {} has {cells} cells, a row of {} has {fields}", state.rows.row(), def.key);
            let error = Error::new(ErrorCode::SchemaMismatch, detail).with_hint(format!(
                "an array needs the cells of all columns in order: ts, {}; an object names them",
                names.join(", ")
            ));
            return Err(state.fail(error));
        }
        state.rows.end_row();
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let state = self.0;
        let mut unknown = Vec::new();
        while let Some(field) = map.next_key_seed(FieldName(&mut state.finder, state.rows.def()))? {
            let field = match field {
                Ok(field) => field,
                Err(name) => {
                    map.next_value::<IgnoredAny>()?;
                    if !state.is_labelled || name != SERIES {
                        unknown.push(name);
                    }
                    continue;
                }
            };
            if !state.rows.mark(field) {
                let error = Error::invalid(format!("row {} has a column twice", state.rows.row()));
                return Err(state.fail(error));
            }
            let raw = map.next_value::<&'de RawValue>()?;
            state.cell(field, raw);
        }
        if !unknown.is_empty() {
            let error = unknown_columns(state.rows.def(), &unknown);
            return Err(state.fail(error));
        }
        state.rows.end_row();
        Ok(())
    }
}

/// Visitor of a field name: the position of the field, or the name if the series does not have it.
struct FieldName<'f>(&'f mut FieldFinder, &'f SeriesDef);

impl<'de> DeserializeSeed<'de> for FieldName<'_> {
    type Value = Result<usize, String>;
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldName<'_> {
    type Value = Result<usize, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a column name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
        // Only the first 100 characters of an unknown name are retained.
        Ok(self.0.find(self.1, name).ok_or_else(|| name.chars().take(100).collect()))
    }
}

/// Visitor of the object of `{"columns": …}`.
struct ColumnMap<'s, 'a>(&'s mut ParseState<'a>);

impl<'de> DeserializeSeed<'de> for ColumnMap<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ColumnMap<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of columns")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let state = self.0;
        let (def, options) = (state.rows.def(), state.rows.options());
        let mut set = ColumnSet::new(def, options, 0);
        let mut finder = FieldFinder::default();
        let mut names: Vec<String> = Vec::new();
        let mut first_length = None;
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            let Some(field) = finder.find(def, &name) else {
                return Err(state.fail(unknown_columns(def, &[name.into_owned()])));
            };
            if names.iter().any(|known| *known == name) {
                return Err(state.fail(repeated_column(&name)));
            }
            let length = map.next_value_seed(NamedColumn { set: &mut set, field })?;
            match first_length {
                None => first_length = Some(length),
                Some(first) if first != length => {
                    let error = Error::new(
                        ErrorCode::SchemaMismatch,
                        format!("column {name} has {length} cells, the columns before it have {first}"),
                    );
                    return Err(state.fail(error));
                }
                Some(_) => {}
            }
            names.push(name.into_owned());
        }
        let fields = match fields_of_header(def, names.iter().map(String::as_str)) {
            Ok(fields) => fields,
            Err(error) => return Err(state.fail(error)),
        };
        let rows = first_length.unwrap_or(0);
        set.absent_columns(&fields, rows);
        set.end_block(rows);
        state.columns = Some(set);
        Ok(())
    }
}

/// Visitor of the cells of one column; returns their count.
struct NamedColumn<'s, 'a> {
    set: &'s mut ColumnSet<'a>,
    field: usize,
}

impl<'de> DeserializeSeed<'de> for NamedColumn<'_, '_> {
    type Value = usize;
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<usize, D::Error> {
        reader.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for NamedColumn<'_, '_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of cells")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<usize, A::Error> {
        let NamedColumn { set, field } = self;
        let mut row = 0;
        while let Some(raw) = seq.next_element::<&'de RawValue>()? {
            match CellToken::of(raw) {
                CellToken::Number(text) => set.text(row, field, text, TextForm::Bare),
                CellToken::Text(text) => set.text(row, field, text.as_bytes(), TextForm::String),
                CellToken::Flag(text) if takes_flags(set.def, field) => set.text(row, field, text, TextForm::Bare),
                CellToken::Null => set.missing(row, field),
                CellToken::Flag(_) | CellToken::Other => set.wrong_type(row, field, raw.get().as_bytes()),
            }
            row += 1;
        }
        Ok(row)
    }
}
