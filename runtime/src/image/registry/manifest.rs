//! From a name to what there is to fetch: the manifest for this machine, and its config.
//!
//! Both are read whole, so both have bounds, whatever their length is said to be. What a
//! digest names is checked against it before anything in it is believed.

use hyper::Method;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName};

use super::RegistryError;
use super::session::{Answer, Ask, Session};
use crate::image::{
    ACCEPTED, CONFIG_BYTES, Descriptor, Digest, Document, INDEX_DEPTH, ImageConfig, ImageError,
    Images, MANIFEST_BYTES, Manifest, Platform, Reference,
};

/// What a registry says that a manifest's digest is.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What a name stands for on one kind of machine.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) manifest: Manifest,
    pub(super) manifest_bytes: Vec<u8>,
    pub(super) config: ImageConfig,
    pub(super) config_bytes: Vec<u8>,
}

/// Looks a name up.
pub(super) async fn find(
    session: &Session,
    reference: &Reference,
    here: &Platform,
    images: &Images,
) -> Result<Found, ImageError> {
    let mut digest = reference.digest().copied();
    for _ in 0..=INDEX_DEPTH {
        let (bytes, declared) = manifest(session, reference, digest).await?;
        match Document::parse(&bytes, declared.as_deref())? {
            Document::Index(index) => digest = Some(index.choose(here)?.digest),
            Document::Manifest(manifest) => {
                let config_bytes = config(session, &manifest.config, images).await?;
                let config = ImageConfig::parse(&config_bytes)?;
                check(&manifest, &config, here)?;
                return Ok(Found { manifest, manifest_bytes: bytes, config, config_bytes });
            }
        }
    }
    Err(document("the image's manifest", "it is in indexes within indexes"))
}

/// A manifest or index, and what type it is said to be: that with this digest, or else that
/// with the reference's tag.
async fn manifest(
    session: &Session,
    reference: &Reference,
    digest: Option<Digest>,
) -> Result<(Vec<u8>, Option<String>), ImageError> {
    let tag = || reference.tag().unwrap_or("latest").to_owned();
    let wanted = digest.map_or_else(tag, |digest| digest.to_string());
    let ask = Ask::new(Method::GET, session.at(&format!("manifests/{wanted}")));
    let ask = ask.with(ACCEPT, ACCEPTED.join(", "));
    let answer = session.persist(&ask, &wanted).await?;
    let declared = answer.header(&CONTENT_TYPE).map(str::to_owned);
    if declared.as_deref().is_some_and(|declared| declared.starts_with("text/html")) {
        let why = "it gives a web page in place of a manifest".to_owned();
        return Err(RegistryError::NotARegistry { host: session.host.clone(), why }.into());
    }
    let promised = answer.header(&CONTENT_DIGEST).and_then(|digest| digest.parse().ok());
    let bytes = whole(answer, "a manifest", MANIFEST_BYTES).await?;
    let found = Digest::of(&bytes);
    match digest.or(promised) {
        Some(wanted) if wanted != found => Err(ImageError::Mismatch {
            what: format!("the manifest of {reference}"),
            wanted,
            found,
        }),
        _ => Ok((bytes, declared)),
    }
}

/// A config; from here, if the image is here.
async fn config(
    session: &Session,
    of: &Descriptor,
    images: &Images,
) -> Result<Vec<u8>, ImageError> {
    if let Ok(bytes) = images.config_bytes(&of.digest) {
        return Ok(bytes);
    }
    let ask = Ask::new(Method::GET, session.at(&format!("blobs/{}", of.digest)));
    let answer = session.persist(&ask, &of.digest.to_string()).await?;
    let max = usize::try_from(of.size).unwrap_or(CONFIG_BYTES).min(CONFIG_BYTES);
    let bytes = whole(answer, "the image's config", max).await?;
    let found = Digest::of(&bytes);
    if found != of.digest {
        let what = "the image's config".to_owned();
        return Err(ImageError::Mismatch { what, wanted: of.digest, found });
    }
    Ok(bytes)
}

async fn whole(answer: Answer, what: &'static str, max: usize) -> Result<Vec<u8>, RegistryError> {
    if answer.body.length().is_some_and(|length| length > max as u64) {
        let host = answer.url.server.authority();
        return Err(RegistryError::TooLong { host, what, max: max as u64 });
    }
    answer.body.whole(what, max).await
}

/// What the digests cannot show: that the two belong together, and to this machine.
fn check(manifest: &Manifest, config: &ImageConfig, here: &Platform) -> Result<(), ImageError> {
    let (given, named) = (manifest.layers.len(), config.layers.len());
    if given != named {
        let why = format!("it names {named} layers, and the manifest has {given}");
        return Err(document("the image's config", &why));
    }
    let made_for = Platform::new(&config.os, &config.architecture, &config.variant);
    let same = |ours: &str, theirs: &str| theirs.is_empty() || ours == theirs;
    if !same(here.os(), made_for.os()) || !same(here.architecture(), made_for.architecture()) {
        let has = vec![made_for.to_string()];
        return Err(ImageError::Platform { wanted: here.to_string(), has });
    }
    Ok(())
}

fn document(what: &str, why: &str) -> ImageError {
    ImageError::Document { what: what.to_owned(), why: why.to_owned() }
}
