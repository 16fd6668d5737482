//! An immediate end of the process, which leaves no child process running.

use std::process::exit;

use tracing::error;

use super::logging;
use crate::docker::end_children;

/// The exit code of Rust programs after a panic.
const PANICKED: i32 = 101;

/// Ends the process at once, after it has ended its child processes and written the last log lines.
pub fn abort(code: i32) -> ! {
    end_children();
    logging::flush();
    exit(code);
}

/// From now on a panic in any thread or task is logged and ends the process. Otherwise half of the program would go
/// on and show old values as true; a supervisor restarts the whole.
pub fn on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if logging::has_begun() {
            error!(%panic, "a defect of this program; it ends");
        } else {
            print(panic);
        }
        abort(PANICKED);
    }));
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::cli::LogFormat;
    use crate::config::LogLevel;

    const NAME: &str = "app::abort::tests::a_panic_wherever_it_is_ends_the_process_with_an_error";
    const PLACE: &str = "TEST_PANICS_IN";

    /// Runs in a process of its own.
    #[allow(clippy::panic, reason = "it is what is tested")]
    fn panic_in(place: &str) {
        logging::begin(LogLevel::Info, LogFormat::Logfmt);
        on_panic();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        match place {
            "thread" => drop(std::thread::spawn(|| panic!("meant"))),
            "task" => drop(runtime.spawn(async { panic!("meant") })),
            "blocking task" => drop(runtime.spawn_blocking(|| panic!("meant"))),
            _ => drop(std::panic::catch_unwind(|| panic!("meant"))),
        }
        std::thread::sleep(Duration::from_secs(60));
    }

    #[test]
    fn a_panic_wherever_it_is_ends_the_process_with_an_error() {
        if let Ok(place) = std::env::var(PLACE) {
            return panic_in(&place);
        }
        for place in ["thread", "task", "blocking task", "main, and caught"] {
            let began = Instant::now();
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", NAME, "--nocapture"])
                .env(PLACE, place)
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let log = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(PANICKED), "in a {place}: {log}");
            assert!(log.contains("a defect of this program") && log.contains("meant"), "in a {place}: {log}");
            assert!(began.elapsed() < Duration::from_secs(30), "in a {place}: {:?}", began.elapsed());
        }
    }
}
