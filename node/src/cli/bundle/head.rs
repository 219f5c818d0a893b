//! What a bundle says of itself: the document that it begins with.
//!
//! ```text
//! bundle = archive of [ starling-bundle.json | what `image save` writes: manifest, blobs … ]
//! ```
//!
//! So every reader of images reads a bundle, and passes over what it does not know. Fields
//! that a newer version adds are no obstacle; a newer format is, and says so.
//!
//! Pure. A job in it is its spec without an owner, who is whoever imports it, and with the
//! id of its image, which must not mean other bytes there.

use std::collections::{BTreeMap, BTreeSet};

use gossip_core::container::{ImageSpec, MountSpec, RootSpec};
use gossip_core::id::{ClusterId, ContentHash, JobId};
use gossip_core::moment::WallTime;
use gossip_core::slot::check_name;
use gossip_core::spec::{JobSpec, Program};
use runtime::image::{Digest, Reference};
use serde::{Deserialize, Serialize};

/// The name of that document.
pub(super) const NAME: &str = "starling-bundle.json";

/// The version of the format that this code writes.
const VERSION: u32 = 1;

/// The longest such document: what readers of images keep in memory of one.
pub(super) const BYTES_MAX: usize = 8 << 20;

/// The most jobs of one bundle: each is submitted by itself.
pub(super) const JOBS_MAX: usize = 1000;

/// The document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// The format's version.
    pub(super) version: u32,
    /// When it was made, by the clock of whoever made it.
    pub(super) made: WallTime,
    /// The cluster that it was made from.
    pub(super) cluster: ClusterId,
    /// The version of the program that made it.
    #[serde(default)]
    pub(super) by: String,
    /// What runs.
    pub(super) jobs: Vec<BundledJob>,
    /// What it runs from.
    pub(super) images: Vec<BundledImage>,
}

/// A job in a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BundledJob {
    /// Which it was in its cluster.
    pub(super) id: JobId,
    /// All that its submitter said.
    pub(super) spec: JobSpec,
}

/// An image in a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BundledImage {
    /// The digest of its config.
    pub(super) id: Digest,
    /// What it is called.
    pub(super) names: Vec<Reference>,
    /// Bytes of its uncompressed layers.
    pub(super) bytes: u64,
}

/// Why a document is no bundle's, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadHead {
    /// Written by a newer Starling.
    #[error("it is written in format {0}, and this Starling reads up to {VERSION}")]
    Newer(u32),
    /// Not a document, or not this one.
    #[error("its {NAME} cannot be read: {0}")]
    Unreadable(String),
    /// A job that cannot be one.
    #[error("its job {name}: {why}")]
    Job {
        /// Which.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// More than anybody submits.
    #[error("it has {0} jobs, and at most {JOBS_MAX} are possible")]
    Jobs(usize),
    /// Two jobs with one name could not both be told apart.
    #[error("it has two jobs called {0}")]
    Twice(String),
    /// What a job runs from is neither there nor known.
    #[error("its job {job} runs from the image {image}, which it lacks")]
    Lacks {
        /// Which job.
        job: String,
        /// What it calls the image.
        image: String,
    },
}

impl Head {
    /// A bundle of these.
    pub(super) fn new(
        made: WallTime,
        cluster: ClusterId,
        jobs: Vec<BundledJob>,
        images: Vec<BundledImage>,
    ) -> Self {
        let by = env!("CARGO_PKG_VERSION").to_owned();
        Self { version: VERSION, made, cluster, by, jobs, images }
    }

    /// Reads and checks one.
    pub(super) fn parse(text: &[u8]) -> Result<Self, BadHead> {
        /// What every version says.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let unreadable = |error: serde_json::Error| BadHead::Unreadable(error.to_string());
        // The rest may be anything in a newer one.
        let Versioned { version } = serde_json::from_slice(text).map_err(unreadable)?;
        if version > VERSION {
            return Err(BadHead::Newer(version));
        }
        let head: Self = serde_json::from_slice(text).map_err(unreadable)?;
        head.check()?;
        Ok(head)
    }

