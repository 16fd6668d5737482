//! The file that `web.config_file` names: TLS, headers and users of the web server, in the Prometheus exporter
//! toolkit's web configuration format. Unlike the main file, it has no references to variables, so a `$` in a
//! password's hash is literal.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use rustls::{CipherSuite, NamedGroup};

use super::decode::{Decoder, Field, Section};
use super::error::listed;
use super::error::{Error, Invalid};
use super::values::{self, header_value};
use super::yaml;

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WebFile {
    /// The server's TLS settings; `None` means plain HTTP.
    pub tls: Option<ServerTls>,
    /// Headers of every answer.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The users with the bcrypt hashes of their passwords; if there are none, no password is needed.
    pub users: BTreeMap<String, String>,
    /// How often requests may come; `None` means no limit.
    pub rate_limit: Option<RateLimit>,
}

/// How often requests may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// The average interval between two requests.
    pub interval: Duration,
    /// The most requests at once.
    pub burst: u32,
}

impl WebFile {
    /// Describes in one line what is in effect, without secrets.
    pub fn describe(&self) -> String {
        let tls = match &self.tls {
            None => "no TLS".to_owned(),
            Some(tls) => match tls.client_auth {
                ClientAuth::NoClientCert => "TLS".to_owned(),
                auth => format!("TLS, {auth:?}"),
            },
        };
        let users: Vec<&str> = self.users.keys().map(String::as_str).collect();
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        let listed = |what: &str, names: &[&str]| match names {
            [] => format!("no {what}"),
            names => format!("{what}: {}", names.join(", ")),
        };
        let limit = match self.rate_limit {
            Some(RateLimit { interval, burst }) => format!("; one request in {interval:?}, {burst} at once"),
            None => String::new(),
        };
        format!("{tls}; {}; {}{limit}", listed("users", &users), listed("headers", &headers))
    }

    /// The protections that this file has and `next` does not.
    ///
    /// A truncated file is often still valid, and protects less.
    pub fn protection_lost_in(&self, next: &Self) -> Vec<&'static str> {
        let mut lost = Vec::new();
        if !self.users.is_empty() && next.users.is_empty() {
            lost.push("passwords (basic_auth_users)");
        }
        if self.rate_limit.is_some() && next.rate_limit.is_none() {
            lost.push("the limit of requests (rate_limit)");
        }
        match (&self.tls, &next.tls) {
            (Some(tls), Some(next)) => {
                let (auth, next_auth) = (tls.client_auth, next.client_auth);
                let asks_less = auth.is_mandatory() && !next_auth.is_mandatory();
                if asks_less || (auth.verifies() && !next_auth.verifies()) {
                    lost.push("clients' certificates (client_auth_type)");
                }
                if !tls.client_allowed_sans.is_empty() && next.client_allowed_sans.is_empty() {
                    lost.push("clients' names (client_allowed_sans)");
                }
                if next.min_version < tls.min_version {
                    lost.push("the oldest version of TLS (min_version)");
                }
            }
            (Some(_), None) => lost.push("TLS"),
            (None, _) => {}
        }
        lost
    }
}

/// The server's TLS settings.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerTls {
    /// The certificate chain.
    pub certificate: Pem,
    /// Its private key.
    pub key: Pem,
    /// The authorities that sign clients' certificates.
    pub client_ca: Option<Pem>,
    /// Whether clients need a certificate.
    pub client_auth: ClientAuth,
    /// If not empty, a client's certificate must have one of these names.
    pub client_allowed_sans: Vec<String>,
    /// The oldest version that is spoken.
    pub min_version: Version,
    /// The newest version that is spoken.
    pub max_version: Version,
    /// The cipher suites of TLS 1.2; empty means all. Those of TLS 1.3 cannot be chosen, as in Go.
    pub cipher_suites: Vec<CipherSuite>,
    /// The groups of key exchanges, the preferred one first; empty means all.
    pub curve_preferences: Vec<NamedGroup>,
    /// Whether the server's order of cipher suites counts.
    pub prefer_server_cipher_suites: bool,
}

