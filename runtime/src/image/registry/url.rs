//! Where requests go, and where a registry may send us.
//!
//! ```text
//! docker.io/library/nginx ──▶ https://registry-1.docker.io/v2/library/nginx/…
//!                                   │ Location, realm
//!                                   ▼
//!                    another host: without credentials, and never to addresses
//!                    that only this machine or its link has
//! ```
//!
//! Whoever pulls runs as root on a machine with neighbours, so a registry that could send us
//! anywhere could make requests as us: to the metadata service of a cloud, which is link-local,
//! or to what listens on this machine alone. A registry named by the user may be at such an
//! address; what it names may be so only in the same way. Pure: addresses are checked
//! after names were resolved, by whoever connects.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use hyper::Uri;

use super::{RegistryOptions, Speak};
use crate::image::reference::HUB;

/// Where Docker Hub's registry really is.
const HUB_REGISTRY: &str = "registry-1.docker.io";

/// Longest address that anybody sends us to: signed ones have some 2 KiB.
const URL_BYTES_MAX: usize = 16 << 10;

/// One server: what credentials are for, and what connections are kept for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Server {
    pub(super) speak: Speak,
    /// A name, or an address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

/// A server, and what is asked of it: a path, and perhaps a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) server: Server,
    pub(super) path: String,
}

/// From where an address can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// From this machine alone.
    Machine,
    /// From its link alone: among them the metadata services of clouds.
    Link,
    /// From further away.
    Wide,
}

impl Server {
    /// The server behind the host part of an image's name, which its grammar has checked.
    pub(super) fn named(host: &str, options: &RegistryOptions) -> Option<Self> {
        let uri: Uri = if host == HUB { HUB_REGISTRY } else { host }.parse().ok()?;
        let name = bare(uri.host()?).to_owned();
        let here = name == "localhost"
            || name.ends_with(".localhost")
            || name.parse().is_ok_and(|address| reach(address) == Reach::Machine);
        let usual = if here { Speak::Plain } else { Speak::Tls };
        let speak = options.speak.get(host).copied().unwrap_or(usual);
        Some(Self { speak, host: name, port: uri.port_u16().unwrap_or(speak.port()) })
    }

    /// What stands in a request's `Host`.
    pub(super) fn authority(&self) -> String {
        let Self { speak, host, port } = self;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        if *port == speak.port() { host } else { format!("{host}:{port}") }
    }

    /// Something that is asked of it.
    pub(super) fn at(&self, path: impl Into<String>) -> Url {
        Url { server: self.clone(), path: path.into() }
    }
}

impl Speak {
    const fn port(self) -> u16 {
        match self {
            Self::Tls => 443,
            Self::Plain => 80,
        }
    }
}

impl Url {
    /// An absolute one, as in a challenge's realm.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let uri: Uri = Some(text).filter(|text| text.len() <= URL_BYTES_MAX)?.parse().ok()?;
        let speak = match uri.scheme_str()? {
            "https" => Speak::Tls,
            "http" => Speak::Plain,
            _ => return None,
        };
        let host = bare(uri.host()?).to_owned();
        let server = Server { speak, host, port: uri.port_u16().unwrap_or(speak.port()) };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Some(server.at(if path.starts_with('?') { format!("/{path}") } else { path.to_owned() }))
    }

    /// Where an answer from here sends us: an absolute address or a path of the same server.
    pub(super) fn join(&self, location: &str) -> Option<Self> {
        if location.starts_with("//") {
            let scheme = if self.server.speak == Speak::Tls { "https:" } else { "http:" };
            return Self::parse(&format!("{scheme}{location}"));
        }
        if location.starts_with('/') {
            let uri: Uri = Some(location).filter(|it| it.len() <= URL_BYTES_MAX)?.parse().ok()?;
            return Some(self.server.at(uri.path_and_query()?.as_str()));
        }
        Self::parse(location)
    }

    /// The same with one more parameter, whose value may have any characters.
    pub(super) fn with(&self, name: &str, value: &str) -> Self {
        let sign = if self.path.contains('?') { '&' } else { '?' };
        self.server.at(format!("{}{sign}{name}={}", self.path, escape(value)))
    }
}

impl fmt::Display for Url {
    /// Without its query, which may hold what only we should know.
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        let scheme = if self.server.speak == Speak::Tls { "https" } else { "http" };
        let path = self.path.split('?').next().unwrap_or_default();
        write!(to, "{scheme}://{}{path}", self.server.authority())
    }
}

/// All but what never needs it, for queries and forms.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// Which addresses a server may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    /// Any: people named it.
    Any,
    /// It was named by a registry of this reach: what can be reached from everywhere, and what
    /// is as near as the registry is.
    As(Reach),
}

impl Allowed {
    pub(super) fn has(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::As(own) => [Reach::Wide, own].contains(&reach(address)),
        }
    }
}

