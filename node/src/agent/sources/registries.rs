//! How this node reaches registries: what its owner wrote into `registries.json` in its data
//! directory, and what `docker login` left for the agent's user.
//!
//! ```text
//! { "auths": …            as in Docker's config.json
//!   "mirrors": { "docker.io": ["mirror.lan:5000"] },
//!   "plain": ["mirror.lan:5000"],
//!   "authorities": ["/etc/ssl/lan.pem"] }
//! ```
//!
//! Read anew for each pull, so that nothing needs a restart. Must never: be shown.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use runtime::image::{RegistryError, RegistryOptions, Speak, read_docker_config};
use serde::Deserialize;

/// What the file is called.
const FILE: &str = "registries.json";

/// A file with more is not one.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What stands in the file beside credentials, which are read as Docker's.
#[derive(Debug, Default, Deserialize)]
struct Settings {
    #[serde(default)]
    mirrors: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    plain: Vec<String>,
    #[serde(default)]
    authorities: Vec<PathBuf>,
}

/// How registries are reached from the node with this data directory. Blocks.
pub(super) fn options(data: &Path) -> Result<RegistryOptions, RegistryError> {
    let path = data.join(FILE);
    let bad = |source| RegistryError::Credentials { path: path.clone(), source };
    let settings = match std::fs::File::open(&path) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(bad)?;
            parse(&bytes).map_err(bad)?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Settings::default(),
        Err(error) => return Err(bad(error)),
    };
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    // What is not for this node cannot be read by its agent, or is of no use to it.
    let docker = home.map(|home| read_docker_config(&home.join(".docker/config.json")));
    let mut credentials = docker.and_then(Result::ok).unwrap_or_default();
    credentials.extend(read_docker_config(&path)?);
    let plain = settings.plain.into_iter().map(|host| (host, Speak::Plain));
    Ok(RegistryOptions {
        credentials,
        mirrors: settings.mirrors,
        speak: plain.collect(),
        authorities: settings.authorities,
        ..RegistryOptions::default()
    })
}

fn parse(bytes: &[u8]) -> io::Result<Settings> {
    // Its own error would quote lines that may be secrets.
    serde_json::from_slice(bytes)
        .map_err(|error| io::Error::other(format!("line {} is not as it should be", error.line())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_says_who_we_are_and_how_to_get_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let told = options(dir.path()).expect("none is needed");
        assert!(told.mirrors.is_empty() && told.speak.is_empty());
        // "u:p"
        let text = r#"{"auths": {"reg.lan:5000": {"auth": "dTpw"}}, "plain": ["reg.lan:5000"],
            "mirrors": {"docker.io": ["reg.lan:5000"]}, "authorities": ["/x.pem"]}"#;
        std::fs::write(dir.path().join(FILE), text).expect("written");
        let told = options(dir.path()).expect("options");
        assert!(told.credentials.contains_key("reg.lan:5000"));
        assert_eq!(told.speak.get("reg.lan:5000"), Some(&Speak::Plain));
        assert_eq!(told.mirrors["docker.io"], ["reg.lan:5000"]);
        assert_eq!(told.authorities, [PathBuf::from("/x.pem")]);
        std::fs::write(dir.path().join(FILE), "{\n\"auths\": secret").expect("written");
        let text = crate::agent::chain(&options(dir.path()).expect_err("no JSON"));
        assert!(text.contains("line 2") && !text.contains("secret"), "{text}");
    }
}
