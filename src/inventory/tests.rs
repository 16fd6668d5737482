use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn container(id: &str, name: &str) -> Arc<Container> {
    Arc::new(Container { event_identity: Arc::new(identity(name)), ..Container::sample(id, name) })
}

fn identity(name: &str) -> EventIdentity {
    EventIdentity { name: Some(name.into()), image: Some("busybox".into()), ..Default::default() }
}

fn event(action: &str, name: &str) -> EventLabels {
    EventLabels {
        counter: Counter::Events,
        event: action.into(),
        kind: "container".into(),
        identity: Arc::new(identity(name)),
    }
}

fn inventory() -> (Writer, Reader) {
    with_limit(1_000)
}

fn with_limit(limit: usize) -> (Writer, Reader) {
    new(EventPolicy {
        retention: Duration::from_secs(300),
        start_at_zero: vec!["oom".into()],
        exits: false,
        limit,
    })
}

fn names(reader: &Reader) -> Vec<String> {
    reader.snapshot().containers.list.iter().map(|c| c.name.to_string()).collect()
}

fn counts(reader: &Reader) -> HashMap<(String, String), u64> {
    let snapshot = reader.snapshot();
    let list = &snapshot.events.list;
    let map: HashMap<_, _> = list
        .iter()
        .map(|e| {
            (
                (e.labels.event.to_string(), e.labels.identity.name.as_deref().unwrap_or("").to_string()),
                e.count,
            )
        })
        .collect();
    assert_eq!(map.len(), list.len(), "a label set occurs twice");
    map
}

fn key(event: &str, name: &str) -> (String, String) {
    (event.into(), name.into())
}

#[test]
fn nothing_is_shown_before_the_first_whole_list() {
    let (writer, reader) = inventory();
    writer.upsert(container("a", "early"), Instant::now());
    assert!(names(&reader).is_empty());
    assert!(!reader.is_complete());
    writer.replace(vec![container("a", "early"), container("b", "late")], &[], Instant::now());
    assert_eq!(names(&reader), ["early", "late"]);
    assert!(reader.is_complete());
}

#[test]
fn what_is_withheld_comes_back_with_a_list_only() {
    let (writer, reader) = inventory();
    writer.replace(vec![container("a", "one")], &[], Instant::now());
    writer.withhold();
    writer.upsert(container("a", "one"), Instant::now());
    assert!(names(&reader).is_empty());
    writer.replace(vec![container("a", "one")], &[], Instant::now());
    assert_eq!(names(&reader), ["one"]);
}

#[test]
fn what_a_list_could_not_inspect_is_kept_if_it_was_known() {
    let (writer, reader) = inventory();
    writer.replace(vec![container("a", "one"), container("b", "two")], &[], Instant::now());
    writer.replace(vec![container("c", "three")], &["a".into(), "d".into()], Instant::now());
    assert_eq!(names(&reader), ["one", "three"]);
}

#[test]
fn the_generation_changes_with_the_containers_and_not_without() {
    let (writer, reader) = inventory();
    writer.replace(vec![container("a", "one")], &[], Instant::now());
    let first = reader.snapshot().containers.generation;
    writer.upsert(container("a", "one"), Instant::now());
    writer.replace(vec![container("a", "one")], &[], Instant::now());
    writer.remove("b");
    assert_eq!(reader.snapshot().containers.generation, first);
    writer.upsert(container("a", "other"), Instant::now());
    assert_ne!(reader.snapshot().containers.generation, first);
}

#[test]
fn an_event_leaves_the_containers_as_they_are() {
    let (writer, reader) = inventory();
    writer.replace(vec![container("a", "one")], &[], Instant::now());
    let before = reader.snapshot();
    writer.count(event("start", "one"), Instant::now());
    let after = reader.snapshot();
    assert!(Arc::ptr_eq(&before.containers, &after.containers));
    assert_ne!(before.events.generation, after.events.generation);
}

