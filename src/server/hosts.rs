//! Parses the hosts of `Host` headers and origins, and matches them against the patterns of `--allowed-hosts`.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// The ports of http and https, which clients omit in the `Host` header. Behind a proxy that terminates TLS, an omitted
/// port may be either of them.
const DEFAULT_PORTS: [u16; 2] = [80, 443];

/// Suffix of the names that always resolve to this machine (RFC 6761).
const LOCALHOST_SUFFIX: &str = ".localhost";

/// A pattern of `--allowed-hosts`: `*`, `app.example`, `app.example:8443`, `*.app.example` (its subdomains) or
/// `.app.example` (the domain and its subdomains).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHost {
    name: NamePattern,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum NamePattern {
    Any,
    Exact(String),
    Subdomains(String),
    DomainAndSubdomains(String),
}

impl AllowedHost {
    /// Whether the pattern is `*`.
    pub(super) fn is_any(&self) -> bool {
        self.name == NamePattern::Any
    }

    /// Whether the pattern allows requests for this host.
    pub(super) fn matches(&self, host: &Host) -> bool {
        let is_subdomain_of = |domain: &str| {
            let prefix = host.name.strip_suffix(domain);
            prefix.is_some_and(|prefix| prefix.len() > 1 && prefix.ends_with('.'))
        };
        let name_matches = match &self.name {
            NamePattern::Any => true,
            NamePattern::Exact(name) => host.name == *name,
            NamePattern::Subdomains(domain) => is_subdomain_of(domain),
            NamePattern::DomainAndSubdomains(domain) => {
                host.name == *domain || is_subdomain_of(domain)
            }
        };
        let port_matches = self.port.is_none_or(|port| match host.port {
            Some(host_port) => host_port == port,
            None => DEFAULT_PORTS.contains(&port),
        });
        name_matches && port_matches
    }
}

impl FromStr for AllowedHost {
    type Err = String;

    fn from_str(entry: &str) -> Result<Self, String> {
        let invalid = || {
            format!(
                "invalid host '{entry}': expected a name such as app.example, an address, *.app.example, .app.example \
                 or *, with a port to allow only that port"
            )
        };
        let (pattern, rest): (fn(String) -> NamePattern, &str) = match entry {
            "*" => {
                return Ok(Self {
                    name: NamePattern::Any,
                    port: None,
                });
            }
            _ => match (entry.strip_prefix("*."), entry.strip_prefix('.')) {
                (Some(rest), _) => (NamePattern::Subdomains, rest),
                (None, Some(rest)) => (NamePattern::DomainAndSubdomains, rest),
                (None, None) => (NamePattern::Exact, entry),
            },
        };
        let Host { name, port } = Host::parse(rest).ok_or_else(invalid)?;
        let is_valid = |char: char| char.is_ascii_alphanumeric() || "-_.:".contains(char);
        match !name.is_empty() && name.chars().all(is_valid) {
            true => Ok(Self {
                name: pattern(name),
                port,
            }),
            false => Err(invalid()),
        }
    }
}

/// The host of a `Host` header or an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// Lowercase, without a trailing dot; an IPv6 address without brackets, in its shortest form.
    pub(super) name: String,
    pub(super) port: Option<u16>,
}

impl Host {
    /// Parses `name`, `name:port` or `[address]:port`; an IPv6 address without a port needs no brackets.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']')?;
                address.parse::<Ipv6Addr>().ok()?;
                let port = match rest {
                    "" => None,
                    rest => Some(rest.strip_prefix(':')?),
                };
                (address, port)
            }
            None if text.parse::<IpAddr>().is_ok() => (text, None),
            None => match text.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (text, None),
            },
        };
        let port = match port {
            // `parse` accepts a sign, but a port must not have one.
            Some(port) if port.starts_with('+') => return None,
            Some(port) => Some(port.parse().ok()?),
            None => None,
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let name = match name.parse::<IpAddr>() {
            Ok(address) => address.to_string(),
            Err(_) => name,
        };
        Some(Self { name, port })
    }

    /// Whether the host is a loopback address or a `localhost` name.
    pub(super) fn is_local(&self) -> bool {
        self.name == "localhost"
            || (self.name.len() > LOCALHOST_SUFFIX.len() && self.name.ends_with(LOCALHOST_SUFFIX))
            || self.address().is_some_and(|address| address.is_loopback())
    }

    /// Returns the IP address, or `None` if the host is a name.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.name.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_matches_the_hosts_of_its_pattern() {
        for (entry, host, expected) in [
            ("app.example", "app.example", true),
            ("App.Example", "APP.example.:8080", true),
            ("app.example", "app.example:1", true),
            ("app.example", "x.app.example", false),
            ("app.example", "app.example.evil", false),
            ("app.example", "evilapp.example", false),
            ("app.example:8443", "app.example:8443", true),
            ("app.example:8443", "app.example:8080", false),
            ("app.example:8443", "app.example", false),
            ("app.example:443", "app.example", true),
            ("*.app.example", "x.app.example", true),
            ("*.app.example", "y.x.app.example:80", true),
            ("*.app.example", "app.example", false),
            ("*.app.example", ".app.example", false),
            ("*.app.example", "evilapp.example", false),
            (".app.example", "app.example", true),
            (".app.example", "x.app.example", true),
            (".app.example", "evilapp.example", false),
            ("192.168.1.5", "192.168.1.5:8080", true),
            ("fe80::1", "[fe80::1]:8080", true),
            ("[fe80:0::1]:8080", "[fe80::1]:8080", true),
            ("[fe80::1]:8080", "[fe80::1]:8081", false),
            ("my_container", "my_container:8080", true),
            ("*", "anything.example:1", true),
        ] {
            let entry: AllowedHost = entry.parse().unwrap();
            let matches = Host::parse(host).is_some_and(|host| entry.matches(&host));
            assert_eq!(matches, expected, "{entry:?}: {host}");
        }
    }

    #[test]
    fn an_invalid_entry_is_rejected_and_quoted() {
        for entry in [
            "",
            ".",
            "*.",
            "*app.example",
            "https://app.example",
            "app.example/chat",
            "app.example:port",
            "app.example:99999",
            "[fe80::1",
            "a b",
            "user@app.example",
        ] {
            let error = entry.parse::<AllowedHost>().unwrap_err();
            assert!(error.contains(&format!("'{entry}'")), "{error}");
        }
    }
}
