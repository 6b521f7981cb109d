//! Certificates by ACME, from a real CA for tests that looks by itself whether the name is the relay's.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tests::authority::{Authority, Issued};
use tests::board::Missed;
use tests::child::Child;
use tests::dns::{Dns, Record};
use tests::pebble::{Pebble, Places};
use tests::ports;
use tests::relay_process::binary;
use tests::scratch::Scratch;
use tests::world::{Outcome, SOON};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const NAME: &str = "relay1.example.test";
const TOKEN: &str = "operator-token-0123456789";
/// How long to wait between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A relay that gets its certificate from a pebble at these places.
struct Relay {
    child: Child,
    scratch: Scratch,
    api: SocketAddr,
    operator: SocketAddr,
}

impl Relay {
    /// `acme`: the lines of `[acme]` besides; `api`: its port.
    fn start(places: Places, authority: &Authority, acme: &str, api: u16) -> Result<Self, Missed> {
        let scratch = Scratch::new();
        let port = ports::free;
        let operator = port();
        scratch.file("operator-token", TOKEN);
        scratch.file("app-key", "app-key-0123456789");
        let config = format!(
            "[edge]\nlisten = \"127.0.0.1:{}\"\npublic = \"{NAME}\"\n[api]\nlisten = \"127.0.0.1:{api}\"\n\
             [operator]\nlisten = \"127.0.0.1:{operator}\"\ntoken_file = \"operator-token\"\n\
             [upstream]\ntls_listen = \"127.0.0.1:{}\"\n[store]\nkeyring = \"keyring\"\n\
             [[app]]\nid = \"com.example.phone\"\napi_key_file = \"app-key\"\nprint_pushes = true\n\
             [acme]\ndirectory_url = {:?}\nagree_to_terms = true\ncontact = [\"mailto:ops@example.test\"]\n\
             ca_file = {:?}\n{acme}\n",
            port(),
            port(),
            places.directory(),
            authority.ca_file(),
        );
        let config = scratch.file("relay.toml", config);
        let mut command = Command::new(binary()?);
        command.arg("serve").arg("--config").arg(config).env("NO_COLOR", "1");
        // The pauses after a failure are those of a test.
        command.env(relay::timing::VARIABLE, "0.01");
        let child = Child::spawn(command, "(built by cargo)")?;
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Ok(Self { child, scratch, api: at(api), operator: at(operator) })
    }

    fn state(&self) -> PathBuf {
        self.scratch.path().join("acme")
    }

    /// Puts this certificate in the place of the one in use.
    fn replace_by(&self, issued: &Issued) {
        fs::copy(&issued.key_file, self.state().join("certificate.key")).expect("a key");
        fs::copy(&issued.certificate_file, self.state().join("certificate.pem")).expect("a certificate");
    }

    /// What its operator listener answers; whoever shows the certificate of the state folder is it.
    async fn ask(&self, path: &str) -> Option<String> {
        let chain = CertificateDer::pem_file_iter(self.state().join("certificate.pem")).ok()?;
        // What stands in for a certificate, and a chain's issuer, vouch for themselves.
        let roots: Vec<_> = chain.flatten().collect();
        let mut stream = connect(self.operator, trusting(&roots, &[b"http/1.1"])).await.ok()?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        // Who ends without a close_notify has said everything all the same.
        let _ = stream.read_to_string(&mut answer).await;
        Some(answer)
    }