/// PEM text, in a file or inline.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// In a file of its own.
    File(PathBuf),
    /// In the configuration.
    Inline(String),
}

/// Hides an inline key.
impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Inline(_) => f.write_str("Inline(..)"),
        }
    }
}

/// Whether clients need a certificate, by Go's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ClientAuth {
    NoClientCert,
    RequestClientCert,
    RequireAnyClientCert,
    VerifyClientCertIfGiven,
    RequireAndVerifyClientCert,
}

impl ClientAuth {
    /// Whether a client without a certificate is turned away.
    pub fn is_mandatory(self) -> bool {
        matches!(self, Self::RequireAnyClientCert | Self::RequireAndVerifyClientCert)
    }

    /// Whether a client's certificate has to be signed by one of the authorities.
    pub fn verifies(self) -> bool {
        matches!(self, Self::VerifyClientCertIfGiven | Self::RequireAndVerifyClientCert)
    }
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Version {
    Tls12,
    Tls13,
}

const CLIENT_AUTH: [(&str, ClientAuth); 6] = [
    ("NoClientCert", ClientAuth::NoClientCert),
    ("RequestClientCert", ClientAuth::RequestClientCert),
    ("RequireAnyClientCert", ClientAuth::RequireAnyClientCert),
    // An older name, which the toolkit takes too.
    ("RequireClientCert", ClientAuth::RequireAnyClientCert),
    ("VerifyClientCertIfGiven", ClientAuth::VerifyClientCertIfGiven),
    ("RequireAndVerifyClientCert", ClientAuth::RequireAndVerifyClientCert),
];

/// Go's cipher suites that ring supports.
const CIPHER_SUITES: [(&str, CipherSuite); 11] = [
    ("TLS_AES_128_GCM_SHA256", CipherSuite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", CipherSuite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

const CURVES: [(&str, NamedGroup); 3] = [
    ("CurveP256", NamedGroup::secp256r1),
    ("CurveP384", NamedGroup::secp384r1),
    ("X25519", NamedGroup::X25519),
];

/// The headers that the toolkit lets a file set.
const HEADERS: [&str; 5] = [
    "Content-Security-Policy",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
];

/// The highest accepted cost of a hash. Each step doubles the time to check a password; at this cost it takes
/// seconds.
const HIGHEST_COST: u32 = 16;

/// Reads the file's text. Each error begins with `name`; relative paths start at the file's directory.
pub fn from_web_yaml(name: &Path, text: &str) -> Result<(WebFile, Vec<String>), Error> {
    let shown = name.display().to_string();
    let decoder = Decoder::new(&shown);
    let root = yaml::parse_verbatim(&shown, text)?;
    let base = name.parent().unwrap_or(Path::new(""));
    // A misplaced line may be part of a private key, so no value is shown except where that is harmless.
    let file = decoder.root(&root).secret().section(|top| {
        let (headers, http2) = top.field("http_server_config").section(http).unwrap_or_default();
        if http2 == Some(true) {
            top.field("http_server_config")
                .warning("http2: has no effect: HTTP/1.1 is spoken, which every client of HTTP/2 speaks too");
        }
        let tls_field = top.field("tls_server_config");
        let tls = tls_field.section(|section| tls(section, base)).flatten();
        let users = top.field("basic_auth_users").entries().unwrap_or_default();
        let users = users.into_iter().filter_map(|(name, hash)| user(name, &hash)).collect();
        let rate_limit = top.field("rate_limit").section(rate_limit).flatten();
        WebFile { tls, headers, users, rate_limit }
    });
    decoder.finish(file.unwrap_or_default())
}

fn http(section: &Section<'_>) -> (Vec<(HeaderName, HeaderValue)>, Option<bool>) {
    let http2 = section.field("http2").boolean();
    let headers = section.field("headers").entries().unwrap_or_default();
    let headers = headers.into_iter().filter_map(|(name, field)| {
        let Some(known) = HEADERS.iter().find(|known| known.eq_ignore_ascii_case(name)) else {
            field.problem(
                Invalid::value("a header that cannot be set", name)
                    .hint(format!("these can: {}", HEADERS.join(", "))),
            );
            return None;
        };
        let value = field.parse(|text| {
            header_value(known, text)?;
            HeaderValue::from_str(text).map_err(|_| Invalid::new("not a header's value"))
        })?;
        Some((HeaderName::from_bytes(known.as_bytes()).ok()?, value))
    });
    (headers.collect(), http2)
}

fn rate_limit(section: &Section<'_>) -> Option<RateLimit> {
    let (interval_field, burst_field) = (section.field("interval"), section.field("burst"));
    let interval = interval_field.scalar().and_then(|scalar| match go_duration(&scalar.text) {
        Some(interval) => Some(interval),
        None => {
            interval_field.problem(
                Invalid::new("not a duration; it is not shown")
                    .hint("a number with a unit, for example 100ms or 1s"),
            );
            None
        }
    });
    let burst = burst_field.integer(0..=i64::from(u32::MAX)).and_then(|burst| u32::try_from(burst).ok());
    let interval = interval.filter(|interval| !interval.is_zero())?;
    match burst {
        Some(0) => {
            burst_field.problem(Invalid::new("no request would ever pass").hint("1 or more"));
            None
        }
        Some(burst) => Some(RateLimit { interval, burst }),
        None if burst_field.is_given() => None,
        None => {
            let hint = "add burst: how many requests may come at once";
            section.whole().problem(Invalid::new("an interval without burst").hint(hint));
            None
        }
    }
}

/// A duration as Go writes one: `1m30s`, `1.5s`, `0`.
fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    // The parser accepts all of Go's units, but also others, and spaces, which Go does not accept.
    let is_gos = |text: &&str| {
        text.bytes().all(|b| b.is_ascii_digit() || b"nusmh.".contains(&b)) || text.contains('µ')
    };
    let duration = Some(text).filter(is_gos)?.parse::<jiff::SignedDuration>().ok()?;
    Duration::try_from(duration).ok()
}

fn user(name: &str, field: &Field<'_>) -> Option<(String, String)> {
    const HINT: &str = "make one with: htpasswd -nBC 10 \"\"";
    if name.is_empty() || name.contains(':') {
        field.problem(Invalid::value("not a user's name", name).hint("not empty, and without a colon"));
        return None;
    }
    if !field.is_given() {
        field.problem(Invalid::new("a user without a password's hash").hint(HINT));
        return None;
    }
    let hash = field.parse(|text| {
        let parts = text.parse::<bcrypt::HashParts>().map_err(|_| {
            Invalid::new("not a bcrypt hash, which begins with $2a$, $2b$ or $2y$; it is not shown")
                .hint(HINT)
        })?;
        if !(4..=HIGHEST_COST).contains(&parts.get_cost()) {
            return Err(Invalid::value("a cost out of range", &parts.get_cost().to_string())
                .hint(format!("from 4 to {HIGHEST_COST}: each step doubles the time that a login takes")));
        }
        Ok(text.to_owned())
    })?;
    Some((name.to_owned(), hash))
}

fn tls(section: &Section<'_>, base: &Path) -> Option<ServerTls> {
    let pem = |inline: Field<'_>, file: Field<'_>, names: [&str; 2]| {
        let path = |text: &str| match text {
            "" => Err(Invalid::value("not a path", text).hint("leave the key out")),
            _ if text.contains("-----BEGIN") => {
                let message = "PEM text where a path is expected; it is not shown";
                Err(Invalid::new(message).hint(format!("{} takes the text itself", names[0])))
            }
            _ => Ok(Pem::File(base.join(text))),
        };
        if inline.is_given() && file.is_given() {
            file.problem(
                Invalid::new(format!("{} and {} are both given", names[0], names[1])).hint("one of them"),
            );
        }
        let text = inline.parse(|text| Ok(Pem::Inline(text.to_owned())));
        let file = file.parse(path);
        text.or(file)
    };
    let certificate = pem(section.field("cert"), section.field("cert_file"), ["cert", "cert_file"]);
    let key = pem(section.field("key"), section.field("key_file"), ["key", "key_file"]);
    let ca_field = section.field("client_ca_file");
    let client_ca = pem(section.field("client_ca"), ca_field.clone(), ["client_ca", "client_ca_file"]);
    let auth_field = section.field("client_auth_type");
    let auth = match auth_field.string() {
        // The toolkit accepts an empty value too.
        None | Some("") => ClientAuth::NoClientCert,
        Some(_) => auth_field.parse(|text| choice(text, "a kind of client authentication", &CLIENT_AUTH))?,
    };
    if client_ca.is_some() && auth == ClientAuth::NoClientCert {
        section.whole().problem(
            Invalid::new("authorities for clients, but no client has to show a certificate")
                .hint("add client_auth_type: RequireAndVerifyClientCert"),
        );
    }
    if client_ca.is_none() && auth.verifies() {
        auth_field.problem(
            Invalid::new("certificates are to be verified, but no authority is named")
                .hint("add client_ca_file"),
        );
    }
    let sans_field = section.field("client_allowed_sans");
    let sans = list(&sans_field, |text| match text {
        "" => Err(Invalid::value("not a name", text).hint("a DNS name, an IP address or a URI")),
        _ if text.contains('@') && !text.contains("://") => {
            Err(Invalid::new("e-mail addresses are not compared").hint("a DNS name, an IP address or a URI"))
        }
        _ => Ok(text.to_owned()),
    });
    if !sans.is_empty() && !auth.verifies() {
        sans_field.problem(
            Invalid::new("names of certificates that nobody verifies")
                .hint("add client_auth_type: RequireAndVerifyClientCert"),
        );
    }
    let version = |text: &str| match text {
        "TLS10" | "TLS11" => Err(Invalid::value("a version of TLS that is not spoken", text)
            .hint("TLS12 and TLS13 are; the older ones are no longer safe")),
        _ => choice(text, "a version of TLS", &[("TLS12", Version::Tls12), ("TLS13", Version::Tls13)]),
    };
    let min_version = section.field("min_version").parse(version).unwrap_or(Version::Tls12);
    let max_field = section.field("max_version");
    let max_version = max_field.parse(version).unwrap_or(Version::Tls13);
    if max_version < min_version {
        max_field.problem(Invalid::new("older than min_version").hint("leave one of them out"));
    }
    let cipher_suites = list(&section.field("cipher_suites"), |text| {
        choice(text, "a cipher suite that this program has", &CIPHER_SUITES)
    });
    let curve_preferences = list(&section.field("curve_preferences"), |text| {
        choice(text, "a curve that this program has", &CURVES)
    });
    let prefer_server_cipher_suites = section.field("prefer_server_cipher_suites").boolean().unwrap_or(true);
    if section.is_empty() {
        return None;
    }
    for [inline, name] in [["cert", "cert_file"], ["key", "key_file"]] {
        if !section.field(inline).is_given() && !section.field(name).is_given() {
            section.whole().problem(Invalid::new(format!("TLS without {name}")).hint(format!("add {name}")));
        }
    }
    Some(ServerTls {
        certificate: certificate?,
        key: key?,
        client_ca,
        client_auth: auth,
        client_allowed_sans: sans,
        min_version,
        max_version,
        cipher_suites,
        curve_preferences,
        prefer_server_cipher_suites,
    })
}

/// Finds the choice whose name is `text`.
fn choice<T: Copy>(text: &str, what: &str, choices: &[(&'static str, T)]) -> Result<T, Invalid> {
    values::choice(text, what, choices).map_err(|_| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        Invalid::new(format!("not {what}; it is not shown")).hint(format!("one of {}", listed(&names)))
    })
}

fn list<T>(field: &Field<'_>, parse: impl Fn(&str) -> Result<T, Invalid>) -> Vec<T> {
    field.items().unwrap_or_default().iter().filter_map(|item| item.parse(&parse)).collect()
}
