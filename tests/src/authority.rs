//! A certificate authority for tests: every TLS server of a test shows a certificate that this one issued.
//!
//! Invariant: its keys are made when it is made and live in a directory of its own, which is removed when the last
//! clone is dropped; no other test and no other process trusts it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// The names that [`Authority::loopback`] certifies: every way to say "this machine".
pub const LOOPBACK: &[&str] = &["localhost", "127.0.0.1", "::1"];

/// A test CA with a directory of its own; cheap to clone.
#[derive(Clone)]
pub struct Authority(Arc<Inner>);

struct Inner {
    directory: PathBuf,
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    serial: AtomicU64,
}

/// A server's certificate and key, in memory and as PEM files.
pub struct Issued {
    /// The chain as PEM, leaf first.
    pub certificate_file: PathBuf,
    /// The private key as PEM (PKCS#8).
    pub key_file: PathBuf,
    /// The chain, leaf first, without the CA.
    pub chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Issued {
    /// Certificate and private key as one PEM text.
    ///
    /// # Panics
    /// When the files are gone.
    pub fn both(&self) -> String {
        let read = |path| std::fs::read_to_string(path).expect("the authority lives");
        read(&self.certificate_file) + &read(&self.key_file)
    }

    /// The private key.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}

impl Authority {
    /// Makes a CA of its own, with its certificate in [`Self::ca_file`].
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a P-256 key can be made");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "sipwake test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).expect("a CA certificate can be made");
        let directory = private_directory();
        let pem = certificate.pem();
        std::fs::write(directory.join("ca.pem"), &pem).expect("the test directory is writable");
        Self(Arc::new(Inner {
            directory,
            certificate: certificate.der().clone(),
            pem,
            issuer: Issuer::new(params, key),
            serial: AtomicU64::new(1),
        }))
    }

    /// The directory of this authority's files, for a test's own files too.
    pub fn directory(&self) -> &Path {
        &self.0.directory
    }

    /// The CA certificate as a PEM file.
    pub fn ca_file(&self) -> PathBuf {
        self.0.directory.join("ca.pem")
    }

    /// The CA certificate as PEM text.
    pub fn ca_pem(&self) -> &str {
        &self.0.pem
    }

    /// The CA certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.0.certificate
    }

    /// Writes `text` into a file of this authority's directory and gives its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.directory.join(name);
        std::fs::write(&path, text).expect("the test directory is writable");
        path
    }

    /// Issues a server certificate for `names` (DNS names and IP addresses).
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_with(names, |_| {})
    }

    /// Issues one that ended yesterday.
    pub fn issue_ended(&self, names: &[&str]) -> Issued {
        let day = |days: u64| std::time::SystemTime::now() - std::time::Duration::from_secs(days * 86_400);
        self.issue_with(names, |params| (params.not_before, params.not_after) = (day(366).into(), day(1).into()))
    }

    /// Issues one that began `past` ago and ends in `future`.
    pub fn issue_between(&self, names: &[&str], past: std::time::Duration, future: std::time::Duration) -> Issued {
        let now = std::time::SystemTime::now();
        let (begin, end) = (now - past, now + future);
        self.issue_with(names, |params| (params.not_before, params.not_after) = (begin.into(), end.into()))
    }

    /// Issues one for `names`, as `change` has it.
    ///
    /// # Panics
    /// When a name is neither a DNS name nor an address.
    pub fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("the names are DNS names or addresses");
        params.distinguished_name.push(DnType::CommonName, "sipwake test server");
        change(&mut params);
        let key = KeyPair::generate().expect("a P-256 key can be made");
        let leaf = params.signed_by(&key, &self.0.issuer).expect("a server certificate can be made");
        let serial = self.0.serial.fetch_add(1, Ordering::Relaxed);
        Issued {
            certificate_file: self.write(&format!("server-{serial}.pem"), &leaf.pem()),
            key_file: self.write(&format!("server-{serial}.key"), &key.serialize_pem()),
            chain: vec![leaf.der().clone()],
            key: key.serialize_der(),
        }
    }

    /// Issues a certificate for the loopback names.
    pub fn loopback(&self) -> Issued {
        self.issue(LOOPBACK)
    }

    /// A TLS server for `names` that offers `alpn`, most wanted first.
    pub fn server_config(&self, names: &[&str], alpn: &[&[u8]]) -> Arc<rustls::ServerConfig> {
        Self::server(&self.issue(names), alpn, rustls::server::WebPkiClientVerifier::no_client_auth())
    }

    /// The same, and it asks its clients for a certificate of this authority; one without is served, too.
    pub fn server_config_for_clients(&self, names: &[&str], alpn: &[&[u8]]) -> Arc<rustls::ServerConfig> {
        self.server_config_showing(&self.issue(names), alpn)
    }

    /// The same, with this certificate.
    pub fn server_config_showing(&self, issued: &Issued, alpn: &[&[u8]]) -> Arc<rustls::ServerConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate().clone()).expect("the CA certificate is one");
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider());
        Self::server(issued, alpn, verifier.allow_unauthenticated().build().expect("there is a root"))
    }

    fn server(
        issued: &Issued,
        alpn: &[&[u8]],
        clients: Arc<dyn rustls::server::danger::ClientCertVerifier>,
    ) -> Arc<rustls::ServerConfig> {
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("aws-lc-rs serves the default versions")
            .with_client_cert_verifier(clients)
            .with_single_cert(issued.chain.clone(), issued.key())
            .expect("the key belongs to the certificate");
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }

    /// A TLS client that trusts this authority alone and offers `alpn`.
    pub fn client_config(&self, alpn: &[&[u8]]) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate().clone()).expect("the CA certificate is one");
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("aws-lc-rs serves the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A new directory that only this user can read.
fn private_directory() -> PathBuf {
    use std::os::unix::fs::DirBuilderExt;
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).expect("the system has randomness");
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("sipwake-tests-{}-{count}-{:016x}", std::process::id(), u64::from_be_bytes(random));
    let path = std::env::temp_dir().join(name);
    std::fs::DirBuilder::new().mode(0o700).create(&path).expect("the temporary directory is writable");
    path
}
