//! Registrars that take one Contact in a REGISTER.
//!
//! Invariant: the own Contact is asked for in the end, whatever becomes of the others.

use super::*;

fn taken_from(gone: &[&str]) -> Walk {
    let mut walk = Walk::to("Waiting");
    walk.registration = walk.registration.established();
    gone.iter().for_each(|tls| walk.take_from(tls));
    walk
}

impl Walk {
    fn take_from(&mut self, tls: &str) {
        let hosts = ContactHosts { udp: "u:1".into(), tcp: "t:1".into(), tls: tls.into() };
        self.registration.take_from(Some(hosts.into()));
    }

    /// Sends a REGISTER; the hosts of its Contacts.
    fn ask(&mut self) -> String {
        let request = self.send();
        let contacts = request.text(Name::Contact).unwrap();
        assert_eq!(contacts.contains("+sip.instance"), contacts.contains("r:1"), "{contacts}");
        contacts.split('@').skip(1).map(|uri| uri.split_once(';').unwrap().0).collect::<Vec<_>>().join(" ")
    }

    /// The next attempt, when its time has come.
    fn try_again(&mut self) {
        self.now = self.registration.deadline().unwrap();
        assert_eq!(step(&self.registration.on_deadline(self.now)), "WantFlow");
        assert_eq!(step(&self.registration.begin()), "Send");
    }
}

/// What a registrar that takes one Contact in a REGISTER is asked, until it is asked for no more: the own Contact, others beside it, others alone.
fn asked_of_one_that_takes_one(refusal: u16, gone: &[&str], alone: u16) -> (Vec<String>, Walk) {
    let mut walk = taken_from(gone);
    let mut asked = Vec::new();
    assert_eq!(step(&walk.registration.begin()), "Send");
    while asked.len() < 12 {
        let named = walk.ask();
        let status = match &named[..] {
            "r:1" => 200,
            several if several.contains(' ') => refusal,
            _ => alone,
        };
        asked.push(named);
        match walk.respond(status, &[]) {
            "Send" => {}
            "Failed" => walk.try_again(),
            _ if walk.registration.has_earlier() => walk.try_again(),
            _ => break,
        }
    }
    (asked, walk)
}

#[test]
fn a_registrar_that_takes_one_contact_is_asked_for_one_after_the_other_and_the_own_one_comes_last() {
    for (refusal, gone, alone, expected) in [
        (400, &["gone:2"][..], 200, &["r:1 gone:2", "gone:2", "r:1"][..]),
        (403, &["gone:2"], 200, &["r:1 gone:2", "gone:2", "r:1"]),
        (482, &["gone:2"], 200, &["r:1 gone:2", "gone:2", "r:1"]),
        (488, &["gone:2"], 200, &["r:1 gone:2", "gone:2", "r:1"]),
        (400, &["gone:2", "third:2"], 200, &["r:1 gone:2 third:2", "gone:2", "third:2", "r:1"]),
        // A Contact that cannot be removed keeps nothing from being registered.
        (400, &["gone:2"], 400, &["r:1 gone:2", "gone:2", "r:1"]),
        (400, &["gone:2", "third:2"], 500, &["r:1 gone:2 third:2", "gone:2", "r:1", "third:2", "r:1"]),
        // The first may be a passing fault, and so may the one after it.
        (500, &["gone:2"], 200, &["r:1 gone:2", "r:1 gone:2", "gone:2", "r:1"]),
        (480, &["gone:2"], 200, &["r:1 gone:2", "r:1 gone:2", "gone:2", "r:1"]),
        (500, &["gone:2"], 500, &["r:1 gone:2", "r:1 gone:2", "gone:2", "r:1", "gone:2", "r:1"]),
        // Relays behind one name have one Contact.
        (400, &["r:1"], 200, &["r:1"]),
    ] {
        let (asked, mut walk) = asked_of_one_that_takes_one(refusal, gone, alone);
        assert_eq!(asked, expected, "{refusal} {alone}");
        assert!(walk.registration.is_registered() && !walk.registration.has_earlier(), "{refusal} {alone}");
        assert!(walk.registration.deadline().unwrap() > walk.now);
        walk.try_again();
        assert_eq!(walk.ask(), "r:1", "once");
    }
}

