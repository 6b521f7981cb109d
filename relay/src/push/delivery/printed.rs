//! Pushes that are printed instead of sent: of a relay whose Apps have no push service.
//!
//! Invariant: what is printed is what a service would have got at that moment.

use std::cell::RefCell;

use crate::log;
use crate::push::{Push, Verdict, payload};
use crate::vault::record::PushTarget;

thread_local! {
    /// In a simulation: the text printed on this thread.
    static PRINTED: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Prints a push as it leaves now.
pub(super) fn print(app: &str, target: &PushTarget, push: &Push) -> Verdict {
    let renewed = push.renewed();
    let text = payload::fcm(renewed.as_ref().unwrap_or(push), target.public_key.as_deref()).unwrap_or_default();
    PRINTED.with_borrow_mut(|heard| match heard {
        Some(heard) => heard.push(text),
        None => log::say_push(app, &format!("{:?}", target.provider), &text),
    });
    Verdict::Accepted
}

/// In a simulation: the text printed on this thread since this was asked last. From the first time on it comes here instead of
/// to the standard error.
pub fn take_printed() -> Vec<String> {
    PRINTED.replace(Some(Vec::new())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sip::id::{CallId, InstanceId, ShardTag};

    use super::*;
    use crate::clock;
    use crate::push::Event;
    use crate::secret::PushToken;
    use crate::vault::record::Provider;

    #[test]
    fn the_second_push_of_a_call_says_when_it_leaves() {
        let push = Push {
            event: Event::Call,
            instance: InstanceId::new(1, ShardTag(1)),
            call: Some(CallId::new(2, ShardTag(1))),
            from: None,
            name: None,
            edge: "relay1.example.net:5061".into(),
            sent_at: 1_795_000_000,
            deadline: 1_795_000_030,
            made_at: clock::now().checked_sub(Duration::from_secs(5)).unwrap(),
            extra: Vec::new(),
        };
        let _ = take_printed();
        print("com.example.phone", &PushTarget::new(Provider::Fcm, PushToken::new("token"), 1), &push);
        let [text] = &take_printed()[..] else { panic!("one push is printed") };
        assert!(text.contains("\"sent_at\":1795000005") && text.contains("\"deadline\":1795000030"), "{text}");
    }
}