#[test]
fn a_known_container_has_zero_counts_until_its_first_event() {
    let (writer, reader) = inventory();
    writer.replace(vec![container("a", "one")], &[], Instant::now());
    assert_eq!(counts(&reader), HashMap::from([(key("oom", "one"), 0)]));
    writer.count(event("oom", "one"), Instant::now());
    assert_eq!(counts(&reader), HashMap::from([(key("oom", "one"), 1)]));
    writer.remove("a");
    assert_eq!(counts(&reader), HashMap::from([(key("oom", "one"), 1)]));
}

#[test]
fn a_zero_count_goes_with_its_container() {
    let (writer, reader) = inventory();
    writer.replace(vec![container("a", "one")], &[], Instant::now());
    writer.remove("a");
    assert!(counts(&reader).is_empty());
}

#[test]
fn a_sandbox_has_no_zero_counts() {
    let (writer, reader) = inventory();
    let mut pause = (*container("a", "k8s_POD")).clone();
    pause.event_identity = Arc::new(EventIdentity { sandbox: true, ..identity("k8s_POD") });
    writer.replace(vec![Arc::new(pause)], &[], Instant::now());
    assert!(counts(&reader).is_empty());
}

#[test]
fn a_count_is_kept_for_its_retention_and_while_its_name_exists() {
    let (writer, reader) = inventory();
    let start = Instant::now();
    writer.replace(vec![container("a", "stays"), container("b", "goes")], &[], Instant::now());
    writer.count(event("die", "stays"), start);
    writer.count(event("die", "goes"), start);
    writer.remove("b");
    writer.sweep(start + Duration::from_secs(299));
    assert_eq!(counts(&reader).len(), 3);
    writer.sweep(start + Duration::from_secs(300));
    assert_eq!(counts(&reader), HashMap::from([(key("die", "stays"), 1), (key("oom", "stays"), 0)]));
}

#[test]
fn a_recreated_container_goes_on_from_its_count() {
    let (writer, reader) = inventory();
    writer.replace(vec![container("a", "web")], &[], Instant::now());
    writer.count(event("die", "web"), Instant::now());
    writer.remove("a");
    writer.upsert(container("b", "web"), Instant::now());
    writer.count(event("die", "web"), Instant::now());
    assert_eq!(counts(&reader)[&key("die", "web")], 2);
}

#[test]
fn containers_that_share_a_label_set_share_its_zero() {
    let (writer, reader) = inventory();
    writer.replace(vec![container("a", "twin"), container("b", "twin")], &[], Instant::now());
    assert_eq!(counts(&reader), HashMap::from([(key("oom", "twin"), 0)]));
}

#[test]
fn a_container_that_is_recreated_long_after_its_last_event_goes_on_from_its_count() {
    let (writer, reader) = inventory();
    let start = Instant::now();
    writer.replace(vec![container("a", "web")], &[], Instant::now());
    writer.count(event("die", "web"), start);
    writer.sweep(start + Duration::from_secs(1000));
    writer.remove("a");
    writer.sweep(start + Duration::from_secs(1010));
    writer.upsert(container("b", "web"), Instant::now());
    writer.count(event("die", "web"), start + Duration::from_secs(1011));
    assert_eq!(counts(&reader)[&key("die", "web")], 2);
    writer.remove("b");
    writer.sweep(start + Duration::from_secs(1310));
    assert_eq!(counts(&reader)[&key("die", "web")], 2);
    writer.sweep(start + Duration::from_secs(1311));
    assert!(counts(&reader).is_empty());
}

#[test]
fn what_has_not_changed_stays_the_same_object() {
    let (writer, reader) = inventory();
    writer.replace(vec![container("a", "one"), container("b", "two")], &[], Instant::now());
    let before = reader.snapshot().containers;
    writer.upsert(container("a", "one"), Instant::now());
    writer.replace(vec![container("a", "one"), container("b", "other")], &[], Instant::now());
    let after = reader.snapshot().containers;
    assert!(Arc::ptr_eq(&before.list[0], &after.list[0]));
    assert_eq!(&*after.list[1].name, "other");
}

