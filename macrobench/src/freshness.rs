//! Freshness: how long after the daemon's time of an event `/metrics` shows its effect.
//!
//! One container after another is changed through the engine's API, while `/metrics` is asked again and again over
//! one connection. The time of the event is the `timeNano` that a subscription of our own receives. The end of the
//! first answer that shows the effect gives an upper bound: it includes that whole request. The start of the request
//! before it, which did not show the effect, gives a lower bound.
//!
//! Part of this time is the engine's: it sends an event while it still works on the container, and an inspect waits
//! until that is done. So an inspect of our own, sent at once after each event, is measured too.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http_body_util::BodyExt;
use hyper::{Method, body::Incoming};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::Error;
use crate::http::Connection;
use crate::quantiles::Quantiles;

/// The time limit for each wait, which normally takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(30);

/// The pause between two requests. Without it the requests would take a core of their own, and affect the
/// measurement.
const PAUSE: Duration = Duration::from_millis(2);

/// Where what is.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The engine's socket.
    #[arg(long)]
    engine: PathBuf,
    /// The exporter's address.
    #[arg(long)]
    exporter: SocketAddr,
    /// An image with busybox's commands.
    #[arg(long)]
    image: String,
    /// How many changes to measure.
    #[arg(long, default_value_t = 1000)]
    changes: usize,
    /// How many other containers there are.
    #[arg(long, default_value_t = 100)]
    others: usize,
    /// The 99th percentile that is to be met, in milliseconds.
    #[arg(long, default_value_t = 100.0)]
    goal: f64,
}

/// A change: the operation of the engine, its event, and what `/metrics` then shows.
struct Change {
    operation: &'static str,
    event: &'static str,
    effect: Effect,
}

#[derive(Clone, Copy)]
enum Effect {
    /// The status by its code.
    Status(u8),
    /// Another name.
    Renamed,
    /// No container.
    Gone,
}

/// The changes of each container. The effect of each differs from that of the one before.
const LIFE: [Change; 10] = [
    Change { operation: "create", event: "create", effect: Effect::Status(5) },
    Change { operation: "start", event: "start", effect: Effect::Status(6) },
    Change { operation: "pause", event: "pause", effect: Effect::Status(3) },
    Change { operation: "unpause", event: "unpause", effect: Effect::Status(6) },
    Change { operation: "rename", event: "rename", effect: Effect::Renamed },
    Change { operation: "kill", event: "die", effect: Effect::Status(2) },
    Change { operation: "start", event: "start", effect: Effect::Status(6) },
    Change { operation: "pause", event: "pause", effect: Effect::Status(3) },
    Change { operation: "unpause", event: "unpause", effect: Effect::Status(6) },
    Change { operation: "remove", event: "destroy", effect: Effect::Gone },
];

/// One measured change, in milliseconds.
struct Measured {
    event: &'static str,
    at_most: f64,
    at_least: f64,
    request: f64,
    /// When our own inspect was answered; `None` if it was not.
    engine: Option<f64>,
}

/// Measures and prints.
pub(crate) async fn measure(arguments: &Arguments) -> Result<(), Error> {
    let mut engine = Connection::unix(&arguments.engine).await?;
    let mut exporter = Connection::tcp(arguments.exporter).await?;
    let mut events = Events::subscribe(&arguments.engine).await?;
    for number in 0..arguments.others {
        create(&mut engine, arguments, &format!("other-{number}")).await?;
    }
    let known = format!("\ndocker_state_exporter_containers {}\n", arguments.others);
    until(&mut exporter, |text| text.contains(&known)).await?;

    let mut measured = Vec::with_capacity(arguments.changes);
    'all: for number in 0.. {
        let mut name = format!("changing-{number}");
        let mut id = String::new();
        for change in &LIFE {
            if measured.len() == arguments.changes {
                if !id.is_empty() {
                    engine.call(Method::DELETE, &format!("/containers/{id}?force=1"), None).await?;
                }
                break 'all;
            }
            if change.operation == "rename" {
                name.push_str("-renamed");
            }
            measured
                .push(one(&mut engine, &mut exporter, &mut events, arguments, change, &name, &mut id).await?);
        }
    }
    report(arguments, &measured, &exporter.get("/metrics").await?);
    Ok(())
}

