//! The server's certificate, which can change while it runs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Hands out the newest certificate; connections that are there keep theirs.
#[derive(Debug, Default)]
pub struct Identity(RwLock<Option<Arc<CertifiedKey>>>);

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Identity {
    /// Whether there is a certificate.
    pub fn is_there(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Uses a chain and its key, both PEM, from now on, if they belong together.
    ///
    /// # Errors
    /// What does not fit, in words.
    pub fn set(&self, certificate: &[u8], key: &[u8]) -> Result<(), String> {
        let chain = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|why| format!("the certificate is not PEM: {why}"))?;
        if chain.is_empty() {
            return Err("there is no certificate in the file".to_owned());
        }
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|why| format!("the key is not a PEM key: {why}"))?;
        let certified = CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())
            .map_err(|why| format!("certificate and key do not fit: {why}"))?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certified));
        Ok(())
    }

    /// Reads both files.
    pub(crate) fn read(&self, certificate: &Path, key: &Path) -> Result<(), String> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|why| format!("{} cannot be read: {why}", path.display()))
        };
        self.set(&read(certificate)?, &read(key)?)
    }

    /// Reads the files again whenever they changed. While they do not fit (one was written, the other not yet), the
    /// certificate that is there stays. Never ends.
    pub(crate) async fn follow_files(self: Arc<Self>, certificate: PathBuf, key: PathBuf) {
        // Small files, read whole: times of modification miss what a mounted Secret's symbolic link does.
        let look = || (std::fs::read(&certificate).ok(), std::fs::read(&key).ok());
        let mut seen = look();
        loop {
            tokio::time::sleep(LOOK).await;
            let now = look();
            if now == seen {
                continue;
            }
            match self.read(&certificate, &key) {
                Ok(()) => tracing::info!("the certificate was read again"),
                Err(why) => tracing::warn!("the old certificate stays in use: {why}"),
            }
            seen = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        (certificate.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[tokio::test]
    async fn files_are_read_again_when_they_fit_together() {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = (directory.path().join("c"), directory.path().join("k"));
        let write = |pair: &(String, String)| {
            std::fs::write(&certificate, &pair.0).unwrap();
            std::fs::write(&key, &pair.1).unwrap();
        };
        let shown = |identity: &Identity| identity.0.read().unwrap().as_ref().unwrap().cert.clone();
        let identity = Arc::new(Identity::default());
        write(&pair());
        identity.read(&certificate, &key).unwrap();
        let first = shown(&identity);
        std::fs::write(&key, pair().1).unwrap();
        assert!(identity.read(&certificate, &key).is_err());
        assert_eq!(shown(&identity), first, "what does not fit is not used");
        let following = tokio::spawn(Arc::clone(&identity).follow_files(certificate.clone(), key.clone()));
        // The task has to have seen the old files.
        tokio::task::yield_now().await;
        write(&pair());
        let changed = async {
            while shown(&identity) == first {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), changed).await.unwrap();
        following.abort();
    }
}
