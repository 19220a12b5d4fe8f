//! Nesting depth of JSON, checked without recursion.

use crate::error::{Error, ErrorCode, Result};

/// Checks that JSON is nested at most `depth_max` levels deep. Does not detect malformed JSON.
///
/// # Errors
/// `too_large` for deeper JSON.
pub fn check_depth(json: &[u8], depth_max: usize) -> Result<()> {
    let mut depth = 0_usize;
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                if depth > depth_max {
                    return Err(Error::new(
                        ErrorCode::TooLarge,
                        format!("the JSON is nested deeper than {depth_max} levels"),
                    ));
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => {
                let mut is_escaped = false;
                for byte in bytes.by_ref() {
                    match byte {
                        _ if is_escaped => is_escaped = false,
                        b'\\' => is_escaped = true,
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_counted_outside_of_strings() {
        for (json, deep) in [
            ("", 0),
            ("1", 0),
            ("[]", 1),
            (r#"[{"a":[1]},{"b":[]}]"#, 3),
            (r#"["[[[[", "\"[[[", "\\", [1]]"#, 2),
            ("]]]][[", 2),
            ("[[[", 3),
            (r#""[[["#, 0),
        ] {
            assert!(check_depth(json.as_bytes(), deep).is_ok(), "{json}");
            if deep > 0 {
                assert_eq!(check_depth(json.as_bytes(), deep - 1).unwrap_err().code(), ErrorCode::TooLarge, "{json}");
            }
        }
        assert!(check_depth("[".repeat(1 << 20).as_bytes(), 32).is_err());
    }
}
