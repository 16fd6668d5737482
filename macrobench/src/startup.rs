//! The time from the start to a complete inventory, compared with the time that the engine alone needs for the same
//! list and inspects.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::Error;
use crate::exporter::Exporter;
use crate::http::Connection;
use crate::process::Memory;
use crate::quantiles::Quantiles;
use crate::report::{Goal, print_goals};

/// Concurrent inspects: the exporter's default.
const CONCURRENCY: usize = 8;
/// A resync interval so long that the exporter does not list again.
const NO_RESYNC: u64 = 3_600_000;

/// Where what is.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The engine's socket.
    #[arg(long)]
    engine: PathBuf,
    /// The exporter's program.
    #[arg(long)]
    exporter: PathBuf,
    /// An image.
    #[arg(long)]
    image: String,
    /// How many containers are made.
    #[arg(long, default_value_t = 1_000)]
    containers: usize,
    /// How often each is measured.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
}

/// Measures and prints.
pub(crate) async fn measure(arguments: &Arguments) -> Result<(), Error> {
    let mut engine = Connection::unix(&arguments.engine).await?;
    for number in 0..arguments.containers {
        let labels: serde_json::Map<_, _> = (0..5)
            .map(|label| (format!("com.example.label-{label}"), json!(format!("value {number}"))))
            .collect();
        let body = json!({
            "Image": arguments.image, "Cmd": ["true"], "Labels": labels, "HostConfig": {"NetworkMode": "none"},
        });
        engine.call(Method::POST, &format!("/containers/create?name=bench-{number}"), Some(&body)).await?;
    }
    let directory = tempfile::Builder::new().prefix("dse-bench-").tempdir()?;
    let (mut alone, mut ours) = (Vec::new(), Vec::new());
    let mut memory = Memory::default();
    for _ in 0..arguments.rounds {
        // They take turns, so that other load on the machine affects both.
        alone.push(engine_alone(arguments).await?.as_secs_f64() * 1e3);
        let began = Instant::now();
        let host = format!("unix://{}", arguments.engine.display());
        let (mut process, address) =
            Exporter::launch(&arguments.exporter, directory.path(), &host, None, NO_RESYNC)?;
        until_ready(address, || process.runs()).await?;
        ours.push(began.elapsed().as_secs_f64() * 1e3);
        memory = process.memory()?;
    }
    let (alone, ours) = (Quantiles::new(alone), Quantiles::new(ours));
    print_goals(&[Goal::at_most(
        "start to a complete inventory, of the engine's own time",
        ours.at(0.5) / alone.at(0.5),
        1.3,
        "×",
    )]);
    println!(
        "\n{} containers. The engine alone, for a list and as many inspects, {CONCURRENCY} at once: {:.0} ms at p50 \
         ({:.0} to {:.0}). The exporter, from its start to `/-/ready`: {:.0} ms ({:.0} to {:.0}), {:.1} MiB at most.",
        arguments.containers,
        alone.at(0.5),
        alone.at(0.0),
        alone.at(1.0),
        ours.at(0.5),
        ours.at(0.0),
        ours.at(1.0),
        memory.peak as f64 / 1_048_576.0
    );
    Ok(())
}

/// A list, and an inspect of each container that it names.
async fn engine_alone(arguments: &Arguments) -> Result<Duration, Error> {
    let began = Instant::now();
    let mut first = Connection::unix(&arguments.engine).await?;
    let list = first.call(Method::GET, "/containers/json?all=1", None).await?;
    let ids = list.as_array().into_iter().flatten().filter_map(|c| Some(c["Id"].as_str()?.to_owned()));
    let ids = Arc::new(Mutex::new(ids.collect::<Vec<_>>()));
    let mut workers = Vec::new();
    for _ in 0..CONCURRENCY {
        let (ids, mut connection) = (Arc::clone(&ids), Connection::unix(&arguments.engine).await?);
        workers.push(tokio::spawn(async move {
            loop {
                let Some(id) = ids.lock().await.pop() else { return Ok::<(), Error>(()) };
                connection.get(&format!("/containers/{id}/json")).await?;
            }
        }));
    }
    for worker in workers {
        worker.await??;
    }
    Ok(began.elapsed())
}

async fn until_ready(address: SocketAddr, mut runs: impl FnMut() -> bool) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut connection = None;
    while Instant::now() < deadline && runs() {
        if connection.is_none() && TcpStream::connect(address).await.is_ok() {
            connection = Connection::tcp(address).await.ok();
        }
        if let Some(connection) = &mut connection
            && connection.get("/-/ready").await.is_ok()
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Err("the exporter was not ready within a minute".into())
}
