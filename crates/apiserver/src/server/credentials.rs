//! What the server shows and hands out to prove who somebody is, renewed while it runs.
//!
//! Nothing here waits for a moment by the system's clock: it is looked at again and again, by a clock that nobody sets, so
//! that a jump forwards or back is noticed soon.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{ServerError, listen};
use crate::app::App;
use crate::auth::Pki;
use crate::clock::Jumps;

/// How often what is done.
struct Pace {
    /// Looks at the clock and at the certificates.
    look: Duration,
    /// Tokens are handed out again. They live 24 times as long, so that a clock that jumps by hours makes none of them
    /// expire.
    tokens: Duration,
    /// Pause after kubeconfigs could not be handed out, and between two lines about certificates that cannot be renewed.
    again: Duration,
}

const PACE: Pace =
    Pace { look: Duration::from_secs(10), tokens: Duration::from_secs(3600), again: Duration::from_secs(60) };

/// Makes kubeconfigs and keeps certificates good. Clones share everything.
#[derive(Clone)]
pub struct Credentials {
    pub(super) app: Arc<App>,
    pub(super) address: SocketAddr,
    /// Where the system's own accounts connect.
    pub(super) internal: SocketAddr,
    keys: PathBuf,
    pki: Arc<RwLock<Pki>>,
    shown: Arc<Shown>,
}

impl Credentials {
    pub(super) fn new(
        app: Arc<App>,
        (address, internal): (SocketAddr, Option<SocketAddr>),
        keys: PathBuf,
        pki: Pki,
        shown: Arc<Shown>,
    ) -> Self {
        let internal = internal.unwrap_or(address);
        Self { app, address, internal, keys, pki: Arc::new(RwLock::new(pki)), shown }
    }

