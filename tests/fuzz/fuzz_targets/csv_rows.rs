//! `cargo fuzz run --fuzz-dir tests/fuzz csv_rows`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fastk_fuzz::run("csv_rows", data));
