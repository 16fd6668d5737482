//! Containers come, change and go as fast as eight workers have it on a real engine, while two exporters are
//! scraped ten times a second: no scrape fails, what was removed does not show again, and in the end states and
//! counts are the engine's.
//!
//! It lasts 20 seconds, or as long as `DSE_CHURN_SECONDS` says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::json;
use support::agreement::{agrees, counts_agree, expected_counts};
use support::docker::{Api, Docker, IMAGE, Recorder};
use support::eventually;
use support::exporter::{Exporter, Setup};
use support::exposition::{Exposition, Labels};
use support::inspect::{Encoding, FAMILIES};

const WORKERS: usize = 8;
/// Each worker has so many places for a container.
const SLOTS: usize = 3;
const BETWEEN_SCRAPES: Duration = Duration::from_millis(100);
/// When everything has to be right after the last change.
const RIGHT_AFTER: Duration = Duration::from_secs(1);
/// For what restarts by its policy, until it does so no more.
const QUIET: Duration = Duration::from_secs(10);
/// How long after the engine's answer a removed container may still show. It takes milliseconds; the rest is for
/// two cores that ten processes want.
const GONE_AFTER: Duration = Duration::from_millis(500);
/// A list that never comes: every change is known by its event alone.
const NEVER: u64 = 3_600_000;
/// Lists without a pause, so that each meets events that come while it is under way.
const OFTEN: u64 = 200;

#[test]
fn containers_that_come_and_go_are_shown_as_they_are_and_counted_once() {
    let lasts = std::env::var("DSE_CHURN_SECONDS").map_or(20, |seconds| seconds.parse().unwrap());
    let docker = Docker::start();
    let exporter = |resync: u64| {
        Setup::new(&docker.host()).set("/docker/resync_interval", resync).set("/events/log", false).start()
    };
    let exporters = [("by events alone", exporter(NEVER)), ("by events and lists", exporter(OFTEN))];
    let recorder = Recorder::start(&docker);

    let began = Instant::now();
    let until = began + Duration::from_secs(lasts);
    let (workers, scraped) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|number| {
                let worker = Worker::new(number, docker.api());
                scope.spawn(move || worker.work(until))
            })
            .collect();
        let scrapers: Vec<_> = exporters.iter().map(|(_, e)| scope.spawn(move || scrape(e, until))).collect();
        let workers: Vec<Worker> = workers.into_iter().map(|thread| thread.join().unwrap()).collect();
        let scraped: Vec<Scraped> = scrapers.into_iter().map(|thread| thread.join().unwrap()).collect();
        (workers, scraped)
    });

    // The claim is of that moment, so this one wait is none for something to come true.
    std::thread::sleep(RIGHT_AFTER);
    for (name, exporter) in &exporters {
        eventually(QUIET, || match agrees(&docker, exporter, Encoding::Code) {
            // It cannot be compared; the engine has not come to rest.
            Err(error) if error.starts_with("the containers changed") => Err(error),
            Err(difference) => panic!("{RIGHT_AFTER:?} after the end, {name}:\n{difference}"),
            Ok(()) => Ok(()),
        });
    }
    let events = recorder.catch_up(&docker);
    let expected = expected_counts(&events, &["container"]);

    let mut calls: BTreeMap<_, u32> = BTreeMap::new();
    for (call, times) in workers.iter().flat_map(|worker| &worker.calls) {
        *calls.entry(*call).or_default() += times;
    }
    let removed: Vec<_> = workers.iter().flat_map(|worker| &worker.removed).collect();
    println!(
        "{lasts} s, {} events, {} removals, calls by their answer: {calls:?}",
        events.len(),
        removed.len()
    );
    for operation in OPERATIONS {
        assert!(
            calls.contains_key(&(operation, 204)) || calls.contains_key(&(operation, 201)),
            "{operation}: {calls:?}"
        );
    }
    for ((name, exporter), scraped) in exporters.into_iter().zip(&scraped) {
        let scrapes = scraped.scrapes.len();
        let shown_longest = scraped.check_removals(&removed);
        println!(
            "{name}: {scrapes} scrapes, slowest {:?}, a removed container shown for {shown_longest:?}",
            scraped.slowest
        );
        let wanted = lasts * 1000 / u64::try_from(BETWEEN_SCRAPES.as_millis()).unwrap();
        // A busy machine may not have time for all of them; with few, this test says little.
        assert!(scrapes as u64 >= wanted / 2, "{scrapes} scrapes where {wanted} were wanted");
        eventually(RIGHT_AFTER, || {
            counts_agree(&exporter, &expected).map_err(|error| format!("{name}:\n{error}"))
        });
        let scrape = exporter.scrape();
        for (own, value) in [("event_streams_total", 1.0), ("event_gaps_total", 0.0)] {
            assert_eq!(scrape.plain(&format!("docker_state_exporter_{own}")), value, "{own}, {name}");
        }
        exporter.stop();
    }
}

