//! TLS for both sides: the relay's own certificate, re-read when it changes, and the verification of SIP servers ([`client`]).
//!
//! | room | what it is |
//! | --- | --- |
//! | `client`, `identity` | trust in SIP servers, and the names of a certificate (RFC 5922) |
//! | `pinned`, `validity` | one known certificate; when one is valid |
//! | `tickets`, `sessions` | sessions that peers resume here, and those that are resumed at SIP servers |
//! | `challenge`, `doubts` | the answer to a CA, and what would make clients refuse the certificate |
//! | `development` | a certificate for one machine |
//!
//! Invariant: TLS 1.2 and 1.3 only, on one crypto provider, named explicitly. A new certificate that cannot be used
//! never replaces one that can, nor one that clients are bound to refuse (by its dates, its names or its kind) one that they take, and is tried again until it can be used. A session is resumed only for the very domain it was verified for (rustls keys its
//! sessions by server name), and here with a ticket that a key of the last day has sealed, for a certificate that is still in
//! use. No client certificate is ever sent, and no verification can be switched off.

mod challenge;
mod client;
mod development;
mod doubts;
mod identity;
mod pinned;
mod sessions;
mod tickets;
pub(crate) mod validity;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use zeroize::Zeroizing;

use super::file_stamp::FileStamp;
use crate::clock::{self, TlsTime};
use crate::lock::Mutex;
use crate::regular_file::{self, MAX_SECRET, without_byte_order_mark};
use crate::secret::SecretText;
pub use challenge::{ACME_PROTOCOL, Challenges};
pub use client::{ClientTls, ReadRoots};
pub use development::{is_ca_key, new_ca_key};
pub use doubts::{Doubt, by_wildcard, dated, doubts, doubts_of, ends_soon, is_vouched_for};
use tickets::Tickets;

/// How often the files are looked at; a change is in use at most this much later.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(5);
/// Tickets that a client gets with a handshake of TLS 1.3: a phone has one connection, and each brings the next ticket.
const TICKETS: usize = 1;

/// A word in the PEM of a key that has a passphrase.
const ENCRYPTED: &[u8] = b"ENCRYPTED";

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{0} cannot be read: {1}")]
    Unreadable(PathBuf, std::io::Error),
    /// A file holds no certificate, or no private key, in PEM.
    #[error("{0} holds no {1} in PEM")]
    Empty(PathBuf, &'static str),
    /// The key is there, and nobody can say its passphrase.
    #[error("{0} holds an encrypted private key: write it without a passphrase (openssl pkey -in KEY -out NEW)")]
    Encrypted(PathBuf),
    /// The certificate and the key cannot be used, or not together.
    #[error("{} and {} cannot be used together: {why}", certificate.display(), key.display())]
    Unusable {
        /// The chain.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// The fault.
        why: String,
    },
    /// Clients are bound to refuse the new certificate, and take the one in use.
    #[error("{}: {doubt}, and clients take the one in use", certificate.display())]
    Worse {
        /// The chain.
        certificate: PathBuf,
        /// The doubt about the leaf.
        doubt: Doubt,
    },
    /// A trusted certificate cannot be used.
    #[error("{0} holds a certificate that cannot be trusted: {1}")]
    BadRoot(PathBuf, String),
    /// The system has no trusted roots any more.
    #[error("the system's trusted roots are gone")]
    NoRoots,
    /// The certificate of a challenge could not be made.
    #[error("the certificate for a CA's challenge could not be made: {0}")]
    Challenge(String),
    /// The development certificate could not be made.
    #[error("a development certificate could not be made: {0}")]
    Development(String),
}

/// A certificate that was read from the files, with its key, and can be used.
pub struct ReadCertificate {
    look: [FileStamp; 2],
    certified: CertifiedKey,
}

/// The relay's certificate, for all its listeners.
#[derive(Debug)]
pub struct ServerTls {
    certificate: Arc<Current>,
    files: Option<Files>,
    /// The names by which those who connect know this relay, as far as they are known here.
    hosts: Vec<String>,
    tickets: Arc<Tickets>,
}

impl ServerTls {
    /// Reads the chain (leaf first) and the leaf's key, in PEM. Fails when they cannot be read or do not belong together.
    pub fn load(certificate: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        Self::load_for(certificate, key, Vec::new())
    }

