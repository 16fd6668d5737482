//! The HTTP server as its clients see it, and what ends the program at its start.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fake_engine::{Container, FakeEngine};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use support::eventually;
use support::exporter::{Exporter, Setup, free_address, get};
use support::exposition::Exposition;

const SOON: Duration = Duration::from_secs(10);

/// One request on a connection of its own: status line with headers, and the body as it came.
fn request(exporter: &Exporter, method: &str, path: &str, headers: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(exporter.address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: x\r\n{headers}\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("an answer has headers");
    (String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase(), answer[end + 4..].to_vec())
}

fn status(head: &str) -> &str {
    head.split(' ').nth(1).unwrap()
}

/// A line without quoted names, as a client that takes none would get it.
fn escaped(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    // Names are what is in quotes behind `{`, `,` or a space and before `,`, `=` or a space; a value is behind `=`.
    while let Some(at) = rest.find('"') {
        let (before, quoted) = rest.split_at(at);
        let end = 1 + quoted[1..].find('"').unwrap();
        let text = &quoted[1..end];
        out.push_str(before);
        if before.ends_with('=') {
            out.push_str(&format!("\"{text}\""));
        } else {
            let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
            let name: String = text.chars().map(allowed).collect();
            if before.ends_with('{') && out == "{" {
                out = format!("{name}{{");
            } else {
                out.push_str(&name);
            }
        }
        rest = &quoted[end + 1..];
        if out.ends_with('{') {
            rest = rest.trim_start_matches(',');
        }
    }
    out + rest
}

#[test]
fn names_stay_as_they_are_for_clients_that_ask_for_it() {
    const ASKED: &str = "Accept: text/plain;version=1.0.0;escaping=allow-utf-8\r\n";
    let engine = FakeEngine::start().unwrap();
    engine.add(Container::new("web").label("com.example.team", "blue"));
    engine.add(Container::new("db").label("tier", "data"));
    let pull = "/meter_provider/readers/0/pull/exporter/prometheus~1development";
    for (strategy, started, count) in [
        ("no_translation/development", "container.state.startedat", "docker.events"),
        (
            "no_utf8_escaping_with_suffixes/development",
            "container.state.startedat_seconds",
            "docker.events_total",
        ),
    ] {
        let exporter = Setup::new(&engine.host())
            .set(&format!("{pull}/translation_strategy"), strategy)
            .set(&format!("{pull}/target_info_enabled~1development"), true)
            .set(&format!("{pull}/scope_info_enabled"), true)
            .set(
                &format!("{pull}/resource_constant_labels"),
                serde_json::json!({"included": ["service.name"]}),
            )
            .set("/containers/encoding", "state_set")
            .start();
        let (head, body) = request(&exporter, "GET", "/metrics", ASKED);
        assert!(
            head.contains("content-type: text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8"),
            "{head}"
        );
        assert!(head.contains("vary: accept, accept-encoding"), "{head}");
        let kept = String::from_utf8(body).unwrap();
        let line = |start: &str, with: &[&str]| {
            let found =
                kept.lines().any(|line| line.starts_with(start) && with.iter().all(|w| line.contains(w)));
            assert!(found, "no line {start} with {with:?} in\n{kept}");
        };
        line(&format!("# TYPE \"{started}\" gauge"), &[]);
        line(&format!("# TYPE \"{count}\" counter"), &[]);
        line(
            "{\"container.state.status\",",
            &["\"container.label.com.example.team\"=\"blue\"", "status=\"running\"", "} 1"],
        );
        line(&format!("{{\"{started}\","), &["name=\"web\"", "\"service.name\"=\"docker-state-exporter\""]);
        line(&format!("{{\"{count}\","), &["event=\"oom\"", "name=\"db\"", "} 0"]);
        line("target_info{", &["\"service.name\"=\"docker-state-exporter\"", "\"host.name\"="]);
        line("docker_up 1", &[]);
        // Everybody else gets the same under names that they can read.
        for accept in [
            "",
            "Accept: text/plain;version=0.0.4\r\n",
            "Accept: text/plain;version=1.0.0;escaping=underscores\r\n",
        ] {
            let (head, body) = request(&exporter, "GET", "/metrics", accept);
            assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
            let body = String::from_utf8(body).unwrap();
            Exposition::parse(&body).unwrap();
            let of_engine = |text: &str| -> std::collections::BTreeSet<String> {
                let is_own = |line: &&str| {
                    ["docker_state_exporter", "process_", "tokio_"]
                        .iter()
                        .any(|own| line.contains(&format!(" {own}")) || line.starts_with(own))
                };
                let lines = text.lines().filter(|line| !is_own(line)).map(escaped);
                // Labels come in the order of their names, which escaping changes.
                lines
                    .map(|line| {
                        let mut parts: Vec<_> = line.split(['{', ',', '}']).collect();
                        parts.sort_unstable();
                        parts.join(",")
                    })
                    .collect()
            };
            assert_eq!(of_engine(&kept), of_engine(&body));
        }
        exporter.stop();
    }
}

#[test]
fn every_path_answers_get_and_head_and_nothing_else() {
    let engine = FakeEngine::start().unwrap();
    engine.add(Container::new("web"));
    let exporter = Setup::new(&engine.host()).start();
    for path in ["/", "/-/page.css", "/-/page.js", "/-/page.json", "/metrics", "/-/healthy", "/-/ready"] {
        let (head, body) = request(&exporter, "GET", path, "");
        assert_eq!(status(&head), "200", "{path}");
        assert!(!body.is_empty(), "{path}");
        let (head, body) = request(&exporter, "HEAD", path, "");
        assert_eq!((status(&head), body.len()), ("200", 0), "{path}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
            assert_eq!(status(&request(&exporter, method, path, "").0), "405", "{method} {path}");
        }
    }
    for path in ["/metric", "/metrics/x", "/-/reload", "/..", "//metrics"] {
        assert_eq!(status(&request(&exporter, "GET", path, "").0), "404", "{path}");
    }
    let page = String::from_utf8(request(&exporter, "GET", "/", "").1).unwrap();
    for expected in ["docker-state-exporter", env!("CARGO_PKG_VERSION"), r#"href="/metrics""#] {
        assert!(page.contains(expected), "{expected}: {page}");
    }
    assert_eq!(request(&exporter, "GET", "/-/healthy", "").1, b"up\n");
    exporter.stop();
}

#[test]
fn the_exposition_is_compressed_for_those_who_ask() {
    let engine = FakeEngine::start().unwrap();
    engine.populate(100, 5);
    let exporter = Setup::new(&engine.host()).start();
    let (head, plain) = request(&exporter, "GET", "/metrics", "");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(!head.contains("content-encoding"), "{head}");
    // As Prometheus asks for it.
    let (head, packed) = request(&exporter, "GET", "/metrics", "Accept-Encoding: gzip\r\n");
    assert!(head.contains("content-encoding: gzip"), "{head}");
    assert!(packed.len() < plain.len() / 5, "{} bytes of {}", packed.len(), plain.len());
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
    let unpacked = Exposition::parse(&text).unwrap();
    let plain = Exposition::parse(std::str::from_utf8(&plain).unwrap()).unwrap();
    assert_eq!(unpacked.series("container_state_status"), plain.series("container_state_status"));
    assert_eq!(unpacked.series("container_state_status").len(), 100);
    exporter.stop();
}

#[test]
fn whoever_looks_is_told_only_what_is_new() {
    let engine = FakeEngine::start().unwrap();
    let ids = engine.populate(300, 5);
    // A list in between would be something new.
    let exporter = Setup::new(&engine.host()).set("/docker/resync_interval", 1_000_000_000).start();
    let tag = |head: &str| head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    // What the exporter says of its first list comes a moment after the list.
    let ((known, plain), _) = eventually(SOON, || {
        let (head, plain) = request(&exporter, "GET", "/-/page.json", "");
        assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
        let known = format!("If-None-Match: {}\r\n", tag(&head));
        let (again, nothing) = request(&exporter, "GET", "/-/page.json", &known);
        match (status(&again), nothing.len()) {
            ("304", 0) => Ok((known, plain)),
            other => Err(format!("{other:?}")),
        }
    });
    let (head, packed) = request(&exporter, "GET", "/-/page.json", "Accept-Encoding: gzip\r\n");
    assert!(head.contains("content-encoding: gzip"), "{head}");
    assert!(packed.len() < plain.len() / 4, "{} bytes of {}", packed.len(), plain.len());
    engine.act(&ids[0], "pause", |container| container.status("paused"));
    eventually(SOON, || match status(&request(&exporter, "GET", "/-/page.json", &known).0) {
        "200" => Ok(()),
        status => Err(status.to_owned()),
    });
    exporter.stop();
}

#[test]
fn ready_is_said_after_the_first_whole_list_only() {
    let engine = FakeEngine::start().unwrap();
    engine.add(Container::new("web"));
    engine.vanish();
    let exporter = Setup::new(&engine.host()).spawn();
    eventually(SOON, || {
        let answer = exporter.get("/-/healthy").map_err(|error| error.to_string())?;
        if answer.status == 200 { Ok(()) } else { Err(answer.status.to_string()) }
    });
    assert_eq!(exporter.get("/-/ready").unwrap().status, 503);
    let scrape = exporter.scrape();
    assert_eq!(scrape.plain("docker_up"), 0.0);
    assert!(!scrape.families.contains_key("container_state_status"));
    engine.reopen().unwrap();
    eventually(SOON, || match exporter.get("/-/ready").unwrap().status {
        200 => Ok(()),
        status => Err(status.to_string()),
    });
    assert_eq!(exporter.scrape().plain("docker_up"), 1.0);
    exporter.stop();
}

#[test]
fn scrapes_beyond_the_limit_are_refused() {
    let engine = FakeEngine::start().unwrap();
    engine.populate(3000, 10);
    let exporter = Setup::new(&engine.host()).set("/web/max_requests", 1).start();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let scrapes: Vec<_> =
            (0..16).map(|_| scope.spawn(|| exporter.get("/metrics").unwrap().status)).collect();
        scrapes.into_iter().map(|scrape| scrape.join().unwrap()).collect()
    });
    let answered = statuses.iter().filter(|s| **s == 200).count();
    let refused = statuses.iter().filter(|s| **s == 503).count();
    assert!(answered >= 1 && refused >= 1 && answered + refused == 16, "{statuses:?}");
    let scrape = exporter.scrape();
    let count = |result| {
        let labels = support::exposition::labels([("result", result)]);
        scrape.value("docker_state_exporter_scrapes_total", &labels)
    };
    assert_eq!((count("ok"), count("error")), (answered as f64, refused as f64));
    exporter.stop();
}

