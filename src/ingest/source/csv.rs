//! Reads rows of delimited text.
//!
//! Spaces around a field are trimmed, but not those inside its quotes; blank lines are skipped, lines end with `\n` or
//! `\r\n`. A quoted field may contain line ends; the line of a row is its first one. Quotes inside a field that does not
//! begin with one are characters like any other.

use std::io::{BufRead, Read};

use crate::error::{Error, Result};

use super::cell::{PREVIEW_ROWS, Preview, SourceCell, SourceRecord, Visit};
use super::file::{Input, ReadProgress, unobserved};

/// Separators to try, the most likely first.
const SEPARATORS: [u8; 4] = [b',', b';', b'\t', b'|'];
/// Longest row.
const ROW_BYTES_MAX: u64 = 1 << 20;

/// Splits the text into rows and fields.
struct CsvRows<'a> {
    input: &'a Input,
    reader: Box<dyn BufRead>,
    separator: u8,
    /// Lines read so far.
    lines: u64,
    text: Vec<u8>,
    quoted: QuotedRow,
    /// Whether the text ends in quotes.
    is_cut: bool,
}

/// A field of a row with quotes.
#[derive(Clone, Copy, Debug)]
struct QuotedField {
    begin: usize,
    end: usize,
    is_quoted: bool,
}

/// Where the reader of a row with quotes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QuoteState {
    Start,
    Plain,
    Quoted,
    /// After a quote that ends the field, or is the first of two.
    Closed,
}

/// The fields of a row with quotes, without them.
#[derive(Debug)]
struct QuotedRow {
    bytes: Vec<u8>,
    fields: Vec<QuotedField>,
    open: QuotedField,
    state: QuoteState,
}

impl QuotedRow {
    fn new() -> Self {
        let open = QuotedField { begin: 0, end: 0, is_quoted: false };
        Self { bytes: Vec::new(), fields: Vec::new(), open, state: QuoteState::Start }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.fields.clear();
        self.begin_field();
    }

    fn begin_field(&mut self) {
        let begin = self.bytes.len();
        (self.open, self.state) = (QuotedField { begin, end: begin, is_quoted: false }, QuoteState::Start);
    }

    fn end_field(&mut self) {
        self.open.end = self.bytes.len();
        self.fields.push(self.open);
        self.begin_field();
    }

    /// Reads the next line of the row, with its end; whether a quote is open then.
    fn line(&mut self, line: &[u8], separator: u8) -> bool {
        for byte in line {
            match (self.state, *byte) {
                (QuoteState::Quoted, b'"') => self.state = QuoteState::Closed,
                (QuoteState::Start, b'"') => (self.state, self.open.is_quoted) = (QuoteState::Quoted, true),
                (QuoteState::Closed, b'"') => {
                    self.state = QuoteState::Quoted;
                    self.bytes.push(b'"');
                }
                (QuoteState::Quoted, byte) => self.bytes.push(byte),
                (_, byte) if byte == separator => self.end_field(),
                // Spaces between the closing quote and the separator, and the end of the line.
                (QuoteState::Closed, byte) if byte.is_ascii_whitespace() => {}
                (state, byte) => {
                    self.bytes.push(byte);
                    if state == QuoteState::Start {
                        self.state = QuoteState::Plain;
                    }
                }
            }
        }
        if self.state == QuoteState::Quoted {
            return true;
        }
        self.end_field();
        false
    }

    /// A field, and whether it was in quotes.
    fn get(&self, position: usize) -> Option<(&[u8], bool)> {
        let field = self.fields.get(position)?;
        let text = self.bytes.get(field.begin..field.end)?;
        Some((if field.is_quoted { text } else { text.trim_ascii() }, field.is_quoted))
    }
}

