//! Numbers such as `1,234.56` and `193.34M`, accepted only where the mapping allows them.
//!
//! Never detected: `1,234` is a thousand in one country and a fraction in another.

/// The number forms that are accepted in addition to plain numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NumberForms {
    /// Separator between groups of three digits: `--thousands`.
    pub thousands: Option<u8>,
    /// Suffixes K, M, B and T: `--magnitudes`.
    pub magnitudes: bool,
}

const ALL: [NumberForms; 3] = [
    NumberForms { thousands: Some(b','), magnitudes: true },
    NumberForms { thousands: Some(b'\''), magnitudes: true },
    NumberForms { thousands: Some(b'_'), magnitudes: true },
];

impl NumberForms {
    /// Whether only plain numbers are accepted.
    pub fn is_plain(self) -> bool {
        self == NumberForms::default()
    }

    /// Appends `text` as a plain number of exactly the same value: `193.34M` becomes `193.34e6`. Appends nothing and
    /// returns `false` if `text` has none of these forms.
    pub fn rewrite(self, text: &[u8], out: &mut Vec<u8>) -> bool {
        let length = out.len();
        let rewritten = self.append(text, out).is_some();
        if !rewritten {
            out.truncate(length);
        }
        rewritten
    }

    fn append(self, text: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let (suffix, rest) = match text {
            [rest @ .., last] if self.magnitudes => match last {
                b'K' | b'k' => (&b"e3"[..], rest),
                b'M' => (&b"e6"[..], rest),
                b'B' => (&b"e9"[..], rest),
                b'T' => (&b"e12"[..], rest),
                _ => (&b""[..], text),
            },
            _ => (&b""[..], text),
        };
        let digits = match rest {
            [sign @ (b'-' | b'+'), digits @ ..] => {
                out.push(*sign);
                digits
            }
            digits => digits,
        };
        let point = digits.iter().position(|byte| *byte == b'.').unwrap_or(digits.len());
        let (integer, fraction) = digits.split_at(point);
        let grouped = self.thousands.is_some_and(|separator| integer.contains(&separator));
        if suffix.is_empty() && !grouped {
            return None;
        }
        let separator = self.thousands.filter(|_| grouped);
        let groups = integer.split(|byte| Some(*byte) == separator);
        for (at, group) in groups.enumerate() {
            let length = match (grouped, at) {
                (false, _) => 0..=usize::MAX,
                (true, 0) => 1..=3,
                (true, _) => 3..=3,
            };
            if !length.contains(&group.len()) || !group.iter().all(u8::is_ascii_digit) {
                return None;
            }
            out.extend_from_slice(group);
        }
        let decimals = fraction.strip_prefix(b".").unwrap_or_default();
        if integer.len() + decimals.len() == 0 || !decimals.iter().all(u8::is_ascii_digit) {
            return None;
        }
        out.extend_from_slice(fraction);
        out.extend_from_slice(suffix);
        Some(())
    }
}

/// The flags that would accept `text` as a number; `None` if none would.
pub fn flags_for(text: &[u8]) -> Option<String> {
    let mut scratch = Vec::new();
    let all = ALL.into_iter().find(|forms| forms.rewrite(text, &mut scratch))?;
    let thousands = all.thousands.filter(|separator| text.contains(separator)).map(|separator| match separator {
        b'\'' => "--thousands \"'\"".to_string(),
        other => format!("--thousands {}", char::from(other)),
    });
    let magnitudes = text.last().filter(|last| last.is_ascii_alphabetic()).map(|_| "--magnitudes".to_string());
    let flags: Vec<String> = thousands.into_iter().chain(magnitudes).collect();
    Some(flags.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(forms: NumberForms, text: &str) -> Option<String> {
        let mut out = b"kept".to_vec();
        let rewritten = forms.rewrite(text.as_bytes(), &mut out);
        let text = String::from_utf8(out).unwrap();
        let rest = text.strip_prefix("kept").unwrap().to_string();
        assert_eq!(rewritten, !rest.is_empty());
        rewritten.then_some(rest)
    }

    #[test]
    fn thousands_and_magnitudes_become_plain_numbers_exactly() {
        let both = NumberForms { thousands: Some(b','), magnitudes: true };
        for (text, expected) in [
            ("1,234.56", "1234.56"),
            ("-12,345,678", "-12345678"),
            ("193.34M", "193.34e6"),
            ("12.5K", "12.5e3"),
            ("1.2B", "1.2e9"),
            ("+3T", "+3e12"),
            ("1,234.5K", "1234.5e3"),
            (".5M", ".5e6"),
        ] {
            assert_eq!(plain(both, text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn other_text_is_not_rewritten() {
        let both = NumberForms { thousands: Some(b','), magnitudes: true };
        for text in
            ["1,23", "12,34,567", "1234,567", ",123", "1,234,", "1.5e3K", "M", "-M", "1.2.3M", "12", "1.5", "1m"]
        {
            assert_eq!(plain(both, text), None, "{text}");
        }
        assert_eq!(plain(NumberForms { thousands: Some(b'_'), magnitudes: false }, "1,234"), None);
        assert_eq!(plain(NumberForms { thousands: Some(b','), magnitudes: false }, "1M"), None);
    }

    #[test]
    fn the_flags_that_would_accept_a_number_are_known() {
        assert_eq!(flags_for(b"1,234.56").as_deref(), Some("--thousands ,"));
        assert_eq!(flags_for(b"193.34M").as_deref(), Some("--magnitudes"));
        assert_eq!(flags_for(b"1'234K").as_deref(), Some("--thousands \"'\" --magnitudes"));
        assert_eq!(flags_for(b"abc"), None);
    }
}
