//! The table: what belongs together, what is sent, and that nothing is held beyond its time or its bound.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::io::Full;
use super::{Arrival, Expired, Reply, RequestKey, ServerId, Table, Timing, key_of_cancelled_or_acked};
use crate::id::{BranchId, FlowId, InstanceId, ShardTag, Side};
use crate::message::{Composer, Limits, Message, Method, Name};

const UDP: fn() -> FlowId = || FlowId::Datagram("192.0.2.1:5060".parse().unwrap());
const TCP: FlowId = FlowId::Stream(7);

type Asked = Table<&'static str, &'static str>;

/// The classification of a SIP server's request.
fn came(table: &mut Asked, now: Instant, request: &Message, flow: FlowId) -> Arrival<&'static str> {
    let key = RequestKey::of(request, request.via().as_ref(), Side::Upstream);
    table.on_request(now, request, Reply { flow, side: Side::Upstream, key: &key })
}

fn open(table: &mut Asked, request: &Message, flow: FlowId, owner: &'static str) -> Result<ServerId, Full> {
    let key = RequestKey::of(request, request.via().as_ref(), Side::Upstream);
    table.open(request, Reply { flow, side: Side::Upstream, key: &key }, owner)
}

fn open_in_passing(table: &mut Asked, request: &Message) -> Result<ServerId, Full> {
    let key = RequestKey::of(request, request.via().as_ref(), Side::Upstream);
    table.open_in_passing(request, Reply { flow: UDP(), side: Side::Upstream, key: &key }, "refused")
}

fn table(capacity: usize) -> Table<&'static str, &'static str> {
    Table::new(capacity, Timing::default(), true)
}

fn request(method: &str, via: &str) -> Message {
    let text = format!(
        "{method} sip:a@b SIP/2.0\r\nVia: {via}\r\nMax-Forwards: 70\r\nFrom: <sip:c@d>;tag=c\r\nTo: <sip:a@b>\r\n\
         Route: <sip:r;lr>\r\nCall-ID: i\r\nCSeq: 5 {method}\r\nContent-Length: 0\r\n\r\n"
    );
    parsed(text.into())
}

fn parsed(bytes: Bytes) -> Message {
    Message::parse(&bytes, &Limits::default()).unwrap()
}

fn branch(number: u128) -> BranchId {
    BranchId::new(number << 16, ShardTag(0))
}

fn sent(table: &mut Table<&'static str, &'static str>) -> Vec<String> {
    std::iter::from_fn(|| table.poll_transmit()).map(|transmit| first_word(&transmit.bytes)).collect()
}

fn first_word(bytes: &Bytes) -> String {
    let message = parsed(bytes.clone());
    message.status().map_or_else(|| message.method_text().unwrap().to_owned(), |status| status.to_string())
}

/// Sends a request with its own branch.
fn send(
    table: &mut Table<&'static str, &'static str>,
    now: Instant,
    method: Method,
    number: u128,
    flow: FlowId,
) -> Message {
    let message = request(method.as_str(), &format!("SIP/2.0/UDP relay;branch={}", branch(number)));
    table.send(now, branch(number), method, message.to_bytes(), flow, "asker").unwrap();
    message
}

/// The request that a response answers.
fn asked_by(table: &Table<&'static str, &'static str>, response: &Message) -> Option<super::Asked<&'static str>> {
    table.asked(response, &response.via()?)
}

/// A response from whoever was asked.
fn respond(
    table: &mut Table<&'static str, &'static str>,
    now: Instant,
    response: &Message,
) -> Option<(BranchId, &'static str)> {
    let asked = asked_by(table, response)?;
    table.on_response(now, &asked, response)
}

fn answer(request: &Message, status: u16) -> Message {
    parsed(Composer::response(request, status, "x", Some("peer")).finish())
}

