//! The two protocol faces: translation only, strangers to each other.

pub mod flight;
pub mod http;

#[cfg(test)]
mod zero_copy;
