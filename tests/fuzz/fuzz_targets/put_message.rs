//! `cargo fuzz run --fuzz-dir tests/fuzz put_message`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fastk_fuzz::run("put_message", data));
