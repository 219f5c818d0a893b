//! One image from wherever it is: its documents, then each layer that is not here.

use std::time::Duration;

use data_encoding::BASE64;
use futures::future::join_all;
use gossip_core::id::NodeId;
use runtime::image::{Digest, ImageConfig, ImageError, Origin, Reference};
use serde::Deserialize;

use super::layer::{self, Stuck};
use super::{Missing, Wanted, change_store};
use crate::agent::fetch::{Brought, Rest, kin};
use crate::agent::{Doors, chain};
use crate::api::image_types::{Documents, HeldImages};
use crate::api::peer::{self, PeerError};

/// How often the members are asked where one of those who are silent may have it: whoever
/// only started again is back by then.
const ROUNDS_SILENT: u32 = 4;

/// How often where one does not answer who is not known to be gone: half a minute, in which
/// a broken connection is made again or the member is found out to be silent.
const ROUNDS_MAX: u32 = 9;

/// Before the second round; it doubles.
const ROUND_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause.
const ROUND_PAUSE_MAX: Duration = Duration::from_secs(5);

/// The largest answer with an image's documents: both at their largest, in base64.
pub(crate) const DOCUMENTS_BYTES_MAX: usize = 24 << 20;

/// The largest list that is asked for by one id.
const LIST_BYTES_MAX: usize = 1 << 20;

/// A member that says that it has the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) node: NodeId,
    pub(super) name: String,
}

/// What was found out on the way, for whoever is told that it failed. One line for each
/// member: what it said last.
#[derive(Debug, Default)]
pub(super) struct Tried(Vec<(String, String)>);

impl Tried {
    pub(super) fn note(&mut self, whom: &str, what: impl ToString) {
        self.0.retain(|(name, _)| name != whom);
        self.0.push((whom.to_owned(), what.to_string()));
    }

    fn missing(self) -> Missing {
        let all = self.0.into_iter().map(|(name, what)| format!("{name} {what}"));
        let mut why: Vec<_> = all.collect();
        if why.is_empty() {
            why.push("no other member could be asked".to_owned());
        }
        Missing { why, ..Missing::default() }
    }
}

/// Brings an image here, or says what was tried.
pub(super) async fn fetch(doors: &Doors, wanted: &Wanted) -> Result<(), Missing> {
    let mut tried = Tried::default();
    let mut pause = ROUND_PAUSE;
    // What came in one round need not come in the next.
    let mut brought: Vec<Brought> = Vec::new();
    let mut liars: Vec<Holder> = Vec::new();
    let mut unsure = Unsure::Nobody;
    for round in 1..=ROUNDS_MAX {
        let mut found = holders(doors, &wanted.id, &mut tried).await?;
        found.holders.retain(|holder| !liars.contains(holder));
        unsure = found.unsure;
        let before = found.holders.clone();
        let rounds = match (found.holders.is_empty(), found.unsure) {
            (true, Unsure::Nobody) => 1,
            (true, Unsure::Silent) => ROUNDS_SILENT,
            (false, _) | (_, Unsure::Unreached) => ROUNDS_MAX,
        };
        let got = from_members(doors, wanted, &mut found.holders, &mut brought, &mut tried).await;
        liars.extend(before.into_iter().filter(|holder| !found.holders.contains(holder)));
        match got {
            Ok(()) => return Ok(()),
            Err(Stuck::Here(error)) => return Err(error.into()),
            Err(Stuck::There) if round >= rounds => break,
            Err(Stuck::There) => {}
        }
        tracing::info!(image = %wanted.id, ?tried, "no member gave it; once more");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(ROUND_PAUSE_MAX);
    }
    let got = from_registry(doors, wanted, tried).await;
    got.map_err(|missing| {
        let for_now = !missing.is_full && unsure != Unsure::Nobody;
        Missing { for_now, ..missing }
    })
}

/// Who has it.
struct Found {
    holders: Vec<Holder>,
    unsure: Unsure,
}

/// Of whom it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unsure {
    Nobody,
    /// Of members that are thought to be gone.
    Silent,
    /// Of members that should have answered.
    Unreached,
}

