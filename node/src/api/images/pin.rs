//! Which content a job's image is: found once, when the job is submitted, so that every copy
//! runs the same whatever the name means later or elsewhere.
//!
//! ```text
//! name ──▶ here, if somebody loaded it here ──▶ the members ──▶ its registry
//! ```

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use gossip_core::container::Pull;
use gossip_core::id::{ContentHash, NodeId};
use gossip_core::spec::{JobSpec, Program};
use runtime::image::{Digest, ImageError, ImageInfo, Origin, Reference, RegistryError};

use super::super::answer::Refused;
use super::super::image_types::ImageItem;
use super::super::peer;
use super::super::types::Complaint;
use super::census::{self, Whom};
use super::failed;
use super::transfer::turn;
use crate::agent::images::{DOCUMENTS_BYTES_MAX, in_store, verified};
use crate::agent::{Doors, chain, sources, words};

/// The most copies of one name that are listed where they differ.
const DIFFERING_NAMED_MAX: usize = 5;

/// An image that somebody may mean, and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) info: ImageInfo,
    pub(super) node: NodeId,
    pub(super) node_name: String,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pinned {
    pub(super) id: Digest,
    /// Bytes of its uncompressed layers.
    pub(super) bytes: u64,
    /// Something that whoever asked should know.
    pub(super) notice: Option<String>,
}

impl Pinned {
    /// For whoever asked what an image is.
    pub(super) fn item(self) -> ImageItem {
        ImageItem::Meant { id: self.id, bytes: self.bytes, notice: self.notice }
    }
}

/// Writes the content of each image into a job. Answers what its submitter should know.
pub(in crate::api) async fn pin(doors: &Doors, spec: &mut JobSpec) -> Result<Vec<String>, Refused> {
    let mut known: BTreeMap<String, Pinned> = BTreeMap::new();
    let mut notices = Vec::new();
    for task in spec.groups.iter_mut().flat_map(|group| &mut group.tasks) {
        let is_process = matches!(task.run, Program::Process { .. });
        let Some(image) = task.run.image_mut() else { continue };
        if let Some(id) = image.id {
            // Files have no registry: if they are not here by now they never will be.
            if is_process {
                let id = Digest::new(*id.as_bytes());
                image.bytes = Some(find(doors, &id.to_string(), Pull::Never).await?.bytes);
            }
            continue;
        }
        let pinned = match known.get(&image.name) {
            Some(pinned) => pinned.clone(),
            None => {
                let mut pinned = find(doors, &image.name, image.pull).await?;
                notices.extend(pinned.notice.take());
                known.insert(image.name.clone(), pinned.clone());
                pinned
            }
        };
        image.id = Some(ContentHash::new(*pinned.id.as_bytes()));
        image.bytes = Some(pinned.bytes);
    }
    Ok(notices)
}

/// What a name of a job stands for, asked for at its registry when the job says so.
async fn find(doors: &Doors, text: &str, pull: Pull) -> Result<Pinned, Refused> {
    match known(doors, text, pull).await? {
        Ok(pinned) => Ok(pinned),
        Err(unheard) if pull == Pull::Never => Err(unknown(text, unheard)),
        Err(unheard) => from_registry(doors, text, pull, unheard).await,
    }
}

/// What a name of a job stands for without asking a registry, if that is enough for it.
pub(super) async fn known(
    doors: &Doors,
    text: &str,
    pull: Pull,
) -> Result<Result<Pinned, Unheard>, Refused> {
    match pull {
        Pull::Missing | Pull::Never => resolve(doors, text).await,
        Pull::Always => Ok(Err(Vec::new())),
    }
}

/// Members whose images are not known: name, and why.
pub(super) type Unheard = Vec<(String, String)>;

