//! The call matrix: the same calls over every upstream transport, every door of devices and every way to serve an account.
//!
//! | call | what is shown |
//! | --- | --- |
//! | answered, hung up by the caller | one push, 180, the INVITE at the woken device, ACK and BYE there |
//! | answered, hung up by the device | BYE at the caller |
//! | declined by the device | its 603 at the caller |
//! | cancelled while the device sleeps | 487, and the device that wakes late finds no call |
//! | cancelled while the device rings | CANCEL at the device, 487 at the caller |
//! | answered elsewhere | CANCEL with its Reason at the device, the state `answered-elsewhere` |
//! | held and resumed | re-INVITEs of both sides, offers and answers to the byte |
//! | with large bodies | INVITE, 200 and re-INVITEs of both sides with 4 to 8 kB of SRTP and ICE, to the byte |
//! | moved in a call | a device that loses TLS comes back by WSS, or the other way round: BYE and re-INVITE find it |
//! | two devices (of a lent account) | both pushed, both rung, one answers, CANCEL at the other |
//! | a second call | at the device without a push, both hung up by different sides |
//! | no device | 480 at `ring_timeout`, beside the other calls |
//!
//! Which of these real peers show, and over what, stands in `peers/main.rs`.
//!
//! Invariant: one test is one combination with a world of its own; each call leaves the device asleep.

mod combination;
mod scenarios;

use tests::wire::Transport;
use tests::world::Outcome;

use self::combination::{Cell, Mode};
use self::scenarios::every_call;

macro_rules! cells {
    ($($name:ident: $upstream:ident, $device:ident, $mode:ident;)*) => {
        $(
            #[tokio::test]
            async fn $name() -> Outcome {
                let (upstream, device, mode) = (Transport::$upstream, Transport::$device, Mode::$mode);
                every_call(Cell { upstream, device, mode }).await
            }
        )*
    };
}

cells! {
    every_call_of_a_lent_account_goes_its_way_from_udp_to_a_tls_device: Udp, Tls, Credentials;
    every_call_of_a_lent_account_goes_its_way_from_tcp_to_a_tls_device: Tcp, Tls, Credentials;
    every_call_of_a_lent_account_goes_its_way_from_tls_to_a_tls_device: Tls, Tls, Credentials;
    every_call_of_a_lent_account_goes_its_way_from_udp_to_a_wss_device: Udp, Wss, Credentials;
    every_call_of_a_lent_account_goes_its_way_from_tcp_to_a_wss_device: Tcp, Wss, Credentials;
    every_call_of_a_lent_account_goes_its_way_from_tls_to_a_wss_device: Tls, Wss, Credentials;
    every_call_of_an_account_that_is_not_lent_goes_its_way_from_udp_to_a_tls_device: Udp, Tls, PushProxy;
    every_call_of_an_account_that_is_not_lent_goes_its_way_from_tcp_to_a_tls_device: Tcp, Tls, PushProxy;
    every_call_of_an_account_that_is_not_lent_goes_its_way_from_tls_to_a_tls_device: Tls, Tls, PushProxy;
    every_call_of_an_account_that_is_not_lent_goes_its_way_from_udp_to_a_wss_device: Udp, Wss, PushProxy;
    every_call_of_an_account_that_is_not_lent_goes_its_way_from_tcp_to_a_wss_device: Tcp, Wss, PushProxy;
    every_call_of_an_account_that_is_not_lent_goes_its_way_from_tls_to_a_wss_device: Tls, Wss, PushProxy;
}
