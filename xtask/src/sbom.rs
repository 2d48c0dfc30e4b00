//! What is in an image, as an SPDX 2.3 document: packages of Debian and crates.

use anyhow::{Context, Result, ensure};
use ferrovirt_cluster::oci::{Entry, Image};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A package, by name and version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    version: String,
    /// Where packages of its kind are named by (purl).
    url: String,
    /// Its licence as an SPDX expression, where that is known.
    licence: Option<String>,
}

/// The crates that are linked into a program.
pub(crate) fn crates(root: &Path, package: &str) -> Result<BTreeSet<Package>> {
    let output = Command::new("cargo")
        .current_dir(root)
        .args(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}\t{l}"])
        .args(["--package", package])
        .output()?;
    ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(read_crate).collect())
}

/// `NAME vVERSION[ (SOURCE)]<tab>LICENCE[ (*)]`.
fn read_crate(line: &str) -> Option<Package> {
    let (package, licence) = line.split_once('\t')?;
    let mut words = package.split(' ');
    let (name, version) = (words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned());
    let licence = licence.trim_end_matches(" (*)").replace('/', " OR ");
    let licence = Some(licence).filter(|licence| !licence.is_empty());
    let url = format!("pkg:cargo/{name}@{}", escaped(&version));
    Some(Package { name, version, url, licence })
}

/// The packages of Debian whose files are in the image. Its own program belongs to none.
pub(crate) fn owners(image: &Image) -> Result<BTreeSet<Package>> {
    let mut names = BTreeSet::new();
    for (inside, entry) in &image.entries {
        let Entry::File(from, _) = entry else { continue };
        if Path::new("/").join(inside) == *from {
            names.insert(owner(from)?);
        }
    }
    names.iter().map(|name| version(name)).collect()
}

/// Debian moved /lib below /usr; its packages name files by either path.
fn owner(path: &Path) -> Result<String> {
    let real = fs::canonicalize(path).with_context(|| path.display().to_string())?;
    let short = real.strip_prefix("/usr").map(|rest| PathBuf::from("/").join(rest)).unwrap_or_default();
    for candidate in [real.as_path(), &short, path] {
        let output = Command::new("dpkg-query").arg("--search").arg(candidate).output()?;
        if let Some(package) = read_owner(&String::from_utf8_lossy(&output.stdout)) {
            return Ok(package);
        }
    }
    anyhow::bail!("{} belongs to no package", path.display())
}

/// `PACKAGE[:ARCHITECTURE][, PACKAGE...]: PATH`, after lines about diversions, which name a package that the file is not of.
fn read_owner(said: &str) -> Option<String> {
    let line = said
        .lines()
        .find(|line| !line.starts_with("diversion by ") && !line.starts_with("local diversion "))?;
    let (packages, _) = line.split_once(": ")?;
    packages.split(", ").next().map(str::to_owned)
}

fn version(package: &str) -> Result<Package> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${Version} ${Architecture}", package])
        .output()?;
    read_package(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| format!("dpkg-query knows nothing of {package}"))
}

/// `NAME VERSION ARCHITECTURE`.
fn read_package(said: &str) -> Option<Package> {
    let mut words = said.split(' ').map(str::to_owned);
    let (name, version, architecture) = (words.next()?, words.next()?, words.next()?);
    let url = format!("pkg:deb/debian/{}@{}?arch={architecture}", escaped(&name), escaped(&version));
    Some(Package { name, version, url, licence: None })
}

/// Names and versions may hold plus signs, which a URL reads as blanks.
fn escaped(text: &str) -> String {
    text.replace('+', "%2B")
}

