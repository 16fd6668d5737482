//! The walk through the tree: sections and fields, which know their path and collect problems.
//!
//! A decoding function asks a [`Section`] for its fields by name. These names are the known keys; any other key in
//! the file is an error. So there is no second list of keys to keep. For the schema (`schema.rs`), a walk without a
//! file records the type that each key is asked for.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::{Error, Invalid, MAX_TOLD, Place, Problem, Problems, listed, nearest, shown};
use super::values::{MAX_MILLIS, choice, timeout};
use super::yaml::{Entry, Kind, Node, Scalar, Value, join, resolve};

/// Collects what a walk finds.
pub(super) struct Decoder {
    name: String,
    problems: RefCell<Problems>,
    warnings: RefCell<Warnings>,
    known: RefCell<BTreeSet<String>>,
    probe: Option<Probe>,
}

/// Warnings to log; only the first if there are very many.
#[derive(Default)]
struct Warnings {
    told: Vec<String>,
    more: usize,
}

impl Warnings {
    fn add(&mut self, make: impl FnOnce() -> String) {
        if self.told.len() < MAX_TOLD {
            self.told.push(make());
        } else {
            self.more += 1;
        }
    }
}

/// The record of a walk without a file.
struct Probe {
    /// Whether every key counts as present.
    given: bool,
    /// The types, by the keys' paths without the indices of list items.
    shapes: RefCell<BTreeMap<String, Shape>>,
}

/// The type that a key is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Shape {
    /// It may be anything.
    #[default]
    Any,
    String,
    /// One of these.
    Choice(Vec<&'static str>),
    Boolean,
    /// From a minimum to a maximum.
    Integer(i64, i64),
    List,
    Section,
    /// A mapping with exactly one key, of any name.
    One,
}

impl Shape {
    /// The more specific type of the two.
    pub(super) fn or(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Any, _) | (Self::String, Self::Choice(_)) => other,
            _ => self,
        }
    }
}

impl Decoder {
    /// For a walk without a file, in which every key counts as present, or none does.
    pub(super) fn probing(given: bool) -> Self {
        Self { probe: Some(Probe { given, shapes: RefCell::default() }), ..Self::new("") }
    }

    /// The type that each key was asked for in such a walk.
    pub(super) fn shapes(self) -> BTreeMap<String, Shape> {
        self.probe.map(|probe| probe.shapes.into_inner()).unwrap_or_default()
    }

    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            problems: RefCell::default(),
            warnings: RefCell::default(),
            known: RefCell::default(),
            probe: None,
        }
    }

    /// The tree's root, to be read as a section.
    pub(super) fn root<'d>(&'d self, node: &'d Node) -> Field<'d> {
        Field {
            decoder: self,
            path: String::new(),
            place: node.place,
            node: Some(node),
            secrecy: Secrecy::Public,
        }
    }

    /// Returns `decoded` with the warnings, or an error if there was any problem.
    pub(super) fn finish<T>(self, decoded: T) -> Result<(T, Vec<String>), Error> {
        let problems = self.problems.into_inner();
        if !problems.is_empty() {
            return Err(problems.into_error());
        }
        let Warnings { mut told, more } = self.warnings.into_inner();
        if more > 0 {
            told.push(format!("{}: and {more} more warnings", self.name));
        }
        Ok((decoded, told))
    }

    /// Adds a problem that belongs to no field, such as a variable's.
    pub(super) fn problem(&self, problem: Problem) {
        self.problems.borrow_mut().add(problem.place, || problem);
    }

    /// Adds a problem of the file. `make` is called only if the problem may be reported.
    fn problem_at(&self, place: Place, make: impl FnOnce() -> (String, Invalid)) {
        self.problems.borrow_mut().add(Some(place), || {
            let (subject, invalid) = make();
            Problem { file: Some(self.name.clone()), place: Some(place), subject, invalid }
        });
    }

    /// Adds a warning that is not about the file, such as a variable's.
    pub(super) fn warning(&self, warning: String) {
        self.warnings.borrow_mut().add(|| warning);
    }

    /// Adds a warning about the file that belongs to no field.
    pub(super) fn file_warning(&self, warning: &str) {
        self.warnings.borrow_mut().add(|| format!("{}: {warning}", self.name));
    }

    /// The paths of the keys that were asked for, without the indices of list items.
    #[cfg(test)]
    pub(super) fn known(&self) -> BTreeSet<String> {
        self.known.borrow().clone()
    }
}

