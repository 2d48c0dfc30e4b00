//! Images without a registry: a reference names an OCI layout or archive in the node's image directory.

mod child;
mod collect;
mod inside;
mod store;

pub use inside::only_file;
pub use store::{Policy, Store};

use ferrovirt_unpack::{Failure, is_hex};
use std::io;

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reference cannot name an image of this node.
    #[error("image reference {0:?} is not of the form NAME[:TAG][@sha256:DIGEST]")]
    Reference(String),
    /// Nothing is there.
    #[error(
        "image {reference} is not on this node: put an OCI layout at {name} or an OCI archive at {name}.tar below the \
         node's image directory"
    )]
    Missing {
        /// As the pod says it.
        reference: String,
        /// Path below the image directory.
        name: String,
    },
    /// There is an image, but not with this tag.
    #[error("image {reference} has no manifest with this tag, only {found}")]
    Tag {
        /// As the pod says it.
        reference: String,
        /// The tags that it has.
        found: String,
    },
    /// The layout is damaged or of a kind that is not understood.
    #[error("image {reference}: {what}: make it again")]
    Broken {
        /// As the pod says it.
        reference: String,
        /// What is wrong.
        what: String,
    },
    /// It takes more than an image may.
    #[error(
        "image {reference}: {what}: make it smaller, or raise the node's limits (--image-... of its agent)"
    )]
    Limit {
        /// As the pod says it.
        reference: String,
        /// What it takes.
        what: String,
    },
    /// The node has no room for it.
    #[error("image {reference}: {what}: free space on the node")]
    Space {
        /// As the pod says it.
        reference: String,
        /// How much there is.
        what: String,
    },
    /// The node could not do what was asked.
    #[error("image {reference}: {source}")]
    Io {
        /// As the pod says it.
        reference: String,
        /// What it said.
        source: io::Error,
    },
    /// Too many pods wait for one image.
    #[error("image {0} is being unpacked")]
    Busy(String),
    /// A directory that should have exactly one file.
    #[error("image {reference}: {what}; name the file with `path`")]
    Disk {
        /// The image.
        reference: String,
        /// What is wrong.
        what: String,
    },
}

impl Error {
    fn of(reference: &str, failure: Failure) -> Self {
        let reference = reference.to_owned();
        match failure {
            Failure::Tag(found) => Self::Tag { reference, found },
            Failure::Broken(what) => Self::Broken { reference, what },
            Failure::Limit(what) => Self::Limit { reference, what },
            Failure::Space(what) => Self::Space { reference, what },
            Failure::Node(what) => Self::Io { reference, source: io::Error::other(what) },
        }
    }
}

/// A parsed image reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    name: String,
    tag: String,
    digest: Option<String>,
}

impl Reference {
    /// Splits `NAME[:TAG][@sha256:DIGEST]`. A name is relative and without `.` and `..`.
    ///
    /// # Errors
    /// [`Error::Reference`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Reference(text.chars().take(200).collect());
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let hex = digest.strip_prefix("sha256:").filter(|hex| is_hex(hex)).ok_or_else(wrong)?;
                (rest, Some(hex.to_owned()))
            }
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            // A colon before the last slash belongs to a port.
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (rest, "latest"),
        };
        let sound = |part: &str| {
            !part.is_empty()
                && part.len() <= 128
                && !part.starts_with('.')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-:".contains(c))
        };
        if name.len() > 255 || !name.split('/').all(sound) || !sound(tag) || tag.contains(':') {
            return Err(wrong());
        }
        Ok(Self { name: name.to_owned(), tag: tag.to_owned(), digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_name_images_of_this_node_only() {
        for (text, name, tag) in [
            ("a/b:1", "a/b", "1"),
            ("tool", "tool", "latest"),
            ("localhost:5000/a/b", "localhost:5000/a/b", "latest"),
            ("localhost:5000/a:x", "localhost:5000/a", "x"),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!((reference.name.as_str(), reference.tag.as_str()), (name, tag), "{text}");
        }
        for text in ["", "/etc", "../a", "a/../../b", "a//b", "a b", "a:", "a@sha256:12", "a/.hidden", "a\0b"]
        {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
    }
}