impl Walk {
    /// The REGISTER that is under way names another Contact alone, and meets this fault.
    fn meet(&mut self, fault: &str) {
        let (branch, now) = (self.registration.branch().unwrap(), self.now);
        match fault {
            "silence" => {
                assert_eq!(step(&self.registration.on_silence(now, branch, &BACK_OFF, &mut self.random)), "Failed");
                // A late answer about the Contact of another relay registers nothing.
                assert!(!self.registration.take_up_late(now, branch, 200));
                assert!(self.registration.has_earlier() && !self.registration.is_registered());
                self.try_again();
            }
            "Retry-After" => {
                assert_eq!(self.respond(403, &[("Retry-After", "60")]), "Failed");
                self.try_again();
            }
            _ => {
                assert_eq!(step(&self.registration.on_flow_lost()), "WantFlow");
                assert_eq!(step(&self.registration.begin()), "Send");
            }
        }
    }
}

#[test]
fn the_own_contact_comes_next_where_another_one_alone_is_not_answered_or_is_to_wait_and_the_second_time_that_is_given_up()
 {
    for fault in ["silence", "Retry-After", "connection"] {
        let mut walk = taken_from(&["gone:2"]);
        assert_eq!(step(&walk.registration.begin()), "Send");
        assert_eq!(walk.ask(), "r:1 gone:2");
        assert_eq!(walk.respond(400, &[]), "Send");
        for (granted, is_left) in [("Registered", true), ("Refreshed", false)] {
            assert_eq!(walk.ask(), "gone:2", "{fault}");
            walk.meet(fault);
            assert_eq!(walk.ask(), "r:1", "{fault}");
            let said = walk.respond(200, &[]);
            assert!(said == granted || said == "Registered", "{fault}: {said}");
            assert_eq!(walk.registration.has_earlier(), is_left, "{fault}");
            walk.try_again();
        }
        assert_eq!(walk.ask(), "r:1", "{fault}");
    }
}

#[test]
fn the_own_contact_that_is_one_too_many_behind_another_that_was_not_answered_lets_that_one_be_named_again() {
    for (fault, refusal) in
        [("silence", 403), ("silence", 503), ("connection", 403), ("connection", 500), ("connection", 600)]
    {
        let mut walk = taken_from(&["gone:2"]);
        assert_eq!(step(&walk.registration.begin()), "Send");
        assert_eq!(walk.ask(), "r:1 gone:2");
        assert_eq!(walk.respond(400, &[]), "Send");
        assert_eq!(walk.ask(), "gone:2");
        walk.meet(fault);
        assert_eq!(walk.ask(), "r:1");
        assert_eq!(walk.respond(refusal, &[]), "Failed", "{fault} {refusal}");
        walk.try_again();
        for (named, follows) in [("gone:2", "Send"), ("r:1", "Registered")] {
            assert_eq!(walk.ask(), named, "{fault} {refusal}");
            assert_eq!(walk.respond(200, &[]), follows, "{fault} {refusal}");
        }
        assert!(!walk.registration.has_earlier());
    }
}

impl Walk {
    /// The REGISTER that is to come is challenged, and answered with this status. The Contacts that it names.
    fn answered(&mut self, status: u16) -> (String, &'static str) {
        if step(&self.registration.begin()) == "Send" {
            self.ask();
            assert_eq!(self.respond(401, &[("WWW-Authenticate", CHALLENGE)]), "Ask");
        }
        assert_eq!(step(&self.answer()), "Send");
        (self.ask(), self.respond(status, &[]))
    }
}

