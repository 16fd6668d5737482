//! YAML text to a tree in which every value knows its place, with references to variables replaced.
//!
//! serde's data model has neither places nor the difference between `1` and `"1"`, which decides what a
//! replaced reference may become. So this works on the parser's events.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag, options};

use super::error::{Invalid, Place, Problem, shown};
use super::substitution::{Environment, substitute};

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// A value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A scalar: its text after substitution, and what the core schema makes of it.
#[derive(Debug, Clone)]
pub(super) struct Scalar {
    pub(super) text: String,
    pub(super) kind: Kind,
}

/// The types of YAML 1.2's core schema. `yes` and `on` are strings there, not booleans.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    String,
}

/// A key with its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) node: Node,
}

/// What anchors and aliases may stand for, in bytes: a few lines of nested ones would fill the memory otherwise.
const BUDGET: usize = 16 << 20;

/// The tree of `text`, or all that is wrong with its YAML and its references.
pub(super) fn parse(name: &str, text: &str, env: &Environment<'_>) -> Result<Node, Vec<Problem>> {
    parse_with(name, text, Some(env))
}

/// The same of a text in which nothing is a reference.
pub(super) fn parse_verbatim(name: &str, text: &str) -> Result<Node, Vec<Problem>> {
    parse_with(name, text, None)
}

fn parse_with(name: &str, text: &str, env: Option<&Environment<'_>>) -> Result<Node, Vec<Problem>> {
    let parser = Parser::new_from_str_with_options(text, options! { emit_comments: false });
    let mut builder =
        Builder { name, text, env, parser, anchors: HashMap::new(), size: 0, problems: Vec::new() };
    match builder.document() {
        Ok(root) if builder.problems.is_empty() => Ok(root),
        Ok(_) => Err(builder.problems),
        Err(problem) => {
            builder.problems.push(problem);
            Err(builder.problems)
        }
    }
}

struct Builder<'a> {
    name: &'a str,
    text: &'a str,
    /// Where references look; none are looked for without it.
    env: Option<&'a Environment<'a>>,
    parser: Parser<'a, StrInput<'a>>,
    /// Finished nodes by their anchor's id.
    anchors: HashMap<usize, Node>,
    /// What of [`BUDGET`] is spent.
    size: usize,
    problems: Vec<Problem>,
}

