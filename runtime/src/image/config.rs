//! What an image says of how its program is called.
//!
//! Read with types of our own and not with `oci-spec`: that crate knows nothing of Docker's
//! health check and shell, which real images have, and takes no lists given as one string,
//! which old ones have; and it brings a dozen crates for what are three small structures.
//!
//! What is here is data. A user or directory may be any text; whoever launches decides what
//! it means. Only what could never be handed to a program is refused: zero bytes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::documents::{CONFIG_BYTES, LAYERS, from_json, in_document, is_word, shown};
use super::{Digest, ImageError};

/// An image's config, as far as anything here needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Like `linux`.
    pub os: String,
    /// In Go's words, like `amd64`.
    pub architecture: String,
    /// Like `v7`; empty for most.
    pub variant: String,
    /// When it was made, in RFC 3339.
    pub created: Option<String>,
    /// `NAME=VALUE`, each name once.
    pub env: Vec<(String, String)>,
    /// What comes before `cmd`.
    pub entrypoint: Vec<String>,
    /// What is replaced by whatever stands behind the image's name.
    pub cmd: Vec<String>,
    /// `USER[:GROUP]`; empty is root.
    pub user: String,
    /// Where it starts; empty is `/`.
    pub directory: String,
    /// Like `SIGQUIT`.
    pub stop_signal: Option<String>,
    /// Ports it says that it listens on, like `80/tcp`.
    pub ports: Vec<String>,
    /// Directories it wants kept out of its own layers.
    pub volumes: Vec<String>,
    /// What is said about it.
    pub labels: BTreeMap<String, String>,
    /// How to tell whether it is well.
    pub health: Option<HealthCheck>,
    /// The digests of its uncompressed layers, lowest first.
    pub layers: Vec<Digest>,
}

/// Docker's health check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthCheck {
    /// `NONE`, or `CMD` and an argv, or `CMD-SHELL` and a line.
    pub test: Vec<String>,
    /// Nanoseconds; 0 is the default.
    pub interval_ns: u64,
    /// Nanoseconds; 0 is the default.
    pub timeout_ns: u64,
    /// Nanoseconds; 0 is the default.
    pub start_period_ns: u64,
    /// 0 is the default.
    pub retries: u32,
}

/// What people know the document by.
const WHAT: &str = "the image's config";

/// Longest time of making that is passed on: RFC 3339 with nanoseconds and a zone has 35.
const CREATED_BYTES: usize = 40;

/// What Go writes for no time at all.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

#[derive(Deserialize)]
struct Whole {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    created: Option<String>,
    config: Option<Call>,
    rootfs: Option<Rootfs>,
}

#[derive(Deserialize)]
struct Rootfs {
    #[serde(rename = "type")]
    kind: Option<String>,
    diff_ids: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Call {
    env: Option<Vec<String>>,
    entrypoint: Option<Words>,
    cmd: Option<Words>,
    shell: Option<Words>,
    user: Option<String>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    exposed_ports: Option<BTreeMap<String, IgnoredAny>>,
    volumes: Option<BTreeMap<String, IgnoredAny>>,
    labels: Option<BTreeMap<String, Option<String>>>,
    healthcheck: Option<Health>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Health {
    test: Option<Words>,
    #[serde(default)]
    interval: Option<i64>,
    #[serde(default)]
    timeout: Option<i64>,
    #[serde(default)]
    start_period: Option<i64>,
    #[serde(default)]
    retries: Option<i64>,
}

/// A list, or as old images have it, one string that stands for a list of it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    Many(Vec<String>),
    One(String),
}

impl Words {
    fn list(words: Option<Self>) -> Vec<String> {
        match words {
            Some(Self::Many(words)) => words,
            Some(Self::One(word)) => vec![word],
            None => Vec::new(),
        }
    }
}

impl ImageConfig {
    /// Reads one, of OCI or Docker.
    ///
    /// # Errors
    ///
    /// If it is none, or says what cannot be.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        parse(bytes).map_err(in_document(WHAT))
    }

    /// `os/architecture[/variant]`.
    pub fn platform(&self) -> String {
        let variant = if self.variant.is_empty() { "" } else { "/" };
        format!("{}/{}{variant}{}", self.os, self.architecture, self.variant)
    }
}

