//! References to environment variables, as the OpenTelemetry declarative configuration has them: `${VAR}`,
//! `${env:VAR}`, `${VAR:-default}`, and `$$` for a dollar sign.
//!
//! See "Environment variable substitution" in the specification's configuration data model.

/// A look-up of an environment variable. A variable that is empty counts as unset, as OpenTelemetry says.
pub type Environment<'e> = dyn Fn(&str) -> Option<String> + 'e;

/// A `${…}` that is not a valid reference to a variable, with its braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadReference(pub(super) String);

/// A text after its references were replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Substituted {
    pub(super) text: String,
    /// Whether it refers to a variable whose name suggests a secret. Messages do not show such a text, whatever key
    /// it belongs to.
    pub(super) has_secret: bool,
}

/// Parts of names that suggest that a variable holds a secret.
const SECRET_NAMES: [&str; 8] =
    ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "AUTH", "KEY", "HEADERS"];

/// Replaces the references in `text`. A variable's value is inserted as it is: it is never searched for references or
/// escapes.
pub(super) fn substitute(text: &str, env: &Environment<'_>) -> Result<Substituted, BadReference> {
    let mut output = Substituted::default();
    // Escapes are split off first: a reference never contains one.
    for (i, segment) in text.split("$$").enumerate() {
        if i > 0 {
            output.text.push('$');
        }
        substitute_segment(segment, env, &mut output)?;
    }
    Ok(output)
}

fn substitute_segment(
    segment: &str,
    env: &Environment<'_>,
    output: &mut Substituted,
) -> Result<(), BadReference> {
    const START: &str = "${";
    let mut rest = segment;
    while let Some((before, after_start)) = rest.split_once(START) {
        output.text.push_str(before);
        // Without a closing brace on the same line, this is no reference, not even an invalid one. Neither is any
        // other start before the line break, so the text up to there is copied at once.
        let end = after_start.find(|c: char| c == '}' || (c.is_control() && c != '\t'));
        let (inside, after) = after_start.split_at(end.unwrap_or(after_start.len()));
        let Some(after_end) = after.strip_prefix('}') else {
            output.text.push_str(START);
            output.text.push_str(inside);
            rest = after;
            continue;
        };
        resolve(inside, env, output)?;
        rest = after_end;
    }
    output.text.push_str(rest);
    Ok(())
}

/// Appends the value of the reference between the braces.
fn resolve(reference: &str, env: &Environment<'_>, output: &mut Substituted) -> Result<(), BadReference> {
    let named = reference.strip_prefix("env:").unwrap_or(reference);
    let length = named.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(named.len());
    let (name, rest) = named.split_at(length);
    let default = rest.strip_prefix(":-");
    if name.is_empty()
        || name.starts_with(|c: char| c.is_ascii_digit())
        || (default.is_none() && !rest.is_empty())
    {
        return Err(BadReference(format!("${{{reference}}}")));
    }
    let upper = name.to_ascii_uppercase();
    output.has_secret |= SECRET_NAMES.iter().any(|part| upper.contains(part));
    match env(name).filter(|value| !value.is_empty()) {
        Some(value) => output.text.push_str(&value),
        None => output.text.push_str(default.unwrap_or_default()),
    }
    Ok(())
}
