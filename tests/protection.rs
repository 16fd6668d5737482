//! What protects the server stays, whatever becomes of the files that ask for it: of TLS, clients' certificates and
//! passwords each is taken away in each way, while the exporter runs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fake_engine::{Container, FakeEngine};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use support::certificates::Authority;
use support::eventually;
use support::exporter::{Exporter, Setup};

const DEADLINE: Duration = Duration::from_secs(20);

/// How a client asks.
#[derive(Clone, Copy)]
struct Client<'c> {
    /// Whether it speaks TLS.
    tls: bool,
    /// Whether it shows a certificate of the right authority.
    certificate: bool,
    password: Option<&'c str>,
}

/// The files of an exporter, and the exporter.
struct Protected {
    directory: tempfile::TempDir,
    exporter: Exporter,
    _engine: FakeEngine,
}

impl Protected {
    fn start(content: &Value) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let authority = Authority::new();
        authority.write(&path("ca.pem"));
        for name in ["server", "client"] {
            authority.sign(&path(&format!("{name}.pem")), &path(&format!("{name}-key.pem")));
        }
        let web = path("web.yaml");
        fs::write(&web, content.to_string()).unwrap();
        let engine = FakeEngine::start().unwrap();
        engine.add(Container::new("web"));
        let exporter = Setup::new(&engine.host()).set("/web/config_file", web.to_str().unwrap()).spawn();
        eventually(DEADLINE, || TcpStream::connect(exporter.address()).map_err(|error| error.to_string()));
        Self { directory, exporter, _engine: engine }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The status that a client is answered with; an error where it is not answered.
    fn ask(&self, client: Client<'_>) -> Result<u16, String> {
        let stream = TcpStream::connect(self.exporter.address()).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut request = "GET /metrics HTTP/1.0\r\nHost: x\r\n".to_owned();
        if let Some(password) = client.password {
            let encoded = STANDARD.encode(format!("alice:{password}"));
            request.push_str(&format!("Authorization: Basic {encoded}\r\n"));
        }
        request.push_str("\r\n");
        let answer = if client.tls {
            let config = self.client_config(client.certificate);
            let name = ServerName::try_from("localhost").unwrap();
            let connection = ClientConnection::new(Arc::new(config), name).unwrap();
            say(StreamOwned::new(connection, stream), &request)
        } else {
            say(stream, &request)
        };
        let answer = answer.map_err(|error| error.to_string())?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.ok_or_else(|| format!("no HTTP: {answer:?}"))
    }

