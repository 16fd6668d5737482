//! The configuration without a file: the variables that OpenTelemetry's SDKs know, and those of the Docker client,
//! which also apply if a file does not say how to reach the daemon.
//!
//! An SDK ignores values that it does not understand, because it must not stop the program that it is in. For this
//! program such a value is an error, in a variable as in a file.

use std::path::PathBuf;

use url::Url;

use super::docker_client::other_host;
use super::error::{Error, Invalid, Problem, listed};
use super::model::{
    Aggregation, AttributeValue, Compression, Config, Detection, Docker, Exporter, Loaded, Otlp, Periodic,
    Pull, Readers, Resource, Temporality, Tls,
};
use super::substitution::Environment;
use super::values::{
    COMPRESSIONS, GRPC_ENDPOINT, HTTP_ENDPOINT, MAX_MILLIS, attributes, choice, docker_host, endpoint,
    headers, host, log_level, merged, timeout,
};

/// Prefixes of the OTLP exporter's variables, general and for metrics. The latter take precedence.
const OTLP: &str = "OTEL_EXPORTER_OTLP_";
const OTLP_METRICS: &str = "OTEL_EXPORTER_OTLP_METRICS_";

const HISTOGRAMS: &str = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION";

/// Names, without their prefix, of variables that have no effect without a push reader.
const PUSH_ONLY: [&str; 10] = [
    "PROTOCOL",
    "HEADERS",
    "TIMEOUT",
    "COMPRESSION",
    "CERTIFICATE",
    "CLIENT_CERTIFICATE",
    "CLIENT_KEY",
    "INSECURE",
    "TEMPORALITY_PREFERENCE",
    "DEFAULT_HISTOGRAM_AGGREGATION",
];

pub(super) fn decode(env: &Environment<'_>) -> Result<Loaded, Error> {
    let mut variables = Variables { env, problems: Vec::new(), warnings: Vec::new() };
    let mut config = Config::default();
    if let Some((_, level)) =
        variables.parse(&["OTEL_LOG_LEVEL"], |text| log_level(&text.to_ascii_lowercase()))
    {
        config.log_level = level;
    }
    config.resource = variables.resource();
    config.readers = variables.readers();
    let Variables { mut problems, mut warnings, .. } = variables;
    let (of_daemon, warnings_of_daemon) = daemon(&mut config.docker, None, None, env);
    problems.extend(of_daemon);
    warnings.extend(warnings_of_daemon);
    if problems.is_empty() { Ok(Loaded { config, warnings }) } else { Err(Error::new(problems)) }
}

/// Sets how the daemon is reached: by the file's `host` and `tls`, else by the Docker client's variables. Returns
/// problems and warnings.
pub(super) fn daemon(
    docker: &mut Docker,
    file_host: Option<String>,
    file_tls: Option<Tls>,
    env: &Environment<'_>,
) -> (Vec<Problem>, Vec<String>) {
    let mut variables = Variables { env, problems: Vec::new(), warnings: Vec::new() };
    let from_env =
        |variables: &mut Variables<'_>| variables.parse(&["DOCKER_HOST"], docker_host).map(|(_, host)| host);
    if let Some(host) = file_host.or_else(|| from_env(&mut variables)) {
        docker.host = host;
    } else if variables.problems.is_empty() {
        variables.warnings.extend(other_host(&docker.host, env));
    }
    let scheme = docker.host.split("://").next().unwrap_or_default();
    // A socket and ssh need no TLS, and the Docker client ignores the variables for them.
    docker.tls = match scheme {
        "tcp" | "https" => file_tls.or_else(|| variables.docker_tls()),
        "http" if variables.get("DOCKER_TLS_VERIFY").is_some() => {
            variables.problems.push(Problem::of(
                "DOCKER_TLS_VERIFY",
                Invalid::value("set, but the host is spoken to without TLS", &docker.host)
                    .hint("use https:// or tcp:// in the host"),
            ));
            None
        }
        _ => None,
    };
    if scheme == "https" && docker.tls.is_none() {
        docker.tls = Some(Tls::default());
    }
    if scheme == "tcp" && !has_port(&docker.host) {
        // The Docker client's ports; an HTTP client would take 80.
        let port = if docker.tls.is_some() { 2376 } else { 2375 };
        docker.host = format!("{}:{port}", docker.host);
    }
    (variables.problems, variables.warnings)
}

