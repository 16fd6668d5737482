//! What is wrong with a configuration: where, what, and what would be right.

use std::fmt;

/// A configuration or a command line that cannot be used. Its `Display` is the lines to print: for each thing
/// that is wrong the place, the key and the value, and below it a hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    problems: Vec<Problem>,
}

impl Error {
    pub(crate) fn new(mut problems: Vec<Problem>) -> Self {
        // In the order of the file, whatever the order in which sections are decoded.
        problems.sort_by_key(|p| p.place);
        Self { problems }
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
        Ok(())
    }
}

impl std::error::Error for Error {}

/// A place in a file, both counted from 1.
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
        if let Some(hint) = &self.invalid.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

/// Why a value cannot be used, and what would be right: the part of a [`Problem`] that does not depend on
/// where the value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invalid {
    message: String,
    hint: Option<String>,
}

impl Invalid {
    /// For what must not be repeated, or has no value.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// `not a URL: localhost:4317`.
    pub(crate) fn value(what: &str, value: &str) -> Self {
        Self::new(format!("{what}: {}", shown(value)))
    }

    /// Adds the remedy.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A value as a message shows it: on one line, not too long, and visible if it is empty.
pub(crate) fn shown(value: &str) -> String {
    const LONGEST: usize = 120;
    if value.is_empty() {
        return "\"\"".into();
    }
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

/// The name in `known` that was probably meant.
pub(crate) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    // The standard's experimental keys carry their stability behind a slash, which is easily left out.
    let base = |key: &str| key.split('/').next().unwrap_or_default().to_ascii_lowercase();
    let typed = base(name);
    let mut best: Option<(usize, &'k str)> = None;
    for &candidate in known {
        let distance = strsim::osa_distance(&typed, &base(candidate));
        // A third of the letters: `hots` is host, `hostname` is something else.
        if distance <= (typed.chars().count() / 3).max(1) && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Names as a hint lists them.
pub(crate) fn listed(names: &[&str]) -> String {
    names.join(", ")
}
