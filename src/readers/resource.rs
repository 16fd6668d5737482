//! The resource: what every export says of its source.

use opentelemetry::{Array, Key, KeyValue, StringValue, Value};
use opentelemetry_sdk::Resource;

use crate::config::{AttributeValue, Config};

/// The configured attributes, and `service.version`, `service.instance.id` and `host.name` where they are not
/// among them. Nothing comes from the environment here: what of it counts, the configuration has taken in.
pub fn resource(config: &Config) -> Resource {
    let mut attributes: Vec<KeyValue> = config
        .resource
        .attributes
        .iter()
        .map(|(key, value)| KeyValue::new(Key::from(key.clone()), to_value(value)))
        .collect();
    let mut add = |key: &'static str, value: Option<String>| {
        if let Some(value) = value
            && !attributes.iter().any(|a| a.key.as_str() == key)
        {
            attributes.push(KeyValue::new(key, value));
        }
    };
    let host = host_name();
    add("service.version", Some(crate::version::VERSION.to_owned()));
    add("service.instance.id", Some(instance_id(host.as_deref().unwrap_or_default(), &config.docker.host)));
    add("host.name", host);
    let builder = Resource::builder_empty();
    match &config.resource.schema_url {
        Some(url) => builder.with_schema_url(attributes, url.clone()).build(),
        None => builder.with_attributes(attributes).build(),
    }
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
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
    fn an_instance_is_a_host_and_a_daemon() {
        assert_eq!(instance_id("a", "unix:///x"), instance_id("a", "unix:///x"));
        assert_ne!(instance_id("a", "unix:///x"), instance_id("b", "unix:///x"));
        assert_ne!(instance_id("a", "unix:///x"), instance_id("a", "unix:///y"));
    }
}
