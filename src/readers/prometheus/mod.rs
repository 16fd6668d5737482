//! The pull reader: the exposition that Prometheus scrapes.
//!
//! There are two registries. Containers and events are rendered when the inventory changes, a shard at a time and
//! only the shards that changed; their text is kept, compressed. The exporter's own numbers change all the time
//! and are rendered at each scrape.
//!
//! `shards` finds what has to be rendered, the SDK collects it, `encode` writes it as text, `families` knows which
//! text belongs where, and `super::gzip` keeps the text and puts it together. `constant` is what all of it has besides,
//! `self_metrics` the text of the exporter's own numbers.

mod constant;
mod encode;
mod families;
mod merged;
mod self_metrics;
mod shards;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_prometheus::ExporterBuilder;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{MeterProviderBuilder, SdkMeterProvider, Temporality};
use prometheus::{Encoder, Registry, TextEncoder};

use self::constant::Constant;
use self::encode::{Collector, Labels, ROOM};
use self::families::{Families, Place};
use self::merged::MergedStreams;
use self::self_metrics::{Part, SelfMetricsText};
use self::shards::{Changed, Shards};
use super::gzip::{self, Deflater, Inflate, Joined, Piece};
use super::{Manual, Observed, ReaderError};
use crate::config::{Aggregation, Config, Pull};
use crate::inventory::{self, Container, Counter, EventCount, Snapshot, Text};
use crate::metrics::labels::{LabelWriter, Names};
use crate::metrics::views::Rules;
use crate::metrics::{self, Collection, Page, SelfMetricsPart};
use crate::stats::DurationSink;

/// The type of an exposition.
pub fn content_type(names: Names) -> &'static str {
    match names {
        Names::Escaped => prometheus::TEXT_FORMAT,
        Names::Kept => "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
    }
}

/// Renders the exposition.
pub struct PrometheusReader {
    inventory: inventory::Reader,
    pull: Pull,
    resource: Resource,
    cache_period: Duration,
    collection: Arc<Collection>,
    states: Mutex<States>,
    self_metrics: Registry,
    /// Their text at the last scrape.
    self_metrics_text: Mutex<SelfMetricsText>,
    _self_metrics_provider: SdkMeterProvider,
    /// What writes to their histograms.
    _sink: Arc<DurationSink>,
    deflater: Arc<Deflater>,
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

/// Containers' and events' instruments, with room for a part of a shard, and what makes text of what they say.
struct Instruments {
    names: Names,
    collector: Collector,
    labels: LabelWriter,
    families: Families,
    /// The families that are about no container.
    other_families: Piece,
    merged: MergedStreams,
    deflater: Arc<Deflater>,
}

/// What was rendered last.
#[derive(Default)]
struct Rendered {
    container_generation: u64,
    event_generation: u64,
    at: Option<Instant>,
    containers: Shards<Arc<Container>>,
    /// By the action, since what happens to many containers at once is one action.
    events: BTreeMap<(Counter, Text), Shards<EventCount>>,
    /// The text of each stream that is rendered whole.
    merged_containers: Vec<Piece>,
    merged_events: Vec<Piece>,
    /// All of it.
    whole: Piece,
}

impl Rendered {
    /// The pieces of a stream's text.
    fn pieces(&self, place: Place, each: impl FnMut(&Piece)) {
        match place {
            Place::Container(i) => {
                self.containers.iter().filter_map(|shard| shard.text.get(i)).for_each(each)
            }
            Place::Event(i) => {
                let shards = self.events.values().flat_map(Shards::iter);
                shards.filter_map(|shard| shard.text.get(i)).for_each(each);
            }
            Place::MergedContainer(i) => self.merged_containers.get(i).into_iter().for_each(each),
            Place::MergedEvent(i) => self.merged_events.get(i).into_iter().for_each(each),
        }
    }
}

/// An exposition.
pub struct Exposition {
    inventory: Piece,
    self_metrics: [Part; 2],
}

impl Exposition {
    /// As a gzip file, in parts.
    pub fn gzip(&self) -> [Bytes; 5] {
        let [steady, other] = &self.self_metrics;
        let pieces = [&self.inventory, &steady.piece, &other.piece];
        let [inventory, steady, other] = pieces.map(|piece| piece.deflated.clone());
        [Bytes::from_static(&gzip::HEADER), inventory, steady, other, gzip::trailer(pieces)]
    }

