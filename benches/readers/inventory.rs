//! An inventory as a host with many containers has it.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use docker_state_exporter::config::{self, Config};
use docker_state_exporter::inventory::{
    self, Container, Counter, EventIdentity, EventLabels, EventPolicy, Expectation, Health, Reader, Status,
    Verdict, Writer,
};

/// Actions that each container has had.
const ACTIONS: [&str; 4] = ["create", "start", "oom", "die"];

/// The configuration without a file.
pub(crate) fn config() -> Config {
    config::from_environment(&|_| None).expect("the defaults are valid").config
}

/// Containers with five labels and four counted actions each.
pub(crate) struct Inventory {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    containers: Vec<Container>,
    round: Cell<usize>,
}

impl Inventory {
    pub(crate) fn new(count: usize) -> Self {
        let retention = Duration::from_secs(86_400);
        let (writer, reader) = inventory::new(EventPolicy {
            retention,
            start_at_zero: Vec::new(),
            exits: false,
            limit: usize::MAX,
        });
        let containers: Vec<Container> = (0..count).map(container).collect();
        writer.replace(containers.iter().cloned().map(Arc::new).collect(), &[], Instant::now());
        for container in &containers {
            for event in ACTIONS {
                let identity = Arc::clone(&container.event_identity);
                let labels = EventLabels {
                    counter: Counter::Events,
                    event: event.into(),
                    kind: "container".into(),
                    identity,
                };
                writer.count(labels, Instant::now());
            }
        }
        Self { reader, writer, containers, round: Cell::new(0) }
    }

    /// How many series there are.
    pub(crate) fn series(&self) -> u64 {
        (self.containers.len() * (10 + ACTIONS.len())) as u64
    }

    /// Changes the status of the first `count` containers.
    pub(crate) fn change_status(&self, count: usize) {
        let status = if self.next_round().is_multiple_of(2) { Status::Paused } else { Status::Running };
        self.change(count, |container| container.status = status);
    }

    /// Renames the first `count` containers, which changes all of their lines.
    pub(crate) fn rename(&self, count: usize) {
        let round = self.next_round();
        self.change(count, |container| container.name = format!("{}-{round}", container.name).into());
    }

    fn change(&self, count: usize, change: impl Fn(&mut Container)) {
        for container in self.containers.iter().take(count) {
            let mut container = container.clone();
            change(&mut container);
            self.writer.upsert(Arc::new(container), Instant::now());
        }
    }

    fn next_round(&self) -> usize {
        self.round.set(self.round.get() + 1);
        self.round.get()
    }
}

fn container(number: usize) -> Container {
    // Ids that are as random as an engine's.
    let word = |salt: u64| (number as u64 + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
    let id = format!("{:016x}{:016x}{:016x}{:016x}", word(1), word(1 << 20), word(1 << 40), word(1 << 50));
    let name = format!("project-{}-service-{number}", number % 10);
    let image = format!("registry.example.org/team/image-{}:1.{}", number % 50, number % 7);
    let labels = [
        ("com.docker.compose.project", format!("project-{}", number % 10)),
        ("com.docker.compose.service", format!("service-{number}")),
        ("maintainer", "somebody@example.org".to_owned()),
        ("org.opencontainers.image.version", format!("1.{}", number % 7)),
        ("team", format!("team-{}", number % 5)),
    ];
    let event_identity = EventIdentity {
        name: Some(name.as_str().into()),
        image: Some(image.as_str().into()),
        ..EventIdentity::default()
    };
    Container {
        id: id.as_str().into(),
        name: name.as_str().into(),
        image: image.as_str().into(),
        labels: labels.iter().map(|(key, value)| ((*key).into(), value.as_str().into())).collect(),
        status: Status::Running,
        health: Health::None,
        oom_killed: false,
        started_at: 1_750_000_000 + number as i64,
        finished_at: 0,
        created_at: 1_750_000_000,
        restart_count: 0,
        exit_code: 0,
        failing_streak: 0,
        image_id: format!("sha256:{}", &id).as_str().into(),
        restart_policy: "always".into(),
        hostname: id.get(..12).unwrap_or_default().into(),
        stop_signal: None,
        error: None,
        expectation: Expectation::Running,
        replica: None,
        verdict: Verdict::default(),
        event_identity: Arc::new(event_identity),
        is_inspected: true,
    }
}
