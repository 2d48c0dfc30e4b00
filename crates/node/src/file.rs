//! Files that have to be there after the node has lost power.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Writes a file of this user's alone whole or not at all, also when the node loses power: when this returns, its bytes and
/// its name are on the disk.
pub(crate) fn whole(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let path = file.with_extension("part");
    let mut part = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    part.write_all(bytes)?;
    part.sync_all()?;
    fs::rename(path, file)?;
    file.parent().map_or(Ok(()), |directory| fs::File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_file_is_replaced_whole_and_leaves_no_part() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.json");
        fs::write(directory.path().join("a.part"), "longer than what comes").unwrap();
        for text in ["first", "2"] {
            whole(&file, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        }
        fs::remove_file(&file).unwrap();
        whole(&file, b"x").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        whole(&directory.path().join("none/a.json"), b"x").unwrap_err();
    }
}