#[test]
fn the_last_events_are_remembered_and_no_more() {
    let (writer, reader) = inventory();
    let (now, time) = (Instant::now(), SystemTime::UNIX_EPOCH);
    for i in 0..RECENT as u64 + 5 {
        writer.count_and_remember(event("die", &format!("c{i}")), now, time + Duration::from_secs(i));
    }
    writer.count(event("exec_start", "c0"), now);
    let recent = reader.recent();
    assert_eq!(recent.len(), RECENT);
    let (first, last) = (&recent[0], &recent[RECENT - 1]);
    assert_eq!((first.seq, first.labels.identity.name.as_deref()), (6, Some("c5")));
    assert_eq!((last.seq, last.time), (105, time + Duration::from_secs(104)));
    // Each is counted, remembered or not.
    assert_eq!((counts(&reader).len(), counts(&reader)[&key("exec_start", "c0")]), (106, 1));
}

fn labelled(labels: &[(&str, &str)]) -> Arc<EventIdentity> {
    let labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    Arc::new(EventIdentity { labels, ..identity("web") })
}

/// The count of each label set, with escaped label names.
fn escaped(reader: &Reader) -> Vec<(String, u64)> {
    let events = reader.snapshot().events;
    let mut counts: Vec<_> = events
        .escaped()
        .iter()
        .map(|e| {
            let named = e.labels.identity.labels.iter().map(|(k, v)| (labels::container_label(k), &**v));
            (format!("{} {:?}", e.labels.event, labels::joined(named)), e.count)
        })
        .collect();
    counts.sort();
    assert!(counts.windows(2).all(|pair| pair[0].0 != pair[1].0), "the same twice: {counts:?}");
    counts
}

#[test]
fn label_sets_beyond_the_limit_are_counted_as_one() {
    let (writer, reader) = with_limit(2);
    let now = Instant::now();
    writer.replace(vec![container("a", "web"), container("b", "db")], &[], Instant::now());
    let count = |action: &str| writer.count(event(action, "web"), now);
    // Label sets that begin at 0 do not count towards the limit.
    assert_eq!(["oom", "a", "b", "a"].map(count), [Counted::Itself; 4]);
    let others = ["c", "d", "c"].map(count);
    let overflow = |is_new| Counted::Overflow { is_new };
    assert_eq!(others, [overflow(true), overflow(false), overflow(false)]);
    let expected = [
        (key("oom", "web"), 1),
        (key("oom", "db"), 0),
        (key("a", "web"), 2),
        (key("b", "web"), 1),
        (key("overflow", ""), 3),
    ];
    assert_eq!(counts(&reader), HashMap::from(expected));
    // A known label set still counts, and a new container still gets its zero.
    assert_eq!(count("b"), Counted::Itself);
    writer.upsert(container("c", "new"), Instant::now());
    assert_eq!(counts(&reader)[&key("oom", "new")], 0);
    // What is remembered is what has happened.
    writer.count_and_remember(event("e", "web"), now, SystemTime::now());
    assert_eq!(&*reader.recent().last().unwrap().labels.event, "e");
}

#[test]
fn what_goes_makes_room_and_takes_no_count_with_it() {
    let (writer, reader) = with_limit(1);
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    writer.replace(vec![container("a", "web")], &[], Instant::now());
    writer.count(event("oom", "web"), start);
    writer.count(event("x", "gone"), start);
    assert_eq!(writer.count(event("x", "web"), at(200)), Counted::Overflow { is_new: true });
    writer.sweep(at(300));
    assert_eq!(writer.count(event("x", "web"), at(300)), Counted::Itself);
    assert_eq!(counts(&reader)[&key("overflow", "")], 1, "what was told stays");
    assert_eq!(writer.count(event("y", "web"), at(300)), Counted::Overflow { is_new: false });
    writer.sweep(at(600));
    assert_eq!(counts(&reader).get(&key("overflow", "")), None, "it has a retention as all have");
    // A zero with a count takes a place once its container is gone.
    writer.remove("a");
    assert_eq!(writer.count(event("z", "web"), at(600)), Counted::Overflow { is_new: true });
    // Label sets and containers come and go endlessly.
    for round in 0..100 {
        let name = format!("c{round}");
        writer.upsert(container(&name, &name), Instant::now());
        writer.count(event("oom", &name), at(600 + round));
        writer.remove(&name);
        writer.count(event("die", &name), at(600 + round));
        writer.sweep(at(600 + round));
    }
    writer.sweep(at(2000));
    assert!(counts(&reader).is_empty());
    assert_eq!(writer.count(event("x", "web"), at(2000)), Counted::Itself);
}

