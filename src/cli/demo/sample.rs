//! The sample series: the same on every machine, by integer arithmetic alone.

use crate::error::Result;
use crate::types::{Rows, SeriesKey, SeriesSpec, schema::ColumnSpec};

use super::lines::{KLINE, KLINE_FLOAT, SCALAR};

/// 2024-01-01T00:00:00Z in milliseconds.
const START_MS: i64 = 1_704_067_200_000;
const MINUTE_MS: i64 = 60_000;
/// January to March 2024.
const MINUTES: i64 = 91 * 1_440;
/// Hours of the float64 series: the same three months.
const HOURS: i64 = 91 * 24;
/// Missing minutes: first, and how many.
const GAPS: [(i64, i64); 4] = [(5_000, 1), (20_160, 45), (61_111, 7), (100_000, 180)];
/// Bars the oscillator looks back.
const RSI_BARS: usize = 14;

/// A multiplicative congruential generator with an output shift; good enough to look like a market.
struct SampleRng(u64);

impl SampleRng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// Within 0 to `below - 1`.
    fn below(&mut self, below: i64) -> i64 {
        i64::try_from(self.next()).unwrap_or_default() % below
    }
}

/// One bar in hundredths of the quote currency and 10^-8 of the base.
struct Bar {
    ts: i64,
    open: i64,
    high: i64,
    low: i64,
    close: i64,
    volume: i64,
}

/// A random walk of bars; each opens where the one before closed.
fn walk(seed: u64, bars: i64, step_ms: i64, price: i64, swing: i64) -> Vec<Bar> {
    let mut random = SampleRng(seed);
    let mut open = price;
    let mut out = Vec::with_capacity(usize::try_from(bars).unwrap_or_default());
    for position in 0..bars {
        let move_ = random.below(2 * swing + 1) - swing;
        // A pull towards the first price keeps the walk in sight.
        let close = (open + move_ + (price - open) / 2_000).max(1);
        let high = open.max(close) + random.below(swing / 2 + 1);
        let low = (open.min(close) - random.below(swing / 2 + 1)).max(1);
        let volume = 1_000_000 + random.below(4_000_000_000);
        out.push(Bar { ts: START_MS + position * step_ms, open, high, low, close, volume });
        open = close;
    }
    out
}

/// Hundredths of a relative strength index over [`RSI_BARS`] closes, where there are enough of them.
fn rsi(bars: &[Bar]) -> Rows {
    let mut rows = Rows::with_capacity(1, bars.len());
    for window in bars.windows(RSI_BARS + 1) {
        let (mut gain, mut loss) = (0, 0);
        for pair in window.windows(2) {
            if let [a, b] = pair {
                gain += (b.close - a.close).max(0);
                loss += (a.close - b.close).max(0);
            }
        }
        if let (Some(last), true) = (window.last(), gain + loss > 0) {
            rows.push(last.ts, &[10_000 * gain / (gain + loss)]);
        }
    }
    rows
}

/// What is registered and written, in order.
pub fn series() -> Result<Vec<(SeriesSpec, Rows)>> {
    let mut minutes = walk(2024, MINUTES, MINUTE_MS, 4_250_000, 1_800);
    let missing = |position: i64| GAPS.iter().any(|(first, count)| (*first..first + count).contains(&position));
    minutes.retain(|bar| !missing((bar.ts - START_MS) / MINUTE_MS));
    let mut kline = SeriesSpec::of_key(&SeriesKey::parse(KLINE)?);
    kline.price_digits = Some(2);
    kline.volume_digits = Some(8);
    kline.description = Some("sample: a random walk with gaps".into());
    let mut exact = Rows::with_capacity(5, minutes.len());
    for bar in &minutes {
        exact.push(bar.ts, &[bar.open, bar.high, bar.low, bar.close, bar.volume]);
    }

    let mut float = SeriesSpec::of_key(&SeriesKey::parse(KLINE_FLOAT)?);
    float.description = Some("sample: a random walk in float64".into());
    let mut doubles = Rows::with_capacity(5, usize::try_from(HOURS).unwrap_or_default());
    for bar in walk(815, HOURS, 60 * MINUTE_MS, 230_000, 900) {
        let prices = [bar.open, bar.high, bar.low, bar.close].map(|price| word(price, 100.0));
        let [open, high, low, close] = prices;
        doubles.push(bar.ts, &[open, high, low, close, word(bar.volume, 100_000_000.0)]);
    }

    let mut scalar = SeriesSpec::of_key(&SeriesKey::parse(SCALAR)?);
    scalar.value = Some(ColumnSpec { name: None, kind: None, digits: Some(2), merge: None });
    scalar.description = Some("sample: relative strength of the minutes".into());
    Ok(vec![(kline, exact), (float, doubles), (scalar, rsi(&minutes))])
}

/// `raw / scale` as the cell of a float64 column.
#[allow(clippy::cast_precision_loss)] // raw is far below 2^53
fn word(raw: i64, scale: f64) -> i64 {
    (raw as f64 / scale).to_bits().cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ColumnType;

    #[test]
    fn the_sample_is_valid_and_always_the_same() {
        let series = series().unwrap();
        let keys: Vec<String> =
            series.iter().map(|(spec, _)| spec.clone().resolve().unwrap().key.to_string()).collect();
        assert_eq!(keys, [KLINE, KLINE_FLOAT, SCALAR]);
        for (spec, rows) in &series {
            let def = spec.clone().resolve().unwrap();
            rows.check_shape(def.columns.len()).unwrap();
            assert!(rows.is_rising());
            for position in 0..rows.len() {
                let cell = |column: usize| {
                    let raw = rows.columns[column][position];
                    match def.columns[column].kind {
                        ColumnType::Float64 => f64::from_bits(raw.cast_unsigned()),
                        _ => raw as f64,
                    }
                };
                if rows.columns.len() == 5 {
                    let (open, high, low, close) = (cell(0), cell(1), cell(2), cell(3));
                    assert!(low > 0.0 && low <= open.min(close) && open.max(close) <= high && cell(4) > 0.0);
                } else {
                    assert!((0.0..=10_000.0).contains(&cell(0)));
                }
            }
        }
        let (_, minutes) = &series[0];
        let missing: i64 = GAPS.iter().map(|(_, count)| count).sum();
        assert_eq!(minutes.len() as i64, MINUTES - missing);
        // A change of the generator would change what the documentation shows.
        assert_eq!(minutes.columns[3].last().copied(), Some(4_159_154));
    }
}
