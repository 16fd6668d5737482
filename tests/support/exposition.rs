//! A strict parser of the Prometheus text format, 0.0.4 and 1.0.0, and matchers that print near misses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

/// Labels, sorted by name.
pub(crate) type Labels = BTreeMap<String, String>;

/// What a scrape has: families by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Exposition {
    /// The families by their name.
    pub(crate) families: BTreeMap<String, Family>,
}

/// One metric family.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Family {
    /// `gauge`, `counter`, `histogram`, `summary` or `untyped`.
    pub(crate) kind: String,
    /// The help text, unescaped; `None` where there is no `# HELP`.
    pub(crate) help: Option<String>,
    /// The samples by their name (a histogram's differ from the family's) and labels.
    pub(crate) samples: BTreeMap<(String, Labels), f64>,
}

/// Labels from pairs.
pub(crate) fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

impl Exposition {
    /// Parses a whole answer. Anything that the format does not allow is an error with its line: an invalid line, a
    /// duplicate series, a family that is in two places, a type after its samples.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Self::read(text, Parser::default())
    }

    /// The same for format 1.0.0, in which any name may be quoted.
    pub(crate) fn parse_quoted(text: &str) -> Result<Self, String> {
        Self::read(text, Parser { takes_quoted: true, ..Parser::default() })
    }

    fn read(text: &str, mut parser: Parser) -> Result<Self, String> {
        if !text.is_empty() && !text.ends_with('\n') {
            return Err("the last line does not end".into());
        }
        // Not `lines`, which would drop a carriage return at the end of a line.
        for (number, line) in text.split_terminator('\n').enumerate() {
            parser.line(line).map_err(|error| format!("line {}: {error}: {line}", number + 1))?;
        }
        parser.finish()
    }

    /// The value of a series; panics with the near misses where there is none.
    #[track_caller]
    pub(crate) fn value(&self, name: &str, labels: &Labels) -> f64 {
        self.find(name, labels).unwrap_or_else(|misses| panic!("{misses}"))
    }

    /// The value of a series, or a text with the near misses.
    pub(crate) fn find(&self, name: &str, labels: &Labels) -> Result<f64, String> {
        let key = (name.to_owned(), labels.clone());
        let found = self.families.values().find_map(|family| family.samples.get(&key));
        found.copied().ok_or_else(|| self.near_misses(name, labels))
    }

    /// The series of a name that have all of these labels, and maybe more.
    pub(crate) fn select(&self, name: &str, with: &Labels) -> Vec<(&Labels, f64)> {
        let samples = self.families.values().flat_map(|family| &family.samples);
        let of_name = samples.filter(|((sample, _), _)| sample == name);
        let chosen = of_name.filter(|((_, labels), _)| with.iter().all(|(k, v)| labels.get(k) == Some(v)));
        chosen.map(|((_, labels), value)| (labels, *value)).collect()
    }

    /// The one value of a name without labels, such as `docker_up`.
    #[track_caller]
    pub(crate) fn plain(&self, name: &str) -> f64 {
        self.value(name, &Labels::new())
    }

    /// All series of a family, the sample's name left out.
    pub(crate) fn series(&self, family: &str) -> BTreeMap<Labels, f64> {
        let samples = self.families.get(family).into_iter().flat_map(|family| &family.samples);
        samples.map(|((_, labels), value)| (labels.clone(), *value)).collect()
    }

    fn near_misses(&self, name: &str, wanted: &Labels) -> String {
        let mut text = format!("no series {}\n", Series(name, wanted));
        let mut near: Vec<_> = self.select(name, &Labels::new());
        if near.is_empty() {
            let mut names: Vec<_> = self.families.keys().collect();
            names.sort_by_key(|other| (edits(name, other), (*other).clone()));
            names.truncate(3);
            let _ = write!(text, "there is no {name} at all; nearest of {}: {names:?}", self.families.len());
            return text;
        }
        near.sort_by_key(|(labels, _)| difference(wanted, labels));
        let _ = writeln!(text, "nearest of {}:", near.len());
        for (labels, value) in near.iter().take(3) {
            let _ = writeln!(text, "  {} {value}", Series(name, labels));
            for name in wanted.keys().chain(labels.keys()).collect::<BTreeSet<_>>() {
                let (wanted, there) = (wanted.get(name), labels.get(name));
                if wanted != there {
                    let _ = writeln!(text, "    {name}: wanted {}, is {}", shown(wanted), shown(there));
                }
            }
        }
        text
    }
}

