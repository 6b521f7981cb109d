//! Requests that a device begins, with the relay as its outbound proxy (RFC 3261 §16, RFC 5626 §5.3).

use sip::endpoint::*;
use sip::id::{FlowId, UpstreamId};
use sip::message::{Message, Name};

use super::through::{Register, Through, values};
use crate::world::{self, World};

const EDGE: &str = "<sip:relay.test:5061;transport=tls;lr>";
pub const SERVICE: &str = "<sip:orig@192.0.2.10;lr>";

/// A request that a device begins.
#[derive(Clone)]
pub struct Begun {
    pub flow: u64,
    pub method: &'static str,
    pub uri: &'static str,
    pub from: &'static str,
    pub to: &'static str,
    pub routes: &'static str,
    pub call_id: String,
}

impl Begun {
    pub fn new(method: &'static str) -> Self {
        let (uri, from) = ("sip:bob@example.com", "<sip:alice@example.com>;tag=a");
        Self { flow: 1, method, uri, from, to: "<sip:bob@example.com>", routes: EDGE, call_id: "out".to_owned() }
    }

    pub fn text(&self, cseq: u32, headers: &str) -> String {
        let Self { method, uri, from, to, routes, call_id, .. } = self;
        let key = if *method == "CANCEL" || *method == "ACK" { "INVITE" } else { method };
        let route = if routes.is_empty() { String::new() } else { format!("Route: {routes}\r\n") };
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:9;branch=z9hG4bK{call_id}.{cseq}.{key}\r\n\
             Max-Forwards: 70\r\n{route}From: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n\
             Contact: <sip:alice@10.0.0.5:9;transport=tls>\r\n{headers}Content-Length: 0\r\n\r\n"
        )
    }

    pub fn send(&self, world: &mut World) {
        let (source, text) = (world.device(self.flow), self.text(1, ""));
        world.receive(source, &text);
    }
}

/// Alice's phone is registered by flow 1.
pub fn registered(says: &[(&'static str, &'static str)]) -> Through {
    let mut through = Through::over(FlowId::Stream(99));
    through.says = says.to_vec();
    through.registered(&Register::by(1));
    through.world.sent.clear();
    through.world.events.clear();
    through
}

pub fn flow_of(world: &World, method: &str) -> FlowId {
    let sent = world.sent.iter().rev().find(|sent| sent.message.method_text() == Some(method));
    sent.unwrap_or_else(|| panic!("no {method} among {:?}", world.descriptions())).flow
}

/// A request in the dialog that a message began or joined, along its Record-Routes.
pub fn in_dialog(method: &str, uri: &str, routes: &[String], from: &str, to: &str, via: &str) -> String {
    format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/TLS {via};branch=z9hG4bKin.{method}\r\nMax-Forwards: 70\r\n\
         Route: {}\r\nFrom: {from}\r\nTo: {to}\r\nCall-ID: out\r\nCSeq: 9 {method}\r\nContent-Length: 0\r\n\r\n",
        routes.join(", ")
    )
}

#[test]
fn a_call_out_goes_by_the_flow_of_its_registration_and_its_dialog_both_ways() {
    let mut through = registered(&[("Service-Route", SERVICE)]);
    let world = &mut through.world;
    let call = Begun::new("INVITE");
    let (device, server) = (world.device(1), world.upstream);
    world.receive(device, &call.text(1, "P-Asserted-Identity: <sip:boss@example.com>\r\nRemote-Party-ID: <sip:boss@example.com>\r\nX-Odd:   as  it came\r\n"));
    assert_eq!(world.descriptions(), ["INVITE 100", "INVITE"]);
    let invite = world.last("INVITE");
    assert_eq!((flow_of(world, "INVITE"), invite.request_uri()), (server.flow, Some("sip:bob@example.com")));
    assert_eq!(values(&invite, Name::Route), [SERVICE], "our own Route is taken off, the Service-Route is put in");
    assert!(
        !invite.has(Name::PAssertedIdentity)
            && !invite.has(Name::RemotePartyId)
            && std::str::from_utf8(invite.head()).unwrap().contains("X-Odd:   as  it came")
    );
    let routes = values(&invite, Name::RecordRoute);
    assert!(
        routes[0].contains("@relay.test:5071;transport=tls") && routes[1].contains("@relay.test:5061;"),
        "{routes:?}"
    );

    world.reply(server, &invite, 407, &[("Proxy-Authenticate", "Digest realm=\"example.com\", nonce=\"n\"")], "");
    assert!(world.last("INVITE 407").has(Name::ProxyAuthenticate), "the digest is between the two");
    let ack = Begun { method: "ACK", ..call.clone() }.text(1, "");
    world.receive(device, &ack);
    world.receive(device, &call.text(2, "Proxy-Authorization: Digest username=\"alice\"\r\n"));
    let invite = world.last("INVITE");
    assert!(invite.has(Name::ProxyAuthorization));
    let routes = values(&invite, Name::RecordRoute);
    world.reply(server, &invite, 180, &[], "");
    world.reply(server, &invite, 200, &[("Contact", "<sip:bob@192.0.2.77>")], "");
    assert_eq!((world.count("INVITE 180"), world.count("INVITE 200")), (1, 1));
    assert_eq!(world.last("INVITE 200").elements(Name::Via).count(), 1);

    let (alice, bob) = ("<sip:alice@example.com>;tag=a", "<sip:bob@example.com>;tag=peer");
    let reversed: Vec<String> = routes.iter().rev().cloned().collect();
    world.receive(device, &in_dialog("ACK", "sip:bob@192.0.2.77", &reversed, alice, bob, "10.0.0.5:9"));
    assert_eq!((flow_of(world, "ACK"), world.count("ACK")), (server.flow, 2), "one to the 407, one to the 200");
    assert!(!world.last("ACK").has(Name::Route));
    world.receive(server, &in_dialog("BYE", "sip:alice@10.0.0.5:9", &routes, bob, alice, "192.0.2.10"));
    assert_eq!(flow_of(world, "BYE"), device.flow);
    let bye = world.last("BYE");
    world.reply(device, &bye, 200, &[], "");
    assert_eq!(world.count("BYE 200"), 1);
}

