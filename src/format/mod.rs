//! Bytes on disk and on the wire, to and from values. Pure: nothing here opens a file.

pub mod ipc;
