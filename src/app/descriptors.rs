//! File descriptors: as many as the system gives, and how many of them clients may take.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// For what is not counted below: standard streams, the runtime, the listener, the log, files that are read.
const OTHERS: usize = 64;

/// For the requests of an export, and a new connection beside one that is being closed.
const EACH_PUSH_READER: usize = 4;

/// Raises the limit of open files to what the process may have: the soft limit is as low as it is for programs that
/// use `select`. Returns the limit; none where there is none.
pub(super) fn raise_limit() -> Option<usize> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    let limit = if setrlimit(Resource::Nofile, raised).is_ok() { maximum } else { current };
    limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// How many connections of at most `wanted` clients may have, so that the engine can be followed and exports be sent.
pub(super) fn for_clients(limit: Option<usize>, wanted: usize, config: &Config) -> usize {
    let Some(limit) = limit else { return wanted };
    let reserved =
        OTHERS + config.docker.inspect_concurrency + config.readers.periodic.len() * EACH_PUSH_READER;
    // Where there is little, it is shared.
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
