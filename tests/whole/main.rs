//! The whole program: one model behind all faces.

mod faces;
mod many;
mod served;
