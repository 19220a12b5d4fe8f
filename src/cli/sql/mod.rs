//! `fastk sql`.

mod command;
mod completion;
mod output;
mod prompt;

pub use command::{SqlArgs, run};
