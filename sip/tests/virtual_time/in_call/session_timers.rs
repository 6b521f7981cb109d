//! Session timers (RFC 4028) are kept by the two ends; the relay carries their refreshes, also while the device changes its network.

use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::{Message, Name};

use super::leg::{Dialog, End, assert_unharmed};
use crate::world::{World, seconds};

/// `Session-Expires`, and how often it is refreshed (RFC 4028 §10: at half of it), in seconds.
const SESSION: u64 = 180;
const REFRESH: u64 = SESSION / 2;
/// Refreshes in half an hour.
const REFRESHES: u32 = (30 * 60 / REFRESH) as u32;
/// How long before a refresh the device loses its network, and how long after it has another one.
const LOST_BEFORE: u64 = 5;
const BACK_AFTER: u64 = 10;

/// A call whose device changes its network at every third refresh.
struct Call {
    world: World,
    dialog: Dialog,
    /// The number of the device's flow.
    flow: u64,
    cseq: u32,
    registers: usize,
}

impl Call {
    fn begin(refresher: &str) -> Self {
        let mut world = World::registered();
        let timer = format!("{SESSION};refresher={refresher}");
        let headers = [("Session-Expires", timer.as_str()), ("Require", "timer")];
        let dialog = Dialog::begin(&mut world, "call-1", 200, &headers);
        assert_eq!(world.last("INVITE 200").text(Name::SessionExpires), Some(timer.as_str()));
        dialog.send(&mut world, End::Caller, "ACK", 1);
        let registers = world.count("REGISTER");
        Self { world, dialog, flow: 1, cseq: 1, registers }
    }

    /// Time passes; the SIP server takes what is registered anew meanwhile, and the device keeps its place at the edge.
    fn pass(&mut self, time: u64) {
        for _ in 0..time {
            self.world.advance(seconds(1));
            if self.world.count("REGISTER") > self.registers {
                self.registers = self.world.count("REGISTER");
                self.world.grant(600);
            }
        }
    }

    fn lose_network(&mut self) {
        self.world.input(Input::Closed(FlowId::Stream(self.flow)));
    }

    fn find_network(&mut self) {
        self.flow += 1;
        self.world.attach(self.flow);
        self.registers = self.world.count("REGISTER");
    }

    /// One end sends a refresh; what it sent.
    fn refresh(&mut self, from: End, method: &str) -> Vec<u8> {
        self.cseq += 1;
        let refresher = if from == End::Caller { "uac" } else { "uas" };
        let middle = format!("Session-Expires: {SESSION};refresher={refresher}\r\nMin-SE: 90\r\nSupported: timer\r\n");
        let request = self.dialog.request(from, method, self.cseq, &middle, b"");
        let source = match from {
            End::Caller => self.world.upstream,
            End::Device => self.world.device(self.flow),
        };
        self.world.receive_bytes(source, &request);
        request
    }

    /// The other end has it as it was sent, and its answer comes back as it was given.
    fn answered(&mut self, from: End, method: &str, sent: &[u8]) {
        let (at, back) = match from {
            End::Caller => (FlowId::Stream(self.flow), self.world.upstream),
            End::Device => (self.world.upstream.flow, self.world.device(self.flow)),
        };
        let answerer = if from == End::Caller { self.world.device(self.flow) } else { self.world.upstream };
        let is_refresh = |message: &Message| message.cseq().is_some_and(|(number, _)| number == self.cseq);
        let forwarded = self.world.sent.iter().rev().find(|it| it.message.is_request() && is_refresh(&it.message));
        let forwarded = forwarded.expect("it was passed on");
        assert_eq!(forwarded.flow, at, "to where the other end is now");
        let forwarded = forwarded.message.clone();
        assert_unharmed(sent, &forwarded);
        let timer = format!("{SESSION};refresher=uac");
        self.world.reply(answerer, &forwarded, 200, &[("Session-Expires", &timer), ("Require", "timer")], "");
        let heard = self.world.sent.last().expect("an answer");
        assert_eq!((heard.flow, heard.message.status()), (back.flow, Some(200)), "{method} {}", self.cseq);
        assert_eq!(heard.message.text(Name::SessionExpires), Some(timer.as_str()));
        if method == "INVITE" {
            let ack = self.dialog.request(from, "ACK", self.cseq, "", b"");
            let source = if from == End::Caller { self.world.upstream } else { self.world.device(self.flow) };
            self.world.receive_bytes(source, &ack);
            assert_eq!(self.world.sent.last().expect("an ACK").flow, at);
        }
    }
}

#[test]
fn half_an_hour_of_session_refreshes_survives_the_device_changing_its_network_every_few_minutes() {
    for (from, refresher) in [(End::Caller, "uac"), (End::Device, "uas")] {
        for method in ["UPDATE", "INVITE"] {
            let mut call = Call::begin(refresher);
            for number in 1..=REFRESHES {
                let moves = number % 3 == 1;
                call.pass(REFRESH - LOST_BEFORE - BACK_AFTER);
                if moves {
                    call.lose_network();
                }
                call.pass(LOST_BEFORE);
                // A device that is away refreshes once it is back.
                let early = (from == End::Caller || !moves).then(|| call.refresh(from, method));
                call.pass(BACK_AFTER);
                if moves {
                    call.find_network();
                }
                let sent = early.unwrap_or_else(|| call.refresh(from, method));
                call.answered(from, method, &sent);
            }
            let failed = |it: &&crate::world::Sent| it.message.status().is_some_and(|status| status >= 300);
            let failed =
                call.world.sent.iter().filter(failed).filter(|it| it.message.cseq().is_none_or(|(n, _)| n > 1));
            assert_eq!(failed.count(), 0, "{from:?} {method}: {:?}", call.world.descriptions());
            assert_eq!(call.flow, 1 + u64::from(REFRESHES).div_ceil(3));
            assert_eq!(call.world.count("BYE"), 0, "the relay ends nobody's session");
            let bye = call.refresh(from, "BYE");
            call.answered(from, "BYE", &bye);
        }
    }
}
