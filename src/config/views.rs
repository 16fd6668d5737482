//! The standard's keys that decide how instruments become streams: views, cardinality limits, meters.

use std::collections::BTreeMap;

use wildmatch::WildMatch;

use super::decode::{Field, Section};
use super::error::{Invalid, listed};
use super::fields::{double, filter};
use super::model::{
    Aggregation, CardinalityLimits, Filter, InstrumentType, Pull, Selector, View, ViewStream,
};
use super::values::{MAX_MILLIS, glob, instrument_name};
use crate::catalog::{self, Kind, Metric};

pub(super) const INSTRUMENT_TYPES: [(&str, InstrumentType); 7] = [
    ("counter", InstrumentType::Counter),
    ("gauge", InstrumentType::Gauge),
    ("histogram", InstrumentType::Histogram),
    ("observable_counter", InstrumentType::ObservableCounter),
    ("observable_gauge", InstrumentType::ObservableGauge),
    ("observable_up_down_counter", InstrumentType::ObservableUpDownCounter),
    ("up_down_counter", InstrumentType::UpDownCounter),
];

/// The default boundaries of the standard's explicit buckets.
const BOUNDARIES: [f64; 15] =
    [0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0, 5000.0, 7500.0, 10_000.0];

/// The views of a `meter_provider` with this pull reader. If it disables this program's meter, they are replaced by
/// one that drops everything.
pub(super) fn views(section: &Section<'_>, pull: Option<&Pull>) -> Vec<View> {
    let items = section.field("views").items().unwrap_or_default();
    let decoded: Vec<(Field<'_>, View)> =
        items.into_iter().filter_map(|item| Some((item.clone(), item.section(view).flatten()?))).collect();
    conflicts(&decoded, pull);
    let mut views: Vec<View> = decoded.into_iter().map(|(_, view)| view).collect();
    let meters = section.field("meter_configurator/development");
    if meters.section(is_enabled) == Some(false) {
        meters.warning("disables this program's only meter: no metric is exported");
        let dropped = ViewStream { aggregation: Aggregation::Drop, ..ViewStream::default() };
        let selector = Selector { instrument_name: Some(WildMatch::new("*")), ..Selector::default() };
        views = vec![View { selector, stream: dropped }];
    }
    views
}

fn view(item: &Section<'_>) -> Option<View> {
    let (selector, stream) = (item.field("selector"), item.field("stream"));
    for (field, key) in [(&selector, "selector"), (&stream, "stream")] {
        if !field.is_present() {
            item.whole().problem(
                Invalid::new(format!("a view without a {key}"))
                    .hint("it has a selector, which instruments, and a stream, what becomes of them"),
            );
        }
    }
    let chosen = selector.section(self::selector);
    let made = stream.section(self::stream);
    let view = View { selector: chosen.flatten()?, stream: made.flatten()? };
    let metrics: Vec<&Metric> = catalog::all().filter(|metric| view.selector.selects(metric)).collect();
    if metrics.is_empty() {
        selector.warning("selects no instrument of this program, so the view has no effect");
    }
    let unfit: Vec<&str> = metrics
        .iter()
        .filter(|metric| !view.stream.aggregation.fits(metric.kind))
        .map(|metric| metric.name)
        .collect();
    if !unfit.is_empty() {
        stream.warning(&format!(
            "an aggregation that these instruments cannot have, for which the view is left out: {}",
            listed(&unfit)
        ));
    }
    if let (Some(name), [_, _, ..]) = (&view.stream.name, &metrics[..]) {
        stream.problem(
            Invalid::value("one name for several instruments", name)
                .hint("select one instrument by its name, or leave the stream's name out"),
        );
    }
    Some(view)
}

fn selector(section: &Section<'_>) -> Option<Selector> {
    let text = |field: Field<'_>| field.string().map(str::to_owned);
    let selector = Selector {
        instrument_name: section
            .field("instrument_name")
            .parse(glob)
            .map(|glob| WildMatch::new(&glob.to_lowercase())),
        instrument_type: section.field("instrument_type").choice("a type of instrument", &INSTRUMENT_TYPES),
        unit: text(section.field("unit")),
        meter_name: text(section.field("meter_name")),
        meter_version: text(section.field("meter_version")),
        meter_schema_url: text(section.field("meter_schema_url")),
    };
    if section.is_empty() {
        section.whole().problem(
            Invalid::new("a selector that says nothing")
                .hint("the standard asks for a criterion; instrument_name: \"*\" selects all instruments"),
        );
        return None;
    }
    Some(selector)
}

fn stream(section: &Section<'_>) -> Option<ViewStream> {
    let aggregation = section.field("aggregation");
    let aggregation = if aggregation.is_given() {
        aggregation
            .one_of("aggregation", "drop:")
            .and_then(|(name, field)| self::aggregation(name, &field))?
    } else {
        Aggregation::Default
    };
    let keys = section.field("attribute_keys");
    let kept = filter(&keys, Filter::all());
    Some(ViewStream {
        name: section.field("name").parse(instrument_name),
        description: section.field("description").string().map(str::to_owned),
        aggregation,
        aggregation_cardinality_limit: limit(&section.field("aggregation_cardinality_limit")),
        attribute_keys: (kept != Filter::all()).then_some(kept),
    })
}

fn aggregation(name: &str, field: &Field<'_>) -> Option<Aggregation> {
    const NAMES: [&str; 6] = [
        "base2_exponential_bucket_histogram",
        "default",
        "drop",
        "explicit_bucket_histogram",
        "last_value",
        "sum",
    ];
    let simple = |aggregation: Aggregation| {
        field.nothing();
        Some(aggregation)
    };
    match name {
        "default" => simple(Aggregation::Default),
        "drop" => simple(Aggregation::Drop),
        "last_value" => simple(Aggregation::LastValue),
        "sum" => simple(Aggregation::Sum),
        "explicit_bucket_histogram" => field.section(|section| Aggregation::ExplicitBucketHistogram {
            boundaries: boundaries(&section.field("boundaries")).unwrap_or_else(|| BOUNDARIES.into()),
            record_min_max: section.field("record_min_max").boolean().unwrap_or(true),
        }),
        "base2_exponential_bucket_histogram" => {
            field.section(|section| Aggregation::Base2ExponentialBucketHistogram {
                max_scale: section
                    .field("max_scale")
                    .integer(-10..=20)
                    .and_then(|scale| i8::try_from(scale).ok())
                    .unwrap_or(20),
                max_size: section
                    .field("max_size")
                    // The SDK allocates memory for all buckets.
                    .integer(2..=10_000)
                    .and_then(|size| u32::try_from(size).ok())
                    .unwrap_or(160),
                record_min_max: section.field("record_min_max").boolean().unwrap_or(true),
            })
        }
        _ => {
            field.problem(Invalid::new("not an aggregation").hint(format!("one of {}", listed(&NAMES))));
            None
        }
    }
}

fn boundaries(field: &Field<'_>) -> Option<Vec<f64>> {
    let boundaries: Vec<f64> = field.items()?.iter().map(double).collect::<Option<_>>()?;
    let ordered = boundaries.windows(2).all(|pair| pair.first() < pair.last());
    if !ordered || boundaries.iter().any(|boundary| !boundary.is_finite()) {
        field.problem(
            Invalid::new("not boundaries").hint("finite numbers, each greater than the one before it"),
        );
        return None;
    }
    Some(boundaries)
}

/// A limit of the number of series.
fn limit(field: &Field<'_>) -> Option<usize> {
    field.integer(1..=MAX_MILLIS).and_then(|limit| usize::try_from(limit).ok())
}

/// The limits of a reader.
pub(super) fn cardinality_limits(section: &Section<'_>) -> CardinalityLimits {
    for kind in ["counter", "gauge", "observable_up_down_counter", "up_down_counter"] {
        let field = section.field(kind);
        if limit(&field).is_some() {
            field.warning("has no effect, this program has no instrument of that type");
        }
    }
    CardinalityLimits {
        default: limit(&section.field("default")),
        histogram: limit(&section.field("histogram")),
        observable_counter: limit(&section.field("observable_counter")),
        observable_gauge: limit(&section.field("observable_gauge")),
    }
}

/// Whether this program's meter is enabled. The first matcher that fits decides.
fn is_enabled(section: &Section<'_>) -> bool {
    let enabled = |field: &Field<'_>| {
        field.section(|config| config.field("enabled").boolean().unwrap_or(true)).unwrap_or(true)
    };
    let mut decided = None;
    for item in section.field("meters").items().unwrap_or_default() {
        item.section(|meter| {
            let name = meter.field("name");
            let enabled = enabled(&meter.field("config"));
            if !name.is_given() {
                meter.whole().problem(Invalid::new("a meter without a name").hint("add name:"));
            }
            if name.parse(glob).is_some_and(|glob| WildMatch::new(&glob).matches(catalog::METER)) {
                decided.get_or_insert(enabled);
            }
        });
    }
    let default = enabled(&section.field("default_config"));
    decided.unwrap_or(default)
}

