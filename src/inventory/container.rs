//! One container, as `docker inspect` tells it.

use std::sync::Arc;

use super::expectation::{Attention, Expectation};
use super::replica::Replica;
use super::runs::ExitReason;
use super::signal::Signal;
pub use super::text::Text;

/// Keys and values in the order of the keys.
pub type LabelPairs = Vec<(Text, Text)>;

/// What is known of a container.
///
/// Times are Unix times in whole seconds, 0 for what has never happened. A number or time that the daemon
/// gave in a form that cannot be read is -1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: Text,
    /// Without the leading slash.
    pub name: Text,
    /// As it was given when the container was created.
    pub image: Text,
    /// The labels that `containers.labels` lets pass, in the order of their keys.
    pub labels: LabelPairs,
    /// What the container is doing.
    pub status: Status,
    /// What its health check says.
    pub health: Health,
    /// Whether the last run was killed for memory.
    pub oom_killed: bool,
    /// When the last run began.
    pub started_at: i64,
    /// When the last run ended.
    pub finished_at: i64,
    /// When the container was created.
    pub created_at: i64,
    /// Restarts by the restart policy since the last manual start.
    pub restart_count: i64,
    /// The exit code of the last run, 0 while none has finished.
    pub exit_code: i64,
    /// Health probes that failed in a row.
    pub failing_streak: i64,
    /// The image's id.
    pub image_id: Text,
    /// The restart policy's name.
    pub restart_policy: Text,
    /// The host name inside the container.
    pub hostname: Text,
    /// What `docker stop` sends it, where it is not SIGTERM.
    pub stop_signal: Option<Signal>,
    /// Why the engine could not start it, where it could not.
    pub error: Option<Text>,
    /// What is expected of it.
    pub expectation: Expectation,
    /// The place in a service that it fills.
    pub replica: Option<Arc<Replica>>,
    /// What the container's events are labelled with.
    pub event_identity: Arc<EventIdentity>,
    /// Whether this comes from an inspect. Else it comes from the list, and missing fields are -1 or empty.
    pub is_inspected: bool,
    /// What the inventory concludes from the container's events and inspects.
    pub verdict: Verdict,
}

impl Container {
    /// Whether this was inspected, and `listed`, the same container in the list, does not contradict it.
    pub fn agrees_with(&self, listed: &Self) -> bool {
        let is_same_state = self.status == listed.status || listed.status == Status::Unknown;
        self.is_inspected && is_same_state && (self.name == listed.name || listed.name.is_empty())
    }
}

/// What the inventory concludes from a container's events and inspects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Why the last run ended, where one has.
    pub last_end: Option<ExitReason>,
    /// Why somebody has to look at it, if somebody has to.
    pub attention: Option<Attention>,
    /// Whether a signal through the engine has disabled `unless-stopped`; `None` if that is unknown, or for another
    /// policy.
    pub is_policy_disarmed: Option<bool>,
}

/// The event labels that come from the event's actor.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct EventIdentity {
    /// The actor's name.
    pub name: Option<Text>,
    /// The image that the daemon names.
    pub image: Option<Text>,
    /// `io.kubernetes.pod.name`
    pub pod: Option<Text>,
    /// `io.kubernetes.pod.namespace`
    pub env: Option<Text>,
    /// `io.kubernetes.container.name`
    pub container: Option<Text>,
    /// The labels that `events.labels` lets pass, in the order of their keys.
    pub labels: LabelPairs,
    /// A Kubernetes pod's sandbox: its events are not counted.
    pub sandbox: bool,
}

/// Declares an enum of the daemon's words, each with a numeric code.
macro_rules! coded {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $code:literal, $word:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
            /// A word that this program does not know.
            Unknown,
        }

        impl $name {
            /// Every known one, in the order of their codes.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Its numeric code.
            pub const fn code(self) -> i64 {
                match self {
                    $(Self::$variant => $code,)+
                    Self::Unknown => -1,
                }
            }

            /// The daemon's word for it.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                    Self::Unknown => "unknown",
                }
            }
        }
    };
}

coded! {
    /// What a container is doing.
    Status {
        /// It is being removed.
        Removing = 0, "removing";
        /// Its removal failed half-way.
        Dead = 1, "dead";
        /// Its run is over.
        Exited = 2, "exited";
        /// It stands still.
        Paused = 3, "paused";
        /// Its restart policy waits to start it again.
        Restarting = 4, "restarting";
        /// It has never been started.
        Created = 5, "created";
        /// It runs.
        Running = 6, "running";
    }
}

coded! {
    /// What a container's health check says.
    Health {
        /// Too many probes in a row have failed.
        Unhealthy = 0, "unhealthy";
        /// There is no health check.
        None = 1, "none";
        /// No probe has decided yet.
        Starting = 2, "starting";
        /// The last probe was good.
        Healthy = 3, "healthy";
    }
}

#[cfg(test)]
impl Container {
    /// A container that runs, for tests to change as they need it.
    pub(crate) fn sample(id: &str, name: &str) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            image: "busybox".into(),
            labels: Vec::new(),
            status: Status::Running,
            health: Health::None,
            oom_killed: false,
            started_at: 1,
            finished_at: 0,
            created_at: 1,
            restart_count: 0,
            exit_code: 0,
            failing_streak: 0,
            image_id: "sha256:0".into(),
            restart_policy: "no".into(),
            hostname: "host".into(),
            stop_signal: None,
            error: None,
            expectation: Expectation::Oneshot,
            replica: None,
            event_identity: Arc::default(),
            is_inspected: true,
            verdict: Verdict::default(),
        }
    }

    /// This, with labels.
    pub(crate) fn labelled(mut self, labels: &[(&str, &str)]) -> Self {
        self.labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        self.labels.sort();
        self
    }
}
