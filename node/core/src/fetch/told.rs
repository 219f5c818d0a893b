//! How far an image is on its way to a node, in the API's words.
//!
//! Told by the node that fetches to whoever asks it, and kept by nobody: it is no part of the
//! replicated state, which changes only when a fact does.

use std::fmt;

use gossip_core::resources::show_bytes;
use serde::{Deserialize, Serialize};

/// An image on its way to a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetching {
    /// What whoever wants it calls it.
    pub image: String,
    /// Bytes that came, of what the node lacked.
    pub bytes: u64,
    /// Bytes that the node lacked, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    /// Who gave some of it: names of members, or the host of a registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
}

impl Fetching {
    /// Whole percents that came, where that can be said.
    pub fn percent(&self) -> Option<u8> {
        let of = self.of.filter(|of| *of > 0)?;
        u8::try_from(u128::from(self.bytes.min(of)) * 100 / u128::from(of)).ok()
    }
}

impl fmt::Display for Fetching {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "fetching {}", self.image)?;
        match (self.percent(), self.of, self.bytes) {
            (Some(percent), Some(of), _) => write!(to, ", {percent} % of {}", show_bytes(of)),
            (_, _, 0) => Ok(()),
            (_, _, bytes) => write!(to, ", {} so far", show_bytes(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_as_far_as_it_is_known() {
        let told = |bytes, of| {
            Fetching { image: "app:1".to_owned(), bytes, of, from: Vec::new() }.to_string()
        };
        assert_eq!(told(0, None), "fetching app:1");
        assert_eq!(told(1 << 20, None), "fetching app:1, 1MiB so far");
        assert_eq!(told(0, Some(0)), "fetching app:1");
        assert_eq!(told(43 << 20, Some(100 << 20)), "fetching app:1, 43 % of 100MiB");
        assert_eq!(told(u64::MAX, Some(1 << 20)), "fetching app:1, 100 % of 1MiB");
    }
}