/// From where this address can be reached.
pub(super) fn reach(address: IpAddr) -> Reach {
    let (here, link) = match address {
        IpAddr::V4(v4) => (v4.is_loopback() || v4.is_unspecified(), v4.is_link_local()),
        IpAddr::V6(v6) => match inner(v6) {
            Some(v4) => return reach(v4),
            None => (v6.is_loopback() || v6.is_unspecified(), v6.is_unicast_link_local()),
        },
    };
    match (here, link) {
        (true, _) => Reach::Machine,
        (_, true) => Reach::Link,
        _ => Reach::Wide,
    }
}

/// The older address that a newer one stands for.
fn inner(v6: Ipv6Addr) -> Option<IpAddr> {
    let [a, b, c, d, e, f, high, low] = v6.segments();
    let mapped = [a, b, c, d, e] == [0; 5] && f == 0xffff;
    // By way of a translator.
    let translated = [a, b, c, d, e, f] == [0x64, 0xff9b, 0, 0, 0, 0];
    let [w, x] = high.to_be_bytes();
    let [y, z] = low.to_be_bytes();
    (mapped || translated).then(|| IpAddr::from([w, x, y, z]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_host_says_which_server_is_meant_and_how_to_speak() {
        let mut options = RegistryOptions::default();
        options.speak.insert("old.lan".to_owned(), Speak::Plain);
        options.speak.insert("localhost:5443".to_owned(), Speak::Tls);
        for (host, speak, name, port, authority) in [
            ("docker.io", Speak::Tls, "registry-1.docker.io", 443, "registry-1.docker.io"),
            ("ghcr.io", Speak::Tls, "ghcr.io", 443, "ghcr.io"),
            ("host:5000", Speak::Tls, "host", 5000, "host:5000"),
            ("localhost:5000", Speak::Plain, "localhost", 5000, "localhost:5000"),
            ("127.0.0.9", Speak::Plain, "127.0.0.9", 80, "127.0.0.9"),
            ("[::1]:5000", Speak::Plain, "::1", 5000, "[::1]:5000"),
            ("10.0.0.1:5000", Speak::Tls, "10.0.0.1", 5000, "10.0.0.1:5000"),
            ("old.lan", Speak::Plain, "old.lan", 80, "old.lan"),
            ("localhost:5443", Speak::Tls, "localhost", 5443, "localhost:5443"),
        ] {
            let server = Server::named(host, &options).expect(host);
            assert_eq!(server, Server { speak, host: name.to_owned(), port }, "{host}");
            assert_eq!(server.authority(), authority);
        }
    }

    #[test]
    fn a_location_is_absolute_or_a_path_and_nothing_else() {
        let base = Url::parse("https://a.example/v2/x/blobs/y?z").expect("a base");
        for (location, whole, path) in [
            ("/other?sig=a%20b", "https://a.example/other", "/other?sig=a%20b"),
            ("https://cdn.example:8443/b", "https://cdn.example:8443/b", "/b"),
            ("http://u:p@cdn.example", "http://cdn.example/", "/"),
            ("//cdn.example/b", "https://cdn.example/b", "/b"),
            ("https://[fe80::1]/b", "https://[fe80::1]/b", "/b"),
        ] {
            let url = base.join(location).expect(location);
            assert_eq!((url.to_string().as_str(), url.path.as_str()), (whole, path), "{location}");
        }
        let long = format!("/{}", "a".repeat(URL_BYTES_MAX));
        for bad in ["", "b", "file:///etc/passwd", "ftp://a/b", "http://", "/a b", "https:", &long]
        {
            assert_eq!(base.join(bad), None, "{bad}");
        }
        let asked = base.with("scope", "repository:a/b:pull");
        assert_eq!(asked.path, "/v2/x/blobs/y?z&scope=repository%3Aa%2Fb%3Apull");
    }

    #[test]
    fn addresses_of_this_machine_and_its_link_are_known_in_all_their_forms() {
        for (text, wanted) in [
            ("127.0.0.1", Reach::Machine),
            ("0.0.0.0", Reach::Machine),
            ("::", Reach::Machine),
            ("::1", Reach::Machine),
            ("::ffff:127.0.0.1", Reach::Machine),
            ("169.254.169.254", Reach::Link),
            ("::ffff:169.254.169.254", Reach::Link),
            ("64:ff9b::a9fe:a9fe", Reach::Link),
            ("fe80::1", Reach::Link),
            ("10.0.0.1", Reach::Wide),
            ("2001:db8::1", Reach::Wide),
        ] {
            let address = text.parse().expect(text);
            assert_eq!(reach(address), wanted, "{text}");
            assert!(Allowed::Any.has(address) && Allowed::As(wanted).has(address), "{text}");
            assert_eq!(Allowed::As(Reach::Wide).has(address), wanted == Reach::Wide, "{text}");
            let elsewhere = if wanted == Reach::Link { Reach::Machine } else { Reach::Link };
            assert_eq!(Allowed::As(elsewhere).has(address), wanted == Reach::Wide, "{text}");
        }
    }
}
