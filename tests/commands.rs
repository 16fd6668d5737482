//! The commands: what they print, where, and how they end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod support;

use std::path::Path;
use std::process::{Command, Output};

use fake_engine::{Container, FakeEngine, Fault, Target};
use support::exposition::{Exposition, labels};

/// Runs the program, with an environment that says nothing to it.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_docker-state-exporter"));
    for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("OTEL_") || n.starts_with("DOCKER_")) {
        command.env_remove(name);
    }
    command.args(arguments).envs(variables.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// What it prints, when it ends well and complains of nothing.
#[track_caller]
fn printed(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let output = run(arguments, variables);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{arguments:?}");
    text(&output.stdout).to_owned()
}

/// What it says, when it prints nothing and ends with `code`.
#[track_caller]
fn said(arguments: &[&str], code: i32) -> String {
    let output = run(arguments, &[]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(code), ""), "{arguments:?}");
    text(&output.stderr).to_owned()
}

fn file(content: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    std::fs::write(&path, content).unwrap();
    let path = path.display().to_string();
    (directory, path)
}

#[test]
fn check_prints_what_is_in_effect_and_no_secret() {
    let (_directory, path) = file(
        "log_level: warn\nmeter_provider: {readers: [{periodic: {interval: 1000, exporter: {otlp_http: {endpoint: \
         'http://collector:4318/v1/metrics', headers_list: '${HEADERS}'}}}}]}\ndisabled: false\nattribute_limits: {}\n",
    );
    let output = printed(&["check", &path, "-cache-period=3"], &[("HEADERS", "api-key=hunter2")]);
    for expected in [
        &*format!("# {path} is valid. In effect, with defaults, variables and flags:\n# warning: "),
        "\nlog_level: warn\n",
        "\n        interval: 1000\n",
        "endpoint: http://collector:4318/v1/metrics\n",
        "- name: api-key\n                value: \"(hidden)\"\n",
        "\n  resync_interval: 60000\n",
        "\n  cache_period: 3000\n",
    ] {
        assert!(output.contains(expected), "{expected:?} is not in\n{output}");
    }
    assert!(!output.contains("hunter2"), "{output}");
    // It is a file that can be checked itself, and says the same.
    let (_directory, again) = file(&output);
    let again = printed(&["check", &again], &[]);
    let body = |output: &str| {
        output.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(body(&again), body(&output));
}

#[test]
fn check_takes_every_file_that_is_given_to_users() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // `config/reference.yaml` names an OTLP endpoint without TLS, so nothing of it has to exist.
    for name in
        ["config/reference.yaml", "config/prometheus.yaml", "examples/compose/docker-state-exporter.yaml"]
    {
        let path = root.join(name).display().to_string();
        printed(&["check", &path], &[("HOST_NAME", "host")]);
    }
}

#[test]
fn check_without_a_file_is_about_the_environment() {
    let output = printed(&["check"], &[("OTEL_SERVICE_NAME", "from-the-environment")]);
    assert!(output.starts_with("# the environment is valid."), "{output}");
    assert!(output.contains("value: from-the-environment\n"), "{output}");
    let (_directory, path) = file("log_level: debug");
    let output = printed(&["check"], &[("OTEL_CONFIG_FILE", &path)]);
    assert!(output.contains("log_level: debug\n"), "{output}");
}

#[test]
fn check_refuses_what_a_start_would_refuse() {
    let (_directory, path) = file("web: {max_requsts: 1}");
    assert_eq!(
        said(&["check", &path], 2),
        format!("{path}:1:7: web.max_requsts: unknown key\nhint: did you mean max_requests?\n")
    );
    assert_eq!(
        said(&["check", "/nonexistent.yaml"], 2),
        "/nonexistent.yaml: cannot be read: No such file or directory (os error 2)\nhint: the file is the one that \
         check is given\n"
    );
    assert_eq!(
        said(&["check", &path, "--config", "other.yaml"], 2),
        format!("check: two files are named: {path} and other.yaml\nhint: check one at a time\n")
    );
    let (_directory, path) = file("web: {config_file: /nonexistent/web.yaml}");
    assert_eq!(
        said(&["check", &path], 1),
        format!(
            "{path}: /nonexistent/web.yaml: cannot be read: No such file or directory (os error 2)\nhint: \
             web.config_file names it\n"
        )
    );
    // Well-formed, and of no use all the same: what it names is not there.
    let (_directory, path) = file("docker: {host: 'https://docker:1', tls: {ca_file: /nonexistent.pem}}");
    let refusal = said(&["check", &path], 1);
    assert!(refusal.starts_with(&format!("{path}: ")) && refusal.contains("/nonexistent.pem"), "{refusal}");
}

