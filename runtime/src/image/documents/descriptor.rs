//! How a document names bytes that lie elsewhere.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::platform::{Platform, PlatformWritten};
use super::shown;
use crate::image::{Digest, Reference};

/// What an attestation is marked with by Docker's builder.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// The whole name, as containerd and Docker write it.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// A name, or only its tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// How a layer's archive is packed, as its document claims; its bytes decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// With gzip.
    Gzip,
    /// With Zstandard.
    Zstd,
}

/// Some bytes elsewhere: what to fetch and how to tell that it is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// As it is written; may be empty.
    pub media_type: String,
    /// Of exactly these bytes.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
    /// What it is for, in an index.
    pub platform: Option<Platform>,
    /// What it is called, in an archive's list.
    pub names: Vec<Reference>,
    /// Whether it says something of an image rather than being one.
    pub is_note: bool,
}

/// As it is written in JSON.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Written {
    media_type: Option<String>,
    artifact_type: Option<String>,
    digest: String,
    size: i64,
    platform: Option<PlatformWritten>,
    annotations: Option<BTreeMap<String, Option<String>>>,
}

impl Written {
    pub(super) fn read(self) -> Result<Descriptor, String> {
        let digest = self.digest.parse().map_err(|bad| format!("{bad}"))?;
        let size = u64::try_from(self.size)
            .map_err(|_negative| format!("{digest} has {} bytes by it", self.size))?;
        let platform = self.platform.map(PlatformWritten::read).transpose()?;
        let annotations = self.annotations.unwrap_or_default();
        let said = |key| annotations.get(key).and_then(Option::as_deref);
        Ok(Descriptor {
            media_type: self.media_type.unwrap_or_default(),
            digest,
            size,
            is_note: self.artifact_type.is_some_and(|kind| !kind.is_empty())
                || said(REFERENCE_TYPE).is_some()
                || platform.as_ref().is_some_and(Platform::is_unknown),
            platform,
            names: name(said(CONTAINERD_NAME), said(REF_NAME)).into_iter().collect(),
        })
    }
}

/// A lone word may be a name or a tag, and is taken for neither. A digest in a name is proven
/// by a registry's answer alone, and by no annotation.
fn name(whole: Option<&str>, reference: Option<&str>) -> Option<Reference> {
    let read = |text: &str| text.parse().ok().filter(|name: &Reference| name.digest().is_none());
    let full = whole.and_then(read);
    full.or_else(|| reference.filter(|text| text.contains(['/', ':'])).and_then(read))
}

impl Descriptor {
    /// How a layer is packed.
    ///
    /// # Errors
    ///
    /// If it is no layer that can be unpacked.
    pub fn packing(&self) -> Result<Packing, String> {
        let begins = |prefix| self.media_type.strip_prefix(prefix);
        let oci = begins("application/vnd.oci.image.layer.v1.tar")
            .or_else(|| begins("application/vnd.oci.image.layer.nondistributable.v1.tar"));
        let docker = begins("application/vnd.docker.image.rootfs.diff.tar")
            .or_else(|| begins("application/vnd.docker.image.rootfs.foreign.diff.tar"));
        match oci.or(docker) {
            Some("") => Ok(Packing::Plain),
            Some("+gzip" | ".gzip") => Ok(Packing::Gzip),
            Some("+zstd" | ".zstd") => Ok(Packing::Zstd),
            _ => Err(format!(
                "its layer {} is of the type {}, which cannot be unpacked",
                self.digest.short(),
                shown(&self.media_type)
            )),
        }
    }

    /// Whether a registry may lack this layer and point elsewhere for it; that is not followed.
    pub fn is_foreign(&self) -> bool {
        let foreign = |kind| self.media_type.contains(kind);
        foreign(".nondistributable.") || foreign(".foreign.")
    }

    /// Whether it names an image or an index of some.
    pub(in crate::image) fn is_image(&self) -> bool {
        !self.is_note && super::kind_of(&self.media_type).is_ok()
    }

    pub(super) fn check_config(&self) -> Result<(), String> {
        match self.media_type.as_str() {
            "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json" => Ok(()),
            other => Err(format!("its config is {}: it is no container image", shown(other))),
        }
    }
}