    /// As text, in parts.
    pub fn text(&self) -> impl Iterator<Item = std::io::Result<Bytes>> + Send + use<> {
        let self_metrics = self.self_metrics.clone().map(|part| Ok(part.text));
        Inflate::new(&self.inventory).chain(self_metrics)
    }
}

impl PrometheusReader {
    /// Makes the reader with its instruments.
    pub fn new(
        config: &Config,
        pull: &Pull,
        resource: &Resource,
        observed: &Observed,
    ) -> Result<Self, ReaderError> {
        let self_metrics = Registry::new();
        // Prometheus' own suffixes, whatever the containers' metrics have: these names are new.
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(self_metrics.clone())
            .without_target_info()
            .scope_info_enabled(false);
        let rules = Rules::new(&config.views, pull.cardinality_limits, Aggregation::Default);
        let room = metrics::self_metrics_room(config.readers.periodic.len());
        let view = metrics::self_metrics_view(&rules, room);
        let self_metrics_provider = provider(exporter, resource, |builder| builder.with_view(view))?;
        let meter = self_metrics_provider.meter_with_scope(metrics::scope());
        let (stats, runtime) = (&observed.stats, &observed.runtime);
        let sink =
            metrics::register_self_metrics(&meter, &rules, room, &SelfMetricsPart::ALL, stats, runtime);
        let reader = Self {
            inventory: observed.inventory.clone(),
            pull: pull.clone(),
            resource: resource.clone(),
            cache_period: config.web.cache_period,
            collection: Collection::new(config.containers.encoding, &rules),
            states: Mutex::default(),
            self_metrics,
            self_metrics_text: Mutex::default(),
            _self_metrics_provider: self_metrics_provider,
            _sink: sink,
            deflater: Arc::clone(&observed.deflater),
        };
        // What is wrong with the settings shows now and not at the first scrape.
        let instruments = reader.instruments(Names::Escaped)?;
        reader.states.lock().unwrap_or_else(PoisonError::into_inner).escaped.instruments = Some(instruments);
        Ok(reader)
    }

    /// Goes on from what another reader has told: a sum holds what label sets had counted that are gone since, and must
    /// not fall.
    pub fn resume(&self, before: &Self) -> Result<(), ReaderError> {
        let mut theirs = before.states.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ours = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        for names in [Names::Escaped, Names::Kept] {
            let Some(known) = &theirs.of(names).instruments else { continue };
            let state = ours.of(names);
            let mut instruments = match state.instruments.take() {
                Some(instruments) => instruments,
                None => self.instruments(names)?,
            };
            instruments.merged.resume(&self.collection, &known.merged, &before.collection);
            state.instruments = Some(instruments);
        }
        Ok(())
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
        self.with_self_metrics(whole).map(Some)
    }

    /// The exposition at this moment. It may take a while when much has changed, so it is not for a thread that
    /// others wait for.
    pub fn render(&self, names: Names) -> Result<Exposition, ReaderError> {
        let whole = self.render_inventory(names)?;
        self.with_self_metrics(whole)
    }

    /// Containers and what the exporter says of itself as a reader of the daemon, as text: without its process and
    /// runtime.
    pub fn containers_only(&self) -> Result<Vec<u8>, ReaderError> {
        let mut text = Vec::new();
        for part in Inflate::new(&self.render_inventory(Names::Escaped)?) {
            text.extend_from_slice(&part.map_err(ReaderError::unwritable)?);
        }
        let mut families = self.self_metrics.gather();
        families
            .retain(|family| !["process_", "tokio_"].iter().any(|prefix| family.name().starts_with(prefix)));
        TextEncoder::new().encode(&families, &mut text).map_err(ReaderError::unwritable)?;
        Ok(text)
    }

