//! The two protocol faces: translation only, strangers to each other.

mod begin;
pub mod flight;
pub mod http;

#[cfg(test)]
mod zero_copy;
