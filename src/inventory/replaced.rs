//! Containers whose place a newer one has taken.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::container::{Container, Text};
use super::replica::Replica;

/// The ids of those containers whose place a newer one has taken.
pub(super) fn replaced<'c>(containers: impl Iterator<Item = &'c Arc<Container>>) -> HashSet<Text> {
    let mut newest: BTreeMap<&Replica, &Arc<Container>> = BTreeMap::new();
    let mut replaced = HashSet::new();
    for container in containers {
        let Some(replica) = container.replica.as_deref() else { continue };
        let Some(other) = newest.get(replica).copied() else {
            newest.insert(replica, container);
            continue;
        };
        if age(container) > age(other) {
            newest.insert(replica, container);
            replaced.insert(Text::clone(&other.id));
        } else {
            replaced.insert(Text::clone(&container.id));
        }
    }
    replaced
}

/// The greater, the newer.
fn age(container: &Container) -> (i64, i64, Reverse<&str>) {
    (container.created_at, container.started_at, Reverse(&container.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Orchestrator;

    fn container(id: &str, number: &str, created_at: i64) -> Arc<Container> {
        let replica = Replica {
            orchestrator: Orchestrator::Compose,
            project: "shop".into(),
            service: "web".into(),
            slot: number.into(),
        };
        Arc::new(Container { created_at, replica: Some(Arc::new(replica)), ..Container::sample(id, id) })
    }

    #[test]
    fn the_older_ones_of_a_place_are_replaced() {
        let containers =
            [container("a", "1", 3), container("b", "1", 5), container("c", "1", 4), container("d", "2", 1)];
        let mut ids: Vec<_> = replaced(containers.iter()).into_iter().collect();
        ids.sort();
        assert_eq!(ids, ["a".into(), "c".into()] as [Text; 2]);
    }
}
