//! Locks, atomics and swappable pointers of shared state: the commit queue, retained commits, the map cache.
//!
//! Under the feature `schedules` they come from a test runner that decides at each use which thread continues, so that
//! a test can try thousands of interleavings. A lock that is never held across a use of these types may be the standard
//! library's, since no thread is suspended inside it.

#[cfg(not(feature = "schedules"))]
mod primitives {
    pub use std::sync::atomic;
    pub use std::sync::{Condvar, Mutex, MutexGuard};

    pub use arc_swap::{ArcSwap, ArcSwapOption};
}

#[cfg(feature = "schedules")]
mod primitives {
    use std::sync::{Arc, PoisonError};

    pub use shuttle::sync::atomic;
    pub use shuttle::sync::{Condvar, Mutex, MutexGuard};

    /// Replaces `arc_swap::ArcSwap`: at each use another thread may be scheduled.
    #[derive(Debug)]
    pub struct ArcSwap<T>(Mutex<Arc<T>>);

    impl<T> From<Arc<T>> for ArcSwap<T> {
        fn from(value: Arc<T>) -> Self {
            Self(Mutex::new(value))
        }
    }

    impl<T> ArcSwap<T> {
        pub fn load(&self) -> Arc<T> {
            self.load_full()
        }

        pub fn load_full(&self) -> Arc<T> {
            Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
        }

        pub fn store(&self, value: Arc<T>) {
            let old = std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), value);
            drop(old);
        }
    }

    /// Replaces `arc_swap::ArcSwapOption`.
    #[derive(Debug)]
    pub struct ArcSwapOption<T>(Mutex<Option<Arc<T>>>);

    impl<T> ArcSwapOption<T> {
        pub fn empty() -> Self {
            Self(Mutex::new(None))
        }

        pub fn load_full(&self) -> Option<Arc<T>> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }

        pub fn store(&self, value: Option<Arc<T>>) {
            let old = std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), value);
            drop(old);
        }
    }
}

pub use primitives::*;
