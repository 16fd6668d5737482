//! The buffer of the last 256 events and the streams that follow.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::event::{Event, Filters};

/// How many events moby remembers.
const BUFFER: usize = 256;
/// How many lines may wait in one stream.
const QUEUE: usize = 1024;
/// How long to wait for a stream whose queue is full before it misses the line. moby waits for 100 ms; on a shared test
/// machine even a fast reader can be delayed for longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a stream carries: lines, or the error that cuts it.
pub(crate) type Line = io::Result<Bytes>;

/// Remembers events and hands them to the streams.
#[derive(Default)]
pub(crate) struct Broker {
    buffer: VecDeque<Arc<Event>>,
    streams: Vec<Stream>,
    /// The last time that the engine's clock gave to an event.
    last_time: i64,
    /// How far the engine's clock is ahead of this machine's.
    ahead: i64,
    /// Whether events are chosen by their time alone, as Podman does it.
    by_time: bool,
    silent: bool,
    skipped: u64,
}

struct Stream {
    lines: mpsc::Sender<Line>,
    filters: Filters,
    legacy: bool,
    until: Option<i64>,
    /// Events with a time before it are skipped.
    from: Option<i64>,
}

impl Broker {
    /// Sets the engine's clock: this far ahead of the machine's, in nanoseconds.
    pub(crate) fn set_clock(&mut self, ahead: i64) {
        (self.ahead, self.last_time) = (ahead, 0);
    }

    /// The time by the engine's clock.
    fn clock(&self) -> i64 {
        now_nano().saturating_add(self.ahead)
    }

    /// Chooses events by their time alone.
    pub(crate) fn choose_by_time(&mut self) {
        self.by_time = true;
    }

    /// Remembers an event and sends it. An event without a time gets the present one, later than the last.
    pub(crate) fn emit(&mut self, mut event: Event) -> Event {
        if event.time_nano == 0 {
            event.time_nano = self.clock().max(self.last_time + 1);
            self.last_time = event.time_nano;
        }
        let event = Arc::new(event);
        if self.buffer.len() == BUFFER {
            self.buffer.pop_front();
        }
        self.buffer.push_back(Arc::clone(&event));
        self.send(&event);
        Arc::unwrap_or_clone(event)
    }

    /// Sends an event that was emitted before once more, to the open streams only.
    pub(crate) fn send(&mut self, event: &Event) {
        if self.silent {
            return;
        }
        let skipped = &mut self.skipped;
        self.streams.retain(|stream| {
            let late = stream.until.is_some_and(|until| event.time_nano > until);
            let early = stream.from.is_some_and(|from| event.time_nano < from);
            if late || early || !stream.filters.pass(event) {
                return !stream.lines.is_closed();
            }
            deliver(&stream.lines, Ok(event.line(stream.legacy)), skipped)
        });
    }

    /// Sends bytes as they are to every open stream.
    pub(crate) fn send_raw(&mut self, bytes: &Bytes) {
        let skipped = &mut self.skipped;
        self.streams.retain(|stream| deliver(&stream.lines, Ok(bytes.clone()), skipped));
    }

    /// Opens a stream: the buffered events from `since` on, then new ones, without a gap.
    pub(crate) fn subscribe(
        &mut self,
        since: Option<i64>,
        until: Option<i64>,
        filters: Filters,
        legacy: bool,
    ) -> mpsc::Receiver<Line> {
        let (lines, receiver) = mpsc::channel(QUEUE);
        if since.is_some() || until.is_some() {
            // moby walks backwards and stops at the first event that is too old. Podman reads its log from the
            // beginning, and passes over those that are too old.
            let is_old = |event: &Event| event.time_nano < since.unwrap_or(0);
            let from = self.buffer.iter().rposition(|event| is_old(event)).filter(|_| !self.by_time);
            let kept = self.buffer.iter().skip(from.map_or(0, |position| position + 1));
            for event in kept.filter(|event| !is_old(event)) {
                if until.is_none_or(|until| event.time_nano <= until) && filters.pass(event) {
                    deliver(&lines, Ok(event.line(legacy)), &mut self.skipped);
                }
            }
        }
        // With an `until` that has passed, the buffer is all that is asked for.
        if until.is_none_or(|until| until > now_nano()) {
            let from = since.filter(|_| self.by_time);
            self.streams.push(Stream { lines, filters, legacy, until, from });
        }
        receiver
    }

    /// Ends every stream: by an error that breaks the connection, or in order.
    pub(crate) fn end(&mut self, cut: bool) {
        for stream in self.streams.drain(..) {
            if cut {
                let error = io::Error::new(io::ErrorKind::ConnectionReset, "the event stream is cut");
                deliver(&stream.lines, Err(error), &mut self.skipped);
            }
        }
    }

    /// Forgets what was emitted, as a restarted engine does.
    pub(crate) fn forget(&mut self) {
        self.buffer.clear();
    }

    /// While silent, events do not reach the streams; they are buffered either way.
    pub(crate) fn silence(&mut self, silent: bool) {
        self.silent = silent;
    }

    /// Streams that are open.
    pub(crate) fn streams(&mut self) -> usize {
        self.streams.retain(|stream| !stream.lines.is_closed());
        self.streams.len()
    }

    /// Lines that a stream did not get because it did not read.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped
    }
}

/// Sends a line to a stream, and waits up to `PATIENCE` while its queue is full. Returns whether the stream is still
/// open.
fn deliver(lines: &mpsc::Sender<Line>, mut line: Line, skipped: &mut u64) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match lines.try_send(line) {
            Ok(()) => return true,
            Err(TrySendError::Closed(_)) => return false,
            Err(TrySendError::Full(_)) if Instant::now() >= deadline => {
                *skipped += 1;
                return true;
            }
            Err(TrySendError::Full(back)) => line = back,
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

pub(crate) fn now_nano() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX)
}