#[test]
fn a_failed_invite_is_acknowledged_with_its_own_branch_route_and_number_each_time_it_comes() {
    let (mut table, now) = (table(9), Instant::now());
    let invite = send(&mut table, now, Method::Invite, 1, UDP());
    let busy = answer(&invite, 486);
    assert_eq!(respond(&mut table, now, &busy), Some((branch(1), "asker")));
    table.poll_transmit();
    let ack = parsed(table.poll_transmit().unwrap().bytes);
    assert_eq!((ack.method(), ack.cseq()), (Some(Method::Ack), Some((5, "ACK"))));
    assert_eq!(ack.via().unwrap().text, invite.via().unwrap().text);
    assert_eq!(ack.text(Name::Route), Some("<sip:r;lr>"));
    assert_eq!(ack.to().unwrap().tag(), Some("peer"));
    assert_eq!(respond(&mut table, now, &busy), None, "told once");
    assert_eq!(sent(&mut table), ["ACK"], "acknowledged again");
}

/// The number of transactions that expire at this moment.
fn expired(table: &mut Asked, at: Instant) -> usize {
    std::iter::from_fn(|| table.poll_expired(at)).count()
}

#[test]
fn of_what_may_be_late_a_quarter_of_the_table_waits_and_what_was_heard_counts_no_more() {
    let (mut table, start, device) = (table(16), Instant::now(), InstanceId::new(1 << 64, ShardTag(0)));
    let begin = |table: &mut Asked, now, number| {
        let invite = send(table, now, Method::Invite, number, TCP);
        table.expect_late(branch(number), device);
        table.cancel(now, branch(number), Some("SIP;cause=200"));
        invite
    };
    let invites: Vec<_> = (1..=6).map(|number| begin(&mut table, start, number)).collect();
    sent(&mut table);
    let at = start + Duration::from_secs(32);
    assert_eq!((expired(&mut table, at), table.len()), (2, 4));
    // A late response reaches four of them, and the CANCEL that follows is that of its own INVITE.
    let heard = invites.iter().filter(|invite| asked_by(&table, &answer(invite, 180)).is_some()).count();
    let late = invites.iter().find(|invite| asked_by(&table, &answer(invite, 180)).is_some()).expect("one waits");
    assert_eq!((heard, respond(&mut table, at, &answer(late, 180)).is_some()), (4, true));
    let cancel = parsed(table.poll_transmit().expect("a CANCEL").bytes);
    assert_eq!((cancel.method(), cancel.via().map(|it| it.text)), (Some(Method::Cancel), late.via().map(|it| it.text)));
    assert_eq!(cancel.text(Name::Reason), Some("SIP;cause=200"));
    respond(&mut table, at, &answer(late, 487));
    let ack = parsed(table.poll_transmit().expect("an ACK").bytes);
    assert_eq!(
        (ack.method(), ack.cseq(), ack.request_uri()),
        (Some(Method::Ack), Some((5, "ACK")), late.request_uri())
    );
    // Its place is another's.
    begin(&mut table, at, 7);
    assert_eq!(expired(&mut table, at + Duration::from_secs(32)), 0);
    table.forget_requests(device);
    assert_eq!((table.len(), table.late), (0, 0));
}

#[test]
fn an_invite_is_cancelled_unheard_by_another_flow_alone() {
    for (back, cancels) in [(false, 1), (true, 0)] {
        let (mut table, now) = (table(9), Instant::now());
        send(&mut table, now, Method::Invite, 1, TCP);
        table.carry(now, branch(1), FlowId::Stream(77));
        if back {
            table.carry(now, branch(1), TCP);
        }
        while table.poll_transmit().is_some() {}
        table.cancel_by_any(now, branch(1), None);
        let sent = std::iter::from_fn(|| table.poll_transmit()).map(|it| parsed(it.bytes).method());
        assert_eq!(sent.filter(|method| *method == Some(Method::Cancel)).count(), cancels, "RFC 3261 §9.1: {back}");
    }
}

