//! From names to addresses, with a name server of the test's own.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use relay::config::Transports;
use relay::net::Transport::{self, Tcp, Tls, Udp};
use relay::net::address_policy::{Reach, Refused};
use relay::net::dns::resolve::{MAX_CANDIDATES, MIN_TTL, RESOLVE_TIMEOUT, Resolution, ResolveError, Resolver, Target};
use relay::push::{Network, System};
use tests::dns::{Dns, Record};
use tokio::task::JoinSet;

const ALL: Transports = Transports { udp: true, tcp: true, tls: true };
const ONLY_TLS: Transports = Transports { udp: false, tcp: false, tls: true };

fn target(host: &str, port: Option<u16>, transport: Option<Transport>) -> Target {
    Target { host: host.into(), port, transport }
}

fn nothing_listed() -> Reach {
    Reach::new(&[])
}

fn loopback() -> Reach {
    Reach::new(&["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()])
}

async fn resolver(records: Vec<Record>, transports: Transports) -> (Dns, Resolver) {
    let dns = Dns::start(records).await.unwrap();
    let resolver = Resolver::with_nameserver(dns.address(), nothing_listed(), transports).unwrap();
    (dns, resolver)
}

/// The candidates as `transport address`.
async fn ask(resolver: &Resolver, target: Target) -> Result<Vec<String>, ResolveError> {
    let resolution = resolver.resolve(&target, 1).await?;
    let texts = resolution.candidates.iter().map(|candidate| format!("{} {}", candidate.transport, candidate.address));
    Ok(texts.collect())
}

#[tokio::test]
async fn srv_records_lead_to_their_hosts_with_tls_first() {
    let (_dns, resolver) = resolver(
        vec![
            Record::srv("_sip._udp.example.com", 1, 0, 5060, "udp.example.com"),
            Record::srv("_sip._tcp.example.com", 1, 0, 5062, "tcp.example.com"),
            Record::srv("_sips._tcp.example.com", 2, 0, 5061, "second.example.com"),
            Record::srv("_sips._tcp.example.com", 1, 0, 7061, "first.example.com"),
            Record::address("first.example.com", "8.8.0.1"),
            Record::address("first.example.com", "2606:4700::1"),
            Record::address("second.example.com", "8.8.0.2"),
            Record::address("tcp.example.com", "8.8.0.3"),
            Record::address("udp.example.com", "8.8.0.4"),
        ],
        ALL,
    )
    .await;
    let found = ask(&resolver, target("example.com", None, None)).await.unwrap();
    let tls = ["tls 8.8.0.1:7061", "tls [2606:4700::1]:7061", "tls 8.8.0.2:5061"];
    assert_eq!(found[..3], tls);
    assert_eq!(found[3..], ["tcp 8.8.0.3:5062", "udp 8.8.0.4:5060"]);
    let found = ask(&resolver, target("example.com", None, Some(Udp))).await.unwrap();
    assert_eq!(found, ["udp 8.8.0.4:5060"]);
}

#[tokio::test]
async fn addresses_that_are_known_wait_for_no_name_server_that_is_silent_about_ipv6() {
    // RFC 8305 §3: 50 ms.
    let servers = (1..=6).flat_map(|number: u8| {
        let host = format!("host{number}.example.com");
        [
            Record::srv("_sips._tcp.example.com", number.into(), 0, 5061, &host),
            Record::address(&host, &format!("8.8.0.{number}")),
            Record::address(&host, &format!("2606:4700::{number}")),
        ]
    });
    let (dns, resolver) = resolver(servers.collect(), ONLY_TLS).await;
    dns.ignore_ipv6();
    let begun = Instant::now();
    let found = resolver.resolve(&target("example.com", None, None), 1).await.unwrap();
    // One question to one name server takes 1.2 s, and each is asked more than once.
    assert!(begun.elapsed() < Duration::from_millis(1_100), "{:?}", begun.elapsed());
    assert_eq!((found.candidates.len(), found.is_whole, found.ttl), (6, false, MIN_TTL));
}

#[tokio::test]
async fn who_judges_a_source_hears_of_addresses_that_are_told_late_unless_its_own_is_known() {
    let records = || vec![Record::address("example.com", "8.8.0.1"), Record::address("example.com", "2606:4700::1")];
    let all = |found: &Resolution| found.candidates.iter().map(|it| it.address.ip().to_string()).collect::<Vec<_>>();
    let whom = target("example.com", Some(5061), None);
    let limit = Duration::from_secs(4);
    let (dns, resolver) = resolver(records(), ONLY_TLS).await;
    dns.delay_ipv6(Duration::from_millis(500));
    assert_eq!(all(&resolver.resolve(&whom, 1).await.unwrap()), ["8.8.0.1"]);
    let found = resolver.resolve_sought(&whom, 1, limit, |ip| ip.to_string() == "2606:4700::1").await.unwrap();
    assert_eq!(all(&found), ["8.8.0.1", "2606:4700::1"]);

    let (dns, resolver) = self::resolver(records(), ONLY_TLS).await;
    dns.ignore_ipv6();
    let begun = Instant::now();
    let found = resolver.resolve_sought(&whom, 1, limit, |ip| ip.to_string() == "8.8.0.1").await.unwrap();
    assert!(!found.is_whole && begun.elapsed() < Duration::from_millis(1_100), "{:?}", begun.elapsed());
    let found = resolver.resolve_sought(&whom, 1, Duration::from_millis(200), |_| false).await.unwrap();
    assert_eq!(all(&found), ["8.8.0.1"], "after the limit, what is known");
}

#[tokio::test]
async fn where_all_that_is_known_is_forbidden_the_rest_is_waited_for() {
    let records = vec![
        Record::address("host.example.com", "10.0.0.1"),
        Record::address("host.example.com", "2606:4700::1"),
        Record::address("inner.example.com", "10.0.0.2"),
    ];
    let (dns, resolver) = resolver(records, ONLY_TLS).await;
    dns.delay_ipv6(Duration::from_millis(300));
    for port in [None, Some(5061)] {
        let found = ask(&resolver, target("host.example.com", port, None)).await;
        assert_eq!(found, Ok(vec!["tls [2606:4700::1]:5061".to_owned()]));
    }
    let refused = ask(&resolver, target("inner.example.com", None, None)).await;
    assert!(matches!(refused, Err(ResolveError::NotAllowed(_))), "{refused:?}");
    // Nor does it become anything else when the rest never comes.
    dns.set(vec![Record::address("mute.example.com", "10.0.0.3")]);
    dns.ignore_ipv6();
    let refused = ask(&resolver, target("mute.example.com", None, None)).await;
    assert!(matches!(refused, Err(ResolveError::NotAllowed(_))), "{refused:?}");
}

fn provider() -> Vec<Record> {
    vec![
        Record::naptr("example.com", 20, 10, "SIP+D2U", "_sip._udp.provider.example"),
        Record::naptr("example.com", 10, 10, "SIPS+D2T", "_sips._tcp.provider.example"),
        Record::naptr("example.com", 10, 20, "SIP+D2T", "_sip._tcp.provider.example"),
        Record::naptr("example.com", 1, 1, "E2U+sip", "_sip._udp.other.example"),
        Record::srv("_sips._tcp.provider.example", 1, 0, 7061, "a.provider.example"),
        Record::srv("_sips._tcp.provider.example", 2, 0, 7061, "b.provider.example"),
        Record::srv("_sip._tcp.provider.example", 1, 0, 7062, "a.provider.example"),
        Record::srv("_sip._udp.provider.example", 1, 0, 7063, "b.provider.example"),
        Record::srv("_sips._tcp.example.com", 1, 0, 9999, "wrong.example"),
        Record::address("wrong.example", "8.8.9.9"),
        Record::address("a.provider.example", "8.8.0.1"),
        Record::address("b.provider.example", "8.8.0.2"),
        Record::address("b.provider.example", "2606:4700::2"),
    ]
}

#[tokio::test]
async fn naptr_records_lead_to_a_providers_servers_in_their_order() {
    // RFC 3263 §4.1.
    let (dns, all) = resolver(provider(), ALL).await;
    let found = ask(&all, target("example.com", None, None)).await.unwrap();
    let tls = ["tls 8.8.0.1:7061", "tls 8.8.0.2:7061", "tls [2606:4700::2]:7061"];
    let clear = ["tcp 8.8.0.1:7062", "udp 8.8.0.2:7063", "udp [2606:4700::2]:7063"];
    assert_eq!(found, [tls, clear].concat());
    let ranks = all.resolve(&target("example.com", None, None), 1).await.unwrap().candidates;
    assert_eq!(ranks.iter().map(|it| it.rank).collect::<Vec<_>>(), [0, 1, 1, 2, 3, 3], "equals are equally good");
    // `sips:` and transport=tls follow SIPS+D2T alone; a transport in the clear is asked for by SRV.
    assert_eq!(ask(&all, target("example.com", None, Some(Tls))).await.unwrap(), tls);
    let asked = dns.asked("_sip._tcp.example.com");
    let tcp = ask(&all, target("example.com", None, Some(Tcp))).await;
    assert!(tcp.is_err() && dns.asked("_sip._tcp.example.com") >= asked, "{tcp:?}");
    // A transport that the operator did not enable is no service.
    let only_tls = Resolver::with_nameserver(dns.address(), nothing_listed(), ONLY_TLS).unwrap();
    assert_eq!(ask(&only_tls, target("example.com", None, None)).await.unwrap(), tls);
    // A port, or a number, leaves nothing to ask.
    let before = dns.asked("a.provider.example");
    let ported = ask(&all, target("a.provider.example", Some(5061), None)).await.unwrap();
    assert_eq!(ported, ["tls 8.8.0.1:5061"]);
    assert!(dns.asked("a.provider.example") <= before + 2);
}

#[tokio::test]
async fn a_domain_whose_naptr_records_name_none_of_ours_is_asked_for_by_srv_and_then_given_up() {
    let udp = Record::naptr("example.com", 10, 10, "SIP+D2U", "_sip._udp.example.com");
    let host = Record::address("example.com", "8.8.0.1");
    let (dns, only_tls) = resolver(vec![udp.clone(), host.clone()], ONLY_TLS).await;
    assert_eq!(ask(&only_tls, target("example.com", None, None)).await, Err(ResolveError::NoUsableTransport));
    let srv = Record::srv("_sips._tcp.example.com", 1, 0, 5061, "example.com");
    dns.set(vec![udp, srv, host]);
    let only_tls = Resolver::with_nameserver(dns.address(), nothing_listed(), ONLY_TLS).unwrap();
    assert_eq!(ask(&only_tls, target("example.com", None, None)).await.unwrap(), ["tls 8.8.0.1:5061"]);
    // Services that are not SIP's (RFC 3263 §4.1), and one that has no servers.
    let radius = Record::naptr("edu.example", 10, 10, "x-eduroam:radius.tls", "_radsec._tcp.edu.example");
    let absent = Record::naptr("some.example", 10, 10, "SIP+D2T", "_sip._tcp.some.example");
    dns.set(vec![
        radius,
        Record::address("edu.example", "8.8.0.4"),
        absent,
        Record::address("some.example", "8.8.0.5"),
    ]);
    let all = Resolver::with_nameserver(dns.address(), nothing_listed(), ALL).unwrap();
    let edu = ask(&all, target("edu.example", None, None)).await.unwrap();
    assert_eq!(edu, ["tls 8.8.0.4:5061", "tcp 8.8.0.4:5060", "udp 8.8.0.4:5060"]);
    assert_eq!(ask(&all, target("some.example", None, None)).await.unwrap(), ["tcp 8.8.0.5:5060"]);
    let only_tls = Resolver::with_nameserver(dns.address(), nothing_listed(), ONLY_TLS).unwrap();
    assert_eq!(ask(&only_tls, target("some.example", None, None)).await, Err(ResolveError::NoUsableTransport));
    // Records that lead nowhere, and inside: as if they were not there, and refused.
    let nowhere = Record::naptr("odd.example", 10, 10, "SIPS+D2T", "_sips._tcp.gone.example");
    let inside = Record::naptr("in.example", 10, 10, "SIPS+D2T", "_sips._tcp.in.example");
    dns.set(vec![
        nowhere,
        Record::srv("_sips._tcp.odd.example", 1, 0, 5061, "odd.example"),
        Record::address("odd.example", "8.8.0.3"),
        inside,
        Record::srv("_sips._tcp.in.example", 1, 0, 5061, "host.in.example"),
        Record::address("host.in.example", "10.0.0.1"),
    ]);
    assert_eq!(ask(&only_tls, target("odd.example", None, None)).await.unwrap(), ["tls 8.8.0.3:5061"]);
    let refused = ask(&only_tls, target("in.example", None, None)).await;
    assert!(matches!(refused, Err(ResolveError::NotAllowed(_))), "{refused:?}");
}

#[tokio::test]
async fn ttls_of_every_record_on_the_way_bound_how_long_an_answer_holds() {
    let mut records = provider();
    for record in &mut records {
        *record = record.clone().with_ttl(1_000);
    }
    records[5] = Record::srv("_sips._tcp.provider.example", 2, 0, 7061, "b.provider.example").with_ttl(40);
    let (_dns, resolver) = resolver(records, ONLY_TLS).await;
    let found = resolver.resolve(&target("example.com", None, None), 1).await.unwrap();
    assert!(found.ttl <= Duration::from_secs(40) && found.ttl > Duration::from_secs(20), "{:?}", found.ttl);
}

#[tokio::test]
async fn a_transport_that_is_not_enabled_is_never_chosen() {
    let records = vec![
        Record::srv("_sip._udp.example.com", 1, 0, 5060, "host.example.com"),
        Record::address("host.example.com", "8.8.0.1"),
    ];
    let (_dns, resolver) = resolver(records, ONLY_TLS).await;
    let udp = ask(&resolver, target("example.com", None, Some(Udp))).await;
    assert_eq!(udp, Err(ResolveError::NoUsableTransport));
    let port = ask(&resolver, target("host.example.com", Some(5060), None)).await.unwrap();
    assert_eq!(port, ["tls 8.8.0.1:5060"]);
}

#[tokio::test]
async fn without_srv_the_name_itself_is_asked_for_and_the_ports_are_the_transports_own() {
    let (_dns, resolver) = resolver(vec![Record::address("example.com", "8.8.0.1")], ALL).await;
    let found = ask(&resolver, target("Example.COM.", None, None)).await.unwrap();
    assert_eq!(found, ["tls 8.8.0.1:5061", "tcp 8.8.0.1:5060", "udp 8.8.0.1:5060"]);
}

#[tokio::test]
async fn a_port_skips_srv_and_the_well_known_ones_say_the_transport() {
    let records = vec![
        Record::srv("_sips._tcp.example.com", 1, 0, 9999, "example.com"),
        Record::address("example.com", "8.8.0.1"),
    ];
    let (dns, resolver) = resolver(records, ALL).await;
    let ported = |port| ask(&resolver, target("example.com", Some(port), None));
    assert_eq!(ported(5061).await.unwrap(), ["tls 8.8.0.1:5061"]);
    assert_eq!(ported(5060).await.unwrap(), ["tcp 8.8.0.1:5060", "udp 8.8.0.1:5060"]);
    assert_eq!(ported(7000).await.unwrap(), ["tls 8.8.0.1:7000", "tcp 8.8.0.1:7000", "udp 8.8.0.1:7000"]);
    assert_eq!(dns.asked("_sips._tcp.example.com"), 0);
}

#[tokio::test]
async fn a_service_that_is_declared_absent_is_not_guessed_at() {
    // RFC 2782; the others are no servers.
    for (port, host) in [(0, "."), (0, "example.com"), (5061, "8.8.0.1")] {
        let service = Record::srv("_sips._tcp.example.com", 0, 0, port, host);
        let (_dns, resolver) = resolver(vec![service, Record::address("example.com", "8.8.0.1")], ONLY_TLS).await;
        let found = ask(&resolver, target("example.com", None, None)).await;
        assert_eq!(found, Err(ResolveError::NoSuchDomain), "it says nothing of what the operator enabled: {host}");
    }
}

#[tokio::test]
async fn a_numeric_host_is_itself_and_an_odd_spelling_is_no_host() {
    let (dns, resolver) = resolver(Vec::new(), ONLY_TLS).await;
    assert_eq!(ask(&resolver, target("8.8.0.1", None, None)).await.unwrap(), ["tls 8.8.0.1:5061"]);
    assert_eq!(
        ask(&resolver, target("[2606:4700::1]", Some(6000), Some(Tls))).await.unwrap(),
        ["tls [2606:4700::1]:6000"]
    );
    for odd in
        ["0177.0.0.1", "0x7f.0.0.1", "2130706433", "127.1", "0x7f000001", "", "a b", "a..b", "[::1", "fe80::1%eth0"]
    {
        assert_eq!(ask(&resolver, target(odd, None, None)).await, Err(ResolveError::NotAHost), "{odd}");
    }
    assert_eq!(dns.asked("127.1"), 0);
}

#[tokio::test]
async fn an_inside_address_is_refused_whatever_path_leads_to_it() {
    let records = vec![
        Record::address("inside.example", "10.0.0.1"),
        Record::address("mapped.example", "::ffff:127.0.0.1"),
        Record::srv("_sips._tcp.srv.example", 1, 0, 5061, "inside.example"),
        Record::srv("_sips._tcp.port.example", 1, 0, 6379, "public.example"),
        Record::address("public.example", "8.8.0.1"),
    ];
    let (_dns, resolver) = resolver(records, ONLY_TLS).await;
    for host in [
        "127.0.0.1",
        "[::1]",
        "169.254.169.254",
        "[::ffff:10.0.0.1]",
        "inside.example",
        "mapped.example",
        "srv.example",
        "localhost",
    ] {
        let refused = ask(&resolver, target(host, None, None)).await;
        assert!(matches!(refused, Err(ResolveError::NotAllowed(Refused::Address(_)))), "{host}: {refused:?}");
    }
    let port = ask(&resolver, target("port.example", None, None)).await;
    assert!(matches!(port, Err(ResolveError::NotAllowed(Refused::Port(_)))), "{port:?}");
}

#[tokio::test]
async fn a_name_that_turns_inside_is_refused_when_it_is_asked_again() {
    let public = Record::address("rebind.example", "8.8.0.1").with_ttl(0);
    let (dns, resolver) = resolver(vec![public], ONLY_TLS).await;
    let request = || target("rebind.example", Some(5061), None);
    let first = resolver.resolve(&request(), 1).await.unwrap();
    let found: Vec<_> = first.candidates.iter().map(|candidate| candidate.address.ip().to_string()).collect();
    assert!(first.ttl <= MIN_TTL && found == ["8.8.0.1"], "{found:?}");
    dns.set(vec![Record::address("rebind.example", "127.0.0.1")]);
    let fresh = Resolver::with_nameserver(dns.address(), nothing_listed(), ONLY_TLS).unwrap();
    assert!(matches!(fresh.resolve(&request(), 1).await, Err(ResolveError::NotAllowed(_))));
    // Of a mixed answer only the public part is left.
    dns.set(vec![Record::address("mixed.example", "127.0.0.1"), Record::address("mixed.example", "8.8.0.2")]);
    assert_eq!(ask(&fresh, target("mixed.example", Some(5061), None)).await.unwrap(), ["tls 8.8.0.2:5061"]);
}

#[tokio::test]
async fn an_answer_is_kept_so_that_a_ttl_of_zero_does_not_hammer_dns() {
    let (dns, resolver) = resolver(vec![Record::address("example.com", "8.8.0.1").with_ttl(0)], ONLY_TLS).await;
    for _ in 0..20 {
        ask(&resolver, target("example.com", Some(5061), Some(Tls))).await.unwrap();
    }
    assert!(dns.asked("example.com") <= 2, "one A and one AAAA");
}

#[tokio::test]
async fn no_such_name_and_no_answer_are_told_apart() {
    let (dns, resolver) = resolver(vec![Record::srv("_sip._tcp.empty.example", 1, 0, 5060, "gone.example")], ALL).await;
    assert_eq!(ask(&resolver, target("missing.example", None, None)).await, Err(ResolveError::NoSuchDomain));
    assert_eq!(ask(&resolver, target("empty.example", None, Some(Tcp))).await, Err(ResolveError::NoSuchDomain));
    dns.silence(true);
    let begin = Instant::now();
    assert_eq!(ask(&resolver, target("silent.example", None, None)).await, Err(ResolveError::Timeout));
    assert!(begin.elapsed() <= RESOLVE_TIMEOUT + Duration::from_secs(3));
}

#[tokio::test]
async fn localhost_and_the_hosts_file_need_no_name_server() {
    let resolver = Resolver::new(loopback(), ONLY_TLS).unwrap();
    let begin = Instant::now();
    let found = ask(&resolver, target("localhost", None, None)).await.unwrap();
    assert!(found.contains(&"tls 127.0.0.1:5061".to_owned()), "{found:?}");
    let found = ask(&resolver, target("LOCALHOST", Some(5070), Some(Tls))).await.unwrap();
    assert!(found.contains(&"tls 127.0.0.1:5070".to_owned()), "{found:?}");
    assert!(begin.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_flood_of_records_is_cut_off() {
    let mut records = Vec::new();
    for number in 0..12 {
        records.push(Record::srv("_sips._tcp.many.example", number, 0, 5061, "host.example"));
    }
    for number in 0..20 {
        records.push(Record::address("host.example", &format!("8.8.1.{number}")));
    }
    let (_dns, resolver) = resolver(records, ONLY_TLS).await;
    let found = ask(&resolver, target("many.example", None, None)).await.unwrap();
    assert_eq!(found.len(), MAX_CANDIDATES);
}

#[tokio::test]
async fn of_an_answer_as_large_as_dns_has_them_the_best_servers_are_found_and_no_more_is_kept() {
    let flood =
        (0..1_000).map(|number| Record::srv("_sips._tcp.flood.example", 2_000 - number, 0, 5061, "late.example"));
    let first = Record::srv("_sips._tcp.flood.example", 1, 0, 7061, "first.example");
    let records = flood.chain([first, Record::address("first.example", "8.8.0.1")]).collect();
    let (_dns, resolver) = resolver(records, ONLY_TLS).await;
    let target = target("flood.example", None, Some(Tls));
    for _ in 0..2 {
        assert_eq!(ask(&resolver, target.clone()).await.unwrap(), ["tls 8.8.0.1:7061"]);
    }
    let asked = resolver.trail(&target).await;
    assert_eq!(
        asked.iter().find(|it| it.name == "_sips._tcp.flood.example").unwrap().answer.as_ref().unwrap().len(),
        64
    );
}

#[tokio::test]
async fn services_behind_an_alias_are_found_whether_it_is_told_alone_or_with_them() {
    // RFC 1034 §3.6.2; RFC 2782 forbids an alias as the target alone.
    let records = vec![
        Record::alias("_sips._tcp.customer.example", "_sips._tcp.middle.example"),
        Record::alias("_sips._tcp.middle.example", "_sips._tcp.provider.example"),
        Record::srv("_sips._tcp.provider.example", 1, 0, 7061, "host.provider.example"),
        Record::alias("named.example", "naptr.provider.example"),
        Record::naptr("naptr.provider.example", 1, 1, "SIPS+D2T", "_sips._tcp.customer.example"),
        Record::address("host.provider.example", "8.8.0.1"),
        Record::address("customer.example", "8.8.9.9"),
        // A wildcard in the zone: an alias, and no service behind it.
        Record::alias("_sips._tcp.plain.example", "plain.example"),
        Record::address("plain.example", "8.8.0.2"),
    ];
    for tells_alone in [false, true] {
        let (dns, resolver) = resolver(records.clone(), ONLY_TLS).await;
        if tells_alone {
            dns.tell_aliases_alone();
        }
        for domain in ["customer.example", "named.example"] {
            let found = ask(&resolver, target(domain, None, None)).await;
            assert_eq!(found, Ok(vec!["tls 8.8.0.1:7061".to_owned()]), "{domain}, alone: {tells_alone}");
        }
        let found = ask(&resolver, target("plain.example", None, None)).await;
        assert_eq!(found, Ok(vec!["tls 8.8.0.2:5061".to_owned()]), "alone: {tells_alone}");
    }
}

#[tokio::test]
async fn an_alias_without_an_end_is_no_domain_without_services() {
    let aliases = (0..40).map(|number| {
        Record::alias(&format!("_sips._tcp.a{number}.example"), &format!("_sips._tcp.a{}.example", number + 1))
    });
    let records = aliases.chain([Record::address("a0.example", "8.8.9.9")]).collect();
    let (dns, resolver) = resolver(records, ONLY_TLS).await;
    dns.tell_aliases_alone();
    let asked = ask(&resolver, target("a0.example", None, None)).await;
    assert_eq!(asked, Err(ResolveError::Unavailable), "no address of the domain in place of its service");
    assert!(dns.questions() <= 32, "{}", dns.questions());
}

#[tokio::test]
async fn a_name_server_that_cannot_answer_takes_nothing_from_the_next() {
    const FORMERR: u8 = 1;
    const SERVFAIL: u8 = 2;
    const NOTIMP: u8 = 4;
    const REFUSED: u8 = 5;
    let records: Vec<_> = (0..40).map(|number| Record::address(&format!("host{number}.example"), "8.8.0.1")).collect();
    for code in [FORMERR, SERVFAIL, NOTIMP, REFUSED] {
        let (sick, well) = (Dns::start(Vec::new()).await.unwrap(), Dns::start(records.clone()).await.unwrap());
        sick.fail_with(code);
        // However many are sick, and in whatever order they are named.
        for servers in [vec![&sick, &well], vec![&well, &sick], vec![&sick, &sick, &sick, &well]] {
            let servers: Vec<_> = servers.into_iter().map(Dns::address).collect();
            let resolver = Resolver::with_nameservers(&servers, nothing_listed(), ONLY_TLS).unwrap();
            for number in 0..40 {
                let found = ask(&resolver, target(&format!("host{number}.example"), Some(5061), None)).await;
                assert_eq!(found, Ok(vec!["tls 8.8.0.1:5061".to_owned()]), "RCODE {code}, {servers:?}");
            }
        }
        let resolver = Resolver::with_nameserver(sick.address(), nothing_listed(), ONLY_TLS).unwrap();
        let asked = ask(&resolver, target("host0.example", Some(5061), None)).await;
        assert_eq!(asked, Err(ResolveError::Unavailable), "none is well");
    }
}

#[tokio::test]
async fn what_the_first_name_server_knows_is_there_however_fast_another_one_says_that_it_is_not() {
    let host = |number: usize| format!("host{number}.corp.example");
    let records = |ip| (0..20).map(|number| Record::address(&host(number), ip)).collect::<Vec<_>>();
    let (inner, public) = (Dns::start(records("8.8.0.1")).await.unwrap(), Dns::start(Vec::new()).await.unwrap());
    inner.delay(Duration::from_millis(100));
    let servers = [inner.address(), public.address()];
    let resolver = Resolver::with_nameservers(&servers, nothing_listed(), ONLY_TLS).unwrap();
    for number in 0..10 {
        let found = ask(&resolver, target(&host(number), Some(5061), None)).await;
        assert_eq!(found, Ok(vec!["tls 8.8.0.1:5061".to_owned()]));
    }
    assert_eq!(public.questions(), 0, "names of the inner one are told to nobody else");
    // Slower than the next one is waited for, and the next one says that there is nothing.
    inner.delay(Duration::from_millis(600));
    let found = ask(&resolver, target(&host(10), Some(5061), None)).await;
    assert_eq!(found, Ok(vec!["tls 8.8.0.1:5061".to_owned()]));
    assert!(public.questions() > 0);
}

#[tokio::test]
async fn a_name_server_that_is_silent_delays_what_the_next_one_knows_for_moments() {
    let host = |number: usize| format!("host{number}.example");
    let records = (0..20).map(|number| Record::address(&host(number), "8.8.0.1")).collect();
    let (gone, well) = (Dns::start(Vec::new()).await.unwrap(), Dns::start(records).await.unwrap());
    gone.silence(true);
    let servers = [gone.address(), well.address()];
    let resolver = Resolver::with_nameservers(&servers, nothing_listed(), ONLY_TLS).unwrap();
    let timed = async |name: &str| {
        let begun = Instant::now();
        let found = ask(&resolver, target(name, Some(5061), None)).await;
        (found.is_ok(), begun.elapsed().as_millis())
    };
    let (is_found, took) = timed(&host(0)).await;
    assert!(is_found && (300..900).contains(&took), "{took} ms");
    for number in 1..10 {
        let (is_found, took) = timed(&host(number)).await;
        assert!(is_found && took < 250, "it is not waited for again: {took} ms");
    }
    let begun = Instant::now();
    let found = ask(&resolver, target("nobody.example", Some(5061), None)).await;
    assert_eq!(found, Err(ResolveError::NoSuchDomain));
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    // It is asked first when it is back.
    gone.set((10..20).map(|number| Record::address(&host(number), "8.8.0.2")).collect());
    gone.silence(false);
    assert_eq!(ask(&resolver, target("nobody2.example", Some(5061), None)).await, Err(ResolveError::NoSuchDomain));
    let asked = well.questions();
    assert_eq!(ask(&resolver, target(&host(10), Some(5061), None)).await, Ok(vec!["tls 8.8.0.2:5061".to_owned()]));
    assert_eq!(well.questions(), asked);
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_not_taken_for_what_is_not_there() {
    let records = vec![
        Record::srv("_sips._tcp.example.com", 1, 0, 5061, "a.example.com"),
        Record::srv("_sips._tcp.example.com", 1, 0, 5061, "b.example.com"),
        Record::srv("_sips._tcp.example.com", 1, 0, 5061, "gone.example.com"),
        Record::address("a.example.com", "8.8.0.1"),
        Record::address("a.example.com", "2606:4700::1"),
        Record::address("b.example.com", "8.8.0.2"),
    ];
    let (dns, _) = resolver(records, ONLY_TLS).await;
    let whom = target("example.com", None, None);
    // Each time as one that remembers nothing.
    let ask = async |owner: &str, kind: &str| {
        let resolver = Resolver::with_nameserver(dns.address(), nothing_listed(), ONLY_TLS).unwrap();
        dns.answer_all();
        dns.fail_about(owner, kind);
        let found = resolver.resolve_whole(&whom, 1).await.unwrap();
        (found.candidates.len(), found.is_whole, found.ttl == MIN_TTL)
    };
    assert_eq!(ask("other.example.com", "A").await, (3, true, false));
    assert_eq!(ask("a.example.com", "AAAA").await, (2, false, true));
    assert_eq!(ask("a.example.com", "A").await, (2, false, true));
    dns.set(vec![
        Record::srv("_sips._tcp.example.com", 1, 0, 5061, "a.example.com"),
        Record::srv("_sips._tcp.example.com", 1, 0, 5061, "b.example.com"),
        Record::address("a.example.com", "8.8.0.1"),
        Record::address("b.example.com", "8.8.0.2"),
    ]);
    assert_eq!(ask("b.example.com", "A").await, (1, false, true), "of b nothing is known");
    assert_eq!(ask("example.com", "NAPTR").await, (2, false, true), "it may serve by other names");
}

#[tokio::test]
async fn while_it_is_not_known_by_which_names_a_domain_serves_its_own_address_is_no_sip_server() {
    let mut records = provider();
    records.retain(|record| *record != Record::srv("_sips._tcp.example.com", 1, 0, 9999, "wrong.example"));
    records.push(Record::address("example.com", "8.8.9.9"));
    let (dns, resolver) = resolver(records, ONLY_TLS).await;
    dns.fail_about("example.com", "NAPTR");
    for transport in [None, Some(Tls)] {
        assert_eq!(ask(&resolver, target("example.com", None, transport)).await, Err(ResolveError::Unavailable));
    }
    dns.answer_all();
    let found = ask(&resolver, target("example.com", None, None)).await.unwrap();
    assert_eq!(found, ["tls 8.8.0.1:7061", "tls 8.8.0.2:7061", "tls [2606:4700::2]:7061"]);
}

#[tokio::test]
async fn a_name_server_that_knows_no_edns_is_as_good_as_another() {
    for refusal in [Some(1), Some(4), None] {
        let (dns, resolver) = resolver(vec![Record::address("host.example", "8.8.0.1")], ONLY_TLS).await;
        dns.refuse_edns(refusal);
        let found = ask(&resolver, target("host.example", Some(5061), None)).await;
        assert_eq!(found, Ok(vec!["tls 8.8.0.1:5061".to_owned()]), "{refusal:?}");
    }
}

#[tokio::test]
async fn names_that_nobody_answers_delay_no_other_source_and_no_other_app() {
    let (dns, resolver) = resolver(vec![Record::address("host.example", "8.8.0.1")], ONLY_TLS).await;
    dns.ignore_domain("silent.example");
    let source = |number| IpAddr::from([192, 0, 2, number]);
    let (busy, other) = (resolver.asked_by_source(source(1)), resolver.asked_by_source(source(2)));
    let network = System::new(resolver.clone());
    let (app, other_app) = (Arc::from("com.example.one"), Arc::from("com.example.other"));
    let mut asked = JoinSet::new();
    for number in 0..1_000 {
        let (busy, host) = (busy.clone(), format!("host{number}.silent.example"));
        let pushed = network.resolve(&host, 443, Some(&app));
        asked.spawn(async move { ask(&busy, target(&host, Some(5061), None)).await.is_ok() });
        asked.spawn(async move { pushed.await.is_ok() });
    }
    while dns.questions() < 100 {
        tokio::task::yield_now().await;
    }
    let sockets = std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(sockets < 1_000, "{sockets} descriptors");
    // Well below the time in which one silent name is given up.
    let begun = Instant::now();
    assert!(ask(&other, target("host.example", Some(5061), None)).await.is_ok());
    assert_eq!(network.resolve("host.example", 443, Some(&other_app)).await.unwrap(), ["8.8.0.1:443".parse().unwrap()]);
    assert!(begun.elapsed() < RESOLVE_TIMEOUT, "{:?}", begun.elapsed());
    // What is remembered takes no place at all.
    assert!(ask(&busy, target("host.example", Some(5061), None)).await.is_ok());
    asked.abort_all();
}
