//! The images that a cluster has from the start, and how images get in: there is no registry.

use crate::{
    nodes::PAUSE,
    oci::{Entry, Image},
};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::{fs::File, path::Path, process::Command};

/// A shell and what tests need of the usual tools; its name in containerd. Pods that use it say `imagePullPolicy: Never`.
pub const TOOLS: &str = "localhost/tools:1";

/// Debian's busybox-static: one program without libraries.
const BUSYBOX: &str = "/bin/busybox";

fn busybox(name: &str, entry: &[&str]) -> Image {
    let mut image = Image { name: name.to_owned(), ..Image::default() };
    image.entries.insert("bin/busybox".to_owned(), Entry::File(BUSYBOX.into(), 0o755));
    image.config = json!({"Entrypoint": entry, "Env": ["PATH=/bin"]});
    image
}

/// What holds a pod's namespaces: it sleeps.
fn pause() -> Image {
    busybox(PAUSE, &["/bin/busybox", "sleep", "2147483647"])
}

fn tools() -> Image {
    let mut image = busybox(TOOLS, &["/bin/sh"]);
    for tool in ["sh", "cat", "echo", "hostname", "httpd", "id", "ls", "mount", "nc", "sleep", "true"] {
        image.entries.insert(format!("bin/{tool}"), Entry::Link("busybox".into()));
    }
    for directory in ["tmp", "proc", "sys", "dev"] {
        image.entries.insert(directory.to_owned(), Entry::Directory);
    }
    image
}

/// Writes the archives of both into `directory`.
pub fn write(directory: &Path) -> Result<Vec<std::path::PathBuf>> {
    std::fs::create_dir_all(directory)?;
    let mut written = Vec::new();
    for (file, image) in [("pause.tar", pause()), ("tools.tar", tools())] {
        let path = directory.join(file);
        image.write(&path).context("busybox-static is needed")?;
        written.push(path);
    }
    Ok(written)
}

/// Brings an archive into a node's containerd, with the node's first process as the way in.
pub fn load(archive: &Path, init: i32, ctr: &Path) -> Result<()> {
    let file = File::open(archive).with_context(|| archive.display().to_string())?;
    // Through standard input, because the node sees a /run and other directories of its own.
    let output = Command::new("nsenter")
        .args(["--mount", "--net", "--pid", "--target", &init.to_string(), "--"])
        .arg(ctr)
        .args(["--namespace", "k8s.io", "images", "import", "-"])
        .stdin(file)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", archive.display(), said.trim());
    Ok(())
}
