//! Rules between the fields of a row, as data of a kind.

use serde::{Deserialize, Serialize};

/// A condition on the fields of each row. A null fulfils every rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case", deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum RowRule {
    /// The field is at least as large as each of the others, such as `high`.
    AtLeast { field: String, of: Vec<String> },
    /// The field is at most as large as each of the others, such as `low`.
    AtMost { field: String, of: Vec<String> },
    /// The field is not below zero, such as `volume`.
    NonNegative { field: String },
}

impl RowRule {
    /// The rule as JSON and errors name it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::AtLeast { .. } => "at_least",
            Self::AtMost { .. } => "at_most",
            Self::NonNegative { .. } => "non_negative",
        }
    }

    /// The field that the rule limits.
    pub fn field(&self) -> &str {
        match self {
            Self::AtLeast { field, .. } | Self::AtMost { field, .. } | Self::NonNegative { field } => field,
        }
    }

    /// The fields that it is compared with.
    pub fn others(&self) -> &[String] {
        match self {
            Self::AtLeast { of, .. } | Self::AtMost { of, .. } => of,
            Self::NonNegative { .. } => &[],
        }
    }
}