fn has_port(host: &str) -> bool {
    let authority = host.split("://").nth(1).unwrap_or_default();
    // The colons of an IPv6 address are inside of brackets.
    authority.rsplit(']').next().is_some_and(|end| end.contains(':'))
}

struct Variables<'e> {
    env: &'e Environment<'e>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Variables<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.is_empty())
    }

    /// The first of `names` that is set, parsed by `parse`.
    fn parse<T>(
        &mut self,
        names: &[&str],
        parse: impl FnOnce(&str) -> Result<T, Invalid>,
    ) -> Option<(String, T)> {
        let (name, value) = names.iter().find_map(|name| Some((*name, self.get(name)?)))?;
        match parse(&value) {
            Ok(value) => Some((name.to_owned(), value)),
            Err(invalid) => {
                self.problems.push(Problem::of(name, invalid));
                None
            }
        }
    }

    /// A variable of the OTLP exporter: the one for metrics, else the general one.
    fn otlp<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, Invalid>) -> Option<(String, T)> {
        self.parse(&[&format!("{OTLP_METRICS}{name}"), &format!("{OTLP}{name}")], parse)
    }

    fn boolean(&mut self, names: &[&str]) -> Option<bool> {
        self.parse(names, boolean).map(|(_, value)| value)
    }

    fn millis(&mut self, names: &[&str], least: i64) -> Option<i64> {
        self.parse(names, |text| {
            text.parse::<i64>().ok().filter(|millis| (least..=MAX_MILLIS).contains(millis)).ok_or_else(|| {
                Invalid::value("not a number of milliseconds", text)
                    .hint(format!("from {least} to {MAX_MILLIS}"))
            })
        })
        .map(|(_, millis)| millis)
    }

    fn resource(&mut self) -> Resource {
        let mut pairs =
            self.parse(&["OTEL_RESOURCE_ATTRIBUTES"], attributes).map(|(_, pairs)| pairs).unwrap_or_default();
        pairs.extend(self.get("OTEL_SERVICE_NAME").map(|name| ("service.name".into(), name)));
        let attributes = pairs.into_iter().map(|(key, value)| (key, AttributeValue::String(value)));
        Resource {
            attributes: with_service_name(merged(attributes)),
            schema_url: None,
            detection: Detection::default(),
        }
    }

    fn readers(&mut self) -> Readers {
        let none = Readers { pull: None, periodic: Vec::new() };
        if self.boolean(&["OTEL_SDK_DISABLED"]) == Some(true) {
            self.warnings.push("OTEL_SDK_DISABLED is true: nothing is exported".into());
            return none;
        }
        self.exemplar_filter();
        let wanted = self.parse(&["OTEL_METRICS_EXPORTER"], exporters).map(|(_, wanted)| wanted);
        let has_endpoint =
            [OTLP_METRICS, OTLP].iter().any(|prefix| self.get(&format!("{prefix}ENDPOINT")).is_some());
        let (prometheus, otlp, console) = match wanted {
            Some(wanted) => (wanted.prometheus, wanted.otlp, wanted.console),
            None => (true, has_endpoint, false),
        };
        let mut readers = none;
        if prometheus {
            readers.pull = Some(self.pull());
        }
        if otlp {
            let histograms = self.histogram_aggregation();
            let exporter = self.otlp_exporter();
            let reader = exporter.map(|exporter| self.periodic(exporter));
            let reader =
                reader.map(|reader| Periodic { default_histogram_aggregation: histograms, ..reader });
            readers.periodic.extend(reader);
        } else {
            self.warn_of_idle_variables();
        }
        if console {
            let exporter = Exporter::Console { temporality: Temporality::Cumulative };
            let periodic = self.periodic(exporter);
            readers.periodic.push(periodic);
        }
        readers
    }

    fn histogram_aggregation(&mut self) -> Aggregation {
        let known = [("explicit_bucket_histogram", false), ("base2_exponential_bucket_histogram", true)];
        let aggregation = |text: &str| choice(&text.to_ascii_lowercase(), "a histogram aggregation", &known);
        match self.parse(&[HISTOGRAMS], aggregation) {
            Some((_, true)) => Aggregation::EXPONENTIAL,
            _ => Aggregation::Default,
        }
    }

    /// Exemplars need spans, and this program has none.
    fn exemplar_filter(&mut self) {
        let known = [("always_on", true), ("always_off", false), ("trace_based", false)];
        let filter = |text: &str| choice(&text.to_ascii_lowercase(), "an exemplar filter", &known);
        if let Some((name, true)) = self.parse(&["OTEL_METRICS_EXEMPLAR_FILTER"], filter) {
            self.warnings.push(format!("{name}: has no effect, this program records no exemplars"));
        }
    }

    fn pull(&mut self) -> Pull {
        let mut pull = Pull::default();
        if let Some((_, host)) = self.parse(&["OTEL_EXPORTER_PROMETHEUS_HOST"], host) {
            pull.host = host;
        }
        let port = |text: &str| {
            text.parse::<u16>().map_err(|_| Invalid::value("not a port", text).hint("from 0 to 65535"))
        };
        if let Some((_, port)) = self.parse(&["OTEL_EXPORTER_PROMETHEUS_PORT"], port) {
            pull.port = port;
        }
        pull
    }

    fn periodic(&mut self, exporter: Exporter) -> Periodic {
        let mut periodic = Periodic::new(exporter);
        if let Some(millis) = self.millis(&["OTEL_METRIC_EXPORT_INTERVAL"], 1) {
            periodic.interval = timeout(millis);
        }
        if let Some(millis) = self.millis(&["OTEL_METRIC_EXPORT_TIMEOUT"], 0) {
            periodic.timeout = timeout(millis);
        }
        periodic
    }

    fn otlp_exporter(&mut self) -> Option<Exporter> {
        let protocol =
            self.otlp("PROTOCOL", |text| match text {
                "grpc" => Ok(true),
                "http/protobuf" => Ok(false),
                _ => Err(Invalid::value("not a protocol that this program speaks", text)
                    .hint("grpc or http/protobuf")),
            });
        let grpc = protocol.as_ref().is_some_and(|(_, grpc)| *grpc);
        let insecure = [OTLP_METRICS, OTLP].map(|prefix| format!("{prefix}INSECURE"));
        // Read in any case, so that a wrong value is reported. Only gRPC uses it.
        let insecure = self.boolean(&[&insecure[0], &insecure[1]]).filter(|_| grpc);
        let default = if grpc { GRPC_ENDPOINT } else { HTTP_ENDPOINT };
        let mut url = self.otlp("ENDPOINT", |text| endpoint(text, insecure, default));
        if let Some((name, url)) = &mut url {
            if protocol.is_none() && url.port() == Some(4317) {
                self.warnings.push(format!(
                    "{name}: port 4317 is gRPC's by custom, and without {OTLP}PROTOCOL=grpc this program \
                     speaks http/protobuf"
                ));
            }
            if !grpc && !name.starts_with(OTLP_METRICS) {
                append_signal(url);
            }
        }
        let mut otlp = Otlp::new(match url {
            Some((_, url)) => url,
            None => endpoint(default, None, default)
                .map_err(|e| self.problems.push(Problem::of(default, e)))
                .ok()?,
        });
        if let Some((_, headers)) = self.otlp("HEADERS", headers) {
            otlp.headers = merged(headers);
        }
        let compression = |text: &str| choice::<Compression>(text, "a known compression", &COMPRESSIONS);
        if let Some((_, compression)) = self.otlp("COMPRESSION", compression) {
            otlp.compression = compression;
        }
        let names = [OTLP_METRICS, OTLP].map(|prefix| format!("{prefix}TIMEOUT"));
        if let Some(millis) = self.millis(&[&names[0], &names[1]], 0) {
            otlp.timeout = timeout(millis);
        }
        if let Some((_, temporality)) =
            self.parse(&["OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"], temporality)
        {
            otlp.temporality = temporality;
        }
        otlp.tls = self.otlp_tls();
        Some(if grpc { Exporter::OtlpGrpc(otlp) } else { Exporter::OtlpHttp(otlp) })
    }

    fn otlp_tls(&mut self) -> Tls {
        let path = |text: &str| Ok(PathBuf::from(text));
        let ca = self.otlp("CERTIFICATE", path);
        let certificate = self.otlp("CLIENT_CERTIFICATE", path);
        let key = self.otlp("CLIENT_KEY", path);
        let alone = match (&certificate, &key) {
            (Some((name, _)), None) => Some((name, format!("{OTLP}CLIENT_KEY"))),
            (None, Some((name, _))) => Some((name, format!("{OTLP}CLIENT_CERTIFICATE"))),
            _ => None,
        };
        if let Some((name, other)) = alone {
            let invalid = Invalid::new("a client's certificate and its key go together");
            self.problems.push(Problem::of(name, invalid.hint(format!("set {other} too"))));
        }
        let path = |variable: Option<(String, PathBuf)>| variable.map(|(_, path)| path);
        Tls { ca_file: path(ca), cert_file: path(certificate), key_file: path(key) }
    }

    fn warn_of_idle_variables(&mut self) {
        let set: Vec<String> = PUSH_ONLY
            .iter()
            .flat_map(|name| [format!("{OTLP}{name}"), format!("{OTLP_METRICS}{name}")])
            .filter(|name| self.get(name).is_some())
            .collect();
        if !set.is_empty() {
            let names: Vec<&str> = set.iter().map(String::as_str).collect();
            let wanted = if self.get("OTEL_METRICS_EXPORTER").is_some() {
                "otlp is not in OTEL_METRICS_EXPORTER".into()
            } else {
                format!("{OTLP}ENDPOINT is not set")
            };
            self.warnings.push(format!("{}: set, but nothing is pushed, as {wanted}", listed(&names)));
        }
    }

    /// The Docker client's TLS settings: on if `DOCKER_TLS_VERIFY` holds anything, as in the Docker client.
    fn docker_tls(&mut self) -> Option<Tls> {
        self.get("DOCKER_TLS_VERIFY")?;
        let directory = match (self.get("DOCKER_CERT_PATH"), self.get("HOME")) {
            (Some(path), _) => PathBuf::from(path),
            (None, Some(home)) => PathBuf::from(home).join(".docker"),
            (None, None) => {
                self.problems.push(Problem::of(
                    "DOCKER_TLS_VERIFY",
                    Invalid::new("set, but there is no directory to take certificates from")
                        .hint("set DOCKER_CERT_PATH to the directory of ca.pem, cert.pem and key.pem"),
                ));
                return None;
            }
        };
        let file = |name: &str| Some(directory.join(name));
        Some(Tls { ca_file: file("ca.pem"), cert_file: file("cert.pem"), key_file: file("key.pem") })
    }
}

