//! Requests beside calls, in virtual time: MESSAGE (RFC 3428), NOTIFY message-summary (RFC 3842), OPTIONS, and the calls that nobody answered.
//!
//! Invariant: every request is answered exactly once; the endpoint passes the parts of a message on as they came in.

use std::time::Duration;

use sip::endpoint::*;
use sip::id::MessageId;
use sip::message::{Message, Name};

use crate::world::World;

const NO_RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
const STORE_TIMEOUT: Duration = Duration::from_secs(3);

impl World {
    /// The SIP server sends a MESSAGE to the binding.
    fn receive_message(&mut self, call_id: &str, headers: &str, body: &str) {
        let source = self.upstream;
        let text = self.out_of_dialog("MESSAGE", call_id, headers, body);
        self.receive(source, &text);
    }

    fn notify(&mut self, call_id: &str, headers: &str, body: &str) {
        let source = self.upstream;
        let text = self.out_of_dialog("NOTIFY", call_id, headers, body);
        self.receive(source, &text);
    }

    fn out_of_dialog(&self, method: &str, call_id: &str, headers: &str, body: &str) -> String {
        let head = self.head(call_id, method, 1, "");
        let length = body.len();
        format!(
            "{method} sip:{}@relay.test:5070 SIP/2.0\r\n{head}{headers}Content-Length: {length}\r\n\r\n{body}",
            self.binding
        )
    }

    /// The copies that the store was given.
    fn messages(&self) -> Vec<InboundMessage> {
        let messages = self.events.iter().filter_map(|event| match event {
            Event::StoreMessage(message) => Some((**message).clone()),
            _ => None,
        });
        messages.collect()
    }

    fn stored(&mut self, message: &InboundMessage, outcome: StoreOutcome) {
        self.input(Input::MessageStored { request: message.request, instance: message.instance, outcome });
    }

    fn taken(&self) -> Vec<MessageId> {
        let taken = self.events.iter().filter_map(|event| match event {
            Event::DiscardMessage { message, .. } => Some(*message),
            _ => None,
        });
        taken.collect()
    }

    fn message_ends(&self) -> Vec<MessageEnd> {
        let ends = self.events.iter().filter_map(|event| match event {
            Event::MessageEnded { end, .. } => Some(*end),
            _ => None,
        });
        ends.collect()
    }

    fn mailboxes(&self) -> Vec<Mailbox> {
        let told = self.events.iter().filter_map(|event| match event {
            Event::Mailbox { mailbox, .. } => Some((**mailbox).clone()),
            _ => None,
        });
        told.collect()
    }

    fn missed(&self) -> Vec<(&IncomingCall, CallState)> {
        let missed = self.events.iter().filter_map(|event| match event {
            Event::Missed { call, state } => Some((&**call, *state)),
            _ => None,
        });
        missed.collect()
    }

    /// The one final answer to a method.
    fn answered(&self, method: &str) -> Message {
        let finals = self.sent.iter().filter(|sent| {
            sent.message.status().is_some_and(|status| status >= 200)
                && sent.message.cseq().is_some_and(|(_, cseq)| cseq == method)
        });
        let finals: Vec<_> = finals.collect();
        assert_eq!(finals.len(), 1, "{:?}", self.descriptions());
        finals[0].message.clone()
    }
}

const PLAIN: &str = "Content-Type: text/plain;charset=utf-8\r\n";

#[test]
fn a_message_to_a_sleeping_device_is_answered_202_once_the_store_has_it() {
    let mut world = World::registered();
    world.receive_message("m1", PLAIN, "Grüße, bis gleich");
    assert!(world.sent.is_empty(), "nothing is promised yet");
    let [message] = &world.messages()[..] else { panic!("one copy") };
    assert_eq!((&*message.from, message.name.as_deref()), ("sip:bob@example.com", Some("Bob")));
    assert_eq!(
        (&message.body[..], &*message.content_type),
        ("Grüße, bis gleich".as_bytes(), "text/plain;charset=utf-8")
    );
    assert_eq!((message.instance, message.lasts), (world.instance, None));
    assert!(!format!("{message:?}").contains("bob") && !format!("{message:?}").contains("gleich"));
    world.stored(message, StoreOutcome::Stored);
    assert_eq!(world.answered("MESSAGE").status(), Some(202));
    world.advance(Duration::from_secs(60));
    assert_eq!(world.endpoint.counts().messages, 0);
}

