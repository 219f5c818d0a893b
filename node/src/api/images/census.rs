//! Which images the members have: all are asked at once, and whoever does not answer in time
//! is said to be unknown rather than waited for.

use std::collections::BTreeMap;

use futures::future::join_all;
use gossip_core::id::NodeId;
use runtime::image::{Digest, ImageError, ImageInfo, Images};

use super::super::image_types::{HeldImages, ImagePlace, ImageView};
use super::super::peer;
use crate::agent::images::in_store;
use crate::agent::{Doors, Gone, chain};
use crate::cli::client::segment;

/// The largest list of one member: some ten thousand layers.
const LIST_BYTES_MAX: usize = 16 << 20;

/// What was found out.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// Who answered: name and images.
    pub(super) held: Vec<(NodeId, String, Vec<ImageInfo>)>,
    /// Who did not: name, and why.
    pub(super) unheard: Vec<(String, String)>,
}

/// Whom to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    /// This node too.
    All,
    /// The others.
    Others,
}

/// Asks the members, for all their images or for those that a text means.
pub(super) async fn take(doors: &Doors, whom: Whom, meant: Option<&str>) -> Result<Census, Gone> {
    let nodes = doors.agent.look(|core, now| core.node_views(now.moment)).await?;
    let query = meant.map_or(String::new(), |text| format!("?name={}", segment(text)));
    let path = format!("/v1/local/images{query}");
    let path = path.as_str();
    let asked =
        nodes.into_iter().filter(|node| whom == Whom::All || !node.me).map(|node| async move {
            let answer = if node.me {
                own(doors, meant.map(str::to_owned)).await.map_err(|error| chain(&error))
            } else if node.state != "ready" {
                Err(format!("silent for {}s", node.heard_ms.map_or(0, |ms| ms / 1000)))
            } else {
                let held = peer::document(doors, node.id, path, LIST_BYTES_MAX).await;
                held.map(|held: HeldImages| held.items).map_err(|error| error.to_string())
            };
            (node.id, node.name, answer)
        });
    let mut census = Census::default();
    for (node, name, answer) in join_all(asked).await {
        match answer {
            Ok(images) => census.held.push((node, name, images)),
            Err(why) => census.unheard.push((name, why)),
        }
    }
    census.held.sort_by(|a, b| a.1.cmp(&b.1));
    census.unheard.sort();
    Ok(census)
}

/// What this node has.
pub(super) async fn own(
    doors: &Doors,
    meant: Option<String>,
) -> Result<Vec<ImageInfo>, ImageError> {
    in_store(doors, move |images| match meant {
        Some(text) => Ok(meaning(images, &text)),
        None => Ok(images.list()),
    })
    .await
}

/// The images that a text may mean: of digits that begin several ids, all of those.
fn meaning(images: &Images, text: &str) -> Vec<ImageInfo> {
    match images.find(text) {
        Ok(info) => vec![info],
        Err(ImageError::Ambiguous { .. }) => {
            let digits = text.strip_prefix("sha256:").unwrap_or(text);
            let mut all = images.list();
            all.retain(|info| info.id.hex().starts_with(digits));
            all
        }
        Err(_none) => Vec::new(),
    }
}

impl Census {
    /// Each image once, with all who have it; the newest first.
    pub(super) fn merged(self) -> Vec<ImageView> {
        let mut views: BTreeMap<Digest, ImageView> = BTreeMap::new();
        for (node, name, images) in self.held {
            for info in images {
                let view = views.entry(info.id).or_insert_with(|| fresh(&info));
                for name in info.names {
                    if !view.names.contains(&name) {
                        view.names.push(name);
                    }
                }
                view.manifest = view.manifest.or(info.manifest);
                view.came_ms = view.came_ms.max(info.came_ms);
                view.nodes.push(ImagePlace {
                    node,
                    name: name.clone(),
                    origin: info.origin,
                    came_ms: info.came_ms,
                    used_ms: info.used_ms,
                    in_use: info.in_use,
                    damaged: info.damaged,
                });
            }
        }
        let mut views: Vec<_> = views.into_values().collect();
        views.iter_mut().for_each(|view| view.names.sort());
        views.sort_by_key(|view| (std::cmp::Reverse(view.came_ms), view.id));
        views
    }
}

fn fresh(info: &ImageInfo) -> ImageView {
    ImageView {
        id: info.id,
        names: Vec::new(),
        manifest: None,
        bytes: info.layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.bytes)),
        layers: info.layers.clone(),
        created: info.created.clone(),
        platform: info.platform.clone(),
        came_ms: 0,
        nodes: Vec::new(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use runtime::image::{LayerInfo, Origin};

    use super::*;

    /// An image of these bytes.
    pub(in crate::api::images) fn image(config: &str, names: &[&str], came_ms: u64) -> ImageInfo {
        ImageInfo {
            id: Digest::of(config.as_bytes()),
            manifest: None,
            names: names.iter().map(|name| name.parse().expect("a name")).collect(),
            layers: vec![LayerInfo { diff_id: Digest::of(b"layer"), bytes: 10 }],
            created: None,
            platform: "linux/amd64".to_owned(),
            came_ms,
            used_ms: None,
            origin: Origin::Asked,
            in_use: false,
            damaged: Vec::new(),
        }
    }

    #[test]
    fn an_image_is_listed_once_with_all_who_have_it() {
        let node = |n| NodeId::new([n; 32]);
        let census = Census {
            held: vec![
                (node(1), "h1".into(), vec![image("a", &["app:1"], 5), image("b", &[], 7)]),
                (node(2), "h2".into(), vec![image("a", &["app:1", "app:2"], 6)]),
            ],
            unheard: Vec::new(),
        };
        let merged = census.merged();
        let shown: Vec<_> = merged
            .iter()
            .map(|view| (view.id, view.names.len(), view.nodes.len(), view.bytes, view.came_ms))
            .collect();
        assert_eq!(shown, [(Digest::of(b"b"), 0, 1, 10, 7), (Digest::of(b"a"), 2, 2, 10, 6)]);
    }
}
