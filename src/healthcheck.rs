//! Asks a running exporter whether it is well, for a container's `HEALTHCHECK` in an image without a shell.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// Less than the 30 s that Docker gives a probe.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Succeeds where `url` is answered with 200; else says why not.
pub async fn check(url: &url::Url) -> Result<(), String> {
    let uri = url.as_str().parse().map_err(|error| format!("{url}: {error}"))?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let answer = tokio::time::timeout(TIMEOUT, client.get(uri))
        .await
        .map_err(|_| format!("{url}: no answer within {TIMEOUT:?}"))?
        .map_err(|error| {
            format!("{url}: {error}\nhint: is the exporter running, with the same configuration?")
        })?;
    if answer.status() == http::StatusCode::OK { Ok(()) } else { Err(format!("{url}: {}", answer.status())) }
}
