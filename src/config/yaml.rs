//! Parses YAML text into a tree in which every value has its place, and replaces references to variables.
//!
//! serde's data model has neither places nor the difference between `1` and `"1"`, which decides what a
//! replaced reference may become. So this works on the parser's events.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag, options};

use super::error::{Error, Invalid, Place, Problem, Problems, shown, shown_key};
use super::substitution::{BadReference, Environment, Substituted, substitute};

/// A value and its place.
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
    /// Whether it may hold a secret, whatever its key: it refers to a variable whose name suggests one, or it is
    /// unquoted and spans several lines, so that it may include a following line whose colon is missing.
    pub(super) is_secret: bool,
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

/// The most bytes that aliases may expand to: otherwise a few lines of nested ones would fill the memory.
const BUDGET: usize = 16 << 20;

/// How deep mappings and lists may be nested: twice as deep as any key is.
const MAX_DEPTH: usize = 32;

/// Keys whose values may be secret, whole or in part. Messages do not repeat them.
const SECRET: [&str; 7] = ["headers", "headers_list", "endpoint", "host", "basic_auth_users", "cert", "key"];

/// Parses `text` into a tree, or returns every problem with its YAML and its references.
pub(super) fn parse(name: &str, text: &str, env: &Environment<'_>) -> Result<Node, Error> {
    parse_with(name, text, Some(env))
}

/// The same for a text in which nothing is a reference.
pub(super) fn parse_verbatim(name: &str, text: &str) -> Result<Node, Error> {
    parse_with(name, text, None)
}

fn parse_with(name: &str, text: &str, env: Option<&Environment<'_>>) -> Result<Node, Error> {
    let options = options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let parser = Parser::new_from_str_with_options(text, options);
    let mut builder =
        Builder { name, text, env, parser, anchors: HashMap::new(), size: 0, problems: Problems::default() };
    match builder.document() {
        Ok(root) if builder.problems.is_empty() => Ok(root),
        Ok(_) => Err(builder.problems.into_error()),
        Err(problem) => {
            builder.problems.add(problem.place, || problem);
            Err(builder.problems.into_error())
        }
    }
}

/// The key's path, as messages show it, and whether its value may be secret.
struct Context {
    path: String,
    is_secret: bool,
}

impl Context {
    fn root() -> Self {
        Self { path: String::new(), is_secret: false }
    }

    fn key(&self, key: &str) -> Self {
        Self { path: join(&self.path, key), is_secret: self.is_secret || SECRET.contains(&key) }
    }

    fn item(&self, index: usize) -> Self {
        Self { path: format!("{}[{index}]", self.path), is_secret: self.is_secret }
    }
}

