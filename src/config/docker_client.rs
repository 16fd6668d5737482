//! Places where the Docker client finds the daemon and this program does not look: contexts, and the sockets of
//! rootless engines. A user who relies on them is told what to set.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::shown;
use super::substitution::Environment;
use crate::files;

/// The warning if no host is configured and the Docker client would use another one than `default_host`.
pub(super) fn other_host(default_host: &str, env: &Environment<'_>) -> Option<String> {
    let default_socket = Path::new(default_host.strip_prefix("unix://")?);
    let variable = |name: &str| env(name).filter(|value| !value.is_empty());
    let home = variable("HOME").map(PathBuf::from);
    if let Some((origin, context)) = context(home.as_deref(), &variable) {
        return (context != "default").then(|| {
            let context = shown(&context);
            format!(
                "{origin}: the context {context} is not used, the daemon is asked at {default_host}; set DOCKER_HOST or \
                 docker.host to what this prints: docker context inspect --format '{{{{.Endpoints.docker.Host}}}}' {context}"
            )
        });
    }
    if default_socket.exists() {
        return None;
    }
    let runtime = variable("XDG_RUNTIME_DIR").map(PathBuf::from);
    let sockets = [
        runtime.as_ref().map(|directory| directory.join("docker.sock")),
        home.as_ref().map(|home| home.join(".docker/run/docker.sock")),
        home.as_ref().map(|home| home.join(".docker/desktop/docker.sock")),
        runtime.as_ref().map(|directory| directory.join("podman/podman.sock")),
    ];
    let socket = sockets.into_iter().flatten().find(|path| is_socket(path))?;
    let socket = socket.display();
    Some(format!(
        "there is no {}, where the daemon is asked, but {socket}; to use that, set DOCKER_HOST or docker.host to \
         unix://{socket}",
        default_socket.display()
    ))
}

/// The name of the variable or file that sets a context, and the context.
fn context(home: Option<&Path>, variable: &impl Fn(&str) -> Option<String>) -> Option<(String, String)> {
    if let Some(context) = variable("DOCKER_CONTEXT") {
        return Some(("DOCKER_CONTEXT".into(), context));
    }
    let directory = variable("DOCKER_CONFIG").map(PathBuf::from).or_else(|| Some(home?.join(".docker")))?;
    let file = directory.join("config.json");
    // A malformed file is ignored: the Docker client reports it.
    let content: Value = serde_json::from_slice(&files::read(&file).ok()?).ok()?;
    let context = content.get("currentContext")?.as_str().filter(|name| !name.is_empty())?;
    Some((file.display().to_string(), context.to_owned()))
}

fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_the_docker_client_would_use_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let missing = format!("unix://{}", path("missing.sock"));
        let told = |variables: &[(&str, &str)], host: &str| {
            other_host(host, &|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, v)| v.to_string())
            })
        };
        assert_eq!(told(&[], &missing), None);

        let command = "docker context inspect --format '{{.Endpoints.docker.Host}}'";
        let context = ("DOCKER_CONTEXT", "remote");
        let line = told(&[context], "unix:///s").unwrap();
        assert!(line.starts_with(
            "DOCKER_CONTEXT: the context remote is not used, the daemon is asked at unix:///s; set"
        ));
        assert!(line.ends_with(&format!("{command} remote")), "{line}");

        // The client's file, in its two places. The variable takes precedence over it.
        let home = path("home");
        std::fs::create_dir_all(format!("{home}/.docker")).unwrap();
        let config = format!("{home}/.docker/config.json");
        for (content, expected) in [
            ("{\"auths\":{},\"currentContext\":\"rootless\"}", Some("rootless")),
            ("{\"currentContext\":\"default\"}", None),
            ("{\"currentContext\":\"\"}", None),
            ("{\"currentContext\":7}", None),
            ("{}", None),
            ("{", None),
        ] {
            std::fs::write(&config, content).unwrap();
            let client_directory = format!("{home}/.docker");
            for variables in
                [&[("HOME", &*home)][..], &[("HOME", "/nowhere"), ("DOCKER_CONFIG", &*client_directory)]]
            {
                let line = told(variables, &missing);
                match expected {
                    Some(name) => {
                        let line = line.unwrap();
                        assert!(
                            line.starts_with(&format!("{config}: the context {name} is not used")),
                            "{line}"
                        );
                    }
                    None => assert_eq!(line, None, "{content}"),
                }
            }
            assert_eq!(told(&[("HOME", &home), ("DOCKER_CONTEXT", "default")], &missing), None);
        }
    }

    #[test]
    fn the_socket_of_a_rootless_engine_is_told() {
        for (variable, place) in [
            ("XDG_RUNTIME_DIR", "docker.sock"),
            ("XDG_RUNTIME_DIR", "podman/podman.sock"),
            ("HOME", ".docker/run/docker.sock"),
            ("HOME", ".docker/desktop/docker.sock"),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let root = directory.path().display().to_string();
            let socket = directory.path().join(place);
            std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
            let env = |name: &str| (name == variable).then(|| root.clone());
            let missing = format!("unix://{root}/missing.sock");
            // A regular file of that name is no socket.
            std::fs::write(&socket, "").unwrap();
            assert_eq!(other_host(&missing, &env), None);
            std::fs::remove_file(&socket).unwrap();
            let _listener = UnixListener::bind(&socket).unwrap();
            let line = other_host(&missing, &env).unwrap();
            assert_eq!(
                line,
                format!(
                    "there is no {root}/missing.sock, where the daemon is asked, but {root}/{place}; to use that, set \
                     DOCKER_HOST or docker.host to unix://{root}/{place}"
                )
            );
            // No warning if the default socket exists.
            assert_eq!(other_host(&format!("unix://{root}/{place}"), &env), None);
        }
    }
}
