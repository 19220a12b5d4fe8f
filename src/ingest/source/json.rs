//! Reads rows of JSON: an array of arrays or objects, or a sequence of such rows (NDJSON).
//!
//! Rows are split at their brackets and parsed one at a time; the text is never in memory as a whole. Numbers keep
//! their digits.

use std::borrow::Cow;
use std::io::{self, BufRead};

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{Error, Result};

use super::cell::{PREVIEW_ROWS, Preview, SourceCell, SourceRecord, Visit};
use super::file::{Input, ReadProgress, unobserved};

/// Longest row.
const ROW_BYTES_MAX: usize = 1 << 20;

/// Splits the text into rows.
struct JsonRows<R> {
    reader: R,
    /// Line of the next byte, from 1.
    line: u64,
    state: JsonState,
    row: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JsonState {
    Start,
    /// Inside the outer array; whether a comma must come before the next row.
    Array {
        comma: bool,
    },
    /// A sequence of rows.
    Lines,
    End,
}

/// A syntax error with its line, or an error of the reader.
enum JsonError {
    Io(io::Error),
    Text(u64, &'static str),
}

impl From<io::Error> for JsonError {
    fn from(error: io::Error) -> Self {
        JsonError::Io(error)
    }
}

impl<R: BufRead> JsonRows<R> {
    fn new(reader: R) -> Self {
        Self { reader, line: 1, state: JsonState::Start, row: Vec::new() }
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.reader.fill_buf()?.first().copied())
    }

    /// The next byte that is not white space, without consuming it.
    fn peek_word(&mut self) -> io::Result<Option<u8>> {
        while let Some(byte) = self.peek()? {
            match byte {
                b'\n' => self.line += 1,
                b' ' | b'\t' | b'\r' => {}
                _ => return Ok(Some(byte)),
            }
            self.reader.consume(1);
        }
        Ok(None)
    }

    /// The text of the next row and its first line.
    fn next(&mut self) -> Result<Option<(&[u8], u64)>, JsonError> {
        self.row.clear();
        if self.state == JsonState::Start {
            if self.peek_word()? == Some(b'[') {
                self.reader.consume(1);
                match self.peek_word()? {
                    Some(b'[' | b'{' | b']') => self.state = JsonState::Array { comma: false },
                    // The bracket starts a row.
                    _ => {
                        self.row.push(b'[');
                        self.state = JsonState::Lines;
                    }
                }
            } else {
                self.state = JsonState::Lines;
            }
        }
        let mut byte = self.peek_word()?;
        if let JsonState::Array { comma } = self.state {
            match byte {
                Some(b']') => {
                    self.reader.consume(1);
                    self.state = JsonState::End;
                    byte = self.peek_word()?;
                }
                Some(b',') if comma => {
                    self.reader.consume(1);
                    byte = self.peek_word()?;
                }
                None => return Err(JsonError::Text(self.line, "ends inside its array")),
                Some(_) if comma => return Err(JsonError::Text(self.line, "has no comma between two rows")),
                Some(_) => {}
            }
            if self.state != JsonState::End {
                self.state = JsonState::Array { comma: true };
            }
        }
        if self.state == JsonState::End {
            return match byte {
                None => Ok(None),
                Some(_) => Err(JsonError::Text(self.line, "continues after its array")),
            };
        }
        let line = self.line;
        if self.row.is_empty() {
            match byte {
                Some(b'[' | b'{') => {}
                None if self.state == JsonState::Lines => return Ok(None),
                _ => return Err(JsonError::Text(line, "contains a value that is neither an array nor an object")),
            }
        }
        self.cut()?;
        Ok(Some((&self.row, line)))
    }

