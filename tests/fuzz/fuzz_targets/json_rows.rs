//! `cargo fuzz run --fuzz-dir tests/fuzz json_rows`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fastk_fuzz::run("json_rows", data));
