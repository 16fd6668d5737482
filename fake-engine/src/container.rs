//! One container: what the list and the inspect say of it.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

/// A container as the engine shows it: its entry in the list, and the answer to an inspect.
///
/// Each setter changes both if both contain the value. Anything else is changed in the two public values.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// The entry in `containers/json`.
    pub list: Value,
    /// The answer to `containers/{id}/json`.
    pub inspect: Value,
}

/// What `docker inspect` shows for a time that never was.
const NEVER: &str = "0001-01-01T00:00:00Z";

impl Container {
    /// A running container without a health check, with an id that no other container of this process has.
    pub fn new(name: &str) -> Self {
        let id = new_id();
        template().clone().with_id(&id).named(name).hostname(&id[..12])
    }

    /// A container of recorded answers.
    pub fn recorded(list: Value, inspect: Value) -> Self {
        Self { list, inspect }
    }

    /// The whole id.
    pub fn id(&self) -> &str {
        self.inspect["Id"].as_str().or_else(|| self.list["Id"].as_str()).unwrap_or_default()
    }

    /// The name, without its leading slash.
    pub fn name(&self) -> &str {
        self.inspect["Name"].as_str().unwrap_or_default().trim_start_matches('/')
    }

    /// What the actor of an event of this container carries: its labels, image and name.
    pub fn attributes(&self) -> Vec<(String, String)> {
        let mut attributes: Vec<_> = self.inspect["Config"]["Labels"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect();
        attributes
            .push(("image".into(), self.inspect["Config"]["Image"].as_str().unwrap_or_default().into()));
        attributes.push(("name".into(), self.name().into()));
        attributes
    }

    /// Whether a list without `all` shows it: moby counts a paused and a restarting container as running.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.list["State"].as_str(), Some("running" | "paused" | "restarting"))
    }

    /// Another id, 64 hexadecimal digits.
    #[must_use]
    pub fn with_id(mut self, id: &str) -> Self {
        self.list["Id"] = id.into();
        self.inspect["Id"] = id.into();
        self
    }

    /// Another name, as after a rename.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.list["Names"] = json!([format!("/{name}")]);
        self.inspect["Name"] = format!("/{name}").into();
        self
    }

    /// The image as it was given.
    #[must_use]
    pub fn image(mut self, image: &str) -> Self {
        self.list["Image"] = image.into();
        self.inspect["Config"]["Image"] = image.into();
        self
    }

    /// One more label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.list["Labels"][key] = value.into();
        self.inspect["Config"]["Labels"][key] = value.into();
        self
    }

    /// The state, `running` for example; any other word is taken too.
    #[must_use]
    pub fn status(mut self, status: &str) -> Self {
        self.list["State"] = status.into();
        self.list["Status"] = match status {
            "running" => "Up 12 seconds".into(),
            "paused" => "Up 12 seconds (Paused)".into(),
            "exited" => format!("Exited ({}) 12 seconds ago", self.inspect["State"]["ExitCode"]).into(),
            "created" => "Created".into(),
            other => Value::from(other),
        };
        let state = &mut self.inspect["State"];
        state["Status"] = status.into();
        state["Running"] = matches!(status, "running" | "paused" | "restarting").into();
        state["Paused"] = (status == "paused").into();
        state["Restarting"] = (status == "restarting").into();
        state["Dead"] = (status == "dead").into();
        if status == "created" {
            state["StartedAt"] = NEVER.into();
            state["FinishedAt"] = NEVER.into();
        }
        self
    }

    /// A finished run: state, exit code and time of the end, in RFC 3339.
    #[must_use]
    pub fn exited(mut self, code: i64, finished_at: &str) -> Self {
        self.inspect["State"]["ExitCode"] = code.into();
        self.inspect["State"]["Pid"] = 0.into();
        self.finished_at(finished_at).status("exited")
    }

    /// The health and the count of failed probes in a row.
    #[must_use]
    pub fn health(mut self, status: &str, failing_streak: u64) -> Self {
        self.inspect["State"]["Health"] =
            json!({"Status": status, "FailingStreak": failing_streak, "Log": []});
        self
    }

    /// The exit code of the last run.
    #[must_use]
    pub fn exit_code(mut self, code: i64) -> Self {
        self.inspect["State"]["ExitCode"] = code.into();
        self
    }

    /// Whether the last run was killed for memory.
    #[must_use]
    pub fn oom_killed(mut self, killed: bool) -> Self {
        self.inspect["State"]["OOMKilled"] = killed.into();
        self
    }

    /// Restarts by the restart policy.
    #[must_use]
    pub fn restart_count(mut self, count: u64) -> Self {
        self.inspect["RestartCount"] = count.into();
        self
    }

    /// The restart policy: `no`, `always`, `unless-stopped` or `on-failure`.
    #[must_use]
    pub fn restart_policy(mut self, name: &str, maximum_retry_count: u64) -> Self {
        self.inspect["HostConfig"]["RestartPolicy"] =
            json!({"Name": name, "MaximumRetryCount": maximum_retry_count});
        self
    }

    /// The host name inside.
    #[must_use]
    pub fn hostname(mut self, hostname: &str) -> Self {
        self.inspect["Config"]["Hostname"] = hostname.into();
        self
    }

    /// The time of the creation, in RFC 3339.
    ///
    /// # Panics
    ///
    /// Where it does not parse: the list has it as a number.
    #[must_use]
    pub fn created_at(mut self, time: &str) -> Self {
        let seconds = time.parse::<jiff::Timestamp>().map(|time| time.as_second());
        self.list["Created"] = seconds.unwrap_or_else(|error| panic!("created_at({time}): {error}")).into();
        self.inspect["Created"] = time.into();
        self
    }

    /// The time of the last start, as the answer is to have it.
    #[must_use]
    pub fn started_at(mut self, time: &str) -> Self {
        self.inspect["State"]["StartedAt"] = time.into();
        self
    }

    /// The time of the last finish, as the answer is to have it.
    #[must_use]
    pub fn finished_at(mut self, time: &str) -> Self {
        self.inspect["State"]["FinishedAt"] = time.into();
        self
    }
}

/// A real engine's answers for a plain running container, without its names.
fn template() -> &'static Container {
    static TEMPLATE: LazyLock<Container> = LazyLock::new(|| {
        let parse = |text| serde_json::from_str(text).unwrap_or_else(|error| panic!("template: {error}"));
        Container::recorded(parse(include_str!("list.json")), parse(include_str!("inspect.json")))
    });
    &TEMPLATE
}

/// An id that no other container of this process has.
pub(crate) fn new_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    id_of(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// 64 hexadecimal digits that look like an engine's, the same for the same number: splitmix64, four times.
fn id_of(number: u64) -> String {
    let mut state = number.wrapping_mul(4);
    (0..4)
        .map(|_| {
            state = state.wrapping_add(1);
            let mut z = state.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            format!("{:016x}", z ^ (z >> 31))
        })
        .collect()
}
