//! The matrices are under review: a change of the table is a change of these files.

use ferrovirt_plan::matrix;
use std::{fs, path::Path};

fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/matrix").join(name);
    if std::env::var_os("FERROVIRT_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == text,
        "{} is not what the privilege table says: look at the difference after a run with FERROVIRT_BLESS=1",
        path.display()
    );
}

#[test]
fn features_by_grants() {
    golden("features.txt", &matrix::features());
}

#[test]
fn subjects_by_grants() {
    golden("subjects.txt", &matrix::subjects());
}
