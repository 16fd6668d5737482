//! The pull reader: the exposition that Prometheus scrapes.
//!
//! There are two registries. Containers and events are rendered when the inventory changes, a shard at a time and
//! only the shards that changed; their text is kept, compressed. The exporter's own numbers change all the time
//! and are rendered at each scrape.
//!
//! `shards` finds what has to be rendered, the SDK and the registry collect it, `encode` writes it as text, and
//! `gzip` keeps the text and puts it together.

mod encode;
mod gzip;
mod merged;
mod shards;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use opentelemetry::Key;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_prometheus::{ExporterBuilder, ResourceSelector};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{MeterProviderBuilder, SdkMeterProvider};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::runtime::RuntimeMetrics;

use self::encode::{Families, Labels, Naming};
use self::gzip::{Deflater, Inflate, Joined, Piece};
use self::merged::MergedStreams;
use self::shards::Shards;
use super::ReaderError;
use crate::config::{Aggregation, Config, Pull};
use crate::inventory::{self, Container, EventCount, Snapshot};
use crate::metrics::catalog::ContainerValue;
use crate::metrics::labels::{LabelWriter, Names};
use crate::metrics::views::{Rules, Streams};
use crate::metrics::{self, Collection};
use crate::stats::{DurationSink, Stats};

/// The type of an exposition.
pub fn content_type(names: Names) -> &'static str {
    match names {
        Names::Escaped => prometheus::TEXT_FORMAT,
        Names::Kept => "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
    }
}

/// Series that are collected at once. The SDK takes memory for all of them beforehand.
const ROOM: usize = 256;

/// Renders the exposition.
pub struct PrometheusReader {
    inventory: inventory::Reader,
    pull: Pull,
    resource: Resource,
    cache_period: Duration,
    collection: Arc<Collection>,
    states: Mutex<States>,
    own: Registry,
    _own_provider: SdkMeterProvider,
    /// What writes to their histograms.
    _sink: Arc<DurationSink>,
    own_deflater: Mutex<Deflater>,
}

/// One for each way to write names. They share the collection, so they share a lock.
#[derive(Default)]
struct States {
    escaped: State,
    kept: State,
}

impl States {
    fn of(&mut self, names: Names) -> &mut State {
        match names {
            Names::Escaped => &mut self.escaped,
            Names::Kept => &mut self.kept,
        }
    }
}

#[derive(Default)]
struct State {
    instruments: Option<Instruments>,
    rendered: Option<Rendered>,
}

/// Containers' and events' instruments, with room for a shard.
struct Instruments {
    registry: Registry,
    _provider: SdkMeterProvider,
    labels: LabelWriter,
    /// The names of the families that say what else is known of a container.
    infos: Vec<String>,
    naming: Naming,
    merged: MergedStreams,
    deflater: Deflater,
}

/// What was rendered last.
#[derive(Default)]
struct Rendered {
    container_generation: u64,
    event_generation: u64,
    at: Option<Instant>,
    containers: Shards<Arc<Container>>,
    events: Shards<EventCount>,
    /// The text of the families that are rendered whole.
    merged_containers: BTreeMap<String, Piece>,
    merged_events: BTreeMap<String, Piece>,
    /// The lines before each family, and in their order the families.
    heads: BTreeMap<String, Piece>,
    /// All of it.
    whole: Piece,
}

/// An exposition.
pub struct Exposition {
    inventory: Piece,
    own: Piece,
    own_text: Bytes,
}

impl Exposition {
    /// As a gzip file, in parts.
    pub fn gzip(&self) -> [Bytes; 4] {
        [
            Bytes::from_static(&gzip::HEADER),
            self.inventory.deflated.clone(),
            self.own.deflated.clone(),
            gzip::trailer([&self.inventory, &self.own]),
        ]
    }

