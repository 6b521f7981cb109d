//! Sessions of TLS that are resumed: whoever was here before needs no certificate and no signature.

use std::net::SocketAddr;
use std::sync::Arc;

use relay::net::drain::{self, Trigger};
use relay::net::listen::{Limits, Listener, Security};
use relay::net::tls::ServerTls;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::authority::{Authority, Kind};

/// More phones than any table of sessions that a listener might keep.
const PHONES: usize = 300;

/// A listener for devices that greets whoever finishes the handshake.
async fn edge(tls: &ServerTls) -> (SocketAddr, Trigger) {
    let (trigger, drain) = drain::drain();
    let limits = Limits { connections_per_peer: 10_000, ..Limits::DEVICES };
    let bound = Listener::bind("127.0.0.1:0".parse().unwrap(), Security::Tls(tls.config(&[])), limits, drain);
    let mut listener = bound.await.unwrap();
    let address = listener.local_address();
    tokio::spawn(async move {
        while let Some(mut accepted) = listener.accept().await {
            let _ = accepted.stream.write_all(b"hello").await;
            let _ = accepted.stream.shutdown().await;
        }
    });
    (address, trigger)
}

/// A phone of its own, with the sessions that it remembers.
fn phone(authority: &Authority, version: &'static rustls::SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(&authority.ca).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(8);
    Arc::new(config)
}

/// The phone connects once: how its handshake went.
async fn visit(phone: &Arc<ClientConfig>, edge: SocketAddr) -> (HandshakeKind, ProtocolVersion) {
    let tcp = TcpStream::connect(edge).await.unwrap();
    let name = ServerName::try_from("relay.test").unwrap();
    let mut stream = TlsConnector::from(phone.clone()).connect(name, tcp).await.unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"hello");
    let session = stream.get_ref().1;
    (session.handshake_kind().unwrap(), session.protocol_version().unwrap())
}

fn is_full(kind: HandshakeKind) -> bool {
    matches!(kind, HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)
}

#[tokio::test]
async fn every_phone_that_was_here_before_resumes_however_many_there_are() {
    let authority = Authority::new();
    let (edge, _trigger) = edge(&authority.server(&["relay.test"], Kind::Usual)).await;
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let phones: Vec<_> = (0..PHONES).map(|_| phone(&authority, version)).collect();
        for phone in &phones {
            let (kind, spoken) = visit(phone, edge).await;
            assert!(is_full(kind) && spoken == version.version, "{kind:?} {spoken:?}");
        }
        for phone in &phones {
            // With the ticket of the first visit, and then with that of the second.
            assert_eq!(visit(phone, edge).await.0, HandshakeKind::Resumed, "{:?}", version.version);
            assert_eq!(visit(phone, edge).await.0, HandshakeKind::Resumed, "{:?}", version.version);
        }
    }
}

#[tokio::test]
async fn a_ticket_is_good_over_one_change_of_keys_and_over_no_second_one() {
    let authority = Authority::new();
    let tls = authority.server(&["relay.test"], Kind::Usual);
    let (edge, _trigger) = edge(&tls).await;
    let (awake, asleep) = (phone(&authority, &rustls::version::TLS13), phone(&authority, &rustls::version::TLS13));
    visit(&awake, edge).await;
    visit(&asleep, edge).await;
    for _ in 0..2 {
        tls.rotate_tickets();
        assert_eq!(visit(&awake, edge).await.0, HandshakeKind::Resumed, "it has a new ticket from each visit");
    }
    assert!(is_full(visit(&asleep, edge).await.0));
}

#[tokio::test]
async fn a_new_certificate_ends_the_sessions_of_the_old_one_and_another_node_knows_none() {
    let authority = Authority::new();
    let tls = authority.server(&["relay.test"], Kind::Usual);
    let (edge, _trigger) = edge(&tls).await;
    let phone = phone(&authority, &rustls::version::TLS13);
    visit(&phone, edge).await;
    assert_eq!(visit(&phone, edge).await.0, HandshakeKind::Resumed);
    authority.write(&["relay.test", "another.test"], Kind::Usual);
    assert!(tls.reload().unwrap());
    assert!(is_full(visit(&phone, edge).await.0));
    let (other, _other_trigger) = self::edge(&authority.server(&["relay.test"], Kind::Usual)).await;
    assert!(is_full(visit(&phone, other).await.0));
}
