//! What somebody wants an imported image to say of itself, in the words of a Dockerfile.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::image::ImageError;
use crate::image::documents::{in_document, shown};

/// Nothing: a value that only its name counts of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Empty {}

/// What to say. Written as the `config` of an image's config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Changes {
    #[serde(skip_serializing_if = "String::is_empty")]
    user: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    exposed_ports: BTreeMap<String, Empty>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    entrypoint: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cmd: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    volumes: BTreeMap<String, Empty>,
    #[serde(skip_serializing_if = "String::is_empty")]
    working_dir: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    stop_signal: String,
}

impl Changes {
    /// Takes lines like `CMD ["/bin/sh"]` or `ENV A=1 B="two words"`, as `docker import
    /// --change` does: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR.
    ///
    /// # Errors
    ///
    /// The first line that is none of these.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self, ImageError> {
        let mut changes = Self::default();
        for line in lines {
            let what = format!("the change {}", shown(line));
            changes.take(line.trim()).map_err(in_document(what))?;
        }
        Ok(changes)
    }

    fn take(&mut self, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        if rest.is_empty() {
            return Err("it says nothing".to_owned());
        }
        match word.to_ascii_uppercase().as_str() {
            "CMD" => self.cmd = program(rest)?,
            "ENTRYPOINT" => self.entrypoint = program(rest)?,
            "ENV" => {
                for (name, value) in pairs(rest)? {
                    let begin = format!("{name}=");
                    self.env.retain(|line| !line.starts_with(&begin));
                    self.env.push(begin + &value);
                }
            }
            "LABEL" => self.labels.extend(pairs(rest)?),
            "EXPOSE" => {
                for port in rest.split_whitespace() {
                    self.exposed_ports.insert(self::port(port)?, Empty {});
                }
            }
            "VOLUME" => {
                let list = if rest.starts_with('[') { list(rest)? } else { words(rest)? };
                self.volumes.extend(list.into_iter().map(|path| (path, Empty {})));
            }
            "USER" => self.user = rest.to_owned(),
            "WORKDIR" => self.working_dir = rest.to_owned(),
            "STOPSIGNAL" => self.stop_signal = rest.to_owned(),
            _ => {
                return Err("it begins with none of CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, \
                            STOPSIGNAL, USER, VOLUME, WORKDIR"
                    .to_owned());
            }
        }
        Ok(())
    }
}

/// A list, or a line for the shell.
fn program(rest: &str) -> Result<Vec<String>, String> {
    if rest.starts_with('[') {
        return list(rest);
    }
    Ok(["/bin/sh", "-c", rest].map(str::to_owned).to_vec())
}

fn list(rest: &str) -> Result<Vec<String>, String> {
    serde_json::from_str(rest).map_err(|error| format!("its list is none: {error}"))
}

fn port(text: &str) -> Result<String, String> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let sound = number.parse::<u16>().is_ok_and(|number| number > 0);
    if sound && ["tcp", "udp", "sctp"].contains(&protocol) {
        return Ok(format!("{number}/{protocol}"));
    }
    Err(format!("{} is no port", shown(text)))
}

/// `A=1 B="two words"`, or in the old way `A all the rest`.
fn pairs(rest: &str) -> Result<Vec<(String, String)>, String> {
    let (first, behind) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let one = |name: &str, value: &str| match name {
        "" => Err("it has a value without a name".to_owned()),
        name => Ok((name.to_owned(), value.to_owned())),
    };
    if !first.contains('=') {
        return match behind.trim() {
            "" => Err(format!("{} has no value", shown(first))),
            value => Ok(vec![one(first, value)?]),
        };
    }
    let pair = |word: String| match word.split_once('=') {
        Some((name, value)) => one(name, value),
        None => Err(format!("{} has no value", shown(&word))),
    };
    words(rest)?.into_iter().map(pair).collect()
}

/// Words between spaces; quotes and backslashes keep spaces within them.
fn words(rest: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut letters = rest.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', None | Some('"')) => {
                let next = letters.next().ok_or("it ends with a backslash")?;
                word.get_or_insert_default().push(next);
            }
            (letter, Some(end)) if letter == end => quote = None,
            ('"' | '\'', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (letter, None) if letter.is_whitespace() => words.extend(word.take()),
            (letter, _) => word.get_or_insert_default().push(letter),
        }
    }
    if quote.is_some() {
        return Err("its quotes do not end".to_owned());
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageConfig;

    #[test]
    fn lines_of_a_dockerfile_become_a_config_that_reads_back() {
        let changes = Changes::parse([
            "CMD [\"/bin/app\", \"-x\"]",
            "entrypoint exec /e $0",
            "ENV A=1 B=\"two words\" C='x y' D=a\\ b A=2",
            "ENV OLD all the rest",
            "EXPOSE 80 53/udp",
            "LABEL a.b=c",
            "VOLUME /data /more",
            "VOLUME [\"/list\"]",
            "USER 7:8",
            "WORKDIR /srv",
            "STOPSIGNAL SIGQUIT",
        ]);
        let text = serde_json::to_string(&changes.expect("changes")).expect("json");
        let text = format!(r#"{{"config":{text},"rootfs":{{}}}}"#);
        let config = ImageConfig::parse(text.as_bytes()).expect("a config");
        assert_eq!(config.cmd, ["/bin/app", "-x"]);
        assert_eq!(config.entrypoint, ["/bin/sh", "-c", "exec /e $0"]);
        let env: Vec<String> =
            config.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(env, ["B=two words", "C=x y", "D=a b", "A=2", "OLD=all the rest"]);
        assert_eq!(config.ports, ["53/udp", "80/tcp"]);
        assert_eq!(config.volumes, ["/data", "/list", "/more"]);
        assert_eq!((config.user.as_str(), config.directory.as_str()), ("7:8", "/srv"));
        assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!(config.labels.get("a.b").map(String::as_str), Some("c"));
    }

    #[test]
    fn lines_that_say_nothing_are_refused() {
        for bad in [
            "",
            "CMD",
            "CMD [1]",
            "CMD [",
            "FROM x",
            "EXPOSE http",
            "EXPOSE 0",
            "EXPOSE 80/xyz",
            "ENV A",
            "ENV =x",
            "ENV A=1 B",
            "ENV A=\"x",
            "LABEL A=\\",
        ] {
            Changes::parse([bad]).expect_err(bad);
        }
    }
}
