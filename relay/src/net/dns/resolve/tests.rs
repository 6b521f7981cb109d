//! Tests of the way from a name to addresses.

use std::time::Instant;

use hickory_resolver::proto::op::{Message, MessageType, OpCode};
use hickory_resolver::proto::rr::Record;
use hickory_resolver::proto::rr::rdata::{A, SRV};

use tokio::net::UdpSocket;

use super::*;

#[tokio::test]
async fn a_system_without_name_servers_still_resolves_numeric_hosts() {
    let transports = Transports { udp: false, tcp: false, tls: true };
    let config = ResolverConfig::from_name_servers(Vec::new());
    let resolver = Resolver::with_config(config, Reach::new(&[]), transports).unwrap();
    let ask = async |host: &str| resolver.resolve(&Target { host: host.into(), port: None, transport: None }, 0).await;
    assert!(ask("8.8.8.8").await.is_ok());
    assert_eq!(ask("example.com").await, Err(ResolveError::Unavailable));
}

#[tokio::test]
async fn a_question_about_services_that_has_had_errors_for_answers_alone_keeps_nobody_from_the_usual_ones() {
    let transports = Transports { udp: true, tcp: true, tls: true };
    let config = ResolverConfig::from_name_servers(Vec::new());
    let resolver = Resolver::with_config(config, Reach::new(&[]), transports).unwrap();
    let name = |text: &str| Name::from_ascii(text).unwrap();
    let host = RData::SRV(SRV::new(1, 0, 5060, name("sip.example.net.")));
    let address = RData::A(A::from(Ipv4Addr::new(8, 8, 0, 1)));
    let learn = |owner: &str, kind, records: &[RData]| {
        let mut message = Message::new(7, MessageType::Response, OpCode::Query);
        message.answers = records.iter().map(|data| Record::from_rdata(name(owner), 600, data.clone())).collect();
        resolver.names.known().learn(&Query::query(name(owner), kind), Ok(message), Instant::now());
    };
    learn("sip.example.net.", RecordType::A, std::slice::from_ref(&address));
    learn("sip.example.net.", RecordType::AAAA, &[]);
    let unavailable = Err(ResolveError::Unavailable);
    let found = Ok(vec!["udp 8.8.0.1:5060".to_owned()]);
    for (domain, failing_for, has_servers, expected) in [
        ("new.example", 10, true, &unavailable),
        ("old.example", 61, true, &found),
        // Its own address may be anybody's.
        ("web.example", 61, false, &unavailable),
    ] {
        learn(&format!("_sips._tcp.{domain}."), RecordType::SRV, &[]);
        learn(&format!("_sip._tcp.{domain}."), RecordType::SRV, &[]);
        let servers = if has_servers { std::slice::from_ref(&host) } else { &[] };
        learn(&format!("_sip._udp.{domain}."), RecordType::SRV, servers);
        learn(&format!("{domain}."), RecordType::A, std::slice::from_ref(&address));
        let since = Instant::now() - Duration::from_secs(failing_for);
        let services = Query::query(name(&format!("{domain}.")), RecordType::NAPTR);
        resolver.names.known().learn(&services, Err(NetError::NoConnections), since);
        let target = Target { host: domain.into(), port: None, transport: None };
        let found = resolver.resolve(&target, 0).await;
        let texts = found.map(|found| {
            assert!(!found.is_whole && found.ttl == MIN_TTL, "it is asked again");
            found.candidates.iter().map(|it| format!("{} {}", it.transport, it.address)).collect::<Vec<_>>()
        });
        assert_eq!(&texts, expected, "{domain}");
    }
}

#[tokio::test]
async fn a_server_that_is_gone_does_not_speak_for_one_that_cannot_be_asked_for() {
    let transports = Transports { udp: false, tcp: false, tls: true };
    // Nobody can be asked for what was not learned.
    let config = ResolverConfig::from_name_servers(Vec::new());
    let resolver = Resolver::with_config(config, Reach::new(&[]), transports).unwrap();
    let name = |text: &str| Name::from_ascii(text).unwrap();
    let learn = |owner: &str, kind, records: &[RData]| {
        let mut message = Message::new(7, MessageType::Response, OpCode::Query);
        message.answers = records.iter().map(|data| Record::from_rdata(name(owner), 600, data.clone())).collect();
        resolver.names.known().learn(&Query::query(name(owner), kind), Ok(message), Instant::now());
    };
    for host in ["gone.example.", "old.example."] {
        learn(host, RecordType::A, &[]);
        learn(host, RecordType::AAAA, &[]);
    }
    let asked = async |domain: &str, hosts: &[&str]| {
        let servers = (1..).zip(hosts).map(|(at, host)| RData::SRV(SRV::new(at, 0, 5061, name(host))));
        learn(&format!("_sips._tcp.{domain}."), RecordType::SRV, &servers.collect::<Vec<_>>());
        learn(&format!("{domain}."), RecordType::NAPTR, &[]);
        resolver.resolve(&Target { host: domain.into(), port: None, transport: None }, 0).await
    };
    assert_eq!(asked("one.example", &["main.example.", "gone.example."]).await, Err(ResolveError::Unavailable));
    assert_eq!(asked("two.example", &["gone.example.", "main.example."]).await, Err(ResolveError::Unavailable));
    assert_eq!(asked("three.example", &["gone.example.", "old.example."]).await, Err(ResolveError::NoSuchDomain));
}

