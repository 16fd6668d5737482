//! Every metric: its name, kind, unit, meaning and labels. The instruments are made from this, and so is
//! `docs/metrics.md`; a name that stands anywhere else stands there by reference to this file.

use crate::inventory::{Attention, Container, ExitReason, Health, Status};

/// The name of the meter that all instruments are of.
pub const METER: &str = env!("CARGO_PKG_NAME");

/// What an instrument is registered with.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The OpenTelemetry name.
    pub name: &'static str,
    /// The kind of the instrument.
    pub kind: Kind,
    /// The unit, in UCUM's notation; empty for codes and flags.
    pub unit: &'static str,
    /// What it says, as `# HELP` and as OTLP's description.
    pub help: &'static str,
    /// The labels beside those that its group has anyway: name and meaning.
    pub labels: &'static [(&'static str, &'static str)],
}

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A value that goes up and down.
    Gauge,
    /// A count that only grows.
    Counter,
    /// A distribution.
    Histogram,
}

impl Metric {
    /// The name on `/metrics`. `suffixes` says whether the unit and `_total` are appended, as Prometheus'
    /// own conventions have it.
    pub fn prometheus_name(&self, suffixes: bool) -> String {
        prometheus_name(self.name, self, suffixes)
    }
}

/// The name on `/metrics` of what is made of a metric under another name.
pub fn prometheus_name(name: &str, metric: &Metric, suffixes: bool) -> String {
    let mut name = name.replace(['.', '-', '/'], "_");
    if suffixes {
        match metric.unit {
            "s" => name.push_str("_seconds"),
            "By" => name.push_str("_bytes"),
            _ => {}
        }
        if metric.kind == Kind::Counter {
            name.push_str("_total");
        }
    }
    name
}

/// A metric that every container has.
#[derive(Debug, Clone, Copy)]
pub struct ContainerMetric {
    /// What its instrument is registered with.
    pub metric: Metric,
    /// Where its values come from.
    pub value: ContainerValue,
}

