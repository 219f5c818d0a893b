//! Invitations: the token that `invite` prints and `join` redeems.
//!
//! A token carries a secret of its own and the inviter's signed delegation to
//! that secret. The secret never travels: a joiner proves to hold it by
//! signing its own key, the cluster and the member it speaks to, so that an
//! overheard redemption admits nobody else, and a joiner cannot be lured into
//! another cluster than the token names.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::codec::{self, CodecError};
use crate::grant::Role;
use crate::id::{ClusterId, NodeId, Signature};
use crate::moment::WallTime;
use crate::sign::{Domain, Key, verifies};

/// What every token starts with; the digit is the format's version.
pub const TOKEN_PREFIX: &str = "sl1-";

/// The longest token text that is looked at.
pub const TOKEN_LENGTH_MAX: usize = 4096;

/// The most addresses a token carries.
pub const TOKEN_ADDRESSES_MAX: usize = 16;

const CHECKSUM_BYTES: usize = 4;

/// The inviter's signed word that whoever holds the secret may join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// The public half of the token's secret; also the invitation's name.
    pub id: NodeId,
    /// Which cluster it is for.
    pub cluster: ClusterId,
    /// Who invites.
    pub issuer: NodeId,
    /// What the invited will be.
    pub role: Role,
    /// How many may join with it.
    pub uses: u32,
    /// After this, by the redeeming member's clock, it is void.
    pub expires: WallTime,
    /// By the issuer.
    pub signature: Signature,
}

/// What the token text holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The delegation.
    pub invitation: Invitation,
    secret: serde_bytes_32::Secret,
    /// Where members listen, as multiaddrs.
    pub addresses: Vec<String>,
}

mod serde_bytes_32 {
    //! A secret that does not print.
    use serde::{Deserialize, Serialize};

    #[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub(super) struct Secret(pub(super) [u8; 32]);

    impl std::fmt::Debug for Secret {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Secret(…)")
        }
    }
}

/// Why a text is no token.
#[derive(Debug, thiserror::Error)]
pub enum BadToken {
    /// Something else altogether.
    #[error("a token starts with {TOKEN_PREFIX}")]
    Prefix,
    /// Cut off or mistyped.
    #[error("the token is damaged; was it copied whole?")]
    Damaged,
    /// Encoded by somebody else's rules.
    #[error("the token cannot be read")]
    Unreadable(#[from] CodecError),
}

/// Why a redemption is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refused {
    /// For another cluster than the one asked.
    #[error("the token is for another cluster")]
    OtherCluster,
    /// Not signed by its issuer, or the joiner does not hold its secret.
    #[error("the token is not genuine")]
    Forged,
    /// The issuer is no member that this one knows.
    #[error("the token was issued by a host that is no member")]
    UnknownIssuer,
    /// Too late.
    #[error("the token has expired")]
    Expired,
    /// All uses are gone.
    #[error("the token has been used up")]
    UsedUp,
    /// A member took it back.
    #[error("the token was revoked")]
    Revoked,
}

impl Invitation {
    fn statement(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(96);
        bytes.extend_from_slice(self.id.as_bytes());
        bytes.extend_from_slice(self.issuer.as_bytes());
        bytes.push(match self.role {
            Role::Member => 1,
            Role::Operator => 2,
        });
        bytes.extend_from_slice(&self.uses.to_be_bytes());
        bytes.extend_from_slice(&self.expires.0.to_be_bytes());
        bytes
    }

    /// Whether its issuer signed it for `cluster`.
    pub fn is_genuine(&self, cluster: &ClusterId) -> bool {
        let statement = self.statement();
        self.cluster == *cluster
            && verifies(&self.issuer, Domain::Invitation, cluster, &statement, &self.signature)
    }

    /// Whether a joiner may be admitted now. `redeemed` is how many others already were.
    pub fn check(
        &self,
        proof: &Signature,
        joiner: &NodeId,
        asked: &NodeId,
        (cluster, issuer_known): (&ClusterId, bool),
        now: WallTime,
        redeemed: u32,
    ) -> Result<(), Refused> {
        if self.cluster != *cluster {
            return Err(Refused::OtherCluster);
        }
        let claim = redemption(joiner, asked);
        if !self.is_genuine(cluster)
            || !verifies(&self.id, Domain::Redemption, cluster, &claim, proof)
        {
            return Err(Refused::Forged);
        }
        if !issuer_known {
            return Err(Refused::UnknownIssuer);
        }
        if now > self.expires {
            return Err(Refused::Expired);
        }
        if redeemed >= self.uses {
            return Err(Refused::UsedUp);
        }
        Ok(())
    }
}