    pub(super) fn pki(&self) -> Pki {
        self.pki.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Renews certificates that are near their end or not good yet; true when there were any. New connections see the new
    /// one. `now` is the system's time.
    ///
    /// # Errors
    /// When they cannot be read, made or written; those that are there stay in use.
    pub fn renew(&self, now: OffsetDateTime) -> Result<bool, ServerError> {
        let renewed = self.renew_due(now);
        self.app.metrics.set_certificates_end(renewed.is_err());
        renewed
    }

    fn renew_due(&self, now: OffsetDateTime) -> Result<bool, ServerError> {
        if !self.pki().is_due(now) {
            return Ok(false);
        }
        let pki = Pki::open(&self.keys, &addresses(self.address), now)?;
        self.shown.set(&pki)?;
        *self.pki.write().unwrap_or_else(PoisonError::into_inner) = pki;
        Ok(true)
    }

    /// Keeps certificates good, and calls `hand_out` whenever kubeconfigs are to be written again: every hour, when the
    /// clock has jumped, and when a certificate was renewed. Never ends.
    pub async fn keep<E: std::fmt::Display>(self, hand_out: impl FnMut(&Self) -> Result<(), E>) {
        self.keep_at(&PACE, hand_out).await;
    }

    async fn keep_at<E: std::fmt::Display>(
        self,
        pace: &Pace,
        mut hand_out: impl FnMut(&Self) -> Result<(), E>,
    ) {
        let mut jumps = Jumps::new(OffsetDateTime::now_utc(), Instant::now());
        let mut next = Instant::now() + pace.tokens;
        let mut said: Option<Instant> = None;
        loop {
            tokio::time::sleep(pace.look).await;
            let (wall, now) = (OffsetDateTime::now_utc(), Instant::now());
            if let Some(jump) = jumps.look(wall, now) {
                tracing::warn!(
                    "the clock of this machine jumped by {}: certificates and tokens are looked at again. If it is wrong \
                     now, set it; machines keep running meanwhile",
                    crate::clock::span(jump)
                );
                next = now;
            }
            let may_say = said.is_none_or(|said| now.duration_since(said) >= pace.again);
            match self.renew(wall) {
                Ok(true) => {
                    tracing::info!(
                        "certificates were renewed; copies of admin.kubeconfig made before end with theirs"
                    );
                    next = now;
                }
                Ok(false) => {}
                Err(error) if may_say => {
                    said = Some(now);
                    tracing::error!("certificates cannot be renewed: {}", why(&error));
                }
                Err(_) => {}
            }
            if now >= next {
                next = now + pace.tokens;
                if let Err(error) = hand_out(&self) {
                    next = now + pace.again;
                    tracing::error!("kubeconfigs cannot be written again: {error:#}");
                }
            }
        }
    }
}

/// An error with its causes.
fn why(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Further addresses that the server's certificate is good for.
pub(super) fn addresses(address: SocketAddr) -> [IpAddr; 1] {
    [address.ip()]
}

/// The certificate that new connections see.
#[derive(Debug)]
pub(super) struct Shown(RwLock<Arc<CertifiedKey>>);

impl Shown {
    pub(super) fn new(pki: &Pki) -> Result<Self, ServerError> {
        Ok(Self(RwLock::new(listen::certified(pki)?)))
    }

    fn set(&self, pki: &Pki) -> Result<(), ServerError> {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = listen::certified(pki)?;
        Ok(())
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName};
    use tokio::net::TcpStream;

    use super::*;
    use crate::server::{Config, Server};

    async fn open(data: &std::path::Path) -> Server {
        Server::open(Config {
            data_dir: data.join("data"),
            listen: ([127, 0, 0, 1], 0).into(),
            agent_socket: data.join("agent.sock"),
            scc_admission: Default::default(),
            longest_watch: None,
            audit: None,
        })
        .await
        .unwrap()
    }

    /// The certificate that a client sees who trusts this authority.
    async fn shown(address: SocketAddr, authority: &str) -> Vec<u8> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    #[tokio::test]
    async fn certificates_are_renewed_while_the_server_runs() {
        let data = tempfile::tempdir().unwrap();
        let server = open(data.path()).await;
        let (credentials, address) = (server.credentials(), server.address());
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let serving = tokio::spawn(server.serve(stopped));
        let before = credentials.pki();
        let (seen, admin) = (shown(address, &before.ca_pem).await, credentials.admin_kubeconfig());
        let now = OffsetDateTime::now_utc();
        assert!(!credentials.renew(now).unwrap());
        assert!(!credentials.renew(now + time::Duration::hours(30)).unwrap(), "hours are no reason");
        assert!(credentials.renew(now + time::Duration::days(310)).unwrap());
        assert_ne!(shown(address, &before.ca_pem).await, seen, "new connections see the new certificate");
        assert_ne!(credentials.admin_kubeconfig(), admin);
        assert!(!credentials.renew(now + time::Duration::days(310)).unwrap());
        stop.send_replace(true);
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn that_certificates_cannot_be_renewed_is_known_until_they_are() {
        let data = tempfile::tempdir().unwrap();
        let server = open(data.path()).await;
        let credentials = server.credentials();
        let late = OffsetDateTime::now_utc() + time::Duration::days(310);
        let (keys, away) = (data.path().join("data/pki"), data.path().join("away"));
        std::fs::rename(&keys, &away).unwrap();
        std::fs::write(&keys, "").unwrap();
        assert!(!credentials.app.metrics.certificates_end());
        credentials.renew(late).unwrap_err();
        assert!(credentials.app.metrics.certificates_end());
        assert!(credentials.app.metrics.text().contains("certificates_not_renewed 1"));
        std::fs::remove_file(&keys).unwrap();
        std::fs::rename(&away, &keys).unwrap();
        assert!(credentials.renew(late).unwrap());
        assert!(!credentials.app.metrics.certificates_end());
    }

    #[tokio::test]
    async fn kubeconfigs_are_handed_out_again_and_again_also_after_a_failure() {
        let data = tempfile::tempdir().unwrap();
        let server = open(data.path()).await;
        let (sender, mut handed) = tokio::sync::mpsc::unbounded_channel();
        let millis = Duration::from_millis;
        let pace = Pace { look: millis(1), tokens: millis(20), again: millis(5) };
        let mut calls = 0;
        let keeping = server.credentials().keep_at(&pace, |credentials| {
            calls += 1;
            sender.send(credentials.kubeconfig_for_node("n").unwrap()).unwrap();
            if calls == 1 { Err("the disk is full") } else { Ok(()) }
        });
        let three =
            async { [handed.recv().await, handed.recv().await, handed.recv().await].map(Option::unwrap) };
        let [first, second, third] = tokio::select! {
            three = three => three,
            () = keeping => panic!("it never ends"),
        };
        assert!(first != second && second != third, "each has a token of its own");
    }
}
