//! The handle that a test holds.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::container::{Container, new_id};
use crate::event::{Event, EventStyle};
use crate::lock;
use crate::script::{Fault, Script, Target};
use crate::server::{self, Endpoint, Request, Shared, State, Stored, Version};

/// How long connections may take to break off.
const CLOSING: Duration = Duration::from_secs(5);

/// A fake engine. On drop it stops, and removes its socket.
pub struct FakeEngine {
    shared: Arc<Shared>,
    socket: PathBuf,
    /// `None` while connections are refused.
    listening: Mutex<Option<Listening>>,
    /// `None` only while this is dropped.
    runtime: Option<Runtime>,
    /// Where the socket is, unless the path was given.
    _directory: Option<tempfile::TempDir>,
}

/// The listener's task.
struct Listening {
    /// Stops the listener, and the connections that it has accepted.
    stop: CancellationToken,
    /// Disconnected once the listener is closed.
    closed: mpsc::Receiver<()>,
}

impl FakeEngine {
    /// An engine without containers, on a socket in a directory of its own.
    ///
    /// # Errors
    ///
    /// Where the socket cannot be made.
    pub fn start() -> io::Result<Self> {
        // Not under TMPDIR, which may be too long a path for a socket.
        let directory = tempfile::Builder::new().prefix("fake-engine-").tempdir_in("/tmp")?;
        let socket = directory.path().join("docker.sock");
        Self::start_at(socket, Some(directory))
    }

    /// An engine without containers on the given socket.
    ///
    /// # Errors
    ///
    /// Where the socket cannot be made.
    pub fn bind(socket: impl Into<PathBuf>) -> io::Result<Self> {
        Self::start_at(socket.into(), None)
    }

    fn start_at(socket: PathBuf, directory: Option<tempfile::TempDir>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("fake-engine")
            .enable_all()
            .build()?;
        let shared = Shared {
            state: Mutex::new(State {
                containers: std::collections::BTreeMap::new(),
                minimum: Version(1, 24),
                maximum: Version(1, 51),
                style: EventStyle::Auto,
                script: Script::default(),
            }),
            broker: Mutex::new(Broker::default()),
            clock_ahead: AtomicI64::new(0),
            requests: Mutex::new(Vec::new()),
            hung: watch::Sender::new(false),
            healed: watch::Sender::new(()),
            open: Mutex::new(0),
            closed: Condvar::new(),
        };
        let engine = Self {
            shared: Arc::new(shared),
            socket,
            listening: Mutex::new(None),
            runtime: Some(runtime),
            _directory: directory,
        };
        engine.reopen()?;
        Ok(engine)
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The socket as `DOCKER_HOST` has it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }
}

/// Containers. None of these methods sends an event.
impl FakeEngine {
    /// Adds a container, or replaces the one with its id. Returns the id.
    pub fn add(&self, container: Container) -> String {
        let id = container.id().to_owned();
        lock(&self.shared.state).containers.insert(id.clone(), Stored::new(&container));
        id
    }

    /// Adds what was recorded of a real engine: `list.json` and `inspect/ID.json` in a directory.
    ///
    /// # Errors
    ///
    /// Where a file cannot be read, or an entry of the list has no inspect.
    pub fn load(&self, directory: &Path) -> io::Result<()> {
        let read = |path: &str| -> io::Result<Value> {
            let path = directory.join(path);
            let context =
                |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", path.display()));
            let text = std::fs::read(&path).map_err(|error| context(&error))?;
            serde_json::from_slice(&text).map_err(|error| context(&error))
        };
        let Value::Array(entries) = read("list.json")? else {
            return Err(io::Error::other("list.json holds no list"));
        };
        for entry in entries {
            let id =
                entry["Id"].as_str().ok_or_else(|| io::Error::other("an entry of list.json has no Id"))?;
            let inspect = read(&format!("inspect/{id}.json"))?;
            self.add(Container::recorded(entry, inspect));
        }
        Ok(())
    }

    /// Adds `count` containers with `labels` labels each, named `load-0` and so on. Returns their ids.
    pub fn populate(&self, count: usize, labels: usize) -> Vec<String> {
        let mut template = Container::new("load");
        for label in 0..labels {
            template = template.label(&format!("com.example.label-{label}"), &format!("value {label}"));
        }
        (0..count)
            .map(|number| {
                let id = new_id();
                let service = format!("service-{}", number % 50);
                let container =
                    template.clone().with_id(&id).named(&format!("load-{number}")).hostname(&id[..12]);
                self.add(if labels == 0 {
                    container
                } else {
                    container.label("com.example.label-0", &service)
                })
            })
            .collect()
    }

