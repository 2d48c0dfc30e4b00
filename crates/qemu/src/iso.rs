//! A small writer of ISO 9660 images with Joliet names, for NoCloud seeds: one directory of small files.
//!
//! Layout in sectors of 2048 bytes: 16 empty ones, primary and Joliet volume descriptor, terminator, two path tables
//! for each tree, one root directory for each tree, then the files.

const SECTOR: usize = 2048;
/// Sector numbers of the fixed parts.
const PRIMARY_TABLES: u32 = 19;
const JOLIET_TABLES: u32 = 21;
const PRIMARY_ROOT: u32 = 23;
const JOLIET_ROOT: u32 = 24;
const FILES: u32 = 25;
/// Joliet's UCS-2 level 3.
const JOLIET: &[u8] = b"%/E";

/// More, longer or stranger files than a seed has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a seed holds up to 16 files of up to 16 MiB with short ASCII names")]
pub struct TooMuch;

/// An image with the volume label `label` (upper case ASCII) and these files (name and bytes) in its root.
///
/// # Errors
/// When there is more than a seed ever has.
pub fn image(label: &str, files: &[(&str, &[u8])]) -> Result<Vec<u8>, TooMuch> {
    let sound =
        |name: &str| name.len() <= 30 && name.bytes().all(|c| c.is_ascii_graphic() && c != b'/' && c != b';');
    if files.len() > 16
        || label.len() > 16
        || files.iter().any(|(name, data)| !sound(name) || data.len() > 16 << 20)
    {
        return Err(TooMuch);
    }
    let mut next = FILES;
    let mut extents = Vec::new();
    for (name, data) in files {
        extents.push((*name, next, len(data)));
        next += len(data).div_ceil(len(&[0; SECTOR]));
    }
    let mut out = vec![0; 16 * SECTOR];
    out.extend(descriptor(1, label, next, PRIMARY_TABLES, PRIMARY_ROOT));
    out.extend(descriptor(2, label, next, JOLIET_TABLES, JOLIET_ROOT));
    let mut end = b"\xffCD001\x01".to_vec();
    end.resize(SECTOR, 0);
    out.extend(end);
    for root in [PRIMARY_ROOT, JOLIET_ROOT] {
        for bytes in [root.to_le_bytes(), root.to_be_bytes()] {
            let big = bytes == root.to_be_bytes();
            let parent: [u8; 2] = if big { [0, 1] } else { [1, 0] };
            let mut table = vec![1, 0];
            table.extend(bytes);
            table.extend(parent);
            table.extend([0, 0]);
            table.resize(SECTOR, 0);
            out.extend(table);
        }
    }
    out.extend(directory(PRIMARY_ROOT, &extents, plain_name));
    out.extend(directory(JOLIET_ROOT, &extents, wide));
    for (_, data) in files {
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(SECTOR), 0);
    }
    Ok(out)
}

fn len(data: &[u8]) -> u32 {
    // Limited above to 16 MiB.
    u32::try_from(data.len()).unwrap_or(u32::MAX)
}

/// Names of the primary tree: upper case, unusual characters as `_`, a version. Readers that know Joliet use the real
/// ones.
fn plain_name(name: &str) -> Vec<u8> {
    let mut out: Vec<u8> = name
        .bytes()
        .map(|c| if c.is_ascii_alphanumeric() || c == b'.' { c.to_ascii_uppercase() } else { b'_' })
        .collect();
    if !out.contains(&b'.') {
        out.push(b'.');
    }
    out.extend(b";1");
    out
}

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

fn both_32(number: u32) -> impl Iterator<Item = u8> {
    number.to_le_bytes().into_iter().chain(number.to_be_bytes())
}

fn both_16(number: u16) -> impl Iterator<Item = u8> {
    number.to_le_bytes().into_iter().chain(number.to_be_bytes())
}

/// 1 January 2000 in the seven bytes of a directory record: the same content gives the same image.
const DATE: [u8; 7] = [100, 1, 1, 0, 0, 0, 0];

fn record(extent: u32, size: u32, directory: bool, name: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0];
    out.extend(both_32(extent));
    out.extend(both_32(size));
    out.extend(DATE);
    out.extend([if directory { 2 } else { 0 }, 0, 0]);
    out.extend(both_16(1));
    out.push(name.len() as u8);
    out.extend_from_slice(name);
    if out.len() % 2 == 1 {
        out.push(0);
    }
    let length = out.len() as u8;
    if let Some(first) = out.first_mut() {
        *first = length;
    }
    out
}

fn directory(own: u32, files: &[(&str, u32, u32)], encode: fn(&str) -> Vec<u8>) -> Vec<u8> {
    let mut out = record(own, SECTOR as u32, true, &[0]);
    out.extend(record(own, SECTOR as u32, true, &[1]));
    let mut records: Vec<(Vec<u8>, u32, u32)> =
        files.iter().map(|(name, extent, size)| (encode(name), *extent, *size)).collect();
    records.sort();
    for (name, extent, size) in records {
        out.extend(record(extent, size, false, &name));
    }
    // 16 files with names of 30 characters need less than one sector.
    out.resize(SECTOR, 0);
    out
}

fn descriptor(kind: u8, label: &str, sectors: u32, tables: u32, root: u32) -> Vec<u8> {
    let text = |value: &str, length: usize| -> Vec<u8> {
        let mut bytes = if kind == 2 { wide(value) } else { value.as_bytes().to_vec() };
        while bytes.len() < length {
            if kind == 2 {
                bytes.push(0);
            }
            bytes.push(b' ');
        }
        bytes.truncate(length);
        bytes
    };
    let mut out = vec![kind];
    out.extend(b"CD001\x01\x00");
    out.extend(text("", 32));
    out.extend(text(label, 32));
    out.extend([0; 8]);
    out.extend(both_32(sectors));
    let mut escape = if kind == 2 { JOLIET.to_vec() } else { Vec::new() };
    escape.resize(32, 0);
    out.extend(escape);
    out.extend(both_16(1));
    out.extend(both_16(1));
    out.extend(both_16(SECTOR as u16));
    out.extend(both_32(10));
    out.extend(tables.to_le_bytes());
    out.extend([0; 4]);
    out.extend((tables + 1).to_be_bytes());
    out.extend([0; 4]);
    out.extend(record(root, SECTOR as u32, true, &[0]));
    for length in [128, 128, 128, 128, 37, 37, 37] {
        out.extend(text("", length));
    }
    for _ in 0..4 {
        // A date that is not given.
        out.extend([b'0'; 16]);
        out.push(0);
    }
    out.push(1);
    out.resize(SECTOR, 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_where_the_descriptors_say() {
        let image =
            image("CIDATA", &[("user-data", b"#cloud-config\n"), ("meta-data", &[b'x'; 3000])]).unwrap();
        assert_eq!(image.len(), (FILES as usize + 1 + 2) * SECTOR);
        assert_eq!(&image[16 * SECTOR + 1..16 * SECTOR + 6], b"CD001");
        assert_eq!(&image[16 * SECTOR + 40..16 * SECTOR + 46], b"CIDATA");
        assert_eq!(&image[FILES as usize * SECTOR..][..14], b"#cloud-config\n");
    }

    #[test]
    fn too_much_is_refused() {
        assert_eq!(image("CIDATA", &[("a/b", b"")]), Err(TooMuch));
        assert_eq!(image("CIDATA", &[("x", b"".as_slice()); 17]), Err(TooMuch));
    }
}