#[test]
fn every_method_that_may_begin_something_passes_and_its_answer_comes_back() {
    let mut through = registered(&[]);
    let world = &mut through.world;
    for method in ["MESSAGE", "SUBSCRIBE", "PUBLISH", "OPTIONS", "REFER"] {
        Begun { call_id: method.to_owned(), ..Begun::new(method) }.send(world);
        let request = world.last(method);
        assert_eq!(flow_of(world, method), world.upstream.flow, "{method}");
        assert_eq!(request.has(Name::RecordRoute), matches!(method, "SUBSCRIBE" | "REFER"), "{method}");
        let server = world.upstream;
        world.reply(server, &request, 202, &[], "");
        assert_eq!(world.count(&format!("{method} 202")), 1);
    }
}

pub fn refused(through: &mut Through, begun: &Begun) -> String {
    through.world.sent.clear();
    begun.send(&mut through.world);
    let answer = format!("{} 403", begun.method);
    assert_eq!(through.world.descriptions(), [answer.as_str()], "{} {} {}", begun.uri, begun.from, begun.routes);
    through.world.last(&answer).text(Name::Warning).unwrap_or_default().to_owned()
}

#[test]
fn what_is_not_for_its_own_sip_server_goes_nowhere_and_a_warning_says_why() {
    let mut through = registered(&[("Service-Route", SERVICE)]);
    let cases = [
        (Begun { flow: 2, ..Begun::new("INVITE") }, "register through this relay first"),
        (Begun { from: "<sip:alice@elsewhere.example>;tag=a", ..Begun::new("INVITE") }, "domain of From"),
        (Begun { from: "<sip:alice@example.com.elsewhere.example>;tag=a", ..Begun::new("INVITE") }, "domain of From"),
        (Begun { from: "<sip:alice@invalid.elsewhere.example>;tag=a", ..Begun::new("INVITE") }, "domain of From"),
        (
            Begun { routes: "<sip:relay.test:5061;lr>, <sip:elsewhere.example;lr>", ..Begun::new("INVITE") },
            "Service-Route",
        ),
        (
            Begun {
                routes: "<sip:relay.test:5061;lr>, <sip:orig@192.0.2.10;lr>, <sip:elsewhere.example;lr>",
                ..Begun::new("INVITE")
            },
            "Service-Route",
        ),
        (Begun { routes: "<sip:elsewhere.example;lr>", ..Begun::new("INVITE") }, "Service-Route"),
        (Begun { routes: "<sip:relay.test:5061;lr>, <<", ..Begun::new("INVITE") }, "Service-Route"),
        (Begun::new("NOTIFY"), "method"),
        (Begun::new("INFO"), "method"),
        (Begun::new("X-NEW"), "method"),
        (Begun { to: "<sip:bob@example.com>;tag=made-up", ..Begun::new("BYE") }, "Record-Routes"),
        (Begun { to: "<sip:bob@example.com>;tag=made-up", ..Begun::new("INVITE") }, "Record-Routes"),
    ];
    for (number, (begun, why)) in cases.into_iter().enumerate() {
        let warning = refused(&mut through, &Begun { call_id: format!("c{number}"), ..begun });
        assert!(warning.starts_with("399 relay.test:5061 \"") && warning.contains(why), "{number}: {warning}");
    }
    assert!(through.world.sent.iter().all(|sent| sent.message.status().is_some()), "nothing left the relay");
    for routes in ["", EDGE, SERVICE, "<sip:relay.test:5061;transport=tls;lr>, <sip:orig@192.0.2.10;lr>"] {
        through.world.sent.clear();
        Begun { routes, call_id: format!("ok{}", routes.len()), ..Begun::new("INVITE") }.send(&mut through.world);
        assert_eq!(values(&through.world.last("INVITE"), Name::Route), [SERVICE], "{routes}");
    }
}