/// Adds `service.name` if it is missing: OpenTelemetry would use `unknown_service`.
pub(super) fn with_service_name(
    mut attributes: Vec<(String, AttributeValue)>,
) -> Vec<(String, AttributeValue)> {
    if !attributes.iter().any(|(key, _)| key == "service.name") {
        attributes.splice(0..0, Config::default().resource.attributes);
    }
    attributes
}

#[derive(Default)]
struct Exporters {
    otlp: bool,
    prometheus: bool,
    console: bool,
}

fn exporters(text: &str) -> Result<Exporters, Invalid> {
    let mut wanted = Exporters::default();
    let names: Vec<&str> = text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    for name in &names {
        match *name {
            "otlp" => wanted.otlp = true,
            "prometheus" => wanted.prometheus = true,
            "console" => wanted.console = true,
            "none" if names.len() == 1 => {}
            "none" => return Err(Invalid::value("none beside others", text).hint("none stands alone")),
            _ => {
                return Err(Invalid::value("not an exporter", name)
                    .hint("one or more of otlp, prometheus, console, or none"));
            }
        }
    }
    Ok(wanted)
}

fn boolean(text: &str) -> Result<bool, Invalid> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Invalid::value("not a boolean", text).hint("true or false")),
    }
}

fn temporality(text: &str) -> Result<Temporality, Invalid> {
    // The variable spells these values differently from the file.
    match text.to_ascii_lowercase().as_str() {
        "cumulative" => Ok(Temporality::Cumulative),
        "delta" => Ok(Temporality::Delta),
        "lowmemory" => Ok(Temporality::LowMemory),
        _ => Err(Invalid::value("not a temporality", text).hint("one of cumulative, delta, lowmemory")),
    }
}

/// The general endpoint is a base URL: each signal appends its path.
fn append_signal(url: &mut Url) {
    let path = format!("{}/v1/metrics", url.path().trim_end_matches('/'));
    url.set_path(&path);
}