#[tokio::test]
async fn datagrams_are_sent_where_the_socket_has_the_family_for_it() {
    let transports = Transports { udp: true, tcp: true, tls: true };
    let config = ResolverConfig::from_name_servers(Vec::new());
    let resolver = Resolver::with_config(config, Reach::new(&[]), transports).unwrap();
    let cases = [
        ("0.0.0.0", "[2606:4700::1]", vec![Transport::Tls, Transport::Tcp]),
        ("203.0.113.1", "8.8.8.8", vec![Transport::Tls, Transport::Tcp, Transport::Udp]),
        ("::", "8.8.8.8", vec![Transport::Tls, Transport::Tcp, Transport::Udp]),
        ("2606:4700::2", "8.8.8.8", vec![Transport::Tls, Transport::Tcp]),
        ("127.0.0.1", "8.8.8.8", vec![Transport::Tls, Transport::Tcp]),
    ];
    for (from, host, expected) in cases {
        let resolver = resolver.clone().sending_from(from.parse().unwrap());
        let ask = async |transport| {
            let found = resolver.resolve(&Target { host: host.into(), port: Some(5080), transport }, 0).await;
            resolver.sendable(found.unwrap())
        };
        let spoken = ask(None).await.unwrap().candidates.iter().map(|it| it.transport).collect::<Vec<_>>();
        assert_eq!(spoken, expected, "{from} to {host}");
        let by_datagrams = ask(Some(Transport::Udp)).await.err();
        let none = (!expected.contains(&Transport::Udp)).then_some(ResolveError::NoUsableTransport);
        assert_eq!(by_datagrams, none, "{from} to {host}");
    }
}

#[test]
fn of_addresses_for_datagrams_those_are_left_to_which_this_machine_has_a_way_where_there_are_any() {
    let transports = Transports { udp: true, tcp: true, tls: true };
    let config = ResolverConfig::from_name_servers(Vec::new());
    let resolver = Resolver::with_config(config, Reach::new(&[]), transports).unwrap();
    let resolver = resolver.sending_from(Ipv6Addr::UNSPECIFIED.into());
    // No route leads to a link-local address without a zone.
    let (nowhere, here) = ("[fe80::1]:5060", "127.0.0.1:5060");
    let sendable = |listed: &[(Transport, &str)]| {
        let candidate = |(transport, address): &(Transport, &str)| Candidate {
            address: address.parse().unwrap(),
            transport: *transport,
            rank: 0,
        };
        let found = Resolution { candidates: listed.iter().map(candidate).collect(), ttl: MIN_TTL, is_whole: true };
        let left = resolver.sendable(found).unwrap();
        left.candidates.iter().map(|it| (it.transport, it.address.to_string())).collect::<Vec<_>>()
    };
    let (tcp, udp) = (Transport::Tcp, Transport::Udp);
    let owned = |all: &[(Transport, &str)]| all.iter().map(|(it, at)| (*it, (*at).to_owned())).collect::<Vec<_>>();
    assert_eq!(sendable(&[(udp, nowhere), (udp, here)]), owned(&[(udp, here)]));
    for kept in [&[(udp, nowhere)][..], &[(tcp, nowhere), (udp, nowhere), (tcp, here)], &[(tcp, nowhere), (udp, here)]]
    {
        assert_eq!(sendable(kept), owned(kept), "there may be a way soon, and by TCP that is found out at once");
    }
}

