//! The exporter as it runs: the parts put together, the readers that run, what a reload changes, logging, signals.

pub mod abort;
mod blocking;
mod descriptors;
mod error;
mod exporter;
pub mod logging;
pub mod reload;
mod running;
pub mod signals;

pub use blocking::blocking;
pub use error::StartError;
pub use exporter::Exporter;
