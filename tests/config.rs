//! The configuration: what is accepted, what it becomes, and what is said of the rest.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy allows them in tests, but not in what tests share"
)]

#[path = "config/properties.rs"]
mod properties;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use docker_state_exporter::cli::{self, Command, Exit, LogFormat, Settings};
use docker_state_exporter::config::{
    self, Aggregation, AttributeValue, CardinalityLimits, Compression, Config, Detection, Detector, Encoding,
    Error, Exporter, Filter, Loaded, LogLevel, Otlp, Periodic, Pull, Selector, Temporality, Tls,
    TranslationStrategy, View, ViewStream,
};

type Variables<'v> = &'v [(&'v str, &'v str)];

fn lookup(variables: Variables<'_>) -> impl Fn(&str) -> Option<String> {
    let variables: HashMap<String, String> =
        variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    move |name| variables.get(name).cloned()
}

fn yaml_with(text: &str, variables: Variables<'_>) -> Result<Loaded, Error> {
    config::from_yaml("config.yaml", text, &lookup(variables))
}

fn yaml(text: &str) -> Loaded {
    yaml_with(text, &[]).unwrap_or_else(|error| panic!("{error}"))
}

fn environment(variables: Variables<'_>) -> Result<Loaded, String> {
    config::from_environment(&lookup(variables)).map_err(|error| error.to_string())
}

fn run(arguments: &[&str], variables: Variables<'_>) -> Result<Settings, Exit> {
    let arguments = std::iter::once("docker-state-exporter").chain(arguments.iter().copied());
    match cli::parse(arguments, &lookup(variables))? {
        Command::Run(settings) => Ok(*settings),
        other => panic!("not a run: {other:?}"),
    }
}

fn http(url: &str) -> Otlp {
    Otlp::new(url.parse().unwrap())
}

/// Expects that the file is refused with exactly these lines.
#[track_caller]
fn refused(text: &str, expected: &str) {
    match yaml_with(text, &[]) {
        Ok(loaded) => panic!("accepted:\n{text}\n{loaded:#?}"),
        Err(error) => assert_eq!(error.to_string(), expected, "of\n{text}"),
    }
}

// ---------------------------------------------------------------------------------------------------------
// Files
// ---------------------------------------------------------------------------------------------------------

#[test]
fn a_file_that_says_nothing_is_the_default() {
    for text in [
        "",
        "# a comment\n",
        "---\n",
        "file_format: \"1.1\"\n",
        "meter_provider:\ndocker:\ncontainers:\nevents:\nweb:\nresource:\n",
        "docker: {}\ncontainers: {names: {}, labels: }\nevents: {labels: {}}\nweb: {telemetry_path: }\n",
        "meter_provider: {readers: [{pull: {exporter: {prometheus/development: }}}]}",
        "\u{feff}file_format: '1.0'\n",
    ] {
        assert_eq!(yaml(text), Loaded { config: Config::default(), warnings: Vec::new() }, "of {text:?}");
    }
}

#[test]
fn every_key_has_its_effect() {
    let loaded = yaml_with(include_str!("config/everything.yaml"), &[("TOKEN", "secret")])
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let string = |text: &str| AttributeValue::String(text.into());
    let tls = |name: &str| Tls {
        ca_file: Some(format!("/{name}/ca.pem").into()),
        cert_file: Some(format!("/{name}/cert.pem").into()),
        key_file: Some(format!("/{name}/key.pem").into()),
    };
    let header = |name: &str, value: &str| (name.to_string(), value.to_string());
    let selector = |name: &str| Selector {
        instrument_name: Some(wildmatch::WildMatch::new(name)),
        ..Selector::default()
    };
    let expected = Config {
        log_level: LogLevel::Debug,
        resource: config::Resource {
            attributes: vec![
                ("service.name".into(), string("from-attributes")),
                ("team".into(), string("web, ops")),
                ("quoted".into(), string("1")),
                ("on".into(), AttributeValue::Bool(true)),
                ("answer".into(), AttributeValue::Int(42)),
                ("half".into(), AttributeValue::Double(0.5)),
                ("whole".into(), AttributeValue::Double(2.0)),
                ("strings".into(), AttributeValue::Strings(vec!["a".into(), "b".into()])),
                ("bools".into(), AttributeValue::Bools(vec![true, false])),
                ("ints".into(), AttributeValue::Ints(vec![1, -2])),
                ("doubles".into(), AttributeValue::Doubles(vec![1.0, 2.5])),
            ],
            schema_url: Some("https://opentelemetry.io/schemas/1.38.0".into()),
            detection: Detection {
                attributes: Filter::new(&["process.*", "host.*"], &["process.command_args"]),
                named: true,
                detectors: vec![Detector::Process, Detector::Host, Detector::Container],
            },
        },
        readers: config::Readers {
            pull: Some(Pull {
                host: "::1".into(),
                port: 9464,
                scope_info_enabled: true,
                target_info_enabled: true,
                resource_constant_labels: Filter::new(&["service.*"], &["service.instance.id"]),
                translation_strategy: TranslationStrategy::UnderscoreEscapingWithSuffixes,
                cardinality_limits: CardinalityLimits { default: Some(5), ..CardinalityLimits::default() },
            }),
            periodic: vec![
                Periodic {
                    interval: Duration::from_millis(1),
                    // 0 is no limit.
                    timeout: Duration::from_millis(2_147_483_647),
                    max_export_batch_size: 500,
                    cardinality_limits: CardinalityLimits {
                        default: Some(100),
                        histogram: Some(1),
                        observable_counter: Some(200),
                        observable_gauge: Some(300),
                    },
                    default_histogram_aggregation: Aggregation::Default,
                    exporter: Exporter::OtlpGrpc(Otlp {
                        tls: tls("grpc"),
                        headers: vec![
                            header("a", "9"),
                            header("c", "x y"),
                            header("authorization", "Bearer secret"),
                        ],
                        compression: Compression::None,
                        timeout: Duration::from_secs(3),
                        temporality: Temporality::Delta,
                        ..http("https://collector.example:4317")
                    }),
                },
                Periodic::new(Exporter::OtlpHttp(Otlp {
                    tls: tls("http"),
                    headers: vec![header("x", "1")],
                    temporality: Temporality::LowMemory,
                    ..http("https://collector.example/otlp/v1/metrics")
                })),
                Periodic::new(Exporter::Console { temporality: Temporality::Delta }),
                Periodic {
                    default_histogram_aggregation: Aggregation::EXPONENTIAL,
                    ..Periodic::new(Exporter::Console { temporality: Temporality::Cumulative })
                },
            ],
        },
        views: vec![
            View {
                selector: Selector {
                    instrument_name: Some(wildmatch::WildMatch::new("docker.events")),
                    instrument_type: Some(config::InstrumentType::ObservableCounter),
                    unit: Some("{event}".into()),
                    meter_name: Some("docker-state-exporter".into()),
                    ..Selector::default()
                },
                stream: ViewStream {
                    name: Some("events/all".into()),
                    description: Some("Every event.".into()),
                    aggregation: Aggregation::Sum,
                    aggregation_cardinality_limit: Some(7),
                    attribute_keys: Some(Filter::new(&["event", "type"], &["type"])),
                },
            },
            View {
                selector: selector("*event_apply"),
                stream: ViewStream {
                    aggregation: Aggregation::ExplicitBucketHistogram {
                        boundaries: vec![0.0, 0.5, 10.0],
                        record_min_max: false,
                    },
                    ..ViewStream::default()
                },
            },
            View {
                selector: selector("container.state.oomkilled"),
                stream: ViewStream { aggregation: Aggregation::Drop, ..ViewStream::default() },
            },
        ],
        docker: config::Docker {
            host: "tcp://10.0.0.1:2376".into(),
            tls: Some(tls("docker")),
            timeout: Duration::from_secs(1),
            inspect_concurrency: 2,
            resync_interval: Duration::from_secs(3),
            stale_after: Duration::from_secs(4),
        },
        containers: config::Containers {
            names: Filter::new(&["web-*"], &["web-tmp?"]),
            labels: Filter::none(),
            encoding: Encoding::StateSet,
            expectation_label: "com.example.expect".into(),
        },
        events: config::Events {
            types: vec!["container".into(), "image".into()],
            excluded: Vec::new(),
            exec_command: config::ExecCommand::Full,
            start_at_zero: vec!["oom".into(), "health_status: unhealthy".into()],
            labels: Filter::new(&["*"], &["secret.*"]),
            retention: Duration::from_secs(5),
            limit: 3000,
            log: false,
        },
        web: config::Web {
            telemetry_path: "/custom/metrics".into(),
            cache_period: Duration::from_secs(2),
            max_requests: 7,
            allowed_hosts: vec![
                "exporter.example.com".into(),
                "xn--bcher-kva.example:8080".into(),
                "[2001:db8::1]".into(),
            ],
            listen_addresses: vec![(String::new(), 9100), ("::1".into(), 9101)],
            systemd_socket: true,
            config_file: Some("web.yaml".into()),
        },
    };
    assert_eq!(loaded.config, expected);
}

