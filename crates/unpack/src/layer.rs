//! Putting one layer on top of what is there. Entries are data of strangers: nothing is written through a link or as a
//! device; owners and set-user-ID bits are dropped.

use crate::{
    Limits,
    budget::{Budget, Counted},
    entries::{Entries, Entry, Kind, Stream},
    plain, tree,
    tree::Tree,
};
use rustix::fs::FileType;
use std::io::{self, Read};

const OPAQUE: &[u8] = b".wh..wh..opq";

/// Puts the entries of one uncompressed layer of `packed` bytes on top of `tree`; for tests and fuzzing.
///
/// # Errors
/// `InvalidData` for what is wrong in the layer, `QuotaExceeded` for what is over a limit, else what the file system
/// says.
pub fn apply(stream: impl Read, tree: &Tree, limits: Limits, packed: u64) -> io::Result<()> {
    put(stream, tree, &Budget::new(limits, packed))
}

pub(crate) fn put(stream: impl Read, tree: &Tree, budget: &Budget) -> io::Result<()> {
    let mut entries = Entries::new(Stream(Counted { inner: stream, budget }));
    while let Some(entry) = entries.advance()? {
        budget.entry()?;
        one(&entry, &mut entries, tree, budget)?;
    }
    Ok(())
}

fn one(entry: &Entry, data: &mut impl Read, tree: &Tree, budget: &Budget) -> io::Result<()> {
    let path = inside(&entry.name)?;
    let Some((file, above)) = path.split_last() else { return Ok(()) };
    let directory = tree.directory(above, budget)?;
    if *file == OPAQUE {
        return tree::empty(&directory);
    }
    if let Some(gone) = file.strip_prefix(b".wh.") {
        if gone.is_empty() || gone == b"." || gone == b".." {
            return Err(wrong(&entry.name, "is a whiteout of nothing"));
        }
        return remove(&directory, gone);
    }
    match entry.kind {
        Kind::Directory if tree::kind(&directory, file)? == Some(FileType::Directory) => Ok(()),
        Kind::Directory => {
            remove(&directory, file)?;
            tree::make_directory(&directory, file)
        }
        Kind::File => {
            remove(&directory, file)?;
            tree.write(&directory, file, if entry.executable { 0o555 } else { 0o444 }, data, budget)
        }
        Kind::Symlink if entry.link.is_empty() => Err(wrong(&entry.name, "is a link to nothing")),
        Kind::Symlink => {
            remove(&directory, file)?;
            tree::make_symlink(&directory, file, &entry.link)
        }
        Kind::Hardlink => {
            let from = inside(&entry.link)?;
            let Some((name, above)) = from.split_last() else {
                return Err(wrong(&entry.name, "is a link to the root"));
            };
            let source = tree.directory(above, budget)?;
            if tree::kind(&source, name)? != Some(FileType::RegularFile) {
                return Err(wrong(&entry.name, "is a hard link to something that is not a regular file"));
            }
            if from == path {
                return Ok(());
            }
            remove(&directory, file)?;
            tree::make_link(&source, name, &directory, file)
        }
        // Devices and pipes have no place in a disk or kernel image.
        Kind::Other => Ok(()),
    }
}

fn remove(directory: &rustix::fd::OwnedFd, name: &[u8]) -> io::Result<()> {
    use std::os::fd::AsFd;
    tree::remove(directory.as_fd(), name)
}

/// The components of a name without `.` and a leading `/`; none for the root itself.
fn inside(name: &[u8]) -> io::Result<Vec<&[u8]>> {
    if name.contains(&0) {
        return Err(wrong(name, "has a zero byte in its name"));
    }
    let parts: Vec<&[u8]> =
        name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    match parts.iter().any(|part| *part == b".." || part.len() > 255) {
        true => Err(wrong(name, "leaves the image or has a component of over 255 bytes")),
        false => Ok(parts),
    }
}

