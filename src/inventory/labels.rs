//! What names and labels become where Prometheus' classic format is written, and which of them become one.

use std::borrow::Cow;

/// A name with `_` for whatever the classic format does not take in one. It may still begin with a digit.
pub fn escaped(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}

/// The label that a container label becomes, as the existing exporter has it: its key in lower case, and escaped.
pub fn container_label(key: &str) -> String {
    format!("container_label_{}", escaped(&key.to_lowercase()))
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
