//! Makes images without a registry: of the Dockerfile's last stage, with the program under test in it, and of
//! programs of this machine.
//!
//! The build stage, which makes a static program, takes minutes: tests/image.rs runs it once. The program under test
//! is not static, so an image of the libraries that it is linked with replaces `scratch`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::docker::Docker;
use super::namespace::program;

/// Runs a command, and returns what it printed.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let [out, error] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).trim().to_owned());
    assert!(output.status.success(), "{command:?}: {error}\n{out}");
    out
}

/// Copies the libraries that a program is linked with to where it looks for them under `root`; a static one has none.
fn copy_libraries(of: &Path, root: &Path) {
    fs::create_dir_all(root).unwrap();
    let output = Command::new("ldd").arg(of).output().unwrap();
    let [linked, error] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success() || error.contains("not a dynamic executable"), "ldd {of:?}: {error}");
    for library in linked.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new) {
        let inside = root.join(library.strip_prefix("/").unwrap());
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::copy(library, inside).unwrap();
    }
}

/// Makes an image of a directory. `changes`: instructions of a Dockerfile.
#[track_caller]
fn import(docker: &Docker, root: &Path, changes: &[&str], image: &str) {
    let tar = docker.directory().join("import.tar");
    run(Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(root).arg("."));
    let changes = changes.iter().flat_map(|change| ["--change", change]);
    let arguments: Vec<_> = ["import"].into_iter().chain(changes).collect();
    docker.run(&[&arguments[..], &[tar.to_str().unwrap(), image]].concat());
    fs::remove_file(tar).unwrap();
}

/// Makes an image with a program of this machine as `/bin/program`, under the name of the image that it replaces.
#[track_caller]
pub(crate) fn of_program(docker: &Docker, path: &Path, changes: &[&str], image: &str) {
    let root = docker.directory().join("program");
    copy_libraries(path, &root);
    for directory in ["bin", "tmp"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy(path, root.join("bin/program")).unwrap();
    import(docker, &root, changes, image);
    fs::remove_dir_all(root).unwrap();
}

/// Makes the image of the Dockerfile's last stage.
#[track_caller]
pub(crate) fn build(docker: &Docker, image: &str, revision: &str) {
    let at = docker.directory().join("dockerfile");
    let [libraries, built] = ["libraries", "built"].map(|name| at.join(name));
    let exporter = env!("CARGO_BIN_EXE_docker-state-exporter");
    copy_libraries(Path::new(exporter), &libraries);
    // The files that the build stage leaves.
    fs::create_dir_all(built.join("etc/ssl/certs")).unwrap();
    fs::write(built.join("etc/ssl/certs/ca-certificates.crt"), "").unwrap();
    // Without debug information, which is most of the file.
    let strip = program("strip", "binutils");
    run(Command::new(strip).arg("-o").arg(built.join("docker-state-exporter")).arg(exporter));
    for (root, name) in [(&libraries, "test-libraries"), (&built, "test-built")] {
        import(docker, root, &[], name);
    }

    let whole = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Dockerfile")).unwrap();
    let (_, last) = whole.split_once("\nFROM scratch\n").expect("the last stage is from scratch");
    assert!(!last.contains("\nFROM "), "there is another stage: {last}");
    let context = at.join("context");
    fs::create_dir(&context).unwrap();
    let dockerfile = format!("FROM test-built AS build\nFROM test-libraries\n{last}");
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let revision = format!("REVISION={revision}");
    let arguments = ["build", "--tag", image, "--build-arg", &revision, context.to_str().unwrap()];
    // The engine's classic builder; BuildKit needs a plugin that may be missing.
    run(docker.client(&arguments).env("DOCKER_BUILDKIT", "0"));
    fs::remove_dir_all(at).unwrap();
}
