//! Answers become bytes: JSON, NDJSON, CSV, Arrow stream, Parquet.