    /// The same for a relay that is connected to by these names (bracketed when IPv6): once a certificate names one of them, no other is taken that
    /// does not.
    ///
    /// # Errors
    /// [`TlsError`] when the files cannot be read or do not belong together.
    pub fn load_for(certificate: &Path, key: &Path, hosts: Vec<String>) -> Result<Arc<Self>, TlsError> {
        let files = Files { certificate: certificate.into(), key: key.into(), taken: Mutex::default() };
        *files.taken() = Some(files.look());
        let loaded = files.load()?;
        Ok(Self::new(loaded, Some(files), hosts))
    }

    /// A certificate made on the spot for `localhost`, 127.0.0.1, ::1 and those of these addresses that are of loopback, and for the host by which SIP servers find the relay (bracketed when IPv6), valid for 30 days, and the PEM of the CA that
    /// vouches for it: the CA with this key, or one whose key is gone at once.
    pub fn development(
        ca_key: Option<&SecretText>,
        addresses: &[IpAddr],
        public_host: &str,
    ) -> Result<(Arc<Self>, String), TlsError> {
        let (loaded, ca) = development::certificate(ca_key, addresses, public_host)?;
        Ok((Self::new(loaded, None, Vec::new()), ca))
    }

    fn new(loaded: CertifiedKey, files: Option<Files>, hosts: Vec<String>) -> Arc<Self> {
        Arc::new(Self { certificate: Arc::new(Current::new(loaded)), files, hosts, tickets: Arc::new(Tickets::new()) })
    }

    /// A server's configuration that offers the application protocols `alpn` in this order; empty offers none.
    pub fn config(&self, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("aws-lc-rs has cipher suites for TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(self.certificate.clone());
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        // The ticket holds the session: nothing of it is kept here.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = self.tickets.clone();
        config.send_tls13_tickets = TICKETS;
        Arc::new(config)
    }

    /// When the leaf expires, in seconds since 1970; 0 when its date cannot be read.
    pub fn expiry(&self) -> u64 {
        self.validity().1
    }

    /// The chain in use, leaf first.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.certificate.current.load().cert.clone()
    }

    /// When the leaf begins to be valid, and when it expires, likewise.
    pub fn validity(&self) -> (u64, u64) {
        let current = self.certificate.current.load();
        current.cert.first().and_then(|leaf| validity::period(leaf)).unwrap_or((0, 0))
    }

    /// The answers to a CA that looks whether a name is this relay's.
    pub fn challenges(&self) -> &Challenges {
        &self.certificate.challenges
    }

    /// Begins a period of tickets, as twelve hours do: those of the period before the last one are resumed no more.
    pub fn rotate_tickets(&self) {
        self.tickets.rotate();
    }

    /// Reads the files, however they look, and says whether a new certificate is in use. Fails, and keeps the old one, when
    /// the new one cannot be used.
    pub fn reload(&self) -> Result<bool, TlsError> {
        Ok(self.read()?.is_some_and(|read| self.take(read)))
    }

    /// The same if they look otherwise than when they were taken; so what could not be taken is tried again each time.
    fn reload_changed(&self) -> Result<bool, TlsError> {
        match &self.files {
            Some(files) if *files.taken() != Some(files.look()) => self.reload(),
            _ => Ok(false),
        }
    }

    /// Reads the files, and changes nothing; `None`: there are none.
    ///
    /// # Errors
    /// [`TlsError`] when what they hold cannot be used, or is refused by clients that take the one in use.
    pub fn read(&self) -> Result<Option<ReadCertificate>, TlsError> {
        let Some(files) = &self.files else { return Ok(None) };
        // From before the reading: a file written meanwhile counts as changed.
        let look = files.look();
        let certified = files.load()?;
        let (now, current) = (clock::advertised_now(), self.certificate.current.load());
        let names = self.hosts.iter().map(|host| Some(&**host)).chain([None]);
        for host in names.filter(|host| refusal(&current, *host, now).is_none()) {
            if let Some(doubt) = refusal(&certified, host, now) {
                return Err(TlsError::Worse { certificate: files.certificate.clone(), doubt });
            }
        }
        Ok(Some(ReadCertificate { look, certified }))
    }

