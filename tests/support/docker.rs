//! A private Docker Engine, and a recorder of its events. Its programs are the machine's own, or those in the root
//! directory that `DSE_DOCKER_ROOT` names: `DSE_DOCKER_ROOT=$(scripts/engine-root docker 28) cargo test --test
//! engine`.
//!
//! It runs in a namespace of its own (`namespace.rs`): when the test process ends, in whatever way, the kernel ends
//! dockerd, containerd and every container, and drops every mount.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::certificates::Authority;
use super::eventually;
use super::exporter::free_address;
pub(crate) use super::namespace::program;
use super::namespace::{Namespace, busybox_tar, engine_root};

/// How long the engine may take to start, and to stop.
const DEADLINE: Duration = Duration::from_secs(60);

/// The image that all containers are of: busybox, and a link for each of its applets.
pub(crate) const IMAGE: &str = "busybox:test";

/// The memory limit at which `FILL` is killed.
pub(crate) const LIMIT: [&str; 4] = ["--memory", "16m", "--memory-swap", "16m"];

/// Fills more memory than the container may have, in one process: the kernel would kill several one after the other,
/// each with an event. The engine misses an OOM kill in the container's first moment, and loses one in its last, so
/// there is a second before and one after (without them two of thirty were missed on a busy machine).
pub(crate) const FILL: [&str; 3] =
    ["sh", "-c", "sleep 1; dd if=/dev/zero of=/dev/null bs=64M; code=$?; sleep 1; exit $code"];

/// Where the engine and its command line client are.
fn root() -> String {
    engine_root("DSE_DOCKER_ROOT", &[("dockerd", "docker.io"), ("docker", "docker.io")])
}

/// A running engine. Dropping it removes its containers, ends it and deletes its directory.
pub(crate) struct Docker {
    namespace: Namespace,
    /// dockerd's process id in the namespace, while it runs.
    daemon: Option<String>,
    /// The address where it also listens with TLS.
    tls: SocketAddr,
}

impl Docker {
    /// Starts an engine and imports the image. If a program is missing on the machine, the test fails and names it.
    pub(crate) fn start() -> Self {
        Self::start_in(Namespace::in_root("dse-engine-", &root()))
    }

    /// The same in a network namespace of its own, because a Swarm makes bridges and takes fixed ports. The calling
    /// thread joins that namespace.
    pub(crate) fn start_in_its_own_network() -> Self {
        Self::start_in(Namespace::with_network("dse-engine-", &root()))
    }

    fn start_in(namespace: Namespace) -> Self {
        let mut docker = Self { namespace, daemon: None, tls: free_address() };
        docker.make_certificates();
        docker.start_daemon();
        println!("the engine under test: {}", docker.api().versions().unwrap());
        docker.import_image();
        docker
    }

    /// Where the engine has its socket, its data and its log.
    pub(crate) fn directory(&self) -> &Path {
        self.namespace.directory()
    }

