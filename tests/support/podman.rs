//! A private Podman with its API service, and a recorder of its events. Its programs are the machine's own, or those
//! in the root directory that `DSE_PODMAN_ROOT` names: `DSE_PODMAN_ROOT=$(scripts/engine-root podman 5.8) cargo test
//! --test podman`.
//!
//! It runs in a namespace of its own (`namespace.rs`), with its own storage, locks and runtime directories. Podman
//! has no daemon: the service and each `podman` command do their work by themselves, side by side, and so the
//! commands run in the namespace too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::docker::Api;
use super::eventually;
use super::namespace::{Namespace, busybox_tar, engine_root, script};

/// How long a command may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// The image that all containers are of.
pub(crate) const IMAGE: &str = "localhost/busybox:test";

/// A Podman with its service. Dropping it removes its containers, ends it and deletes its directory.
pub(crate) struct Podman {
    namespace: Mutex<Namespace>,
    directory: PathBuf,
    /// The first two numbers of its version.
    version: (u32, u32),
    /// The service's process id in the namespace, while it runs.
    service: Mutex<Option<String>>,
    /// Dropped after the namespace, whose processes may still be in this control group.
    cgroup: Cgroup,
}

impl Podman {
    /// Starts the service and imports the image. If a program is missing on the machine, the test fails and names it.
    pub(crate) fn start() -> Self {
        let programs = [("podman", "podman"), ("conmon", "conmon"), ("runc", "runc")];
        let namespace = Namespace::in_root("dse-podman-", &engine_root("DSE_PODMAN_ROOT", &programs));
        let directory = namespace.directory().to_owned();
        let cgroup = Cgroup(directory.file_name().unwrap().to_str().unwrap().to_owned());
        let mut podman = Self {
            namespace: Mutex::new(namespace),
            directory,
            version: (0, 0),
            service: Mutex::default(),
            cgroup,
        };
        podman.configure("1m");
        assert_eq!(podman.command(". ./environment; echo $?"), "0", "the environment in the namespace");
        let tar = busybox_tar(&podman.directory);
        podman.run(&["import", tar.to_str().unwrap(), IMAGE]);
        fs::remove_file(tar).unwrap();
        podman.start_service(&["--time", "0"]);
        let api = Api::new(podman.socket());
        println!("the engine under test: {}", api.versions().unwrap());
        let version = api.get("/version").unwrap();
        let mut numbers =
            version["Version"].as_str().unwrap().split('.').map(|number| number.parse().unwrap());
        podman.version = (numbers.next().unwrap(), numbers.next().unwrap());
        podman
    }

    /// Writes its configuration; its event log is rotated at this size.
    pub(crate) fn configure(&self, event_log_size: &str) {
        let status =
            Command::new(script("podman-settings")).arg(&self.directory).arg(event_log_size).status();
        assert!(status.unwrap().success(), "podman-settings");
    }

