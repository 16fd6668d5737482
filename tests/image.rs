//! The Dockerfile, built whole, and its image run by a real engine with as few rights as README gives it.
//!
//! There is no registry, so Debian and this machine's Rust stand in the place of Rust's image on Alpine
//! (`scripts/builder`); the program is static by another C library then.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use support::docker::Docker;
use support::namespace::search_path;
use support::{eventually, image};

/// For a container to start, beside other work.
const SOON: Duration = Duration::from_secs(60);

/// The allocator's library, which was built for the program under test: in the image's build it alone would take
/// as long as all else.
fn allocator() -> PathBuf {
    let programs = Path::new(env!("CARGO_BIN_EXE_docker-state-exporter")).parent().unwrap();
    let builds = fs::read_dir(programs.join("build")).unwrap();
    let libraries = builds.map(|entry| entry.unwrap().path().join("out/lib/libjemalloc.a"));
    libraries
        .into_iter()
        .find(|path| path.exists())
        .expect("the program under test has been built with jemalloc")
}

/// Builds the image, in a way that takes less time than a release: the program in it is a slow one.
fn build(docker: &Docker, image: &str, revision: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // The toolchain that the tests are built by.
    let path = format!("{}:{}", Path::new(env!("CARGO")).parent().unwrap().display(), search_path());
    let mut builder = Command::new(root.join("scripts/builder"));
    builder.arg("test-builder").env("PATH", path).env_remove("CARGO_TARGET_DIR");
    image::run(docker.with_environment(&mut builder));
    let at = docker.directory().join("quick");
    fs::create_dir(&at).unwrap();
    fs::copy(allocator(), at.join("libjemalloc.a")).unwrap();
    let profile = "CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off \
                   CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16";
    let dockerfile = format!(
        "FROM test-builder\nCOPY libjemalloc.a /opt/\nENV JEMALLOC_OVERRIDE=/opt/libjemalloc.a {profile}\n"
    );
    fs::write(at.join("Dockerfile"), dockerfile).unwrap();
    let build = |arguments: &[&str]| {
        let mut command = docker.client(&["build", "--network", "none"]);
        // The engine's own builder; the other is a plugin that need not be there.
        image::run(command.args(arguments).env("DOCKER_BUILDKIT", "0"));
    };
    build(&["--tag", "test-quick-builder", at.to_str().unwrap()]);
    let revision = format!("REVISION={revision}");
    let arguments = ["--build-arg", "BUILDER=test-quick-builder", "--build-arg", &revision, "--tag", image];
    build(&[&arguments[..], &[root.to_str().unwrap()]].concat());
}

#[test]
fn the_image_needs_the_sockets_group_and_nothing_else() {
    let docker = &Docker::start();
    build(docker, "docker-state-exporter", "0123abc");
    let inspected: Value =
        serde_json::from_str(&docker.run(&["image", "inspect", "docker-state-exporter"])).unwrap();
    let config = &inspected[0]["Config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], json!(["/docker-state-exporter"]));
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD", "/docker-state-exporter", "healthcheck"]));
    assert_eq!(config["ExposedPorts"], json!({"8080/tcp": {}}));
    for (label, value) in
        [("title", "docker-state-exporter"), ("licenses", "Apache-2.0"), ("revision", "0123abc")]
    {
        assert_eq!(config["Labels"][format!("org.opencontainers.image.{label}")], value, "{config:#}");
    }

    let socket = docker.socket().display().to_string();
    let mount = format!("{socket}:/var/run/docker.sock");
    let group = docker.socket_group();
    let hardened = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"];
    let start = |name: &str, more: &[&str]| {
        let begin = ["run", "--detach", "--network", "none", "--name", name, "--volume", &mount];
        // Sooner than the image asks for it.
        let health = ["--health-interval", "1s"];
        docker.run(&[&begin[..], &hardened, &health, more, &["docker-state-exporter"]].concat());
    };
    let said = |name: &str, what: &str| {
        eventually(SOON * 10, || {
            let output = docker.client(&["logs", name]).output().map_err(|error| error.to_string())?;
            let log = [output.stdout, output.stderr]
                .map(|text| String::from_utf8_lossy(&text).into_owned())
                .concat();
            if log.contains(what) { Ok(()) } else { Err(format!("{name} has not said {what:?}: {log}")) }
        });
    };
    start("exporter", &["--group-add", &group]);
    said("exporter", "following the daemon");
    docker.wait_for("exporter", "/State/Health/Status", "healthy");
    start("without-the-group", &[]);
    said("without-the-group", "Permission denied");
    docker.run(&["stop", "exporter"]);
    assert_eq!(docker.inspect("exporter")["State"]["ExitCode"], 0);
    docker.run(&["rm", "--force", "exporter", "without-the-group"]);

    // Nothing else is in it.
    let tar = docker.directory().join("image.tar");
    docker.run(&["create", "--name", "files", "docker-state-exporter"]);
    docker.run(&["export", "--output", tar.to_str().unwrap(), "files"]);
    let files = image::run(Command::new("tar").arg("-tf").arg(&tar));
    // What the engine itself puts into every container.
    let engines = ["dev/", "etc/", "proc/", "sys/", ".dockerenv"];
    let files: Vec<_> =
        files.lines().filter(|file| !engines.iter().any(|own| file.starts_with(own))).collect();
    assert_eq!(files, ["docker-state-exporter"]);
    docker.run(&["rm", "files"]);
}
