//! Reads the answer to `/version`, and chooses the API version.

use bollard::models::SystemVersion;
use bollard::{API_DEFAULT_VERSION, ClientVersion};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::fields::{Oddities, field, object, only_object, read_mended, text};
use super::values::unquoted;

/// The used fields of the answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct EngineVersion {
    newest_api: Option<String>,
    oldest_api: Option<String>,
    pub(super) is_podman: bool,
    /// Whether this is a Podman that keeps its event stream open when it rotates its log, and sends an event about it.
    pub(super) tells_of_rotation: bool,
}

/// From this Podman version on, the event stream stays open when the log is rotated; older versions end it.
const TELLS_OF_ROTATION: Version = (5, 4);

const PODMAN: &str = "Podman Engine";

impl From<SystemVersion> for EngineVersion {
    fn from(version: SystemVersion) -> Self {
        Self {
            is_podman: version.components.iter().flatten().any(|part| part.name == PODMAN),
            tells_of_rotation: version
                .components
                .iter()
                .flatten()
                .any(|part| part.name == PODMAN && tells_of_rotation(&part.version)),
            newest_api: version.api_version,
            oldest_api: version.min_api_version,
        }
    }
}

impl EngineVersion {
    /// Reads an answer that bollard's model rejects. Only these three fields are read.
    pub(super) fn read(json: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Raw<'a> {
            #[serde(borrow, rename = "ApiVersion")]
            newest_api: Option<&'a RawValue>,
            #[serde(borrow, rename = "MinAPIVersion")]
            oldest_api: Option<&'a RawValue>,
            #[serde(borrow, rename = "Components")]
            components: Option<&'a RawValue>,
        }
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct RawComponent<'a> {
            #[serde(borrow, rename = "Name")]
            name: Option<&'a RawValue>,
            #[serde(borrow, rename = "Version")]
            version: Option<&'a RawValue>,
        }
        read_mended(json, &mut Oddities::default(), |json, odd| {
            let raw: Raw<'_> = only_object(json)?;
            let components: Vec<Box<RawValue>> = field(raw.components, "Components", odd).unwrap_or_default();
            let podman = components.iter().find_map(|component| {
                let component: RawComponent<'_> = object(Some(component), "Components", odd);
                let is_podman = text(component.name, "Components.Name", odd) == PODMAN;
                is_podman.then(|| text(component.version, "Components.Version", odd))
            });
            Ok(Self {
                newest_api: raw.newest_api.map(unquoted),
                oldest_api: raw.oldest_api.map(unquoted),
                is_podman: podman.is_some(),
                tells_of_rotation: podman.is_some_and(|version| tells_of_rotation(&version)),
            })
        })
    }

    /// The prefix of every path: bollard's newest version, or the engine's newest if that is older. If the engine no
    /// longer supports that version, its oldest is used: the calls made here have not changed for years.
    pub(super) fn path_prefix(&self) -> Result<String, String> {
        let said = self.newest_api.as_deref();
        let newest = said
            .and_then(parse)
            .ok_or_else(|| format!("the daemon's API version cannot be read: {}", said.unwrap_or("none")))?;
        // No engine was ever that old, so this is not a Docker API version. For a path without a version, the engine
        // uses its own.
        if newest < OLDEST {
            return Ok(String::new());
        }
        let oldest = self.oldest_api.as_deref().and_then(parse).unwrap_or_default();
        let ClientVersion { major_version, minor_version } = *API_DEFAULT_VERSION;
        let (major, minor) = newest.min((major_version, minor_version)).max(oldest);
        Ok(format!("/v{major}.{minor}"))
    }
}

fn tells_of_rotation(version: &str) -> bool {
    parse(version).is_some_and(|version| version >= TELLS_OF_ROTATION)
}

type Version = (usize, usize);

/// The API version of Docker 1.0.
const OLDEST: Version = (1, 12);

/// Parses `1.41`; ignores what follows.
fn parse(version: &str) -> Option<Version> {
    let (major, rest) = version.trim_start_matches('v').split_once('.')?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some((major.parse().ok()?, rest[..end].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(json: &str) -> Result<String, String> {
        EngineVersion::read(json.as_bytes()).map_err(|error| error.to_string())?.path_prefix()
    }

    #[test]
    fn the_version_is_one_that_both_speak() {
        for (newest, oldest, prefix) in [
            ("1.41", Some("1.12"), "/v1.41"),
            ("1.41", None, "/v1.41"),
            ("1.41", Some("none"), "/v1.41"),
            ("1.60", Some("1.44"), "/v1.53"),
            ("1.60", Some("1.55"), "/v1.55"),
            ("2.1", Some("2.0"), "/v2.0"),
            ("v1.41", None, "/v1.41"),
            ("1.41.2-rc1", None, "/v1.41"),
            ("1.0.0", None, ""),
            ("1.0.0", Some("1.24"), ""),
        ] {
            let version = EngineVersion {
                newest_api: Some(newest.into()),
                oldest_api: oldest.map(Into::into),
                is_podman: false,
                tells_of_rotation: false,
            };
            assert_eq!(version.path_prefix().as_deref(), Ok(prefix), "{newest} {oldest:?}");
        }
        for newest in [None, Some("one"), Some("1"), Some("1."), Some(""), Some("-1.41")] {
            let version = EngineVersion { newest_api: newest.map(Into::into), ..Default::default() };
            assert!(version.path_prefix().is_err(), "{newest:?}");
        }
    }

    #[test]
    fn only_what_is_used_has_to_be_readable() {
        for json in [
            r#"{"ApiVersion":"1.41","Platform":{}}"#,
            r#"{"ApiVersion":"1.41","Experimental":"false"}"#,
            r#"{"ApiVersion":"1.41","Components":[{"Name":"Engine"}]}"#,
            r#"{"ApiVersion":"1.41","Components":[7,null,{"Name":7}],"Version":null}"#,
            r#"{"ApiVersion":"1.41","Components":{},"MinAPIVersion":{}}"#,
            r#"{"ApiVersion":1.41}"#,
            "{\"ApiVersion\":\"1.41\",\"Version\":\"\u{0}\"}",
            r#"{"ApiVersion":"1.41","Version":"\ud800"}"#,
        ] {
            assert_eq!(prefix(json).as_deref(), Ok("/v1.41"), "{json}");
        }
        for json in ["", "[]", "null", "{", "{}", r#"{"ApiVersion":null}"#, r#"{"ApiVersion":{}}"#] {
            assert!(prefix(json).is_err(), "{json}");
        }
    }

    #[test]
    fn podman_is_known_by_a_component() {
        let is_podman = |json: &str| EngineVersion::read(json.as_bytes()).unwrap().is_podman;
        let tells_of_rotation = |version: &str| {
            let json = format!(r#"{{"Components":[{{"Name":"Podman Engine","Version":"{version}"}}]}}"#);
            EngineVersion::read(json.as_bytes()).unwrap().tells_of_rotation
        };
        assert_eq!(
            ["4.3.1", "5.3.2", "5.4.0", "5.8.6", "6.1.0-dev", "?"].map(tells_of_rotation),
            [false, false, true, true, true, false]
        );
        assert!(is_podman(r#"{"Components":[{"Name":"x"},{"Name":"Podman Engine"}]}"#));
        assert!(!is_podman(r#"{"Components":[{"Name":"Engine"}]}"#));
    }
}
