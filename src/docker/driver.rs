//! Carries out the watcher's actions, and hands it the results.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::answer::Selection;
use super::client::Client;
use super::event::{Effect, Event};
use super::fields::{Oddities, Oddity};
use super::framing::{self, Frame, Framer};
use super::transport::EndpointError;
use super::watcher::{Action, Change, Input, Note, Settings, Watcher};
use crate::config::Config;
use crate::inventory::{ContainerEnd, Counted, Writer};
use crate::stats::Stats;

/// The capacity of the queue between the event stream and the watcher, in batches. When it is full, the stream waits.
/// If the daemon then drops events, the next list shows it.
const STREAM_QUEUE: usize = 256;
/// How long events that change no shown state wait to be sent in a batch. Health probes cause three events each,
/// hundreds a second; sent one by one, most of their cost would be waking the receiver.
const GATHER: Duration = Duration::from_millis(20);
/// The maximum size of such a batch.
const MOST_GATHERED: usize = 1024;
/// How many oddities are remembered, so that each is logged once.
const LOGGED_ODDITIES: usize = 1000;

/// How often to log that the daemon still cannot be followed: for the same reason, and for another.
const REMINDER: Duration = Duration::from_secs(300);
const OTHER_REASON: Duration = Duration::from_secs(10);

/// Follows a daemon and keeps the inventory up to date.
pub struct Driver {
    config: Config,
    selection: Arc<Selection>,
    settings: Settings,
    client: Client,
    writer: Writer,
    stats: Arc<Stats>,
    /// The tasks of the current connection; dropping the set aborts them.
    tasks: JoinSet<Done>,
    stream: mpsc::Receiver<Input>,
    odd: OddityLog,
    trouble: Trouble,
    failed_inspects: FewLines,
}

impl Driver {
    /// Checks the daemon's address and certificates; the daemon need not be reachable.
    pub fn new(config: &Config, writer: Writer, stats: Arc<Stats>) -> Result<Self, EndpointError> {
        let settings = Settings {
            docker: config.docker.clone(),
            events: config.events.clone(),
            names: config.containers.names.clone(),
            longest_backoff: longest_backoff(&config.docker.host),
            is_local: config.docker.host.starts_with("unix://"),
        };
        let selection = Arc::new(Selection::new(
            config.containers.labels.clone(),
            config.events.labels.clone(),
            &config.containers.expectation_label,
        ));
        let odd = OddityLog { stats: Arc::clone(&stats), logged: Arc::default() };
        Ok(Self {
            client: Client::new(&config.docker)?,
            config: config.clone(),
            selection,
            settings,
            writer,
            stats,
            tasks: JoinSet::new(),
            stream: mpsc::channel(1).1,
            odd,
            trouble: Trouble::default(),
            failed_inspects: FewLines::default(),
        })
    }

