//! Work that may take for ever, such as reading a file on a mount that is dead.

/// Does it on a thread of its own, which nothing waits for at the end.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // A panic has ended the process. Else the runtime ends, and with it whoever waits here.
        Err(_) => std::future::pending().await,
    }
}
