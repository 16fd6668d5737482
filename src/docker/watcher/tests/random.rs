//! Simulates a whole daemon with random faults: late, failed and hung answers, cut streams, restarts that lose events.
//! The shown state must never be wrong for long, and must be right in the end.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::*;

/// What may go wrong.
#[derive(Debug, Clone, Copy)]
struct Faults {
    /// Streams are cut.
    cuts: bool,
    /// Single calls fail or take long.
    calls: bool,
    /// The daemon stands still for a while, or is restarted and forgets its events.
    outages: bool,
    /// Single events are not sent.
    skips: bool,
}

struct Daemon {
    containers: BTreeMap<String, Container>,
    /// The last 256.
    buffer: VecDeque<Event>,
    /// What was ever told, under the name that it is counted by.
    told: Vec<(Duration, (String, String))>,
    next_id: usize,
    last: Duration,
    /// Not reachable until then.
    away_until: Duration,
    /// Nothing is answered until then.
    hung_until: Duration,
}

/// What happens at a time.
enum Item {
    /// An answer on a connection, to what was asked at a time.
    Answer { connection: usize, asked: Duration, input: Input },
    /// The stream begins; the events to replay are not yet looked up.
    Subscribe { connection: usize, since: SystemTime },
    /// The stream delivers its queued events.
    Pump { connection: usize },
    /// The next change in the daemon.
    World,
}

struct World {
    random: fastrand::Rng,
    faults: Faults,
    h: Harness,
    daemon: Daemon,
    items: BTreeMap<(Duration, usize), Item>,
    next_item: usize,
    connection: usize,
    /// Whether the current connection gets events, and the events in transit.
    subscribed: bool,
    stream: VecDeque<Event>,
    /// The last requested `since`, and the first.
    since: SystemTime,
    asked_first: Option<SystemTime>,
    /// Ids whose destroy event the watcher has got.
    destroyed: BTreeSet<String>,
    last_sign_of_life: Duration,
    chaos: bool,
}

const BUFFER: usize = 256;
const NAMES: [&str; 6] = ["a", "b", "c", "x-a", "x-b", "d"];

impl World {
    fn new(seed: u64, faults: Faults) -> Self {
        let settings = Settings { names: Filter::new(&["*"], &["x-*"]), ..settings() };
        let mut world = Self {
            random: fastrand::Rng::with_seed(seed),
            faults,
            h: Harness::new(settings),
            daemon: Daemon {
                containers: BTreeMap::new(),
                buffer: VecDeque::new(),
                told: Vec::new(),
                next_id: 0,
                last: Duration::ZERO,
                away_until: Duration::ZERO,
                hung_until: Duration::ZERO,
            },
            items: BTreeMap::new(),
            next_item: 0,
            connection: 0,
            subscribed: false,
            stream: VecDeque::new(),
            since: SystemTime::UNIX_EPOCH,
            asked_first: None,
            destroyed: BTreeSet::new(),
            last_sign_of_life: Duration::ZERO,
            chaos: true,
        };
        for _ in 0..world.random.usize(0..20) {
            world.create();
        }
        world.at(Duration::ZERO, Item::World);
        world
    }

    fn at(&mut self, time: Duration, item: Item) {
        self.next_item += 1;
        self.items.insert((time, self.next_item), item);
    }

    /// Runs until a time: whatever is next, an item or the watcher's own deadline.
    fn run(&mut self, end: Duration) {
        loop {
            let tick = self.h.watcher.deadline() - self.h.began;
            match self.items.first_key_value().map(|((time, _), _)| *time) {
                Some(time) if time <= tick.min(end) => {
                    let Some(((time, _), item)) = self.items.pop_first() else { return };
                    self.h.at = time;
                    self.happen(item);
                }
                _ if tick <= end => {
                    self.h.at = tick;
                    self.input(Input::Tick);
                }
                _ => {
                    self.h.at = end;
                    self.input(Input::Tick);
                    return;
                }
            }
        }
    }