    fn with_self_metrics(&self, inventory: Piece) -> Result<Exposition, ReaderError> {
        let families = self.self_metrics.gather();
        let mut texts = self.self_metrics_text.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Exposition { inventory, self_metrics: texts.update(&families, &self.deflater)? })
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
        let containers = &snapshot.containers.list;
        let events = match instruments.names {
            Names::Escaped => snapshot.events.escaped(),
            Names::Kept => Cow::Borrowed(&snapshot.events.list[..]),
        };
        for Changed { shard, before } in rendered.containers.update(containers) {
            let changed = self.collection.changed(&before, &shard.items);
            let mut texts = vec![String::new(); changed.len()];
            for containers in shard.items.chunks(ROOM) {
                let wanted = self.collection.points_of(&changed);
                self.collection.set_page(Page::numbered_containers(containers, wanted));
                instruments.collect_containers(containers, &mut texts)?;
            }
            shard.text.resize_with(changed.len(), Piece::default);
            for ((piece, text), changed) in shard.text.iter_mut().zip(&texts).zip(changed) {
                if changed {
                    *piece = instruments.compress(text)?;
                }
            }
        }
        // Where no count has changed, the groups are what they were.
        let have_counts_changed = rendered.event_generation != snapshot.events.generation;
        let by_action = if have_counts_changed { by_action(&events) } else { BTreeMap::new() };
        if have_counts_changed {
            rendered.events.retain(|(counter, action), _| by_action.contains_key(&(*counter, &**action)));
        }
        for ((counter, action), events) in by_action {
            let shards = rendered.events.entry((counter, action.into())).or_default();
            for Changed { shard, .. } in shards.update(&events) {
                let mut texts = vec![String::new(); instruments.families.events.len()];
                for events in shard.items.chunks(ROOM) {
                    self.collection.set_page(Page::numbered_events(events));
                    instruments.collect_events(events, &mut texts)?;
                }
                shard.text = instruments.compress_all(&texts)?;
            }
        }
        let streams = self.collection.streams();
        let Instruments { merged, collector, families, .. } = &mut *instruments;
        if rendered.container_generation != snapshot.containers.generation
            && !streams.merged_containers.is_empty()
        {
            let texts =
                merged.collect_containers(&self.collection, collector, &families.merged, containers)?;
            rendered.merged_containers = instruments.compress_all(&texts)?;
        }
        let Instruments { merged, collector, families, .. } = &mut *instruments;
        if have_counts_changed && !streams.merged_events.is_empty() {
            let texts = merged.collect_events(&self.collection, collector, &families.merged, &events)?;
            rendered.merged_events = instruments.compress_all(&texts)?;
        }
        self.collection.clear();
        instruments.collector.clear();
        // Who still sends the last one has it: there need not be three of them.
        rendered.whole = Piece::default();
        rendered.whole = join(instruments, rendered);
        let is_expected = !containers.is_empty() && !streams.containers.is_empty();
        if is_expected && rendered.containers.iter().all(|shard| shard.text.iter().all(Piece::is_empty)) {
            return Err(ReaderError::new("the metrics SDK gave nothing"));
        }
        rendered.container_generation = snapshot.containers.generation;
        rendered.event_generation = snapshot.events.generation;
        rendered.at = Some(Instant::now());
        Ok(())
    }

