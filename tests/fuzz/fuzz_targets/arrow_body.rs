//! `cargo fuzz run --fuzz-dir tests/fuzz arrow_body`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fastk_fuzz::run("arrow_body", data));
