//! The Dockerfile's layer of dependencies, which is built from a part of the sources: whether cargo takes that part.
//! tests/engine.rs builds the last stage, and runs it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The instructions, each in one line.
fn instructions(dockerfile: &str) -> Vec<String> {
    let lines = dockerfile.lines().filter(|line| !line.starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    joined.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn run(command: &mut Command) -> (bool, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn the_layer_of_dependencies_is_something_that_cargo_takes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let instructions = instructions(&fs::read_to_string(root.join("Dockerfile")).unwrap());
    let part = instructions.split(|line| line == "COPY . .").next().unwrap();
    let at = tempfile::tempdir().unwrap();
    let sources = at.path().join("sources");
    fs::create_dir(&sources).unwrap();
    let copies = part.iter().filter_map(|line| line.strip_prefix("COPY "));
    for copy in copies.clone() {
        let mut paths: Vec<_> = copy.split_whitespace().collect();
        let to = sources.join(paths.pop().unwrap());
        for from in paths {
            assert_eq!(
                run(Command::new("cp").arg("-r").arg(root.join(from)).arg(&to)),
                (true, String::new())
            );
        }
    }
    assert!(copies.count() > 3, "{part:?}");
    let build = part.iter().rev().find_map(|line| line.strip_prefix("RUN ")).unwrap();
    assert!(build.contains("cargo build --release --locked"), "{build}");

    // In the place of cargo something that asks cargo whether it takes this, and builds next to nothing.
    let programs = at.path().join("programs");
    fs::create_dir(&programs).unwrap();
    let cargo = programs.join("cargo");
    let target = at.path().join("target");
    let script = format!(
        "#!/bin/sh\nunset RUSTFLAGS CARGO_TARGET_DIR\n\
         exec '{}' check --offline --locked --quiet --package itoa --target-dir '{}'\n",
        env!("CARGO"),
        target.display()
    );
    fs::write(&cargo, script).unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let layer =
        |sources: &Path| run(Command::new("sh").args(["-ec", build]).current_dir(sources).env("PATH", &path));
    let (succeeded, said) = layer(&sources);
    assert!(succeeded, "{build}\n{said}");
}
