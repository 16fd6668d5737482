//! What the exporter costs, at several numbers of containers, against a fake engine in this program.
//!
//! CPU time is that of the exporter's whole process, as the kernel counts it: other programs on the machine hardly
//! increase it. For the comparison of response times with nginx, the two take turns.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fake_engine::{Container, Endpoint, FakeEngine};

use crate::Error;
use crate::exporter::{Exporter, Protocol, Push, nginx};
use crate::plot::{self, Line};
use crate::process::Memory;
use crate::quantiles::Quantiles;
use crate::report::{Goal, print_goals};
use crate::scrape::{Scraper, series, sum, wait_for};
use crate::sink::Sink;

/// Labels of each container.
const LABELS: usize = 5;
/// The number of containers that the goals are for.
const REFERENCE: usize = 1_000;
/// A number of containers and of labels of each, for a second memory goal.
const MANY_LABELS: (usize, usize) = (2_000, 20);
/// A resync interval so long that the exporter does not list again during a measurement.
const NO_RESYNC: u64 = 3_600_000;
/// The time for work that an answer has caused to end.
const SETTLE: Duration = Duration::from_millis(60);

/// Where what is.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The exporter's program.
    #[arg(long)]
    exporter: PathBuf,
    /// nginx's program.
    #[arg(long, default_value = "nginx")]
    nginx: PathBuf,
    /// Numbers of containers.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000, 10_000])]
    containers: Vec<usize>,
    /// Some of: scrape, change, otlp, memory, events, idle.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where the plot goes.
    #[arg(long)]
    plot: Option<PathBuf>,
}

/// What was measured at one number of containers. CPU times are in microseconds.
#[derive(Debug, Default, Clone)]
struct Costs {
    containers: usize,
    series: usize,
    gzip_bytes: usize,
    calls: usize,
    scrape_ms: f64,
    nginx_ms: f64,
    unchanged: f64,
    nginx_cpu: f64,
    one_changed: f64,
    all_changed: f64,
    /// After every container was renamed, so that all lines have changed.
    all_renamed: f64,
    /// By transport: its name, microseconds a point, and the size of an export on the wire.
    otlp: Vec<(&'static str, f64, u64)>,
    points: u64,
    memory: Memory,
}

impl Costs {
    /// CPU of one export with gRPC and gzip, in microseconds.
    fn export(&self) -> f64 {
        self.otlp.last().map_or(f64::NAN, |(_, a_point, _)| a_point * self.points as f64)
    }
}

/// CPU time of a scrape and of an export.
fn lines(all: &[Costs]) -> [Line; 4] {
    let line = |name, colour, of: fn(&Costs) -> f64| Line {
        name,
        colour,
        points: all
            .iter()
            .map(|costs| (costs.containers as f64, of(costs)))
            .filter(|(_, y)| y.is_finite() && *y > 0.0)
            .collect(),
    };
    [
        line("scrape, all changed", "#c0392b", |costs| costs.all_changed),
        line("export, gRPC and gzip", "#8e44ad", Costs::export),
        line("scrape, one changed", "#d68910", |costs| costs.one_changed),
        line("scrape, nothing changed", "#1e8449", |costs| costs.unchanged),
    ]
}

/// What is measured at [`REFERENCE`] containers only.
#[derive(Debug, Default)]
struct Load {
    events: Option<Events>,
    exec_percent: Option<f64>,
    exec_inspects: usize,
    idle_percent: Option<f64>,
    /// With [`MANY_LABELS`].
    memory: Option<Memory>,
}

#[derive(Debug)]
struct Events {
    rate: f64,
    sent: u64,
    counted: u64,
    worst_lag_ms: f64,
}

/// Measures and prints.
pub(crate) async fn measure(arguments: &Arguments) -> Result<(), Error> {
    let sink = Sink::start().await?;
    let directory = tempfile::Builder::new().prefix("dse-bench-").tempdir()?;
    let wanted = |what: &str| arguments.only.is_empty() || arguments.only.iter().any(|o| o == what);
    let mut all = Vec::new();
    let mut load = Load::default();
    for &containers in &arguments.containers {
        let bench = Bench::new(arguments, directory.path(), &sink, containers, LABELS)?;
        let mut costs = Costs { containers, ..Costs::default() };
        if wanted("scrape") || wanted("change") {
            bench.scrapes(&mut costs, wanted("change"))?;
        }
        if wanted("otlp") {
            bench.otlp(&mut costs)?;
        }
        if wanted("memory") {
            costs.memory = bench.memory()?;
        }
        if containers == REFERENCE {
            if wanted("events") {
                load.events = Some(bench.events()?);
                (load.exec_percent, load.exec_inspects) = bench.exec().map(|(p, i)| (Some(p), i))?;
            }
            if wanted("idle") {
                load.idle_percent = Some(bench.idle()?);
            }
        }
        eprintln!("{costs:?}");
        all.push(costs);
    }
    if wanted("memory") && arguments.containers.contains(&REFERENCE) {
        let (containers, labels) = MANY_LABELS;
        let bench = Bench::new(arguments, directory.path(), &sink, containers, labels)?;
        load.memory = Some(bench.memory()?);
    }
    let binary = std::fs::metadata(&arguments.exporter)?.len();
    print(&all, &load, binary);
    if let Some(path) = &arguments.plot {
        std::fs::write(path, plot::draw(&lines(&all)))?;
    }
    Ok(())
}

/// A fake engine with its containers, and what is measured against it.
struct Bench<'a> {
    arguments: &'a Arguments,
    directory: &'a Path,
    sink: &'a Sink,
    engine: FakeEngine,
    ids: Vec<String>,
}

