//! What an image costs a link: copied to two more hosts, and changed a little.
//!
//! Hosts are namespaces on a switch of ours that holds each link to a rate. What a host sent
//! is counted by its kernel, gossip and all. Takes root; each figure is taken once, since the
//! links and not the machine's mood decide it.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use testnet::fabric::{Fabric, Host, netns};

use super::Options;
use super::sample::{NAME, Sample, version_name};
use crate::bench::figures::{Figure, Must};

/// The links of the copy, in kbit/s: slow enough that two processors keep up with three hosts.
const COPY_KBIT: &str = "100000";

/// The thin link, in kbit/s.
const THIN_KBIT: &str = "1000";

/// What may move when a file of 5 MB changed.
const MOVED_MAX_MB: f64 = 8.0;

/// How often the thin link is cut during a transfer.
const CUTS: u32 = 10;

/// How long each cut lasts, and the time between two.
const CUT_FOR: Duration = Duration::from_millis(500);
const CUT_EVERY: Duration = Duration::from_secs(4);

/// How long copies may take to run.
const RUNNING_WITHIN: Duration = Duration::from_secs(600);

/// The port of the raw copy.
const PORT: u16 = 7900;

/// Figures over links, or why they are not there.
pub(crate) fn figures(options: &Options, place: &Path, sample: &Sample) -> io::Result<Vec<Figure>> {
    if let Err(error) = netns::available() {
        let why = error.to_string();
        let none = |what: &str, unit| Figure::new(what, unit, None).note(why.clone());
        return Ok(vec![none(COPY, "ms"), none(SENT, "MB"), none(MOVED, "MB"), none(CUT, "MB")]);
    }
    eprintln!("over links");
    let mut figures = copy(options, place, sample)?;
    figures.extend(change(options, place)?);
    Ok(figures)
}

const COPY: &str = "one of three hosts has it: the others run it";
const SENT: &str = "what that host sent";
const MOVED: &str = "a file of 5 MB in 200 changed, at 1 Mbit/s: moved";
const CUT: &str = "the same, the link cut ten times";

/// One host has the image, and all three are to run it.
fn copy(options: &Options, place: &Path, sample: &Sample) -> io::Result<Vec<Figure>> {
    let net = Net::up(options, &place.join("copy"), 3, COPY_KBIT)?;
    let raw = net.raw_copy(sample.bytes)?;
    net.on("h1", &["image", "load", &sample.archive.display().to_string()])?;
    let before = net.sent("h1")?;
    let took = net.run_everywhere("copy", NAME, 3, || Ok(()))?;
    let sent = net.sent("h1")?.saturating_sub(before);
    Ok(vec![
        Figure::new(COPY, "ms", Some(ms(took)))
            .against("one raw copy", Some(ms(raw)))
            .must(Must::RatioAtMost(1.5)),
        Figure::new(SENT, "MB", Some(mb(sent)))
            .against("its size", Some(mb(sample.bytes)))
            .must(Must::RatioAtMost(1.1)),
    ])
}

/// Two hosts have an image, one of them its next version, too.
fn change(options: &Options, place: &Path) -> io::Result<Vec<Figure>> {
    let dir = place.join("change");
    fs::create_dir_all(&dir)?;
    let versions = (1..=3).map(|version| Sample::version(&dir, &options.kept, version));
    let versions = versions.collect::<io::Result<Vec<_>>>()?;
    let net = Net::up(options, &dir.join("net"), 2, "0")?;
    let load = |host: &str, sample: &Sample| {
        net.on(host, &["image", "load", &sample.archive.display().to_string()])
    };
    for sample in &versions {
        load("h1", sample)?;
    }
    if let Some(first) = versions.first() {
        load("h2", first)?;
    }
    net.call(&["link", "h1", "h2", "--rate", THIN_KBIT])?;
    let moved = |version, meanwhile: &mut dyn FnMut() -> io::Result<()>| {
        let before = net.sent("h1")?;
        net.run_everywhere(&format!("v{version}"), &version_name(version), 2, meanwhile)?;
        net.sent("h1").map(|after| mb(after.saturating_sub(before)))
    };
    let whole = moved(2, &mut || Ok(()))?;
    let mut cuts = 0;
    let mut next = Instant::now() + CUT_EVERY;
    let cut = moved(3, &mut || {
        if cuts < CUTS && Instant::now() >= next {
            net.call(&["cut", "h1", "h2"])?;
            thread::sleep(CUT_FOR);
            net.call(&["heal", "h1", "h2", "--cuts"])?;
            cuts += 1;
            next = Instant::now() + CUT_EVERY;
        }
        Ok(())
    })?;
    Ok(vec![
        Figure::new(MOVED, "MB", Some(whole)).must(Must::AtMost(MOVED_MAX_MB)),
        Figure::new(CUT, "MB", Some(cut))
            .against("uncut", Some(whole))
            .must(Must::RatioAtMost(1.05))
            .note(format!("{cuts} cuts")),
    ])
}

