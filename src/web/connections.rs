//! The connections that are open: how many there may be, which of them gives way to a new one, and how long a client
//! may take for an answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// From one attempt to make room to the next, while every connection is being answered.
const RETRY: Duration = Duration::from_millis(100);

/// From one line in the log about missing room to the next.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// All connections of a server.
pub(super) struct Connections {
    limit: usize,
    /// A connection that has been answered for so long gives way where none is idle.
    answering: Duration,
    room: Arc<Semaphore>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next_id: u64,
    connections: HashMap<u64, Arc<Activity>>,
    warned: Option<Instant>,
}

impl Connections {
    pub(super) fn new(limit: usize, answering: Duration) -> Self {
        Self { limit, answering, room: Arc::new(Semaphore::new(limit)), open: Mutex::default() }
    }

    /// A place for one more. Where there is none, the connection that has been idle for longest is closed.
    pub(super) async fn admit(self: &Arc<Self>) -> Connection {
        let permit = loop {
            if let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
                break permit;
            }
            self.close_longest_idle();
            if let Ok(Ok(permit)) = timeout(RETRY, Arc::clone(&self.room).acquire_owned()).await {
                break permit;
            }
        };
        let activity = Arc::new(Activity::new());
        let mut open = self.lock();
        let id = open.next_id;
        open.next_id += 1;
        open.connections.insert(id, Arc::clone(&activity));
        Connection { id, activity, connections: Arc::clone(self), _permit: permit }
    }

    /// Closes the connection that gives way first: of those that are not being answered the one that has waited for
    /// longest; without any, the one that has been answered for longest, if for long enough.
    pub(super) fn close_longest_idle(&self) {
        let mut open = self.lock();
        if open.warned.is_none_or(|warned| warned.elapsed() >= WARNING_INTERVAL) {
            open.warned = Some(Instant::now());
            warn!(
                open = open.connections.len(),
                limit = self.limit,
                "no room for another connection; the longest idle one is closed"
            );
        }
        let candidates = open.connections.values().map(|activity| (activity.state(), activity));
        let first = candidates
            .filter(|(state, _)| !state.is_answering || state.since.elapsed() >= self.answering)
            .min_by_key(|(state, _)| (state.is_answering, state.since));
        if let Some((_, activity)) = first {
            activity.close.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one connection, free again when this is dropped.
pub(super) struct Connection {
    id: u64,
    activity: Arc<Activity>,
    connections: Arc<Connections>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    /// What is known of its use.
    pub(super) fn activity(&self) -> Arc<Activity> {
        Arc::clone(&self.activity)
    }

    /// Waits until it has to be closed: for another one, or because an answer has taken longer than `limit`.
    pub(super) async fn must_close(&self, limit: Duration) -> &'static str {
        let overdue = async {
            loop {
                // An answer that begins after this look has more time left at the next one.
                let State { is_answering, since } = self.activity.state();
                let left = if is_answering { limit.saturating_sub(since.elapsed()) } else { limit };
                if left.is_zero() {
                    return;
                }
                sleep(left).await;
            }
        };
        tokio::select! {
            () = self.activity.close.cancelled() => "another one needed its place",
            () = overdue => "the client took too long for an answer",
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.lock().connections.remove(&self.id);
    }
}

/// Whether a connection is being answered.
pub(super) struct Activity {
    state: Mutex<State>,
    close: CancellationToken,
}

#[derive(Clone, Copy)]
struct State {
    is_answering: bool,
    since: Instant,
}

impl Activity {
    fn new() -> Self {
        Self {
            state: Mutex::new(State { is_answering: false, since: Instant::now() }),
            close: CancellationToken::new(),
        }
    }

    /// An answer begins, and ends when what is returned is dropped.
    pub(super) fn answer(self: &Arc<Self>) -> Answering {
        self.set(true);
        Answering(Arc::clone(self))
    }

    fn set(&self, is_answering: bool) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) =
            State { is_answering, since: Instant::now() };
    }

    fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer that is under way.
pub(super) struct Answering(Arc<Activity>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.set(false);
    }
}
