//! A new file in place of the old one, with the same objects.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use super::{Disk, Failure, Objects, Rows, Totals, builder, failed, make_private};

/// Writes a new file beside the old one and puts it in its place; a crash leaves the one or the other. The old one is
/// overwritten, since it may hold Secrets in plain text.
pub(super) fn with(old: Disk, objects: &Objects, revision: u64) -> Result<Disk, Failure> {
    // Open until it has no name any more: nobody else may take it meanwhile.
    let Disk { path, keys, database: held, .. } = old;
    let fresh = path.with_extension("redb.new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    make_private(&fresh).map_err(failed)?;
    let database = builder().create(&fresh).map_err(failed)?;
    let before = fs::OpenOptions::new().write(true).open(&path).map_err(failed)?;
    let totals = Totals::default();
    let mut disk = Disk { path: path.clone(), keys, database: Some(database), totals, least: 0 };
    let rows: Result<Rows, Failure> =
        objects.iter().map(|(key, entry)| Ok((key.clone(), Some(disk.encode(key, entry)?)))).collect();
    disk.write(revision, &rows?)?;
    fs::rename(&fresh, &path).and_then(|()| sync_directory(&path)).map_err(failed)?;
    // Before its pages are overwritten, which closing reads.
    drop(held);
    if let Err(error) = overwrite(&before) {
        tracing::warn!(
            "the earlier store may have held Secrets in plain text, and overwriting it failed: {error}"
        );
    }
    Ok(disk)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(dir)?.sync_all()
}

/// Zeros over everything in a file that has no name any more. On file systems that write elsewhere it does not help.
fn overwrite(mut file: &fs::File) -> io::Result<()> {
    let mut left = file.metadata()?.len();
    let zeros = [0u8; 64 << 10];
    while left > 0 {
        let part = zeros.len().min(usize::try_from(left).unwrap_or(zeros.len()));
        file.write_all(zeros.get(..part).unwrap_or_default())?;
        left = left.saturating_sub(u64::try_from(part).unwrap_or(left));
    }
    file.sync_all()
}