fn redemption(joiner: &NodeId, asked: &NodeId) -> Vec<u8> {
    [*joiner.as_bytes(), *asked.as_bytes()].concat()
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&hash[..CHECKSUM_BYTES]);
    sum
}

impl Token {
    /// Issues a token with a fresh random `secret`.
    pub fn issue(
        issuer: &Key,
        cluster: ClusterId,
        secret: [u8; 32],
        (role, uses, expires): (Role, u32, WallTime),
        addresses: Vec<String>,
    ) -> Self {
        let mut invitation = Invitation {
            id: Key::from_seed(secret).id(),
            cluster,
            issuer: issuer.id(),
            role,
            uses,
            expires,
            signature: Signature::new([0; 64]),
        };
        invitation.signature = issuer.sign(Domain::Invitation, &cluster, &invitation.statement());
        Self { invitation, secret: serde_bytes_32::Secret(secret), addresses }
    }

    /// Proves to the member `asked` that `joiner` holds the secret.
    pub fn proof(&self, joiner: &NodeId, asked: &NodeId) -> Signature {
        let claim = redemption(joiner, asked);
        Key::from_seed(self.secret.0).sign(Domain::Redemption, &self.invitation.cluster, &claim)
    }

    /// The text that people copy.
    pub fn to_text(&self) -> Result<String, CodecError> {
        let mut bytes = codec::to_cbor(self)?;
        bytes.extend(checksum(&bytes));
        Ok(format!("{TOKEN_PREFIX}{}", data_encoding::BASE64URL_NOPAD.encode(&bytes)))
    }

    /// Reads what people pasted.
    pub fn from_text(text: &str) -> Result<Self, BadToken> {
        let body = text.trim().strip_prefix(TOKEN_PREFIX).ok_or(BadToken::Prefix)?;
        if body.len() > TOKEN_LENGTH_MAX {
            return Err(BadToken::Damaged);
        }
        let bytes = data_encoding::BASE64URL_NOPAD
            .decode(body.as_bytes())
            .map_err(|_not_base64| BadToken::Damaged)?;
        let at = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(BadToken::Damaged)?;
        let (payload, sum) = bytes.split_at(at);
        if checksum(payload) != sum {
            return Err(BadToken::Damaged);
        }
        let token: Self = codec::from_cbor(payload)?;
        if token.addresses.len() > TOKEN_ADDRESSES_MAX {
            return Err(BadToken::Damaged);
        }
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::Chain;

    #[test]
    fn a_token_admits_its_holder_once_in_time_and_here() {
        let [member, joiner, thief] = [1, 2, 3].map(|n| Key::from_seed([n; 32]));
        let (cluster, _) = Chain::found(&member, 1);
        let (elsewhere, _) = Chain::found(&thief, 1);
        let limits = (Role::Member, 1, WallTime(100));
        let token = Token::issue(&member, cluster, [9; 32], limits, vec!["/ip4/1.2.3.4".into()]);
        let token = Token::from_text(&token.to_text().expect("text")).expect("token");
        let proof = token.proof(&joiner.id(), &member.id());
        let check = |who: &Key, there: &ClusterId, known, now, used| {
            let place = (there, known);
            token.invitation.check(&proof, &who.id(), &member.id(), place, WallTime(now), used)
        };
        assert_eq!(check(&joiner, &cluster, true, 100, 0), Ok(()));
        assert_eq!(check(&joiner, &elsewhere, true, 1, 0), Err(Refused::OtherCluster));
        assert_eq!(check(&thief, &cluster, true, 1, 0), Err(Refused::Forged));
        assert_eq!(check(&joiner, &cluster, false, 1, 0), Err(Refused::UnknownIssuer));
        assert_eq!(check(&joiner, &cluster, true, 101, 0), Err(Refused::Expired));
        assert_eq!(check(&joiner, &cluster, true, 1, 1), Err(Refused::UsedUp));
    }

    #[test]
    fn a_damaged_token_is_called_damaged() {
        let key = Key::from_seed([1; 32]);
        let limits = (Role::Member, 1, WallTime(1));
        let token = Token::issue(&key, ClusterId::new([1; 32]), [9; 32], limits, vec![]);
        let text = token.to_text().expect("text");
        assert!(matches!(Token::from_text("hello"), Err(BadToken::Prefix)));
        for cut in [5, text.len() / 2, text.len() - 1] {
            assert!(matches!(Token::from_text(&text[..cut]), Err(BadToken::Damaged)), "{cut}");
        }
        assert!(!format!("{token:?}").contains("9, 9"), "a secret never prints");
    }
}