    /// Follows the daemon until it is told to stop.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut watcher = Watcher::new(self.settings.clone(), Instant::now().into_std());
        let mut actions = Vec::new();
        let mut input = Input::Tick;
        loop {
            watcher.step(Instant::now().into_std(), SystemTime::now(), input, &mut actions);
            for action in actions.drain(..) {
                self.carry_out(action);
            }
            input = tokio::select! {
                () = shutdown.cancelled() => return,
                Some(input) = self.stream.recv() => input,
                Some(done) = self.tasks.join_next() => match done {
                    Ok(Done::Input(input)) => input,
                    Ok(Done::Connected(Ok(client))) => {
                        self.client = *client;
                        Input::Connected(Ok(self.client.dated()))
                    }
                    Ok(Done::Connected(Err(why))) => Input::Connected(Err(why)),
                    // A task panicked: a bug here. A new connection recovers from it. Tasks of an old connection never
                    // end here: they were dropped with their set.
                    Err(error) => Input::Broken(error.to_string()),
                },
                () = tokio::time::sleep_until(watcher.deadline().into()) => Input::Tick,
            };
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Connect => self.connect(),
            Action::OpenStream { since } => self.open_stream(since),
            Action::List => {
                let (client, odd) = (self.client.clone(), self.odd.clone());
                let selection = Arc::clone(&self.selection);
                self.tasks.spawn(async move {
                    let mut oddities = Oddities::default();
                    let list = client.list(&selection, &mut oddities).await;
                    odd.log("list", oddities);
                    Done::Input(Input::Listed(list))
                });
            }
            Action::Inspect(id) => {
                let (client, odd) = (self.client.clone(), self.odd.clone());
                let selection = Arc::clone(&self.selection);
                self.tasks.spawn(async move {
                    let mut oddities = Oddities::default();
                    let outcome = client.inspect(&id, &selection, &mut oddities).await;
                    odd.log(&id, oddities);
                    Done::Input(Input::Inspected { id, outcome })
                });
            }
            Action::Ping => {
                let client = self.client.clone();
                let within = ping_timeout(&self.config.docker);
                self.tasks.spawn(async move { Done::Input(Input::Ponged(client.ping(within).await)) });
            }
            Action::Close => {
                self.tasks = JoinSet::new();
                self.stream = mpsc::channel(1).1;
            }
            Action::Change(change) => self.change(change),
            Action::Note(note) => self.note(note),
        }
    }

    fn connect(&mut self) {
        let (client, config) = (self.client.clone(), self.config.docker.clone());
        self.tasks.spawn(async move { Done::Connected(client.connect(&config).await.map(Box::new)) });
    }

    /// The stream has its own task, which reads as fast as the daemon sends: the daemon silently drops events for a
    /// subscriber that does not read for 100 ms. The opening, the events and the end go through one queue, so they stay
    /// in order.
    fn open_stream(&mut self, since: Option<SystemTime>) {
        let (sender, receiver) = mpsc::channel(STREAM_QUEUE);
        self.stream = receiver;
        let (client, odd) = (self.client.clone(), self.odd.clone());
        let (selection, types) = (Arc::clone(&self.selection), self.config.events.types.clone());
        self.tasks.spawn(async move {
            let mut is_open = false;
            let open = async || {
                is_open = true;
                // If the receiver is gone, the connection was closed.
                let _ = sender.send(Input::StreamOpened(Ok(()))).await;
            };
            let body = client.events(&types, since, open).await;
            let end = match body {
                Ok(body) => Input::StreamEnded(read_events(body, &selection, &odd, &sender).await),
                Err(why) if is_open => Input::StreamEnded(format!("no event stream: {why}")),
                Err(why) => Input::StreamOpened(Err(format!("no event stream: {why}"))),
            };
            let _ = sender.send(end).await;
            Done::Input(Input::Tick)
        });
    }

    fn change(&self, change: Change) {
        match change {
            Change::Replace { containers, keep } => {
                self.writer.replace(containers, &keep, Instant::now().into_std())
            }
            Change::Upsert(container) => self.writer.upsert(container, Instant::now().into_std()),
            Change::Remove(id) => self.writer.remove(&id),
            // Exec events of health checks are frequent and of no interest; they would fill the list of recent events.
            Change::Count(labels, _) if labels.event.starts_with("exec_") => {
                let counted = self.writer.count(labels, Instant::now().into_std());
                self.counted(counted);
            }
            Change::Count(labels, time) => {
                let time = time.unwrap_or_else(SystemTime::now);
                let counted = self.writer.count_and_remember(labels, Instant::now().into_std(), time);
                self.counted(counted);
            }
            Change::Run(event) => self.writer.run_event(event, Instant::now().into_std()),
            Change::Destroyed(id) => self.writer.destroyed(&id),
            Change::Withhold => {
                warn!(
                    "the daemon has not answered for {:?}: container series are withheld",
                    self.config.docker.stale_after
                );
                self.writer.withhold();
            }
            Change::Sweep => self.writer.sweep(Instant::now().into_std()),
        }
        for end in self.writer.count_ends(Instant::now().into_std()) {
            self.log_end(&end);
        }
        self.stats.containers.set(self.writer.len() as u64);
    }

    /// Logs a `die`. The line waits for the inspect, which may show why the run ended.
    fn log_end(&self, ContainerEnd { id, identity, end }: &ContainerEnd) {
        if !self.config.events.log {
            return;
        }
        let (name, id, reason) = (identity.name.as_deref(), &**id, end.reason.word());
        let (exit_code, lasted) = (end.exit_code, end.lasted.map(|lasted| lasted.as_secs()));
        if end.is_unseen {
            info!(name, id, reason, exit_code, lasted, "a run has ended, and no event has told of it");
        } else {
            info!(r#type = "container", action = "die", name, id, reason, exit_code, lasted, "event");
        }
    }

    fn counted(&self, counted: Counted) {
        let Counted::Overflow { is_new } = counted else { return };
        self.stats.event_overflows.increment();
        if is_new {
            warn!(
                limit = self.config.events.limit,
                "more label sets of events than events.limit: further ones are counted as overflow"
            );
        }
    }

    fn note(&mut self, note: Note) {
        let stats = &self.stats;
        match note {
            Note::StreamOpened => {
                stats.event_streams.increment();
                debug!("the event stream is open");
            }
            Note::Up => {
                stats.went_up();
                self.trouble = Trouble::default();
                info!(host = self.config.docker.host, containers = self.writer.len(), "following the daemon");
            }
            Note::Down(why) => {
                stats.went_down(&why);
                warn!(host = self.config.docker.host, why, "no longer following the daemon; trying again");
            }
            Note::StillDown(why) => {
                stats.went_down(&why);
                if self.trouble.is_worth_a_line(&why, Instant::now()) {
                    warn!(host = self.config.docker.host, why, "cannot follow the daemon; trying again");
                }
            }
            Note::Synced { containers } => {
                stats.synced(SystemTime::now());
                debug!(containers, "took over a whole list");
            }
            Note::SyncFailed(why) => {
                stats.syncs_error.increment();
                warn!(why, "could not list the containers; trying again");
            }
            Note::Gap => {
                stats.event_gaps.increment();
                warn!("events may have been missed");
            }
            Note::Inspected => stats.inspects_ok.increment(),
            Note::InspectGone => stats.inspects_gone.increment(),
            Note::InspectFailed { id, why, first } => {
                stats.inspects_error.increment();
                if first && self.failed_inspects.is_worth_a_line(Instant::now()) {
                    warn!(container = &*id, why, "could not inspect a container; trying again");
                }
            }
            Note::Event(event) => {
                if self.config.events.log {
                    info!(
                        r#type = &*event.kind,
                        action = &*event.logged_action(self.config.events.exec_command),
                        name = event.identity.name.as_deref(),
                        id = &*event.actor,
                        "event"
                    );
                }
            }
            Note::Applied(time) => {
                // The daemon's clock may differ from ours, and be ahead.
                stats.event_applied(SystemTime::now().duration_since(time).unwrap_or_default());
            }
        }
    }
}

