//! What else a container sees, as it is written: `-v`, `--tmpfs` and `--mount`.
//!
//! ```text
//! -v SOURCE:TARGET[:ro]                        ─┐
//! --tmpfs TARGET[:size=64m]                    ─┼─▶ MountSpec
//! --mount type=bind,source=…,target=…,readonly ─┘
//! ```
//!
//! Docker's words with Podman's other names for them. What neither means here is refused
//! with what to do instead, and never left out in silence. Pure.

use gossip_core::container::MountSpec;
use gossip_core::resources::parse_bytes;

/// A path of the container.
pub(crate) fn target(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} must begin with /: it is a path in the container"))
}

/// `/srv/data:/data:ro` is a directory of the node, `data:/data` a volume.
pub(crate) fn volume(text: &str) -> Result<MountSpec, String> {
    let mut parts = text.split(':');
    let (source, target) = match (parts.next(), parts.next()) {
        (Some(source), Some(target)) if !source.is_empty() => (source, self::target(target)?),
        _ => return Err("write it like /srv/data:/data, or data:/data for a volume".to_owned()),
    };
    let options = parts.next().unwrap_or_default();
    if parts.next().is_some() {
        return Err("behind the target only :ro or :rw may stand".to_owned());
    }
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            // What is done anyway, or means nothing on Linux.
            "private" | "rprivate" | "nocopy" | "cached" | "delegated" | "consistent" => {}
            "z" | "Z" => return Err(SELINUX.to_owned()),
            _ => return Err("behind the target only :ro or :rw may stand".to_owned()),
        }
    }
    of_source(source, target, read_only)
}

const SELINUX: &str = "no labels of SELinux are set; label the directory on its node, and leave \
                       out z and Z";

fn of_source(source: &str, target: String, read_only: bool) -> Result<MountSpec, String> {
    if source.starts_with('/') {
        return Ok(MountSpec::Bind { source: source.to_owned(), target, read_only });
    }
    if source.contains('/') {
        return Err(format!("{source:?} is neither an absolute path nor a volume's name"));
    }
    Ok(MountSpec::Volume { name: source.to_owned(), target, read_only })
}

/// `/tmp:size=64m,mode=1777`.
pub(crate) fn tmpfs(text: &str) -> Result<MountSpec, String> {
    let (at, options) = text.split_once(':').unwrap_or((text, ""));
    let (mut bytes, mut mode) = (None, None);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", size)) => bytes = Some(parse_bytes(size).map_err(|bad| bad.to_string())?),
            Some(("mode", octal)) => mode = Some(octal_mode(octal)?),
            // A container's tmpfs has these anyway.
            _ if matches!(option, "rw" | "nosuid" | "nodev" | "noexec" | "exec") => {}
            _ => return Err(format!("{option:?} is not known; write size=64m or mode=1777")),
        }
    }
    Ok(MountSpec::Tmpfs { target: target(at)?, bytes, mode })
}

fn octal_mode(octal: &str) -> Result<u32, String> {
    let read = u32::from_str_radix(octal, 8).ok().filter(|mode| *mode <= 0o7777);
    read.ok_or_else(|| format!("{octal:?} is no mode like 1777"))
}

/// What `--mount` says, word by word.
#[derive(Default)]
struct Words<'a> {
    kind: Option<&'a str>,
    source: Option<&'a str>,
    target: Option<&'a str>,
    read_only: bool,
    bytes: Option<u64>,
    mode: Option<u32>,
}

/// `type=bind,source=/srv/data,target=/data,readonly`.
pub(crate) fn mount(text: &str) -> Result<MountSpec, String> {
    if text.contains('"') {
        return Err("quotes are not read here; -v takes a path with a comma".to_owned());
    }
    let mut words = Words::default();
    for word in text.split(',').filter(|word| !word.is_empty()) {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key.trim(), Some(value)),
            None => (word.trim(), None),
        };
        words.take(key, value)?;
    }
    words.mount()
}

