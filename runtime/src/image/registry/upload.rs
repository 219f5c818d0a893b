//! One blob into a registry.
//!
//! ```text
//! POST ──▶ Location ──PATCH, packed while it is sent──▶ Location ──PUT ?digest=──▶ there
//!                       └─ 405: count it first, then PUT all of it at once
//! ```
//!
//! What a layer packs to is known when it was sent, so it is sent as Docker does: in one piece
//! of unknown length. A try that fails begins anew: packing is cheaper than asking how far it
//! got, and no registry has to keep a half upload for us.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use hyper::{Method, StatusCode};
use tokio::sync::mpsc;

use super::RegistryError;
use super::crew::blocking;
use super::line::Pieces;
use super::pack::{Packed, pack};
use super::refusal::REFUSAL_BYTES_MAX;
use super::retry::Tries;
use super::session::{Answer, Ask, Session};
use super::url::Url;
use super::watch::Watch;
use crate::image::{Digest, ImageError, Images, Packing};

/// Pieces under way between the packer and the network.
const PIECES: usize = 8;

/// What blobs are sent as.
const BYTES: &str = "application/octet-stream";

/// Whether the registry has these bytes.
pub(super) async fn has(session: &Session, digest: &Digest) -> Result<bool, RegistryError> {
    let ask = Ask::new(Method::HEAD, session.at(&format!("blobs/{digest}")));
    let mut tries = Tries::new();
    loop {
        let error = match session.follow(&ask).await {
            Ok(answer) if answer.status.is_success() => return Ok(true),
            Ok(answer) if answer.status == StatusCode::NOT_FOUND => return Ok(false),
            Ok(answer) => session.refusal(answer, "blob").await,
            Err(error) => error,
        };
        session.pause(&mut tries, error).await?;
    }
}

/// Bytes that are here whole.
pub(super) async fn bytes(
    session: &Session,
    bytes: &[u8],
    digest: &Digest,
) -> Result<(), RegistryError> {
    if has(session, digest).await? {
        return Ok(());
    }
    let place = begin(session).await?;
    let mut ask = Ask::new(Method::PUT, place.with("digest", &digest.to_string()));
    ask.content = Some(Bytes::copy_from_slice(bytes));
    session.persist(&ask.with(CONTENT_TYPE, BYTES), "upload").await?;
    Ok(())
}

/// How layers are sent to one registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// While they are packed.
    Streamed,
    /// With their digest and length said first.
    Counted,
}

/// A layer, packed on the way. Says what it packed to.
pub(super) async fn layer(
    session: &Session,
    images: &Images,
    diff_id: &Digest,
    packing: Packing,
    watch: &Arc<Watch>,
) -> Result<Packed, ImageError> {
    let layer = Layer { session, images, diff_id: *diff_id, packing, watch };
    let mut tries = Tries::new();
    let mut way = Way::Streamed;
    let mut renewed = false;
    loop {
        let sent = match way {
            Way::Streamed => layer.stream().await,
            Way::Counted => layer.count_and_send().await,
        };
        match sent {
            Ok(packed) => return Ok(packed),
            Err(ImageError::Registry(RegistryError::Status { status: 405 | 501, .. }))
                if way == Way::Streamed =>
            {
                way = Way::Counted;
            }
            // The token went stale; the next try's first request gets a new one.
            Err(ImageError::Registry(
                RegistryError::WrongCredentials { .. } | RegistryError::NeedsCredentials { .. },
            )) if !renewed => {
                renewed = true;
            }
            Err(ImageError::Registry(error)) => session.pause(&mut tries, error).await?,
            Err(error) => return Err(error),
        }
    }
}

struct Layer<'a> {
    session: &'a Session,
    images: &'a Images,
    diff_id: Digest,
    packing: Packing,
    watch: &'a Arc<Watch>,
}

impl Layer<'_> {
    async fn stream(&self) -> Result<Packed, ImageError> {
        let place = begin(self.session).await?;
        let headers = [(CONTENT_TYPE, BYTES.to_owned())];
        let (packed, answer) = self.send(Method::PATCH, place, &headers).await?;
        let place = self.session.next(&answer)?;
        answer.body.little(REFUSAL_BYTES_MAX).await;
        let ask = Ask::new(Method::PUT, place.with("digest", &packed.digest.to_string()));
        self.session.persist(&ask.with(CONTENT_TYPE, BYTES), "upload").await?;
        Ok(packed)
    }

    async fn count_and_send(&self) -> Result<Packed, ImageError> {
        let counted = self.pack(None).await?;
        let place = begin(self.session).await?.with("digest", &counted.digest.to_string());
        let length = (CONTENT_LENGTH, counted.bytes.to_string());
        let headers = [(CONTENT_TYPE, BYTES.to_owned()), length];
        let (sent, answer) = self.send(Method::PUT, place, &headers).await?;
        answer.body.little(REFUSAL_BYTES_MAX).await;
        if sent == counted {
            return Ok(sent);
        }
        let what = format!("layer {}", self.diff_id.short());
        Err(ImageError::Mismatch { what, wanted: counted.digest, found: sent.digest })
    }

    /// Packs and sends at once.
    async fn send(
        &self,
        method: Method,
        place: Url,
        headers: &[(HeaderName, String)],
    ) -> Result<(Packed, Answer), ImageError> {
        let (to, from) = mpsc::channel(PIECES);
        let pieces = Pieces { from, sent: Arc::default() };
        let sending = async {
            let answer = self.session.send(method, place, headers, pieces).await?;
            if answer.status.is_success() {
                return Ok(answer);
            }
            Err(self.session.refusal(answer, "upload").await)
        };
        let (packed, answer) = tokio::join!(self.pack(Some(to)), sending);
        match (packed, answer) {
            (Ok(packed), Ok(answer)) => Ok((packed, answer)),
            // Who broke the pipe says why; the other one only saw it broken.
            (Err(ImageError::Write { .. }) | Ok(_), Err(error)) => Err(error.into()),
            (Err(error), _) => Err(error),
        }
    }

    async fn pack(
        &self,
        to: Option<mpsc::Sender<io::Result<Bytes>>>,
    ) -> Result<Packed, ImageError> {
        let (images, watch) = (self.images.clone(), Arc::clone(self.watch));
        let (diff_id, packing) = (self.diff_id, self.packing);
        blocking(move || pack(&images, &diff_id, packing, to, &watch)).await
    }
}

/// Asks for a place to send a blob to.
async fn begin(session: &Session) -> Result<Url, RegistryError> {
    let ask = Ask::new(Method::POST, session.at("blobs/uploads/"));
    let answer = session.persist(&ask, "upload").await?;
    if answer.status != StatusCode::ACCEPTED {
        return Err(session.nonsense(format!("answers {} to an upload", answer.status.as_u16())));
    }
    let place = session.next(&answer)?;
    answer.body.little(REFUSAL_BYTES_MAX).await;
    Ok(place)
}
