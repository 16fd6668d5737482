//! Whatever comes in on a connection: no panic, no hang, and the next good request is answered.
//!
//! A run takes seconds. One of hours: `PROPTEST_CASES=1000000 cargo test --test arbitrary_requests`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use fake_engine::{Container, FakeEngine};
use proptest::prelude::*;
use support::certificates::Authority;
use support::eventually;
use support::exporter::{Exporter, Setup};

/// For what is answered or refused at once.
const SOON: Duration = Duration::from_secs(10);

/// What a request is made of, right and wrong.
fn token() -> impl Strategy<Value = Vec<u8>> {
    const KNOWN: &[&str] = &[
        "GET ",
        "HEAD ",
        "POST ",
        "/",
        "/metrics",
        "/-/page.json",
        "/-/healthy",
        "/%00",
        "/../..",
        "?",
        "http://x/",
        " HTTP/1.1\r\n",
        " HTTP/1.0\r\n",
        " HTTP/2.0\r\n",
        "Host: x\r\n",
        "Host:\r\n",
        "Connection: close\r\n",
        "Connection: keep-alive, upgrade\r\n",
        "Upgrade: h2c\r\n",
        "Accept-Encoding: gzip;q=\r\n",
        "Accept: text/plain;version=\"1.0.0;escaping=\"\r\n",
        "If-None-Match: \"\r\n",
        "Authorization: Basic ==\r\n",
        "Authorization: Basic Og==\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Expect: 100-continue\r\n",
        "5\r\nhello\r\n",
        "ffffffffffffffff\r\n",
        "0\r\n\r\n",
        "\r\n",
        "\n",
        "\r",
        "\0",
        ": ",
        "X: ",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    ];
    prop_oneof![
        8 => prop::sample::select(KNOWN).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
        1 => (any::<u8>(), 0..20_000_usize).prop_map(|(byte, length)| vec![byte; length]),
    ]
}

/// What a client says, in the pieces that it says it in.
fn requests() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop_oneof![
        4 => prop::collection::vec(token(), 0..12),
        1 => prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..4),
    ]
}

/// The same to a server with TLS: records of any kind and length before it.
fn records() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let header =
        (prop_oneof![Just(0x16_u8), 0x14..0x19_u8, any::<u8>()], prop_oneof![Just(0x03_u8), any::<u8>()]);
    let record = (header, any::<u8>(), any::<u16>(), prop::collection::vec(any::<u8>(), 0..200));
    let record = record.prop_map(|((kind, major), minor, length, content)| {
        let length = if length % 3 == 0 { length } else { u16::try_from(content.len()).unwrap() };
        [&[kind, major, minor][..], &length.to_be_bytes(), &content].concat()
    });
    prop::collection::vec(record, 0..4)
}

/// Says all of it, and waits until the server has closed the connection.
fn say(address: SocketAddr, pieces: &[Vec<u8>]) -> Result<(), TestCaseError> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    for piece in pieces {
        // It may have been refused already.
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
    let began = Instant::now();
    let mut answer = Vec::new();
    // Being cut off is an end, too.
    let _ = stream.read_to_end(&mut answer);
    prop_assert!(began.elapsed() < SOON, "the connection stays open after {:?}", pieces);
    Ok(())
}

/// Nothing has ended, and it ends well.
fn ends_well(exporter: Exporter) {
    let log = exporter.stop();
    assert!(!log.contains("panic"), "{log}");
}

#[test]
fn whatever_a_client_says_the_next_one_is_answered() {
    let engine = FakeEngine::start().unwrap();
    engine.add(Container::new("web"));
    let exporter = Setup::new(&engine.host()).start();
    proptest!(|(pieces in requests())| {
        say(exporter.address(), &pieces)?;
        prop_assert_eq!(exporter.get("/-/healthy").map(|answer| answer.status), Ok(200));
    });
    assert_eq!(exporter.scrape().plain("docker_up"), 1.0);
    ends_well(exporter);
}

#[test]
fn whatever_a_client_says_in_the_place_of_tls_the_next_one_is_answered() {
    let engine = FakeEngine::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    Authority::new().sign(&path("server.pem"), &path("key.pem"));
    let web = path("web.yaml");
    std::fs::write(&web, "tls_server_config: {cert_file: server.pem, key_file: key.pem}").unwrap();
    let exporter = Setup::new(&engine.host()).set("/web/config_file", web.to_str().unwrap()).spawn();
    eventually(SOON, || TcpStream::connect(exporter.address()).map_err(|error| error.to_string()));
    let healthcheck = || {
        std::process::Command::new(env!("CARGO_BIN_EXE_docker-state-exporter"))
            .args(["healthcheck", "--web.listen-address", &exporter.address().to_string(), "--config"])
            .arg(path("config.yaml"))
            .status()
            .unwrap()
            .success()
    };
    std::fs::write(path("config.yaml"), format!("web: {{config_file: {}}}", web.display())).unwrap();
    proptest!(|(pieces in prop_oneof![records(), requests()])| {
        say(exporter.address(), &pieces)?;
    });
    assert!(healthcheck());
    ends_well(exporter);
}
