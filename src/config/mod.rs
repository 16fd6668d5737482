//! The configuration: from flags, file and environment to validated types.
//!
//! A file goes through three steps, each in its own module: `yaml` parses the text into a tree in which every value
//! has its place, and replaces references to variables; `decode` walks the tree and tracks the path; `file` knows the
//! keys. Every error is reported, not only the first, and a file with an error has no effect at all.
//!
//! Nothing here reads the process's environment: callers pass it as a function, so that a test need not change it.

mod constant_labels;
mod decode;
mod docker_client;
mod effective;
mod environment;
mod error;
mod fields;
mod file;
mod model;
mod schema;
mod substitution;
pub(crate) mod values;
mod views;
mod web_file;
mod yaml;

pub use error::Error;
pub(crate) use error::{Invalid, Problem};
pub use model::*;
pub use substitution::Environment;
pub(crate) use values::shown_address;
pub use web_file::{ClientAuth, Pem, RateLimit, ServerTls, Version, WebFile, from_web_yaml};

/// Reads the configuration from a file's text. Each error begins with `name`.
///
/// From the environment it uses only the variables that the file refers to, and the Docker client's variables if the
/// file does not say how to reach the daemon.
pub fn from_yaml(name: &str, text: &str, env: &Environment<'_>) -> Result<Loaded, Error> {
    let decoder = decode::Decoder::new(name);
    let config = match yaml::parse(name, text, env) {
        Ok(root) => file::decode(&decoder, &root, env),
        Err(error) => return Err(error),
    };
    let (config, warnings) = decoder.finish(config)?;
    Ok(Loaded { config, warnings })
}

/// Writes `config` as a file, with every default and without secrets: header values and URL queries are hidden.
pub fn to_yaml(config: &Config) -> String {
    effective::write(config)
}

/// The JSON Schema of the file.
pub fn schema() -> String {
    schema::write()
}

/// Reads the configuration without a file, from the standard's `OTEL_*` variables and those of the Docker client.
pub fn from_environment(env: &Environment<'_>) -> Result<Loaded, Error> {
    environment::decode(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys that decoding the reference asks for. These are all keys, because the reference has every section.
    pub(super) fn known() -> Vec<String> {
        let text = include_str!("../../config/reference.yaml");
        let root = yaml::parse("reference.yaml", text, &|_| None).unwrap();
        let decoder = decode::Decoder::new("reference.yaml");
        file::decode(&decoder, &root, &|_| None);
        decoder.known().into_iter().collect()
    }

    #[test]
    fn the_reference_has_every_key() {
        fn present(node: &yaml::Node, path: &str, keys: &mut Vec<String>) {
            match &node.value {
                yaml::Value::Scalar(_) => {}
                yaml::Value::List(items) => {
                    items.iter().for_each(|item| present(item, &format!("{path}[]"), keys));
                }
                yaml::Value::Map(entries) => {
                    for entry in entries {
                        let path = yaml::join(path, &entry.key);
                        present(&entry.node, &path, keys);
                        keys.push(path);
                    }
                }
            }
        }
        let text = include_str!("../../config/reference.yaml");
        let root = yaml::parse("reference.yaml", text, &|_| None).unwrap();
        let mut keys = Vec::new();
        present(&root, "", &mut keys);
        keys.sort();
        keys.dedup();
        assert_eq!(keys, known());
        assert!(keys.contains(&"meter_provider.readers[].periodic.exporter.otlp_grpc.tls.insecure".into()));
    }

    #[test]
    fn the_document_has_every_key() {
        let document = include_str!("../../docs/configuration.md");
        for path in known() {
            let key = path.rsplit('.').next().unwrap();
            assert!(document.contains(&format!("`{key}`")), "{path} is not in docs/configuration.md");
        }
    }
}
