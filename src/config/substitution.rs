//! References to environment variables, as the OpenTelemetry declarative configuration has them: `${VAR}`,
//! `${env:VAR}`, `${VAR:-default}`, and `$$` for a dollar sign.
//!
//! See "Environment variable substitution" in the specification's configuration data model.

use super::error::Invalid;

/// A look-up of an environment variable. A variable that is empty counts as unset, as OpenTelemetry says.
pub type Environment<'e> = dyn Fn(&str) -> Option<String> + 'e;

/// `text` with its references replaced. What a variable holds is taken as it is: it is never searched for
/// references or escapes.
pub(super) fn substitute(text: &str, env: &Environment<'_>) -> Result<String, Invalid> {
    let mut output = String::with_capacity(text.len());
    // The escapes come first: a reference never reaches across one.
    for (i, segment) in text.split("$$").enumerate() {
        if i > 0 {
            output.push('$');
        }
        substitute_segment(segment, env, &mut output)?;
    }
    Ok(output)
}

fn substitute_segment(segment: &str, env: &Environment<'_>, output: &mut String) -> Result<(), Invalid> {
    let mut rest = segment;
    while let Some(start) = rest.find("${") {
        let (before, from) = rest.split_at(start);
        output.push_str(before);
        // What has no end, or a line break before its end, is no reference, not even an invalid one.
        let end = from.find('}').filter(|&end| {
            from.get(..end)
                .is_some_and(|reference| !reference.contains(|c: char| c.is_control() && c != '\t'))
        });
        let Some((reference, after)) = end.and_then(|end| Some((from.get(2..end)?, from.get(end + 1..)?)))
        else {
            output.push_str("${");
            rest = from.get(2..).unwrap_or_default();
            continue;
        };
        output.push_str(&resolve(reference, env)?);
        rest = after;
    }
    output.push_str(rest);
    Ok(())
}

/// The value of what stands between the braces.
fn resolve(reference: &str, env: &Environment<'_>) -> Result<String, Invalid> {
    let named = reference.strip_prefix("env:").unwrap_or(reference);
    let length = named.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(named.len());
    let (name, rest) = named.split_at(length);
    let default = rest.strip_prefix(":-");
    if name.is_empty()
        || name.starts_with(|c: char| c.is_ascii_digit())
        || (default.is_none() && !rest.is_empty())
    {
        return Err(Invalid::new(format!("not a reference to a variable: ${{{reference}}}"))
            .hint("${NAME}, ${env:NAME} and ${NAME:-default} are; write $$ for a dollar sign"));
    }
    Ok(env(name).filter(|value| !value.is_empty()).or(default.map(Into::into)).unwrap_or_default())
}
