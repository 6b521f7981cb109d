//! A push from its order to its verdict: to which service, how often, and until when.
//!
//! | room | what it is |
//! | --- | --- |
//! | `service` | the one door: every push of every App |
//! | `copies` | a call's push through a service that may take it twice |
//! | `last_try` | the last try of a call's push, and its end |
//! | `printed` | what is printed where there is no service |
//! | `certificates` | the certificates that services are shown |
//! | `dry_run` | pushes that reach no device, for what a service says of the keys |
//!
//! Invariant: every push ends with one verdict, by its deadline at the latest.

mod certificates;
mod copies;
pub(super) mod dry_run;
mod last_try;
pub(super) mod printed;
pub(super) mod service;
