//! The relay of a configuration that runs on this machine, known by the certificate that it shows.
//!
//! It notes the certificate in use in `….certificate-NODE` beside the keyring, in DER. So a command knows it while the file of `tls.certificate` holds
//! another one, which the relay has not taken yet, or does not take. Likewise it notes in `….operator-NODE` where its operator listener is, which the file may name
//! otherwise since.
//!
//! Invariant: it is one only when it shows the very certificate that its configuration names, or that it has noted, and has its key. A note counts
//! only when it is of the user whose folder it is in, or root's, and nobody else may write it.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;

use crate::config::values::reachable;
use crate::config::{Config, HostPort, Tls};
use crate::file_owner;
use crate::net::dial;
use crate::net::tls::{ClientTls, TlsError};
use crate::regular_file;
use crate::vault;

/// The notes by what they hold.
const CERTIFICATE: &str = "certificate";
const LISTENER: &str = "operator";

/// Whether the relay of this configuration runs here, as its operator listener tells.
pub(super) async fn runs(config: &Config) -> bool {
    if is_ours(config, config.operator.listen).await {
        return true;
    }
    match noted_listener(config) {
        Some(noted) => is_ours(config, noted).await,
        None => false,
    }
}

/// Whether the relay of this configuration answers at `address`.
pub(super) async fn is_ours(config: &Config, address: SocketAddr) -> bool {
    let Some(Ok(client)) = client(config) else { return false };
    // The name decides nothing: the certificate is known.
    dial::tls(reachable(address), &client, "localhost").await.is_ok()
}

/// Trusts the relay of this configuration alone; `None`: its certificate is in no file.
///
/// # Errors
/// [`TlsError`] when neither the file nor a note holds a certificate.
pub fn client(config: &Config) -> Option<Result<ClientTls, TlsError>> {
    let Tls::Files { certificate, .. } = &config.tls else { return None };
    Some(ClientTls::only(certificate, place(config, CERTIFICATE).as_deref().and_then(noted)))
}

/// The address of the operator listener that the relay of this configuration has noted, as it is reached from this machine; `None`: that of the configuration.
pub fn noted_listener(config: &Config) -> Option<SocketAddr> {
    listener_in(&place(config, LISTENER)?).filter(|noted| *noted != reachable(config.operator.listen))
}

/// The same by the keyring and the public address of a relay, and how it is known there: by the certificate that it has noted, alone.
pub fn noted_relay(keyring: &Path, public: &HostPort) -> Option<(SocketAddr, ClientTls)> {
    let place = |kind| vault::file_of_node(keyring, kind, &public.to_string()).ok();
    Some((listener_in(&place(LISTENER)?)?, ClientTls::known(noted(&place(CERTIFICATE)?)?)))
}

fn listener_in(note: &Path) -> Option<SocketAddr> {
    String::from_utf8(read_noted(note)?).ok()?.trim().parse().ok().map(reachable)
}

/// Notes the certificate in use, and the operator listener of this run. One whose port is not known leaves no note of an earlier run behind.
pub(super) fn note(config: &Config, leaf: &CertificateDer<'_>) -> io::Result<()> {
    if config.operator.listen.port() != 0 {
        write_note(config, LISTENER, format!("{}\n", config.operator.listen).as_bytes())?;
    } else if let Some(file) = place(config, LISTENER) {
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    write_note(config, CERTIFICATE, leaf)
}

fn write_note(config: &Config, kind: &str, note: &[u8]) -> io::Result<()> {
    let Some(file) = place(config, kind) else { return Ok(()) };
    if read_noted(&file).is_some_and(|noted| noted == *note) {
        return Ok(());
    }
    let mut aside = file.clone().into_os_string();
    aside.push(".new");
    let mut options = std::fs::OpenOptions::new();
    let mut new = options.write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    new.write_all(note)?;
    file_owner::give_if_it_can(Path::new(&aside));
    std::fs::rename(&aside, &file)
}

fn place(config: &Config, kind: &str) -> Option<PathBuf> {
    vault::file_of_node(config.store.keyring.as_deref()?, kind, &config.edge.public.to_string()).ok()
}

fn noted(file: &Path) -> Option<CertificateDer<'static>> {
    read_noted(file).map(CertificateDer::from)
}

fn read_noted(file: &Path) -> Option<Vec<u8>> {
    let (found, folder) = (std::fs::symlink_metadata(file).ok()?, std::fs::metadata(file.parent()?).ok()?);
    let is_trusted = (found.uid() == folder.uid() || found.uid() == 0) && found.mode() & 0o022 == 0;
    if !is_trusted || !found.is_file() {
        return None;
    }
    regular_file::read(file).ok().filter(|note| !note.is_empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::random;
    use crate::vault::hex;

    #[test]
    fn a_noted_certificate_is_that_of_the_last_note_and_of_nobody_elses() {
        let folder = std::env::temp_dir().join(format!("sipwake-note-{}", hex(&random::bytes::<8>())));
        std::fs::create_dir(&folder).unwrap();
        let mut config = Config::development().unwrap();
        config.store.keyring = Some(folder.join("keyring"));
        let file = place(&config, CERTIFICATE).unwrap();
        assert!(noted(&file).is_none());
        for leaf in ["one", "two"] {
            note(&config, &CertificateDer::from(leaf.as_bytes())).unwrap();
            assert_eq!(noted(&file).unwrap(), CertificateDer::from(leaf.as_bytes()));
        }
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o622)).unwrap();
        assert!(noted(&file).is_none(), "others may write it");
        assert_eq!(noted_listener(&config), None, "its port is not known, or it is that of the configuration");
        let listen = |address: &str| address.parse().unwrap();
        config.operator.listen = listen("0.0.0.0:9443");
        note(&config, &CertificateDer::from("two".as_bytes())).unwrap();
        assert_eq!(noted_listener(&config), None);
        config.operator.listen = listen("127.0.0.1:9444");
        assert_eq!(noted_listener(&config), Some(listen("127.0.0.1:9443")), "the configuration has changed since");
        let keyring = config.store.keyring.clone().unwrap();
        let address = |public: &HostPort| noted_relay(&keyring, public).map(|(address, _)| address);
        assert_eq!(address(&config.edge.public), Some(listen("127.0.0.1:9443")));
        assert_eq!(address(&HostPort { host: "another.example".into(), port: 5061 }), None);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(address(&config.edge.public), None, "nothing tells that it is the relay");
        config.operator.listen = listen("127.0.0.1:0");
        note(&config, &CertificateDer::from("two".as_bytes())).unwrap();
        assert_eq!((noted_listener(&config), address(&config.edge.public)), (None, None), "of an earlier run");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
