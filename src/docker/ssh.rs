//! Connections through the system's `ssh`, as the docker command makes them: `docker system dial-stdio` on the remote
//! host connects its standard streams to the daemon's socket.
//!
//! Each connection is a separate ssh process in its own process group, and ends with it. No ssh process is shared in
//! the background: it would outlive a cancelled attempt, and the program.

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

/// There is no user to enter a password or to confirm a host key.
const OPTIONS: [&str; 3] = ["BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=30"];

/// How many bytes of ssh's error output are reported.
const LONGEST_REASON: u64 = 500;

/// How long to wait for ssh's error output once the connection has ended.
const REASON_WITHIN: Duration = Duration::from_secs(1);

/// The running ssh processes, for an exit without clean-up.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Kills every running ssh. For an exit that does not drop the connections.
pub fn end_children() {
    for group in RUNNING.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        // It may have ended by itself.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// An ssh process and its children, all killed on drop.
struct Group {
    /// Not reaped before the group is killed, so that its process id is not reused.
    _leader: Child,
    id: Option<Pid>,
}

impl Group {
    fn new(leader: Child) -> Self {
        let id = leader.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).extend(id);
        Self { _leader: leader, id }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = running.iter().position(|id| Some(*id) == self.id) {
            // It may have ended by itself.
            let _ = kill_process_group(running.swap_remove(place), Signal::KILL);
        }
    }
}

/// A connection.
pub(super) struct SshStream {
    stdin: ChildStdin,
    stdout: ChildStdout,
    has_answered: bool,
    /// Resolves to the reason why the connection failed; `None` once it was returned.
    failure: Option<Pin<Box<dyn Future<Output = io::Error> + Send>>>,
    _group: Group,
}

impl SshStream {
    /// Starts ssh to `ssh://[USER@]HOST[:PORT]`. A failure to connect shows at the first read or write.
    pub(super) fn connect(destination: &str) -> io::Result<Self> {
        let mut child = Command::new("ssh")
            .args(OPTIONS.iter().flat_map(|option| ["-o", option]))
            .args(["-T", "--", destination, "docker", "system", "dial-stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("cannot start ssh: {error}")))?;
        let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let group = Group::new(child);
        let (Some(stdin), Some(stdout), Some(stderr)) = streams else {
            return Err(io::Error::other("ssh has no standard streams"));
        };
        let failure = Some(Box::pin(failure(destination.to_owned(), stderr)) as Pin<Box<_>>);
        Ok(Self { stdin, stdout, has_answered: false, failure, _group: group })
    }

    fn poll_failure(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(failure) = &mut self.failure else { return Poll::Ready(io::ErrorKind::NotConnected.into()) };
        let error = ready!(failure.as_mut().poll(cx));
        self.failure = None;
        Poll::Ready(error)
    }
}

/// ssh's error output as an error. Its kind distinguishes it from an error of an established connection.
async fn failure(destination: String, stderr: ChildStderr) -> io::Error {
    let mut said = Vec::new();
    let _ = tokio::time::timeout(REASON_WITHIN, stderr.take(LONGEST_REASON).read_to_end(&mut said)).await;
    let said = String::from_utf8_lossy(&said);
    let said = match said.trim() {
        "" => "ssh has ended without a word",
        said => said,
    };
    io::Error::new(io::ErrorKind::NotConnected, format!("{destination}: {said}"))
}

impl AsyncRead for SshStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stdout).poll_read(cx, buffer))?;
        self.has_answered |= buffer.filled().len() > before;
        if self.has_answered {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(Err(ready!(self.poll_failure(cx))))
    }
}

impl AsyncWrite for SshStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(Pin::new(&mut self.stdin).poll_write(cx, bytes)) {
            Err(_) if !self.has_answered => Poll::Ready(Err(ready!(self.poll_failure(cx)))),
            written => Poll::Ready(written),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_shutdown(cx)
    }
}
