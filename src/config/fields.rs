//! Decoders of values that several keys share: numbers, lists, filters.

use super::decode::Field;
use super::error::Invalid;
use super::model::Filter;
use super::values::glob;
use super::yaml::{Kind, Scalar};

/// A number of things, at least one.
pub(super) fn count(field: &Field<'_>, most: i64) -> Option<usize> {
    field.integer(1..=most).and_then(|count| usize::try_from(count).ok())
}

/// A floating-point number.
pub(super) fn double(field: &Field<'_>) -> Option<f64> {
    match field.scalar() {
        Some(Scalar { kind: Kind::Float(value), .. }) => Some(*value),
        #[allow(clippy::cast_precision_loss, reason = "a double is what was asked for")]
        Some(Scalar { kind: Kind::Int(value), .. }) => Some(*value as f64),
        Some(scalar) => {
            field.problem(
                Invalid::value("not a number", &scalar.text).hint("for example 0.5, without quotes"),
            );
            None
        }
        None => {
            field.problem(Invalid::new("not a number").hint("for example 0.5, without quotes"));
            None
        }
    }
}

/// A list whose items are decoded by `item`.
pub(super) fn array<T>(field: &Field<'_>, item: impl Fn(&Field<'_>) -> Option<T>) -> Option<Vec<T>> {
    field
        .items()?
        .iter()
        .map(|field| if field.is_given() { item(field) } else { empty_item(field) })
        .collect()
}

fn empty_item<T>(field: &Field<'_>) -> Option<T> {
    field.problem(Invalid::new("an item without a value").hint("leave the item out"));
    None
}

/// A list of strings, each parsed by `parse`.
pub(super) fn strings(
    field: &Field<'_>,
    parse: impl Fn(&str) -> Result<String, Invalid>,
) -> Option<Vec<String>> {
    let items = field.items()?;
    Some(
        items
            .iter()
            .filter_map(|item| if item.is_given() { item.parse(&parse) } else { empty_item(item) })
            .collect(),
    )
}

/// The standard's `IncludeExclude`. Without `included` everything is included; a mapping without keys means
/// `default`.
pub(super) fn filter(field: &Field<'_>, default: Filter) -> Filter {
    let filter = field.section(|section| {
        let included = strings(&section.field("included"), glob);
        let excluded = strings(&section.field("excluded"), glob);
        if included.is_none() && excluded.is_none() {
            return None;
        }
        Some(Filter::new(&included.unwrap_or_else(|| vec!["*".into()]), &excluded.unwrap_or_default()))
    });
    filter.flatten().unwrap_or(default)
}
