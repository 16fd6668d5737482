//! The keys of the file.
//!
//! `file_format`, `disabled`, `log_level`, `resource` and `meter_provider` are those of the OpenTelemetry
//! declarative configuration, schema 1.1. `docker`, `containers`, `events` and `web` are this program's own.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use url::Url;

use super::constant_labels;
use super::decode::{Decoder, Field, Section};
use super::environment::{daemon, with_service_name};
use super::error::{Invalid, Problem, listed};
use super::fields::{array, count, double, filter, strings};
use super::model::{
    Aggregation, AttributeValue, Compression, Config, Containers, Detection, Detector, Docker, Encoding,
    Events, ExecCommand, Exporter, Filter, Otlp, Periodic, Pull, Readers, Resource, Temporality, Tls,
    TranslationStrategy, View, Web,
};
use super::substitution::Environment;
use super::values::{
    COMPRESSIONS, GRPC_ENDPOINT, HTTP_ENDPOINT, MAX_MILLIS, TEMPORALITIES, allowed_host, attributes,
    check_header_count, choice, docker_host, endpoint, header_name, header_value, headers, host,
    listen_address, log_level, merged, telemetry_path,
};
use super::views::{cardinality_limits, exemplar_filter, histogram_aggregation, producers, views};
use super::yaml::{Kind, Node, Scalar};

/// Sections of the standard that are about other signals.
const UNUSED: [&str; 6] = [
    "attribute_limits",
    "distribution",
    "instrumentation/development",
    "logger_provider",
    "propagator",
    "tracer_provider",
];

const NO_EFFECT_YET: &str = "has no effect yet";

/// The types of events that Docker and Podman send.
const EVENT_TYPES: [&str; 17] = [
    "*",
    "artifact",
    "builder",
    "checkpoint",
    "config",
    "container",
    "daemon",
    "image",
    "machine",
    "network",
    "node",
    "plugin",
    "pod",
    "secret",
    "service",
    "system",
    "volume",
];

pub(super) fn decode(decoder: &Decoder, root: &Node, env: &Environment<'_>) -> Config {
    let decoded = decoder.root(root).section(|top| {
        let defaults = Config::default();
        file_format(&top.field("file_format"));
        let disabled = top.field("disabled");
        let log_level = top.field("log_level").parse(log_level).unwrap_or(defaults.log_level);
        let resource =
            top.field("resource").section(|section| resource(section, env)).unwrap_or(defaults.resource);
        let (readers, views) = top
            .field("meter_provider")
            .section(|section| meter_provider(section, &resource, env))
            .unwrap_or((defaults.readers, defaults.views));
        let config = Config {
            log_level,
            resource,
            readers,
            views,
            docker: docker(decoder, &top.field("docker"), env),
            containers: top.field("containers").section(containers).unwrap_or(defaults.containers),
            events: top.field("events").section(events).unwrap_or_default(),
            web: top.field("web").section(web).unwrap_or_default(),
        };
        let unused = top.unused(&UNUSED);
        if !unused.is_empty() {
            decoder.file_warning(&format!("{}: ignored, this program has no use for them", listed(&unused)));
        }
        if disabled.boolean() == Some(true) {
            disabled.warning("nothing is exported");
            return Config { readers: Readers { pull: None, periodic: Vec::new() }, ..config };
        }
        config
    });
    decoded.unwrap_or_default()
}

/// Checks the schema's version. A newer minor one is accepted, as its versioning policy says; its new keys are
/// reported as unknown.
fn file_format(field: &Field<'_>) {
    const HINT: &str = "this program follows schema 1.1: file_format: \"1.1\"";
    let Some(scalar) = field.scalar() else {
        field.string();
        return;
    };
    let number = scalar.text.split_once('-').map_or(scalar.text.as_str(), |(number, _)| number);
    let version = number.split_once('.').and_then(|(major, minor)| {
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u32>().ok());
        Some((digits(major)??, digits(minor)??))
    });
    match version {
        Some((1, _)) if scalar.kind != Kind::String => field.problem(
            Invalid::value("not a string", &scalar.text)
                .suggest("put it in quotes: file_format: ", format!("\"{}\"", scalar.text)),
        ),
        Some((1, 0 | 1)) => {}
        Some((1, _)) => field.warning("newer than schema 1.1, which this program follows"),
        Some(_) => field
            .problem(Invalid::value("a version of the schema that is not known", &scalar.text).hint(HINT)),
        None => field.problem(Invalid::value("not a version", &scalar.text).hint(HINT)),
    }
}

