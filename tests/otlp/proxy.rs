//! HTTP proxies, which the environment names, and redirects.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::*;

/// A proxy that tunnels, and that passes on what is not encrypted. It ends with the test.
struct Proxy {
    url: String,
    requests: Arc<AtomicUsize>,
}

impl Proxy {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                // A client that goes away is no failure.
                std::thread::spawn(move || serve(stream).ok());
            }
        });
        Self { url, requests }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

/// Serves one connection, of one tunnel or of requests to one destination.
fn serve(client: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let target = head.split(' ').nth(1).unwrap().to_owned();
    let mut server = if head.starts_with("CONNECT ") {
        let server = TcpStream::connect(target)?;
        (&client).write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        server
    } else {
        let host = url::Url::parse(&target).unwrap();
        let mut server = TcpStream::connect((host.host_str().unwrap(), host.port().unwrap()))?;
        server.write_all(head.as_bytes())?;
        server
    };
    let (mut answers, mut back) = (server.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || std::io::copy(&mut answers, &mut back).ok());
    let mut rest = vec![0; 64 * 1024];
    loop {
        let count = reader.read(&mut rest)?;
        if count == 0 {
            return server.shutdown(std::net::Shutdown::Write);
        }
        server.write_all(&rest[..count])?;
    }
}

#[test]
fn the_proxy_of_the_environment_is_used() {
    let (engine, _) = engine_with_web();
    let authority = Authority::new("private");
    for (variable, is_encrypted) in
        [("HTTPS_PROXY", true), ("https_proxy", true), ("HTTP_PROXY", false), ("ALL_PROXY", true)]
    {
        let collector =
            if is_encrypted { Collector::start_tls(authority.server(None)) } else { Collector::start() };
        let tls = if is_encrypted { json!({"tls": {"ca_file": authority.file()}}) } else { json!({}) };
        let proxy = Proxy::start();
        let setup = || Setup::new(&engine.host()).reader(http(&collector, ONCE, tls.clone()));
        let exporter = setup().env(variable, &proxy.url).start();
        wait_rounds(&collector, 1);
        assert!(proxy.requests() > 0, "{variable}");
        exporter.stop();

        let (seen, proxied) = (rounds(&collector.exports()).len(), proxy.requests());
        let exporter = setup().env(variable, &proxy.url).env("NO_PROXY", "example.org,localhost").start();
        wait_rounds(&collector, seen + 1);
        exporter.stop();
        assert_eq!(proxy.requests(), proxied, "{variable} with NO_PROXY");
    }
}

#[test]
fn redirects_are_not_followed() {
    let (engine, _) = engine_with_web();
    let (collector, elsewhere) = (Collector::start(), Collector::start());
    let location: &'static str = elsewhere.http().leak();
    for status in [301, 302, 307, 308] {
        collector.answer_always(Answer::Http(status, Some(("location", location)), ""));
        let log = failing_log(
            Setup::new(&engine.host()).reader(http(
                &collector,
                100,
                json!({"headers": [{"name": "authorization", "value": "secret"}]}),
            )),
            1.0,
        );
        assert!(log.contains(&format!("HTTP {status}")), "{log}");
        assert_eq!(elsewhere.count(), 0);
    }
}