/// Where a container metric's values come from.
#[derive(Debug, Clone, Copy)]
pub enum ContainerValue {
    /// One number.
    Number(fn(&Container) -> i64),
    /// One of several states: a code, or a series for each of them, as `containers.encoding` says.
    State {
        /// Each state's word and code.
        states: fn() -> Vec<(&'static str, i64)>,
        /// The code of the present one.
        code: fn(&Container) -> i64,
    },
    /// Always 1; what it says is in its labels.
    Info,
    /// 1 with the label [`REASON_LABEL`], where there is a reason.
    Reason {
        /// The reasons that there can be, and what they mean.
        reasons: fn() -> Vec<(&'static str, &'static str)>,
        /// The one that there is.
        reason: fn(&Container) -> Option<&'static str>,
    },
    /// One number, where it is known.
    Optional(fn(&Container) -> Option<i64>),
}

const fn gauge(name: &'static str, unit: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, unit, help, labels: &[] }
}

const fn counter(name: &'static str, unit: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, unit, help, labels: &[] }
}

const fn number(
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    value: fn(&Container) -> i64,
) -> ContainerMetric {
    ContainerMetric { metric: gauge(name, unit, help), value: ContainerValue::Number(value) }
}

/// The family on `/metrics` that says what the resource is, where that is asked for.
pub const TARGET_INFO: &str = "target_info";

/// The labels of each container's series on `/metrics`, beside its container labels.
pub const CONTAINER_LABELS: [&str; 3] = ["id", "image", "name"];

/// The label of the series for all beyond a stream's limit, as an attribute.
pub const OVERFLOW: &str = "otel.metric.overflow";

/// The labels that say of which scope a series is, where that is asked for.
pub const SCOPE_LABELS: [&str; 3] = ["otel_scope_name", "otel_scope_version", "otel_scope_schema_url"];

/// Whether series of containers or events can have this label of their own, container labels apart.
pub fn is_own_label(label: &str) -> bool {
    // Those of the exporter about itself get no labels of the resource.
    let of_metrics = all().filter(|metric| OWN.iter().all(|own| own.name != metric.name));
    let mut labels = of_metrics.flat_map(|metric| metric.labels.iter().map(|(label, _)| *label));
    CONTAINER_LABELS.contains(&label)
        || [STATE_LABEL, REASON_LABEL, OVERFLOW, "otel_metric_overflow"].contains(&label)
        || labels.any(|own| own == label)
}

/// The label of state-set series, on `/metrics` and in OTLP.
pub const STATE_LABEL: &str = "status";

/// The label of what has a reason, on `/metrics` and in OTLP.
pub const REASON_LABEL: &str = "reason";

/// What else is known of a container. Its series have labels of their own.
pub const INFO: Metric = Metric {
    name: "container.info",
    kind: Kind::Gauge,
    unit: "",
    help: "What else is known of the container; always 1.",
    labels: &[
        ("image_id", "the image's id"),
        ("restart_policy", "the restart policy's name"),
        ("hostname", "the host name inside the container"),
    ],
};

/// What every container has.
pub const CONTAINER: &[ContainerMetric] = &[
    ContainerMetric {
        metric: gauge("container.state.health.status", "", "What the container's health check says."),
        value: ContainerValue::State {
            states: || Health::ALL.iter().map(|h| (h.word(), h.code())).collect(),
            code: |c| c.health.code(),
        },
    },
    ContainerMetric {
        metric: gauge("container.state.status", "", "What the container is doing."),
        value: ContainerValue::State {
            states: || Status::ALL.iter().map(|s| (s.word(), s.code())).collect(),
            code: |c| c.status.code(),
        },
    },
    number("container.state.oomkilled", "", "Whether the container's last run was killed for memory.", |c| {
        if c.is_inspected { i64::from(c.oom_killed) } else { -1 }
    }),
    number(
        "container.state.startedat",
        "s",
        "Unix time of the container's last start, 0 if it has never been started.",
        |c| c.started_at,
    ),
    number(
        "container.state.finishedat",
        "s",
        "Unix time of the container's last finish, 0 if it has never finished.",
        |c| c.finished_at,
    ),
    number(
        "container.restartcount",
        "",
        "Restarts of the container by its restart policy since its last manual start.",
        |c| c.restart_count,
    ),
    number(
        "container.state.exitcode",
        "",
        "Exit code of the container's last run, 0 while none has finished.",
        |c| c.exit_code,
    ),
    number(
        "container.state.health.failingstreak",
        "",
        "Health probes of the container that failed in a row.",
        |c| c.failing_streak,
    ),
    number("container.createdat", "s", "Unix time of the container's creation.", |c| c.created_at),
    ContainerMetric { metric: INFO, value: ContainerValue::Info },
    ContainerMetric {
        metric: gauge(
            "container.state.exit_reason",
            "",
            "Why the container's last run ended; 1, and only where one has ended.",
        ),
        value: ContainerValue::Reason {
            reasons: || ExitReason::ALL.map(|reason| (reason.word(), reason.meaning())).to_vec(),
            reason: |c| c.verdict.last_end.map(ExitReason::word),
        },
    },
    ContainerMetric {
        metric: gauge(
            "container.attention",
            "",
            "Why somebody has to look at the container; 1, and only where somebody has to.",
        ),
        value: ContainerValue::Reason {
            reasons: || Attention::ALL.map(|reason| (reason.word(), reason.meaning())).to_vec(),
            reason: |c| c.verdict.attention.map(Attention::word),
        },
    },
    ContainerMetric {
        metric: gauge(
            "container.restart_policy.disarmed",
            "",
            "Whether a signal through the engine has put the restart policy `unless-stopped` of the running container out \
             of force; only where its start was seen.",
        ),
        value: ContainerValue::Optional(|c| c.verdict.is_policy_disarmed.map(i64::from)),
    },
];

/// The daemon's events.
pub const EVENTS: Metric = Metric {
    name: "docker.events",
    kind: Kind::Counter,
    unit: "{event}",
    help: "Events of the Docker daemon.",
    labels: &[
        ("event", "the action: `start`, `die`, `oom`, `health_status: healthy`, `exec_start: bash` …"),
        ("type", "what the event is about: `container`, `image`, `network` …"),
        ("name", "the name of what it is about, where such names are bounded"),
        ("image", "of container events: the image that the daemon names"),
        ("pod", "under Kubernetes: `io.kubernetes.pod.name`"),
        ("env", "under Kubernetes: `io.kubernetes.pod.namespace`"),
        ("container", "under Kubernetes: `io.kubernetes.container.name`"),
    ],
};

/// The ends of containers' runs.
pub const EXITS: Metric = Metric {
    name: "container.exits",
    kind: Kind::Counter,
    unit: "{exit}",
    help: "Ends of containers' runs.",
    labels: &[
        (
            "reason",
            "`completed`, `error`, `signal`, `oom`, `stopped`, `stop_timeout`, `killed` or `unknown`; in OTLP it is \
             `container.exit.reason`",
        ),
        ("name", "the container's name"),
        ("image", "the image that the daemon names"),
        ("pod", "under Kubernetes: `io.kubernetes.pod.name`"),
        ("env", "under Kubernetes: `io.kubernetes.pod.namespace`"),
        ("container", "under Kubernetes: `io.kubernetes.container.name`"),
    ],
};

/// What is counted by name, with how it is counted.
pub const COUNTED: [&Metric; 2] = [&EVENTS, &EXITS];

/// The daemon is followed.
pub const UP: Metric = gauge(
    "docker.up",
    "",
    "1 while the daemon's event stream is open, a list has come, and enough of its containers is known, else 0.",
);
/// What is running.
pub const BUILD_INFO: Metric = Metric {
    labels: &[
        ("version", "the exporter's version"),
        ("revision", "the commit that it was built from"),
        ("rustc", "the compiler that built it"),
    ],
    ..gauge("docker_state_exporter.build_info", "", "What this exporter was built from; always 1.")
};
/// How many containers are known.
pub const CONTAINERS: Metric = gauge("docker_state_exporter.containers", "", "Containers that are known.");
/// When everything was last listed.
pub const LAST_SYNC: Metric = gauge(
    "docker_state_exporter.last_sync.timestamp",
    "s",
    "Unix time of the last complete list, 0 before the first.",
);
/// How often everything was listed.
pub const SYNCS: Metric = Metric {
    labels: &[("result", "`ok`, `error`")],
    ..counter("docker_state_exporter.syncs", "{sync}", "Lists of all containers.")
};
/// How often a container was asked for.
pub const INSPECTS: Metric = Metric {
    labels: &[("result", "`ok`, `gone`, `error`")],
    ..counter("docker_state_exporter.inspects", "{inspect}", "Inspect calls.")
};
/// How often the events were subscribed to.
pub const EVENT_STREAMS: Metric =
    counter("docker_state_exporter.event_streams", "{stream}", "Event streams that were opened.");
/// How often events may have been missed.
pub const EVENT_GAPS: Metric = counter(
    "docker_state_exporter.event_gaps",
    "{gap}",
    "Times that events may have been missed: across a reconnect to the daemon, or as Podman rotated its log.",
);
/// How often an event's own label set was one too many.
pub const EVENT_OVERFLOWS: Metric = counter(
    "docker_state_exporter.event_overflows",
    "{event}",
    "Events that were counted as `overflow`, because there were as many label sets as `events.limit` lets be.",
);
/// What the daemon said that could not be read.
pub const UNREADABLE: Metric = counter(
    "docker_state_exporter.unreadable",
    "{answer}",
    "Events, list entries and fields of the daemon's answers that could not be read.",
);
/// How long until an event shows.
pub const EVENT_APPLY: Metric = Metric {
    name: "docker_state_exporter.event_apply",
    kind: Kind::Histogram,
    unit: "s",
    help: "Time from the daemon's time of an event to its effect being visible.",
    labels: &[],
};
/// How often the exposition was asked for.
pub const SCRAPES: Metric = Metric {
    labels: &[("result", "`ok`, `error`")],
    ..counter("docker_state_exporter.scrapes", "{scrape}", "Answers to scrapes.")
};
/// How often was pushed.
pub const OTLP_EXPORTS: Metric = Metric {
    labels: &[
        ("result", "`ok`, `partial` (some data points were refused), `error`"),
        ("endpoint", "the endpoint's URL, without user and password"),
    ],
    ..counter("docker_state_exporter.otlp_exports", "{export}", "OTLP exports.")
};

/// CPU time.
pub const PROCESS_CPU: Metric = counter("process.cpu", "s", "CPU time of this process, user and system.");
/// Memory in use.
pub const PROCESS_RESIDENT_MEMORY: Metric =
    gauge("process.resident_memory", "By", "Resident memory of this process.");
/// Address space in use.
pub const PROCESS_VIRTUAL_MEMORY: Metric =
    gauge("process.virtual_memory", "By", "Virtual memory of this process.");
/// Open files.
pub const PROCESS_OPEN_FDS: Metric = gauge("process.open_fds", "", "File descriptors that are open.");
/// Files that may be open.
pub const PROCESS_MAX_FDS: Metric = gauge("process.max_fds", "", "File descriptors that may be open.");
/// When it began.
pub const PROCESS_START_TIME: Metric =
    gauge("process.start_time", "s", "Unix time of the start of this process.");
/// Its threads.
pub const PROCESS_THREADS: Metric = gauge("process.threads", "", "Threads of this process.");

/// The runtime's threads.
pub const TOKIO_WORKERS: Metric = gauge("tokio.workers", "", "Worker threads of the runtime.");
/// What it runs.
pub const TOKIO_ALIVE_TASKS: Metric = gauge("tokio.alive_tasks", "", "Tasks of the runtime that are alive.");
/// What waits for it.
pub const TOKIO_QUEUE_DEPTH: Metric =
    gauge("tokio.global_queue_depth", "", "Tasks in the runtime's global queue.");
/// How busy it is.
pub const TOKIO_BUSY: Metric =
    counter("tokio.workers_busy", "s", "Time for which the runtime's workers were busy.");

/// The exporter about itself.
pub const OWN: &[Metric] = &[
    UP,
    BUILD_INFO,
    CONTAINERS,
    LAST_SYNC,
    SYNCS,
    INSPECTS,
    EVENT_STREAMS,
    EVENT_GAPS,
    EVENT_OVERFLOWS,
    UNREADABLE,
    EVENT_APPLY,
    SCRAPES,
    OTLP_EXPORTS,
    PROCESS_CPU,
    PROCESS_RESIDENT_MEMORY,
    PROCESS_VIRTUAL_MEMORY,
    PROCESS_OPEN_FDS,
    PROCESS_MAX_FDS,
    PROCESS_START_TIME,
    PROCESS_THREADS,
    TOKIO_WORKERS,
    TOKIO_ALIVE_TASKS,
    TOKIO_QUEUE_DEPTH,
    TOKIO_BUSY,
];

/// Every metric.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    CONTAINER.iter().map(|entry| &entry.metric).chain(COUNTED).chain(OWN)
}
