//! Locks, atomics and swapped pointers of what many threads share: the commit queue, kept commits, the map cache.
//!
//! Under the feature `schedules` they are those of a test runner that decides at each of them which thread goes on, so
//! that a test can try thousands of interleavings. A lock that is held while none of these is touched may be the
//! standard library's: nobody can be stopped inside it.

#[cfg(not(feature = "schedules"))]
mod chosen {
    pub use std::sync::atomic;
    pub use std::sync::{Condvar, Mutex, MutexGuard};

    pub use arc_swap::{ArcSwap, ArcSwapOption};
}

#[cfg(feature = "schedules")]
mod chosen {
    use std::sync::{Arc, PoisonError};

    pub use shuttle::sync::atomic;
    pub use shuttle::sync::{Condvar, Mutex, MutexGuard};

    /// Stands for `arc_swap::ArcSwap`: each use is a moment at which another thread may go on.
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

    /// Stands for `arc_swap::ArcSwapOption`.
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

pub use chosen::*;
