//! The dashboard: read, and held against what Grafana takes.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

/// The dashboard as its file has it.
pub(crate) fn dashboard() -> Value {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/grafana/dashboards/docker-state-exporter.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// All panels but the rows, which are headings.
pub(crate) fn panels(dashboard: &Value) -> Vec<&Value> {
    list(dashboard, "/panels").filter(|panel| panel["type"] != "row").collect()
}

/// The queries of a panel.
pub(crate) fn queries(panel: &Value) -> Vec<&str> {
    list(panel, "/targets").map(|target| string(target, "/expr")).collect()
}

/// The variables that a query fills: their names, and the selector and the label of `label_values(…, …)`.
pub(crate) fn variables(dashboard: &Value) -> Vec<(&str, &str, &str)> {
    list(dashboard, "/templating/list")
        .filter(|variable| variable["type"] == "query")
        .map(|variable| {
            let query = string(variable, "/query/query");
            assert_eq!(query, string(variable, "/definition"));
            let arguments = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
            let (selector, label) = arguments.and_then(|arguments| arguments.rsplit_once(", ")).unwrap();
            (string(variable, "/name"), selector, label)
        })
        .collect()
}

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .unwrap_or_else(|| panic!("no list {pointer}: {value}"))
        .iter()
}

fn string<'a>(value: &'a Value, pointer: &str) -> &'a str {
    let found = value.pointer(pointer).and_then(Value::as_str).filter(|found| !found.is_empty());
    found.unwrap_or_else(|| panic!("no string {pointer}: {value}"))
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no number {pointer}: {value}"))
}

/// Grafana itself cannot be had from a package registry. What it would not show, or show wrongly, without a word.
#[test]
fn the_dashboard_is_one_that_grafana_takes() {
    let dashboard = dashboard();
    // That of Grafana 11; a newer one migrates it, an older one might not know what is in it.
    assert_eq!(number(&dashboard, "/schemaVersion"), 39);
    assert!(dashboard.get("id").is_none(), "an id belongs to one Grafana's database");
    let uid = string(&dashboard, "/uid");
    assert!(uid.len() <= 40 && uid.chars().all(|char| char.is_ascii_alphanumeric() || "-_".contains(char)));

    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in list(&dashboard, "/panels") {
        let title = string(panel, "/title");
        assert!(ids.insert(number(panel, "/id")), "{title}: its id is another panel's too");
        let [x, y, width, height] = ["x", "y", "w", "h"].map(|key| number(panel, &format!("/gridPos/{key}")));
        assert!(width > 0 && height > 0 && x + width <= 24, "{title}: not within 24 columns");
        for place in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
            assert!(taken.insert(place), "{title}: lies over another panel at {place:?}");
        }
    }
    // Grafana moves panels up; what is to stand beside each other then would not.
    let height = taken.iter().map(|(_, y)| y + 1).max().unwrap();
    assert_eq!(u64::try_from(taken.len()).unwrap(), 24 * height, "a gap between the panels");

    let names: BTreeSet<_> =
        list(&dashboard, "/templating/list").map(|variable| string(variable, "/name")).collect();
    assert_eq!(names, BTreeSet::from(["datasource", "instance", "project", "container"]));
    for panel in panels(&dashboard) {
        let title = string(panel, "/title");
        let mut letters = BTreeSet::new();
        for target in list(panel, "/targets") {
            assert!(letters.insert(string(target, "/refId")), "{title}: two queries of one letter");
            for place in [panel, target] {
                assert_eq!(string(place, "/datasource/uid"), "${datasource}", "{title}");
                assert_eq!(string(place, "/datasource/type"), "prometheus", "{title}");
            }
            for used in string(target, "/expr").split('$').skip(1) {
                let name =
                    used.split(|char: char| !char.is_ascii_alphanumeric() && char != '_').next().unwrap();
                let known = names.contains(name) || ["__rate_interval", "__range"].contains(&name);
                assert!(known, "{title}: there is no variable `{name}`");
            }
        }
        // What a table calls the values of its queries goes by their letters.
        let columns = panel.pointer("/transformations/1/options/renameByName").and_then(Value::as_object);
        let columns = columns.into_iter().flatten().filter_map(|(column, _)| column.strip_prefix("Value #"));
        for letter in columns {
            assert!(letters.contains(letter), "{title}: a column of a query {letter}, which is not there");
        }
    }
}
