//! What a client runs beside its requests, ended with the client.
//!
//! A request that is given up leaves its connection to a task of the client's, and a peer that does not answer
//! keeps that task: a connect for two minutes, and what was half-sent for longer. With each export there would
//! be one more.

use tokio_util::sync::{CancellationToken, DropGuard};

/// Runs the tasks of one client.
#[derive(Debug, Clone)]
pub(super) struct Tasks(CancellationToken);

impl Tasks {
    /// A place to run tasks, and what ends them all when it is dropped.
    pub(super) fn new() -> (Self, DropGuard) {
        let token = CancellationToken::new();
        (Self(token.clone()), token.drop_guard())
    }
}

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let token = self.0.clone();
        tokio::spawn(async move { token.run_until_cancelled_owned(task).await });
    }
}
