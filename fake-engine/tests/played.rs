//! What the fake engine plays, seen from a client that knows nothing but sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use fake_engine::{Container, Endpoint, Event, EventStyle, FakeEngine, Fault, Target};
use serde_json::{Value, json};

/// An answer, as far as it came.
struct Reply {
    status: u16,
    head: String,
    body: String,
    /// Whether the answer came to its proper end.
    whole: bool,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

fn send(engine: &FakeEngine, request: &str) -> UnixStream {
    let mut stream = UnixStream::connect(engine.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "{request}\r\nHost: docker\r\nConnection: close\r\n\r\n").unwrap();
    stream
}

fn get(engine: &FakeEngine, path: &str) -> Reply {
    receive(send(engine, &format!("GET {path} HTTP/1.1")))
}

fn receive(mut stream: UnixStream) -> Reply {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, rest) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no headers: {text}"));
    let head = head.to_lowercase();
    let (body, whole) = if head.contains("transfer-encoding: chunked") {
        unchunk(rest)
    } else {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        (rest.to_owned(), rest.len() == length.parse::<usize>().unwrap())
    };
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head, body, whole }
}

fn unchunk(mut rest: &str) -> (String, bool) {
    let mut body = String::new();
    while let Some((size, data)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return (body, true);
        }
        body.push_str(&data[..size]);
        rest = &data[size + 2..];
    }
    (body, false)
}

/// An event stream. HTTP/1.0 has no chunks, so what follows the headers is lines.
struct Follow(BufReader<UnixStream>);

impl Follow {
    fn open(engine: &FakeEngine, query: &str) -> Self {
        let mut reader = BufReader::new(send(engine, &format!("GET /events{query} HTTP/1.0")));
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert!(line.contains(" 200 "), "{line}");
        while line != "\r\n" {
            line.clear();
            assert_ne!(reader.read_line(&mut line).unwrap(), 0, "the stream ended in its headers");
        }
        Self(reader)
    }

    /// The next line, or nothing where the stream has ended.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn next(&mut self) -> Value {
        serde_json::from_str(&self.line().unwrap()).unwrap()
    }

    fn actions(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.next()["Action"].as_str().unwrap().to_owned()).collect()
    }

    /// That nothing comes.
    fn quiet(&mut self, time: Duration) {
        self.0.get_ref().set_read_timeout(Some(time)).unwrap();
        let mut line = String::new();
        let error = self.0.read_line(&mut line).expect_err("a line, or the end, where nothing was to come");
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}: {line}");
        self.0.get_ref().set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    }
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_five_calls_are_answered_with_and_without_a_version() {
    let engine = FakeEngine::start().unwrap();
    let id = engine.add(Container::new("web").label("team", "blue").health("healthy", 0));
    for prefix in ["", "/v1.41"] {
        let ping = get(&engine, &format!("{prefix}/_ping"));
        assert_eq!((ping.status, ping.body.as_str()), (200, "OK"));
        assert!(ping.head.contains("api-version: 1.51"), "{}", ping.head);
        assert!(ping.head.contains("ostype: linux"), "{}", ping.head);
        assert_eq!(get(&engine, &format!("{prefix}/version")).json()["ApiVersion"], "1.51");
        let list = get(&engine, &format!("{prefix}/containers/json?all=1")).json();
        assert_eq!(list[0]["Names"], json!(["/web"]));
        let inspect = get(&engine, &format!("{prefix}/containers/{id}/json")).json();
        assert_eq!(inspect["State"]["Health"]["Status"], "healthy");
        assert_eq!(inspect["Config"]["Labels"], json!({"team": "blue"}));
    }
    assert_eq!(get(&engine, "/containers/web/json").json()["Id"], id);
    assert_eq!(get(&engine, &format!("/containers/{}/json", &id[..12])).json()["Id"], id);
    let missing = get(&engine, "/containers/nobody/json");
    assert_eq!((missing.status, missing.json()), (404, json!({"message": "No such container: nobody"})));
    assert_eq!(engine.violations(), Vec::<String>::new());
    assert_eq!(engine.inspects(&id), 2);
    assert_eq!(engine.count(Endpoint::Ping), 2);
}

