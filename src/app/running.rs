//! The readers that run, and how they change when the configuration is read again.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use opentelemetry_sdk::Resource;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::blocking::blocking;
use super::error::StartError;
use super::reload::{self, Plan};
use crate::config::{Config, LogLevel, Periodic};
use crate::readers::otlp::{Ended, PushReader};
use crate::readers::prometheus::PrometheusReader;
use crate::readers::{self, Observed, ReaderError};
use crate::web::{self, Routes, Security};

/// The time limit for the last exports.
const FLUSH: Duration = Duration::from_secs(5);

/// The readers, with the data that they read and the configuration that they are made from.
pub(crate) struct Readers {
    config: Config,
    observed: Observed,
    pull: Option<Arc<PrometheusReader>>,
    /// Push readers that do not run yet.
    made: Vec<PushReader>,
    running: Vec<Running>,
    /// The server's routes.
    pub(crate) routes: Arc<Routes>,
    /// What `web.config_file` says.
    pub(crate) security: Option<Arc<Security>>,
}

/// A push reader that runs.
struct Running {
    periodic: Periodic,
    destination: String,
    stop: CancellationToken,
    task: JoinHandle<Ended>,
}

impl Readers {
    /// Makes all readers.
    pub(crate) fn new(config: &Config, observed: Observed) -> Result<Self, StartError> {
        let resource = readers::resource(config);
        let made = push_readers(config, &config.readers.periodic, &resource, &observed)?;
        let pull = config.readers.pull.as_ref();
        let pull = pull.map(|pull| PrometheusReader::new(config, pull, &resource, &observed));
        let pull = pull.transpose()?.map(Arc::new);
        // The file is for the server, which runs only with a pull reader.
        let security = config.web.config_file.as_deref().filter(|_| pull.is_some());
        let security = security.map(Security::new).transpose().map_err(StartError::Security)?.map(Arc::new);
        let routes = Arc::new(Routes::new(router(config, pull.as_ref(), &observed, security.as_ref())));
        Ok(Self { config: config.clone(), observed, pull, made, running: Vec::new(), routes, security })
    }

    /// Starts the push readers that do not run yet. They end with `shutdown`.
    pub(crate) fn start(&mut self, shutdown: &CancellationToken) {
        for reader in std::mem::take(&mut self.made) {
            let stop = shutdown.child_token();
            self.running.push(Running {
                periodic: reader.periodic().clone(),
                destination: reader.destination().to_owned(),
                stop: stop.clone(),
                task: tokio::spawn(reader.run(stop, FLUSH)),
            });
        }
        let destinations: Vec<&str> = self.running.iter().map(|r| &*r.destination).collect();
        self.observed.stats.otlp_destinations(&destinations);
    }

    /// Waits until all have ended.
    pub(crate) async fn ended(self) {
        for running in self.running {
            // This does not fail: a panic would have ended the process.
            let _ = running.task.await;
        }
    }

    /// Applies what can change of a configuration that was read again, or nothing if it cannot be used.
    pub(crate) async fn reload(
        &mut self,
        read: Config,
        shutdown: &CancellationToken,
        level: &impl Fn(LogLevel),
    ) {
        let Plan { config, taken, restart } = reload::plan(&self.config, read);
        let log_level = config.log_level;
        if let Err(error) = self.renew(config, shutdown).await {
            return error!(why = %error, "the configuration cannot be used; nothing has changed");
        }
        // The messages below are logged at the more verbose level: the old one if the new one is quieter.
        let is_quieter = matches!(log_level, LogLevel::Warn | LogLevel::Error);
        if !is_quieter {
            level(log_level);
        }
        if !restart.is_empty() {
            warn!(restart = restart.join(", "), "what has changed here needs a restart");
        }
        if !taken.is_empty() {
            info!(changed = taken.join(", "), log_level = log_level.name(), "took over the configuration");
        } else if restart.is_empty() {
            info!("nothing has changed in the configuration");
        }
        if is_quieter {
            level(log_level);
        }
    }

    /// Makes the readers that are new in `config`, keeps those that have not changed, and ends the others.
    async fn renew(&mut self, config: Config, shutdown: &CancellationToken) -> Result<(), StartError> {
        // All new readers are made before an old one ends: if one cannot be made, everything stays as it is.
        let resource = readers::resource(&config);
        let same = reload::same_for_readers(&self.config, &config);
        let pull = match (&self.pull, &config.readers.pull) {
            (Some(reader), _) if same && reload::same_for_scrapes(&self.config, &config) => {
                Some(Arc::clone(reader))
            }
            (before, Some(pull)) => {
                let reader = PrometheusReader::new(&config, pull, &resource, &self.observed)?;
                if let Some(before) = before {
                    reader.resume(before)?;
                }
                Some(Arc::new(reader))
            }
            (_, None) => None,
        };
        let (mut missing, mut kept) = (Vec::new(), Vec::new());
        for periodic in &config.readers.periodic {
            let is_same = |(i, running): (usize, &Running)| {
                (running.periodic == *periodic && !kept.contains(&i)).then_some(i)
            };
            let reads_files = reload::reads_files(periodic);
            match self.running.iter().enumerate().find_map(is_same).filter(|_| same && !reads_files) {
                Some(i) => kept.push(i),
                None => missing.push(periodic.clone()),
            }
        }
        // `push_readers` reads files, which may be on a mount that hangs.
        let (whole, observed) = (config.clone(), self.observed.clone());
        let make = move || push_readers(&whole, &missing, &resource, &observed);
        let mut made = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            made = blocking(make) => made?,
        };

        self.routes.replace(router(&config, pull.as_ref(), &self.observed, self.security.as_ref()));
        self.pull = pull;
        self.config = config;
        let mut ending = Vec::new();
        for (i, running) in std::mem::take(&mut self.running).into_iter().enumerate() {
            if kept.contains(&i) {
                self.running.push(running);
            } else {
                running.stop.cancel();
                ending.push(running.task);
            }
        }
        // Waits for the old readers: a destination never gets two exports at once, and no reader sends again what
        // another one has sent.
        let mut ended = Vec::new();
        for task in ending {
            ended.extend(task.await);
        }
        for reader in &mut made {
            reader.resume(&mut ended);
        }
        self.made = made;
        self.start(shutdown);
        Ok(())
    }
}

fn push_readers(
    config: &Config,
    readers: &[Periodic],
    resource: &Resource,
    observed: &Observed,
) -> Result<Vec<PushReader>, ReaderError> {
    readers.iter().map(|periodic| PushReader::new(config, periodic, resource, observed)).collect()
}

/// The server's routes; none without a pull reader, because then there is no server.
fn router(
    config: &Config,
    pull: Option<&Arc<PrometheusReader>>,
    observed: &Observed,
    security: Option<&Arc<Security>>,
) -> Router {
    let Some(pull) = pull else { return Router::new() };
    let (reader, inventory, stats) =
        (Arc::clone(pull), observed.inventory.clone(), Arc::clone(&observed.stats));
    web::router(config, reader, inventory, stats, security.cloned())
}
