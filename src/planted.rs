//! Planted bugs of test builds: each disables one safeguard, so that the test suite can prove that it detects this.
//!
//! Without the feature `proof` no bug is compiled in, and checks for one cost nothing.

macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $variant:ident,)*) => {
        /// A disabled safeguard.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Bug {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl Bug {
            /// All bugs.
            pub const ALL: &'static [Bug] = &[$(Bug::$variant,)*];

            /// The name, for `FASTK_PLANTED_BUG`.
            pub fn name(self) -> &'static str {
                match self { $(Bug::$variant => stringify!($variant),)* }
            }

            /// The effect, in one sentence.
            pub fn sentence(self) -> &'static str {
                match self { $(Bug::$variant => concat!($($doc),+).trim_ascii(),)* }
            }
        }
    };
}

bugs! {
    /// The content of a new file is not synced before it is linked to its name.
    FileNotSynced,
    /// The directory is not synced after a file is linked in it.
    DirectoryNotSynced,
    /// The parent of a new directory is not synced.
    NewDirectoryNotSynced,
    /// Publishing replaces an existing file.
    PublishReplaces,
    /// The store is opened without taking its lock.
    LockNotTaken,
    /// A log segment is not synced before the next one starts.
    SegmentNotSyncedAtRotation,
    /// Commits are acknowledged before their frames are synced.
    AppendNotSynced,
    /// Commits replayed at open are not synced before they are visible.
    RecoveryNotSynced,
    /// Seals and checkpoints do not wait until the commits they move are synced in the log.
    SettledBeforeSynced,
    /// Seals and checkpoints do not wait until the commits they move are decided.
    SettledBeforeDecided,
    /// A failed sync is retried, and a success of the retry is trusted.
    FailedSyncRetried,
    /// A failed sync is ignored.
    FailedSyncIgnored,
    /// The writer continues after a failed write or sync of the log.
    WriterGoesOn,
    /// The writer continues after a manifest edit failed halfway.
    WriterGoesOnAfterEdit,
    /// A disk that fills up while frames are written is handled as if it were full before.
    FullNoticedLate,
    /// A new segment is not preallocated.
    SpaceNotReserved,
    /// Files left by a failed rotation are not removed and block the next one.
    FailedRotationLeft,
    /// Commits are visible before they are written.
    ShownBeforeWritten,
    /// No marker follows the last acknowledged frames.
    MarkerNotWritten,
    /// Damage in synced frames is treated as the torn end of an unfinished write.
    RotTakenForTorn,
    /// The torn end of an unfinished write is not removed.
    TornTailKept,
    /// Every log segment has the same epoch.
    ConstantEpoch,
    /// A gap between two LSNs is not detected.
    LsnGapUnnoticed,
    /// The checksum of a log frame is not verified.
    FrameUnchecked,
    /// The checksum of a chunk's block is not verified.
    BlockUnchecked,
    /// The checksum of a chunk's footer is not verified.
    FooterUnchecked,
    /// The length of a chunk is not verified.
    ChunkLengthUnchecked,
    /// The checksums of a run file are not verified.
    RunUnchecked,
    /// The checksum of a receipt file is not verified.
    ReceiptsUnchecked,
    /// The checksum of a manifest edit is not verified.
    EditUnchecked,
    /// The checksum of a manifest checkpoint is not verified.
    CheckpointUnchecked,
    /// The checksums of zone maps, coverage and value index directories are not verified.
    SidecarUnchecked,
    /// The checksum of a value index page is not verified.
    IndexPageUnchecked,
    /// The checksum of a tombstone file is not verified.
    TombstoneUnchecked,
    /// A store of a newer format is opened.
    NewerFormatOpened,
    /// The log is trimmed before the edit that releases it is published.
    TrimmedEarly,
    /// The log is trimmed up to its open segment although no edit released it.
    TrimmedWithoutEdit,
    /// Replay treats a dropped series as unreachable before it reaches the snapshot that contains it.
    DropForeseen,
    /// Old manifest edits are removed before the checkpoint that covers them is published.
    EditsRemovedEarly,
    /// Run files are removed before the edit that releases them is published.
    RunsRemovedEarly,
    /// Tombstone files are not written.
    TombstoneFilesLeftOut,
    /// Receipts in the log are not read at open.
    ReceiptsNotReplayed,
    /// Receipts are not moved out of the log when it is trimmed.
    ReceiptsNotSettled,
    /// Logged commits are applied again on top of chunks that contain them.
    ReplayedTwice,
    /// Rows from both sides of a snapshot boundary are merged into one chunk.
    FencesIgnored,
    /// Files are unlinked while a reader uses them.
    ReadersIgnored,
    /// Bulk-loaded rows are visible before the manifest lists their chunks.
    LoadShownEarly,
    /// Writers read bulk-loaded rows before their chunk files exist.
    LoadReadEarly,
    /// Rows are bulk-loaded into chunks although older rows of the series are only in the log.
    LoadOverTail,
    /// Bulk-loaded rows keep the commit number they were staged with, even if others committed meanwhile.
    LoadNotRenumbered,
    /// File ids are reused.
    FileIdsReused,
    /// The number of snapshots is not limited.
    SnapshotsUnlimited,
    /// The number of commits retained for cursors is not limited.
    PinsUnlimited,
    /// Threads waiting for a commit are not woken when it is decided.
    WaitersNotWoken,
    /// Changes of maintenance during the write of a commit are missing from the state published with it.
    MaintenanceForgotten,
    /// The number of mapped chunk files is not limited.
    MapsUnlimited,
}

#[cfg(feature = "proof")]
mod switch {
    use std::cell::Cell;
    use std::sync::OnceLock;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether the bug is active: in this thread by [`with`], in the process by `FASTK_PLANTED_BUG`.
    pub fn planted(bug: Bug) -> bool {
        static PROCESS: OnceLock<Option<Bug>> = OnceLock::new();
        let process = PROCESS.get_or_init(|| {
            let name = std::env::var("FASTK_PLANTED_BUG").ok()?;
            Bug::ALL.iter().copied().find(|bug| bug.name() == name)
        });
        PLANTED.get() == Some(bug) || *process == Some(bug)
    }

    /// Runs `work` with the bug active in this thread.
    pub fn with<T>(bug: Bug, work: impl FnOnce() -> T) -> T {
        struct Reset;
        impl Drop for Reset {
            fn drop(&mut self) {
                PLANTED.set(None);
            }
        }
        PLANTED.set(Some(bug));
        let _reset = Reset;
        work()
    }
}

#[cfg(feature = "proof")]
pub use switch::{planted, with};

/// Always false without the feature `proof`.
#[cfg(not(feature = "proof"))]
#[inline(always)]
pub const fn planted(_: Bug) -> bool {
    false
}
