//! What is expected of a container, and the reasons to look at one.

/// What is expected of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Expectation {
    /// That it runs.
    Running,
    /// That it does not fail; it may end.
    Oneshot,
    /// That it does not run.
    Stopped,
    /// Nothing.
    Ignore,
}

impl Expectation {
    /// The words of the expectation label.
    pub const WORDS: [&str; 4] = ["running", "oneshot", "stopped", "ignore"];

    /// Reads the value of the expectation label.
    pub fn from_word(word: &str) -> Option<Self> {
        match word.trim() {
            "running" => Some(Self::Running),
            "oneshot" => Some(Self::Oneshot),
            "stopped" => Some(Self::Stopped),
            "ignore" => Some(Self::Ignore),
            _ => None,
        }
    }

    /// The expectation that follows from the restart policy. Swarm restarts its tasks itself, without a policy.
    pub fn of_policy(restart_policy: &str, is_swarm_task: bool) -> Self {
        match restart_policy {
            "always" | "unless-stopped" => Self::Running,
            _ if is_swarm_task => Self::Running,
            _ => Self::Oneshot,
        }
    }
}

/// Why somebody has to look at a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attention {
    /// It is dead, or being removed.
    Stuck,
    /// The engine could not start it, and says why in `State.Error`.
    StartFailed,
    /// Its restart policy starts it again and again.
    Restarting,
    /// It is expected to run and has ended, unasked.
    Down,
    /// It was to do one thing, and has failed.
    Failed,
    /// It runs, and its health check fails.
    Unhealthy,
    /// It is expected to run and was never started.
    NotStarted,
}

impl Attention {
    /// All of them; the first that holds is shown.
    pub const ALL: [Self; 7] = [
        Self::Stuck,
        Self::StartFailed,
        Self::Restarting,
        Self::Down,
        Self::Failed,
        Self::Unhealthy,
        Self::NotStarted,
    ];

    /// The value of the label `reason`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stuck => "stuck",
            Self::StartFailed => "start_failed",
            Self::Restarting => "restarting",
            Self::Down => "down",
            Self::Failed => "failed",
            Self::Unhealthy => "unhealthy",
            Self::NotStarted => "not_started",
        }
    }

    /// When it holds, for documents.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Stuck => "it is `dead` or `removing`",
            Self::StartFailed => {
                "it does not run, and the engine says in `State.Error` why it could not start it"
            }
            Self::Restarting => {
                "its restart policy restarts it: the last three runs ended unasked after less than ten minutes each; \
                 until one lasts ten minutes, or it is stopped"
            }
            Self::Down => {
                "it is expected to run, is exited or created, and its last run ended as `completed`, `error`, `signal` \
                 or `oom`"
            }
            Self::Failed => "it may end, and its last run ended as `error`, `signal` or `oom`",
            Self::Unhealthy => "it runs, and its health check fails",
            Self::NotStarted => "it is expected to run, and was never started",
        }
    }
}
