//! Certificates: what is trusted, and what happens when the relay's own change.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, SanType};
use relay::net::dial::{self, DialError};
use relay::net::drain::{self, Trigger};
use relay::net::listen::{Limits, Listener, Security};
use relay::net::tls::{ClientTls, ServerTls, TlsError};
use tokio::io::AsyncWriteExt;

use super::authority::{Authority, DAY, Kind};

/// A server that greets whoever finishes the handshake.
async fn server(tls: &ServerTls) -> (SocketAddr, Trigger) {
    let (trigger, drain) = drain::drain();
    let security = Security::Tls(tls.config(&[]));
    let mut listener = Listener::bind("127.0.0.1:0".parse().unwrap(), security, Limits::DEVICES, drain).await.unwrap();
    let address = listener.local_address();
    tokio::spawn(async move {
        while let Some(mut accepted) = listener.accept().await {
            let _ = accepted.stream.write_all(b"hello").await;
            let _ = accepted.stream.shutdown().await;
        }
    });
    (address, trigger)
}

async fn is_not_trusted(authority: &Authority, kind: Kind, names: &[&str], domain: &str) -> bool {
    let (address, _trigger) = server(&authority.server(names, kind)).await;
    matches!(dial::tls(address, &authority.client(), domain).await, Err(DialError::NotTrusted { .. }))
}

#[tokio::test]
async fn a_certificate_is_good_for_the_names_in_it_alone() {
    let authority = Authority::new();
    let (address, _trigger) = server(&authority.server(&["example.com", "127.0.0.1", "::1"], Kind::Usual)).await;
    let client = authority.client();
    for domain in ["example.com", "EXAMPLE.com", "127.0.0.1", "[::1]"] {
        assert!(dial::tls(address, &client, domain).await.is_ok(), "{domain}");
    }
    for domain in ["example.org", "sip.example.com", "127.0.0.2", "[::2]"] {
        let refused = dial::tls(address, &client, domain).await;
        assert!(matches!(refused, Err(DialError::NotTrusted { .. })), "{domain}: {refused:?}");
    }
    assert!(matches!(dial::tls(address, &client, "ex ample").await, Err(DialError::NotADomain(_))));
}

#[tokio::test]
async fn an_expired_certificate_a_ca_as_leaf_and_a_stranger_are_refused() {
    let authority = Authority::new();
    assert!(is_not_trusted(&authority, Kind::Expired, &["example.com"], "example.com").await);
    assert!(is_not_trusted(&authority, Kind::AuthorityAsLeaf, &["example.com"], "example.com").await);
    assert!(!is_not_trusted(&authority, Kind::Usual, &["example.com"], "example.com").await);
    let (address, _trigger) = server(&authority.server(&["example.com"], Kind::Usual)).await;
    let stranger = Authority::new().client();
    assert!(matches!(dial::tls(address, &stranger, "example.com").await, Err(DialError::NotTrusted { .. })));
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

/// Which of these domains a certificate with these names is good for.
async fn good_for<'a>(authority: &Authority, names: Vec<SanType>, domains: &[&'a str]) -> Vec<&'a str> {
    let (address, _trigger) = server(&authority.server_named(names, |_| {})).await;
    let mut good = Vec::new();
    for domain in domains {
        match dial::tls(address, &authority.client(), domain).await {
            Ok(_) => good.push(*domain),
            Err(error) => assert!(matches!(error, DialError::NotTrusted { .. }), "{domain}: {error}"),
        }
    }
    good
}

#[tokio::test]
async fn a_wildcard_is_good_for_nobody() {
    // RFC 5922 §7.2.
    let authority = Authority::new();
    let domains = ["a.example.com", "example.com", "b.a.example.com"];
    assert_eq!(good_for(&authority, vec![dns("*.example.com")], &domains).await, [""; 0]);
    let both = vec![dns("*.example.com"), dns("example.com")];
    assert_eq!(good_for(&authority, both, &domains).await, ["example.com"]);
}

#[tokio::test]
async fn a_sip_uri_names_the_domain_and_then_no_dns_name_does() {
    // RFC 5922 §7.1.
    let authority = Authority::new();
    let domains = ["example.com", "provider.example", "alice", "192.0.2.9"];
    let named = vec![uri("sip:Example.com"), dns("provider.example")];
    assert_eq!(good_for(&authority, named, &domains).await, ["example.com"]);
    // Of a user, of another scheme: no SIP identity, so the DNS names count.
    let user = vec![uri("sip:alice@example.com"), uri("https://example.com/"), dns("provider.example")];
    assert_eq!(good_for(&authority, user, &domains).await, ["provider.example"]);
    let two = vec![uri("sip:example.com:5061"), uri("sip:provider.example")];
    assert_eq!(good_for(&authority, two, &domains).await, ["example.com", "provider.example"]);
    let address = vec![uri("sip:192.0.2.9"), dns("example.com")];
    assert_eq!(good_for(&authority, address, &domains).await, ["192.0.2.9"]);
}