/// RFC 3261 §16.6 step 6.
#[test]
fn a_strict_router_that_comes_next_is_the_request_uri() {
    let mut through = registered(&[("Service-Route", "<sip:orig@192.0.2.10;x=1>, <sip:192.0.2.11;lr>")]);
    let server = through.world.upstream;
    for method in ["MESSAGE", "INVITE"] {
        Begun::new(method).send(&mut through.world);
        let begun = through.world.last(method);
        assert_eq!(begun.request_uri(), Some("sip:orig@192.0.2.10;x=1"), "{method}");
        assert_eq!(values(&begun, Name::Route), ["<sip:192.0.2.11;lr>", "<sip:bob@example.com>"], "{method}");
    }
    let invite = through.world.last("INVITE");
    through.world.reply(server, &invite, 486, &[], "");
    let ack = through.world.last("ACK");
    assert_eq!((ack.request_uri(), values(&ack, Name::Route)), (invite.request_uri(), values(&invite, Name::Route)));
    // A REGISTER stays one for its domain.
    let mut through = Through::new();
    let routes = "Route: <sip:relay.test:5061;transport=tls;lr>";
    through.register(&Register::by(1).line(routes, &format!("{routes}, <sip:proxy.example.com>")));
    let register = through.world.last("REGISTER");
    assert_eq!(register.request_uri(), Some("sip:example.com"));
    assert_eq!(values(&register, Name::Route), ["<sip:proxy.example.com>"]);
}

/// A client without RFC 3608 names the proxy that it has registered by, and pjsip puts the Service-Route behind it.
#[test]
fn a_call_out_may_name_the_proxy_that_its_client_has_registered_by() {
    let (relay, proxy) = ("<sip:relay.test:5061;transport=tls;lr>", "<sip:proxy.example.com;lr>");
    let mut through = Through::over(FlowId::Stream(99));
    through.says = vec![("Service-Route", SERVICE)];
    through.registered(&Register::by(1).line(&format!("Route: {relay}"), &format!("Route: {relay}, {proxy}")));
    for (nth, routes) in
        [format!("{relay}, {proxy}"), format!("{relay}, {proxy}, {SERVICE}"), relay.to_owned()].iter().enumerate()
    {
        through.world.sent.clear();
        let routes: &'static str = routes.clone().leak();
        Begun { routes, call_id: format!("by{nth}"), ..Begun::new("INVITE") }.send(&mut through.world);
        assert_eq!(values(&through.world.last("INVITE"), Name::Route), [SERVICE], "{routes}");
    }
    for (nth, routes) in
        [format!("{relay}, {SERVICE}, {proxy}"), format!("{relay}, {proxy}, <sip:elsewhere.example;lr>")]
            .into_iter()
            .enumerate()
    {
        let call = Begun { routes: routes.leak(), call_id: format!("beside{nth}"), ..Begun::new("INVITE") };
        let warning = refused(&mut through, &call);
        assert!(warning.contains("Service-Route"), "{warning}");
    }
}

/// Old proxies write `lr=on`, and a client that keeps a flag of it gives back `lr`, or the other way round.
#[test]
fn a_service_route_and_a_proxy_may_be_given_back_with_and_without_the_value_of_their_lr() {
    let (relay, sbc) = ("<sip:relay.test:5061;transport=tls;lr>", "<sip:sbc.example.com;lr=on>");
    let mut through = registered(&[("Service-Route", sbc)]);
    for (number, route) in ["<sip:sbc.example.com;lr>", sbc, "<sip:sbc.example.com;lr=true>"].iter().enumerate() {
        let routes = Box::leak(format!("{relay}, {route}").into_boxed_str());
        Begun { routes, call_id: format!("s{number}"), ..Begun::new("INVITE") }.send(&mut through.world);
        assert_eq!(through.world.count("INVITE"), number + 1, "{route}");
        assert_eq!(values(&through.world.last("INVITE"), Name::Route), [sbc], "as its registrar wrote it");
    }
    let mut through = Through::over(FlowId::Stream(99));
    let proxy = "<sip:proxy.example.com;lr=on>";
    through.registered(&Register::by(1).line(&format!("Route: {relay}"), &format!("Route: {relay}, {proxy}")));
    let routes = Box::leak(format!("{relay}, <sip:proxy.example.com;lr>").into_boxed_str());
    Begun { routes, ..Begun::new("INVITE") }.send(&mut through.world);
    assert_eq!(values(&through.world.last("INVITE"), Name::Route), ["<sip:proxy.example.com;lr>"]);
}