#[tokio::test]
async fn each_server_of_a_large_service_is_known_and_where_there_are_more_than_are_followed_that_is_told() {
    let transports = Transports { udp: true, tcp: true, tls: true };
    let resolver = Resolver::with_config(ResolverConfig::default(), Reach::new(&[]), transports).unwrap();
    let name = |text: &str| Name::from_ascii(text).unwrap();
    let learn = |owner: &str, kind, records: Vec<RData>| {
        let mut message = Message::new(7, MessageType::Response, OpCode::Query);
        message.answers = records.into_iter().map(|data| Record::from_rdata(name(owner), 600, data)).collect();
        resolver.names.known().learn(&Query::query(name(owner), kind), Ok(message), Instant::now());
    };
    let addresses = |third: u8, count: u8| (0..count).map(|last| RData::A(A::new(8, 8, third, last))).collect();
    let has = |host: &str, third: u8, count: u8| {
        learn(host, RecordType::A, addresses(third, count));
        learn(host, RecordType::AAAA, Vec::new());
    };
    let serves = |domain: &str, hosts: &[String]| {
        let servers = (0..).zip(hosts).map(|(at, host)| RData::SRV(SRV::new(10 + at % 2, 5, 5061, name(host))));
        learn(&format!("_sips._tcp.{domain}"), RecordType::SRV, servers.collect());
    };
    let ask = async |host: &str, port| {
        let target = Target { host: host.into(), port, transport: Some(Transport::Tls) };
        let found = resolver.resolve(&target, 1).await.unwrap();
        (found.candidates.len(), found.is_whole)
    };
    for (count, is_whole) in [(9, true), (40, true), (63, true), (70, false)] {
        let (domain, one) = (format!("large{count}.example."), format!("one{count}.example."));
        learn(&domain, RecordType::NAPTR, Vec::new());
        let hosts: Vec<_> = (0..count).map(|number| format!("host{number}.{domain}")).collect();
        for (number, host) in (0..).zip(&hosts) {
            has(host, number, 1);
        }
        serves(&domain, &hosts);
        assert_eq!(ask(&domain, None).await, (usize::from(count.min(64)), is_whole), "{count} servers");
        has(&one, 1, count);
        assert_eq!(ask(&one, Some(5070)).await, (usize::from(count.min(64)), is_whole), "{count} addresses");
    }
    // Of 180 addresses some are left out; of one host that has many services none.
    let wide: Vec<_> = (1..=3).map(|number| format!("wide{number}.example.")).collect();
    for (number, host) in (1..).zip(&wide) {
        has(host, number, 60);
    }
    for (domain, hosts, is_whole) in
        [("wide.example.", wide.clone(), false), ("same.example.", vec![wide[0].clone(); 3], true)]
    {
        learn(domain, RecordType::NAPTR, Vec::new());
        serves(domain, &hosts);
        assert_eq!(ask(domain, None).await, (MAX_CANDIDATES, is_whole), "{domain}");
    }
}

#[tokio::test]
async fn a_name_that_leads_to_many_hosts_has_16_questions_at_once_and_the_others_after_them() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let transports = Transports { udp: false, tcp: false, tls: true };
    let address = server.local_addr().unwrap();
    let resolver = Resolver::with_nameserver(address, Reach::new(&[]), transports).unwrap();
    let name = |text: &str| Name::from_ascii(text).unwrap();
    let hosts = (0..64).map(|number| RData::SRV(SRV::new(number, 0, 5061, name(&format!("host{number}.example.")))));
    let service = name("_sips._tcp.example.");
    let mut message = Message::new(7, MessageType::Response, OpCode::Query);
    message.answers = hosts.map(|host| Record::from_rdata(service.clone(), 600, host)).collect();
    resolver.names.known().learn(&Query::query(service, RecordType::SRV), Ok(message), Instant::now());
    let none = Message::new(7, MessageType::Response, OpCode::Query);
    resolver.names.known().learn(&Query::query(name("example."), RecordType::NAPTR), Ok(none), Instant::now());
    let asking = resolver.clone();
    let resolution = tokio::spawn(async move {
        let target = Target { host: "example".into(), port: None, transport: Some(Transport::Tls) };
        asking.resolve_whole(&target, 1).await
    });
    let (mut asked, mut waiting) = (BTreeSet::new(), Vec::new());
    while asked.len() < 128 {
        let mut datagram = [0; 512];
        let (length, from) = server.recv_from(&mut datagram).await.unwrap();
        assert!(resolver.questions.under_way() <= 16);
        let question = Message::from_vec(&datagram[..length]).unwrap();
        let of = question.queries[0].clone();
        // A question may be asked once more.
        asked.insert((of.name().clone(), of.query_type()));
        waiting.push((question, from));
        if asked.len() % 16 == 0 {
            assert_eq!(resolver.questions.under_way(), 16);
            let best: BTreeSet<_> =
                (0..asked.len() / 2).map(|number| name(&format!("host{number}.example."))).collect();
            assert!(asked.iter().all(|(name, _)| best.contains(name)), "the best first");
            for (question, from) in waiting.drain(..) {
                let of = question.queries[0].clone();
                let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
                if of.query_type() == RecordType::A {
                    let record = RData::A(A::from(Ipv4Addr::new(8, 8, 0, 1)));
                    answer.answers = vec![Record::from_rdata(of.name().clone(), 600, record)];
                }
                answer.queries = vec![of];
                server.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        }
    }
    let found = resolution.await.unwrap().unwrap();
    assert_eq!(found.candidates.len(), 64);
}