/// How two sets of series of one family differ, one line for each difference; `Ok` where they do not.
pub(crate) fn compare_series(
    family: &str,
    expected: &BTreeMap<Labels, f64>,
    found: &BTreeMap<Labels, f64>,
) -> Result<(), String> {
    let mut text = String::new();
    for (labels, value) in expected {
        match found.get(labels) {
            Some(other) if same(*other, *value) => {}
            Some(other) => {
                let _ = writeln!(text, "{} is {other}, expected {value}", Series(family, labels));
            }
            None => {
                let _ = writeln!(text, "missing: {} {value}", Series(family, labels));
                if let Some((near, _)) = found.iter().min_by_key(|(near, _)| difference(labels, near)) {
                    let _ = writeln!(text, "   near: {}", Series(family, near));
                }
            }
        }
    }
    for (labels, value) in found.iter().filter(|(labels, _)| !expected.contains_key(*labels)) {
        let _ = writeln!(text, "unexpected: {} {value}", Series(family, labels));
    }
    if text.is_empty() { Ok(()) } else { Err(text) }
}

/// Whether two numbers are equal; NaN equals NaN here.
fn same(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan())
}

/// How many labels differ.
fn difference(a: &Labels, b: &Labels) -> usize {
    let names: BTreeSet<_> = a.keys().chain(b.keys()).collect();
    names.into_iter().filter(|name| a.get(*name) != b.get(*name)).count()
}

/// The edit distance of two names.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn shown(value: Option<&String>) -> String {
    value.map_or_else(|| "absent".to_owned(), |value| format!("{value:?}"))
}

/// A series as it is written.
struct Series<'a>(&'a str, &'a Labels);

impl fmt::Display for Series<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{{", self.0)?;
        for (index, (name, value)) in self.1.iter().enumerate() {
            write!(f, "{}{name}={value:?}", if index == 0 { "" } else { "," })?;
        }
        f.write_str("}")
    }
}

#[derive(Default)]
struct Parser {
    /// Whether names may stand in quotes.
    takes_quoted: bool,
    families: BTreeMap<String, Family>,
    /// The family that the lines belong to now.
    current: Option<String>,
    /// Families whose type is settled by `# TYPE` or a sample.
    typed: BTreeSet<String>,
    /// The series that have a sample.
    series: BTreeSet<(String, Labels)>,
}