fn resource(section: &Section<'_>, env: &Environment<'_>) -> Resource {
    // `attributes` takes precedence over `attributes_list`.
    let mut pairs: Vec<(String, AttributeValue)> = section
        .field("attributes_list")
        .parse(attributes)
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| (key, AttributeValue::String(value)))
        .collect();
    let mut names = HashSet::new();
    for item in section.field("attributes").items().unwrap_or_default() {
        let Some((name, value)) = item.section(|entry| attribute(entry, &mut names)).flatten() else {
            continue;
        };
        pairs.push((name, value));
    }
    let detection = section.field("detection/development").section(detection).unwrap_or_default();
    // In the standard, this is the only variable that a file asks for by a detector.
    if detection.detectors.contains(&Detector::Service)
        && detection.attributes.matches("service.name")
        && let Some(name) = env("OTEL_SERVICE_NAME").filter(|name| !name.is_empty())
    {
        pairs.insert(0, ("service.name".into(), AttributeValue::String(name)));
    }
    let url = |text: &str| match Url::parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => {
            Err(Invalid::value("not a URL", text).hint("for example https://opentelemetry.io/schemas/1.38.0"))
        }
    };
    Resource {
        attributes: with_service_name(merged(pairs)),
        schema_url: section.field("schema_url").parse(url),
        detection,
    }
}

fn detection(section: &Section<'_>) -> Detection {
    const DETECTORS: [(&str, Detector); 4] = [
        ("container", Detector::Container),
        ("host", Detector::Host),
        ("process", Detector::Process),
        ("service", Detector::Service),
    ];
    let attributes = section.field("attributes");
    let named = attributes.has("included");
    let mut detectors = Vec::new();
    for item in section.field("detectors").items().unwrap_or_default() {
        let Some((name, field)) = item.one_of("detector", "host:") else { continue };
        match DETECTORS.iter().find(|(known, _)| *known == name) {
            Some((_, detector)) => {
                field.nothing();
                if !detectors.contains(detector) {
                    detectors.push(*detector);
                }
            }
            None => field
                .warning("has no effect, this program has the detectors container, host, process, service"),
        }
    }
    Detection { attributes: filter(&attributes, Filter::all()), named, detectors }
}

/// The types that an attribute can have.
#[derive(Clone, Copy)]
enum Type {
    String,
    Bool,
    Int,
    Double,
    Strings,
    Bools,
    Ints,
    Doubles,
}

const TYPES: [(&str, Type); 8] = [
    ("string", Type::String),
    ("bool", Type::Bool),
    ("int", Type::Int),
    ("double", Type::Double),
    ("string_array", Type::Strings),
    ("bool_array", Type::Bools),
    ("int_array", Type::Ints),
    ("double_array", Type::Doubles),
];