impl<'a> Builder<'a> {
    fn document(&mut self) -> Result<Node, Problem> {
        let start = Place { line: 1, column: 1 };
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(..) if root.is_some() => {
                    return Err(self.problem(
                        place(&span),
                        "",
                        Invalid::new("a second document").hint("a configuration is one document"),
                    ));
                }
                Event::DocumentStart(..) => {
                    let (event, span) = self.next()?;
                    root = Some(self.node(event, &span, "", place(&span))?);
                }
                // A file of comments, or of nothing, asks for the defaults.
                Event::StreamEnd => return Ok(root.unwrap_or_else(|| null(start))),
                _ => {
                    return Err(self.problem(place(&span), "", Invalid::new("not a document")));
                }
            }
        }
    }

    /// The node that `event` begins. `path` is the key's; `fallback` the place of a value that is left out.
    fn node(&mut self, event: Event<'a>, span: &Span, path: &str, fallback: Place) -> Result<Node, Problem> {
        let at = place(span);
        let (anchor, node) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                // A value that is left out has no place of its own, and the parser writes ~ for it.
                let (text, at) =
                    if span.start.index() == span.end.index() { ("", fallback) } else { (&*text, at) };
                (anchor, self.scalar(text, style, tag.as_deref(), path, at))
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.collection_tag(tag.as_deref(), "seq", path, at);
                (anchor, self.list(path, at)?)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.collection_tag(tag.as_deref(), "map", path, at);
                (anchor, self.map(path, at)?)
            }
            Event::Alias(id) => {
                let Some(size) = self.anchors.get(&id).map(size) else {
                    return Err(self.problem(
                        at,
                        path,
                        Invalid::new("an alias inside of what it stands for"),
                    ));
                };
                self.spend(size, path, at)?;
                (0, self.anchors.get(&id).cloned().unwrap_or_else(|| null(at)))
            }
            _ => return Err(self.problem(at, path, Invalid::new("not a value"))),
        };
        if anchor != 0 {
            self.spend(size(&node), path, at)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn spend(&mut self, size: usize, path: &str, at: Place) -> Result<(), Problem> {
        self.size = self.size.saturating_add(size);
        if self.size > BUDGET {
            return Err(self.problem(at, path, Invalid::new("the aliases stand for too much")));
        }
        Ok(())
    }

    fn list(&mut self, path: &str, at: Place) -> Result<Node, Problem> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Node { place: at, value: Value::List(items) });
            }
            let path = format!("{path}[{}]", items.len());
            items.push(self.node(event, &span, &path, place(&span))?);
        }
    }

    fn map(&mut self, path: &str, at: Place) -> Result<Node, Problem> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let key_place = place(&span);
            let key = match event {
                Event::MappingEnd => return Ok(Node { place: at, value: Value::Map(entries) }),
                // Keys are not searched for references.
                Event::Scalar(text, ..) => text.into_owned(),
                _ => {
                    return Err(self.problem(key_place, path, Invalid::new("a key that is not a string")));
                }
            };
            let key_path = join(path, &key);
            let (event, span) = self.next()?;
            let node = self.node(event, &span, &key_path, key_place)?;
            if let Some(first) = entries.iter().find(|e| e.key == key) {
                let invalid = Invalid::new("the key stands here a second time")
                    .hint(format!("the first is in line {}", first.place.line));
                let problem = self.problem(key_place, &key_path, invalid);
                self.problems.push(problem);
                continue;
            }
            entries.push(Entry { key, place: key_place, node });
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, path: &str, at: Place) -> Node {
        let text = match self.env.map_or_else(|| Ok(text.to_owned()), |env| substitute(text, env)) {
            Ok(text) => text,
            Err(invalid) => {
                let problem = self.problem(at, path, invalid);
                self.problems.push(problem);
                return null(at);
            }
        };
        let kind = match tag {
            None if style == ScalarStyle::Plain => resolve(&text),
            None => Kind::String,
            Some(tag) if tag.is_yaml_core_schema_tag("str") || tag.original() == "!" => Kind::String,
            Some(tag) => {
                let kind = resolve(&text);
                let fits = match kind {
                    Kind::Null => tag.is_yaml_core_schema_tag("null"),
                    Kind::Bool(_) => tag.is_yaml_core_schema_tag("bool"),
                    Kind::Int(_) => {
                        tag.is_yaml_core_schema_tag("int") || tag.is_yaml_core_schema_tag("float")
                    }
                    Kind::Float(_) => tag.is_yaml_core_schema_tag("float"),
                    Kind::String => false,
                };
                if !fits {
                    self.bad_tag(tag, path, at);
                }
                kind
            }
        };
        Node { place: at, value: Value::Scalar(Scalar { text, kind }) }
    }

    fn collection_tag(&mut self, tag: Option<&Tag>, expected: &str, path: &str, at: Place) {
        if let Some(tag) = tag
            && !tag.is_yaml_core_schema_tag(expected)
            && tag.original() != "!"
        {
            self.bad_tag(tag, path, at);
        }
    }

    fn bad_tag(&mut self, tag: &Tag, path: &str, at: Place) {
        let invalid = Invalid::value("a tag that the value does not fit", &tag.original())
            .hint("leave the tag out; quotes make a string of a value");
        let problem = self.problem(at, path, invalid);
        self.problems.push(problem);
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => {
                let marker = error.marker();
                let at = Place { line: marker.line(), column: marker.col() + 1 };
                let mut invalid = Invalid::new(format!("not YAML: {}", shown(&error.info())));
                let line = self.text.lines().nth(at.line.saturating_sub(1)).unwrap_or_default();
                if line.contains('\t') && line.trim_start_matches(' ').starts_with('\t') {
                    invalid = invalid.hint("YAML takes spaces for indentation, not tabs");
                } else if line.contains("${") && self.env.is_some() {
                    invalid = invalid.hint("inside of [] and {} a reference needs quotes: \"${NAME}\"");
                }
                Err(self.problem(at, "", invalid))
            }
            None => {
                Err(self.problem(Place { line: 1, column: 1 }, "", Invalid::new("not YAML: it ends early")))
            }
        }
    }

    fn problem(&self, at: Place, path: &str, invalid: Invalid) -> Problem {
        Problem { file: Some(self.name.into()), place: Some(at), subject: path.into(), invalid }
    }
}

fn place(span: &Span) -> Place {
    Place { line: span.start.line(), column: span.start.col() + 1 }
}

fn null(place: Place) -> Node {
    Node { place, value: Value::Scalar(Scalar { text: String::new(), kind: Kind::Null }) }
}

/// A key's path.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn size(node: &Node) -> usize {
    let own = std::mem::size_of::<Node>();
    own + match &node.value {
        Value::Scalar(scalar) => scalar.text.len(),
        Value::List(items) => items.iter().map(size).sum(),
        Value::Map(entries) => entries.iter().map(|e| e.key.len() + own + size(&e.node)).sum(),
    }
}

/// What the core schema makes of an unquoted scalar.
fn resolve(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" => return Kind::Bool(true),
        "false" | "False" | "FALSE" => return Kind::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Kind::Float(f64::NAN),
        _ => {}
    }
    let (negative, unsigned) = match text.strip_prefix(['+', '-']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return Kind::Float(if negative { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    // Other than Rust, the core schema takes a sign before decimal digits only.
    let radix = |prefix: &str, radix: u32| {
        let digits = text.strip_prefix(prefix)?;
        let sound = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
        sound.then(|| i128::from_str_radix(digits, radix).ok())?
    };
    if let Some(int) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return Kind::Int(int);
    }
    if !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit()) {
        if let Ok(int) = text.parse() {
            return Kind::Int(int);
        }
    } else if !float(unsigned) {
        return Kind::String;
    }
    text.parse().map_or(Kind::String, Kind::Float)
}

/// Whether `text`, which has no sign, is a float of the core schema: Rust's own grammar also takes `infinity`.
fn float(text: &str) -> bool {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_is_sound = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['+', '-']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty()) && exponent_is_sound
}