impl Parser {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if let Some(comment) = line.strip_prefix('#') {
            let comment = comment.strip_prefix(' ').unwrap_or(comment);
            let (word, rest) = comment.split_once(' ').unwrap_or((comment, ""));
            if !["HELP", "TYPE"].contains(&word) {
                return Ok(());
            }
            let (name, rest) = match self.quoted(rest)? {
                Some((name, rest)) => (name, rest.strip_prefix(' ').unwrap_or(rest)),
                None => {
                    let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                    (metric_name(name)?, rest)
                }
            };
            return if word == "HELP" { self.help(&name, rest) } else { self.kind(&name, rest) };
        }
        if line.is_empty() { Ok(()) } else { self.sample(line) }
    }

    /// Makes a family the current one. To come back to an earlier family is an error.
    fn enter(&mut self, name: &str) -> Result<&mut Family, String> {
        if self.current.as_deref() != Some(name) {
            if self.families.contains_key(name) {
                return Err(format!("family {name} is in two places"));
            }
            self.current = Some(name.to_owned());
        }
        let empty = || Family { kind: "untyped".into(), help: None, samples: BTreeMap::new() };
        Ok(self.families.entry(name.to_owned()).or_insert_with(empty))
    }

    fn help(&mut self, name: &str, help: &str) -> Result<(), String> {
        let help = unescape(help, false)?;
        let family = self.enter(name)?;
        if !family.samples.is_empty() {
            return Err("the help comes after a sample".into());
        }
        if family.help.replace(help).is_some() {
            return Err("a second help".into());
        }
        Ok(())
    }

    fn kind(&mut self, name: &str, kind: &str) -> Result<(), String> {
        if kind.is_empty() {
            return Err("not a whole comment".into());
        }
        if !["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind) {
            return Err(format!("{kind:?} is no type"));
        }
        self.enter(name)?.kind = kind.to_owned();
        if !self.typed.insert(name.to_owned()) {
            return Err("a second type, or one after a sample".into());
        }
        Ok(())
    }

    fn sample(&mut self, line: &str) -> Result<(), String> {
        let end = line.find(|c: char| c == '{' || c.is_ascii_whitespace()).ok_or("no value")?;
        let (name, rest) = line.split_at(end);
        let (quoted, labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => self.labels(rest)?,
            None => (None, Labels::new(), rest),
        };
        let name = &match quoted {
            Some(quoted) if name.is_empty() => quoted,
            Some(quoted) => return Err(format!("two names, {name} and {quoted}")),
            None => metric_name(name)?,
        };
        let mut words = rest.split_ascii_whitespace();
        let value = parse_value(words.next().ok_or("no value")?)?;
        if let Some(timestamp) = words.next() {
            // The exporter sets no timestamps; Prometheus would treat such a series in another way.
            return Err(format!("a timestamp, {timestamp}"));
        }
        let family = self.family_of(name);
        self.typed.insert(family.clone());
        let samples = &mut self.enter(&family)?.samples;
        let mut told_apart_by = labels.clone();
        samples.insert((name.to_owned(), labels), value);
        // For Prometheus an empty label is the same as no label.
        told_apart_by.retain(|_, value| !value.is_empty());
        if !self.series.insert((name.to_owned(), told_apart_by)) {
            return Err("a second sample of this series".into());
        }
        Ok(())
    }

    /// Parses what follows the opening brace; returns the metric's name if it is there, the labels and what follows
    /// the closing brace.
    fn labels<'l>(&self, mut rest: &'l str) -> Result<(Option<String>, Labels, &'l str), String> {
        let (mut metric, mut labels) = (None, Labels::new());
        loop {
            if let Some(after) = rest.strip_prefix('}') {
                return Ok((metric, labels, after));
            }
            let (name, after) = match self.quoted(rest)? {
                Some((name, after)) => (name, after),
                None => {
                    let (name, after) =
                        rest.split_at(rest.find(['=', ',', '}']).ok_or("labels that do not end")?);
                    if !is_label_name(name) {
                        return Err(format!("{name:?} is no label name"));
                    }
                    (name.to_owned(), after)
                }
            };
            rest = match after.strip_prefix('=') {
                Some(value) => {
                    let (value, after) = in_quotes(value)?.ok_or("a label without a value")?;
                    if name == "__name__" || labels.insert(name.clone(), value).is_some() {
                        return Err(format!("label {name} is there twice"));
                    }
                    after
                }
                // The first quoted name, if it has no value, is the metric's name.
                None if metric.is_none() && labels.is_empty() && rest.starts_with('"') => {
                    metric = Some(name);
                    after
                }
                None => return Err(format!("label {name} has no value")),
            };
            rest = match rest.strip_prefix(',') {
                Some(after) => after,
                None if rest.starts_with('}') => rest,
                None => return Err("no comma between labels".into()),
            };
        }
    }

    /// If the text begins with a quoted name: that name, and the text after it.
    fn quoted<'l>(&self, text: &'l str) -> Result<Option<(String, &'l str)>, String> {
        match in_quotes(text)? {
            Some(_) if !self.takes_quoted => Err("a name in quotes".into()),
            Some((name, _)) if name.is_empty() => Err("a name without a character".into()),
            // Prometheus accepts any other character.
            Some((name, _)) if name.contains('\0') => Err(format!("a NUL in the name {name:?}")),
            quoted => Ok(quoted),
        }
    }

    /// The family of a sample: its own name, or the current histogram's or summary's.
    fn family_of(&self, sample: &str) -> String {
        let current = self.current.as_deref().and_then(|name| self.families.get_key_value(name));
        if let Some((name, family)) = current {
            let suffixes: &[&str] = match family.kind.as_str() {
                "histogram" => &["_bucket", "_sum", "_count"],
                "summary" => &["_sum", "_count"],
                _ => &[],
            };
            if sample.strip_prefix(name.as_str()).is_some_and(|suffix| suffixes.contains(&suffix)) {
                return name.clone();
            }
        }
        sample.to_owned()
    }

    fn finish(self) -> Result<Exposition, String> {
        for (name, family) in &self.families {
            if family.samples.is_empty() {
                return Err(format!("family {name} has no sample"));
            }
            if family.kind == "histogram" {
                check_histogram(name, family)?;
            }
        }
        Ok(Exposition { families: self.families })
    }
}

