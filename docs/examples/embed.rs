//! The engine embedded in a program: `cargo run --no-default-features --example embed -- DIRECTORY`.
//!
//! Writes a day of one-minute bars with a gap, corrects one of them, and queries the store.

use fastk::{Predicate, ResampleSpec, Result, Rows, Select, SeriesKey, SeriesSpec, Store, StoreOptions, WriteMode};

const DAY: i64 = 1_706_745_600_000; // 2024-02-01
const MINUTE: i64 = 60_000;

fn main() -> Result<()> {
    run(&std::env::args().nth(1).unwrap_or_else(|| "embedded-store".into()))
}

/// Runs the example in a directory, which is created if missing.
pub fn run(dir: &str) -> Result<()> {
    let store = Store::open(dir.as_ref(), true, StoreOptions::default())?;
    let key = SeriesKey::kline("BTCUSDT", "1m")?;
    store.register(
        SeriesSpec { price_digits: Some(2), volume_digits: Some(3), ..SeriesSpec::of_key(&key) }.resolve()?,
    )?;

    let mut rows = Rows::empty_words(5, 1_440);
    for minute in (0..1_440).filter(|minute| !(600..615).contains(minute)) {
        let open = 4_200_000 + minute * 10;
        rows.push(DAY + minute * MINUTE, &[open, open + 50, open - 50, open + 10, 1_500]);
    }
    let written = store.write(&key, rows, WriteMode::Upsert, None)?;
    println!("wrote {} rows as commit {}", written.rows_written, written.commit);

    // The open bar: high, low, close and volume are merged with what is stored.
    let mut tick = Rows::empty_words(5, 1);
    tick.push(DAY + 1_439 * MINUTE, &[4_214_390, 4_300_000, 4_214_390, 4_290_000, 250]);
    store.write(&key, tick, WriteMode::Merge { first: None }, None)?;

    let reader = store.reader();
    let closes = reader.range(&key, DAY..=DAY + 59 * MINUTE)?.doubles(4)?;
    println!("mean close of the first hour: {:.2}", closes.iter().sum::<f64>() / closes.len() as f64);
    let high = [Predicate::parse("high:gt:42190")?];
    let select = Select { predicates: &high, columns: Some(&["high", "volume"]), ..Select::default() };
    for batch in reader.select(&key, &select)?.record_batches() {
        println!("bars with a high above 42190: {}", batch?.num_rows());
    }
    let hours = ResampleSpec { every: "1h".into(), ..ResampleSpec::default() };
    let select = Select { resample: Some(&hours), ..Select::default() };
    for batch in reader.select(&key, &select)?.record_batches() {
        println!("{} hours", batch?.num_rows());
    }
    let coverage = reader.coverage(&key)?;
    for gap in &coverage.gaps {
        println!("{} of {} bars; {} missing from {}", coverage.present, coverage.expected, gap.missing, gap.start);
    }
    Ok(())
}
