//! The files of NoCloud seeds on their way to the launcher, which makes each disk's image of them.
//!
//! A secret has up to 1 MiB and a message of the protocol less: a file travels in pieces before its order. It may be a
//! secret: no debug print shows it.

use crate::iso;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most bytes of all files of an order.
pub const MAX_BYTES: usize = 4 << 20;
/// Most files of an order.
const MAX_FILES: usize = 256;
/// Bytes of one piece: in a message each is up to four characters.
const PIECE: usize = 24 << 10;
/// The label by which the guest finds a seed.
const LABEL: &str = "CIDATA";

/// Bytes that a debug print counts and does not show.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Content(pub Vec<u8>);

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// A file of a seed, or a piece of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct File {
    /// The disk that is made of it.
    pub disk: String,
    /// Name in the root of the image.
    pub name: String,
    /// What is in it.
    pub content: Content,
}

impl File {
    /// The file as pieces that each fit into a message; an empty file is one piece.
    pub fn pieces(&self) -> impl Iterator<Item = Self> {
        let bytes = &self.content.0;
        let empty = bytes.is_empty().then_some([].as_slice());
        bytes.chunks(PIECE).chain(empty).map(|piece| Self {
            disk: self.disk.clone(),
            name: self.name.clone(),
            content: Content(piece.to_owned()),
        })
    }
}

/// More than the seeds of one machine have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the seeds of a machine hold at most {MAX_FILES} files with {MAX_BYTES} bytes together")]
pub struct TooMuch;

/// Files as their pieces come.
#[derive(Debug, Default)]
pub struct Files {
    files: Vec<File>,
    bytes: usize,
}

impl Files {
    /// Takes a piece: it begins a file, or goes on with the one of its name.
    ///
    /// # Errors
    /// [`TooMuch`]; the piece is not taken.
    pub fn add(&mut self, piece: File) -> Result<(), TooMuch> {
        let bytes = self.bytes.saturating_add(piece.content.0.len());
        if bytes > MAX_BYTES {
            return Err(TooMuch);
        }
        let full = self.files.len() >= MAX_FILES;
        let known = self.files.iter_mut().find(|file| file.disk == piece.disk && file.name == piece.name);
        match known {
            Some(file) => file.content.0.extend(piece.content.0),
            None if full => return Err(TooMuch),
            None => self.files.push(piece),
        }
        self.bytes = bytes;
        Ok(())
    }

    /// The image of a disk.
    ///
    /// # Errors
    /// When its files are more, longer or stranger than a seed's.
    pub fn image(&self, disk: &str) -> Result<Vec<u8>, iso::TooMuch> {
        let own = self.files.iter().filter(|file| file.disk == disk);
        let files: Vec<_> = own.map(|file| (file.name.as_str(), file.content.0.as_slice())).collect();
        iso::image(LABEL, &files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{MAX_MESSAGE, Request};

    fn file(name: &str, content: Vec<u8>) -> File {
        File { disk: "seed".to_owned(), name: name.to_owned(), content: Content(content) }
    }

    #[test]
    fn the_largest_secret_comes_through_in_messages_that_are_not_too_long() {
        let secret = file("user-data", vec![255; 1 << 20]);
        let mut files = Files::default();
        for piece in file("meta-data", Vec::new()).pieces().chain(secret.pieces()) {
            let bytes = serde_json::to_vec(&Request::Piece { piece }).unwrap();
            assert!(bytes.len() <= MAX_MESSAGE, "{}", bytes.len());
            let Request::Piece { piece } = serde_json::from_slice(&bytes).unwrap() else { panic!("another") };
            files.add(piece).unwrap();
        }
        let whole = iso::image("CIDATA", &[("meta-data", b""), ("user-data", &secret.content.0)]).unwrap();
        assert_eq!(files.image("seed").unwrap(), whole);
        assert_ne!(files.image("other").unwrap(), whole);
    }

    #[test]
    fn what_is_too_much_is_refused_and_nothing_is_shown() {
        let mut files = Files::default();
        files.add(file("user-data", vec![b'x'; MAX_BYTES])).unwrap();
        assert_eq!(files.add(file("user-data", vec![b'x'])), Err(TooMuch));
        let shown = format!("{files:?}");
        assert!(shown.contains("4194304 bytes") && shown.len() < 200, "{}", shown.len());
        let mut many = Files::default();
        let added = (0..1000).filter(|n| many.add(file(&n.to_string(), Vec::new())).is_ok()).count();
        assert_eq!(added, MAX_FILES);
    }
}
