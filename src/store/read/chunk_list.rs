//! The chunks of a series, searched by time.

use std::ops::Deref;
use std::sync::Arc;

use crate::store::read::chunk::ChunkFile;
use crate::types::cells;

/// Chunks of a series, ordered by first timestamp, then commit.
#[derive(Clone, Debug, Default)]
pub struct Chunks {
    chunks: Vec<Arc<ChunkFile>>,
    /// For each chunk the last timestamp of it and all before it.
    reach: Vec<i64>,
}

impl FromIterator<Arc<ChunkFile>> for Chunks {
    fn from_iter<I: IntoIterator<Item = Arc<ChunkFile>>>(chunks: I) -> Self {
        let mut chunks: Vec<Arc<ChunkFile>> = chunks.into_iter().collect();
        chunks.sort_by_key(|chunk| (chunk.record.ts_min, chunk.record.commit_hi));
        let mut last = i64::MIN;
        let reach = |chunk: &Arc<ChunkFile>| {
            last = last.max(chunk.record.ts_max);
            last
        };
        Self { reach: chunks.iter().map(reach).collect(), chunks }
    }
}

impl Deref for Chunks {
    type Target = [Arc<ChunkFile>];

    fn deref(&self) -> &Self::Target {
        &self.chunks
    }
}

impl Chunks {
    /// Chunks that can hold rows of a closed range, found by binary search.
    pub fn within(&self, (start, end): (i64, i64)) -> impl DoubleEndedIterator<Item = &Arc<ChunkFile>> {
        let first = self.reach.partition_point(|last| *last < start);
        let until = self.chunks.partition_point(|chunk| chunk.record.ts_min <= end);
        let near = cells::range(&self.chunks, first..until.max(first));
        near.iter().filter(move |chunk| chunk.record.ts_max >= start)
    }
}