impl<'a> Bench<'a> {
    fn new(
        arguments: &'a Arguments,
        directory: &'a Path,
        sink: &'a Sink,
        containers: usize,
        labels: usize,
    ) -> Result<Self, Error> {
        let engine = FakeEngine::start()?;
        let ids = engine.populate(containers, labels);
        Ok(Self { arguments, directory, sink, engine, ids })
    }

    /// The exporter with both readers.
    fn exporter(&self, interval: u64, resync_interval: u64) -> Result<Exporter, Error> {
        self.exporter_with(Protocol::Grpc, "gzip", interval, resync_interval)
    }

    fn exporter_with(
        &self,
        protocol: Protocol,
        compression: &'static str,
        interval: u64,
        resync_interval: u64,
    ) -> Result<Exporter, Error> {
        let push = Push { receiver: self.sink.address, protocol, compression, interval };
        let host = self.engine.host();
        Exporter::start(&self.arguments.exporter, self.directory, &host, Some(push), resync_interval)
    }

    fn calls(&self) -> usize {
        self.engine.count(Endpoint::List) + self.engine.count(Endpoint::Inspect)
    }

    /// Measures scrapes: without changes, compared with nginx serving the same bytes; after changes, by CPU time.
    fn scrapes(&self, costs: &mut Costs, changes: bool) -> Result<(), Error> {
        let mut exporter = self.exporter(NO_RESYNC, NO_RESYNC)?;
        thread::sleep(Duration::from_secs(2));
        costs.series = series(&exporter.metrics()?);
        costs.gzip_bytes = exporter.scraper.body().len();
        let (nginx, address) = nginx(&self.arguments.nginx, self.directory, exporter.scraper.body())?;
        let mut other = Scraper::connect(address)?;
        let before = self.calls();
        let rounds = if self.ids.len() > REFERENCE { 15 } else { 40 };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let (mut our_cpu, mut their_cpu) = (Duration::ZERO, Duration::ZERO);
        for round in 0..=rounds {
            // They take turns, and the first round only warms them up.
            for (scraper, process, times, cpu) in [
                (&mut exporter.scraper, &exporter.process, &mut ours, &mut our_cpu),
                (&mut other, &nginx, &mut theirs, &mut their_cpu),
            ] {
                let began = process.cpu()?;
                for _ in 0..25 {
                    let took = scraper.ask("/metrics")?;
                    if round > 0 {
                        times.push(took.as_secs_f64() * 1e3);
                    }
                }
                if round > 0 {
                    *cpu += process.cpu()?.saturating_sub(began);
                }
            }
        }
        let requests = ours.len() as f64;
        costs.calls = self.calls() - before;
        (costs.scrape_ms, costs.nginx_ms) = (Quantiles::new(ours).at(0.5), Quantiles::new(theirs).at(0.5));
        costs.unchanged = our_cpu.as_secs_f64() * 1e6 / requests;
        costs.nginx_cpu = their_cpu.as_secs_f64() * 1e6 / requests;
        if changes {
            let pause = |round, container: Container| {
                container.status(if usize::is_multiple_of(round, 2) { "paused" } else { "running" })
            };
            costs.one_changed = self.changed(&mut exporter, 1, 40, ["pause", "unpause"], pause)?;
            let (all, rounds) = (self.ids.len(), if self.ids.len() > REFERENCE { 6 } else { 20 });
            costs.all_changed = self.changed(&mut exporter, all, rounds, ["pause", "unpause"], pause)?;
            let rename = |round, container: Container| {
                let name = container.name().trim_end_matches("-odd").to_owned();
                container.named(&if usize::is_multiple_of(round, 2) { format!("{name}-odd") } else { name })
            };
            costs.all_renamed = self.changed(&mut exporter, all, rounds, ["rename"; 2], rename)?;
        }
        Ok(())
    }

