//! `cargo fuzz run --fuzz-dir tests/fuzz query_body`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fastk_fuzz::run("query_body", data));