#[test]
fn a_cancel_waits_for_a_provisional_response_and_its_own_answer_is_nobodys() {
    let (mut table, now) = (table(9), Instant::now());
    let invite = send(&mut table, now, Method::Invite, 1, UDP());
    table.cancel(now, branch(1), Some("SIP;cause=200"));
    assert_eq!(sent(&mut table), ["INVITE"], "not before any response (RFC 3261 §9.1)");
    assert!(respond(&mut table, now, &answer(&invite, 180)).is_some());
    let cancel = parsed(table.poll_transmit().unwrap().bytes);
    assert_eq!((cancel.method(), cancel.cseq()), (Some(Method::Cancel), Some((5, "CANCEL"))));
    assert_eq!(cancel.via().unwrap().text, invite.via().unwrap().text);
    assert_eq!(cancel.text(Name::Reason), Some("SIP;cause=200"));
    table.cancel(now, branch(1), None);
    assert_eq!(sent(&mut table), [""; 0], "once");
    assert_eq!(respond(&mut table, now, &answer(&cancel, 200)), None);
    let later = now + Duration::from_secs(32);
    let expired = std::iter::from_fn(|| table.poll_expired(later)).collect::<Vec<_>>();
    assert!(matches!(expired[..], [Expired::Client(id, "asker")] if id == branch(1)), "{expired:?}");
}

#[test]
fn a_response_finds_where_its_request_went_until_that_is_over() {
    let (mut table, now) = (table(9), Instant::now());
    let options = send(&mut table, now, Method::Options, 1, TCP);
    let asked = asked_by(&table, &answer(&options, 200)).map(|asked| (asked.flow, asked.owner));
    assert_eq!(asked, Some((TCP, "asker")));
    assert_eq!(respond(&mut table, now, &answer(&options, 200)), Some((branch(1), "asker")));
    assert_eq!(table.flow_of(branch(1)), None, "K is zero: forgotten at once");
}

#[test]
fn a_request_that_is_never_answered_is_told_once_and_an_abandoned_one_never() {
    let (mut table, now) = (table(9), Instant::now());
    send(&mut table, now, Method::Options, 1, TCP);
    send(&mut table, now, Method::Options, 2, TCP);
    assert_eq!(table.abandon(branch(2)), Some("asker"));
    assert!(table.poll_expired(now + Duration::from_millis(31_999)).is_none());
    let end = now + Duration::from_secs(32);
    assert!(matches!(table.poll_expired(end), Some(Expired::Client(id, "asker")) if id == branch(1)));
    assert!(table.poll_expired(end).is_none());
    assert_eq!(table.next_deadline(), None);
}

#[test]
fn a_table_that_was_crowded_gives_its_room_back() {
    let (mut table, now) = (table(9_000), Instant::now());
    for number in 1..=8_000 {
        send(&mut table, now, Method::Options, number, TCP);
        while table.poll_transmit().is_some() {}
    }
    assert!(table.room() >= 8_000);
    let end = now + Duration::from_secs(32);
    while table.poll_expired(end).is_some() {}
    assert!(table.room() <= 1_024, "{}", table.room());
    send(&mut table, end, Method::Options, 8_001, TCP);
    assert_eq!(table.len(), 1);
}

#[test]
fn a_repeated_request_is_answered_from_its_transaction_whatever_its_branch_looks_like() {
    for via in ["SIP/2.0/UDP peer;branch=z9hG4bK1", "SIP/2.0/UDP peer;branch=1", "SIP/2.0/UDP peer"] {
        let (mut table, now) = (table(9), Instant::now());
        let message = request("MESSAGE", via);
        assert!(matches!(came(&mut table, now, &message, UDP()), Arrival::New));
        let id = open(&mut table, &message, UDP(), "owner").unwrap();
        assert!(matches!(came(&mut table, now, &message, UDP()), Arrival::Absorbed));
        assert_eq!(sent(&mut table), [""; 0], "nothing to repeat yet");
        table.respond(now, id, 200, answer(&message, 200).to_bytes());
        assert!(matches!(came(&mut table, now, &message, UDP()), Arrival::Absorbed));
        assert_eq!(sent(&mut table), ["200", "200"]);
        assert!(matches!(came(&mut table, now, &request("OPTIONS", via), UDP()), Arrival::New), "another method");
        while table.poll_expired(now + Duration::from_secs(32)).is_some() {}
        assert!(matches!(came(&mut table, now, &message, UDP()), Arrival::New), "J has passed");
    }
}

