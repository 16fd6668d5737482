//! Views and cardinality limits: which streams the instruments become.
//!
//! Every stream is registered as an instrument of its own, under the stream's name, so views need nothing of the
//! SDK but the histograms' aggregations. Without views each instrument is one stream.
//!
//! A stream that keeps all attributes and has no limit can be collected in parts, container by container. Any other
//! is merged from everything that there is (`merge.rs`): its points may have the same attributes.

use opentelemetry_sdk::metrics::Aggregation as SdkAggregation;

use crate::catalog::{self, ContainerMetric, Kind, Metric};
use crate::config::{Aggregation, CardinalityLimits, Filter, View};
use crate::inventory::Counter;

/// What an instrument becomes.
#[derive(Debug, Clone)]
pub struct Stream {
    /// The metric that it is made of.
    pub metric: &'static Metric,
    /// Its name, as OTLP has it.
    pub name: String,
    /// What it says.
    pub description: String,
    /// Which attributes it keeps; `None` for all.
    pub keys: Option<Filter>,
    /// How many series it may have.
    pub limit: Option<usize>,
    /// How measurements become a number; not `Drop`.
    pub aggregation: Aggregation,
}

impl Stream {
    /// Whether an attribute of this key is kept.
    pub fn keeps(&self, key: &str) -> bool {
        self.keys.as_ref().is_none_or(|keys| keys.matches(key))
    }

    /// Whether this is one whose sums the other's can go on from.
    pub fn continues(&self, before: &Self) -> bool {
        self.name == before.name && self.keys == before.keys && self.limit == before.limit
    }

    /// What it counts, where it is one of the counters of events and exits.
    pub fn counter(&self) -> Counter {
        if self.metric.name == catalog::EXITS.name { Counter::Exits } else { Counter::Events }
    }

    /// Whether it can be collected only as a whole.
    fn is_merged(&self) -> bool {
        self.keys.is_some() || self.limit.is_some()
    }

    /// The name on `/metrics`, as [`Metric::prometheus_name`].
    pub fn prometheus_name(&self, suffixes: bool) -> String {
        catalog::prometheus_name(&self.name, self.metric, suffixes)
    }

    /// The aggregation as the SDK has it, where it is not the instrument's own.
    pub(super) fn sdk_aggregation(&self) -> Option<SdkAggregation> {
        match &self.aggregation {
            Aggregation::Default | Aggregation::Drop => None,
            Aggregation::Sum => Some(SdkAggregation::Sum),
            Aggregation::LastValue => Some(SdkAggregation::LastValue),
            Aggregation::ExplicitBucketHistogram { boundaries, record_min_max } => {
                Some(SdkAggregation::ExplicitBucketHistogram {
                    boundaries: boundaries.clone(),
                    record_min_max: *record_min_max,
                })
            }
            Aggregation::Base2ExponentialBucketHistogram { max_scale, max_size, record_min_max } => {
                Some(SdkAggregation::Base2ExponentialHistogram {
                    max_size: *max_size,
                    max_scale: *max_scale,
                    record_min_max: *record_min_max,
                })
            }
        }
    }
}

/// What decides about the streams of a reader.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    views: Vec<View>,
    limits: CardinalityLimits,
    histograms: Aggregation,
}

impl Rules {
    /// The rules of a reader. `histograms`: what they become where no view says it.
    pub fn new(views: &[View], limits: CardinalityLimits, histograms: Aggregation) -> Self {
        Self { views: views.to_vec(), limits, histograms }
    }

    /// The streams of an instrument.
    pub fn streams(&self, metric: &'static Metric) -> Vec<Stream> {
        let limit = match metric.kind {
            Kind::Gauge => self.limits.observable_gauge,
            Kind::Counter => self.limits.observable_counter,
            Kind::Histogram => self.limits.histogram,
        };
        let plain = Stream {
            metric,
            name: metric.name.to_owned(),
            description: metric.help.to_owned(),
            keys: None,
            limit: limit.or(self.limits.default),
            aggregation: match metric.kind {
                Kind::Histogram => self.histograms.clone(),
                Kind::Gauge | Kind::Counter => Aggregation::Default,
            },
        };
        let mut views = self.views.iter().filter(|view| view.applies_to(metric)).peekable();
        if views.peek().is_none() {
            return vec![plain];
        }
        let streams = views.filter(|view| view.stream.aggregation != Aggregation::Drop).map(|view| {
            let stream = &view.stream;
            Stream {
                name: stream.name.as_ref().unwrap_or(&plain.name).clone(),
                description: stream.description.as_ref().unwrap_or(&plain.description).clone(),
                keys: stream.attribute_keys.clone(),
                limit: stream.aggregation_cardinality_limit.or(plain.limit),
                aggregation: match &stream.aggregation {
                    Aggregation::Default => plain.aggregation.clone(),
                    other => other.clone(),
                },
                ..plain
            }
        });
        streams.collect()
    }

    /// The streams of containers and events.
    pub fn inventory(&self) -> Streams {
        let mut streams = Streams::default();
        for entry in catalog::CONTAINER {
            for stream in self.streams(&entry.metric) {
                let merged = stream.is_merged();
                let streams = if merged { &mut streams.merged_containers } else { &mut streams.containers };
                streams.push(ContainerStream { entry, stream });
            }
        }
        let counted = catalog::COUNTED.into_iter().flat_map(|metric| self.streams(metric));
        (streams.merged_events, streams.events) = counted.partition(Stream::is_merged);
        streams
    }
}

/// A container metric's stream.
#[derive(Debug, Clone)]
pub struct ContainerStream {
    /// Where its values come from.
    pub entry: &'static ContainerMetric,
    /// What it is.
    pub stream: Stream,
}

/// The streams of containers and events.
#[derive(Debug, Default)]
pub struct Streams {
    /// Those that can be collected in parts.
    pub containers: Vec<ContainerStream>,
    /// Those that can be collected in parts.
    pub events: Vec<Stream>,
    /// Those that can be collected only as a whole.
    pub merged_containers: Vec<ContainerStream>,
    /// Those that can be collected only as a whole.
    pub merged_events: Vec<Stream>,
}
