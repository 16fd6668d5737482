//! Puts the parts together, and starts and ends them in order.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::blocking::blocking;
use super::descriptors;
use super::error::StartError;
use super::running::Readers;
use crate::config::{Config, LogLevel};
use crate::docker::Driver;
use crate::inventory::{self, EventPolicy};
use crate::readers::Observed;
use crate::stats::Stats;
use crate::web::{self, Limits};

/// The time limit for requests that are being answered at shutdown.
const DRAIN: Duration = Duration::from_secs(3);

/// The time limit for everything that has to end. A part that takes longer hangs, and is abandoned.
const END: Duration = Duration::from_secs(6);

/// All parts, not yet started.
pub struct Exporter {
    driver: Driver,
    readers: Readers,
    listeners: Vec<TcpListener>,
    limits: Limits,
}

impl Exporter {
    /// Makes every part, so that errors are known before anything runs. The daemon need not be there.
    pub async fn new(config: &Config) -> Result<Self, StartError> {
        let open_files = descriptors::raise_limit();
        let settings = config.clone();
        // `parts` reads files, which may be on a mount that hangs.
        let (driver, readers) = blocking(move || parts(&settings)).await?;
        let listeners = match &config.readers.pull {
            Some(pull) => web::listen(pull, &config.web).await.map_err(StartError::Bind)?,
            None => Vec::new(),
        };
        let limits = limits(config, open_files, listeners.len());
        Ok(Self { driver, readers, listeners, limits })
    }

    /// Checks whether [`new`](Self::new) would succeed, except for the address to listen on, and describes what is in
    /// effect of `web.config_file`. To be called in a runtime.
    pub fn check(config: &Config) -> Result<Option<String>, StartError> {
        let (_, readers) = parts(config)?;
        Ok(readers.security.map(|security| security.describe()))
    }

    /// Runs until `shutdown`, then ends in order: the daemon is no longer followed, the last exports are sent, and
    /// scrapes that are under way finish. Each has its own time limit, and the limits run in parallel.
    ///
    /// Each configuration from `reloads` replaces the current one, as far as it can; `level` is called with its log
    /// level.
    pub async fn run(
        self,
        shutdown: CancellationToken,
        mut reloads: mpsc::Receiver<Config>,
        level: impl Fn(LogLevel),
    ) {
        let Self { driver, mut readers, listeners, limits } = self;
        let watching = watch(driver, shutdown.clone());
        readers.start(&shutdown);
        let mut serving = JoinSet::new();
        for listener in listeners {
            if let Ok(address) = listener.local_addr() {
                let tls = readers.security.as_ref().is_some_and(|security| security.is_encrypted());
                info!(%address, tls, "listening");
            }
            let (routes, security) = (Arc::clone(&readers.routes), readers.security.clone());
            serving.spawn(web::serve(listener, routes, security, limits, shutdown.clone(), DRAIN));
        }
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(config) = reloads.recv() => readers.reload(config, &shutdown, &level).await,
            }
        }
        let ended = async {
            // This does not fail: a panic would have ended the process.
            let _ = watching.await;
            readers.ended().await;
            serving.join_all().await;
        };
        if tokio::time::timeout(END, ended).await.is_err() {
            warn!("something does not end within {END:?}; ending without it");
        }
    }
}

/// The limits for the clients of each listener; warns if they are low.
fn limits(config: &Config, open_files: Option<usize>, listeners: usize) -> Limits {
    let wanted = Limits::default();
    let connections = descriptors::for_clients(open_files, wanted.connections, config);
    if connections < wanted.connections {
        warn!(connections, open_files, "the limit of open files leaves room for fewer connections");
    }
    Limits { connections: (connections / listeners.max(1)).max(1), ..wanted }
}

/// Follows the daemon on a thread of its own, so that counting an event wakes no other thread: with hundreds of
/// health probes a second, waking would be most of the cost. Exports and scrapes do not delay it either.
fn watch(driver: Driver, shutdown: CancellationToken) -> JoinHandle<()> {
    // Few threads for calls that may hang, however often they are tried again.
    match Builder::new_current_thread().max_blocking_threads(4).enable_all().build() {
        Ok(own) => tokio::task::spawn_blocking(move || {
            own.block_on(driver.run(shutdown));
            // This does not wait for a name that is still being looked up.
            own.shutdown_background();
        }),
        // There are no file descriptors left for another runtime.
        Err(_) => tokio::spawn(driver.run(shutdown)),
    }
}

/// Makes the parts that do not need the address to listen on.
fn parts(config: &Config) -> Result<(Driver, Readers), StartError> {
    let stats = Arc::new(Stats::default());
    let (writer, inventory) = inventory::new(EventPolicy {
        retention: config.events.retention,
        start_at_zero: config.events.counted_at_zero().map(Into::into).collect(),
        exits: true,
        limit: config.events.limit,
    });
    let driver = Driver::new(config, writer, Arc::clone(&stats)).map_err(StartError::Endpoint)?;
    let observed = Observed::new(inventory, stats, Handle::current().metrics());
    Ok((driver, Readers::new(config, observed)?))
}