    /// As text, in parts.
    pub fn text(&self) -> impl Iterator<Item = std::io::Result<Bytes>> + Send + use<> {
        Inflate::new(&self.inventory).chain(std::iter::once(Ok(self.own_text.clone())))
    }
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
        let rules = Rules::new(&config.views, pull.cardinality_limits, Aggregation::Default);
        let view = metrics::own_view(&rules, config.readers.periodic.len());
        let own_provider = provider(exporter, resource, |builder| builder.with_view(view))?;
        let meter = own_provider.meter_with_scope(metrics::scope());
        let sink = metrics::register_own(&meter, &rules, stats, runtime);
        let reader = Self {
            inventory,
            pull: pull.clone(),
            resource: resource.clone(),
            cache_period: config.web.cache_period,
            collection: Collection::new(config.containers.encoding, &rules),
            states: Mutex::default(),
            own,
            _own_provider: own_provider,
            _sink: sink,
            own_deflater: Mutex::new(Deflater::new()),
        };
        // What is wrong with the settings shows now and not at the first scrape.
        let instruments = reader.instruments(Names::Escaped)?;
        reader.states.lock().unwrap_or_else(PoisonError::into_inner).escaped.instruments = Some(instruments);
        Ok(reader)
    }

    /// How names are written for a client that takes them as they are, or does not.
    pub fn names(&self, takes_all: bool) -> Names {
        if takes_all && self.pull.translation_strategy.keeps_names() { Names::Kept } else { Names::Escaped }
    }

    /// The exposition, if no more than the exporter's own numbers have changed since the last one.
    pub fn unchanged(&self, names: Names) -> Result<Option<Exposition>, ReaderError> {
        let mut states = match self.states.try_lock() {
            Ok(states) => states,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(None),
        };
        let rendered = states.of(names).rendered.as_ref();
        let whole = rendered.filter(|r| self.is_fresh(r, &self.inventory.snapshot()));
        let Some(whole) = whole.map(|rendered| rendered.whole.clone()) else { return Ok(None) };
        drop(states);
        self.with_own(whole).map(Some)
    }

    /// The exposition at this moment. It may take a while when much has changed, so it is not for a thread that
    /// others wait for.
    pub fn render(&self, names: Names) -> Result<Exposition, ReaderError> {
        let whole = self.render_inventory(names)?;
        self.with_own(whole)
    }

    /// Containers and what the exporter says of itself as a reader of the daemon, as text: without its process and
    /// runtime.
    pub fn containers_only(&self) -> Result<Vec<u8>, ReaderError> {
        let mut text = Vec::new();
        for part in Inflate::new(&self.render_inventory(Names::Escaped)?) {
            text.extend_from_slice(&part.map_err(unwritable)?);
        }
        let mut own = self.own.gather();
        own.retain(|family| !["process_", "tokio_"].iter().any(|prefix| family.name().starts_with(prefix)));
        TextEncoder::new().encode(&own, &mut text).map_err(unwritable)?;
        Ok(text)
    }

    fn with_own(&self, inventory: Piece) -> Result<Exposition, ReaderError> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.own.gather(), &mut text).map_err(unwritable)?;
        let mut deflater = self.own_deflater.lock().unwrap_or_else(PoisonError::into_inner);
        let own = deflater.piece(&text).map_err(unwritable)?;
        Ok(Exposition { inventory, own, own_text: text.into() })
    }

    fn is_fresh(&self, rendered: &Rendered, snapshot: &Snapshot) -> bool {
        rendered.at.is_some_and(|at| at.elapsed() < self.cache_period)
            || (rendered.container_generation == snapshot.containers.generation
                && rendered.event_generation == snapshot.events.generation)
    }

    fn render_inventory(&self, names: Names) -> Result<Piece, ReaderError> {
        // Scrapes that come together wait for one rendering and share it.
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let state = states.of(names);
        let snapshot = self.inventory.snapshot();
        if let Some(rendered) = &state.rendered
            && self.is_fresh(rendered, &snapshot)
        {
            return Ok(rendered.whole.clone());
        }
        // Taken, and put back at the end: what is half done is not kept, and after a panic within the SDK, whose
        // locks are poisoned then, the next scrape begins with new instruments.
        let mut instruments = match state.instruments.take() {
            Some(instruments) => instruments,
            None => self.instruments(names)?,
        };
        let mut rendered = state.rendered.take().unwrap_or_default();
        self.update(&mut instruments, &mut rendered, &snapshot)?;
        let whole = rendered.whole.clone();
        *state = State { instruments: Some(instruments), rendered: Some(rendered) };
        Ok(whole)
    }

    /// Renders what has changed, and puts everything together.
    fn update(
        &self,
        instruments: &mut Instruments,
        rendered: &mut Rendered,
        snapshot: &Snapshot,
    ) -> Result<(), ReaderError> {
        let heads = &mut rendered.heads;
        for shard in rendered.containers.update(&snapshot.containers.list) {
            let mut families = Families::default();
            for containers in shard.items.chunks(ROOM) {
                self.collection.prepare(containers, &[]);
                instruments.collect_containers(containers, &mut families);
            }
            shard.text = instruments.compress(families, heads)?;
        }
        for shard in rendered.events.update(&snapshot.events.list) {
            let mut families = Families::default();
            for events in shard.items.chunks(ROOM) {
                self.collection.prepare(&[], events);
                instruments.collect_events(events, &mut families);
            }
            shard.text = instruments.compress(families, heads)?;
        }
        let Streams { containers, merged_containers, merged_events, .. } = self.collection.streams();
        if rendered.container_generation != snapshot.containers.generation && !merged_containers.is_empty() {
            let mut families = Families::default();
            let list = &snapshot.containers.list;
            let Instruments { merged, registry, naming, .. } = instruments;
            merged.collect_containers(&self.collection, registry, list, naming, &mut families);
            rendered.merged_containers = instruments.compress(families, heads)?;
        }
        if rendered.event_generation != snapshot.events.generation && !merged_events.is_empty() {
            let mut families = Families::default();
            let Instruments { merged, registry, naming, .. } = instruments;
            let list = &snapshot.events.list;
            merged.collect_events(&self.collection, registry, list, naming, &mut families);
            rendered.merged_events = instruments.compress(families, heads)?;
        }
        self.collection.clear();
        let expected = !snapshot.containers.list.is_empty() && !containers.is_empty();
        if heads.is_empty() && expected {
            return Err(ReaderError::new("the metrics SDK gave nothing"));
        }
        rendered.whole = self.join(instruments, rendered)?;
        rendered.container_generation = snapshot.containers.generation;
        rendered.event_generation = snapshot.events.generation;
        rendered.at = Some(Instant::now());
        Ok(())
    }

    fn join(&self, instruments: &mut Instruments, rendered: &Rendered) -> Result<Piece, ReaderError> {
        let mut whole = Joined::with_capacity(rendered.whole.deflated.len() + 1024);
        whole.push(&instruments.constant()?);
        for (family, head) in &rendered.heads {
            let containers = rendered.containers.iter().filter_map(|shard| shard.text.get(family));
            let events = rendered.events.iter().filter_map(|shard| shard.text.get(family));
            let merged = [&rendered.merged_containers, &rendered.merged_events];
            let merged = merged.into_iter().filter_map(|text| text.get(family));
            let mut pieces = containers.chain(events).chain(merged).peekable();
            if pieces.peek().is_some() {
                whole.push(head);
                pieces.for_each(|piece| whole.push(piece));
            }
        }
        Ok(whole.finish())
    }

    fn instruments(&self, names: Names) -> Result<Instruments, ReaderError> {
        let registry = Registry::new();
        let view = self.collection.view(ROOM, ROOM);
        let exporter = self.exporter(registry.clone());
        let merged_view = self.collection.merged_view(ROOM);
        let provider = provider(exporter, &self.resource, |b| b.with_view(view).with_view(merged_view))?;
        let meter = provider.meter_with_scope(metrics::scope());
        metrics::register_merged(&meter, &self.collection);
        metrics::register_containers(&meter, &self.collection);
        metrics::register_events(&meter, &self.collection);
        Ok(Instruments {
            registry,
            _provider: provider,
            labels: LabelWriter::new(None, names),
            infos: self.infos(),
            naming: self.naming(names),
            merged: MergedStreams::new(&self.collection, names),
            deflater: Deflater::new(),
        })
    }

    fn infos(&self) -> Vec<String> {
        let streams = self.collection.streams().containers.iter();
        let infos = streams.filter(|c| matches!(c.entry.value, ContainerValue::Info));
        // They have no unit and do not count, so no suffix either.
        infos.map(|info| info.stream.prometheus_name(false)).collect()
    }

    fn exporter(&self, registry: Registry) -> ExporterBuilder {
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
        // Names are escaped here in any case: the crate does not write others, and `naming` has those.
        if !self.pull.translation_strategy.has_suffixes() {
            exporter = exporter.without_units().without_counter_suffixes();
        }
        exporter
    }

    /// What the crate's names are as they were: metrics' with the suffixes that they have got, and those of the
    /// resource's attributes and of the scope, which become labels.
    fn naming(&self, names: Names) -> Naming {
        let mut naming = Naming::default();
        if names == Names::Escaped {
            return naming;
        }
        let suffixes = self.pull.translation_strategy.has_suffixes();
        let Streams { containers, events, merged_containers, merged_events } = self.collection.streams();
        let of_containers = containers.iter().chain(merged_containers).map(|container| &container.stream);
        for stream in of_containers.chain(events).chain(merged_events) {
            let escaped = stream.prometheus_name(suffixes);
            let suffix = escaped.get(stream.name.len()..).unwrap_or_default();
            naming.families.insert(escaped.clone(), format!("{}{suffix}", stream.name));
        }
        for (key, _) in &self.resource {
            let allowed = |c: char| if c.is_ascii_alphanumeric() || c == ':' || c == '_' { c } else { '_' };
            let escaped: String = key.as_str().chars().map(allowed).collect();
            if escaped != key.as_str() {
                naming.labels.insert(escaped, key.to_string());
            }
        }
        naming
    }
}