/// RFC 3261 §16.5: a proxy that is responsible for a target judges it, and the relay is for none. A transfer (RFC 3515) and a redirection name the
/// callee's Contact.
#[test]
fn whatever_a_request_is_for_it_goes_to_its_own_sip_server_and_nowhere_else() {
    let mut through = registered(&[("Service-Route", SERVICE)]);
    let world = &mut through.world;
    for (method, uri) in [
        ("INVITE", "tel:+4930123"),
        ("INVITE", "urn:service:sos"),
        ("INVITE", "sip:+4930123@example.com;user=phone"),
        ("INVITE", "sip:9@192.0.2.10"),
        ("INVITE", "sips:bob@EXAMPLE.com."),
        ("INVITE", "sip:bob@198.51.100.9:5060;transport=tcp"),
        ("INVITE", "sip:bob@example.com;maddr=198.51.100.9"),
        ("REFER", "sip:bob@10.0.0.5:9999;transport=ws;ob"),
        ("MESSAGE", "sip:bob@elsewhere.example"),
        ("OPTIONS", "sip:relay.test:5061"),
    ] {
        world.sent.clear();
        Begun { uri, call_id: format!("to {uri}").replace(' ', "-"), ..Begun::new(method) }.send(world);
        let request = world.last(method);
        assert_eq!((flow_of(world, method), request.request_uri()), (world.upstream.flow, Some(uri)));
        assert_eq!(values(&request, Name::Route), [SERVICE], "{uri}");
        let requests = world.sent.iter().filter(|sent| sent.message.is_request());
        assert_eq!(requests.count(), 1, "{uri}");
    }
}

const ANONYMOUS: &str = "\"Anonymous\" <sip:anonymous@anonymous.invalid>;tag=a";

/// A request of this From by this flow, with these identities.
fn prefers(world: &mut World, flow: u64, from: &'static str, identities: &str, call_id: &str) {
    let call = Begun { flow, from, call_id: call_id.to_owned(), ..Begun::new("INVITE") };
    let (source, text) = (world.device(flow), call.text(1, &format!("Privacy: id\r\n{identities}")));
    world.sent.clear();
    world.receive(source, &text);
}

#[test]
fn who_calls_anonymously_or_by_a_number_goes_by_the_account_of_its_connection() {
    // RFC 3323 §4.1.1.3, RFC 3325 §9.2.
    let mut through = registered(&[]);
    let world = &mut through.world;
    let own = "P-Preferred-Identity: \"Alice\" <sip:alice@example.com>\r\n";
    let others = "P-Preferred-Identity: <sip:boss@elsewhere.example>\r\n";
    for (number, (from, identities)) in [
        (ANONYMOUS, own),
        (ANONYMOUS, ""),
        (ANONYMOUS, others),
        ("<sip:Anonymous.Invalid>;tag=a", ""),
        ("sip:c8oqz84zk7z@x.invalid.;tag=a", own),
        ("<tel:+4930123>;tag=a", ""),
        ("<tel:+4930123>;tag=a", own),
    ]
    .into_iter()
    .enumerate()
    {
        prefers(world, 1, from, identities, &format!("c{number}"));
        let invite = world.last("INVITE");
        assert_eq!(flow_of(world, "INVITE"), world.upstream.flow, "{from} {identities}");
        // Which identity that is, its SIP server says: all passes as it came.
        assert_eq!((invite.text(Name::From), invite.text(Name::Privacy)), (Some(from), Some("id")));
        assert_eq!(invite.values(Name::PPreferredIdentity).count(), usize::from(!identities.is_empty()));
    }
    prefers(world, 2, ANONYMOUS, own, "stranger");
    assert_eq!(world.descriptions(), ["INVITE 403"], "nobody has registered by that connection");
    through.advance(601);
    prefers(&mut through.world, 1, ANONYMOUS, own, "late");
    assert_eq!(through.world.descriptions(), ["INVITE 403"]);
}