    /// The socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory().join("docker.sock")
    }

    /// The socket's group, which gives access to users other than root.
    pub(crate) fn socket_group(&self) -> String {
        fs::metadata(self.socket()).unwrap().gid().to_string()
    }

    /// The socket as `DOCKER_HOST` has it.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Its address for clients with a certificate of `certificates()`.
    pub(crate) fn tls_address(&self) -> SocketAddr {
        self.tls
    }

    /// `ca.pem`, `cert.pem` and `key.pem`, as the docker command has them.
    pub(crate) fn certificates(&self) -> PathBuf {
        self.directory().join("certificates")
    }

    fn make_certificates(&self) {
        let (authority, at) = (Authority::new(), self.certificates());
        fs::create_dir(&at).unwrap();
        authority.write(&at.join("ca.pem"));
        authority.sign(&at.join("cert.pem"), &at.join("key.pem"));
        authority.sign(&at.join("server-cert.pem"), &at.join("server-key.pem"));
    }

    /// Starts dockerd, the first time or again, and waits until it answers.
    pub(crate) fn start_daemon(&mut self) {
        self.launch_daemon(&[]);
        // Not with `eventually`: the failure has to show the engine's log.
        let deadline = std::time::Instant::now() + DEADLINE;
        while self.try_run(&["version"]).is_err() {
            if std::time::Instant::now() > deadline {
                panic!("dockerd does not answer; its log:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Starts dockerd with more options, and does not wait.
    pub(crate) fn launch_daemon(&mut self, options: &[&str]) {
        assert!(self.daemon.is_none(), "dockerd runs already");
        let at = self.directory().display().to_string();
        let command = format!(
            "dockerd --host unix://{at}/docker.sock --host tcp://{} --tlsverify \
             --tlscacert {at}/certificates/ca.pem --tlscert {at}/certificates/server-cert.pem \
             --tlskey {at}/certificates/server-key.pem --data-root {at}/data --exec-root {at}/exec --pidfile {at}/pid --bridge none --iptables=false {} >>{at}/log 2>&1 & echo $!",
            self.tls,
            options.join(" ")
        );
        self.daemon =
            Some(self.command(&command, DEADLINE).unwrap_or_else(|error| panic!("dockerd: {error}")));
    }

    /// Kills a process of a container behind the engine's back; the id is the one that `docker inspect` shows.
    pub(crate) fn kill_process(&mut self, id: i64) {
        let status = self.command(&format!("kill -KILL {id}; echo $?"), DEADLINE).unwrap();
        assert_eq!(status, "0", "kill {id}");
    }

    /// Sends a signal to dockerd: `TERM`, `STOP`, `CONT`…
    pub(crate) fn signal_daemon(&mut self, signal: &str) {
        let daemon = self.daemon.clone().expect("dockerd does not run");
        self.command(&format!("kill -{signal} {daemon}; echo $?"), DEADLINE).unwrap();
    }

    /// Ends dockerd with a signal, `TERM` or `KILL`, and waits until it has gone.
    pub(crate) fn stop_daemon(&mut self, signal: &str) {
        let daemon = self.daemon.take().expect("dockerd does not run");
        let command = format!("kill -{signal} {daemon}; wait {daemon}; echo $?");
        self.command(&command, DEADLINE).unwrap_or_else(|error| panic!("dockerd does not end: {error}"));
    }

    /// What dockerd and containerd have logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory().join("log")).unwrap_or_default()
    }

    /// Has the namespace's shell run a command that prints one line.
    fn command(&mut self, command: &str, deadline: Duration) -> Result<String, String> {
        self.namespace.command(command, deadline)
    }

    /// The command line client with its environment set to this engine.
    pub(crate) fn client<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = self.namespace.program("docker");
        self.with_environment(command.args(arguments));
        command
    }

    /// Sets the environment that a command needs to reach this engine through the command line client.
    pub(crate) fn with_environment<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.env("DOCKER_HOST", self.host());
        // A context or a configuration of the user who runs the tests has no effect here.
        command.env("DOCKER_CONFIG", self.directory()).env_remove("DOCKER_CONTEXT");
        for variable in ["DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION"] {
            command.env_remove(variable);
        }
        command
    }

    /// Runs `docker` with these arguments; returns what it printed, trimmed, or what it complained of.
    pub(crate) fn try_run<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<String, String> {
        let output =
            self.client(arguments).stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }

    /// Runs `docker` with these arguments, which must succeed.
    #[track_caller]
    pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> String {
        self.try_run(arguments).unwrap_or_else(|error| {
            let arguments: Vec<_> = arguments.iter().map(AsRef::as_ref).collect();
            panic!("docker {arguments:?}: {error}")
        })
    }

    /// Runs a container in the background; `options` come before the image, `command` after it.
    #[track_caller]
    pub(crate) fn container(&self, name: &str, options: &[&str], command: &[&str]) -> String {
        let begin = ["run", "--detach", "--network", "none", "--name", name];
        self.run(&[&begin, options, &[IMAGE], command].concat())
    }

    /// The API itself, without the docker command between.
    pub(crate) fn api(&self) -> Api {
        Api::new(self.socket())
    }

    /// What `docker inspect` says of every container, in the order of the list. One that goes away meanwhile is
    /// not among them.
    pub(crate) fn inspect_all(&self) -> Vec<Value> {
        self.api().inspect_all().unwrap_or_else(|error| panic!("{error}"))
    }

    /// What `docker inspect` says of one container.
    #[track_caller]
    pub(crate) fn inspect(&self, name: &str) -> Value {
        let all: Value = serde_json::from_str(&self.run(&["inspect", "--type", "container", name])).unwrap();
        all[0].clone()
    }

    /// Makes a container dead: the engine fails to remove it, and sends no event of that. Once the result is dropped,
    /// it can be removed.
    pub(crate) fn make_dead(&self, name: &str) -> Immutable {
        let id = self.container(name, &[], &["sleep", "100000"]);
        let guard = Immutable::new(self.directory().join("data/containers").join(&id).join("hostname"));
        self.try_run(&["rm", "--force", name]).expect_err("it cannot be removed");
        self.wait_for(name, "/State/Status", "dead");
        guard
    }

    /// Waits until `docker inspect` of a container has this value at a JSON pointer.
    #[track_caller]
    pub(crate) fn wait_for(&self, name: &str, pointer: &str, wanted: impl Into<Value>) {
        let wanted = wanted.into();
        eventually(DEADLINE, || match self.inspect(name).pointer(pointer) {
            Some(value) if *value == wanted => Ok(()),
            other => Err(format!("{name}: {pointer} is {other:?}, not {wanted}")),
        });
    }

    /// Removes every container.
    pub(crate) fn remove_all(&self) -> Result<(), String> {
        let ids = self.try_run(&["ps", "--all", "--quiet", "--no-trunc"])?;
        let ids: Vec<_> = ids.lines().collect();
        if !ids.is_empty() {
            self.try_run(&[&["rm", "--force", "--volumes"], &ids[..]].concat())?;
        }
        Ok(())
    }

    fn import_image(&self) {
        let tar = busybox_tar(self.directory());
        self.run(&["import".as_ref(), tar.as_os_str(), IMAGE.as_ref()]);
        self.try_run(&["run", "--rm", "--network", "none", IMAGE, "/bin/true"]).unwrap_or_else(|error| {
            panic!("{IMAGE} does not run; is busybox the static one (Debian's busybox-static)? {error}")
        });
        fs::remove_file(tar).unwrap();
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let mut complaints = Vec::new();
        if let Some(daemon) = self.daemon.take() {
            // A test that failed may have left it stopped.
            let _ = self.command(&format!("kill -CONT {daemon}; echo $?"), DEADLINE);
            complaints.extend(self.remove_all().err());
            let command = format!("kill -TERM {daemon}; wait {daemon}; echo $?");
            complaints.extend(self.command(&command, DEADLINE).err());
        }
        if !complaints.is_empty() {
            eprintln!("the engine did not end as it should: {complaints:#?}");
        }
    }
}

