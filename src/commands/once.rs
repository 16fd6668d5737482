//! One exposition, for cron and node_exporter's textfile collector: it asks the daemon once, and ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::app::StartError;
use crate::config::Config;
use crate::docker::Driver;
use crate::inventory::{self, EventPolicy};
use crate::readers::prometheus::PrometheusReader;
use crate::readers::{self, Observed};
use crate::stats::Stats;

/// The pause between two checks whether enough is known.
const PAUSE: Duration = Duration::from_millis(10);

/// The result of [`once`].
#[derive(Debug)]
pub struct Observation {
    /// The exposition.
    pub text: Vec<u8>,
    /// Why `docker_up` is 0, if it is.
    pub trouble: Option<String>,
}

/// Follows the daemon until enough is known of its containers, but not for longer than `timeout`.
///
/// Event counts are left out: a process that ends at once counts nothing. So are the metrics of the process itself:
/// node_exporter has its own under the same names, and refuses a file with them.
pub async fn once(config: &Config, timeout: Duration) -> Result<Observation, StartError> {
    let mut config = config.clone();
    config.events.start_at_zero.clear();
    let stats = Arc::new(Stats::default());
    let (writer, inventory) = inventory::new(EventPolicy {
        retention: config.events.retention,
        start_at_zero: Vec::new(),
        exits: false,
        limit: config.events.limit,
    });
    let pull = config.readers.pull.clone().unwrap_or_default();
    let resource = readers::resource(&config);
    let observed = Observed::new(inventory, Arc::clone(&stats), Handle::current().metrics());
    let reader = PrometheusReader::new(&config, &pull, &resource, &observed)?;
    let driver = Driver::new(&config, writer, Arc::clone(&stats)).map_err(StartError::Endpoint)?;

    let shutdown = CancellationToken::new();
    let watching = tokio::spawn(driver.run(shutdown.clone()));
    let deadline = Instant::now() + timeout;
    while !stats.is_up() && Instant::now() < deadline {
        sleep(PAUSE).await;
    }
    let no_answer = || "no answer yet".to_owned();
    let trouble =
        (!stats.is_up()).then(|| stats.trouble().map_or_else(no_answer, |trouble| trouble.to_string()));
    let text = reader.containers_only().map_err(StartError::Reader);
    shutdown.cancel();
    // This does not fail: a panic would have ended the process.
    let _ = watching.await;
    Ok(Observation { text: text?, trouble })
}