#[test]
fn of_several_accounts_an_anonymous_call_goes_by_the_one_that_it_prefers_and_by_no_others() {
    let (mut through, flow) = also_bob(1);
    let server = through.world.upstream.flow;
    for (identities, by) in [
        ("P-Preferred-Identity: <sip:bob@other.example>\r\n", flow),
        ("P-Preferred-Identity: <tel:+4930123>, sip:alice@example.com\r\n", server),
        ("P-Preferred-Identity: <tel:+4930123>\r\nP-Preferred-Identity: <sip:+4930123@OTHER.example>\r\n", flow),
    ] {
        prefers(&mut through.world, 1, ANONYMOUS, identities, &format!("c{}", identities.len()));
        assert_eq!(flow_of(&through.world, "INVITE"), by, "{identities}");
    }
    for identities in ["", "P-Preferred-Identity: <sip:bob@elsewhere.example>\r\n", "P-Preferred-Identity: >\r\n"] {
        prefers(&mut through.world, 1, ANONYMOUS, identities, &format!("r{}", identities.len()));
        let refusal = through.world.last("INVITE 403");
        assert!(refusal.text(Name::Warning).is_some_and(|it| it.contains("name one of them in P-Preferred-Identity")));
    }
    // Bob's is another connection's.
    let (mut through, _) = also_bob(2);
    prefers(&mut through.world, 1, ANONYMOUS, "P-Preferred-Identity: <sip:bob@other.example>\r\n", "not-bob");
    assert_eq!(flow_of(&through.world, "INVITE"), through.world.upstream.flow, "as Alice");
}

/// The connection's other accounts may be another shard's, of which this one knows nothing.
#[test]
fn by_a_connection_of_several_shards_no_call_goes_by_an_account_that_it_does_not_name() {
    let mut through = registered(&[]);
    let world = &mut through.world;
    let source = Source { split: true, ..world.device(1) };
    let bob = "P-Preferred-Identity: <sip:bob@other.example>\r\n";
    for (number, (from, identities)) in
        [(ANONYMOUS, ""), (ANONYMOUS, bob), ("<tel:+4930123>;tag=a", "")].into_iter().enumerate()
    {
        let call = Begun { from, call_id: format!("n{number}"), ..Begun::new("INVITE") };
        world.sent.clear();
        world.receive(source, &call.text(1, identities));
        assert_eq!(world.descriptions(), ["INVITE 403"], "{from} {identities}");
        let refusal = world.last("INVITE 403");
        assert!(refusal.text(Name::Warning).is_some_and(|it| it.contains("name one of them in P-Preferred-Identity")));
    }
    for (from, identities) in [(ANONYMOUS, "P-Preferred-Identity: <sip:alice@example.com>\r\n"), (ALICE, "")] {
        let call = Begun { from, call_id: format!("y{}", from.len()), ..Begun::new("INVITE") };
        world.sent.clear();
        world.receive(source, &call.text(1, identities));
        assert_eq!(world.count("INVITE"), 1, "{from} {identities}");
    }
}

/// RFC 3261 §16.6 step 4, §26.2.2.
#[test]
fn a_call_to_a_sips_address_has_sips_record_routes_where_all_is_tls() {
    let mut through = registered(&[]);
    let world = &mut through.world;
    let (device, server) = (world.device(1), world.upstream);
    Begun { uri: "sips:bob@example.com", ..Begun::new("INVITE") }.send(world);
    let invite = world.last("INVITE");
    let routes = values(&invite, Name::RecordRoute);
    for (route, name) in routes.iter().zip(["@relay.test:5071;lr>", "@relay.test:5061;lr>"]) {
        assert!(route.starts_with("<sips:") && route.ends_with(name), "{route}");
    }
    world.reply(server, &invite, 200, &[("Contact", "<sips:bob@192.0.2.77>")], "");
    let reversed: Vec<String> = routes.iter().rev().cloned().collect();
    let (alice, bob) = ("<sip:alice@example.com>;tag=a", "<sip:bob@example.com>;tag=peer");
    world.receive(device, &in_dialog("BYE", "sips:bob@192.0.2.77", &reversed, alice, bob, "10.0.0.5:9"));
    assert_eq!((flow_of(world, "BYE"), world.last("BYE").has(Name::Route)), (server.flow, false));
}

#[test]
fn a_registration_that_is_over_calls_nobody() {
    let mut through = registered(&[]);
    through.advance(601);
    refused(&mut through, &Begun::new("INVITE"));
    let mut through = registered(&[]);
    through.registered(&Register::by(1).expires(0));
    refused(&mut through, &Begun::new("INVITE"));
    let mut through = registered(&[]);
    through.world.input(Input::Closed(FlowId::Stream(1)));
    refused(&mut through, &Begun::new("INVITE"));
}