    /// Changes a container.
    ///
    /// # Panics
    ///
    /// Where there is none with this id: the test is wrong then.
    pub fn update(&self, id: &str, change: impl FnOnce(Container) -> Container) {
        let container = self.container(id).unwrap_or_else(|| panic!("no container {id} to update"));
        self.add(change(container));
    }

    /// Removes a container.
    pub fn remove(&self, id: &str) -> Option<Container> {
        let stored = lock(&self.shared.state).containers.remove(id);
        stored.map(|stored| parse(&stored))
    }

    /// The container with this id.
    pub fn container(&self, id: &str) -> Option<Container> {
        lock(&self.shared.state).containers.get(id).map(parse)
    }

    /// The ids of all containers, sorted.
    pub fn ids(&self) -> Vec<String> {
        lock(&self.shared.state).containers.keys().cloned().collect()
    }
}

/// Events.
impl FakeEngine {
    /// The event of an action of a container, with the attributes that the container has now; not yet emitted.
    ///
    /// # Panics
    ///
    /// Where there is no container with this id.
    pub fn event(&self, action: &str, id: &str) -> Event {
        let container = self.container(id).unwrap_or_else(|| panic!("no container {id} for {action}"));
        let event = Event::new("container", action, id);
        container.attributes().iter().fold(event, |event, (key, value)| event.attribute(key, value))
    }

    /// Emits an event: it is remembered, and every open stream gets it. Returns it with its time, which is the
    /// present unless it had one.
    pub fn emit(&self, event: Event) -> Event {
        lock(&self.shared.broker).emit(event)
    }

    /// Changes a container and emits the event of it.
    ///
    /// # Panics
    ///
    /// Where there is no container with this id.
    pub fn act(&self, id: &str, action: &str, change: impl FnOnce(Container) -> Container) -> Event {
        self.update(id, change);
        self.emit(self.event(action, id))
    }

    /// Adds a container and emits its `create`.
    pub fn create(&self, container: Container) -> String {
        let id = self.add(container);
        self.emit(self.event("create", &id));
        id
    }

    /// Removes a container and emits its `destroy`.
    ///
    /// # Panics
    ///
    /// Where there is no container with this id.
    pub fn destroy(&self, id: &str) -> Event {
        let event = self.event("destroy", id);
        self.remove(id);
        self.emit(event)
    }

    /// Emits many events, one after the other, as fast as the streams take them.
    pub fn burst(&self, count: usize, event: impl Fn(usize) -> Event) {
        (0..count).for_each(|number| {
            self.emit(event(number));
        });
    }

    /// Sends an event once more, the same in every byte, to the open streams only.
    pub fn repeat(&self, event: &Event) {
        lock(&self.shared.broker).send(event);
    }

    /// Sends bytes to the open streams, whatever they are.
    pub fn emit_raw(&self, bytes: impl Into<Bytes>) {
        lock(&self.shared.broker).send_raw(&bytes.into());
    }

    /// Sets the engine's clock, by which events and answers are dated: so many seconds ahead of this machine's.
    pub fn set_clock(&self, ahead: i64) {
        let ahead = ahead.saturating_mul(1_000_000_000);
        self.shared.clock_ahead.store(ahead, Ordering::Relaxed);
        lock(&self.shared.broker).set_clock(ahead);
    }

    /// From now on events are filtered by their time alone, as Podman does: each event with a time before `since` is
    /// skipped, future ones too. Docker goes back from its last event to the first one that is too old.
    pub fn choose_events_by_time(&self) {
        lock(&self.shared.broker).choose_by_time();
    }

    /// Forgets the events of the past.
    pub fn forget_events(&self) {
        lock(&self.shared.broker).forget();
    }

    /// Event streams that are open.
    pub fn streams(&self) -> usize {
        lock(&self.shared.broker).streams()
    }

    /// Lines that a stream did not get because it did not read them for a second.
    pub fn skipped(&self) -> u64 {
        lock(&self.shared.broker).skipped()
    }

    /// Breaks every event stream in the middle.
    pub fn cut_events(&self) {
        lock(&self.shared.broker).end(true);
    }

    /// Ends every event stream in order.
    pub fn end_events(&self) {
        lock(&self.shared.broker).end(false);
    }

    /// While silent, streams are accepted and stay open, and carry nothing.
    pub fn silence_events(&self, silent: bool) {
        lock(&self.shared.broker).silence(silent);
    }

    /// Which fields events have.
    pub fn set_event_style(&self, style: EventStyle) {
        lock(&self.shared.state).style = style;
    }
}

/// What goes wrong.
impl FakeEngine {
    /// A fault that stays until it is healed.
    pub fn fault(&self, target: Target, fault: Fault) {
        lock(&self.shared.state).script.add(target, fault, None);
    }

    /// A fault of the next `times` answers, after those that were scripted for the target before.
    pub fn fault_times(&self, target: Target, fault: Fault, times: usize) {
        lock(&self.shared.state).script.add(target, fault, Some(times));
    }

