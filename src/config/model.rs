//! The configuration that the program uses, after parsing, substitution and validation.
//!
//! Nothing here is optional unless its absence means something; every default is already filled in.

use std::path::PathBuf;
use std::time::Duration;

use crate::catalog::{Kind, METER, Metric};
use crate::version::VERSION;

/// The whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The least severe level that is logged.
    pub log_level: LogLevel,
    /// The resource: what every OTLP export says about its source.
    pub resource: Resource,
    /// Where metrics go.
    pub readers: Readers,
    /// How the instruments become streams, for every reader.
    pub views: Vec<View>,
    /// How the daemon is reached and followed.
    pub docker: Docker,
    /// Which containers are shown, and how.
    pub containers: Containers,
    /// Which events are counted, and how.
    pub events: Events,
    /// The HTTP server, except the pull reader's address.
    pub web: Web,
}

/// A configuration, and warnings about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Warnings to log: settings that are accepted but have no effect.
    pub warnings: Vec<String>,
}

/// Severity levels, by the OpenTelemetry configuration's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// What a developer of this program wants to see.
    Debug,
    /// One line for each change of the program's own state, and for each event where `events.log` says so.
    Info,
    /// What may need attention.
    Warn,
    /// What needs attention.
    Error,
}

impl LogLevel {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// The resource: attributes in the order of the file, `service.name` always among them.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Key and value of each attribute.
    pub attributes: Vec<(String, AttributeValue)>,
    /// The schema URL, where the file gives one.
    pub schema_url: Option<String>,
    /// The attributes that the program detects.
    pub detection: Detection,
}

/// What the program detects about its source. Configured attributes take precedence.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    /// Which of the detected attributes are kept, by their keys.
    pub attributes: Filter,
    /// Whether the file names the attributes to include. Only then the command line, which can hold secrets, is
    /// detected.
    pub named: bool,
    /// Where they come from.
    pub detectors: Vec<Detector>,
}

/// Where resource attributes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detector {
    /// The container that the program runs in.
    Container,
    /// The host and its operating system.
    Host,
    /// This process.
    Process,
    /// `OTEL_SERVICE_NAME`, which is among the attributes already, and `service.instance.id`, which is always
    /// detected.
    Service,
}

impl Default for Detection {
    fn default() -> Self {
        Self { attributes: Filter::all(), named: false, detectors: Vec::new() }
    }
}

/// A resource attribute's value.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum AttributeValue {
    String(String),
    Bool(bool),
    Int(i64),
    Double(f64),
    Strings(Vec<String>),
    Bools(Vec<bool>),
    Ints(Vec<i64>),
    Doubles(Vec<f64>),
}

/// The readers: at most one that is pulled, any number that push.
#[derive(Debug, Clone, PartialEq)]
pub struct Readers {
    /// The Prometheus endpoint; without one there is no HTTP server.
    pub pull: Option<Pull>,
    /// The periodic readers, in the order of the file.
    pub periodic: Vec<Periodic>,
}

/// How many series a stream may have, by the kind of its instrument. Series beyond the limit become one; `None` means
/// no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CardinalityLimits {
    /// For kinds without a limit of their own.
    pub default: Option<usize>,
    /// For histograms.
    pub histogram: Option<usize>,
    /// For observable counters.
    pub observable_counter: Option<usize>,
    /// For observable gauges.
    pub observable_gauge: Option<usize>,
}

/// A view: the stream that the selected instruments become.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Which instruments.
    pub selector: Selector,
    /// The stream that each of them becomes.
    pub stream: ViewStream,
}

/// Selects the instruments that meet all given criteria.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selector {
    /// A glob over the name, in lower case, because names are case-insensitive.
    pub instrument_name: Option<wildmatch::WildMatch>,
    /// The instrument's kind.
    pub instrument_type: Option<InstrumentType>,
    /// The unit.
    pub unit: Option<String>,
    /// The meter's name.
    pub meter_name: Option<String>,
    /// The meter's version.
    pub meter_version: Option<String>,
    /// The meter's schema URL.
    pub meter_schema_url: Option<String>,
}

