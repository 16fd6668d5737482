//! The client of the daemon: sends requests, reads the event stream and follows the state. No other folder talks to the
//! daemon.
//!
//! `transport` connects, also over `ssh`, and allows only the five calls; `client` makes them, within `bounds`.
//! `framing` finds the objects in the answers; `list`, `answer`, `event` and `api_version` parse them field by field,
//! with `fields`, `values` (numbers and times), `vocabulary` (words) and `repair` (almost valid JSON). `watcher`
//! decides what an answer means and what to do next, `continuity` detects missed events; `driver` carries the actions
//! out.

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