#[test]
fn credentials_that_are_refused_are_shown_without_the_other_contact_then_for_that_one_alone_and_then_once_each_time() {
    for status in [403, 404, 604] {
        let mut walk = taken_from(&["gone:2"]);
        assert_eq!(walk.answered(status), ("r:1 gone:2".to_owned(), "Ask"), "{status}");
        assert_eq!(step(&walk.answer()), "Send");
        assert_eq!(walk.ask(), "r:1");
        assert_eq!(walk.respond(status, &[]), "Failed");
        let began = walk.now;
        for named in ["gone:2", "r:1", "r:1"] {
            walk.now = walk.registration.deadline().unwrap();
            assert!(named != "gone:2" || walk.now > began + BACK_OFF.base / 2, "not at once");
            assert_eq!(step(&walk.registration.on_deadline(walk.now)), "WantFlow");
            assert_eq!(walk.answered(status), (named.to_owned(), "Failed"), "{status}");
        }
    }
}

#[test]
fn a_registrar_that_refuses_one_contact_too_many_as_it_does_wrong_credentials_has_room_once_the_other_is_gone() {
    let mut walk = taken_from(&["gone:2"]);
    assert_eq!(walk.answered(403), ("r:1 gone:2".to_owned(), "Ask"));
    assert_eq!(step(&walk.answer()), "Send");
    assert_eq!(walk.ask(), "r:1");
    assert_eq!(walk.respond(403, &[]), "Failed");
    walk.now = walk.registration.deadline().unwrap();
    assert_eq!(step(&walk.registration.on_deadline(walk.now)), "WantFlow");
    let (named, follows) = walk.answered(200);
    assert_eq!((named.as_str(), follows == "Ask" || follows == "Send"), ("gone:2", true), "{follows}");
    if follows == "Ask" {
        assert_eq!(step(&walk.answer()), "Send");
    }
    assert_eq!(walk.ask(), "r:1");
    assert_eq!(walk.respond(200, &[]), "Registered");
    assert!(!walk.registration.has_earlier());
}

#[test]
fn a_registrar_that_refuses_two_contacts_as_it_does_wrong_credentials_loses_the_other_one_behind_the_own() {
    let mut walk = taken_from(&["gone:2"]);
    assert_eq!(walk.answered(403), ("r:1 gone:2".to_owned(), "Ask"));
    assert_eq!(step(&walk.answer()), "Send");
    assert_eq!(walk.ask(), "r:1");
    assert_eq!(walk.respond(200, &[]), "Registered");
    assert!(walk.registration.has_earlier());
    walk.now = walk.registration.deadline().unwrap();
    assert_eq!(step(&walk.registration.on_deadline(walk.now)), "WantFlow");
    if step(&walk.registration.begin()) == "Ask" {
        assert_eq!(step(&walk.answer()), "Send");
    }
    assert_eq!(walk.ask(), "gone:2");
}

#[test]
fn a_registrar_that_serves_nobody_is_asked_once_a_try_and_what_it_did_not_answer_for_is_named_again() {
    let mut walk = taken_from(&["gone:2"]);
    assert_eq!(step(&walk.registration.begin()), "Send");
    for named in ["r:1 gone:2", "r:1 gone:2", "gone:2", "r:1", "gone:2"] {
        assert_eq!(walk.ask(), named);
        assert_eq!(walk.respond(503, &[]), "Failed");
        walk.try_again();
    }
    assert_eq!(walk.ask(), "r:1");
    // A device of one more relay joins meanwhile.
    walk.take_from("third:2");
    assert_eq!(walk.respond(200, &[]), "Registered");
    walk.try_again();
    for (named, follows) in [("gone:2", "Send"), ("third:2", "Send"), ("r:1", "Refreshed")] {
        assert_eq!(walk.ask(), named);
        assert_eq!(walk.respond(200, &[]), follows);
    }
    assert!(!walk.registration.has_earlier());
}