#[tokio::test]
async fn a_common_name_is_no_identity_and_a_purpose_must_be_sips() {
    let authority = Authority::new();
    let named = |params: &mut CertificateParams| params.distinguished_name.push(DnType::CommonName, "example.com");
    let (address, _trigger) = server(&authority.server_named(Vec::new(), named)).await;
    let refused = dial::tls(address, &authority.client(), "example.com").await;
    assert!(matches!(refused, Err(DialError::NotTrusted { .. })), "{refused:?}");
    // RFC 5924: SIP's own purpose will do, another's will not.
    for (purpose, good) in [
        (ExtendedKeyUsagePurpose::ServerAuth, true),
        (ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 20]), true),
        (ExtendedKeyUsagePurpose::ClientAuth, false),
        (ExtendedKeyUsagePurpose::CodeSigning, false),
    ] {
        let only = |params: &mut CertificateParams| params.extended_key_usages = vec![purpose.clone()];
        let (address, _trigger) = server(&authority.server_named(vec![dns("example.com")], only)).await;
        let dialled = dial::tls(address, &authority.client(), "example.com").await;
        assert_eq!(dialled.is_ok(), good, "{purpose:?}: {dialled:?}");
    }
}

#[tokio::test]
async fn a_session_of_one_domain_never_vouches_for_another() {
    let authority = Authority::new();
    let (address, _trigger) = server(&authority.server(&["a.example"], Kind::Usual)).await;
    let client = authority.client();
    for _ in 0..3 {
        let mut stream = dial::tls(address, &client, "a.example").await.unwrap();
        // Reading to the end takes in the session tickets.
        tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut Vec::new()).await.unwrap();
        let other = dial::tls(address, &client, "b.example").await;
        assert!(matches!(other, Err(DialError::NotTrusted { .. })));
    }
}

#[tokio::test]
async fn a_server_without_tls_or_without_life_is_told_apart() {
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = plain.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await.unwrap();
        stream.write_all(b"SIP/2.0 400 Bad Request\r\n\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let client = Authority::new().client();
    let error = dial::tls(address, &client, "example.com").await.unwrap_err();
    assert!(matches!(error, DialError::NotTls(..)), "{error:?}");
    let gone = dial::tls(address, &client, "example.com").await;
    assert!(matches!(gone, Err(DialError::Unreachable(..))), "{gone:?}");
}

#[tokio::test]
async fn a_new_certificate_is_taken_and_a_broken_one_is_not() {
    let authority = Authority::new();
    let tls = authority.server(&["old.example"], Kind::Usual);
    let (address, _trigger) = server(&tls).await;
    let client = authority.client();
    assert!(!tls.reload().unwrap(), "nothing changed");

    let (new, new_key) = authority.issue(&["new.example"], Kind::Usual, SystemTime::now() + 10 * DAY);
    authority.scratch.file("relay.pem", &new);
    assert!(matches!(tls.reload(), Err(TlsError::Unusable { .. })), "the key is still the old one's");
    assert!(dial::tls(address, &client, "old.example").await.is_ok());

    authority.scratch.file("relay.key", &new_key);
    let read = tls.read().unwrap().unwrap();
    assert!(dial::tls(address, &client, "old.example").await.is_ok(), "who reads takes nothing");
    assert!(tls.take(read) && !tls.reload().unwrap());
    assert!(dial::tls(address, &client, "new.example").await.is_ok());
    assert!(dial::tls(address, &client, "old.example").await.is_err());

    for broken in ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        authority.scratch.file("relay.pem", broken);
        assert!(tls.reload().is_err());
    }
    std::fs::remove_file(authority.scratch.path().join("relay.pem")).unwrap();
    assert!(tls.reload().is_err());
    assert!(dial::tls(address, &client, "new.example").await.is_ok());
}

