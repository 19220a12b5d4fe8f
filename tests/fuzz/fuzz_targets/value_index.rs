//! `cargo fuzz run --fuzz-dir tests/fuzz value_index`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fastk_fuzz::run("value_index", data));
