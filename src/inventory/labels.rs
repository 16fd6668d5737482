//! How names and labels are escaped for Prometheus' classic format, and merged if they become equal.

use std::borrow::Cow;

/// A name with `_` for each character that the classic format does not allow. It may still begin with a digit.
pub fn escaped(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}

/// The label name for a container label, as in the existing exporter: its key in lower case, and escaped.
pub fn container_label(key: &str) -> String {
    format!("container_label_{}", escaped(&key.to_lowercase()))
}

/// The label name for a resource attribute. A name that is not valid by itself gets the prefix that Prometheus' own
/// translation uses.
pub fn attribute_label(key: &str) -> String {
    let name = escaped(key);
    if is_reserved(&name) || name.starts_with(|c: char| c.is_ascii_digit()) { prefixed(&name) } else { name }
}

/// The same without escaping.
pub fn kept_attribute_label(key: &str) -> String {
    let name = kept(key);
    if is_reserved(&name) { prefixed(&name) } else { name }
}

/// A name with nearly any character. Prometheus accepts NUL in values, but not in names.
pub fn kept(name: &str) -> String {
    name.replace('\0', "_")
}

fn prefixed(name: &str) -> String {
    format!("key_{name}")
}

/// Whether a name is reserved by Prometheus, or empty.
fn is_reserved(name: &str) -> bool {
    name.is_empty() || name.starts_with("__")
}

/// Labels in the order of their names, each name once. Values of the same name are joined with `;`, in the order in
/// which they come.
pub fn joined<'v, N: Ord>(labels: impl IntoIterator<Item = (N, &'v str)>) -> Vec<(N, Cow<'v, str>)> {
    let mut joined: Vec<_> = labels.into_iter().map(|(name, value)| (name, Cow::Borrowed(value))).collect();
    // Stable, so that values of one name stay in their order.
    joined.sort_by(|(a, _), (b, _)| a.cmp(b));
    joined.dedup_by(|(name, value), (known, known_value)| {
        let is_same = name == known;
        if is_same {
            let text = known_value.to_mut();
            text.push(';');
            text.push_str(value);
        }
        is_same
    });
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attribute_has_a_label_that_can_be_one() {
        for (key, label, kept) in [
            ("host.name", "host_name", "host.name"),
            ("a:b", "a_b", "a:b"),
            ("1x", "key_1x", "1x"),
            ("٣", "_", "٣"),
            ("", "key_", "key_"),
            ("__name__", "key___name__", "key___name__"),
            ("..", "key___", ".."),
            ("a\0", "a_", "a_"),
            ("\0\0", "key___", "key___"),
        ] {
            assert_eq!((attribute_label(key), kept_attribute_label(key)), (label.into(), kept.into()));
        }
    }

    #[test]
    fn names_are_those_of_the_classic_format() {
        for (key, name) in
            [("Team.Name", "team_name"), ("1st", "1st"), ("ключ", "____"), ("a:b", "a_b"), ("", "")]
        {
            assert_eq!(container_label(key), format!("container_label_{name}"));
        }
    }

    #[test]
    fn labels_of_one_name_are_one_in_the_order_in_which_they_come() {
        let labels = joined([("b", "1"), ("a", "2"), ("b", ""), ("a", "0"), ("c", "")]);
        assert_eq!(labels, [("a", "2;0".into()), ("b", "1;".into()), ("c", "".into())]);
    }
}
