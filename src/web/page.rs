//! The page at `/`: what is happening on this host, without any other tool.
//!
//! The page itself never changes. Its script asks for `/-/page.json` once a second while somebody looks, and is told
//! with 304 that nothing has changed; so nobody's looking costs nothing, and many who look cost little. What
//! containers call themselves goes through JSON into text nodes, and is never HTML.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use crate::inventory::{self, Container, Health, RecentEvent, Snapshot, Status};
use crate::stats::Stats;

pub(super) const CSS: &str = include_str!("page/page.css");
pub(super) const JS: &str = include_str!("page/page.js");

/// Nothing from elsewhere, and no script but the page's own, whatever a container calls itself.
pub(super) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                                 img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Containers that are shown; those that need attention first. A browser is no place for ten thousand.
const MOST_ROWS: usize = 1000;

/// The page.
pub(super) fn index(telemetry_path: &str) -> String {
    include_str!("page/index.html")
        .replace("{version}", &escape(crate::version::VERSION))
        .replace("{revision}", &escape(crate::version::REVISION))
        .replace("{path}", &escape(telemetry_path))
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// What the page shows, at one moment.
pub(super) struct View {
    snapshot: Snapshot,
    recent: Vec<RecentEvent>,
    parts: Vec<Part>,
    is_known: bool,
}

/// The daemon or a reader.
#[derive(Serialize, Hash)]
struct Part {
    name: String,
    /// None where it has not done anything yet.
    well: Option<bool>,
    says: String,
    detail: &'static str,
    /// What `detail` speaks of, in milliseconds since 1970.
    at: u64,
}

#[derive(Serialize)]
struct State<'v> {
    now: u64,
    known: bool,
    concerns: usize,
    total: usize,
    states: BTreeMap<&'static str, usize>,
    containers: Vec<Row<'v>>,
    events: Vec<Entry<'v>>,
    parts: &'v [Part],
}

#[derive(Serialize)]
struct Row<'v> {
    id: &'v str,
    name: &'v str,
    image: &'v str,
    status: &'static str,
    health: &'static str,
    since: i64,
    restarts: i64,
    exit: i64,
    oom: bool,
    concern: Concern,
    why: &'static str,
}

#[derive(Serialize)]
struct Entry<'v> {
    seq: u64,
    time: u64,
    #[serde(rename = "type")]
    kind: &'v str,
    event: &'v str,
    name: &'v str,
}

/// How much attention a container needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Concern {
    None,
    Some,
    Much,
}

impl Serialize for Concern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*self as u8)
    }
}

/// How much attention a container needs, and why.
fn concern(container: &Container) -> (Concern, &'static str) {
    // What ends by SIGKILL or SIGTERM has probably been stopped.
    const STOPPED: [i64; 2] = [137, 143];
    let is_kept_up = matches!(&*container.restart_policy, "always" | "unless-stopped");
    match container.status {
        Status::Dead => (Concern::Much, "its removal failed half-way"),
        _ if !container.is_inspected => (Concern::Some, "cannot be inspected; the list has its state only"),
        Status::Restarting => (Concern::Much, "does not stay up"),
        Status::Running if container.health == Health::Unhealthy => (Concern::Much, "its health check fails"),
        Status::Running if container.oom_killed => (Concern::Some, "a process of it was killed for memory"),
        Status::Running => (Concern::None, ""),
        Status::Exited if container.oom_killed => (Concern::Much, "killed for memory"),
        Status::Exited if container.exit_code != 0 && !STOPPED.contains(&container.exit_code) => {
            (Concern::Much, "ended with an error")
        }
        Status::Exited if is_kept_up => (Concern::Some, "stopped, though it is to be kept up"),
        Status::Exited if container.exit_code != 0 => (Concern::Some, "ended by a signal"),
        Status::Exited => (Concern::None, ""),
        Status::Paused => (Concern::Some, "paused"),
        Status::Created => (Concern::Some, "never started"),
        Status::Removing => (Concern::Some, "being removed"),
        Status::Unknown => (Concern::Some, "in a state that this program does not know"),
    }
}

/// Since when it is as it is, in seconds since 1970; 0 where nobody knows.
fn since(container: &Container) -> i64 {
    match container.status {
        Status::Exited | Status::Dead | Status::Restarting => container.finished_at,
        Status::Created => container.created_at,
        _ => container.started_at,
    }
}

impl View {
    pub(super) fn new(inventory: &inventory::Reader, stats: &Stats, host: &str) -> Self {
        let snapshot = inventory.snapshot();
        Self { snapshot, recent: inventory.recent(), parts: parts(stats, host), is_known: stats.is_up() }
    }

    /// Differs whenever what is shown differs.
    pub(super) fn tag(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.snapshot.containers.generation.hash(&mut hasher);
        self.recent.last().map(|event| event.seq).hash(&mut hasher);
        self.parts.hash(&mut hasher);
        self.is_known.hash(&mut hasher);
        // Generations begin anew when the exporter does.
        std::process::id().hash(&mut hasher);
        format!("\"{:016x}\"", hasher.finish())
    }