/// A key and its value, if there is one.
#[derive(Clone)]
pub(super) struct Field<'d> {
    decoder: &'d Decoder,
    path: String,
    /// The value's place; without a value, the place of the section.
    place: Place,
    node: Option<&'d Node>,
    secrecy: Secrecy,
}

/// What messages must not show if a value has the wrong type. If the type is right, the code that reads the value
/// decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Secrecy {
    Public,
    /// The value itself.
    Scalar,
    /// The value and the values inside it.
    Values,
    /// The value, and the values and unknown keys inside it.
    KeysAndValues,
}

impl Secrecy {
    /// The secrecy of what is inside the value.
    fn inside(self) -> Self {
        if self == Self::Scalar { Self::Public } else { self }
    }
}

impl<'d> Field<'d> {
    /// Whether the key is there, with a value or without.
    pub(super) fn is_present(&self) -> bool {
        self.node.is_some() || self.pretends()
    }

    /// Whether the key is there with a value.
    pub(super) fn is_given(&self) -> bool {
        self.node.is_some_and(|node| !is_null(node)) || self.pretends()
    }

    fn pretends(&self) -> bool {
        self.decoder.probe.as_ref().is_some_and(|probe| probe.given)
    }

    /// Records the type that is asked for, in a walk without a file.
    fn note(&self, shape: impl FnOnce() -> Shape) {
        if let Some(probe) = &self.decoder.probe {
            let mut shapes = probe.shapes.borrow_mut();
            let known = shapes.entry(without_numbers(&self.path)).or_default();
            *known = std::mem::take(known).or(shape());
        }
    }

    /// Keeps the value out of messages about its type.
    pub(super) fn secret(mut self) -> Self {
        self.secrecy = Secrecy::Values;
        self
    }

    /// Keeps the value out of messages, and the unknown keys inside it: one may be a misplaced value.
    pub(super) fn secret_with_keys(mut self) -> Self {
        self.secrecy = Secrecy::KeysAndValues;
        self
    }

    /// Keeps the value out of messages if it is not a section: it may be a header or a URL.
    pub(super) fn secret_unless_section(mut self) -> Self {
        self.secrecy = Secrecy::Scalar;
        self
    }

    /// Adds a problem with this field. A value from a secret variable is not shown.
    pub(super) fn problem(&self, invalid: Invalid) {
        let is_secret =
            matches!(self.node, Some(Node { value: Value::Scalar(Scalar { is_secret: true, .. }), .. }));
        let invalid = if is_secret { invalid.without_value() } else { invalid };
        self.decoder.problem_at(self.place, || (self.path.clone(), invalid));
    }

    /// Adds a warning about this field.
    pub(super) fn warning(&self, message: &str) {
        let Place { line, column } = self.place;
        let warning = || format!("{}:{line}:{column}: {}: {message}", self.decoder.name, self.path);
        self.decoder.warnings.borrow_mut().add(warning);
    }