    /// The directory of all its files.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The service's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("podman.sock")
    }

    /// The socket as `DOCKER_HOST` has it.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Starts the service with these options, the first time or again, and waits until it answers.
    pub(crate) fn start_service(&self, options: &[&str]) {
        let mut service = self.service.lock().unwrap();
        assert!(service.is_none(), "the service runs already");
        let command = format!(
            "podman system service {} {} >>service.log 2>&1 </dev/null & echo $!",
            quoted(options),
            self.host()
        );
        *service = Some(self.command(&command));
        let api = Api::new(self.socket());
        eventually(DEADLINE, || match api.send("GET", "/_ping", None) {
            Ok((200, _)) => Ok(()),
            Ok((status, body)) => Err(format!("{status}: {body}")),
            Err(error) => Err(format!("{error}; its log:\n{}", self.log())),
        });
    }

    /// Ends the service with a signal, `TERM` or `KILL`. Its containers go on.
    pub(crate) fn stop_service(&self, signal: &str) {
        let service = self.service.lock().unwrap().take().expect("the service does not run");
        self.command(&format!("{{ kill -{signal} {service}; wait {service}; }} 2>/dev/null; echo $?"));
    }

    /// Starts the service if a failed test has left it stopped.
    pub(crate) fn ensure_service(&self) {
        if self.service.lock().unwrap().is_none() {
            self.start_service(&["--time", "0"]);
        }
    }

    /// Whether the service still runs.
    pub(crate) fn service_runs(&self) -> bool {
        let service = self.service.lock().unwrap().clone().expect("the service was not started");
        self.command(&format!("kill -0 {service} 2>/dev/null; echo $?")) == "0"
    }

    /// Whether there is a memory controller: if cgroups of both versions are mounted, it may belong to version 1,
    /// which Podman 6 does not support.
    pub(crate) fn can_limit_memory(&self) -> bool {
        let controllers = "/sys/fs/cgroup/cgroup.controllers";
        let command = format!(
            "if [ -e {controllers} ]; then case \" $(cat {controllers}) \" in *' memory '*) echo 0 ;; \
             *) echo 1 ;; esac; else echo 0; fi"
        );
        self.command(&command) == "0"
    }

    /// What the service has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.join("service.log")).unwrap_or_default()
    }

    fn command(&self, command: &str) -> String {
        let reply = self.namespace.lock().unwrap().command(command, DEADLINE * 2);
        reply.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Runs `podman` with these arguments; returns what it printed, trimmed, or what it complained of.
    pub(crate) fn try_run(&self, arguments: &[&str]) -> Result<String, String> {
        self.try_run_in(&self.directory, arguments)
    }

    /// The same, in another working directory.
    pub(crate) fn try_run_in(&self, working: &Path, arguments: &[&str]) -> Result<String, String> {
        let at = self.directory.display();
        let status = self.command(&format!(
            "(cd {} && timeout --kill-after 5 {} podman {}) >{at}/stdout 2>{at}/stderr </dev/null; echo $?",
            working.display(),
            DEADLINE.as_secs(),
            quoted(arguments)
        ));
        let read = |name: &str| {
            String::from_utf8_lossy(&fs::read(self.directory.join(name)).unwrap()).trim().to_owned()
        };
        match status.as_str() {
            "0" => Ok(read("stdout")),
            _ => Err(format!("exit code {status}: {}", read("stderr"))),
        }
    }

    /// Runs `podman` with these arguments, which must succeed.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        self.try_run(arguments).unwrap_or_else(|error| panic!("podman {arguments:?}: {error}"))
    }

    /// Starts `podman` with these arguments, and does not wait.
    pub(crate) fn start_in_background(&self, arguments: &[&str]) {
        self.command(&format!("podman {} >/dev/null 2>&1 </dev/null & echo $!", quoted(arguments)));
    }

    /// The first two numbers of its version.
    pub(crate) fn version(&self) -> (u32, u32) {
        self.version
    }

    /// Makes a container; `options` come before the image, `command` after it.
    #[track_caller]
    pub(crate) fn create(&self, name: &str, options: &[&str], command: &[&str]) -> String {
        let begin = ["create", "--cgroup-parent", &self.cgroup.0, "--name", name];
        self.run(&[&begin, options, &[IMAGE], command].concat())
    }

    /// Runs a container in the background.
    #[track_caller]
    pub(crate) fn container(&self, name: &str, options: &[&str], command: &[&str]) -> String {
        let begin = ["run", "--detach", "--cgroup-parent", &self.cgroup.0, "--name", name];
        self.run(&[&begin, options, &[IMAGE], command].concat())
    }

    /// Makes a pod. Its infra container is of the same image.
    #[track_caller]
    pub(crate) fn pod(&self, name: &str) -> String {
        let infra = ["--infra-image", IMAGE, "--infra-command", "sleep 100000"];
        let begin = ["pod", "create", "--cgroup-parent", &self.cgroup.0, "--name", name];
        self.run(&[&begin[..], &infra].concat())
    }

    /// The OCI bundle directory of a container.
    pub(crate) fn bundle(&self, id: &str) -> PathBuf {
        self.directory.join("root/vfs-containers").join(id).join("userdata")
    }

    /// What `podman inspect` says of every container, in the words of Docker's API.
    pub(crate) fn inspect_all(&self) -> Result<Vec<Value>, String> {
        let ids = self.try_run(&["ps", "--all", "--quiet", "--no-trunc"])?;
        let ids: Vec<_> = ids.lines().collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let inspects = self.try_run(&[&["inspect", "--type", "container"], &ids[..]].concat())?;
        let inspects: Vec<Value> = serde_json::from_str(&inspects).map_err(|error| error.to_string())?;
        Ok(inspects.into_iter().map(|inspect| in_dockers_words(inspect, self.version)).collect())
    }

    /// What `podman inspect` says of one container, in its own words.
    #[track_caller]
    pub(crate) fn inspect(&self, name: &str) -> Value {
        let all: Value = serde_json::from_str(&self.run(&["inspect", "--type", "container", name])).unwrap();
        all[0].clone()
    }

    /// Waits until `podman inspect` of a container has this value at a JSON pointer.
    #[track_caller]
    pub(crate) fn wait_for(&self, name: &str, pointer: &str, wanted: impl Into<Value>) {
        let wanted = wanted.into();
        eventually(DEADLINE, || match self.inspect(name).pointer(pointer) {
            Some(value) if *value == wanted => Ok(()),
            other => Err(format!("{name}: {pointer} is {other:?}, not {wanted}")),
        });
    }

    /// Removes every pod and container.
    pub(crate) fn remove_all(&self) -> Result<(), String> {
        self.try_run(&["pod", "rm", "--all", "--force", "--time", "0"])?;
        self.try_run(&["rm", "--all", "--force", "--time", "0"])?;
        Ok(())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        if let Err(error) = self.remove_all() {
            eprintln!("Podman did not end as it should: {error}");
        }
        // A test that has failed may have poisoned it.
        self.service.clear_poison();
        if self.service.lock().is_ok_and(|service| service.is_some()) {
            self.stop_service("TERM");
        }
    }
}