/// A file that cannot be deleted, by `chattr +i`. Dropping this undoes it.
pub(crate) struct Immutable(PathBuf);

impl Immutable {
    fn new(path: PathBuf) -> Self {
        chattr("+i", &path);
        Self(path)
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        chattr("-i", &self.0);
    }
}

fn chattr(change: &str, path: &Path) {
    let status = Command::new(program("chattr", "e2fsprogs")).arg(change).arg(path).status().unwrap();
    assert!(status.success(), "chattr {change} {}: {status}", path.display());
}

/// The engine's API over its socket, which the docker command uses too: the JSON that it prints comes from here. A
/// call costs the engine's time only, and no process.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    socket: PathBuf,
}

impl Api {
    /// The API at this socket; it need not be there yet.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// A request with its own connection: the status and the whole body.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, String), String> {
        let exchange = || -> std::io::Result<String> {
            let mut stream = UnixStream::connect(&self.socket)?;
            stream.set_read_timeout(Some(DEADLINE))?;
            stream.set_write_timeout(Some(DEADLINE))?;
            let body = body.map(Value::to_string).unwrap_or_default();
            // HTTP/1.0 has neither chunks nor a second request: the answer ends with the connection.
            let head = "Host: docker\r\nContent-Type: application/json";
            let length = body.len();
            write!(stream, "{method} {path} HTTP/1.0\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = exchange().map_err(|error| format!("{method} {path}: {error}"))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| format!("{method} {path}: no status in {head:?}"))?;
        Ok((status, body.to_owned()))
    }

    /// A GET that has to succeed.
    pub(crate) fn get(&self, path: &str) -> Result<Value, String> {
        match self.send("GET", path, None)? {
            (200, body) => serde_json::from_str(&body).map_err(|error| format!("GET {path}: {error}")),
            (status, body) => Err(format!("GET {path}: {status}: {body}")),
        }
    }

    /// The names and versions of the engine and its components.
    pub(crate) fn versions(&self) -> Result<String, String> {
        let version = self.get("/version")?;
        let component = |component: &Value| {
            let text =
                |key: &str| component[key].as_str().unwrap_or_default().lines().next().unwrap_or_default();
            format!("{} {}", text("Name"), text("Version"))
        };
        let components = version["Components"].as_array().ok_or("the version has no components")?;
        let components: Vec<_> = components.iter().map(component).collect();
        Ok(format!("API {}, {}", version["ApiVersion"], components.join(", ")))
    }

    /// See [`Docker::inspect_all`].
    pub(crate) fn inspect_all(&self) -> Result<Vec<Value>, String> {
        let list = self.get("/containers/json?all=1")?;
        let mut inspects = Vec::new();
        for container in list.as_array().ok_or("the list is none")? {
            let path = format!("/containers/{}/json", container["Id"].as_str().ok_or("no id in the list")?);
            match self.send("GET", &path, None)? {
                (200, body) => inspects.push(serde_json::from_str(&body).map_err(|error| error.to_string())?),
                (404, _) => {}
                (status, body) => return Err(format!("GET {path}: {status}: {body}")),
            }
        }
        Ok(inspects)
    }
}

/// Records every event of an engine, from its own connection and by nothing but sockets.
pub(crate) struct Recorder {
    events: Arc<Mutex<Vec<Value>>>,
    stream: UnixStream,
    reader: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Begins to record. Nothing that happens after this is missed.
    pub(crate) fn start(docker: &Docker) -> Self {
        let mut stream = UnixStream::connect(docker.socket()).unwrap();
        // The engine answers before it subscribes. `since` makes it send the events in between.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let since = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
        // HTTP/1.0 has no chunks: what follows the headers is a line for each event.
        write!(stream, "GET /events?since={since} HTTP/1.0\r\nHost: docker\r\n\r\n").unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap());
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(lines.read_line(&mut head).unwrap(), 0, "the events end in their headers: {head}");
        }
        assert!(head.starts_with("HTTP/1.0 200"), "{head}");
        let events = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&events);
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            while lines.read_line(&mut text).is_ok_and(|length| length > 0) {
                record.lock().unwrap().push(serde_json::from_str(&text).unwrap());
                text.clear();
            }
            // The rest is an event that was cut off when the connection ended.
            let _ = lines.read_to_string(&mut text);
        });
        Self { events, stream, reader: Some(reader) }
    }

    /// The events so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.events.lock().unwrap().clone()
    }

    /// Waits until everything that has happened on the engine is recorded, by making one more event.
    pub(crate) fn catch_up(&self, docker: &Docker) -> Vec<Value> {
        let before = self.events().len();
        let id = docker.run(&["create", "--name", "catch-up", IMAGE, "/bin/true"]);
        docker.run(&["rm", "catch-up"]);
        eventually(DEADLINE, || {
            let events = self.events();
            let seen = events[before..].iter().any(|e| e["Action"] == "destroy" && e["Actor"]["ID"] == *id);
            if seen { Ok(events) } else { Err("the recorder has not seen the end") }
        })
        .0
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
