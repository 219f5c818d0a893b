//! What an image is, as a member that has it says: its config and manifest, verified, and how
//! long its layers are.
//!
//! Must never: take a config that is not the one which the image's id names.

use data_encoding::BASE64;
use runtime::image::{Digest, LayerInfo};
use serde::Deserialize;

use super::fetch::{Holder, Tried};
use super::layer::Stuck;
use crate::agent::Doors;
use crate::api::image_types::Documents;
use crate::api::peer;

/// The largest answer with an image's documents: both at their largest, in base64.
pub(crate) const DOCUMENTS_BYTES_MAX: usize = 24 << 20;

/// What a member said of an image, as far as its id proves it.
pub(super) struct Verified {
    pub(super) config: Vec<u8>,
    pub(super) manifest: Option<Vec<u8>>,
    /// How long they are is the member's word, and only shown.
    pub(super) layers: Vec<LayerInfo>,
}

/// The documents, from the first member whose answer is true.
pub(super) async fn documents(
    doors: &Doors,
    id: &Digest,
    holders: &[Holder],
    tried: &mut Tried,
) -> Result<Verified, Stuck> {
    let path = format!("/v1/local/images/{id}");
    for holder in holders {
        let answer =
            peer::document::<Documents>(doors, holder.node, &path, DOCUMENTS_BYTES_MAX).await;
        match answer {
            Ok(documents) => match verified(&documents, id) {
                Some((config, manifest)) => {
                    return Ok(Verified { config, manifest, layers: documents.layers });
                }
                None => tried.note(&holder.name, "sent a config that is not the image's"),
            },
            Err(error) => tried.note(&holder.name, error),
        }
    }
    Err(Stuck::There)
}

/// The documents, if they are this image's. A manifest that is of another image is left out:
/// the image is whole without it.
pub(crate) fn verified(documents: &Documents, id: &Digest) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    #[derive(Deserialize)]
    struct Manifest {
        config: Described,
    }
    #[derive(Deserialize)]
    struct Described {
        digest: Digest,
    }
    let config = BASE64.decode(documents.config.as_bytes()).ok()?;
    if Digest::of(&config) != *id {
        return None;
    }
    let manifest = documents.manifest.as_ref();
    let manifest = manifest.and_then(|text| BASE64.decode(text.as_bytes()).ok());
    let names_it = |bytes: &Vec<u8>| {
        serde_json::from_slice::<Manifest>(bytes).is_ok_and(|read| read.config.digest == *id)
    };
    Some((config, manifest.filter(names_it)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(config: &str, manifest: Option<&str>) -> Documents {
        Documents {
            config: BASE64.encode(config.as_bytes()),
            manifest: manifest.map(|text| BASE64.encode(text.as_bytes())),
            layers: Vec::new(),
        }
    }

    #[test]
    fn only_what_the_job_named_is_taken_from_a_member() {
        let id = Digest::of(b"{}");
        assert!(verified(&documents("{ }", None), &id).is_none());
        assert_eq!(verified(&documents("{}", None), &id), Some((b"{}".to_vec(), None)));
        let manifest =
            |of: &str| format!(r#"{{"config":{{"digest":"{}"}}}}"#, Digest::of(of.as_bytes()));
        let (_, own) = verified(&documents("{}", Some(&manifest("{}"))), &id).expect("true");
        assert_eq!(own, Some(manifest("{}").into_bytes()));
        for other in [manifest("x"), "x".to_owned()] {
            let (_, none) = verified(&documents("{}", Some(&other)), &id).expect("true");
            assert_eq!(none, None, "{other}");
        }
        let garbage = Documents { config: "?".into(), manifest: None, layers: Vec::new() };
        assert!(verified(&garbage, &id).is_none());
    }
}
