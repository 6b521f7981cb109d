//! The registration machine walks its tables, row by row.

use std::time::{Duration, Instant};

use super::*;
use crate::flow::Transport;
use crate::id::ShardTag;
use crate::message::{Limits, Message, Name};

mod one_contact;

const CHALLENGE: &str = "Digest realm=\"a\", nonce=\"1\"";
const TERMS: Terms<'static> =
    Terms { hashes: &[Hash::Md5, Hash::Sha256], registrar: "sip:example.com", back_off: BACK_OFF };
const BACK_OFF: BackOff = BackOff {
    base: Duration::from_secs(30),
    max: Duration::from_secs(1800),
    unknown_once: Duration::from_secs(60),
    refused_once: Duration::from_secs(600),
    refused_twice: Duration::from_secs(3600),
};

struct Walk {
    now: Instant,
    random: Random,
    registration: Registration,
    branches: u128,
}

impl Walk {
    /// A machine in one of the states of its table.
    fn to(state: &str) -> Self {
        let tag = ShardTag(0);
        let registration = Registration::new(NewRegistration {
            binding: BindingId::new(1 << 16, tag),
            instance: InstanceId::new(2 << 16, tag),
            upstream: UpstreamId(1),
            aor: "sip:alice@example.com".into(),
            sip_instance: [0xab; 16],
            expires: Duration::from_secs(600),
            generation: 1,
            goal: Goal::Registered,
        });
        let mut walk = Self { now: Instant::now(), random: Random::new([1; 32]), registration, branches: 0 };
        if state != "Waiting" {
            assert_eq!(step(&walk.registration.begin()), "Send");
            walk.send();
        }
        match state {
            "Waiting" | "Sent" => {}
            "Asking" => assert_eq!(walk.respond(401, &[("WWW-Authenticate", CHALLENGE)]), "Ask"),
            "Registered" => assert_eq!(walk.respond(200, &[]), "Registered"),
            "BackingOff" => assert_eq!(walk.respond(500, &[]), "Failed"),
            "Refused" => assert_eq!(walk.respond(403, &[]), "Failed"),
            "Unregistered" => {
                assert_eq!(walk.respond(200, &[]), "Registered");
                assert_eq!(step(&walk.registration.aim(walk.now, Goal::Silent)), "WantFlow");
                assert_eq!(step(&walk.registration.begin()), "Send");
                walk.send();
                assert_eq!(walk.respond(200, &[]), "Unregistered");
            }
            other => panic!("no state {other}"),
        }
        assert_eq!(walk.state(), state);
        walk
    }

    fn state(&self) -> &'static str {
        match self.registration.state {
            State::Waiting => "Waiting",
            State::Asking(_) => "Asking",
            State::Sent { .. } => "Sent",
            State::Registered { .. } => "Registered",
            State::BackingOff { .. } => "BackingOff",
            State::Refused => "Refused",
            State::Unregistered { .. } => "Unregistered",
        }
    }

    fn answer(&mut self) -> Step {
        self.registration.answer(self.now, Some("Digest x".into()), &BACK_OFF, &mut self.random)
    }

    fn send(&mut self) -> Message {
        self.send_by(Transport::Tls)
    }

    fn send_by(&mut self, transport: Transport) -> Message {
        self.branches += 1;
        let branch = BranchId::new(self.branches << 16, ShardTag(0));
        let head = RequestContext {
            registrar: "sip:example.com",
            transport,
            local: "r:1",
            hosts: ["r:2", "r:3", "r:1"],
            branch,
            epoch: "e",
        };
        let bytes = self.registration.compose(&head);
        self.registration.sent(branch, FlowId::Stream(1));
        Message::parse(&bytes, &Limits::default()).unwrap()
    }

    fn respond(&mut self, status: u16, headers: &[(&str, &str)]) -> &'static str {
        let branch = self.registration.branch().unwrap_or(BranchId::new(0, ShardTag(0)));
        let mut text = format!("SIP/2.0 {status} x\r\nVia: SIP/2.0/TLS r:1;branch=z9hG4bK1\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        let response = Message::parse(&(text + "\r\n").into(), &Limits::default()).unwrap();
        step(&self.registration.on_response(self.now, branch, &response, &TERMS, &mut self.random))
    }
}

