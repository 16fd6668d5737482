//! The walk through the tree: sections and fields that know their path, and what is wrong with them.
//!
//! A decoding function asks a [`Section`] for its fields by name. The names that it asked for are the ones that
//! are known there; whatever else the file has is an error. So there is no second list of keys to keep.
//! For the schema (`schema.rs`) a walk without a file notes what is asked of each.

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

/// Things to log; of very many only the first.
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

/// A walk without a file.
struct Probe {
    /// Whether every key pretends to be there.
    given: bool,
    /// By the paths without the numbers of list items.
    shapes: RefCell<BTreeMap<String, Shape>>,
}

/// What is asked of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Shape {
    /// It may be anything.
    #[default]
    Any,
    String,
    /// One of these.
    Choice(Vec<&'static str>),
    Boolean,
    /// From the one to the other.
    Integer(i64, i64),
    List,
    Section,
    /// A mapping of one key, whichever.
    One,
}

impl Shape {
    /// The one that says more.
    pub(super) fn or(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Any, _) | (Self::String, Self::Choice(_)) => other,
            _ => self,
        }
    }
}

impl Decoder {
    /// For a walk without a file, in which each key pretends to be there or not.
    pub(super) fn probing(given: bool) -> Self {
        Self { probe: Some(Probe { given, shapes: RefCell::default() }), ..Self::new("") }
    }

    /// What was asked of each key in such a walk.
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

    /// `decoded` with the warnings, unless something was wrong.
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

    /// Adds a problem that no field has, such as a variable's.
    pub(super) fn problem(&self, problem: Problem) {
        self.problems.borrow_mut().add(problem.place, || problem);
    }

    /// Adds a problem of the file, which is made only if it has a chance of being told.
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

    /// Adds a warning about the file that no field has.
    pub(super) fn file_warning(&self, warning: &str) {
        self.warnings.borrow_mut().add(|| format!("{}: {warning}", self.name));
    }

    /// The paths of the keys that were asked for, without the numbers of list items.
    #[cfg(test)]
    pub(super) fn known(&self) -> BTreeSet<String> {
        self.known.borrow().clone()
    }
}

/// A key and what stands behind it, if anything does.
#[derive(Clone)]
pub(super) struct Field<'d> {
    decoder: &'d Decoder,
    path: String,
    /// The value's place; where there is none, that of the section that could have it.
    place: Place,
    node: Option<&'d Node>,
    secrecy: Secrecy,
}

/// What messages must not repeat where a value is not of the type that it should be. What a value of the right type
/// may show is known to those who read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Secrecy {
    Public,
    /// The value itself.
    Scalar,
    /// The value and the values in it.
    Values,
    /// The unknown keys in it too.
    KeysAndValues,
}

impl Secrecy {
    /// Of what is in the value.
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

    /// Notes what is asked of it, in a walk without a file.
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

    /// Keeps the value out of messages, and with it the keys that are not known: one may be a value that has lost its
    /// place.
    pub(super) fn secret_with_keys(mut self) -> Self {
        self.secrecy = Secrecy::KeysAndValues;
        self
    }

    /// Keeps the value out of messages where it is not the section that it should be: a header or a URL may stand
    /// there.
    pub(super) fn secret_unless_section(mut self) -> Self {
        self.secrecy = Secrecy::Scalar;
        self
    }

    /// Adds a problem with this field. What comes from a secret variable is not repeated.
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

