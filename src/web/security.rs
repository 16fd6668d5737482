//! `web.config_file`: read at the start, and again when it or a file that it names has changed.
//!
//! Whether one has is checked when a connection or a request comes, once a second at most; while nobody comes,
//! nothing is done. A file that cannot be used, or that asks for less protection, changes nothing: what was read last
//! stays in effect, and the log says why, once for each state of the files.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::auth::{Access, Authenticator};
use super::rate::RateLimiter;
use super::tls;
use crate::config::{Pem, WebFile, from_web_yaml};
use crate::files;

/// From one check of the files to the next.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// For a check of the files, while a request waits for it.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// The file, and what is in effect of it.
pub struct Security {
    path: PathBuf,
    active: RwLock<Arc<ActiveConfig>>,
    watched: Mutex<WatchedFiles>,
    authenticator: Authenticator,
}

/// What is in effect.
pub(super) struct ActiveConfig {
    pub(super) file: WebFile,
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
    pub(super) limiter: Option<RateLimiter>,
}

/// What the files looked like when they were last read.
struct WatchedFiles {
    checked_at: Instant,
    states: Vec<FileState>,
}

/// What differs when a file has been written or replaced; none where there is none.
type FileState = (PathBuf, Option<(u64, u64, u64, i64, i64)>);

/// A file that cannot be used.
#[derive(Debug)]
pub struct SecurityError(String);

impl std::fmt::Display for SecurityError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SecurityError {}

impl Security {
    /// Reads the file, and those that it names.
    pub fn new(path: &Path) -> Result<Self, SecurityError> {
        let (active, states, warnings) = read(path);
        let active = active.map_err(SecurityError)?;
        for warning in warnings {
            warn!("{warning}");
        }
        if active.file.users.is_empty() && active.tls.is_none() {
            warn!("{}: asks for neither TLS nor a password: everybody is answered", path.display());
        }
        if !active.file.users.is_empty() && active.tls.is_none() {
            warn!("{}: passwords without TLS can be read on their way", path.display());
        }
        Ok(Self {
            path: path.to_owned(),
            active: RwLock::new(Arc::new(active)),
            watched: Mutex::new(WatchedFiles { checked_at: Instant::now(), states }),
            authenticator: Authenticator::new().map_err(SecurityError)?,
        })
    }

    /// Whether connections are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.active().tls.is_some()
    }

    /// What is in effect, in a line.
    pub fn describe(&self) -> String {
        self.active().file.describe()
    }

    /// What is in effect, after a check of the files.
    pub(super) async fn refreshed(self: &Arc<Self>) -> Arc<ActiveConfig> {
        let is_time = match self.watched.try_lock() {
            Ok(mut watched) if watched.checked_at.elapsed() >= CHECK_INTERVAL => {
                watched.checked_at = Instant::now();
                true
            }
            // Another request checks them.
            _ => false,
        };
        if is_time {
            let security = Arc::clone(self);
            // On a mount that hangs a file takes for ever; then what is in effect stays so.
            let _ = timeout(CHECK_TIMEOUT, spawn_blocking(move || security.reload_if_changed())).await;
        }
        self.active()
    }

    fn active(&self) -> Arc<ActiveConfig> {
        Arc::clone(&self.active.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn reload_if_changed(&self) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.states.iter().all(|(path, state)| state_of(path) == *state) {
            return;
        }
        let file = self.path.display();
        let (read, states, warnings) = read(&self.path);
        // Of a file that cannot be read it is not known which others it would name: those of the last one count.
        for state in states {
            match watched.states.iter_mut().find(|(path, _)| *path == state.0) {
                Some(known) => *known = state,
                None => watched.states.push(state),
            }
        }
        let active = self.active();
        let read = read.and_then(|read| {
            let lost = active.file.protection_lost_in(&read.file);
            if !lost.is_empty() {
                let lost = lost.join(", ");
                return Err(format!("{lost} cannot be given up while the server runs; that needs a restart"));
            }
            if active.tls.is_none() && read.tls.is_some() {
                return Err("TLS cannot begin while the server runs; that needs a restart".to_owned());
            }
            Ok(read)
        });
        match read {
            Ok(read) => {
                for warning in warnings {
                    warn!("{warning}");
                }
                let named = named(&self.path, &read.file);
                watched.states.retain(|(path, _)| named.contains(path));
                *self.active.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(read);
                info!(%file, "took over the web configuration that has changed");
            }
            Err(why) => {
                error!(%file, why, "the web configuration has changed and cannot be used; the last one stays")
            }
        }
    }

    /// Whether a request may pass.
    pub(super) async fn access(&self, active: &ActiveConfig, headers: &HeaderMap) -> Access {
        if active.file.users.is_empty() {
            return Access::Allowed;
        }
        self.authenticator.check(&active.file.users, headers.get(header::AUTHORIZATION)).await
    }
}

/// What a file says, what the files looked like before they were read, and what its owner should be told.
fn read(path: &Path) -> (Result<ActiveConfig, String>, Vec<FileState>, Vec<String>) {
    let states = |paths: Vec<PathBuf>| -> Vec<FileState> {
        paths
            .into_iter()
            .map(|path| {
                let state = state_of(&path);
                (path, state)
            })
            .collect()
    };
    let of_file = states(vec![path.to_owned()]);
    let text = files::read_text(path).map_err(|error| {
        format!("{}: cannot be read: {error}\nhint: web.config_file names it", path.display())
    });
    let file = text.and_then(|text| {
        if says_nothing(&text) {
            // More often the rest of a write that failed than a wish.
            let hint = "write {} into it where nothing is to be asked for, or leave web.config_file out";
            return Err(format!("{}: is empty\nhint: {hint}", path.display()));
        }
        from_web_yaml(path, &text).map_err(|error| error.to_string())
    });
    match file {
        Ok((file, warnings)) => {
            let mut all = of_file;
            all.extend(states(named(path, &file).into_iter().skip(1).collect()));
            let tls = file.tls.as_ref().map(tls::server_config).transpose();
            let active = tls.map(|tls| {
                let limiter = file.rate_limit.map(RateLimiter::new);
                ActiveConfig { tls: tls.map(Arc::new), limiter, file }
            });
            (active, all, warnings)
        }
        Err(why) => (Err(why), of_file, Vec::new()),
    }
}

/// Whether there are comments at the most.
fn says_nothing(text: &str) -> bool {
    text.lines().map(str::trim).all(|line| line.is_empty() || line == "---" || line.starts_with('#'))
}

/// The file itself, and then those that it names.
fn named(path: &Path, file: &WebFile) -> Vec<PathBuf> {
    let mut paths = vec![path.to_owned()];
    if let Some(tls) = &file.tls {
        let pems = [Some(&tls.certificate), Some(&tls.key), tls.client_ca.as_ref()];
        paths.extend(pems.into_iter().flatten().filter_map(|pem| match pem {
            Pem::File(path) => Some(path.clone()),
            Pem::Inline(_) => None,
        }));
    }
    paths
}

fn state_of(path: &Path) -> Option<(u64, u64, u64, i64, i64)> {
    // What a link leads to, as Kubernetes replaces files by links.
    let metadata: io::Result<_> = std::fs::metadata(path);
    metadata.ok().map(|file| (file.dev(), file.ino(), file.size(), file.ctime(), file.ctime_nsec()))
}