/// The last logged reason why the daemon cannot be followed. Attempts are frequent, and each may fail with another
/// message.
#[derive(Default)]
struct Trouble {
    said: Option<(String, Instant)>,
}

impl Trouble {
    fn is_worth_a_line(&mut self, why: &str, now: Instant) -> bool {
        let worth = self
            .said
            .as_ref()
            .is_none_or(|(said, at)| now >= *at + if said == why { REMINDER } else { OTHER_REASON });
        if worth {
            self.said = Some((why.to_owned(), now));
        }
        worth
    }
}

/// Limits a log message to some lines a minute: it may concern a thousand containers at once.
#[derive(Default)]
struct FewLines {
    began: Option<Instant>,
    written: usize,
}

impl FewLines {
    const MOST: usize = 10;
    const EACH: Duration = Duration::from_secs(60);

    fn is_worth_a_line(&mut self, now: Instant) -> bool {
        if self.began.is_none_or(|began| now >= began + Self::EACH) {
            (self.began, self.written) = (Some(now), 0);
        }
        self.written += 1;
        self.written <= Self::MOST
    }
}

/// The result of a task.
enum Done {
    Connected(Result<Box<Client>, String>),
    Input(Input),
}

/// Reads until the stream ends, and returns why it ended.
async fn read_events(
    mut body: Incoming,
    selection: &Selection,
    odd: &OddityLog,
    sender: &mpsc::Sender<Input>,
) -> String {
    let mut framer = Framer::new(&framing::EVENTS);
    let mut frames = Vec::new();
    let mut gathered = Vec::new();
    let mut due = None;
    let end = loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                due = None;
                if !hand_over(&mut gathered, sender).await {
                    return "nobody listens any more".into();
                }
                continue;
            }
        };
        let chunk = match frame {
            None => break "the daemon has closed the event stream".into(),
            Some(Err(error)) => break format!("the event stream broke off: {error}"),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(chunk) => chunk,
                Err(_) => continue,
            },
        };
        let mut oddities = Oddities::default();
        framer.push(&chunk, &mut frames);
        let events = frames.drain(..).filter_map(|frame| match frame {
            Frame::Object(json) => Event::read(&json, selection, &mut oddities),
            Frame::Broken(json) => {
                oddities.push(Oddity::new("event", &String::from_utf8_lossy(&json)));
                None
            }
            Frame::TooLong => {
                oddities.push(Oddity::new("event", "longer than an event can be"));
                None
            }
        });
        let mut at_once = false;
        for event in events {
            at_once |= !matches!(event.effect(), Effect::Nothing | Effect::ProgramEnded { .. });
            gathered.push(event);
        }
        odd.log("event stream", oddities);
        if at_once || gathered.len() > MOST_GATHERED {
            due = None;
            if !hand_over(&mut gathered, sender).await {
                return "nobody listens any more".into();
            }
        } else if !gathered.is_empty() {
            due.get_or_insert_with(|| Instant::now() + GATHER);
        }
    };
    // Send the last events before the end. If the receiver is gone, neither arrives.
    hand_over(&mut gathered, sender).await;
    end
}