    /// The string; `None` if there is no value or it is not a string.
    pub(super) fn string(&self) -> Option<&'d str> {
        self.note(|| Shape::String);
        let node = self.value()?;
        match &node.value {
            Value::Scalar(Scalar { text, kind: Kind::String, .. }) => Some(text),
            Value::Scalar(_) => {
                self.wrong("string", node, Some("put it in quotes"));
                None
            }
            // For example `health_status: unhealthy` in a list, without quotes.
            Value::Map(_) => {
                self.wrong(
                    "string",
                    node,
                    Some("a colon with a space after it needs quotes around the whole"),
                );
                None
            }
            Value::List(_) => {
                self.wrong("string", node, None);
                None
            }
        }
    }

    /// The string, parsed by `parse`. The hint advises quotes only if they would help.
    pub(super) fn parse<T>(&self, parse: impl FnOnce(&str) -> Result<T, Invalid>) -> Option<T> {
        self.note(|| Shape::String);
        let unquoted = match self.scalar() {
            Some(Scalar { kind: Kind::String, .. }) | None => None,
            Some(scalar) => Some(scalar),
        };
        match unquoted {
            None => parse(self.string()?).map_err(|invalid| self.problem(invalid)).ok(),
            Some(scalar) => {
                match parse(&scalar.text) {
                    Ok(_) => _ = self.string(),
                    Err(invalid) => self.problem(invalid),
                }
                None
            }
        }
    }

    /// The boolean.
    pub(super) fn boolean(&self) -> Option<bool> {
        self.note(|| Shape::Boolean);
        let node = self.value()?;
        if let Value::Scalar(Scalar { kind: Kind::Bool(value), .. }) = node.value {
            return Some(value);
        }
        self.wrong("boolean", node, Some("true or false, without quotes"));
        None
    }

    /// The integer, if it is within `range`.
    pub(super) fn integer(&self, range: RangeInclusive<i64>) -> Option<i64> {
        self.number(range, "a whole number without quotes or a unit")
    }

    fn number(&self, range: RangeInclusive<i64>, hint: &str) -> Option<i64> {
        self.note(|| Shape::Integer(*range.start(), *range.end()));
        let node = self.value()?;
        let in_range = |value: i128| i64::try_from(value).ok().filter(|value| range.contains(value));
        let value = match &node.value {
            Value::Scalar(Scalar { kind: Kind::Int(value), .. }) => in_range(*value),
            // Removing the quotes would not help: the number is out of range.
            Value::Scalar(Scalar { kind: Kind::String, text, .. }) if matches!(resolve(text), Kind::Int(value) if in_range(value).is_none()) => {
                None
            }
            _ => {
                self.wrong("integer", node, Some(hint));
                return None;
            }
        };
        if let (None, Value::Scalar(Scalar { text, .. })) = (value, &node.value) {
            self.problem(Invalid::value("out of range", text).hint(format!(
                "from {} to {}",
                range.start(),
                range.end()
            )));
        }
        value
    }

    /// A time in milliseconds, greater than 0.
    pub(super) fn millis(&self) -> Option<Duration> {
        self.time(1).map(|millis| Duration::from_millis(millis.unsigned_abs()))
    }

    /// A time in milliseconds; 0 is allowed.
    pub(super) fn millis_or_zero(&self) -> Option<Duration> {
        self.time(0).map(|millis| Duration::from_millis(millis.unsigned_abs()))
    }

    /// A time limit in milliseconds; 0 means no limit, as in the standard.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.time(0).map(timeout)
    }

    fn time(&self, least: i64) -> Option<i64> {
        self.number(
            least..=MAX_MILLIS,
            "a number of milliseconds without quotes or a unit, for example 5000 for five seconds",
        )
    }

    /// The choice whose name is given.
    pub(super) fn choice<T: Copy>(&self, what: &str, choices: &[(&'static str, T)]) -> Option<T> {
        self.note(|| Shape::Choice(choices.iter().map(|(name, _)| *name).collect()));
        self.parse(|text| choice(text, what, choices))
    }

    /// The scalar; `None` if there is no value or it is not a scalar.
    pub(super) fn scalar(&self) -> Option<&'d Scalar> {
        match &self.value()?.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// The list's items. `[]` is a list without any.
    pub(super) fn items(&self) -> Option<Vec<Field<'d>>> {
        self.note(|| Shape::List);
        if self.decoder.probe.is_some() {
            return Some(vec![Field { path: format!("{}[0]", self.path), ..self.clone() }]);
        }
        let node = self.value()?;
        let Value::List(items) = &node.value else {
            self.wrong("list", node, Some("items in [], or each on a line of its own with - before it"));
            return None;
        };
        let field = |(i, node): (usize, &'d Node)| Field {
            decoder: self.decoder,
            path: format!("{}[{i}]", self.path),
            place: node.place,
            node: Some(node),
            secrecy: self.secrecy.inside(),
        };
        Some(items.iter().enumerate().map(field).collect())
    }

    /// Whether the mapping has this key, with a value.
    pub(super) fn has(&self, key: &str) -> bool {
        let Some(Node { value: Value::Map(entries), .. }) = self.node else { return false };
        entries.iter().any(|entry| entry.key == key && !is_null(&entry.node))
    }

    /// How many keys the mapping has; `None` if it is not a mapping.
    pub(super) fn key_count(&self) -> Option<usize> {
        let node = self.node?;
        match &node.value {
            Value::Map(entries) => Some(entries.len()),
            _ => is_null(node).then_some(0),
        }
    }

    /// The keys and values of a mapping whose keys the user chooses.
    pub(super) fn entries(&self) -> Option<Vec<(&'d str, Field<'d>)>> {
        let node = self.value()?;
        let Value::Map(entries) = &node.value else {
            self.wrong("mapping", node, Some("keys with values are expected here"));
            return None;
        };
        let field = |entry: &'d Entry| {
            let field = Field {
                decoder: self.decoder,
                path: join(&self.path, &entry.key),
                place: entry.node.place,
                node: Some(&entry.node),
                secrecy: self.secrecy.inside(),
            };
            (entry.key.as_str(), field)
        };
        Some(entries.iter().map(field).collect())
    }

    /// Decodes the mapping with `decode`. A key without a value is an empty mapping. If the key is missing or is not
    /// a mapping, nothing is decoded.
    pub(super) fn section<T>(&self, decode: impl FnOnce(&Section<'d>) -> T) -> Option<T> {
        self.note(|| Shape::Section);
        let entries: &'d [Entry] = match self.node {
            None if self.decoder.probe.is_some() => &[],
            None => return None,
            Some(node) => match &node.value {
                Value::Map(entries) => entries,
                _ if is_null(node) => &[],
                _ => {
                    self.wrong("mapping", node, Some("keys with values are expected here"));
                    return None;
                }
            },
        };
        let section = Section {
            field: self.clone(),
            entries,
            accepted: RefCell::default(),
            refused: RefCell::default(),
            offered: RefCell::default(),
        };
        let decoded = decode(&section);
        section.finish();
        Some(decoded)
    }

    /// The name and the field of a mapping's only key, where the standard allows any name. `what` says in messages
    /// what the key names.
    pub(super) fn one_of(&self, what: &str, example: &str) -> Option<(&'d str, Field<'d>)> {
        self.note(|| Shape::One);
        let node = self.value();
        let Some(Value::Map(entries)) = node.map(|node| &node.value) else {
            match node {
                Some(node) => self.wrong("mapping", node, Some(&format!("for example {example}"))),
                None => self.problem(
                    Invalid::new(format!("no {what} is named")).hint(format!("for example {example}")),
                ),
            }
            return None;
        };
        let [entry] = entries.as_slice() else {
            self.problem(
                Invalid::new(format!("not exactly one {what}"))
                    .hint(format!("one in each item, for example {example}")),
            );
            return None;
        };
        let field = Field {
            decoder: self.decoder,
            path: join(&self.path, &entry.key),
            place: entry.node.place,
            node: Some(&entry.node),
            secrecy: self.secrecy.inside(),
        };
        Some((&entry.key, field))
    }

    /// Reports any value except an empty mapping.
    pub(super) fn nothing(&self) {
        self.section(|_| ());
    }

    fn value(&self) -> Option<&'d Node> {
        self.node.filter(|node| !is_null(node))
    }

    fn wrong(&self, expected: &str, node: &Node, hint: Option<&str>) {
        let article = if expected == "integer" { "an" } else { "a" };
        let what = format!("not {article} {expected}");
        let invalid = match &node.value {
            Value::List(_) => Invalid::new(format!("{what}: a list")),
            Value::Map(_) => Invalid::new(format!("{what}: a mapping")),
            Value::Scalar(scalar) => match scalar.kind {
                // Shown with quotes: without them, `not an integer: 8080` would be a riddle.
                Kind::String if expected != "mapping" => {
                    Invalid::value(&what, &format!("{:?}", shown(&scalar.text)))
                }
                _ => Invalid::value(&what, &scalar.text),
            },
        };
        // `key=value` instead of a section or a list is most often a misplaced header.
        let is_pair = matches!(expected, "mapping" | "list")
            && matches!(&node.value, Value::Scalar(scalar) if scalar.text.contains('='));
        let is_public = self.secrecy == Secrecy::Public && !is_pair;
        let invalid = if is_public { invalid } else { invalid.without_value() };
        self.problem(match hint {
            Some(hint) => invalid.hint(hint),
            None => invalid,
        });
    }
}