#[test]
fn what_is_shown_as_one_is_counted_as_one() {
    let pairs: [[&[(&str, &str)]; 2]; 5] = [
        [&[("a.b", "1")], &[("a_b", "1")]],
        [&[("K", "1"), ("z", "")], &[("k", "1")]],
        [&[("a.b", "1"), ("a0", "2")], &[("a0", "2"), ("a_b", "1")]],
        [&[("a-b", "1"), ("a_b", "2")], &[("a.b", "1;2")]],
        [&[("a\0b", "1")], &[("a_b", "1")]],
    ];
    for [before, after] in pairs {
        let (writer, reader) = inventory();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let web = |id: &str, labels| {
            Arc::new(Container { event_identity: labelled(labels), ..(*container(id, "web")).clone() })
        };
        let count = |action: &str, labels, when| {
            let labels = EventLabels {
                counter: Counter::Events,
                event: action.into(),
                kind: "container".into(),
                identity: labelled(labels),
            };
            writer.count(labels, when);
        };
        let of = |action: &str| {
            let found: Vec<_> =
                escaped(&reader).into_iter().filter(|(name, _)| name.starts_with(action)).collect();
            assert!(found.len() < 2, "{found:?}");
            found.first().map(|(_, count)| *count)
        };
        writer.replace(vec![web("a", before)], &[], Instant::now());
        for _ in 0..3 {
            count("oom", before, start);
            count("die", before, start);
        }
        // Recreated, with the same name.
        writer.replace(vec![web("b", after)], &[], Instant::now());
        assert_eq!((of("oom"), of("die")), (Some(3), Some(3)), "{before:?} {after:?}");
        count("oom", after, at(1));
        count("die", after, at(1));
        assert_eq!((of("oom"), of("die")), (Some(4), Some(4)), "{before:?} {after:?}");
        // Removed: the older label set does not expire before the younger.
        writer.sweep(at(1_000));
        writer.remove("b");
        count("die", after, at(1_100));
        writer.sweep(at(1_300));
        assert_eq!((of("oom"), of("die")), (None, Some(5)), "{before:?} {after:?}");
        writer.sweep(at(1_400));
        assert!(escaped(&reader).is_empty(), "{before:?} {after:?}");
        assert!(!reader.snapshot().events.has_variants);
    }
}

#[test]
fn what_is_empty_is_as_good_as_none() {
    let (writer, reader) = inventory();
    let empty = || Some(Text::from(""));
    let bare = EventIdentity { name: empty(), image: empty(), ..EventIdentity::default() };
    for identity in [EventIdentity::default(), bare] {
        let identity = Arc::new(identity);
        writer.count(
            EventLabels { counter: Counter::Events, event: "x".into(), kind: "container".into(), identity },
            Instant::now(),
        );
    }
    assert_eq!(counts(&reader), HashMap::from([(key("x", ""), 2)]));
}

#[test]
fn an_action_without_end_is_cut() {
    let (writer, reader) = inventory();
    for end in ["1", "2"] {
        writer.count(event(&format!("exec_start: {}{end}", "é".repeat(100_000)), "web"), Instant::now());
    }
    let snapshot = reader.snapshot();
    let [only] = &snapshot.events.list[..] else { panic!("{:?}", snapshot.events.list.len()) };
    assert_eq!((only.count, only.labels.event.len()), (2, 1024 + "…".len()));
}

