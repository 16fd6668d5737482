//! The readers: each collects the metrics for one purpose, from meter providers of its own.

mod detect;
mod gzip;
pub mod otlp;
pub mod prometheus;
mod resource;

use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{
    InstrumentKind, ManualReader, MeterProviderBuilder, Pipeline, SdkMeterProvider, Temporality,
};
use tokio::runtime::RuntimeMetrics;

use crate::stats::{DurationSink, Stats};
use crate::{inventory, metrics};

use self::gzip::Deflater;

pub use resource::resource;

/// What every reader reads. It stays while readers come and go.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Containers and events.
    pub inventory: inventory::Reader,
    /// The exporter's own numbers.
    pub stats: Arc<Stats>,
    /// The runtime's numbers.
    pub runtime: RuntimeMetrics,
    /// When the counts began.
    pub began: SystemTime,
    deflater: Arc<Deflater>,
}

impl Observed {
    /// The counts begin now.
    pub fn new(inventory: inventory::Reader, stats: Arc<Stats>, runtime: RuntimeMetrics) -> Self {
        Self { inventory, stats, runtime, began: SystemTime::now(), deflater: Arc::new(Deflater::new()) }
    }
}

/// A reader that cannot be made, with what would help.
#[derive(Debug)]
pub struct ReaderError {
    message: String,
}

impl ReaderError {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }

    fn unwritable(error: impl std::fmt::Display) -> Self {
        Self::new(format!("the exposition cannot be written: {error}"))
    }
}

impl std::fmt::Display for ReaderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ReaderError {}

/// A meter provider with a reader that is asked when its owner wants.
struct Manual {
    reader: SharedReader,
    provider: SdkMeterProvider,
    /// What writes to its histograms, if it has any.
    sink: Option<Arc<DurationSink>>,
}

impl Manual {
    fn new(
        resource: &Resource,
        temporality: Temporality,
        configure: impl FnOnce(MeterProviderBuilder) -> MeterProviderBuilder,
    ) -> Self {
        let reader = ManualReader::builder().with_temporality(temporality).build();
        let reader = SharedReader(Arc::new(reader));
        let builder = SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(reader.clone());
        Self { reader, provider: configure(builder).build(), sink: None }
    }

    fn meter(&self) -> Meter {
        self.provider.meter_with_scope(metrics::scope())
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.reader.collect(metrics)
    }
}

/// A provider takes its reader for itself; this one can be asked from outside.
#[derive(Debug, Clone)]
struct SharedReader(Arc<ManualReader>);

impl MetricReader for SharedReader {
    fn register_pipeline(&self, pipeline: std::sync::Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: std::time::Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}