/// Decodes an attribute; `None` if its value is null, as the standard says.
fn attribute(entry: &Section<'_>, names: &mut HashSet<String>) -> Option<(String, AttributeValue)> {
    let (name, value, kind) = (entry.field("name"), entry.field("value"), entry.field("type"));
    let kind = if kind.is_given() { kind.choice("a type of attribute", &TYPES)? } else { Type::String };
    if !value.is_present() {
        entry.whole().problem(Invalid::new("an attribute without a value").hint("add value:"));
    }
    let name = required(entry, &name, "an attribute")?;
    if !names.insert(name.clone()) {
        entry
            .whole()
            .problem(Invalid::value("an attribute that is there already", &name).hint("keep one of them"));
    }
    if !value.is_given() {
        return None;
    }
    let value = match kind {
        Type::String => {
            // The standard does not infer a type from the value.
            let (found, hint) = match value.scalar() {
                Some(Scalar { text, kind: Kind::String, .. }) => {
                    return Some((name, AttributeValue::String(text.clone())));
                }
                Some(scalar) => (scalar.text.as_str(), "put it in quotes, or add type: int, bool or double"),
                None => ("several values", "add type: string_array, int_array, bool_array or double_array"),
            };
            value.problem(Invalid::value("not a string", found).hint(hint));
            return None;
        }
        Type::Bool => AttributeValue::Bool(value.boolean()?),
        Type::Int => AttributeValue::Int(value.integer(i64::MIN..=i64::MAX)?),
        Type::Double => AttributeValue::Double(double(&value)?),
        Type::Strings => AttributeValue::Strings(array(&value, |item| item.string().map(Into::into))?),
        Type::Bools => AttributeValue::Bools(array(&value, |item| item.boolean())?),
        Type::Ints => AttributeValue::Ints(array(&value, |item| item.integer(i64::MIN..=i64::MAX))?),
        Type::Doubles => AttributeValue::Doubles(array(&value, double)?),
    };
    Some((name, value))
}

/// The string of a required key.
fn required(section: &Section<'_>, field: &Field<'_>, what: &str) -> Option<String> {
    let name = field.string();
    if !field.is_given() {
        section.whole().problem(Invalid::new(format!("{what} without a name")).hint("add name:"));
        return None;
    }
    let name = name?;
    if name.is_empty() {
        field.problem(
            Invalid::value(&format!("not a name of {what}"), name).hint("a name has a character at least"),
        );
        return None;
    }
    Some(name.to_owned())
}

fn meter_provider(section: &Section<'_>, resource: &Resource, env: &Environment<'_>) -> (Readers, Vec<View>) {
    let readers = readers(&section.field("readers"), resource, env);
    let views = views(section, readers.pull.as_ref());
    let is_exponential =
        |view: &View| matches!(view.stream.aggregation, Aggregation::Base2ExponentialBucketHistogram { .. });
    // The text format has no exponential histograms.
    if readers.pull.is_some() && views.iter().any(is_exponential) {
        section.field("views").warning("an exponential histogram is not shown by the Prometheus reader");
    }
    exemplar_filter(&section.field("exemplar_filter"));
    (readers, views)
}

fn readers(field: &Field<'_>, resource: &Resource, env: &Environment<'_>) -> Readers {
    let Some(items) = field.items() else { return Config::default().readers };
    if items.is_empty() {
        field.problem(
            Invalid::new("a list without a reader")
                .hint("leave the key out for a Prometheus reader; disabled: true stops all readers"),
        );
    }
    let mut readers = Readers { pull: None, periodic: Vec::new() };
    for item in &items {
        let reader = item.section(|entry| {
            let (pull, periodic) = (entry.field("pull"), entry.field("periodic").secret_unless_section());
            match (pull.is_present(), periodic.is_present()) {
                (true, true) => {
                    entry.whole().problem(Invalid::new("two readers in one item").hint("put - before each"));
                }
                (false, false) if entry.is_empty() => {
                    entry
                        .whole()
                        .problem(Invalid::new("an item without a reader").hint("add pull: or periodic:"));
                }
                _ => {}
            }
            if pull.is_present() && readers.pull.is_some() {
                pull.problem(
                    Invalid::new("a second pull reader")
                        .hint("there is one HTTP server; push to other readers with periodic"),
                );
            }
            // Decoded in any case, so that its errors are reported.
            (
                pull.section(|pull| pull_reader(pull, resource)).flatten(),
                periodic.section(|periodic| periodic_reader(periodic, env)).flatten(),
            )
        });
        let (pull, periodic) = reader.unwrap_or_default();
        readers.pull = readers.pull.or(pull);
        readers.periodic.extend(periodic);
    }
    readers
}

