//! The whole relay between stand-ins: calls, accounts, devices, attacks.
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
mod calls;
mod command_line;
mod hostile;
mod kept;
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
