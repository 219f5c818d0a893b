//! The one exchange before HTTP: length-prefixed CBOR, bounded, each way once.

use gossip_core::codec::{self, CodecError};
use gossip_core::wire::gate::MESSAGE_BYTES_MAX;
use quinn::{ReadExactError, RecvStream, SendStream, WriteError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What broke the exchange.
#[derive(Debug, thiserror::Error)]
pub(super) enum HelloError {
    #[error("it broke off: {0}")]
    Read(#[from] ReadExactError),
    #[error("it broke off: {0}")]
    Write(#[from] WriteError),
    #[error("it said something that this version does not know: {0}")]
    Codec(#[from] CodecError),
    #[error("it said {0} bytes at once")]
    Long(usize),
}

pub(super) async fn say<T: Serialize>(to: &mut SendStream, word: &T) -> Result<(), HelloError> {
    let bytes = codec::to_cbor(word)?;
    let length = u32::try_from(bytes.len()).map_err(|_long| HelloError::Long(bytes.len()))?;
    to.write_all(&length.to_be_bytes()).await?;
    to.write_all(&bytes).await?;
    Ok(())
}

pub(super) async fn hear<T: DeserializeOwned>(from: &mut RecvStream) -> Result<T, HelloError> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(HelloError::Long(length));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await?;
    Ok(codec::from_cbor(&bytes)?)
}