/// Reports an `exporter` that is not exactly one.
fn one_exporter(reader: &Section<'_>, exporter: &Field<'_>, example: &str) {
    let keys = exporter.key_count();
    if !exporter.is_present() {
        reader
            .whole()
            .problem(Invalid::new("a reader without an exporter").hint(format!("add exporter: {example}")));
    } else if keys == Some(0) {
        exporter.problem(Invalid::new("no exporter is named").hint(format!("for example {example}")));
    } else if keys.is_some_and(|keys| keys > 1) {
        exporter.problem(
            Invalid::new("more than one exporter")
                .hint("one for each reader: put the others into readers of their own"),
        );
    }
}

fn pull_reader(reader: &Section<'_>, resource: &Resource) -> Option<Pull> {
    let exporter = reader.field("exporter");
    one_exporter(reader, &exporter, "{prometheus/development: }");
    producers(&reader.field("producers"));
    let limits = reader.field("cardinality_limits").section(cardinality_limits).unwrap_or_default();
    let pull = exporter
        .section(|exporter| {
            exporter.field("prometheus/development").section(|section| prometheus(section, resource))
        })
        .flatten()?;
    Some(Pull { cardinality_limits: limits, ..pull })
}

fn prometheus(section: &Section<'_>, resource: &Resource) -> Pull {
    let defaults = Pull::default();
    const STRATEGIES: [(&str, TranslationStrategy); 4] = [
        ("underscore_escaping_with_suffixes", TranslationStrategy::UnderscoreEscapingWithSuffixes),
        (
            "underscore_escaping_without_suffixes/development",
            TranslationStrategy::UnderscoreEscapingWithoutSuffixes,
        ),
        ("no_utf8_escaping_with_suffixes/development", TranslationStrategy::NoUtf8EscapingWithSuffixes),
        ("no_translation/development", TranslationStrategy::NoTranslation),
    ];
    section.renamed(&[
        ("without_scope_info", "since schema 1.1 it is scope_info_enabled, with the opposite value"),
        (
            "without_target_info",
            "since schema 1.1 it is target_info_enabled/development, with the opposite value",
        ),
        (
            "without_target_info/development",
            "since schema 1.1 it is target_info_enabled/development, with the opposite value",
        ),
        ("with_resource_constant_labels", "since schema 1.1 it is resource_constant_labels"),
        ("without_units", "since schema 1.0 translation_strategy says this"),
        ("without_type_suffix", "since schema 1.0 translation_strategy says this"),
    ]);
    let constant_labels = section.field("resource_constant_labels");
    let pull = Pull {
        host: section.field("host").parse(host).unwrap_or(defaults.host),
        port: section
            .field("port")
            .integer(0..=i64::from(u16::MAX))
            .and_then(|port| u16::try_from(port).ok())
            .unwrap_or(defaults.port),
        scope_info_enabled: section
            .field("scope_info_enabled")
            .boolean()
            .unwrap_or(defaults.scope_info_enabled),
        target_info_enabled: section
            .field("target_info_enabled/development")
            .boolean()
            .unwrap_or(defaults.target_info_enabled),
        resource_constant_labels: filter(&constant_labels, defaults.resource_constant_labels),
        translation_strategy: section
            .field("translation_strategy")
            .choice("a translation strategy", &STRATEGIES)
            .unwrap_or(defaults.translation_strategy),
        cardinality_limits: defaults.cardinality_limits,
    };
    constant_labels::check(&constant_labels, &pull, resource);
    pull
}