#[test]
fn the_reference_has_the_defaults() {
    let loaded = yaml(include_str!("../config/reference.yaml"));
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let mut expected = Config::default();
    expected.readers.periodic = vec![
        Periodic::new(Exporter::OtlpGrpc(http("http://localhost:4317"))),
        Periodic::new(Exporter::OtlpHttp(http("http://localhost:4318/v1/metrics"))),
        Periodic::new(Exporter::Console { temporality: Temporality::Cumulative }),
    ];
    assert_eq!(loaded.config, expected);

    // What is not spelled out is the same.
    let short = "meter_provider:\n  readers:\n    - pull: {exporter: {prometheus/development: }}\n    \
                 - periodic: {exporter: {otlp_grpc: }}\n    - periodic: {exporter: {otlp_http: }}\n    \
                 - periodic: {exporter: {console: }}\n";
    assert_eq!(yaml(short).config, expected);
}

#[test]
fn the_examples_load() {
    let prometheus = yaml(include_str!("../config/prometheus.yaml"));
    assert_eq!(prometheus.warnings, Vec::<String>::new());
    assert_eq!(prometheus.config.readers, Config::default().readers);
    assert!(prometheus.config.containers.labels.matches("com.docker.compose.service"));
    assert!(!prometheus.config.containers.labels.matches("com.docker.compose.config-hash"));

    let text = include_str!("../config/prometheus-and-otlp.yaml");
    let both = yaml(text);
    assert_eq!(both.warnings, Vec::<String>::new());
    assert_eq!(both.config.readers.pull, Some(Pull::default()));
    assert_eq!(both.config.resource, Config::default().resource);
    let otlp = Exporter::OtlpGrpc(http("http://localhost:4317"));
    let expected = Periodic { interval: Duration::from_secs(15), ..Periodic::new(otlp) };
    assert_eq!(both.config.readers.periodic, [expected]);

    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4317"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=1"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
        ("OTEL_RESOURCE_ATTRIBUTES", "team=web"),
    ];
    let both = yaml_with(text, &variables).unwrap().config;
    let otlp = Otlp { headers: vec![("api-key".into(), "1".into())], ..http("https://collector:4317") };
    let expected = Periodic { interval: Duration::from_secs(1), ..Periodic::new(Exporter::OtlpGrpc(otlp)) };
    assert_eq!(both.readers.periodic, [expected]);
    assert_eq!(both.resource.attributes[0], ("team".into(), AttributeValue::String("web".into())));
}

/// The standard's own starting point is about all signals. It loads, and says what is not used.
#[test]
fn the_standards_example_loads() {
    let loaded = yaml(include_str!("config/otel-sdk-config.yaml"));
    assert_eq!(
        loaded.warnings,
        [
            "config.yaml: attribute_limits, logger_provider, propagator, tracer_provider: ignored, this program has \
             no use for them",
        ]
    );
    assert_eq!(loaded.config.readers.pull, None);
    let expected = Periodic::new(Exporter::OtlpHttp(http("http://localhost:4318/v1/metrics")));
    assert_eq!(loaded.config.readers.periodic, [expected]);
}

#[test]
fn the_service_detector_asks_the_environment() {
    let name = |file: &str| {
        let config = yaml_with(file, &[("OTEL_SERVICE_NAME", "from-variable")]).unwrap().config;
        config.resource.attributes.iter().find(|(key, _)| key == "service.name").unwrap().1.clone()
    };
    let string = |text: &str| AttributeValue::String(text.into());
    assert_eq!(name("resource: {}"), string("docker-state-exporter"));
    assert_eq!(
        name("resource: {detection/development: {detectors: [{service: }]}}"),
        string("from-variable")
    );
    assert_eq!(
        name(
            "resource: {attributes_list: service.name=mine, detection/development: {detectors: [{service: }]}}"
        ),
        string("mine")
    );
    assert_eq!(
        name(
            "resource: {detection/development: {attributes: {excluded: [service.*]}, detectors: [{service: }]}}"
        ),
        string("docker-state-exporter")
    );
}

#[test]
fn readers_are_what_the_file_says() {
    // A file that names readers has those; one that does not has the default's.
    let push_only = yaml("meter_provider: {readers: [{periodic: {exporter: {console: }}}]}").config.readers;
    assert_eq!(push_only.pull, None);
    assert_eq!(push_only.periodic.len(), 1);
    assert_eq!(yaml("meter_provider: {}").config.readers, Config::default().readers);
}

#[test]
fn what_has_no_effect_is_told() {
    let nothing: &[&str] = &[];
    let cases: &[(&str, &[&str])] = &[
        ("file_format: '1.0'", nothing),
        ("file_format: '1.0-rc.1'", nothing),
        (
            "file_format: '1.7'",
            &["config.yaml:1:14: file_format: newer than schema 1.1, which this program follows"],
        ),
        ("disabled: true", &["config.yaml:1:11: disabled: nothing is exported"]),
        (
            "tracer_provider: {processors: [{whatever: 1}]}\npropagator: {composite: [{b3: }]}\n\
             instrumentation/development: {a: b}\ndistribution: {x: {}}\n",
            &[
                "config.yaml: distribution, instrumentation/development, propagator, tracer_provider: ignored, this \
               program has no use for them",
            ],
        ),
        (
            "meter_provider:\n  readers:\n  - pull:\n      exporter: \
             {prometheus/development: }\n      cardinality_limits: {gauge: 9}\n  - periodic:\n      producers: \
             [{opencensus: }]\n      exporter:\n        otlp_grpc:\n          max_request_size: 9\n",
            &[
                "config.yaml:5:35: meter_provider.readers[0].pull.cardinality_limits.gauge: has no effect, this \
                 program has no instrument of that type",
                "config.yaml:7:20: meter_provider.readers[1].periodic.producers[0].opencensus: has no effect, this \
                 program has no metric producers",
                "config.yaml:10:29: meter_provider.readers[1].periodic.exporter.otlp_grpc.max_request_size: \
                 has no effect yet",
            ],
        ),
        (
            "resource: {detection/development: {detectors: [{host: }, {gcp: }]}}",
            &[
                "config.yaml:1:59: resource.detection/development.detectors[1].gcp: has no effect, this program has \
               the detectors container, host, process, service",
            ],
        ),
        (
            "meter_provider: {readers: [{periodic: {exporter: {otlp_http: {endpoint: 'http://a:4318'}}}}]}",
            &[
                "config.yaml:1:73: meter_provider.readers[0].periodic.exporter.otlp_http.endpoint: has no path, and is \
               used as it is; Collectors take metrics at /v1/metrics",
            ],
        ),
        (
            "docker: {host: 'unix:///s', tls: {ca_file: /ca}}",
            &["config.yaml:1:34: docker.tls: has no effect with a socket or ssh"],
        ),
    ];
    for (text, expected) in cases {
        let mut warnings = yaml(text).warnings;
        let mut expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
        // Which of several comes first is of no account.
        warnings.sort();
        expected.sort();
        assert_eq!(warnings, expected, "of\n{text}");
    }
}

/// The document says of each of the standard's keys what happens; here it happens.
#[test]
fn the_standards_keys_do_what_the_document_says() {
    let document = include_str!("../docs/configuration.md");
    let (_, section) = document.split_once("### The standard, key by key\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let rows = section.lines().filter_map(|line| {
        let (key, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        Some((key.to_owned(), rest.split(' ').next()?.to_owned()))
    });
    let told: Vec<(String, String)> = rows.collect();
    let cases: Vec<&str> = include_str!("config/standard.txt").lines().skip(1).collect();
    let tried = cases.chunks(3).map(|case| (case[0].to_owned(), case[1].to_owned()));
    assert_eq!(told, tried.collect::<Vec<_>>());
    for case in cases.chunks(3) {
        let found = match yaml_with(case[2], &[]) {
            Ok(loaded) if loaded.warnings.is_empty() => "supported".to_owned(),
            Ok(loaded) => {
                assert_eq!(loaded.warnings.len(), 1, "{case:?}: {:?}", loaded.warnings);
                "warning".to_owned()
            }
            Err(_) => "error".to_owned(),
        };
        assert_eq!(found, case[1], "of {case:?}");
    }
}

