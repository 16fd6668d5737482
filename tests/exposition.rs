//! Whatever containers, events and the resource are called: what `/metrics` answers is an exposition that Prometheus
//! takes, with every series, and none twice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

#[path = "support/exposition.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod exposition;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use docker_state_exporter::config::{
    CardinalityLimits, Config, Encoding, Filter, Pull, Selector, TranslationStrategy, View, ViewStream,
};
use docker_state_exporter::inventory::{
    self, Container, Counter, EventIdentity, EventLabels, EventPolicy, Expectation, Health, LabelPairs,
    Status, Verdict,
};
use docker_state_exporter::metrics::labels::Names;
use docker_state_exporter::readers::Observed;
use docker_state_exporter::readers::prometheus::PrometheusReader;
use exposition::Exposition;
use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

/// Keys of labels and attributes: those that have become one label or none, and any.
fn key() -> impl Strategy<Value = String> {
    let known = [
        "a.b",
        "a_b",
        "A-B",
        "a/b",
        "K",
        "k",
        "\u{212a}",
        "1x",
        "",
        "_",
        "__name__",
        "__x",
        "a:b",
        "é",
        "\"",
        "\\",
        "\n",
        "a\0",
        "a_",
        "name",
        "id",
        "image",
        "event",
        "type",
        "status",
        "env",
        "pod",
        "container",
        "hostname",
        "le",
        "job",
        "container.label.a.b",
        "container_label_a_b",
        "container.label.",
        "container_label_",
        "otel.metric.overflow",
        "otel_scope_name",
        "otel.scope.version",
        "service.name",
        "key_1x",
        "key___name__",
        "target_info",
    ];
    prop_oneof![4 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => ".{0,6}"]
}

/// Values: the same one now and then, and any.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("a".to_owned()),
        Just("a;a".to_owned()),
        Just("\0\r\n\t\"\\{}=,#\u{feff}\u{2028}".to_owned()),
        "(?s).{0,6}",
    ]
}

