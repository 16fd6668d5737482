//! A configuration as a file would say it, every default filled in: what `check` prints. Read again, it is the same
//! configuration, but for what is hidden.
//!
//! Each struct is taken apart with all its fields, so that a key that is added and not printed does not compile.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use super::model::{
    Aggregation, AttributeValue, CardinalityLimits, Compression, Config, Containers, Detection, Detector,
    Docker, Encoding, Events, ExecCommand, Exporter, Filter, Otlp, Periodic, Pull, Readers, Resource,
    Selector, Temporality, Tls, TranslationStrategy, View, ViewStream, Web,
};
use super::values::{COMPRESSIONS, TEMPORALITIES};
use super::views::INSTRUMENT_TYPES;
use super::yaml::{Kind, resolve};

/// What stands in the place of a secret.
const HIDDEN: &str = "(hidden)";

/// The file's text.
pub(super) fn write(config: &Config) -> String {
    let Config { log_level, resource, readers, views, docker, containers, events, web } = config;
    let mut top = vec![("file_format", string("1.1"))];
    let Readers { pull, periodic } = readers;
    if pull.is_none() && periodic.is_empty() {
        top.push(("disabled", Out::Plain("true".into())));
    }
    top.push(("log_level", string(log_level.name())));
    top.push(("resource", of_resource(resource)));
    if pull.is_some() || !periodic.is_empty() {
        let readers = pull.iter().map(of_pull).chain(periodic.iter().map(of_periodic)).collect();
        let mut provider = vec![("readers", Out::List(readers))];
        if !views.is_empty() {
            provider.push(("views", Out::List(views.iter().map(of_view).collect())));
        }
        top.push(("meter_provider", Out::Map(provider)));
    }
    top.push(("docker", of_docker(docker)));
    top.push(("containers", of_containers(containers)));
    top.push(("events", of_events(events)));
    top.push(("web", of_web(web)));
    let mut text = String::new();
    for (key, value) in &top {
        value.entry(key, 0, &mut text);
    }
    text
}

/// A value to be written.
enum Out {
    /// A scalar that is written as it is.
    Plain(String),
    List(Vec<Out>),
    Map(Vec<(&'static str, Out)>),
}

impl Out {
    fn entry(&self, key: &str, indent: usize, out: &mut String) {
        // Writing to a string does not fail.
        let _ = write!(out, "{:indent$}{key}:", "");
        match self {
            Self::Map(entries) if !entries.is_empty() => {
                out.push('\n');
                entries.iter().for_each(|(key, value)| value.entry(key, indent + 2, out));
            }
            Self::List(items) if items.iter().any(|item| matches!(item, Self::Map(_))) => {
                out.push('\n');
                for item in items {
                    let _ = write!(out, "{:1$}- ", "", indent + 2);
                    match item {
                        Self::Map(entries) => {
                            let mut text = String::new();
                            entries.iter().for_each(|(key, value)| value.entry(key, indent + 4, &mut text));
                            out.push_str(text.trim_start());
                        }
                        _ => item.line(out),
                    }
                }
            }
            _ => {
                out.push(' ');
                self.line(out);
            }
        }
    }

    /// On the rest of a line.
    fn line(&self, out: &mut String) {
        self.flow(out);
        while out.ends_with(' ') {
            out.pop();
        }
        out.push('\n');
    }

    fn flow(&self, out: &mut String) {
        match self {
            Self::Plain(text) => out.push_str(text),
            Self::Map(_) => out.push_str("{}"),
            Self::List(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    out.push_str(if i == 0 { "" } else { ", " });
                    item.flow(out);
                }
                out.push(']');
            }
        }
    }
}

/// A string: in quotes where YAML would take it for something else, and with no reference in it.
fn string(text: &str) -> Out {
    let text = text.replace('$', "$$");
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':' | '$' | '@' | '+');
    let is_plain = text.chars().all(plain)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && !text.ends_with(':')
        && resolve(&text) == Kind::String;
    Out::Plain(if is_plain { text } else { serde_json::Value::String(text).to_string() })
}

fn number(value: impl ToString) -> Out {
    Out::Plain(value.to_string())
}

fn boolean(value: bool) -> Out {
    number(value)
}

fn millis(value: Duration) -> Out {
    number(value.as_millis())
}

fn path(value: Option<&Path>) -> Out {
    value.map_or_else(nothing, |path| string(&path.to_string_lossy()))
}

fn nothing() -> Out {
    Out::Plain(String::new())
}

fn strings<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> Out {
    Out::List(values.into_iter().map(|value| string(value.as_ref())).collect())
}