fn step(step: &Step) -> &'static str {
    match step {
        Step::Nothing => "Nothing",
        Step::WantFlow => "WantFlow",
        Step::Send => "Send",
        Step::Ask => "Ask",
        Step::Registered { refresh: false, .. } => "Registered",
        Step::Registered { refresh: true, .. } => "Refreshed",
        Step::Failed(_) | Step::Unanswerable { .. } => "Failed",
        Step::Unregistered { confirmed: true } => "Unregistered",
        Step::Unregistered { confirmed: false } => "Let go",
    }
}

const STATES: [&str; 6] = ["Waiting", "Asking", "Sent", "Registered", "BackingOff", "Refused"];

#[test]
fn a_registration_walks_every_row_of_its_table() {
    for (state, flow_up, answer, timer, flow_lost) in [
        ("Waiting", ("Send", "Asking"), "Nothing", "Nothing", ("Nothing", "Waiting")),
        ("Asking", ("Nothing", "Asking"), "Send", "Nothing", ("WantFlow", "Waiting")),
        ("Sent", ("Nothing", "Sent"), "Nothing", "Nothing", ("WantFlow", "Waiting")),
        ("Registered", ("Nothing", "Registered"), "Nothing", "WantFlow", ("WantFlow", "Waiting")),
        ("BackingOff", ("Nothing", "BackingOff"), "Nothing", "WantFlow", ("Nothing", "BackingOff")),
        ("Refused", ("Nothing", "Refused"), "Nothing", "Nothing", ("Nothing", "Refused")),
        ("Unregistered", ("Nothing", "Unregistered"), "Nothing", "Nothing", ("Nothing", "Unregistered")),
    ] {
        let mut walk = Walk::to(state);
        assert_eq!((step(&walk.registration.begin()), walk.state()), flow_up, "{state}, flow up");
        let mut walk = Walk::to(state);
        assert_eq!(step(&walk.answer()), answer, "{state}, answer");
        let mut walk = Walk::to(state);
        let later = walk.now + Duration::from_secs(3600);
        assert_eq!(step(&walk.registration.on_deadline(later)), timer, "{state}, timer");
        assert_eq!(walk.state(), if timer == "WantFlow" { "Waiting" } else { state });
        let mut walk = Walk::to(state);
        assert_eq!((step(&walk.registration.on_flow_lost()), walk.state()), flow_lost, "{state}, flow lost");
        let mut walk = Walk::to(state);
        if state != "Sent" {
            assert_eq!(walk.respond(200, &[]), "Nothing", "{state}: a response to nothing");
        }
        assert_eq!(walk.registration.deadline().is_some(), matches!(state, "Registered" | "BackingOff"));
    }
}

#[test]
fn a_response_to_a_register_has_the_row_that_the_table_names() {
    for (status, headers, follows, state) in [
        (100, None, "Nothing", "Sent"),
        (200, None, "Registered", "Registered"),
        (204, None, "Registered", "Registered"),
        (200, Some(("Expires", "0")), "Failed", "BackingOff"),
        (301, Some(("Contact", "<sip:elsewhere.example>")), "Failed", "Refused"),
        (302, Some(("Contact", "<sip:example.com:5060>")), "Send", "Asking"),
        (302, Some(("Contact", "<sip:example.com;transport=TLS>")), "Send", "Asking"),
        (302, Some(("Contact", "<SIPS:EXAMPLE.com;transport=tcp>")), "Send", "Asking"),
        (302, Some(("Contact", "<sip:elsewhere.example>, <sip:example.com>")), "Send", "Asking"),
        (302, Some(("Contact", "<sip:example.com;transport=tcp>")), "Failed", "Refused"),
        (302, Some(("Contact", "<sip:example.com:5070>")), "Failed", "Refused"),
        (302, Some(("Contact", "<sip:example.com;maddr=192.0.2.1>")), "Failed", "Refused"),
        (302, Some(("Contact", "<sip:example.com?Route=x>")), "Failed", "Refused"),
        (305, Some(("Contact", "???")), "Failed", "BackingOff"),
        (305, None, "Failed", "BackingOff"),
        (401, Some(("WWW-Authenticate", CHALLENGE)), "Ask", "Asking"),
        (401, None, "Failed", "Refused"),
        (407, Some(("Proxy-Authenticate", CHALLENGE)), "Ask", "Asking"),
        (407, Some(("WWW-Authenticate", CHALLENGE)), "Ask", "Asking"),
        (423, Some(("Min-Expires", "3600")), "Send", "Asking"),
        (423, Some(("Min-Expires", "60")), "Failed", "BackingOff"),
        (423, Some(("Min-Expires", "4294967296")), "Failed", "BackingOff"),
        (423, None, "Failed", "BackingOff"),
        (439, None, "Send", "Asking"),
        (400, None, "Failed", "Refused"),
        (403, None, "Failed", "Refused"),
        (404, None, "Failed", "Refused"),
        (408, None, "Failed", "BackingOff"),
        (429, None, "Failed", "BackingOff"),
        (430, None, "Failed", "BackingOff"),
        (480, None, "Failed", "BackingOff"),
        (500, None, "Failed", "BackingOff"),
        (503, None, "Failed", "BackingOff"),
        (599, None, "Failed", "BackingOff"),
        (600, None, "Failed", "Refused"),
        (606, None, "Failed", "Refused"),
    ] {
        let mut walk = Walk::to("Sent");
        let headers: Vec<_> = headers.into_iter().collect();
        assert_eq!((walk.respond(status, &headers), walk.state()), (follows, state), "{status} {headers:?}");
    }
}

