//! `cargo fuzz run --fuzz-dir tests/fuzz commit`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fastk_fuzz::run("commit", data));