    /// CPU time of one scrape after `count` containers have changed.
    fn changed(
        &self,
        exporter: &mut Exporter,
        count: usize,
        rounds: usize,
        actions: [&str; 2],
        change: impl Fn(usize, Container) -> Container,
    ) -> Result<f64, Error> {
        let mut cpu = Duration::ZERO;
        for round in 0..rounds {
            self.engine.clear_requests();
            let [even, odd] = actions;
            let action = if round % 2 == 0 { even } else { odd };
            for id in self.ids.iter().take(count) {
                self.engine.act(id, action, |container| change(round, container));
            }
            wait_for("every change is inspected", || Ok(self.engine.count(Endpoint::Inspect) >= count))?;
            // Waits for work that the inspects cause, which must not be counted. Rendering begins only with the
            // scrape.
            let mut rest = exporter.process.cpu()?;
            loop {
                thread::sleep(SETTLE);
                let now = exporter.process.cpu()?;
                if now.saturating_sub(rest) < Duration::from_micros(300) {
                    break;
                }
                rest = now;
            }
            let before = exporter.process.cpu()?;
            exporter.scraper.ask("/metrics")?;
            let after = exporter.process.cpu()?;
            cpu += after.saturating_sub(before);
        }
        Ok(cpu.as_secs_f64() * 1e6 / rounds as f64)
    }

    /// CPU time of exports per data point, for each way to send them.
    fn otlp(&self, costs: &mut Costs) -> Result<(), Error> {
        let (interval, exports) = if self.ids.len() > REFERENCE { (2_000, 4) } else { (250, 16) };
        for (name, protocol, compression) in [
            ("HTTP", Protocol::Http, "none"),
            ("HTTP, gzip", Protocol::Http, "gzip"),
            ("gRPC", Protocol::Grpc, "none"),
            ("gRPC, gzip", Protocol::Grpc, "gzip"),
        ] {
            let exporter = self.exporter_with(protocol, compression, interval, NO_RESYNC)?;
            let first = self.sink.received();
            wait_for("an export arrives", || Ok(self.sink.received().requests > first.requests))?;
            // Begins between two exports, so that only whole exports are counted.
            thread::sleep(Duration::from_millis(interval + interval / 2));
            let (cpu, before) = (exporter.process.whole_cpu()?, self.sink.received());
            thread::sleep(Duration::from_millis(interval * exports));
            let (cpu_after, after) = (exporter.process.whole_cpu()?, self.sink.received());
            let points = after.points - before.points;
            costs.points = points / exports;
            let a_point = (cpu_after - cpu).as_secs_f64() * 1e6 / points as f64;
            costs.otlp.push((name, a_point, (after.bytes - before.bytes) / exports));
        }
        Ok(())
    }

