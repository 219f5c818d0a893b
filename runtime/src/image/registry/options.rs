//! What whoever pulls or pushes may say about registries.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::Credential;
use crate::image::{Origin, Packing, Platform};
use crate::unpack::Bounds;

/// Longest time until one of a host's addresses has taken the connection and TLS stands.
const CONNECT: Duration = Duration::from_secs(10);

/// Longest time from a request to the head of its answer. Registries that fetch from another
/// registry first are slow here.
const HEAD: Duration = Duration::from_secs(60);

/// Longest silence in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(30);

/// How often in a row something is tried that brings no byte nearer.
const TRIES: u32 = 6;

/// The pause before the second try; it doubles with each one more, so that all of them
/// together take some 15 seconds, about as long as a registry takes to start again.
const PAUSE: Duration = Duration::from_millis(500);

/// The longest that a registry may ask us to wait before a try.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub struct RegistryOptions {
    /// Who we are, by host as it stands in images' names (`docker.io`, `localhost:5000`).
    /// Sent to that host alone, and to where it says that tokens are given.
    pub credentials: BTreeMap<String, Credential>,
    /// Hosts that are asked first, in that order, in place of the one in an image's name.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// How to speak with a host, where that is not what its name says.
    pub speak: BTreeMap<String, Speak>,
    /// Files of PEM certificates that are trusted beside the system's.
    pub authorities: Vec<PathBuf>,
    /// How long to wait for what.
    pub patience: Patience,
}

/// How a host is spoken with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Speak {
    /// HTTP over TLS: all hosts but those of this machine itself.
    Tls,
    /// HTTP that everybody on the way can read and change: `localhost` and its addresses.
    /// What is pulled is verified all the same, given a digest; credentials are not safe.
    Plain,
}

/// How long a registry is waited for. There is no limit on the whole: a large image over a
/// thin link takes its time.
#[derive(Clone, Debug)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the head of an answer.
    pub head: Duration,
    /// For the next byte.
    pub silence: Duration,
    /// Tries in a row without any progress.
    pub tries: u32,
    /// Before the second try; doubles with each.
    pub pause: Duration,
    /// The longest pause that a registry may ask for; one that asks for more is too busy.
    pub pause_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: CONNECT,
            head: HEAD,
            silence: SILENCE,
            tries: TRIES,
            pause: PAUSE,
            pause_max: PAUSE_MAX,
        }
    }
}

/// What a pull is to do.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// How to reach the registry.
    pub registry: RegistryOptions,
    /// For which machine; `None` is this one.
    pub platform: Option<Platform>,
    /// On whose behalf.
    pub origin: Origin,
    /// How much each layer may ask of this machine.
    pub bounds: Bounds,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            registry: RegistryOptions::default(),
            platform: None,
            origin: Origin::Asked,
            bounds: Bounds::default(),
        }
    }
}

/// What a push is to do.
#[derive(Clone, Debug)]
pub struct PushOptions {
    /// How to reach the registry.
    pub registry: RegistryOptions,
    /// How to pack the layers for the way. Tools of before 2020 cannot unpack Zstandard.
    pub packing: Packing,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self { registry: RegistryOptions::default(), packing: Packing::Gzip }
    }
}