#[test]
fn disabled_exports_nothing() {
    let disabled =
        yaml("disabled: true\nmeter_provider: {readers: [{periodic: {exporter: {console: }}}]}").config;
    assert_eq!(disabled.readers, config::Readers { pull: None, periodic: Vec::new() });
    assert!(yaml("disabled: ${OTEL_SDK_DISABLED:-false}").config.readers.pull.is_some());
}

#[test]
fn filters_are_the_standards() {
    let labels = |text: &str| yaml(&format!("events: {{labels: {text}}}")).config.events.labels;
    assert_eq!(labels(""), Filter::none());
    assert_eq!(labels("{}"), Filter::none());
    assert_eq!(labels("{included: []}"), Filter::none());
    assert_eq!(labels("{included: [a, b]}"), Filter::new(&["a", "b"], &[]));
    // Without `included` everything is included.
    assert_eq!(labels("{excluded: [a]}"), Filter::new(&["*"], &["a"]));
}

#[test]
fn anchors_and_tags() {
    let text = "containers:\n  names: &f {included: [a], excluded: [b]}\n  labels: *f\n";
    let containers = yaml(text).config.containers;
    assert_eq!(containers.names, Filter::new(&["a"], &["b"]));
    assert_eq!(containers.labels, containers.names);
    let web = "web: {max_requests: !!int '7', telemetry_path: !!str /m}";
    assert_eq!(yaml(web).config.web.max_requests, 7);
}

#[test]
fn an_endpoint_without_a_scheme_takes_it_from_insecure() {
    let endpoint = |insecure: &str| {
        let text = format!(
            "meter_provider: {{readers: [{{periodic: {{exporter: {{otlp_grpc: {{endpoint: 'collector:4317', tls: \
             {{insecure: {insecure}}}}}}}}}}}]}}"
        );
        match yaml(&text).config.readers.periodic.remove(0).exporter {
            Exporter::OtlpGrpc(otlp) => otlp.endpoint.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(endpoint("true"), "http://collector:4317/");
    assert_eq!(endpoint("false"), "https://collector:4317/");
}

#[test]
fn what_is_wrong_is_told_with_place_and_hint() {
    let cases = include_str!("config/refused.txt").split("===\n").skip(1).filter(|case| !case.is_empty());
    let mut count = 0;
    for case in cases {
        let (text, expected) = case.split_once(">>>\n").unwrap_or_else(|| panic!("no >>> in\n{case}"));
        let (expected, followed) = match expected.split_once("+++\n") {
            Some((expected, followed)) => (expected, Some(followed)),
            None => (expected, None),
        };
        refused(text, expected.trim_end_matches('\n'));
        assert_eq!(expected.contains("\nhint: "), followed.is_some(), "a hint is to be followed: {case}");
        if let Some(followed) = followed
            && let Err(error) = yaml_with(followed, &[])
        {
            panic!("the hint is refused too:\n{error}\nof\n{followed}");
        }
        count += 1;
    }
    assert!(count > 150, "{count} cases");
}

/// What a message shows is one line, and not the whole of a long value.
#[test]
fn values_are_shown_on_one_line() {
    let error = yaml_with("log_level: ${LONG}", &[("LONG", &format!("a\nb\u{1b}[31m{}", "x".repeat(500)))]);
    let text = error.unwrap_err().to_string();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.starts_with("config.yaml:1:12: log_level: not a log level: a\\nb\\u{1b}[31mxxx"), "{text}");
    assert!(text.lines().next().unwrap().ends_with("xxx…"), "{text}");
}

#[test]
fn secrets_are_not_shown() {
    let file = "meter_provider: {readers: [{periodic: {exporter: {otlp_grpc: {endpoint: \"${URL}\", headers_list: \
                \"${LIST}\", headers: [{name: a, value: \"${VALUE}\"}]}}}}]}";
    let variables = [("URL", "http://me:s3cret@h:1"), ("LIST", "k=v,s3cret"), ("VALUE", "s3cret\n")];
    let error = yaml_with(file, &variables).unwrap_err().to_string();
    assert_eq!(error.lines().filter(|line| line.starts_with("config.yaml:1:")).count(), 3, "{error}");
    assert!(!error.contains("s3cret"), "{error}");

    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://me:s3cret@collector"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret%0A"),
        ("DOCKER_HOST", "http://me:s3cret@h"),
    ];
    let error = environment(&variables).unwrap_err();
    assert_eq!(error.lines().count(), 6, "{error}");
    assert!(!error.contains("s3cret"), "{error}");

    // Malformed too.
    for value in [
        "http://me:s3cret@h:99999/",
        "me:s3cret@h",
        "tcp:me:s3cret@h",
        "http://h/?key=s3cret x",
        "http://me:s3cret",
    ] {
        for name in ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "DOCKER_HOST"] {
            let told = match environment(&[(name, value)]) {
                Ok(loaded) => loaded.warnings.join("\n") + &config::to_yaml(&loaded.config),
                Err(error) => error,
            };
            assert!(!told.contains("s3cret"), "{name}={value}: {told}");
        }
    }
    for headers in ["api-key: s3cret", "a b s3cret=x", "api-key=s3cret%", "s3cret", "a=s3cret%0A"] {
        let variables =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h"), ("OTEL_EXPORTER_OTLP_HEADERS", headers)];
        let error = environment(&variables).unwrap_err();
        assert!(!error.contains("s3cret"), "{headers}: {error}");
    }
    // Wherever a variable stands whose name says that it holds one.
    for text in ["log_level: ${API_TOKEN}", "web: {max_requests: \"${MY_SECRET}\"}", "docker: ${DB_PASSWORD}"]
    {
        let variables = [("API_TOKEN", "s3cret"), ("MY_SECRET", "s3cret"), ("DB_PASSWORD", "s3cret")];
        let error = yaml_with(text, &variables).unwrap_err().to_string();
        assert!(error.contains("a value that is not shown") && !error.contains("s3cret"), "{error}");
    }
}

// ---------------------------------------------------------------------------------------------------------
// Substitution
// ---------------------------------------------------------------------------------------------------------

/// The table of the specification's configuration data model, "Environment variable substitution".
#[test]
fn substitution_is_the_standards() {
    let variables = [
        ("STRING_VALUE", "value"),
        ("BOOL_VALUE", "true"),
        ("INT_VALUE", "1"),
        ("FLOAT_VALUE", "1.1"),
        ("HEX_VALUE", "0xdeadbeef"),
        ("INVALID_MAP_VALUE", "value\nkey:value"),
        ("DO_NOT_REPLACE_ME", "Never use this value"),
        ("REPLACE_ME", "${DO_NOT_REPLACE_ME}"),
        ("VALUE_WITH_ESCAPE", "value$$"),
        ("EMPTY", ""),
    ];
    let string = |text: &str| Some(AttributeValue::String(text.into()));
    let cases = [
        ("${STRING_VALUE}", "string", string("value")),
        ("${BOOL_VALUE}", "bool", Some(AttributeValue::Bool(true))),
        ("${INT_VALUE}", "int", Some(AttributeValue::Int(1))),
        ("${FLOAT_VALUE}", "double", Some(AttributeValue::Double(1.1))),
        ("${HEX_VALUE}", "int", Some(AttributeValue::Int(3_735_928_559))),
        ("\"${STRING_VALUE}\"", "string", string("value")),
        ("\"${BOOL_VALUE}\"", "string", string("true")),
        ("\"${INT_VALUE}\"", "string", string("1")),
        ("\"${FLOAT_VALUE}\"", "string", string("1.1")),
        ("\"${HEX_VALUE}\"", "string", string("0xdeadbeef")),
        ("'${HEX_VALUE}'", "string", string("0xdeadbeef")),
        ("${env:STRING_VALUE}", "string", string("value")),
        ("${INVALID_MAP_VALUE}", "string", string("value\nkey:value")),
        ("foo ${STRING_VALUE} ${FLOAT_VALUE}", "string", string("foo value 1.1")),
        ("${UNDEFINED_KEY}", "string", None),
        ("\"${UNDEFINED_KEY}\"", "string", string("")),
        ("${UNDEFINED_KEY:-fallback}", "string", string("fallback")),
        ("${EMPTY:-fallback}", "string", string("fallback")),
        ("${env:UNDEFINED_KEY:-7}", "int", Some(AttributeValue::Int(7))),
        ("${UNDEFINED_KEY:-}", "string", None),
        ("${STRING_VALUE:-fallback}", "string", string("value")),
        ("${REPLACE_ME}", "string", string("${DO_NOT_REPLACE_ME}")),
        ("${UNDEFINED_KEY:-${STRING_VALUE}}", "string", string("${STRING_VALUE}")),
        ("$${STRING_VALUE}", "string", string("${STRING_VALUE}")),
        ("$$${STRING_VALUE}", "string", string("$value")),
        ("$$$${STRING_VALUE}", "string", string("$${STRING_VALUE}")),
        ("$${STRING_VALUE:-fallback}", "string", string("${STRING_VALUE:-fallback}")),
        ("$${STRING_VALUE:-${STRING_VALUE}}", "string", string("${STRING_VALUE:-value}")),
        ("${UNDEFINED_KEY:-$${UNDEFINED_KEY}}", "string", string("${UNDEFINED_KEY:-${UNDEFINED_KEY}}")),
        ("${VALUE_WITH_ESCAPE}", "string", string("value$$")),
        ("a $$ b", "string", string("a $ b")),
        ("a $ b", "string", string("a $ b")),
        // Beside the table: what is not even an invalid reference stays.
        ("$", "string", string("$")),
        ("a ${b", "string", string("a ${b")),
        ("\"${a\\nb}\"", "string", string("${a\nb}")),
        ("|\n        x ${STRING_VALUE}\n", "string", string("x value\n")),
    ];
    for (input, kind, expected) in cases {
        let text =
            format!("resource:\n  attributes:\n    - name: key\n      value: {input}\n      type: {kind}\n");
        let loaded = yaml_with(&text, &variables).unwrap_or_else(|error| panic!("{input}: {error}"));
        let mut attributes = loaded.config.resource.attributes;
        let value = attributes.iter().position(|(key, _)| key == "key").map(|i| attributes.remove(i).1);
        assert_eq!(value, expected, "{input}");
    }
    for input in
        ["${STRING_VALUE:?error}", "${1API_KEY}", "${API_$KEY}", "${}", "${sys:X}", "${env:}", "${ A}"]
    {
        let text = format!("web:\n  config_file: a {input}\n");
        let error = yaml_with(&text, &variables).unwrap_err().to_string();
        let expected = format!("config.yaml:2:16: web.config_file: not a reference to a variable: {input}\n");
        assert!(error.starts_with(&expected), "{input}: {error}");
    }
    // Keys are not searched.
    let error = yaml_with("${STRING_VALUE}: value", &variables).unwrap_err().to_string();
    assert!(error.starts_with("config.yaml:1:1: ${STRING_VALUE}: unknown key"), "{error}");
}