/// What a text stands for in the cluster: a name, an id, or an id's first digits. If nobody
/// has it: who could not be asked.
pub(super) async fn resolve(doors: &Doors, text: &str) -> Result<Result<Pinned, Unheard>, Refused> {
    let owned = text.to_owned();
    let own = match in_store(doors, move |images| images.find(&owned)).await {
        Ok(info) if info.origin == Origin::Asked => return Ok(Ok(pinned(&info))),
        Ok(info) => Some(info),
        Err(ImageError::Unknown { .. }) => None,
        Err(error) => return Err(failed(&error)),
    };
    // What only a task brought here may be older than what the name stands for elsewhere.
    let census = census::take(doors, Whom::Others, Some(text)).await?;
    let here = (doors.facts.node, doors.facts.name.clone());
    let own = own.map(|info| Candidate { info, node: here.0, node_name: here.1 });
    let theirs = census.held.into_iter().flat_map(|(node, node_name, images)| {
        let of = move |info| Candidate { info, node, node_name: node_name.clone() };
        images.into_iter().map(of)
    });
    let mut candidates: Vec<_> = own.into_iter().chain(theirs).collect();
    let reference: Option<Reference> = text.parse().ok();
    if let Some(digest) = reference.as_ref().and_then(Reference::digest) {
        candidates = proven(doors, candidates, digest).await;
    }
    if candidates.is_empty() {
        return Ok(Err(census.unheard));
    }
    choose(text, reference.as_ref(), candidates).map(Ok).map_err(|ids| ambiguous(text, &ids))
}

pub(super) fn pinned(info: &ImageInfo) -> Pinned {
    let bytes = info.layers.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.bytes));
    let strange = words::strange(&info.platform);
    let notice = strange.map(|why| format!("the image {}: {why}", info.id.short()));
    Pinned { id: info.id, bytes, notice }
}

/// Of those that a text may mean, the one that it does: loaded or pulled by somebody rather
/// than brought for a task, and of those the newest. Digits that begin several ids mean none.
fn choose(
    text: &str,
    name: Option<&Reference>,
    mut candidates: Vec<Candidate>,
) -> Result<Pinned, BTreeSet<Digest>> {
    let is_named = |of: &Candidate| name.is_some_and(|name| of.info.names.contains(name));
    let by_digest = name.is_some_and(|name| name.digest().is_some());
    if candidates.iter().any(is_named) {
        candidates.retain(is_named);
    } else if !by_digest {
        let ids: BTreeSet<_> = candidates.iter().map(|it| it.info.id).collect();
        if ids.len() > 1 {
            return Err(ids);
        }
    }
    let rank = |it: &Candidate| (it.info.origin == Origin::Asked, it.info.came_ms, it.info.id);
    candidates.sort_by_key(|it| std::cmp::Reverse(rank(it)));
    let Some(best) = candidates.first() else { return Err(BTreeSet::new()) };
    let id = best.info.id;
    let others: Vec<_> = candidates
        .iter()
        .filter(|it| it.info.id != id)
        .take(DIFFERING_NAMED_MAX)
        .map(|it| format!("{} has {}", it.node_name, it.info.id.short()))
        .collect();
    let notice = (!others.is_empty()).then(|| {
        let (short, node) = (id.short(), &best.node_name);
        let others = others.join(", ");
        format!("{text} is not the same everywhere: {short} of {node} is taken, {others}")
    });
    let pinned = pinned(&best.info);
    let notices: Vec<String> = notice.into_iter().chain(pinned.notice).collect();
    let notice = (!notices.is_empty()).then(|| notices.join("; "));
    Ok(Pinned { notice, ..pinned })
}

/// Those whose manifest has this digest, as its bytes say and not only whoever has it.
async fn proven(doors: &Doors, candidates: Vec<Candidate>, digest: &Digest) -> Vec<Candidate> {
    let mut proven: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        let id = candidate.info.id;
        if candidate.info.manifest != Some(*digest) || proven.iter().any(|it| it.info.id == id) {
            continue;
        }
        let manifest = if candidate.node == doors.facts.node {
            in_store(doors, move |images| images.manifest_bytes(&id)).await.ok().flatten()
        } else {
            let path = format!("/v1/local/images/{id}");
            let documents =
                peer::document(doors, candidate.node, &path, DOCUMENTS_BYTES_MAX).await.ok();
            documents.and_then(|documents| verified(&documents, &id)?.1)
        };
        if manifest.is_some_and(|bytes| Digest::of(&bytes) == *digest) {
            proven.push(candidate);
        }
    }
    proven
}

/// Pulls what no member has, so that its content is known. Whoever stops waiting ends it.
async fn from_registry(
    doors: &Doors,
    text: &str,
    pull: Pull,
    unheard: Unheard,
) -> Result<Pinned, Refused> {
    let Ok(name) = text.parse::<Reference>() else { return Err(unknown(text, unheard)) };
    let _turn = turn(doors).await?;
    let pulled = sources::pull(doors, name.clone(), Origin::Asked).done().await;
    pulled.map(|info| pinned(&info)).map_err(|e| not_pulled(text, &name, pull, unheard, &e))
}

