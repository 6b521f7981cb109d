//! Devices that pushes are for, by their numbers.
//!
//! Invariant: two numbers have two tokens.

use relay::secret::PushToken;
use relay::vault::record::{Provider, PushTarget};

pub fn apple_token(number: u32) -> String {
    format!("{number:064x}")
}

pub fn google_token(number: u32) -> String {
    format!("cRegistration{number:06}:APA91bExample")
}

pub fn apple(number: u32) -> PushTarget {
    target(Provider::ApnsProduction, &apple_token(number))
}

pub fn google(number: u32) -> PushTarget {
    target(Provider::Fcm, &google_token(number))
}

pub fn target(provider: Provider, token: &str) -> PushTarget {
    PushTarget::new(provider, PushToken::new(token), 0)
}