#[test]
fn what_is_followed_once_is_not_followed_twice() {
    for (status, header) in
        [(302, ("Contact", "<sip:example.com>")), (423, ("Min-Expires", "3600")), (439, ("Warning", "none"))]
    {
        let mut walk = Walk::to("Sent");
        assert_eq!(walk.respond(status, &[header]), "Send");
        walk.send();
        assert_eq!((walk.respond(status, &[header]), walk.state()), ("Failed", "BackingOff"), "{status}");
    }
}

#[test]
fn what_a_redirection_names_by_another_transport_is_not_repeated_by_this_one() {
    for contact in ["<sips:example.com>", "<sip:example.com;transport=tls>", "sips:example.com;expires=30"] {
        for (transport, follows) in [(Transport::Udp, "Failed"), (Transport::Tcp, "Failed"), (Transport::Tls, "Send")] {
            let mut walk = Walk::to("Waiting");
            walk.registration.begin();
            walk.send_by(transport);
            assert_eq!(walk.respond(302, &[("Contact", contact)]), follows, "{contact} by {transport:?}");
        }
    }
    // An account that was accepted before goes on to be asked for.
    let mut walk = refreshing();
    assert_eq!(walk.respond(302, &[("Contact", "<sip:elsewhere.example>")]), "Failed");
    assert_eq!(walk.state(), "BackingOff");
}

#[test]
fn every_state_can_be_aimed_at_each_goal() {
    for state in STATES {
        // The server may hold a Contact once a REGISTER was sent, until it says that it does not: a refusal says so.
        let there = !matches!(state, "Waiting" | "Asking" | "Refused");
        for goal in [Goal::Silent, Goal::Gone] {
            let mut walk = Walk::to(state);
            // The answer to what is under way is waited for, unless all is to be forgotten.
            let waits = state == "Sent" && goal == Goal::Silent;
            let expected = match there {
                true if waits => "Nothing",
                true => "WantFlow",
                false => "Unregistered",
            };
            assert_eq!(step(&walk.registration.aim(walk.now, goal)), expected, "{state} {goal:?}");
            assert_eq!(walk.registration.wants_flow(), there && !waits);
            let back = if waits { "Nothing" } else { "WantFlow" };
            assert_eq!(step(&walk.registration.aim(walk.now, Goal::Registered)), back, "{state}, and back");
            assert_eq!(walk.registration.wants_flow(), !waits);
        }
        assert_eq!(step(&Walk::to(state).registration.aim(Instant::now(), Goal::Registered)), "Nothing", "{state}");
    }
}

