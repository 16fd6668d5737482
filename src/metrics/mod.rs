//! Instruments over the inventory's snapshots and over the exporter's own numbers.
//!
//! Each reader has meter providers of its own. A callback that runs for one reader records into every
//! reader of its provider, so with a shared one a container that is gone would show again in the next
//! export of a reader that did not ask (tried with opentelemetry_sdk 0.33).

pub mod attributes;
mod instruments;
pub mod labels;
pub mod merge;
mod merged;
mod own;
mod process;
pub mod views;

pub use crate::catalog;
pub use instruments::{Collection, SERIES_LABEL, register_containers, register_events};
pub use merged::{Merged, Point, overflow, register_merged};
pub use own::{register as register_own, room as own_room, view as own_view};

/// The instrumentation scope of every instrument.
pub fn scope() -> opentelemetry::InstrumentationScope {
    opentelemetry::InstrumentationScope::builder(catalog::METER).with_version(crate::version::VERSION).build()
}
