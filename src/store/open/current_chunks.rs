//! Which chunk files of a series count, as far as the files alone show it.
//!
//! - A chunk that another names as replaced is a leftover. So is one that spans the same times as a newer chunk and has
//!   commits in common with it: the newer one was made of it, through others that have no file any more.
//! - Chunks that replaced others together are published by one edit. Where some of them have no file although each file
//!   that they replaced is there, and nothing newer was made of them, a crash came before that edit: they are leftovers,
//!   and the replaced ones count.
//! - Where some of them have no file, no newer chunk and no delete can account for it, and a replaced file is gone too,
//!   the rows of the missing ones are lost.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::manifest::ChunkRecord;
use crate::store::read::tombstone::Tombstone;

/// A chunk file of a series.
#[derive(Clone, Debug)]
pub struct FoundChunk {
    pub record: ChunkRecord,
    pub replaces: Vec<u64>,
    /// Its number among the chunks that replaced these together, and their count.
    pub slice: u32,
    pub slices: u32,
    /// First and last timestamp that its partition can have.
    pub span: (i64, i64),
}

/// Rows of a chunk without a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingSlice {
    pub series_id: u64,
    pub partition: String,
    /// They are between these timestamps.
    pub times: (i64, i64),
    pub commits: (u64, u64),
    pub reason: String,
}

/// The files of a series that count.
#[derive(Debug, Default)]
pub struct CurrentChunks {
    pub chunks: Vec<ChunkRecord>,
    /// Ids that they name as replaced.
    pub replaced: BTreeSet<u64>,
    pub missing: Vec<MissingSlice>,
}

/// What is known of a series besides its chunk files.
#[derive(Clone, Copy)]
pub struct KnownOfSeries<'a> {
    /// Ids of its chunk files, readable or not.
    pub files: &'a BTreeSet<u64>,
    pub tombstones: &'a [Tombstone],
    /// Chunks that the manifest has, as far as it can be read.
    pub published: &'a dyn Fn(u64) -> bool,
}

/// Whether two chunks of one partition have commits in common.
fn share_commits(a: &ChunkRecord, b: &ChunkRecord) -> bool {
    a.partition == b.partition && a.commit_lo <= b.commit_hi && b.commit_lo <= a.commit_hi
}

/// Whether two chunks of one partition have commits and times in common: both were never in use at one time.
pub fn clash(a: &ChunkRecord, b: &ChunkRecord) -> bool {
    share_commits(a, b) && a.ts_min <= b.ts_max && b.ts_min <= a.ts_max
}

/// Chooses the chunks that count.
pub fn current_chunks(mut found: Vec<FoundChunk>, known: KnownOfSeries<'_>) -> CurrentChunks {
    let mut current = CurrentChunks::default();
    // The newest ones first: what they are made of was published.
    let mut sets: BTreeMap<(Vec<u64>, u32), u64> = BTreeMap::new();
    for chunk in found.iter().filter(|chunk| chunk.slices > 1) {
        let newest = sets.entry((chunk.replaces.clone(), chunk.slices)).or_default();
        *newest = chunk.record.id.max(*newest);
    }
    let mut sets: Vec<(u64, Vec<u64>, u32)> =
        sets.into_iter().map(|((replaces, slices), newest)| (newest, replaces, slices)).collect();
    sets.sort_unstable_by(|a, b| b.cmp(a));
    for (_, replaces, slices) in sets {
        let is_member = |chunk: &FoundChunk| chunk.slices == slices && chunk.replaces == replaces;
        match incomplete(&found, &is_member, &replaces, slices, known) {
            Incomplete::Unpublished => found.retain(|chunk| !is_member(chunk)),
            Incomplete::Missing(missing) => current.missing.extend(missing),
        }
    }
    current.replaced = found.iter().flat_map(|chunk| &chunk.replaces).copied().collect();
    let mut records: Vec<ChunkRecord> = found.into_iter().map(|chunk| chunk.record).collect();
    records.retain(|record| !current.replaced.contains(&record.id));
    // Of two that clash the one that goes further has what the other has.
    records.sort_by_key(|record| (record.commit_hi, record.id));
    for record in records.into_iter().rev() {
        if !current.chunks.iter().any(|kept| clash(kept, &record)) {
            current.chunks.push(record);
        }
    }
    current
}

