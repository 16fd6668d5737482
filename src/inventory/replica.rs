//! The place in a service that a container fills.

use std::collections::BTreeMap;

use super::text::Text;

/// Who runs a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Orchestrator {
    /// Docker Compose, or a tool that sets its labels.
    Compose,
    /// A Swarm.
    Swarm,
    /// Kubernetes, by way of cri-dockerd.
    Kubernetes,
}

/// The place that a container fills. A newer container with the same place replaces it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Replica {
    /// What runs the service.
    pub orchestrator: Orchestrator,
    /// The Compose project, the stack (empty without one), or the namespace.
    pub project: Text,
    /// The service; the pod in Kubernetes.
    pub service: Text,
    /// The number, the task's slot, or the container of the pod.
    pub slot: Text,
}

impl Replica {
    /// The place that a container's labels name.
    pub fn from_labels(labels: &BTreeMap<String, String>) -> Option<Self> {
        let get = |key: &str| labels.get(key).map(String::as_str);
        let replica = |orchestrator, project: &str, service: &str, slot: &str| {
            Some(Self { orchestrator, project: project.into(), service: service.into(), slot: slot.into() })
        };
        if let Some(service) = get("com.docker.swarm.service.name") {
            let project = get("com.docker.stack.namespace").unwrap_or_default();
            let task = get("com.docker.swarm.task.name").unwrap_or_default();
            // `web.1.x5k…`; in a global service the node stands where the number does.
            let slot = task.strip_prefix(service).and_then(|rest| rest.strip_prefix('.')).unwrap_or(task);
            let slot = slot.rsplit_once('.').map_or(slot, |(slot, _)| slot);
            return replica(Orchestrator::Swarm, project, service, slot);
        }
        if let (Some(project), Some(service)) =
            (get("com.docker.compose.project"), get("com.docker.compose.service"))
        {
            // `docker compose run`: not a replica of the service.
            if get("com.docker.compose.oneoff").is_some_and(|oneoff| oneoff.eq_ignore_ascii_case("true")) {
                return None;
            }
            let number = get("com.docker.compose.container-number").unwrap_or("1");
            return replica(Orchestrator::Compose, project, service, number);
        }
        let (namespace, pod) = (get("io.kubernetes.pod.namespace")?, get("io.kubernetes.pod.name")?);
        replica(Orchestrator::Kubernetes, namespace, pod, get("io.kubernetes.container.name")?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn labels_name_the_place() {
        let place = |pairs: &[(&str, &str)]| {
            Replica::from_labels(&labels(pairs))
                .map(|r| [r.project, r.service, r.slot].map(|text| text.to_string()))
        };
        let compose = [("com.docker.compose.project", "shop"), ("com.docker.compose.service", "web")];
        assert_eq!(place(&compose), Some(["shop", "web", "1"].map(Into::into)));
        assert_eq!(place(&compose[..1]), None);
        let with = |more: &[(&'static str, &'static str)]| [&compose[..], more].concat();
        let third =
            with(&[("com.docker.compose.container-number", "3"), ("com.docker.compose.oneoff", "False")]);
        assert_eq!(place(&third), Some(["shop", "web", "3"].map(Into::into)));
        assert_eq!(place(&with(&[("com.docker.compose.oneoff", "True")])), None);
        let swarm = [
            ("com.docker.stack.namespace", "shop"),
            ("com.docker.swarm.service.name", "shop_web"),
            ("com.docker.swarm.task.name", "shop_web.2.x5k1"),
        ];
        assert_eq!(place(&swarm), Some(["shop", "shop_web", "2"].map(Into::into)));
        let global =
            [("com.docker.swarm.service.name", "a.b"), ("com.docker.swarm.task.name", "a.b.node7.x5")];
        assert_eq!(place(&global), Some(["", "a.b", "node7"].map(Into::into)));
        let pod = [
            ("io.kubernetes.pod.namespace", "default"),
            ("io.kubernetes.pod.name", "web-0"),
            ("io.kubernetes.container.name", "app"),
        ];
        assert_eq!(place(&pod), Some(["default", "web-0", "app"].map(Into::into)));
    }
}
