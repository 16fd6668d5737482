//! The resource: what every export says of its source.

use std::path::Path;

use opentelemetry::{Array, Key, KeyValue, StringValue, Value};
use opentelemetry_sdk::Resource;

use super::detect::{detect, host_name};
use crate::config::{AttributeValue, Config};

/// The configured attributes, then what the detectors find, and `service.version`, `service.instance.id` and
/// `host.name` where they are not among them. Nothing comes from the environment here: what of it counts, the
/// configuration has taken in.
pub fn resource(config: &Config) -> Resource {
    let mut attributes: Vec<KeyValue> = config
        .resource
        .attributes
        .iter()
        .map(|(key, value)| KeyValue::new(Key::from(key.clone()), to_value(value)))
        .collect();
    let mut add = |attribute: KeyValue| {
        if !attributes.iter().any(|a| a.key == attribute.key) {
            attributes.push(attribute);
        }
    };
    detect(&config.resource.detection).into_iter().for_each(&mut add);
    let host = host_name(Path::new("/"));
    let instance = instance_id(host.as_deref().unwrap_or_default(), &config.docker.host);
    add(KeyValue::new("service.version", crate::version::VERSION));
    add(KeyValue::new("service.instance.id", instance));
    host.into_iter().for_each(|host| add(KeyValue::new("host.name", host)));
    let builder = Resource::builder_empty();
    match &config.resource.schema_url {
        Some(url) => builder.with_schema_url(attributes, url.clone()).build(),
        None => builder.with_attributes(attributes).build(),
    }
}

/// The same for the same daemon on the same host: a random one would begin every series anew at each restart.
fn instance_id(host: &str, daemon: &str) -> String {
    let name = format!("{host}\n{daemon}");
    // A namespace of our own, made up once.
    const NAMESPACE: uuid::Uuid = uuid::uuid!("6f7c8c5e-64c5-4f3c-9c0b-2d1b6c0a9d11");
    uuid::Uuid::new_v5(&NAMESPACE, name.as_bytes()).to_string()
}

fn to_value(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::String(value) => Value::String(value.clone().into()),
        AttributeValue::Bool(value) => Value::Bool(*value),
        AttributeValue::Int(value) => Value::I64(*value),
        AttributeValue::Double(value) => Value::F64(*value),
        AttributeValue::Strings(values) => {
            Value::Array(Array::String(values.iter().map(|v| StringValue::from(v.clone())).collect()))
        }
        AttributeValue::Bools(values) => Value::Array(Array::Bool(values.clone())),
        AttributeValue::Ints(values) => Value::Array(Array::I64(values.clone())),
        AttributeValue::Doubles(values) => Value::Array(Array::F64(values.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Detector;

    #[test]
    fn what_the_file_says_stays_and_what_it_does_not_is_added() {
        let mut config = Config::default();
        config.resource.attributes.push(("host.name".into(), AttributeValue::String("mine".into())));
        let resource = resource(&config);
        let get = |key: &'static str| resource.get(&Key::from_static_str(key)).map(|v| v.to_string());
        assert_eq!(get("service.name").as_deref(), Some("docker-state-exporter"));
        assert_eq!(get("host.name").as_deref(), Some("mine"));
        assert_eq!(get("service.version").as_deref(), Some(crate::version::VERSION));
        assert!(get("service.instance.id").is_some());
    }

    #[test]
    fn what_the_file_says_goes_before_what_is_found() {
        let mut config = Config::default();
        config.resource.detection.detectors = vec![Detector::Host, Detector::Process];
        config.resource.attributes.push(("host.arch".into(), AttributeValue::String("mine".into())));
        let resource = resource(&config);
        let get = |key: &'static str| resource.get(&Key::from_static_str(key));
        assert_eq!(get("host.arch"), Some(Value::from("mine")));
        assert_eq!(get("os.type"), Some(Value::from("linux")));
        assert_eq!(get("process.pid"), Some(Value::from(i64::from(std::process::id()))));
    }

    #[test]
    fn an_instance_is_a_host_and_a_daemon() {
        assert_eq!(instance_id("a", "unix:///x"), instance_id("a", "unix:///x"));
        assert_ne!(instance_id("a", "unix:///x"), instance_id("b", "unix:///x"));
        assert_ne!(instance_id("a", "unix:///x"), instance_id("a", "unix:///y"));
    }
}
