//! What holds of any file: reading it ends, soon and without a panic; what is wrong with it has a place; and no
//! message repeats a secret.
//!
//! PROPTEST_CASES is how many files each property tries; with a large number they go on for hours.

use std::time::Duration;

use docker_state_exporter::config::{self, Error, Loaded};
use proptest::prelude::*;
use proptest::sample::Index;

const SECRET: &str = "S3cr3t";

/// The variables that the files refer to. All hold a secret.
fn variables(name: &str) -> Option<String> {
    ["TOKEN", "API_KEY", "OTEL_EXPORTER_OTLP_HEADERS"].contains(&name).then(|| format!("api-key={SECRET}"))
}

fn read(text: &str) -> Result<Loaded, Error> {
    config::from_yaml("config.yaml", text, &variables)
}

/// Files with secrets wherever one can stand.
fn files() -> Vec<String> {
    let headers = format!(
        "meter_provider:\n  readers:\n    - periodic:\n        timeout: 1000\n        exporter:\n          otlp_http:\n            \
         endpoint: https://user:{SECRET}@collector:4318/v1/metrics\n            headers:\n              - name: \
         authorization\n                value: Bearer {SECRET}\n              - {{name: x, value: \"{SECRET}\"}}\n            \
         headers_list: \"a=b,api-key={SECRET}\"\ndocker:\n  host: tcp://user:{SECRET}@docker:2375\n"
    );
    let variables = "meter_provider:\n  readers:\n    - periodic:\n        exporter:\n          otlp_grpc:\n            \
                     endpoint: https://collector:4317/?key=${API_KEY}\n            headers:\n              - name: \
                     authorization\n                value: \"Bearer ${TOKEN}\"\n            headers_list: \
                     ${env:OTEL_EXPORTER_OTLP_HEADERS}\n";
    vec![headers, variables.into()]
}

/// A change of the kind that a slip of the hand makes.
#[derive(Debug, Clone)]
enum Slip {
    /// A character becomes another.
    Replace(Index, char),
    Insert(Index, char),
    Remove(Index),
    /// A line is indented by so many spaces more or fewer.
    Indent(Index, isize),
    RemoveLine(Index),
    RepeatLine(Index),
    /// The file ends early.
    Truncate(Index),
}

fn slip() -> impl Strategy<Value = Slip> {
    let character = prop_oneof![
        prop::sample::select("-:?,[]{}#&*!|>'\"%@`=~$\\ \n\t".chars().collect::<Vec<_>>()),
        any::<char>(),
    ];
    prop_oneof![
        (any::<Index>(), character.clone()).prop_map(|(at, to)| Slip::Replace(at, to)),
        (any::<Index>(), character).prop_map(|(at, to)| Slip::Insert(at, to)),
        any::<Index>().prop_map(Slip::Remove),
        (any::<Index>(), -4isize..=4).prop_map(|(at, by)| Slip::Indent(at, by)),
        any::<Index>().prop_map(Slip::RemoveLine),
        any::<Index>().prop_map(Slip::RepeatLine),
        any::<Index>().prop_map(Slip::Truncate),
    ]
}

fn slipped(text: &str, slip: &Slip) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if characters.is_empty() || lines.is_empty() {
        return text.to_owned();
    }
    let of = |characters: Vec<char>| characters.into_iter().collect();
    let joined = |lines: Vec<String>| lines.join("\n") + "\n";
    match slip {
        Slip::Replace(at, to) => {
            let at = at.index(characters.len());
            characters[at] = *to;
            of(characters)
        }
        Slip::Insert(at, to) => {
            characters.insert(at.index(characters.len()), *to);
            of(characters)
        }
        Slip::Remove(at) => {
            characters.remove(at.index(characters.len()));
            of(characters)
        }
        Slip::Indent(at, by) => {
            let line = at.get_mut(&mut lines);
            *line = match usize::try_from(*by) {
                Ok(more) => format!("{:more$}{line}", ""),
                Err(_) => {
                    let spaces = line.len() - line.trim_start_matches(' ').len();
                    line.split_off(by.unsigned_abs().min(spaces))
                }
            };
            joined(lines)
        }
        Slip::RemoveLine(at) => {
            lines.remove(at.index(lines.len()));
            joined(lines)
        }
        Slip::RepeatLine(at) => {
            let at = at.index(lines.len());
            lines.insert(at, lines[at].clone());
            joined(lines)
        }
        Slip::Truncate(at) => {
            characters.truncate(at.index(characters.len()));
            of(characters)
        }
    }
}