    fn happen(&mut self, item: Item) {
        let now = self.h.at;
        match item {
            Item::World => {
                if self.chaos {
                    self.world();
                    let wait = self.random.u64(0..40);
                    self.at(now + millis(wait), Item::World);
                }
            }
            Item::Answer { connection, .. }
            | Item::Subscribe { connection, .. }
            | Item::Pump { connection }
                if connection != self.connection => {}
            Item::Answer { asked, input, connection } => {
                let late = asked + 5 * SECOND;
                if now < self.daemon.away_until {
                    self.input(refused(input, "the connection broke"));
                } else if now < self.daemon.hung_until && now < late {
                    self.at(self.daemon.hung_until.min(late), Item::Answer { connection, asked, input });
                } else if now >= late {
                    self.input(refused(input, "late"));
                } else {
                    if let Input::StreamOpened(Ok(())) = &input {
                        let since = self.since;
                        let wait = self.random.u64(0..3);
                        self.at(now + millis(wait), Item::Subscribe { connection, since });
                    }
                    self.input(input);
                }
            }
            Item::Subscribe { since, connection } => {
                let from = self.daemon.buffer.iter().rposition(|event| event.time < Some(since));
                let from = from.map_or(0, |at| at + 1);
                self.stream = self.daemon.buffer.iter().skip(from).cloned().collect();
                self.subscribed = true;
                self.at(now, Item::Pump { connection });
            }
            Item::Pump { connection } => {
                if now < self.daemon.hung_until {
                    self.at(self.daemon.hung_until, Item::Pump { connection });
                } else if !self.stream.is_empty() {
                    let events: Vec<Event> = self.stream.drain(..).collect();
                    let destroys = events.iter().filter(|e| &*e.action == "destroy");
                    self.destroyed.extend(destroys.map(|e| e.actor.to_string()));
                    self.input(Input::Events(events));
                }
            }
        }
    }

    fn input(&mut self, input: Input) {
        let life = match &input {
            Input::Connected(r) => r.is_ok(),
            Input::StreamOpened(r) | Input::Ponged(r) => r.is_ok(),
            Input::Listed(result) => result.is_ok(),
            Input::Events(_) => true,
            Input::Inspected { outcome, .. } => !matches!(outcome, Outcome::Failed(_)),
            _ => false,
        };
        if life {
            self.last_sign_of_life = self.h.at;
        }
        let actions = self.h.step(input);
        for action in actions {
            self.act(action);
        }
        let stale_after = self.h.watcher.settings.docker.stale_after;
        if self.h.at >= self.last_sign_of_life + stale_after {
            assert!(
                !self.h.visible,
                "shown {:?} after the last sign of life",
                self.h.at - self.last_sign_of_life
            );
        }
        for id in self.h.ids() {
            assert!(!self.destroyed.contains(id), "{id} is shown after its destroy event");
        }
    }

    fn act(&mut self, action: Action) {
        let (now, connection) = (self.h.at, self.connection);
        let slow = self.faults.calls && self.chaos && self.random.u8(0..20) == 0;
        let fails = self.faults.calls && self.chaos && self.random.u8(0..20) == 0;
        let latency = if slow { self.random.u64(0..4000) } else { self.random.u64(0..20) };
        let input = match action {
            Action::Close => {
                self.connection += 1;
                self.subscribed = false;
                self.stream.clear();
                return;
            }
            Action::Connect => Input::Connected(Ok(Some(wall(now)))),
            Action::OpenStream { since } => {
                let since = since.unwrap();
                self.asked_first.get_or_insert(since);
                self.since = since;
                Input::StreamOpened(Ok(()))
            }
            Action::List => Input::Listed(Ok(self
                .daemon
                .containers
                .values()
                .map(|c| ListEntry {
                    id: Text::clone(&c.id),
                    name: Text::clone(&c.name),
                    summary: Arc::new(Container { is_inspected: false, ..c.clone() }),
                })
                .collect())),
            Action::Inspect(id) => match self.daemon.containers.get(&*id) {
                Some(container) => found(container.clone()),
                None => gone(&id),
            },
            Action::Ping => Input::Ponged(Ok(())),
            Action::Change(_) | Action::Note(_) => unreachable!("the harness takes them"),
        };
        let input = if fails && !matches!(input, Input::Ponged(_)) { refused(input, "no") } else { input };
        self.at(now + millis(latency), Item::Answer { connection, asked: now, input });
    }

