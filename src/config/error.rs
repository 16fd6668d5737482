//! Errors in a configuration: the place, the problem, and a hint how to fix it.

use std::borrow::Cow;
use std::fmt;

/// The most problems, and the most warnings, that are reported. Once they are fixed, the next ones are.
pub(crate) const MAX_TOLD: usize = 50;

/// A configuration or a command line that cannot be used. Its `Display` is the lines to print: for each thing
/// that is wrong the place, the key and the value, and below it a hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    problems: Vec<Problem>,
    /// The number of further problems, which are not listed.
    more: usize,
}

impl Error {
    pub(crate) fn new(problems: Vec<Problem>) -> Self {
        let mut found = Problems::default();
        problems.into_iter().for_each(|problem| found.add(problem.place, || problem));
        found.into_error()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// The problems so far. Only the first [`MAX_TOLD`] of a file are kept: those that come first in the file, whatever
/// the order in which sections are decoded.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    /// Unordered; up to twice as many as are reported.
    kept: Vec<Problem>,
    /// Every problem, kept or not.
    count: usize,
    /// Problems at this place or after it are not kept: there are enough before it.
    enough: Option<Option<Place>>,
}

impl Problems {
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a problem. `make` is called only if the problem may be reported.
    pub(crate) fn add(&mut self, place: Option<Place>, make: impl FnOnce() -> Problem) {
        self.count += 1;
        if self.enough.is_some_and(|enough| place >= enough) {
            return;
        }
        self.kept.push(make());
        if self.kept.len() >= 2 * MAX_TOLD {
            self.sort();
            self.enough = self.kept.last().map(|last| last.place);
        }
    }

    pub(crate) fn into_error(mut self) -> Error {
        self.sort();
        Error { more: self.count - self.kept.len(), problems: self.kept }
    }

    fn sort(&mut self) {
        self.kept.sort_by_key(|problem| problem.place);
        self.kept.truncate(MAX_TOLD);
    }
}

/// A place in a file; line and column count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The file's name; none for a variable or a flag.
    pub(crate) file: Option<String>,
    /// Where in the file.
    pub(crate) place: Option<Place>,
    /// The key's path, the variable or the flag; empty for the file as a whole.
    pub(crate) subject: String,
    /// What is wrong, and the remedy.
    pub(crate) invalid: Invalid,
}

impl Problem {
    /// A problem of a variable or a flag.
    pub(crate) fn of(subject: &str, invalid: Invalid) -> Self {
        Self { file: None, place: None, subject: subject.into(), invalid }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}:")?;
            if let Some(Place { line, column }) = self.place {
                write!(f, "{line}:{column}:")?;
            }
            f.write_str(" ")?;
        }
        if !self.subject.is_empty() {
            write!(f, "{}: ", self.subject)?;
        }
        f.write_str(&self.invalid.message)?;
        if let Some(value) = &self.invalid.value {
            write!(f, ": {value}")?;
        }
        if let Some(hint) = &self.invalid.hint {
            write!(f, "\nhint: {hint}{}", self.invalid.suggestion.as_deref().unwrap_or_default())?;
        }
        Ok(())
    }
}

/// Why a value cannot be used, and what would be right: the part of a [`Problem`] that does not depend on
/// where the value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invalid {
    message: String,
    value: Option<String>,
    hint: Option<String>,
    /// The value at the hint's end, if it names one.
    suggestion: Option<String>,
}

impl Invalid {
    /// A message without a value: there is none, or it must not be shown.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), value: None, hint: None, suggestion: None }
    }

    /// A message with the value, such as `not a URL: localhost:4317`.
    pub(crate) fn value(what: &str, value: &str) -> Self {
        Self { value: Some(shown(value)), ..Self::new(what) }
    }

    /// Hides the value, which may be a secret, and removes a hint that suggests another value.
    pub(crate) fn without_value(mut self) -> Self {
        if let Some(value) = &mut self.value {
            *value = "a value that is not shown".into();
        }
        if self.suggestion.take().is_some() {
            self.hint = None;
        }
        self
    }

    /// Adds a hint.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a hint that suggests another value. `hint` is the text before that value.
    pub(crate) fn suggest(mut self, hint: &str, value: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self.suggestion = Some(value.into());
        self
    }

    /// The value that the hint names.
    #[cfg(test)]
    pub(crate) fn suggestion(&self) -> Option<&str> {
        self.suggestion.as_deref()
    }
}

/// Shown instead of a secret.
pub(crate) const HIDDEN: &str = "(hidden)";

/// A value as a message shows it: on one line, not too long, visible if it is empty, and without the password of a URL.
pub(crate) fn shown(value: &str) -> String {
    const LONGEST: usize = 120;
    if value.is_empty() {
        return "\"\"".into();
    }
    let is_url = value.contains("://") || value.split_once(':').is_some_and(|(_, rest)| rest.contains('@'));
    let value = if is_url { Cow::Owned(shown_url(value)) } else { Cow::Borrowed(value) };
    let mut shown = String::new();
    for (i, c) in value.chars().enumerate() {
        if i == LONGEST {
            shown.push('…');
            break;
        }
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// A key as a message shows it. Text after `=` or a space is hidden: it may be a misplaced value.
pub(crate) fn shown_key(key: &str) -> String {
    match key.find(|c: char| c == '=' || c.is_whitespace()) {
        Some(end) => format!("{} {HIDDEN}", shown(key.get(..end).unwrap_or_default())),
        None => shown(key),
    }
}

/// A URL, well-formed or not, as messages show it: without anything that may be a user name, a password or a key.
pub(crate) fn shown_url(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['@', ':', '?', '#']) => (format!("{scheme}://"), rest),
        _ => (String::new(), text),
    };
    let (rest, query) = match rest.split_once(['?', '#']) {
        // This may start a query or be part of a password, so everything is hidden.
        Some((_, query)) if query.contains('@') => return format!("{scheme}{HIDDEN}"),
        Some((rest, _)) => (rest, format!("?{HIDDEN}")),
        None => (rest, String::new()),
    };
    let (user, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => (format!("{HIDDEN}@"), rest),
        None => (String::new(), rest),
    };
    // What follows a colon is a port; if not, it may be a password.
    let segments: Vec<String> = rest
        .split('/')
        .map(|segment| {
            let brackets = segment.rfind(']').map_or(0, |end| end + 1);
            let (address, port) = segment.split_at(brackets);
            match port.split_once(':') {
                Some((name, port)) if port.len() > 5 || !port.bytes().all(|b| b.is_ascii_digit()) => {
                    format!("{address}{name}:{HIDDEN}")
                }
                _ => segment.to_owned(),
            }
        })
        .collect();
    format!("{scheme}{user}{}{query}", segments.join("/"))
}

/// The name in `known` that was probably meant.
pub(crate) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    // The standard's experimental keys end with a slash and their stability, which is easily left out.
    let base = |key: &str| key.split('/').next().unwrap_or_default().to_ascii_lowercase();
    let typed = base(name);
    let letters = typed.chars().count();
    // A third of the letters: `hots` is host, `hostname` is something else.
    let limit = (letters / 3).max(1);
    let mut best: Option<(usize, &'k str)> = None;
    for &candidate in known {
        let candidate_base = base(candidate);
        // If the lengths alone differ by more than the limit, no comparison is needed, however long the name is.
        if letters.abs_diff(candidate_base.chars().count()) > limit {
            continue;
        }
        let distance = strsim::osa_distance(&typed, &candidate_base);
        if distance <= limit && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Names as a hint lists them.
pub(crate) fn listed(names: &[&str]) -> String {
    names.join(", ")
}
