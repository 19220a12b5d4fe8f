//! Checksums of rows and of definitions. `docs/registry.md` has the formulas.

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::types::cells;

/// Largest integer that every JSON parser represents exactly.
const EXACT_MAX: u64 = 1 << 53;

/// Rows hashed at a time.
const BATCH_ROWS: usize = 1_024;

/// `sha256:` and 64 hexadecimal digits.
fn text(digest: &[u8]) -> String {
    use std::fmt::Write as _;
    digest.iter().fold(String::from("sha256:"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// SHA-256 of bytes, as `sha256:` and hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    text(&Sha256::digest(bytes))
}

/// Incremental SHA-256 of the rows of one series.
#[derive(Debug, Default)]
pub struct RowsHash {
    digest: Sha256,
    rows: u64,
    buffer: Vec<u8>,
}

impl RowsHash {
    /// Adds rows, given as columns of `rows` words, `ts` first. Hashed row by row, each word as 8 bytes little-endian.
    pub fn update(&mut self, columns: &[&[i64]], rows: usize) {
        let mut from = 0;
        while from < rows {
            let to = rows.min(from + BATCH_ROWS);
            self.buffer.clear();
            for row in from..to {
                for column in columns {
                    let word = cells::at(column, row);
                    self.buffer.extend_from_slice(&word.to_le_bytes());
                }
            }
            self.digest.update(&self.buffer);
            from = to;
        }
        self.rows += rows as u64;
    }

    /// Number of rows added.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub fn finish(self) -> String {
        text(&self.digest.finalize())
    }
}

/// Checksum of a dataset from those of its members in key order: one line per member.
pub fn dataset<'a>(members: impl Iterator<Item = (&'a str, &'a str, u64, &'a str)>) -> String {
    let mut digest = Sha256::new();
    digest.update(b"fastk-dataset 1\n");
    for (series, layout, rows, checksum) in members {
        digest.update(format!("{series} {layout} {rows} {checksum}\n"));
    }
    text(&digest.finalize())
}

/// The canonical text of a definition (RFC 8785).
///
/// # Errors
/// `invalid_argument` for integers that not every JSON parser represents exactly.
pub fn canonical(definition: &Value) -> Result<String> {
    check_numbers(definition)?;
    serde_json_canonicalizer::to_string(definition)
        .map_err(|error| Error::invalid(format!("the definition has no canonical form: {error}")))
}

fn check_numbers(value: &Value) -> Result<()> {
    match value {
        Value::Number(number) => {
            let exact = number.as_f64().is_some_and(f64::is_finite)
                && (number.is_f64()
                    || number
                        .as_i64()
                        .map_or(number.as_u64(), |n| Some(n.unsigned_abs()))
                        .is_some_and(|n| n <= EXACT_MAX));
            if exact {
                return Ok(());
            }
            Err(Error::invalid(format!("the definition contains {number}, which is not exact as a double"))
                .with_hint("write it as text"))
        }
        Value::Array(items) => items.iter().try_for_each(check_numbers),
        Value::Object(fields) => fields.values().try_for_each(check_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_canonical_form_is_that_of_rfc_8785() {
        let value = json!({"b": [1.0, 1e30, 0.002, "\u{20ac}$\n"], "a": {"z": null, "B": true}});
        assert_eq!(canonical(&value).unwrap(), "{\"a\":{\"B\":true,\"z\":null},\"b\":[1,1e+30,0.002,\"€$\\n\"]}");
        let a: Value = serde_json::from_str("{\"x\":1.0,\"y\":[]}").unwrap();
        let b: Value = serde_json::from_str(" { \"y\" : [ ] , \"x\" : 1 } ").unwrap();
        assert_eq!(canonical(&a).unwrap(), canonical(&b).unwrap());
        assert!(canonical(&json!({"n": [9_007_199_254_740_993_u64]})).is_err());
        assert!(canonical(&json!(-9_007_199_254_740_992_i64)).is_ok());
    }

    #[test]
    fn the_hash_of_rows_does_not_depend_on_their_blocks() {
        let ts: Vec<i64> = (0..5_000).collect();
        let cells: Vec<i64> = ts.iter().map(|n| n * n - 7).collect();
        let mut at_once = RowsHash::default();
        at_once.update(&[&ts, &cells], 5_000);
        let mut cut = RowsHash::default();
        for from in (0..5_000).step_by(700) {
            let to = (from + 700).min(5_000);
            cut.update(&[&ts[from..to], &cells[from..to]], to - from);
        }
        assert_eq!(cut.rows(), 5_000);
        let bytes: Vec<u8> =
            ts.iter().zip(&cells).flat_map(|(a, b)| [a.to_le_bytes(), b.to_le_bytes()].concat()).collect();
        assert_eq!(cut.finish(), sha256(&bytes));
        assert_eq!(at_once.finish(), sha256(&bytes));
    }
}