    /// Memory while states change, with a scrape every second and an export every five.
    fn memory(&self) -> Result<Memory, Error> {
        let mut exporter = self.exporter(5_000, 60_000)?;
        let (seconds, changes) = (20, 50);
        for second in 0..seconds {
            let due = Instant::now() + Duration::from_secs(1);
            for number in 0..changes {
                let at = second * changes + number;
                let id = &self.ids[at % self.ids.len()];
                let (action, status) = if (at / self.ids.len()).is_multiple_of(2) {
                    ("pause", "paused")
                } else {
                    ("unpause", "running")
                };
                self.engine.act(id, action, |container| container.status(status));
            }
            exporter.scraper.ask("/metrics")?;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        // Everything at once, as after an engine's restart.
        for id in &self.ids {
            self.engine.act(id, "restart", |container| container.status("running"));
        }
        thread::sleep(Duration::from_secs(1));
        exporter.scraper.ask("/metrics")?;
        thread::sleep(Duration::from_secs(6));
        exporter.process.memory()
    }

    /// Ten thousand events a second: whether all are counted, and how far `/metrics` is behind.
    fn events(&self) -> Result<Events, Error> {
        const RATE: u64 = 10_000;
        const SECONDS: u64 = 5;
        let mut exporter = self.exporter(60_000, NO_RESYNC)?;
        // These events change no container, so each is counted and causes no call.
        let events: Vec<_> = self.ids.iter().map(|id| self.engine.event("attach", id)).collect();
        let (sent, done) = (AtomicU64::new(0), AtomicBool::new(false));
        let before = counted(&exporter.metrics()?);
        let mut worst = Duration::ZERO;
        let mut took = Duration::ZERO;
        let counted = thread::scope(|scope| -> Result<u64, Error> {
            scope.spawn(|| {
                let began = Instant::now();
                for (number, event) in (0..RATE * SECONDS).zip(events.iter().cycle()) {
                    let due = began + Duration::from_nanos(number * 1_000_000_000 / RATE);
                    let wait = due.saturating_duration_since(Instant::now());
                    // Shorter sleeps would not be accurate.
                    if wait > Duration::from_millis(1) {
                        thread::sleep(wait);
                    }
                    self.engine.emit(event.clone());
                    sent.fetch_add(1, Ordering::SeqCst);
                }
                done.store(true, Ordering::SeqCst);
            });
            let began = Instant::now();
            // Times, each with the number of events sent until then, oldest first.
            let mut marks = std::collections::VecDeque::new();
            loop {
                let ended = done.load(Ordering::SeqCst);
                if !ended {
                    took = began.elapsed();
                }
                marks.push_back((Instant::now(), sent.load(Ordering::SeqCst)));
                let seen = counted(&exporter.metrics()?) - before;
                // The oldest mark that is not yet reached says how far behind this answer is.
                while marks.front().is_some_and(|(_, sent)| *sent <= seen) {
                    marks.pop_front();
                }
                if let Some((at, _)) = marks.front() {
                    worst = worst.max(at.elapsed());
                }
                if ended && (marks.is_empty() || began.elapsed() > Duration::from_secs(SECONDS + 10)) {
                    return Ok(seen);
                }
                thread::sleep(Duration::from_millis(20));
            }
        })?;
        let sent = sent.into_inner();
        Ok(Events {
            rate: sent as f64 / took.as_secs_f64(),
            sent,
            counted,
            worst_lag_ms: worst.as_secs_f64() * 1e3,
        })
    }

    /// A hundred health probes a second, three events each: CPU as a fraction of a core, and the number of inspects.
    fn exec(&self) -> Result<(f64, usize), Error> {
        const PROBES: u64 = 100;
        const SECONDS: u64 = 15;
        let exporter = self.exporter(3_600_000, NO_RESYNC)?;
        thread::sleep(Duration::from_secs(3));
        let before = self.engine.count(Endpoint::Inspect);
        let (cpu, began) = (exporter.process.whole_cpu()?, Instant::now());
        for number in 0..PROBES * SECONDS {
            let id = &self.ids[usize::try_from(number)? % self.ids.len()];
            for action in ["exec_create: /bin/sh -c probe", "exec_start: /bin/sh -c probe", "exec_die"] {
                self.engine.emit(self.engine.event(action, id));
            }
            let due = began + Duration::from_millis((number + 1) * 1_000 / PROBES);
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let cpu = exporter.process.whole_cpu()?.saturating_sub(cpu);
        let percent = cpu.as_secs_f64() * 100.0 / began.elapsed().as_secs_f64();
        Ok((percent, self.engine.count(Endpoint::Inspect) - before))
    }

    /// CPU as a fraction of a core while nothing happens, with everything at its default: a scrape every 15 s, an
    /// export and a list with its inspects every minute.
    fn idle(&self) -> Result<f64, Error> {
        let mut exporter = self.exporter(60_000, 60_000)?;
        // The first scrape and the first export render everything, so they are not measured.
        exporter.scraper.ask("/metrics")?;
        thread::sleep(Duration::from_secs(5));
        let (cpu, began) = (exporter.process.whole_cpu()?, Instant::now());
        for _ in 0..8 {
            thread::sleep(Duration::from_secs(15));
            exporter.scraper.ask("/metrics")?;
        }
        let cpu = exporter.process.whole_cpu()?.saturating_sub(cpu);
        Ok(cpu.as_secs_f64() * 100.0 / began.elapsed().as_secs_f64())
    }
}

/// Events that have been counted.
fn counted(text: &str) -> u64 {
    sum(text, "docker_events") as u64
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

fn print(all: &[Costs], load: &Load, binary: u64) {
    print_goals(&goals(all, load, binary));
    println!(
        "\n| containers | series | gzip KiB | scrape ms | nginx ms | ratio | scrape CPU µs | nginx CPU µs |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|");
    for c in all {
        println!(
            "| {} | {} | {} | {:.3} | {:.3} | {:.2} | {:.0} | {:.0} |",
            c.containers,
            c.series,
            c.gzip_bytes / 1024,
            c.scrape_ms,
            c.nginx_ms,
            c.scrape_ms / c.nginx_ms,
            c.unchanged,
            c.nginx_cpu
        );
    }
    println!(
        "\n| containers | one changed: CPU µs | every status changed: CPU µs | a series | everything renamed: CPU µs | a series | points of an export | CPU µs a point: HTTP | gzip | gRPC | gzip | KiB on the wire with gzip |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for c in all {
        print!(
            "| {} | {:.0} | {:.0} | {:.2} | {:.0} | {:.2} | {} |",
            c.containers,
            c.one_changed,
            c.all_changed,
            c.all_changed / c.series as f64,
            c.all_renamed,
            c.all_renamed / c.series as f64,
            c.points
        );
        for (_, a_point, _) in &c.otlp {
            print!(" {a_point:.2} |");
        }
        println!(" {} |", c.otlp.last().map_or(0, |(.., bytes)| bytes / 1024));
    }
    println!("\n| containers | peak MiB | of its own at the end | mapped files |");
    println!("|---:|---:|---:|---:|");
    for c in all {
        let m = c.memory;
        println!(
            "| {} | {:.1} | {:.1} | {:.1} |",
            c.containers,
            mib(m.peak),
            mib(m.anonymous),
            mib(m.mapped)
        );
    }
}

/// The goals, each with what was measured.
fn goals(all: &[Costs], load: &Load, binary: u64) -> Vec<Goal> {
    let mut goals = Vec::new();
    if let Some(c) = all.iter().find(|c| c.containers == REFERENCE) {
        if c.series > 0 {
            let n = c.series as f64;
            goals.push(Goal::at_most("calls to the engine in 1,000 scrapes", c.calls as f64, 0.0, ""));
            goals.push(Goal::at_most(
                "scrape, nothing changed, of nginx' time",
                c.scrape_ms / c.nginx_ms,
                2.0,
                "×",
            ));
            goals.push(Goal::at_most(
                "scrape, one container changed, CPU a series",
                c.one_changed / n,
                1.0,
                "µs",
            ));
            for (what, cpu) in [
                ("every container's status changed", c.all_changed),
                ("every container renamed", c.all_renamed),
            ] {
                goals.push(Goal::at_most(&format!("scrape, {what}, CPU a series"), cpu / n, 1.0, "µs"));
            }
        }
        if c.memory.peak > 0 {
            goals.push(Goal::at_most("memory, peak, states changing", mib(c.memory.peak), 22.0, "MiB"));
        }
        for (name, a_point, _) in &c.otlp {
            goals.push(Goal::at_most(&format!("export, CPU a point, {name}"), *a_point, 12.0, "µs"));
        }
        if !c.otlp.is_empty() {
            let percent = c.export() / Duration::from_secs(60).as_micros() as f64 * 100.0;
            goals.push(Goal::at_most("an export a minute, of a core", percent, 0.4, "%"));
        }
    }
    if let Some(e) = &load.events {
        goals.push(Goal::at_least("events a second", e.rate, 9_900.0, ""));
        goals.push(Goal::at_most("events lost", e.sent as f64 - e.counted as f64, 0.0, ""));
        goals.push(Goal::at_most(
            "events, the farthest that `/metrics` was behind",
            e.worst_lag_ms,
            100.0,
            "ms",
        ));
    }
    if let Some(percent) = load.exec_percent {
        goals.push(Goal::at_most("300 exec events a second, of a core", percent, 1.0, "%"));
        goals.push(Goal::at_most("inspects that they caused", load.exec_inspects as f64, 0.0, ""));
    }
    if let Some(percent) = load.idle_percent {
        goals.push(Goal::at_most("idle, of a core", percent, 0.2, "%"));
    }
    if let Some(c) = all.iter().find(|c| c.containers == 10_000 && c.memory.peak > 0) {
        goals.push(Goal::at_most("memory, peak, 10,000 containers", mib(c.memory.peak), 110.0, "MiB"));
    }
    if let Some(memory) = &load.memory {
        let (containers, labels) = MANY_LABELS;
        let what = format!("memory, peak, {containers} containers with {labels} labels");
        goals.push(Goal::at_most(&what, mib(memory.peak), 36.0, "MiB"));
    }
    goals.push(Goal::at_most("the program, stripped", mib(binary), 12.0, "MiB"));
    goals
}