    fn instruments(&self, names: Names) -> Result<Instruments, ReaderError> {
        let view = self.collection.view(ROOM, ROOM);
        let merged_view = self.collection.merged_view(ROOM);
        let manual = Manual::new(&self.resource, Temporality::Cumulative, |b| {
            b.with_view(view).with_view(merged_view)
        });
        let meter = manual.meter();
        metrics::register_merged_containers(&meter, &self.collection);
        metrics::register_merged_events(&meter, &self.collection);
        metrics::register_containers(&meter, &self.collection);
        metrics::register_events(&meter, &self.collection);
        let suffixes = self.pull.translation_strategy.has_suffixes();
        let families = Families::new(self.collection.streams(), names, suffixes, &self.deflater);
        let Constant { labels, text } = Constant::new(&self.pull, &self.resource, names);
        Ok(Instruments {
            names,
            collector: Collector::new(manual),
            families: families.map_err(ReaderError::unwritable)?,
            other_families: self.deflater.piece(text.as_bytes()).map_err(ReaderError::unwritable)?,
            merged: MergedStreams::new(&self.collection, &labels, names),
            labels: LabelWriter::new(None, labels, names),
            deflater: Arc::clone(&self.deflater),
        })
    }
}

impl Instruments {
    fn collect_containers(
        &mut self,
        containers: &[Arc<Container>],
        texts: &mut [String],
    ) -> Result<(), ReaderError> {
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
        self.collector.write(&self.families.containers, &Labels { of_all: &of_all, info: &info }, texts)
    }

    fn collect_events(&mut self, events: &[EventCount], texts: &mut [String]) -> Result<(), ReaderError> {
        let of_all: Vec<String> = events
            .iter()
            .map(|event| {
                let mut text = String::with_capacity(128);
                self.labels.event(&mut text, &event.labels);
                text
            })
            .collect();
        self.collector.write(&self.families.events, &Labels { of_all: &of_all, info: &[] }, texts)
    }

    fn compress(&self, text: &str) -> Result<Piece, ReaderError> {
        if text.is_empty() {
            return Ok(Piece::default());
        }
        self.deflater.piece(text.as_bytes()).map_err(ReaderError::unwritable)
    }

    fn compress_all(&self, texts: &[String]) -> Result<Vec<Piece>, ReaderError> {
        texts.iter().map(|text| self.compress(text)).collect()
    }
}

/// Everything in the order of the families.
fn join(instruments: &Instruments, rendered: &Rendered) -> Piece {
    // Twice over: growing would take as much again.
    let mut length = 0;
    in_order(instruments, rendered, |piece| length += piece.deflated.len());
    let mut whole = Joined::with_capacity(length);
    in_order(instruments, rendered, |piece| whole.push(piece));
    whole.finish()
}

fn in_order(instruments: &Instruments, rendered: &Rendered, mut each: impl FnMut(&Piece)) {
    each(&instruments.other_families);
    for family in &instruments.families.list {
        let mut is_begun = false;
        for place in &family.places {
            rendered.pieces(*place, |piece| {
                if !piece.is_empty() {
                    if !std::mem::replace(&mut is_begun, true) {
                        each(&family.head);
                    }
                    each(piece);
                }
            });
        }
    }
}

