//! `cargo fuzz run --fuzz-dir tests/fuzz coverage`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fastk_fuzz::run("coverage", data));
