//! The switch of the planted faults; a module of the copy that `copy.py` makes.

use std::cell::Cell;
use std::sync::OnceLock;

thread_local! {
    static PLANTED: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Whether a fault is on: in this thread by [`with`], in the process by `FASTK_PLANTED_FAULT`.
pub fn planted(name: &str) -> bool {
    static PROCESS: OnceLock<Option<String>> = OnceLock::new();
    let process = PROCESS.get_or_init(|| std::env::var("FASTK_PLANTED_FAULT").ok());
    PLANTED.get() == Some(name) || process.as_deref() == Some(name)
}

/// Runs `work` with the fault on in this thread.
pub fn with<T>(name: &'static str, work: impl FnOnce() -> T) -> T {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            PLANTED.set(None);
        }
    }
    PLANTED.set(Some(name));
    let _reset = Reset;
    work()
}