#[test]
fn once_prints_one_exposition() {
    let engine = FakeEngine::start().unwrap();
    engine.add(Container::new("web").status("exited"));
    let arguments = ["once", "--timeout", "60"];
    let output = printed(&arguments, &[("DOCKER_HOST", &engine.host())]);
    let exposition = Exposition::parse(&output).unwrap();
    assert_eq!(exposition.plain("docker_up"), 1.0);
    let status = exposition.select("container_state_status", &labels([("name", "web")]));
    assert_eq!(status.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [2.0]);
    // What node_exporter, whose textfile collector reads this, has itself; and counts that nobody keeps.
    for family in exposition.families.keys() {
        let own = ["process_", "tokio_", "docker_events"].iter().any(|prefix| family.starts_with(prefix));
        assert!(!own, "{family}");
    }
}

#[test]
fn once_replaces_a_file_at_once_and_leaves_nothing_beside_it() {
    let engine = FakeEngine::start().unwrap();
    engine.add(Container::new("web"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("docker.prom");
    std::fs::write(&path, "old").unwrap();
    let host = engine.host();
    let output = path.display().to_string();
    let arguments = ["once", "--output", &output, "-timeout", "60"];
    assert_eq!(printed(&arguments, &[("DOCKER_HOST", &host)]), "");
    let exposition = Exposition::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(exposition.series("container_state_status").len(), 1);
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
    let nowhere = directory.path().join("nowhere/docker.prom").display().to_string();
    let refused = run(&["once", "--output", &nowhere, "--timeout=60"], &[("DOCKER_HOST", &host)]);
    assert_eq!(refused.status.code(), Some(1));
    let why = text(&refused.stderr);
    assert!(why.starts_with(&format!("{nowhere}: cannot be written: No such file")), "{why}");
}

#[test]
fn once_without_a_daemon_says_so_in_every_way() {
    let host = "unix:///nonexistent/docker.sock";
    let output = run(&["once", "--timeout=1"], &[("DOCKER_HOST", host)]);
    assert_eq!(output.status.code(), Some(1));
    let exposition = Exposition::parse(text(&output.stdout)).unwrap();
    assert_eq!(exposition.plain("docker_up"), 0.0);
    assert!(!exposition.families.contains_key("container_state_status"));
    let why = text(&output.stderr);
    assert!(why.starts_with(&format!("{host}: the daemon has not told")), "{why}");
    assert!(why.contains("\nhint: "), "{why}");
}

#[test]
fn once_is_not_content_with_an_engine_that_tells_nothing_of_its_containers() {
    let engine = FakeEngine::start().unwrap();
    engine.populate(5, 0);
    engine.fault(Target::AnyInspect, Fault::Status(403, "the proxy refuses".into()));
    let output = run(&["once", "--timeout=3"], &[("DOCKER_HOST", &engine.host())]);
    assert_eq!(output.status.code(), Some(1));
    let exposition = Exposition::parse(text(&output.stdout)).unwrap();
    assert_eq!(exposition.plain("docker_up"), 0.0);
    let why = text(&output.stderr);
    assert!(
        why.contains("5 of 5 containers cannot be inspected: 403 Forbidden: the proxy refuses\nhint: "),
        "{why}"
    );
}

#[test]
fn completions_are_there_for_every_shell() {
    for (shell, expected) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef"),
        ("fish", "complete -c"),
        ("elvish", "edit:"),
        ("powershell", "Register"),
    ] {
        // A configuration that is wrong is no matter of theirs.
        let script = printed(&["completions", shell], &[("OTEL_CONFIG_FILE", "/nonexistent")]);
        for expected in [expected, "healthcheck", "web.listen-address"] {
            assert!(script.contains(expected), "{shell}: {expected}");
        }
    }
    let (_directory, path) = file(&printed(&["completions", "bash"], &[]));
    let complete = "f=$(complete -p docker-state-exporter); f=${f#*-F }; COMP_WORDS=(docker-state-exporter heal); \
                    COMP_CWORD=1; ${f%% *} docker-state-exporter heal; printf %s \"${COMPREPLY[*]}\"";
    let bash = Command::new("bash").args(["-c", &format!("source {path}; {complete}")]).output().unwrap();
    assert_eq!(text(&bash.stdout), "healthcheck", "{}", text(&bash.stderr));
}

#[test]
fn schema_prints_the_one_that_is_kept() {
    let printed = printed(&["schema"], &[("OTEL_CONFIG_FILE", "/nonexistent")]);
    assert_eq!(printed, include_str!("../config/schema.json"));
}

#[test]
fn what_is_no_command_is_told_with_what_would_be() {
    for (arguments, expected) in [
        (&["chekc"][..], "unrecognized subcommand 'chekc'"),
        (&["completions", "tcsh"], "[possible values: bash, elvish, fish, powershell, zsh]"),
        (&["completions"], "<SHELL>"),
        (&["once", "--timeout", "0"], "0 is not in 1..=3600"),
    ] {
        let refusal = said(arguments, 2);
        assert!(refusal.contains(expected), "{arguments:?}: {refusal}");
    }
    let help = printed(&["--help"], &[]);
    for command in ["check", "once", "healthcheck", "completions", "schema"] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
        printed(&[command, "--help"], &[]);
    }
}
