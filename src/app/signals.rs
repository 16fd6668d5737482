//! SIGTERM and SIGINT end the process, SIGHUP has the configuration read again.
//!
//! A thread of its own listens for them, so that they work whatever hangs elsewhere: a file on a dead mount, an
//! output that nobody reads, a defect.

use std::io;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::abort::abort;

/// The longest time from the first signal to the end, whatever hangs. Docker kills after ten seconds.
const DEADLINE: Duration = Duration::from_secs(8);

/// The exit code if a second signal or the deadline ends the process.
const FORCED: i32 = 1;

/// What signals ask for.
pub struct Signals {
    /// Cancelled by the first SIGTERM or SIGINT. The next one ends the process at once.
    pub shutdown: CancellationToken,
    /// One message for each SIGHUP; while a message waits, another SIGHUP adds none.
    pub reloads: mpsc::Receiver<()>,
}

impl Signals {
    /// Listens from now on.
    pub fn listen() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let shutdown = CancellationToken::new();
        let (reload, reloads) = mpsc::channel(1);
        let (endings, hangup) = {
            let _context = runtime.enter();
            (Endings::new()?, signal(SignalKind::hangup())?)
        };
        let token = shutdown.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(async {
                tokio::join!(end(endings, token), pass_on(hangup, reload));
            });
        })?;
        Ok(Self { shutdown, reloads })
    }
}

struct Endings {
    terminate: Signal,
    interrupt: Signal,
}

impl Endings {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

async fn end(mut endings: Endings, shutdown: CancellationToken) {
    let signal = endings.next().await;
    info!(signal, "ending");
    shutdown.cancel();
    match tokio::time::timeout(DEADLINE, endings.next()).await {
        Ok(signal) => error!(signal, "ending at once"),
        Err(_) => error!("something hangs; ending without it"),
    }
    abort(FORCED);
}

async fn pass_on(mut hangup: Signal, reload: mpsc::Sender<()>) {
    while hangup.recv().await.is_some() {
        // If a reload is waiting already, it will read the current configuration.
        let _ = reload.try_send(());
    }
}
