//! SIGHUP: the configuration is read again. What can change at run time does; the rest is named, and needs a restart.
//!
//! That is little on purpose. Which containers are shown and which events are counted decides what a count means: one
//! that began under other rules would be wrong from then on, so such a change begins with new counts.

use crate::config::{Config, LogLevel};

/// What differs between the configuration that runs and another.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The new level, where it is another.
    pub log_level: Option<LogLevel>,
    /// The sections that need a restart.
    pub restart: Vec<&'static str>,
}

/// Compares two configurations.
pub fn changes(running: &Config, read: &Config) -> Changes {
    // Taken apart, so that a section that is added is compared too.
    let Config { log_level, resource, readers, views, docker, containers, events, web } = read;
    let restart = [
        ("resource", *resource != running.resource),
        ("meter_provider.readers", *readers != running.readers),
        ("meter_provider.views", *views != running.views),
        ("docker", *docker != running.docker),
        ("containers", *containers != running.containers),
        ("events", *events != running.events),
        ("web", *web != running.web),
    ];
    Changes {
        log_level: (*log_level != running.log_level).then_some(*log_level),
        restart: restart.into_iter().filter(|(_, differs)| *differs).map(|(section, _)| section).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_yaml;

    #[test]
    fn only_the_level_changes_without_a_restart() {
        let read = |text: &str| from_yaml("a.yaml", text, &|_| None).unwrap().config;
        let running = read("");
        assert_eq!(changes(&running, &running), Changes::default());
        let other = read("log_level: debug");
        let level = Changes { log_level: Some(LogLevel::Debug), restart: Vec::new() };
        assert_eq!(changes(&running, &other), level);
        for (text, section) in [
            ("resource: {attributes: [{name: a, value: b}]}", "resource"),
            (
                "meter_provider: {readers: [{pull: {exporter: {prometheus/development: {port: 1}}}}]}",
                "meter_provider.readers",
            ),
            (
                "meter_provider: {views: [{selector: {instrument_name: '*'}, stream: {aggregation: {drop: }}}]}",
                "meter_provider.views",
            ),
            ("docker: {timeout: 1}", "docker"),
            ("containers: {names: {excluded: [a]}}", "containers"),
            ("events: {log: false}", "events"),
            ("web: {max_requests: 1}", "web"),
        ] {
            assert_eq!(
                changes(&running, &read(text)),
                Changes { log_level: None, restart: vec![section] },
                "{text}"
            );
        }
    }
}
