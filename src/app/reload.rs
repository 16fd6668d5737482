//! SIGHUP: the configuration is read again. What can change at run time is applied; the rest is logged, and needs a
//! restart.
//!
//! Readers can be replaced; the inventory that they read stays. How the daemon is followed stays too: which
//! containers are shown and which events are counted decides what a count means, so a count that began under other
//! rules would be wrong. And the address stays, because scrapes would not find another one.

use crate::config::{Config, Containers, Exporter, Periodic, Pull, Readers, Tls, Web};
use crate::metrics;

/// How a configuration that was read again is applied.
#[derive(Debug, PartialEq)]
pub struct Plan {
    /// The configuration from now on.
    pub config: Config,
    /// The sections that are applied.
    pub taken: Vec<&'static str>,
    /// The sections of which something needs a restart.
    pub restart: Vec<&'static str>,
}

/// Takes what can change at run time from the configuration `read`, and the rest from the one that is running.
pub fn plan(running: &Config, read: Config) -> Plan {
    // Destructured, so that a new section cannot be forgotten.
    let Config { log_level, resource, readers, views, docker, containers, events, web } = read;
    let (pull, same_address) = pull(running.readers.pull.as_ref(), readers.pull);
    let same_encoding = containers.encoding == running.containers.encoding;
    let same_rules = Containers { encoding: running.containers.encoding, ..containers.clone() };
    // A truncated file, or an oversight, does not remove protection.
    let opens_to_all = web.allowed_hosts.is_empty() && !running.web.allowed_hosts.is_empty();
    let config = Config {
        log_level,
        resource,
        readers: Readers { pull, periodic: readers.periodic },
        views,
        docker: running.docker.clone(),
        containers: Containers { encoding: containers.encoding, ..running.containers.clone() },
        events: running.events.clone(),
        web: Web {
            config_file: running.web.config_file.clone(),
            allowed_hosts: if opens_to_all { &running.web } else { &web }.allowed_hosts.clone(),
            listen_addresses: running.web.listen_addresses.clone(),
            systemd_socket: running.web.systemd_socket,
            ..web.clone()
        },
    };
    let named = |sections: &[(&'static str, bool)]| {
        sections.iter().filter(|(_, differs)| *differs).map(|(section, _)| *section).collect()
    };
    Plan {
        taken: named(&[
            ("log_level", config.log_level != running.log_level),
            ("resource", config.resource != running.resource),
            ("meter_provider.readers", config.readers != running.readers),
            ("meter_provider.views", config.views != running.views),
            ("containers.encoding", !same_encoding),
            ("web", config.web != running.web),
        ]),
        restart: named(&[
            ("meter_provider.readers (the address of the pull reader)", !same_address),
            ("docker", docker != running.docker),
            ("containers", same_rules != running.containers),
            ("events", events != running.events),
            ("web.allowed_hosts (none are left)", opens_to_all),
            ("web.config_file", web.config_file != running.web.config_file),
            ("web.listen_addresses", web.listen_addresses != running.web.listen_addresses),
            ("web.systemd_socket", web.systemd_socket != running.web.systemd_socket),
        ]),
        config,
    }
}

/// The pull reader at the running address, and whether the configuration that was read has the same address.
fn pull(running: Option<&Pull>, read: Option<Pull>) -> (Option<Pull>, bool) {
    match (running, read) {
        (Some(running), Some(read)) => {
            let same = (&read.host, read.port) == (&running.host, running.port);
            (Some(Pull { host: running.host.clone(), port: running.port, ..read }), same)
        }
        (running, read) => (running.cloned(), running == read.as_ref()),
    }
}

/// Whether two configurations have the same settings that affect every reader.
pub fn same_for_readers(a: &Config, b: &Config) -> bool {
    a.resource == b.resource
        && a.views == b.views
        && a.containers.encoding == b.containers.encoding
        // Each reader has room for the metrics about every push reader's exports.
        && metrics::self_metrics_room(a.readers.periodic.len()) == metrics::self_metrics_room(b.readers.periodic.len())
}

/// Whether two configurations that are [`same_for_readers`] make the same pull reader.
pub fn same_for_scrapes(a: &Config, b: &Config) -> bool {
    a.readers.pull == b.readers.pull && a.web.cache_period == b.web.cache_period
}

/// Whether a reader also depends on files, whose content may have changed.
pub fn reads_files(periodic: &Periodic) -> bool {
    match &periodic.exporter {
        Exporter::OtlpGrpc(otlp) | Exporter::OtlpHttp(otlp) => otlp.tls != Tls::default(),
        Exporter::Console { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_yaml;

    fn read(text: &str) -> Config {
        from_yaml("a.yaml", text, &|_| None).unwrap().config
    }

    #[test]
    fn the_same_changes_nothing() {
        let running = read("");
        let plan = plan(&running, running.clone());
        assert_eq!(plan, Plan { config: running, taken: Vec::new(), restart: Vec::new() });
    }

    #[test]
    fn what_readers_make_of_what_they_read_is_taken_over() {
        let running = read("");
        for (text, section) in [
            ("log_level: debug", "log_level"),
            ("resource: {attributes: [{name: a, value: b}]}", "resource"),
            (
                "meter_provider: {readers: [{periodic: {exporter: {console: }}}, {pull: {exporter: {prometheus/development: {host: 0.0.0.0, port: 8080}}}}]}",
                "meter_provider.readers",
            ),
            (
                "meter_provider: {views: [{selector: {instrument_name: '*'}, stream: {aggregation: {drop: }}}]}",
                "meter_provider.views",
            ),
            ("containers: {encoding: state_set}", "containers.encoding"),
            ("web: {max_requests: 1}", "web"),
            ("web: {cache_period: 1}", "web"),
            ("web: {telemetry_path: /m}", "web"),
            ("web: {allowed_hosts: [a]}", "web"),
        ] {
            let other = read(text);
            let expected = Plan { config: other.clone(), taken: vec![section], restart: Vec::new() };
            assert_eq!(plan(&running, other), expected, "{text}");
        }
    }

    #[test]
    fn a_reload_opens_nothing_to_all() {
        let running = read("web: {allowed_hosts: [a, b]}");
        for text in ["", "web: {allowed_hosts: []}", "web:"] {
            let plan = plan(&running, read(text));
            let restart = vec!["web.allowed_hosts (none are left)"];
            assert_eq!(plan, Plan { config: running.clone(), taken: Vec::new(), restart }, "{text}");
        }
        let fewer = read("web: {allowed_hosts: [b]}");
        let expected = Plan { config: fewer.clone(), taken: vec!["web"], restart: Vec::new() };
        assert_eq!(plan(&running, fewer), expected);
    }

    #[test]
    fn what_a_count_means_and_the_address_need_a_restart() {
        let running = read("");
        for (text, section) in [
            (
                "meter_provider: {readers: [{pull: {exporter: {prometheus/development: {host: 0.0.0.0, port: 1}}}}]}",
                "meter_provider.readers (the address of the pull reader)",
            ),
            ("docker: {timeout: 1}", "docker"),
            ("containers: {names: {excluded: [a]}}", "containers"),
            ("containers: {labels: {excluded: [a]}}", "containers"),
            ("events: {log: false}", "events"),
            ("web: {config_file: a}", "web.config_file"),
            ("web: {listen_addresses: [':1']}", "web.listen_addresses"),
            ("web: {systemd_socket: true}", "web.systemd_socket"),
        ] {
            let plan = plan(&running, read(text));
            assert_eq!(
                plan,
                Plan { config: running.clone(), taken: Vec::new(), restart: vec![section] },
                "{text}"
            );
        }
        let none = read("meter_provider: {readers: [{periodic: {exporter: {console: }}}]}");
        let plan = plan(&running, none.clone());
        assert_eq!(plan.config.readers.pull, running.readers.pull);
        assert_eq!(plan.config.readers.periodic, none.readers.periodic);
        assert_eq!(plan.restart.len(), 1, "a server does not end at run time");
    }
}
