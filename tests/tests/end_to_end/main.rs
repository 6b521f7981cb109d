//! The whole relay between stand-ins: calls, accounts, devices, attacks.
//!
//! | room | subject |
//! | --- | --- |
//! | `smoke` | the main job in one process |
//! | `calls`, `matrix` | calls, and the same calls over every transport |
//! | `lifecycle` | accounts, from enabling to wipe; nodes, stores, clocks |
//! | `activity` | messages, voicemail, missed calls, the timeline |
//! | `push_proxy` | accounts that are not lent (RFC 8599) |
//! | `webpush`, `sealed` | Web Push, and pushes that the device alone reads |
//! | `hostile` | attacks at every listener |
//! | `command_line`, `service_manager` | the binary as it is started |
//! | `acme`, `metrics`, `page`, `load` | certificates, metrics, the status page, the load generator |
//!
//! Invariant: each test has a relay and stand-ins of its own, on loopback alone; nobody sleeps to synchronise.

/// Tests that are one play with different arguments.
macro_rules! plays {
    ($play:ident: $(fn $name:ident($($argument:expr),*);)*) => {
        $(
            #[tokio::test]
            async fn $name() -> Outcome {
                $play($($argument),*).await
            }
        )*
    };
}

mod acme;
mod activity;
mod calls;
mod command_line;
mod hostile;
mod lifecycle;
mod load;
mod matrix;
mod metrics;
mod page;
mod push_proxy;
mod sealed;
mod service_manager;
mod smoke;
mod webpush;