struct Builder<'a> {
    name: &'a str,
    text: &'a str,
    /// The environment for references; `None` if they are not replaced.
    env: Option<&'a Environment<'a>>,
    parser: Parser<'a, StrInput<'a>>,
    /// Finished nodes by their anchor's id.
    anchors: HashMap<usize, Node>,
    /// How much of [`BUDGET`] is spent.
    size: usize,
    problems: Problems,
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
                        &Context::root(),
                        Invalid::new("a second document").hint("a configuration is one document"),
                    ));
                }
                Event::DocumentStart(..) => {
                    let (event, span) = self.next()?;
                    root = Some(self.node(event, &span, &Context::root(), place(&span))?);
                }
                // An empty file, or one of comments only, means the defaults.
                Event::StreamEnd => return Ok(root.unwrap_or_else(|| null(start))),
                _ => {
                    return Err(self.problem(place(&span), &Context::root(), Invalid::new("not a document")));
                }
            }
        }
    }

    /// Builds the node that `event` begins. `fallback` is its place if the value is missing.
    fn node(
        &mut self,
        event: Event<'a>,
        span: &Span,
        context: &Context,
        fallback: Place,
    ) -> Result<Node, Problem> {
        let at = place(span);
        let (anchor, node) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_folded = style == ScalarStyle::Plain && span.start.line() != span.end.line();
                // A missing value has no place of its own, and the parser reports it as ~.
                let (text, at) =
                    if span.start.index() == span.end.index() { ("", fallback) } else { (&*text, at) };
                (anchor, self.scalar(text, style, tag.as_deref(), context, at, is_folded))
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.collection_tag(tag.as_deref(), "seq", context, at);
                (anchor, self.list(context, at)?)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.collection_tag(tag.as_deref(), "map", context, at);
                (anchor, self.map(context, at)?)
            }
            Event::Alias(id) => {
                let Some(size) = self.anchors.get(&id).map(size) else {
                    return Err(self.problem(
                        at,
                        context,
                        Invalid::new("an alias inside of what it stands for")
                            .hint("write the value out, or put the anchor & at something else"),
                    ));
                };
                self.spend(size, context, at)?;
                (0, self.anchors.get(&id).cloned().unwrap_or_else(|| null(at)))
            }
            _ => return Err(self.problem(at, context, Invalid::new("not a value"))),
        };
        if anchor != 0 {
            self.spend(size(&node), context, at)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn spend(&mut self, size: usize, context: &Context, at: Place) -> Result<(), Problem> {
        self.size = self.size.saturating_add(size);
        if self.size > BUDGET {
            return Err(self.problem(
                at,
                context,
                Invalid::new("the aliases stand for too much").hint("write out what they stand for"),
            ));
        }
        Ok(())
    }

    fn list(&mut self, context: &Context, at: Place) -> Result<Node, Problem> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Node { place: at, value: Value::List(items) });
            }
            items.push(self.node(event, &span, &context.item(items.len()), place(&span))?);
        }
    }

    fn map(&mut self, context: &Context, at: Place) -> Result<Node, Problem> {
        let mut entries: Vec<Entry> = Vec::new();
        // The line on which each key occurs first.
        let mut lines: HashMap<String, usize> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            let key_place = place(&span);
            let key = match event {
                Event::MappingEnd => return Ok(Node { place: at, value: Value::Map(entries) }),
                // Keys are not searched for references.
                Event::Scalar(text, ..) => text.into_owned(),
                _ => {
                    return Err(self.problem(
                        key_place,
                        context,
                        Invalid::new("a key that is not a string")
                            .hint("a key is a word; inside of [] and {} a value with {} or [] needs quotes"),
                    ));
                }
            };
            let key_context = context.key(&key);
            let (event, span) = self.next()?;
            let node = self.node(event, &span, &key_context, key_place)?;
            if let Some(first) = lines.get(&key) {
                let invalid = Invalid::new("the key stands here a second time")
                    .hint(format!("the first is in line {first}; keep one of them"));
                self.add(key_place, &key_context, invalid);
                continue;
            }
            lines.insert(key.clone(), key_place.line);
            entries.push(Entry { key, place: key_place, node });
        }
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        tag: Option<&Tag>,
        context: &Context,
        at: Place,
        is_folded: bool,
    ) -> Node {
        let substituted = match self.env {
            Some(env) => substitute(text, env),
            None => Ok(Substituted { text: text.to_owned(), has_secret: false }),
        };
        let (text, has_secret) = match substituted {
            Ok(Substituted { text, has_secret }) => (text, has_secret),
            Err(BadReference(reference)) => {
                let invalid = Invalid::value("not a reference to a variable", &reference);
                self.add(
                    at,
                    context,
                    invalid.hint("${NAME}, ${env:NAME} and ${NAME:-default} are; write $$ for a dollar sign"),
                );
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
                    self.bad_tag(tag, context, at);
                }
                kind
            }
        };
        Node { place: at, value: Value::Scalar(Scalar { text, kind, is_secret: has_secret || is_folded }) }
    }

    fn collection_tag(&mut self, tag: Option<&Tag>, expected: &str, context: &Context, at: Place) {
        if let Some(tag) = tag
            && !tag.is_yaml_core_schema_tag(expected)
            && tag.original() != "!"
        {
            self.bad_tag(tag, context, at);
        }
    }

    fn bad_tag(&mut self, tag: &Tag, context: &Context, at: Place) {
        let invalid = Invalid::value("a tag that the value does not fit", &tag.original());
        self.add(at, context, invalid.hint("leave the tag out; quotes make a string of a value"));
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
                Err(self.problem(at, &Context::root(), invalid))
            }
            None => {
                let start = Place { line: 1, column: 1 };
                Err(self.problem(start, &Context::root(), Invalid::new("not YAML: it ends early")))
            }
        }
    }

    fn problem(&self, at: Place, context: &Context, invalid: Invalid) -> Problem {
        Problem { file: Some(self.name.into()), place: Some(at), subject: context.path.clone(), invalid }
    }

    fn add(&mut self, at: Place, context: &Context, invalid: Invalid) {
        // YAML reads an unquoted password that begins with ! as a tag.
        let invalid = if context.is_secret { invalid.without_value() } else { invalid };
        let problem = self.problem(at, context, invalid);
        self.problems.add(Some(at), || problem);
    }
}

fn place(span: &Span) -> Place {
    Place { line: span.start.line(), column: span.start.col() + 1 }
}

fn null(place: Place) -> Node {
    Node { place, value: Value::Scalar(Scalar { text: String::new(), kind: Kind::Null, is_secret: false }) }
}

/// A key's path, as messages show it.
pub(super) fn join(path: &str, key: &str) -> String {
    let key = shown_key(key);
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

fn size(node: &Node) -> usize {
    let own = std::mem::size_of::<Node>();
    own + match &node.value {
        Value::Scalar(scalar) => scalar.text.len(),
        Value::List(items) => items.iter().map(size).sum(),
        Value::Map(entries) => entries.iter().map(|e| e.key.len() + own + size(&e.node)).sum(),
    }
}

/// The type and value of an unquoted scalar in the core schema.
pub(super) fn resolve(text: &str) -> Kind {
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
    // Unlike Rust, the core schema accepts a sign before decimal digits only.
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
