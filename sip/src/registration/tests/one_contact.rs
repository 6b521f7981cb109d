//! Registrars that take one Contact in a REGISTER.
//!
//! Invariant: the own Contact is asked for in the end, whatever becomes of the others.

use super::*;

/// What a registrar that takes one Contact in a REGISTER is asked, until it is asked for no more: the own Contact, others beside it, others alone.
fn asked_of_one_that_takes_one(refusal: u16, gone: &[&str], alone: u16) -> (Vec<String>, Walk) {
    let mut walk = Walk::to("Waiting");
    walk.registration = walk.registration.established();
    for tls in gone {
        let hosts = ContactHosts { udp: "u:1".into(), tcp: "t:1".into(), tls: (*tls).into() };
        walk.registration.take_from(Some(hosts.into()));
    }
    let mut asked = Vec::new();
    assert_eq!(step(&walk.registration.begin()), "Send");
    while asked.len() < 12 {
        let request = walk.send();
        let contacts = request.text(Name::Contact).unwrap();
        let uris = contacts.split('@').skip(1).map(|uri| uri.split_once(';').unwrap().0);
        let named = uris.collect::<Vec<_>>().join(" ");
        let status = match (contacts.matches('@').count(), named == "r:1") {
            (1, true) => 200,
            (1, false) => alone,
            _ => refusal,
        };
        assert_eq!(contacts.contains("+sip.instance"), contacts.contains("r:1"), "{contacts}");
        asked.push(named);
        match walk.respond(status, &[]) {
            "Send" => {}
            "Failed" => {
                walk.now = walk.registration.deadline().unwrap();
                let now = walk.now;
                assert_eq!(step(&walk.registration.on_deadline(now)), "WantFlow");
                assert_eq!(step(&walk.registration.begin()), "Send");
            }
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
        (400, &["gone:2", "third:2"], 200, &["r:1 gone:2 third:2", "gone:2", "third:2", "r:1"]),
        // What cannot be taken away keeps nothing from being registered.
        (400, &["gone:2"], 400, &["r:1 gone:2", "gone:2", "r:1"]),
        (400, &["gone:2", "third:2"], 500, &["r:1 gone:2 third:2", "gone:2", "r:1"]),
        // The first may be a passing fault.
        (500, &["gone:2"], 200, &["r:1 gone:2", "r:1 gone:2", "gone:2", "r:1"]),
        (500, &["gone:2"], 500, &["r:1 gone:2", "r:1 gone:2", "gone:2", "r:1"]),
        // Relays behind one name have one Contact.
        (400, &["r:1"], 200, &["r:1"]),
    ] {
        let (asked, mut walk) = asked_of_one_that_takes_one(refusal, gone, alone);
        assert_eq!(asked, expected, "{refusal} {alone}");
        assert!(walk.registration.is_registered() && !walk.registration.has_earlier(), "{refusal} {alone}");
        let refresh_at = walk.registration.deadline().unwrap();
        assert!(refresh_at > walk.now);
        assert_eq!(step(&walk.registration.on_deadline(refresh_at)), "WantFlow");
        assert_eq!(step(&walk.registration.begin()), "Send");
        assert!(!walk.send().text(Name::Contact).unwrap().contains("expires=0"), "once");
    }
}

#[test]
fn a_late_answer_about_the_contact_of_another_relay_registers_nothing() {
    let mut walk = Walk::to("Waiting");
    walk.registration = walk.registration.established();
    let hosts = ContactHosts { udp: "u:1".into(), tcp: "t:1".into(), tls: "gone:2".into() };
    walk.registration.take_from(Some(hosts.into()));
    assert_eq!(step(&walk.registration.begin()), "Send");
    walk.send();
    assert_eq!(walk.respond(400, &[]), "Send");
    walk.send();
    let (branch, now) = (walk.registration.branch().unwrap(), walk.now);
    assert_eq!(step(&walk.registration.on_silence(now, branch, &BACK_OFF, &mut walk.random)), "Failed");
    assert!(!walk.registration.take_up_late(now, branch, 200));
    assert!(walk.registration.has_earlier() && !walk.registration.is_registered());
}
