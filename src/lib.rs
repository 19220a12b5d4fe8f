//! FastK: a storage engine and query server for market-data time series.
//!
//! A [`Store`] is a directory of series: sorted rows of a timestamp and fixed-width numbers. Rows may be written in any
//! order and for any time; the last write of a timestamp wins. A program can embed the engine alone (`default-features
//! = false`: no server, no async runtime); the `fastk` binary serves the same store over REST and Arrow Flight.
//!
//! ```
//! use fastk::{Predicate, Rows, Select, SeriesKey, SeriesSpec, Store, StoreOptions, WriteMode};
//!
//! # fn main() -> fastk::Result<()> {
//! # let dir = tempfile::tempdir().map_err(|e| fastk::Error::internal(e.to_string()))?;
//! # let path = dir.path();
//! let store = Store::open(path, true, StoreOptions::default())?;
//!
//! // One-minute bars with prices of two digits; volume is a double.
//! let key = SeriesKey::kline("BTCUSDT", "1m")?;
//! store.register(SeriesSpec { price_digits: Some(2), ..SeriesSpec::of_key(&key) }.resolve()?)?;
//!
//! // Cells are 8-byte words: a decimal as its scaled integer, a double as its bits.
//! let minute = 60_000;
//! let mut rows = Rows::empty_words(5, 3);
//! for (n, close) in [(0, 42_000_00), (1, 42_010_50), (3, 41_990_00)] {
//!     let volume = 1.5_f64.to_bits().cast_signed();
//!     rows.push(1_706_745_600_000 + n * minute, &[42_000_00, 42_020_00, 41_980_00, close, volume]);
//! }
//! let written = store.write(&key, rows, WriteMode::Upsert, None)?;
//! assert_eq!((written.rows_written, written.durable), (3, true));
//!
//! // A reader sees the store at one commit. Ranges are closed.
//! let reader = store.reader();
//! let closes = reader.range(&key, 1_706_745_600_000..=1_706_745_660_000)?.doubles(4)?;
//! assert_eq!(closes, [42_000.0, 42_010.5]);
//! let last = reader.latest(&key, 1)?.doubles(0)?;
//! assert_eq!(last, [1_706_745_780_000.0]);
//!
//! // Predicates are exact to the digit; `record_batches` returns Arrow.
//! let above = [Predicate::parse("close:gt:42000")?];
//! let found = reader.select(&key, &Select { predicates: &above, ..Select::default() })?;
//! assert_eq!(found.record_batches().map(|batch| batch.map(|b| b.num_rows())).sum::<fastk::Result<usize>>()?, 1);
//!
//! // Coverage reports the missing minute.
//! let coverage = reader.coverage(&key)?;
//! assert_eq!((coverage.expected, coverage.present, coverage.gaps.len()), (4, 3, 1));
//!
//! // A named snapshot still contains rows deleted later.
//! store.create_snapshot("before")?;
//! store.delete_range(&key, (i64::MIN, i64::MAX), None)?;
//! assert_eq!(store.reader().latest(&key, 10)?.doubles(4)?.len(), 0);
//! assert_eq!(store.reader_as_of("before")?.latest(&key, 10)?.doubles(4)?.len(), 3);
//! # Ok(())
//! # }
//! ```
//!
//! Layers depend strictly downwards: `error` < `types` < `format`, `disk` < `store`, `registry` < `query`, `ingest` <
//! `sql`, `egress` < `service` < `server` < `config` < `cli`. `docs/architecture.md` describes each.

#![warn(missing_debug_implementations)]
#![deny(unsafe_op_in_unsafe_fn)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![deny(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]
#![cfg_attr(test, allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss))]

#[cfg(feature = "server")]
pub mod access;
pub mod cancel;
#[cfg(feature = "server")]
pub mod cli;
#[doc(hidden)]
pub mod clock;
#[cfg(feature = "server")]
pub mod config;
pub mod disk;
#[cfg(feature = "server")]
pub mod egress;
pub mod error;
pub mod format;
#[cfg(feature = "server")]
pub mod ingest;
pub mod query;
#[cfg(feature = "server")]
pub mod registry;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod service;
pub mod settings;
#[cfg(feature = "sql")]
pub mod sql;
pub mod store;
#[doc(hidden)]
pub mod sync;
pub mod types;

pub use error::{Error, ErrorCode, Result};
pub use query::{NumberFormat, Predicate, ResampleSpec, RowStream, Select, StoreReader};
pub use store::{SeriesReceipt, SeriesWrite, Store, StoreOptions, WriteMode, WriteOutcome};
pub use types::{Rows, SeriesDef, SeriesKey, SeriesSpec};
