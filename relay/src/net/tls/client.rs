//! How the relay, as a client, trusts SIP servers: as RFC 5922 says (see [`super::identity`]), by roots that are read again while it runs; and how it
//! trusts what answers by HTTPS, by the same roots.
//!
//! | the system's roots and those of `upstream.ca_file` | the roots in use |
//! | --- | --- |
//! | are others than those in use | are they, from the next handshake on; no session of before is resumed, for one that is resumed is not verified |
//! | cannot be read, or those of the system are gone | stay, and that is said |
//!
//! A change of the file is seen within [`RELOAD_INTERVAL`], one of the system's roots within [`SYSTEM_INTERVAL`]; and within [`DOUBT_REST`] once the certificate
//! of a SIP server leads to no root, for its operator may have another CA now.
//!
//! Invariant: roots that cannot be used never replace those that can. Sessions are kept of those SIP servers alone that an account leads to
//! ([`super::sessions`]).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::CertificateDer;

use super::identity::SipIdentity;
use super::sessions::Sessions;
use super::{RELOAD_INTERVAL, TlsError, certificates, client_builder, pinned, root_store, server_name};
use crate::aside::aside;
use crate::clock;
use crate::lock::Mutex;
use crate::net::file_stamp::FileStamp;

/// How often the system's roots are read again.
const SYSTEM_INTERVAL: Duration = Duration::from_secs(600);
/// How long nobody's certificate has them read again.
const DOUBT_REST: Duration = Duration::from_secs(60);
/// Sessions kept of what answers by HTTPS, which the operator has named.
const WEB_SESSIONS: usize = 8;

/// TLS toward the servers that the relay connects to, and its trust in them; cheap to clone.
#[derive(Debug, Clone)]
pub struct ClientTls(Arc<Client>);

#[derive(Debug)]
struct Client {
    current: ArcSwap<ClientConfig>,
    /// `None`: it trusts one certificate alone.
    roots: Option<Roots>,
    sessions: Sessions,
}

/// By whose rules a certificate is verified.
#[derive(Clone, Copy, Debug)]
enum Rules {
    /// The rules of RFC 5922: no wildcard, and a SIP URI before any DNS name.
    Sip,
    /// The rules of HTTPS (RFC 9110 §4.3.4, RFC 9525).
    Web,
}

/// The source of the roots, and those in use.
struct Roots {
    rules: Rules,
    system: Box<dyn Fn() -> Vec<CertificateDer<'static>> + Send + Sync>,
    ca_file: Option<PathBuf>,
    taken: Mutex<Taken>,
    /// A certificate has led to none of them since they were read.
    doubted: AtomicBool,
}

/// The content of the last reading.
#[derive(Debug)]
struct Taken {
    read_at: Instant,
    file_look: FileStamp,
    system: Vec<CertificateDer<'static>>,
    file: Vec<CertificateDer<'static>>,
}

/// Roots that were read and can be used.
pub struct ReadRoots {
    read: Taken,
    /// With the number that their sessions go by; `None`: they are those in use.
    config: Option<(Arc<ClientConfig>, u64)>,
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roots").field("ca_file", &self.ca_file).finish_non_exhaustive()
    }
}

impl ClientTls {
    /// Trusts the system's roots and the certificates in `ca_file`.
    ///
    /// A system without roots is said in the log: then only `ca_file` is trusted.
    ///
    /// # Errors
    /// [`TlsError`] when `ca_file` cannot be read or used.
    pub fn new(ca_file: Option<&Path>) -> Result<Self, TlsError> {
        Self::with(Rules::Sip, ca_file, Box::new(roots_of_system))
    }

    /// The same for a server of HTTPS, whose certificate may be a wildcard's.
    ///
    /// # Errors
    /// [`TlsError`] when `ca_file` cannot be read or used.
    pub fn web(ca_file: Option<&Path>) -> Result<Self, TlsError> {
        Self::with(Rules::Web, ca_file, Box::new(roots_of_system))
    }

    fn with(
        rules: Rules,
        ca_file: Option<&Path>,
        system: Box<dyn Fn() -> Vec<CertificateDer<'static>> + Send + Sync>,
    ) -> Result<Self, TlsError> {
        let taken = read(ca_file, &*system)?;
        if taken.system.is_empty() && taken.file.is_empty() {
            tracing::warn!(event = "no-roots", "no roots are trusted: install ca-certificates or set upstream.ca_file");
        }
        let sessions = Sessions::default();
        let (config, number) = config(rules, &taken, ca_file, &sessions)?;
        sessions.begin(number);
        let current = ArcSwap::from(config);
        let (ca_file, taken) = (ca_file.map(Into::into), Mutex::new(taken));
        let roots = Some(Roots { rules, system, ca_file, taken, doubted: AtomicBool::new(false) });
        Ok(Self(Arc::new(Client { current, roots, sessions })))
    }