#[test]
fn an_answer_is_used_again_for_the_cache_period() {
    let engine = FakeEngine::start().unwrap();
    let id = engine.create(Container::new("web"));
    let exporter = Setup::new(&engine.host()).argument("-cache-period=2").start();
    let state = || exporter.scrape().select("container_state_status", &Default::default())[0].1;
    assert_eq!(state(), 6.0);
    engine.act(&id, "pause", |container| container.status("paused"));
    let began = std::time::Instant::now();
    let (_, after) = eventually(SOON, || match state() {
        3.0 => Ok(()),
        other => Err(other.to_string()),
    });
    // From the scrape before the pause, which cannot have been long ago.
    assert!(after > Duration::from_millis(500), "{after:?} since {:?}", began.elapsed());
    exporter.stop();
}

#[test]
fn a_port_that_is_taken_ends_the_program_with_one_clear_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_docker-state-exporter"))
        .args(["--web.listen-address", &address])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with(&format!("cannot listen on {address}: ")), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn a_healthcheck_asks_the_address_that_is_configured() {
    let engine = FakeEngine::start().unwrap();
    let exporter = Setup::new(&engine.host()).start();
    let address = exporter.address().to_string();
    let check = |address: &str| {
        Command::new(env!("CARGO_BIN_EXE_docker-state-exporter"))
            .args(["healthcheck", "--web.listen-address", address])
            .output()
            .unwrap()
    };
    assert_eq!(check(&address).status.code(), Some(0));
    exporter.stop();
    let output = check(&address);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&address));
}