/// Alice's phone is registered by flow 1, and Bob's by this one, at another server, which has the flow that is returned.
fn also_bob(by: u64) -> (Through, FlowId) {
    let mut through = registered(&[]);
    through.server = UpstreamId(7);
    let bob = "<sip:bob@h;pn-provider=fcm;pn-prid=bobs>;+sip.instance=\"<urn:uuid:2>\"";
    let mut register = Register { uri: "sip:other.example", to: "sip:bob@other.example", ..Register::by(by) };
    register.contact = bob.into();
    through.world.dial = false;
    through.register(&register);
    let (flow, transport) = (FlowId::Stream(77), Transport::Tls);
    through.world.input(Input::Dialled { upstream: UpstreamId(7), flow, transport });
    let server = through.world.upstream;
    through.world.upstream = Source { flow, ..server };
    through.accept(600);
    through.world.upstream = server;
    (through, flow)
}

/// Each account of a connection calls by its own SIP server.
#[test]
fn of_several_registrations_the_one_that_from_names_is_used() {
    let (mut through, flow) = also_bob(1);
    let server = through.world.upstream;
    let (from, uri) = ("<sip:bob@other.example>;tag=b", "sip:carol@other.example");
    Begun { from, uri, call_id: "bobs".into(), ..Begun::new("INVITE") }.send(&mut through.world);
    assert_eq!(flow_of(&through.world, "INVITE"), flow);
    Begun::new("INVITE").send(&mut through.world);
    assert_eq!(flow_of(&through.world, "INVITE"), server.flow);
    Begun { from, call_id: "mixed".into(), ..Begun::new("INVITE") }.send(&mut through.world);
    assert_eq!(flow_of(&through.world, "INVITE"), flow, "whatever its target");
}

#[test]
fn a_device_whose_account_is_lent_is_told_to_call_out_by_itself() {
    let mut world = World::registered();
    world.attach(1);
    world.sent.clear();
    Begun::new("INVITE").send(&mut world);
    assert_eq!(world.descriptions(), ["INVITE 403"]);
    let warning = world.last("INVITE 403");
    assert!(warning.text(Name::Warning).is_some_and(|it| it.contains("lent") && it.contains("your own SIP server")));
}

#[test]
fn a_caller_who_gives_up_or_is_gone_leaves_nobody_ringing() {
    for gone in [false, true] {
        let mut through = registered(&[]);
        let world = &mut through.world;
        let call = Begun::new("INVITE");
        call.send(world);
        let (invite, server, device): (Message, _, _) = (world.last("INVITE"), world.upstream, world.device(1));
        world.reply(server, &invite, 180, &[], "");
        if gone {
            world.input(Input::Closed(FlowId::Stream(1)));
            world.advance(crate::world::seconds(6));
        } else {
            world.receive(device, &Begun { method: "CANCEL", ..call }.text(1, ""));
            assert_eq!(world.count("CANCEL 200"), 1);
        }
        assert_eq!(flow_of(world, "CANCEL"), server.flow);
        let cancel = world.last("CANCEL");
        world.reply(server, &cancel, 200, &[], "");
        world.reply(server, &invite, 487, &[], "");
        assert_eq!(world.count("INVITE 487"), usize::from(!gone));
        if gone {
            // The device comes back, and hears the outcome of its call.
            through.registered(&Register::by(2));
            let world = &through.world;
            assert_eq!(
                world.sent.iter().rfind(|sent| sent.message.status() == Some(487)).unwrap().flow,
                FlowId::Stream(2)
            );
        }
    }
}

#[test]
fn what_a_device_that_passes_through_sends_before_its_register_is_answered_waits_for_that() {
    for comes in [true, false] {
        let mut through = registered(&[]);
        let world = &mut through.world;
        Begun::new("INVITE").send(world);
        let (invite, server) = (world.last("INVITE"), world.upstream);
        world.reply(server, &invite, 200, &[("Contact", "<sip:bob@192.0.2.77>")], "");
        world.input(Input::Closed(FlowId::Stream(1)));
        let mut routes = values(&invite, Name::RecordRoute);
        routes.reverse();
        let (alice, bob) = ("<sip:alice@example.com>;tag=a", "<sip:bob@example.com>;tag=peer");
        let device = world.device(2);
        for method in ["ACK", "BYE"] {
            world.receive(device, &in_dialog(method, "sip:bob@192.0.2.77", &routes, alice, bob, "10.0.0.5:9"));
        }
        assert_eq!((world.count("ACK"), world.count("BYE"), world.count("BYE 403")), (0, 0, 0));
        if comes {
            through.registered(&Register::by(2));
            assert_eq!((through.world.count("ACK"), flow_of(&through.world, "BYE")), (1, server.flow));
        } else {
            through.advance(8);
            assert_eq!((through.world.count("BYE 403"), through.world.count("BYE")), (1, 0));
        }
    }
}