impl<'a> Words<'a> {
    fn take(&mut self, key: &str, value: Option<&'a str>) -> Result<(), String> {
        let said = || value.filter(|value| !value.is_empty()).ok_or(format!("{key} needs a value"));
        match key {
            "type" => self.kind = Some(said()?),
            "source" | "src" => self.source = Some(said()?),
            "target" | "dst" | "destination" => self.target = Some(said()?),
            "readonly" | "ro" => self.read_only = truth(key, value)?,
            "readwrite" | "rw" => self.read_only = !truth(key, value)?,
            "tmpfs-size" => {
                self.bytes = Some(parse_bytes(said()?).map_err(|bad| bad.to_string())?);
            }
            "tmpfs-mode" => self.mode = Some(octal_mode(said()?)?),
            "bind-propagation" if matches!(said()?, "private" | "rprivate") => {}
            "bind-propagation" => {
                return Err("mounts do not propagate: a task's are its own, private and \
                            rprivate"
                    .to_owned());
            }
            // What is done anyway, or means nothing on Linux.
            "volume-nocopy" if truth(key, value)? => {}
            "consistency" => {}
            _ => return Err(unknown(key)),
        }
        Ok(())
    }

    fn mount(self) -> Result<MountSpec, String> {
        let target = target(self.target.ok_or("it needs target=/PATH of the container")?)?;
        let kind = self.kind.unwrap_or("volume");
        if kind != "tmpfs" && (self.bytes.is_some() || self.mode.is_some()) {
            return Err("tmpfs-size and tmpfs-mode are for type=tmpfs".to_owned());
        }
        match (kind, self.source) {
            ("tmpfs", Some(_)) => Err("type=tmpfs has no source: it is memory".to_owned()),
            ("tmpfs", None) if self.read_only => {
                Err("type=tmpfs is empty, and of no use if it is read-only".to_owned())
            }
            ("tmpfs", None) => Ok(MountSpec::Tmpfs { target, bytes: self.bytes, mode: self.mode }),
            ("bind", Some(source)) if !source.starts_with('/') => {
                Err(format!("{source:?} must begin with /: it is a path of whichever node runs it"))
            }
            ("bind", None) => Err("type=bind needs source=/PATH of the node".to_owned()),
            ("volume", Some(source)) if source.contains('/') => {
                Err(format!("{source:?} is no volume's name; a path of the node is type=bind"))
            }
            ("volume", None) => {
                Err("a volume needs a name, source=NAME: nobody could find it again".to_owned())
            }
            ("bind" | "volume", Some(source)) => of_source(source, target, self.read_only),
            _ => Err(format!("type={kind} is not known; there are bind, volume and tmpfs")),
        }
    }
}

fn truth(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(format!("{key}={other} is neither true nor false")),
    }
}

