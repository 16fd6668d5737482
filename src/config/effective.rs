//! Writes a configuration as a file, with every default filled in: the output of `check`. Reading it back gives the
//! same configuration, except for hidden values.
//!
//! Each struct is destructured with all its fields, so that a new key that is not printed does not compile.

use std::path::Path;
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_saphyr::{DoubleQuoted, FlowSeq, ser_options, to_string_with_options};

use super::error::HIDDEN;
use super::model::{
    Aggregation, AttributeValue, CardinalityLimits, Compression, Config, Containers, Detection, Detector,
    Docker, Encoding, Events, ExecCommand, Exporter, Filter, Otlp, Periodic, Pull, Readers, Resource,
    Selector, Temporality, Tls, TranslationStrategy, View, ViewStream, Web,
};
use super::values::{COMPRESSIONS, TEMPORALITIES, shown_address};
use super::views::INSTRUMENT_TYPES;

/// The file's text.
pub(super) fn write(config: &Config) -> String {
    let Config { log_level, resource, readers, views, docker, containers, events, web } = config;
    let mut top = vec![("file_format", string("1.1"))];
    let Readers { pull, periodic } = readers;
    if pull.is_none() && periodic.is_empty() {
        top.push(("disabled", boolean(true)));
    }
    top.push(("log_level", string(log_level.name())));
    top.push(("resource", of_resource(resource)));
    if pull.is_some() || !periodic.is_empty() {
        let readers = pull.iter().map(of_pull).chain(periodic.iter().map(of_periodic)).collect();
        let mut provider = vec![("readers", Value::List(readers))];
        if !views.is_empty() {
            provider.push(("views", Value::List(views.iter().map(of_view).collect())));
        }
        top.push(("meter_provider", Value::Map(provider)));
    }
    top.push(("docker", of_docker(docker)));
    top.push(("containers", of_containers(containers)));
    top.push(("events", of_events(events)));
    top.push(("web", of_web(web)));
    let options = ser_options! { compact_list_indent: false, prefer_block_scalars: false };
    to_string_with_options(&Value::Map(top), options)
        .unwrap_or_else(|error| format!("# cannot be written as YAML: {error}\n"))
}

/// A value to be written.
enum Value {
    Null,
    Boolean(bool),
    Integer(i64),
    Double(f64),
    String(String),
    /// A placeholder for a secret.
    Hidden,
    List(Vec<Value>),
    Map(Vec<(&'static str, Value)>),
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_none(),
            Self::Boolean(value) => serializer.serialize_bool(*value),
            Self::Integer(value) => serializer.serialize_i64(*value),
            Self::Double(value) => serializer.serialize_f64(*value),
            Self::String(value) => serializer.serialize_str(value),
            Self::Hidden => DoubleQuoted(HIDDEN).serialize(serializer),
            Self::List(items) if items.iter().any(|item| matches!(item, Self::Map(_))) => {
                serializer.collect_seq(items)
            }
            // On one line.
            Self::List(items) => FlowSeq(items).serialize(serializer),
            Self::Map(entries) => serializer.collect_map(entries.iter().map(|(key, value)| (key, value))),
        }
    }
}

/// A string, escaped so that it is never read as a reference.
fn string(text: &str) -> Value {
    Value::String(text.replace('$', "$$"))
}

/// A number. No number of a configuration is beyond the range.
fn number(value: impl TryInto<i64>) -> Value {
    Value::Integer(value.try_into().unwrap_or(i64::MAX))
}

fn boolean(value: bool) -> Value {
    Value::Boolean(value)
}

fn millis(value: Duration) -> Value {
    number(value.as_millis())
}

fn path(value: Option<&Path>) -> Value {
    value.map_or(Value::Null, |path| string(&path.to_string_lossy()))
}

fn strings<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> Value {
    Value::List(values.into_iter().map(|value| string(value.as_ref())).collect())
}

