//! The daemon: asked, listened to, and followed. Nothing outside of this folder knows how.
//!
//! `transport` connects and lets the five calls through; `client` makes them; `answer` and `event` read what
//! comes back; `watcher` decides what it means and what is to be done next, `continuity` whether every event has
//! come; `driver` does it.

mod answer;
mod answers;
mod client;
mod continuity;
mod driver;
mod event;
mod later;
mod seen;
mod transport;
mod watcher;

pub use answers::Answers;
pub use driver::Driver;
pub use transport::EndpointError;
