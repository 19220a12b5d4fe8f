//! Work that keeps a store small and its log short.

pub(in crate::store) mod background;
pub(in crate::store) mod checkpoint;
pub(in crate::store) mod compact;
pub(in crate::store) mod counters;
pub(in crate::store) mod root_check;
