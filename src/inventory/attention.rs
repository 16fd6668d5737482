//! Whether somebody has to look at a container.

use super::container::{Container, Health, Status, Verdict};
use super::expectation::{Attention, Expectation};
use super::runs::{ExitReason, RunSummary};

/// The verdict on a container.
pub(super) fn verdict(container: &Container, runs: RunSummary, is_replaced: bool) -> Verdict {
    let is_disarmable = &*container.restart_policy == "unless-stopped" && container.status == Status::Running;
    Verdict {
        last_end: runs.last_end,
        attention: attention(container, runs, is_replaced),
        is_policy_disarmed: runs.was_signalled.filter(|_| is_disarmable),
    }
}

/// Why a container needs attention, if it does. One that a newer container has replaced needs none.
pub(super) fn attention(container: &Container, runs: RunSummary, is_replaced: bool) -> Option<Attention> {
    if is_replaced || container.expectation == Expectation::Ignore {
        return None;
    }
    Attention::ALL.into_iter().find(|attention| holds(*attention, container, runs))
}

fn holds(attention: Attention, container: &Container, runs: RunSummary) -> bool {
    let (status, expectation) = (container.status, container.expectation);
    match attention {
        Attention::Stuck => matches!(status, Status::Dead | Status::Removing),
        Attention::StartFailed => {
            container.error.is_some() && !matches!(status, Status::Running | Status::Paused)
        }
        Attention::Restarting => {
            runs.is_looping
                && matches!(&*container.restart_policy, "always" | "unless-stopped" | "on-failure")
                && matches!(status, Status::Running | Status::Restarting)
        }
        Attention::Down => {
            expectation == Expectation::Running
                && matches!(status, Status::Exited | Status::Created)
                && runs.last_end.is_some_and(ExitReason::is_unasked)
        }
        Attention::Failed => {
            expectation == Expectation::Oneshot
                && status == Status::Exited
                && runs.last_end.is_some_and(ExitReason::is_failure)
        }
        Attention::Unhealthy => status == Status::Running && container.health == Health::Unhealthy,
        Attention::NotStarted => {
            expectation == Expectation::Running && status == Status::Created && container.started_at == 0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(policy: &str, status: Status) -> Container {
        Container {
            restart_policy: policy.into(),
            expectation: Expectation::of_policy(policy, false),
            status,
            ..Container::sample("a", "web")
        }
    }

    fn word(container: &Container, last_end: Option<ExitReason>, is_looping: bool) -> &'static str {
        attention(container, RunSummary { last_end, is_looping, ..RunSummary::default() }, false)
            .map_or("-", Attention::word)
    }

    #[test]
    fn what_has_ended_needs_attention_by_what_was_expected() {
        use ExitReason::*;
        for (reason, always, no) in [
            (Completed, "down", "-"),
            (Error, "down", "failed"),
            (Signal, "down", "failed"),
            (Oom, "down", "failed"),
            (Stopped, "-", "-"),
            (StopTimeout, "-", "-"),
            (Killed, "-", "-"),
            (Unknown, "-", "-"),
        ] {
            for (policy, expected) in
                [("always", always), ("unless-stopped", always), ("no", no), ("", no), ("on-failure", no)]
            {
                let container = container(policy, Status::Exited);
                assert_eq!(word(&container, Some(reason), false), expected, "{policy} {reason:?}");
                let replaced = attention(
                    &container,
                    RunSummary { last_end: Some(reason), is_looping: true, ..RunSummary::default() },
                    true,
                );
                assert_eq!(replaced, None);
            }
        }
    }

    #[test]
    fn a_label_says_otherwise() {
        for (expectation, expected) in [
            (Expectation::Running, "down"),
            (Expectation::Oneshot, "failed"),
            (Expectation::Stopped, "-"),
            (Expectation::Ignore, "-"),
        ] {
            let container = Container { expectation, ..container("always", Status::Exited) };
            assert_eq!(word(&container, Some(ExitReason::Error), false), expected);
        }
        for (word, expectation) in Expectation::WORDS.into_iter().zip([
            Expectation::Running,
            Expectation::Oneshot,
            Expectation::Stopped,
            Expectation::Ignore,
        ]) {
            assert_eq!(Expectation::from_word(word), Some(expectation));
        }
        assert_eq!(Expectation::from_word("Running"), None);
        assert_eq!(Expectation::of_policy("no", true), Expectation::Running, "a task of a Swarm");
    }

    #[test]
    fn a_loop_does_not_flicker_and_ends_with_the_policy() {
        let last = Some(ExitReason::Error);
        for status in [Status::Running, Status::Restarting] {
            assert_eq!(word(&container("always", status), last, true), "restarting");
            assert_eq!(word(&container("on-failure", status), last, true), "restarting");
            assert_eq!(word(&container("no", status), last, true), "-");
            assert_eq!(word(&container("always", status), last, false), "-");
        }
        assert_eq!(word(&container("on-failure", Status::Exited), last, true), "failed", "it was given up");
    }

    #[test]
    fn the_first_that_holds_is_shown() {
        let with_error =
            |status| Container { error: Some("no such file".into()), ..container("always", status) };
        assert_eq!(word(&with_error(Status::Dead), Some(ExitReason::Error), true), "stuck");
        assert_eq!(word(&container("no", Status::Removing), None, false), "stuck");
        assert_eq!(word(&with_error(Status::Created), None, false), "start_failed");
        assert_eq!(word(&with_error(Status::Exited), Some(ExitReason::Error), false), "start_failed");
        assert_eq!(word(&with_error(Status::Running), None, false), "-", "it runs now");
        let unhealthy =
            Container { health: Health::Unhealthy, ..container("unless-stopped", Status::Running) };
        assert_eq!(word(&unhealthy, None, false), "unhealthy");
        assert_eq!(word(&unhealthy, Some(ExitReason::Error), true), "restarting");
        let never = Container { started_at: 0, ..container("always", Status::Created) };
        assert_eq!(word(&never, None, false), "not_started");
        let never = Container { started_at: 0, ..container("no", Status::Created) };
        assert_eq!(word(&never, None, false), "-");
        // Paused by somebody: whatever its health check says then.
        let paused = Container { health: Health::Unhealthy, ..container("always", Status::Paused) };
        assert_eq!(word(&paused, None, false), "-");
    }
}