fn periodic_reader(reader: &Section<'_>, env: &Environment<'_>) -> Option<Periodic> {
    let interval = reader.field("interval").millis();
    let timeout = reader.field("timeout").timeout();
    let batch = reader.field("max_export_batch_size/development").integer(1..=MAX_MILLIS);
    let exporter = reader.field("exporter").secret_unless_section();
    one_exporter(reader, &exporter, "{otlp_grpc: }");
    producers(&reader.field("producers"));
    let limits = reader.field("cardinality_limits").section(cardinality_limits).unwrap_or_default();
    let mut histograms = Aggregation::Default;
    let exporter = exporter
        .section(|exporter| {
            let mut histogram = |section: &Section<'_>| {
                histograms = histogram_aggregation(&section.field("default_histogram_aggregation"));
            };
            let grpc = exporter.field("otlp_grpc").secret_unless_section();
            let grpc = grpc.section(|section| (histogram(section), otlp_grpc(section, env)).1).flatten();
            let http = exporter.field("otlp_http").secret_unless_section();
            let http = http.section(|section| (histogram(section), otlp_http(section)).1).flatten();
            let console =
                exporter.field("console").section(|section| (histogram(section), console(section)).1);
            exporter.refuse(
                "otlp_file/development",
                "an exporter that this program does not have",
                "one of otlp_grpc, otlp_http, console",
            );
            grpc.or(http).or(console)
        })
        .flatten()?;
    let defaults = Periodic::new(exporter);
    Some(Periodic {
        interval: interval.unwrap_or(defaults.interval),
        timeout: timeout.unwrap_or(defaults.timeout),
        max_export_batch_size: batch
            .and_then(|size| usize::try_from(size).ok())
            .unwrap_or(defaults.max_export_batch_size),
        cardinality_limits: limits,
        default_histogram_aggregation: histograms,
        exporter: defaults.exporter,
    })
}

fn otlp_grpc(section: &Section<'_>, env: &Environment<'_>) -> Option<Exporter> {
    section.renamed(&[("insecure", "since schema 1.0 it is tls.insecure, for endpoints without a scheme")]);
    let mut insecure = None;
    let tls = section.field("tls").section(|tls| {
        insecure = tls.field("insecure").boolean();
        certificates(tls)
    });
    let otlp = otlp(section, GRPC_ENDPOINT, tls, insecure)?;
    if otlp.compression == Compression::None
        && let Some(variable) = gzip_variable(env)
    {
        section.field("compression").problem(
            Invalid::new(format!(
                "none, which cannot be had over gRPC while the environment has {variable}=gzip: the OTLP exporter \
                 goes by that"
            ))
            .hint(format!("unset {variable}, or set OTEL_EXPORTER_OTLP_METRICS_COMPRESSION=none")),
        );
    }
    Some(Exporter::OtlpGrpc(otlp))
}

