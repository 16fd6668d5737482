//! Standard output and standard error, each written by a thread of its own: if nobody reads them, nothing else is
//! held up.

use std::io::Write;
use std::sync::mpsc;
use std::time::Duration;

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};

/// The time limit for writing what waits at the end.
const FLUSH: Duration = Duration::from_secs(1);

/// Writes to `output` on a thread of this name. At most `waiting` writes wait; further ones are dropped.
pub fn writer(output: impl Write + Send + 'static, name: &str, waiting: usize) -> (NonBlocking, Flush) {
    let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(waiting).thread_name(name);
    let (writer, guard) = builder.finish(output);
    (writer, Flush(Some(guard)))
}

/// When this is dropped, what waits is written, if somebody reads it.
#[derive(Debug)]
pub struct Flush(Option<WorkerGuard>);

impl Drop for Flush {
    fn drop(&mut self) {
        let Some(guard) = self.0.take() else { return };
        // The guard writes to standard output itself when too much waits, and nobody may be reading that.
        let (sender, flushed) = mpsc::channel();
        std::thread::spawn(move || {
            drop(guard);
            // This fails if it took too long and nobody waits any more.
            let _ = sender.send(());
        });
        let _ = flushed.recv_timeout(FLUSH);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    use super::*;

    /// A writer whose writes never end.
    struct Stuck;

    impl Write for Stuck {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            loop {
                std::thread::park();
            }
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_output_that_nobody_reads_is_not_waited_for() {
        let began = Instant::now();
        let (mut writer, flush) = writer(Stuck, "stuck", 2);
        for _ in 0..10 {
            writer.write_all(b"line\n").unwrap();
        }
        drop(flush);
        assert!(began.elapsed() < FLUSH * 5, "{:?}", began.elapsed());
    }

    /// Keeps what is written.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_waits_is_written_at_the_end() {
        let kept = Kept::default();
        let (mut writer, flush) = writer(kept.clone(), "kept", 100);
        for _ in 0..100 {
            writer.write_all(b"x").unwrap();
        }
        drop(flush);
        assert_eq!(kept.0.lock().unwrap().len(), 100);
    }
}
