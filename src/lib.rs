//! The state and events of every container of a Docker daemon, for Prometheus and OpenTelemetry.

pub mod cli;
pub mod config;
pub mod docker;
pub mod healthcheck;
pub mod inventory;
pub mod logging;
pub mod metrics;
pub mod once;
pub mod readers;
pub mod reload;
mod run;
mod serving;
pub mod stats;
pub mod tls;
pub mod version;
pub mod web;

pub use run::{Exporter, StartError};