#[test]
fn another_request_than_invite_is_never_answered_408_nor_provisionally() {
    let (mut table, now) = (table(9), Instant::now());
    let message = request("BYE", "SIP/2.0/UDP peer;branch=z9hG4bK1");
    let id = open(&mut table, &message, UDP(), "owner").unwrap();
    table.respond(now, id, 180, answer(&message, 180).to_bytes());
    table.respond(now, id, 408, answer(&message, 408).to_bytes());
    assert!(!table.is_pending(id));
    assert!(matches!(came(&mut table, now, &message, UDP()), Arrival::Absorbed));
    assert_eq!(sent(&mut table), [""; 0]);
    let invite = request("INVITE", "SIP/2.0/UDP peer;branch=z9hG4bK2");
    let id = open(&mut table, &invite, UDP(), "owner").unwrap();
    assert!(table.give_up(now, id), "its caller still waits");
    table.respond(now, id, 408, answer(&invite, 408).to_bytes());
    assert_eq!(sent(&mut table), ["408"]);
}

#[test]
fn an_ack_of_a_failure_is_absorbed_and_that_of_a_2xx_travels_on() {
    let now = Instant::now();
    for (status, travels) in [(486, false), (200, true)] {
        let mut table = table(9);
        let via = "SIP/2.0/UDP peer;branch=z9hG4bK1";
        let invite = request("INVITE", via);
        let id = open(&mut table, &invite, UDP(), "owner").unwrap();
        table.respond(now, id, status, answer(&invite, status).to_bytes());
        sent(&mut table);
        let arrival = came(&mut table, now, &request("ACK", via), UDP());
        assert_eq!(matches!(arrival, Arrival::AckOfAccepted), travels, "{status}");
        assert!(travels || matches!(arrival, Arrival::Absorbed));
        assert!(matches!(came(&mut table, now, &invite, UDP()), Arrival::Absorbed), "RFC 6026 §7.1");
        while table.poll_expired(now + Duration::from_secs(32)).is_some() {}
        assert_eq!(sent(&mut table), [""; 0], "an ACK ends the retransmissions; a 2xx is never repeated here");
    }
}

#[test]
fn a_cancel_finds_a_pending_invite_of_its_own_branch_and_flow() {
    let (mut table, now) = (table(9), Instant::now());
    let via = "SIP/2.0/UDP peer;branch=z9hG4bK1";
    let invite = request("INVITE", via);
    let id = open(&mut table, &invite, UDP(), "call").unwrap();
    let cancel = request("CANCEL", via);
    assert!(matches!(came(&mut table, now, &cancel, UDP()), Arrival::Cancel("call")));
    assert!(matches!(came(&mut table, now, &cancel, TCP), Arrival::CancelElsewhere("call")));
    let stranger = request("CANCEL", "SIP/2.0/UDP peer;branch=z9hG4bK2");
    assert!(matches!(came(&mut table, now, &stranger, UDP()), Arrival::New));
    table.respond(now, id, 486, answer(&invite, 486).to_bytes());
    assert!(matches!(came(&mut table, now, &cancel, UDP()), Arrival::CancelTooLate), "answered before");
    let key = RequestKey::of(&cancel, cancel.via().as_ref(), Side::Upstream);
    assert_eq!(table.to_tag_for(&key).as_deref(), answer(&invite, 486).to().unwrap().tag());
}

