//! The images, made without a container engine: our programs, and of Debian's packages the files that they load.
//!
//! The same files give the same bytes. Beside each archive lies an SPDX document of what is in it.

use crate::{root, sbom};
use anyhow::{Context, Result, ensure};
use ferrovirt_cluster::{
    images::{self, libraries},
    oci::{Entry, Image},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// An image, and the crate whose dependencies are linked into its program.
struct Part {
    file: &'static str,
    package: &'static str,
    image: Image,
}

/// Makes the three images of the programs in `dist` into `out`: their archives.
pub(crate) fn images(dist: &Path, out: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(out)?;
    let mut archives = Vec::new();
    for (file, package) in [
        ("ferrovirt", "ferrovirt-cli"),
        ("virt-handler", "ferrovirt-agent"),
        ("virt-launcher", "ferrovirt-launcher"),
    ] {
        let part = Part { file, package, image: contents(file, &dist.join(file))? };
        let archive = out.join(format!("{file}.tar"));
        let digest = part.image.write(&archive)?;
        let crates = sbom::crates(&root(), part.package)?;
        let packages = sbom::owners(&part.image)?;
        let document = sbom::document(&part.image.name, &digest, &packages, &crates);
        fs::write(out.join(format!("{}.spdx.json", part.file)), serde_json::to_vec_pretty(&document)?)?;
        let size = fs::metadata(&archive)?.len();
        println!("{} {digest}, {} KiB, {}", part.image.name, size / 1024, archive.display());
        let said = documented(&fs::read_to_string(root().join(DOCUMENT))?, file)?;
        if size.abs_diff(said << 20) > (said << 20) / 5 {
            println!(
                "{DOCUMENT} says {said} MiB of {file}: if this was a release build, write there what it is now"
            );
        }
        archives.push(archive);
    }
    Ok(archives)
}

/// Where people read how large the images are.
const DOCUMENT: &str = "docs/install.md";

/// The size of an image in MiB that the document names, in the first row of a table that begins with its name.
fn documented(text: &str, file: &str) -> Result<u64> {
    let row = format!("| `{file}` | ");
    let size = text.lines().find_map(|line| line.strip_prefix(&row)?.split_once(" MiB |")?.0.parse().ok());
    size.with_context(|| format!("{DOCUMENT} has no size of {file}"))
}

/// What is in the image of a program.
fn contents(file: &str, program: &Path) -> Result<Image> {
    ensure!(program.exists(), "{} is missing: run `cargo xtask build`", program.display());
    let mut image = Image {
        name: format!("localhost/ferrovirt/{file}:{}", env!("CARGO_PKG_VERSION")),
        config: images::config(file),
        ..Image::default()
    };
    image.entries.insert(format!("usr/bin/{file}"), Entry::File(program.to_owned(), 0o755));
    for library in libraries(program)? {
        images::add(&mut image, &library, 0o755);
    }
    if file == "virt-launcher" {
        images::add_qemu(&mut image)?;
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_give_the_same_image() {
        let out = tempfile::tempdir().unwrap();
        let program = Path::new("/usr/bin/env");
        let write =
            |name: &str| contents("ferrovirt", program).unwrap().write(&out.path().join(name)).unwrap();
        assert_eq!(write("1.tar"), write("2.tar"));
        let read = |name: &str| fs::read(out.path().join(name)).unwrap();
        assert_eq!(read("1.tar"), read("2.tar"));
    }

    #[test]
    fn a_launcher_has_qemu_and_what_it_loads_and_no_shell() {
        let image = contents("virt-launcher", Path::new("/usr/bin/env")).unwrap();
        let has = |path: &str| image.entries.contains_key(path);
        assert!(has("usr/bin/qemu-system-x86_64") && has("usr/share/seabios/bios-256k.bin"));
        assert!(has("lib64/ld-linux-x86-64.so.2"));
        let programs: Vec<_> = image.entries.keys().filter(|path| path.contains("bin/")).collect();
        assert_eq!(programs, ["usr/bin/qemu-system-x86_64", "usr/bin/virt-launcher"]);
        // Every file that is not ours belongs to a package, which the document names.
        let owners = sbom::owners(&image).unwrap();
        assert!(owners.iter().any(|package| package.name == "qemu-system-x86"), "{owners:?}");
        assert!(owners.iter().any(|package| package.name == "libc6"));
    }

    /// People know what they will pull.
    #[test]
    fn the_size_of_each_image_is_documented() {
        let text = fs::read_to_string(root().join(DOCUMENT)).unwrap();
        for file in ["ferrovirt", "virt-handler", "virt-launcher"] {
            assert!((1..100).contains(&documented(&text, file).unwrap()), "{file}");
        }
        assert!(documented(&text, "other").is_err());
    }

    #[test]
    fn a_program_that_was_not_built_is_named_with_what_builds_it() {
        let error = contents("ferrovirt", Path::new("/no/such/ferrovirt")).unwrap_err().to_string();
        assert!(error.contains("/no/such/ferrovirt") && error.contains("cargo xtask build"), "{error}");
    }

    /// Each image starts its own program, the launcher as the user of disks and others as nobody, and everything in it is for everybody to read and for nobody
    /// to run as somebody else.
    #[test]
    fn images_start_their_programs_as_the_users_that_they_need() {
        for name in ["ferrovirt", "virt-handler", "virt-launcher"] {
            let image = contents(name, Path::new("/usr/bin/env")).unwrap();
            let program = image.config["Entrypoint"][0].as_str().unwrap();
            assert_eq!(program, format!("/usr/bin/{name}"));
            assert!(image.entries.contains_key(program.trim_start_matches('/')), "{program}");
            assert!(
                image.name.ends_with(&format!("/{name}:{}", env!("CARGO_PKG_VERSION"))),
                "{}",
                image.name
            );
            let (user, group) = image.config["User"].as_str().unwrap().split_once(':').unwrap();
            let expected = if name == "virt-launcher" { "107" } else { "65532" };
            assert_eq!((user, group), (expected, expected), "{name}");
            for (path, entry) in &image.entries {
                assert!(!path.starts_with('/') && !path.split('/').any(|part| part == ".."), "{path}");
                if let Entry::File(_, mode) | Entry::Text(_, mode) = entry {
                    assert_eq!(mode & 0o7022, 0, "{path} has mode {mode:o}");
                    assert_eq!(mode & 0o444, 0o444, "{path} has mode {mode:o}");
                }
            }
        }
    }

    /// A program that is linked to libraries starts in its image: all that it needs at its start is there.
    #[test]
    fn what_a_program_loads_is_in_its_image() {
        let program = Path::new("/usr/bin/qemu-img");
        let needed = libraries(program).unwrap();
        assert!(needed.len() > 3, "{needed:?}");
        let image = contents("ferrovirt", program).unwrap();
        for library in needed {
            let inside = library.to_string_lossy().trim_start_matches('/').to_owned();
            assert!(image.entries.contains_key(&inside), "{inside}");
        }
    }
}