    /// Trusts a server that shows the first certificate of this file and has its key, and no other: the relay's own listeners.
    ///
    /// # Errors
    /// [`TlsError`] when the file holds no certificate.
    pub fn only(certificate: &Path, noted: Option<CertificateDer<'static>>) -> Result<Self, TlsError> {
        let leaf = certificates(certificate).map(|mut chain| chain.swap_remove(0));
        let known = match (leaf, noted) {
            (Err(error), None) => return Err(error),
            (leaf, noted) => leaf.into_iter().chain(noted).collect(),
        };
        Ok(Self::pinned(pinned::Pinned::new(known)))
    }

    /// Trusts the server with this certificate alone, by it alone.
    pub fn known(leaf: CertificateDer<'static>) -> Self {
        Self::pinned(pinned::Pinned::new(vec![leaf]))
    }

    /// Trusts any server: for a question to this machine that shows no secret.
    pub fn anyone() -> Self {
        Self::pinned(pinned::Pinned::anyone())
    }

    fn pinned(verifier: pinned::Pinned) -> Self {
        let config =
            client_builder().dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
        Self(Arc::new(Client { current: ArcSwap::from_pointee(config), roots: None, sessions: Sessions::default() }))
    }

    /// Counts an account, or route of some, that leads to the SIP server of this domain: its sessions are kept.
    pub fn want(&self, domain: &str) {
        if let Some(server) = server_name(domain) {
            self.0.sessions.want(server);
        }
    }

    /// Counts one less; with the last one the domain is forgotten.
    pub fn leave(&self, domain: &str) {
        if let Some(server) = server_name(domain) {
            self.0.sessions.leave(&server);
        }
    }

    pub(in crate::net) fn config(&self) -> Arc<ClientConfig> {
        self.0.current.load_full()
    }

    /// A certificate has led to no root: they may be others by now.
    pub(in crate::net) fn doubt(&self) {
        if let Some(roots) = &self.0.roots {
            roots.doubted.store(true, Ordering::Relaxed);
        }
    }

    /// Reads the roots, however they look, and says whether others are in use now.
    ///
    /// # Errors
    /// [`TlsError`] when they cannot be used; then the old ones stay.
    pub fn reload(&self) -> Result<bool, TlsError> {
        Ok(self.read()?.is_some_and(|read| self.take(read)))
    }

    /// Reads the roots, and takes none; `None`: one certificate alone is trusted.
    ///
    /// # Errors
    /// [`TlsError`] when they cannot be used.
    pub fn read(&self) -> Result<Option<ReadRoots>, TlsError> {
        let Some(roots) = &self.0.roots else { return Ok(None) };
        roots.taken().read_at = clock::now();
        roots.doubted.store(false, Ordering::Relaxed);
        let read = read(roots.ca_file.as_deref(), &*roots.system)?;
        let taken = roots.taken();
        if read.system.is_empty() && !taken.system.is_empty() {
            return Err(TlsError::NoRoots);
        }
        let is_other = (&read.system, &read.file) != (&taken.system, &taken.file);
        let config =
            is_other.then(|| config(roots.rules, &read, roots.ca_file.as_deref(), &self.0.sessions)).transpose()?;
        Ok(Some(ReadRoots { read, config }))
    }

    /// Takes what was read, and says whether that is other roots.
    pub fn take(&self, roots: ReadRoots) -> bool {
        let ReadRoots { read, config } = roots;
        let is_other = config.is_some();
        if let Some((config, number)) = config {
            self.0.sessions.begin(number);
            self.0.current.store(config);
        }
        if let Some(roots) = &self.0.roots {
            *roots.taken() = read;
        }
        is_other
    }

