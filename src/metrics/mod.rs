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
mod page;
mod process;
mod registrar;
mod self_metrics;
pub mod views;

pub use crate::catalog;
pub use instruments::{Collection, register_containers, register_events};
pub use merged::{Merged, overflow, register_merged_containers, register_merged_events};
pub use page::{ContainerSeries, CountSeries, Page, Point, SERIES_LABEL, series_number};
pub use registrar::SelfMetricsPart;
pub use self_metrics::{
    parts as self_metrics_parts, register as register_self_metrics, room as self_metrics_room,
    view as self_metrics_view,
};

/// The instrumentation scope of every instrument.
pub fn scope() -> opentelemetry::InstrumentationScope {
    opentelemetry::InstrumentationScope::builder(catalog::METER).with_version(crate::version::VERSION).build()
}