/// What whoever asked for an image is told that its registry did not give.
pub(super) fn not_pulled(
    text: &str,
    name: &Reference,
    pull: Pull,
    unheard: Unheard,
    error: &ImageError,
) -> Refused {
    let is_unknown = matches!(
        error,
        ImageError::Registry(RegistryError::NoRepository { .. } | RegistryError::NotFound { .. })
    );
    if is_unknown {
        return unknown(text, unheard).because(format!("{}: {}", name.host(), chain(error)));
    }
    let refused = failed(error).told(|what| match pull {
        Pull::Always => format!("{text} cannot be pulled: {what}"),
        Pull::Missing | Pull::Never => format!("no member has {text}, and {what}"),
    });
    let because =
        |refused: Refused, (node, why)| refused.because(format!("{node} was not asked: {why}"));
    unheard.into_iter().fold(refused, because)
}

/// What whoever asked for it is told.
pub(super) fn unknown(text: &str, unheard: Unheard) -> Refused {
    let mut complaint = Complaint::new("no_such_image", format!("there is no image {text}"));
    for (node, why) in unheard {
        complaint = complaint.because(format!("{node} was not asked: {why}"));
    }
    Refused::new(StatusCode::NOT_FOUND, complaint.hint(HINT))
}

const HINT: &str = "starling image load FILE   from an archive of docker save or an OCI layout\n\
                    starling image pull NAME   from a registry\n\
                    starling image ls   which there are";

fn ambiguous(text: &str, ids: &BTreeSet<Digest>) -> Refused {
    let ids: Vec<_> = ids.iter().take(DIFFERING_NAMED_MAX).map(Digest::short).collect();
    let complaint = Complaint::new("ambiguous", format!("{text:?} means several images"))
        .because(format!("it begins {}", ids.join(", ")))
        .hint("write more digits, or a name");
    Refused::new(StatusCode::CONFLICT, complaint)
}

#[cfg(test)]
mod tests {
    use super::super::census::tests::image;
    use super::*;

    fn at(node: &str, info: ImageInfo) -> Candidate {
        Candidate { info, node: NodeId::new([1; 32]), node_name: node.to_owned() }
    }

    fn needed(info: ImageInfo) -> ImageInfo {
        ImageInfo { origin: Origin::Needed, ..info }
    }

    #[test]
    fn of_several_copies_the_newest_that_somebody_loaded_is_meant() {
        let name: Reference = "app:1".parse().expect("a name");
        let old = || image("old", &["app:1"], 10);
        let new = || image("new", &["app:1"], 20);
        let of = |candidates: Vec<Candidate>| choose("app:1", Some(&name), candidates);
        let same = of(vec![at("h1", old()), at("h2", old())]).expect("one");
        assert_eq!(same, Pinned { id: Digest::of(b"old"), bytes: 10, notice: None });
        let newer = of(vec![at("h1", old()), at("h2", new())]).expect("one");
        assert_eq!(newer.id, Digest::of(b"new"));
        let notice = newer.notice.expect("they differ");
        assert!(notice.contains("of h2 is taken") && notice.contains("h1 has"), "{notice}");
        // A task's copy came late, and says nothing of what the name stands for.
        let brought = of(vec![at("h1", old()), at("h2", needed(new()))]).expect("one");
        assert_eq!(brought.id, Digest::of(b"old"));
    }

    #[test]
    fn digits_must_begin_one_image_only() {
        let (a, b) = (image("a", &["app:1"], 1), image("b", &[], 2));
        let none: Option<&Reference> = None;
        let both = choose("4", none, vec![at("h1", a.clone()), at("h2", b.clone())]);
        assert_eq!(both.expect_err("two").len(), 2);
        assert!(choose("4", none, vec![at("h1", a.clone()), at("h2", a.clone())]).is_ok());
        // A name that could be digits too is a name first.
        let name: Reference = "app:1".parse().expect("a name");
        let named = choose("app:1", Some(&name), vec![at("h1", a.clone()), at("h2", b)]);
        assert_eq!(named.map(|it| it.id), Ok(a.id));
    }
}