/// The document. It has no time of its own, because the same files have to give the same bytes.
pub(crate) fn document(
    image: &str,
    digest: &str,
    packages: &BTreeSet<Package>,
    crates: &BTreeSet<Package>,
) -> Value {
    let parts: Vec<&Package> = packages.iter().chain(crates).collect();
    let mut described = vec![json!({
        "SPDXID": "SPDXRef-image",
        "name": image,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "primaryPackagePurpose": "CONTAINER",
        "checksums": [{"algorithm": "SHA256", "checksumValue": digest.trim_start_matches("sha256:")}],
    })];
    let mut relations = vec![json!({
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": "SPDXRef-image",
    })];
    for (number, part) in parts.iter().enumerate() {
        let id = format!("SPDXRef-{number}");
        described.push(json!({
            "SPDXID": id,
            "name": part.name,
            "versionInfo": part.version,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "licenseDeclared": part.licence.as_deref().unwrap_or("NOASSERTION"),
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": part.url,
            }],
        }));
        relations.push(json!({
            "spdxElementId": "SPDXRef-image",
            "relationshipType": "CONTAINS",
            "relatedSpdxElement": id,
        }));
    }
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": image,
        "documentNamespace": format!("https://ferrovirt.invalid/spdx/{}", digest.replace(':', "-")),
        "creationInfo": {"created": "1970-01-01T00:00:00Z", "creators": ["Tool: cargo-xtask-images"]},
        "packages": described,
        "relationships": relations,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_read_with_their_licences() {
        let read = read_crate("serde v1.0.228\tMIT OR Apache-2.0 (*)").unwrap();
        assert_eq!((read.name.as_str(), read.version.as_str()), ("serde", "1.0.228"));
        assert_eq!(read.licence.as_deref(), Some("MIT OR Apache-2.0"));
        assert_eq!(read.url, "pkg:cargo/serde@1.0.228");
        let own = read_crate("ferrovirt-qemu v0.1.0 (/somewhere)\tApache-2.0").unwrap();
        assert_eq!((own.name.as_str(), own.version.as_str()), ("ferrovirt-qemu", "0.1.0"));
        assert_eq!(read_crate("x v1.0.0\tMIT/Apache-2.0").unwrap().licence.unwrap(), "MIT OR Apache-2.0");
        assert!(read_crate("").is_none());
    }

    #[test]
    fn packages_are_read_and_named_by_urls() {
        let read = read_package("libstdc++6 12.2.0-14+deb12u1 amd64").unwrap();
        assert_eq!((read.name.as_str(), read.version.as_str()), ("libstdc++6", "12.2.0-14+deb12u1"));
        assert_eq!(read.url, "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1?arch=amd64");
        assert!(read_package("").is_none() && read_package("libc6 2.36").is_none());
    }

    /// What a licence or a checksum says is about its own part.
    #[test]
    fn the_document_says_what_each_part_is() {
        let package = read_package("libc6 2.36 amd64").unwrap();
        let linked = ["a v1.0.0\tMIT", "b v2.0.0\t"].map(|line| read_crate(line).unwrap());
        let document = document("x:1", "sha256:ab", &BTreeSet::from([package]), &BTreeSet::from(linked));
        let parts = document["packages"].as_array().unwrap();
        let of = |name: &str| parts.iter().find(|part| part["name"] == name).unwrap();
        assert_eq!(of("x:1")["checksums"][0]["checksumValue"], "ab");
        assert_eq!(of("libc6")["licenseDeclared"], "NOASSERTION");
        assert_eq!((&of("a")["licenseDeclared"], &of("a")["versionInfo"]), (&json!("MIT"), &json!("1.0.0")));
        assert_eq!(of("b")["licenseDeclared"], "NOASSERTION");
        assert_eq!(of("b")["externalRefs"][0]["referenceLocator"], "pkg:cargo/b@2.0.0");
        let contains = document["relationships"].as_array().unwrap();
        assert_eq!(contains.iter().filter(|relation| relation["relationshipType"] == "CONTAINS").count(), 3);
    }

    #[test]
    fn everything_in_the_image_is_described_and_related_to_it() {
        let package = |name: &str| Package {
            name: name.to_owned(),
            version: "1".to_owned(),
            url: format!("pkg:deb/debian/{name}@1"),
            licence: None,
        };
        let document =
            document("x:1", "sha256:ab", &BTreeSet::from([package("a"), package("b")]), &BTreeSet::new());
        let ids: BTreeSet<_> = document["packages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|package| package["SPDXID"].as_str().unwrap())
            .collect();
        assert_eq!(ids.len(), 3);
        for relation in document["relationships"].as_array().unwrap() {
            assert!(ids.contains(relation["relatedSpdxElement"].as_str().unwrap()), "{relation}");
        }
        assert_eq!(document["documentNamespace"], "https://ferrovirt.invalid/spdx/sha256-ab");
    }

    /// A crate's version may have build metadata, whose plus sign a reader of URLs would take for a blank.
    #[test]
    fn versions_with_metadata_are_named_by_urls() {
        let read = read_crate("wasi v0.11.1+wasi-snapshot-preview1\tApache-2.0").unwrap();
        assert_eq!(read.version, "0.11.1+wasi-snapshot-preview1");
        assert_eq!(read.url, "pkg:cargo/wasi@0.11.1%2Bwasi-snapshot-preview1");
        let macros = read_crate("serde_derive v1.0.228 (proc-macro)\tMIT OR Apache-2.0").unwrap();
        assert_eq!((macros.name.as_str(), macros.version.as_str()), ("serde_derive", "1.0.228"));
    }

    /// What dpkg-query says of a file: the owner of several lines and forms, and never who only moved the file away.
    #[test]
    fn the_owner_of_a_file_is_read_from_each_form() {
        let rows = [
            ("libc6:amd64: /lib/x86_64-linux-gnu/libc.so.6\n", Some("libc6:amd64")),
            ("seabios: /usr/share/seabios/bios.bin\n", Some("seabios")),
            ("a:amd64, b: /usr/share/x\n", Some("a:amd64")),
            (
                "diversion by dash from: /bin/sh\ndiversion by dash to: /bin/sh.distrib\ndash: /bin/sh\n",
                Some("dash"),
            ),
            ("local diversion from: /x\nlocal diversion to: /x.y\nc: /x\n", Some("c")),
            ("diversion by dash from: /bin/sh\n", None),
            ("", None),
            ("nothing\n", None),
        ];
        for (said, wanted) in rows {
            assert_eq!(read_owner(said).as_deref(), wanted, "{said}");
        }
        // The real thing, for a file that is in every image, by either of its paths.
        for path in ["/lib64/ld-linux-x86-64.so.2", "/usr/lib64/ld-linux-x86-64.so.2"] {
            if Path::new(path).exists() {
                assert!(owner(Path::new(path)).unwrap().starts_with("libc6"), "{path}");
            }
        }
        assert!(owner(Path::new("/proc/version")).unwrap_err().to_string().contains("/proc/version"));
    }

    /// The crates of a program are those that are linked into it: none that tests or build scripts alone use.
    #[test]
    fn the_crates_of_the_launcher_are_linked_into_it() {
        let crates = crates(&crate::root(), "ferrovirt-launcher").unwrap();
        let names: BTreeSet<&str> = crates.iter().map(|package| package.name.as_str()).collect();
        assert!(
            names.contains("ferrovirt-launcher")
                && names.contains("ferrovirt-qemu")
                && names.contains("rustix")
        );
        for absent in ["tokio", "proptest", "tempfile", "kube", "rustls"] {
            assert!(!names.contains(absent), "{absent}");
        }
        // Each of them says under which licence it is.
        let without: Vec<_> = crates.iter().filter(|package| package.licence.is_none()).collect();
        assert!(without.is_empty(), "{without:?}");
        let error = super::crates(&crate::root(), "no-such-crate").unwrap_err().to_string();
        assert!(error.contains("no-such-crate"), "{error}");
    }

    /// The same parts give the same bytes, in whatever order they were found; another image or part gives others.
    #[test]
    fn the_document_follows_from_its_parts() {
        let package = |line: &str| read_package(line).unwrap();
        let (a, b) = (package("a 1 amd64"), package("b 2 amd64"));
        let of = |digest: &str, packages: &[&Package]| {
            document("x:1", digest, &packages.iter().map(|part| (*part).clone()).collect(), &BTreeSet::new())
        };
        assert_eq!(of("sha256:ab", &[&a, &b]), of("sha256:ab", &[&b, &a]));
        let others = [
            of("sha256:ab", &[&a, &b]),
            of("sha256:ac", &[&a, &b]),
            of("sha256:ab", &[&a]),
            of("sha256:ab", &[&a, &package("b 3 amd64")]),
        ];
        let texts: BTreeSet<String> = others.iter().map(Value::to_string).collect();
        assert_eq!(texts.len(), others.len());
    }
}