#[test]
fn a_device_and_its_address_begin_so_much_at_most() {
    let mut through = registered(&[]);
    let world = &mut through.world;
    for number in 0..40 {
        Begun { call_id: format!("m{number}"), ..Begun::new("MESSAGE") }.send(world);
    }
    assert_eq!((world.count("MESSAGE"), world.count("MESSAGE 503")), (30, 10));
    assert!(world.last("MESSAGE 503").has(Name::RetryAfter));
    world.advance(crate::world::seconds(5));
    Begun { call_id: "later".into(), ..Begun::new("MESSAGE") }.send(world);
    assert_eq!(world.count("MESSAGE"), 31);
}

/// Sends so many requests of one kind; returns how many of them went on.
fn begin_many(world: &mut World, flow: u64, from: &'static str, method: &'static str, times: usize) -> usize {
    let before = world.count(method);
    for number in 0..times {
        let call_id = format!("{method}.{flow}.{number}.{}", world.sent.len());
        Begun { flow, from, call_id, ..Begun::new(method) }.send(world);
    }
    world.count(method) - before
}

const ALICE: &str = "<sip:alice@example.com>;tag=a";

#[test]
fn a_desk_phone_that_watches_many_others_calls_all_the_same() {
    let mut through = registered(&[]);
    let world = &mut through.world;
    assert_eq!(begin_many(world, 1, ALICE, "SUBSCRIBE", 600), 600, "three hundred, each challenged once");
    assert_eq!(begin_many(world, 1, ALICE, "PUBLISH", 1), 0, "it has had enough");
    assert_eq!(begin_many(world, 1, ALICE, "OPTIONS", 40), 30, "its address has had nothing of that");
    assert_eq!(begin_many(world, 1, ALICE, "INVITE", 10), 10);
    world.advance(crate::world::seconds(60));
    assert_eq!(begin_many(world, 1, ALICE, "PUBLISH", 1), 1);
}

#[test]
fn neighbours_behind_one_address_keep_nobody_from_calling() {
    let mut through = registered(&[]);
    let froms: Vec<(&'static str, &'static str)> = (2..40)
        .map(|flow| {
            let to = &*Box::leak(format!("sip:u{flow}@example.com").into_boxed_str());
            (to, &*Box::leak(format!("<{to}>;tag=a").into_boxed_str()))
        })
        .collect();
    for (flow, (to, _)) in (2..40).zip(&froms) {
        through.registered(&Register { to, ..Register::by(flow) });
    }
    let world = &mut through.world;
    for second in 0..5 {
        world.sent.clear();
        for (flow, (_, from)) in (2..40).zip(&froms) {
            for method in ["OPTIONS", "SUBSCRIBE", "INVITE"] {
                begin_many(world, flow, from, method, 30);
            }
        }
        assert_eq!(begin_many(world, 1, ALICE, "INVITE", 1), 1, "{second}");
        assert_eq!(begin_many(world, 1, ALICE, "SUBSCRIBE", 3), 3, "{second}");
        world.advance(crate::world::seconds(1));
    }
}

#[test]
fn an_emergency_call_is_refused_for_no_budget() {
    let mut through = registered(&[]);
    let world = &mut through.world;
    begin_many(world, 1, ALICE, "INVITE", 100);
    begin_many(world, 1, ALICE, "MESSAGE", 100);
    for (number, uri) in ["urn:service:sos", "URN:Service:SOS.fire", "urn:service:sos.police"].into_iter().enumerate() {
        let before = world.count("INVITE");
        Begun { uri, call_id: format!("sos{number}"), ..Begun::new("INVITE") }.send(world);
        assert_eq!(world.count("INVITE"), before + 1, "{uri}");
    }
    for (number, uri) in ["urn:service:sossos", "urn:service:counseling", "tel:+110"].into_iter().enumerate() {
        let before = world.count("INVITE");
        Begun { uri, call_id: format!("other{number}"), ..Begun::new("INVITE") }.send(world);
        assert_eq!(world.count("INVITE"), before, "{uri}");
    }
    let before = world.count("INVITE");
    for number in 0..1_000 {
        Begun { uri: "urn:service:sos", call_id: format!("again{number}"), ..Begun::new("INVITE") }.send(world);
    }
    assert_eq!(world.count("INVITE"), before + 13, "nobody fills the table so");
}

