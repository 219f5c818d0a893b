//! A server of HTTP/1.1 that answers as it is told, well or badly.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    /// Names in small letters.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.path.contains(part)
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) manner: Manner,
}

/// How it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// With its length.
    Whole,
    /// In chunks, whose sum nobody says before.
    Chunks,
    /// With its length; the connection ends after so many bytes of the body.
    Break(usize),
    /// With its length; nothing more comes after so many bytes of the body.
    Silence(usize),
    /// No answer at all: nothing comes.
    Nothing,
    /// The body alone, and the end.
    Raw,
    /// A length, and then as many bytes without end.
    Endless,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self { status, headers: Vec::new(), body, manner: Manner::Whole }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn manner(mut self, manner: Manner) -> Self {
        self.manner = manner;
        self
    }
}

type Answerer = dyn Fn(&Request) -> Reply + Send + Sync;

/// Makes a stream that speaks plainly of one that does not.
pub(crate) type Wrap = dyn Fn(TcpStream) -> io::Result<Box<dyn Stream>> + Send + Sync;

pub(crate) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

struct Shared {
    answer: Box<Answerer>,
    wrap: Box<Wrap>,
    seen: Mutex<Vec<Request>>,
    open: Mutex<Vec<TcpStream>>,
    end: AtomicBool,
}

/// A server, until it is dropped.
pub(crate) struct Stub {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Stub {
    pub(crate) fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::wrapped(answer, |stream| Ok(Box::new(stream)))
    }

    pub(crate) fn wrapped(
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
        wrap: impl Fn(TcpStream) -> io::Result<Box<dyn Stream>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            answer: Box::new(answer),
            wrap: Box::new(wrap),
            seen: Mutex::default(),
            open: Mutex::default(),
            end: AtomicBool::new(false),
        });
        let of_thread = Arc::clone(&shared);
        let accepting = Some(thread::spawn(move || accept(&listener, &of_thread)));
        Self { address, shared, accepting }
    }

    /// As it stands in an image's name.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// All that was asked so far.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// How many such requests there were.
    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        self.seen().iter().filter(|request| request.is(method, part)).count()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::SeqCst);
        // Wakes it.
        let _ = TcpStream::connect(self.address);
        self.accepting.take().unwrap().join().unwrap();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads = Vec::new();
    for stream in listener.incoming() {
        if shared.end.load(Ordering::SeqCst) {
            break;
        }
        let Ok(stream) = stream else { continue };
        shared.open.lock().unwrap().push(stream.try_clone().unwrap());
        let shared = Arc::clone(shared);
        threads.push(thread::spawn(move || {
            let raw = stream.try_clone().unwrap();
            if let Ok(stream) = (shared.wrap)(stream) {
                let _ = serve(stream, &shared);
            }
            let _ = raw.shutdown(Shutdown::Both);
        }));
    }
    for stream in shared.open.lock().unwrap().drain(..) {
        let _ = stream.shutdown(Shutdown::Both);
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

fn serve(stream: Box<dyn Stream>, shared: &Shared) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream)? {
        shared.seen.lock().unwrap().push(request.clone());
        let reply = (shared.answer)(&request);
        if !write(stream.get_mut(), &request, &reply)? {
            break;
        }
    }
    Ok(())
}

fn read(from: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request = Request { method, path, headers, body: Vec::new() };
    if let Some(length) = request.header("content-length") {
        request.body = vec![0; length.parse().unwrap()];
        from.read_exact(&mut request.body)?;
    } else if request.header("transfer-encoding").is_some() {
        request.body = read_chunks(from)?;
    }
    Ok(Some(request))
}

fn read_chunks(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        if from.take(length).read_to_end(&mut body)? as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        from.read_line(&mut String::new())?;
        if length == 0 {
            return Ok(body);
        }
    }
}

/// Says whether the connection goes on.
fn write(to: &mut dyn Stream, request: &Request, reply: &Reply) -> io::Result<bool> {
    let wait_for_the_end = |to: &mut dyn Stream| {
        let _ = io::copy(to, &mut io::sink());
        Ok(false)
    };
    let Reply { status, headers, body, manner } = reply;
    match manner {
        Manner::Nothing => return wait_for_the_end(to),
        Manner::Raw => {
            to.write_all(body)?;
            to.flush()?;
            return Ok(false);
        }
        _ => {}
    }
    let mut head = format!("HTTP/1.1 {status} So\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if *manner == Manner::Chunks {
        head += "Transfer-Encoding: chunked\r\n";
    } else if !headers.iter().any(|(name, _)| name == "Content-Length") {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    to.write_all((head + "\r\n").as_bytes())?;
    if request.method == "HEAD" {
        to.flush()?;
        return Ok(true);
    }
    match *manner {
        Manner::Break(at) => {
            to.write_all(&body[..at.min(body.len())])?;
            to.flush()?;
            return Ok(false);
        }
        Manner::Silence(at) => {
            to.write_all(&body[..at.min(body.len())])?;
            to.flush()?;
            return wait_for_the_end(to);
        }
        Manner::Chunks => {
            for piece in body.chunks(1000) {
                to.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
                to.write_all(piece)?;
                to.write_all(b"\r\n")?;
            }
            to.write_all(b"0\r\n\r\n")?;
        }
        Manner::Endless => loop {
            // Ends when nobody reads any more.
            to.write_all(&[b' '; 4096])?;
        },
        _ => to.write_all(body)?,
    }
    to.flush()?;
    Ok(true)
}
