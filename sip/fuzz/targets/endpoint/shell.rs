//! What the relay around the endpoint says of itself, at any moment: that another node has taken something over, that it ends, what an earlier run has left.
//!
//! Invariant: a word that comes too late, twice, or for nobody is as good a word as any.

use std::time::Duration;

use sip::endpoint::{Failover, Input, NewOwner, RestoredPushBinding};
use sip::id::UpstreamId;

use crate::peers;
use crate::world::{World, ids};

impl World {
    /// Another node takes over, or gives back.
    pub fn other_node(&mut self, what: u8, which: u8) {
        let (instance, ..) = ids(which);
        let passed = usize::from(which / 4) % self.push_bindings.len().max(1);
        let passed = self.push_bindings.iter().nth(passed).copied();
        match what % 6 {
            0 => self.input(Input::Taken(instance)),
            1 => self.input(Input::HandOver),
            2 if which & 1 == 0 => self.input(Input::RefuseCalls(Failover::OtherNode)),
            2 => self.input(Input::RefuseCalls(Failover::Nobody)),
            3 => {
                let to = if which & 1 == 0 { NewOwner::Chosen } else { NewOwner::Successor };
                self.input(Input::ReleasePushBinding { instance: passed.unwrap_or(instance), to });
            }
            4 => self.restore(which),
            _ => self.input(Input::RegisterAgain(instance)),
        }
    }

    /// A registration that is kept in the store, of this run or of another one.
    fn restore(&mut self, which: u8) {
        let Some(record) = self.records.get(usize::from(which / 4) % self.records.len().max(1)).cloned() else {
            return;
        };
        let expires = Duration::from_secs([1, 5, 600, 3_600][usize::from(which % 4)]);
        self.push_bindings.insert(record.instance);
        self.oracle.serves(record.instance, true);
        self.input(Input::RestorePushBinding(Box::new(RestoredPushBinding {
            upstream_registrar: record.registrar.clone(),
            registration: sip::endpoint::PushBinding { expires, source: None, sent_at: None, ..record },
            upstream: UpstreamId(1),
            confirmed_at_ms: u64::from(which),
        })));
        self.addresses(UpstreamId(1), true);
    }

    /// What the shell learns later, or its user says.
    pub fn later_word(&mut self, what: u8, which: u8) {
        let (instance, _, upstream) = ids(which);
        let (successor, ..) = ids(which / 4);
        let call = self.rung.get(usize::from(which % 8)).map(|(call, _)| *call);
        match (what % 7, call) {
            (0, _) => self.input(Input::RetryNow(instance)),
            (1, _) => self.input(Input::Vouch(instance)),
            (2, _) => self.input(Input::UpstreamServes(upstream)),
            (3, _) => self.input(Input::LeaveExpected(instance)),
            (4, Some(call)) => self.input(Input::StopExpecting(call)),
            (5, _) => {
                let source = peers::server(which % 3, self.stream);
                self.input(Input::LeadsTo { flow: source.flow, address: peers::server(which / 4 % 3, 0).peer });
            }
            (6, _) if self.endpoint.may_succeed(instance, successor) => {
                let calls = self.endpoint.calls_for(instance);
                self.oracle.succeeded(instance, successor, &calls);
                self.input(Input::Succeed { earlier: instance, successor });
                self.input(Input::Unbind { instance, deadline: Duration::from_secs(4) });
                self.oracle.serves(instance, false);
            }
            _ => {}
        }
    }
}