#[test]
fn emergency_calls_that_are_challenged_or_refused_at_once_are_no_more_than_others() {
    let mut through = registered(&[]);
    let world = &mut through.world;
    begin_many(world, 1, ALICE, "INVITE", 100);
    let challenged = |world: &mut World, round: usize| {
        let before = world.count("INVITE");
        for number in 0..20 {
            let call_id = format!("sos{round}.{number}");
            Begun { uri: "urn:service:sos", call_id: call_id.clone(), ..Begun::new("INVITE") }.send(world);
            let (server, invite) = (world.upstream, world.last("INVITE"));
            if invite.call_id() == Some(&*call_id) {
                world.reply(server, &invite, 407, &[("Proxy-Authenticate", "Digest realm=\"r\", nonce=\"n\"")], "");
            }
        }
        world.count("INVITE") - before
    };
    assert_eq!(challenged(world, 0), 16);
    assert_eq!(challenged(world, 1), 0, "though none of them is under way");
    world.advance(crate::world::seconds(3));
    // Its other calls flow in beside.
    assert_eq!(challenged(world, 2), 3 + 3);
}

/// Alice's phone, whose SIP server has just ended the flow; none is dialled by itself.
fn without_a_flow() -> Through {
    let mut through = registered(&[("Service-Route", SERVICE)]);
    (through.world.dial, through.world.dialled) = (false, 0);
    let flow = through.world.upstream.flow;
    through.world.input(Input::Closed(flow));
    through
}

#[test]
fn without_a_flow_to_its_sip_server_a_request_waits_for_one_that_is_dialled() {
    for method in ["INVITE", "MESSAGE"] {
        let mut through = without_a_flow();
        let world = &mut through.world;
        Begun::new(method).send(world);
        assert_eq!((world.count(method), world.count("INVITE 100")), (0, usize::from(method == "INVITE")));
        assert!(world.dialled > 0);
        world.input(Input::Dialled { upstream: world::REGISTRAR, flow: FlowId::Stream(98), transport: Transport::Tls });
        let (sent, flow) = (world.last(method), flow_of(world, method));
        assert_eq!((flow, values(&sent, Name::Route)), (FlowId::Stream(98), vec![SERVICE.to_owned()]), "{method}");
        assert_eq!(sent.has(Name::RecordRoute), method == "INVITE");
        let server = Source { flow, ..world.upstream };
        world.reply(server, &sent, 200, &[("Contact", "<sip:bob@192.0.2.10>")], "");
        assert_eq!(world.count(&format!("{method} 200")), 1);
    }
}

#[test]
fn without_a_flow_to_its_sip_server_that_comes_in_time_a_request_is_503() {
    for fails in [true, false] {
        let mut through = without_a_flow();
        let world = &mut through.world;
        Begun::new("INVITE").send(world);
        if fails {
            world.input(Input::DialFailed(world::REGISTRAR));
        } else {
            assert_eq!(world.count("INVITE 503"), 0);
            world.advance(crate::world::seconds(8));
        }
        assert_eq!(world.count("INVITE 503"), 1, "fails: {fails}");
        assert!(world.last("INVITE 503").has(Name::RetryAfter));
    }
}

#[test]
fn a_call_that_is_cancelled_while_it_waits_for_a_flow_goes_nowhere() {
    let mut through = without_a_flow();
    let world = &mut through.world;
    Begun::new("INVITE").send(world);
    Begun::new("CANCEL").send(world);
    assert_eq!((world.count("CANCEL 200"), world.count("INVITE 487")), (1, 1));
    world.input(Input::Dialled { upstream: world::REGISTRAR, flow: FlowId::Stream(98), transport: Transport::Tls });
    assert_eq!(world.count("INVITE"), 0);
}

#[test]
fn a_request_that_waits_for_a_flow_goes_nowhere_when_its_device_has_left() {
    let mut through = without_a_flow();
    let world = &mut through.world;
    Begun::new("INVITE").send(world);
    world.input(Input::Closed(FlowId::Stream(1)));
    world.input(Input::Dialled { upstream: world::REGISTRAR, flow: FlowId::Stream(98), transport: Transport::Tls });
    assert_eq!(world.count("INVITE"), 0);
}

#[test]
fn a_call_that_wants_tls_on_every_hop_leaves_by_no_other_transport() {
    let mut through = Through::new();
    through.registered(&Register::by(1));
    through.world.sent.clear();
    Begun { uri: "SIPS:bob@example.com", ..Begun::new("INVITE") }.send(&mut through.world);
    assert_eq!(through.world.descriptions(), ["INVITE 480"]);
    assert!(through.world.last("INVITE 480").text(Name::Warning).unwrap().starts_with("380 "));
}
