//! The announcement of a leaving node: that it leaves, and for which calls it has woken devices.
//!
//! The account of a device may have other devices at the node that takes this one over. The account then has two Contacts, and a call is sent to both. The
//! branch to a node that starts, or was cut off from the SIP server, may arrive seconds late, and find a device there that the leaver has woken long before.
//!
//! Invariant: calls woken before this node releases its lease are announced before that; calls woken later are announced after their push has left. A lost
//! letter costs a second push, and no call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::sleep;

use crate::agent::request::Woken;
use crate::clock;
use crate::service::Inner;
use crate::service::nodes::drain_messages::NodeMessage;
use crate::vault::Owner;
use crate::vault::peer_messages::{Letter, WokenCall};

/// How soon a node is told that has just come: it takes over at once what is handed over.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Calls that one letter names.
const LETTER_MAX: usize = 1_000;

/// The announcements, and how many of them each node has been told.
pub(super) struct Announcer {
    news: UnboundedReceiver<Woken>,
    woken: Vec<Woken>,
    /// By run, how many of them it was told.
    told: BTreeMap<Owner, usize>,
}

impl Announcer {
    /// Tells what comes by `news`.
    pub(crate) fn new(news: UnboundedReceiver<Woken>) -> Self {
        Self { news, woken: Vec::new(), told: BTreeMap::new() }
    }

    /// Tells the other nodes what there is by now.
    pub(crate) async fn tell(&mut self, inner: &Inner) {
        while let Ok(woken) = self.news.try_recv() {
            self.woken.push(woken);
        }
        let vault = &inner.dependencies.vault;
        // A store that is away is asked again with the next news.
        for peer in vault.living_peers().await.unwrap_or_default() {
            if !self.told.contains_key(&peer) && !inner.tell(&peer, NodeMessage::Leaving).await {
                continue;
            }
            let told = self.told.entry(peer.clone()).or_default();
            for some in self.woken[*told..].chunks(LETTER_MAX) {
                let now = clock::now();
                let still_waits = some.iter().filter(|woken| woken.until > now);
                let calls: Vec<WokenCall> = still_waits.map(|woken| as_told(woken, now)).collect();
                if !calls.is_empty() && vault.write_letter(&peer, &Letter::Woken(calls)).await.is_err() {
                    break;
                }
                *told += some.len();
            }
        }
    }

    /// Tells the others, also those that come, of each device that is woken from now on, until the shards have ended.
    pub(crate) async fn go_on(mut self, inner: Arc<Inner>) {
        loop {
            tokio::select! {
                woken = self.news.recv() => match woken {
                    Some(woken) => self.woken.push(woken),
                    None => return,
                },
                () = sleep(LOOK_AGAIN) => {}
            }
            self.tell(&inner).await;
        }
    }
}

fn as_told(woken: &Woken, now: Instant) -> WokenCall {
    let left = woken.until.saturating_duration_since(now);
    let left_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
    WokenCall { instance: woken.instance, mark: woken.mark, left_ms }
}
