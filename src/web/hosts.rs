//! Which hosts are answered: against pages that make somebody's browser ask under a name of their own.

use axum::http::{HeaderMap, Uri, header};
use url::Host;

use crate::config::values::host_and_port;

/// The hosts that are answered.
pub(super) struct AllowedHosts(Vec<(Host, Option<u16>)>);

impl AllowedHosts {
    /// Those of `web.allowed_hosts`; nothing where all are answered.
    pub(super) fn new(hosts: &[String]) -> Option<Self> {
        // What the configuration took is a host.
        let hosts: Vec<_> = hosts.iter().filter_map(|host| host_and_port(host).ok()).collect();
        (!hosts.is_empty()).then_some(Self(hosts))
    }

    /// Whether a request is for one of them. One for several hosts, or for none, is for nobody.
    pub(super) fn allows(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        // Where the request's line has one, the header does not count.
        let authority = uri.authority().map(|authority| authority.as_str());
        let mut hosts = headers.get_all(header::HOST).iter();
        let asked = match (authority, hosts.next(), hosts.next()) {
            (Some(authority), ..) => authority,
            (None, Some(host), None) => host.to_str().unwrap_or_default(),
            _ => return false,
        };
        let Ok((host, port)) = host_and_port(asked) else { return false };
        self.0.iter().any(|(allowed, only)| *allowed == host && only.is_none_or(|only| port == Some(only)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(uri: &str, hosts: &[&str]) -> bool {
        let allowed = ["exporter.example.com", "10.0.0.5:8080", "[2001:db8::1]"].map(String::from);
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, host.parse().unwrap());
        }
        AllowedHosts::new(&allowed).unwrap().allows(&uri.parse().unwrap(), &headers)
    }

    #[test]
    fn only_hosts_that_are_named_are_answered() {
        assert!(AllowedHosts::new(&[]).is_none());
        for host in [
            "exporter.example.com",
            "exporter.example.com:1234",
            "EXPORTER.example.com.",
            "10.0.0.5:8080",
            "[2001:DB8::1]",
            "[2001:db8:0::1]:8080",
        ] {
            assert!(allows("/", &[host]), "{host}");
        }
        for host in [
            "",
            "example.com",
            "exporter.example.com.evil.example",
            "evil.example",
            "exporter.example.com@evil.example",
            "evil.example@exporter.example.com",
            "exporter.example.com:evil",
            "exporter.example.com:8080:8080",
            "exporter.example.com evil.example",
            "exporter.example.com,evil.example",
            "10.0.0.5",
            "10.0.0.5:80",
            "2001:db8::1",
            "[2001:db8::2]",
            "localhost",
        ] {
            assert!(!allows("/", &[host]), "{host}");
        }
        assert!(!allows("/", &[]));
        assert!(!allows("/", &["exporter.example.com", "exporter.example.com"]));
        assert!(!allows("http://evil.example/", &["exporter.example.com"]));
        assert!(allows("http://exporter.example.com/", &["evil.example"]));
    }
}