/// The variable that makes `opentelemetry-otlp` use gzip when the file does not ask for it.
fn gzip_variable(env: &Environment<'_>) -> Option<&'static str> {
    let variables = ["OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"];
    let set = variables.into_iter().find_map(|variable| {
        let value = env(variable)?.to_ascii_lowercase();
        // `opentelemetry-otlp` ignores values that it does not know.
        ["none", "gzip"].contains(&&*value).then_some((variable, value))
    });
    set.filter(|(_, value)| value == "gzip").map(|(variable, _)| variable)
}

fn otlp_http(section: &Section<'_>) -> Option<Exporter> {
    section.renamed(&[("insecure", "leave it out; for otlp_http the endpoint's scheme decides")]);
    let tls = section.field("tls").section(|tls| {
        tls.refuse(
            "insecure",
            "a key of otlp_grpc",
            "leave it out; for otlp_http the endpoint's scheme decides",
        );
        certificates(tls)
    });
    let encoding = section.field("encoding");
    if encoding.choice("an encoding", &[("protobuf", true), ("json", false)]) == Some(false) {
        encoding.problem(
            Invalid::new("an encoding that this program does not have: json")
                .hint("write protobuf, or leave the key out"),
        );
    }
    let otlp = otlp(section, HTTP_ENDPOINT, tls, None)?;
    if otlp.endpoint.path() == "/" {
        section
            .field("endpoint")
            .warning("has no path, and is used as it is; Collectors take metrics at /v1/metrics");
    }
    Some(Exporter::OtlpHttp(otlp))
}

fn otlp(section: &Section<'_>, default: &str, tls: Option<Tls>, insecure: Option<bool>) -> Option<Otlp> {
    section.renamed(&[
        ("certificate_file", "since schema 1.0 it is tls.ca_file"),
        ("client_key_file", "since schema 1.0 it is tls.key_file"),
        ("client_certificate_file", "since schema 1.0 it is tls.cert_file"),
    ]);
    let mut pairs = section.field("headers_list").secret().parse(headers).unwrap_or_default();
    let field = section.field("headers").secret_with_keys();
    for item in field.items().unwrap_or_default() {
        pairs.extend(item.section(header).flatten());
    }
    if let Err(invalid) = check_header_count(pairs.len()) {
        field.problem(invalid);
    }
    section.no_effect("max_request_size", NO_EFFECT_YET);
    section.no_effect("max_response_size", NO_EFFECT_YET);
    let field = section.field("endpoint");
    let url = if field.is_given() {
        field.parse(|text| endpoint(text, insecure, default))
    } else {
        endpoint(default, None, default).ok()
    };
    let compression = section.field("compression").choice("a known compression", &COMPRESSIONS);
    let timeout = section.field("timeout").timeout();
    let temporality = temporality(section);
    let defaults = Otlp::new(url?);
    Some(Otlp {
        endpoint: defaults.endpoint,
        tls: tls.unwrap_or(defaults.tls),
        headers: merged(pairs),
        compression: compression.unwrap_or(defaults.compression),
        timeout: timeout.unwrap_or(defaults.timeout),
        temporality,
    })
}

fn console(section: &Section<'_>) -> Exporter {
    Exporter::Console { temporality: temporality(section) }
}

fn temporality(section: &Section<'_>) -> Temporality {
    section
        .field("temporality_preference")
        .choice("a temporality", &TEMPORALITIES)
        .unwrap_or(Temporality::Cumulative)
}

/// Decodes a header; `None` if its value is null, as the standard says.
fn header(entry: &Section<'_>) -> Option<(String, String)> {
    let (name, value) = (entry.field("name"), entry.field("value"));
    if !value.is_present() {
        entry.whole().problem(Invalid::new("a header without a value").hint("add value:"));
    }
    let text = required(entry, &name, "a header")?;
    let text = header_name(&text).map_err(|invalid| name.problem(invalid)).ok()?;
    let value = value.parse(|value| header_value(&text, value))?;
    Some((text, value))
}

/// The three files of a `tls` section.
fn certificates(section: &Section<'_>) -> Tls {
    let path = |field: &Field<'_>| {
        field.parse(|text| {
            let path = PathBuf::from(text);
            if path.is_absolute() {
                return Ok(path);
            }
            Err(Invalid::value("not an absolute path", text).hint(
                "the standard asks for absolute paths, which mean the same wherever the program is started",
            ))
        })
    };
    let (cert, key) = (section.field("cert_file"), section.field("key_file"));
    let alone = match (cert.is_given(), key.is_given()) {
        (true, false) => Some((&cert, "key_file")),
        (false, true) => Some((&key, "cert_file")),
        _ => None,
    };
    if let Some((field, other)) = alone {
        field.problem(
            Invalid::new("a client's certificate and its key go together")
                .hint(format!("add {other}, or leave both out")),
        );
    }
    Tls { ca_file: path(&section.field("ca_file")), cert_file: path(&cert), key_file: path(&key) }
}