/// Words of Docker's and Podman's that mean nothing here.
fn unknown(key: &str) -> String {
    let why = match key {
        "volume-driver" | "volume-opt" | "volume-label" => {
            "a volume is a directory that its node keeps, without drivers, options and labels"
        }
        "volume-nocopy" => "nothing is copied from below a volume into it",
        "volume-subpath" | "subpath" => "a volume is shown whole",
        "bind-nonrecursive" | "bind-recursive" => {
            "a directory is shown with what is mounted below it"
        }
        "bind-create-src" => "a directory of the node must be there",
        "relabel" | "z" | "Z" => return SELINUX.to_owned(),
        "U" | "chown" | "idmap" => "owners are not changed; -u says as whom the task runs",
        "image-subpath" => "an image is not mounted into another",
        _ => "it is not known; write type, source, target, readonly, tmpfs-size or tmpfs-mode",
    };
    format!("{key}: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(source: &str, read_only: bool) -> MountSpec {
        MountSpec::Bind { source: source.into(), target: "/data".into(), read_only }
    }

    fn named(read_only: bool) -> MountSpec {
        MountSpec::Volume { name: "db".into(), target: "/data".into(), read_only }
    }

    #[test]
    fn volumes_are_read_as_docker_reads_them() {
        assert_eq!(volume("/srv:/data"), Ok(bind("/srv", false)));
        assert_eq!(volume("/srv:/data:ro"), Ok(bind("/srv", true)));
        assert_eq!(volume("/srv:/data:ro,rprivate"), Ok(bind("/srv", true)));
        assert_eq!(volume("db:/data:rw"), Ok(named(false)));
        for bad in [
            "",
            "/data",
            ":/data",
            "/srv:data",
            "a/b:/data",
            "/srv:/data:x",
            "/a:/b:ro:z",
            "/a:/b:z",
            "/a:/b:rshared",
        ] {
            assert!(volume(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mounts_are_read_as_docker_and_podman_read_them() {
        for (text, mount) in [
            ("type=bind,source=/srv,target=/data", bind("/srv", false)),
            ("type=bind,src=/srv,dst=/data,ro", bind("/srv", true)),
            ("type=bind,source=/srv,destination=/data,readonly=true", bind("/srv", true)),
            ("type=bind,source=/srv,target=/data,readonly=false", bind("/srv", false)),
            ("type=bind,source=/srv,target=/data,rw=false", bind("/srv", true)),
            ("type=bind,source=/srv,target=/data,bind-propagation=rprivate", bind("/srv", false)),
            ("type=volume,source=db,target=/data", named(false)),
            ("source=db,target=/data,volume-nocopy,readonly", named(true)),
            (
                "type=tmpfs,target=/data,tmpfs-size=64m,tmpfs-mode=700",
                MountSpec::Tmpfs {
                    target: "/data".into(),
                    bytes: Some(64 << 20),
                    mode: Some(0o700),
                },
            ),
        ] {
            assert_eq!(super::mount(text), Ok(mount), "{text}");
        }
        for (text, why) in [
            ("", "target"),
            ("type=bind,target=/data", "source=/PATH"),
            ("type=bind,source=srv,target=/data", "begin with /"),
            ("type=bind,source=/srv,target=data", "begin with /"),
            ("type=volume,target=/data", "source=NAME"),
            ("type=volume,source=/srv,target=/data", "type=bind"),
            ("type=tmpfs,source=x,target=/data", "no source"),
            ("type=tmpfs,target=/data,readonly", "read-only"),
            ("type=npipe,source=x,target=/data", "bind, volume and tmpfs"),
            ("type=bind,source=/srv,target=/data,tmpfs-size=1m", "type=tmpfs"),
            ("type=bind,source=/srv,target=/data,bind-propagation=shared", "propagate"),
            ("type=bind,source=/srv,target=/data,relabel=shared", "SELinux"),
            ("source=db,target=/data,volume-driver=nfs", "drivers"),
            ("source=db,target=/data,volume-nocopy=false", "copied"),
            ("source=db,target=/data,readonly=maybe", "neither true nor false"),
            ("source=,target=/data", "needs a value"),
            ("source=db,target=/data,frob=1", "frob"),
            ("\"source=a,b\",target=/data", "quotes"),
            ("type=tmpfs,target=/data,tmpfs-mode=9", "no mode"),
            ("type=tmpfs,target=/data,tmpfs-size=x", "x"),
        ] {
            let told = super::mount(text).expect_err(text);
            assert!(told.contains(why), "{text}: {told}");
        }
    }

    #[test]
    fn memory_is_read_as_docker_reads_it() {
        let memory = tmpfs("/tmp:rw,size=64m,mode=1777");
        let wanted =
            MountSpec::Tmpfs { target: "/tmp".into(), bytes: Some(64 << 20), mode: Some(0o1777) };
        assert_eq!(memory, Ok(wanted));
        assert!(tmpfs("tmp").is_err() && tmpfs("/tmp:uid=0").is_err());
    }
}