#[test]
fn what_could_not_be_inspected_stays_as_it_is_known_unless_the_list_contradicts_it() {
    let (writer, reader) = inventory();
    let listed =
        |status| Arc::new(Container { status, is_inspected: false, ..Container::sample("a", "web") });
    writer.replace(vec![container("a", "web")], &[], Instant::now());
    writer.replace(vec![listed(Status::Running)], &[], Instant::now());
    assert!(reader.snapshot().containers.list[0].is_inspected);
    writer.replace(vec![listed(Status::Dead)], &[], Instant::now());
    assert_eq!(reader.snapshot().containers.list[0].status, Status::Dead);
}

/// An inventory that counts ends.
fn with_exits() -> (Writer, Reader) {
    let retention = Duration::from_secs(300);
    new(EventPolicy { retention, start_at_zero: Vec::new(), exits: true, limit: 100 })
}

fn run_event(id: &str, name: &str, event: RunEvent, at: u64, is_counted: bool) -> ContainerRunEvent {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
    ContainerRunEvent { id: id.into(), identity: Arc::new(identity(name)), event, at, is_counted }
}

fn die(exit_code: i64) -> RunEvent {
    RunEvent::Die { exit_code: Some(exit_code), oom_killed: false }
}

/// As `docker inspect` shows it after its end.
fn exited(id: &str, policy: &str, exit_code: i64, finished_at: i64) -> Arc<Container> {
    Arc::new(Container {
        status: Status::Exited,
        exit_code,
        finished_at,
        restart_policy: policy.into(),
        expectation: Expectation::of_policy(policy, false),
        ..Container::clone(&container(id, id))
    })
}

fn verdict(reader: &Reader) -> Verdict {
    reader.snapshot().containers.list[0].verdict
}

#[test]
fn ends_are_counted_by_their_reason_and_failures_begin_at_zero() {
    let (writer, reader) = with_exits();
    let now = Instant::now();
    writer.replace(vec![container("web", "web")], &[], now);
    assert_eq!(
        counts(&reader),
        [("error", 0), ("oom", 0), ("signal", 0)].map(|(r, n)| (key(r, "web"), n)).into()
    );
    writer.run_event(run_event("web", "web", RunEvent::Start, 100, true), now);
    writer.run_event(run_event("web", "web", die(3), 160, true), now);
    assert!(writer.count_ends(now).is_empty(), "the inspect may tell that it was killed for memory");
    writer.upsert(exited("web", "always", 3, 160), now);
    let ends = writer.count_ends(now);
    assert_eq!(ends.len(), 1);
    assert_eq!((&*ends[0].id, ends[0].end.reason), ("web", ExitReason::Error));
    assert_eq!(ends[0].end.lasted, Some(Duration::from_secs(60)));
    assert_eq!(counts(&reader)[&key("error", "web")], 1);
    assert_eq!(verdict(&reader).last_end, Some(ExitReason::Error));
    assert_eq!(verdict(&reader).attention, Some(Attention::Down));
}

#[test]
fn what_came_before_is_heeded_and_not_counted() {
    let (writer, reader) = with_exits();
    let now = Instant::now();
    let term = RunEvent::Kill(Signal::parse("TERM"));
    writer.run_event(run_event("web", "web", term, 100, false), now);
    writer.run_event(run_event("web", "web", die(143), 101, false), now);
    writer.replace(vec![exited("web", "always", 143, 101)], &[], now);
    writer.count_ends(now);
    assert_eq!(verdict(&reader).last_end, Some(ExitReason::Stopped));
    assert_eq!(verdict(&reader).attention, None);
    assert_eq!(counts(&reader).get(&key("stopped", "web")), None);
}

#[test]
fn a_container_that_is_gone_before_its_inspect_is_counted_by_its_events() {
    let (writer, reader) = with_exits();
    let now = Instant::now();
    writer.replace(Vec::new(), &[], now);
    writer.run_event(run_event("a", "job", RunEvent::Start, 100, true), now);
    writer.run_event(run_event("a", "job", die(1), 101, true), now);
    writer.destroyed(&"a".into());
    assert_eq!(writer.count_ends(now).len(), 1);
    assert_eq!(counts(&reader), [(key("error", "job"), 1)].into());
}

