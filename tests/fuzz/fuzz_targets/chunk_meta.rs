//! `cargo fuzz run --fuzz-dir tests/fuzz chunk_meta`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fastk_fuzz::run("chunk_meta", data));