    fn client_config(&self, with_certificate: bool) -> ClientConfig {
        let certificate = |name| CertificateDer::from_pem_file(self.path(name)).unwrap();
        let mut roots = RootCertStore::empty();
        // Copies: those that the exporter reads are taken away.
        roots.add(certificate("trusted.pem")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        if with_certificate {
            let key = PrivateKeyDer::from_pem_file(self.path("client-key.pem")).unwrap();
            builder.with_client_auth_cert(vec![certificate("client.pem")], key).unwrap()
        } else {
            builder.with_no_client_auth()
        }
    }
}

fn say(mut stream: impl Read + Write, request: &str) -> std::io::Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    // A server that closes without the end of TLS has still answered.
    match stream.read_to_end(&mut answer) {
        Err(error) if answer.is_empty() => Err(error),
        _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

/// A way in which a file stops saying what it said. Where it was, there is nothing when it is called.
type Way = (&'static str, fn(&Path, &[u8]));

const WAYS: [Way; 7] = [
    ("empty", |path, _| fs::write(path, "").unwrap()),
    // After it said nothing, too.
    ("vanished", |_, _| {}),
    ("a line feed", |path, _| fs::write(path, "\n").unwrap()),
    ("cut off", |path, content| fs::write(path, &content[..content.len() / 2]).unwrap()),
    ("a directory", |path, _| fs::create_dir(path).unwrap()),
    ("a pipe", |path, _| {
        let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
        assert!(made.success());
    }),
    ("not UTF-8", |path, _| fs::write(path, b"\xff\xfe\x00").unwrap()),
];

fn remove(path: &Path) {
    if path.is_dir() {
        fs::remove_dir(path).unwrap();
    } else if path.exists() {
        fs::remove_file(path).unwrap();
    }
}

/// Takes the content of each file away in each way, and puts `others` in the place of the web configuration, and sees
/// each time that `allowed` is answered and `denied` are not, and that the log tells of it.
fn stays(content: &Value, others: &[&str], files: &[&str], allowed: Client<'_>, denied: &[Client<'_>]) {
    let protected = Protected::start(content);
    fs::copy(protected.path("ca.pem"), protected.path("trusted.pem")).unwrap();
    let check = |when: &str| {
        assert_eq!(protected.ask(allowed), Ok(200), "{when}");
        for client in denied {
            let status = protected.ask(*client);
            assert!(!matches!(status, Ok(200..=399)), "{when}: {status:?}");
        }
    };
    // It looks at its files when somebody asks, once a second at most.
    let changed = |expected: &str, when: &str, change: &dyn Fn()| {
        let told = || protected.exporter.log().matches(expected).count();
        let before = told();
        change();
        eventually(DEADLINE, || {
            let _ = protected.ask(allowed);
            if told() > before { Ok(()) } else { Err(format!("{when}: not in the log")) }
        });
        check(when);
    };
    check("at the start");
    for file in files {
        let path = protected.path(file);
        let original = fs::read(&path).unwrap();
        for (way, change) in WAYS {
            changed("cannot be used; the last one stays", &format!("{file}, {way}"), &|| {
                remove(&path);
                change(&path, &original);
            });
        }
        for text in others.iter().filter(|_| *file == "web.yaml") {
            changed("cannot be used; the last one stays", text, &|| fs::write(&path, text).unwrap());
        }
        changed("took over the web configuration", &format!("{file}, as before"), &|| {
            remove(&path);
            fs::write(&path, &original).unwrap();
        });
    }
    protected.exporter.stop();
}

const ALL: Client<'_> = Client { tls: true, certificate: true, password: Some("a") };

#[test]
fn passwords_stay() {
    let content = json!({"basic_auth_users": {"alice": bcrypt::hash("a", 4).unwrap()}});
    let others = [
        "{}",
        "basic_auth_users:\n",
        "basic_auth_users: {}\n",
        "# nobody\n---\n",
        "http_server_config: {headers: {X-Frame-Options: DENY}}",
    ];
    let client = Client { tls: false, certificate: false, password: Some("a") };
    let denied = [Client { password: None, ..client }, Client { password: Some("b"), ..client }];
    stays(&content, &others, &["web.yaml"], client, &denied);
}

#[test]
fn tls_stays() {
    let content = json!({"tls_server_config": {"cert_file": "server.pem", "key_file": "server-key.pem"}});
    let others = ["{}", "tls_server_config: {}", "tls_server_config:\n", "basic_auth_users: {}"];
    let client = Client { certificate: false, password: None, ..ALL };
    let denied = [Client { tls: false, ..client }];
    stays(&content, &others, &["web.yaml", "server.pem", "server-key.pem"], client, &denied);
}

#[test]
fn certificates_of_clients_stay() {
    let tls = "cert_file: server.pem, key_file: server-key.pem";
    let verified = "client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.pem";
    let content = json!({"tls_server_config": {
        "cert_file": "server.pem", "key_file": "server-key.pem", "client_ca_file": "ca.pem",
        "client_auth_type": "RequireAndVerifyClientCert", "client_allowed_sans": ["localhost"],
    }});
    let others = [
        "{}".to_owned(),
        format!("tls_server_config: {{{tls}}}"),
        format!("tls_server_config: {{{tls}, client_auth_type: RequireAnyClientCert}}"),
        format!(
            "tls_server_config: {{{tls}, client_auth_type: VerifyClientCertIfGiven, client_ca_file: ca.pem}}"
        ),
        format!("tls_server_config: {{{tls}, {verified}}}"),
        format!("tls_server_config: {{{tls}, {verified}, client_allowed_sans: []}}"),
    ];
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let client = Client { password: None, ..ALL };
    let denied = [Client { certificate: false, ..client }, Client { tls: false, ..client }];
    stays(&content, &others, &["web.yaml", "ca.pem"], client, &denied);
}

/// An exporter that is started anew cannot know what its file said before.
#[test]
fn a_file_that_says_nothing_ends_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let web = directory.path().join("web.yaml");
    let config = directory.path().join("config.yaml");
    fs::write(&config, json!({"web": {"config_file": web}}).to_string()).unwrap();
    for text in ["", "\n", "# users\n", "---\n"] {
        fs::write(&web, text).unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_docker-state-exporter"))
            .arg("check")
            .arg(&config)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text:?}: {said}");
        assert!(said.contains(&format!("{}: is empty\nhint: ", web.display())), "{said}");
    }
}