#[test]
fn a_goal_that_changes_while_a_register_is_under_way_is_followed_after_its_answer() {
    let challenged = Some(("WWW-Authenticate", CHALLENGE));
    for (status, header, again) in
        [(200, None, "Send"), (401, challenged, "Ask"), (403, None, "Send"), (503, None, "Send")]
    {
        let mut walk = refreshing();
        assert_eq!(step(&walk.registration.aim(walk.now, Goal::Silent)), "Nothing");
        let headers: Vec<_> = header.into_iter().collect();
        assert_eq!(walk.respond(status, &headers), "WantFlow", "{status} to what is not wanted any more");
        assert_eq!(step(&walk.registration.begin()), again);
        if again == "Ask" {
            assert_eq!(step(&walk.answer()), "Send");
        }
        assert_eq!(walk.send().number(Name::Expires), Some(0));
        assert_eq!(step(&walk.registration.aim(walk.now, Goal::Registered)), "Nothing");
        assert_eq!(walk.respond(200, &[]), "WantFlow", "{status}: it is unregistered, and wanted again");
        assert_eq!(step(&walk.registration.begin()), again);
        if again == "Ask" {
            walk.answer();
        }
        assert_eq!(walk.send().number(Name::Expires), Some(600));
        assert_eq!(walk.respond(200, &[]), "Registered");
    }
    let mut walk = Walk::to("Sent");
    walk.registration.aim(walk.now, Goal::Silent);
    walk.registration.aim(walk.now, Goal::Registered);
    assert_eq!(walk.respond(200, &[]), "Registered", "there and back again: what was asked for is what is wanted");
    let mut silent = Walk::to("Sent");
    silent.registration.aim(silent.now, Goal::Silent);
    let (now, branch) = (silent.now, silent.registration.branch().unwrap());
    assert_eq!(step(&silent.registration.on_silence(now, branch, &BACK_OFF, &mut silent.random)), "WantFlow");
}

#[test]
fn an_unregistration_ends_whatever_is_answered() {
    for (status, headers, follows) in [
        (200, None, "Unregistered"),
        (401, None, "Let go"),
        (403, None, "Let go"),
        (423, Some(("Min-Expires", "3600")), "Let go"),
        (500, None, "Let go"),
    ] {
        let mut walk = Walk::to("Registered");
        walk.registration.aim(walk.now, Goal::Gone);
        assert_eq!(step(&walk.registration.begin()), "Send");
        let register = walk.send();
        assert_eq!(register.number(Name::Expires), Some(0));
        assert!(register.text(Name::Contact).unwrap().ends_with(";expires=0"));
        let headers: Vec<_> = headers.into_iter().collect();
        assert_eq!(walk.respond(status, &headers), follows, "{status}");
        assert!(!walk.registration.wants_flow());
    }
}

#[test]
fn a_contact_that_may_stand_is_unregistered_whatever_came_after_its_grant() {
    let challenge = ("WWW-Authenticate", CHALLENGE);
    for (status, headers) in [(403, None), (404, None), (604, None), (429, None), (500, None), (302, None), (410, None)]
    {
        let headers: Vec<(&str, &str)> = headers.into_iter().collect();
        for goal in [Goal::Gone, Goal::Silent] {
            let mut walk = refreshing();
            assert_eq!(walk.respond(status, &headers), "Failed", "{status}");
            let now = walk.now;
            assert_eq!(step(&walk.registration.aim(now, goal)), "WantFlow", "{status} {goal:?}");
            assert_eq!(step(&walk.registration.begin()), "Send");
            let register = walk.send();
            assert_eq!((register.number(Name::Expires), register.has(Name::Authorization)), (Some(0), false));
            assert_eq!(walk.respond(200, &[]), "Unregistered");
        }
        // The granted binding has expired; after a 500 another one may have been granted since.
        let mut walk = refreshing();
        walk.respond(status, &headers);
        let later = walk.now + Duration::from_secs(601);
        let ended = if status == 500 { "WantFlow" } else { "Unregistered" };
        assert_eq!(step(&walk.registration.aim(later, Goal::Gone)), ended, "{status}");
    }
    // Refused credentials are not shown for it, and nobody is told that it is gone before it is.
    let mut walk = refreshing();
    assert_eq!(walk.respond(401, &[challenge]), "Ask");
    walk.answer();
    walk.send();
    assert_eq!(walk.respond(401, &[challenge]), "Failed");
    let (now, later) = (walk.now, walk.now + Duration::from_secs(601));
    assert_eq!(step(&walk.registration.aim(now, Goal::Silent)), "Let go");
    assert_eq!(step(&walk.registration.aim(now, Goal::Registered)), "Nothing");
    assert_eq!(walk.state(), "BackingOff", "the pause goes on");
    assert_eq!(step(&walk.registration.aim(now, Goal::Gone)), "Let go");
    assert!(!walk.registration.wants_flow());
    assert_eq!(step(&walk.registration.aim(later, Goal::Gone)), "Unregistered");
}

