//! Attempts, failures, and what comes after them, as the OTLP specification has it.

use std::error::Error;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;

/// The first pause; each is up to twice as long as the one before. A pause is cut by up to a half, so that many
/// exporters do not come back at one moment.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A request that was taken.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Answer {
    /// Data points that were refused all the same. They are not to be sent again.
    pub(super) rejected: i64,
    /// Why; or a warning, where none was.
    pub(super) message: String,
}

impl From<ExportMetricsServiceResponse> for Answer {
    fn from(response: ExportMetricsServiceResponse) -> Self {
        let partial = response.partial_success.unwrap_or_default();
        Self { rejected: partial.rejected_data_points, message: partial.error_message }
    }
}

/// A request that was not taken.
#[derive(Debug, PartialEq)]
pub(super) struct Failure {
    pub(super) message: String,
    pub(super) again: Again,
}

/// Whether a request may be sent again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Again {
    /// It would be refused again.
    Never,
    /// After a pause of our choice.
    Later,
    /// After the pause that the destination asks for.
    After(Duration),
    /// There was no answer, and no time is left: with the next export.
    NextTime,
}

impl Failure {
    pub(super) fn new(message: impl Into<String>, again: Again) -> Self {
        Self { message: message.into(), again }
    }

    /// What happened on the way, with all its causes.
    pub(super) fn on_the_way(error: &(dyn Error + 'static)) -> Self {
        Self::new(causes(error), Again::Later)
    }
}

/// How long a request may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// With all attempts.
    pub(super) all: Duration,
    /// No attempt begins later than this.
    pub(super) attempts: Duration,
}

/// Tries again for as long as it makes sense and the limits allow.
pub(super) async fn within<F: Future<Output = Result<Answer, Failure>>>(
    limits: Limits,
    mut attempt: impl FnMut() -> F,
) -> Result<Answer, Failure> {
    let began = Instant::now();
    let (deadline, last) = (began + limits.all, began + limits.all.min(limits.attempts));
    let mut pause = FIRST_PAUSE;
    let mut before: Option<Failure> = None;
    loop {
        let failure = match timeout_at(deadline, attempt()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(failure)) => failure,
            Err(_) => {
                let before = before.map(|failure| format!("; before that: {}", failure.message));
                let message = format!("no answer within {:?}{}", limits.all, before.unwrap_or_default());
                return Err(Failure::new(message, Again::NextTime));
            }
        };
        let wait = match failure.again {
            Again::Never | Again::NextTime => return Err(failure),
            Again::Later => pause.mul_f64(1.0 - fastrand::f64() / 2.0),
            Again::After(wait) => wait.max(pause),
        };
        if last.saturating_duration_since(Instant::now()) <= wait {
            return Err(failure);
        }
        debug!(why = failure.message, ?wait, "an attempt to export failed");
        sleep(wait).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        before = Some(failure);
    }
}

/// An error and its causes. Libraries often repeat a cause in what they say themselves.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut message = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        next = cause.source();
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has these failures one after the other, and then an answer. Returns what comes of it, the number of
    /// attempts, and the time.
    async fn run(limit: u64, failures: &[Again]) -> (Result<Answer, Failure>, usize, Duration) {
        run_within(limit, u64::MAX, failures).await
    }

    async fn run_within(
        all: u64,
        attempts: u64,
        failures: &[Again],
    ) -> (Result<Answer, Failure>, usize, Duration) {
        let limits = Limits { all: Duration::from_millis(all), attempts: Duration::from_millis(attempts) };
        let (began, mut attempts) = (Instant::now(), 0);
        let result = within(limits, || {
            attempts += 1;
            std::future::ready(match failures.get(attempts - 1) {
                Some(again) => Err(Failure::new(format!("failure {attempts}"), *again)),
                None => Ok(Answer::default()),
            })
        })
        .await;
        (result, attempts, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow() {
        let (result, attempts, time) = run(10_000, &[Again::Later; 4]).await;
        assert_eq!((result, attempts), (Ok(Answer::default()), 5));
        // 250, 500, 1000 and 2000 ms, each cut by up to a half.
        assert!((1_875..=3_760).contains(&time.as_millis()), "{time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_not_tried_again() {
        let (result, attempts, time) = run(10_000, &[Again::Later, Again::Never]).await;
        assert_eq!((result, attempts), (Err(Failure::new("failure 2", Again::Never)), 2));
        assert!(time < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_destination_may_ask_for_a_pause() {
        let (result, attempts, time) = run(10_000, &[Again::After(Duration::from_secs(7))]).await;
        assert_eq!((result, attempts), (Ok(Answer::default()), 2));
        assert!((7_000..7_100).contains(&time.as_millis()), "{time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_is_too_long_is_not_waited_for() {
        let asked = Again::After(Duration::from_secs(11));
        let (result, attempts, time) = run(10_000, &[asked]).await;
        assert_eq!((result, attempts, time), (Err(Failure::new("failure 1", asked)), 1, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_holds_for_all_attempts_together() {
        let (result, _, time) = run(3_000, &[Again::Later; 1_000]).await;
        assert!(result.is_err());
        assert!(time <= Duration::from_secs(3), "{time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_for_attempts_may_be_shorter() {
        let (result, _, time) = run_within(10_000, 1_000, &[Again::Later; 1_000]).await;
        assert!(result.is_err());
        assert!(time < Duration::from_secs(1), "{time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_without_an_answer_ends_with_the_limit() {
        let mut first = true;
        let limits = Limits { all: Duration::from_secs(2), attempts: Duration::MAX };
        let result = within(limits, || {
            let first = std::mem::take(&mut first);
            async move {
                if first {
                    return Err(Failure::new("not yet", Again::Later));
                }
                std::future::pending().await
            }
        })
        .await;
        let message = "no answer within 2s; before that: not yet";
        assert_eq!(result, Err(Failure::new(message, Again::NextTime)));
    }
}
