//! Rows of separated text: separator, quotes, lines of any length.
//!
//! Spaces round a field do not count, blank lines are no rows, `\r\n` ends a line as `\n` does.

use indicatif::ProgressBar;

use crate::error::{Error, Result};

use super::cell::{Cell, PREVIEW_ROWS, Preview, Record, Visit};
use super::open::Input;

/// Separators that are tried, the likelier first.
const SEPARATORS: [u8; 4] = [b',', b';', b'\t', b'|'];

fn reader(input: &Input, separator: u8, bar: &ProgressBar) -> Result<csv::Reader<Box<dyn std::io::BufRead>>> {
    let mut builder = csv::ReaderBuilder::new();
    builder.delimiter(separator).has_headers(false).flexible(true).trim(csv::Trim::All);
    Ok(builder.from_reader(input.text(bar)?))
}

fn broken(input: &Input, error: csv::Error) -> Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => input.broken(&error),
        other => Error::invalid(format!("{} is not CSV: {other:?}", input.path.display())),
    }
}

/// The separator that cuts the first rows into the same number of fields, at least two.
pub fn sniff(input: &Input) -> Result<u8> {
    let mut best = (0, b',');
    for separator in SEPARATORS {
        let mut widths = Vec::new();
        let mut reader = reader(input, separator, &ProgressBar::hidden())?;
        for record in reader.byte_records().take(20) {
            widths.push(record.map_err(|error| broken(input, error))?.len());
        }
        // A header may be narrower than its rows, so the last of the first rows tell the width.
        let width = widths.last().copied().unwrap_or(0);
        let even = widths.iter().skip(1).all(|other| *other == width);
        let score = if width < 2 { 0 } else { width + if even { 1_000 } else { 0 } };
        if score > best.0 {
            best = (score, separator);
        }
    }
    Ok(best.1)
}

/// The first rows, all of them still possible data.
pub fn preview(input: &Input, separator: u8) -> Result<Preview> {
    let mut rows = Vec::new();
    let mut reader = reader(input, separator, &ProgressBar::hidden())?;
    for record in reader.byte_records().take(PREVIEW_ROWS) {
        let record = record.map_err(|error| broken(input, error))?;
        rows.push(record.iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect());
    }
    Ok(Preview { names: None, rows })
}

/// Reads every row after the header and hands over the fields at `positions`.
pub fn read(
    input: &Input,
    separator: u8,
    header: bool,
    positions: &[usize],
    bar: &ProgressBar,
    visit: &mut Visit<'_>,
) -> Result<()> {
    let mut reader = reader(input, separator, bar)?;
    let mut record = csv::ByteRecord::new();
    let mut row = 0;
    let mut skip = header;
    while reader.read_byte_record(&mut record).map_err(|error| broken(input, error))? {
        if std::mem::take(&mut skip) {
            continue;
        }
        let line = record.position().map(csv::Position::line);
        let cells: Vec<Cell<'_>> =
            positions.iter().map(|at| record.get(*at).map_or(Cell::Missing, Cell::text)).collect();
        visit(Record { row, line, cells: &cells })?;
        row += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::open::tests::{file, gzip};
    use super::*;

    fn rows(bytes: &[u8], positions: &[usize], header: bool) -> Vec<(u64, Option<u64>, Vec<String>)> {
        let (_folder, path) = file("x", bytes);
        let input = Input::detect(&path).unwrap();
        let separator = sniff(&input).unwrap();
        let mut found = Vec::new();
        read(&input, separator, header, positions, &ProgressBar::hidden(), &mut |record| {
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
    fn separators_are_found() {
        assert_eq!(separator(b"a,b,c\n1,2,3\n"), b',');
        assert_eq!(separator(b"20250302 170000;1,04;1,05\n20250302 170100;1,04;1,05\n"), b';');
        assert_eq!(separator(b"a\tb\n1\t2\n"), b'\t');
        assert_eq!(separator(b"a|b\n1|2\n"), b'|');
        assert_eq!(separator(b"Date,Open\n2006-01-02,09:01:00,1\n2006-01-02,09:02:00,1\n"), b',');
        assert_eq!(separator(b"alone\n"), b',');
    }

    #[test]
    fn line_ends_quotes_and_spaces_do_not_change_the_cells() {
        let wanted = vec![(0, Some(2), vec!["1".into(), "2.5".into()]), (1, Some(4), vec!["2".into(), String::new()])];
        assert_eq!(rows(b"ts,x,open\r\n1,7, 2.5 \r\n\r\n\"2\",7\r\n", &[0, 2], true), wanted);
        assert_eq!(rows(&gzip(b"ts,x,open\n1,7,2.5\n\n2,7,"), &[0, 2], true), wanted);
    }

    #[test]
    fn gzip_members_in_a_row_are_one_text() {
        let bytes = [gzip(b"1,2\n"), gzip(b"3,4\n")].concat();
        assert_eq!(rows(&bytes, &[1], false).len(), 2);
    }

    #[test]
    fn a_text_cut_short_inside_gzip_is_an_error() {
        let bytes = gzip("1,2,3\n".repeat(50_000).as_bytes());
        let (_folder, path) = file("x", bytes.split_at(bytes.len() - 30).0);
        let input = Input::detect(&path).unwrap();
        let error = read(&input, b',', false, &[0], &ProgressBar::hidden(), &mut |_| Ok(())).unwrap_err();
        assert_eq!(error.code(), crate::ErrorCode::InvalidArgument, "{error}");
    }
}
