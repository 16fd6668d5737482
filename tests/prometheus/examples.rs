//! What the examples ask of Prometheus, the alerts and the dashboard: each query has an answer, with either encoding.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::dashboard::{dashboard, panels, queries, variables};
use crate::server::{DEADLINE, Prometheus, values};
use crate::support::docker::{Docker, FILL, IMAGE, Immutable, LIMIT};
use crate::support::eventually;
use crate::support::exporter::Setup;

/// What is true only while an engine or an exporter is away, or after.
const LATER: [&str; 3] = ["DockerDown", "DockerEventsMissed", "DockerStateExporterDown"];

/// The panel that shows 0 as long as all is well.
const ENGINES: &str = "Engines not answering";

/// One container for each thing that can be wrong with one, and some with nothing wrong.
fn samples(docker: &Docker) -> Immutable {
    let sleep = ["sleep", "100000"];
    let project = ["--label", "com.docker.compose.project=shop"];
    let run = |name: &str, options: &[&str], command: &[&str]| {
        docker.container(name, &[&project[..], options].concat(), command)
    };
    run("healthy", &["--health-cmd", "true", "--health-interval", "1s"], &sleep);
    run("unhealthy", &["--health-cmd", "false", "--health-interval", "1s", "--health-retries", "1"], &sleep);
    run("loop", &["--restart", "always"], &["sh", "-c", "exit 1"]);
    run("killed", &LIMIT, &FILL);
    run("failed", &[], &["sh", "-c", "exit 3"]);
    run("paused", &[], &sleep);
    docker.run(&["pause", "paused"]);
    run("down", &["--restart", "unless-stopped"], &sleep);
    docker.run(&["stop", "--time", "0", "down"]);
    docker.run(
        &[&["create", "--network", "none", "--name", "created"], &project[..], &[IMAGE, "true"]].concat(),
    );
    docker.make_dead("dead")
}

/// A query of the dashboard as Grafana would send it.
fn filled_in(query: &str, instance: &str, project: &str) -> String {
    let filled = query
        .replace("$__rate_interval", "1m")
        .replace("$__range", "1h")
        .replace("$instance", instance)
        .replace("$project", project)
        .replace("$container", ".*")
        // What was created here has not been there for ten minutes.
        .replace("> 600", "> 0");
    assert!(!filled.contains('$'), "{filled}");
    filled
}

/// The values of a label in an answer.
fn label(result: &Value, name: &str) -> BTreeSet<String> {
    let series = result["result"].as_array().into_iter().flatten();
    series.filter_map(|series| series["metric"][name].as_str().map(str::to_owned)).collect()
}

#[test]
fn every_query_of_the_alerts_and_of_the_dashboard_has_an_answer() {
    let mut docker = Docker::start();
    let code = Setup::new(&docker.host()).start();
    let state_set = Setup::new(&docker.host()).set("/containers/encoding", "state_set").start();
    let instances = [code.address().to_string(), state_set.address().to_string()];
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/prometheus/alerts.yml");
    let prometheus = Prometheus::start("docker-state-exporter", &[&code, &state_set], &[&rules]);
    let dead = samples(&docker);

    // As Prometheus reads the file.
    let answer = prometheus.get("/api/v1/rules", &[("type", "alert")]).unwrap();
    let groups = answer["groups"].as_array().unwrap().iter();
    let alerts: Vec<(String, String)> = groups
        .flat_map(|group| group["rules"].as_array().unwrap())
        .map(|rule| (rule["name"].as_str().unwrap().to_owned(), rule["query"].as_str().unwrap().to_owned()))
        .collect();
    assert!(LATER.iter().all(|later| alerts.iter().any(|(name, _)| name == later)), "{alerts:?}");
    let holds_for = |alert: &str, expected: &[&String]| {
        let (_, query) = alerts.iter().find(|(name, _)| name == alert).unwrap();
        eventually(DEADLINE, || {
            let found = label(&prometheus.query(query)?, "instance");
            let all =
                expected.iter().all(|instance| found.contains(*instance)) && found.len() == expected.len();
            if all {
                Ok(())
            } else {
                Err(format!("{alert} holds for {found:?}, not for {expected:?}\n{query}"))
            }
        });
    };
    let [first, second] = &instances;
    for (alert, _) in alerts.iter().filter(|(name, _)| !LATER.contains(&name.as_str())) {
        holds_for(alert, &[first, second]);
    }

    let dashboard = dashboard();
    for (name, selector, of) in variables(&dashboard) {
        let query = format!("group by ({of}) ({})", filled_in(selector, ".*", ".*"));
        eventually(DEADLINE, || match label(&prometheus.query(&query)?, of) {
            found if found.is_empty() => Err(format!("${name} has nothing to choose from: {query}")),
            _ => Ok(()),
        });
    }
    let all = ".*".to_owned();
    for instance in [first, second, &all] {
        for project in ["shop", ".*"] {
            for panel in panels(&dashboard) {
                for query in queries(panel) {
                    let query = filled_in(query, instance, project);
                    // With numbers above 0 where that is what a panel counts: `or vector(0)` is an answer to anything.
                    let counts = panel["type"] == "stat" && panel["title"] != ENGINES;
                    eventually(DEADLINE, || match values(&prometheus.query(&query)?) {
                        found if found.is_empty() => Err(format!("{}: no data: {query}", panel["title"])),
                        found if counts && found == ["0"] => Err(format!("{}: 0: {query}", panel["title"])),
                        _ => Ok(()),
                    });
                }
            }
        }
    }
    attention_is_drawn_to_what_needs_it(&prometheus, &dashboard, first);
    attention_is_drawn_to_what_needs_it(&prometheus, &dashboard, second);

    // Without containers the engine ends at once.
    drop(dead);
    docker.remove_all().unwrap();
    docker.stop_daemon("TERM");
    holds_for("DockerDown", &[first, second]);
    let engines = panels(&dashboard).into_iter().find(|panel| panel["title"] == ENGINES).unwrap();
    let query = filled_in(queries(engines)[0], ".*", ".*");
    assert_eq!(prometheus.query(&query).map(|result| values(&result)), Ok(vec!["2".to_owned()]));
    docker.start_daemon();
    holds_for("DockerEventsMissed", &[first, second]);
    state_set.stop();
    holds_for("DockerStateExporterDown", &[second]);
    code.stop();
}

/// The table at the top: what is wrong, and with which container; and nothing else.
#[track_caller]
fn attention_is_drawn_to_what_needs_it(prometheus: &Prometheus, dashboard: &Value, instance: &str) {
    let expected = [
        ("created", "created, never started"),
        ("dead", "cannot be removed"),
        ("down", "down"),
        ("failed", "ended with an error"),
        ("killed", "killed for memory"),
        ("loop", "restarting in a loop"),
        ("unhealthy", "unhealthy"),
    ];
    let expected: BTreeSet<_> =
        expected.into_iter().map(|(name, reason)| (name.to_owned(), reason.to_owned())).collect();
    let table = panels(dashboard).into_iter().find(|panel| panel["title"] == "Needs attention").unwrap();
    let query = filled_in(queries(table)[0], instance, "shop|");
    eventually(DEADLINE, || {
        let result = prometheus.query(&query)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let rows = result["result"].as_array().into_iter().flatten();
        let rows: BTreeSet<_> =
            rows.map(|row| (text(&row["metric"]["name"]), text(&row["metric"]["reason"]))).collect();
        if rows == expected { Ok(()) } else { Err(format!("{rows:#?}, not {expected:#?}")) }
    });
}
