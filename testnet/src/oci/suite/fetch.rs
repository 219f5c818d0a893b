//! Gets the suite's source and a Go compiler from the distribution, and builds them.
//!
//! The source is a package of Debian's of an exact version; the compiler and the libraries
//! are those of the release this machine has, or of the suite's own where that has none.
//! All is downloaded by apt, which checks signatures, and unpacked below the cache:
//! nothing is installed. One library is in no distribution; `tap.go` stands in for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{SuiteError, at};
use crate::vm::tool::{call, program};

/// The suite: source package, version, and the release that has it.
const SOURCE: &str = "golang-github-opencontainers-runtime-tools";
const VERSION: &str = "0.9.0.109.ge931285-1";
const SOURCE_RELEASE: &str = "trixie";
/// The release whose compiler and libraries are known to build it.
const RELEASE: &str = "bookworm";
/// The compiler's directory in its package.
const GO: &str = "usr/lib/go-1.19";

/// Compiler, its library, and what the suite imports.
const PACKAGES: [&str; 20] = [
    "golang-1.19-go",
    "golang-1.19-src",
    "golang-github-blang-semver-dev",
    "golang-github-cpuguy83-go-md2man-v2-dev",
    "golang-github-google-uuid-dev",
    "golang-github-hashicorp-errwrap-dev",
    "golang-github-hashicorp-go-multierror-dev",
    "golang-github-moby-sys-dev",
    "golang-github-mrunalp-fileutils-dev",
    "golang-github-opencontainers-selinux-dev",
    "golang-github-opencontainers-specs-dev",
    "golang-github-russross-blackfriday-v2-dev",
    "golang-github-shurcool-sanitized-anchor-name-dev",
    "golang-github-sirupsen-logrus-dev",
    "golang-github-urfave-cli-dev",
    "golang-github-xeipuuv-gojsonpointer-dev",
    "golang-github-xeipuuv-gojsonreference-dev",
    "golang-github-xeipuuv-gojsonschema-dev",
    "golang-gocapability-dev",
    "golang-golang-x-sys-dev",
];

/// Where Go looks for the suite, and for the library that stands in.
const IMPORTED_AS: &str = "src/github.com/opencontainers/runtime-tools";
const TAP: &str = "src/github.com/mndrix/tap-go";

/// Below the built suite: its test programs.
pub(super) const PROGRAMS: &str = "programs";

/// Written last.
const MARK: &str = "built";

/// The directory of the built suite, made now if it is not there.
pub(super) fn built(cache: &Path) -> Result<PathBuf, SuiteError> {
    let dir = cache.join(VERSION);
    if dir.join(MARK).is_file() {
        return Ok(dir);
    }
    // What an interrupted attempt left is of no use.
    let _ = fs::remove_dir_all(&dir);
    let apt = Apt::set_up(&dir.join("apt"))?;
    let root = dir.join("root");
    make(&root)?;
    for package in apt.download()? {
        call(program("dpkg-deb").arg("--extract").arg(package).arg(&root))?;
    }
    let path = dir.join("go");
    make(&path)?;
    fs::rename(root.join("usr/share/gocode/src"), path.join("src")).map_err(at(&path))?;
    let suite = path.join(IMPORTED_AS);
    // The library part of an older version may be there as a package.
    let _ = fs::remove_dir_all(&suite);
    make(&suite)?;
    let source = apt.source()?;
    call(
        program("tar")
            .args(["--extract", "--strip-components", "1", "--no-same-owner", "--file"])
            .arg(source)
            .arg("--directory")
            .arg(&suite),
    )?;
    make(&path.join(TAP))?;
    let tap = path.join(TAP).join("tap.go");
    fs::write(&tap, include_str!("tap.go")).map_err(at(&tap))?;
    compile(&dir, &root.join(GO), &path)?;
    for name in ["rootfs-amd64.tar.gz", "rootfs-386.tar.gz"] {
        let from = suite.join(name);
        fs::copy(&from, dir.join(name)).map_err(at(&from))?;
    }
    for part in ["apt", "root", "go", "go-cache"] {
        fs::remove_dir_all(dir.join(part)).map_err(at(&dir))?;
    }
    fs::write(dir.join(MARK), VERSION).map_err(at(&dir))?;
    Ok(dir)
}