/// The fields of one row.
enum CsvFields<'a> {
    Plain { text: &'a [u8], separator: u8 },
    Quoted(&'a QuotedRow),
}

impl<'a> CsvFields<'a> {
    fn iter(&self) -> Box<dyn Iterator<Item = &'a [u8]> + 'a> {
        match *self {
            CsvFields::Plain { text, separator } => {
                Box::new(text.split(move |byte| *byte == separator).map(<[u8]>::trim_ascii))
            }
            CsvFields::Quoted(row) => {
                Box::new((0..row.fields.len()).filter_map(|at| row.get(at)).map(|(text, _)| text.trim_ascii()))
            }
        }
    }

    /// The fields at these positions, as cells.
    fn pick(&self, positions: &[usize], cells: &mut Vec<SourceCell<'a>>) {
        match *self {
            CsvFields::Plain { text, separator } => {
                let mut fields: [&[u8]; FIELDS_KNOWN] = [&[]; FIELDS_KNOWN];
                let found = text.split(|byte| *byte == separator).map(<[u8]>::trim_ascii);
                for (place, field) in fields.iter_mut().zip(found) {
                    *place = field;
                }
                cells.extend(positions.iter().map(|at| {
                    match fields.get(*at) {
                        Some(field) => SourceCell::text(field),
                        None => text
                            .split(|byte| *byte == separator)
                            .nth(*at)
                            .map_or(SourceCell::Missing, |field| SourceCell::text(field.trim_ascii())),
                    }
                }));
            }
            CsvFields::Quoted(row) => {
                cells.extend(positions.iter().map(|at| match row.get(*at) {
                    // An empty field in quotes is the empty text.
                    Some((field, true)) => SourceCell::Text(field),
                    Some((field, false)) => SourceCell::text(field),
                    None => SourceCell::Missing,
                }));
            }
        }
    }
}

/// Fields of a row that are found in one pass; later ones are searched one by one.
const FIELDS_KNOWN: usize = 32;

impl<'a> CsvRows<'a> {
    fn new(input: &'a Input, separator: u8, progress: &ReadProgress) -> Result<Self> {
        let (text, quoted) = (Vec::new(), QuotedRow::new());
        Ok(Self { input, reader: input.text(progress)?, separator, lines: 0, text, quoted, is_cut: false })
    }

    /// The next row and its first line, from 1.
    fn next(&mut self) -> Result<Option<(CsvFields<'_>, u64)>> {
        loop {
            self.text.clear();
            if self.read_line(ROW_BYTES_MAX, self.lines + 1)? == 0 {
                return Ok(None);
            }
            if !self.text.trim_ascii().is_empty() {
                break;
            }
        }
        let begin = self.lines;
        if !self.text.contains(&b'"') {
            return Ok(Some((CsvFields::Plain { text: &self.text, separator: self.separator }, begin)));
        }
        self.quoted.clear();
        let mut bytes_left = ROW_BYTES_MAX;
        while self.quoted.line(&self.text, self.separator) {
            bytes_left = bytes_left.saturating_sub(self.text.len() as u64);
            self.text.clear();
            if self.read_line(bytes_left, begin)? == 0 {
                self.quoted.end_field();
                self.is_cut = true;
                break;
            }
        }
        Ok(Some((CsvFields::Quoted(&self.quoted), begin)))
    }

    /// Appends the next line of the row that begins at line `begin` to the text; the number of its bytes.
    fn read_line(&mut self, bytes_max: u64, begin: u64) -> Result<u64> {
        let read = self.reader.by_ref().take(bytes_max).read_until(b'\n', &mut self.text);
        let count = read.map_err(|error| self.input.broken(&error))? as u64;
        self.lines += u64::from(count > 0);
        if count >= bytes_max && !self.text.ends_with(b"\n") {
            return Err(Error::invalid(format!("{} line {begin}: the row is longer than 1 MiB", self.input.label)));
        }
        Ok(count)
    }
}

/// The separator that splits the first rows into the same number of fields, at least two.
pub fn sniff(input: &Input) -> Result<u8> {
    let mut best = (0, b',');
    for separator in SEPARATORS {
        let mut widths = Vec::new();
        let mut rows = CsvRows::new(input, separator, &unobserved())?;
        while widths.len() < 20
            && let Some((fields, _)) = rows.next()?
        {
            widths.push(fields.iter().count());
        }
        // A header may be narrower than its rows, so the last of the first rows define the width.
        let width = widths.last().copied().unwrap_or(0);
        let even = widths.iter().skip(1).all(|other| *other == width);
        let score = if width < 2 { 0 } else { width + if even { 1_000 } else { 0 } };
        if score > best.0 {
            best = (score, separator);
        }
    }
    Ok(best.1)
}

/// The first rows; each may be a header or data.
pub fn preview(input: &Input, separator: u8) -> Result<Preview> {
    let mut found = Vec::new();
    let mut rows = CsvRows::new(input, separator, &unobserved())?;
    while found.len() < PREVIEW_ROWS
        && let Some((fields, _)) = rows.next()?
    {
        found.push(fields.iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect());
    }
    Ok(Preview { names: None, rows: found })
}

/// Reads every row after the header and passes the fields at `positions` to `visit`.
pub fn read(
    input: &Input,
    separator: u8,
    header: bool,
    positions: &[usize],
    progress: &ReadProgress,
    visit: &mut Visit<'_>,
) -> Result<()> {
    let mut rows = CsvRows::new(input, separator, progress)?;
    if header {
        rows.next()?;
    }
    let mut row = 0;
    while let Some((fields, line)) = rows.next()? {
        let mut cells: Vec<SourceCell<'_>> = Vec::with_capacity(positions.len());
        fields.pick(positions, &mut cells);
        visit(SourceRecord { row, line: Some(line), cells: &cells })?;
        row += 1;
    }
    if rows.is_cut {
        return Err(Error::invalid(format!("{} is not CSV: a quote is not closed", input.label)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::{file, gzip};
    use super::*;

    fn rows(bytes: &[u8], positions: &[usize], header: bool) -> Vec<(u64, Option<u64>, Vec<String>)> {
        let (_folder, path) = file("x", bytes);
        let input = Input::detect(&path).unwrap();
        let separator = sniff(&input).unwrap();
        let mut found = Vec::new();
        read(&input, separator, header, positions, &unobserved(), &mut |record| {
            found.push((record.row, record.line, record.cells.iter().map(|c| c.show().into_owned()).collect()));
            Ok(())
        })
        .unwrap();
        found
    }

    fn separator(bytes: &[u8]) -> u8 {
        let (_folder, path) = file("x", bytes);
        sniff(&Input::detect(&path).unwrap()).unwrap()
    }

    #[test]
    fn separators_are_detected() {
        assert_eq!(separator(b"a,b,c\n1,2,3\n"), b',');
        assert_eq!(separator(b"20250302 170000;1.04;1.05\n20250302 170100;1.04;1.05\n"), b';');
        assert_eq!(separator(b"a\tb\n1\t2\n"), b'\t');
        assert_eq!(separator(b"a|b\n1|2\n"), b'|');
        assert_eq!(separator(b"Date,Open\n2006-01-02,09:01:00,1\n2006-01-02,09:02:00,1\n"), b',');
        assert_eq!(separator(b"alone\n"), b',');
    }

    #[test]
    fn line_ends_quotes_and_spaces_do_not_change_the_cells() {
        let expected =
            vec![(0, Some(2), vec!["1".into(), "2.5".into()]), (1, Some(4), vec!["2".into(), String::new()])];
        assert_eq!(rows(b"ts,x,open\r\n1,7, 2.5 \r\n\r\n\"2\",7\r\n", &[0, 2], true), expected);
        assert_eq!(rows(&gzip(b"ts,x,open\n1,7,2.5\n\n2,7,"), &[0, 2], true), expected);
    }

    #[test]
    fn a_quoted_field_may_contain_separators_and_line_ends() {
        let text = b"ts,note,open\n1,\"a,\n\"\"b\",2\n3,c,4\n";
        let expected = vec![
            (0, Some(2), vec!["1".into(), "a,\n\"b".into(), "2".into()]),
            (1, Some(4), vec!["3".into(), "c".into(), "4".into()]),
        ];
        assert_eq!(rows(text, &[0, 1, 2], true), expected);
        let text = b"1, x ,\" y\t\" \r\n2,\"\",5\" pipe\n3,\"a\"b,\"\"\"c\"\n";
        let expected = [["1", "x", " y\t"], ["2", "", "5\" pipe"], ["3", "ab", "\"c"]];
        let found = rows(text, &[0, 1, 2], false);
        assert_eq!(found.iter().map(|(_, line, _)| line.unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(found.into_iter().map(|(_, _, cells)| cells).collect::<Vec<_>>(), expected);
        let wide = format!("{}7\n", "1,".repeat(40));
        assert_eq!(rows(wide.as_bytes(), &[40, 41], false), [(0, Some(1), vec!["7".to_string(), String::new()])]);
    }

    #[test]
    fn a_text_that_ends_in_quotes_is_refused() {
        let (_folder, path) = file("x", b"1,2\n3,\"4\n5,6\n");
        let input = Input::detect(&path).unwrap();
        let error = read(&input, b',', false, &[0], &unobserved(), &mut |_| Ok(())).unwrap_err();
        assert_eq!(error.code(), crate::ErrorCode::InvalidArgument);
        assert!(error.detail().contains("a quote is not closed"), "{error}");
    }

    #[test]
    fn an_endless_row_is_refused_within_bounded_memory() {
        let (_folder, path) = file("x", &b"1,2,".repeat(1 << 19));
        let input = Input::detect(&path).unwrap();
        assert!(sniff(&input).unwrap_err().detail().contains("1 MiB"));
    }

    #[test]
    fn consecutive_gzip_members_are_one_text() {
        let bytes = [gzip(b"1,2\n"), gzip(b"3,4\n")].concat();
        assert_eq!(rows(&bytes, &[1], false).len(), 2);
    }

    #[test]
    fn a_truncated_text_inside_gzip_is_an_error() {
        let bytes = gzip("1,2,3\n".repeat(50_000).as_bytes());
        let (_folder, path) = file("x", bytes.split_at(bytes.len() - 30).0);
        let input = Input::detect(&path).unwrap();
        let error = read(&input, b',', false, &[0], &unobserved(), &mut |_| Ok(())).unwrap_err();
        assert_eq!(error.code(), crate::ErrorCode::InvalidArgument, "{error}");
    }
}
