//! One object as it is on disk: its revision, a check, and its JSON, encrypted where it is a Secret.
//!
//! Check and encryption cover key and revision too, so that a record counts only where and as what it was written.
//!
//! ```text
//! plain   1 | revision, 8 bytes | digest, 16 bytes | JSON
//! sealed  2 | revision, 8 bytes | tag, 16 bytes    | key ID, 8 bytes | salt, 32 bytes | encrypted JSON
//! ```

use ring::digest;

use super::keys::{KeyId, Keys, SALT_BYTES};

const PLAIN: u8 = 1;
const SEALED: u8 = 2;
/// Bytes of the digest: the start of a SHA-256.
const CHECK_BYTES: usize = 16;
/// How the keys of objects start that are encrypted.
const SECRETS: &str = "//secrets/";

/// Why a record does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is not what was written.
    Damaged,
    /// The key that it was encrypted with is not there.
    NoKey(KeyId),
}

/// A record whose bytes were checked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) revision: u64,
    pub(super) json: Vec<u8>,
    /// False when it is to be written again: it is not encrypted as it would be now.
    pub(super) current: bool,
}

/// Writes a record. Nothing when the system has no random numbers.
pub(super) fn encode(keys: &Keys, key: &str, revision: u64, mut json: Vec<u8>) -> Option<Vec<u8>> {
    let number = revision.to_be_bytes();
    let context = context(key, revision);
    if !key.starts_with(SECRETS) {
        return Some([&[PLAIN][..], &number, &check(&context, &json), &json].concat());
    }
    let (salt, tag) = keys.seal(&context, &mut json)?;
    Some([&[SEALED][..], &number, tag.as_ref(), &keys.current(), &salt, &json].concat())
}

/// Reads a record.
///
/// # Errors
/// Why it does not count.
pub(super) fn decode(keys: &Keys, key: &str, bytes: &[u8]) -> Result<Record, Fault> {
    let (head, rest) = head(bytes).ok_or(Fault::Damaged)?;
    let context = context(key, head.revision);
    if head.kind == PLAIN {
        let good = check(&context, rest) == head.check;
        let current = !key.starts_with(SECRETS);
        return if good {
            Ok(Record { revision: head.revision, json: rest.to_vec(), current })
        } else {
            Err(Fault::Damaged)
        };
    }
    let (id, rest) = rest.split_first_chunk::<8>().ok_or(Fault::Damaged)?;
    let (salt, data) = rest.split_first_chunk::<SALT_BYTES>().ok_or(Fault::Damaged)?;
    if !keys.has(*id) {
        return Err(Fault::NoKey(*id));
    }
    let mut json = data.to_vec();
    keys.open_sealed(*id, salt, &context, head.check, &mut json).ok_or(Fault::Damaged)?;
    let current = *id == keys.current() && key.starts_with(SECRETS);
    Ok(Record { revision: head.revision, json, current })
}

/// The revision that a record carries and the number that stands for it in sums, without a look at the rest.
pub(super) fn peek(bytes: &[u8]) -> Option<(u64, u128)> {
    head(bytes).map(|(head, _)| (head.revision, u128::from_be_bytes(head.check)))
}

/// A digest for the store's own numbers, as records have it.
pub(super) fn check(context: &[u8], data: &[u8]) -> [u8; CHECK_BYTES] {
    let mut sum = digest::Context::new(&digest::SHA256);
    sum.update(context);
    sum.update(data);
    let mut out = [0; CHECK_BYTES];
    out.iter_mut().zip(sum.finish().as_ref()).for_each(|(to, from)| *to = *from);
    out
}

struct Head {
    kind: u8,
    revision: u64,
    check: [u8; CHECK_BYTES],
}

fn head(bytes: &[u8]) -> Option<(Head, &[u8])> {
    let (kind, rest) = bytes.split_first()?;
    let (revision, rest) = rest.split_first_chunk::<8>()?;
    let (check, rest) = rest.split_first_chunk::<CHECK_BYTES>()?;
    let known = matches!(*kind, PLAIN | SEALED);
    known.then_some((Head { kind: *kind, revision: u64::from_be_bytes(*revision), check: *check }, rest))
}

fn context(key: &str, revision: u64) -> Vec<u8> {
    // The length first: no other key and data make the same bytes.
    let length = u64::try_from(key.len()).unwrap_or(u64::MAX).to_be_bytes();
    [b"ferrovirt store record".as_slice(), &revision.to_be_bytes(), &length, key.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "//configmaps/n/a";
    const SECRET: &str = "//secrets/n/a";

    fn keys() -> (tempfile::TempDir, Keys) {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(&dir.path().join("keys")).unwrap();
        (dir, keys)
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let (_dir, keys) = keys();
        for key in [CONFIG, SECRET] {
            let bytes = encode(&keys, key, 7, b"{\"a\":1}".to_vec()).unwrap();
            let record = decode(&keys, key, &bytes).unwrap();
            assert_eq!(
                (record.revision, record.json.as_slice(), record.current),
                (7, &b"{\"a\":1}"[..], true)
            );
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(decode(&keys, key, &damaged).is_err(), "{key} bit {bit}");
            }
            for length in 0..bytes.len() {
                assert!(decode(&keys, key, &bytes[..length]).is_err());
            }
        }
    }

    #[test]
    fn a_record_counts_at_its_own_key_only() {
        let (_dir, keys) = keys();
        for (key, other) in [(CONFIG, "//configmaps/n/b"), (SECRET, "//secrets/n/b")] {
            let bytes = encode(&keys, key, 7, b"{}".to_vec()).unwrap();
            assert_eq!(decode(&keys, other, &bytes), Err(Fault::Damaged));
        }
    }

    #[test]
    fn secrets_are_encrypted_with_the_first_key_and_read_with_any() {
        let (dir, keys) = keys();
        let bytes = encode(&keys, SECRET, 7, b"password".to_vec()).unwrap();
        assert!(!bytes.windows(8).any(|part| part == b"password"));
        let path = dir.path().join("keys");
        Keys::prepend(&path).unwrap();
        let both = Keys::open(&path).unwrap();
        let old = decode(&both, SECRET, &bytes).unwrap();
        assert!(!old.current && old.json == b"password");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.lines().next().unwrap()).unwrap();
        let alone = Keys::open(&path).unwrap();
        assert_eq!(decode(&alone, SECRET, &bytes), Err(Fault::NoKey(keys.current())));
    }
}