/// One whose refresh is under way.
fn refreshing() -> Walk {
    let mut walk = Walk::to("Registered");
    walk.now = walk.registration.deadline().unwrap();
    let now = walk.now;
    assert_eq!(step(&walk.registration.on_deadline(now)), "WantFlow");
    assert_eq!(step(&walk.registration.begin()), "Send");
    walk.send();
    walk
}

#[test]
fn an_account_that_was_never_granted_has_nothing_to_unregister_and_one_of_an_earlier_run_may_have() {
    for (status, headers) in [(401, Some(("WWW-Authenticate", CHALLENGE))), (403, None), (404, None), (429, None)] {
        let mut walk = Walk::to("Sent");
        walk.respond(status, &headers.into_iter().collect::<Vec<_>>());
        let now = walk.now;
        assert_eq!(step(&walk.registration.aim(now, Goal::Gone)), "Unregistered", "{status}");
    }
    let mut walk = Walk::to("Waiting");
    walk.registration = walk.registration.established();
    let now = walk.now;
    assert_eq!(step(&walk.registration.aim(now, Goal::Gone)), "WantFlow");
    assert_eq!(step(&walk.registration.begin()), "Send");
    walk.send();
    assert_eq!(walk.respond(200, &[]), "Unregistered");
}

#[test]
fn an_unregistration_is_confirmed_when_the_contact_is_not_listed_with_time_left() {
    let user = BindingId::new(1 << 16, ShardTag(0));
    let listed = |expires: &str| format!("<sip:{user}@r:1;transport=tls>{expires}");
    for (contact, expires, follows) in [
        (None, None, "Unregistered"),
        (None, Some("600"), "Unregistered"),
        (Some("<sip:other@r:1;transport=tls>;expires=571".to_owned()), None, "Unregistered"),
        (Some(listed(";expires=0")), None, "Unregistered"),
        (Some(listed("")), None, "Unregistered"),
        (Some(listed("")), Some("0"), "Unregistered"),
        (Some(listed(";expires=571")), None, "Let go"),
        (Some(listed(" ; Expires = \"571\"")), Some("0"), "Let go"),
        (Some(listed(";expires=99999999999")), None, "Let go"),
        (Some(listed("")), Some("600"), "Let go"),
        (Some(format!("<sip:other@h>;expires=1, {}", listed(";q=0.5;expires=1"))), None, "Let go"),
        // That of another node.
        (Some(format!("<sip:{user}@192.0.2.7:9;transport=tls>;expires=30")), None, "Unregistered"),
        (Some(format!("\"A, B\" <sip:%62{}@r:1;transport=tls>;expires=9", &user.to_string()[1..])), None, "Let go"),
    ] {
        let mut walk = Walk::to("Registered");
        let now = walk.now;
        walk.registration.aim(now, Goal::Silent);
        walk.registration.begin();
        walk.send();
        let contact = contact.as_deref().map(|contact| ("Contact", contact));
        let headers: Vec<_> = contact.into_iter().chain(expires.map(|it| ("Expires", it))).collect();
        assert_eq!(walk.respond(200, &headers), follows, "{headers:?}");
        assert!(!walk.registration.wants_flow(), "once");
        // The end asks again for what stands.
        let end = if follows == "Let go" { "WantFlow" } else { follows };
        assert_eq!(step(&walk.registration.aim(now, Goal::Gone)), end, "{headers:?}");
    }
}