    /// Copies bytes up to the bracket that closes the row.
    fn cut(&mut self) -> Result<(), JsonError> {
        let mut depth = self.row.len();
        let (mut quoted, mut escaped) = (false, false);
        loop {
            let bytes = self.reader.fill_buf()?;
            if bytes.is_empty() {
                return Err(JsonError::Text(self.line, "ends inside a row"));
            }
            let mut used = 0;
            let mut closed = false;
            for byte in bytes {
                used += 1;
                self.line += u64::from(*byte == b'\n');
                if quoted {
                    match byte {
                        _ if escaped => escaped = false,
                        b'\\' => escaped = true,
                        b'"' => quoted = false,
                        _ => {}
                    }
                    continue;
                }
                match byte {
                    b'"' => quoted = true,
                    b'[' | b'{' => depth += 1,
                    b']' | b'}' => {
                        depth = depth.saturating_sub(1);
                        if depth == 0 {
                            closed = true;
                            break;
                        }
                    }
                    _ => {}
                }
            }
            self.row.extend_from_slice(bytes.get(..used).unwrap_or_default());
            self.reader.consume(used);
            if closed {
                return Ok(());
            }
            if self.row.len() > ROW_BYTES_MAX {
                return Err(JsonError::Text(self.line, "has a row of more than 1 MiB"));
            }
        }
    }
}

fn broken(input: &Input, broken: JsonError) -> Error {
    match broken {
        JsonError::Io(error) => input.broken(&error),
        JsonError::Text(line, what) => Error::invalid(format!("{} line {line}: the JSON {what}", input.label))
            .with_hint("expected an array of arrays or objects, or a sequence of arrays or objects"),
    }
}

/// The members of an object, in order.
struct JsonMembers<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for JsonMembers<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct MemberName<'a>(#[serde(borrow)] Cow<'a, str>);
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = JsonMembers<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(MemberName(name)) = map.next_key()? {
                    members.push((name, map.next_value()?));
                }
                Ok(JsonMembers(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

/// A row with unparsed values.
enum JsonRow<'a> {
    Array(Vec<&'a RawValue>),
    Object(JsonMembers<'a>),
}

fn parse<'a>(input: &Input, text: &'a [u8], line: u64) -> Result<JsonRow<'a>> {
    let row = match text {
        [b'{', ..] => serde_json::from_slice(text).map(JsonRow::Object),
        _ => serde_json::from_slice(text).map(JsonRow::Array),
    };
    row.map_err(|error| {
        let at = line + u64::try_from(error.line()).unwrap_or(1).saturating_sub(1);
        Error::invalid(format!("{} line {at}: the JSON is malformed: {error}", input.label))
    })
}

/// The text of a string with escapes; an escape can name half a character.
type Unescaped = std::result::Result<String, serde_json::Error>;

fn unescape(value: &RawValue) -> Option<Unescaped> {
    let text = value.get();
    (text.starts_with('"') && text.contains('\\')).then(|| serde_json::from_str(text))
}

fn cell<'a>(value: &'a RawValue, unescaped: Option<&'a Unescaped>) -> SourceCell<'a> {
    match unescaped {
        Some(Ok(text)) => return SourceCell::Text(text.as_bytes()),
        Some(Err(_)) => return SourceCell::Wrong("text with an invalid escape"),
        None => {}
    }
    let text = value.get();
    match text.as_bytes() {
        [b'"', inner @ .., b'"'] => SourceCell::Text(inner),
        [b'n', ..] => SourceCell::Missing,
        [b't', ..] => SourceCell::Flag(true),
        [b'f', ..] => SourceCell::Flag(false),
        [b'[', ..] => SourceCell::Wrong("an array"),
        [b'{', ..] => SourceCell::Wrong("an object"),
        number => SourceCell::Text(number),
    }
}

/// The first rows; with names if the first row is an object.
pub fn preview(input: &Input) -> Result<Preview> {
    let mut rows = JsonRows::new(input.text(&unobserved())?);
    let mut names: Option<Vec<String>> = None;
    let mut cells: Vec<Vec<String>> = Vec::new();
    while cells.len() < PREVIEW_ROWS {
        let Some((text, line)) = rows.next().map_err(|error| broken(input, error))? else { break };
        let show = |value: &RawValue| cell(value, unescape(value).as_ref()).trimmed().show().into_owned();
        match (parse(input, text, line)?, &mut names) {
            (JsonRow::Array(values), None) => cells.push(values.into_iter().map(show).collect()),
            (JsonRow::Object(JsonMembers(members)), names) if names.is_some() || cells.is_empty() => {
                let names = names.get_or_insert_default();
                let mut row = vec![String::new(); names.len()];
                for (name, value) in members {
                    let at = names.iter().position(|known| *known == name).unwrap_or_else(|| {
                        names.push(name.into_owned());
                        row.push(String::new());
                        names.len() - 1
                    });
                    if let Some(place) = row.get_mut(at) {
                        *place = show(value);
                    }
                }
                cells.push(row);
            }
            // Rows of the other shape are reported when they are read.
            _ => cells.push(Vec::new()),
        }
    }
    Ok(Preview { names, rows: cells })
}

/// Reads every row and passes the values at `positions` to `visit`; with `names` the positions are those of the names.
pub fn read(
    input: &Input,
    names: Option<&[String]>,
    header: bool,
    positions: &[usize],
    progress: &ReadProgress,
    visit: &mut Visit<'_>,
) -> Result<()> {
    let mut rows = JsonRows::new(input.text(progress)?);
    let mut row = 0;
    let mut skip = header;
    while let Some((text, line)) = rows.next().map_err(|error| broken(input, error))? {
        if std::mem::take(&mut skip) {
            continue;
        }
        let values: Vec<Option<&RawValue>> = match (parse(input, text, line)?, names) {
            (JsonRow::Array(values), None) => positions.iter().map(|at| values.get(*at).copied()).collect(),
            (JsonRow::Object(JsonMembers(members)), Some(names)) => positions
                .iter()
                .map(|at| {
                    let expected = names.get(*at)?;
                    members.iter().rev().find(|(name, _)| name == expected).map(|(_, value)| *value)
                })
                .collect(),
            _ => {
                let cells = vec![SourceCell::Wrong("in a row of another shape than the first"); positions.len()];
                visit(SourceRecord { row, line: Some(line), cells: &cells })?;
                row += 1;
                continue;
            }
        };
        let unescaped: Vec<Option<Unescaped>> = values.iter().map(|value| value.and_then(unescape)).collect();
        let cells: Vec<SourceCell<'_>> = values
            .iter()
            .zip(&unescaped)
            .map(|(value, text)| value.map_or(SourceCell::Missing, |value| cell(value, text.as_ref())))
            .collect();
        visit(SourceRecord { row, line: Some(line), cells: &cells })?;
        row += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::file;
    use super::*;

    fn rows(text: &str, names: Option<&[&str]>, positions: &[usize]) -> Result<Vec<Vec<String>>> {
        let (_folder, path) = file("x.json", text.as_bytes());
        let input = Input::detect(&path)?;
        let names: Option<Vec<String>> = names.map(|names| names.iter().map(|n| (*n).to_string()).collect());
        let mut found = Vec::new();
        read(&input, names.as_deref(), false, positions, &unobserved(), &mut |record| {
            found.push(record.cells.iter().map(|cell| cell.show().into_owned()).collect());
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn arrays_are_read_one_row_at_a_time_with_their_digits() {
        let expected = vec![vec!["1".to_string(), "8e-8".into()], vec!["2".into(), "1.50".into()]];
        assert_eq!(rows("[[1, 7, 8e-8],\n [2,7,1.50]]", None, &[0, 2]).unwrap(), expected);
        assert_eq!(rows("[1,7,8e-8]\n[2,7,1.50]\n", None, &[0, 2]).unwrap(), expected);
        assert_eq!(rows("[]", None, &[0]).unwrap(), Vec::<Vec<String>>::new());
    }

    #[test]
    fn objects_are_read_by_name() {
        let expected = vec![vec!["2017-01-03".to_string(), "1.5".into()], vec!["b]\"".into(), String::new()]];
        let text = r#"[{"ts":"2017-01-03","x":{"close":9},"close":1.5},{"close":null,"ts":"b]\""}]"#;
        assert_eq!(rows(text, Some(&["ts", "close"]), &[0, 1]).unwrap(), expected);
        let lines = "{\"ts\":\"2017-01-03\",\"close\":1.5}\n{\n \"ts\":\"b]\\\"\"}";
        assert_eq!(rows(lines, Some(&["ts", "close"]), &[0, 1]).unwrap(), expected);
    }

    #[test]
    fn malformed_text_is_an_error_with_its_line() {
        for (text, line) in [
            ("[[1,2],\n[3,", "line 2"),
            ("[[1,2]\n[3,4]]", "line 2"),
            ("[[1,2]] [3]", "line 1"),
            ("[[1,2],3]", "line 1"),
            ("{\"ts\":1}\nx", "line 2"),
            ("[[1,2},\n", "line 1"),
            ("[[1,2", "line 1"),
            ("[[1,2]", "line 1"),
        ] {
            let error = rows(text, None, &[0]).unwrap_err();
            assert_eq!(error.code(), crate::ErrorCode::InvalidArgument);
            assert!(error.detail().contains(line), "{text}: {error}");
        }
        let deep = "[".repeat(3 << 20);
        assert!(rows(&deep, None, &[0]).unwrap_err().detail().contains("1 MiB"));
    }

    #[test]
    fn text_with_an_invalid_escape_is_no_missing_cell() {
        assert_eq!(rows(r#"[["\ud800", "\u0031"]]"#, None, &[0, 1]).unwrap(), [["text with an invalid escape", "1"]]);
    }

    #[test]
    fn names_are_collected_from_the_first_rows() {
        let (_folder, path) = file("x.json", br#"[{"ts":1},{"ts":2,"open":3}]"#);
        let preview = preview(&Input::detect(&path).unwrap()).unwrap();
        assert_eq!(preview.names.unwrap(), ["ts", "open"]);
        assert_eq!(preview.rows, [vec!["1".to_string()], vec!["2".into(), "3".into()]]);
    }
}
