//! What the server listens on: addresses, or the sockets that systemd has opened for it.

use std::io;

use listenfd::ListenFd;
use tokio::net::TcpListener;

use super::server::{BindError, bind};
use crate::config::{Pull, Web};

/// Listens on everything that the configuration names.
pub async fn listen(pull: &Pull, web: &Web) -> Result<Vec<TcpListener>, BindError> {
    if web.systemd_socket {
        return inherited().map_err(|error| BindError::new("the sockets of systemd", error));
    }
    let mut listeners = vec![bind(&pull.host, pull.port).await?];
    for (host, port) in &web.listen_addresses {
        listeners.push(bind(host, *port).await?);
    }
    Ok(listeners)
}

fn inherited() -> io::Result<Vec<TcpListener>> {
    let mut passed = ListenFd::from_env();
    let mut listeners = Vec::new();
    for i in 0..passed.len() {
        if let Some(listener) = passed.take_tcp_listener(i)? {
            listener.set_nonblocking(true)?;
            listeners.push(TcpListener::from_std(listener)?);
        }
    }
    if listeners.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "it has passed none (LISTEN_FDS)"));
    }
    Ok(listeners)
}
