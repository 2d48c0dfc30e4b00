//! Unpacking an image, without one of the capabilities that the agent has for it.

use super::{DENIED, missed};
use ferrovirt_node::image::{Policy, Store};
use sha2::{Digest, Sha256};
use std::{fs, path::Path, sync::Mutex};

/// An image with one file.
fn write(place: &Path) {
    let hex =
        |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o444);
    builder.append_data(&mut header, "disk/d", &b"x"[..]).unwrap();
    let layer = builder.into_inner().unwrap();
    let manifest = serde_json::json!({"layers": [{
        "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": format!("sha256:{}", hex(&layer)),
        "size": layer.len(),
    }]});
    let manifest = manifest.to_string().into_bytes();
    let index = serde_json::json!({"manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": format!("sha256:{}", hex(&manifest)),
        "size": manifest.len(),
    }]});
    let blobs = place.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    for bytes in [layer, manifest] {
        fs::write(blobs.join(hex(&bytes)), bytes).unwrap();
    }
    fs::write(place.join("index.json"), index.to_string()).unwrap();
}

pub(super) fn unpacked() {
    // Removed by this thread, which has lost nothing.
    let directories = Mutex::new(Vec::new());
    let step = || {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        write(&directory.path().join("images/a"));
        let (images, cache) = (directory.path().join("images"), directory.path().join("cache"));
        let marks = directory.path().join("marks");
        directories.lock().unwrap().push(directory);
        let program = env!("CARGO_BIN_EXE_virt-handler").into();
        let store =
            Store::open(images, cache, program, Policy::default()).map_err(|error| error.to_string())?;
        store.root("a", &marks).map(drop).map_err(|error| error.to_string())
    };
    for capability in ["SETUID", "SETGID", "SETPCAP", "CHOWN", "DAC_OVERRIDE"] {
        missed("node-images", capability, DENIED, step);
    }
}
