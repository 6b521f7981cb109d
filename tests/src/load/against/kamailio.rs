//! A Kamailio that keeps the call waiting, pushes by HTTP/1.1, and sends it on once the device has registered.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use super::server::Server;
use crate::authority::Authority;
use crate::board::Missed;
use crate::child::Child;
use crate::load::accounts::DOMAIN;
use crate::ports;
use crate::scratch::Scratch;

/// Debian's packages with Kamailio and what the configuration loads.
const PACKAGES: &str = "kamailio kamailio-tls-modules kamailio-utils-modules";
/// How long it may take to start.
const START_WITHIN: Duration = Duration::from_secs(20);

/// Starts one; its pushes go to `push`.
///
/// # Errors
/// [`Missed`] when it does not start.
pub(super) async fn start(authority: &Authority, push: SocketAddr) -> Result<Server, Missed> {
    let scratch = Scratch::new();
    let [udp, tls] = [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free())));
    let issued = authority.issue(&[DOMAIN, "127.0.0.1"]);
    let (certificate, key) = (issued.certificate_file.display(), issued.key_file.display());
    scratch.file(
        "tls.cfg",
        format!(
            "[server:default]\nmethod = TLSv1.2+\nverify_certificate = no\nrequire_certificate = no\n\
             private_key = {key}\ncertificate = {certificate}\n"
        ),
    );
    let configuration = include_str!("kamailio.cfg")
        .replace("@DOMAIN@", DOMAIN)
        .replace("@UDP@", &udp.port().to_string())
        .replace("@TLS@", &tls.port().to_string())
        .replace("@PUSH@", &push.port().to_string())
        .replace("@DIR@", &scratch.path().display().to_string());
    let config = scratch.file("kamailio.cfg", configuration);
    let mut command = Command::new("/usr/sbin/kamailio");
    command.arg("-f").arg(config).args(["-DD", "-E", "-m", "512", "-M", "16"]);
    command.arg("-Y").arg(scratch.path()).arg("-w").arg(scratch.path());
    let kamailio =
        Server { child: Child::spawn(command, PACKAGES)?, udp, tls: Some(tls), name: version(), _scratch: scratch };
    let begun = Instant::now();
    while tokio::net::TcpStream::connect(tls).await.is_err() {
        if !kamailio.child.is_running() || begun.elapsed() > START_WITHIN {
            return Err(kamailio.child.missed("the start"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(kamailio)
}

/// `kamailio -v`, its first line.
fn version() -> String {
    let said = Command::new("/usr/sbin/kamailio").arg("-v").output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    said.lines().next().unwrap_or("kamailio").to_owned()
}
