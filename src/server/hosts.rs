//! The names that a request may call the server by in its `Host` header, as `--allowed-hosts` lists them.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// Ports that a `Host` header leaves out: those of http and https. Behind a proxy that ends TLS it may be either.
const DEFAULT_PORTS: [u16; 2] = [80, 443];

/// Ends the names below `localhost`, which belong to this machine (RFC 6761).
const LOCAL_DOMAIN: &str = ".localhost";

/// An entry of the list: `*`, `app.example`, `app.example:8443`, `*.app.example` (its subdomains) or `.app.example`
/// (the same and itself).
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
    /// Whether the entry is `*`.
    pub(super) fn is_any(&self) -> bool {
        self.name == NamePattern::Any
    }

    /// Whether a request that names this host may be answered.
    pub(super) fn matches(&self, host: &Host) -> bool {
        let is_below = |domain: &str| {
            let rest = host.name.strip_suffix(domain);
            rest.is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        };
        let name = match &self.name {
            NamePattern::Any => true,
            NamePattern::Exact(name) => host.name == *name,
            NamePattern::Subdomains(domain) => is_below(domain),
            NamePattern::DomainAndSubdomains(domain) => host.name == *domain || is_below(domain),
        };
        let port = self.port.is_none_or(|port| match host.port {
            Some(named) => named == port,
            None => DEFAULT_PORTS.contains(&port),
        });
        name && port
    }
}

impl FromStr for AllowedHost {
    type Err = String;

    fn from_str(entry: &str) -> Result<Self, String> {
        let invalid = || {
            format!(
                "invalid host '{entry}': expected a name as in app.example, an address, *.app.example, .app.example or \
                 *, with a port if only that one is allowed"
            )
        };
        let (kind, rest): (fn(String) -> NamePattern, &str) = match entry {
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
        let is_name = |char: char| char.is_ascii_alphanumeric() || "-_.:".contains(char);
        match !name.is_empty() && name.chars().all(is_name) {
            true => Ok(Self {
                name: kind(name),
                port,
            }),
            false => Err(invalid()),
        }
    }
}

/// A host as a `Host` header or an origin names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// In small letters, without a dot at its end; an IPv6 address without brackets, in its shortest form.
    pub(super) name: String,
    pub(super) port: Option<u16>,
}

impl Host {
    /// Reads `name`, `name:port` or `[address]:port`; an IPv6 address may lack brackets where it has no port.
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
            // A number may have a sign, a port may not.
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

    /// Whether it is an address, or a name, of this machine alone.
    pub(super) fn is_local(&self) -> bool {
        self.name == "localhost"
            || (self.name.len() > LOCAL_DOMAIN.len() && self.name.ends_with(LOCAL_DOMAIN))
            || self.address().is_some_and(|address| address.is_loopback())
    }

    /// The address, if it is no name.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.name.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_matches_the_hosts_that_it_describes() {
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
    fn an_entry_that_is_no_host_is_refused_with_its_text() {
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