/// A fabric of ours, driven by our own commands.
struct Net {
    dir: PathBuf,
    fabric: Fabric,
    starling: PathBuf,
}

impl Net {
    fn up(options: &Options, dir: &Path, hosts: usize, kbit: &str) -> io::Result<Self> {
        let starling = options.starling.display().to_string();
        let hosts = hosts.to_string();
        let words = ["up", &hosts, "--bulk", "--starling", &starling, "--rate", kbit];
        call(dir, &words)?;
        let fabric = Fabric::open(dir).map_err(io::Error::other)?;
        Ok(Self { dir: dir.to_owned(), fabric, starling: options.starling.clone() })
    }

    fn call(&self, words: &[&str]) -> io::Result<String> {
        call(&self.dir, words)
    }

    /// `starling WORDS…` on a host.
    fn on(&self, host: &str, words: &[&str]) -> io::Result<String> {
        let starling = self.starling.display().to_string();
        self.call(&[&["exec", host, "--", &starling], words].concat())
    }

    fn host(&self, name: &str) -> io::Result<(&Host, &str)> {
        let host = self.fabric.host(name).map_err(io::Error::other)?;
        let namespace = host.namespace.as_deref();
        Ok((host, namespace.ok_or_else(|| io::Error::other("a host without a namespace"))?))
    }

    /// Bytes that a host has put on the wire.
    fn sent(&self, name: &str) -> io::Result<u64> {
        let (_, namespace) = self.host(name)?;
        let read = || fs::read_to_string("/proc/thread-self/net/dev");
        let text = netns::within(namespace, read).map_err(io::Error::other)??;
        let sent = |line: &str| {
            let (name, figures) = line.split_once(':')?;
            let sent = figures.split_whitespace().nth(8)?.parse::<u64>().ok()?;
            (name.trim() != "lo").then_some(sent)
        };
        Ok(text.lines().filter_map(sent).sum())
    }

    /// How long so many bytes take from the first host to the second, through one connection.
    fn raw_copy(&self, bytes: u64) -> io::Result<Duration> {
        let (_, from) = self.host("h1")?;
        let (to_host, to) = self.host("h2")?;
        let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT));
        let listener = netns::within(to, bind).map_err(io::Error::other)??;
        let connect = || TcpStream::connect((to_host.address, PORT));
        let mut out = netns::within(from, connect).map_err(io::Error::other)??;
        let (mut into, _) = listener.accept()?;
        let began = Instant::now();
        thread::scope(|scope| {
            let taking = scope.spawn(move || io::copy(&mut into, &mut io::sink()));
            // Zeros are as good as any: nothing on the way packs them.
            io::copy(&mut io::repeat(0).take(bytes), &mut out)?;
            out.flush()?;
            drop(out);
            let taken = taking.join().map_err(|_panicked| io::Error::other("a reader died"))??;
            if taken == bytes { Ok(()) } else { Err(io::Error::other("bytes are missing")) }
        })?;
        Ok(began.elapsed())
    }

    /// Keeps a copy running on each host; until all do.
    fn run_everywhere(
        &self,
        name: &str,
        image: &str,
        copies: u32,
        mut meanwhile: impl FnMut() -> io::Result<()>,
    ) -> io::Result<Duration> {
        let began = Instant::now();
        let count = copies.to_string();
        let words = ["run", "-d", "--name", name, "--replicas", &count, "--network", "none"];
        self.on("h1", &[&words[..], &[image, "sleep", "1d"]].concat())?;
        loop {
            let listing: serde_json::Value =
                serde_json::from_str(&self.on("h1", &["--json", "ps"])?)?;
            let items = listing["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            let ours = items.iter().filter(|it| it["job_name"] == name || it["job"] == name);
            let running = ours.filter(|it| it["state"] == "running").count();
            if running >= usize::try_from(copies).unwrap_or(usize::MAX) {
                let took = began.elapsed();
                self.on("h1", &["stop", name])?;
                return Ok(took);
            }
            if began.elapsed() > RUNNING_WITHIN {
                return Err(io::Error::other(format!("only {running} copies run of {image}")));
            }
            meanwhile()?;
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // What is left of it is told by the next `up` at the same place.
        let _ = self.call(&["down"]);
    }
}

/// `testnet --data DIR WORDS…`, by this very program.
fn call(dir: &Path, words: &[&str]) -> io::Result<String> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--data").arg(dir).args(words);
    let done = command.output()?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let told = String::from_utf8_lossy(&done.stderr);
    Err(io::Error::other(format!("`testnet {}` failed: {}", words.join(" "), told.trim())))
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}

#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