    /// The string, or none where there is no value or another one.
    pub(super) fn string(&self) -> Option<&'d str> {
        self.note(|| Shape::String);
        let node = self.value()?;
        match &node.value {
            Value::Scalar(Scalar { text, kind: Kind::String, .. }) => Some(text),
            Value::Scalar(_) => {
                self.wrong("string", node, Some("put it in quotes"));
                None
            }
            // `health_status: unhealthy` in a list is the way to get here.
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

    /// The string, made into something by `parse`. Quotes are advised only where they would help.
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

    /// The integer, if `range` has it.
    pub(super) fn integer(&self, range: RangeInclusive<i64>) -> Option<i64> {
        self.number(range, "a whole number without quotes or a unit")
    }

    fn number(&self, range: RangeInclusive<i64>, hint: &str) -> Option<i64> {
        self.note(|| Shape::Integer(*range.start(), *range.end()));
        let node = self.value()?;
        let in_range = |value: i128| i64::try_from(value).ok().filter(|value| range.contains(value));
        let value = match &node.value {
            Value::Scalar(Scalar { kind: Kind::Int(value), .. }) => in_range(*value),
            // Without its quotes it would be out of range.
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

    /// A time in milliseconds, more than none.
    pub(super) fn millis(&self) -> Option<Duration> {
        self.time(1).map(|millis| Duration::from_millis(millis.unsigned_abs()))
    }

    /// A time in milliseconds, or 0.
    pub(super) fn millis_or_zero(&self) -> Option<Duration> {
        self.time(0).map(|millis| Duration::from_millis(millis.unsigned_abs()))
    }

    /// A time in milliseconds, where the standard has 0 for no limit.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.time(0).map(timeout)
    }

    fn time(&self, least: i64) -> Option<i64> {
        self.number(
            least..=MAX_MILLIS,
            "a number of milliseconds without quotes or a unit, for example 5000 for five seconds",
        )
    }

    /// The one of `choices` whose name is given.
    pub(super) fn choice<T: Copy>(&self, what: &str, choices: &[(&'static str, T)]) -> Option<T> {
        self.note(|| Shape::Choice(choices.iter().map(|(name, _)| *name).collect()));
        self.parse(|text| choice(text, what, choices))
    }

    /// The scalar as it is, or none where there is no value or another one.
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

    /// How many keys the mapping has; none where it is not one.
    pub(super) fn key_count(&self) -> Option<usize> {
        let node = self.node?;
        match &node.value {
            Value::Map(entries) => Some(entries.len()),
            _ => is_null(node).then_some(0),
        }
    }

    /// The mapping's keys with their values, where the keys are whatever a user likes.
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

    /// What `decode` makes of the mapping. A key without a value is a mapping without keys; where the key is not
    /// there, or has no mapping, nothing is decoded.
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

    /// The name and the field of the one key that the mapping has, where the standard leaves open which names
    /// there are. `what` says of what it should be one.
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

    /// Reports whatever is not an empty mapping or nothing.
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
                // Without the quotes `not an integer: 8080` would be a riddle.
                Kind::String if expected != "mapping" => {
                    Invalid::value(&what, &format!("{:?}", shown(&scalar.text)))
                }
                _ => Invalid::value(&what, &scalar.text),
            },
        };
        // `key=value` where a section or a list should be is most often a header that has lost its place.
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

/// A mapping whose keys are being asked for.
pub(super) struct Section<'d> {
    field: Field<'d>,
    entries: &'d [Entry],
    /// The names that were asked for.
    accepted: RefCell<Vec<&'static str>>,
    /// Names of which something better is said than that they are unknown.
    refused: RefCell<Vec<&'static str>>,
    /// The accepted names that a hint should list.
    offered: RefCell<Vec<&'static str>>,
}

impl<'d> Section<'d> {
    /// The field of this name, which is known here.
    pub(super) fn field(&self, name: &'static str) -> Field<'d> {
        let path = join(&self.field.path, name);
        self.field.decoder.known.borrow_mut().insert(without_numbers(&path));
        self.offered.borrow_mut().push(name);
        self.entry(name)
    }

    /// The mapping itself, for what is wrong with it as a whole.
    pub(super) fn whole(&self) -> &Field<'d> {
        &self.field
    }

    /// Whether there is no key here.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Accepts a key that is the standard's and does nothing here. Whoever sets it is told so.
    pub(super) fn no_effect(&self, name: &'static str, why: &str) {
        let field = self.entry(name);
        if field.is_given() {
            field.warning(why);
        }
    }

    /// Accepts keys that are the standard's and do nothing here, and returns those that are there.
    pub(super) fn unused(&self, names: &[&'static str]) -> Vec<&'static str> {
        names.iter().copied().filter(|name| self.entry(name).is_present()).collect()
    }

    /// Refuses a key that is the standard's, and says more of it than that it is unknown.
    pub(super) fn refuse(&self, name: &'static str, message: &str, hint: &str) {
        self.refused.borrow_mut().push(name);
        let field = self.lookup(name);
        if field.is_present() {
            field.problem(Invalid::new(message).hint(hint));
        }
    }

    /// The keys of older versions of the schema: each with what to write today.
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
                // A secret where a key should be: `- token` with a colon at its end.
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
