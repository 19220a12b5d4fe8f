//! Tests of the door for foreign rows.
