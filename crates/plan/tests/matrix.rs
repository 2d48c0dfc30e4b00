//! The matrices are under review: a change of the table is a change of these files.

use ferrovirt_plan::matrix;
use std::{fs, io, path::Path};

/// What is kept under this name; with `FERROVIRT_BLESS` set, `text` is kept from now on.
fn kept(name: &str, text: &str) -> io::Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/matrix").join(name);
    if std::env::var_os("FERROVIRT_BLESS").is_some() {
        fs::write(&path, text)?;
    }
    fs::read_to_string(&path)
}

#[test]
fn features_by_grants() {
    let text = matrix::features();
    assert!(
        kept("features.txt", &text).unwrap() == text,
        "review the change with FERROVIRT_BLESS=1 and git diff"
    );
}

#[test]
fn subjects_by_grants() {
    let text = matrix::subjects();
    assert!(
        kept("subjects.txt", &text).unwrap() == text,
        "review the change with FERROVIRT_BLESS=1 and git diff"
    );
}