/// Sends the gathered events. Returns whether the receiver still exists.
async fn hand_over(gathered: &mut Vec<Event>, sender: &mpsc::Sender<Input>) -> bool {
    gathered.is_empty() || sender.send(Input::Events(std::mem::take(gathered))).await.is_ok()
}

/// Counts the oddities, and logs each once.
#[derive(Clone)]
struct OddityLog {
    stats: Arc<Stats>,
    logged: Arc<Mutex<HashSet<(String, String)>>>,
}

impl OddityLog {
    fn log(&self, place: &str, oddities: Oddities) {
        self.stats.unreadable.add(oddities.count() as u64);
        for Oddity { what, value } in oddities {
            let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
            if logged.len() >= LOGGED_ODDITIES {
                logged.clear();
            }
            if !logged.contains(&(what.clone(), value.clone())) {
                warn!(place, what, value, "the daemon says what cannot be read");
                logged.insert((what, value));
            }
        }
    }
}

/// Short enough to notice a stopped daemon before its state is stale.
fn ping_timeout(config: &crate::config::Docker) -> Duration {
    config.timeout.min(config.stale_after / 2).max(Duration::from_millis(100))
}

/// A socket of this host can be tried often. Each try over ssh logs in on another host.
fn longest_backoff(host: &str) -> Duration {
    if host.starts_with("ssh://") { Duration::from_secs(10) } else { Duration::from_millis(500) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_at_once_and_then_rarely() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        let mut said = |why, after| trouble.is_worth_a_line(why, now + after);
        assert!(said("refused", Duration::ZERO));
        assert!(!said("refused", REMINDER - Duration::from_millis(1)));
        assert!(said("refused", REMINDER));
        assert!(!said("late: 1", REMINDER + Duration::from_secs(1)));
        assert!(said("late: 2", REMINDER + OTHER_REASON));
        assert!(!said("late: 3", REMINDER + OTHER_REASON));
    }

    #[test]
    fn what_happens_to_a_thousand_containers_is_a_few_lines_a_minute() {
        let (mut few, now) = (FewLines::default(), Instant::now());
        let mut lines = |at| (0..1000).filter(|_| few.is_worth_a_line(now + at)).count();
        assert_eq!((lines(Duration::ZERO), lines(FewLines::EACH / 2)), (FewLines::MOST, 0));
        assert_eq!(lines(FewLines::EACH), FewLines::MOST);
    }
}