impl View {
    /// Whether the view applies to an instrument. A view whose aggregation does not fit the instrument is ignored, as
    /// the SDK's specification says.
    pub fn applies_to(&self, metric: &Metric) -> bool {
        self.selector.selects(metric) && self.stream.aggregation.fits(metric.kind)
    }
}

impl Selector {
    /// Whether the selector matches this instrument of the program.
    pub fn selects(&self, metric: &Metric) -> bool {
        let Self { instrument_name, instrument_type, unit, meter_name, meter_version, meter_schema_url } =
            self;
        let kind = match metric.kind {
            Kind::Gauge => InstrumentType::ObservableGauge,
            Kind::Counter => InstrumentType::ObservableCounter,
            Kind::Histogram => InstrumentType::Histogram,
        };
        instrument_name.as_ref().is_none_or(|glob| glob.matches(&metric.name.to_ascii_lowercase()))
            && instrument_type.is_none_or(|wanted| wanted == kind)
            && unit.as_deref().is_none_or(|unit| unit == metric.unit)
            && meter_name.as_deref().is_none_or(|name| name == METER)
            && meter_version.as_deref().is_none_or(|version| version == VERSION)
            // This program's meter has no schema URL.
            && meter_schema_url.is_none()
    }
}

/// The kinds of instruments that the standard has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum InstrumentType {
    Counter,
    Gauge,
    Histogram,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    UpDownCounter,
}

/// The stream that an instrument becomes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ViewStream {
    /// Another name.
    pub name: Option<String>,
    /// Another description.
    pub description: Option<String>,
    /// How measurements are aggregated.
    pub aggregation: Aggregation,
    /// How many series the stream may have. Takes precedence over the reader's limits.
    pub aggregation_cardinality_limit: Option<usize>,
    /// Which attributes are kept, by their keys; `None` for all of them.
    pub attribute_keys: Option<Filter>,
}

/// How measurements are aggregated.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Aggregation {
    /// The default of the instrument's kind.
    #[default]
    Default,
    /// Not at all.
    Drop,
    /// Their sum.
    Sum,
    /// The last of them.
    LastValue,
    /// A histogram with these bucket boundaries.
    ExplicitBucketHistogram {
        /// The boundaries.
        boundaries: Vec<f64>,
        /// Whether minimum and maximum are recorded.
        record_min_max: bool,
    },
    /// A histogram whose buckets grow exponentially.
    Base2ExponentialBucketHistogram {
        /// The finest resolution.
        max_scale: i8,
        /// The most buckets.
        max_size: u32,
        /// Whether minimum and maximum are recorded.
        record_min_max: bool,
    },
}

impl Aggregation {
    /// Whether instruments of this kind can have this aggregation.
    pub fn fits(&self, kind: Kind) -> bool {
        match self {
            Self::Default | Self::Drop => true,
            Self::LastValue => kind == Kind::Gauge,
            Self::Sum => kind != Kind::Gauge,
            // Histograms of observable instruments would count every collection.
            Self::ExplicitBucketHistogram { .. } | Self::Base2ExponentialBucketHistogram { .. } => {
                kind == Kind::Histogram
            }
        }
    }

    /// Exponential buckets with the standard's defaults.
    pub const EXPONENTIAL: Self =
        Self::Base2ExponentialBucketHistogram { max_scale: 20, max_size: 160, record_min_max: true };
}