#[test]
fn what_belongs_to_an_invite_is_found_however_its_via_is_spelled() {
    for (via, same, other) in [
        (
            "SIP/2.0/UDP Peer.example;branch=z9hG4bK1;rport;x=1",
            [
                "SIP / 2.0 / UDP\tpeer.EXAMPLE : 5060 ; X=1 ;RPORT=9;\r\n branch = z9hG4bK1",
                "SIP/2.0/udp peer.example.;branch=z9hG4bK1",
            ],
            ["SIP/2.0/UDP peer.example:5061;branch=z9hG4bK1", "SIP/2.0/UDP peer.example;branch=z9hG4bk1"],
        ),
        (
            "SIP/2.0/TLS [2001:DB8::9]:5061;branch=z9hG4bK1",
            [
                "SIP/2.0/TLS [2001:db8:0:0::9];branch=z9hG4bK1",
                "SIP/2.0/TLS [2001:db8::9] :5061;BRANCH=z9hG4bK1;received=10.0.0.1",
            ],
            ["SIP/2.0/TLS [2001:db8::9]:5060;branch=z9hG4bK1", "SIP/2.0/TLS [2001:db8::90];branch=z9hG4bK1"],
        ),
        (
            "SIP/2.0/UDP Peer.example;branch=1",
            ["SIP/2.0/UDP peer.example:5060;branch=1", "SIP/2.0/UDP peer.example ;x;branch=1"],
            ["SIP/2.0/UDP peer.example;branch=2", "SIP/2.0/UDP peer.example"],
        ),
    ] {
        let (mut table, now) = (table(9), Instant::now());
        let invite = request("INVITE", via);
        let id = open(&mut table, &invite, UDP(), "call").unwrap();
        for same in same {
            assert!(matches!(came(&mut table, now, &request("INVITE", same), UDP()), Arrival::Absorbed), "{same}");
            assert!(
                matches!(came(&mut table, now, &request("CANCEL", same), UDP()), Arrival::Cancel("call")),
                "{same}"
            );
            let begun = table.poll_invite().map(|change| change.key);
            assert!(begun.is_none_or(
                |key| key_of_cancelled_or_acked(&request("ACK", same), Side::Upstream).as_deref() == Some(&key)
            ));
        }
        for other in other {
            for method in ["INVITE", "CANCEL", "ACK"] {
                assert!(matches!(came(&mut table, now, &request(method, other), UDP()), Arrival::New), "{other}");
            }
        }
        table.respond(now, id, 486, answer(&invite, 486).to_bytes());
        assert!(!table.is_acknowledged(id));
        came(&mut table, now, &request("ACK", same[0]), UDP());
        assert!(table.is_acknowledged(id), "{via}");
    }
}

#[test]
fn calls_that_a_server_sends_with_one_branch_for_all_are_told_apart() {
    let (mut table, now) = (table(9), Instant::now());
    let via = "SIP/2.0/UDP balancer;branch=z9hG4bKcydzigwkX\r\nVia: SIP/2.0/UDP peer;branch=z9hG4bK1";
    let of = |method: &str, call: &str, target: &str| {
        let text = request(method, via).to_bytes();
        let text = String::from_utf8(text.to_vec()).unwrap().replace("Call-ID: i", &format!("Call-ID: {call}"));
        parsed(text.replacen("sip:a@b", target, 1).into())
    };
    let calls = [("i1", "sip:a@b"), ("i2", "sip:a@b"), ("i2", "sip:c@b")];
    let ids = calls.map(|(call, target)| {
        assert!(matches!(came(&mut table, now, &of("INVITE", call, target), UDP()), Arrival::New), "{call} {target}");
        open(&mut table, &of("INVITE", call, target), UDP(), target).unwrap()
    });
    for (at, (call, target)) in calls.into_iter().enumerate() {
        assert!(matches!(came(&mut table, now, &of("INVITE", call, target), UDP()), Arrival::Absorbed), "a copy");
        let cancel = came(&mut table, now, &of("CANCEL", call, target), UDP());
        assert!(matches!(cancel, Arrival::Cancel(owner) if owner == target), "{cancel:?}");
        table.respond(now, ids[at], 487, answer(&of("INVITE", call, target), 487).to_bytes());
        came(&mut table, now, &of("ACK", call, target), UDP());
        let told = ids.map(|id| table.is_acknowledged(id));
        assert_eq!(told.iter().filter(|told| **told).count(), at + 1, "{told:?}");
    }
}