fn wrong(name: &[u8], what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("entry {} {what}", plain(name, 200)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::MetadataExt, path::Path};
    use tar::{Builder, EntryType, Header};

    type Layer = Builder<Vec<u8>>;

    /// As an attacker would: without the checks of the library's setters.
    fn add(builder: &mut Layer, name: &str, kind: EntryType, data: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o4755);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        let link = matches!(kind, EntryType::Symlink | EntryType::Link);
        if link {
            header.as_old_mut().linkname[..data.len()].copy_from_slice(data);
        }
        let data = if link { &[][..] } else { data };
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }

    fn file(builder: &mut Layer, name: &str, data: &[u8]) {
        add(builder, name, EntryType::Regular, data);
    }

    fn layer(fill: impl FnOnce(&mut Layer)) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        fill(&mut builder);
        builder.into_inner().unwrap()
    }

    fn put_on(root: &Path, limits: Limits, packed: u64, layer: &[u8]) -> io::Result<()> {
        apply(layer, &Tree::open(root).unwrap(), limits, packed)
    }

    #[test]
    fn entries_that_leave_the_image_are_refused() {
        let attacks: [fn(&mut Layer); 7] = [
            |b| file(b, "../evil", b"x"),
            |b| file(b, "a/../../evil", b"x"),
            |b| {
                add(b, "out", EntryType::Symlink, b"..");
                file(b, "out/evil", b"x");
            },
            |b| {
                add(b, "out", EntryType::Symlink, b"..");
                add(b, "out/evil", EntryType::Directory, b"");
            },
            |b| {
                add(b, "out", EntryType::Symlink, b"..");
                file(b, "out/.wh.kept", b"");
            },
            |b| add(b, "evil", EntryType::Link, b"../kept"),
            |b| {
                add(b, "out", EntryType::Symlink, b"/etc/passwd");
                add(b, "evil", EntryType::Link, b"out");
            },
        ];
        for (number, attack) in attacks.into_iter().enumerate() {
            let outside = tempfile::tempdir().unwrap();
            let root = outside.path().join("root");
            fs::create_dir(&root).unwrap();
            fs::write(outside.path().join("kept"), "kept").unwrap();
            let error = put_on(&root, Limits::default(), 0, &layer(attack)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{number}: {error}");
            assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 2, "{number}");
        }
    }

    #[test]
    fn a_file_or_link_in_the_way_of_another_layer_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let put = |fill: fn(&mut Layer)| {
            put_on(directory.path(), Limits::default(), 0, &layer(fill)).unwrap();
        };
        put(|b| {
            add(b, "a", EntryType::Symlink, b"/etc");
            file(b, "deep/er/file", b"x");
        });
        put(|b| {
            file(b, "a", b"file");
            file(b, "deep", b"file");
        });
        assert_eq!(fs::read(directory.path().join("a")).unwrap(), b"file");
        assert_eq!(fs::read(directory.path().join("deep")).unwrap(), b"file");
    }

    #[test]
    fn an_image_takes_no_more_than_its_limits() {
        let pattern = vec![7; 20 << 20];
        let big = layer(|b| file(b, "disk", &pattern));
        let many = layer(|b| (0..50).for_each(|n| file(b, &format!("{n}"), b"")));
        let deep = layer(|b| file(b, &"d/".repeat(49), b""));
        let limits = Limits { bytes: 64 << 20, entries: 40, ratio: 10, reserve: 0 };
        for (limits, packed, bytes, words) in [
            (limits, 1 << 20, &big, "unpack to over 16777216 bytes"),
            (Limits { bytes: 10 << 20, ..limits }, 4 << 20, &big, "over 10485760 bytes"),
            (limits, 0, &many, "over 40 files"),
            (limits, 0, &deep, "over 40 files"),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let error = put_on(directory.path(), limits, packed, bytes).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
        }
        let directory = tempfile::tempdir().unwrap();
        put_on(directory.path(), limits, 4 << 20, &big).unwrap();
    }

    #[test]
    fn the_space_that_must_stay_free_stays_free() {
        let directory = tempfile::tempdir().unwrap();
        let limits = Limits { reserve: u64::MAX, ..Limits::default() };
        let error = put_on(directory.path(), limits, 0, &layer(|b| file(b, "a", b"a"))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
    }

    #[test]
    fn zeroes_become_holes_and_do_not_count_as_written() {
        let directory = tempfile::tempdir().unwrap();
        let mut data = vec![0; 32 << 20];
        data[4 << 20] = 1;
        put_on(directory.path(), Limits::default(), 0, &layer(|b| file(b, "disk", &data))).unwrap();
        assert_eq!(fs::read(directory.path().join("disk")).unwrap(), data);
        assert!(fs::metadata(directory.path().join("disk")).unwrap().blocks() * 512 < 1 << 20);
    }
}