impl Instruments {
    fn collect_containers(&mut self, containers: &[Arc<Container>], families: &mut Families) {
        let write = |write: &mut dyn FnMut(&mut String, &Container)| -> Vec<String> {
            let text = containers.iter().map(|container| {
                let mut text = String::with_capacity(256);
                write(&mut text, container);
                text
            });
            text.collect()
        };
        let of_all = write(&mut |out, container| self.labels.container(out, container));
        let info = write(&mut |out, container| self.labels.info(out, container));
        let labels = Labels { of_all: &of_all, of_some: (&self.infos, &info) };
        families.add(&self.registry.gather(), &labels, &self.naming);
    }

    fn collect_events(&mut self, events: &[EventCount], families: &mut Families) {
        let of_all: Vec<String> = events
            .iter()
            .map(|event| {
                let mut text = String::with_capacity(128);
                self.labels.event(&mut text, &event.labels);
                text
            })
            .collect();
        let labels = Labels { of_all: &of_all, of_some: (&[], &[]) };
        families.add(&self.registry.gather(), &labels, &self.naming);
    }

    fn compress(
        &mut self,
        families: Families,
        heads: &mut BTreeMap<String, Piece>,
    ) -> Result<BTreeMap<String, Piece>, ReaderError> {
        for (family, head) in families.heads {
            if let std::collections::btree_map::Entry::Vacant(e) = heads.entry(family) {
                e.insert(self.deflater.piece(head.as_bytes()).map_err(unwritable)?);
            }
        }
        let compress = |(family, text): (String, String)| {
            Ok((family, self.deflater.piece(text.as_bytes()).map_err(unwritable)?))
        };
        families.text.into_iter().map(compress).collect()
    }

    /// What is there whatever the containers are: `target_info`, where it is asked for. Nothing else is prepared
    /// when this is called.
    fn constant(&mut self) -> Result<Piece, ReaderError> {
        let text = encode::plain(&self.registry.gather(), &self.naming);
        self.deflater.piece(text.as_bytes()).map_err(unwritable)
    }
}

fn provider(
    exporter: ExporterBuilder,
    resource: &Resource,
    configure: impl FnOnce(MeterProviderBuilder) -> MeterProviderBuilder,
) -> Result<SdkMeterProvider, ReaderError> {
    let exporter = exporter.build().map_err(|error| ReaderError::new(error.to_string()))?;
    let builder = SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(exporter);
    Ok(configure(builder).build())
}

fn unwritable(error: impl std::fmt::Display) -> ReaderError {
    ReaderError::new(format!("the exposition cannot be written: {error}"))
}
