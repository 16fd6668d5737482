//! What the integration tests stand on, tested itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod support;

use std::panic::catch_unwind;
use std::time::Duration;

use support::docker::program;
use support::exposition::{Exposition, Labels, compare_series, labels};
use support::{eventually, inspect};

#[test]
fn an_exposition_is_read() {
    let text = "\
# HELP up Is it \\\\ up?\\nYes.
# TYPE up gauge
up 1
# any comment

# TYPE seconds histogram
seconds_bucket{le=\"0.1\"} 1
seconds_bucket{le=\"+Inf\"} 3
seconds_sum 1.5e+01
seconds_count 3
# TYPE odd counter
odd{b=\"a \\\"b\\\"\\\\\\n, } é\",a=\"\",} NaN
untyped_one -Inf
";
    let exposition = Exposition::parse(text).unwrap();
    assert_eq!(exposition.plain("up"), 1.0);
    assert_eq!(exposition.families["up"].help.as_deref(), Some("Is it \\ up?\nYes."));
    assert_eq!(exposition.families["seconds"].samples.len(), 4);
    assert_eq!(exposition.value("seconds_bucket", &labels([("le", "+Inf")])), 3.0);
    assert_eq!(exposition.plain("seconds_sum"), 15.0);
    assert!(exposition.value("odd", &labels([("a", ""), ("b", "a \"b\"\\\n, } é")])).is_nan());
    assert_eq!(exposition.families["untyped_one"].kind, "untyped");
    assert_eq!(exposition.select("odd", &labels([("a", "")])).len(), 1);
    assert!(exposition.select("odd", &labels([("a", "x")])).is_empty());
}

#[test]
fn what_the_format_does_not_allow_is_refused() {
    for (text, message) in [
        ("up 1", "the last line does not end"),
        ("up 1\nup 1\n", "line 2: a second sample of this series"),
        ("up{a=\"1\",b=\"2\"} 1\nup{b=\"2\",a=\"1\"} 1\n", "line 2: a second sample of this series"),
        ("up 1\ndown 1\nup{a=\"b\"} 1\n", "line 3: family up is in two places"),
        ("# TYPE up gauge\n# TYPE up gauge\nup 1\n", "line 2: a second type"),
        ("up 1\n# TYPE up gauge\n", "line 2: a second type, or one after a sample"),
        ("# HELP up a\n# HELP up a\nup 1\n", "line 2: a second help"),
        ("up 1\n# HELP up a\n", "line 2: the help comes after a sample"),
        ("# TYPE up state\nup 1\n", "line 1: \"state\" is no type"),
        ("# TYPE up gauge\n", "family up has no sample"),
        ("# TYPE up\nup 1\n", "line 1: not a whole comment"),
        ("up one\n", "line 1: \"one\" is no value"),
        ("up inf\n", "line 1: \"inf\" is no value"),
        ("up\n", "line 1: no value"),
        ("up 1 1795245110000\n", "line 1: a timestamp"),
        ("1up 1\n", "line 1: \"1up\" is no metric name"),
        ("up{1a=\"b\"} 1\n", "line 1: \"1a\" is no label name"),
        ("up{a:b=\"b\"} 1\n", "line 1: \"a:b\" is no label name"),
        ("up{a=\"b\",a=\"c\"} 1\n", "line 1: label a is there twice"),
        ("up{a=\"b\" c=\"d\"} 1\n", "line 1: no comma between labels"),
        ("up{a=\"b} 1\n", "line 1: a label value that does not end"),
        ("up{a 1\n", "line 1: labels that do not end"),
        ("up{a=\"\\t\"} 1\n", "line 1: an unknown escape"),
        (
            "# TYPE s histogram\ns_bucket{le=\"1\"} 2\ns_bucket{le=\"+Inf\"} 1\ns_sum 1\ns_count 1\n",
            "do not grow",
        ),
        ("# TYPE s histogram\ns_bucket{le=\"+Inf\"} 1\ns_sum 1\ns_count 2\n", "is not its count"),
    ] {
        let error = Exposition::parse(text).expect_err(text);
        assert!(error.contains(message), "{text}: {error}, not {message}");
    }
}

#[test]
fn names_in_quotes_are_read_where_they_may_be() {
    let text = "# HELP \"a b\" It is.\n# TYPE \"a b\" gauge\n{\"a b\",\"c.\\\"\"=\"}\",d=\"\"} 1\n";
    let exposition = Exposition::parse_quoted(text).unwrap();
    assert_eq!(exposition.value("a b", &labels([("c.\"", "}"), ("d", "")])), 1.0);
    assert!(Exposition::parse(text).unwrap_err().contains("line 1: a name in quotes"));
    for (text, message) in [
        ("{\"a\",\"b\"} 1\n", "label b has no value"),
        ("{b=\"1\",\"a\"} 1\n", "label a has no value"),
        ("a{\"b\"} 1\n", "two names, a and b"),
        ("{\"\"} 1\n", "a name without a character"),
        ("{\"a\",\"b\0\"=\"1\"} 1\n", "a NUL in the name"),
        ("{b=\"1\"} 1\n", "\"\" is no metric name"),
        ("{\"a\",\"__name__\"=\"b\"} 1\n", "label __name__ is there twice"),
        ("{\"a\",\"b\"=\"1\",b=\"2\"} 1\n", "label b is there twice"),
        ("a{b=\"\"} 1\na 2\n", "line 2: a second sample"),
    ] {
        let error = Exposition::parse_quoted(text).expect_err(text);
        assert!(error.contains(message), "{text}: {error}, not {message}");
    }
}

#[test]
fn near_misses_are_told() {
    let text = "state{name=\"web\",image=\"a\"} 1\nstate{name=\"db\",image=\"b\",team=\"x\"} 2\nother 3\n";
    let exposition = Exposition::parse(text).unwrap();
    let error = exposition.find("state", &labels([("name", "web"), ("image", "b")])).unwrap_err();
    let expected = "\
no series state{image=\"b\",name=\"web\"}
nearest of 2:
  state{image=\"a\",name=\"web\"} 1
    image: wanted \"b\", is \"a\"
  state{image=\"b\",name=\"db\",team=\"x\"} 2
    name: wanted \"web\", is \"db\"
    team: wanted absent, is \"x\"
";
    assert_eq!(error, expected);
    let error = exposition.find("states", &Labels::new()).unwrap_err();
    assert!(
        error.contains("there is no states at all") && error.contains("[\"state\", \"other\"]"),
        "{error}"
    );
    let panic = catch_unwind(|| exposition.plain("states")).expect_err("it is not there");
    assert!(panic.downcast_ref::<String>().unwrap().contains("no series states{}"));
}

#[test]
fn differences_of_a_family_are_told() {
    let expected = Exposition::parse("up{a=\"1\"} 1\nup{a=\"2\"} 2\nup{a=\"3\"} NaN\n").unwrap().series("up");
    let found = Exposition::parse("up{a=\"1\"} 5\nup{a=\"4\"} 2\nup{a=\"3\"} NaN\n").unwrap().series("up");
    assert_eq!(compare_series("up", &expected, &expected), Ok(()));
    let text = compare_series("up", &expected, &found).unwrap_err();
    assert!(text.contains("up{a=\"1\"} is 5, expected 1\n"), "{text}");
    assert!(text.contains("missing: up{a=\"2\"} 2\n   near: up{a="), "{text}");
    assert!(text.contains("unexpected: up{a=\"4\"} 2\n"), "{text}");
}

#[test]
fn eventually_tries_again_and_tells_the_last_mismatch() {
    let mut tries = 0;
    let (value, _) = eventually(Duration::from_secs(10), || {
        tries += 1;
        if tries == 3 { Ok("there") } else { Err("not yet") }
    });
    assert_eq!((value, tries), ("there", 3));
    let panic =
        catch_unwind(|| eventually(Duration::from_millis(20), || Err::<(), _>("still two"))).unwrap_err();
    assert!(panic.downcast_ref::<String>().unwrap().contains("still two"));
}

#[test]
fn a_program_that_is_missing_is_named_with_its_package() {
    let panic = catch_unwind(|| program("no-such-program", "a-package")).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert_eq!(text, "no-such-program is not installed; on Debian: apt-get install a-package");
    assert!(program("sh", "dash").is_absolute());
}

#[test]
fn a_container_that_is_wrong_in_one_place_does_not_compare() {
    let mut inspect = serde_json::json!({
        "Id": "ab", "Name": "/web", "Created": "2026-11-21T07:11:50.9Z", "Image": "sha256:1", "RestartCount": 2,
        "State": {
            "Status": "running", "OOMKilled": false, "ExitCode": 0,
            "StartedAt": "2026-11-21T07:11:51Z", "FinishedAt": "0001-01-01T00:00:00Z",
        },
        "HostConfig": {"RestartPolicy": {"Name": "always"}},
        "Config": {"Image": "web:1", "Hostname": "inside", "Labels": {"b.c": "dot", "B-C": "dash", "é": "x"}},
    });
    let own = "container_label__=\"x\",container_label_b_c=\"dash;dot\",id=\"/docker/ab\",image=\"web:1\",name=\"web\"";
    let text: String = [
        ("container_createdat", "", "1795245110"),
        ("container_info", ",hostname=\"inside\",image_id=\"sha256:1\",restart_policy=\"always\"", "1"),
        ("container_restartcount", "", "2"),
        ("container_state_exitcode", "", "0"),
        ("container_state_finishedat", "", "0"),
        ("container_state_health_failingstreak", "", "0"),
        ("container_state_health_status", "", "1"),
        ("container_state_oomkilled", "", "0"),
        ("container_state_startedat", "", "1.795245111e+09"),
        ("container_state_status", "", "6"),
    ]
    .map(|(name, extra, value)| {
        format!("# HELP {name} a\n# TYPE {name} gauge\n{name}{{{own}{extra}}} {value}\n")
    })
    .concat();
    let scrape = Exposition::parse(&text).unwrap();
    inspect::compare(&scrape, std::slice::from_ref(&inspect), inspect::Encoding::Code).unwrap();
    let changes = [
        ("/State/Status", serde_json::json!("paused")),
        ("/State/OOMKilled", true.into()),
        ("/State/ExitCode", 3.into()),
        ("/State/StartedAt", "2026-11-21T07:11:52Z".into()),
        ("/State/FinishedAt", "2026-11-21T07:11:52Z".into()),
        ("/RestartCount", 3.into()),
        ("/Created", "2026-11-21T07:11:51Z".into()),
        ("/HostConfig/RestartPolicy/Name", "no".into()),
        ("/Config/Labels", serde_json::json!({})),
    ];
    for (pointer, value) in changes {
        let mut changed = inspect.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        assert!(inspect::compare(&scrape, &[changed], inspect::Encoding::Code).is_err(), "{pointer}");
    }
    inspect["State"]["Health"] = serde_json::json!({"Status": "starting", "FailingStreak": 2});
    let error = inspect::compare(&scrape, &[inspect], inspect::Encoding::Code).unwrap_err();
    assert!(error.contains("failingstreak") && error.contains("health_status"), "{error}");
}