/// Makes one change, and asks until its effect shows.
async fn one(
    engine: &mut Connection,
    exporter: &mut Connection,
    events: &mut Events,
    arguments: &Arguments,
    change: &Change,
    name: &str,
    id: &mut String,
) -> Result<Measured, Error> {
    let begun = SystemTime::now();
    let path = |rest: &str| format!("/containers/{id}{rest}");
    let asked = async {
        match change.operation {
            "create" => create(engine, arguments, name).await.map(Some),
            "remove" => engine.call(Method::DELETE, &path("?force=1"), None).await.map(|_| None),
            "rename" => {
                engine.call(Method::POST, &path(&format!("/rename?name={name}")), None).await.map(|_| None)
            }
            other => engine.call(Method::POST, &path(&format!("/{other}")), None).await.map(|_| None),
        }
    };
    // Before the engine has answered, only the name of a new container is known; of the others the id is known too.
    let label = if id.is_empty() { format!("name=\"{name}\"") } else { format!("id=\"/docker/{id}\"") };
    let new_name = format!("name=\"{name}\"");
    let shows = |text: &str| match (series(text, &label), change.effect) {
        (None, Effect::Gone) => true,
        (None, _) | (Some(_), Effect::Gone) => false,
        (Some(line), Effect::Status(code)) => line.ends_with(&format!("}} {code}")),
        (Some(line), Effect::Renamed) => line.contains(&new_name),
    };
    let (asked, shown) = tokio::join!(asked, until(exporter, shows));
    let shown = shown.map_err(|error| format!("{}: {error}", change.operation))?;
    if let Some(new) = asked? {
        *id = new;
    }
    let told = events.of(id, change.event, begun).await?;
    let after = |at: SystemTime| match at.duration_since(told.happened) {
        Ok(after) => after.as_secs_f64() * 1e3,
        Err(before) => -before.duration().as_secs_f64() * 1e3,
    };
    Ok(Measured {
        event: change.event,
        at_most: after(shown.ended),
        at_least: after(shown.before),
        request: shown.ended.duration_since(shown.began).unwrap_or_default().as_secs_f64() * 1e3,
        engine: told.inspected.map(after),
    })
}

/// The request whose answer showed the effect.
struct Shown {
    /// When the last request without the effect began.
    before: SystemTime,
    began: SystemTime,
    ended: SystemTime,
}

async fn until(exporter: &mut Connection, shows: impl Fn(&str) -> bool) -> Result<Shown, Error> {
    let first = SystemTime::now();
    let mut before = first;
    loop {
        let began = SystemTime::now();
        let text = exporter.get("/metrics").await?;
        let ended = SystemTime::now();
        if shows(&text) {
            return Ok(Shown { before, began, ended });
        }
        if began.duration_since(first).unwrap_or_default() > DEADLINE {
            return Err(format!("/metrics does not show it within {DEADLINE:?}").into());
        }
        before = began;
        tokio::time::sleep(PAUSE).await;
    }
}

/// The line of a container's status.
fn series<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    let begin = text.find("\ncontainer_state_status{")? + 1;
    text[begin..].lines().take_while(|line| !line.starts_with('#')).find(|line| line.contains(label))
}

/// Creates a container that would run for ever, and returns its id.
async fn create(engine: &mut Connection, arguments: &Arguments, name: &str) -> Result<String, Error> {
    let body = json!({
        "Image": arguments.image,
        "Cmd": ["sleep", "100000"],
        "Labels": {"com.docker.compose.project": "bench", "com.docker.compose.service": name, "team": "blue"},
        "HostConfig": {"NetworkMode": "none"},
    });
    let answer = engine.call(Method::POST, &format!("/containers/create?name={name}"), Some(&body)).await?;
    Ok(answer["Id"].as_str().ok_or("no id of a new container")?.to_owned())
}

/// The engine's events, from a subscription of our own.
struct Events {
    incoming: mpsc::UnboundedReceiver<Told>,
    /// The last event of each container and action.
    last: HashMap<(String, String), Told>,
}

/// An event.
struct Told {
    id: String,
    action: String,
    happened: SystemTime,
    /// When an inspect that was sent at once was answered.
    inspected: Option<SystemTime>,
}

impl Events {
    async fn subscribe(engine: &Path) -> Result<Self, Error> {
        let mut connection = Connection::unix(engine).await?;
        let body = connection.send(Method::GET, "/events", None).await?.into_body();
        let (sender, incoming) = mpsc::unbounded_channel();
        let engine = engine.to_owned();
        tokio::spawn(async move {
            // The connection is kept for as long as its body is read.
            let _connection = connection;
            read(body, &engine, &sender).await
        });
        Ok(Self { incoming, last: HashMap::new() })
    }