/// The Prometheus pull endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Pull {
    /// The address to listen on: an IP address or a name; empty for every address.
    pub host: String,
    /// The port to listen on; 0 lets the system choose.
    pub port: u16,
    /// Adds `otel_scope_*` labels to every container and event series.
    pub scope_info_enabled: bool,
    /// Adds the `target_info` family.
    pub target_info_enabled: bool,
    /// Resource attributes that become a label of every container and event series.
    pub resource_constant_labels: Filter,
    /// How OpenTelemetry names become Prometheus names.
    pub translation_strategy: TranslationStrategy,
    /// See [`CardinalityLimits`].
    pub cardinality_limits: CardinalityLimits,
}

/// How OpenTelemetry metric names become Prometheus metric names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TranslationStrategy {
    /// Characters that Prometheus' classic format does not take become `_`; unit and `_total` are appended.
    UnderscoreEscapingWithSuffixes,
    /// Characters that Prometheus' classic format does not take become `_`; nothing is appended.
    UnderscoreEscapingWithoutSuffixes,
    /// Names stay as they are; unit and `_total` are appended.
    NoUtf8EscapingWithSuffixes,
    /// Names stay as they are.
    NoTranslation,
}

impl TranslationStrategy {
    /// Whether names stay as they are for clients that accept them.
    pub fn keeps_names(self) -> bool {
        matches!(self, Self::NoUtf8EscapingWithSuffixes | Self::NoTranslation)
    }

    /// Whether unit and `_total` are appended.
    pub fn has_suffixes(self) -> bool {
        matches!(self, Self::UnderscoreEscapingWithSuffixes | Self::NoUtf8EscapingWithSuffixes)
    }
}

/// A reader that collects and exports at an interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Periodic {
    /// From the start of one export to the start of the next.
    pub interval: Duration,
    /// The time limit for one collection with all its requests.
    pub timeout: Duration,
    /// Data points in one request, at most.
    pub max_export_batch_size: usize,
    /// See [`CardinalityLimits`].
    pub cardinality_limits: CardinalityLimits,
    /// The aggregation of histograms without a view: `Default` or exponential.
    pub default_histogram_aggregation: Aggregation,
    /// Where the data goes.
    pub exporter: Exporter,
}

/// Where a periodic reader's data goes.
#[derive(Debug, Clone, PartialEq)]
pub enum Exporter {
    /// OTLP over gRPC.
    OtlpGrpc(Otlp),
    /// OTLP over HTTP, protobuf.
    OtlpHttp(Otlp),
    /// Standard output, for a look at what is sent.
    Console {
        /// See [`Temporality`].
        temporality: Temporality,
    },
}

impl Exporter {
    /// See [`Temporality`].
    pub fn temporality(&self) -> Temporality {
        match self {
            Self::OtlpGrpc(otlp) | Self::OtlpHttp(otlp) => otlp.temporality,
            Self::Console { temporality } => *temporality,
        }
    }
}

/// An OTLP destination.
#[derive(Debug, Clone, PartialEq)]
pub struct Otlp {
    /// The URL, with `http` or `https` as its scheme. For HTTP it is the whole URL, `/v1/metrics` included.
    pub endpoint: url::Url,
    /// TLS settings of `https` endpoints.
    pub tls: Tls,
    /// Headers of every request, in the order in which they were given; later ones win.
    pub headers: Vec<(String, String)>,
    /// How requests are compressed.
    pub compression: Compression,
    /// The time limit for one request with its retries.
    pub timeout: Duration,
    /// See [`Temporality`].
    pub temporality: Temporality,
}

/// Certificates, by the path of their PEM files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate chain; always together with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// The client's private key.
    pub key_file: Option<PathBuf>,
}

/// How requests are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// With gzip.
    Gzip,
}

/// What sums count from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temporality {
    /// From the start.
    Cumulative,
    /// From the last export.
    Delta,
    /// Delta where that needs no memory, else cumulative.
    LowMemory,
}