/// The name of a value in a table of choices; the first if several names mean the same.
fn name<T: PartialEq>(value: T, choices: &[(&'static str, T)]) -> Value {
    choices.iter().find(|(_, choice)| *choice == value).map_or(Value::Null, |(name, _)| string(name))
}

fn filter(filter: &Filter) -> Value {
    let (included, excluded) = filter.patterns();
    Value::Map(vec![("included", strings(included)), ("excluded", strings(excluded))])
}

fn of_resource(resource: &Resource) -> Value {
    let Resource { attributes, schema_url, detection } = resource;
    let list = |kind, items: Vec<Value>| (kind, Value::List(items));
    let attributes = attributes.iter().map(|(key, value)| {
        let (kind, value) = match value {
            AttributeValue::String(text) => ("string", string(text)),
            AttributeValue::Bool(value) => ("bool", boolean(*value)),
            AttributeValue::Int(value) => ("int", number(*value)),
            AttributeValue::Double(value) => ("double", Value::Double(*value)),
            AttributeValue::Strings(values) => ("string_array", strings(values)),
            AttributeValue::Bools(values) => list("bool_array", values.iter().map(|v| boolean(*v)).collect()),
            AttributeValue::Ints(values) => list("int_array", values.iter().map(|v| number(*v)).collect()),
            AttributeValue::Doubles(values) => {
                list("double_array", values.iter().map(|v| Value::Double(*v)).collect())
            }
        };
        Value::Map(vec![("name", string(key)), ("value", value), ("type", string(kind))])
    });
    Value::Map(vec![
        ("attributes", Value::List(attributes.collect())),
        ("detection/development", of_detection(detection)),
        ("schema_url", schema_url.as_deref().map_or(Value::Null, string)),
    ])
}

fn of_detection(detection: &Detection) -> Value {
    let Detection { attributes, named, detectors } = detection;
    let mut section = Vec::new();
    // Naming what is included, even everything, enables the command line too.
    if *named {
        section.push(("attributes", filter(attributes)));
    } else {
        section.push(("attributes", Value::Map(vec![("excluded", strings(attributes.patterns().1))])));
    }
    let detectors = detectors.iter().map(|detector| {
        let name = match detector {
            Detector::Container => "container",
            Detector::Host => "host",
            Detector::Process => "process",
            Detector::Service => "service",
        };
        Value::Map(vec![(name, Value::Null)])
    });
    section.push(("detectors", Value::List(detectors.collect())));
    Value::Map(section)
}

fn of_pull(pull: &Pull) -> Value {
    let Pull {
        host,
        port,
        scope_info_enabled,
        target_info_enabled,
        resource_constant_labels,
        translation_strategy,
        cardinality_limits,
    } = pull;
    let strategy = match translation_strategy {
        TranslationStrategy::UnderscoreEscapingWithSuffixes => "underscore_escaping_with_suffixes",
        TranslationStrategy::UnderscoreEscapingWithoutSuffixes => {
            "underscore_escaping_without_suffixes/development"
        }
        TranslationStrategy::NoUtf8EscapingWithSuffixes => "no_utf8_escaping_with_suffixes/development",
        TranslationStrategy::NoTranslation => "no_translation/development",
    };
    let exporter = Value::Map(vec![
        ("host", string(host)),
        ("port", number(*port)),
        ("scope_info_enabled", boolean(*scope_info_enabled)),
        ("target_info_enabled/development", boolean(*target_info_enabled)),
        ("resource_constant_labels", filter(resource_constant_labels)),
        ("translation_strategy", string(strategy)),
    ]);
    let exporter = Value::Map(vec![("prometheus/development", exporter)]);
    let mut pull = vec![("exporter", exporter)];
    push_limits(cardinality_limits, &mut pull);
    Value::Map(vec![("pull", Value::Map(pull))])
}

/// Limits have no default, so only those that are set can be shown.
fn push_limits(limits: &CardinalityLimits, reader: &mut Vec<(&'static str, Value)>) {
    let CardinalityLimits { default, histogram, observable_counter, observable_gauge } = limits;
    let limits = [
        ("default", default),
        ("histogram", histogram),
        ("observable_counter", observable_counter),
        ("observable_gauge", observable_gauge),
    ];
    let set: Vec<_> = limits.into_iter().filter_map(|(key, limit)| Some((key, number((*limit)?)))).collect();
    if !set.is_empty() {
        reader.push(("cardinality_limits", Value::Map(set)));
    }
}

fn of_view(view: &View) -> Value {
    let View { selector, stream } = view;
    let Selector { instrument_name, instrument_type, unit, meter_name, meter_version, meter_schema_url } =
        selector;
    let texts = [
        ("instrument_name", instrument_name.as_ref().map(|glob| glob.pattern())),
        ("unit", unit.clone()),
        ("meter_name", meter_name.clone()),
        ("meter_version", meter_version.clone()),
        ("meter_schema_url", meter_schema_url.clone()),
    ];
    let mut selector: Vec<_> =
        texts.into_iter().filter_map(|(key, text)| Some((key, string(&text?)))).collect();
    if let Some(kind) = instrument_type {
        selector.push(("instrument_type", name(*kind, &INSTRUMENT_TYPES)));
    }
    let ViewStream { name, description, aggregation, aggregation_cardinality_limit, attribute_keys } = stream;
    let texts = [("name", name), ("description", description)];
    let mut stream: Vec<_> =
        texts.into_iter().filter_map(|(key, text)| Some((key, string(text.as_ref()?)))).collect();
    stream.push(("aggregation", of_aggregation(aggregation)));
    if let Some(limit) = aggregation_cardinality_limit {
        stream.push(("aggregation_cardinality_limit", number(*limit)));
    }
    if let Some(keys) = attribute_keys {
        stream.push(("attribute_keys", filter(keys)));
    }
    Value::Map(vec![("selector", Value::Map(selector)), ("stream", Value::Map(stream))])
}

fn of_aggregation(aggregation: &Aggregation) -> Value {
    let one = |name, parameters| Value::Map(vec![(name, parameters)]);
    match aggregation {
        Aggregation::Default => one("default", Value::Null),
        Aggregation::Drop => one("drop", Value::Null),
        Aggregation::Sum => one("sum", Value::Null),
        Aggregation::LastValue => one("last_value", Value::Null),
        Aggregation::ExplicitBucketHistogram { boundaries, record_min_max } => {
            let boundaries =
                Value::List(boundaries.iter().map(|boundary| Value::Double(*boundary)).collect());
            let record = ("record_min_max", boolean(*record_min_max));
            one("explicit_bucket_histogram", Value::Map(vec![("boundaries", boundaries), record]))
        }
        Aggregation::Base2ExponentialBucketHistogram { max_scale, max_size, record_min_max } => one(
            "base2_exponential_bucket_histogram",
            Value::Map(vec![
                ("max_scale", number(*max_scale)),
                ("max_size", number(*max_size)),
                ("record_min_max", boolean(*record_min_max)),
            ]),
        ),
    }
}

fn of_periodic(periodic: &Periodic) -> Value {
    let Periodic {
        interval,
        timeout,
        max_export_batch_size,
        cardinality_limits,
        default_histogram_aggregation,
        exporter,
    } = periodic;
    let (name, mut exporter) = match exporter {
        Exporter::OtlpGrpc(otlp) => ("otlp_grpc", of_otlp(otlp)),
        Exporter::OtlpHttp(otlp) => ("otlp_http", of_otlp(otlp)),
        Exporter::Console { temporality } => {
            ("console", vec![("temporality_preference", of_temporality(*temporality))])
        }
    };
    let histograms = match default_histogram_aggregation {
        Aggregation::Base2ExponentialBucketHistogram { .. } => "base2_exponential_bucket_histogram",
        _ => "explicit_bucket_histogram",
    };
    exporter.push(("default_histogram_aggregation", string(histograms)));
    let mut periodic = vec![
        ("interval", millis(*interval)),
        ("timeout", millis(*timeout)),
        ("max_export_batch_size/development", number(*max_export_batch_size)),
        ("exporter", Value::Map(vec![(name, Value::Map(exporter))])),
    ];
    push_limits(cardinality_limits, &mut periodic);
    Value::Map(vec![("periodic", Value::Map(periodic))])
}

fn of_temporality(temporality: Temporality) -> Value {
    name(temporality, &TEMPORALITIES)
}

fn of_otlp(otlp: &Otlp) -> Vec<(&'static str, Value)> {
    let Otlp { endpoint, tls, headers, compression, timeout, temporality } = otlp;
    let mut endpoint = endpoint.clone();
    // Some destinations take an API key there.
    if endpoint.query().is_some() {
        endpoint.set_query(Some(HIDDEN));
    }
    let headers =
        headers.iter().map(|(name, _)| Value::Map(vec![("name", string(name)), ("value", Value::Hidden)]));
    let compression: Compression = *compression;
    vec![
        ("endpoint", string(endpoint.as_str())),
        ("tls", of_tls(tls)),
        ("headers", Value::List(headers.collect())),
        ("compression", name(compression, &COMPRESSIONS)),
        ("timeout", millis(*timeout)),
        ("temporality_preference", of_temporality(*temporality)),
    ]
}

fn of_tls(tls: &Tls) -> Value {
    let Tls { ca_file, cert_file, key_file } = tls;
    Value::Map(vec![
        ("ca_file", path(ca_file.as_deref())),
        ("cert_file", path(cert_file.as_deref())),
        ("key_file", path(key_file.as_deref())),
    ])
}

fn of_docker(docker: &Docker) -> Value {
    let Docker { host, tls, timeout, inspect_concurrency, resync_interval, stale_after } = docker;
    let mut section = vec![("host", string(host))];
    if let Some(tls) = tls {
        section.push(("tls", of_tls(tls)));
    }
    section.extend([
        ("timeout", millis(*timeout)),
        ("inspect_concurrency", number(*inspect_concurrency)),
        ("resync_interval", millis(*resync_interval)),
        ("stale_after", millis(*stale_after)),
    ]);
    Value::Map(section)
}

fn of_containers(containers: &Containers) -> Value {
    let Containers { names, labels, encoding, expectation_label } = containers;
    let encoding = match encoding {
        Encoding::Code => "code",
        Encoding::StateSet => "state_set",
    };
    Value::Map(vec![
        ("names", filter(names)),
        ("labels", filter(labels)),
        ("encoding", string(encoding)),
        ("expectation_label", string(expectation_label)),
    ])
}

fn of_events(events: &Events) -> Value {
    let Events { types, excluded, exec_command, start_at_zero, labels, retention, limit, log } = events;
    let exec_command = match exec_command {
        ExecCommand::None => "none",
        ExecCommand::Program => "program",
        ExecCommand::Full => "full",
    };
    Value::Map(vec![
        ("types", strings(types)),
        ("excluded", strings(excluded)),
        ("exec_command", string(exec_command)),
        ("start_at_zero", strings(start_at_zero)),
        ("labels", filter(labels)),
        ("retention", millis(*retention)),
        ("limit", number(*limit)),
        ("log", boolean(*log)),
    ])
}

fn of_web(web: &Web) -> Value {
    let Web {
        telemetry_path,
        cache_period,
        max_requests,
        allowed_hosts,
        listen_addresses,
        systemd_socket,
        config_file,
    } = web;
    Value::Map(vec![
        ("telemetry_path", string(telemetry_path)),
        ("cache_period", millis(*cache_period)),
        ("max_requests", number(*max_requests)),
        ("allowed_hosts", strings(allowed_hosts)),
        ("listen_addresses", strings(listen_addresses.iter().map(|(host, port)| shown_address(host, *port)))),
        ("systemd_socket", boolean(*systemd_socket)),
        ("config_file", path(config_file.as_deref())),
    ])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::from_yaml;

    #[test]
    fn what_is_printed_is_the_same_configuration() {
        let variables = |name: &str| (name == "TOKEN").then(|| "hunter2".to_owned());
        for text in [
            include_str!("../../tests/config/everything.yaml"),
            include_str!("../../config/reference.yaml"),
            include_str!("../../config/prometheus-and-otlp.yaml"),
            "disabled: true\n",
            "resource: {detection/development: {detectors: [host: , process: ], attributes: {excluded: [a]}}}\n",
            "resource: {attributes: [{name: a, value: 'true'}, {name: 'b: c', value: '$$x ${y'}, \
             {name: d, value: .inf, type: double}, {name: e, value: '', type: string}]}\n",
            "containers: {names: {excluded: ['-x', '[a]', '# b', 'c: d', '1', 'null']}, labels: {included: []}}\n",
            "docker: {host: 'https://docker:1', tls: {ca_file: /a b/c}}\n",
            "web: {config_file: 'C: \"web\".yaml', telemetry_path: /x}\n",
        ] {
            let text = text.replace("'$$x ${y'", "\"$$x $${y\"");
            let mut config = from_yaml("a.yaml", &text, &variables).unwrap().config;
            let printed = write(&config);
            let again = from_yaml("printed.yaml", &printed, &|_| None);
            // Hidden values are the only difference.
            for periodic in &mut config.readers.periodic {
                if let Exporter::OtlpGrpc(otlp) | Exporter::OtlpHttp(otlp) = &mut periodic.exporter {
                    otlp.headers.iter_mut().for_each(|(_, value)| *value = HIDDEN.into());
                }
            }
            let again = again.unwrap_or_else(|error| panic!("{error}\n{printed}"));
            assert_eq!(again.config, config, "{printed}");
            assert!(!printed.contains("hunter2"), "{printed}");
        }
    }

    proptest! {
        /// Any string is read back unchanged.
        #[test]
        fn strings_are_read_as_they_are_printed(texts in prop::collection::vec(any_text(), 1..6)) {
            let mut config = Config::default();
            for (i, text) in texts.iter().enumerate() {
                let text = AttributeValue::String(text.clone());
                config.resource.attributes.push((format!("key{i}"), text));
            }
            config.resource.attributes.push(("all".into(), AttributeValue::Strings(texts.clone())));
            let patterns: Vec<&str> = texts.iter().map(String::as_str).filter(|t| !t.is_empty()).collect();
            config.containers.names = Filter::new(&["*"], &patterns);
            let printed = write(&config);
            let again = from_yaml("printed.yaml", &printed, &|_| None);
            let again = again.unwrap_or_else(|error| panic!("{error}\n{printed}"));
            prop_assert_eq!(again.config, config, "{}", printed);
        }
    }

    /// Any string, and strings that YAML would read as another type.
    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "[-+.0-9eExob_~:#&*!|>%@`'\"$\\{}\\[\\], \\n\\tyn]{0,12}",
            "(null|true|yes|on|~|=|<<|---|\\.\\.\\.|0x1f|1e3|\\.inf|\\.nan|12:30|2026-01-01)[ \\n]?",
        ]
    }

    #[test]
    fn what_an_endpoint_asks_with_is_hidden() {
        let text = "meter_provider: {readers: [{periodic: {exporter: {otlp_http: {endpoint: 'http://x/v1?key=1234'}}}}]}";
        let printed = write(&from_yaml("a.yaml", text, &|_| None).unwrap().config);
        assert!(printed.contains("http://x/v1?(hidden)") && !printed.contains("1234"), "{printed}");
    }
}