/// A mapping that is being decoded.
pub(super) struct Section<'d> {
    field: Field<'d>,
    entries: &'d [Entry],
    /// The names that were asked for.
    accepted: RefCell<Vec<&'static str>>,
    /// Names with a better message than that they are unknown.
    refused: RefCell<Vec<&'static str>>,
    /// The accepted names that a hint should list.
    offered: RefCell<Vec<&'static str>>,
}

impl<'d> Section<'d> {
    /// The field of this name, which becomes a known key.
    pub(super) fn field(&self, name: &'static str) -> Field<'d> {
        let path = join(&self.field.path, name);
        self.field.decoder.known.borrow_mut().insert(without_numbers(&path));
        self.offered.borrow_mut().push(name);
        self.entry(name)
    }

    /// The mapping itself, for problems with it as a whole.
    pub(super) fn whole(&self) -> &Field<'d> {
        &self.field
    }

    /// Whether the mapping has no keys.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Accepts a key of the standard that has no effect here, and warns if it is set.
    pub(super) fn no_effect(&self, name: &'static str, why: &str) {
        let field = self.entry(name);
        if field.is_given() {
            field.warning(why);
        }
    }

    /// Accepts keys of the standard that have no effect here, and returns those that are present.
    pub(super) fn unused(&self, names: &[&'static str]) -> Vec<&'static str> {
        names.iter().copied().filter(|name| self.entry(name).is_present()).collect()
    }

    /// Refuses a key of the standard, with a better message than that it is unknown.
    pub(super) fn refuse(&self, name: &'static str, message: &str, hint: &str) {
        self.refused.borrow_mut().push(name);
        let field = self.lookup(name);
        if field.is_present() {
            field.problem(Invalid::new(message).hint(hint));
        }
    }

    /// Refuses the keys of older versions of the schema, each with a hint what to write today.
    pub(super) fn renamed(&self, renamed: &[(&'static str, &str)]) {
        for (old, hint) in renamed {
            self.refused.borrow_mut().push(old);
            let Some(entry) = self.entries.iter().find(|entry| entry.key == *old) else { continue };
            let problem = || (join(&self.field.path, old), Invalid::new("unknown key").hint(*hint));
            self.field.decoder.problem_at(entry.place, problem);
        }
    }

    fn entry(&self, name: &'static str) -> Field<'d> {
        self.accepted.borrow_mut().push(name);
        let field = self.lookup(name);
        field.note(|| Shape::Any);
        field
    }

    fn lookup(&self, name: &'static str) -> Field<'d> {
        let entry = self.entries.iter().find(|entry| entry.key == name);
        Field {
            decoder: self.field.decoder,
            path: join(&self.field.path, name),
            place: entry.map_or(self.field.place, |entry| entry.node.place),
            node: entry.map(|entry| &entry.node),
            secrecy: self.field.secrecy.inside(),
        }
    }

    /// Reports the keys that nobody asked for.
    fn finish(self) {
        let Self { field, entries, accepted, refused, offered } = self;
        let (accepted, refused, offered) =
            (accepted.into_inner(), refused.into_inner(), offered.into_inner());
        let known = |key: &str| accepted.contains(&key) || refused.contains(&key);
        let is_here = |name: &str| entries.iter().any(|entry| entry.key == name);
        for entry in entries.iter().filter(|entry| !known(&entry.key)) {
            field.decoder.problem_at(entry.place, || {
                let hint = match nearest(&entry.key, &accepted) {
                    Some(name) if is_here(name) => format!("leave it out; {name} is here already"),
                    Some(name) => format!("did you mean {name}?"),
                    None if offered.is_empty() => "leave it out; there are no keys here".into(),
                    None => format!("known here: {}", listed(&offered)),
                };
                // The key may be a secret, such as `- token` with a colon at its end.
                let subject = if field.secrecy == Secrecy::KeysAndValues {
                    field.path.clone()
                } else {
                    join(&field.path, &entry.key)
                };
                let message = if field.secrecy == Secrecy::KeysAndValues {
                    "unknown key (it is not shown)"
                } else {
                    "unknown key"
                };
                (subject, Invalid::new(message).hint(hint))
            });
        }
    }
}

fn is_null(node: &Node) -> bool {
    matches!(node.value, Value::Scalar(Scalar { kind: Kind::Null, .. }))
}

fn without_numbers(path: &str) -> String {
    let mut output = String::with_capacity(path.len());
    let mut inside = false;
    for c in path.chars() {
        inside = match c {
            '[' => true,
            ']' => false,
            _ => inside,
        };
        if !inside || c == '[' {
            output.push(c);
        }
    }
    output
}