    /// What must hold of any, read or to be written.
    pub(super) fn check(&self) -> Result<(), BadHead> {
        if self.jobs.len() > JOBS_MAX {
            return Err(BadHead::Jobs(self.jobs.len()));
        }
        let mut names = BTreeSet::new();
        let ids: BTreeSet<_> = self.images.iter().map(|image| image.id).collect();
        for BundledJob { spec, .. } in &self.jobs {
            let name = spec.name.clone();
            spec.check().map_err(|bad| BadHead::Job { name, why: bad.to_string() })?;
            if !names.insert(&spec.name) {
                return Err(BadHead::Twice(spec.name.clone()));
            }
            let lacking =
                images(spec).find(|image| digest(image).is_none_or(|id| !ids.contains(&id)));
            if let Some(image) = lacking {
                let (job, image) = (spec.name.clone(), image.name.clone());
                return Err(BadHead::Lacks { job, image });
            }
        }
        Ok(())
    }

    /// The jobs of these names (all where none is given), some under others. Answers the
    /// names that mean nothing instead.
    pub(super) fn chosen(
        &self,
        only: &[String],
        renamed: &BTreeMap<String, String>,
    ) -> Result<Vec<BundledJob>, Vec<String>> {
        let has = |name: &String| self.jobs.iter().any(|job| job.spec.name == *name);
        let odd: Vec<_> =
            only.iter().chain(renamed.keys()).filter(|it| !has(it)).cloned().collect();
        if !odd.is_empty() {
            return Err(odd);
        }
        let wanted =
            self.jobs.iter().filter(|job| only.is_empty() || only.contains(&job.spec.name));
        let called = |job: &BundledJob| {
            let mut job = job.clone();
            if let Some(name) = renamed.get(&job.spec.name) {
                job.spec.name.clone_from(name);
            }
            job
        };
        Ok(wanted.map(called).collect())
    }

    /// Bytes of all its images, uncompressed; those of layers that several have count for
    /// each.
    pub(super) fn image_bytes(&self) -> u64 {
        self.images.iter().fold(0, |sum, image| sum.saturating_add(image.bytes))
    }
}

impl BundledJob {
    /// A job as it goes into a bundle.
    pub(super) fn of(id: JobId, mut spec: JobSpec) -> Self {
        spec.owner.clear();
        Self { id, spec }
    }

    /// What it is submitted with: the same for the same job of the same cluster, however
    /// often it is imported and in however many bundles.
    pub(super) fn key(&self, cluster: &ClusterId) -> Result<String, serde_json::Error> {
        let spec = serde_json::to_vec(&self.spec)?;
        let all = [&cluster.as_bytes()[..], self.id.as_bytes(), &spec].concat();
        Ok(format!("bundle-{}", ContentHash::of(&all)))
    }

    /// What it needs of whichever node runs it, and no bundle has.
    pub(super) fn left_behind(&self) -> Vec<String> {
        let mut paths = BTreeSet::new();
        for task in self.spec.groups.iter().flat_map(|group| &group.tasks) {
            match &task.run {
                Program::Process { directory, .. } => paths.extend(directory.clone()),
                Program::Container(container) => {
                    if let RootSpec::Path(root) = &container.root {
                        paths.insert(root.clone());
                    }
                    paths.extend(container.mounts.iter().filter_map(|mount| match mount {
                        MountSpec::Bind { source, .. } => Some(source.clone()),
                        MountSpec::Volume { name, .. } => Some(format!("volume {name}")),
                        MountSpec::Tmpfs { .. } => None,
                    }));
                }
            }
        }
        paths.into_iter().collect()
    }
}

/// The images that a job runs from.
pub(super) fn images(spec: &JobSpec) -> impl Iterator<Item = &ImageSpec> {
    let tasks = spec.groups.iter().flat_map(|group| &group.tasks);
    tasks.filter_map(|task| task.run.image())
}

/// The same, to be pinned.
pub(super) fn images_mut(spec: &mut JobSpec) -> impl Iterator<Item = &mut ImageSpec> {
    let tasks = spec.groups.iter_mut().flat_map(|group| &mut group.tasks);
    tasks.filter_map(|task| task.run.image_mut())
}

/// The content that a job's image is, where that is known.
pub(super) fn digest(image: &ImageSpec) -> Option<Digest> {
    image.id.map(|id: ContentHash| Digest::new(*id.as_bytes()))
}

/// `OLD=NEW`, two names of jobs.
pub(super) fn renaming(text: &str) -> Result<(String, String), String> {
    let Some((old, new)) = text.split_once('=') else {
        return Err("write it like OLD=NEW".to_owned());
    };
    check_name(new).map_err(|bad| bad.to_string())?;
    Ok((old.to_owned(), new.to_owned()))
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