    /// Something happens to a container, or to the daemon.
    fn world(&mut self) {
        let now = self.h.at;
        if now < self.daemon.away_until {
            return;
        }
        match self.random.u32(0..1000) {
            0..10 if self.faults.cuts => self.cut(),
            10..12 if self.faults.outages => {
                self.daemon.hung_until = now + millis(self.random.u64(0..15_000));
            }
            12..15 if self.faults.outages => {
                self.daemon.away_until = now + millis(self.random.u64(100..12_000));
                self.daemon.buffer.clear();
                let connection = self.connection;
                if self.subscribed {
                    let input = Input::StreamEnded("restarted".into());
                    self.at(now, Item::Answer { connection, asked: now, input });
                }
            }
            _ if now < self.daemon.hung_until => {}
            15..200 => self.create(),
            200..400 => self.change(|c, now| (c.started_at, c.status) = (now, Status::Running), "start"),
            400..600 => self.change(|c, now| (c.finished_at, c.status) = (now, Status::Exited), "die"),
            600..700 => self.change(|_, _| {}, "exec_start: sh"),
            700..780 => self.change(|c, _| c.status = Status::Dead, ""),
            780..850 => {
                let name = NAMES[self.random.usize(0..NAMES.len())];
                self.change(|c, _| c.name = name.into(), "rename");
            }
            _ => {
                if let Some(container) = self.pick() {
                    self.daemon.containers.remove(&*container.id);
                    self.tell("destroy", &container);
                }
            }
        }
    }

    fn cut(&mut self) {
        let (now, connection) = (self.h.at, self.connection);
        if self.subscribed {
            // Events in transit are lost with the stream.
            self.subscribed = false;
            self.stream.clear();
            let input = Input::StreamEnded("cut".into());
            self.at(now, Item::Answer { connection, asked: now, input });
        }
    }

    fn pick(&mut self) -> Option<Container> {
        let index = self.random.usize(0..self.daemon.containers.len().max(1));
        self.daemon.containers.values().nth(index).cloned()
    }

    fn create(&mut self) {
        self.daemon.next_id += 1;
        let name = NAMES[self.random.usize(0..NAMES.len())];
        let container = Container::sample(&format!("{:05}", self.daemon.next_id), name);
        self.daemon.containers.insert(container.id.to_string(), container.clone());
        self.tell("create", &container);
    }

    fn change(&mut self, change: impl FnOnce(&mut Container, i64), action: &str) {
        let Some(mut container) = self.pick() else { return };
        change(&mut container, self.h.at.as_millis() as i64);
        self.daemon.containers.insert(container.id.to_string(), container.clone());
        if !action.is_empty() {
            self.tell(action, &container);
        }
    }

    fn tell(&mut self, action: &str, container: &Container) {
        let (now, connection) = (self.h.at, self.connection);
        let at = now.max(self.daemon.last + Duration::from_nanos(1));
        self.daemon.last = at;
        let event = event(action, &container.id, &container.name, at);
        self.daemon.told.push((at, (action.to_owned(), container.name.to_string())));
        self.daemon.buffer.push_back(event.clone());
        if self.daemon.buffer.len() > BUFFER {
            self.daemon.buffer.pop_front();
        }
        let skipped = self.faults.skips && self.random.u8(0..30) == 0;
        if self.subscribed && !skipped {
            self.stream.push_back(event);
            let wait = self.random.u64(0..5);
            self.at(now + millis(wait), Item::Pump { connection });
        }
    }

