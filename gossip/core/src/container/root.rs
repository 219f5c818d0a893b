//! Where a container's files come from: a place on its node, or an image.

use serde::{Deserialize, Serialize};

use super::bad::{BadContainer, plain};
use crate::id::ContentHash;

/// Longest name of an image: host and path, tag and digest at their longest.
const IMAGE_NAME_MAX: usize = 512;

/// Where a container's files come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootSpec {
    /// A directory, or a tar archive, of whichever node runs it. It is not changed.
    Path(String),
    /// An image.
    Image(ImageSpec),
}

/// The image that a container runs from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// What whoever submitted it called it: `nginx:1.27`.
    pub name: String,
    /// The SHA-256 of its config, which names all of its content: every copy, wherever and
    /// whenever it starts, runs the same. Found by whoever takes the submission, where it is
    /// not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ContentHash>,
    /// Bytes of its uncompressed layers: what a node that lacks it may have to fetch. Found
    /// with the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// When it is asked for at its registry.
    #[serde(default, skip_serializing_if = "Pull::is_usual")]
    pub pull: Pull,
}

/// When an image is asked for at its registry, at submission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pull {
    /// When nobody here has one of that name.
    #[default]
    Missing,
    /// Each time: the name may mean another image by now.
    Always,
    /// Never: it is here, or the job is refused.
    Never,
}

impl Pull {
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

impl ImageSpec {
    /// The image that is called so, whichever that is when somebody takes the job.
    pub fn named(name: String) -> Self {
        Self { name, id: None, bytes: None, pull: Pull::Missing }
    }

    /// What any name must be; its grammar is the isolator's to know.
    pub(crate) fn check(&self) -> Result<(), BadContainer> {
        plain("image", &self.name)?;
        let printable = self.name.bytes().all(|byte| byte.is_ascii_graphic());
        if self.name.len() <= IMAGE_NAME_MAX && printable {
            return Ok(());
        }
        Err(BadContainer::Image { name: self.name.chars().take(IMAGE_NAME_MAX).collect() })
    }
}
