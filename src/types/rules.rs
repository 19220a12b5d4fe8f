//! Rules between the fields of a row, as data of a kind.

use serde::{Deserialize, Serialize};

/// A condition on the fields of each row. A null fulfils every rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case", deny_unknown_fields)]
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

/// A rule in the OpenAPI document: one object, since client generators do not support the union of [`RowRule`].
#[cfg(feature = "server")]
mod document {
    use super::RowRule;

    /// Name of a rule.
    #[derive(utoipa::ToSchema)]
    #[schema(as = RowRuleName, rename_all = "snake_case")]
    #[allow(dead_code, reason = "documents a field")]
    enum RowRuleName {
        AtLeast,
        AtMost,
        NonNegative,
    }

    /// A condition on the fields of each row. A null fulfils every rule.
    #[derive(utoipa::ToSchema)]
    #[schema(as = RowRule)]
    #[allow(dead_code, reason = "documents a type")]
    struct RowRuleObject {
        rule: RowRuleName,
        /// The field that the rule limits.
        field: String,
        /// The fields that it is compared with, of `at_least` and `at_most`.
        #[schema(required = false)]
        of: Vec<String>,
    }

    impl utoipa::PartialSchema for RowRule {
        fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
            RowRuleObject::schema()
        }
    }

    impl utoipa::ToSchema for RowRule {
        fn name() -> std::borrow::Cow<'static, str> {
            "RowRule".into()
        }

        fn schemas(schemas: &mut Vec<(String, utoipa::openapi::RefOr<utoipa::openapi::Schema>)>) {
            RowRuleObject::schemas(schemas);
        }
    }
}
