//! The words of the engines: Docker's from bollard's models, and Podman's with their meaning in Docker.
//!
//! The caller reports unknown words. Podman's are from its sources, versions 4.3 to 6.1
//! (libpod/define/containerstate.go, libpod/define/healthchecks.go, libpod/events/config.go).

use bollard::models::{ContainerStateStatusEnum as DockerStatus, HealthStatusEnum as DockerHealth};

use crate::inventory::{Health, Status};

/// A container's status.
pub(super) fn status(word: &str) -> Option<Status> {
    Some(match word.parse() {
        Ok(DockerStatus::CREATED) => Status::Created,
        // Its main process still runs.
        Ok(DockerStatus::RUNNING | DockerStatus::STOPPING) => Status::Running,
        Ok(DockerStatus::PAUSED) => Status::Paused,
        Ok(DockerStatus::RESTARTING) => Status::Restarting,
        Ok(DockerStatus::REMOVING) => Status::Removing,
        Ok(DockerStatus::EXITED) => Status::Exited,
        Ok(DockerStatus::DEAD) => Status::Dead,
        // Podman before 5.6; later versions translate these themselves.
        Err(_) if matches!(word, "configured" | "initialized") => Status::Created,
        Err(_) if word == "stopped" => Status::Exited,
        // Podman writes `unknown`, `bad state` or nothing if it does not know the state.
        Ok(DockerStatus::EMPTY) | Err(_) => return None,
    })
}

/// What a health check says.
pub(super) fn health(word: &str) -> Option<Health> {
    Some(match word.parse() {
        // Podman leaves this empty if there is no check.
        Ok(DockerHealth::NONE | DockerHealth::EMPTY) => Health::None,
        Ok(DockerHealth::STARTING) => Health::Starting,
        Ok(DockerHealth::HEALTHY) => Health::Healthy,
        Ok(DockerHealth::UNHEALTHY) => Health::Unhealthy,
        // Podman from 5.5 on: the container was stopped during a probe, so there is no result …
        Err(_) if word == "stopped" => Health::None,
        // … and the container was started, and no probe has a result yet.
        Err(_) if word == "reset" => Health::Starting,
        Err(_) => return None,
    })
}

/// Docker's name of an event's action.
pub(super) fn action(kind: &str, word: &str) -> Option<&'static str> {
    Some(match (kind, word) {
        ("container", "died") => "die",
        ("container" | "volume", "remove") => "destroy",
        ("container", "exec") => "exec_start",
        ("container", "exec_died") => "exec_die",
        ("image", "remove") => "delete",
        ("image", "loadfromarchive") => "load",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_of_the_engines_is_known() {
        for (word, known) in [
            // moby, api/types/container/state.go.
            ("created", Status::Created),
            ("running", Status::Running),
            ("paused", Status::Paused),
            ("restarting", Status::Restarting),
            ("removing", Status::Removing),
            ("exited", Status::Exited),
            ("dead", Status::Dead),
            // Podman, libpod/define/containerstate.go.
            ("configured", Status::Created),
            ("initialized", Status::Created),
            ("stopped", Status::Exited),
            ("stopping", Status::Running),
        ] {
            assert_eq!(status(word), Some(known), "{word}");
        }
        // Podman's words for an unknown state, and words that no engine uses.
        for word in ["", "unknown", "bad state", "levitating", "Running"] {
            assert_eq!(status(word), None, "{word}");
        }
    }

    #[test]
    fn every_health_of_the_engines_is_known() {
        for (word, known) in [
            // moby, api/types/container/health.go.
            ("none", Health::None),
            ("starting", Health::Starting),
            ("healthy", Health::Healthy),
            ("unhealthy", Health::Unhealthy),
            // Podman, libpod/define/healthchecks.go.
            ("", Health::None),
            ("reset", Health::Starting),
            ("stopped", Health::None),
        ] {
            assert_eq!(health(word), Some(known), "{word}");
        }
        assert_eq!(health("dizzy"), None);
    }

    #[test]
    fn podmans_actions_have_dockers_names() {
        for (kind, podman, docker) in [
            ("container", "died", "die"),
            ("container", "remove", "destroy"),
            ("container", "exec", "exec_start"),
            ("container", "exec_died", "exec_die"),
            ("image", "remove", "delete"),
            ("image", "loadfromarchive", "load"),
            ("volume", "remove", "destroy"),
        ] {
            assert_eq!(action(kind, podman), Some(docker), "{kind} {podman}");
        }
        // Docker's own, or what Docker has no name for.
        for (kind, word) in [
            ("secret", "remove"),
            ("network", "remove"),
            ("pod", "remove"),
            ("container", "start"),
            ("container", "cleanup"),
            ("image", "pull"),
        ] {
            assert_eq!(action(kind, word), None, "{kind} {word}");
        }
    }
}
