//! The inputs of an endpoint in a story, to be replayed to another one: `sip/benches/calls.rs` measures that one alone.

use std::hint::black_box;
use std::time::Instant;

use sip::endpoint::{Endpoint, Output, Poll};
use sip::id::FlowId;

use crate::world::{SEED, Told, World, seconds, server_address, settings};

/// The challenge of a SIP server; a nonce goes with it.
pub const CHALLENGE: &str = "Digest realm=\"example.com\", qop=\"auth\", algorithm=SHA-256";

/// The inputs of an endpoint: from its beginning to its first registration, then stories.
pub struct Script {
    began: Instant,
    told: Vec<Told>,
    /// Where each story begins, and where the last one ends.
    marks: Vec<usize>,
    /// How many messages the endpoint has sent at each of these.
    sent: Vec<usize>,
}

impl Script {
    /// Of so many stories in a row, which are told their number, from 1. The SIP server challenges the first REGISTER.
    pub fn of(stories: u64, story: impl Fn(&mut World, u64)) -> Self {
        let mut world = World::with_settings(FlowId::Datagram(server_address()), |_| {});
        world.endpoint = endpoint(world.now);
        world.told = Some(Vec::new());
        let mut script = Self { began: world.now, told: Vec::new(), marks: Vec::new(), sent: Vec::new() };
        world.bind();
        world.respond(401, &[("WWW-Authenticate", &format!("{CHALLENGE}, nonce=\"first\""))]);
        world.grant(3600);
        script.end_chapter(&mut world);
        for number in 1..=stories {
            story(&mut world, number);
            script.end_chapter(&mut world);
        }
        assert_eq!((world.pings, world.stun.len()), (0, 0), "nothing but the stories is told");
        script
    }

    fn end_chapter(&mut self, world: &mut World) {
        self.told.extend(world.told.iter_mut().flat_map(std::mem::take));
        self.marks.push(self.told.len());
        self.sent.push(self.sent.last().unwrap_or(&0) + world.sent.len());
        world.sent.clear();
        world.events.clear();
    }

    /// An endpoint that has been told all but the stories, and the first so many of those, for [`tell`].
    pub fn prepared(&self, stories: u64) -> (Endpoint, Vec<Told>) {
        let (mut endpoint, first) = (endpoint(self.began), self.marks[0]);
        for told in &self.told[..first] {
            tell(&mut endpoint, told.clone());
        }
        (endpoint, self.told[first..self.marks[stories as usize]].to_vec())
    }

    /// How many messages that many stories send.
    pub fn sends(&self, stories: u64) -> usize {
        self.sent[stories as usize] - self.sent[0]
    }
}

fn endpoint(began: Instant) -> Endpoint {
    let mut settings = settings();
    // No ping while a story waits for its next step.
    settings.timing.upstream.keep_alive.datagram = seconds(30 * 24 * 3_600);
    Endpoint::new(began, settings, SEED)
}

/// Tells an endpoint this, and says how many messages it sends.
pub fn tell(endpoint: &mut Endpoint, told: Told) -> usize {
    match told {
        Told::Input(now, input) => endpoint.handle(now, input),
        Told::Timeout(now) => endpoint.handle_timeout(now),
    }
    let mut sent = 0;
    while let Poll::Output(output) = endpoint.poll() {
        sent += usize::from(matches!(black_box(&output), Output::Send { .. }));
    }
    sent
}

#[test]
fn an_endpoint_that_is_told_the_same_sends_as_much() {
    let script = Script::of(3, crate::answered_call::answered_call);
    let (mut endpoint, told) = script.prepared(3);
    let sent: usize = told.into_iter().map(|told| tell(&mut endpoint, told)).sum();
    assert_eq!((sent, script.sends(3)), (24, 24), "100, 180, 200, INVITE, 200, ACK, BYE, 200 of each call");
    assert_eq!(endpoint.open_calls(), 0);
}