/// Event counts by their actions, without what follows a colon: that is a command or a result.
fn by_action(events: &[EventCount]) -> BTreeMap<(Counter, &str), Vec<EventCount>> {
    let mut actions: BTreeMap<_, Vec<EventCount>> = BTreeMap::new();
    for event in events {
        let action = event.labels.event.split(':').next().unwrap_or_default();
        actions.entry((event.labels.counter, action)).or_default().push(event.clone());
    }
    actions
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

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::inventory::{EventIdentity, EventLabels, EventPolicy, Health, Status, Writer};

    /// A reader with everything that can be added switched on.
    fn reader(inventory: &inventory::Reader) -> PrometheusReader {
        let config = crate::config::from_environment(&|_| None).unwrap().config;
        let pull = Pull {
            scope_info_enabled: true,
            target_info_enabled: true,
            ..config.readers.pull.clone().unwrap_or_default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let resource = Resource::builder_empty()
            .with_attribute(opentelemetry::KeyValue::new("service.name", "exporter"))
            .build();
        let observed = Observed::new(inventory.clone(), Arc::default(), runtime.metrics());
        PrometheusReader::new(&config, &pull, &resource, &observed).unwrap()
    }

    fn inventory() -> (Writer, inventory::Reader) {
        let start_at_zero = vec!["oom".into()];
        inventory::new(EventPolicy {
            retention: Duration::MAX,
            start_at_zero,
            exits: false,
            limit: usize::MAX,
        })
    }

    /// The lines about containers and events, in the order of the alphabet; the file is read as a client does.
    fn lines(reader: &PrometheusReader) -> Vec<String> {
        let exposition = reader.render(Names::Escaped).unwrap();
        let file = exposition.gzip().concat();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&file[..]).read_to_string(&mut text).unwrap();
        let own = exposition.self_metrics.map(|part| part.text).concat();
        let own = std::str::from_utf8(&own).unwrap();
        let mut lines: Vec<_> = text.strip_suffix(own).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    fn container(number: usize) -> Container {
        Container::sample(&format!("{number:064x}"), &format!("c{number}")).labelled(&[("team", "blue")])
    }

    #[test]
    fn what_is_kept_is_what_would_be_rendered_anew() {
        let changes: [fn(&mut Container); 15] = [
            |c| c.name = "another".into(),
            |c| c.image = "another".into(),
            |c| c.labels.clear(),
            |c| c.status = Status::Dead,
            |c| c.health = Health::Unhealthy,
            |c| c.oom_killed = true,
            |c| c.started_at += 1,
            |c| c.finished_at += 1,
            |c| c.created_at += 1,
            |c| c.restart_count += 1,
            |c| c.exit_code = 137,
            |c| c.failing_streak += 1,
            |c| c.image_id = "sha256:1".into(),
            |c| c.restart_policy = "always".into(),
            |c| c.hostname = "another".into(),
        ];
        let (writer, inventory) = inventory();
        writer.replace((0..300).map(|number| Arc::new(container(number))).collect(), &[], Instant::now());
        let kept = reader(&inventory);
        let mut before = lines(&kept);
        for (number, change) in changes.iter().enumerate() {
            let mut changed = container(number);
            change(&mut changed);
            writer.upsert(Arc::new(changed), Instant::now());
            let now = lines(&kept);
            assert_ne!(now, before, "change {number}");
            assert!(now == lines(&reader(&inventory)), "change {number}");
            before = now;
        }
        writer.remove(&container(0).id);
        writer.upsert(Arc::new(container(1_000)), Instant::now());
        for (event, name) in [("start", "c1"), ("start", "c2"), ("exec_start: sh", "c1"), ("start", "c1")] {
            let identity = Arc::new(EventIdentity { name: Some(name.into()), ..EventIdentity::default() });
            writer.count(
                EventLabels {
                    counter: Counter::Events,
                    event: event.into(),
                    kind: "container".into(),
                    identity,
                },
                Instant::now(),
            );
            assert!(lines(&kept) == lines(&reader(&inventory)), "{event} of {name}");
        }
        writer.replace(Vec::new(), &[], Instant::now());
        assert!(lines(&kept) == lines(&reader(&inventory)), "nothing is left");
    }

    #[test]
    fn each_series_has_what_the_exporter_of_opentelemetry_adds() {
        let (writer, inventory) = inventory();
        writer.replace(vec![Arc::new(container(1))], &[], Instant::now());
        let lines = lines(&reader(&inventory));
        let series = lines.iter().filter(|line| !line.starts_with('#') && !line.starts_with("target_info"));
        let mut count = 0;
        for line in series {
            assert!(line.contains(r#"otel_scope_name="docker-state-exporter""#), "{line}");
            count += 1;
        }
        assert_eq!(count, 11);
        assert!(lines.contains(&r#"target_info{service_name="exporter"} 1"#.to_owned()), "{lines:?}");
    }
}
