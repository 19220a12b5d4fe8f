//! The resampling that a caller asks for.

use serde::{Deserialize, Serialize};

use crate::types::{BucketAlign, BucketText};

/// What a bucket without rows, between buckets with rows, becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum FillRule {
    /// No row.
    #[default]
    None,
    /// A row of nulls.
    Null,
    /// The values of the bucket before it; sums and counts are 0. Of klines open, high and low are the close before.
    Prev,
    /// Zeros; null where a type has no zero.
    Zero,
    /// Values on the line between the buckets around it; sums and counts are 0.
    Linear,
}

/// What becomes of buckets that lack rows, or that later rows can still change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum PartialRule {
    /// They are returned; the columns `complete` and `closed` say what they are.
    #[default]
    Mark,
    /// They are left out.
    Drop,
}

/// How rows are combined to buckets; see [`TimeBuckets`](crate::types::TimeBuckets) for their borders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResampleSpec {
    /// Length of the buckets, such as `1h`.
    pub every: String,
    pub align: Option<BucketAlign>,
    /// IANA zone.
    pub tz: Option<String>,
    pub session: Option<String>,
    pub offset: Option<String>,
    pub fill: FillRule,
    pub partial: PartialRule,
    /// The columns of the result, see [`Aggregate::parse`](super::Aggregate::parse); by default each column of the series
    /// by its merge rule.
    pub agg: Option<Vec<String>>,
}

impl ResampleSpec {
    /// The rule of the buckets.
    pub fn buckets(&self) -> BucketText<'_> {
        BucketText {
            every: &self.every,
            align: self.align,
            zone: self.tz.as_deref(),
            session: self.session.as_deref(),
            offset: self.offset.as_deref(),
        }
    }
}

/// The aggregates of a list in one text: split at commas outside of parentheses.
pub fn split_list(text: &str) -> Vec<String> {
    let mut depth = 0_usize;
    let is_border = |c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    };
    text.split(is_border).map(|part| part.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_split_outside_of_parentheses() {
        assert_eq!(
            split_list("price:first, vwap(price,qty) as v,count"),
            ["price:first", "vwap(price,qty) as v", "count"]
        );
    }
}
