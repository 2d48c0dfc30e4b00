//! The keys that Secrets are encrypted with on disk.
//!
//! A text file, one key a line, each 32 random bytes in base64; empty lines and lines that start with `#` are skipped. The
//! first key is used for what is written, all of them for what is read. It is made with one key when it is missing.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::StoreError;

/// Bytes of a key of the file.
const KEY_BYTES: usize = 32;
/// Bytes of what each record derives its own key from.
pub(super) const SALT_BYTES: usize = 32;
/// Most bytes of the file: some thousand keys.
const MAX_FILE: u64 = 64 << 10;

/// Names a key in a record: the start of the key's digest.
pub(super) type KeyId = [u8; 8];

/// The keys of one store.
#[derive(Debug)]
pub struct Keys {
    path: PathBuf,
    /// Never empty; the first one is for writing.
    all: Vec<(KeyId, Prk)>,
}

impl Keys {
    /// Reads the file, or makes it with one key.
    ///
    /// # Errors
    /// [`StoreError::Keys`] when it cannot be read or made, or has a line that is no key.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        match read(path) {
            Ok(text) => Self::parse(path, &text).map_err(|why| wrong(path, why)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Self::prepend(path)?;
                let text = read(path).map_err(|error| wrong(path, format!("cannot be read: {error}")))?;
                Self::parse(path, &text).map_err(|why| wrong(path, why))
            }
            Err(error) => Err(wrong(path, format!("cannot be read: {error}"))),
        }
    }

    /// Puts a new key before the others, so that everything is encrypted with it after the next start. Makes the file
    /// when it is missing.
    ///
    /// # Errors
    /// [`StoreError::Keys`] when the file cannot be read or written.
    pub fn prepend(path: &Path) -> Result<(), StoreError> {
        let old = match read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(wrong(path, format!("cannot be read: {error}"))),
        };
        let mut key = [0u8; KEY_BYTES];
        SystemRandom::new()
            .fill(&mut key)
            .map_err(|_| wrong(path, "cannot be made: the system has no random numbers".to_owned()))?;
        replace(path, &format!("{}\n{old}", STANDARD.encode(key)))
            .map_err(|error| wrong(path, format!("cannot be written: {error}")))
    }

    fn parse(path: &Path, text: &str) -> Result<Self, String> {
        let mut all = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // What the line holds is not quoted: it may be most of a key.
            let key = STANDARD.decode(line).ok().filter(|key| key.len() == KEY_BYTES).ok_or_else(|| {
                format!("has no key in line {}: restore the file from a backup", number + 1)
            })?;
            all.push((id(&key), Prk::new_less_safe(HKDF_SHA256, &key)));
        }
        if all.is_empty() {
            return Err("has no key: restore the file from a backup".to_owned());
        }
        Ok(Self { path: path.to_owned(), all })
    }

    /// Where the keys are.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The ID of the key for writing.
    pub(super) fn current(&self) -> KeyId {
        self.all.first().map(|(id, _)| *id).unwrap_or_default()
    }

    /// Encrypts `data` in place with the first key; salt and tag. Nothing when the system has no random numbers.
    ///
    /// Every record has a key and a nonce of its own, derived from 32 random bytes: the bound of AES-GCM on random
    /// nonces does not apply, and nothing has to be counted. Kubernetes' KMS provider v2 does the same.
    pub(super) fn seal(&self, context: &[u8], data: &mut [u8]) -> Option<([u8; SALT_BYTES], Tag)> {
        let (_, key) = self.all.first()?;
        let mut salt = [0u8; SALT_BYTES];
        SystemRandom::new().fill(&mut salt).ok()?;
        let (key, nonce) = derive(key, &salt)?;
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(context), data).ok()?;
        Some((salt, tag))
    }

    /// Decrypts `data` in place. Nothing when it is not what was encrypted.
    pub(super) fn open_sealed(
        &self,
        id: KeyId,
        salt: &[u8; SALT_BYTES],
        context: &[u8],
        tag: [u8; 16],
        data: &mut [u8],
    ) -> Option<()> {
        let (_, key) = self.all.iter().find(|(known, _)| *known == id)?;
        let (key, nonce) = derive(key, salt)?;
        key.open_in_place_separate_tag(nonce, Aad::from(context), Tag::from(tag), data, 0..).ok()?;
        Some(())
    }

    /// Whether the key is there.
    pub(super) fn has(&self, id: KeyId) -> bool {
        self.all.iter().any(|(known, _)| *known == id)
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn derive(key: &Prk, salt: &[u8; SALT_BYTES]) -> Option<(LessSafeKey, Nonce)> {
    let mut out = [0u8; KEY_BYTES + NONCE_LEN];
    let info: [&[u8]; 2] = [b"ferrovirt store record", salt];
    key.expand(&info, Length(out.len())).ok()?.fill(&mut out).ok()?;
    let (key, nonce) = out.split_at_checked(KEY_BYTES)?;
    let key = UnboundKey::new(&AES_256_GCM, key).ok()?;
    Some((LessSafeKey::new(key), Nonce::try_assume_unique_for_key(nonce).ok()?))
}

fn id(key: &[u8]) -> KeyId {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(b"ferrovirt store key");
    context.update(key);
    let mut id = KeyId::default();
    id.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    id
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let file = fs::File::open(path)?;
    // Keys that others may read are no secret; who restored the file may not have kept its mode.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// After a crash there is the old file or the new one, on disk before anything is encrypted with its key.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let temporary = path.with_extension("keys.new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(dir)?.sync_all()
}

fn wrong(path: &Path, why: String) -> StoreError {
    StoreError::Keys { path: path.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_file_is_its_owners_alone_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pki/store.keys");
        let first = Keys::open(&path).unwrap().current();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Keys::open(&path).unwrap().current(), first);
        Keys::prepend(&path).unwrap();
        let both = Keys::open(&path).unwrap();
        assert_ne!(both.current(), first);
        assert!(both.has(first));
    }

    #[test]
    fn a_line_that_is_no_key_is_refused_and_not_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        for text in ["", "# none\n", "c2hvcnQ=\n", "not base64\n"] {
            fs::write(&path, text).unwrap();
            let error = Keys::open(&path).unwrap_err().to_string();
            assert!(error.contains("no key") && !error.contains("c2hvcnQ") && !error.contains("base64"));
        }
    }

    #[test]
    fn no_two_records_share_a_salt() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(&dir.path().join("keys")).unwrap();
        let salts: std::collections::BTreeSet<_> =
            (0..1000).map(|_| keys.seal(b"", &mut [0; 4]).unwrap().0).collect();
        assert_eq!(salts.len(), 1000);
    }
}
