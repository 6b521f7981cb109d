//! What the protocol's part of a call and of a refresh costs: all that [`Endpoint::handle`], `handle_timeout` and `poll` do for it.
//!
//! A story is played once on the stage of the tests in virtual time, which notes what it tells its endpoint. Other endpoints are told
//! the same, and do the same: that alone is measured. Not in it: reading the messages (`benches/parse.rs`), and what the relay
//! computes with a secret (`relay/benches/records.rs`).

mod measure;
// Which of their verbs the tests use is theirs to say.
#[allow(dead_code)]
#[path = "../tests/virtual_time/answered_call.rs"]
mod answered_call;
#[allow(dead_code)]
#[path = "../tests/virtual_time/script.rs"]
mod script;
#[allow(dead_code)]
#[path = "../tests/virtual_time/world.rs"]
mod world;

use std::time::Duration;

use criterion::measurement::Measurement as _;
use criterion::{Criterion, criterion_group, criterion_main};
use sip::endpoint::Input;

use answered_call::answered_call;
use measure::ProcessorTime;
use script::{CHALLENGE, Script, tell};
use world::{World, seconds};

/// How often one endpoint plays a story; the next one begins anew.
const TIMES: u64 = 64;

criterion_group! {
    name = benches;
    config = measure::criterion();
    targets = calls, refreshes
}
criterion_main!(benches);

fn calls(criterion: &mut Criterion<ProcessorTime>) {
    bench(criterion, "call held, woken, offered, answered, hung up", answered_call);
    bench(criterion, "call held, woken, cancelled", cancelled_call);
}

fn refreshes(criterion: &mut Criterion<ProcessorTime>) {
    bench(criterion, "refresh with a kept nonce", |world, _| {
        refresh(world);
        world.grant(3600);
    });
    bench(criterion, "refresh that is challenged", |world, number| {
        refresh(world);
        world.respond(401, &[("WWW-Authenticate", &format!("{CHALLENGE}, nonce=\"{number}\", stale=true"))]);
        world.grant(3600);
    });
}

fn cancelled_call(world: &mut World, number: u64) {
    let (server, call_id) = (world.upstream, format!("call{number}"));
    world.invite(&call_id);
    let (call, instance) = (world.wakes()[0].call, world.instance);
    world.input(Input::Ring { call, instance });
    for method in ["CANCEL", "ACK"] {
        let to_tag = if method == "ACK" { ";tag=ours" } else { "" };
        let head = world.head(&call_id, method, 1, to_tag);
        let uri = format!("sip:{}@relay.test:5070", world.binding);
        world.receive(server, &format!("{method} {uri} SIP/2.0\r\n{head}Content-Length: 0\r\n\r\n"));
    }
    assert_eq!((world.count("CANCEL 200"), world.count("INVITE 487")), (1, 1));
    world.advance(seconds(60));
}

/// Time passes until the next REGISTER.
fn refresh(world: &mut World) {
    for _ in 0..4_000 {
        if world.count("REGISTER") > 0 {
            return;
        }
        world.advance(seconds(1));
    }
    panic!("no REGISTER came");
}

/// Measures a story, which is told `TIMES` times in a row.
fn bench(criterion: &mut Criterion<ProcessorTime>, what: &str, story: impl Fn(&mut World, u64)) {
    let script = Script::of(TIMES, story);
    let play = |stories| {
        let (mut endpoint, told) = script.prepared(stories);
        let began = ProcessorTime.start();
        let sent: usize = told.into_iter().map(|told| tell(&mut endpoint, told)).sum();
        let spent = ProcessorTime.end(began);
        assert_eq!(sent, script.sends(stories), "another story was played");
        spent
    };
    criterion.bench_function(what, |bencher| {
        bencher.iter_custom(|times| {
            let whole: Duration = (0..times / TIMES).map(|_| play(TIMES)).sum();
            whole + play(times % TIMES)
        });
    });
}
