//! Foreign rows become validated rows of a series: JSON, NDJSON, CSV, Arrow stream, Parquet.