/// What a worker asks of the engine.
const OPERATIONS: [&str; 8] = ["create", "start", "pause", "unpause", "rename", "kill", "restart", "remove"];

/// Changes its containers at random. What it thinks of one may be wrong, for some end by themselves: the engine
/// then refuses, and that is as good a call as any.
struct Worker {
    number: usize,
    api: Api,
    random: fastrand::Rng,
    slots: [Option<Slot>; SLOTS],
    /// Calls by operation and the status of the answer.
    calls: BTreeMap<(&'static str, u16), u32>,
    /// Containers that it has removed, and when the engine had answered that they are.
    removed: Vec<(String, Instant)>,
}

struct Slot {
    id: String,
    state: State,
    renamed: bool,
}

#[derive(Clone, Copy)]
enum State {
    Created,
    Running,
    Paused,
    Exited,
}

impl Worker {
    fn new(number: usize, api: Api) -> Self {
        let random = fastrand::Rng::with_seed(number as u64);
        Self { number, api, random, slots: Default::default(), calls: BTreeMap::new(), removed: Vec::new() }
    }

    fn work(mut self, until: Instant) -> Self {
        while Instant::now() < until {
            let index = self.random.usize(..SLOTS);
            self.slots[index] = match self.slots[index].take() {
                None => self.create(index),
                Some(slot) => self.change(index, slot),
            };
        }
        self
    }

