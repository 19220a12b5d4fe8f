//! Declares the sections of the configuration: each key once, with its type, default, range and text.
//!
//! The text of a key is its comment in `config/fastk.toml`, from which the tables of `docs/configuration.md` are made.

use std::ops::RangeInclusive;

/// A key and the lines of its text.
pub type SettingText = (&'static str, &'static [&'static str]);

/// A section of the configuration.
pub trait Section {
    /// The keys in order.
    const KEYS: &'static [SettingText];

    /// The numbers that have a range: key, value and range.
    fn ranges(&self) -> Vec<(&'static str, u64, RangeInclusive<u64>)>;

    /// The values outside their range.
    fn out_of_range(&self, section: &str) -> Vec<String> {
        let ranges = self.ranges().into_iter();
        let outside = ranges.filter(|(_, value, range)| !range.contains(value)).map(|(key, value, range)| {
            format!("{section}.{key} = {value} is outside {} to {}", range.start(), range.end())
        });
        outside.collect()
    }
}

/// The range of a number, which can depend on other keys of its section.
pub trait KeyRange<S> {
    fn within(&self, section: &S) -> RangeInclusive<u64>;
}

impl<S> KeyRange<S> for RangeInclusive<u64> {
    fn within(&self, _section: &S) -> RangeInclusive<u64> {
        self.clone()
    }
}

impl<S, F: Fn(&S) -> RangeInclusive<u64>> KeyRange<S> for F {
    fn within(&self, section: &S) -> RangeInclusive<u64> {
        self(section)
    }
}

/// Declares a section as a struct. A key is `name: Type = default;` or, for a number with a range,
/// `name: Type = default, range;`, where the range is `min..=max` or a closure over the section that returns one.
/// Fields after `and` are no keys: the program sets them.
macro_rules! settings {
    (
        $(#[$meta:meta])*
        pub struct $section:ident {
            $($(#[doc = $text:literal])+ $key:ident: $type:ty = $default:expr $(, $range:expr)?;)+
        }
        $(and {
            $($(#[$field_meta:meta])+ $field:ident: $field_type:ty = $field_default:expr;)+
        })?
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct $section {
            $($(#[doc = $text])+ pub $key: $type,)+
            $($($(#[$field_meta])+ #[serde(skip)] pub $field: $field_type,)+)?
        }

        impl Default for $section {
            fn default() -> Self {
                Self { $($key: $default,)+ $($($field: $field_default,)+)? }
            }
        }

        impl $crate::settings::Section for $section {
            const KEYS: &'static [$crate::settings::SettingText] =
                &[$((stringify!($key), &[$($text),+]),)+];

            fn ranges(&self) -> Vec<(&'static str, u64, std::ops::RangeInclusive<u64>)> {
                vec![$($((
                    stringify!($key),
                    self.$key as u64,
                    $crate::settings::KeyRange::<Self>::within(&($range), self),
                ),)?)+]
            }
        }
    };
}

pub(crate) use settings;
