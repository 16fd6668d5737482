//! What is said beside containers' and events' own labels: labels of the resource and of the scope for each series, and
//! `target_info`. They stay the same for the life of the process.
//!
//! Not by OpenTelemetry's Prometheus exporter: it knows nothing of the labels that series have of their own, and the
//! names that it makes of `1x` or `a:b` are none to Prometheus, which refuses the whole answer for one of them.

use std::collections::BTreeMap;

use opentelemetry_sdk::Resource;

use super::encode::{head, push_series};
use crate::catalog::{Kind, SCOPE_LABELS, TARGET_INFO};
use crate::config::Pull;
use crate::metrics;
use crate::metrics::labels::{ConstantLabels, Names, resource_labels};

/// What stays the same.
#[derive(Debug)]
pub(super) struct Constant {
    /// The labels of each series.
    pub(super) labels: ConstantLabels,
    /// Families that are about no container.
    pub(super) text: String,
}

impl Constant {
    pub(super) fn new(pull: &Pull, resource: &Resource, names: Names) -> Self {
        // Values of keys that become one label are joined in the order of the keys.
        let attributes: BTreeMap<&str, String> =
            resource.iter().map(|(key, value)| (key.as_str(), value.to_string())).collect();
        let attributes = || attributes.iter().map(|(key, value)| (*key, value.as_str()));
        let scope = metrics::scope();
        let scope_values = [Some(scope.name()), scope.version(), scope.schema_url()];
        let of_scope = SCOPE_LABELS.into_iter().zip(scope_values);
        let of_scope = of_scope.filter_map(|(label, value)| Some((label, value?)));
        let scope: Vec<_> = of_scope.filter(|_| pull.scope_info_enabled).collect();
        let allowed = attributes().filter(|(key, _)| pull.resource_constant_labels.matches(key));
        let mut text = String::new();
        if pull.target_info_enabled && !resource.is_empty() {
            text = head(TARGET_INFO, "Target metadata", Kind::Gauge);
            push_series(&mut text, TARGET_INFO, resource_labels(attributes(), names), 1.0);
        }
        Self { labels: ConstantLabels::new(&scope, allowed, names), text }
    }
}
