//! Identities of other domains that a SIP server gives an account (P-Associated-URI, RFC 7315 §4.1), as From of what its device begins.

use sip::id::UpstreamId;
use sip::message::Name;

use super::outgoing::{Begun, refused};
use super::through::{Register, Through};

const NUMBER: &str = "<sip:+4930123@carrier.example>;tag=a";

fn registered(given: &'static str) -> Through {
    super::outgoing::registered(&[("P-Associated-URI", given)])
}

fn calls(through: &mut Through, from: &'static str) -> usize {
    let call_id = from.to_owned();
    Begun { from, call_id, ..Begun::new("INVITE") }.send(&mut through.world);
    through.world.count("INVITE")
}

#[test]
fn an_account_calls_by_an_identity_of_another_domain_that_its_registrar_has_given_it() {
    let given = "<sip:alice@example.com>, \"Alice\" <sip:+4930123@Carrier.example;user=phone>, <tel:+4930123>";
    let mut through = registered(given);
    assert_eq!(calls(&mut through, NUMBER), 1);
    for other in ["<sip:+4930124@carrier.example>;tag=a", "<sip:carrier.example>;tag=a"] {
        let begun = Begun { from: other, call_id: other.into(), ..Begun::new("INVITE") };
        assert!(refused(&mut through, &begun).contains("domain of From"), "{other}");
    }
    // An identity that its registrar gives no more is none of it.
    through.says = Vec::new();
    through.registered(&Register::by(1));
    refused(&mut through, &Begun { from: NUMBER, call_id: "last".into(), ..Begun::new("INVITE") });
}

#[test]
fn what_one_account_is_given_is_no_other_ones() {
    let mut through = registered("<sip:+4930123@carrier.example>, <sip:carol@example.org>");
    through.says = Vec::new();
    through.server = UpstreamId(66);
    let carol = "<sip:carol@example.org;pn-provider=fcm;pn-prid=carols>;+sip.instance=\"<urn:uuid:3>\"";
    let hers = Register { uri: "sip:example.org", to: "sip:carol@example.org", ..Register::by(2).contact(carol) };
    through.registered(&hers);
    let by_hers = Begun { flow: 2, from: NUMBER, ..Begun::new("INVITE") };
    refused(&mut through, &by_hers);
    // Where both are registered by one connection, the domain is that of the account that is registered there.
    through.says = vec![("Service-Route", "<sip:orig.example.org;lr>")];
    through.registered(&Register { flow: 1, ..hers });
    through.world.sent.clear();
    assert_eq!(calls(&mut through, "<sip:carol@example.org>;tag=a"), 1);
    assert_eq!(through.world.last("INVITE").text(Name::Route), Some("<sip:orig.example.org;lr>"));
    through.world.sent.clear();
    assert_eq!(calls(&mut through, NUMBER), 1);
    assert!(!through.world.last("INVITE").has(Name::Route), "the other one's goes to its own");
}

#[test]
fn no_more_is_kept_of_them_than_so_many_and_so_much() {
    let one = |number: usize| format!("<sip:user{number:03}@carrier.example>");
    let many = (0..40).map(one).collect::<Vec<_>>().join(", ");
    let mut through = registered(Box::leak(many.into_boxed_str()));
    assert_eq!(calls(&mut through, "<sip:user007@carrier.example>;tag=a"), 1);
    refused(&mut through, &Begun { from: "<sip:user008@carrier.example>;tag=a", ..Begun::new("INVITE") });
    let long = format!("<sip:{}@carrier.example>, {}", "x".repeat(600), one(1));
    let mut through = registered(Box::leak(long.into_boxed_str()));
    refused(&mut through, &Begun { from: "<sip:user001@carrier.example>;tag=a", ..Begun::new("INVITE") });
}
