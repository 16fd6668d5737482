//! The state and events of every container of a Docker daemon, for Prometheus and OpenTelemetry.

pub mod app;
pub mod catalog;
pub mod cli;
pub mod commands;
pub mod config;
pub mod docker;
pub mod files;
pub mod inventory;
pub mod metrics;
#[cfg(test)]
mod mutation;
pub mod output;
pub mod readers;
pub mod stats;
pub mod tls;
pub mod version;
pub mod web;