#[test]
fn only_hosts_that_are_named_are_answered() {
    let engine = FakeEngine::start().unwrap();
    engine.add(Container::new("web"));
    let mut exporter =
        Setup::new(&engine.host()).set("/web/allowed_hosts", json!(["exporter.example.com"])).start();
    let asked = |exporter: &Exporter, host: &str, path: &str| {
        let mut stream = TcpStream::connect(exporter.address()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (status(&answer).to_owned(), answer)
    };
    for path in ["/", "/-/page.js", "/-/page.json", "/metrics", "/nowhere"] {
        let (status, answer) = asked(&exporter, "evil.example", path);
        assert_eq!(status, "421", "{path}");
        assert!(answer.ends_with("this host is not in web.allowed_hosts\n"), "{answer}");
        let expected = if path == "/nowhere" { "404" } else { "200" };
        assert_eq!(asked(&exporter, "exporter.example.com:8080", path).0, expected, "{path}");
    }
    for path in ["/-/healthy", "/-/ready"] {
        assert_eq!(asked(&exporter, "evil.example", path).0, "200", "{path}");
    }
    exporter.reload("/web/allowed_hosts", json!([]));
    assert_eq!(asked(&exporter, "evil.example", "/metrics").0, "421");
    exporter.reload("/web/allowed_hosts", json!(["evil.example"]));
    assert_eq!(asked(&exporter, "evil.example", "/metrics").0, "200");
    exporter.stop();
}

#[test]
fn idle_clients_keep_out_nobody() {
    let engine = FakeEngine::start().unwrap();
    engine.add(Container::new("web"));
    let exporter = Setup::new(&engine.host()).start();
    let idle: Vec<TcpStream> = (0..600)
        .map(|i| {
            let mut stream = TcpStream::connect(exporter.address()).unwrap();
            // Those that have been answered and stay, and those that have not finished a request.
            let said = ["GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HT", ""][i % 3];
            stream.write_all(said.as_bytes()).unwrap();
            stream
        })
        .collect();
    let began = std::time::Instant::now();
    for path in ["/-/healthy", "/-/ready", "/metrics", "/"] {
        assert_eq!(exporter.get(path).unwrap().status, 200, "{path}");
    }
    assert!(began.elapsed() < SOON / 2, "{:?}", began.elapsed());
    drop(idle);
    assert_eq!(exporter.log().matches("no room for another connection").count(), 1);
    exporter.stop();
}

#[test]
fn slow_readers_keep_out_nobody_for_long() {
    const READERS: usize = 4;
    // The time of an answer, and some for what is under way.
    const LIMIT: Duration = Duration::from_secs(40);
    let engine = FakeEngine::start().unwrap();
    // More than the buffers of a connection hold.
    for i in 0..200 {
        engine.add(Container::new(&format!("web-{i}")).label("long", &"x".repeat(20_000)));
    }
    let exporter = Setup::new(&engine.host()).set("/web/max_requests", READERS).start();
    let address = exporter.address();
    let began = std::time::Instant::now();
    for _ in 0..READERS {
        std::thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut some = [0; 500];
            // 5 kB each second, for longer than the test may take.
            while began.elapsed() < LIMIT * 2 && stream.read(&mut some).is_ok_and(|count| count > 0) {
                std::thread::sleep(Duration::from_millis(100));
            }
        });
    }
    eventually(SOON, || match exporter.get("/metrics").unwrap().status {
        503 => Ok(()),
        status => Err(status.to_string()),
    });
    eventually(LIMIT, || match exporter.get("/metrics").unwrap().status {
        200 => Ok(()),
        status => Err(status.to_string()),
    });
    exporter.stop();
}