    fn counts(&self) -> BTreeMap<(String, String), u64> {
        let mut counts = BTreeMap::new();
        for (at, key) in &self.daemon.told {
            if self.asked_first.is_some_and(|first| wall(*at) >= first) && !key.1.starts_with("x-") {
                *counts.entry(key.clone()).or_default() += 1;
            }
        }
        counts
    }
}

/// The same kind of answer, as a failure.
fn refused(input: Input, why: &str) -> Input {
    match input {
        Input::Connected(_) => Input::Connected(Err(why.into())),
        Input::StreamOpened(_) => Input::StreamOpened(Err(why.into())),
        Input::Listed(_) => Input::Listed(Err(why.into())),
        Input::Ponged(_) => Input::Ponged(Err(why.into())),
        Input::Inspected { id, .. } => Input::Inspected { id, outcome: Outcome::Failed(why.into()) },
        input => input,
    }
}

/// One run: faults for a while, then none. Returns the gaps and the number of events.
fn play(seed: u64, faults: Faults) -> (usize, usize) {
    let mut world = World::new(seed, faults);
    let chaos = millis(world.random.u64(1_000..40_000));
    world.run(chaos);
    world.chaos = false;
    world.daemon.away_until = Duration::ZERO;
    world.daemon.hung_until = Duration::ZERO;
    // Two lists after the last fault, everything missed is known.
    world.run(chaos + Duration::from_secs(150));

    let truth: HashMap<&str, &Container> =
        world.daemon.containers.values().filter(|c| !c.name.starts_with("x-")).map(|c| (&*c.id, c)).collect();
    assert!(world.h.visible && world.h.watcher.is_up);
    let shown: HashMap<&str, &Container> = world.h.known.iter().map(|(id, c)| (id.as_str(), &**c)).collect();
    assert_eq!(shown, truth);
    world.h.assert_at_rest();

    let (told, counted) = (world.counts(), &world.h.counts);
    for (key, count) in counted {
        assert!(told.get(key) >= Some(count), "{key:?} was counted {count} times, told {:?}", told.get(key));
    }
    if counted != &told && !faults.skips {
        assert!(world.h.gaps() > 0, "events are missing, and no gap is told: {told:?} {counted:?}");
    }
    (world.h.gaps(), world.daemon.told.len())
}

fn play_all(faults: Faults) -> (usize, usize) {
    let runs = (0..60).map(|seed| {
        std::panic::catch_unwind(|| play(seed, faults)).unwrap_or_else(|_| panic!("seed {seed}, {faults:?}"))
    });
    runs.fold((0, 0), |(gaps, told), (more_gaps, more_told)| (gaps + more_gaps, told + more_told))
}

const NONE: Faults = Faults { cuts: false, calls: false, outages: false, skips: false };

#[test]
fn a_good_daemon_is_followed_to_the_letter() {
    let (gaps, told) = play_all(NONE);
    assert_eq!(gaps, 0);
    assert!(told > 10_000, "{told}");
}

#[test]
fn streams_that_are_cut_cost_no_event() {
    let (gaps, _) = play_all(Faults { cuts: true, ..NONE });
    assert_eq!(gaps, 0);
}

#[test]
fn calls_that_fail_or_hang_cost_only_themselves() {
    play_all(Faults { calls: true, ..NONE });
}

#[test]
fn outages_are_gaps_and_the_state_is_right_again() {
    let (gaps, _) = play_all(Faults { outages: true, ..NONE });
    assert!(gaps > 0);
}

#[test]
fn events_that_are_skipped_are_made_up_for() {
    play_all(Faults { skips: true, ..NONE });
}

#[test]
fn everything_at_once() {
    play_all(Faults { cuts: true, calls: true, outages: true, skips: true });
}
