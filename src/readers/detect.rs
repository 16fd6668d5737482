//! Resource detectors: what the program finds out about the source of its exports by itself.
//!
//! What cannot be read is left out: an image without an operating system has no `os.name`, and a container often
//! no machine id.

use std::path::Path;

use opentelemetry::{Array, KeyValue, StringValue, Value};
use procfs::process::Process;

use crate::config::{Detection, Detector};
use crate::files;

/// The attributes that the detectors find and the filter lets pass.
pub(super) fn detect(detection: &Detection) -> Vec<KeyValue> {
    let root = Path::new("/");
    let found = detection.detectors.iter().flat_map(|detector| match detector {
        Detector::Container => container(root),
        Detector::Host => host(root),
        Detector::Process => process(detection.named),
        // Both of its attributes are there in any case.
        Detector::Service => Vec::new(),
    });
    found.filter(|attribute| detection.attributes.matches(attribute.key.as_str())).collect()
}

fn read(root: &Path, path: &str) -> Option<String> {
    let text = files::read_text(&root.join(path)).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn attributes<const N: usize>(pairs: [(&'static str, Option<String>); N]) -> Vec<KeyValue> {
    pairs.into_iter().filter_map(|(key, value)| Some(KeyValue::new(key, value?))).collect()
}

/// The host's name, as `host.name`.
pub(super) fn host_name(root: &Path) -> Option<String> {
    read(root, "proc/sys/kernel/hostname")
}

fn host(root: &Path) -> Vec<KeyValue> {
    let release =
        read(root, "etc/os-release").or_else(|| read(root, "usr/lib/os-release")).unwrap_or_default();
    let os = |key: &str| {
        let value = release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(value.trim_matches(['"', '\'']).to_owned()).filter(|value| !value.is_empty())
    };
    attributes([
        ("host.name", host_name(root)),
        ("host.id", read(root, "etc/machine-id").or_else(|| read(root, "var/lib/dbus/machine-id"))),
        ("host.arch", Some(architecture(std::env::consts::ARCH).to_owned())),
        ("os.type", Some(std::env::consts::OS.to_owned())),
        ("os.name", os("NAME")),
        ("os.version", os("VERSION_ID")),
        ("os.description", os("PRETTY_NAME")),
    ])
}

/// The semantic conventions' name of a processor, which is not Rust's.
fn architecture(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "arm" => "arm32",
        "powerpc" => "ppc32",
        "powerpc64" => "ppc64",
        other => other,
    }
}

/// `named`: the file says which attributes it wants. Arguments can be secrets, so they are not given unasked.
fn process(named: bool) -> Vec<KeyValue> {
    let path = std::env::current_exe().ok();
    let name = path.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let mut found = attributes([
        ("process.executable.name", name),
        ("process.executable.path", path.map(|path| path.to_string_lossy().into_owned())),
        ("process.runtime.name", Some("rustc".to_owned())),
        ("process.runtime.version", Some(crate::version::RUSTC.to_owned())),
        ("process.owner", owner()),
    ]);
    found.push(KeyValue::new("process.pid", i64::from(std::process::id())));
    if let Ok(stat) = Process::myself().and_then(|process| process.stat()) {
        found.push(KeyValue::new("process.parent_pid", i64::from(stat.ppid)));
    }
    if named {
        let arguments: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
        found.extend(arguments.first().map(|command| KeyValue::new("process.command", command.clone())));
        let arguments = arguments.into_iter().map(StringValue::from).collect();
        found.push(KeyValue::new("process.command_args", Value::Array(Array::String(arguments))));
    }
    found
}

/// The name of the user that the process runs as; its number, where that has none.
fn owner() -> Option<String> {
    let user = Process::myself().and_then(|process| process.status()).ok()?.euid;
    let users = read(Path::new("/"), "etc/passwd").unwrap_or_default();
    Some(user_name(&users, user).unwrap_or_else(|| user.to_string()))
}

fn user_name(users: &str, user: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(user)).then(|| name.to_owned())
    })
}

/// The container's id is in the names of its control group, or, where those are hidden from it, in the paths of
/// the files that its engine has mounted into it.
fn container(root: &Path) -> Vec<KeyValue> {
    let group =
        read(root, "proc/self/cgroup").and_then(|groups| groups.lines().find_map(|line| id(line, "/")));
    let mounted = || {
        let mounts = read(root, "proc/self/mountinfo")?;
        mounts
            .lines()
            .filter(|line| line.contains(" /etc/hostname "))
            .find_map(|line| id(line, "containers/"))
    };
    attributes([("container.id", group.or_else(mounted))])
}

