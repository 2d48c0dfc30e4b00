//! Writes an OCI image layout with one layer.

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{fs, path::Path};

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn blob(dir: &Path, media_type: &str, bytes: &[u8]) -> Result<Value> {
    let digest = digest(bytes);
    fs::write(dir.join("blobs/sha256").join(&digest), bytes)?;
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()}))
}

/// Writes the layout directory `dir` for one image `tag` whose only layer holds `files` (path in the image, file).
pub(crate) fn layout(dir: &Path, tag: &str, files: &[(&str, &Path)]) -> Result<()> {
    fs::create_dir_all(dir.join("blobs/sha256"))?;
    let mut tar = tar::Builder::new(Vec::new());
    for (name, path) in files {
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o444);
        header.set_mtime(0);
        // Left out, the fields are empty, which is no number for readers that are strict.
        header.set_uid(0);
        header.set_gid(0);
        tar.append_data(&mut header, name, bytes.as_slice())?;
    }
    let tar = tar.into_inner()?;
    let diff_id = digest(&tar);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    std::io::Write::write_all(&mut gzip, &tar)?;
    let layer = blob(dir, "application/vnd.oci.image.layer.v1.tar+gzip", &gzip.finish()?)?;
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
    });
    let config = blob(dir, "application/vnd.oci.image.config.v1+json", &serde_json::to_vec(&config)?)?;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer]});
    let mut manifest = blob(dir, media_type, &serde_json::to_vec(&manifest)?)?;
    if let Some(fields) = manifest.as_object_mut() {
        fields.insert("annotations".to_owned(), json!({"org.opencontainers.image.ref.name": tag}));
    }
    fs::write(
        dir.join("index.json"),
        serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [manifest]}))?,
    )?;
    Ok(fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Read as _, os::unix::fs::PermissionsExt as _};

    fn read(path: &Path) -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    /// A blob by its descriptor: its name is what it holds, its size how much.
    fn fetch(dir: &Path, descriptor: &Value) -> Vec<u8> {
        let name = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let bytes = fs::read(dir.join("blobs/sha256").join(name)).unwrap();
        assert_eq!(
            (digest(&bytes).as_str(), bytes.len()),
            (name, descriptor["size"].as_u64().unwrap() as usize)
        );
        bytes
    }

    #[test]
    fn a_layout_leads_from_its_tag_to_the_files() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (kernel, initrd) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&kernel, "kernel").unwrap();
        fs::write(&initrd, vec![7; 70_000]).unwrap();
        let files: [(&str, &Path); 2] = [("boot/vmlinuz", &kernel), ("boot/initrd", &initrd)];
        let out = dir.path().join("image");
        layout(&out, "latest", &files).unwrap();

        assert_eq!(read(&out.join("oci-layout"))["imageLayoutVersion"], "1.0.0");
        let index = read(&out.join("index.json"));
        let entry = &index["manifests"][0];
        assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "latest");
        let manifest: Value = serde_json::from_slice(&fetch(&out, entry)).unwrap();
        assert_eq!(manifest["mediaType"], entry["mediaType"]);
        let config: Value = serde_json::from_slice(&fetch(&out, &manifest["config"])).unwrap();
        let mut layer = Vec::new();
        let packed = fetch(&out, &manifest["layers"][0]);
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut layer).unwrap();
        // The config names the layer as it is unpacked, the manifest as it is packed.
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", digest(&layer)));
        let mut archive = tar::Archive::new(layer.as_slice());
        let found: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                let header = entry.header();
                let owner = (header.uid().unwrap(), header.gid().unwrap());
                let when = header.mtime().unwrap();
                (
                    entry.path().unwrap().display().to_string(),
                    header.mode().unwrap(),
                    owner,
                    when,
                    bytes.len(),
                )
            })
            .collect();
        let expected = |name: &str, length| (name.to_owned(), 0o444, (0, 0), 0, length);
        assert_eq!(found, [expected("boot/vmlinuz", 6), expected("boot/initrd", 70_000)]);

        // Whose file it is, and when it was made, is no part of an image.
        fs::set_permissions(&kernel, fs::Permissions::from_mode(0o600)).unwrap();
        fs::File::options().append(true).open(&kernel).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        layout(other.path(), "latest", &files).unwrap();
        assert_eq!(
            fs::read(other.path().join("index.json")).unwrap(),
            fs::read(out.join("index.json")).unwrap()
        );
        fs::write(&kernel, "Kernel").unwrap();
        layout(&out, "latest", &files).unwrap();
        assert_ne!(read(&out.join("index.json")), index);
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("no-such-file");
        let error = layout(dir.path(), "t", &[("a", &missing)]).unwrap_err();
        assert!(format!("{error:#}").contains("no-such-file"), "{error:#}");
    }

    /// A path of more than a hundred bytes, as an old archive could not have it, and one inside directories, are read back whole.
    #[test]
    fn names_of_any_length_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let long = format!("disk/{}/{}.img", "d".repeat(120), "n".repeat(90));
        let out = dir.path().join("image");
        layout(&out, "t", &[(&long, &file), ("disk/disk.img", &file)]).unwrap();
        let index = read(&out.join("index.json"));
        let manifest: Value = serde_json::from_slice(&fetch(&out, &index["manifests"][0])).unwrap();
        let mut layer = Vec::new();
        let packed = fetch(&out, &manifest["layers"][0]);
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut layer).unwrap();
        let mut archive = tar::Archive::new(layer.as_slice());
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, [long.as_str(), "disk/disk.img"]);
    }

    /// What would leave the directory into which a node unpacks it is no image.
    #[test]
    fn a_name_that_leads_outside_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        for name in ["../x", "a/../../x"] {
            assert!(layout(&dir.path().join("image"), "t", &[(name, &file)]).is_err(), "{name}");
        }
    }
}