/// Everything that is said of the file, each with its place.
fn messages(text: &str) -> Result<String, TestCaseError> {
    let error = match read(text) {
        Ok(loaded) => return Ok(loaded.warnings.join("\n")),
        Err(error) => error.to_string(),
    };
    // A file's end counts as a place.
    let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count() + 1;
    for line in error.lines() {
        if line.starts_with("hint: ") || (line.starts_with("and ") && line.ends_with(" more")) {
            continue;
        }
        let place = line.strip_prefix("config.yaml:").and_then(|rest| {
            let (place, message) = rest.split_once(": ")?;
            let (line, column) = place.split_once(':')?;
            (!message.is_empty()).then_some((line.parse::<usize>().ok()?, column.parse::<usize>().ok()?))
        });
        let Some((line, column)) = place else {
            return Err(TestCaseError::fail(format!("no place in {line:?} of\n{text}")));
        };
        prop_assert!((1..=lines).contains(&line) && column >= 1, "line {} of {} in\n{}", line, lines, text);
    }
    Ok(error)
}

fn any_file() -> impl Strategy<Value = String> {
    let bytes = prop::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        bytes.prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        any::<String>(),
        // Much of YAML's syntax in little room.
        "([-?:,\\[\\]{}#&*!|>'\"%@`~$\\\\ \n\t]|- |: |\\? |\n  ?|<<|---|\\.\\.\\.|&a|\\*a|!!str|\\$\\{A|web|docker|a|1){0,40}",
    ]
}

proptest! {
    #[test]
    fn any_file_is_read_to_its_end(text in any_file()) {
        messages(&text)?;
    }

    #[test]
    fn what_is_wrong_has_a_place(
        base in prop::sample::select(vec![
            include_str!("../../config/reference.yaml"), include_str!("everything.yaml"),
        ]),
        slips in prop::collection::vec(slip(), 1..6),
    ) {
        messages(&slips.iter().fold(base.to_owned(), |text, slip| slipped(&text, slip)))?;
    }

    /// With one slip. With several a secret may become a key, or the name of a host.
    #[test]
    fn no_message_repeats_a_secret(base in prop::sample::select(files()), slip in slip()) {
        let text = slipped(&base, &slip);
        // A slip in the secret is another secret.
        for secret in [SECRET, &SECRET[..4], &SECRET[3..]] {
            let messages = messages(&text)?;
            prop_assert!(!messages.contains(secret), "{}\nof\n{}", messages, text);
        }
    }
}

/// A secret in every place of a file that is right shows nowhere.
#[test]
fn what_is_in_effect_repeats_no_secret() {
    let text = files().remove(1);
    let loaded = read(&text).unwrap_or_else(|error| panic!("{error}"));
    let shown = config::to_yaml(&loaded.config);
    assert!(shown.contains("(hidden)") && !shown.contains(SECRET), "{shown}");
    assert!(!loaded.warnings.join("\n").contains(SECRET), "{:?}", loaded.warnings);
}

