//! The entries of a tar stream: what the `tar` crate's headers say, read by a loop of our own that refuses long headers
//! before it reserves memory for them, and never lets two headers disagree about what follows.

use std::io::{self, Read, Seek, SeekFrom};
use tar::{EntryType, Header};

const BLOCK: u64 = 512;
/// Longest extended header: a name or link of GNU tar, or the records of PAX. Names have 4096 bytes at most, extended
/// attributes some thousand.
pub const MAX_EXTENDED: u64 = 64 << 10;
/// Most extended headers before one entry.
const MAX_EXTENSIONS: u32 = 8;
/// Longest name and link: the kernel's `PATH_MAX`.
pub const MAX_NAME: usize = 4096;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A second name of a file.
    Hardlink,
    /// A device, a pipe, or something unknown.
    Other,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name as the archive has it.
    pub name: Vec<u8>,
    /// Where a link leads; empty for others.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Some user may execute it.
    pub executable: bool,
    /// Bytes of data that follow.
    pub size: u64,
}

/// A stream whose bytes can be skipped.
pub trait Source: Read {
    /// Skips bytes; at the end of the stream fewer.
    ///
    /// # Errors
    /// As reading.
    fn skip(&mut self, bytes: u64) -> io::Result<()>
    where
        Self: Sized,
    {
        io::copy(&mut self.by_ref().take(bytes), &mut io::sink()).map(drop)
    }
}

/// A stream that is read to be skipped.
#[derive(Debug)]
pub struct Stream<R>(pub R);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read> Source for Stream<R> {}

/// A file, in which skipping costs nothing.
#[derive(Debug)]
pub struct Seeking<F>(pub F);

impl<F: Read> Read for Seeking<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<F: Read + Seek> Source for Seeking<F> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let bytes = i64::try_from(bytes).map_err(|_| wrong("an entry is longer than a file can be"))?;
        self.0.seek(SeekFrom::Current(bytes)).map(drop)
    }
}

/// Reads entry after entry; as a reader it is the data of the last one.
#[derive(Debug)]
pub struct Entries<S> {
    source: S,
    /// Data of the entry that is not read yet.
    left: u64,
    /// What fills its last block.
    padding: u64,
}

#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    seen: u32,
}

impl<S: Source> Entries<S> {
    /// From the beginning of an archive.
    pub fn new(source: S) -> Self {
        Self { source, left: 0, padding: 0 }
    }

    /// What the entries are read from.
    pub fn source(&mut self) -> &mut S {
        &mut self.source
    }

    /// The next entry; what was not read of the last one is skipped. `None` at the end.
    ///
    /// # Errors
    /// `InvalidData` for what is not an archive or has headers over the limits; else as reading.
    pub fn advance(&mut self) -> io::Result<Option<Entry>> {
        let mut extended = Extended::default();
        loop {
            let rest = self.left.saturating_add(self.padding);
            (self.left, self.padding) = (0, 0);
            if rest > 0 {
                self.source.skip(rest)?;
            }
            let Some(header) = self.header()? else {
                return if extended.seen == 0 {
                    Ok(None)
                } else {
                    Err(wrong("the archive ends between an extended header and its entry"))
                };
            };
            let size = header.entry_size()?;
            let kind = header.entry_type();
            if !self.extension(kind, size, &mut extended)? {
                return self.entry(&header, extended, size).map(Some);
            }
        }
    }