/// The name that a table of choices has for a value; the first, where several mean the same.
fn name<T: PartialEq>(value: T, choices: &[(&'static str, T)]) -> Out {
    choices.iter().find(|(_, choice)| *choice == value).map_or_else(nothing, |(name, _)| string(name))
}

fn filter(filter: &Filter) -> Out {
    let (included, excluded) = filter.patterns();
    Out::Map(vec![("included", strings(included)), ("excluded", strings(excluded))])
}

fn of_resource(resource: &Resource) -> Out {
    let Resource { attributes, schema_url, detection } = resource;
    let list = |kind, items: Vec<Out>| (kind, Out::List(items));
    let attributes = attributes.iter().map(|(key, value)| {
        let (kind, value) = match value {
            AttributeValue::String(text) => ("string", string(text)),
            AttributeValue::Bool(value) => ("bool", boolean(*value)),
            AttributeValue::Int(value) => ("int", number(value)),
            AttributeValue::Double(value) => ("double", double(*value)),
            AttributeValue::Strings(values) => ("string_array", strings(values)),
            AttributeValue::Bools(values) => list("bool_array", values.iter().map(|v| boolean(*v)).collect()),
            AttributeValue::Ints(values) => list("int_array", values.iter().map(number).collect()),
            AttributeValue::Doubles(values) => {
                list("double_array", values.iter().map(|v| double(*v)).collect())
            }
        };
        Out::Map(vec![("name", string(key)), ("value", value), ("type", string(kind))])
    });
    Out::Map(vec![
        ("attributes", Out::List(attributes.collect())),
        ("detection/development", of_detection(detection)),
        ("schema_url", schema_url.as_deref().map_or_else(nothing, string)),
    ])
}

fn of_detection(detection: &Detection) -> Out {
    let Detection { attributes, named, detectors } = detection;
    let mut section = Vec::new();
    // To name what is included, be it everything, asks for a command line too.
    if *named {
        section.push(("attributes", filter(attributes)));
    } else {
        section.push(("attributes", Out::Map(vec![("excluded", strings(attributes.patterns().1))])));
    }
    let detectors = detectors.iter().map(|detector| {
        let name = match detector {
            Detector::Container => "container",
            Detector::Host => "host",
            Detector::Process => "process",
            Detector::Service => "service",
        };
        Out::Map(vec![(name, nothing())])
    });
    section.push(("detectors", Out::List(detectors.collect())));
    Out::Map(section)
}

/// YAML has its own names for what is no number.
fn double(value: f64) -> Out {
    Out::Plain(if value.is_nan() {
        ".nan".into()
    } else if value.is_infinite() {
        if value > 0.0 { ".inf".into() } else { "-.inf".into() }
    } else {
        format!("{value:?}")
    })
}

fn of_pull(pull: &Pull) -> Out {
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
    let exporter = Out::Map(vec![
        ("host", string(host)),
        ("port", number(port)),
        ("scope_info_enabled", boolean(*scope_info_enabled)),
        ("target_info_enabled/development", boolean(*target_info_enabled)),
        ("resource_constant_labels", filter(resource_constant_labels)),
        ("translation_strategy", string(strategy)),
    ]);
    let exporter = Out::Map(vec![("prometheus/development", exporter)]);
    let mut pull = vec![("exporter", exporter)];
    push_limits(cardinality_limits, &mut pull);
    Out::Map(vec![("pull", Out::Map(pull))])
}

/// Limits have no default, so only those that are set can be shown.
fn push_limits(limits: &CardinalityLimits, reader: &mut Vec<(&'static str, Out)>) {
    let CardinalityLimits { default, histogram, observable_counter, observable_gauge } = limits;
    let limits = [
        ("default", default),
        ("histogram", histogram),
        ("observable_counter", observable_counter),
        ("observable_gauge", observable_gauge),
    ];
    let set: Vec<_> = limits.into_iter().filter_map(|(key, limit)| Some((key, number((*limit)?)))).collect();
    if !set.is_empty() {
        reader.push(("cardinality_limits", Out::Map(set)));
    }
}

fn of_view(view: &View) -> Out {
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
        stream.push(("aggregation_cardinality_limit", number(limit)));
    }
    if let Some(keys) = attribute_keys {
        stream.push(("attribute_keys", filter(keys)));
    }
    Out::Map(vec![("selector", Out::Map(selector)), ("stream", Out::Map(stream))])
}

fn of_aggregation(aggregation: &Aggregation) -> Out {
    let one = |name, parameters| Out::Map(vec![(name, parameters)]);
    match aggregation {
        Aggregation::Default => one("default", nothing()),
        Aggregation::Drop => one("drop", nothing()),
        Aggregation::Sum => one("sum", nothing()),
        Aggregation::LastValue => one("last_value", nothing()),
        Aggregation::ExplicitBucketHistogram { boundaries, record_min_max } => {
            let boundaries = Out::List(boundaries.iter().map(|boundary| double(*boundary)).collect());
            let record = ("record_min_max", boolean(*record_min_max));
            one("explicit_bucket_histogram", Out::Map(vec![("boundaries", boundaries), record]))
        }
        Aggregation::Base2ExponentialBucketHistogram { max_scale, max_size, record_min_max } => one(
            "base2_exponential_bucket_histogram",
            Out::Map(vec![
                ("max_scale", number(max_scale)),
                ("max_size", number(max_size)),
                ("record_min_max", boolean(*record_min_max)),
            ]),
        ),
    }
}

fn of_periodic(periodic: &Periodic) -> Out {
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
        ("max_export_batch_size/development", number(max_export_batch_size)),
        ("exporter", Out::Map(vec![(name, Out::Map(exporter))])),
    ];
    push_limits(cardinality_limits, &mut periodic);
    Out::Map(vec![("periodic", Out::Map(periodic))])
}

fn of_temporality(temporality: Temporality) -> Out {
    name(temporality, &TEMPORALITIES)
}

fn of_otlp(otlp: &Otlp) -> Vec<(&'static str, Out)> {
    let Otlp { endpoint, tls, headers, compression, timeout, temporality } = otlp;
    let mut endpoint = endpoint.clone();
    // Some take their key there.
    if endpoint.query().is_some() {
        endpoint.set_query(Some(HIDDEN));
    }
    let headers =
        headers.iter().map(|(name, _)| Out::Map(vec![("name", string(name)), ("value", string(HIDDEN))]));
    let compression: Compression = *compression;
    vec![
        ("endpoint", string(endpoint.as_str())),
        ("tls", of_tls(tls)),
        ("headers", Out::List(headers.collect())),
        ("compression", name(compression, &COMPRESSIONS)),
        ("timeout", millis(*timeout)),
        ("temporality_preference", of_temporality(*temporality)),
    ]
}

fn of_tls(tls: &Tls) -> Out {
    let Tls { ca_file, cert_file, key_file } = tls;
    Out::Map(vec![
        ("ca_file", path(ca_file.as_deref())),
        ("cert_file", path(cert_file.as_deref())),
        ("key_file", path(key_file.as_deref())),
    ])
}

fn of_docker(docker: &Docker) -> Out {
    let Docker { host, tls, timeout, inspect_concurrency, resync_interval, stale_after } = docker;
    let mut section = vec![("host", string(host))];
    if let Some(tls) = tls {
        section.push(("tls", of_tls(tls)));
    }
    section.extend([
        ("timeout", millis(*timeout)),
        ("inspect_concurrency", number(inspect_concurrency)),
        ("resync_interval", millis(*resync_interval)),
        ("stale_after", millis(*stale_after)),
    ]);
    Out::Map(section)
}

fn of_containers(containers: &Containers) -> Out {
    let Containers { names, labels, encoding } = containers;
    let encoding = match encoding {
        Encoding::Code => "code",
        Encoding::StateSet => "state_set",
    };
    Out::Map(vec![("names", filter(names)), ("labels", filter(labels)), ("encoding", string(encoding))])
}

fn of_events(events: &Events) -> Out {
    let Events { types, excluded, exec_command, start_at_zero, labels, retention, limit, log } = events;
    let exec_command = match exec_command {
        ExecCommand::None => "none",
        ExecCommand::Program => "program",
        ExecCommand::Full => "full",
    };
    Out::Map(vec![
        ("types", strings(types)),
        ("excluded", strings(excluded)),
        ("exec_command", string(exec_command)),
        ("start_at_zero", strings(start_at_zero)),
        ("labels", filter(labels)),
        ("retention", millis(*retention)),
        ("limit", number(limit)),
        ("log", boolean(*log)),
    ])
}

fn of_web(web: &Web) -> Out {
    let Web { telemetry_path, cache_period, max_requests, allowed_hosts, config_file } = web;
    Out::Map(vec![
        ("telemetry_path", string(telemetry_path)),
        ("cache_period", millis(*cache_period)),
        ("max_requests", number(max_requests)),
        ("allowed_hosts", strings(allowed_hosts)),
        ("config_file", path(config_file.as_deref())),
    ])
}

#[cfg(test)]
mod tests {
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
            // What is hidden is the only difference.
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

    #[test]
    fn what_an_endpoint_asks_with_is_hidden() {
        let text = "meter_provider: {readers: [{periodic: {exporter: {otlp_http: {endpoint: 'http://x/v1?key=1234'}}}}]}";
        let printed = write(&from_yaml("a.yaml", text, &|_| None).unwrap().config);
        assert!(printed.contains("http://x/v1?(hidden)") && !printed.contains("1234"), "{printed}");
    }
}
