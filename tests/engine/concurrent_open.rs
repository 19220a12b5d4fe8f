//! Two processes open one directory: a complete second open runs between any two disk operations of the first.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::sim_disk::{SimDisk, SimState};
use fastk::ErrorCode;
use fastk::disk::{Disk, DiskPath};
use fastk::store::{Store, StoreOptions};
use fastk::types::{SeriesKey, SeriesSpec};

use crate::hooked_disk::Hooked;

const ROOT: &str = "/data/store";

fn options() -> StoreOptions {
    StoreOptions { background_maintenance: false, wal_segment_bytes: 4 << 10, ..StoreOptions::default() }
}

/// What the second open does once it has the store.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Second {
    Holds,
    Closes,
}

/// Opens the store and runs a second open before operation `at` of the first. Returns whether `at` was reached, and
/// asserts that only one of them has the store at a time.
fn race(at: u64, is_new: bool, second: Second) -> bool {
    let disk = SimDisk::new(SimState::default(), 7);
    let path = disk.path(ROOT);
    fastk::disk::create_dir(&path.parent().unwrap()).unwrap();
    if !is_new {
        Store::open_on(&path, true, options()).unwrap();
    }
    let key = SeriesKey::kline("A", "1m").unwrap();
    let other: Arc<Mutex<Option<fastk::Result<Store>>>> = Arc::default();
    let work = {
        let (other, path, key) = (Arc::clone(&other), path.clone(), key.clone());
        move || {
            let opened = Store::open_on(&path, true, options());
            if let Ok(store) = &opened {
                store.register(SeriesSpec::of_key(&key).resolve().unwrap()).unwrap();
            }
            *other.lock().unwrap() = Some(opened);
            if second == Second::Closes {
                // Records a refusal; closes a store.
                let mut other = other.lock().unwrap();
                if matches!(&*other, Some(Ok(_))) {
                    *other = None;
                }
            }
        }
    };
    let (left, work) = (AtomicU64::new(at), Arc::new(Mutex::new(Some(work))));
    let waiting = Arc::clone(&work);
    let before = move |_: &str, _: &std::path::Path| {
        if left.fetch_sub(1, Ordering::Relaxed) == 0 {
            let work = waiting.lock().unwrap().take().unwrap();
            work();
        }
    };
    let interrupted: Arc<dyn Disk> = Arc::new(Hooked { disk, before: Box::new(before) });
    let first = Store::open_on(&DiskPath::new(interrupted, ROOT), true, options());
    if work.lock().unwrap().is_some() {
        first.unwrap();
        return false;
    }
    let context = format!("operation {at}, {second:?}, new: {is_new}");
    match (&first, &*other.lock().unwrap()) {
        (Ok(_), Some(Err(refused))) | (Err(refused), Some(Ok(_))) if second == Second::Holds => {
            assert_eq!(refused.code(), ErrorCode::StoreLocked, "{context}: {refused}");
        }
        (Ok(_), Some(Err(refused))) => assert_eq!(refused.code(), ErrorCode::StoreLocked, "{context}: {refused}"),
        // The second one finished before the first had the lock: its writes are visible.
        (Ok(store), None) => assert!(store.snapshot().get(&key).is_some(), "{context}: a registration is lost"),
        (first, other) => panic!("{context}: first {first:?}, second {other:?}"),
    }
    true
}

#[test]
fn of_two_concurrent_opens_one_has_the_store_and_the_other_fails_with_store_locked() {
    for second in [Second::Holds, Second::Closes] {
        for is_new in [true, false] {
            let mut at = 0;
            while race(at, is_new, second) {
                at += 1;
            }
            assert!(at > 10, "an opening takes {at} operations");
        }
    }
}

#[test]
fn a_directory_with_other_files_is_refused_and_unchanged() {
    let disk = SimDisk::new(SimState::default(), 7);
    let path = disk.path(ROOT);
    fastk::disk::create_dir(&path).unwrap();
    disk.create(&path.join("thesis.tex")).unwrap();
    let refused = Store::open_on(&path, true, options()).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidArgument);
    assert!(refused.to_string().contains("thesis.tex"), "{refused}");
    assert_eq!(disk.list(&path).unwrap(), ["thesis.tex"]);
}