/// The parent control group of all containers.
struct Cgroup(String);

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Version 2 has one hierarchy, version 1 has one for each controller.
        let root = Path::new("/sys/fs/cgroup");
        let below = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
        for hierarchy in below.chain([root.to_owned()]) {
            remove_groups(&hierarchy.join(&self.0));
        }
    }
}

/// Removes control groups one by one, the innermost first; their files go with them.
fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    // It may not exist, or its last process may still be ending.
    for _ in 0..50 {
        match fs::remove_dir(group) {
            Err(error) if error.raw_os_error() == Some(16) => std::thread::sleep(Duration::from_millis(20)),
            _ => break,
        }
    }
}

fn quoted(arguments: &[&str]) -> String {
    let quote = |argument: &&str| format!("'{}'", argument.replace('\'', r"'\''"));
    arguments.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// Translates `podman inspect` into Docker's words, as Podman's Docker-compatible API does for states from 5.6 on and
/// for health from 5.5 on, and writes the image's id as Docker does.
fn in_dockers_words(mut inspect: Value, version: (u32, u32)) -> Value {
    let state = match inspect["State"]["Status"].as_str().unwrap() {
        "configured" | "initialized" => "created",
        "stopping" => "running",
        "stopped" => "exited",
        state => state,
    };
    inspect["State"]["Status"] = state.into();
    if let Some(health) = inspect.pointer_mut("/State/Health/Status") {
        *health = match health.as_str().unwrap() {
            "reset" => "starting",
            "stopped" => "none",
            // The API of Podman 6 shows a health check before its first start.
            "" if version >= (6, 0) => "starting",
            health => health,
        }
        .into();
    }
    let image = format!("sha256:{}", inspect["Image"].as_str().unwrap());
    inspect["Image"] = image.into();
    inspect
}

/// Records every event, by `podman events`.
pub(crate) struct Recorder<'a> {
    podman: &'a Podman,
    process: String,
}

impl<'a> Recorder<'a> {
    /// Begins to record. Nothing that happens after this is missed.
    pub(crate) fn start(podman: &'a Podman) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let process = podman.command(&format!(
            "podman events --format json --since {}.{:09} >events 2>events.log </dev/null & echo $!",
            now.as_secs(),
            now.subsec_nanos()
        ));
        Self { podman, process }
    }

    /// The events so far, in Docker's form.
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.podman.directory.join("events")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| as_docker_tells_it(&serde_json::from_str(line).unwrap())).collect()
    }

    /// Waits until everything that has happened is recorded, by making one more event.
    pub(crate) fn catch_up(&self) -> Vec<Value> {
        let id = self.podman.create("catch-up", &[], &["true"]);
        self.podman.run(&["rm", "catch-up"]);
        eventually(DEADLINE, || {
            let events = self.events();
            let seen = events.iter().any(|e| e["Action"] == "destroy" && e["Actor"]["ID"] == *id);
            if seen { Ok(events) } else { Err("the recorder has not seen the end") }
        })
        .0
    }
}

impl Drop for Recorder<'_> {
    fn drop(&mut self) {
        self.podman.command(&format!("kill {0}; wait {0}; echo $?", self.process));
    }
}

fn as_docker_tells_it(event: &Value) -> Value {
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    let kind = text("Type");
    let action = match (kind, text("Status")) {
        ("container", "died") => "die".to_owned(),
        ("container", "remove") => "destroy".to_owned(),
        ("container", "exec") => "exec_start".to_owned(),
        ("container", "exec_died") => "exec_die".to_owned(),
        ("container", "health_status") => format!("health_status: {}", text("health_status")),
        ("image", "remove") => "delete".to_owned(),
        (_, action) => action.to_owned(),
    };
    let mut attributes: Map<String, Value> = event["Attributes"].as_object().cloned().unwrap_or_default();
    attributes.insert("name".into(), text("Name").into());
    attributes.insert("image".into(), text("Image").into());
    json!({"Type": kind, "Action": action, "Actor": {"ID": text("ID"), "Attributes": attributes}})
}
