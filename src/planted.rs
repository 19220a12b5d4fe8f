//! Faults that a test build can have: each takes one safeguard away, so that a test can show that it notices.
//!
//! Without the feature `proof` there are none, and what asks for them is nothing.

macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $variant:ident,)*) => {
        /// A safeguard that is taken away.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Bug {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Bug] = &[$(Bug::$variant,)*];

            /// Its name, for `FASTK_PLANTED_BUG`.
            pub fn name(self) -> &'static str {
                match self { $(Bug::$variant => stringify!($variant),)* }
            }

            /// What it does, in a sentence.
            pub fn sentence(self) -> &'static str {
                match self { $(Bug::$variant => concat!($($doc),+).trim_ascii(),)* }
            }
        }
    };
}

bugs! {
    /// The bytes of a new file are not synced before it gets its name.
    FileNotSynced,
    /// The directory is not synced after a file got its name in it.
    DirectoryNotSynced,
    /// The parent of a new directory is not synced.
    NewDirectoryNotSynced,
    /// A file takes a name that another one has.
    PublishReplaces,
    /// The store is opened without its lock.
    LockNotTaken,
    /// A log segment is left unsynced when the next one begins.
    SegmentNotSyncedAtRotation,
    /// Commits are acknowledged before their frames are synced.
    AppendNotSynced,
    /// What an opening read from the log is not synced before it is shown.
    RecoveryNotSynced,
    /// Seals and checkpoints do not wait for what they move to be synced in the log.
    SettledBeforeSynced,
    /// Seals and checkpoints do not wait for the commits they move to be decided.
    SettledBeforeDecided,
    /// A failed sync is done again and believed.
    FailedSyncRetried,
    /// A failed sync is taken for a good one.
    FailedSyncIgnored,
    /// The writer goes on after a failed write or sync of the log.
    WriterGoesOn,
    /// The writer goes on after a manifest edit failed halfway.
    WriterGoesOnAfterEdit,
    /// A full disk met while frames are written counts as one met before.
    FullNoticedLate,
    /// A new segment takes no room beforehand.
    SpaceNotReserved,
    /// What a failed rotation left behind stays in the way.
    FailedRotationLeft,
    /// Commits are shown before they are written.
    ShownBeforeWritten,
    /// No marker follows the last acknowledged frames.
    MarkerNotWritten,
    /// Damage in synced frames counts as the torn end of an unfinished write.
    RotTakenForTorn,
    /// The torn end of an unfinished write stays where it is.
    TornTailKept,
    /// Every log segment has the same epoch.
    ConstantEpoch,
    /// A gap between two LSNs goes unnoticed.
    LsnGapUnnoticed,
    /// The checksum of a log frame is not compared.
    FrameUnchecked,
    /// The checksum of a chunk's block is not compared.
    BlockUnchecked,
    /// The checksum of a chunk's footer is not compared.
    FooterUnchecked,
    /// The length of a chunk is not compared.
    ChunkLengthUnchecked,
    /// The checksums of a run file are not compared.
    RunUnchecked,
    /// The checksum of a receipt file is not compared.
    ReceiptsUnchecked,
    /// The checksum of a manifest edit is not compared.
    EditUnchecked,
    /// The checksum of a manifest checkpoint is not compared.
    CheckpointUnchecked,
    /// The checksums of zone maps, coverage and value index directories are not compared.
    SidecarUnchecked,
    /// The checksum of a page of a value index is not compared.
    IndexPageUnchecked,
    /// The checksum of a tombstone file is not compared.
    TombstoneUnchecked,
    /// A store of a newer format is opened.
    NewerFormatOpened,
    /// The log is trimmed before the edit that gives it up is published.
    TrimmedEarly,
    /// The log is trimmed up to its open segment although no edit gave that up.
    TrimmedWithoutEdit,
    /// Replay takes a dropped series for unreachable before it comes to the snapshot that shows it.
    DropForeseen,
    /// Old manifest edits are removed before the checkpoint that repeats them is there.
    EditsRemovedEarly,
    /// Run files are removed before the edit that gives them up is published.
    RunsRemovedEarly,
    /// Tombstone files are left out.
    TombstoneFilesLeftOut,
    /// Receipts in the log are not read at an opening.
    ReceiptsNotReplayed,
    /// Receipts do not leave the log when it is trimmed.
    ReceiptsNotSettled,
    /// Logged commits are applied again over chunks that have them.
    ReplayedTwice,
    /// Rows on both sides of a snapshot become one chunk.
    FencesIgnored,
    /// Files are unlinked while a reader has them.
    ReadersIgnored,
    /// Rows that go straight to chunks are shown before the manifest names the chunks.
    LoadShownEarly,
    /// Writers look at rows that go straight to chunks before those have their files.
    LoadReadEarly,
    /// Rows go straight to chunks although older ones of the series are in the log only.
    LoadOverTail,
    /// Rows that go straight to chunks keep the commit number they were written with, whatever was committed meanwhile.
    LoadNotRenumbered,
    /// Numbers of files are used again.
    FileIdsReused,
    /// There may be any number of snapshots.
    SnapshotsUnlimited,
    /// Any number of commits is kept for cursors.
    PinsUnlimited,
    /// Who waits for a commit is not woken when it is decided.
    WaitersNotWoken,
    /// What maintenance changed while a commit was written is not in the state shown with that commit.
    MaintenanceForgotten,
    /// Any number of chunk files stays mapped.
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

    /// Whether the fault is there: in this thread by [`with`], in the whole process by `FASTK_PLANTED_BUG`.
    pub fn planted(bug: Bug) -> bool {
        static PROCESS: OnceLock<Option<Bug>> = OnceLock::new();
        let process = PROCESS.get_or_init(|| {
            let name = std::env::var("FASTK_PLANTED_BUG").ok()?;
            Bug::ALL.iter().copied().find(|bug| bug.name() == name)
        });
        PLANTED.get() == Some(bug) || *process == Some(bug)
    }

    /// Does something with the fault in this thread.
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

/// Never.
#[cfg(not(feature = "proof"))]
#[inline(always)]
pub const fn planted(_: Bug) -> bool {
    false
}
