//! Files that are made from the code: manifests, the table of privileges.

use crate::root;
use anyhow::{Result, ensure};
use std::{fs, path::PathBuf};

/// Path below the repository's root and content of every generated file.
fn files() -> Result<Vec<(PathBuf, String)>> {
    Ok(ferrovirt_plan::generate().into_iter().map(|(path, text)| (root().join(path), text)).collect())
}

/// Writes them.
pub(crate) fn write() -> Result<()> {
    for (path, text) in files()? {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, text)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// Compares them with what is committed.
pub(crate) fn check() -> Result<()> {
    for (path, text) in files()? {
        let found = fs::read_to_string(&path).unwrap_or_default();
        ensure!(
            found == text,
            "{} is out of date: run `cargo xtask generate` and review the difference",
            path.display()
        );
    }
    Ok(())
}
