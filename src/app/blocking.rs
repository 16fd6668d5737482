//! Work that may take forever, such as reading a file on a dead mount.

/// Does `work` on a thread of its own, which nothing waits for at shutdown.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // `work` has not panicked: that would have ended the process. So the runtime is ending, and with it this
        // task.
        Err(_) => std::future::pending().await,
    }
}