async fn holders(doors: &Doors, id: &Digest, tried: &mut Tried) -> Result<Found, Missing> {
    let nodes = doors.agent.look(|core, now| core.node_views(now.moment)).await;
    let nodes = nodes.map_err(|gone| Missing {
        why: vec![gone.to_string()],
        for_now: true,
        is_full: false,
    })?;
    let path = format!("/v1/local/images?name={id}");
    let path = path.as_str();
    let (ready, silent): (Vec<_>, Vec<_>) =
        nodes.into_iter().filter(|node| !node.me).partition(|node| node.state == "ready");
    let asked = ready.into_iter().map(|node| async move {
        let answer = peer::document::<HeldImages>(doors, node.id, path, LIST_BYTES_MAX).await;
        (Holder { node: node.id, name: node.name }, answer)
    });
    let unsure = if silent.is_empty() { Unsure::Nobody } else { Unsure::Silent };
    let mut found = Found { holders: Vec::new(), unsure };
    for node in silent {
        tried.note(&node.name, "is silent");
    }
    for (holder, answer) in join_all(asked).await {
        match answer {
            Ok(held) if held.items.iter().any(|it| it.id == *id && it.damaged.is_empty()) => {
                found.holders.push(holder);
            }
            Ok(held) if held.items.iter().any(|it| it.id == *id) => {
                tried.note(&holder.name, "has it damaged");
            }
            Ok(_) => tried.note(&holder.name, "does not have it"),
            Err(error) => {
                // A member of an older version has none, and never will.
                if !matches!(error, PeerError::Status(404)) {
                    found.unsure = Unsure::Unreached;
                }
                tried.note(&holder.name, error);
            }
        }
    }
    Ok(found)
}

async fn from_members(
    doors: &Doors,
    wanted: &Wanted,
    holders: &mut Vec<Holder>,
    brought: &mut Vec<Brought>,
    tried: &mut Tried,
) -> Result<(), Stuck> {
    let (config, manifest) = documents(doors, &wanted.id, holders, tried).await?;
    let layers = ImageConfig::parse(&config)?.layers;
    let images = doors.runtime.images().clone();
    let kin = kin(&images, wanted.reference().as_ref());
    for diff_id in layers {
        // An empty layer may stand in an image several times.
        if images.has_layer(&diff_id)
            || brought.iter().any(|layer| layer.staged.diff_id() == diff_id)
        {
            continue;
        }
        brought.push(layer::bring(doors, &diff_id, holders, &kin, tried).await?);
        // The next one from somebody else, if there is one.
        if !holders.is_empty() {
            holders.rotate_left(1);
        }
    }
    let (name, id) = (wanted.reference(), wanted.id);
    let brought = std::mem::take(brought);
    let (staged, rests): (Vec<_>, Vec<_>) =
        brought.into_iter().map(|layer| (layer.staged, layer.rest)).unzip();
    change_store(doors, move |images| {
        let names = name.filter(|name| is_free(images.named(name), &id));
        let names: Vec<Reference> = names.into_iter().collect();
        let committed = images.commit(&config, manifest.as_deref(), staged, &names, Origin::Needed);
        if committed.is_ok() {
            rests.into_iter().flatten().for_each(Rest::remove);
        }
        committed
    })
    .await?;
    Ok(())
}

/// Whether a name may go to a copy that only a task needs: somebody who loaded another image
/// under it here means that one by it.
fn is_free(named: Option<runtime::image::ImageInfo>, id: &Digest) -> bool {
    named.is_none_or(|other| other.id == *id || other.origin == Origin::Needed)
}

/// The config and manifest, from the first member whose answer is true.
async fn documents(
    doors: &Doors,
    id: &Digest,
    holders: &[Holder],
    tried: &mut Tried,
) -> Result<(Vec<u8>, Option<Vec<u8>>), Stuck> {
    let path = format!("/v1/local/images/{id}");
    for holder in holders {
        let answer = peer::document(doors, holder.node, &path, DOCUMENTS_BYTES_MAX).await;
        match answer {
            Ok(documents) => match verified(&documents, id) {
                Some(verified) => return Ok(verified),
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

/// The last resort, where the job's name leads to a registry.
async fn from_registry(doors: &Doors, wanted: &Wanted, mut tried: Tried) -> Result<(), Missing> {
    let Some(name) = wanted.reference() else { return Err(tried.missing()) };
    let host = name.host().to_owned();
    match crate::agent::sources::pull(doors, name, Origin::Needed).await {
        Ok(info) if info.id == wanted.id => return Ok(()),
        Ok(info) => {
            tried.note(&host, format!("has another image by this name now: {}", info.id.short()));
        }
        // Whoever gives it, it cannot be kept here.
        Err(error) if error.is_full() => return Err(error.into()),
        Err(error) => tried.note(&host, format!("did not give it: {}", chain(&error))),
    }
    Err(tried.missing())
}

impl From<ImageError> for Stuck {
    fn from(error: ImageError) -> Self {
        Self::Here(error)
    }
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

    #[test]
    fn each_member_is_told_of_once_with_what_it_said_last() {
        let mut tried = Tried::default();
        tried.note("h2", "does not have it");
        tried.note("h3", "is silent");
        tried.note("h2", "broke off");
        assert_eq!(tried.missing().why, ["h3 is silent", "h2 broke off"]);
        assert_eq!(Tried::default().missing().why.len(), 1);
    }
}
