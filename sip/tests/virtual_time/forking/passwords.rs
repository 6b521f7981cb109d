//! Devices of one account whose passwords differ: one of them is outdated, or the SIP server takes both.

use sip::endpoint::*;
use sip::message::Name;

use super::*;
use crate::world::World;

/// The answer of a SIP server to a REGISTER with the credentials of this device.
type Server = fn(u64) -> u16;

/// The SIP server answers all REGISTERs that are under way, by who answers its challenge. Gives whose credentials it was shown.
fn serve(world: &mut World, server: Server) -> Vec<u64> {
    let mut shown = Vec::new();
    while let Some(register) = world.sent.iter().find(|sent| sent.message.method_text() == Some("REGISTER")) {
        let (source, register) = (world.upstream, register.message.clone());
        world.sent.clear();
        if !register.has(Name::Authorization) {
            world.reply(source, &register, 401, &[("WWW-Authenticate", CHALLENGE)], "");
            continue;
        }
        let by = asked(world).last().copied();
        let by = (1..9).find(|number| by == Some(device(*number))).expect("a device was asked");
        shown.push(by);
        match server(by) {
            200 => {
                let contact = register.text(Name::Contact).unwrap_or_default().to_owned();
                let is_gone = register.number(Name::Expires) == Some(0);
                let listed: &[(&str, &str)] = if is_gone { &[] } else { &[("Contact", &contact), ("Expires", "600")] };
                world.reply(source, &register, 200, listed, "");
            }
            401 => world.reply(source, &register, 401, &[("WWW-Authenticate", CHALLENGE)], ""),
            status => world.reply(source, &register, status, &[], ""),
        }
    }
    shown
}

/// Time passes, and the SIP server answers; gives whose credentials it was shown, and after how many seconds.
fn pass(world: &mut World, span: u64, server: Server) -> Vec<(u64, u64)> {
    let mut shown = Vec::new();
    for second in 1..=span {
        world.advance(seconds(1));
        shown.extend(serve(world, server).into_iter().map(|by| (by, second)));
    }
    shown
}

/// How often the credentials of a device were shown.
fn times(shown: &[(u64, u64)], number: u64) -> usize {
    shown.iter().filter(|(by, _)| *by == number).count()
}

/// The first device has been accepted with its password; then the second one joins with another.
fn changed(server: Server) -> World {
    let mut world = World::new(sip::id::FlowId::Datagram(world::server_address()));
    world.bind();
    serve(&mut world, |_| 200);
    join_as(&mut world, 2, false, None);
    assert_eq!(serve(&mut world, server), [2]);
    world
}

fn only_second(number: u64) -> u16 {
    if number == 2 { 200 } else { 403 }
}

/// The devices whose credentials were refused for good: the shell unbinds them.
fn ended(world: &mut World) -> Vec<u64> {
    let events = std::mem::take(&mut world.events);
    let over: Vec<u64> = (1..9).filter(|number| events.iter().any(|event| refused(event, *number))).collect();
    for number in &over {
        world.input(Input::Unbind { instance: device(*number), deadline: seconds(3) });
    }
    over
}

/// The account's password was changed at its SIP server, and its user goes from one device to the other.
#[test]
fn refused_credentials_are_not_shown_oftener_because_the_devices_of_an_account_take_turns() {
    let mut world = devices(1);
    join_as(&mut world, 2, true, None);
    let (mut shown, mut over) = (0, Vec::new());
    for second in 0..30_000 {
        let (turn, moment) = (second / 100, second % 100);
        if moment == 0 {
            let (fore, back) = if turn % 2 == 0 { (1, 2) } else { (2, 1) };
            world.input(Input::Resume(device(back)));
            world.input(Input::Suspend(device(fore)));
            if turn % 10 == 9 {
                world.input(Input::Suspend(device(back)));
            }
        }
        let events = std::mem::take(&mut world.events);
        for number in (1..=2).filter(|number| events.iter().any(|event| refused(event, *number))) {
            over.push(number);
            world.input(Input::Unbind { instance: device(number), deadline: seconds(3) });
        }
        world.advance(seconds(1));
        while world.count("REGISTER") > 0 {
            let (source, register) = (world.upstream, world.last("REGISTER"));
            let shows = register.number(Name::Expires) != Some(0);
            shown += u32::from(shows);
            world.sent.clear();
            world.reply(source, &register, if shows { 403 } else { 200 }, &[], "");
        }
    }
    over.sort_unstable();
    assert_eq!((shown, over), (6, vec![1, 2]), "three times for each device, and then its user is told");
}

