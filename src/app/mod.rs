//! The exporter as it runs: the parts put together, the readers that run, what a reload changes, logging.

mod descriptors;
mod error;
mod exporter;
pub mod logging;
pub mod reload;
mod running;

pub use error::StartError;
pub use exporter::Exporter;
