//! A store to pull into and push from, and patience that a test can wait for.

use std::sync::Arc;
use std::time::Duration;

use runtime::image::{
    Digest, ImageError, ImageInfo, Images, Patience, PullOptions, PushOptions, Reference,
    RegistryError, SharedWatcher, pull, push,
};
use runtime::unpack::Owners;
use tempfile::TempDir;

use super::image::Image;

/// Longer than any of these takes on any machine: what is longer hangs.
const HANGS: Duration = Duration::from_secs(120);

/// Tries of one thing, in these tests.
pub(crate) const TRIES: u32 = 4;

pub(crate) struct Stage {
    pub(crate) images: Images,
    _dir: TempDir,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(&dir.path().join("images"), Owners::Mine).unwrap();
        Self { images, _dir: dir }
    }

    pub(crate) async fn pull(&self, name: &str) -> Result<ImageInfo, ImageError> {
        self.pull_with(name, &options()).await
    }

    pub(crate) async fn pull_with(
        &self,
        name: &str,
        options: &PullOptions,
    ) -> Result<ImageInfo, ImageError> {
        let name: Reference = name.parse().unwrap();
        bounded(pull(&self.images, &name, options, whatever())).await
    }

    /// A pull that must not succeed, and of which nothing may stay.
    pub(crate) async fn refused(&self, name: &str, options: &PullOptions) -> ImageError {
        let error = self.pull_with(name, options).await.expect_err(name);
        assert!(self.images.list().is_empty(), "{error}");
        error
    }

    pub(crate) async fn push(
        &self,
        id: &Digest,
        name: &str,
        options: &PushOptions,
    ) -> Result<Digest, ImageError> {
        let name: Reference = name.parse().unwrap();
        bounded(push(&self.images, id, &name, options, whatever())).await
    }

    /// Whether it holds this image, to the last byte.
    pub(crate) fn holds(&self, image: &Image) {
        assert_eq!(self.images.config_bytes(&image.id()).unwrap(), image.config);
        for layer in &image.layers {
            let mut bytes = Vec::new();
            let mut reader = self.images.read_layer(&layer.diff_id()).unwrap();
            std::io::Read::read_to_end(&mut reader, &mut bytes).unwrap();
            assert!(bytes == layer.plain, "layer {}", layer.diff_id());
        }
    }
}

pub(crate) async fn bounded<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANGS, work).await.expect("it hangs")
}

pub(crate) fn whatever() -> SharedWatcher {
    Arc::new(|_| true)
}

pub(crate) fn patience() -> Patience {
    let pause = Duration::from_millis(1);
    Patience { tries: TRIES, pause, pause_max: Duration::from_secs(2), ..Patience::default() }
}

pub(crate) fn options() -> PullOptions {
    let mut options = PullOptions::default();
    options.registry.patience = patience();
    options
}

/// What the registry did, of an error that is about it.
pub(crate) fn registry(error: ImageError) -> RegistryError {
    match error {
        ImageError::Registry(error) => error,
        other => panic!("not about the registry: {other:?}"),
    }
}
