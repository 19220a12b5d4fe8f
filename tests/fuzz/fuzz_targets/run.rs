//! `cargo fuzz run --fuzz-dir tests/fuzz run`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fastk_fuzz::run("run", data));