    /// All of it, as JSON, compressed for those who take that.
    pub(super) fn json(&self, gzip: bool) -> std::io::Result<Vec<u8>> {
        let list = &self.snapshot.containers.list;
        let mut states = BTreeMap::new();
        let mut judged: Vec<(Concern, &'static str, &Arc<Container>)> = Vec::with_capacity(list.len());
        for container in list {
            *states.entry(container.status.word()).or_default() += 1;
            let (concern, why) = concern(container);
            judged.push((concern, why, container));
        }
        judged.sort_by(|(a, _, x), (b, _, y)| b.cmp(a).then_with(|| x.name.cmp(&y.name)));
        let concerns = judged.iter().take_while(|(concern, ..)| *concern == Concern::Much).count();
        let state = State {
            now: millis(SystemTime::now()),
            known: self.is_known,
            concerns,
            total: list.len(),
            states,
            containers: judged
                .iter()
                .take(MOST_ROWS)
                .map(|(concern, why, container)| Row {
                    id: &container.id,
                    name: &container.name,
                    image: &container.image,
                    status: container.status.word(),
                    health: container.health.word(),
                    since: since(container),
                    restarts: container.restart_count,
                    exit: container.exit_code,
                    oom: container.oom_killed,
                    concern: *concern,
                    why,
                })
                .collect(),
            events: self.recent.iter().rev().map(entry).collect(),
            parts: &self.parts,
        };
        if !gzip {
            return Ok(serde_json::to_vec(&state)?);
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        serde_json::to_writer(&mut encoder, &state)?;
        encoder.finish()
    }
}

fn entry(event: &RecentEvent) -> Entry<'_> {
    Entry {
        seq: event.seq,
        time: millis(event.time),
        kind: &event.labels.kind,
        event: &event.labels.event,
        name: event.labels.identity.name.as_deref().unwrap_or_default(),
    }
}

fn parts(stats: &Stats, host: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let (up, gaps) = (stats.is_up(), stats.event_gaps.get());
    let followed = match stats.trouble() {
        _ if up => "followed".to_owned(),
        Some(why) => format!("not followed: {why}"),
        None => "not followed yet".to_owned(),
    };
    parts.push(Part {
        name: format!("Engine at {host}"),
        well: Some(up),
        says: match gaps {
            0 => followed,
            gaps => format!("{followed}; events may have been missed, {gaps} times"),
        },
        detail: "last whole list",
        at: stats.last_sync().map_or(0, millis),
    });
    let (answered, refused) = (stats.scrapes_ok.get(), stats.scrapes_error.get());
    parts.push(Part {
        name: "Prometheus".into(),
        well: (answered + refused > 0).then(|| !stats.scrape_failed.get()),
        says: format!("scrapes: {answered} answered, {refused} not"),
        detail: "last scrape",
        at: stats.last_scrape.get(),
    });
    let mut exports: BTreeMap<String, [(u64, u64); 2]> = BTreeMap::new();
    for (endpoint, result, count, last) in stats.otlp_outcomes() {
        let outcome = &mut exports.entry(endpoint).or_default()[usize::from(result == "error")];
        *outcome = (outcome.0 + count, outcome.1.max(last.map_or(0, millis)));
    }
    parts.extend(exports.into_iter().map(|(endpoint, [(taken, last_taken), (failed, last_failed)])| Part {
        name: format!("OTLP to {endpoint}"),
        well: (taken + failed > 0).then_some(last_taken >= last_failed),
        says: format!("exports: {taken} taken, {failed} not"),
        detail: "last taken",
        at: last_taken,
    }));
    parts
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_end_its_attribute() {
        assert!(index(r#"/"><script>"#).contains(r#"href="/&quot;&gt;&lt;script&gt;""#));
    }

    #[test]
    fn what_needs_attention_is_what_the_alerts_are_about() {
        let with = |change: &dyn Fn(&mut Container)| {
            let mut container = Container::sample("1", "web");
            change(&mut container);
            concern(&container)
        };
        let exited = |code, policy: &'static str| {
            with(&|c| {
                c.status = Status::Exited;
                c.exit_code = code;
                c.restart_policy = policy.into();
            })
            .0
        };
        assert_eq!(with(&|_| {}).0, Concern::None);
        assert_eq!(with(&|c| c.health = Health::Unhealthy).0, Concern::Much);
        assert_eq!(with(&|c| c.status = Status::Restarting).0, Concern::Much);
        assert_eq!(with(&|c| c.status = Status::Dead).0, Concern::Much);
        assert_eq!(with(&|c| c.status = Status::Paused).0, Concern::Some);
        assert_eq!(
            with(&|c| {
                c.status = Status::Exited;
                c.oom_killed = true;
                c.exit_code = 137;
            }),
            (Concern::Much, "killed for memory")
        );
        // A container that stands still is not unhealthy, though the engine says so.
        let paused = with(&|c| {
            c.status = Status::Paused;
            c.health = Health::Unhealthy;
        });
        assert_eq!(paused.0, Concern::Some);
        assert_eq!(
            (exited(0, "no"), exited(3, "no"), exited(143, "no")),
            (Concern::None, Concern::Much, Concern::Some)
        );
        assert_eq!((exited(0, "always"), exited(1, "on-failure")), (Concern::Some, Concern::Much));
    }
}
