//! The main job with real peers: Kamailio is the account's SIP server, SIPp calls, baresip is the phone, and the relay is
//! the real binary. APNs and FCM are stand-ins over TLS.
//!
//! Of the call matrix (`end_to_end/matrix`) these are shown with real peers, Kamailio as the SIP server and SIPp as the caller in all:
//!
//! | call | upstream | device | where |
//! | --- | --- | --- | --- |
//! | answered, either side hangs up | UDP, TCP, TLS | baresip over TLS; Linphone over TLS | `calls`, `strangers` |
//! | declined by the device | UDP, TCP, TLS | baresip | `in_calls` |
//! | declined by the app | UDP | – | `endings` |
//! | cancelled while the device sleeps | UDP, TLS | baresip, late | `endings` |
//! | cancelled while the device rings | UDP, TCP, TLS | baresip | `in_calls` |
//! | answered elsewhere: asleep, and ringing | UDP, TCP, TLS | baresip, beside a second baresip at Kamailio, which forks | `in_calls` |
//! | no device | TLS | baresip, late | `endings` |
//! | held and resumed by the caller, and by the device | UDP, TCP, TLS | SIPp's re-INVITEs; baresip's | `in_calls` |
//! | a second call during the first | UDP, TCP, TLS | baresip, which holds the first | `in_calls` |
//!
//! By secure WebSocket comes JsSIP in Chromium (`browser`): answered with sound, either side hangs up, declined, cancelled, a lost socket.
//! Accounts that are not lent (RFC 8599), with Kamailio and SIPp, are in `push_proxy`, and those of clients without push in `flow_only`; the stand-ins against
//! real peers in `standins`.
//!
//! Invariant: traffic stays on loopback; what is missing on the machine fails a test with the line that installs it.

/// Tests that are one play with different arguments.
macro_rules! plays {
    ($play:ident: $(fn $name:ident($($argument:expr),*);)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() -> Outcome {
                $play($($argument),*).await
            }
        )*
    };
}

mod activity;
mod browser;
mod calls;
mod canary;
mod desk_phone;
mod endings;
mod flow_only;
mod forgetting;
mod in_calls;
mod nodes;
mod push_proxy;
mod refreshes;
mod registrations;
mod restarts;
mod standins;
mod strangers;
mod unconfigured;
mod waking;

pub use tests::world::Outcome;
use tests::world::real::RealServer;

/// Everything that takes part but the phone and the caller.
pub type World = tests::world::World<RealServer>;
