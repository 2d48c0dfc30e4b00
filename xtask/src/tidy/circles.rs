//! Circles of imports inside a crate: files that need each other can only be understood all together.
//!
//! A file imports the file that has what it names, in a `use` or in a path that begins with `crate` or `super`. What a
//! module passes on of its own files with `pub use` counts where it comes from, so that it may gather their types without being
//! in a circle with them. A bare path into a module's own files (`child::run()`) is no import either: a table of rows may
//! have the helper that all rows use. Tests do not count.

use anyhow::{Context, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Most files of a circle.
const MOST: usize = 5;
/// How often a name may be passed on before it is found.
const MOST_STEPS: usize = 8;

/// The names from the root of the crate to something in it.
type Names = Vec<String>;

/// What one file names.
#[derive(Default)]
struct File {
    imports: Vec<Names>,
    /// Names that others may import from here, and where they are.
    passes_on: BTreeMap<String, Names>,
    /// Modules whose every name may be imported from here.
    passes_on_all: Vec<Names>,
    /// Names of types, functions and values that are defined here.
    defines: BTreeSet<String>,
}

/// What stands before a name that is defined.
const DEFINING: [&str; 7] = ["struct", "enum", "trait", "type", "fn", "const", "static"];

/// The files of a crate by their module.
type Files = BTreeMap<Names, File>;

/// Refuses circles of more than [`MOST`] files in the sources of a crate.
pub(super) fn check(name: &str, sources: &Path, wrong: &mut Vec<String>) -> Result<()> {
    let mut texts = BTreeMap::new();
    read(sources, &[], &mut texts).with_context(|| format!("reading {}", sources.display()))?;
    for circle in circles(&files(&texts)).into_iter().filter(|circle| circle.len() > MOST) {
        wrong.push(format!(
            "{name}: {} files import each other in a circle, and no more than {MOST} may: {}",
            circle.len(),
            circle
                .iter()
                .map(|module| format!("crate::{}", module.join("::")))
                .collect::<Vec<_>>()
                .join(", ")
        ));
    }
    Ok(())
}

/// The texts of a directory's modules, tests left out.
fn read(directory: &Path, module: &[String], texts: &mut BTreeMap<Names, String>) -> Result<()> {
    // Nobody can import the program beside a library.
    let library = directory.join("lib.rs").exists();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let mut inner = module.to_vec();
        match name.as_str() {
            "tests" => continue,
            "main" if library => continue,
            "mod" | "lib" | "main" => {}
            _ => inner.push(name),
        }
        if path.is_dir() {
            read(&path, &inner, texts)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            texts.insert(inner, fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

fn files(texts: &BTreeMap<Names, String>) -> Files {
    let file = |(module, text): (&Names, &String)| {
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let words = words(code);
        let defines = words
            .windows(2)
            .filter_map(|pair| match pair {
                [before, name] if DEFINING.contains(before) => Some((*name).to_owned()),
                _ => None,
            })
            .collect();
        let mut file = File { defines, ..File::default() };
        for found in paths(&words) {
            let Some(mut target) = absolute(module, &found.path, texts) else { continue };
            match (found.is_public, found.name.as_str()) {
                (true, "*") => {
                    target.pop();
                    file.passes_on_all.push(target);
                }
                (true, _) => {
                    // What is not of its own modules it imports as well.
                    if !target.starts_with(module) {
                        file.imports.push(target.clone());
                    }
                    file.passes_on.insert(found.name, target);
                }
                (false, _) => file.imports.push(target),
            }
        }
        (module.clone(), file)
    };
    texts.iter().map(file).collect()
}

/// The words of a source without its comments; `::` is one word, and so is every other sign.
fn words(code: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for line in code.lines() {
        let mut rest = line.split("//").next().unwrap_or_default().trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if rest.starts_with("::") {
                2
            } else if is_name(rest) {
                rest.find(|sign: char| !is_name_sign(sign)).unwrap_or(rest.len())
            } else {
                first.len_utf8()
            };
            let (word, after) = rest.split_at(length);
            words.push(word);
            rest = after.trim_start();
        }
    }
    words
}

fn is_name_sign(sign: char) -> bool {
    sign.is_alphanumeric() || sign == '_'
}

fn is_name(word: &str) -> bool {
    word.starts_with(|sign: char| sign.is_alphabetic() || sign == '_')
}

/// A path as it is written.
#[derive(Debug, PartialEq)]
struct Found {
    path: Names,
    /// The name that it has afterwards.
    name: String,
    /// From `pub use`.
    is_public: bool,
}

/// The paths of each `use`, one for each leaf of their braces, and those of `crate` and `super` inside the code.
fn paths(words: &[&str]) -> Vec<Found> {
    let mut found = Vec::new();
    let word = |at: usize| words.get(at).copied().unwrap_or_default();
    let mut at = 0;
    while at < words.len() {
        let before = at.checked_sub(1).map(word).unwrap_or_default();
        if word(at) == "use" {
            let first = found.len();
            at = leaves(words, at + 1, &[], &mut found);
            // The parenthesis is that of `pub(crate)`.
            found
                .iter_mut()
                .skip(first)
                .for_each(|leaf: &mut Found| leaf.is_public = matches!(before, "pub" | ")"));
        } else if ["crate", "super"].contains(&word(at)) && word(at + 1) == "::" && before != "::" {
            let mut path = vec![word(at).to_owned()];
            at += 1;
            while word(at) == "::" && is_name(word(at + 1)) {
                path.push(word(at + 1).to_owned());
                at += 2;
            }
            found.push(Found { path, name: String::new(), is_public: false });
        } else {
            at += 1;
        }
    }
    found
}

/// Reads one tree of `use` from `at`; answers where it ends.
fn leaves(words: &[&str], mut at: usize, around: &[String], found: &mut Vec<Found>) -> usize {
    let mut path = around.to_vec();
    let mut name = String::new();
    loop {
        match words.get(at).copied() {
            Some("::") => {}
            Some("{") => {
                at += 1;
                while !matches!(words.get(at), Some(&"}") | None) {
                    // One sign further where a comma, or something unknown, is.
                    at = leaves(words, at, &path, found).max(at + 1);
                    at = if words.get(at) == Some(&",") { at + 1 } else { at };
                }
                return at + 1;
            }
            Some("as") => {
                at += 1;
                name = words.get(at).copied().unwrap_or_default().to_owned();
            }
            Some("self") if !path.is_empty() => {}
            Some(word) if is_name(word) || word == "*" => {
                path.push(word.to_owned());
                name = word.to_owned();
            }
            _ => {
                found.push(Found { path, name, is_public: false });
                return at;
            }
        }
        at += 1;
    }
}

/// A path from the root of the crate; nothing for what comes from another crate.
fn absolute(module: &[String], path: &[String], files: &BTreeMap<Names, String>) -> Option<Names> {
    let ups = path.iter().take_while(|name| *name == "super").count();
    let (from, rest) = match path.first()?.as_str() {
        "crate" => (&[][..], path.get(1..)?),
        "self" => (module, path.get(1..)?),
        "super" => (module.get(..module.len().checked_sub(ups)?)?, path.get(ups..)?),
        child if files.contains_key(&[module, &[child.to_owned()]].concat()) => (module, path),
        _ => return None,
    };
    Some([from, rest].concat())
}

/// The file that has what a path leads to.
fn holder(files: &Files, path: &[String]) -> Option<Names> {
    let mut path = path.to_vec();
    for _ in 0..MOST_STEPS {
        let length = (0..=path.len())
            .rev()
            .find(|length| path.get(..*length).is_some_and(|m| files.contains_key(m)))?;
        let (module, rest) = path.split_at(length);
        let (file, name) = (files.get(module)?, rest.first());
        let defines = |module: &Names| {
            name.is_some_and(|name| files.get(module).is_some_and(|file| file.defines.contains(name)))
        };
        let named = name.and_then(|name| file.passes_on.get(name));
        path = match (named, file.passes_on_all.iter().find(|module| defines(module))) {
            (Some(target), _) if *target != path => {
                [target.as_slice(), rest.get(1..).unwrap_or_default()].concat()
            }
            (None, Some(module)) => return Some(module.clone()),
            _ => return Some(module.to_vec()),
        };
    }
    None
}

/// The sets of files of which each reaches each.
fn circles(files: &Files) -> BTreeSet<BTreeSet<Names>> {
    let imports: BTreeMap<&Names, BTreeSet<Names>> = files
        .iter()
        .map(|(module, file)| (module, file.imports.iter().filter_map(|path| holder(files, path)).collect()))
        .collect();
    let reached = |from: &Names| {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&Names> = imports.get(from).into_iter().flatten().collect();
        while let Some(module) = next.pop() {
            if seen.insert(module.clone()) {
                next.extend(imports.get(module).into_iter().flatten());
            }
        }
        seen
    };
    let all: BTreeMap<&Names, BTreeSet<Names>> =
        files.keys().map(|module| (module, reached(module))).collect();
    let reaches = |from: &Names, to: &Names| all.get(from).is_some_and(|seen| seen.contains(to));
    files
        .keys()
        .map(|module| {
            files.keys().filter(|other| reaches(module, other) && reaches(other, module)).cloned().collect()
        })
        .filter(|circle: &BTreeSet<Names>| !circle.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A crate with these files, and what is wrong with it.
    fn found(sources: &[(&str, &str)]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in sources {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut wrong = Vec::new();
        check("x", directory.path(), &mut wrong).unwrap();
        wrong
    }

    /// Files a, b, ... of which each imports the next, and the last the first.
    fn ring(count: u8) -> Vec<(String, String)> {
        let name = |at: u8| char::from(b'a' + at % count).to_string();
        let text = |at: u8| match at % 3 {
            0 => format!("use crate::{}::Thing;\n", name(at + 1)),
            1 => format!("use crate::{{other, {}::{{self, Thing as T}}}};\n", name(at + 1)),
            _ => format!("fn f() -> u8 {{ super::{}::f() }}\n", name(at + 1)),
        };
        (0..count).map(|at| (format!("{}.rs", name(at)), text(at))).collect()
    }

    fn of(files: &[(String, String)], more: &[(&str, &str)]) -> Vec<String> {
        let files = files.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        found(&files.chain(more.iter().copied()).collect::<Vec<_>>())
    }

    #[test]
    fn a_circle_of_six_is_refused_and_one_of_five_is_not() {
        assert!(of(&ring(5), &[("lib.rs", "mod a;")]).is_empty());
        let wrong = of(&ring(6), &[("lib.rs", "mod a;")]);
        assert!(wrong.len() == 1 && wrong[0].contains("6 files"), "{wrong:?}");
        assert!(wrong[0].contains("crate::a, ") && !wrong[0].contains("lib"), "{wrong:?}");
    }

    #[test]
    fn a_chain_comments_and_tests_are_no_circle() {
        for last in [
            "",
            "// use crate::a::X;\n",
            "#[cfg(test)]\nmod tests {\n    use crate::a::X;\n}\n",
            "use other::a::X;",
        ] {
            let mut files = ring(6);
            files[5].1 = last.to_owned();
            assert!(
                of(&files, &[("lib.rs", "mod a;"), ("a/tests.rs", "use crate::f::X;")]).is_empty(),
                "{last}"
            );
        }
    }

    /// What the root passes on is in the file that it comes from: the circle has no more files, and no fewer.
    #[test]
    fn what_is_passed_on_counts_where_it_comes_from() {
        let mut files = ring(6);
        files[0].1 = "use crate::Far;".to_owned();
        assert!(of(&files, &[("lib.rs", "mod a;\npub use other::Far;")]).is_empty());
        for lib in [
            "pub use b::Thing as Far;",
            "pub(crate) use b::{Thing as Far};",
            "pub use c::Far;",
            "pub use b::*;",
        ] {
            files[1].1 = "pub struct Far;\nuse crate::c::X;".to_owned();
            files[2].1 = "pub use super::b::Far;\nuse crate::d::X;".to_owned();
            let wrong = of(&files, &[("lib.rs", lib)]);
            assert!(wrong.len() == 1 && wrong[0].contains("6 files"), "{lib}: {wrong:?}");
        }
    }

    /// One word more hides no circle.
    #[test]
    fn who_passes_on_what_is_not_its_own_imports_it() {
        for word in ["pub", "pub(crate)", "pub(super)"] {
            let mut files = ring(6);
            files[0].1 = format!("{word} use crate::b::Thing;");
            assert_eq!(of(&files, &[("lib.rs", "mod a;")]).len(), 1, "{word}");
        }
    }

    #[test]
    fn a_module_and_the_files_in_its_directory_are_files_like_others() {
        let files = [
            ("lib.rs", "mod a;"),
            ("a/mod.rs", "mod b;\nuse b::f;"),
            ("a/b.rs", "use super::super::c;\n"),
            ("c/mod.rs", "use crate::c::d::*;\n"),
            ("c/d.rs", "use crate::{e};\n"),
            ("e.rs", "use self::f::g;"),
            ("e/f.rs", "use crate::a;\n"),
        ];
        let wrong = found(&files);
        assert!(wrong.len() == 1 && wrong[0].contains("6 files"), "{wrong:?}");
        assert!(wrong[0].contains("crate::a::b, "), "{wrong:?}");
    }
}
