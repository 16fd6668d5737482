//! The daemon: asked, listened to, and followed. Nothing outside of this folder knows how.
//!
//! `transport` connects, by `ssh` too, and lets the five calls through; `client` makes them, within `bounds`. `framing` finds the
//! objects in what comes back; `list`, `answer`, `event` and `api_version` read them, field by field: `fields`,
//! `values` for numbers and times, `vocabulary` for words, `repair` for what is almost JSON. `watcher` decides what
//! it means and what is to be done next, `continuity` whether every event has come; `driver` does it.

mod answer;
mod answers;
mod api_version;
mod bounds;
mod client;
mod continuity;
mod coverage;
mod dedup;
mod delayed;
mod driver;
mod event;
mod fields;
mod framing;
mod list;
#[cfg(test)]
mod properties;
mod repair;
mod ssh;
mod summary;
mod transport;
mod values;
mod vocabulary;
mod watcher;

pub use answers::Answers;
pub use driver::Driver;
pub use ssh::end_children;
pub use transport::EndpointError;
