//! Whether anything grows while containers come and go and the engine is cut off again and again.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use fake_engine::{Container, FakeEngine};

use crate::Error;
use crate::exporter::{Exporter, Protocol, Push};
use crate::report::{Goal, print_goals};
use crate::scrape::{sum, wait_for};
use crate::sink::Sink;

/// Containers that stay.
const STEADY: usize = 100;
/// Containers that are made, started, ended and removed each second.
const LIVES_A_SECOND: u32 = 20;
/// A container lives until this many newer ones exist.
const LIFE: usize = 20;
/// How many names there are; they recur, as those of services do.
const NAMES: usize = 200;
/// How often the engine goes away.
const BETWEEN_CUTS: Duration = Duration::from_secs(60);
/// How long the engine stays away. It keeps 256 events, more than happen in this time.
const AWAY: Duration = Duration::from_secs(1);
const BETWEEN_SAMPLES: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The exporter's program.
    #[arg(long)]
    exporter: PathBuf,
    /// How long, in seconds.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
}

/// What the exporter's process holds at one moment.
#[derive(Debug)]
struct Sample {
    resident: u64,
    descriptors: usize,
    threads: usize,
}

/// Runs the exporter, prints what grew, and fails if a count is wrong.
pub(crate) async fn run(arguments: &Arguments) -> Result<(), Error> {
    let sink = Sink::start().await?;
    let directory = tempfile::Builder::new().prefix("dse-soak-").tempdir()?;
    tokio::task::block_in_place(|| {
        let engine = FakeEngine::start()?;
        engine.populate(STEADY, 5);
        let push =
            Push { receiver: sink.address, protocol: Protocol::Grpc, compression: "gzip", interval: 5_000 };
        let mut exporter =
            Exporter::start(&arguments.exporter, directory.path(), &engine.host(), Some(push), 60_000)?;
        let samples = soak(&engine, &mut exporter, Duration::from_secs(arguments.seconds))?;
        // At single moments an export or a reconnect is under way: the medians of two quarters tell whether it grows.
        let half = samples.get(samples.len() / 2..).unwrap_or_default();
        let (third, last) = half.split_at(half.len() / 2);
        let grown = |of: fn(&Sample) -> f64| (median(third, of), median(last, of));
        let (before, after) = grown(|sample| sample.resident as f64);
        let more = |(before, after): (f64, f64)| after - before;
        let most = half.iter().map(|sample| sample.resident).max().unwrap_or_default() as f64;
        print_goals(&[
            Goal::at_most("memory, third quarter to last", (after / before - 1.0) * 100.0, 10.0, "%"),
            Goal::at_most("memory, the most in the last half", most / 1024.0 / 1024.0, 22.0, "MiB"),
            Goal::at_most(
                "descriptors, third quarter to last",
                more(grown(|s| s.descriptors as f64)),
                0.0,
                "more",
            ),
            Goal::at_most("threads, third quarter to last", more(grown(|s| s.threads as f64)), 0.0, "more"),
        ]);
        println!(
            "\n{} requests with {} points came over OTLP.",
            sink.received().requests,
            sink.received().points
        );
        Ok(())
    })
}

fn median(samples: &[Sample], of: fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn soak(engine: &FakeEngine, exporter: &mut Exporter, lasts: Duration) -> Result<Vec<Sample>, Error> {
    let began = Instant::now();
    let (mut samples, mut alive) = (Vec::new(), VecDeque::new());
    let (mut next_cut, mut next_sample) = (BETWEEN_CUTS / 2, Duration::ZERO);
    let (mut away_until, mut events, mut scrapes) = (None::<Duration>, 0u64, 0);
    let live = |events: &mut u64, id: &str, action: &str, status: &str| {
        engine.act(id, action, |container| container.status(status));
        *events += 1;
    };
    for number in 0usize.. {
        let now = Duration::from_secs(1) / LIVES_A_SECOND * u32::try_from(number)?;
        if now >= lasts {
            break;
        }
        thread::sleep(now.saturating_sub(began.elapsed()));
        let id = engine.create(Container::new(&format!("soak-{}", number % NAMES)));
        events += 1;
        live(&mut events, &id, "start", "running");
        alive.push_back(id);
        if alive.len() > LIFE
            && let Some(id) = alive.pop_front()
        {
            live(&mut events, &id, "die", "exited");
            engine.destroy(&id);
            events += 1;
        }
        if away_until.is_some_and(|until| until <= now) {
            away_until = None;
            engine.reopen()?;
        }
        if now >= next_cut {
            next_cut += BETWEEN_CUTS;
            away_until = Some(now + AWAY);
            engine.refuse();
        }
        if number.is_multiple_of(LIVES_A_SECOND as usize / 2) {
            exporter.scraper.ask("/metrics")?;
            scrapes += 1;
        }
        if now >= next_sample {
            next_sample += BETWEEN_SAMPLES;
            let memory = exporter.process.memory()?;
            let sample = Sample {
                resident: memory.anonymous + memory.mapped,
                descriptors: exporter.process.entries("fd")?,
                threads: exporter.process.entries("task")?,
            };
            eprintln!("{:>4} s {sample:?}", now.as_secs());
            samples.push(sample);
        }
    }
    if away_until.is_some() {
        engine.reopen()?;
    }
    let containers = STEADY + alive.len();
    let mut text = String::new();
    let settled = wait_for("every count is right", || {
        text = exporter.metrics()?;
        Ok(sum(&text, "docker_events") == events as f64
            && sum(&text, "container_info") == containers as f64
            && sum(&text, "docker_up") == 1.0)
    });
    let own = |name: &str| sum(&text, &format!("docker_state_exporter_{name}"));
    println!(
        "{} s, {scrapes} scrapes, {events} events in {} streams, {} gaps; counted {} events, {} containers of {containers}.\n",
        lasts.as_secs(),
        own("event_streams_total"),
        own("event_gaps_total"),
        sum(&text, "docker_events"),
        sum(&text, "container_info"),
    );
    settled.map(|()| samples)
}
