//! Files that are none: in the place of every file that a user can name.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::{Value, json};

use crate::program::{program, run};
use crate::support::certificates::Authority;

/// A directory with good files, and with what may stand in the place of one.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self { directory: tempfile::tempdir().unwrap() };
        mkfifoat(CWD, files.path("fifo"), Mode::RWXU).unwrap();
        symlink(files.path("fifo"), files.path("link")).unwrap();
        std::fs::create_dir(files.path("directory")).unwrap();
        File::create(files.path("huge")).unwrap().set_len(1 << 40).unwrap();
        let authority = Authority::new();
        authority.write(&files.path("ca.pem"));
        authority.sign(&files.path("cert.pem"), &files.path("key.pem"));
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What is no file to read, and how it is called.
    fn bad(&self) -> [(PathBuf, &'static str); 5] {
        [
            ("/dev/zero".into(), "it is a device, not a regular file"),
            (self.path("fifo"), "it is a pipe, not a regular file"),
            (self.path("link"), "it is a pipe, not a regular file"),
            (self.path("directory"), "it is a directory, not a regular file"),
            (self.path("huge"), "it is larger than 16 MiB"),
        ]
    }

    /// A configuration file. JSON is YAML too.
    fn write(&self, name: &str, content: &Value) -> String {
        let path = self.path(name);
        std::fs::write(&path, content.to_string()).unwrap();
        path.display().to_string()
    }

    /// Three files for TLS under these names, one of which is replaced.
    fn tls(&self, names: [&str; 3], replaced: usize, by: &Path) -> Value {
        let good = ["ca.pem", "cert.pem", "key.pem"].map(|name| self.path(name));
        let mut tls = json!({});
        for (i, (name, good)) in names.into_iter().zip(good).enumerate() {
            tls[name] = json!(if i == replaced { by } else { &good });
        }
        tls
    }
}

/// Arguments, and a variable that names a file.
type Way = (Vec<String>, Option<(&'static str, PathBuf)>);

/// Every way to name a file.
fn ways(files: &Files, bad: &Path) -> Vec<Way> {
    let named = bad.display().to_string();
    let check = |name: String, content: &Value| (vec!["check".to_owned(), files.write(&name, content)], None);
    let mut ways = vec![
        (vec!["check".to_owned(), named.clone()], None),
        (vec!["--config".to_owned(), named.clone()], None),
        (vec!["once".to_owned(), "--config".to_owned(), named], None),
        (vec!["healthcheck".to_owned()], Some(("OTEL_CONFIG_FILE", bad.to_owned()))),
        check("a.yaml".into(), &json!({"web": {"config_file": bad}})),
    ];
    let otlp = |kind: &str, tls: Value| {
        let exporter = json!({kind: {"endpoint": "https://localhost:1", "tls": tls}});
        json!({"meter_provider": {"readers": [{"periodic": {"exporter": exporter}}]}})
    };
    for replaced in 0..3 {
        let tls = files.tls(["ca_file", "cert_file", "key_file"], replaced, bad);
        let docker = json!({"docker": {"host": "tcp://localhost:1", "tls": tls}});
        ways.push(check(format!("docker-{replaced}.yaml"), &docker));
        for kind in ["otlp_grpc", "otlp_http"] {
            ways.push(check(format!("{kind}-{replaced}.yaml"), &otlp(kind, tls.clone())));
        }
        let mut server = files.tls(["client_ca_file", "cert_file", "key_file"], replaced, bad);
        server["client_auth_type"] = json!("RequireAndVerifyClientCert");
        let web = files.write(&format!("web-{replaced}.yaml"), &json!({"tls_server_config": server}));
        ways.push(check(format!("server-{replaced}.yaml"), &json!({"web": {"config_file": web}})));
    }
    for kind in ["otlp_grpc", "otlp_http"] {
        let (arguments, _) = check(format!("system-{kind}.yaml"), &otlp(kind, json!({})));
        ways.push((arguments, Some(("SSL_CERT_FILE", bad.to_owned()))));
    }
    ways
}

#[test]
fn what_is_no_regular_file_is_refused_wherever_it_is_named() {
    let files = Files::new();
    for (bad, expected) in files.bad() {
        for (arguments, env) in ways(&files, &bad) {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let mut command = program(&arguments);
            command.envs(env.clone());
            let output = run(command);
            let why = String::from_utf8_lossy(&output.stderr);
            assert!(matches!(output.status.code(), Some(1 | 2)), "{arguments:?}: {}: {why}", output.status);
            assert!(
                why.contains(&format!("{}: ", bad.display())) && why.contains(expected),
                "{arguments:?}, {env:?}: {why}"
            );
        }
    }
}
