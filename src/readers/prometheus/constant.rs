//! What OpenTelemetry's Prometheus exporter adds to what is collected: labels of the resource and of the scope for
//! each series, and `target_info`. They stay the same for the life of the process.
//!
//! The exporter itself is asked once, with one series. To pass every series through it and through the registry
//! behind it took more than half of what a scrape after a change cost.

use std::collections::{HashMap, HashSet};

use opentelemetry::Key;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_prometheus::ResourceSelector;
use opentelemetry_sdk::Resource;
use prometheus::Registry;
use prometheus::proto::{Metric, MetricType};

use super::encode::{head, push_series};
use super::provider;
use crate::config::Pull;
use crate::metrics;
use crate::metrics::catalog::Kind;
use crate::metrics::labels::{Names, push_first, push_text, quoted};
use crate::readers::ReaderError;

/// The name of the series that is asked for.
const SAMPLE: &str = "sample";

/// What stays the same.
#[derive(Debug)]
pub(super) struct Constant {
    /// The labels of each series.
    pub(super) labels: String,
    /// Families that are about no container.
    pub(super) text: String,
}

impl Constant {
    pub(super) fn new(pull: &Pull, resource: &Resource, names: Names) -> Result<Self, ReaderError> {
        let registry = Registry::new();
        let mut exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(pull.scope_info_enabled);
        if !pull.target_info_enabled {
            exporter = exporter.without_target_info();
        }
        let allowed: HashSet<Key> = resource
            .iter()
            .map(|(key, _)| key)
            .filter(|key| pull.resource_constant_labels.matches(key.as_str()))
            .cloned()
            .collect();
        let exporter = exporter.with_resource_selector(ResourceSelector::KeyAllowList(allowed));
        let provider = provider(exporter, resource, |builder| builder)?;
        let meter = provider.meter_with_scope(metrics::scope());
        meter.u64_observable_gauge(SAMPLE).with_callback(|observer| observer.observe(1, &[])).build();

        let kept = match names {
            Names::Escaped => HashMap::new(),
            Names::Kept => kept(resource),
        };
        let mut constant = Self { labels: String::new(), text: String::new() };
        for family in registry.gather() {
            for (i, metric) in family.get_metric().iter().enumerate() {
                let labels = labels(metric, &kept);
                if family.name() == SAMPLE {
                    constant.labels = labels;
                    continue;
                }
                if i == 0 {
                    let is_counter = family.get_field_type() == MetricType::COUNTER;
                    let kind = if is_counter { Kind::Counter } else { Kind::Gauge };
                    constant.text.push_str(&head(family.name(), family.help(), kind));
                }
                push_series(&mut constant.text, family.name(), &labels, metric.get_gauge().get_value());
            }
        }
        Ok(constant)
    }
}

fn labels(metric: &Metric, kept: &HashMap<String, String>) -> String {
    let mut text = String::new();
    for label in metric.get_label() {
        let name = kept.get(label.name()).map_or(label.name(), String::as_str);
        if text.is_empty() {
            push_first(&mut text, name, label.value());
        } else {
            push_text(&mut text, name, label.value());
        }
    }
    text
}

/// The resource's keys as they are, by what the exporter makes of them.
fn kept(resource: &Resource) -> HashMap<String, String> {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == ':' || c == '_' { c } else { '_' };
    let keys = resource.iter().map(|(key, _)| key.as_str());
    let escaped = keys.map(|key| (key.chars().map(allowed).collect::<String>(), key));
    escaped.filter(|(escaped, key)| escaped != key).map(|(escaped, key)| (escaped, quoted(key))).collect()
}