    /// Ends the faults of a target; hung requests are answered.
    pub fn heal(&self, target: &Target) {
        lock(&self.shared.state).script.heal(target);
        self.shared.healed.send_replace(());
    }

    /// Ends all faults.
    pub fn heal_all(&self) {
        lock(&self.shared.state).script.heal_all();
        self.shared.healed.send_replace(());
    }

    /// Targets whose counted faults have not all happened; empty once a script has run to its end.
    pub fn unspent(&self) -> Vec<Target> {
        lock(&self.shared.state).script.unspent()
    }

    /// Refuses connections, and breaks those that are open. The socket's file stays, as after a crash.
    pub fn refuse(&self) {
        if let Some(listening) = lock(&self.listening).take() {
            listening.stop.cancel();
            // Until the listener is closed, the kernel still queues connections, and the listener may accept one more.
            let _ = listening.closed.recv_timeout(CLOSING);
        }
        lock(&self.shared.broker).end(true);
        let deadline = Instant::now() + CLOSING;
        let mut open = lock(&self.shared.open);
        while *open > 0 && Instant::now() < deadline {
            let wait = self.shared.closed.wait_timeout(open, Duration::from_millis(100));
            open = wait.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// As [`FakeEngine::refuse`], and the socket's file goes, as when the engine is stopped in order.
    pub fn vanish(&self) {
        self.refuse();
        // It may be gone already.
        let _ = std::fs::remove_file(&self.socket);
    }

    /// Takes connections again.
    ///
    /// # Errors
    ///
    /// Where the socket cannot be made.
    pub fn reopen(&self) -> io::Result<()> {
        let Some(runtime) = &self.runtime else { return Ok(()) };
        self.refuse();
        match std::fs::remove_file(&self.socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = {
            let _in_runtime = runtime.enter();
            UnixListener::bind(&self.socket)?
        };
        let (stop, (open, closed)) = (CancellationToken::new(), mpsc::channel());
        let accepting = server::accept(Arc::clone(&self.shared), listener, stop.clone());
        runtime.spawn(async move {
            accepting.await;
            drop(open);
        });
        *lock(&self.listening) = Some(Listening { stop, closed });
        Ok(())
    }

    /// Ends and begins anew: connections break, events are forgotten, containers stay.
    ///
    /// # Errors
    ///
    /// Where the socket cannot be made.
    pub fn restart(&self) -> io::Result<()> {
        self.vanish();
        self.forget_events();
        self.reopen()
    }

    /// From now on connections and requests are accepted and nothing is answered, as by a stopped process.
    pub fn hang(&self) {
        self.shared.hung.send_replace(true);
    }

    /// Answers again, including waiting requests.
    pub fn resume(&self) {
        self.shared.hung.send_replace(false);
    }

    /// The API versions that are accepted in a path.
    ///
    /// # Panics
    ///
    /// Where one of them is not like `1.44`.
    pub fn set_api_versions(&self, minimum: &str, maximum: &str) {
        let parse = |text: &str| Version::parse(text).unwrap_or_else(|| panic!("not an API version: {text}"));
        let mut state = lock(&self.shared.state);
        (state.minimum, state.maximum) = (parse(minimum), parse(maximum));
    }
}

/// What was asked.
impl FakeEngine {
    /// Every request since the start or the last [`FakeEngine::clear_requests`], in order.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// Requests that were not one of the five GETs, as `METHOD path`.
    pub fn violations(&self) -> Vec<String> {
        let requests = lock(&self.shared.requests);
        let violations = requests.iter().filter(|request| request.endpoint.is_none());
        violations.map(|request| format!("{} {}", request.method, request.path)).collect()
    }

    /// How often a call was made.
    pub fn count(&self, endpoint: Endpoint) -> usize {
        lock(&self.shared.requests).iter().filter(|request| request.endpoint == Some(endpoint)).count()
    }

    /// How often a container was inspected by its whole id.
    pub fn inspects(&self, id: &str) -> usize {
        let path = format!("/containers/{id}/json");
        let requests = lock(&self.shared.requests);
        requests
            .iter()
            .filter(|request| request.endpoint == Some(Endpoint::Inspect) && request.path == path)
            .count()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        lock(&self.shared.requests).clear();
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        *lock(&self.shared.open)
    }
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        self.vanish();
        if let Some(runtime) = self.runtime.take() {
            // A plain drop would panic in an async test.
            runtime.shutdown_background();
        }
    }
}

fn parse(stored: &Stored) -> Container {
    // They were written from values by `Stored::new`.
    let value = |bytes: &Bytes| serde_json::from_slice(bytes).unwrap_or(Value::Null);
    Container::recorded(value(&stored.list), value(&stored.inspect))
}