    /// Takes what was read, and says whether that is a new certificate.
    pub fn take(&self, read: ReadCertificate) -> bool {
        let ReadCertificate { look, certified } = read;
        if let Some(files) = &self.files {
            *files.taken() = Some(look);
        }
        if self.certificate.current.load().cert == certified.cert {
            return false;
        }
        self.certificate.current.store(Arc::new(certified));
        // A client that resumes sees no certificate: a session of the old one, whose key may be known, must not go on.
        self.tickets.forget();
        true
    }

    /// Looks at the files every [`RELOAD_INTERVAL`], for ever; give it a task of its own. Each look tells why they are not
    /// taken, or that nothing stands against them.
    pub async fn watch(self: Arc<Self>, told: impl Fn(Option<String>)) {
        let mut ticks = tokio::time::interval(RELOAD_INTERVAL);
        let mut refusal: Option<String> = None;
        loop {
            ticks.tick().await;
            let refused = match self.reload_changed() {
                Ok(false) => None,
                Ok(true) => {
                    tracing::info!(
                        event = "certificate-taken",
                        expires_at = self.expiry(),
                        "the certificate was re-read"
                    );
                    None
                }
                Err(error) => Some(error.to_string()),
            };
            // A lasting fault is logged once.
            if let Some(error) = refused.as_ref().filter(|error| refusal.as_ref() != Some(*error)) {
                tracing::warn!(event = "certificate-not-taken", %error, "the new certificate is not taken; the old one stays in use");
            }
            told(refused.clone());
            refusal = refused;
        }
    }
}

/// Why nobody who connects to `host`, or to any, could take it at `now`, in seconds since 1970. The leaf alone is asked: behind it an older
/// certificate of the same CA may have expired, and harms nobody.
fn refusal(certified: &CertifiedKey, host: Option<&str>, now: u64) -> Option<Doubt> {
    doubts::fatal(certified.cert.first()?, host, now)
}

/// The certificate in use, and those of challenges.
#[derive(Debug)]
struct Current {
    current: ArcSwap<CertifiedKey>,
    challenges: Challenges,
}

impl Current {
    fn new(loaded: CertifiedKey) -> Self {
        Self { current: ArcSwap::from_pointee(loaded), challenges: Challenges::default() }
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.challenges.of(&hello).unwrap_or_else(|| Some(self.current.load_full()))
    }
}

/// The files, and how they looked when they were taken last.
#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    taken: Mutex<Option<[FileStamp; 2]>>,
}

impl Files {
    fn look(&self) -> [FileStamp; 2] {
        [FileStamp::at(&self.certificate), FileStamp::at(&self.key)]
    }

    fn taken(&self) -> MutexGuard<'_, Option<[FileStamp; 2]>> {
        self.taken.lock()
    }

    fn load(&self) -> Result<CertifiedKey, TlsError> {
        let chain = certificates(&self.certificate)?;
        let unreadable = |error| TlsError::Unreadable(self.key.clone(), error);
        let text = regular_file::read_at_most(&self.key, MAX_SECRET).map(Zeroizing::new).map_err(unreadable)?;
        let key = PrivateKeyDer::from_pem_slice(without_byte_order_mark(&text)).map_err(|error| {
            // Both forms have the word: of PKCS #8 (RFC 5958), and of OpenSSL's own (`Proc-Type: 4,ENCRYPTED`).
            let is_encrypted = text.windows(ENCRYPTED.len()).any(|part| part == ENCRYPTED);
            if is_encrypted {
                TlsError::Encrypted(self.key.clone())
            } else {
                pem_error(&self.key, "private key", error)
            }
        })?;
        let again = key.clone_key();
        certified(chain.clone(), key).map_err(|error| TlsError::Unusable {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            why: why_not_together(&error, &chain, again),
        })
    }
}

/// How a server of the web is verified: by the system's roots and those of `ca_file`.
///
/// # Errors
/// [`TlsError`] when `ca_file` cannot be used.
pub fn web_client(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let file = ca_file.map(certificates).transpose()?.unwrap_or_default();
    let roots = root_store(rustls_native_certs::load_native_certs().certs, &file, ca_file)?;
    Ok(Arc::new(client_builder().with_root_certificates(roots).with_no_client_auth()))
}

/// The system's roots, as far as they can be read, and those of a file, each of which must be one.
fn root_store(
    system: impl IntoIterator<Item = CertificateDer<'static>>,
    file: &[CertificateDer<'static>],
    ca_file: Option<&Path>,
) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(system);
    for certificate in file {
        let bad = |error: rustls::Error| TlsError::BadRoot(ca_file.unwrap_or(Path::new("")).into(), error.to_string());
        roots.add(certificate.clone()).map_err(bad)?;
    }
    Ok(roots)
}

