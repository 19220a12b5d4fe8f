//! The command line: raw flags in, validated settings out, one file a verb.

pub mod import;