    fn call(
        &mut self,
        operation: &'static str,
        method: &str,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> (u16, String) {
        let (status, answer) = self.api.send(method, path, body).unwrap();
        *self.calls.entry((operation, status)).or_default() += 1;
        (status, answer)
    }

    /// Few names, each for one container after another, as it is with services.
    fn name(&self, index: usize, renamed: bool) -> String {
        format!("worker-{}-{index}{}", self.number, if renamed { "-renamed" } else { "" })
    }

    fn create(&mut self, index: usize) -> Option<Slot> {
        // Most stay, some end at once, some are restarted twice, some are removed by the engine.
        let (command, host) = match self.random.u8(..10) {
            0..6 => (json!(["sleep", "100000"]), json!({})),
            6..8 => (json!(["true"]), json!({})),
            8 => (
                json!(["sh", "-c", "exit 3"]),
                json!({"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}}),
            ),
            _ => (json!(["true"]), json!({"AutoRemove": true})),
        };
        let mut body = json!({"Image": IMAGE, "Cmd": command, "Labels": {"worker": self.number.to_string()}, "HostConfig": host});
        body["HostConfig"]["NetworkMode"] = "none".into();
        let path = format!("/containers/create?name={}", self.name(index, false));
        let (status, answer) = self.call("create", "POST", &path, Some(&body));
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        // 409: what the engine removes by itself still has the name.
        (status == 201).then(|| Slot {
            id: answer["Id"].as_str().unwrap().into(),
            state: State::Created,
            renamed: false,
        })
    }

    fn change(&mut self, index: usize, mut slot: Slot) -> Option<Slot> {
        let choices: &[&'static str] = match slot.state {
            State::Created => &["start", "start", "start", "rename", "remove"],
            State::Running => &["pause", "rename", "kill", "restart", "remove"],
            State::Paused => &["unpause", "unpause", "rename", "remove"],
            State::Exited => &["start", "restart", "rename", "remove"],
        };
        let operation = choices[self.random.usize(..choices.len())];
        let at = format!("/containers/{}", slot.id);
        let (method, path) = match operation {
            "remove" => ("DELETE", format!("{at}?force=1&v=1")),
            "rename" => ("POST", format!("{at}/rename?name={}", self.name(index, !slot.renamed))),
            "restart" => ("POST", format!("{at}/restart?t=0")),
            other => ("POST", format!("{at}/{other}")),
        };
        let (status, _) = self.call(operation, method, &path, None);
        match (operation, status) {
            ("remove", 204) => {
                self.removed.push((slot.id, Instant::now()));
                return None;
            }
            (_, 404) => return None,
            ("start" | "restart" | "unpause", 204) => slot.state = State::Running,
            ("pause", 204) => slot.state = State::Paused,
            ("kill", 204) => slot.state = State::Exited,
            ("rename", 204) => slot.renamed = !slot.renamed,
            // It has ended by itself.
            _ => slot.state = State::Exited,
        }
        Some(slot)
    }
}

/// What the scrapes of one exporter have shown.
#[derive(Default)]
struct Scraped {
    /// When each began, and the containers that it had.
    scrapes: Vec<(Instant, BTreeSet<String>)>,
    slowest: Duration,
}

fn scrape(exporter: &Exporter, until: Instant) -> Scraped {
    let mut scraped = Scraped::default();
    let mut counts: BTreeMap<Labels, f64> = BTreeMap::new();
    let mut next = Instant::now();
    while Instant::now() < until {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let began = Instant::now();
        next = began.max(next + BETWEEN_SCRAPES);
        let text = exporter.scrape_text();
        scraped.slowest = scraped.slowest.max(began.elapsed());
        let scrape = Exposition::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(scrape.plain("docker_up"), 1.0);
        scraped.scrapes.push((began, containers(&scrape)));
        // No count goes back or away.
        let now = scrape.series("docker_events");
        for (labels, before) in counts.into_iter().filter(|(_, count)| *count > 0.0) {
            assert!(
                now.get(&labels).is_some_and(|now| *now >= before),
                "{labels:?} was {before}, is {:?}",
                now.get(&labels)
            );
        }
        counts = now;
    }
    scraped
}

/// The ids of a scrape's containers; each has to be in every family.
fn containers(scrape: &Exposition) -> BTreeSet<String> {
    let ids = |family: &str| -> BTreeSet<String> {
        scrape.series(family).into_keys().map(|mut labels| labels.remove("id").unwrap()).collect()
    };
    let all = ids("container_info");
    for family in FAMILIES {
        assert_eq!(ids(family), all, "{family} has other containers than container_info");
    }
    all
}

impl Scraped {
    /// Checks that nothing shows after its removal, and returns the longest time that something still has.
    fn check_removals(&self, removed: &[&(String, Instant)]) -> Duration {
        let mut longest = Duration::ZERO;
        for (id, at) in removed {
            let id = format!("/docker/{id}");
            let since = self.scrapes.partition_point(|(began, _)| began < at);
            let mut hidden = false;
            for (began, containers) in &self.scrapes[since..] {
                let after = *began - *at;
                if containers.contains(&id) {
                    assert!(after < GONE_AFTER, "{id} shows {after:?} after its removal");
                    assert!(!hidden, "{id} shows again {after:?} after its removal");
                    longest = longest.max(after);
                } else {
                    hidden = true;
                }
            }
        }
        longest
    }
}
