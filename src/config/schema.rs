//! The JSON Schema of the file, for editors, generated from the decoding functions.
//!
//! The functions run without a file, and each key that they ask for is recorded with its type, so there is no second
//! list of keys. They run twice: once as if every key were present, and once as if none were, because some keys are
//! asked for only then.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::decode::{Decoder, Shape};
use super::error::Place;
use super::file;
use super::yaml::{Kind, Node, Scalar, Value};

/// The schema's text.
pub(super) fn write() -> String {
    let nothing = Node {
        place: Place { line: 1, column: 1 },
        value: Value::Scalar(Scalar { text: String::new(), kind: Kind::Null, is_secret: false }),
    };
    let mut root = Tree { shape: Shape::Section, ..Tree::default() };
    for given in [true, false] {
        let decoder = Decoder::probing(given);
        file::decode(&decoder, &nothing, &|_| None);
        for (path, shape) in decoder.shapes() {
            root.insert(&path, shape);
        }
    }
    let mut schema = root.schema();
    let head = [
        ("$schema", json!("https://json-schema.org/draft/2020-12/schema")),
        ("title", json!("The configuration of docker-state-exporter")),
        ("$defs", json!({"reference": {"type": "string", "pattern": "\\$\\{"}})),
    ];
    if let Some(schema) = schema.as_object_mut() {
        schema.extend(head.map(|(key, value)| (key.to_owned(), value)));
    }
    format!("{schema:#}\n")
}

/// The keys below a key.
#[derive(Default)]
struct Tree {
    shape: Shape,
    keys: BTreeMap<String, Tree>,
    item: Option<Box<Tree>>,
}

impl Tree {
    /// Adds a key by its path, such as `meter_provider.readers[].pull`.
    fn insert(&mut self, path: &str, shape: Shape) {
        let mut tree = self;
        for segment in path.split('.').filter(|segment| !segment.is_empty()) {
            let name = segment.trim_end_matches("[]");
            tree = tree.keys.entry(name.to_owned()).or_default();
            for _ in 0..(segment.len() - name.len()) / 2 {
                tree = tree.item.get_or_insert_default();
            }
        }
        tree.shape = std::mem::take(&mut tree.shape).or(shape);
    }

    /// A key without a value is the same as no key. A reference to a variable can stand for any scalar.
    fn schema(&self) -> Json {
        let or_reference = |schema: Json| json!({"anyOf": [schema, {"$ref": "#/$defs/reference"}]});
        match &self.shape {
            Shape::Any => json!(true),
            Shape::String => json!({"type": ["string", "null"]}),
            Shape::Choice(names) => {
                let names: Vec<Json> = names.iter().map(|name| json!(name)).chain([Json::Null]).collect();
                or_reference(json!({"enum": names}))
            }
            Shape::Boolean => or_reference(json!({"type": ["boolean", "null"]})),
            Shape::Integer(least, most) => {
                or_reference(json!({"type": ["integer", "null"], "minimum": least, "maximum": most}))
            }
            Shape::List => {
                let item = self.item.as_ref().map_or(json!(true), |item| item.schema());
                json!({"type": ["array", "null"], "items": item})
            }
            Shape::Section => {
                let keys: serde_json::Map<String, Json> =
                    self.keys.iter().map(|(key, tree)| (key.clone(), tree.schema())).collect();
                json!({"type": ["object", "null"], "properties": keys, "additionalProperties": false})
            }
            Shape::One => json!({"type": ["object", "null"], "minProperties": 1, "maxProperties": 1}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `scripts/docs` regenerates the file.
    #[test]
    fn the_file_is_what_the_code_asks_for() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/schema.json");
        let made = write();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == made, "config/schema.json is not what src/config asks for; run scripts/docs");
    }

    /// The schema has every key that decoding the reference asks for.
    #[test]
    fn every_key_has_its_place() {
        let schema: Json = serde_json::from_str(&write()).unwrap();
        for path in super::super::tests::known() {
            let mut place = &schema;
            for segment in path.split('.') {
                let name = segment.trim_end_matches("[]");
                place = &place["properties"][name];
                if name != segment {
                    place = &place["items"];
                }
            }
            assert!(!place.is_null(), "{path}");
            // Each key has a type, except values whose type something else decides.
            let by_another = path.ends_with(".value") || path.ends_with("file_format");
            assert!(by_another || place != &json!(true), "{path}");
        }
    }
}
