//! Whether an address that is in use is a running relay's.
//!
//! Invariant: it is one only when it shows the very certificate of this configuration and has its key.

use std::net::SocketAddr;

use crate::config::Tls;
use crate::config::values::reachable;
use crate::net::dial;
use crate::net::tls::ClientTls;

/// Whether a relay with this certificate answers at `address`.
pub(super) async fn is_ours(tls: &Tls, address: SocketAddr) -> bool {
    let Tls::Files { certificate, .. } = tls else { return false };
    let Ok(client) = ClientTls::only(certificate) else { return false };
    // The name decides nothing: the certificate is known.
    dial::tls(reachable(address), &client, "localhost").await.is_ok()
}
