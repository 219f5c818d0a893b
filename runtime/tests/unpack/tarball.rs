//! Builds archives byte by byte, honest or not.

/// An archive being written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tarball(pub(crate) Vec<u8>);

/// One header, to be bent before it is written.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) size: u64,
    pub(crate) mtime: u64,
}

pub(crate) fn head(name: impl AsRef<[u8]>, kind: u8) -> Head {
    let name = name.as_ref().to_vec();
    Head {
        name,
        kind,
        link: Vec::new(),
        mode: 0o755,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: 1_000_000_000,
    }
}

impl Head {
    pub(crate) fn link(mut self, target: impl AsRef<[u8]>) -> Self {
        self.link = target.as_ref().to_vec();
        self
    }

    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub(crate) fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    pub(crate) fn block(&self) -> [u8; 512] {
        let mut block = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name[..self.name.len().min(100)]);
        put(100, format!("{:07o}", self.mode).as_bytes());
        put(108, &id(self.uid));
        put(116, &id(self.gid));
        put(124, format!("{:011o}", self.size).as_bytes());
        put(136, format!("{:011o}", self.mtime).as_bytes());
        put(156, &[self.kind]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(257, b"ustar\x0000");
        sum_up(&mut block);
        block
    }
}

/// Octal if it fits, else in base 256.
fn id(id: u64) -> Vec<u8> {
    if id < 0o7_777_777 {
        return format!("{id:07o}").into_bytes();
    }
    let mut field = id.to_be_bytes().to_vec();
    field[0] |= 0x80;
    field
}

/// Writes the right checksum into a header.
pub(crate) fn sum_up(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

impl Tarball {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A header and content, with the size of the content unless one is set.
    pub(crate) fn add(mut self, mut head: Head, content: &[u8]) -> Self {
        // As GNU tar does it.
        for (kind, long) in [(b'L', &head.name), (b'K', &head.link)] {
            if long.len() > 100 {
                let text = [long.as_slice(), b"\0"].concat();
                self = self.raw(&super::tarball::head("././@LongLink", kind), &text);
            }
        }
        if head.size == 0 {
            head.size = content.len() as u64;
        }
        self.block(&head.block()).bytes(content)
    }

    /// The same without long names.
    pub(crate) fn raw(self, head: &Head, content: &[u8]) -> Self {
        let head = Head { size: content.len() as u64, ..head.clone() };
        self.block(&head.block()).bytes(content)
    }

    pub(crate) fn block(mut self, block: &[u8; 512]) -> Self {
        self.0.extend_from_slice(block);
        self
    }

    /// Content, padded.
    pub(crate) fn bytes(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        self.add(head(name, b'0').mode(0o644), content.as_ref())
    }

    pub(crate) fn dir(self, name: impl AsRef<[u8]>) -> Self {
        self.add(head(name, b'5'), b"")
    }

    pub(crate) fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.add(head(name, b'2').link(target), b"")
    }

    pub(crate) fn hard_link(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.add(head(name, b'1').link(target), b"")
    }

    /// A PAX header for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let tail = [b" ", key.as_bytes(), b"=", *value, b"\n"].concat();
            let mut length = tail.len() + 1;
            while length != tail.len() + length.to_string().len() {
                length = tail.len() + length.to_string().len();
            }
            text.extend_from_slice(length.to_string().as_bytes());
            text.extend_from_slice(&tail);
        }
        self.raw(&head("pax", b'x'), &text)
    }

    /// The archive with its end.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// Packs with gzip.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packer, bytes).unwrap();
    packer.finish().unwrap()
}
