//! Images whose layers are worth fetching, and what a host counts of what it fetched.

use std::fs;
use std::process::Stdio;

use crate::archive::Recipe;
use crate::image::{beside, text};
use crate::support::Host;

/// Loads an image of that much noise, and says how many bytes its archive has.
pub(crate) fn load(host: &Host, name: &str, motd: &str, noise: usize) -> u64 {
    let (archive, _) = Recipe { motd, noise, ..Recipe::small(name) }.make(&beside(host, name));
    host.run(&["image", "load", text(&archive)]).ok();
    fs::metadata(archive).expect("it is there").len()
}

/// Fetches an image to a host by having it written from there.
pub(crate) fn fetch(host: &Host, name: &str) -> std::process::Child {
    let mut command = host.command(&["image", "save", name, "-o", "/dev/null"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts")
}

/// The fetch must have worked.
pub(crate) fn fetched(child: std::process::Child) {
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success(), "{output:?}");
}

/// One of the agent's counters of image bytes.
pub(crate) fn counted(host: &Host, source: &str) -> u64 {
    let socket = host.data().join("api.sock");
    let mut stream = std::os::unix::net::UnixStream::connect(socket).expect("an agent");
    let request = "GET /v1/metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    std::io::Write::write_all(&mut stream, request.as_bytes()).expect("asked");
    let mut page = String::new();
    std::io::Read::read_to_string(&mut stream, &mut page).expect("answered");
    let line = format!("starling_image_bytes_total{{source=\"{source}\"}} ");
    let found = page.lines().find_map(|text| text.trim().strip_prefix(&line)?.parse().ok());
    found.unwrap_or_else(|| panic!("no {source} in {page}"))
}