#[test]
fn a_content_type_that_is_folded_over_lines_is_told_as_one() {
    let mut world = World::registered();
    world.receive_message("m1", "c :\r\n TEXT/Plain\r\n\t; charset = \"utf-8\"\r\n", "hello");
    let [message] = &world.messages()[..] else { panic!("one copy") };
    assert_eq!(&*message.content_type, "TEXT/Plain ; charset = \"utf-8\"");
}

#[test]
fn a_message_that_is_sent_again_is_answered_from_its_transaction_and_a_copy_of_it_has_the_same_name() {
    let mut world = World::registered();
    for _ in 0..3 {
        world.receive_message("m1", PLAIN, "hello");
    }
    let message = world.messages().remove(0);
    assert_eq!(world.messages().len(), 1);
    world.stored(&message, StoreOutcome::Stored);
    world.receive_message("m1", PLAIN, "hello");
    assert_eq!((world.count("MESSAGE 202"), world.messages().len()), (2, 1), "repeated, not stored again");
    // By another way, so in another transaction.
    let text = world.out_of_dialog("MESSAGE", "m1", PLAIN, "hello").replace("z9hG4bKserver", "z9hG4bKother");
    world.receive(world.upstream, &text);
    world.receive_message("m2", PLAIN, "hello");
    let names: Vec<_> = world.messages().iter().map(|message| message.message).collect();
    assert_eq!((names[0], names[0] == names[2]), (names[1], false));
}

#[test]
fn a_store_that_is_away_makes_the_server_keep_the_message() {
    let mut world = World::registered();
    world.receive_message("m1", PLAIN, "hello");
    let message = world.messages().remove(0);
    world.stored(&message, StoreOutcome::Unavailable);
    let answer = world.answered("MESSAGE");
    assert_eq!((answer.status(), answer.has(Name::RetryAfter)), (Some(503), true));
    // One that says nothing at all is away too.
    let mut world = World::registered();
    world.receive_message("m1", PLAIN, "hello");
    world.advance(NO_RESPONSE_TIMEOUT + STORE_TIMEOUT);
    assert_eq!(world.answered("MESSAGE").status(), Some(503));
}

#[test]
fn a_full_store_refuses_for_now() {
    let mut world = World::registered();
    world.receive_message("m1", PLAIN, "hello");
    let message = world.messages().remove(0);
    world.stored(&message, StoreOutcome::Full);
    let answer = world.answered("MESSAGE");
    assert_eq!((answer.status(), answer.has(Name::RetryAfter)), (Some(480), true));
}

#[test]
fn an_attached_device_gets_the_message_on_its_flow_and_its_answer_passes() {
    for status in [200, 415] {
        let mut world = World::registered();
        world.attach(1);
        world.receive_message("m1", "X-Odd:  kept\r\nContent-Type: text/plain\r\n", "hello");
        let sent = world.last("MESSAGE");
        assert_eq!(sent.request_uri(), Some("sip:phone1@10.0.0.5:9999;transport=tls"));
        assert_eq!((&sent.body()[..], sent.values(Name::Via).count()), (&b"hello"[..], 3));
        assert!(String::from_utf8_lossy(sent.head()).contains("X-Odd:  kept\r\n"));
        assert_eq!(world.count("MESSAGE 202"), 0);
        world.reply(world.device(1), &sent, status, &[("X-From", "phone")], "");
        let answer = world.answered("MESSAGE");
        assert_eq!((answer.status(), answer.values_written("X-From").count()), (Some(status), 1));
        assert_eq!(answer.values(Name::Via).count(), 2);
        assert!(world.messages().is_empty(), "what the device judged is not kept");
        let end = if status == 200 { MessageEnd::Delivered } else { MessageEnd::Refused(status) };
        assert_eq!((world.message_ends(), world.endpoint.counts().messages), (vec![end], 0));
    }
}