    /// Has the roots read again when they may be others, for ever; give it a task of its own.
    pub async fn watch(self) {
        let mut ticks = tokio::time::interval(RELOAD_INTERVAL);
        let mut refusal: Option<String> = None;
        loop {
            ticks.tick().await;
            if !self.is_due(clock::now()) {
                continue;
            }
            let it = self.clone();
            // There are some hundred, in as many files.
            let Ok(reading) = aside(move || it.reload()) else { continue };
            let Ok(read) = reading.await else { continue };
            let refused = match read {
                Ok(true) => {
                    tracing::info!(event = "roots-taken", "the trusted roots have changed");
                    None
                }
                Ok(false) => None,
                Err(error) => Some(error.to_string()),
            };
            // A lasting fault is logged once.
            if let Some(error) = refused.as_ref().filter(|error| refusal.as_ref() != Some(*error)) {
                tracing::warn!(event = "roots-not-taken", %error, "the trusted roots cannot be read again; those of before stay in use");
            }
            refusal = refused;
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        let Some(roots) = &self.0.roots else { return false };
        let taken = roots.taken();
        let rest = if roots.doubted.load(Ordering::Relaxed) { DOUBT_REST } else { SYSTEM_INTERVAL };
        taken.read_at + rest <= now || roots.file_look() != taken.file_look
    }
}

impl Roots {
    fn file_look(&self) -> FileStamp {
        self.ca_file.as_deref().map(FileStamp::at).unwrap_or_default()
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Whole values go in: a panic in between leaves what was read before.
        self.taken.lock()
    }
}

/// The system's roots, as far as they can be read.
fn roots_of_system() -> Vec<CertificateDer<'static>> {
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(event = "roots-unreadable", %error, "some of the system's trusted roots cannot be read");
    }
    native.certs
}

/// The look is from before the reading: a file written meanwhile counts as changed.
fn read(ca_file: Option<&Path>, system: &dyn Fn() -> Vec<CertificateDer<'static>>) -> Result<Taken, TlsError> {
    let file_look = ca_file.map(FileStamp::at).unwrap_or_default();
    let file = ca_file.map(certificates).transpose()?.unwrap_or_default();
    let mut system = system();
    system.sort_unstable_by(|one, other| one.as_ref().cmp(other.as_ref()));
    system.dedup();
    Ok(Taken { read_at: clock::now(), file_look, system, file })
}

/// Also the number that its sessions go by.
fn config(
    rules: Rules,
    taken: &Taken,
    ca_file: Option<&Path>,
    sessions: &Sessions,
) -> Result<(Arc<ClientConfig>, u64), TlsError> {
    let roots = root_store(taken.system.iter().cloned(), &taken.file, ca_file)?;
    let algorithms = default_provider().signature_verification_algorithms;
    let builder = match rules {
        Rules::Sip => {
            client_builder().dangerous().with_custom_certificate_verifier(Arc::new(SipIdentity::new(roots, algorithms)))
        }
        Rules::Web => client_builder().with_root_certificates(roots),
    };
    let mut config = builder.with_no_client_auth();
    let (store, number) = sessions.by_new_roots();
    config.resumption = match rules {
        Rules::Sip => Resumption::store(store),
        Rules::Web => Resumption::in_memory_sessions(WEB_SESSIONS),
    };
    Ok((Arc::new(config), number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(name: &str) -> CertificateDer<'static> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn the_systems_roots_are_read_again_and_kept_when_they_are_gone() {
        let system = Arc::new(Mutex::new(vec![authority("one")]));
        let read = system.clone();
        let tls = ClientTls::with(Rules::Sip, None, Box::new(move || read.lock().clone())).unwrap();
        let first = tls.config();
        assert!(!tls.reload().unwrap() && Arc::ptr_eq(&first, &tls.config()), "its sessions stay, too");
        system.lock().insert(0, authority("two"));
        assert!(tls.reload().unwrap() && !Arc::ptr_eq(&first, &tls.config()));
        system.lock().reverse();
        assert!(!tls.reload().unwrap(), "they are the same in another order");
        let (second, both) = (tls.config(), std::mem::take(&mut *system.lock()));
        assert!(matches!(tls.reload(), Err(TlsError::NoRoots)) && Arc::ptr_eq(&second, &tls.config()));
        system.lock().extend(both);
        assert!(!tls.reload().unwrap());
    }

    #[test]
    fn a_certificate_that_leads_to_no_root_has_them_read_again_once_in_a_minute() {
        let tls = ClientTls::with(Rules::Sip, None, Box::new(Vec::new)).unwrap();
        let now = clock::now();
        let dues = |tls: &ClientTls| [0, 59, 61, 599, 601].map(|after| tls.is_due(now + Duration::from_secs(after)));
        assert_eq!(dues(&tls), [false, false, false, false, true]);
        tls.doubt();
        assert_eq!(dues(&tls), [false, false, true, true, true]);
        tls.reload().unwrap();
        assert_eq!(dues(&tls)[..4], [false; 4]);
    }
}