/// Checks that the buckets do not shrink, and that the last one is `+Inf` and equals the count.
fn check_histogram(name: &str, family: &Family) -> Result<(), String> {
    let mut buckets: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    for ((sample, labels), value) in &family.samples {
        if sample.ends_with("_bucket") {
            let mut labels = labels.clone();
            let bound = labels.remove("le").ok_or_else(|| format!("a bucket of {name} has no le"))?;
            buckets.entry(labels).or_default().push((parse_value(&bound)?, *value));
        }
    }
    for (labels, mut buckets) in buckets {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        if !buckets.is_sorted_by(|a, b| a.1 <= b.1) {
            return Err(format!("the buckets of {} do not grow", Series(name, &labels)));
        }
        let count = family.samples.get(&(format!("{name}_count"), labels.clone()));
        if buckets.last() != count.map(|count| (f64::INFINITY, *count)).as_ref() {
            return Err(format!("the last bucket of {} is not its count", Series(name, &labels)));
        }
    }
    Ok(())
}

/// If the text begins with a quoted string: that string, and the text after it.
fn in_quotes(text: &str) -> Result<Option<(String, &str)>, String> {
    let Some(quoted) = text.strip_prefix('"') else { return Ok(None) };
    let mut escaped = false;
    let end = quoted.find(|c| {
        let closing = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closing
    });
    let end = end.ok_or("a label value that does not end")?;
    Ok(Some((unescape(&quoted[..end], true)?, &quoted[end + 1..])))
}

/// Undoes `\\`, `\n` and, in label values, `\"`; any other escape is an error.
fn unescape(text: &str, quotes: bool) -> Result<String, String> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        plain.push(match chars.next() {
            Some('\\') => '\\',
            Some('n') => '\n',
            Some('"') if quotes => '"',
            other => return Err(format!("an unknown escape, {other:?}")),
        });
    }
    Ok(plain)
}

fn parse_value(text: &str) -> Result<f64, String> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        "NaN" => Ok(f64::NAN),
        // Rust accepts words such as `inf` too.
        _ if text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte)) => {
            text.parse().map_err(|_| format!("{text:?} is no value"))
        }
        _ => Err(format!("{text:?} is no value")),
    }
}

fn metric_name(name: &str) -> Result<String, String> {
    if is_metric_name(name) { Ok(name.to_owned()) } else { Err(format!("{name:?} is no metric name")) }
}

fn is_metric_name(name: &str) -> bool {
    is_label_name(&name.replace(':', "_"))
}

fn is_label_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
