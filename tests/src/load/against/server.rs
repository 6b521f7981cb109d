//! The server that the calls are placed at: a program that this run has started, and its addresses.

use std::net::SocketAddr;

use crate::child::Child;
use crate::scratch::Scratch;

/// A server that runs until this is dropped.
pub(super) struct Server {
    pub(super) child: Child,
    /// Where INVITEs go.
    pub(super) udp: SocketAddr,
    /// Where devices come; `None` when none do.
    pub(super) tls: Option<SocketAddr>,
    /// The server's name for itself.
    pub(super) name: String,
    /// Its files.
    pub(super) _scratch: Scratch,
}

impl Server {
    /// The main process and its workers.
    pub(super) fn pids(&self) -> Vec<u32> {
        let main = self.child.pid();
        let children = std::fs::read_to_string(format!("/proc/{main}/task/{main}/children")).unwrap_or_default();
        std::iter::once(main).chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
    }
}