fn labels() -> impl Strategy<Value = LabelPairs> {
    let pairs = btree_map(key(), value(), 0..6);
    pairs.prop_map(|pairs| pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
}

prop_compose! {
    fn identity()(name in prop::option::of(value()), image in prop::option::of(value()), pod in prop::option::of(value()),
        env in prop::option::of(value()), container in prop::option::of(value()), labels in labels()) -> EventIdentity {
        let [name, image, pod, env, container] =
            [name, image, pod, env, container].map(|text| text.map(|text| text.as_str().into()));
        EventIdentity { name, image, pod, env, container, labels, sandbox: false }
    }
}

prop_compose! {
    fn container()(name in value(), image in value(), hostname in value(), labels in labels(), identity in identity(),
        status in prop::sample::select(Status::ALL), code in -1..256i64) -> Container {
        Container {
            id: "".into(),
            name: name.into(),
            image: image.into(),
            labels,
            status,
            health: Health::None,
            oom_killed: false,
            started_at: 1,
            // Of most it is known how they ended, and some need attention.
            finished_at: 2,
            created_at: 1,
            restart_count: 0,
            exit_code: code,
            failing_streak: 0,
            image_id: "sha256:0".into(),
            restart_policy: "no".into(),
            hostname: hostname.into(),
            event_identity: Arc::new(identity),
            stop_signal: None,
            error: None,
            expectation: Expectation::Oneshot,
            replica: None,
            is_inspected: true,
            verdict: Verdict::default(),
        }
    }
}

prop_compose! {
    fn event()(event in value(), kind in value(), identity in identity()) -> EventLabels {
        EventLabels { counter: Counter::Events, event: event.into(), kind: kind.into(), identity: Arc::new(identity) }
    }
}

fn pull() -> impl Strategy<Value = Pull> {
    use TranslationStrategy::{
        NoTranslation, NoUtf8EscapingWithSuffixes, UnderscoreEscapingWithSuffixes,
        UnderscoreEscapingWithoutSuffixes,
    };
    let strategies = [
        NoTranslation,
        NoUtf8EscapingWithSuffixes,
        UnderscoreEscapingWithSuffixes,
        UnderscoreEscapingWithoutSuffixes,
    ];
    let limit = prop::option::of(1..8usize);
    let (bools, limits) = ((any::<bool>(), any::<bool>(), any::<bool>()), (limit.clone(), limit));
    (prop::sample::select(strategies.to_vec()), bools, limits).prop_map(
        |(translation_strategy, (scope_info_enabled, target_info_enabled, all), (gauges, counters))| Pull {
            translation_strategy,
            scope_info_enabled,
            target_info_enabled,
            resource_constant_labels: if all { Filter::all() } else { Filter::none() },
            cardinality_limits: CardinalityLimits {
                observable_gauge: gauges,
                observable_counter: counters,
                ..CardinalityLimits::default()
            },
            ..Pull::default()
        },
    )
}

/// Attributes that a view keeps, for every stream; `None` without a view.
fn kept() -> impl Strategy<Value = Option<Filter>> {
    let filters = [
        Filter::new::<&str>(&["container.label.*", "event"], &[]),
        Filter::new::<&str>(&["*"], &["container.id", "name", "container.name"]),
        Filter::none(),
    ];
    prop::option::of(prop::sample::select(filters.to_vec()))
}

fn encoding() -> impl Strategy<Value = Encoding> {
    prop_oneof![Just(Encoding::Code), Just(Encoding::StateSet)]
}

fn answer(reader: &PrometheusReader, names: Names) -> Result<Exposition, String> {
    let mut text = Vec::new();
    for part in reader.render(names).map_err(|error| error.to_string())?.text() {
        text.extend_from_slice(&part.map_err(|error| error.to_string())?);
    }
    let text = String::from_utf8(text).map_err(|error| error.to_string())?;
    let parsed = match names {
        Names::Escaped => Exposition::parse(&text),
        Names::Kept => Exposition::parse_quoted(&text),
    };
    parsed.map_err(|error| format!("{error}\n{text}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_is_one_that_prometheus_takes(
        containers in vec(container(), 0..5),
        events in vec((event(), 1..4u64), 0..8),
        attributes in btree_map(key(), value(), 0..8),
        (pull, encoding, kept) in (pull(), encoding(), kept()),
    ) {
        let policy = EventPolicy { retention: Duration::MAX, start_at_zero: vec!["oom".into()], exits: true, limit: 6 };
        let (writer, inventory) = inventory::new(policy);
        let containers: Vec<_> = containers
            .into_iter()
            .enumerate()
            .map(|(i, container)| Arc::new(Container { id: format!("{i:064x}").into(), ..container }))
            .collect();
        writer.replace(containers.clone(), &[], Instant::now());
        let mut counted = 0;
        for (labels, count) in events {
            (0..count).for_each(|_| {
                writer.count(labels.clone(), Instant::now());
            });
            counted += count;
        }
        let mut config = Config::default();
        config.containers.encoding = encoding;
        let limits = pull.cardinality_limits;
        config.views.extend(kept.clone().map(|keys| View {
            selector: Selector { meter_name: Some("docker-state-exporter".into()), ..Selector::default() },
            stream: ViewStream { attribute_keys: Some(keys), ..ViewStream::default() },
        }));
        let attributes = attributes.into_iter().map(|(key, value)| KeyValue::new(key, value));
        let resource = Resource::builder_empty().with_attributes(attributes).build();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let observed = Observed::new(inventory, Arc::default(), runtime.metrics());
        let reader = PrometheusReader::new(&config, &pull, &resource, &observed).unwrap();
        for (names, events) in [(Names::Escaped, "docker_events"), (Names::Kept, "docker.events")] {
            let scrape = answer(&reader, names).map_err(TestCaseError::fail)?;
            let total = if pull.translation_strategy.has_suffixes() { "_total" } else { "" };
            let series = scrape.series(&format!("{events}{total}"));
            prop_assert_eq!(series.values().sum::<f64>(), counted as f64);
            prop_assert!(limits.observable_counter.is_none_or(|limit| series.len() <= limit));
            let (classic, dotted) = ("container_state_exitcode", "container.state.exitcode");
            let codes = scrape.series(if names == Names::Escaped { classic } else { dotted });
            match (limits.observable_gauge, &kept) {
                (None, None) => {
                    prop_assert_eq!(codes.len(), containers.len());
                    // Whatever the resource is called, a series' own labels are its own.
                    let ids: BTreeSet<_> = codes.keys().map(|labels| labels["id"].clone()).collect();
                    let known = containers.iter().map(|container| format!("/docker/{}", container.id));
                    prop_assert_eq!(ids, known.collect());
                }
                (Some(limit), _) => prop_assert!(codes.len() <= limit),
                (None, Some(_)) => prop_assert!(codes.len() <= containers.len()),
            }
        }
    }
}