    /// The next header; `None` at the end.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header::new_old();
        let mut length = 0;
        while let Some(rest) = header.as_mut_bytes().get_mut(length..).filter(|rest| !rest.is_empty()) {
            match self.source.read(rest) {
                Ok(0) if length == 0 => return Ok(None),
                Ok(0) => return Err(wrong("the archive ends within a header")),
                Ok(more) => length += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let bytes = header.as_bytes();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = bytes.iter().enumerate().fold(0_u32, |sum, (at, byte)| {
            // The checksum's own field counts as blanks.
            sum + u32::from(if (148..156).contains(&at) { b' ' } else { *byte })
        });
        if header.cksum()? != sum {
            return Err(wrong("a header has another checksum than it says"));
        }
        Ok(Some(header))
    }

    /// Takes note of an extended header; false when it is none.
    fn extension(&mut self, kind: EntryType, size: u64, extended: &mut Extended) -> io::Result<bool> {
        let local = kind.is_pax_local_extensions();
        let (name, link) = (kind.is_gnu_longname(), kind.is_gnu_longlink());
        if !(local || name || link || kind.is_pax_global_extensions()) {
            return Ok(false);
        }
        extended.seen += 1;
        if size > MAX_EXTENDED {
            return Err(wrong(&format!("an extended header has {size} bytes, more than {MAX_EXTENDED}")));
        }
        if extended.seen > MAX_EXTENSIONS {
            return Err(wrong("too many extended headers before one entry"));
        }
        self.padding = padding(size);
        let mut bytes = Vec::new();
        (&mut self.source).take(size).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if name || link {
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            bytes.truncate(end);
            let place = if name { &mut extended.name } else { &mut extended.link };
            if place.replace(bytes).is_some() {
                return Err(wrong("two headers name one entry"));
            }
        } else if local {
            records(&bytes, extended)?;
        }
        // Global records are about owners and times.
        Ok(true)
    }

    fn entry(&mut self, header: &Header, extended: Extended, size: u64) -> io::Result<Entry> {
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::Hardlink,
            EntryType::GNUSparse => return Err(sparse()),
            _ => Kind::Other,
        };
        let size = extended.size.unwrap_or(size);
        let name = extended.name.unwrap_or_else(|| header.path_bytes().into_owned());
        // How the oldest archives write directories.
        let kind = if kind == Kind::File && name.ends_with(b"/") { Kind::Directory } else { kind };
        let own = || header.link_name_bytes().map(|link| link.into_owned()).unwrap_or_default();
        let link = match kind {
            Kind::Symlink | Kind::Hardlink => extended.link.unwrap_or_else(own),
            _ => Vec::new(),
        };
        if name.len() > MAX_NAME || link.len() > MAX_NAME {
            return Err(wrong(&format!("a name has over {MAX_NAME} bytes")));
        }
        self.padding = padding(size);
        self.left = size;
        if size.checked_add(self.padding).is_none() {
            return Err(wrong("an entry is longer than a file can be"));
        }
        Ok(Entry { name, link, kind, executable: header.mode()? & 0o111 != 0, size })
    }
}

impl<S: Source> Read for Entries<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(space) = buffer.get_mut(..limit).filter(|space| !space.is_empty()) else { return Ok(0) };
        let length = self.source.read(space)?;
        if length == 0 {
            return Err(wrong("the archive ends within an entry"));
        }
        self.left = self.left.saturating_sub(length as u64);
        Ok(length)
    }
}

fn padding(size: u64) -> u64 {
    (BLOCK - size % BLOCK) % BLOCK
}

/// Records of a PAX header: `LENGTH KEY=VALUE\n` one after the other; values may hold any byte.
fn records(mut bytes: &[u8], extended: &mut Extended) -> io::Result<()> {
    let broken = || wrong("a PAX header is damaged");
    while !bytes.is_empty() {
        let blank = bytes.iter().take(10).position(|byte| *byte == b' ').ok_or_else(broken)?;
        let digits = bytes.get(..blank).and_then(|digits| str::from_utf8(digits).ok()).ok_or_else(broken)?;
        let length: usize = digits.parse().map_err(|_| broken())?;
        let record = bytes.get(blank + 1..length).and_then(|record| record.strip_suffix(b"\n"));
        let record = record.ok_or_else(broken)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(broken)?;
        let (key, value) = record.split_at_checked(equals).ok_or_else(broken)?;
        let value = value.strip_prefix(b"=").ok_or_else(broken)?;
        match key {
            b"path" => extended.name = Some(value.to_vec()),
            b"linkpath" => extended.link = Some(value.to_vec()),
            b"size" => {
                let digits = str::from_utf8(value).ok().filter(|text| !text.starts_with('+'));
                extended.size = Some(digits.and_then(|text| text.parse().ok()).ok_or_else(broken)?);
            }
            key if key.starts_with(b"GNU.sparse.") => return Err(sparse()),
            _ => {}
        }
        bytes = bytes.get(length..).unwrap_or_default();
    }
    Ok(())
}