/// The core schema of YAML 1.2, which decides what an unquoted value is.
#[test]
fn unquoted_values_have_the_types_of_the_core_schema() {
    let attribute = |value: &str, kind: &str| {
        let text = format!("resource:\n  attributes:\n    - {{name: key, value: {value}, type: {kind}}}\n");
        yaml_with(&text, &[]).map(|mut loaded| loaded.config.resource.attributes.pop().unwrap().1)
    };
    for (value, expected) in [("-7", -7), ("+7", 7), ("007", 7), ("0o17", 15), ("0xFf", 255)] {
        assert_eq!(attribute(value, "int").unwrap(), AttributeValue::Int(expected), "{value}");
    }
    for (value, expected) in
        [(".5", 0.5), ("1.", 1.0), ("-1e3", -1000.0), ("1.5E-1", 0.15), ("-.inf", f64::NEG_INFINITY)]
    {
        assert_eq!(attribute(value, "double").unwrap(), AttributeValue::Double(expected), "{value}");
    }
    for text in [
        "yes", "on", "No", "tRUE", "inf", "nan", "infinity", "1_000", "0b11", "-0x1", "1e", ".", "+", "12:30",
    ] {
        assert_eq!(attribute(text, "string").unwrap(), AttributeValue::String(text.into()), "{text}");
    }
    for value in ["true", "FALSE", "1", "1.5", "0x1", ".nan", "1e3"] {
        assert!(attribute(value, "string").is_err(), "{value}");
    }
}

// ---------------------------------------------------------------------------------------------------------
// The environment
// ---------------------------------------------------------------------------------------------------------

#[test]
fn without_variables_the_environment_is_the_default() {
    for variables in
        [&[][..], &[("OTEL_SERVICE_NAME", ""), ("OTEL_METRICS_EXPORTER", ""), ("DOCKER_HOST", "")]]
    {
        let expected = Loaded { config: Config::default(), warnings: Vec::new() };
        assert_eq!(environment(variables), Ok(expected));
    }
}

