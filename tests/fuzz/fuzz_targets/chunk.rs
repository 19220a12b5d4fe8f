//! `cargo fuzz run --fuzz-dir tests/fuzz chunk`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fastk_fuzz::run("chunk", data));
