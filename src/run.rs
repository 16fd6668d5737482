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
use crate::web::{self, BindError, Limits, Security, SecurityError};

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
    /// `web.config_file`, or what it names.
    Security(SecurityError),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Endpoint(error) => error.fmt(f),
            Self::Reader(error) => error.fmt(f),
            Self::Bind(error) => error.fmt(f),
            Self::Security(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

/// Everything that runs, not yet begun.
pub struct Exporter {
    driver: Driver,
    push: Vec<PushReader>,
    web: Option<(TcpListener, Web)>,
}

/// The HTTP server, but for its address.
struct Web {
    router: axum::Router,
    security: Option<Arc<Security>>,
}

impl Exporter {
    /// Makes every part, so that whatever cannot work is known before anything runs. The daemon need not be
    /// there.
    pub async fn new(config: &Config) -> Result<Self, StartError> {
        let Parts { driver, push, web } = Parts::new(config)?;
        let web = match web {
            Some((pull, web)) => {
                Some((web::bind(&pull.host, pull.port).await.map_err(StartError::Bind)?, web))
            }
            None => None,
        };
        Ok(Self { driver, push, web })
    }

    /// Finds out whether [`new`](Self::new) would succeed, but for the address to listen on, and says what
    /// `web.config_file` comes to. To be called in a runtime.
    pub fn check(config: &Config) -> Result<Option<String>, StartError> {
        let Parts { web, .. } = Parts::new(config)?;
        Ok(web.and_then(|(_, web)| web.security).map(|security| security.describe()))
    }

    /// Runs until `shutdown`, then ends in order: the daemon is no longer followed, the last exports are sent,
    /// and scrapes that are under way finish. Each has its own time, and they run out side by side.
    pub async fn run(self, shutdown: CancellationToken) {
        let watching = tokio::spawn(self.driver.run(shutdown.clone()));
        let mut readers = JoinSet::new();
        for reader in self.push {
            readers.spawn(reader.run(shutdown.clone(), FLUSH));
        }
        if let Some((listener, Web { router, security })) = self.web {
            if let Ok(address) = listener.local_addr() {
                let tls = security.as_ref().is_some_and(|security| security.is_encrypted());
                info!(%address, tls, "listening");
            }
            let limits = Limits::default();
            readers.spawn(web::serve(listener, router, security, limits, shutdown.clone(), DRAIN));
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
    web: Option<(Pull, Web)>,
}

impl Parts {
    fn new(config: &Config) -> Result<Self, StartError> {
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
                let security = config.web.config_file.as_deref().map(Security::new).transpose();
                let security = security.map_err(StartError::Security)?.map(Arc::new);
                let router = web::router(
                    config,
                    Arc::new(reader),
                    inventory.clone(),
                    Arc::clone(&stats),
                    security.clone(),
                );
                Some((pull.clone(), Web { router, security }))
            }
            None => None,
        };
        let driver = Driver::new(config, writer, stats).map_err(StartError::Endpoint)?;
        Ok(Self { driver, push, web })
    }
}
