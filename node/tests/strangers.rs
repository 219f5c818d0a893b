//! Whoever is no member, at the gate of the shipped binary: turned away, named, and no
//! trouble to anybody else.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use gossip::raw::{Knock, Raw};
use gossip_core::grant::Chain;
use gossip_core::sign::Key;
use support::{Host, until};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

/// How long an agent that is molested may take to answer its own user.
const SOON: Duration = Duration::from_secs(1);

/// Far more than one connection costs, far less than many do.
const GROWTH_MAX_KIB: u64 = 48 * 1024;

/// A few lines, however often somebody knocks.
const LOG_BYTES_MAX: usize = 16 * 1024;

/// Where a host listens, by this transport.
fn address(host: &Host, transport: &str) -> String {
    let status = host.json(&["status"]);
    let all = status["addresses"].as_array().cloned().unwrap_or_default();
    let of = |text: &&str| text.contains(&format!("/{transport}/"));
    all.iter().filter_map(|it| it.as_str()).find(of).expect("it listens").to_owned()
}

fn tcp(host: &Host) -> SocketAddr {
    let address = address(host, "tcp");
    let port = address.rsplit('/').next().and_then(|port| port.parse().ok()).expect("a port");
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn log(host: &Host) -> String {
    std::fs::read_to_string(host.data().join("agent.log")).expect("its log")
}

fn rss_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("its memory");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Whether the agent answers at its socket soon; a machine that is busy itself gets a few tries.
fn answers(host: &Host) {
    let ask = || {
        let asked = Instant::now();
        let mut door = std::os::unix::net::UnixStream::connect(host.data().join("api.sock"))?;
        door.set_read_timeout(Some(SOON * 5))?;
        door.write_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        door.read_to_string(&mut text)?;
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        std::io::Result::Ok(asked.elapsed())
    };
    let took: Vec<_> = (0..3).map(|_| ask().expect("it is asked")).collect();
    assert!(took.iter().any(|took| *took <= SOON), "{took:?}");
}

fn key(n: u32) -> Key {
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&n.to_be_bytes());
    Key::from_seed(seed)
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_with_keys_of_their_own_cost_little_and_are_named() {
    const STRANGERS: u32 = 300;
    const AT_ONCE: usize = 16;
    let host = Host::new("h1");
    host.up();
    let (agent, before, written) = (host.agent(), rss_kib(host.agent()), log(&host).len());
    let addresses = [address(&host, "tcp"), address(&host, "udp")];
    let mut knocking = JoinSet::new();
    for n in 0..STRANGERS {
        if knocking.len() >= AT_ONCE {
            knocking.join_next().await.expect("some").expect("none panics");
        }
        let address = addresses[n as usize % 2].clone();
        knocking.spawn(async move {
            let key = key(n);
            let error = Raw::connect(&key, Chain::found(&key, 1), &address).await;
            assert!(error.is_err(), "let in: {error:?}");
        });
        if n == STRANGERS / 2 {
            answers(&host);
        }
    }
    while let Some(done) = knocking.join_next().await {
        done.expect("none panics");
    }
    answers(&host);
    assert_eq!(host.agent(), agent, "the same agent");
    let grown = rss_kib(agent).saturating_sub(before);
    assert!(grown < GROWTH_MAX_KIB, "{grown} KiB more");
    let told = log(&host)[written..].to_owned();
    assert!(told.len() < LOG_BYTES_MAX, "{told}");
    assert!(told.contains("turned away") && told.contains("127.0.0.1"), "{told}");
    assert!(told.contains("not a member of this cluster"), "{told}");
    assert_eq!(host.json(&["node", "ls"])["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_admission_ends_the_connection_and_nothing_else() {
    let host = Host::new("h1");
    host.up();
    let agent = host.agent();
    let huge = [0xff; 4].to_vec();
    let enormous = (1_u64 << 63).to_be_bytes().to_vec();
    let garbage = [&64_u32.to_be_bytes()[..], &[0xa5; 64]].concat();
    let cut_short = [&100_u32.to_be_bytes()[..], b"a few bytes"].concat();
    let nothing = Vec::new();
    for transport in ["tcp", "udp"] {
        let address = address(&host, transport);
        for (n, said) in [&huge, &enormous, &garbage, &cut_short, &nothing].into_iter().enumerate()
        {
            let mut knock = Knock::at(&key(900 + n as u32), &address).await.expect("a stream");
            // It may be hung up on before the last byte is out.
            let _hung_up = knock.say(said).await;
            let asked = Instant::now();
            let heard = knock.until_ended().await.expect("it is ended");
            assert!(heard.is_empty(), "{heard:?}");
            assert!(asked.elapsed() < SOON * 8, "{transport} {n}: {:?}", asked.elapsed());
            answers(&host);
        }
        // One byte a second, without an end.
        let mut knock = Knock::at(&key(950), &address).await.expect("a stream");
        let begun = Instant::now();
        knock.say(&1000_u32.to_be_bytes()).await.expect("it listens");
        while knock.say(b"x").await.is_ok() && begun.elapsed() < SOON * 20 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        knock.until_ended().await.expect("it is ended");
        assert!(begun.elapsed() < SOON * 10, "{transport}: {:?}", begun.elapsed());
        answers(&host);
    }
    assert_eq!(host.agent(), agent, "the same agent");
    let told = log(&host);
    assert!(told.contains("turned away") && told.contains("from=127.0.0.1"), "{told}");
    assert!(!told.contains("panicked"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_or_nonsense_keep_nobody_else_out() {
    // Far more than the gate has places.
    const MANY: usize = 600;
    let (h1, h2) = (Host::new("h1"), Host::new("h2"));
    h1.up();
    let (there, token) = (tcp(&h1), h1.invite(1));
    let agent = h1.agent();
    let before = rss_kib(agent);
    // From another address of this machine than members come from.
    let mut held = Vec::new();
    for n in 0..MANY {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 2], 0))).expect("an address");
        let Ok(mut stream) = socket.connect(there).await else { continue };
        match n {
            0..20 => drop(stream.write_all(&[0xff; 256]).await),
            // Half of a handshake.
            20..40 => drop(stream.write_all(b"\x13/multistream/1.0.0\n").await),
            _ => {}
        }
        held.push(stream);
    }
    let datagrams = std::net::UdpSocket::bind("127.0.0.2:0").expect("a socket");
    let port = address(&h1, "udp");
    let port = port.split('/').nth(4).and_then(|port| port.parse::<u16>().ok()).expect("a port");
    for n in 0..1000_u32 {
        let bytes: Vec<u8> = (0..1200_u32).map(|at| (n ^ at) as u8).collect();
        let _may_be_full = datagrams.send_to(&bytes, ("127.0.0.1", port));
    }
    answers(&h1);
    h2.join(&token);
    until("it is a member", || h1.run(&["node", "ls"]).ok().contains("h2"));
    assert_eq!(h1.agent(), agent, "the same agent");
    let grown = rss_kib(agent).saturating_sub(before);
    assert!(grown < GROWTH_MAX_KIB, "{grown} KiB more");
    until("it says who it was", || {
        let told = log(&h1);
        told.contains("turned away") && told.contains("from=127.0.0.2")
    });
    drop(held);
}
