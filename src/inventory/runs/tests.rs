//! Plays the table in `ends.txt`.

use super::*;

/// The exporter's history and the engine's state, side by side.
struct Play {
    history: RunHistory,
    engine: RunState,
    /// Seconds since the play began, for both clocks.
    seconds: u64,
    begin: Instant,
    ends: Vec<End>,
}

const EPOCH: u64 = 1_800_000_000;

impl Play {
    fn new() -> Self {
        Self {
            history: RunHistory::default(),
            engine: RunState {
                running: false,
                started_at: 0,
                finished_at: 0,
                exit_code: 0,
                oom_killed: false,
                stop_signal: None,
            },
            seconds: 0,
            begin: Instant::now(),
            ends: Vec::new(),
        }
    }

    fn now(&self) -> Instant {
        self.begin + Duration::from_secs(self.seconds)
    }

    fn unix(&self) -> i64 {
        i64::try_from(EPOCH + self.seconds).unwrap()
    }

    /// Every step takes a second; `arrives` is whether its event reaches the exporter.
    fn step(&mut self, step: &str, arrives: bool) {
        self.seconds += 1;
        let words: Vec<&str> = step.split_whitespace().collect();
        let event = match words[..] {
            ["start"] => {
                self.engine = RunState {
                    running: true,
                    started_at: self.unix(),
                    exit_code: 0,
                    oom_killed: false,
                    ..self.engine
                };
                Some(RunEvent::Start)
            }
            ["kill", signal] => Some(RunEvent::Kill(Some(Signal::parse(signal).expect("a signal")))),
            ["oom"] => {
                self.engine.oom_killed = true;
                Some(RunEvent::Oom)
            }
            ["memory"] => {
                self.engine.oom_killed = true;
                None
            }
            ["die", ref rest @ ..] => {
                let exit_code = rest.first().map(|code| code.parse().expect("an exit code"));
                if self.engine.running {
                    self.engine.running = false;
                    self.engine.finished_at = self.unix();
                    self.engine.exit_code = exit_code.unwrap_or(self.engine.exit_code);
                }
                Some(RunEvent::Die { exit_code, oom_killed: rest.get(1) == Some(&"oomkilled") })
            }
            ["stop" | "restart"] => None,
            ["destroy"] => {
                self.history.finish(&mut self.ends);
                None
            }
            ["stop-signal", signal] => {
                self.engine.stop_signal = Signal::parse(signal);
                self.inspect();
                None
            }
            ["inspect"] => {
                self.inspect();
                None
            }
            ["time", seconds] => {
                self.seconds += seconds.parse::<u64>().expect("seconds");
                self.history.tick(self.now(), &mut self.ends);
                None
            }
            ["exporter"] => {
                self.history = RunHistory::default();
                self.ends.clear();
                self.inspect();
                None
            }
            _ => panic!("no such step: {step}"),
        };
        if let Some(event) = event.filter(|_| arrives) {
            self.event(event, true);
        }
    }

    fn event(&mut self, event: RunEvent, is_counted: bool) {
        let at = UNIX_EPOCH + Duration::from_secs(EPOCH + self.seconds);
        self.history.event(event, at, self.now(), is_counted, &mut self.ends);
    }

    fn inspect(&mut self) {
        self.history.inspected(self.engine, self.now(), &mut self.ends);
    }
}

/// A line of the table: its steps, and whether the event of each arrives.
fn steps(line: &str) -> Vec<(String, bool)> {
    let mut arrives = true;
    let mut steps = Vec::new();
    for step in line.split(',') {
        let step = step.trim();
        if step.starts_with('(') {
            arrives = false;
        }
        steps.push((step.trim_matches(['(', ')']).to_owned(), arrives));
        if step.ends_with(')') {
            arrives = true;
        }
    }
    steps
}

