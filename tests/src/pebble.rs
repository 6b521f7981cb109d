//! The real pebble, Let's Encrypt's ACME server for tests: it checks each request as RFC 8555 has it, looks by itself whether a name is the
//! asker's, and issues by a CA of its own.
//!
//! Invariant: it listens on loopback alone, finds names by the name server that it is given, and ends with its handle.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use hyper::Version;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::api_client::ApiClient;
use crate::authority::Authority;
use crate::board::Missed;
use crate::child::Child;
use crate::ports;
use crate::scratch::Scratch;

/// Debian's package with pebble.
const PACKAGE: &str = "pebble";
/// How long it may take to start.
const START_WITHIN: Duration = Duration::from_secs(20);

/// Where it is, and where it looks for answers to its challenges.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// Its ACME server.
    pub acme: u16,
    /// The server that gives its root certificate.
    pub management: u16,
    /// Where it looks for TLS-ALPN-01.
    pub tls: u16,
    /// Where it looks for HTTP-01.
    pub http: u16,
}

impl Default for Places {
    fn default() -> Self {
        let port = ports::free;
        Self { acme: port(), management: port(), tls: port(), http: port() }
    }
}

impl Places {
    /// Its directory.
    pub fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.acme)
    }
}

/// A running pebble.
pub struct Pebble {
    child: Child,
    places: Places,
    authority: Authority,
    _scratch: Scratch,
}

impl Pebble {
    /// Starts it; `authority` vouches for its own HTTPS, and `dns` tells it where names are.
    ///
    /// # Errors
    /// [`Missed`] when it is not installed.
    pub async fn start(places: Places, authority: &Authority, dns: SocketAddr) -> Result<Self, Missed> {
        Self::refusing(places, authority, dns, 5).await
    }

    /// Likewise; it takes so many of a hundred nonces for bad.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn refusing(places: Places, authority: &Authority, dns: SocketAddr, nonces: u8) -> Result<Self, Missed> {
        let scratch = Scratch::new();
        let issued = authority.loopback();
        let Places { acme, management, tls, http } = places;
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{acme}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": issued.certificate_file,
            "privateKey": issued.key_file,
            "httpPort": http,
            "tlsPort": tls,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
        }});
        let config: PathBuf = scratch.file("pebble.json", config.to_string());
        let mut command = Command::new("pebble");
        command.arg("-config").arg(config).args(["-strict", "-dnsserver", &dns.to_string()]);
        // Without the pauses that it makes to be a bad CA.
        command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", nonces.to_string());
        let child = Child::spawn(command, PACKAGE)?;
        child.await_line("Listening on: 127.0.0.1", START_WITHIN).await?;
        Ok(Self { child, places, authority: authority.clone(), _scratch: scratch })
    }

    /// The root that it issues under.
    ///
    /// # Errors
    /// [`Missed`] when it does not tell.
    pub async fn root(&self) -> Result<CertificateDer<'static>, Missed> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.places.management));
        let client = ApiClient::new(address, Version::HTTP_11, &self.authority, None);
        let asked = tokio::time::timeout(START_WITHIN, async {
            loop {
                match client.get("/roots/0").await {
                    Ok(answer) => return answer.text(),
                    // Pebble listens there a moment later than at the other place.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        let text = asked.await.map_err(|_| self.child.missed("its root"))?;
        CertificateDer::from_pem_slice(text.as_bytes()).map_err(|_| Missed::new("its root", text))
    }

    /// The output of Pebble.
    pub fn output(&self) -> String {
        self.child.output()
    }
}