/// Eight times as much takes about eight times as long, and not sixty-four times.
#[test]
fn time_is_linear_in_the_file() {
    fn repeated(n: usize, item: impl Fn(usize) -> String) -> String {
        (0..n).map(item).collect()
    }
    const READER: &str =
        "meter_provider:\n  readers:\n    - periodic:\n        exporter:\n          otlp_grpc:\n";
    type Make = fn(usize) -> String;
    let files: [(&str, Make); 16] = [
        ("unknown keys", |n| repeated(n, |i| format!("k{i}: 1\n"))),
        ("one key again and again", |n| repeated(n, |_| "web: {}\n".into())),
        ("headers", |n| {
            format!("{READER}            headers:\n")
                + &repeated(n, |i| format!("              - {{name: h{i}, value: x}}\n"))
        }),
        ("wrong headers", |n| {
            format!("{READER}            headers:\n") + &repeated(n, |_| "              - a=b\n".into())
        }),
        ("a list of headers", |n| {
            format!("{READER}            headers_list: \"{}\"\n", repeated(n, |i| format!("h{i}=x,")))
        }),
        ("attributes", |n| {
            String::from("resource:\n  attributes:\n")
                + &repeated(n, |i| format!("    - {{name: a{i}, value: x}}\n"))
        }),
        ("detectors", |n| {
            String::from("resource:\n  detection/development:\n    detectors:\n")
                + &repeated(n, |i| format!("      - d{i}:\n"))
        }),
        ("views", |n| {
            String::from("meter_provider:\n  views:\n")
                + &repeated(n, |i| format!("    - {{selector: {{unit: u{i}}}, stream: {{name: s{i}}}}}\n"))
        }),
        ("views of one instrument", |n| {
            String::from("meter_provider:\n  views:\n")
                + &repeated(n, |_| "    - {selector: {instrument_name: docker.up}, stream: {}}\n".into())
        }),
        ("keys under a long one", |n| {
            format!("{}:\n", "k".repeat(n)) + &repeated(n, |i| format!("  k{i}: ${{}}\n"))
        }),
        ("references without an end", |n| format!("web: {{telemetry_path: \"{}\"}}\n", "${".repeat(n))),
        ("references that end in the next line", |n| {
            format!("web:\n  telemetry_path: |\n    {}\n    }}\n", "${".repeat(n))
        }),
        ("references", |n| format!("web:\n  telemetry_path: {}\n", "${A}".repeat(n))),
        ("aliases", |n| format!("a: &a x\nb: [{}]\n", repeated(n, |i| format!("&a{i} x, *a{i}, ")))),
        ("wrong tags", |n| format!("a: [{}]\n", repeated(n, |_| "!x y, ".into()))),
        ("nested lists", |n| "[".repeat(n)),
    ];
    // Of this thread alone: other processes run beside it.
    let cpu_time = || {
        let schedule = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(schedule.split(' ').next().unwrap().parse().unwrap())
    };
    let time = |make: Make, n: usize| {
        let text = make(n);
        let start = cpu_time();
        let _ = std::hint::black_box(read(&text));
        cpu_time() - start
    };
    for (what, make) in files {
        let (few, many) = (time(make, 1_000), time(make, 8_000));
        assert!(many < 25 * few.max(Duration::from_millis(4)), "{what}: {few:?}, then {many:?}");
    }
}

/// Everything is wrong, and the first of it is told.
#[test]
fn of_very_many_problems_the_first_are_told() {
    let text: String = (0..40_000).map(|i| format!("k{i}: 1\n")).collect();
    let error = read(&format!("web: {{max_requests: 0}}\n{text}")).unwrap_err().to_string();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 2 * 50 + 1);
    assert_eq!(lines[0], "config.yaml:1:21: web.max_requests: out of range: 0");
    assert_eq!(lines[2], "config.yaml:2:1: k0: unknown key");
    assert_eq!(lines[98], "config.yaml:50:1: k48: unknown key");
    assert_eq!(lines[100], "and 39951 more");
    let text: String = (0..200).map(|i| format!("      - d{i}:\n")).collect();
    let warnings =
        read(&format!("resource:\n  detection/development:\n    detectors:\n{text}")).unwrap().warnings;
    assert_eq!(warnings.len(), 51);
    assert_eq!(warnings[50], "config.yaml: and 150 more warnings");
}

/// A map of headers has an end, beyond which it panics.
#[test]
fn more_headers_than_can_be_sent_are_refused() {
    let start = "meter_provider: {readers: [{periodic: {exporter: {otlp_grpc: {";
    let listed = |n: usize| {
        let items: String = (0..n).map(|i| format!("{{name: h{i}, value: x}},")).collect();
        read(&format!("{start}headers: [{items}]}}}}}}}}]}}"))
    };
    let joined = |n: usize| {
        let pairs: String = (0..n).map(|i| format!("h{i}=x,")).collect();
        read(&format!("{start}headers_list: \"{pairs}\"}}}}}}}}]}}"))
    };
    assert!(listed(1000).is_ok() && joined(1000).is_ok());
    for result in [listed(100_000), joined(100_000)] {
        let error = result.unwrap_err().to_string();
        assert!(error.ends_with(": 100000 headers\nhint: 1000 at most; servers take far fewer"), "{error}");
    }
}
