//! The limit of file descriptors, and how many of them clients may take.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Descriptors for everything that is not counted below: standard streams, the runtime, the listener, the log, files
/// that are read.
const OTHERS: usize = 64;

/// Descriptors for the requests of an export, and for a new connection while an old one is being closed.
const EACH_PUSH_READER: usize = 4;

/// Raises the soft limit of open files to the hard limit: the soft limit is low for the sake of programs that use
/// `select`. Returns the limit; `None` if there is none.
pub(super) fn raise_limit() -> Option<usize> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    let limit = if setrlimit(Resource::Nofile, raised).is_ok() { maximum } else { current };
    limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// How many connections clients may have, at most `wanted`, so that enough descriptors are left for the engine and
/// the exports.
pub(super) fn for_clients(limit: Option<usize>, wanted: usize, config: &Config) -> usize {
    let Some(limit) = limit else { return wanted };
    let reserved =
        OTHERS + config.docker.inspect_concurrency + config.readers.periodic.len() * EACH_PUSH_READER;
    // If there are few descriptors, clients still get a quarter.
    limit.saturating_sub(reserved).max(limit / 4).clamp(1, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_yaml;

    #[test]
    fn clients_leave_room_for_the_engine_and_for_exports() {
        let config = |text| from_yaml("a.yaml", text, &|_| None).unwrap().config;
        let plain = config("");
        assert_eq!(for_clients(None, 512, &plain), 512);
        assert_eq!(for_clients(Some(1024), 512, &plain), 512);
        assert_eq!(for_clients(Some(256), 512, &plain), 256 - 64 - 8);
        assert_eq!(for_clients(Some(64), 512, &plain), 16);
        assert_eq!(for_clients(Some(0), 512, &plain), 1);
        let push = config("meter_provider: {readers: [{periodic: {exporter: {otlp_grpc: }}}]}");
        assert_eq!(for_clients(Some(256), 512, &push), 256 - 64 - 8 - 4);
    }
}