    /// A container's event that has happened since `begun`.
    async fn of(&mut self, id: &str, action: &str, begun: SystemTime) -> Result<&Told, Error> {
        let wanted = (id.to_owned(), action.to_owned());
        while self.last.get(&wanted).is_none_or(|told| told.happened < begun) {
            let told = tokio::time::timeout(DEADLINE, self.incoming.recv()).await;
            let told = told.map_err(|_| format!("no event {action} of {id}"))?;
            let told = told.ok_or("the event stream has ended")?;
            self.last.insert((told.id.clone(), told.action.clone()), told);
        }
        self.last.get(&wanted).ok_or_else(|| "no such event".into())
    }
}

/// Reads as fast as the engine sends, because the engine skips a slow subscriber.
async fn read(mut body: Incoming, engine: &Path, sender: &mpsc::UnboundedSender<Told>) {
    let mut rest = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(chunk) = frame.into_data() else { continue };
        rest.extend_from_slice(&chunk);
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let Some(mut told) = event(&line) else { continue };
            let (engine, sender) = (engine.to_owned(), sender.clone());
            tokio::spawn(async move {
                told.inspected = inspect(&engine, &told.id).await.ok();
                // This fails only at the end, when nobody waits for it any more.
                let _ = sender.send(told);
            });
        }
    }
}

fn event(line: &[u8]) -> Option<Told> {
    let event: Value = serde_json::from_slice(line).ok()?;
    Some(Told {
        id: event["Actor"]["ID"].as_str()?.to_owned(),
        action: event["Action"].as_str()?.to_owned(),
        happened: UNIX_EPOCH + Duration::from_nanos(event["timeNano"].as_u64()?),
        inspected: None,
    })
    .filter(|_| event["Type"] == "container")
}

async fn inspect(engine: &Path, id: &str) -> Result<SystemTime, Error> {
    Connection::unix(engine).await?.get(&format!("/containers/{id}/json")).await?;
    Ok(SystemTime::now())
}

fn report(arguments: &Arguments, measured: &[Measured], metrics: &str) {
    println!("| event | changes | p50 ms | p99 ms | max ms | the engine's inspect: p50 ms | p99 ms |");
    println!("|---|---:|---:|---:|---:|---:|---:|");
    let row = |name: &str, of: &dyn Fn(&Measured) -> bool| {
        let chosen = || measured.iter().filter(|m| of(m));
        let (shown, engine) =
            (Quantiles::new(chosen().map(|m| m.at_most)), Quantiles::new(chosen().filter_map(|m| m.engine)));
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|q| shown.at(q));
        print!("| {name} | {} | {p50:.1} | {p99:.1} | {max:.1} |", shown.len());
        match engine.len() {
            0 => println!(" | |"),
            _ => println!(" {:.1} | {:.1} |", engine.at(0.5), engine.at(0.99)),
        }
    };
    let mut shown: Vec<&str> = Vec::new();
    for event in LIFE.iter().map(|change| change.event) {
        if !shown.contains(&event) {
            shown.push(event);
            row(event, &|m| m.event == event);
        }
    }
    row("**all**", &|_| true);
    println!();
    for (what, of) in [
        ("Lower bound of all", Quantiles::new(measured.iter().map(|m| m.at_least))),
        ("One request", Quantiles::new(measured.iter().map(|m| m.request))),
    ] {
        println!("{what}: p50 {:.1} ms, p99 {:.1} ms.", of.at(0.5), of.at(0.99));
    }
    println!("{} other containers; an answer has {} KiB.", arguments.others, metrics.len() / 1024);
    let own = |name: &str| -> Option<f64> {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    if let (Some(sum), Some(count)) = (
        own("docker_state_exporter_event_apply_seconds_sum"),
        own("docker_state_exporter_event_apply_seconds_count"),
    ) {
        println!("The exporter's own histogram: {:.1} ms on average, {count} events.", sum / count * 1e3);
    }
    let p99 = Quantiles::new(measured.iter().map(|m| m.at_most)).at(0.99);
    let met = p99 <= arguments.goal;
    println!("Goal, p99 at most {} ms: {}.", arguments.goal, if met { "met" } else { "missed" });
}