#[test]
fn clients_leave_file_descriptors_for_the_engine() {
    // The second is about twice what the exporter needs for itself.
    for hard in [256, 48] {
        let engine = FakeEngine::start().unwrap();
        let id = engine.add(Container::new("web"));
        let exporter = Setup::new(&engine.host()).open_files(40, hard).start();
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", exporter.pid())).unwrap();
        let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        let files: Vec<&str> = files.split_whitespace().collect();
        assert_eq!(files, [&hard.to_string(), &hard.to_string(), "files"]);
        let idle: Vec<TcpStream> =
            (0..300).map(|_| TcpStream::connect(exporter.address()).unwrap()).collect();
        assert_eq!(exporter.get("/-/healthy").unwrap().status, 200);
        let up = |expected: f64| {
            eventually(SOON, || match exporter.scrape().plain("docker_up") {
                up if up == expected => Ok(()),
                up => Err(up.to_string()),
            })
        };
        // Every connection with the engine is made anew.
        engine.vanish();
        up(0.0);
        engine.reopen().unwrap();
        engine.act(&id, "pause", |container| container.status("paused"));
        up(1.0);
        drop(idle);
        let log = exporter.stop();
        let is_told = log.contains("leaves room for fewer connections");
        assert!(is_told && !log.contains("Too many open files"), "{log}");
    }
}

