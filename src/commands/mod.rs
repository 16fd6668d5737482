//! The commands that do one thing and end: `once` and `healthcheck`.

pub mod healthcheck;
pub mod once;
pub mod output_file;