/// How the daemon is reached and followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Docker {
    /// `unix://`, `tcp://`, `http://`, `https://` or `ssh://`.
    pub host: String,
    /// `Some` if the connection to the daemon uses TLS.
    pub tls: Option<Tls>,
    /// The time limit for one API call, its body included.
    pub timeout: Duration,
    /// The most concurrent inspect calls.
    pub inspect_concurrency: usize,
    /// The interval between two full lists, which find what events have missed.
    pub resync_interval: Duration,
    /// After this time without the daemon, container series are withheld.
    pub stale_after: Duration,
}

/// Which containers are shown, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Containers {
    /// Which containers are shown, by name without the leading slash.
    pub names: Filter,
    /// Which container labels become metric labels, by their keys.
    pub labels: Filter,
    /// How status and health are written.
    pub encoding: Encoding,
    /// The container label that says what is expected of a container; empty for none.
    pub expectation_label: String,
}

/// How status and health are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// One series with a number for the state.
    Code,
    /// One series for every possible state, 1 for the current one.
    StateSet,
}

/// Which events are counted, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Events {
    /// The types that are followed; `*` stands for all.
    pub types: Vec<String>,
    /// Actions that are not counted, with or without the part after the colon.
    pub excluded: Vec<String>,
    /// What is kept of the command line in `exec_create` and `exec_start`.
    pub exec_command: ExecCommand,
    /// Actions whose counts start at 0 for every known container.
    pub start_at_zero: Vec<String>,
    /// Which container labels become event labels, by their keys.
    pub labels: Filter,
    /// How long after its last event a label set is kept.
    pub retention: Duration,
    /// The most label sets, besides those that start at 0. Further events are counted under one label set.
    pub limit: usize,
    /// Whether each event is logged.
    pub log: bool,
}

/// What is kept of the command line in `exec_create` and `exec_start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecCommand {
    /// Nothing.
    None,
    /// The program's base name.
    Program,
    /// All of it.
    Full,
}

/// The HTTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Web {
    /// The path of the exposition.
    pub telemetry_path: String,
    /// For how long a rendered answer is reused, even if state has changed.
    pub cache_period: Duration,
    /// The most concurrent scrapes; further ones are answered with 503.
    pub max_requests: usize,
    /// The accepted `Host` headers. An entry with a port accepts only that port. Empty means all.
    pub allowed_hosts: Vec<String>,
    /// Further addresses to listen on, besides the pull reader's.
    pub listen_addresses: Vec<(String, u16)>,
    /// Whether it listens on the sockets that systemd has opened, and on no address.
    pub systemd_socket: bool,
    /// TLS and authentication, in the Prometheus exporter toolkit's format.
    pub config_file: Option<PathBuf>,
}

/// Globs that choose strings, as the OpenTelemetry configuration's `IncludeExclude`:
/// a string passes if an `included` pattern matches it and no `excluded` pattern does.
/// `*` stands for any number of characters, `?` for one.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    included: Vec<wildmatch::WildMatch>,
    excluded: Vec<wildmatch::WildMatch>,
}

impl Filter {
    /// A filter of these patterns; without an included one nothing passes.
    pub fn new<S: AsRef<str>>(included: &[S], excluded: &[S]) -> Self {
        let compile = |patterns: &[S]| {
            patterns.iter().map(|p| wildmatch::WildMatch::new(p.as_ref())).collect::<Vec<_>>()
        };
        Self { included: compile(included), excluded: compile(excluded) }
    }

    /// The filter that everything passes.
    pub fn all() -> Self {
        Self::new(&["*"], &[])
    }

    /// The filter that nothing passes.
    pub fn none() -> Self {
        Self::new::<&str>(&[], &[])
    }

    /// Whether `value` passes.
    pub fn matches(&self, value: &str) -> bool {
        self.included.iter().any(|p| p.matches(value)) && !self.excluded.iter().any(|p| p.matches(value))
    }

    /// The patterns, included and excluded ones.
    pub(crate) fn patterns(&self) -> (Vec<String>, Vec<String>) {
        let of = |patterns: &[wildmatch::WildMatch]| patterns.iter().map(ToString::to_string).collect();
        (of(&self.included), of(&self.excluded))
    }

