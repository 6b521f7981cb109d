//! The last calls of a node that ends. Waiting calls are given time to end; then new calls are refused, and the rest is ended. Requests in established
//! calls, and requests outside of calls, end likewise.
//!
//! Invariant: once calls are refused, nothing new waits. Everything that waits is answered before the node exits.

use std::time::Duration;

use sip::endpoint::Failover;
use tokio::time::sleep;

use super::Agent;
use super::request::Request;

impl Agent {
    /// Waits until no call waits for its device or is being set up, no other request waits for its answer, and no 2xx for its ACK; whether one did.
    pub async fn wait_for_calls(&self) -> bool {
        const LOOK_AGAIN: Duration = Duration::from_millis(100);
        let mut were_open = false;
        while self.ask_all(Request::OpenCalls).await.into_iter().any(|open| open > 0) {
            were_open = true;
            sleep(LOOK_AGAIN).await;
        }
        were_open
    }

    /// Takes no new calls from now on: each is refused with 503 and Retry-After, and wakes nobody. Where no other node lives its devices have missed it.
    pub async fn refuse_calls(&self, failover: Failover) {
        self.ask_all(|reply| Request::RefuseCalls { failover, reply }).await;
    }

    /// Ends the calls that are left, and answers the other requests, so that neither a caller nor a phone hears ringing from a process that is gone.
    pub async fn end_calls(&self, failover: Failover) {
        /// How long the last answers may take to leave the connections' queues.
        const LEAVING: Duration = Duration::from_millis(200);
        let ended = self.ask_all(|reply| Request::EndCalls { failover, reply }).await;
        let calls: usize = ended.iter().map(|ended| ended.calls).sum();
        let requests: usize = ended.iter().map(|ended| ended.requests).sum();
        let registers: usize = ended.iter().map(|ended| ended.registers).sum();
        if calls > 0 {
            tracing::warn!(event = "drain-ended-calls", ended = calls, "the drain ended calls that were being set up");
        }
        if requests > 0 {
            tracing::warn!(
                event = "drain-ended-requests",
                ended = requests,
                "the drain answered requests that nobody else had answered"
            );
        }
        if calls + requests + registers > 0 {
            sleep(LEAVING).await;
        }
    }
}