#[test]
fn silence_backs_off_and_a_success_forgets_the_failures() {
    let mut walk = Walk::to("Sent");
    let mut waits = Vec::new();
    for _ in 0..8 {
        let (branch, now) = (walk.registration.branch().unwrap(), walk.now);
        let Step::Failed(RegistrationFailure::Retry { status: None, after }) =
            walk.registration.on_silence(now, branch, &BACK_OFF, &mut walk.random)
        else {
            panic!()
        };
        waits.push(after.as_secs());
        walk.now += after;
        walk.registration.on_deadline(walk.now);
        walk.registration.begin();
        walk.send();
    }
    for (failures, wait) in waits.iter().enumerate() {
        let bound = (30 << failures).min(1800);
        assert!((bound / 2..=bound).contains(wait), "{waits:?}");
    }
    walk.respond(200, &[]);
    walk.registration.on_deadline(walk.now + Duration::from_secs(600));
    walk.registration.begin();
    walk.send();
    walk.respond(500, &[]);
    assert!(walk.registration.deadline().unwrap() <= walk.now + Duration::from_secs(30));
}

/// A server that comes back from an outage may know nobody in its first seconds.
#[test]
fn the_first_404_after_failures_of_another_kind_waits_as_long_as_any_first_one_and_so_does_a_failure_after_it() {
    let mut walk = refreshing();
    let mut fails = |status: u16, within: std::ops::RangeInclusive<u64>| {
        assert_eq!(walk.respond(status, &[]), "Failed");
        let until = walk.registration.deadline().unwrap();
        let wait = (until - walk.now).as_secs();
        assert!(within.contains(&wait), "{status}: {wait} s");
        walk.now = until;
        walk.registration.on_deadline(until);
        walk.registration.begin();
        walk.send();
    };
    (0..10).for_each(|_| fails(503, 15..=1_800));
    fails(404, 60..=66);
    (0..10).for_each(|_| fails(404, 600..=3_600));
    fails(404, 1_800..=3_600);
    fails(503, 900..=1_800);
    fails(404, 60..=66);
    fails(404, 600..=660);
    // Neither do those that are put off count as failures of the server.
    let mut walk = refreshing();
    for status in [404; 12] {
        walk.respond(status, &[]);
        walk.now = walk.registration.deadline().unwrap();
        walk.registration.on_deadline(walk.now);
        walk.registration.begin();
        walk.send();
    }
    walk.respond(503, &[]);
    assert!(walk.registration.deadline().unwrap() <= walk.now + Duration::from_secs(30));
}

#[test]
fn a_registration_keeps_its_bytes() {
    // Resident for each binding, beside its AOR, its challenge and its place in the tables.
    assert!(size_of::<Registration>() <= 256, "{}", size_of::<Registration>());
}

#[test]
fn the_contact_of_a_relay_that_is_gone_goes_with_the_first_register_of_the_next() {
    let gone = |tls: &str| ContactHosts { udp: "u:1".into(), tcp: "t:1".into(), tls: tls.into() };
    let taken = |tls| {
        let mut walk = Walk::to("Waiting");
        walk.registration = walk.registration.established();
        walk.registration.take_from(Some(gone(tls).into()));
        assert_eq!(step(&walk.registration.begin()), "Send");
        walk
    };
    let contacts = |walk: &mut Walk| walk.send().text(Name::Contact).unwrap().to_owned();
    let user = BindingId::new(1 << 16, ShardTag(0));
    let earlier = format!(", <sip:{user}@gone:2;transport=tls>;expires=0");
    let mut walk = taken("gone:2");
    assert!(contacts(&mut walk).ends_with(&earlier));
    assert_eq!(walk.respond(401, &[("WWW-Authenticate", CHALLENGE)]), "Ask");
    assert_eq!(step(&walk.answer()), "Send");
    assert!(contacts(&mut walk).ends_with(&earlier), "with the answer, too");
    assert_eq!(walk.respond(200, &[]), "Registered");
    let refresh_at = walk.registration.deadline().unwrap();
    assert_eq!(step(&walk.registration.on_deadline(refresh_at)), "WantFlow");
    assert_ne!(step(&walk.registration.begin()), "Nothing");
    assert!(!contacts(&mut walk).contains("gone"), "once");

    let mut walk = taken("r:1");
    assert!(!contacts(&mut walk).contains("expires=0"), "relays behind one name have one Contact");
}

