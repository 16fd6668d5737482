//! Early errors for resource attributes that cannot become labels of each series of `/metrics`.

use std::collections::BTreeMap;

use super::decode::Field;
use super::error::Invalid;
use super::model::{Pull, Resource};
use crate::catalog::{SCOPE_LABELS, is_own_label};
use crate::inventory::labels::{attribute_label, escaped};

/// Reports attributes that `resource_constant_labels` lets through but that cannot become a label: the name is
/// invalid, or another label has it already.
pub(super) fn check(field: &Field<'_>, pull: &Pull, resource: &Resource) {
    let mut labels: BTreeMap<String, &str> = BTreeMap::new();
    let keys = resource.attributes.iter().map(|(key, _)| key.as_str());
    for key in keys.filter(|key| pull.resource_constant_labels.matches(key)) {
        // Even if the configuration keeps UTF-8 names: a client that does not ask for them gets them escaped.
        let label = attribute_label(key);
        let problem = if label != escaped(key) {
            Invalid::value("lets an attribute through that cannot be a label of Prometheus", key)
        } else if is_own_label(&label) || (pull.scope_info_enabled && SCOPE_LABELS.contains(&&*label)) {
            Invalid::value("lets an attribute through whose label series have of their own", key)
        } else if let Some(other) = labels.insert(label, key) {
            Invalid::value("lets two attributes through that become one label", &format!("{other}, {key}"))
        } else {
            continue;
        };
        field.problem(problem.hint(format!(
            "leave it out by excluded: [{}], or give the attribute another name",
            serde_json::Value::from(key)
        )));
    }
}