#[test]
fn a_changed_password_locks_out_the_device_that_knows_the_old_one_and_ends_it() {
    for refusal in [|number| if number == 2 { 200 } else { 401 }, only_second] {
        let mut world = changed(refusal);
        let shown = pass(&mut world, 10, refusal);
        assert_eq!(shown, [(1, 2)], "once, two seconds after the new one was accepted");
        assert_eq!(members(&world), [device(2)]);
        assert!(world.endpoint.is_registered(world.binding));
        world.invite("call-1");
        assert_eq!(world.wakes().iter().map(|wake| wake.instance).collect::<Vec<_>>(), [device(2)]);
        let shown = pass(&mut world, 9 * 60, refusal);
        assert_eq!((times(&shown, 1), ended(&mut world)), (0, vec![]));
        let shown = pass(&mut world, 75 * 60, refusal);
        assert_eq!(times(&shown, 1), 2, "after ten minutes, and after an hour more");
        assert_eq!(ended(&mut world), [1]);
        assert!(world.endpoint.is_registered(world.binding));
        let shown = pass(&mut world, 3600, refusal);
        assert_eq!((times(&shown, 1), members(&world)), (0, vec![device(2)]));
    }
}

/// The one with the right password is disabled while that of the other one is checked once more.
#[test]
fn the_refusals_of_a_password_count_on_when_the_owner_leaves_during_its_check() {
    let mut world = changed(only_second);
    assert_eq!(pass(&mut world, 10, only_second), [(1, 2)]);
    let mut is_checked = false;
    for _ in 0..11 * 60 {
        world.advance(seconds(1));
        while !is_checked && world.count("REGISTER") > 0 {
            let (source, register) = (world.upstream, world.last("REGISTER"));
            world.sent.clear();
            is_checked = register.has(Name::Authorization) && asked(&world).last() == Some(&device(1));
            if !register.has(Name::Authorization) {
                world.reply(source, &register, 401, &[("WWW-Authenticate", CHALLENGE)], "");
            } else if !is_checked {
                let contact = register.text(Name::Contact).unwrap_or_default().to_owned();
                world.reply(source, &register, 200, &[("Contact", &contact), ("Expires", "600")], "");
            }
        }
        if is_checked {
            break;
        }
    }
    assert!(is_checked);
    world.input(Input::Unbind { instance: device(2), deadline: seconds(3) });
    assert_eq!(members(&world), [], "it is no good before it is accepted");
    let shown = pass(&mut world, 2 * 3600, |_| 403);
    assert_eq!((times(&shown, 1), ended(&mut world)), (2, vec![1]), "three times in all");
}

#[test]
fn a_server_that_takes_both_passwords_keeps_both_devices_and_is_asked_once() {
    let mut world = changed(|_| 200);
    let shown = pass(&mut world, 60, |_| 200);
    assert_eq!(shown, [(1, 2)]);
    let mut both = members(&world);
    both.sort_unstable();
    assert_eq!(both, [device(1), device(2)]);
    let shown = pass(&mut world, 4 * 3600, |_| 200);
    assert_eq!(times(&shown, 2), 0, "one of the two refreshes the binding");
    assert!(shown.len() < 4 * 3600 / 300);
}

#[test]
fn a_password_that_is_refused_when_its_device_joins_has_no_other_one_checked() {
    let mut world = changed(|number| if number == 1 { 200 } else { 403 });
    assert!(refused(world.events.last().expect("an event"), 2));
    world.input(Input::Unbind { instance: device(2), deadline: seconds(3) });
    let shown = pass(&mut world, 300, |_| 403);
    assert_eq!((shown, members(&world)), (vec![], vec![device(1)]));
}