#[test]
fn a_relay_that_is_known_while_the_own_contact_is_asked_for_is_named_afterwards() {
    let mut walk = taken_from(&["gone:2"]);
    assert_eq!(step(&walk.registration.begin()), "Send");
    for (named, status) in [("r:1 gone:2", 400), ("gone:2", 400)] {
        assert_eq!(walk.ask(), named);
        assert_eq!(walk.respond(status, &[]), "Send");
    }
    assert_eq!(walk.ask(), "r:1");
    walk.take_from("third:2");
    assert_eq!(walk.respond(200, &[]), "Registered");
    walk.try_again();
    assert_eq!(walk.ask(), "third:2");
}

#[test]
fn an_answer_about_the_contact_of_another_relay_that_crosses_another_goal_grants_nothing() {
    let mut walk = taken_from(&["gone:2"]);
    assert_eq!(step(&walk.registration.begin()), "Send");
    assert_eq!(walk.ask(), "r:1 gone:2");
    assert_eq!(walk.respond(400, &[]), "Send");
    assert_eq!(walk.ask(), "gone:2");
    assert_eq!(step(&walk.registration.aim(walk.now, Goal::Silent)), "Nothing");
    walk.respond(200, &[]);
    assert!(!walk.registration.is_registered() && walk.registration.granted_until().is_none());
    assert!(!walk.registration.has_earlier());
}

#[test]
fn a_refusal_of_the_other_contact_alone_is_none_of_credentials_where_the_own_one_was_refused_for_something_else() {
    for status in [403, 404] {
        let mut walk = taken_from(&["gone:2"]);
        assert_eq!(step(&walk.registration.begin()), "Send");
        for (named, refusal) in [("r:1 gone:2", 400), ("gone:2", 0), ("r:1", 400)] {
            assert_eq!(walk.ask(), named);
            match refusal {
                0 => walk.meet("silence"),
                refusal => assert!(matches!(walk.respond(refusal, &[]), "Send" | "Failed")),
            }
        }
        walk.now = walk.registration.deadline().unwrap();
        assert_eq!(step(&walk.registration.on_deadline(walk.now)), "WantFlow");
        let (named, follows) = walk.answered(status);
        assert_eq!((named.as_str(), matches!(follows, "Ask" | "Send")), ("gone:2", true), "{status}: {follows}");
        if follows == "Ask" {
            assert_eq!(step(&walk.answer()), "Send");
        }
        assert_eq!(walk.ask(), "r:1");
    }
}

/// Asterisk with `rewrite_contact=yes` and `max_contacts=1`, as recorded: it knows the Contact of a node that leaves under another address, so it grants the
/// removal and removes nothing, and has room once that node's connection has ended.
#[test]
fn a_contact_too_many_is_no_refusal_of_credentials_that_another_register_of_the_attempt_was_granted_with() {
    let mut walk = taken_from(&["gone:2"]);
    assert_eq!(walk.answered(403), ("r:1 gone:2".to_owned(), "Ask"));
    assert_eq!(step(&walk.answer()), "Send");
    assert_eq!(walk.ask(), "r:1");
    assert_eq!(walk.respond(403, &[]), "Failed");
    walk.now = walk.registration.deadline().unwrap();
    assert_eq!(step(&walk.registration.on_deadline(walk.now)), "WantFlow");
    assert_eq!(walk.answered(200), ("gone:2".to_owned(), "Ask"));
    assert_eq!(step(&walk.answer()), "Send");
    assert_eq!(walk.ask(), "r:1");
    assert_eq!(walk.respond(403, &[]), "Failed");
    assert!(walk.registration.deadline().unwrap() < walk.now + BACK_OFF.refused_once, "the credentials are right");
    walk.now = walk.registration.deadline().unwrap();
    assert_eq!(step(&walk.registration.on_deadline(walk.now)), "WantFlow");
    assert_eq!(walk.answered(403), ("r:1".to_owned(), "Failed"));
    assert!(walk.registration.deadline().unwrap() >= walk.now + BACK_OFF.refused_once, "nothing says so any more");
}