#[test]
fn a_message_that_an_attached_device_leaves_unanswered_is_kept_and_its_late_answer_takes_the_copy_away() {
    let mut world = World::registered();
    world.attach(1);
    world.receive_message("m1", PLAIN, "hello");
    let sent = world.last("MESSAGE");
    world.advance(NO_RESPONSE_TIMEOUT);
    let message = world.messages().remove(0);
    world.stored(&message, StoreOutcome::Stored);
    assert_eq!(world.answered("MESSAGE").status(), Some(202));
    world.reply(world.device(1), &sent, 200, &[], "");
    assert_eq!(world.taken(), [message.message]);
    assert_eq!((world.count("MESSAGE 202"), world.count("MESSAGE 200")), (1, 0), "answered once");
    assert_eq!(world.endpoint.counts().messages, 0);
}

#[test]
fn a_message_on_a_flow_that_breaks_is_kept_at_once() {
    let mut world = World::registered();
    world.attach(1);
    world.receive_message("m1", PLAIN, "hello");
    world.input(Input::Closed(world.device(1).flow));
    let message = world.messages().remove(0);
    world.stored(&message, StoreOutcome::Stored);
    assert_eq!((world.answered("MESSAGE").status(), world.messages().len()), (Some(202), 1));
    world.advance(Duration::from_secs(60));
    assert_eq!(world.endpoint.counts().messages, 0);
}

#[test]
fn a_composing_notice_is_taken_and_dropped() {
    let within = "From: <im:bob@example.com>\r\n\r\nContent-Type: application/im-iscomposing+xml\r\n\r\n<isComposing/>";
    for (media, body) in [("application/im-iscomposing+xml", "<isComposing/>"), ("message/cpim", within)] {
        let mut world = World::registered();
        world.receive_message("m1", &format!("Content-Type: {media}\r\n"), body);
        assert_eq!(world.answered("MESSAGE").status(), Some(200), "{media}");
        assert_eq!((world.messages().len(), world.message_ends()), (0, vec![MessageEnd::Composing]), "{media}");
    }
}

/// A composing notice is for devices that are attached: it passes both ways, and is never stored.
#[test]
fn a_composing_notice_goes_to_a_device_that_is_attached_and_to_no_store() {
    let composing = "Content-Type: Application/im-iscomposing+xml;charset=utf-8\r\n";
    for status in [200, 415] {
        let mut world = World::registered();
        world.attach(1);
        world.receive_message("m1", composing, "<isComposing/>");
        let sent = world.last("MESSAGE");
        assert_eq!((&sent.body()[..], world.count("MESSAGE 200")), (&b"<isComposing/>"[..], 0));
        world.reply(world.device(1), &sent, status, &[], "");
        assert_eq!(world.answered("MESSAGE").status(), Some(status));
        assert_eq!((world.messages().len(), world.message_ends()), (0, vec![MessageEnd::Composing]));
    }
    for silent in [true, false] {
        let mut world = World::registered();
        world.attach(1);
        world.receive_message("m1", composing, "<isComposing/>");
        if silent {
            world.advance(NO_RESPONSE_TIMEOUT);
        } else {
            world.input(Input::Closed(world.device(1).flow));
        }
        assert_eq!((world.answered("MESSAGE").status(), world.messages().len()), (Some(202), 0));
        world.advance(Duration::from_secs(60));
        assert_eq!(world.endpoint.counts().messages, 0);
    }
}

#[test]
fn a_message_over_the_limit_is_413_and_one_at_the_limit_is_not() {
    let mut world = World::registered();
    world.receive_message("m1", PLAIN, &"x".repeat(16 * 1024 + 1));
    assert_eq!(world.answered("MESSAGE").status(), Some(413));
    assert_eq!(world.message_ends(), [MessageEnd::TooLarge]);
    world.receive_message("m2", PLAIN, &"x".repeat(16 * 1024));
    assert_eq!(world.messages().len(), 1);
}

#[test]
fn what_cannot_be_kept_as_it_is_is_refused_with_the_reason() {
    for (headers, status, header) in [
        ("Require: holograms\r\n", 420, "Unsupported"),
        ("Content-Type: text/plain\r\nContent-Encoding: gzip\r\n", 415, "Accept-Encoding"),
        ("Content-Type: text/plain\r\nE: gzip\r\n", 415, "Accept-Encoding"),
        ("Content-Type: text/plain\r\nExpires: 0\r\n", 480, "Retry-After"),
    ] {
        let mut world = World::registered();
        world.receive_message("m1", headers, "hello");
        let answer = world.answered("MESSAGE");
        assert_eq!((answer.status(), answer.values_written(header).count()), (Some(status), 1), "{headers}");
        assert_eq!((world.messages().len(), world.message_ends()), (0, vec![MessageEnd::Unfit]));
    }
}

