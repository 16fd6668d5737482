//! A client that costs as little as a client can: one connection, one request after another, nothing parsed but
//! the length of the answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;

use crate::Error;

/// The time limit for each wait. Under load a machine can be slow, but not that slow.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A connection over which `/metrics` is asked for as Prometheus asks for it.
pub(crate) struct Scraper {
    stream: BufReader<TcpStream>,
    body: Vec<u8>,
}

impl Scraper {
    pub(crate) fn connect(address: SocketAddr) -> Result<Self, Error> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self { stream: BufReader::with_capacity(64 * 1024, stream), body: Vec::new() })
    }

    /// Sends one request, and keeps the answer until the next one. Returns the time to the last byte.
    pub(crate) fn ask(&mut self, path: &str) -> Result<Duration, Error> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\nAccept: text/plain\r\n\r\n"
        );
        let began = Instant::now();
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let (mut length, mut chunked) = (None, false);
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse::<usize>().ok();
            }
            chunked |= name.eq_ignore_ascii_case("transfer-encoding");
        }
        self.body.clear();
        match length {
            Some(length) => self.read(length)?,
            None if chunked => loop {
                line.clear();
                self.stream.read_line(&mut line)?;
                let length = usize::from_str_radix(line.trim(), 16)?;
                self.read(length)?;
                line.clear();
                self.stream.read_line(&mut line)?;
                if length == 0 {
                    break;
                }
            },
            None => return Err("an answer without its length".into()),
        }
        if status != "200" {
            return Err(format!("GET {path}: {status}").into());
        }
        Ok(began.elapsed())
    }

    fn read(&mut self, length: usize) -> Result<(), Error> {
        let begin = self.body.len();
        self.body.resize(begin + length, 0);
        self.stream.read_exact(&mut self.body[begin..])?;
        Ok(())
    }

    /// The last answer as it came.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// The last answer, unpacked.
    pub(crate) fn text(&self) -> Result<String, Error> {
        let mut text = String::new();
        GzDecoder::new(&*self.body).read_to_string(&mut text)?;
        Ok(text)
    }
}

/// Waits for a condition, asking every millisecond.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> Result<bool, Error>) -> Result<(), Error> {
    let began = Instant::now();
    while !holds()? {
        if began.elapsed() > TIMEOUT {
            return Err(format!("{what}: not within {TIMEOUT:?}").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The sum of the values of a metric's series.
pub(crate) fn sum(text: &str, name: &str) -> f64 {
    text.lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// How many series there are.
pub(crate) fn series(text: &str) -> usize {
    text.lines().filter(|line| !line.starts_with('#')).count()
}
