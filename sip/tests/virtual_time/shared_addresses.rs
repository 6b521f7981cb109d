//! Many names that lead to one address: it gets no more than one name would.

use std::time::Duration;

use sip::endpoint::*;
use sip::id::*;

use crate::world::World;

/// Binds so many accounts, each of a SIP server of its own, all of which lead to the address of `flow`.
fn bind_all(world: &mut World, names: u32, flow: impl Fn(u32) -> FlowId) {
    world.dial = false;
    for n in 0..names {
        let upstream = UpstreamId(1000 + n);
        let new = NewBinding {
            binding: BindingId::new(u128::from(n) << 32 | 7, ShardTag(0)),
            instance: InstanceId::new(u128::from(n) << 32 | 9, ShardTag(0)),
            aor: format!("sip:alice@n{n}.test").into(),
            registrar: format!("sip:n{n}.test").into(),
            upstream,
            sip_instance: [n as u8; 16],
            presence: Presence::Background,
            proven: false,
            same_as: None,
            taken_from: Vec::new(),
        };
        world.input(Input::Bind(Box::new(new)));
        let flow = flow(n);
        let transport = if flow.is_reliable() { Transport::Tls } else { Transport::Udp };
        if flow.is_reliable() {
            world.input(Input::LeadsTo { flow, address: "192.0.2.66:5060".parse().unwrap() });
        }
        world.input(Input::Dialled { upstream, flow, transport });
    }
}

/// How many REGISTERs are sent in each of so many seconds.
fn by_second(world: &mut World, seconds: u64) -> Vec<usize> {
    let mut counts = Vec::new();
    for _ in 0..seconds {
        counts.push(world.count("REGISTER"));
        world.sent.clear();
        world.advance(Duration::from_secs(1));
    }
    counts
}

fn paced(per_second: u32) -> World {
    let policy = UpstreamPolicy { registrations_per_second: per_second, ..UpstreamPolicy::default() };
    World::with_policy(FlowId::Stream(1), policy)
}

#[test]
fn four_hundred_names_at_one_silent_address_send_it_ten_datagrams_a_second() {
    let mut world = paced(10);
    // The port does not matter.
    bind_all(&mut world, 400, |n| FlowId::Datagram(format!("192.0.2.66:{}", 5060 + n % 7).parse().unwrap()));
    let counts = by_second(&mut world, 60);
    let (worst, all): (usize, usize) = (*counts.iter().max().unwrap(), counts.iter().sum());
    assert!(worst <= 30, "{worst} in the worst second: {counts:?}");
    assert!(all <= 60 * 12, "{all} in a minute: {counts:?}");
    assert!(all >= 60 * 5, "nor is it starved: {counts:?}");
}

#[test]
fn names_at_one_address_by_streams_begin_as_slowly_as_one_name_would_and_all_get_their_turn() {
    let mut world = paced(10);
    bind_all(&mut world, 100, |n| FlowId::Stream(5000 + u64::from(n)));
    let counts = by_second(&mut world, 12);
    assert!(counts.iter().all(|count| *count <= 11), "{counts:?}");
    assert_eq!(counts.iter().sum::<usize>(), 100, "{counts:?}");
}

#[test]
fn names_at_addresses_of_their_own_do_not_wait_for_each_other() {
    let mut world = paced(10);
    bind_all(&mut world, 100, |n| FlowId::Datagram(format!("198.51.100.{n}:5060").parse().unwrap()));
    assert_eq!(world.count("REGISTER"), 100);
}
