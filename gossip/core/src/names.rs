//! What a container finds when it looks up names, beyond what its node says: lines of its
//! `/etc/hosts` and `/etc/resolv.conf`.
//!
//! Must never let a word through that would be more than one word, or another line, of those
//! files.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::container::PARTS_MAX;

/// Longest name of a host or domain, by the rules of DNS.
const NAME_MAX: usize = 253;

/// Longest option: those of resolv.conf are a word and a small number.
const OPTION_MAX: usize = 64;

/// Names and resolvers of a container's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NamesSpec {
    /// Hosts that it knows by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostSpec>,
    /// Whom it asks for other names, in place of those that its node asks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<IpAddr>,
    /// Domains in which short names are looked for, in place of the node's; `.` alone is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of its resolver, in place of the node's: `ndots:2`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// A host that a container knows by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostSpec {
    /// What it calls it.
    pub name: String,
    /// Where it is; the node that runs the container where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

/// Why names cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadNames {
    /// A word that those files have no place for.
    #[error("{field}: {word:?} is no {wanted}")]
    Word {
        /// Which field.
        field: &'static str,
        /// What it says.
        word: String,
        /// What belongs there.
        wanted: &'static str,
    },
    /// More than anybody has.
    #[error("{field}: {count}, and at most {PARTS_MAX} are possible")]
    Many {
        /// Which field.
        field: &'static str,
        /// How many there are.
        count: usize,
    },
    /// The network `none` leads nowhere, to the node neither.
    #[error("names.hosts: the node cannot be reached from the network `none`")]
    NoNode,
}

impl NamesSpec {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks what can be known anywhere.
    pub(crate) fn check(&self) -> Result<(), BadNames> {
        for (field, count) in [
            ("names.hosts", self.hosts.len()),
            ("names.servers", self.servers.len()),
            ("names.search", self.search.len()),
            ("names.options", self.options.len()),
        ] {
            if count > PARTS_MAX {
                return Err(BadNames::Many { field, count });
            }
        }
        let wrong = |field, word: &str, wanted| {
            let word = word.chars().take(NAME_MAX).collect();
            Err(BadNames::Word { field, word, wanted })
        };
        if let Some(host) = self.hosts.iter().find(|host| !is_name(&host.name)) {
            return wrong("names.hosts", &host.name, "name of a host");
        }
        if let Some(odd) = self.search.iter().find(|name| *name != "." && !is_name(name)) {
            return wrong("names.search", odd, "name of a domain");
        }
        if let Some(odd) = self.options.iter().find(|option| !is_option(option)) {
            return wrong("names.options", odd, "option of a resolver");
        }
        Ok(())
    }
}

fn is_name(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        && !text.starts_with(['-', '.'])
}

fn is_option(text: &str) -> bool {
    (1..=OPTION_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_is_two_or_another_line() {
        let sound = NamesSpec {
            hosts: vec![HostSpec { name: "db.lan".into(), address: None }],
            servers: vec!["127.0.0.1".parse().expect("an address")],
            search: vec![".".into(), "corp_x.example".into()],
            options: vec!["ndots:2".into(), "no-aaaa".into()],
        };
        assert_eq!(sound.check(), Ok(()));
        for odd in ["", "a b", "a\nb", "a\tb", "a\0", "#", "ä", "-x", ".x", &"x".repeat(254)] {
            let host = HostSpec { name: odd.to_owned(), address: None };
            let word = odd.to_owned();
            let spoilt = [
                ("names.hosts", NamesSpec { hosts: vec![host], ..sound.clone() }),
                ("names.search", NamesSpec { search: vec![word], ..sound.clone() }),
            ];
            for (field, names) in spoilt {
                let flaw = names.check().expect_err(odd).to_string();
                assert!(flaw.starts_with(field), "{flaw}");
            }
        }
        for odd in ["", "a b", "a\nb", &"x".repeat(65)] {
            let names = NamesSpec { options: vec![odd.to_owned()], ..sound.clone() };
            assert!(names.check().is_err(), "{odd}");
        }
        let many = NamesSpec { search: vec!["x".to_owned(); PARTS_MAX + 1], ..sound };
        assert!(matches!(many.check(), Err(BadNames::Many { field: "names.search", .. })));
    }

    #[test]
    fn what_is_not_said_is_not_written() {
        let nothing = serde_json::to_string(&NamesSpec::default()).expect("JSON");
        assert_eq!(nothing, "{}");
    }
}
