//! The whole program: the server killed while it is loaded, and one model behind all faces.

mod faces;
mod many;
mod served;