/// The standard's exemplar filter. Exemplars need spans, and this program has none.
pub(super) fn exemplar_filter(field: &Field<'_>) {
    let known = [("always_on", true), ("always_off", false), ("trace_based", false)];
    if field.choice("an exemplar filter", &known) == Some(true) {
        field.warning("has no effect, this program records no exemplars");
    }
}

/// Reports streams of the same name: they would be one metric with two meanings.
fn conflicts(views: &[(Field<'_>, View)], pull: Option<&Pull>) {
    /// The stream that has a name: its metric, and the index of its view.
    type Taken = (&'static str, Option<usize>);
    let mut taken: BTreeMap<String, Taken> = BTreeMap::new();
    if pull.is_some_and(|pull| pull.target_info_enabled) {
        taken.insert(catalog::TARGET_INFO.into(), (catalog::TARGET_INFO, None));
    }
    for metric in catalog::all() {
        let applied = || views.iter().enumerate().filter(|(_, (_, view))| view.applies_to(metric));
        let kept = applied().filter(|(_, (_, view))| view.stream.aggregation != Aggregation::Drop);
        let mut streams: Vec<(Option<usize>, &str)> = kept
            .map(|(i, (_, view))| (Some(i), view.stream.name.as_deref().unwrap_or(metric.name)))
            .collect();
        if applied().next().is_none() {
            streams.push((None, metric.name));
        }
        for (view, name) in streams {
            let names = names_of(name, metric, pull);
            let clash = names.iter().find_map(|name| taken.get(name).copied());
            taken.extend(names.into_iter().map(|name| (name, (metric.name, view))));
            let Some((first, other)) = clash else { continue };
            // At least one of the two has a view: instruments without a view do not share names.
            let Some((item, view)) = view.or(other).and_then(|view| views.get(view)) else { continue };
            // A view that gives several instruments one name is reported elsewhere.
            let selected = catalog::all().filter(|metric| view.selector.selects(metric)).count();
            if view.stream.name.is_some() && selected > 1 {
                continue;
            }
            let origin = if first == metric.name {
                format!("several views select {first}")
            } else {
                format!("they are made of {first} and {}", metric.name)
            };
            item.problem(
                Invalid::value("two streams of the same name", name)
                    .hint(format!("{origin}; give each stream a name of its own")),
            );
        }
    }
}

/// The names that a stream takes: its own, which is case-insensitive, and those on `/metrics`.
fn names_of(name: &str, metric: &Metric, pull: Option<&Pull>) -> Vec<String> {
    let mut names =
        vec![format!("OTLP {}", catalog::prometheus_name(name, metric, false).to_ascii_lowercase())];
    if let Some(pull) = pull {
        let is_own = catalog::OWN.iter().any(|own| own.name == metric.name);
        let suffixes = is_own || pull.translation_strategy.has_suffixes();
        let family = catalog::prometheus_name(name, metric, suffixes).to_ascii_lowercase();
        if metric.kind == Kind::Histogram {
            names.extend(["bucket", "count", "sum"].map(|series| format!("{family}_{series}")));
        }
        names.push(family);
    }
    names
}

/// A list of the standard's metric producers. This program has none.
pub(super) fn producers(field: &Field<'_>) {
    for item in field.items().unwrap_or_default() {
        if let Some((_, field)) = item.one_of("producer", "opencensus:") {
            field.warning("has no effect, this program has no metric producers");
        }
    }
}

/// The aggregation of histograms without a view.
pub(super) fn histogram_aggregation(field: &Field<'_>) -> Aggregation {
    let known = [("explicit_bucket_histogram", false), ("base2_exponential_bucket_histogram", true)];
    match field.choice("a histogram aggregation", &known) {
        Some(true) => Aggregation::EXPONENTIAL,
        _ => Aggregation::Default,
    }
}