#[test]
fn what_ends_before_it_was_registered_from_here_takes_the_contact_of_the_relay_away_that_had_it() {
    let taken = |nodes: &[&str], is_asked_for: bool| {
        let mut walk = Walk::to("Waiting");
        walk.registration = walk.registration.established();
        for node in nodes {
            let hosts = ContactHosts { udp: "u:1".into(), tcp: "t:1".into(), tls: (*node).into() };
            walk.registration.take_from(Some(hosts.into()));
        }
        if is_asked_for {
            assert_eq!(step(&walk.registration.begin()), "Send");
            walk.send();
        }
        let now = walk.now;
        assert_eq!(step(&walk.registration.aim(now, Goal::Gone)), "WantFlow");
        assert_eq!(step(&walk.registration.begin()), "Send");
        let contacts = walk.send().text(Name::Contact).unwrap().to_owned();
        let uris = contacts.split('@').skip(1).map(|uri| uri.split_once(';').unwrap().0.to_owned());
        (uris.collect::<Vec<_>>(), contacts.matches("expires=0").count(), contacts.matches("+sip.instance").count())
    };
    for (nodes, is_asked_for, named) in [
        (&[][..], false, &["r:1"][..]),
        (&["r:1"], true, &["r:1"]),
        (&["gone:2"], false, &["gone:2"]),
        (&["gone:2"], true, &["gone:2", "r:1"]),
        (&["gone:2", "third:2", "r:1"], false, &["gone:2", "third:2"]),
    ] {
        let (uris, removed, instances) = taken(nodes, is_asked_for);
        let named: Vec<_> = named.iter().map(|it| (*it).to_owned()).collect();
        assert_eq!((&uris, removed, instances), (&named, named.len(), 1));
    }
}

#[test]
fn the_contact_of_a_relay_whose_device_joins_goes_at_once_also_when_a_register_is_under_way() {
    let gone = |tls: &str| Some(ContactHosts { udp: "u:1".into(), tcp: "t:1".into(), tls: tls.into() }.into());
    let contacts = |walk: &mut Walk| walk.send().text(Name::Contact).unwrap().to_owned();
    let mut walk = Walk::to("Registered");
    walk.registration.take_from(gone("gone:2"));
    assert_eq!(step(&walk.registration.replace_earlier()), "WantFlow");
    assert!(walk.registration.is_registered(), "it goes on to stand");
    assert_ne!(step(&walk.registration.begin()), "Nothing");
    let mut sent = contacts(&mut walk);
    assert!(sent.contains("@gone:2;transport=tls>;expires=0"), "{sent}");
    // Devices of two more nodes come before the answer.
    for node in ["second:2", "third:2", "second:2"] {
        walk.registration.take_from(gone(node));
    }
    assert_eq!(step(&walk.registration.replace_earlier()), "Nothing");
    assert_eq!(walk.respond(200, &[]), "Refreshed");
    assert!(walk.registration.has_earlier());
    assert_eq!(walk.registration.deadline(), Some(walk.now));
    let now = walk.now;
    assert_eq!(step(&walk.registration.on_deadline(now)), "WantFlow");
    assert_ne!(step(&walk.registration.begin()), "Nothing");
    sent = contacts(&mut walk);
    let named = ["gone:2", "second:2", "third:2"].map(|node| sent.matches(node).count());
    assert_eq!(named, [0, 1, 1], "{sent}");
    assert_eq!(walk.respond(200, &[]), "Refreshed");
    assert!(!walk.registration.has_earlier() && walk.registration.deadline() > Some(now));
}

#[test]
fn a_registrar_that_grants_more_than_was_asked_is_asked_again_as_soon_as_any_other_and_one_that_wants_more_as_it_wants()
{
    let refreshed = |walk: &Walk| {
        let after = walk.registration.deadline().unwrap() - walk.now;
        (after.as_secs() * 100).div_ceil(600)
    };
    for granted in ["600", "3600", "86400", "99999999999"] {
        let mut walk = Walk::to("Sent");
        assert_eq!(walk.respond(200, &[("Expires", granted)]), "Registered");
        assert!((70..=85).contains(&refreshed(&walk)), "{granted}: {}", refreshed(&walk));
    }
    let mut walk = Walk::to("Sent");
    assert_eq!(walk.respond(200, &[("Expires", "300")]), "Registered");
    assert!((35..=43).contains(&refreshed(&walk)), "{}", refreshed(&walk));
    let mut walk = Walk::to("Sent");
    assert_eq!(walk.respond(423, &[("Min-Expires", "3600")]), "Send");
    walk.send();
    assert_eq!(walk.respond(200, &[("Expires", "7200")]), "Registered");
    assert!((420..=510).contains(&refreshed(&walk)), "{}", refreshed(&walk));
}