#[test]
fn headers_take_little_memory_however_long_they_are() {
    let engine = FakeEngine::start().unwrap();
    let exporter = Setup::new(&engine.host()).start();
    let before = exporter.rss();
    let header = vec![b'x'; 400_000];
    let clients: Vec<TcpStream> = (0..500)
        .map(|_| {
            let mut stream = TcpStream::connect(exporter.address()).unwrap();
            stream.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ").unwrap();
            // It may be refused before all of it is taken.
            let _ = stream.write_all(&header);
            stream
        })
        .collect();
    let grown = exporter.peak_rss().saturating_sub(before) / 1024 / 1024;
    assert!(grown < 40, "{grown} MiB");
    drop(clients);
    exporter.stop();
}

#[test]
fn it_listens_on_each_address_that_is_given() {
    let engine = FakeEngine::start().unwrap();
    let others = [free_address(), free_address()];
    let mut setup = Setup::new(&engine.host()).without_file();
    for other in others {
        setup = setup.argument(&format!("--web.listen-address={other}"));
    }
    let exporter = setup.start();
    for other in others {
        let answer = get(&format!("http://{other}/metrics")).unwrap();
        assert_eq!(answer.status, 200, "{other}");
        assert!(exporter.log().contains(&format!("message=listening address={other}")), "{}", exporter.log());
    }
    assert_eq!(exporter.get("/metrics").unwrap().status, 200);
    exporter.stop();
}

/// Starts it as systemd does: sockets from descriptor 3 on, and variables that say so.
fn activated(engine: &FakeEngine, sockets: usize, listener: &TcpListener) -> Child {
    let script = format!("exec 3<&0 4<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS={sockets} exec \"$0\" \"$@\"");
    Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_docker-state-exporter"), "--web.systemd-socket"])
        .env("DOCKER_HOST", engine.host())
        .stdin(Stdio::from(OwnedFd::from(listener.try_clone().unwrap())))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn it_listens_on_the_sockets_of_systemd() {
    let engine = FakeEngine::start().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/-/ready", listener.local_addr().unwrap());
    let mut child = activated(&engine, 2, &listener);
    eventually(Duration::from_secs(20), || match get(&url) {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(answer.body),
        Err(why) => Err(why),
    });
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));

    child = activated(&engine, 0, &listener);
    let output = child.wait_with_output().unwrap();
    let why = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{why}");
    assert!(why.contains("cannot listen on the sockets of systemd: it has passed none"), "{why}");
    assert!(why.contains("\nhint: "), "{why}");
}

#[test]
fn requests_beyond_the_rate_are_told_to_come_back() {
    let engine = FakeEngine::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.yaml");
    std::fs::write(&path, "rate_limit: {interval: 1h, burst: 3}").unwrap();
    // By the flag that other exporters have for it.
    let exporter =
        Setup::new(&engine.host()).argument(&format!("--web.config.file={}", path.display())).start();
    let statuses: Vec<u16> = (0..5).map(|_| exporter.get("/metrics").unwrap().status).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    // A prober must not take it for dead.
    for path in ["/-/healthy", "/-/ready"] {
        assert_eq!(exporter.get(path).unwrap().status, 200);
    }
    exporter.stop();
}