#[test]
fn a_private_sender_is_anonymous_and_a_sender_may_say_how_long_it_is_worth_keeping() {
    let mut world = World::registered();
    world.receive_message("m1", "Privacy: id\r\nExpires: 90\r\n", "hello");
    let message = world.messages().remove(0);
    assert_eq!((&*message.from, message.name), ("sip:anonymous@anonymous.invalid", None));
    assert_eq!((message.lasts, &*message.content_type), (Some(Duration::from_secs(90)), "text/plain"));
}

#[test]
fn a_thousand_messages_at_once_are_bounded_and_the_device_earns_its_budget_back() {
    let mut world = World::registered();
    for number in 0..1_000 {
        world.receive_message(&format!("m{number}"), PLAIN, "hello");
    }
    let kept = world.messages().len();
    assert_eq!(kept, 100, "as many as the store keeps");
    assert_eq!(world.count("MESSAGE 480"), 1_000 - kept);
    assert_eq!(world.message_ends(), vec![MessageEnd::Limited; 1_000 - kept]);
    world.advance(Duration::from_secs(10));
    world.receive_message("later", PLAIN, "hello");
    assert_eq!(world.messages().len(), kept + 1);
    world.advance(Duration::from_secs(120));
    assert_eq!(world.endpoint.counts().messages, 0);
}

#[test]
fn one_senders_many_messages_keep_no_other_senders_out_and_an_attached_device_gets_a_whole_chat() {
    for attached in [false, true] {
        let mut world = World::registered();
        if attached {
            world.attach(1);
        }
        let send = |world: &mut World, number: usize, user: &str| {
            let text = world.out_of_dialog("MESSAGE", &format!("{user}{number}"), PLAIN, "hello");
            world.receive(world.upstream, &text.replace("<sip:bob@", &format!("<sip:{user}@")));
        };
        let passed = |world: &World| if attached { world.count("MESSAGE") } else { world.messages().len() };
        for number in 0..90 {
            send(&mut world, number, "chat");
        }
        assert_eq!((passed(&world), world.count("MESSAGE 480")), (90, 0), "{attached}");
        for number in 0..180 {
            send(&mut world, number, "pest");
            world.advance(Duration::from_millis(200));
        }
        let before = (passed(&world), world.count("MESSAGE 480"));
        assert!(before.1 > 0, "who sends five a second for long is limited");
        assert_eq!(world.last("MESSAGE 480").number(Name::RetryAfter), Some(5));
        for number in 0..3 {
            send(&mut world, number, "doctor");
        }
        assert_eq!((passed(&world), world.count("MESSAGE 480")), (before.0 + 3, before.1), "{attached}");
    }
}

#[test]
fn a_summary_becomes_a_mailbox_and_another_event_is_489() {
    let mut world = World::registered();
    let summary = "Event: message-summary\r\nContent-Type: application/simple-message-summary\r\n";
    world.notify("n1", summary, "Messages-Waiting: yes\r\nVoice-Message: 2/1 (1/0)\r\n");
    assert_eq!(world.answered("NOTIFY").status(), Some(200));
    let told = Mailbox { waiting: true, new: Some(2), old: Some(1), urgent: Some(1), account: None };
    assert_eq!(world.mailboxes(), [told]);
    for (headers, body, status, header) in [
        ("Event: presence\r\n", "", 489, "Allow-Events"),
        ("", "", 489, "Allow-Events"),
        (summary, "Voice-Message: 2\r\n", 400, ""),
        ("Event: message-summary\r\nContent-Type: text/plain\r\n", "hello", 415, "Accept"),
        ("Event: message-summary;id=1\r\nSubscription-State: active\r\n", "", 200, ""),
    ] {
        let mut world = World::registered();
        world.notify("n1", headers, body);
        let answer = world.answered("NOTIFY");
        assert_eq!(answer.status(), Some(status), "{headers}{body}");
        assert!(header.is_empty() || answer.values_written(header).count() == 1, "{header}");
        assert!(world.mailboxes().is_empty());
    }
    let mut world = World::registered();
    world.notify("n1", summary, &format!("Messages-Waiting: yes\r\n{}", "X: y\r\n".repeat(2_000)));
    assert_eq!(world.answered("NOTIFY").status(), Some(413));
}

