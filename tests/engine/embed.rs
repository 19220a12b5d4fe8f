//! The example of `docs/embed.md` runs as documented.

use fastk::{SeriesKey, Store, StoreOptions};

#[allow(dead_code)] // the main of the example
#[path = "../../docs/examples/embed.rs"]
mod example;

#[test]
fn the_example_writes_a_day_of_bars_with_a_gap() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("embedded-store");
    example::run(dir.to_str().unwrap()).unwrap();
    let store = Store::open(&dir, false, StoreOptions::default()).unwrap();
    let reader = store.reader();
    let coverage = reader.coverage(&SeriesKey::kline("BTCUSDT", "1m").unwrap()).unwrap();
    assert_eq!((coverage.present, coverage.expected, coverage.gaps.len()), (1_425, 1_440, 1));
}
