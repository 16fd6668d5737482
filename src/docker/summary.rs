//! A container as the list shows it, used if it cannot be inspected.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::{Selection, label_map};
use super::fields::{Oddities, field, text};
use super::vocabulary;
use crate::inventory::{Container, Health, Replica, Status, Text, Verdict};

/// Replaces an unknown number.
const UNKNOWN: i64 = -1;

/// The fields of an entry besides id and names.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct RawSummary<'a> {
    #[serde(borrow)]
    image: Option<&'a RawValue>,
    #[serde(borrow, rename = "ImageID")]
    image_id: Option<&'a RawValue>,
    #[serde(borrow)]
    labels: Option<&'a RawValue>,
    #[serde(borrow)]
    created: Option<&'a RawValue>,
    #[serde(borrow)]
    state: Option<&'a RawValue>,
    #[serde(borrow)]
    status: Option<&'a RawValue>,
}

impl RawSummary<'_> {
    /// The container. Oddities are not reported here, but by its inspect.
    pub(super) fn read(&self, id: &Text, name: &Text, selection: &Selection) -> Container {
        let odd = &mut Oddities::default();
        let labels = label_map(self.labels, odd);
        let (exit_code, health) = human_status(&text(self.status, "Status", odd));
        let image = selection.shared(&text(self.image, "Image", odd));
        Container {
            id: Text::clone(id),
            name: Text::clone(name),
            labels: selection.labels(&labels),
            status: vocabulary::status(&text(self.state, "State", odd)).unwrap_or(Status::Unknown),
            health: health.unwrap_or(Health::Unknown),
            oom_killed: false,
            started_at: UNKNOWN,
            finished_at: UNKNOWN,
            created_at: field(self.created, "Created", odd).unwrap_or(UNKNOWN),
            restart_count: UNKNOWN,
            exit_code: exit_code.unwrap_or(UNKNOWN),
            failing_streak: UNKNOWN,
            image_id: selection.shared(&text(self.image_id, "ImageID", odd)),
            restart_policy: "".into(),
            hostname: "".into(),
            event_identity: Arc::new(super::answer::event_identity(
                Some(name),
                Some(&image),
                &labels,
                selection,
            )),
            image,
            stop_signal: None,
            error: None,
            // The list does not name the restart policy.
            expectation: selection.expectation(&labels, "", odd),
            replica: Replica::from_labels(&labels).map(Arc::new),
            is_inspected: false,
            verdict: Verdict::default(),
        }
    }
}

/// The exit code and the health in the list's human-readable status: `Exited (137) 2 minutes ago`, `Up 3 hours
/// (healthy)`.
fn human_status(text: &str) -> (Option<i64>, Option<Health>) {
    let in_brackets = text.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map(|(inner, _)| inner);
    let Some(inner) = in_brackets else { return (None, None) };
    (inner.parse().ok(), vocabulary::health(inner.strip_prefix("health: ").unwrap_or(inner)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Filter;

    #[test]
    fn the_list_tells_a_state_and_little_else() {
        let selection = Selection::new(Filter::all(), Filter::none(), "");
        let summary = |state: &str, status: &str| {
            let json = format!(
                r#"{{"Image":"nginx:1","ImageID":"sha256:7","Created":1700000000,"Labels":{{"team":"blue"}},
                "State":"{state}","Status":"{status}"}}"#
            );
            let raw: RawSummary<'_> = serde_json::from_str(&json).unwrap();
            raw.read(&"a1".into(), &"web".into(), &selection)
        };
        let dead = summary("dead", "Dead");
        assert_eq!((dead.status, dead.exit_code, dead.health), (Status::Dead, -1, Health::Unknown));
        assert_eq!((&*dead.name, &*dead.image, dead.created_at), ("web", "nginx:1", 1_700_000_000));
        assert_eq!(dead.labels, [("team".into(), "blue".into())]);
        assert!(!dead.is_inspected);
        assert_eq!(summary("exited", "Exited (137) 2 minutes ago").exit_code, 137);
        assert_eq!(summary("running", "Up 3 hours (unhealthy)").health, Health::Unhealthy);
        assert_eq!(summary("running", "Up 3 hours (health: starting)").health, Health::Starting);
        assert_eq!(summary("paused", "Up 3 hours (Paused)").health, Health::Unknown);
    }
}
