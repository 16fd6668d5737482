//! The pull reader: the exposition that Prometheus scrapes.
//!
//! There are two registries. Containers and events are rendered once for each change of the inventory and the
//! text is kept; the exporter's own numbers change all the time and are rendered at each scrape.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use opentelemetry::Key;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_prometheus::{ExporterBuilder, ResourceSelector};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder};
use tokio::runtime::RuntimeMetrics;

use super::ReaderError;
use crate::config::{Config, Pull, TranslationStrategy};
use crate::inventory::{self, Snapshot};
use crate::metrics::{self, Collection, Naming};
use crate::stats::Stats;

/// The type of the exposition.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Streams begin with room for so many containers and event label sets.
const LEAST_ROOM: usize = 256;

/// Renders the exposition.
pub struct PrometheusReader {
    inventory: inventory::Reader,
    pull: Pull,
    resource: Resource,
    cache_period: Duration,
    collection: Arc<Collection>,
    state: Mutex<State>,
    own: Registry,
    _own_provider: SdkMeterProvider,
}

#[derive(Default)]
struct State {
    instruments: Option<Instruments>,
    rendered: Option<Rendered>,
}

/// Containers' and events' instruments, with room for a number of series.
struct Instruments {
    registry: Registry,
    _provider: SdkMeterProvider,
    containers: usize,
    events: usize,
}

struct Rendered {
    container_generation: u64,
    event_generation: u64,
    at: Instant,
    text: Bytes,
}

impl PrometheusReader {
    /// Makes the reader with its instruments.
    pub fn new(
        config: &Config,
        pull: &Pull,
        resource: &Resource,
        inventory: inventory::Reader,
        stats: &Arc<Stats>,
        runtime: &RuntimeMetrics,
    ) -> Result<Self, ReaderError> {
        let own = Registry::new();
        // Prometheus' own suffixes, whatever the containers' metrics have: these names are new.
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(own.clone())
            .without_target_info()
            .scope_info_enabled(false);
        let own_provider = provider(exporter, resource, |builder| builder)?;
        metrics::register_own(&own_provider.meter_with_scope(metrics::scope()), stats, runtime);
        let reader = Self {
            inventory,
            pull: pull.clone(),
            resource: resource.clone(),
            cache_period: config.web.cache_period,
            collection: Collection::new(Naming::Prometheus, config.containers.encoding),
            state: Mutex::default(),
            own,
            _own_provider: own_provider,
        };
        // What is wrong with the settings shows now and not at the first scrape.
        let instruments = reader.instruments(LEAST_ROOM, LEAST_ROOM)?;
        *reader.state.lock().unwrap_or_else(PoisonError::into_inner) =
            State { instruments: Some(instruments), rendered: None };
        Ok(reader)
    }

    /// The exposition at this moment. It may take a while when much has changed, so it is not for a thread that
    /// others wait for.
    pub fn render(&self) -> Result<Bytes, ReaderError> {
        let mut text = Vec::from(self.render_inventory()?);
        encode(&self.own, &mut text)?;
        Ok(text.into())
    }

    fn render_inventory(&self) -> Result<Bytes, ReaderError> {
        // Scrapes that come together wait for one rendering and share it.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = self.inventory.snapshot();
        if let Some(rendered) = &state.rendered
            && (rendered.at.elapsed() < self.cache_period
                || (rendered.container_generation == snapshot.containers.generation
                    && rendered.event_generation == snapshot.events.generation))
        {
            return Ok(rendered.text.clone());
        }
        let text = self.collect(&mut state.instruments, &snapshot)?;
        state.rendered = Some(Rendered {
            container_generation: snapshot.containers.generation,
            event_generation: snapshot.events.generation,
            at: Instant::now(),
            text: text.clone(),
        });
        Ok(text)
    }

    fn collect(&self, kept: &mut Option<Instruments>, snapshot: &Snapshot) -> Result<Bytes, ReaderError> {
        let (containers, events) = (snapshot.containers.list.len(), snapshot.events.list.len());
        // Taken, and put back at the end: after a panic within the SDK its locks are poisoned, and the next
        // scrape begins with new instruments.
        let instruments = match kept.take() {
            Some(known) if fits(known.containers, containers) && fits(known.events, events) => known,
            _ => self.instruments(room(containers), room(events))?,
        };
        self.collection.prepare(snapshot, 0..containers, 0..events);
        let mut text = Vec::new();
        let result = encode(&instruments.registry, &mut text);
        self.collection.clear();
        result?;
        if containers > 0 && text.is_empty() {
            return Err(ReaderError::new("the metrics SDK gave nothing"));
        }
        *kept = Some(instruments);
        Ok(text.into())
    }

    fn instruments(&self, containers: usize, events: usize) -> Result<Instruments, ReaderError> {
        let registry = Registry::new();
        let view = self.collection.view(containers, events);
        let exporter = self.exporter(registry.clone())?;
        let provider = provider(exporter, &self.resource, |builder| builder.with_view(view))?;
        let meter = provider.meter_with_scope(metrics::scope());
        metrics::register_containers(&meter, &self.collection);
        metrics::register_events(&meter, &self.collection);
        Ok(Instruments { registry, _provider: provider, containers, events })
    }

    fn exporter(&self, registry: Registry) -> Result<ExporterBuilder, ReaderError> {
        let mut exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry)
            .scope_info_enabled(self.pull.scope_info_enabled);
        if !self.pull.target_info_enabled {
            exporter = exporter.without_target_info();
        }
        let constant: std::collections::HashSet<Key> = self
            .resource
            .iter()
            .map(|(key, _)| key)
            .filter(|key| self.pull.resource_constant_labels.matches(key.as_str()))
            .cloned()
            .collect();
        exporter = exporter.with_resource_selector(ResourceSelector::KeyAllowList(constant));
        match self.pull.translation_strategy {
            TranslationStrategy::UnderscoreEscapingWithSuffixes => Ok(exporter),
            TranslationStrategy::UnderscoreEscapingWithoutSuffixes => {
                Ok(exporter.without_units().without_counter_suffixes())
            }
            TranslationStrategy::NoUtf8EscapingWithSuffixes | TranslationStrategy::NoTranslation => {
                Err(ReaderError::new(
                    "translation_strategy: names with dots need the UTF-8 exposition formats, which this \
                     program does not write\nhint: use an underscore_escaping strategy",
                ))
            }
        }
    }
}

fn provider(
    exporter: ExporterBuilder,
    resource: &Resource,
    configure: impl FnOnce(
        opentelemetry_sdk::metrics::MeterProviderBuilder,
    ) -> opentelemetry_sdk::metrics::MeterProviderBuilder,
) -> Result<SdkMeterProvider, ReaderError> {
    let exporter = exporter.build().map_err(|error| ReaderError::new(error.to_string()))?;
    let builder = SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(exporter);
    Ok(configure(builder).build())
}

fn encode(registry: &Registry, text: &mut Vec<u8>) -> Result<(), ReaderError> {
    use prometheus::Encoder;
    TextEncoder::new()
        .encode(&registry.gather(), text)
        .map_err(|error| ReaderError::new(format!("the exposition cannot be written: {error}")))
}

/// Whether so much room is enough, and not far too much.
fn fits(room: usize, needed: usize) -> bool {
    needed <= room && room <= (8 * needed).max(LEAST_ROOM)
}

/// Room for what is needed and for as much again, because making instruments anew costs a scrape.
fn room(needed: usize) -> usize {
    (2 * needed).max(LEAST_ROOM)
}
