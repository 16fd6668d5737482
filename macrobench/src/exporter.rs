//! The exporter, and nginx beside it.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use crate::Error;
use crate::process::Process;
use crate::scrape::{Scraper, wait_for};

/// A push reader.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Push {
    pub(crate) receiver: SocketAddr,
    pub(crate) protocol: Protocol,
    pub(crate) compression: &'static str,
    /// Milliseconds.
    pub(crate) interval: u64,
}

/// How OTLP is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Protocol {
    Http,
    Grpc,
}

/// The exporter, running.
pub(crate) struct Exporter {
    pub(crate) process: Process,
    pub(crate) scraper: Scraper,
}

impl Exporter {
    /// Starts it, and waits until it knows every container.
    pub(crate) fn start(
        program: &Path,
        directory: &Path,
        engine: &str,
        push: Option<Push>,
        resync_interval: u64,
    ) -> Result<Self, Error> {
        let (mut process, address) = Self::launch(program, directory, engine, push, resync_interval)?;
        let mut scraper = None;
        wait_for("the exporter is ready", || {
            if !process.runs() {
                let log = std::fs::read_to_string(log(directory)).unwrap_or_default();
                return Err(format!("the exporter has ended: {log}").into());
            }
            if scraper.is_none() {
                scraper = Scraper::connect(address).ok();
            }
            match &mut scraper {
                // Without a body it has a length of zero or of a few words.
                Some(scraper) => Ok(scraper.ask("/-/ready").is_ok()),
                None => Ok(false),
            }
        })?;
        let scraper = scraper.ok_or("no connection to the exporter")?;
        Ok(Self { process, scraper })
    }

    /// Starts it, without waiting.
    pub(crate) fn launch(
        program: &Path,
        directory: &Path,
        engine: &str,
        push: Option<Push>,
        resync_interval: u64,
    ) -> Result<(Process, SocketAddr), Error> {
        let address = free_address()?;
        let mut text = format!(
            "file_format: \"1.1\"\ndocker:\n  host: {engine}\n  resync_interval: {resync_interval}\n\
             meter_provider:\n  readers:\n    - pull:\n        exporter:\n          prometheus/development:\n            \
             host: 127.0.0.1\n            port: {}\n",
            address.port()
        );
        if let Some(Push { receiver, protocol, compression, interval }) = push {
            let (exporter, path) = match protocol {
                Protocol::Http => ("otlp_http", "/v1/metrics"),
                Protocol::Grpc => ("otlp_grpc", ""),
            };
            text += &format!(
                "    - periodic:\n        interval: {interval}\n        exporter:\n          {exporter}:\n            \
                 endpoint: http://{receiver}{path}\n            compression: {compression}\n"
            );
        }
        let config = directory.join("config.yaml");
        std::fs::write(&config, text)?;
        let arguments = ["--config".to_owned(), config.display().to_string()];
        Ok((Process::start(program, &arguments, &log(directory))?, address))
    }

    /// `/metrics` as text.
    pub(crate) fn metrics(&mut self) -> Result<String, Error> {
        self.scraper.ask("/metrics")?;
        self.scraper.text()
    }
}

fn log(directory: &Path) -> PathBuf {
    directory.join("exporter.log")
}

/// An nginx that serves these bytes at `/metrics`, compressed beforehand.
pub(crate) fn nginx(program: &Path, directory: &Path, gzip: &[u8]) -> Result<(Process, SocketAddr), Error> {
    let (address, directory) = (free_address()?, directory.join("nginx"));
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join("metrics.gz"), gzip)?;
    let at = directory.display();
    let config = format!(
        "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log; events {{}}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000;\n\
         default_type text/plain; client_body_temp_path {at}/1; proxy_temp_path {at}/2; fastcgi_temp_path {at}/3;\n\
         uwsgi_temp_path {at}/4; scgi_temp_path {at}/5;\n\
         server {{ listen {address}; root {at}; gzip_static on; }} }}\n"
    );
    let path = directory.join("nginx.conf");
    std::fs::write(&path, config)?;
    let arguments = ["-c".to_owned(), path.display().to_string(), "-p".to_owned(), at.to_string()];
    let mut process = Process::start(program, &arguments, &directory.join("log"))?;
    wait_for("nginx answers", || match Scraper::connect(address) {
        Ok(_) => Ok(true),
        Err(_) if process.runs() => Ok(false),
        Err(error) => Err(format!("nginx has ended: {error}").into()),
    })?;
    Ok((process, address))
}

/// An address on loopback that nobody listens on now.
fn free_address() -> Result<SocketAddr, Error> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