#[test]
fn only_a_list_with_all_has_containers_that_do_not_run() {
    let engine = FakeEngine::start().unwrap();
    for status in ["created", "running", "paused", "restarting", "exited", "dead", "removing"] {
        engine.add(Container::new(status).status(status));
    }
    let names = |query: &str| {
        let list = get(&engine, &format!("/containers/json{query}")).json();
        let mut names: Vec<_> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["State"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(""), ["paused", "restarting", "running"]);
    assert_eq!(names("?all=false"), ["paused", "restarting", "running"]);
    assert_eq!(names("?all=true&size=false").len(), 7);
    assert_eq!(get(&engine, "/containers/json?filters=%7B%22id%22:%5B%22a%22%5D%7D").status, 400);
}

#[test]
fn what_is_not_one_of_the_five_gets_is_a_violation() {
    let engine = FakeEngine::start().unwrap();
    let id = engine.add(Container::new("web"));
    let status = |request: &str| receive(send(&engine, &format!("{request} HTTP/1.1"))).status;
    assert_eq!(status(&format!("POST /v1.41/containers/{id}/kill")), 404);
    assert_eq!(status("GET /images/json"), 404);
    assert_eq!(status(&format!("DELETE /containers/{id}/json")), 405);
    let expected = [
        format!("POST /containers/{id}/kill"),
        "GET /images/json".into(),
        format!("DELETE /containers/{id}/json"),
    ];
    assert_eq!(engine.violations(), expected);
    engine.clear_requests();
    assert!(engine.violations().is_empty() && engine.requests().is_empty());
}

#[test]
fn versions_out_of_range_are_refused_in_mobys_words() {
    let engine = FakeEngine::start().unwrap();
    engine.set_api_versions("1.44", "1.52");
    let old = get(&engine, "/v1.41/version");
    let text = "client version 1.41 is too old. Minimum supported API version is 1.44, \
                please upgrade your client to a newer version";
    assert_eq!((old.status, old.json()), (400, json!({"message": text})));
    assert!(old.head.contains("api-version: 1.52"), "{}", old.head);
    assert_eq!(get(&engine, "/v1.44/version").status, 200);
    engine.set_api_versions("1.12", "1.41");
    let new = get(&engine, "/v1.53/containers/json");
    let text = "client version 1.53 is too new. Maximum supported API version is 1.41";
    assert_eq!((new.status, new.json()), (400, json!({"message": text})));
}

#[test]
fn an_event_is_what_moby_sends() {
    let engine = FakeEngine::start().unwrap();
    let id = engine.add(Container::new("web").label("team", "blue"));
    let mut follow = Follow::open(&engine, "");
    eventually("a stream", || engine.streams() == 1);
    let event = engine.act(&id, "start", |container| container.status("running"));
    let expected = json!({
        "status": "start", "id": id, "from": "busybox:test", "Type": "container", "Action": "start",
        "Actor": {"ID": id, "Attributes": {"image": "busybox:test", "name": "web", "team": "blue"}},
        "scope": "local", "time": event.time_nano / 1_000_000_000, "timeNano": event.time_nano,
    });
    assert_eq!(follow.next(), expected);
    engine.emit(Event::new("network", "connect", "abc").attribute("name", "none"));
    assert_eq!(follow.next().get("status"), None);

    engine.set_api_versions("1.44", "1.52");
    let mut modern = Follow::open(&engine, "");
    engine.emit(engine.event("stop", &id));
    let event = modern.next();
    assert_eq!((event.get("status"), event.get("id"), event.get("from")), (None, None, None));
    assert_eq!(event["Actor"]["ID"], id);
    engine.set_event_style(EventStyle::Legacy);
    let mut legacy = Follow::open(&engine, "");
    engine.emit(engine.event("stop", &id));
    assert_eq!(legacy.next()["status"], "stop");
}

#[test]
fn since_is_inclusive_and_replays_what_the_buffer_has_before_going_on() {
    let engine = FakeEngine::start().unwrap();
    let second = 1_795_245_110_i64;
    let at = |nano: i64| second * 1_000_000_000 + nano;
    for (nano, action) in [(1, "one"), (20, "two"), (300, "three")] {
        engine.emit(Event::new("container", action, "c").at(at(nano)));
    }
    // The fraction is nanoseconds with leading zeros, as moby reads it.
    let mut follow = Follow::open(&engine, &format!("?since={second}.000000020"));
    engine.emit(Event::new("container", "four", "c"));
    assert_eq!(follow.actions(3), ["two", "three", "four"]);
    assert_eq!(
        Follow::open(&engine, &format!("?since={second}")).actions(4),
        ["one", "two", "three", "four"]
    );
    let mut ended = Follow::open(&engine, &format!("?since={second}&until={second}.0000001"));
    assert_eq!(ended.actions(2), ["one", "two"]);
    assert_eq!(ended.line(), None);
    let mut live = Follow::open(&engine, "");
    live.quiet(Duration::from_millis(50));
    assert_eq!(get(&engine, "/events?since=10&until=5").status, 400);
    assert_eq!(get(&engine, "/events?since=yesterday").status, 400);
}

#[test]
fn an_until_in_the_future_ends_the_stream_then() {
    let engine = FakeEngine::start().unwrap();
    let until = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 2;
    let mut follow = Follow::open(&engine, &format!("?until={until}"));
    engine.emit(Event::new("container", "start", "c"));
    assert_eq!(follow.actions(1), ["start"]);
    assert_eq!(follow.line(), None);
}

#[test]
fn the_buffer_holds_256_events() {
    let engine = FakeEngine::start().unwrap();
    engine.burst(300, |number| Event::new("container", &number.to_string(), "c"));
    let actions = Follow::open(&engine, "?since=1").actions(256);
    assert_eq!((actions[0].as_str(), actions[255].as_str()), ("44", "299"));
    engine.forget_events();
    Follow::open(&engine, "?since=1").quiet(Duration::from_millis(50));
}

#[test]
fn filters_choose_events() {
    let engine = FakeEngine::start().unwrap();
    let id = engine.add(Container::new("web").label("team", "blue"));
    let follow = |filters: Value| {
        let filters: String = form_urlencoded::byte_serialize(filters.to_string().as_bytes()).collect();
        Follow::open(&engine, &format!("?filters={filters}"))
    };
    let mut by_type = follow(json!({"type": ["container"]}));
    let mut by_old_form = follow(json!({"type": {"network": true}}));
    let mut by_event = follow(json!({"event": ["health_status", "die"]}));
    let mut by_label = follow(json!({"label": ["team=blue"], "container": ["web"]}));
    engine.emit(Event::new("network", "connect", "abc"));
    for action in ["health_status: healthy", "start", "die"] {
        engine.emit(engine.event(action, &id));
    }
    assert_eq!(by_type.actions(3), ["health_status: healthy", "start", "die"]);
    assert_eq!(by_old_form.actions(1), ["connect"]);
    assert_eq!(by_event.actions(2), ["health_status: healthy", "die"]);
    assert_eq!(by_label.actions(3), ["health_status: healthy", "start", "die"]);
    assert_eq!(get(&engine, "/events?filters=%7B%22colour%22:%5B%22a%22%5D%7D").status, 400);
}

#[test]
fn a_burst_arrives_whole_and_a_stream_that_does_not_read_is_passed_over() {
    let engine = FakeEngine::start().unwrap();
    let mut follow = Follow::open(&engine, "");
    thread::scope(|scope| {
        let reader = scope.spawn(|| follow.actions(20_000));
        engine.burst(20_000, |number| Event::new("container", &number.to_string(), "c"));
        let expected: Vec<_> = (0..20_000).map(|number| number.to_string()).collect();
        assert_eq!(reader.join().unwrap(), expected);
    });
    assert_eq!(engine.skipped(), 0);
    let long = "x".repeat(4096);
    let sent = (0..100_000).take_while(|_| engine.skipped() == 0).map(|_| {
        engine.emit(Event::new("container", "start", &long));
    });
    assert!(sent.count() > 1024, "more than the queue must fit before one is skipped");
    assert_eq!(engine.skipped(), 1);
}

#[test]
fn duplicates_and_raw_bytes_reach_the_open_streams() {
    let engine = FakeEngine::start().unwrap();
    let mut follow = Follow::open(&engine, "");
    let event = engine.emit(Event::new("container", "start", "c"));
    engine.repeat(&event);
    let first = follow.line().unwrap();
    assert_eq!(follow.line().unwrap(), first);
    engine.emit_raw("{\"Type\": nonsense\n");
    assert_eq!(follow.line().unwrap(), "{\"Type\": nonsense\n");
    assert_eq!(Follow::open(&engine, "?since=1").actions(1), ["start"]);
}

#[test]
fn event_streams_are_cut_ended_and_silenced() {
    let engine = FakeEngine::start().unwrap();
    let open = |engine: &FakeEngine| {
        let stream = send(engine, "GET /events HTTP/1.1");
        eventually("a stream", || engine.streams() == 1);
        stream
    };
    let cut = open(&engine);
    engine.emit(Event::new("container", "start", "c"));
    engine.cut_events();
    let cut = receive(cut);
    assert!(cut.body.contains("start") && !cut.whole, "{}", cut.body);
    let ended = open(&engine);
    engine.end_events();
    assert!(receive(ended).whole);

    let mut follow = Follow::open(&engine, "");
    engine.silence_events(true);
    engine.emit(Event::new("container", "lost", "c"));
    follow.quiet(Duration::from_millis(50));
    engine.silence_events(false);
    engine.emit(Event::new("container", "heard", "c"));
    assert_eq!(follow.actions(1), ["heard"]);
    drop(follow);
    eventually("no stream, once its client is gone", || engine.streams() == 0);
}

#[test]
fn answers_go_wrong_as_scripted_and_are_right_again_when_healed() {
    let engine = FakeEngine::start().unwrap();
    let (odd, even) = (engine.add(Container::new("odd")), engine.add(Container::new("even")));
    let inspect = |id: &str| get(&engine, &format!("/containers/{id}/json"));
    let target = Target::Inspect(odd.clone());

    engine.fault_times(target.clone(), Fault::Status(404, format!("No such container: {odd}")), 1);
    engine.fault_times(target.clone(), Fault::Status(500, "it broke".into()), 2);
    engine.fault_times(target.clone(), Fault::Malformed, 1);
    engine.fault_times(target.clone(), Fault::Body("[]".into()), 1);
    assert_eq!(engine.unspent(), std::slice::from_ref(&target));
    assert_eq!(inspect(&even).status, 200);
    assert_eq!(inspect(&odd).status, 404);
    assert_eq!(inspect(&odd).json(), json!({"message": "it broke"}));
    assert_eq!(inspect(&odd).status, 500);
    let malformed = inspect(&odd);
    assert!(malformed.whole && serde_json::from_str::<Value>(&malformed.body).is_err(), "{}", malformed.body);
    assert_eq!(inspect(&odd).body, "[]");
    assert_eq!(inspect(&odd).json()["Name"], "/odd");
    assert_eq!(engine.unspent(), []);

    engine.fault(Target::List, Fault::Truncated);
    let list = get(&engine, "/containers/json?all=1");
    assert!(list.status == 200 && !list.whole && list.body.contains("Names"), "{}", list.body);
    engine.heal(&Target::List);
    assert!(get(&engine, "/containers/json?all=1").whole);

    engine.fault(Target::AnyInspect, Fault::Status(503, "busy".into()));
    assert_eq!((inspect(&odd).status, inspect(&even).status), (503, 503));
    engine.fault(Target::Events, Fault::Truncated);
    assert!(!get(&engine, "/events").whole);
    engine.heal_all();
    assert_eq!(inspect(&even).status, 200);
    Follow::open(&engine, "");
}

#[test]
fn answers_hang_until_healed_and_come_late() {
    let engine = FakeEngine::start().unwrap();
    let id = engine.add(Container::new("slow"));
    let target = Target::Inspect(id.clone());
    let ask = || send(&engine, &format!("GET /containers/{id}/json HTTP/1.1"));
    engine.fault_times(target.clone(), Fault::Hang, 1);
    let mut hung = ask();
    hung.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(hung.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    engine.heal(&Target::List);
    assert_eq!(hung.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(receive(ask()).status, 200);
    engine.heal(&target);
    hung.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(receive(hung).status, 200);

    for (fault, status) in [
        (Fault::Delay(Duration::from_millis(100)), "paused"),
        (Fault::Stale(Duration::from_millis(100)), "running"),
    ] {
        engine.update(&id, |container| container.status("running"));
        engine.clear_requests();
        engine.fault_times(target.clone(), fault, 1);
        let began = Instant::now();
        let late = ask();
        eventually("the request", || engine.inspects(&id) == 1);
        // The answer of a `Stale` is made right after the request is noted.
        eventually("the fault", || engine.unspent().is_empty());
        thread::sleep(Duration::from_millis(20));
        engine.update(&id, |container| container.status("paused"));
        assert_eq!(receive(late).json()["State"]["Status"], status);
        assert!(began.elapsed() >= Duration::from_millis(100));
    }
}

#[test]
fn the_whole_engine_hangs_and_goes_on() {
    let engine = FakeEngine::start().unwrap();
    let mut follow = Follow::open(&engine, "");
    engine.hang();
    let mut ping = send(&engine, "GET /_ping HTTP/1.1");
    ping.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(ping.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    engine.emit(Event::new("container", "start", "c"));
    follow.quiet(Duration::from_millis(50));
    engine.resume();
    ping.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(receive(ping).body, "OK");
    assert_eq!(follow.actions(1), ["start"]);
}

#[test]
fn connections_are_refused_and_taken_again() {
    let engine = FakeEngine::start().unwrap();
    engine.add(Container::new("web"));
    let mut follow = Follow::open(&engine, "");
    engine.refuse();
    assert_eq!(engine.connections(), 0);
    assert_eq!(UnixStream::connect(engine.socket()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(follow.line(), None);
    engine.reopen().unwrap();
    assert_eq!(get(&engine, "/_ping").status, 200);
    engine.vanish();
    assert_eq!(UnixStream::connect(engine.socket()).unwrap_err().kind(), ErrorKind::NotFound);
    engine.reopen().unwrap();
    engine.emit(Event::new("container", "start", "c"));
    engine.restart().unwrap();
    Follow::open(&engine, "?since=1").quiet(Duration::from_millis(50));
    assert_eq!(get(&engine, "/containers/json?all=1").json().as_array().unwrap().len(), 1);
    let socket = engine.socket().to_owned();
    drop(engine);
    assert!(!socket.exists());
}

#[test]
fn containers_are_created_changed_and_destroyed_with_their_events() {
    let engine = FakeEngine::start().unwrap();
    let mut follow = Follow::open(&engine, "");
    let id = engine.create(
        Container::new("job")
            .status("created")
            .created_at("2026-11-21T07:11:50.5Z")
            .image("job:2")
            .hostname("inside")
            .restart_policy("on-failure", 3),
    );
    engine.act(&id, "die", |container| {
        container
            .started_at("2026-11-21T07:12:00Z")
            .exit_code(3)
            .exited(3, "2026-11-21T07:12:01.25Z")
            .oom_killed(true)
            .restart_count(2)
            .named("job-2")
    });
    let inspect = get(&engine, &format!("/containers/{id}/json")).json();
    assert_eq!(inspect["State"]["Status"], "exited");
    assert_eq!(inspect["State"]["ExitCode"], 3);
    assert_eq!(inspect["State"]["OOMKilled"], true);
    assert_eq!(inspect["State"]["FinishedAt"], "2026-11-21T07:12:01.25Z");
    assert_eq!(inspect["RestartCount"], 2);
    assert_eq!(inspect["HostConfig"]["RestartPolicy"], json!({"Name": "on-failure", "MaximumRetryCount": 3}));
    let list = get(&engine, "/containers/json?all=1").json();
    assert_eq!((&list[0]["Created"], &list[0]["State"]), (&json!(1_795_245_110), &json!("exited")));
    engine.destroy(&id);
    assert_eq!(get(&engine, &format!("/containers/{id}/json")).status, 404);
    let names: Vec<_> = (0..3).map(|_| follow.next()["Actor"]["Attributes"]["name"].clone()).collect();
    assert_eq!(names, ["job", "job-2", "job-2"]);
}

#[test]
fn ten_thousand_containers_are_cheap() {
    let engine = FakeEngine::start().unwrap();
    let ids = engine.populate(10_000, 5);
    let list = get(&engine, "/containers/json?all=1");
    assert!(list.whole);
    assert_eq!(list.json().as_array().unwrap().len(), 10_000);
    let inspect = get(&engine, &format!("/containers/{}/json", ids[9_999])).json();
    assert_eq!(inspect["Config"]["Labels"].as_object().unwrap().len(), 5);
    assert_eq!(engine.ids().len(), 10_000);
}