#[test]
fn variables_of_resource_and_log() {
    let config = environment(&[
        ("OTEL_SERVICE_NAME", "exporter"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=lost, team=web%2Cops ,%6Bey=a=b,"),
        ("OTEL_LOG_LEVEL", "WARN"),
    ])
    .unwrap()
    .config;
    let expected = [("service.name", "exporter"), ("team", "web,ops"), ("key", "a=b")]
        .map(|(key, value)| (key.to_string(), AttributeValue::String(value.into())));
    assert_eq!(config.resource.attributes, expected);
    assert_eq!(config.log_level, LogLevel::Warn);
}

#[test]
fn variables_of_readers() {
    let readers =
        |variables: Variables<'_>| environment(variables).unwrap_or_else(|e| panic!("{e}")).config.readers;
    let exporters = |variables: Variables<'_>| -> Vec<Exporter> {
        readers(variables).periodic.into_iter().map(|periodic| periodic.exporter).collect()
    };
    let http = |url: &str| Exporter::OtlpHttp(http(url));
    let grpc = |url: &str| Exporter::OtlpGrpc(self::http(url));
    let console = Exporter::Console { temporality: Temporality::Cumulative };

    // An endpoint makes a push beside the pull; OTEL_METRICS_EXPORTER decides where it is set.
    let both = readers(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")]);
    assert_eq!(both.pull, Some(Pull::default()));
    assert_eq!(both.periodic, [Periodic::new(http("http://c:4318/v1/metrics"))]);
    let all = readers(&[("OTEL_METRICS_EXPORTER", "otlp, console,prometheus")]);
    assert_eq!(all.pull, Some(Pull::default()));
    assert_eq!(
        all.periodic,
        [Periodic::new(http("http://localhost:4318/v1/metrics")), Periodic::new(console.clone())]
    );
    let otlp_only = readers(&[("OTEL_METRICS_EXPORTER", "otlp"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]);
    assert_eq!(otlp_only.pull, None);
    assert_eq!(otlp_only.periodic, [Periodic::new(grpc("http://localhost:4317"))]);
    let none =
        readers(&[("OTEL_METRICS_EXPORTER", "none"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")]);
    assert_eq!(none, config::Readers { pull: None, periodic: Vec::new() });
    let disabled =
        readers(&[("OTEL_SDK_DISABLED", "True"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")]);
    assert_eq!(disabled, none);

    // The base endpoint gets the signal's path; the signal's own is used as it is.
    for (variable, value, expected) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/base/", "http://c:4318/base/v1/metrics"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://c:4318/base/", "http://c:4318/base/"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "https://c", "https://c"),
    ] {
        assert_eq!(exporters(&[(variable, value)]), [http(expected)], "{variable}={value}");
    }
    for (endpoint, insecure, expected) in [
        ("http://c:4317", "false", "http://c:4317"),
        ("https://c:4317", "true", "https://c:4317"),
        ("c:4317", "true", "http://c:4317"),
        ("c:4317", "false", "https://c:4317"),
    ] {
        let variables = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
            ("OTEL_EXPORTER_OTLP_INSECURE", insecure),
        ];
        assert_eq!(exporters(&variables), [grpc(expected)], "{endpoint} {insecure}");
    }

    let pull =
        readers(&[("OTEL_EXPORTER_PROMETHEUS_HOST", "localhost"), ("OTEL_EXPORTER_PROMETHEUS_PORT", "9464")]);
    assert_eq!(pull.pull, Some(Pull { host: "localhost".into(), port: 9464, ..Pull::default() }));
}

#[test]
fn variables_of_histograms_and_exemplars() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318");
    let histograms = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION";
    for (value, expected) in [
        ("", Aggregation::Default),
        ("explicit_bucket_histogram", Aggregation::Default),
        ("BASE2_EXPONENTIAL_BUCKET_HISTOGRAM", Aggregation::EXPONENTIAL),
    ] {
        let loaded = environment(&[endpoint, (histograms, value)]).unwrap();
        assert_eq!(loaded.config.readers.periodic[0].default_histogram_aggregation, expected, "{value}");
        assert_eq!(loaded.warnings, Vec::<String>::new());
    }
    let filter =
        |value| environment(&[("OTEL_METRICS_EXEMPLAR_FILTER", value)]).map(|loaded| loaded.warnings);
    assert_eq!(filter("trace_based"), Ok(Vec::new()));
    assert_eq!(
        filter("always_on"),
        Ok(vec!["OTEL_METRICS_EXEMPLAR_FILTER: has no effect, this program records no exemplars".into()])
    );
    assert_eq!(
        filter("sometimes"),
        Err("OTEL_METRICS_EXEMPLAR_FILTER: not an exemplar filter: sometimes\nhint: one of always_on, always_off, \
             trace_based"
            .into())
    );
}

#[test]
fn variables_for_metrics_go_before_the_general_ones() {
    let names = [
        ("ENDPOINT", "http://general", "http://metrics/m"),
        ("PROTOCOL", "grpc", "http/protobuf"),
        ("HEADERS", "a=general", "a=metrics, B=x%20y"),
        ("TIMEOUT", "1", "2"),
        ("COMPRESSION", "gzip", "none"),
        ("CERTIFICATE", "/general/ca", "/metrics/ca"),
        ("CLIENT_CERTIFICATE", "/general/cert", "/metrics/cert"),
        ("CLIENT_KEY", "/general/key", "/metrics/key"),
    ];
    let general = names.map(|(name, value, _)| (format!("OTEL_EXPORTER_OTLP_{name}"), value));
    let metrics = names.map(|(name, _, value)| (format!("OTEL_EXPORTER_OTLP_METRICS_{name}"), value));
    let common = [
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE".to_string(), "LowMemory"),
        ("OTEL_METRIC_EXPORT_INTERVAL".to_string(), "3"),
        ("OTEL_METRIC_EXPORT_TIMEOUT".to_string(), "0"),
    ];
    let load = |variables: Vec<&(String, &'static str)>| {
        let variables: Vec<(&str, &str)> =
            variables.into_iter().map(|(name, value)| (&**name, *value)).collect();
        let loaded = environment(&variables).unwrap();
        assert_eq!(loaded.warnings, Vec::<String>::new());
        loaded.config.readers.periodic
    };
    let periodic = |exporter| Periodic {
        interval: Duration::from_millis(3),
        timeout: Duration::from_millis(2_147_483_647),
        ..Periodic::new(exporter)
    };
    let tls = |name: &str| Tls {
        ca_file: Some(format!("/{name}/ca").into()),
        cert_file: Some(format!("/{name}/cert").into()),
        key_file: Some(format!("/{name}/key").into()),
    };
    let header = |name: &str, value: &str| (name.to_string(), value.to_string());

    assert_eq!(
        load(general.iter().chain(&common).collect()),
        [periodic(Exporter::OtlpGrpc(Otlp {
            tls: tls("general"),
            headers: vec![header("a", "general")],
            compression: Compression::Gzip,
            timeout: Duration::from_millis(1),
            temporality: Temporality::LowMemory,
            ..http("http://general")
        }))]
    );
    assert_eq!(
        load(general.iter().chain(&metrics).chain(&common).collect()),
        [periodic(Exporter::OtlpHttp(Otlp {
            tls: tls("metrics"),
            headers: vec![header("a", "metrics"), header("b", "x y")],
            compression: Compression::None,
            timeout: Duration::from_millis(2),
            temporality: Temporality::LowMemory,
            ..http("http://metrics/m")
        }))]
    );
}

#[test]
fn wrong_variables_are_told_by_name() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
    let cases: &[(Variables<'_>, &str)] = &[
        (
            &[("OTEL_LOG_LEVEL", "all")],
            "OTEL_LOG_LEVEL: not a log level: all\nhint: one of trace, debug, info, warn, error",
        ),
        (
            &[("OTEL_RESOURCE_ATTRIBUTES", "a=b,c")],
            "OTEL_RESOURCE_ATTRIBUTES: entry 2 has no =: c\n\
             hint: key=value pairs with commas between them; %2C is a comma inside of one",
        ),
        (
            &[("OTEL_RESOURCE_ATTRIBUTES", "a=%ff")],
            "OTEL_RESOURCE_ATTRIBUTES: entry 1 is not UTF-8 after percent-decoding: a=%ff\n\
             hint: key=value pairs with commas between them; %2C is a comma inside of one",
        ),
        (&[("OTEL_SDK_DISABLED", "1")], "OTEL_SDK_DISABLED: not a boolean: 1\nhint: true or false"),
        (
            &[("OTEL_METRICS_EXPORTER", "logging")],
            "OTEL_METRICS_EXPORTER: not an exporter: logging\nhint: one or more of otlp, prometheus, console, or none",
        ),
        (
            &[("OTEL_METRICS_EXPORTER", "none,otlp")],
            "OTEL_METRICS_EXPORTER: none beside others: none,otlp\nhint: none stands alone",
        ),
        (
            &[("OTEL_EXPORTER_PROMETHEUS_PORT", "http")],
            "OTEL_EXPORTER_PROMETHEUS_PORT: not a port: http\nhint: from 0 to 65535",
        ),
        (
            &[("OTEL_EXPORTER_PROMETHEUS_HOST", "a b")],
            "OTEL_EXPORTER_PROMETHEUS_HOST: not a host: a b\nhint: an IP address or a name, or nothing for every address",
        ),
        (
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317")],
            "OTEL_EXPORTER_OTLP_ENDPOINT: not a URL: localhost:4317\n\
             hint: add a scheme, for example http://localhost:4317",
        ),
        (
            &[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")],
            "OTEL_EXPORTER_OTLP_PROTOCOL: not a protocol that this program speaks: http/json\n\
             hint: grpc or http/protobuf",
        ),
        (
            &[endpoint, ("OTEL_EXPORTER_OTLP_HEADERS", "secret")],
            "OTEL_EXPORTER_OTLP_HEADERS: entry 1 has no =\n\
             hint: key=value pairs with commas between them; %2C is a comma inside of one",
        ),
        (
            &[endpoint, ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "10s")],
            "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT: not a number of milliseconds: 10s\nhint: from 0 to 2147483647",
        ),
        (
            &[endpoint, ("OTEL_METRIC_EXPORT_INTERVAL", "0")],
            "OTEL_METRIC_EXPORT_INTERVAL: not a number of milliseconds: 0\nhint: from 1 to 2147483647",
        ),
        (
            &[endpoint, ("OTEL_EXPORTER_OTLP_COMPRESSION", "deflate")],
            "OTEL_EXPORTER_OTLP_COMPRESSION: not a known compression: deflate\nhint: one of none, gzip",
        ),
        (
            &[endpoint, ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key")],
            "OTEL_EXPORTER_OTLP_CLIENT_KEY: a client's certificate and its key go together\n\
             hint: set OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE too",
        ),
        (
            &[endpoint, ("OTEL_EXPORTER_OTLP_INSECURE", "yes")],
            "OTEL_EXPORTER_OTLP_INSECURE: not a boolean: yes\nhint: true or false",
        ),
        (
            &[endpoint, ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "low_memory")],
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE: not a temporality: low_memory\n\
             hint: one of cumulative, delta, lowmemory",
        ),
        (
            &[("DOCKER_HOST", "/var/run/docker.sock")],
            "DOCKER_HOST: not a Docker host: /var/run/docker.sock\nhint: a socket is unix:///var/run/docker.sock",
        ),
        (
            &[("DOCKER_HOST", "tcp://h"), ("DOCKER_TLS_VERIFY", "1")],
            "DOCKER_TLS_VERIFY: set, but there is no directory to take certificates from\n\
             hint: set DOCKER_CERT_PATH to the directory of ca.pem, cert.pem and key.pem",
        ),
        (
            &[("DOCKER_HOST", "http://h"), ("DOCKER_TLS_VERIFY", "1")],
            "DOCKER_TLS_VERIFY: set, but the host is spoken to without TLS: http://h\n\
             hint: use https:// or tcp:// in the host",
        ),
        (
            &[("DOCKER_HOST", "unix:/var/run/docker.sock")],
            "DOCKER_HOST: not a Docker host: unix:/var/run/docker.sock\nhint: a socket is unix:///var/run/docker.sock",
        ),
        (
            &[("OTEL_RESOURCE_ATTRIBUTES", "a=%ZZ")],
            "OTEL_RESOURCE_ATTRIBUTES: entry 1 has a % without two hexadecimal digits after it: a=%ZZ\n\
             hint: %25 is a percent sign",
        ),
        (
            &[endpoint, ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=S%")],
            "OTEL_EXPORTER_OTLP_HEADERS: entry 1 has a % without two hexadecimal digits after it\n\
             hint: %25 is a percent sign",
        ),
        (
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:S@h")],
            "OTEL_EXPORTER_OTLP_ENDPOINT: a URL with a user name or a password, which would not be sent\n\
             hint: leave them out, and give them as a header named authorization",
        ),
    ];
    // What each of them is when its hint is followed.
    let followed: &[Variables<'_>] = &[
        &[("OTEL_LOG_LEVEL", "trace")],
        &[("OTEL_RESOURCE_ATTRIBUTES", "a=b%2Cc")],
        &[("OTEL_RESOURCE_ATTRIBUTES", "a=b")],
        &[("OTEL_SDK_DISABLED", "true")],
        &[("OTEL_METRICS_EXPORTER", "otlp, prometheus, console")],
        &[("OTEL_METRICS_EXPORTER", "none")],
        &[("OTEL_EXPORTER_PROMETHEUS_PORT", "65535")],
        &[("OTEL_EXPORTER_PROMETHEUS_HOST", "a")],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317")],
        &[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
        &[endpoint, ("OTEL_EXPORTER_OTLP_HEADERS", "key=secret%2Ctoo")],
        &[endpoint, ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "0")],
        &[endpoint, ("OTEL_METRIC_EXPORT_INTERVAL", "1")],
        &[endpoint, ("OTEL_EXPORTER_OTLP_COMPRESSION", "none")],
        &[
            endpoint,
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key"),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/cert"),
        ],
        &[endpoint, ("OTEL_EXPORTER_OTLP_INSECURE", "true")],
        &[endpoint, ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "cumulative")],
        &[("DOCKER_HOST", "unix:///var/run/docker.sock")],
        &[("DOCKER_HOST", "tcp://h"), ("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", "/certificates")],
        &[("DOCKER_HOST", "https://h"), ("DOCKER_TLS_VERIFY", "1"), ("HOME", "/root")],
        &[("DOCKER_HOST", "unix:///var/run/docker.sock")],
        &[("OTEL_RESOURCE_ATTRIBUTES", "a=%25ZZ")],
        &[endpoint, ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=S%25")],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20dTpT"),
        ],
    ];
    assert_eq!(cases.len(), followed.len());
    for ((variables, expected), followed) in cases.iter().zip(followed) {
        assert_eq!(environment(variables).unwrap_err(), *expected, "{variables:?}");
        if let Err(error) = environment(followed) {
            panic!("the hint is refused too: {followed:?}: {error}");
        }
    }
}

/// The same of flags, most of whose errors are told above and below.
#[test]
fn what_the_hints_of_flags_say_is_accepted() {
    for (refused, followed) in [
        (&["--web.listen-address=8080"][..], &["--web.listen-address=:8080"][..]),
        (&["--web.listen-address=localhost"], &["--web.listen-address=127.0.0.1:8080"]),
        (&["--web.listen-address=::1:8080"], &["--web.listen-address=[::1]:8080"]),
        (&["--web.listen-address=:http"], &["--web.listen-address=:8080"]),
        (&["--web.listen-address=a b:1"], &["--web.listen-address=127.0.0.1:8080"]),
        (&["--web.telemetry-path=metrics"], &["--web.telemetry-path=/metrics"]),
        (&["--web.telemetry-path=/"], &["--web.telemetry-path=/metrics"]),
        (&["--log.level=loud"], &["--log.level=trace"]),
        (&["--log.format=text"], &["--log.format=logfmt"]),
        (&["--log.format=jsno"], &["--log.format=json"]),
        (&["-cache-period=2s"], &["-cache-period=2"]),
        (&["-cache-period=-1"], &["-cache-period=0"]),
        (&["-add-container-labels=no"], &["-add-container-labels=false"]),
        (&["-add-container-labels", "false"], &["--add-container-labels=false"]),
    ] {
        let error = run(refused, &[]).unwrap_err();
        assert!(error.text.contains("\nhint: "), "{refused:?}: {}", error.text);
        if let Err(error) = run(followed, &[]) {
            panic!("the hint is refused too: {followed:?}: {}", error.text);
        }
    }
}

#[test]
fn variables_without_effect_are_told() {
    let warnings = |variables: Variables<'_>| environment(variables).unwrap().warnings;
    assert_eq!(
        warnings(&[("OTEL_EXPORTER_OTLP_HEADERS", "a=b"), ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "1")]),
        ["OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_METRICS_TIMEOUT: set, but nothing is pushed, as \
          OTEL_EXPORTER_OTLP_ENDPOINT is not set"]
    );
    assert_eq!(
        warnings(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")]),
        [
            "OTEL_EXPORTER_OTLP_ENDPOINT: port 4317 is gRPC's by custom, and without OTEL_EXPORTER_OTLP_PROTOCOL=grpc \
          this program speaks http/protobuf"
        ]
    );
    assert_eq!(
        warnings(&[("OTEL_SDK_DISABLED", "true")]),
        ["OTEL_SDK_DISABLED is true: nothing is exported"]
    );
}

// ---------------------------------------------------------------------------------------------------------
// The daemon
// ---------------------------------------------------------------------------------------------------------

#[test]
fn the_docker_clients_variables_fill_what_the_file_leaves_open() {
    let directory = |path: &str| {
        let file = |name: &str| Some(PathBuf::from(path).join(name));
        Some(Tls { ca_file: file("ca.pem"), cert_file: file("cert.pem"), key_file: file("key.pem") })
    };
    let ca = Some(Tls { ca_file: Some("/ca".into()), ..Tls::default() });
    let verify = ("DOCKER_TLS_VERIFY", "1");
    let home = ("HOME", "/home/me");
    let certificates = ("DOCKER_CERT_PATH", "/certs");
    let remote = ("DOCKER_HOST", "tcp://env:1");
    let cases: &[(&str, Variables<'_>, &str, Option<Tls>)] = &[
        ("", &[], "unix:///var/run/docker.sock", None),
        ("", &[remote], "tcp://env:1", None),
        ("", &[remote, certificates], "tcp://env:1", None),
        ("", &[remote, verify, home], "tcp://env:1", directory("/home/me/.docker")),
        ("", &[remote, verify, home, certificates], "tcp://env:1", directory("/certs")),
        ("", &[("DOCKER_HOST", "unix:///s"), verify, home], "unix:///s", None),
        ("", &[("DOCKER_HOST", "ssh://me@h"), verify, home], "ssh://me@h", None),
        // The ports that Docker has for tcp.
        ("", &[("DOCKER_HOST", "tcp://h")], "tcp://h:2375", None),
        (
            "",
            &[("DOCKER_HOST", "tcp://[::1]/"), verify, certificates],
            "tcp://[::1]:2376",
            directory("/certs"),
        ),
        ("", &[("DOCKER_HOST", "https://h")], "https://h", Some(Tls::default())),
        ("docker: {timeout: 5}", &[remote], "tcp://env:1", None),
        ("docker: {host: 'tcp://file:2'}", &[remote], "tcp://file:2", None),
        (
            "docker: {host: 'tcp://file:2'}",
            &[remote, verify, certificates],
            "tcp://file:2",
            directory("/certs"),
        ),
        ("docker: {tls: {ca_file: /ca}}", &[remote, verify, certificates], "tcp://env:1", ca.clone()),
        ("docker: {host: 'tcp://file', tls: {ca_file: /ca}}", &[verify, home], "tcp://file:2376", ca),
        (
            "docker: {tls: {ca_file: , key_file: }}",
            &[remote, verify, certificates],
            "tcp://env:1",
            directory("/certs"),
        ),
    ];
    for (text, variables, host, tls) in cases {
        let file = yaml_with(text, variables).unwrap_or_else(|error| panic!("{text} {variables:?}: {error}"));
        assert_eq!(
            (&*file.config.docker.host, &file.config.docker.tls),
            (*host, tls),
            "{text} {variables:?}"
        );
        if text.is_empty() {
            assert_eq!(environment(variables).unwrap().config.docker, file.config.docker, "{variables:?}");
        }
    }
    let error = yaml_with("web: {max_requests: 0}", &[("DOCKER_HOST", "h")]).unwrap_err().to_string();
    assert_eq!(
        error,
        "DOCKER_HOST: not a Docker host: h\nhint: unix://, tcp://, http://, https:// and ssh:// are known\n\
         config.yaml:1:21: web.max_requests: out of range: 0\nhint: from 1 to 100000"
    );
}

// ---------------------------------------------------------------------------------------------------------
// The command line
// ---------------------------------------------------------------------------------------------------------

/// A file in a directory of its own, which goes with it.
fn file(text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (directory, path)
}

#[test]
fn without_arguments_the_program_runs_with_its_defaults() {
    let expected =
        Settings { config: Config::default(), log_format: LogFormat::Logfmt, warnings: Vec::new() };
    assert_eq!(run(&[], &[]), Ok(expected));
}

#[test]
fn flags_go_before_the_file() {
    let (_directory, path) = file(
        "log_level: error\nmeter_provider: {readers: [{pull: {exporter: {prometheus/development: {host: localhost, \
         port: 1, scope_info_enabled: true}}}}]}\ncontainers: {labels: {excluded: [a]}}\nweb: {telemetry_path: /a, \
         cache_period: 5}\n",
    );
    let settings = run(&["--config", &path], &[]).unwrap();
    let pull = Pull { host: "localhost".into(), port: 1, scope_info_enabled: true, ..Pull::default() };
    assert_eq!(settings.config.readers.pull, Some(pull.clone()));
    assert_eq!(settings.config.log_level, LogLevel::Error);

    let settings = run(
        &[
            "--web.listen-address=[::1]:9000",
            "--web.telemetry-path=/b",
            "--log.level=DEBUG",
            "--log.format=json",
            "--cache-period=2",
            "--add-container-labels=false",
            &format!("--config={path}"),
        ],
        &[],
    )
    .unwrap();
    assert_eq!(settings.log_format, LogFormat::Json);
    assert_eq!(settings.config.readers.pull, Some(Pull { host: "::1".into(), port: 9000, ..pull }));
    assert_eq!(settings.config.log_level, LogLevel::Debug);
    assert_eq!(settings.config.web.telemetry_path, "/b");
    assert_eq!(settings.config.web.cache_period, Duration::from_secs(2));
    assert!(settings.config.containers.labels.is_none());
}

#[test]
fn an_address_makes_a_pull_reader() {
    let (_directory, push) = file("meter_provider: {readers: [{periodic: {exporter: {console: }}}]}");
    assert_eq!(run(&["--config", &push], &[]).unwrap().config.readers.pull, None);
    let readers = run(&["--config", &push, "-listen-address", ":1"], &[]).unwrap().config.readers;
    assert_eq!(readers.pull, Some(Pull { host: String::new(), port: 1, ..Pull::default() }));
    assert_eq!(readers.periodic.len(), 1);

    // Several: the last one is the pull reader's, each other one is there once.
    let arguments = [":1", "[::1]:2", ":1", ":3"].map(|address| format!("--web.listen-address={address}"));
    let config = run(&arguments.each_ref().map(String::as_str), &[]).unwrap().config;
    assert_eq!(config.readers.pull.unwrap().port, 3);
    assert_eq!(config.web.listen_addresses, [(String::new(), 1), ("::1".to_owned(), 2)]);
    // The sockets of systemd are a reason to serve too.
    let config = run(&["--config", &push, "--web.systemd-socket"], &[]).unwrap().config;
    assert!(config.web.systemd_socket && config.readers.pull.is_some());
    let web_file = |arguments: &[&str]| run(arguments, &[]).unwrap().config.web.config_file;
    assert_eq!(web_file(&["--web.config.file", "web.yml"]), Some("web.yml".into()));
    assert_eq!(web_file(&["--web.config.file="]), None);

    // It does not turn on what was turned off.
    let (_directory, disabled) = file("disabled: true");
    assert_eq!(run(&["--config", &disabled, "-listen-address=:1"], &[]).unwrap().config.readers.pull, None);
}

#[test]
fn addresses_are_gos() {
    for (text, host, port) in [
        (":8080", "", 8080),
        ("0.0.0.0:8080", "0.0.0.0", 8080),
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("[::1]:9000", "::1", 9000),
        ("[::]:9000", "::", 9000),
        ("localhost:65535", "localhost", 65535),
    ] {
        let pull = run(&["--web.listen-address", text], &[]).unwrap().config.readers.pull.unwrap();
        assert_eq!((&*pull.host, pull.port), (host, port), "{text}");
    }
    for (text, hint) in [
        ("8080", "add a colon: :8080"),
        ("localhost", "a host and a port, for example 127.0.0.1:8080, or :8080 for every address"),
        ("", "a host and a port, for example 127.0.0.1:8080, or :8080 for every address"),
        ("::1:8080", "brackets around an IPv6 address, for example [::1]:8080"),
        (":http", "a port is a number from 0 to 65535, for example :8080"),
        (":+1", "a port is a number from 0 to 65535, for example :8080"),
        (":65536", "a port is a number from 0 to 65535, for example :8080"),
        ("a b:1", "for example 127.0.0.1:8080, [::1]:8080 or :8080"),
        ("[localhost]:1", "for example 127.0.0.1:8080, [::1]:8080 or :8080"),
        ("http://localhost:1", "brackets around an IPv6 address, for example [::1]:8080"),
    ] {
        let exit = run(&["--web.listen-address", text], &[]).unwrap_err();
        let shown = if text.is_empty() { "\"\"" } else { text };
        let expected = format!("--web.listen-address: not an address: {shown}\nhint: {hint}");
        assert_eq!(exit, Exit { text: expected, code: 2 });
    }
}

/// As `flag.Parse` of Go takes them: one dash or two, `=` or the next argument, except for booleans.
#[test]
fn the_old_exporters_flags_are_gos() {
    let labels = |arguments: &[&str]| run(arguments, &[]).map(|s| !s.config.containers.labels.is_none());
    for text in ["1", "t", "T", "TRUE", "true", "True"] {
        assert_eq!(labels(&[&format!("-add-container-labels={text}")]), Ok(true), "{text}");
    }
    for text in ["0", "f", "F", "FALSE", "false", "False"] {
        assert_eq!(labels(&[&format!("-add-container-labels={text}")]), Ok(false), "{text}");
        assert_eq!(labels(&[&format!("--add-container-labels={text}")]), Ok(false), "{text}");
    }
    assert_eq!(labels(&["-add-container-labels"]), Ok(true));
    assert_eq!(
        labels(&["-add-container-labels=false", "-add-container-labels"]),
        Ok(true),
        "the last one counts"
    );
    // A boolean never takes the next argument.
    let settings = run(&["-add-container-labels", "-listen-address", ":1"], &[]).unwrap();
    assert_eq!(settings.config.readers.pull.unwrap().port, 1);
    assert_eq!(
        labels(&["-add-container-labels", "false"]).unwrap_err().text,
        "--add-container-labels: a value in an argument of its own: false\nhint: write --add-container-labels=false"
    );
    assert_eq!(
        labels(&["-add-container-labels=no"]).unwrap_err().text,
        "--add-container-labels: not a boolean: no\nhint: true or false, after an = sign"
    );

    let period = |arguments: &[&str]| run(arguments, &[]).map(|s| s.config.web.cache_period.as_secs());
    for (arguments, expected) in [
        (&["-cache-period=2"][..], 2),
        (&["-cache-period", "2"], 2),
        (&["--cache-period", "2"], 2),
        (&["-cache-period=0x10"], 16),
        (&["-cache-period=010"], 8),
        (&["-cache-period=+1_0"], 10),
        (&["-cache-period=0"], 0),
        (&["-cache-period=3", "-cache-period=4"], 4),
    ] {
        assert_eq!(period(arguments), Ok(expected), "{arguments:?}");
    }
    for text in ["", "2s", "1.5", "08"] {
        let shown = if text.is_empty() { "\"\"" } else { text };
        let expected = format!("--cache-period: not a whole number of seconds: {shown}\nhint: for example 2");
        assert_eq!(period(&["-cache-period", text]).unwrap_err().text, expected);
    }
    for text in ["-1", "2147484"] {
        let expected =
            format!("--cache-period: out of range: {text}\nhint: from 0, which keeps nothing, to 2147483");
        assert_eq!(period(&["-cache-period", text]).unwrap_err().text, expected);
    }
    for arguments in [
        &["-listen-address=:9"][..],
        &["-listen-address", ":9"],
        &["--listen-address=:9"],
        &["--listen-address", ":9"],
        &["-web.listen-address", ":9"],
        &["-listen-address=:8", "--web.listen-address=:9"],
    ] {
        assert_eq!(run(arguments, &[]).unwrap().config.readers.pull.unwrap().port, 9, "{arguments:?}");
    }
}

#[test]
fn labels_that_the_file_leaves_out_stay_out() {
    let (_directory, path) = file("containers: {labels: {excluded: [secret]}}");
    let labels = |flag: &str| run(&["--config", &path, flag], &[]).unwrap().config.containers.labels;
    assert_eq!(labels("-add-container-labels"), Filter::new(&["*"], &["secret"]));
    assert_eq!(labels("-add-container-labels=0"), Filter::none());
    let (_directory, path) = file("containers: {labels: {included: []}}");
    let settings = run(&["--config", &path, "-add-container-labels"], &[]).unwrap();
    assert_eq!(settings.config.containers.labels, Filter::all());
}

#[test]
fn help_and_version_are_no_errors() {
    for flag in ["--version", "-version", "-V"] {
        let exit = run(&[flag], &[]).unwrap_err();
        let version = docker_state_exporter::version::LONG;
        assert_eq!(exit, Exit { text: format!("docker-state-exporter {version}"), code: 0 });
    }
    assert!(
        docker_state_exporter::version::LONG.starts_with(concat!(env!("CARGO_PKG_VERSION"), " (revision "))
    );
    for flag in ["--help", "-help", "-h"] {
        let exit = run(&[flag], &[]).unwrap_err();
        assert_eq!(exit.code, 0);
        for flag in [
            "--config",
            "--web.listen-address",
            "--listen-address",
            "--web.telemetry-path",
            "--log.level",
            "--log.format",
            "--add-container-labels",
            "--cache-period",
            "healthcheck",
        ] {
            assert!(exit.text.contains(flag), "{flag} in\n{}", exit.text);
        }
    }
}

#[test]
fn wrong_arguments_are_told() {
    for (arguments, expected) in [
        (
            &["--confg=x"][..],
            "error: unexpected argument '--confg' found\n\n  tip: a similar argument exists: '--config'",
        ),
        (
            &["-confg=x"],
            "error: unexpected argument '--confg' found\n\n  tip: a similar argument exists: '--config'",
        ),
        (&["--config"], "error: a value is required for '--config <FILE>' but none was supplied"),
        (&["helthcheck"], "error: unrecognized subcommand 'helthcheck'"),
        (
            &["--log.level=loud"],
            "--log.level: not a log level: loud\nhint: one of trace, debug, info, warn, error",
        ),
        (&["--log.format=text"], "--log.format: not a log format: text\nhint: one of logfmt, json"),
        (
            &["--web.telemetry-path=/"],
            "--web.telemetry-path: a path that serves something else: /\nhint: for example /metrics",
        ),
        (
            &["--config=/nowhere/config.yaml"],
            "/nowhere/config.yaml: cannot be read: No such file or directory (os error 2)\n\
             hint: the file is the one that --config names",
        ),
    ] {
        let exit = run(arguments, &[]).unwrap_err();
        assert_eq!(exit.code, 2, "{arguments:?}");
        assert!(exit.text.starts_with(expected), "{arguments:?}:\n{}", exit.text);
    }
    // All at once.
    let (_directory, path) = file("web: {max_requests: 0}");
    let exit = run(&["--config", &path, "--log.format=text", "-cache-period=x"], &[]).unwrap_err();
    let expected = format!(
        "--log.format: not a log format: text\nhint: one of logfmt, json\n\
         --cache-period: not a whole number of seconds: x\nhint: for example 2\n\
         {path}:1:21: web.max_requests: out of range: 0\nhint: from 1 to 100000"
    );
    assert_eq!(exit, Exit { text: expected, code: 2 });
}

#[test]
fn the_environment_names_the_file() {
    let (_directory, path) = file("log_level: error");
    let (_other, other) = file("log_level: debug");
    let level =
        |arguments: &[&str], variables: Variables<'_>| run(arguments, variables).unwrap().config.log_level;
    assert_eq!(level(&[], &[("OTEL_CONFIG_FILE", &path)]), LogLevel::Error);
    assert_eq!(level(&["--config", &other], &[("OTEL_CONFIG_FILE", &path)]), LogLevel::Debug);
    assert_eq!(level(&[], &[("OTEL_CONFIG_FILE", "")]), LogLevel::Info);
    let exit = run(&[], &[("OTEL_CONFIG_FILE", "/nowhere")]).unwrap_err();
    assert!(exit.text.ends_with("hint: the file is the one that OTEL_CONFIG_FILE names"), "{}", exit.text);
    // Its name before the standard became stable.
    let settings = run(&[], &[("OTEL_EXPERIMENTAL_CONFIG_FILE", &path)]).unwrap();
    assert_eq!(settings.config, Config::default());
    assert_eq!(
        settings.warnings,
        [format!("OTEL_EXPERIMENTAL_CONFIG_FILE: {path} is not read; the variable is now OTEL_CONFIG_FILE")]
    );
}

/// Among them values that would be errors without a file.
#[test]
fn with_a_file_variables_have_no_effect() {
    let variables = [
        ("OTEL_SERVICE_NAME", "other"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=b"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://other:4318"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=b"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "unknown"),
        ("OTEL_METRICS_EXPORTER", "console"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "1"),
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_LOG_LEVEL", "unknown"),
    ];
    for text in ["", include_str!("../config/reference.yaml")] {
        let (_directory, path) = file(text);
        let arguments = ["--config", path.as_str()];
        assert_eq!(run(&arguments, &variables), run(&arguments, &[]));
    }
    // Unless the file names them.
    let (_directory, path) = file("log_level: ${LEVEL}");
    assert_eq!(run(&["--config", &path], &[("LEVEL", "warn")]).unwrap().config.log_level, LogLevel::Warn);
}

#[test]
fn files_that_are_no_text() {
    let (_directory, path) = file("");
    std::fs::write(&path, b"web:\n  \xff").unwrap();
    assert_eq!(
        run(&["--config", &path], &[]).unwrap_err().text,
        format!("{path}: not UTF-8 after 7 bytes\nhint: the file is the one that --config names")
    );
}

#[test]
fn healthcheck_asks_where_the_configuration_listens() {
    let url = |arguments: &[&str]| {
        let arguments = std::iter::once("docker-state-exporter").chain(arguments.iter().copied());
        match cli::parse(arguments, &lookup(&[])) {
            Ok(Command::Healthcheck { url }) => Ok(url.to_string()),
            Ok(other) => panic!("{other:?}"),
            Err(exit) => Err(exit.text),
        }
    };
    let (_directory, path) = file(
        "meter_provider: {readers: [{pull: {exporter: {prometheus/development: {host: '::1', port: 1}}}}]}",
    );
    assert_eq!(url(&["healthcheck"]).unwrap(), "http://127.0.0.1:8080/-/ready");
    assert_eq!(url(&["healthcheck", "-listen-address=:9"]).unwrap(), "http://127.0.0.1:9/-/ready");
    assert_eq!(url(&["-listen-address=[::]:9", "healthcheck"]).unwrap(), "http://[::1]:9/-/ready");
    assert_eq!(url(&["healthcheck", "-listen-address=exporter:9"]).unwrap(), "http://exporter:9/-/ready");
    assert_eq!(url(&["healthcheck", "--config", &path]).unwrap(), "http://[::1]:1/-/ready");
    assert_eq!(url(&["--config", &path, "healthcheck"]).unwrap(), "http://[::1]:1/-/ready");
    assert_eq!(
        url(&["healthcheck", "-listen-address=:0"]).unwrap_err(),
        "healthcheck: the port is not known\nhint: port 0 lets the system choose; give another one"
    );
    let (_directory, path) = file("web: {config_file: web.yaml}");
    assert_eq!(url(&["healthcheck", "--config", &path]).unwrap(), "https://127.0.0.1:8080/-/ready");
    let (_directory, path) = file("disabled: true");
    assert_eq!(
        url(&["healthcheck", "--config", &path]).unwrap_err(),
        "healthcheck: there is no server to ask\nhint: the configuration has no pull reader"
    );
}

/// What sends over gRPC goes by the variable where it is not told to compress.
#[test]
fn uncompressed_grpc_and_a_variable_that_says_gzip_are_refused() {
    let none = "meter_provider: {readers: [{periodic: {exporter: {otlp_grpc: {compression: none}}}}]}";
    let general = "OTEL_EXPORTER_OTLP_COMPRESSION";
    let metrics = "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION";
    let cases: [(Variables<'_>, Option<&str>); 7] = [
        (&[], None),
        (&[(general, "gzip")], Some(general)),
        (&[(metrics, "Gzip")], Some(metrics)),
        (&[(metrics, "none"), (general, "gzip")], None),
        (&[(metrics, "gzip"), (general, "none")], Some(metrics)),
        // It passes over what it does not know.
        (&[(metrics, "brotli"), (general, "gzip")], Some(general)),
        (&[(general, "brotli")], None),
    ];
    for (variables, refused) in cases {
        let read = |text: &str| yaml_with(text, variables).map(|_| ()).map_err(|error| error.to_string());
        match refused {
            None => assert_eq!(read(none), Ok(()), "{variables:?}"),
            Some(variable) => {
                let error = read(none).unwrap_err();
                let place = "config.yaml:1:76: meter_provider.readers[0].periodic.exporter.otlp_grpc.compression: none";
                assert!(error.starts_with(place), "{error}");
                assert!(error.contains(&format!("the environment has {variable}=gzip")), "{error}");
            }
        }
        assert_eq!(read(&none.replace("none", "gzip")), Ok(()), "{variables:?}");
        assert_eq!(read(&none.replace("grpc", "http")), Ok(()), "{variables:?}");
    }
}