fn sparse() -> io::Error {
    wrong("it has a sparse entry: write the archive without --sparse (zeroes become holes by themselves)")
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn long(kind: EntryType, size: u64) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    /// Endless zeroes: a reader that believes a length reads them all.
    fn refused(header: &[u8]) -> String {
        let stream = header.chain(io::repeat(b'x'));
        Entries::new(Stream(stream)).advance().unwrap_err().to_string()
    }

    #[test]
    fn long_headers_are_refused_before_they_are_read() {
        for kind in
            [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader, EntryType::XGlobalHeader]
        {
            for size in [MAX_EXTENDED + 1, 1_500_000_000, u64::MAX / 2] {
                let said = refused(&long(kind, size));
                assert!(said.contains("more than 65536"), "{kind:?} {size}: {said}");
            }
        }
        let many: Vec<u8> = (0..9).flat_map(|_| long(EntryType::XGlobalHeader, 0)).collect();
        assert!(refused(&many).contains("too many extended headers"));
    }

    #[test]
    fn names_links_and_sizes_come_from_extended_headers() {
        let mut builder = tar::Builder::new(Vec::new());
        let name = format!("{}/file", "d".repeat(200));
        let mut header = Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o755);
        builder.append_data(&mut header, &name, &b"abc"[..]).unwrap();
        // Values may hold newlines, such as those of capabilities.
        let records =
            [("SCHILY.xattr.security.capability", &b"\x01\n\x02="[..]), ("path", b"p"), ("size", b"2")];
        builder.append_pax_extensions(records).unwrap();
        let mut bytes = builder.into_inner().unwrap();
        bytes.truncate(bytes.len() - 1024);
        bytes.extend(long(EntryType::Regular, 0));
        bytes.extend(b"xy");
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        let mut entries = Entries::new(Stream(bytes.as_slice()));
        let first = entries.advance().unwrap().unwrap();
        assert_eq!((first.name, first.executable, first.size), (name.into_bytes(), true, 3));
        let second = entries.advance().unwrap().unwrap();
        assert_eq!((second.name.as_slice(), second.size), (&b"p"[..], 2));
        let mut data = Vec::new();
        entries.read_to_end(&mut data).unwrap();
        assert_eq!(data, b"xy");
        assert!(entries.advance().unwrap().is_none());
    }

    #[test]
    fn sparse_entries_are_refused_with_what_to_do() {
        assert!(refused(&long(EntryType::GNUSparse, 0)).contains("without --sparse"));
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_pax_extensions([("GNU.sparse.major", &b"1"[..])]).unwrap();
        assert!(refused(&builder.into_inner().unwrap()).contains("without --sparse"));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_entries_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let mut entries = Entries::new(Stream(bytes.as_slice()));
            while let Ok(Some(_)) = entries.advance() {}
        }

        #[test]
        fn what_is_written_is_read(files in proptest::collection::vec(("[a-z/]{1,300}", 0_usize..1500), 0..6)) {
            let mut builder = tar::Builder::new(Vec::new());
            let mut expected = Vec::new();
            for (name, size) in files {
                let name = format!("x{name}");
                let mut header = Header::new_gnu();
                header.set_size(size as u64);
                header.set_mode(0o644);
                builder.append_data(&mut header, &name, vec![7; size].as_slice()).unwrap();
                expected.push((size, name.len()));
            }
            let bytes = builder.into_inner().unwrap();
            let mut entries = Entries::new(Stream(bytes.as_slice()));
            for (size, _) in expected {
                let entry = entries.advance().unwrap().unwrap();
                let mut data = Vec::new();
                entries.read_to_end(&mut data).unwrap();
                prop_assert_eq!((entry.size, data), (size as u64, vec![7; size]));
            }
            prop_assert!(entries.advance().unwrap().is_none());
        }
    }
}