#[test]
fn an_end_that_no_event_told_of_is_counted_once_and_a_moment_later() {
    let (writer, reader) = with_exits();
    let now = Instant::now();
    writer.replace(vec![exited("web", "no", 0, 50)], &[], now);
    assert!(writer.count_ends(now).is_empty());
    writer.replace(vec![exited("web", "no", 4, 90)], &[], now);
    assert!(writer.count_ends(now).is_empty(), "its event may still come");
    let later = now + Duration::from_secs(10);
    writer.sweep(later);
    writer.count_ends(later);
    writer.replace(vec![exited("web", "no", 4, 90)], &[], later);
    writer.sweep(later + Duration::from_secs(10));
    writer.count_ends(later);
    assert_eq!(counts(&reader)[&key("error", "web")], 1);
    assert_eq!(verdict(&reader).attention, Some(Attention::Failed));
}

#[test]
fn a_verdict_that_changes_makes_another_generation_and_one_that_stays_none() {
    let (writer, reader) = with_exits();
    let now = Instant::now();
    let running = |policy: &str| {
        Arc::new(Container { restart_policy: policy.into(), ..Container::clone(&container("web", "web")) })
    };
    writer.replace(vec![running("unless-stopped")], &[], now);
    writer.run_event(run_event("web", "web", RunEvent::Start, 100, true), now);
    let before = reader.snapshot().containers;
    assert_eq!(verdict(&reader).is_policy_disarmed, Some(false));
    assert_eq!(reader.snapshot().containers.generation, before.generation);
    let hangup = RunEvent::Kill(Signal::parse("HUP"));
    writer.run_event(run_event("web", "web", hangup, 101, true), now);
    assert_ne!(reader.snapshot().containers.generation, before.generation);
    assert_eq!(verdict(&reader).is_policy_disarmed, Some(true));
    // An equal inspect keeps the same object.
    let known = Arc::clone(&reader.snapshot().containers.list[0]);
    writer.upsert(running("unless-stopped"), now);
    assert!(Arc::ptr_eq(&known, &reader.snapshot().containers.list[0]));
    writer.upsert(running("always"), now);
    assert_eq!(verdict(&reader).is_policy_disarmed, None, "other policies do not go by it");
}

proptest! {
    /// Whatever comes and goes: no shown count decreases under the same label set, and no label set appears twice.
    #[test]
    fn what_was_told_never_goes_back(steps in proptest::collection::vec((0..4u8, 0..3usize, 0..5usize, 0..3usize), 1..60)) {
        const LABELS: [&[(&str, &str)]; 5] =
            [&[("a.b", "1")], &[("a_b", "1")], &[("A-B", "1"), ("z", "")], &[("a_b", "2")], &[]];
        const ACTIONS: [&str; 3] = ["oom", "die", "exec_start: x"];
        let (writer, reader) = with_limit(3);
        writer.replace(Vec::new(), &[], Instant::now());
        let start = Instant::now();
        let mut now = start;
        let mut told: HashMap<String, u64> = HashMap::new();
        for (step, id, labels, action) in steps {
            let identity = labelled(LABELS[labels]);
            let container = Container { event_identity: Arc::clone(&identity), ..Container::sample(&format!("{id}"), "web") };
            match step {
                0 => writer.upsert(Arc::new(container), now),
                1 => writer.remove(&format!("{id}")),
                2 => {
                    let event = ACTIONS[action].into();
                    writer.count(EventLabels { counter: Counter::Events, event, kind: "container".into(), identity }, now);
                }
                _ => {
                    now += Duration::from_secs(100 * (labels as u64 + 1));
                    writer.sweep(now);
                }
            }
            // Panics if a label set appears twice.
            let counts: HashMap<String, u64> = escaped(&reader).into_iter().collect();
            for (labels, count) in &counts {
                prop_assert!(told.get(labels).is_none_or(|before| before <= count), "{}: {:?}, then {}", labels, told, count);
            }
            told = counts;
        }
    }
}
