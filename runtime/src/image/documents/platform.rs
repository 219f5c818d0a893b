//! What an image runs on: system, architecture and how new a processor it wants.

use std::fmt;

use serde::Deserialize;

use super::{is_word, shown};

/// A machine, or what an image wants one to be. In Go's words, as all images have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: String,
}

/// As it is written in JSON.
#[derive(Deserialize)]
pub(super) struct PlatformWritten {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
}

impl PlatformWritten {
    pub(super) fn read(self) -> Result<Platform, String> {
        let word = |given: Option<String>| match given.unwrap_or_default() {
            word if word.is_empty() || is_word(&word) => Ok(word),
            other => Err(format!("an entry is for {}", shown(&other))),
        };
        Ok(Platform::new(&word(self.os)?, &word(self.architecture)?, &word(self.variant)?))
    }
}

impl Platform {
    /// This machine.
    pub fn here() -> Self {
        let variant = match std::env::consts::ARCH {
            "x86_64" => level_of_this_processor(),
            // What such a program can run; the kernel's name may be that of a 64-bit one.
            "arm" if rustix::system::uname().machine().to_bytes().starts_with(b"armv6") => "v6",
            "arm" => "v7",
            _ => "",
        };
        Self::new("linux", std::env::consts::ARCH, variant)
    }

    /// Takes other tools' words for an architecture, too.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let (architecture, meant) = match architecture {
            "x86_64" | "x86-64" => ("amd64", ""),
            "x86" | "i386" | "i686" => ("386", ""),
            "aarch64" => ("arm64", ""),
            "armhf" => ("arm", "v7"),
            "armel" => ("arm", "v6"),
            "powerpc64le" => ("ppc64le", ""),
            "loongarch64" => ("loong64", ""),
            other => (other, ""),
        };
        let variant = match (architecture, variant) {
            ("amd64", "v1") | ("arm64", "v8" | "8") => "",
            (_, "") => meant,
            (_, variant) => variant,
        };
        let own = str::to_owned;
        Self { os: own(os), architecture: own(architecture), variant: own(variant) }
    }

    /// What an image says that it is made for, as [`ImageConfig::platform`] writes it; nothing
    /// if it does not say.
    ///
    /// [`ImageConfig::platform`]: crate::image::ImageConfig::platform
    pub fn said(text: &str) -> Option<Self> {
        let mut words = text.splitn(3, '/');
        let (os, architecture) = (words.next()?, words.next()?);
        let is_said = !os.is_empty() && !architecture.is_empty();
        is_said.then(|| Self::new(os, architecture, words.next().unwrap_or_default()))
    }

    /// Whether this machine may well not start programs that are made for another. One that
    /// runs programs of its predecessors is taken to do so, though its kernel may not.
    pub fn is_strange_to(&self, other: &Self) -> bool {
        let older = [("amd64", "386"), ("arm64", "arm")];
        let runs_older = older.contains(&(self.architecture.as_str(), other.architecture.as_str()));
        self.rank(other).is_none() && !(self.os == other.os && runs_older)
    }

    /// Like `linux`.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// Like `amd64`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Like `v7`; empty for most.
    pub fn variant(&self) -> &str {
        &self.variant
    }

    /// How well something made for another fits this machine, if at all: the higher the
    /// better, and never 0, which is for what does not say what it is made for.
    pub(super) fn rank(&self, other: &Self) -> Option<u32> {
        if self.os != other.os || self.architecture != other.architecture {
            return None;
        }
        let fits = match (self.level(), other.level()) {
            (Some(have), Some(want)) => have >= want,
            // In words nobody knows: it may well run.
            _ => return Some(if self.variant == other.variant { 2 } else { 1 }),
        };
        let level = other.level().unwrap_or((0, 0));
        fits.then_some(2 + level.0 * 100 + level.1)
    }

    /// `v8.2` as a number of each, small enough to count with.
    fn level(&self) -> Option<(u32, u32)> {
        if self.variant.is_empty() {
            return match self.architecture.as_str() {
                "amd64" => Some((1, 0)),
                "arm64" => Some((8, 0)),
                "arm" => Some((7, 0)),
                _ => None,
            };
        }
        let digits = self.variant.strip_prefix('v').unwrap_or(&self.variant);
        let (major, minor) = digits.split_once('.').unwrap_or((digits, "0"));
        let small = |text: &str| text.parse().ok().filter(|number: &u32| *number < 100);
        Some((small(major)?, small(minor)?))
    }

    /// What attestations are for: no machine.
    pub(super) fn is_unknown(&self) -> bool {
        self.os == "unknown" || self.architecture == "unknown"
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        write!(to, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(to, "/{}", self.variant) }
    }
}

/// The levels of the x86-64 ABI supplement.
#[cfg(target_arch = "x86_64")]
fn level_of_this_processor() -> &'static str {
    macro_rules! has {
        ($($feature:tt)*) => { $(std::arch::is_x86_feature_detected!($feature))&&* };
    }
    if !has!("cmpxchg16b" "popcnt" "sse3" "ssse3" "sse4.1" "sse4.2") {
        ""
    } else if !has!("avx" "avx2" "bmi1" "bmi2" "f16c" "fma" "lzcnt" "movbe") {
        "v2"
    } else if !has!("avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl") {
        "v3"
    } else {
        "v4"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn level_of_this_processor() -> &'static str {
    ""
}