/// The 64 hexadecimal digits of a part of a path somewhere behind `before`. Control groups have them with a word
/// before and an ending: `docker-….scope`.
fn id(line: &str, before: &str) -> Option<String> {
    let (_, path) = line.split_once(before)?;
    let words = path.split(['/', '-', '.', ':', ' ']);
    let is_id = |word: &&str| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
    words.into_iter().find(is_id).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Filter;

    fn shown(attributes: &[KeyValue]) -> Vec<String> {
        attributes.iter().map(|a| format!("{}={}", a.key, a.value)).collect()
    }

    fn detected(detectors: &[Detector], included: &[&str], excluded: &[&str], named: bool) -> Vec<String> {
        let attributes = Filter::new(included, excluded);
        shown(&detect(&Detection { attributes, named, detectors: detectors.into() }))
    }

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        directory
    }

    #[test]
    fn a_host_is_what_its_files_say() {
        let root = root(&[
            ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
            ("proc/sys/kernel/hostname", "node-1\n"),
            (
                "etc/os-release",
                "PRETTY_NAME=\"Debian GNU/Linux 12\"\nNAME='Debian'\nVERSION_ID=12\nVERSION=\n",
            ),
        ]);
        let arch = format!("host.arch={}", architecture(std::env::consts::ARCH));
        assert_eq!(
            shown(&host(root.path())),
            [
                "host.name=node-1",
                "host.id=0123456789abcdef0123456789abcdef",
                &arch,
                "os.type=linux",
                "os.name=Debian",
                "os.version=12",
                "os.description=Debian GNU/Linux 12",
            ]
        );
        assert_eq!((architecture("x86_64"), architecture("aarch64")), ("amd64", "arm64"));
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        let root = root(&[]);
        let keys: Vec<_> = host(root.path()).iter().map(|a| a.key.to_string()).collect();
        assert_eq!(keys, ["host.arch", "os.type"]);
        assert!(container(root.path()).is_empty());
    }

    #[test]
    fn a_container_is_told_by_its_control_group_or_its_mounts() {
        let id = "3b2a6a9f0c1d4e5f".repeat(4);
        let mount = format!(
            "700 682 254:1 /var/lib/docker/containers/{id}/hostname /etc/hostname rw - ext4 /dev/a rw"
        );
        let layer = "f".repeat(64);
        let overlay =
            format!("681 600 0:50 / / rw - overlay o rw,upperdir=/var/lib/containers/storage/{layer}/diff");
        for (path, text) in [
            ("proc/self/cgroup", format!("12:pids:/docker/{id}\n")),
            ("proc/self/cgroup", format!("0::/system.slice/docker-{id}.scope\n")),
            ("proc/self/mountinfo", format!("{overlay}\n{mount}\n")),
            (
                "proc/self/mountinfo",
                mount.replace("docker/containers", "containers/storage/overlay-containers"),
            ),
        ] {
            let root = root(&[("proc/self/cgroup", "0::/\n"), (path, &text)]);
            assert_eq!(shown(&container(root.path())), [format!("container.id={id}")], "of {text}");
        }
    }

    #[test]
    fn a_process_is_this_one() {
        let all = detected(&[Detector::Process], &["*"], &[], false);
        let has = |text: &str| all.iter().any(|attribute| attribute == text);
        assert!(has(&format!("process.pid={}", std::process::id())), "{all:?}");
        assert!(
            has(&format!("process.executable.path={}", std::env::current_exe().unwrap().display())),
            "{all:?}"
        );
        assert!(has("process.runtime.name=rustc"), "{all:?}");
        assert!(has(&format!("process.runtime.version={}", crate::version::RUSTC)), "{all:?}");
        assert!(all.iter().any(|a| a.starts_with("process.owner=")), "{all:?}");
        assert!(!all.iter().any(|a| a.starts_with("process.command")), "the command line unasked: {all:?}");
        let asked = detected(&[Detector::Process], &["process.command*"], &["process.command"], true);
        assert!(asked.len() == 1 && asked[0].starts_with("process.command_args=["), "{asked:?}");
    }

    #[test]
    fn owners_have_names() {
        let users = "root:x:0:0:root:/root:/bin/sh\n:x:7:7::/:\nweb:x:1000:1000::/:/bin/false\nbroken\n";
        assert_eq!(user_name(users, 1000).as_deref(), Some("web"));
        assert_eq!(user_name(users, 7), None);
    }

    #[test]
    fn the_filter_chooses() {
        let some =
            detected(&[Detector::Host, Detector::Process], &["host.*"], &["host.id", "host.name"], true);
        assert_eq!(some, [format!("host.arch={}", architecture(std::env::consts::ARCH))]);
    }
}