fn docker(decoder: &Decoder, field: &Field<'_>, env: &Environment<'_>) -> Docker {
    let mut docker = Docker::default();
    let given = field.section(|section| {
        let host = section.field("host");
        let tls = section.field("tls");
        let files = tls.section(certificates).filter(|files| *files != Tls::default());
        if let Some(timeout) = section.field("timeout").millis() {
            docker.timeout = timeout;
        }
        docker.inspect_concurrency =
            count(&section.field("inspect_concurrency"), 1000).unwrap_or(docker.inspect_concurrency);
        if let Some(interval) = section.field("resync_interval").millis() {
            docker.resync_interval = interval;
        }
        if let Some(time) = section.field("stale_after").millis() {
            docker.stale_after = time;
        }
        (host.is_given(), host.parse(docker_host), tls, files)
    });
    let tell = |(problems, warnings): (Vec<Problem>, Vec<String>)| {
        problems.into_iter().for_each(|problem| decoder.problem(problem));
        warnings.into_iter().for_each(|warning| decoder.warning(warning));
    };
    let Some((host_is_given, host, tls, files)) = given else {
        tell(daemon(&mut docker, None, None, env));
        return docker;
    };
    // If the host is invalid, the settings that depend on it cannot be checked.
    if host_is_given && host.is_none() {
        return docker;
    }
    let has_files = files.is_some();
    tell(daemon(&mut docker, host, files, env));
    if has_files && docker.host.starts_with("http://") {
        tls.problem(
            Invalid::value("certificates, but the host is spoken to without TLS", &docker.host)
                .hint("use https:// or tcp:// in the host"),
        );
    } else if has_files && docker.tls.is_none() {
        tls.warning("has no effect with a socket or ssh");
    }
    docker
}

fn containers(section: &Section<'_>) -> Containers {
    let defaults = Config::default().containers;
    Containers {
        names: filter(&section.field("names"), defaults.names),
        labels: filter(&section.field("labels"), defaults.labels),
        encoding: section
            .field("encoding")
            .choice("an encoding", &[("code", Encoding::Code), ("state_set", Encoding::StateSet)])
            .unwrap_or(defaults.encoding),
        expectation_label: section
            .field("expectation_label")
            .string()
            .map_or(defaults.expectation_label, str::to_owned),
    }
}

fn events(section: &Section<'_>) -> Events {
    let defaults = Events::default();
    let kind = |text: &str| {
        let choices = EVENT_TYPES.map(|name| (name, ()));
        choice(text, "a type of event", &choices).map(|()| text.to_owned())
    };
    let action =
        |text: &str| match text {
            "" => Err(Invalid::value("not an action", text)
                .hint("for example start, or \"health_status: healthy\"")),
            _ => Ok(text.to_owned()),
        };
    const COMMANDS: [(&str, ExecCommand); 3] =
        [("none", ExecCommand::None), ("program", ExecCommand::Program), ("full", ExecCommand::Full)];
    Events {
        types: strings(&section.field("types"), kind).unwrap_or(defaults.types),
        excluded: strings(&section.field("excluded"), action).unwrap_or(defaults.excluded),
        exec_command: section
            .field("exec_command")
            .choice("a known value", &COMMANDS)
            .unwrap_or(defaults.exec_command),
        start_at_zero: strings(&section.field("start_at_zero"), action).unwrap_or(defaults.start_at_zero),
        labels: filter(&section.field("labels"), defaults.labels),
        retention: section.field("retention").millis().unwrap_or(defaults.retention),
        limit: count(&section.field("limit"), 10_000_000).unwrap_or(defaults.limit),
        log: section.field("log").boolean().unwrap_or(defaults.log),
    }
}

fn web(section: &Section<'_>) -> Web {
    let defaults = Web::default();
    let path = |text: &str| match text {
        "" => Err(Invalid::value("not a path", text).hint("leave the key out")),
        _ => Ok(Path::new(text).to_owned()),
    };
    Web {
        telemetry_path: section
            .field("telemetry_path")
            .parse(telemetry_path)
            .unwrap_or(defaults.telemetry_path),
        cache_period: section.field("cache_period").millis_or_zero().unwrap_or(defaults.cache_period),
        max_requests: count(&section.field("max_requests"), 100_000).unwrap_or(defaults.max_requests),
        allowed_hosts: strings(&section.field("allowed_hosts"), allowed_host)
            .unwrap_or(defaults.allowed_hosts),
        listen_addresses: section
            .field("listen_addresses")
            .items()
            .unwrap_or_default()
            .iter()
            .filter_map(|item| item.parse(listen_address))
            .collect(),
        systemd_socket: section.field("systemd_socket").boolean().unwrap_or(defaults.systemd_socket),
        config_file: section.field("config_file").parse(path),
    }
}
