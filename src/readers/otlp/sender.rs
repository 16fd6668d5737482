//! Sends what was collected, and keeps account of what became of it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_sdk::metrics::data::ResourceMetrics;
use tracing::debug;

use super::destination::{Destination, Failure, RetryAdvice};
use super::source::Source;
use crate::stats::Stats;

/// How a request ended: the values of the label `result`.
pub(super) const OK: &str = "ok";
pub(super) const PARTIAL: &str = "partial";
pub(super) const ERROR: &str = "error";

/// What became of an export, request by request.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The first failure.
    pub(super) failure: Option<String>,
    /// Requests that were taken.
    pub(super) taken: usize,
    /// Set where the destination was away or busy, so that another export may soon succeed: the pause that it asked
    /// for, if it did.
    pub(super) away: Option<Option<Duration>>,
    /// Data points that the destination refused.
    pub(super) rejected: i64,
    /// What it said of them, or of others.
    pub(super) complaint: Option<String>,
}

/// A destination, and the count of what it took.
pub(super) struct Sender {
    pub(super) destination: Destination,
    pub(super) stats: Arc<Stats>,
}

impl Sender {
    /// Collects of a source what is set out by `observe`, and sends it. See [`Source::collect`]. Breaks where there is
    /// no use in sending more.
    pub(super) async fn export(
        &mut self,
        source: &mut Source,
        prime: &(dyn Fn() + Sync),
        observe: &(dyn Fn() + Sync),
        outcome: &mut Outcome,
    ) -> ControlFlow<()> {
        if self.send_pending(source, outcome).await? {
            self.note_collected(source.collect(prime, observe), outcome);
            self.send_collected(source, outcome).await?;
        }
        ControlFlow::Continue(())
    }

    /// Sends what counts, and the destination has not taken before. Says whether all of it has been taken now, so that
    /// more may be collected.
    pub(super) async fn send_pending(
        &mut self,
        source: &mut Source,
        outcome: &mut Outcome,
    ) -> ControlFlow<(), bool> {
        source.discard();
        self.send_collected(source, outcome).await?;
        ControlFlow::Continue(source.pending().is_empty())
    }

    /// Sends what was collected.
    pub(super) async fn send_collected(
        &mut self,
        source: &mut Source,
        outcome: &mut Outcome,
    ) -> ControlFlow<()> {
        while let Some(metrics) = source.pending().first() {
            if !self.send(metrics, outcome).await? {
                break;
            }
            source.taken();
        }
        source.discard();
        ControlFlow::Continue(())
    }

    /// Sends one request. Says whether it was taken.
    pub(super) async fn send(
        &mut self,
        metrics: &ResourceMetrics,
        outcome: &mut Outcome,
    ) -> ControlFlow<(), bool> {
        match self.destination.send(metrics).await {
            Ok(answer) => {
                // What was refused is not to be sent again, so it counts as taken.
                outcome.taken += 1;
                outcome.rejected += answer.rejected;
                if let Some(complaint) = answer.complaint {
                    outcome.complaint.get_or_insert(complaint);
                }
                self.count(if answer.rejected > 0 { PARTIAL } else { OK });
                ControlFlow::Continue(true)
            }
            Err(Failure { message, advice }) => {
                debug!(endpoint = self.destination.name, why = message, "a request failed");
                outcome.failure.get_or_insert(message);
                self.count(ERROR);
                outcome.away = match advice {
                    RetryAdvice::Never => return ControlFlow::Continue(false),
                    RetryAdvice::Soon => Some(None),
                    RetryAdvice::After(delay) => Some(Some(delay)),
                };
                ControlFlow::Break(())
            }
        }
    }

    /// Notes that nothing could be collected, where that is so.
    pub(super) fn note_collected(&self, collected: Result<(), String>, outcome: &mut Outcome) {
        if let Err(why) = collected {
            self.count(ERROR);
            outcome.failure.get_or_insert(why);
        }
    }

    /// Counts a request that ended so.
    pub(super) fn count(&self, result: &'static str) {
        self.stats.otlp_export(&self.destination.name, result);
    }
}
