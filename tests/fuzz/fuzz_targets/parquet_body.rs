//! `cargo fuzz run --fuzz-dir tests/fuzz parquet_body`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fastk_fuzz::run("parquet_body", data));
