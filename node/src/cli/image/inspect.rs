//! `image inspect`: what an image says of itself, in the words of `docker inspect`, because
//! scripts look for those.

use serde_json::{Value, json};

use super::query;
use crate::api::image_types::ImageDetail;
use crate::cli::client::Client;
use crate::cli::errors::Failed;
use crate::cli::output::{Format, Output};

/// `starling image inspect`.
pub(super) async fn run(names: &[String], client: &mut Client, out: Output) -> Result<u8, Failed> {
    let mut all = Vec::new();
    for name in names {
        let answer = client.get(&format!("/v1/images/inspect?name={}", query(name))).await?;
        match out.format {
            Format::Json => out.json(answer.bytes())?,
            Format::Human => all.push(as_docker(&answer.parse()?)),
            Format::Quiet => {
                let detail: ImageDetail = answer.parse()?;
                out.line(&detail.image.id.to_string())?;
            }
        }
    }
    if out.format == Format::Human {
        let text = serde_json::to_string_pretty(&all).unwrap_or_default();
        text.lines().try_for_each(|line| out.line(line))?;
    }
    Ok(0)
}

fn as_docker(detail: &ImageDetail) -> Value {
    let (image, config) = (&detail.image, &detail.config);
    let field = |name: &str| config.get(name).cloned().unwrap_or(Value::Null);
    let text = |name: &str| field(name).as_str().unwrap_or_default().to_owned();
    let tags: Vec<_> = image.names.iter().map(|name| name.familiar()).collect();
    // By digest it is called as its names are, without their tags.
    let digests = image.manifest.iter().flat_map(|digest| {
        let repositories: std::collections::BTreeSet<_> = image
            .names
            .iter()
            .map(|name| {
                let familiar = name.familiar();
                let tagged = name.tag().and_then(|tag| familiar.strip_suffix(&format!(":{tag}")));
                tagged.unwrap_or(&familiar).to_owned()
            })
            .collect();
        repositories.into_iter().map(move |name| format!("{name}@{digest}"))
    });
    let layers: Vec<_> = image.layers.iter().map(|layer| layer.diff_id.to_string()).collect();
    let nodes: Vec<_> = image.nodes.iter().map(|place| place.name.clone()).collect();
    json!({
        "Id": image.id.to_string(),
        "RepoTags": tags,
        "RepoDigests": digests.collect::<Vec<_>>(),
        "Created": image.created,
        "Author": text("author"),
        "Architecture": text("architecture"),
        "Variant": text("variant"),
        "Os": text("os"),
        "Config": field("config"),
        "RootFS": { "Type": "layers", "Layers": layers },
        "Size": image.bytes,
        "Nodes": nodes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_words_are_where_scripts_look_for_them() {
        let digest = |c: &str| format!("sha256:{}", c.repeat(32));
        let detail = json!({
            "image": {
                "id": digest("3a"),
                "names": ["docker.io/library/app:1", "docker.io/library/app:2", "h:5000/app:1"],
                "manifest": digest("4b"), "bytes": 7, "platform": "linux/amd64", "came_ms": 0,
                "layers": [{"diff_id": digest("5c"), "bytes": 7}],
                "nodes": [],
            },
            "config": {"os": "linux", "architecture": "amd64", "config": {"Env": ["A=b"]}},
        });
        let shown = as_docker(&serde_json::from_value(detail).expect("a detail"));
        assert_eq!(shown["Id"], digest("3a"));
        assert_eq!(shown["RepoTags"], json!(["app:1", "app:2", "h:5000/app:1"]));
        let by_digest = |name: &str| format!("{name}@{}", digest("4b"));
        assert_eq!(shown["RepoDigests"], json!([by_digest("app"), by_digest("h:5000/app")]));
        assert_eq!(shown["RootFS"]["Layers"][0], digest("5c"));
        assert_eq!(shown["Config"]["Env"][0], "A=b");
        assert_eq!((&shown["Os"], &shown["Size"]), (&json!("linux"), &json!(7)));
    }
}