#[test]
fn a_full_table_refuses_both_kinds_and_holds_what_it_has() {
    let (mut table, now) = (table(1), Instant::now());
    let message = request("OPTIONS", "SIP/2.0/UDP peer;branch=z9hG4bK1");
    open(&mut table, &message, UDP(), "owner").unwrap();
    assert_eq!(open(&mut table, &request("OPTIONS", "SIP/2.0/UDP peer;branch=z9hG4bK2"), UDP(), "owner"), Err(Full));
    send(&mut table, now, Method::Options, 1, UDP());
    assert_eq!(table.send(now, branch(2), Method::Options, message.to_bytes(), UDP(), "asker"), Err(Full));
    assert_eq!(sent(&mut table), ["OPTIONS"]);
}

#[test]
fn a_flood_of_retransmissions_sets_no_flood_of_timers() {
    let (mut table, now) = (table(9), Instant::now());
    let invite = send(&mut table, now, Method::Invite, 1, TCP);
    for second in 0..1000 {
        respond(&mut table, now + Duration::from_secs(second), &answer(&invite, 180));
    }
    let message = request("OPTIONS", "SIP/2.0/UDP peer;branch=z9hG4bK1");
    let id = open(&mut table, &message, UDP(), "owner").unwrap();
    table.respond(now, id, 200, answer(&message, 200).to_bytes());
    for _ in 0..1000 {
        came(&mut table, now, &message, UDP());
    }
    assert!(table.timers() < 10, "{}", table.timers());
    let mut at = now;
    while let Some(next) = table.next_deadline() {
        at = next;
        if let Some(expired) = table.poll_expired(next) {
            assert!(matches!(expired, Expired::Client(id, "asker") if id == branch(1)));
        }
    }
    assert_eq!(
        at,
        now + Duration::from_secs(999 + 11 * 60 + 32),
        "Timer C from the last 180 on, and the CANCEL's time"
    );
}

#[test]
fn what_is_refused_in_passing_leaves_room_for_what_is_not() {
    let mut table = table(8);
    let mut invite = {
        let mut number = 0;
        move || {
            number += 1;
            request("INVITE", &format!("SIP/2.0/UDP c;branch=z9hG4bK{number}"))
        }
    };
    for _ in 0..2 {
        assert!(open_in_passing(&mut table, &invite()).is_ok());
    }
    assert_eq!(open_in_passing(&mut table, &invite()), Err(Full));
    for _ in 0..6 {
        assert!(open(&mut table, &invite(), UDP(), "call").is_ok());
    }
    assert_eq!(open(&mut table, &invite(), UDP(), "call"), Err(Full));
}

#[test]
fn of_what_is_asked_of_a_wiped_device_the_body_goes() {
    let (mut table, device) = (table(4), InstanceId::new(1 << 64, ShardTag(0)));
    let text = "INFO sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nMax-Forwards: 70\r\nFrom: <sip:c@d>;tag=c\r\n\
                To: <sip:a@b>\r\nCall-ID: i\r\nCSeq: 5 INFO\r\nContent-Length: 6\r\n\r\nsecret";
    let request = parsed(text.into());
    let id = open(&mut table, &request, UDP(), "asked").unwrap();
    table.keep_request(id, &request, device);
    table.forget_requests(InstanceId::new(2 << 64, ShardTag(0)));
    assert_eq!(table.asked_by(id).map(|asked| asked.body().len()), Some(6));
    table.forget_requests(device);
    let asked = table.asked_by(id).expect("it waits for its answer");
    assert_eq!((asked.body().len(), asked.call_id()), (0, Some("i")));
    assert!(parsed(asked.edit().finish()).check().is_ok(), "and may be sent on");
}