fn parse(bytes: &[u8]) -> Result<ImageConfig, String> {
    let whole: Whole = from_json(bytes, CONFIG_BYTES)?;
    let rootfs = whole.rootfs.ok_or("it names no layers")?;
    if let Some(kind) = rootfs.kind.filter(|kind| kind != "layers") {
        return Err(format!("its files are of the kind {}, not in layers", shown(&kind)));
    }
    let diff_ids = rootfs.diff_ids.unwrap_or_default();
    if diff_ids.len() > LAYERS {
        return Err(format!("it has {} layers; {LAYERS} are allowed", diff_ids.len()));
    }
    let layers = diff_ids.iter().map(|text| text.parse().map_err(|bad| format!("a layer: {bad}")));
    let call = whole.config.unwrap_or_default();
    let shell = Words::list(call.shell);
    let config = ImageConfig {
        // Docker's own tools left it out for years.
        os: whole.os.filter(|os| !os.is_empty()).unwrap_or_else(|| "linux".to_owned()),
        architecture: whole.architecture.unwrap_or_default(),
        variant: whole.variant.unwrap_or_default(),
        created: whole.created.filter(|text| is_time(text)),
        env: env(call.env.unwrap_or_default()),
        entrypoint: Words::list(call.entrypoint),
        cmd: Words::list(call.cmd),
        user: call.user.unwrap_or_default(),
        directory: call.working_dir.unwrap_or_default(),
        stop_signal: call.stop_signal.filter(|signal| !signal.is_empty()),
        ports: call.exposed_ports.unwrap_or_default().into_keys().collect(),
        volumes: call.volumes.unwrap_or_default().into_keys().collect(),
        labels: labels(call.labels.unwrap_or_default()),
        health: call.healthcheck.map(|health| health.checked(shell)).transpose()?.flatten(),
        layers: layers.collect::<Result<_, _>>()?,
    };
    check(&config)?;
    Ok(config)
}

/// What can be shown to people and handed to a program.
fn check(config: &ImageConfig) -> Result<(), String> {
    for (field, word) in
        [("os", &config.os), ("architecture", &config.architecture), ("variant", &config.variant)]
    {
        if !word.is_empty() && !is_word(word) {
            return Err(format!("its {field} is {}", shown(word)));
        }
    }
    let env = config.env.iter().flat_map(|(name, value)| [name, value]);
    let argv = config.entrypoint.iter().chain(&config.cmd);
    let test = config.health.iter().flat_map(|health| &health.test);
    let paths = [&config.user, &config.directory].into_iter().chain(&config.volumes);
    match env.chain(argv).chain(test).chain(paths).find(|text| text.contains('\0')) {
        Some(text) => Err(format!("it has a zero byte in {}", shown(text))),
        None => Ok(()),
    }
}

/// As Docker reads it: later ones win, one without `=` takes earlier ones away, and one
/// without a name is nobody's.
fn env(lines: Vec<String>) -> Vec<(String, String)> {
    let mut env: Vec<Option<(String, String)>> = Vec::new();
    // Where each name is: the bound of a config allows a million of them.
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines {
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some((name.to_owned(), value.to_owned()))),
            None => (line.as_str(), None),
        };
        match places.get(name).and_then(|place| env.get_mut(*place)) {
            Some(known) => *known = value,
            None if name.is_empty() || value.is_none() => {}
            None => {
                places.insert(name.to_owned(), env.len());
                env.push(value);
            }
        }
    }
    env.into_iter().flatten().collect()
}

fn labels(labels: BTreeMap<String, Option<String>>) -> BTreeMap<String, String> {
    labels.into_iter().map(|(name, value)| (name, value.unwrap_or_default())).collect()
}

fn is_time(text: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_digit() || b"-:.+TZtz".contains(&byte);
    (1..=CREATED_BYTES).contains(&text.len()) && text.bytes().all(sound) && text != NO_TIME
}

impl Health {
    /// None if it says nothing. A shell of the image's own goes into the test, so that nobody
    /// else needs to know of it.
    fn checked(self, shell: Vec<String>) -> Result<Option<HealthCheck>, String> {
        let time = |value: Option<i64>, of: &str| {
            u64::try_from(value.unwrap_or(0)).map_err(|_negative| format!("its {of} is negative"))
        };
        let retries = u32::try_from(self.retries.unwrap_or(0))
            .map_err(|_far| "its health check has no sound number of retries".to_owned())?;
        let mut test = Words::list(self.test);
        if let ([kind, line], false) = (test.as_slice(), shell.is_empty())
            && kind == "CMD-SHELL"
        {
            let line = line.clone();
            test = ["CMD".to_owned()].into_iter().chain(shell).chain([line]).collect();
        }
        let known = ["NONE", "CMD", "CMD-SHELL"];
        match test.first().map(String::as_str) {
            None | Some("") => return Ok(None),
            Some(kind) if known.contains(&kind) => {}
            Some(kind) => return Err(format!("its health check is of the kind {}", shown(kind))),
        }
        Ok(Some(HealthCheck {
            test,
            interval_ns: time(self.interval, "health check's interval")?,
            timeout_ns: time(self.timeout, "health check's timeout")?,
            start_period_ns: time(self.start_period, "health check's start period")?,
            retries,
        }))
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
