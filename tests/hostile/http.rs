//! Many kinds of bad clients at the same time: good ones are answered all the while, and memory stays small.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fake_engine::{Container, FakeEngine};

use crate::support::exporter::{Exporter, Setup};

/// For how long they attack.
const ATTACK: Duration = Duration::from_secs(8);

/// Of each kind.
const CLIENTS: usize = 12;

/// For a good client, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a client sends, and whether it reads what comes back.
const ATTACKS: [(&[u8], bool); 12] = [
    // Nothing, and half of a request.
    (b"", false),
    (b"GET /metrics HT", false),
    (b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ", false),
    // No HTTP: TLS, HTTP/2, zeros.
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", true),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", true),
    (&[0; 8192], true),
    // Two lengths, a body without end, chunks of a size that no memory has.
    (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n", true),
    (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\n\r\nx", true),
    (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\nx", true),
    // Other requests behind it, none of whose answers is read.
    (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", false),
    // Paths and conditions that are none.
    (b"GET /..%2f..%2f..%00/etc/passwd?%ff&&& HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip;q=1e999,*;q=nan\r\n\r\n", true),
    (b"GET /-/page.json HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"\"\"\xff\r\nRange: bytes=9-1\r\n\r\n", true),
];

/// One client of a kind after the other, until it is told to stop.
fn attack(address: SocketAddr, (bytes, reads): (&[u8], bool), stop: &AtomicBool, done: &AtomicUsize) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect(address) else { continue };
        let brief = Some(Duration::from_millis(300));
        stream.set_read_timeout(brief).unwrap();
        stream.set_write_timeout(brief).unwrap();
        // The server may have given it up by then.
        let _ = stream.write_all(bytes);
        if reads {
            let _ = stream.read_to_end(&mut Vec::new());
        } else {
            std::thread::sleep(Duration::from_millis(500));
            let _ = stream.shutdown(Shutdown::Both);
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[track_caller]
fn is_well(exporter: &Exporter) {
    for path in ["/-/healthy", "/metrics", "/-/page.json"] {
        let began = Instant::now();
        let answer = exporter.get(path).unwrap_or_else(|why| panic!("{path}: {why}"));
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert!(began.elapsed() < PATIENCE, "{path}: {:?}", began.elapsed());
    }
}

#[test]
fn bad_clients_of_every_kind_at_once_keep_out_nobody() {
    let engine = FakeEngine::start().unwrap();
    for i in 0..100 {
        engine.add(Container::new(&format!("container-{i}")));
    }
    let exporter = Setup::new(&engine.host()).start();
    is_well(&exporter);
    let (address, stop, done) = (exporter.address(), &AtomicBool::new(false), &AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for kind in ATTACKS {
            for _ in 0..CLIENTS {
                scope.spawn(move || attack(address, kind, stop, done));
            }
        }
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let began = Instant::now();
            while began.elapsed() < ATTACK {
                is_well(&exporter);
            }
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = checked {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(done.load(Ordering::Relaxed) > ATTACKS.len() * CLIENTS, "{done:?} attacks");
    is_well(&exporter);
    let peak = exporter.peak_rss();
    assert!(peak < 100 << 20, "{} MiB", peak >> 20);
    exporter.stop();
}
