//! Unpacking layers. Entries are data of strangers: nothing is ever written outside the root, through a link, or as a
//! device; ownership and set-user-ID bits are dropped.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt, fs::symlink},
    path::{Component, Path, PathBuf},
};
use tar::EntryType;

/// Blocks of zeroes of this size become holes.
const BLOCK: usize = 64 << 10;
const OPAQUE: &str = ".wh..wh..opq";

/// Puts the entries of a tar stream on top of `root`.
pub(super) fn layer(stream: impl Read, root: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(stream);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()));
        let Some(inside) = inside(&name)? else { continue };
        let (folder, file) = match (inside.parent(), inside.file_name()) {
            (Some(folder), Some(file)) => (folder.to_owned(), file.to_owned()),
            _ => continue,
        };
        let folder = make_folder(root, &folder)?;
        let target = folder.join(&file);
        if file == OPAQUE {
            for child in fs::read_dir(&folder)? {
                remove(&child?.path())?;
            }
            continue;
        }
        if let Some(gone) = file.as_bytes().strip_prefix(b".wh.") {
            if gone.is_empty() || gone == b"." || gone == b".." {
                return Err(wrong(&name, "is a whiteout of nothing"));
            }
            remove(&folder.join(OsStr::from_bytes(gone)))?;
            continue;
        }
        match entry.header().entry_type() {
            EntryType::Directory if target.symlink_metadata().is_ok_and(|data| data.is_dir()) => {}
            EntryType::Directory => {
                remove(&target)?;
                fs::create_dir(&target)?;
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                remove(&target)?;
                let executable = entry.header().mode()? & 0o111 != 0;
                write(&mut entry, &target, if executable { 0o555 } else { 0o444 })?;
            }
            EntryType::Symlink => {
                let link = entry.link_name_bytes().ok_or_else(|| wrong(&name, "is a link to nothing"))?;
                remove(&target)?;
                symlink(OsStr::from_bytes(&link), &target)?;
            }
            EntryType::Link => {
                let link = entry.link_name_bytes().ok_or_else(|| wrong(&name, "is a link to nothing"))?;
                let link = PathBuf::from(OsStr::from_bytes(&link).to_owned());
                let from = match self::inside(&link)? {
                    Some(path) => path,
                    None => return Err(wrong(&name, "is a link to the root")),
                };
                let parent = make_folder(root, from.parent().unwrap_or(Path::new("")))?;
                let from = parent.join(from.file_name().unwrap_or_default());
                if !from.symlink_metadata()?.is_file() {
                    return Err(wrong(&name, "is a hard link to something that is not a regular file"));
                }
                if from != target {
                    remove(&target)?;
                    fs::hard_link(from, target)?;
                }
            }
            // Devices and pipes have no place in a disk or kernel image; headers of other kinds carry no file.
            _ => {}
        }
    }
    Ok(())
}

/// The path of an entry without `.` and a leading `/`; `None` for the root itself.
fn inside(name: &Path) -> io::Result<Option<PathBuf>> {
    let mut path = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(wrong(name, "leaves the image")),
        }
    }
    Ok((!path.as_os_str().is_empty()).then_some(path))
}

/// The directory `path` below `root`, made where missing, none of it through a link.
fn make_folder(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut folder = root.to_owned();
    for part in path.components() {
        folder.push(part);
        match folder.symlink_metadata() {
            Ok(data) if data.is_dir() => {}
            Ok(_) => return Err(wrong(path, "lies behind a link or a file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir(&folder)?,
            Err(error) => return Err(error),
        }
    }
    Ok(folder)
}

fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(data) if data.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn write(from: &mut impl Read, path: &Path, mode: u32) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    let mut block = vec![0; BLOCK];
    let mut length = 0_u64;
    loop {
        let mut filled = 0;
        while let Some(space) = block.get_mut(filled..).filter(|space| !space.is_empty()) {
            match from.read(space)? {
                0 => break,
                n => filled += n,
            }
        }
        let Some(data) = block.get(..filled).filter(|data| !data.is_empty()) else { break };
        length += data.len() as u64;
        if data.iter().all(|byte| *byte == 0) {
            file.seek(SeekFrom::Start(length))?;
        } else {
            file.write_all(data)?;
        }
    }
    file.set_len(length)
}

fn wrong(name: &Path, what: &str) -> io::Error {
    let name: String = name.to_string_lossy().chars().take(200).collect();
    io::Error::new(io::ErrorKind::InvalidData, format!("entry {name:?} {what}"))
}