#[tokio::test]
async fn a_changed_file_is_in_use_within_the_reload_interval() {
    let authority = Authority::new();
    let tls = authority.server(&["old.example"], Kind::Usual);
    let watching = tokio::spawn(tls.clone().watch(|_| {}));
    let (certificate, key) = authority.issue(&["new.example"], Kind::Usual, SystemTime::now() + 10 * DAY);
    let before = tls.expiry();
    authority.scratch.file("relay.pem", certificate);
    authority.scratch.file("relay.key", key);
    let changed = async {
        while tls.expiry() == before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let limit = relay::net::tls::RELOAD_INTERVAL + Duration::from_secs(5);
    tokio::time::timeout(limit, changed).await.expect("the new certificate in time");
    watching.abort();
}

#[tokio::test]
async fn a_certificate_that_could_not_be_taken_is_tried_again_and_said_while_it_stands() {
    let authority = Authority::new();
    let tls = authority.server(&["old.example"], Kind::Usual);
    let (told, mut telling) = tokio::sync::mpsc::unbounded_channel();
    let (certificate, key) = authority.issue(&["new.example"], Kind::Usual, SystemTime::now() + 10 * DAY);
    let right = authority.scratch.file("right.key", key);
    authority.scratch.file("relay.pem", certificate);
    for _ in 0..2 {
        assert!(
            matches!(tls.reload(), Err(TlsError::Unusable { .. })),
            "the refusal stands, whoever has seen the files"
        );
    }
    let watching = tokio::spawn(tls.clone().watch(move |why| drop(told.send(why))));
    for _ in 0..2 {
        let why = telling.recv().await.unwrap();
        assert!(why.is_some_and(|why| why.contains("the key is another certificate's")));
    }
    std::fs::rename(right, authority.scratch.path().join("relay.key")).unwrap();
    while telling.recv().await.unwrap().is_some() {}
    assert!(tls.expiry().abs_diff(in_seconds(SystemTime::now() + 10 * DAY)) < 60, "the new one is in use");
    watching.abort();
}

#[tokio::test]
async fn an_expired_certificate_does_not_replace_a_valid_one_and_replaces_an_expired_one() {
    let authority = Authority::new();
    let tls = authority.server(&["valid.example"], Kind::Usual);
    let before = tls.expiry();
    authority.write(&["expired.example"], Kind::Expired);
    for _ in 0..2 {
        assert!(matches!(tls.reload(), Err(TlsError::Worse { .. })));
    }
    assert_eq!(tls.expiry(), before, "the valid one stays in use");

    let tls = authority.server(&["expired.example"], Kind::Expired);
    authority.write(&["other.example"], Kind::Expired);
    assert!(tls.reload().unwrap(), "neither is better");
    authority.write(&["valid.example"], Kind::Usual);
    assert!(tls.reload().unwrap());
}

#[test]
fn files_that_were_touched_bring_no_new_certificate() {
    let authority = Authority::new();
    let (certificate, key) = authority.write(&["a.example"], Kind::Usual);
    let tls = ServerTls::load(&certificate, &key).unwrap();
    let touched = std::fs::File::options().append(true).open(&certificate).unwrap();
    touched.set_modified(SystemTime::now() - DAY).unwrap();
    assert!(!tls.reload().unwrap());
}

fn in_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn expiry_is_the_leafs_date() {
    let authority = Authority::new();
    let tls = authority.server(&["example.com"], Kind::Usual);
    let expected = (SystemTime::now() + 90 * DAY).duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(tls.expiry().abs_diff(expected) < 60);
}

#[tokio::test]
async fn the_development_certificate_is_good_for_loopback_and_the_public_host_by_its_own_ca() {
    let (tls, ca) = ServerTls::development(None, &[], "192.168.77.9").unwrap();
    let (address, _trigger) = server(&tls).await;
    let scratch = tests::scratch::Scratch::new();
    let client = ClientTls::new(Some(&scratch.file("ca.pem", ca))).unwrap();
    for domain in ["localhost", "127.0.0.1", "[::1]", "192.168.77.9"] {
        assert!(dial::tls(address, &client, domain).await.is_ok(), "{domain}");
    }
    for other in ["example.com", "192.168.77.8"] {
        assert!(dial::tls(address, &client, other).await.is_err(), "{other}");
    }
    assert!(tls.expiry() > SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 86_400);
}

#[tokio::test]
async fn another_ca_of_sip_servers_is_taken_while_the_relay_runs_and_the_old_one_is_trusted_no_more() {
    let (old, new) = (Authority::new(), Authority::new());
    let (old_pem, new_pem) = (std::fs::read(&old.ca).unwrap(), std::fs::read(&new.ca).unwrap());
    let (of_old, of_new) = (old.server(&["example.com"], Kind::Usual), new.server(&["example.com"], Kind::Usual));
    let ((old_server, _one), (new_server, _two)) = (server(&of_old).await, server(&of_new).await);
    let client = old.client();
    let trusts = async |client: &ClientTls| {
        let dial = async |address| dial::tls(address, client, "example.com").await.is_ok();
        (dial(old_server).await, dial(new_server).await)
    };
    assert_eq!((trusts(&client).await, client.reload().unwrap()), ((true, false), false));
    std::fs::write(&old.ca, &new_pem).unwrap();
    assert!(client.reload().unwrap());
    assert_eq!(trusts(&client).await, (false, true), "nor is a session of before gone on with");
    // Half a file changes nothing.
    std::fs::write(&old.ca, &old_pem[..old_pem.len() / 2]).unwrap();
    assert!(client.reload().is_err());
    assert_eq!(trusts(&client).await, (false, true));
    // And nobody need ask for it.
    let watch = tokio::spawn(client.clone().watch());
    std::fs::write(&old.ca, [old_pem, new_pem].concat()).unwrap();
    let taken = async {
        while trusts(&client).await != (true, true) {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(3 * relay::net::tls::RELOAD_INTERVAL, taken).await.expect("it is taken");
    watch.abort();
}

#[tokio::test]
async fn a_wildcard_is_good_for_a_server_of_the_web_and_none_for_one_of_sip() {
    let authority = Authority::new();
    let tls = authority.server(&["*.example.com"], Kind::Usual);
    let (address, _trigger) = server(&tls).await;
    let web = authority.web_client();
    assert!(dial::tls(address, &web, "relay.example.com").await.is_ok());
    assert!(dial::tls(address, &web, "relay.example.net").await.is_err(), "another name");
    assert!(dial::tls(address, &authority.client(), "relay.example.com").await.is_err(), "RFC 5922 has no wildcard");
    let (stranger, _trigger) = server(&Authority::new().server(&["*.example.com"], Kind::Usual)).await;
    assert!(dial::tls(stranger, &web, "relay.example.com").await.is_err(), "another CA's");
}

#[test]
fn a_host_that_a_certificate_names_by_a_wildcard_alone_is_told() {
    let authority = Authority::new();
    let (certificate, _) = authority.write(&["*.example.com", "sip.example.com", "192.0.2.1"], Kind::Usual);
    for (host, is_told) in [
        ("a.example.com", true),
        ("sip.example.com", false),
        ("SIP.example.com", false),
        ("192.0.2.1", false),
        ("example.net", false),
    ] {
        let told = relay::net::tls::by_wildcard(&certificate, host).unwrap();
        assert_eq!(told.is_some(), is_told, "{host}: {told:?}");
        assert!(!told.is_some_and(|doubt| doubt.is_fatal()));
    }
}

#[test]
fn a_file_that_is_missing_or_wrong_is_named_in_the_error() {
    let authority = Authority::new();
    let (certificate, key) = authority.write(&["example.com"], Kind::Usual);
    let missing = authority.scratch.path().join("missing.pem");
    assert!(matches!(ServerTls::load(&missing, &key), Err(TlsError::Unreadable(path, _)) if path == missing));
    assert!(matches!(ServerTls::load(&key, &key), Err(TlsError::Empty(path, _)) if path == key));
    assert!(matches!(ServerTls::load(&certificate, &certificate), Err(TlsError::Empty(..))));
    assert!(matches!(ClientTls::new(Some(&key)), Err(TlsError::Empty(..))));
    let _: Arc<ServerTls> = ServerTls::load(&certificate, &key).unwrap();
}

#[tokio::test]
async fn the_script_for_development_makes_what_the_relay_loads_and_a_client_trusts() {
    let scratch = tests::scratch::Scratch::new();
    let script = scratch.file("make-dev", include_str!("../../../../certs/make-dev"));
    let make = |names: &[&str]| {
        let output = std::process::Command::new("sh").arg(&script).args(names).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said} (if openssl is missing: apt-get install openssl)");
    };
    let dev = scratch.path().join("dev");
    make(&["--help"]);
    assert!(!dev.exists(), "who asks for help gets no certificate");
    make(&["relay1.example.net", "192.0.2.10"]);
    let tls = ServerTls::load(&dev.join("relay.pem"), &dev.join("relay.key")).unwrap();
    let client = ClientTls::new(Some(&dev.join("ca.pem"))).unwrap();
    let (address, _trigger) = server(&tls).await;
    for domain in ["localhost", "127.0.0.1", "relay1.example.net", "192.0.2.10"] {
        assert!(dial::tls(address, &client, domain).await.is_ok(), "{domain}");
    }
    make(&["relay2.example.net"]);
    assert!(tls.reload().unwrap());
    assert!(dial::tls(address, &client, "relay2.example.net").await.is_ok(), "the CA is still the same");
    assert!(dial::tls(address, &client, "relay1.example.net").await.is_err());
}