#[test]
fn what_an_answer_says_beside_its_status_counts_when_it_crosses_another_goal_too() {
    // An unregistration is under way when its app goes to the background again.
    let crossing = |status, headers: &[(&str, &str)]| {
        let mut walk = Walk::to("Registered");
        walk.registration.aim(walk.now, Goal::Silent);
        walk.registration.begin();
        walk.send();
        assert_eq!(step(&walk.registration.aim(walk.now, Goal::Registered)), "Nothing");
        (walk.respond(status, headers), walk)
    };
    for (status, headers, follows) in [
        (503, Some(("Retry-After", "120")), "Failed"),
        (480, Some(("Retry-After", "120")), "Failed"),
        (503, None, "WantFlow"),
        (403, Some(("Retry-After", "120")), "WantFlow"),
    ] {
        let (followed, walk) = crossing(status, &headers.into_iter().collect::<Vec<_>>());
        assert_eq!(followed, follows, "{status} {headers:?}");
        let waits = walk.registration.deadline().map_or(0, |at| (at - walk.now).as_secs());
        assert_eq!(waits, if follows == "Failed" { 120 } else { 0 }, "{status}");
    }
    let (followed, mut walk) = crossing(423, &[("Min-Expires", "3600")]);
    assert_eq!((followed, step(&walk.registration.begin())), ("WantFlow", "Send"));
    assert_eq!(walk.send().number(Name::Expires), Some(3600));
    let (_, mut walk) = crossing(439, &[]);
    walk.registration.begin();
    assert!(!walk.send().text(Name::Supported).unwrap().contains("outbound"));
}

/// A registrar without RFC 5626 has a row for each.
#[test]
fn the_contact_by_another_transport_goes_with_the_first_register_by_the_next() {
    let user = BindingId::new(1 << 16, ShardTag(0));
    let contacts = |register: &Message| register.text(Name::Contact).unwrap().to_owned();
    let by_tls = format!(", <sip:{user}@r:1;transport=tls>;expires=0");
    let moved = || {
        let mut walk = Walk::to("Registered");
        assert_eq!(step(&walk.registration.on_flow_lost()), "WantFlow");
        assert_eq!(step(&walk.registration.begin()), "Send");
        assert!(contacts(&walk.send_by(Transport::Udp)).ends_with(&by_tls));
        walk
    };
    // Until that was answered it is named again.
    let mut walk = moved();
    assert_eq!(step(&walk.registration.on_flow_lost()), "WantFlow");
    walk.registration.begin();
    let third = contacts(&walk.send_by(Transport::Tcp));
    assert!(third.contains(&by_tls) && third.contains(&format!(", <sip:{user}@r:2>;expires=0")), "{third}");
    assert_eq!(walk.respond(200, &[]), "Refreshed");
    let refresh = |walk: &mut Walk, transport| {
        let at = walk.registration.deadline().unwrap();
        walk.registration.on_deadline(at);
        walk.registration.begin();
        contacts(&walk.send_by(transport))
    };
    assert_eq!(refresh(&mut walk, Transport::Tcp).matches("sip:").count(), 1, "once");
    assert_eq!(walk.respond(200, &[]), "Refreshed");
    let back = refresh(&mut walk, Transport::Tls);
    assert!(back.ends_with(&format!(", <sip:{user}@r:3;transport=tcp>;expires=0")), "{back}");
    // A registrar that takes one Contact only is asked again at once.
    let mut walk = moved();
    assert_eq!(walk.respond(400, &[]), "Send");
    assert!(!contacts(&walk.send_by(Transport::Udp)).contains("expires=0"));
    // A binding that is unregistered by the next transport is unregistered by each.
    let mut walk = moved();
    walk.respond(503, &[]);
    let now = walk.now;
    assert_eq!(step(&walk.registration.aim(now, Goal::Gone)), "WantFlow");
    walk.registration.begin();
    let gone = contacts(&walk.send_by(Transport::Udp));
    assert_eq!(gone.matches("expires=0").count(), 2, "{gone}");
}