    /// Whether nothing can pass, so that callers need not ask for each value.
    pub fn is_none(&self) -> bool {
        self.included.is_empty()
    }
}

impl Default for Config {
    /// The configuration without a file, flags and environment.
    fn default() -> Self {
        Self {
            log_level: LogLevel::Info,
            resource: Resource {
                attributes: vec![(
                    "service.name".into(),
                    AttributeValue::String(env!("CARGO_PKG_NAME").into()),
                )],
                schema_url: None,
                detection: Detection::default(),
            },
            readers: Readers { pull: Some(Pull::default()), periodic: Vec::new() },
            views: Vec::new(),
            docker: Docker::default(),
            containers: Containers {
                names: Filter::all(),
                labels: Filter::all(),
                encoding: Encoding::Code,
                expectation_label: "docker-state-exporter.expect".into(),
            },
            events: Events::default(),
            web: Web::default(),
        }
    }
}

impl Default for Pull {
    fn default() -> Self {
        Self {
            host: "0.0.0.0".into(),
            port: 8080,
            scope_info_enabled: false,
            target_info_enabled: false,
            resource_constant_labels: Filter::none(),
            translation_strategy: TranslationStrategy::UnderscoreEscapingWithoutSuffixes,
            cardinality_limits: CardinalityLimits::default(),
        }
    }
}

impl Periodic {
    /// A reader with the default times.
    pub fn new(exporter: Exporter) -> Self {
        Self {
            interval: Duration::from_secs(60),
            timeout: Duration::from_secs(30),
            max_export_batch_size: 2000,
            cardinality_limits: CardinalityLimits::default(),
            default_histogram_aggregation: Aggregation::Default,
            exporter,
        }
    }
}

impl Otlp {
    /// A destination with defaults for all but its URL.
    pub fn new(endpoint: url::Url) -> Self {
        Self {
            endpoint,
            tls: Tls::default(),
            headers: Vec::new(),
            compression: Compression::Gzip,
            timeout: Duration::from_secs(10),
            temporality: Temporality::Cumulative,
        }
    }
}

impl Default for Docker {
    fn default() -> Self {
        Self {
            host: "unix:///var/run/docker.sock".into(),
            tls: None,
            timeout: Duration::from_secs(5),
            inspect_concurrency: 8,
            resync_interval: Duration::from_secs(60),
            stale_after: Duration::from_secs(10),
        }
    }
}

impl Default for Events {
    fn default() -> Self {
        let strings = |values: &[&str]| values.iter().map(ToString::to_string).collect();
        Self {
            types: strings(&["container"]),
            excluded: strings(&["exec_create", "exec_detach"]),
            exec_command: ExecCommand::Program,
            start_at_zero: strings(&["die", "oom", "start", "health_status: unhealthy"]),
            labels: Filter::none(),
            retention: Duration::from_secs(300),
            limit: 20_000,
            log: true,
        }
    }
}

impl Default for Web {
    fn default() -> Self {
        Self {
            telemetry_path: "/metrics".into(),
            cache_period: Duration::ZERO,
            max_requests: 40,
            allowed_hosts: Vec::new(),
            listen_addresses: Vec::new(),
            systemd_socket: false,
            config_file: None,
        }
    }
}

impl Events {
    /// The actions whose counts start at 0 for every container: those of `start_at_zero` that are counted at all.
    pub fn counted_at_zero(&self) -> impl Iterator<Item = &str> {
        let containers = self.types.iter().any(|t| t == "*" || t == "container");
        self.start_at_zero.iter().map(String::as_str).filter(move |action| {
            let base = action.split_once(':').map_or(*action, |(base, _)| base);
            containers && !self.excluded.iter().any(|excluded| excluded == action || excluded == base)
        })
    }
}