    /// Asks until the answer is as wanted.
    async fn await_answer(&self, path: &str, wanted: impl Fn(&str) -> bool) -> Result<String, Missed> {
        let mut last = None;
        let found = tokio::time::timeout(SOON * 2, async {
            loop {
                if let Some(answer) = self.ask(path).await {
                    if wanted(&answer) {
                        return answer;
                    }
                    last = Some(answer);
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        found.await.map_err(|_| Missed::new(path, format!("{last:?}\n{}", self.child.output())))
    }

    /// Connects to the API until who shows itself there is vouched for by `root`, and is another one than `not`.
    async fn await_issued(
        &self,
        root: &CertificateDer<'static>,
        not: Option<&CertificateDer<'static>>,
    ) -> Result<(CertificateDer<'static>, TlsStream<TcpStream>), Missed> {
        let found = tokio::time::timeout(SOON * 2, async {
            loop {
                if let Ok(stream) = connect(self.api, trusting(std::slice::from_ref(root), &[b"h2"])).await {
                    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
                    if let Some(shown) = shown.filter(|shown| Some(shown) != not) {
                        return (shown.into_owned(), stream);
                    }
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        found.await.map_err(|_| Missed::new("an issued certificate", self.child.output()))
    }
}

/// A client that believes in these roots alone.
fn trusting(roots: &[CertificateDer<'static>], alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = config.expect("the default versions").with_root_certificates(store).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

async fn connect(address: SocketAddr, tls: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(NAME).expect("a name");
    TlsConnector::from(tls).connect(name, TcpStream::connect(address).await?).await
}

async fn dns() -> Result<Dns, Missed> {
    let started = Dns::start(vec![Record::address(NAME, "127.0.0.1")]).await;
    started.map_err(|error| Missed::new("a name server", error.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_ordered_at_the_https_listener_told_of_until_it_comes_and_renewed_without_a_restart() -> Outcome
{
    let (authority, places, dns) = (Authority::new(), Places::default(), dns().await?);
    // The CA is away.
    let relay = Relay::start(places, &authority, "", places.tls)?;
    let told = relay.await_answer("/readyz", |answer| answer.contains("acme: no certificate was issued")).await?;
    assert!(told.contains("cannot be") || told.contains("refused") || told.contains("127.0.0.1"), "why: {told}");
    relay.child.await_line("no certificate was issued; what is in use stays in use", SOON).await?;
    let failed = |page: &str| page.contains("sipwake_certificate_orders_total{outcome=\"failed\"}");
    relay.await_answer("/metrics", failed).await?;

    // It comes, looks at the HTTPS listener, and issues.
    let pebble = Pebble::start(places, &authority, dns.address()).await?;
    let root = pebble.root().await?;
    let (first, mut held) = relay.await_issued(&root, None).await?;
    relay.await_answer("/readyz", |answer| !answer.contains("acme:")).await?;
    let issued = "sipwake_certificate_orders_total{outcome=\"issued\"} 1";
    relay.await_answer("/metrics", |page| page.contains(issued)).await?;
    let mut names = Vec::new();
    for entry in fs::read_dir(relay.state()).expect("the state folder").flatten() {
        let mode = entry.metadata().expect("a file").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    assert_eq!(names, ["account.json", "certificate.key", "certificate.pem", "issued.json"]);
    let account = fs::read(relay.state().join("account.json")).expect("an account");
    // A CA that looks when nothing is to be proved sees nothing, and a client that offers more than that is an ordinary one.
    assert!(connect(relay.api, trusting(std::slice::from_ref(&root), &[b"acme-tls/1"])).await.is_err());
    assert!(connect(relay.api, trusting(std::slice::from_ref(&root), &[b"acme-tls/1", b"h2"])).await.is_ok());

    // Two thirds of the life of the certificate in use are over: another one, by the same account, without a restart.
    relay.replace_by(&authority.issue_between(&[NAME], Duration::from_secs(60), Duration::from_secs(25)));
    let (second, _stream) = relay.await_issued(&root, Some(&first)).await?;
    assert_ne!(second, first);
    assert_eq!(fs::read(relay.state().join("account.json")).expect("an account"), account);
    relay
        .await_answer("/metrics", |page| page.contains("sipwake_certificate_orders_total{outcome=\"issued\"} 2"))
        .await?;
    // Who was connected is.
    let closed = tokio::time::timeout(Duration::from_millis(200), held.read(&mut [0; 1])).await;
    assert!(!matches!(closed, Ok(Ok(0))), "a connection of before was closed");
    assert!(!relay.child.output().contains("BEGIN "), "{}", relay.child.output());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_nonces_are_refused_is_gone_on_with_and_no_second_one_is_made() -> Outcome {
    let (authority, places, dns) = (Authority::new(), Places::default(), dns().await?);
    let pebble = Pebble::refusing(places, &authority, dns.address(), 50).await?;
    let root = pebble.root().await?;
    let relay = Relay::start(places, &authority, "", places.tls)?;
    relay.await_issued(&root, None).await?;
    let issued = "sipwake_certificate_orders_total{outcome=\"issued\"} 1";
    let page = relay.await_answer("/metrics", |page| page.contains(issued)).await?;
    assert!(page.contains("sipwake_certificate_orders_total{outcome=\"failed\"} 0"), "{}", relay.child.output());
    assert!(pebble.output().contains("reject 50% of good nonces"), "{}", pebble.output());
    assert_eq!(pebble.output().matches("Added order").count(), 1, "{}", pebble.output());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_ordered_by_http_at_a_door_for_the_ca_alone() -> Outcome {
    let (authority, places, dns) = (Authority::new(), Places::default(), dns().await?);
    let pebble = Pebble::start(places, &authority, dns.address()).await?;
    let root = pebble.root().await?;
    let door = format!("challenge = \"http-01\"\nlisten = \"127.0.0.1:{}\"", places.http);
    let relay = Relay::start(places, &authority, &door, ports::free())?;
    relay.await_issued(&root, None).await?;
    // The challenge is over, and nothing else is to be had there.
    let mut stream = TcpStream::connect(("127.0.0.1", places.http)).await.expect("the door is open");
    let request = "GET /.well-known/acme-challenge/anything HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("it listens");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_the_relays_is_told_with_what_the_ca_says() -> Outcome {
    let (authority, places) = (Authority::new(), Places::default());
    // The name leads to where nobody is.
    let dns = Dns::start(vec![Record::address(NAME, "127.0.0.9")]).await;
    let dns = dns.map_err(|error| Missed::new("a name server", error.to_string()))?;
    let _pebble = Pebble::start(places, &authority, dns.address()).await?;
    let relay = Relay::start(places, &authority, "", places.tls)?;
    let told = relay.await_answer("/readyz", |answer| answer.contains("does not take it that")).await?;
    assert!(told.contains(NAME), "{told}");
    // It serves all the same, with what it has signed itself.
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_the_ca_does_not_know_any_more_makes_room_for_another_one() -> Outcome {
    let (authority, places, dns) = (Authority::new(), Places::default(), dns().await?);
    let pebble = Pebble::start(places, &authority, dns.address()).await?;
    let root = pebble.root().await?;
    let relay = Relay::start(places, &authority, "", places.tls)?;
    let (first, _stream) = relay.await_issued(&root, None).await?;
    relay.child.await_line("a certificate was issued", SOON).await?;

    // Of an earlier run; pebble answers 404 and says no word of it.
    let state = relay.state();
    let account = fs::read_to_string(state.join("account.json")).expect("an account");
    let account: serde_json::Value = serde_json::from_str(&account).expect("JSON");
    let url = format!("https://127.0.0.1:{}/my-order/gone", places.acme);
    let order = serde_json::json!({"account": account["id"], "names": [NAME], "url": url, "key": "a key"});
    fs::write(state.join("order.json"), order.to_string()).expect("an order");
    relay.replace_by(&authority.issue_between(&[NAME], Duration::from_secs(60), Duration::from_secs(25)));
    relay.await_issued(&root, Some(&first)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_was_issued_and_is_not_taken_is_not_ordered_again() -> Outcome {
    const SIP: &str = "sip.example.test";
    const MOST_OF_ITS_LIFE: Duration = Duration::from_secs(3_000);
    let (authority, places) = (Authority::new(), Places::default());
    let dns = Dns::start(vec![Record::address(SIP, "127.0.0.1")]).await;
    let dns = dns.map_err(|error| Missed::new("a name server", error.to_string()))?;
    let pebble = Pebble::start(places, &authority, dns.address()).await?;
    // It orders no certificate for the name that phones dial.
    let relay = Relay::start(places, &authority, &format!("names = [{SIP:?}]"), places.tls)?;
    relay.child.await_line("a certificate was issued", SOON * 2).await?;

    // One that phones take comes by hand, and is to be renewed: what the CA issues is worse.
    relay.replace_by(&authority.issue_between(&[NAME, SIP], MOST_OF_ITS_LIFE, MOST_OF_ITS_LIFE / 3));
    let not_taken = "no certificate was issued; what is in use stays in use";
    relay.child.await_lines(not_taken, 3, SOON * 2).await?;
    let orders = pebble.output().matches("Added order").count();
    assert_eq!(orders, 2, "{}\n{}", relay.child.output(), pebble.output());
    Ok(())
}