/// What is wrong with chunks that replaced others together.
enum Incomplete {
    /// They were never in use.
    Unpublished,
    /// Rows of these are lost; none when they are complete.
    Missing(Vec<MissingSlice>),
}

fn incomplete(
    found: &[FoundChunk],
    is_member: &dyn Fn(&FoundChunk) -> bool,
    replaces: &[u64],
    slices: u32,
    known: KnownOfSeries<'_>,
) -> Incomplete {
    let mut members: Vec<&FoundChunk> = found.iter().filter(|chunk| is_member(chunk)).collect();
    members.sort_by_key(|chunk| chunk.slice);
    let numbers: BTreeSet<u32> = members.iter().map(|chunk| chunk.slice).collect();
    let (Some(first), Some(any)) = (members.iter().map(|chunk| chunk.record.id).min(), members.first()) else {
        return Incomplete::Missing(Vec::new());
    };
    if (1..=slices).all(|number| numbers.contains(&number)) {
        return Incomplete::Missing(Vec::new());
    }
    let newer: Vec<&FoundChunk> = found
        .iter()
        .filter(|chunk| !is_member(chunk) && chunk.record.id > first && share_commits(&chunk.record, &any.record))
        .collect();
    let replaced: Vec<&FoundChunk> = found.iter().filter(|chunk| replaces.contains(&chunk.record.id)).collect();
    let are_left = replaces.iter().all(|id| known.files.contains(id)) && replaced.len() == replaces.len();
    // All rows lay between those of the replaced chunks.
    let bounds = if are_left {
        let times = replaced.iter().map(|chunk| (chunk.record.ts_min, chunk.record.ts_max));
        times.fold((i64::MAX, i64::MIN), |all, (first, last)| (all.0.min(first), all.1.max(last)))
    } else {
        any.span
    };
    let hits = |(first, last): (i64, i64)| {
        newer.iter().any(|chunk| chunk.record.ts_min <= last && first <= chunk.record.ts_max)
    };
    let is_published = !are_left || members.iter().any(|chunk| (known.published)(chunk.record.id)) || hits(bounds);
    if !is_published {
        return Incomplete::Unpublished;
    }
    let deleted = |(first, last): (i64, i64)| {
        known.tombstones.iter().any(|t| t.commit > any.record.commit_hi && t.start <= last && first <= t.end)
    };
    let mut missing = Vec::new();
    let mut number = 1;
    while number <= slices {
        if numbers.contains(&number) {
            number += 1;
            continue;
        }
        let until = numbers.range(number..).next().copied();
        let before = members.iter().filter(|chunk| chunk.slice < number).map(|chunk| chunk.record.ts_max).max();
        let after = members.iter().filter(|chunk| chunk.slice > number).map(|chunk| chunk.record.ts_min).min();
        let times =
            (before.map_or(bounds.0, |ts| ts.saturating_add(1)), after.map_or(bounds.1, |ts| ts.saturating_sub(1)));
        let last = until.map_or(slices, |until| until - 1);
        if times.0 <= times.1 && !hits(times) && !deleted(times) {
            let ids = replaces.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
            missing.push(MissingSlice {
                series_id: any.record.series_id,
                partition: any.record.partition.clone(),
                times,
                commits: (any.record.commit_lo, any.record.commit_hi),
                reason: match last - number {
                    0 => format!("slice {number} of the {slices} that replaced chunks {ids} has no file"),
                    _ => format!("slices {number} to {last} of the {slices} that replaced chunks {ids} have no file"),
                },
            });
        }
        number = last + 1;
    }
    Incomplete::Missing(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(id: u64, times: (i64, i64), commits: (u64, u64), replaces: &[u64]) -> FoundChunk {
        let record = ChunkRecord {
            id,
            series_id: 1,
            partition: "all".into(),
            rows: 1,
            ts_min: times.0,
            ts_max: times.1,
            commit_lo: commits.0,
            commit_hi: commits.1,
            ..ChunkRecord::default()
        };
        FoundChunk { record, replaces: replaces.to_vec(), slice: 1, slices: 1, span: (i64::MIN, i64::MAX) }
    }

    fn slice(mut chunk: FoundChunk, slice: u32, slices: u32) -> FoundChunk {
        (chunk.slice, chunk.slices) = (slice, slices);
        chunk
    }

    fn choose(found: &[FoundChunk], tombstones: &[Tombstone], published: &[u64]) -> CurrentChunks {
        let files = found.iter().map(|chunk| chunk.record.id).collect();
        let published = |id: u64| published.contains(&id);
        current_chunks(found.to_vec(), KnownOfSeries { files: &files, tombstones, published: &published })
    }

    fn ids(current: &CurrentChunks) -> Vec<u64> {
        let mut ids: Vec<u64> = current.chunks.iter().map(|chunk| chunk.id).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn slices_of_one_seal_count_although_they_have_the_same_commits() {
        let found = [chunk(1, (0, 9), (1, 5), &[]), chunk(2, (10, 19), (1, 5), &[]), chunk(3, (5, 14), (6, 7), &[])];
        assert_eq!(ids(&choose(&found, &[], &[])), [1, 2, 3]);
    }

    #[test]
    fn of_two_with_times_and_commits_in_common_the_newer_one_counts() {
        let found = [chunk(1, (0, 19), (1, 5), &[]), chunk(8, (0, 9), (1, 6), &[4]), chunk(9, (10, 30), (1, 6), &[5])];
        assert_eq!(ids(&choose(&found, &[], &[])), [8, 9]);
    }

    #[test]
    fn slices_replace_what_they_were_made_of_only_together() {
        let old = [chunk(1, (0, 19), (1, 5), &[]), chunk(2, (3, 12), (6, 7), &[])];
        let new = [slice(chunk(3, (0, 9), (1, 7), &[1, 2]), 1, 2), slice(chunk(4, (10, 19), (1, 7), &[1, 2]), 2, 2)];
        let with = |chunks: &[&FoundChunk]| chunks.iter().map(|chunk| (*chunk).clone()).collect::<Vec<_>>();
        // A crash after one of them got its name.
        for one in &new {
            let current = choose(&with(&[&old[0], &old[1], one]), &[], &[]);
            assert_eq!((ids(&current), current.missing.len()), (vec![1, 2], 0));
        }
        let both = choose(&with(&[&old[0], &old[1], &new[0], &new[1]]), &[], &[]);
        assert_eq!((ids(&both), both.replaced), (vec![3, 4], [1, 2].into()));
        // The manifest knew one of them, or a newer chunk was made of the other.
        let current = choose(&with(&[&old[0], &old[1], &new[0]]), &[], &[3]);
        assert_eq!((ids(&current), current.missing.len()), (vec![3], 1));
        let later = chunk(7, (10, 25), (1, 9), &[4, 6]);
        let current = choose(&with(&[&old[0], &old[1], &new[0], &later]), &[], &[]);
        assert_eq!((ids(&current), current.missing.len()), (vec![3, 7], 0));
    }

    #[test]
    fn a_slice_without_a_file_is_lost_unless_something_accounts_for_it() {
        let one = slice(chunk(3, (0, 9), (1, 7), &[1, 2]), 1, 4);
        let last = slice(chunk(6, (30, 39), (1, 7), &[1, 2]), 4, 4);
        let current = choose(&[one.clone(), last.clone()], &[], &[]);
        assert_eq!(ids(&current), [3, 6]);
        let [missing] = current.missing.as_slice() else { panic!("{current:?}") };
        assert_eq!((missing.times, missing.commits), ((10, 29), (1, 7)));
        assert!(missing.reason.starts_with("slices 2 to 3 of the 4"), "{}", missing.reason);
        // Rows after them, of later commits, are no successors.
        let late = chunk(9, (11, 20), (8, 9), &[]);
        assert_eq!(choose(&[one.clone(), last.clone(), late], &[], &[]).missing.len(), 1);
        let successor = chunk(9, (11, 20), (1, 9), &[4, 5]);
        assert!(choose(&[one.clone(), last.clone(), successor], &[], &[]).missing.is_empty());
        let early = Tombstone { commit: 7, start: 10, end: 29 };
        assert_eq!(choose(&[one.clone(), last.clone()], &[early], &[]).missing.len(), 1);
        let deleted = Tombstone { commit: 8, start: 15, end: 15 };
        assert!(choose(&[one, last], &[deleted], &[]).missing.is_empty());
    }
}