#[test]
fn a_server_that_fails_or_asks_for_nothing_locks_nobody_out() {
    let fails: Server = |number| if number == 2 { 200 } else { 503 };
    let mut world = changed(fails);
    let shown = pass(&mut world, 3 * 3600, fails);
    assert!((10..=18).contains(&times(&shown, 1)), "{}", times(&shown, 1));
    assert_eq!((members(&world).len(), ended(&mut world)), (2, vec![]));
    assert_eq!(pass(&mut world, 3600, |_| 200).iter().filter(|(by, _)| *by == 1).count().min(1), 1);
    // The server refuses each REGISTER of the first device before it has seen any credentials.
    let mut world = changed(|_| 200);
    world.advance(seconds(2));
    for _ in 0..5 {
        let before = world.count("REGISTER");
        assert!(before == 1 || until_refreshed(&mut world) > seconds(60));
        if world.last("REGISTER").has(Name::Authorization) {
            world.grant(600);
        } else {
            world.respond(403, &[]);
        }
        world.sent.clear();
    }
    assert_eq!((members(&world).len(), ended(&mut world)), (2, vec![]));
}

#[test]
fn a_device_that_was_refused_by_mistake_is_called_again_once_its_password_is_accepted() {
    let mut world = changed(only_second);
    pass(&mut world, 10, only_second);
    assert_eq!(members(&world), [device(2)]);
    pass(&mut world, 12 * 60, |_| 200);
    assert_eq!((members(&world).len(), ended(&mut world)), (2, vec![]));
    // Its refusals begin anew: one more ends nothing.
    pass(&mut world, 3600, only_second);
    assert_eq!(ended(&mut world), []);
}

#[test]
fn a_device_with_the_right_password_is_registered_at_once_when_an_outdated_one_was_in_use() {
    let mut world = devices(1);
    join_as(&mut world, 2, true, None);
    let refused = until_refreshed(&mut world);
    assert!(refused > seconds(300));
    let shown = serve(&mut world, only_second);
    assert_eq!(shown, [1, 2], "in the same moment");
    assert!(world.endpoint.is_registered(world.binding));
    assert_eq!(members(&world), [device(2)]);
    // Neither a visit of its app nor the outdated device's end changes that.
    world.input(Input::Suspend(device(2)));
    serve(&mut world, only_second);
    world.input(Input::Resume(device(2)));
    assert_eq!(serve(&mut world, only_second), [2]);
    assert!(world.endpoint.is_registered(world.binding));
    let shown = pass(&mut world, 80 * 60, only_second);
    assert_eq!((times(&shown, 1), ended(&mut world)), (2, vec![1]));
    assert!(world.endpoint.is_registered(world.binding));
}

#[test]
fn a_visit_of_the_device_with_the_right_password_does_not_bring_the_outdated_one_into_use() {
    // At once, before the outdated one is checked, and after.
    for wait in [0, 10] {
        let mut world = changed(only_second);
        pass(&mut world, wait, only_second);
        world.input(Input::Suspend(device(2)));
        pass(&mut world, 20, only_second);
        world.input(Input::Resume(device(2)));
        serve(&mut world, only_second);
        assert!(world.endpoint.is_registered(world.binding), "{wait}");
        assert_eq!(members(&world), [device(2)], "{wait}");
        let shown = pass(&mut world, 80 * 60, only_second);
        assert_eq!((times(&shown, 1), ended(&mut world)), (2, vec![1]), "{wait}");
    }
}

#[test]
fn many_outdated_passwords_are_checked_three_at_once_and_then_one_in_two_minutes() {
    let only_eighth: Server = |number| if number == 8 { 200 } else { 403 };
    let mut world = devices(1);
    for number in 2..=7 {
        join_as(&mut world, number, true, None);
    }
    join_as(&mut world, 8, false, None);
    assert_eq!(serve(&mut world, only_eighth), [8]);
    let shown = pass(&mut world, 60, only_eighth);
    assert_eq!(shown.len(), 3, "{shown:?}");
    let shown = pass(&mut world, 8 * 60, only_eighth);
    assert_eq!(shown.iter().filter(|(by, _)| *by != 8).count(), 4, "{shown:?}");
    assert_eq!(members(&world), [device(8)]);
}

#[test]
fn an_outdated_device_that_is_left_alone_is_tried_in_its_time_and_gets_no_call_before() {
    let mut world = changed(only_second);
    pass(&mut world, 10, only_second);
    world.input(Input::Unbind { instance: device(2), deadline: seconds(3) });
    assert_eq!(members(&world), []);
    assert_eq!(pass(&mut world, 9 * 60, only_second), []);
    let shown = pass(&mut world, 5 * 60, |_| 200);
    assert_eq!((times(&shown, 1).min(1), members(&world)), (1, vec![device(1)]));
}