/// Plays the steps, with an extra inspect before each step whose index is in `inspects`.
fn play(steps: &[(String, bool)], inspects: &[usize]) -> (String, String) {
    // The buffer is read before the first list: what is replayed comes before the inspect of the start.
    let mut play = Play::new();
    for (place, (step, arrives)) in steps.iter().enumerate() {
        if inspects.contains(&place) {
            play.inspect();
        }
        match step.strip_prefix("replay ") {
            None if step == "exporter" && steps.get(place + 1).is_some_and(|s| s.0.starts_with("replay")) => {
                play.history = RunHistory::default();
                play.ends.clear();
            }
            None => play.step(step, *arrives),
            Some(step) => {
                let event = match step.split_whitespace().collect::<Vec<_>>()[..] {
                    ["start"] => RunEvent::Start,
                    ["oom"] => RunEvent::Oom,
                    ["kill", signal] => RunEvent::Kill(Signal::parse(signal)),
                    ["die", code] => RunEvent::Die { exit_code: code.parse().ok(), oom_killed: false },
                    _ => panic!("cannot be replayed: {step}"),
                };
                play.event(event, false);
                if !steps.get(place + 1).is_some_and(|s| s.0.starts_with("replay")) {
                    play.inspect();
                }
            }
        }
    }
    play.seconds += 60;
    play.history.tick(play.now(), &mut play.ends);
    let counted: Vec<_> =
        play.ends.iter().filter(|end| end.is_counted).map(|end| end.reason.word()).collect();
    let shown = play.history.summary().last_end.map_or("none", ExitReason::word);
    (counted.join(" "), shown.to_owned())
}

/// A row: its line, its steps, what is counted, what is shown.
type Row = (&'static str, Vec<(String, bool)>, String, String);

fn table() -> Vec<Row> {
    let mut rows = Vec::new();
    for line in include_str!("ends.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (happens, becomes) = line.split_once('=').expect("a row has two columns");
        let (counted, shown) = match becomes.split_once(';') {
            Some((counted, shown)) => (counted.trim(), shown.trim()),
            None => (becomes.trim(), becomes.split_whitespace().last().unwrap_or("none")),
        };
        rows.push((line, steps(happens), counted.to_owned(), shown.to_owned()));
    }
    assert!(rows.len() > 80, "the table is read");
    rows
}

#[test]
fn every_row_of_the_table_holds() {
    let rows = table().into_iter();
    let wrong: Vec<_> = rows
        .map(|(line, steps, counted, shown)| (line, play(&steps, &[]), (counted, shown)))
        .filter(|(_, found, expected)| found != expected)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Inspects come at any time. If every event arrives, one more or less of them changes nothing.
#[test]
fn inspects_in_between_change_nothing() {
    let fixed = |step: &(String, bool)| {
        !step.1 || ["inspect", "memory", "exporter", "replay"].iter().any(|word| step.0.starts_with(word))
    };
    let mut tried = 0;
    for (line, steps, counted, shown) in table() {
        // Without an event, the result depends on when the engine is asked, and so does an exit code that no event
        // carries.
        if steps.iter().any(fixed) || line.contains("die 137, oom") {
            continue;
        }
        for first in 0..steps.len() {
            for second in first..steps.len() {
                assert_eq!(
                    play(&steps, &[first, second]),
                    (counted.clone(), shown.clone()),
                    "inspects before steps {first} and {second}: {line}"
                );
                tried += 1;
            }
        }
    }
    assert!(tried > 500, "{tried}");
}

#[test]
fn three_short_runs_that_nobody_ended_are_a_loop() {
    let looping = |steps_text: &str| {
        let mut play = Play::new();
        for (step, arrives) in steps(steps_text) {
            play.step(&step, arrives);
        }
        play.history.tick(play.now(), &mut play.ends);
        play.history.summary().is_looping
    };
    assert!(!looping("start, die 1, start, die 1, start"));
    assert!(looping("start, die 1, start, die 1, start, die 1, start"));
    assert!(looping("start, die 0, start, time 300, die 1, start, oom, die 137, start"), "slow ones too");
    assert!(!looping("start, time 700, die 1, start, die 1, start, die 1, start"));
    assert!(!looping("start, die 1, start, die 1, start, kill 15, die 143, start"));
    assert!(!looping("start, die 1, start, die 1, start, die 1, start, time 601"), "one lasts");
    assert!(!looping("start, die 1, start, die 1, start, die 1, start, kill 15, die 143"), "it is stopped");
}

#[test]
fn a_signal_is_known_of_runs_whose_start_was_seen() {
    let signalled = |steps_text: &str| {
        let mut play = Play::new();
        for (step, arrives) in steps(steps_text) {
            play.step(&step, arrives);
        }
        play.history.summary().was_signalled
    };
    assert_eq!(signalled("(start), inspect"), None);
    assert_eq!(signalled("(start), inspect, kill HUP"), None);
    assert_eq!(signalled("start"), Some(false));
    assert_eq!(signalled("start, kill HUP, inspect"), Some(true));
    assert_eq!(signalled("start, kill HUP, die 1, start"), Some(false));
    assert_eq!(signalled("start, kill HUP, (die 1, start), inspect"), None);
}
