//! `cargo fuzz run --fuzz-dir tests/fuzz names`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fastk_fuzz::run("names", data));