/// A client of TLS 1.2 and 1.3.
fn client_builder() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    ClientConfig::builder_with_details(provider(), Arc::new(TlsTime))
        .with_safe_default_protocol_versions()
        .expect("aws-lc-rs has cipher suites for TLS 1.2 and 1.3")
}

/// The name that the certificate must have: a domain, or an IP address (bracketed when IPv6).
pub(super) fn server_name(domain: &str) -> Option<ServerName<'static>> {
    let bare = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(domain);
    match bare.parse::<IpAddr>() {
        Ok(ip) => Some(ServerName::from(ip)),
        Err(_) => ServerName::try_from(domain.to_owned()).ok(),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(default_provider())
}

/// The chain and its key, checked to belong together.
fn certified(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<CertifiedKey, rustls::Error> {
    CertifiedKey::from_der(chain, key, &default_provider())
}

/// Why a chain and a key are no pair, in words of an operator.
fn why_not_together(error: &rustls::Error, chain: &[CertificateDer<'static>], key: PrivateKeyDer<'static>) -> String {
    let fits = |leaf: &CertificateDer<'static>| certified(vec![leaf.clone()], key.clone_key()).is_ok();
    match error {
        rustls::Error::InconsistentKeys(_) => match chain.iter().skip(1).position(fits) {
            Some(index) => format!("the key is that of certificate {} in the file; put that one first", index + 2),
            None => "the key is another certificate's".to_owned(),
        },
        rustls::Error::InvalidCertificate(_) => "the first certificate cannot be read".to_owned(),
        _ => "the key is none that TLS can use (RSA of 2048 bits or more, ECDSA on P-256, P-384 or P-521, or Ed25519)"
            .to_owned(),
    }
}

/// All certificates of a PEM file; at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem_error = |error| pem_error(path, "certificate", error);
    let text = regular_file::read(path).map_err(|error| TlsError::Unreadable(path.into(), error))?;
    let certificates = CertificateDer::pem_slice_iter(without_byte_order_mark(&text));
    let certificates = certificates.collect::<Result<Vec<_>, _>>().map_err(pem_error)?;
    if certificates.is_empty() { Err(TlsError::Empty(path.into(), "certificate")) } else { Ok(certificates) }
}

fn pem_error(path: &Path, what: &'static str, error: rustls_pki_types::pem::Error) -> TlsError {
    match error {
        rustls_pki_types::pem::Error::Io(error) => TlsError::Unreadable(path.into(), error),
        _ => TlsError::Empty(path.into(), what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;

    #[test]
    fn a_pair_with_byte_order_marks_is_read_and_an_encrypted_key_is_called_that() {
        let folder = std::env::temp_dir().join(format!("sipwake-pair-{:016x}", u64::from_ne_bytes(random::bytes())));
        std::fs::create_dir(&folder).unwrap();
        let (chain, key) = (folder.join("relay.pem"), folder.join("relay.key"));
        let pair = rcgen::generate_simple_self_signed(["relay.example".to_owned()]).unwrap();
        let with_mark = |text: &str| format!("\u{feff}{text}");
        std::fs::write(&chain, with_mark(&pair.cert.pem())).unwrap();
        std::fs::write(&key, with_mark(&pair.signing_key.serialize_pem())).unwrap();
        assert!(ServerTls::load(&chain, &key).is_ok());
        for encrypted in [
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIF\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMIIF\n-----END EC PRIVATE KEY-----\n",
        ] {
            std::fs::write(&key, encrypted).unwrap();
            assert!(matches!(ServerTls::load(&chain, &key), Err(TlsError::Encrypted(_))), "{encrypted}");
        }
        std::fs::File::create(&key).unwrap().set_len(MAX_SECRET + 1).unwrap();
        let told = ServerTls::load(&chain, &key).unwrap_err().to_string();
        assert!(told.ends_with("it is larger than 262144 bytes"), "{told}");
        std::fs::File::create(&chain).unwrap().set_len(regular_file::MAX_FILE + 1).unwrap();
        let told = ServerTls::load(&chain, &key).unwrap_err().to_string();
        assert!(told.ends_with("it is larger than 4194304 bytes"), "{told}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
