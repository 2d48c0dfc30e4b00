//! What a qcow2 image says about itself before QEMU opens it.
//!
//! An image is its author's. Its header can name other files (a backing file, an external data file) that
//! QEMU would open with its own rights and show to the guest; such an image is refused.

use crate::order::Format;

/// Bytes of the header that are looked at. A shorter file is no image.
pub const HEADER: usize = 80;

const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Incompatible feature bit of an external data file (QEMU's docs/interop/qcow2.txt).
const DATA_FILE: u64 = 1 << 2;

/// The format of a file that begins like this.
pub fn format(start: &[u8]) -> Format {
    if start.starts_with(&MAGIC) { Format::Qcow2 } else { Format::Raw }
}

/// Why an image is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Not qcow2 at all.
    #[error("not a qcow2 image")]
    NotQcow2,
    /// A version that does not exist yet, or no longer.
    #[error("qcow2 version {0} is not known: convert the image with `qemu-img convert -O qcow2`")]
    Version(u32),
    /// The image is the difference to another file.
    #[error(
        "the image is only the difference to a backing file: make it whole with `qemu-img convert -O qcow2`"
    )]
    BackingFile,
    /// The image's data is in another file.
    #[error("the image keeps its data in another file: make it whole with `qemu-img convert -O qcow2`")]
    DataFile,
}

/// Checks the start of a qcow2 image: [`HEADER`] bytes, or all of a shorter file.
///
/// # Errors
/// [`ImageError`] when QEMU would open more than the image itself, or could not open it.
pub fn qcow2(start: &[u8]) -> Result<(), ImageError> {
    let rest = start.strip_prefix(&MAGIC).ok_or(ImageError::NotQcow2)?;
    let (version, rest) = rest.split_first_chunk().ok_or(ImageError::NotQcow2)?;
    let (backing_offset, _) = rest.split_first_chunk().ok_or(ImageError::NotQcow2)?;
    if u64::from_be_bytes(*backing_offset) != 0 {
        return Err(ImageError::BackingFile);
    }
    match u32::from_be_bytes(*version) {
        2 => Ok(()),
        3 => {
            let features = start.get(72..).and_then(<[u8]>::first_chunk).ok_or(ImageError::NotQcow2)?;
            if u64::from_be_bytes(*features) & DATA_FILE != 0 { Err(ImageError::DataFile) } else { Ok(()) }
        }
        other => Err(ImageError::Version(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: u8, backing: u8, features: u8) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[7] = version;
        bytes[15] = backing;
        bytes[79] = features;
        bytes
    }

    #[test]
    fn the_first_bytes_are_the_format() {
        assert_eq!(format(&header(3, 0, 0)), Format::Qcow2);
        assert_eq!(format(&MAGIC), Format::Qcow2);
        for start in [b"".as_slice(), b"QFI", b"qfi\xfb", b"\0QFI\xfb"] {
            assert_eq!(format(start), Format::Raw, "{start:?}");
        }
    }

    #[test]
    fn only_images_that_stand_alone_are_good() {
        assert_eq!(qcow2(&header(3, 0, 0b1000)), Ok(()));
        assert_eq!(qcow2(&header(2, 0, 4)), Ok(()));
        assert_eq!(qcow2(&header(3, 104, 0)), Err(ImageError::BackingFile));
        assert_eq!(qcow2(&header(3, 0, 4)), Err(ImageError::DataFile));
        assert_eq!(qcow2(&header(1, 0, 0)), Err(ImageError::Version(1)));
        let good = header(3, 0, 0);
        assert!((0..HEADER).all(|length| qcow2(&good[..length]) == Err(ImageError::NotQcow2)));
        assert_eq!(qcow2(&[0x55; HEADER]), Err(ImageError::NotQcow2));
    }
}
