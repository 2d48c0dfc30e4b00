//! `cargo xtask conformance scc` as a person or a script runs it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // A test stops at the first surprise.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};

fn run(directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask")).args(["conformance", "scc"]).arg(directory).output().unwrap()
}

/// The lines with counts, without the ending of compressed files.
fn counts(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout).replace(".gz:", ":");
    text.lines().filter(|line| line.contains(" cases, ")).map(str::to_owned).collect()
}

/// The recorded files of the repository, plain.
fn recorded(directory: &Path) -> Vec<PathBuf> {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance/scc");
    let mut files = Vec::new();
    for name in ["cases.jsonl", "objects.jsonl", "order.jsonl", "reviews.jsonl", "sccsets.json"] {
        let mut text = String::new();
        let file = fs::File::open(recorded.join(format!("{name}.gz"))).unwrap();
        GzDecoder::new(file).read_to_string(&mut text).unwrap();
        files.push(directory.join(name));
        fs::write(directory.join(name), text).unwrap();
    }
    files
}

#[test]
fn compressed_files_give_the_same_counts_and_a_wrong_answer_fails() {
    let plain = tempfile::tempdir().unwrap();
    let files = recorded(plain.path());
    let packed = tempfile::tempdir().unwrap();
    for file in &files {
        let name = file.file_name().unwrap().to_string_lossy();
        let target = fs::File::create(packed.path().join(format!("{name}.gz"))).unwrap();
        let mut writer = GzEncoder::new(target, Compression::fast());
        writer.write_all(&fs::read(file).unwrap()).unwrap();
        writer.finish().unwrap();
    }
    let (as_text, as_gzip) = (run(plain.path()), run(packed.path()));
    assert!(as_text.status.success() && as_gzip.status.success(), "{as_text:?}\n{as_gzip:?}");
    assert_eq!(counts(&as_text), counts(&as_gzip));
    assert_eq!(counts(&as_text).len(), 5, "{as_text:?}");

    // One answer turned round: the tool says which, and the exit code tells scripts.
    let cases = fs::read_to_string(plain.path().join("cases.jsonl")).unwrap();
    let (turned, rest) = cases.split_once('\n').unwrap();
    let mut case: serde_json::Value = serde_json::from_str(turned).unwrap();
    let allowed = case["result"]["allowed"].as_bool().unwrap();
    case["result"]["allowed"] = (!allowed).into();
    fs::write(plain.path().join("cases.jsonl"), format!("{case}\n{rest}")).unwrap();
    let wrong = run(plain.path());
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
    let said = String::from_utf8_lossy(&wrong.stdout);
    assert!(said.contains(case["id"].as_str().unwrap()) && said.contains("1 different"), "{said}");
}
