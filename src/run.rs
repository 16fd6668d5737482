//! The parts, put together: started in order, and ended in order.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::{Config, Pull};
use crate::docker::{Driver, EndpointError};
use crate::inventory::{self, EventPolicy};
use crate::readers::otlp::PushReader;
use crate::readers::prometheus::PrometheusReader;
use crate::readers::{self, ReaderError};
use crate::stats::Stats;
use crate::web::{self, BindError, Limits};

/// For the last exports.
const FLUSH: Duration = Duration::from_secs(5);
/// For requests that are being answered at the end.
const DRAIN: Duration = Duration::from_secs(3);

/// What fails at the start.
#[derive(Debug)]
pub enum StartError {
    /// The daemon's address or certificates.
    Endpoint(EndpointError),
    /// A reader's settings.
    Reader(ReaderError),
    /// The address to listen on.
    Bind(BindError),
    /// `web.config_file`: to go on without it would serve in the clear what was to be protected.
    WebConfigFile,
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Endpoint(error) => error.fmt(f),
            Self::Reader(error) => error.fmt(f),
            Self::Bind(error) => error.fmt(f),
            Self::WebConfigFile => f.write_str(
                "web.config_file: TLS and authentication are not built in yet\nhint: remove the key, listen on \
                 127.0.0.1, and put a proxy with TLS in front",
            ),
        }
    }
}

impl std::error::Error for StartError {}

/// Everything that runs, not yet begun.
pub struct Exporter {
    driver: Driver,
    push: Vec<PushReader>,
    web: Option<(TcpListener, axum::Router)>,
}

impl Exporter {
    /// Makes every part, so that whatever cannot work is known before anything runs. The daemon need not be
    /// there.
    pub async fn new(config: &Config) -> Result<Self, StartError> {
        let Parts { driver, push, web } = Parts::new(config)?;
        let web = match web {
            Some((pull, router)) => {
                Some((web::bind(&pull.host, pull.port).await.map_err(StartError::Bind)?, router))
            }
            None => None,
        };
        Ok(Self { driver, push, web })
    }

    /// Finds out whether [`new`](Self::new) would succeed, but for the address to listen on. To be called in a
    /// runtime.
    pub fn check(config: &Config) -> Result<(), StartError> {
        Parts::new(config).map(drop)
    }

    /// Runs until `shutdown`, then ends in order: the daemon is no longer followed, the last exports are sent,
    /// and scrapes that are under way finish. Each has its own time, and they run out side by side.
    pub async fn run(self, shutdown: CancellationToken) {
        let watching = tokio::spawn(self.driver.run(shutdown.clone()));
        let mut readers = JoinSet::new();
        for reader in self.push {
            readers.spawn(reader.run(shutdown.clone(), FLUSH));
        }
        if let Some((listener, router)) = self.web {
            if let Ok(address) = listener.local_addr() {
                info!(%address, "listening");
            }
            readers.spawn(web::serve(listener, router, Limits::default(), shutdown.clone(), DRAIN));
        }
        shutdown.cancelled().await;
        // Neither fails: a panic in a part is logged by the panic hook, and there is nothing left to save.
        let _ = watching.await;
        while readers.join_next().await.is_some() {}
    }
}

/// What does not need the address to listen on.
struct Parts {
    driver: Driver,
    push: Vec<PushReader>,
    web: Option<(Pull, axum::Router)>,
}

impl Parts {
    fn new(config: &Config) -> Result<Self, StartError> {
        if config.web.config_file.is_some() {
            return Err(StartError::WebConfigFile);
        }
        let runtime = Handle::current().metrics();
        let stats = Arc::new(Stats::default());
        let (writer, inventory) = inventory::new(EventPolicy {
            retention: config.events.retention,
            start_at_zero: config.events.counted_at_zero().map(Into::into).collect(),
        });
        let resource = readers::resource(config);
        let mut push = Vec::new();
        for periodic in &config.readers.periodic {
            let reader = PushReader::new(config, periodic, &resource, inventory.clone(), &stats, &runtime);
            push.push(reader.map_err(StartError::Reader)?);
        }
        let web = match &config.readers.pull {
            Some(pull) => {
                let reader =
                    PrometheusReader::new(config, pull, &resource, inventory.clone(), &stats, &runtime)
                        .map_err(StartError::Reader)?;
                let router =
                    web::router(&config.web, Arc::new(reader), inventory.clone(), Arc::clone(&stats));
                Some((pull.clone(), router))
            }
            None => None,
        };
        let driver = Driver::new(config, writer, stats).map_err(StartError::Endpoint)?;
        Ok(Self { driver, push, web })
    }
}