fn make(dir: &Path) -> Result<(), SuiteError> {
    fs::create_dir_all(dir).map_err(at(dir))
}

/// Builds the test programs, and the one that they run inside.
fn compile(dir: &Path, go: &Path, path: &Path) -> Result<(), SuiteError> {
    let build = |output: &Path, what: &str| {
        let mut command = Command::new(go.join("bin/go"));
        command
            .args(["build", "-o"])
            .arg(output)
            .arg(what)
            .current_dir(path.join(IMPORTED_AS))
            .env("GOROOT", go)
            .env("GOPATH", path)
            .env("GOCACHE", dir.join("go-cache"))
            // Without modules and without a network; without a C library inside either.
            .envs([("GO111MODULE", "off"), ("GOFLAGS", ""), ("CGO_ENABLED", "0")]);
        call(&mut command).map(drop)
    };
    let programs = dir.join(PROGRAMS);
    make(&programs)?;
    build(&dir.join("runtimetest"), "./cmd/runtimetest")?;
    // A slash at the end: one program for each directory.
    Ok(build(&programs.join(""), "./validation/...")?)
}

/// An apt of our own: this machine's repository, two releases of it, lists and downloads
/// in a directory of ours.
struct Apt {
    dir: PathBuf,
}

impl Apt {
    fn set_up(dir: &Path) -> Result<Self, SuiteError> {
        make(&dir.join("lists/partial"))?;
        make(&dir.join("archives/partial"))?;
        let known = call(
            program("apt-get")
                .args(["indextargets", "--format"])
                .arg("$(REPO_URI) $(COMPONENT) $(CREATED_BY)"),
        )?;
        let line = known.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mut of_debian = line.filter_map(|words| match words[..] {
            [uri, "main", "Packages"] if uri.ends_with("/debian/") => Some(uri.to_owned()),
            _ => None,
        });
        let uri = of_debian.next().ok_or(SuiteError::NoRepository)?;
        let by = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
        let list =
            format!("deb {by} {uri} {RELEASE} main\ndeb-src {by} {uri} {SOURCE_RELEASE} main\n");
        fs::write(dir.join("sources.list"), list).map_err(at(dir))?;
        let apt = Self { dir: dir.to_owned() };
        call(apt.command().arg("update"))?;
        Ok(apt)
    }

    fn command(&self) -> Command {
        let mut command = program("apt-get");
        let place = |name: &str, path: &str| format!("{name}={}", self.dir.join(path).display());
        for option in [
            place("Dir::Etc::SourceList", "sources.list"),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            place("Dir::State::Lists", "lists"),
            place("Dir::Cache", "."),
            // Downloads go where root writes, not where apt's own user could.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command.current_dir(&self.dir);
        command
    }

    /// The packages' files.
    fn download(&self) -> Result<Vec<PathBuf>, SuiteError> {
        call(self.command().arg("download").args(PACKAGES))?;
        self.files(".deb")
    }

    /// The suite's source archive.
    fn source(&self) -> Result<PathBuf, SuiteError> {
        let wanted = format!("{SOURCE}={VERSION}");
        call(self.command().args(["source", "--download-only", "--tar-only", &wanted]))?;
        self.files(".orig.tar.xz")?.pop().ok_or(SuiteError::NoRepository)
    }

    fn files(&self, ending: &str) -> Result<Vec<PathBuf>, SuiteError> {
        let entries = fs::read_dir(&self.dir).map_err(at(&self.dir))?.flatten();
        let is = |path: &PathBuf| path.to_string_lossy().ends_with(ending);
        Ok(entries.map(|entry| entry.path()).filter(is).collect())
    }
}