#[test]
fn a_notify_that_requires_what_is_not_understood_is_not_obeyed() {
    let mut world = World::registered();
    let summary = "Event: message-summary\r\nContent-Type: application/simple-message-summary\r\n";
    world.notify("n1", &format!("{summary}Require: foo\r\n"), "Messages-Waiting: yes\r\n");
    let answer = world.answered("NOTIFY");
    assert_eq!((answer.status(), answer.text(Name::Unsupported)), (Some(420), Some("foo")));
    assert!(world.mailboxes().is_empty());
}

#[test]
fn a_summary_is_taken_whatever_its_to_and_its_account_look_like() {
    let body = "Messages-Waiting: yes\r\nMessage-Account: 1000\r\nVoice-Message: 2/1\r\n";
    let headers = "Event: message-summary\r\nContent-Type: application/simple-message-summary\r\n";
    for to in ["1000", "1000@example.com", "<1000@example.com>", "\"\"x\"\" <sip:1000@h>", ""] {
        let mut world = World::registered();
        let source = world.upstream;
        let text = world.out_of_dialog("NOTIFY", "n1", headers, body);
        world.receive(source, &text.replace("To: <sip:alice@example.com>", &format!("To: {to}")));
        assert_eq!((world.answered("NOTIFY").status(), world.mailboxes().len()), (Some(200), 1), "{to}");
    }
}

#[test]
fn options_is_answered_as_a_registered_user_agent_would() {
    let mut world = World::registered();
    let text = world.out_of_dialog("OPTIONS", "o1", "", "");
    world.receive(world.upstream, &text);
    let answer = world.answered("OPTIONS");
    assert_eq!(answer.status(), Some(200));
    for method in ["INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "MESSAGE", "NOTIFY"] {
        assert!(answer.lists(Name::Allow, method), "{method}");
    }
    assert!(answer.lists(Name::Accept, "application/sdp") && answer.lists(Name::Supported, "outbound"));
    assert_eq!(answer.values_written("Allow-Events").next(), Some(&b"message-summary"[..]));
    assert_eq!(answer.values_written("Accept-Language").count(), 1);
}

#[test]
fn a_call_that_nobody_answered_is_told_with_its_caller_and_others_are_not() {
    let mut world = World::registered();
    world.invite("c1");
    world.advance(Duration::from_secs(31));
    let [(call, CallState::TimedOut)] = world.missed()[..] else { panic!("{:?}", world.missed()) };
    assert_eq!((&*call.from, call.name.as_deref()), ("sip:bob@example.com", Some("Bob")));

    let mut world = World::registered();
    world.invite("c1");
    world.cancel("c1");
    assert_eq!(world.missed().iter().map(|(_, state)| *state).collect::<Vec<_>>(), [CallState::Cancelled]);

    let mut world = World::registered();
    world.invite("c1");
    let text = world.cancel_text("c1", "Reason: SIP;cause=200\r\n");
    world.receive(world.upstream, &text);
    assert_eq!((world.missed().len(), world.final_states()), (0, vec![CallState::AnsweredElsewhere]));

    for cause in [600, 603, 607] {
        let mut world = World::registered();
        world.invite("c1");
        let text = world.cancel_text("c1", &format!("Reason: SIP;cause={cause}\r\n"));
        world.receive(world.upstream, &text);
        assert_eq!((world.missed().len(), world.final_states()), (0, vec![CallState::Declined]), "on another device");
        assert_eq!(world.count("INVITE 487"), 1);
    }

    let mut world = World::registered();
    world.invite("c1");
    let call = world.wakes()[0].call;
    world.input(Input::Decline(call));
    assert_eq!((world.missed().len(), world.final_states()), (0, vec![CallState::Declined]));
}
