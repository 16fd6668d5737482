//! `once --output`: what the path may be, and what it is afterwards.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Output;

use fake_engine::{Container, FakeEngine};
use rustix::fs::{CWD, FileType, Mode, makedev, mkfifoat, mknodat};

use crate::program::{program, run};

fn once(engine: &FakeEngine, output: &Path) -> Output {
    let mut command = program(&["once", "--timeout=60", "--output", output.to_str().unwrap()]);
    command.env("DOCKER_HOST", engine.host());
    run(command)
}

#[track_caller]
fn is_refused(engine: &FakeEngine, output: &Path, expected: &str) {
    let refused = once(engine, output);
    let why = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{}: {why}", output.display());
    let expected = format!("{}: cannot be written: {expected}", output.display());
    assert!(why.starts_with(&expected), "{why}");
}

#[test]
fn a_link_stays_and_the_file_that_it_leads_to_is_replaced() {
    let engine = FakeEngine::start().unwrap();
    engine.add(Container::new("web"));
    let directory = tempfile::tempdir().unwrap();
    let in_it = |name: &str| directory.path().join(name);
    fs::create_dir(in_it("elsewhere")).unwrap();
    let target = in_it("elsewhere/docker.prom");
    fs::write(&target, "old").unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).unwrap();
    symlink("elsewhere/docker.prom", in_it("link")).unwrap();
    symlink("link", in_it("link-to-link")).unwrap();
    let output = once(&engine, &in_it("link-to-link"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for link in ["link", "link-to-link"] {
        assert!(fs::symlink_metadata(in_it(link)).unwrap().is_symlink(), "{link} is gone");
    }
    assert!(fs::read_to_string(&target).unwrap().contains("container_state_status"));
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(fs::read_dir(in_it("elsewhere")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
}

#[test]
fn what_is_no_regular_file_is_neither_replaced_nor_written() {
    let engine = FakeEngine::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let in_it = |name: &str| directory.path().join(name);
    mkfifoat(CWD, in_it("fifo"), Mode::RWXU).unwrap();
    fs::create_dir(in_it("directory")).unwrap();
    // Not the one of this machine, which would be gone where this fails.
    mknodat(CWD, in_it("device"), FileType::CharacterDevice, Mode::RWXU, makedev(1, 3)).unwrap();
    symlink("device", in_it("link")).unwrap();
    symlink("nothing", in_it("dangling")).unwrap();
    is_refused(&engine, &in_it("device"), "it is a device, not a regular file\nhint: ");
    is_refused(&engine, &in_it("link"), "it is a device, not a regular file\nhint: ");
    is_refused(&engine, &in_it("fifo"), "it is a pipe, not a regular file\nhint: ");
    is_refused(&engine, &in_it("directory"), "it is a directory, not a regular file\nhint: ");
    is_refused(&engine, &in_it("dangling"), "what the link leads to: No such file");
    assert!(fs::metadata(in_it("device")).unwrap().file_type().is_char_device());
    assert!(fs::metadata(in_it("fifo")).unwrap().file_type().is_fifo());
    assert!(fs::symlink_metadata(in_it("dangling")).unwrap().is_symlink());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 5);
}
