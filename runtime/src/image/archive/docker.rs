//! The list in an archive of `docker save`: `manifest.json`.

use std::sync::Arc;

use serde::Deserialize;

use super::contents::Contents;
use super::wanted::{LayerFile, Wanted};
use super::{IMAGES, bad_archive};
use crate::image::documents::{MANIFEST_BYTES, from_json, in_document, shown};
use crate::image::{BadReference, Digest, ImageError, Reference};

/// Where it is.
pub(super) const MANIFEST: &[u8] = b"manifest.json";

/// What stands for no name.
const NO_NAME: &str = "<none>:<none>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// The images that it tells of.
pub(super) fn images(contents: &Contents) -> Result<Vec<Wanted>, ImageError> {
    let text = contents.document(MANIFEST)?;
    if text.trim_ascii_start().starts_with(b"{") {
        let why = "its manifest.json is that of one image in a registry, as skopeo's dir: has it; \
                   copy the image to oci: or docker-archive: instead";
        return Err(bad_archive(why));
    }
    let rows: Vec<Row> =
        from_json(text, MANIFEST_BYTES).map_err(in_document("the archive's manifest.json"))?;
    if rows.len() > IMAGES {
        return Err(bad_archive(format!("it has more than {IMAGES} images")));
    }
    rows.into_iter().map(|row| image(contents, row)).collect()
}

fn image(contents: &Contents, row: Row) -> Result<Wanted, ImageError> {
    let config = Arc::clone(contents.document(row.config.as_bytes())?);
    check_name(&row.config, &config)?;
    let tags = row.repo_tags.unwrap_or_default();
    let names = tags.iter().filter(|tag| *tag != NO_NAME).map(|tag| {
        let bad =
            |why: String| bad_archive(format!("it has an image called {}: {why}", shown(tag)));
        let name: Reference = tag.parse().map_err(|error: BadReference| bad(error.to_string()))?;
        // Only a registry's answer proves one.
        if name.digest().is_some() {
            return Err(bad("a name with a digest is no tag".to_owned()));
        }
        Ok(name)
    });
    let names = names.collect::<Result<Vec<Reference>, ImageError>>()?;
    let layers = row.layers.unwrap_or_default();
    let files = layers
        .into_iter()
        .map(|file| LayerFile { name: file.into_bytes(), promised: None })
        .collect();
    Wanted::new(config, None, names, files)
}

/// Configs are called by their digest, in all the ways there are to write that.
fn check_name(name: &str, config: &[u8]) -> Result<(), ImageError> {
    let file = name.rsplit('/').next().unwrap_or(name);
    let hex = file.strip_suffix(".json").unwrap_or(file);
    let Ok(wanted) = format!("sha256:{hex}").parse::<Digest>() else { return Ok(()) };
    match Digest::of(config) {
        found if found == wanted => Ok(()),
        found => Err(ImageError::Mismatch { what: format!("the config {file}"), wanted, found }),
    }
}
