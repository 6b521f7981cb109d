//! The loop around one endpoint.
//!
//! Invariant: one mutation of the endpoint, then all of its outputs, then the next; an event's answer is the next
//! mutation. Nothing here waits but for the next input or the next deadline.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sip::endpoint::{Endpoint, Input, Output, Settings};
use sip::id::{CallId, FlowId, InstanceId, UpstreamId};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::sleep_until;

use super::calls::Calls;
use super::connections::Writer;
use super::instances::{Due, Instances};
use super::proxied::ProxiedRows;
use super::{ShardInput, World};
use crate::clock::unix_now;
use crate::net::drain::Drain;

/// Inputs taken from the inbox at once.
const BATCH: usize = 64;
/// The longest sleep: the wall clock may be set, and expiries follow it.
const NAP_MAX: Duration = Duration::from_secs(30);

/// One shard.
pub(super) struct Shard {
    pub(super) index: usize,
    pub(super) world: Arc<World>,
    pub(super) endpoint: Endpoint,
    pub(super) instances: Instances,
    pub(super) proxied: ProxiedRows,
    pub(super) calls: Calls,
    /// The pushes that are being delivered, or may be sent a second time, for calls that are not over.
    pub(super) pushes: HashMap<(CallId, InstanceId), AbortHandle>,
    /// Steps of all timelines.
    pub(super) steps: usize,
    /// Devices that have a flow.
    pub(super) attached: HashSet<InstanceId>,
    /// Who waits for a device that was woken for an announced call.
    pub(super) arrivals: HashMap<InstanceId, Vec<mpsc::UnboundedSender<InstanceId>>>,
    /// SIP servers whose last dial failed.
    pub(super) unreachable: HashSet<UpstreamId>,
    /// When what is being handled was read from the network.
    pub(super) arrived: Instant,
    /// What the endpoint is told next.
    pub(super) next: VecDeque<Input>,
    flows: HashMap<FlowId, (Writer, SocketAddr)>,
}

impl Shard {
    pub(super) fn new(index: usize, settings: Settings, world: Arc<World>) -> Self {
        let mut seed = [0; 32];
        // aws-lc aborts rather than fails when the system gives no randomness, so the error cannot occur.
        aws_lc_rs::rand::fill(&mut seed).expect("the system's random source answers");
        let now = Instant::now();
        Self {
            index,
            world,
            endpoint: Endpoint::new(now, settings, seed),
            instances: Instances::default(),
            proxied: ProxiedRows::default(),
            calls: Calls::default(),
            steps: 0,
            attached: HashSet::new(),
            pushes: HashMap::new(),
            arrivals: HashMap::new(),
            unreachable: HashSet::new(),
            arrived: now,
            next: VecDeque::new(),
            flows: HashMap::new(),
        }
    }

    /// Runs until `end`.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<ShardInput>, end: Drain) {
        let mut batch = Vec::with_capacity(BATCH);
        let end = end.begun();
        tokio::pin!(end);
        loop {
            let wake_at = self.next_deadline();
            tokio::select! {
                biased;
                count = inbox.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                }
                () = sleep_until(wake_at.into()) => {}
                () = &mut end => return,
            }
            for input in batch.drain(..) {
                self.survive(|shard| shard.take(input));
            }
            self.survive(Self::on_time);
        }
    }

    /// Tells the endpoint, and does all that follows.
    pub(super) fn drive(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next {
            self.endpoint.handle(Instant::now(), input);
            self.drain();
            next = self.next.pop_front();
        }
    }

    /// A fault in what one peer's message set off must not take the others' bindings with it: the input that met it is
    /// dropped, and said.
    fn survive(&mut self, work: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| work(self))).is_err() {
            tracing::error!(
                shard = self.index,
                "an input met a fault of the relay and was dropped; please report this"
            );
            self.next.clear();
        }
    }

    fn take(&mut self, input: ShardInput) {
        match input {
            ShardInput::Sip { at, input } => {
                self.arrived = at;
                match &input {
                    Input::Closed(flow) => drop(self.flows.remove(flow)),
                    Input::DialFailed(upstream) => drop(self.unreachable.insert(*upstream)),
                    Input::Dialled { upstream, .. } => drop(self.unreachable.remove(upstream)),
                    _ => {}
                }
                if let Some(input) = self.look_up_path(at, input) {
                    self.drive(input);
                }
            }
            ShardInput::Flow { flow, writer, peer } => drop(self.flows.insert(flow, (writer, peer))),
            ShardInput::Pushed(pushed) => self.on_pushed(&pushed),
            ShardInput::Unheard { call, instance, reply } => {
                // An error means that the call has ended meanwhile.
                let _ = reply.send(self.resends(call, instance));
            }
            ShardInput::Paged(paged) => self.on_paged(*paged),
            ShardInput::Noticed(noticed) => self.on_noticed(&noticed),
            ShardInput::Erased(id) => self.on_erased(id),
            ShardInput::ProxiedStored { id, fence } => self.on_proxied_stored(id, fence),
            ShardInput::ProxiedFound(found) => self.on_proxied_found(found.0, found.1),
            ShardInput::Command(command) => self.obey(*command),
        }
        // What a command or a verdict left to be told.
        if let Some(input) = self.next.pop_front() {
            self.drive(input);
        }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if self.endpoint.poll_timeout().is_some_and(|due| due <= now) {
            self.arrived = now;
            self.endpoint.handle_timeout(now);
            self.drain();
            if let Some(input) = self.next.pop_front() {
                self.drive(input);
            }
        }
        let unix = unix_now();
        self.calls.forget_old(unix);
        while let Some((id, due)) = self.instances.pop_due(unix) {
            match due {
                Due::Reminder(reminder) => self.remind(id, reminder),
                Due::End => self.expire(id),
            }
        }
    }

    fn next_deadline(&self) -> Instant {
        let now = Instant::now();
        let end = self.instances.next_moment().map(|at| now + Duration::from_secs(at.saturating_sub(unix_now())));
        let nap = now + NAP_MAX;
        [self.endpoint.poll_timeout(), end].into_iter().flatten().fold(nap, Instant::min)
    }

    /// Does what the endpoint wants done.
    fn drain(&mut self) {
        while let Some(output) = self.endpoint.poll_output() {
            match output {
                Output::Send { flow: FlowId::Datagram(peer), bytes } => {
                    if let Some(udp) = &self.world.udp {
                        // What is lost is sent again (RFC 3261 §17).
                        let _ = udp.try_send(&bytes, peer);
                    }
                }
                Output::Send { flow, bytes } => {
                    if !self.flows.get(&flow).is_some_and(|(writer, _)| writer.send(bytes)) {
                        self.flows.remove(&flow);
                        self.next.push_back(Input::Closed(flow));
                    }
                }
                Output::SendLarge { peer, bytes } => self.world.dialler.send_large(self.index, peer, bytes),
                Output::Dial { upstream, avoid } => {
                    let avoid = avoid.and_then(|flow| match flow {
                        FlowId::Datagram(peer) => Some(peer),
                        stream => self.flows.get(&stream).map(|(_, peer)| *peer),
                    });
                    self.world.dialler.dial(self.index, upstream, avoid);
                }
                Output::Close(flow) => {
                    if let Some((writer, _)) = self.flows.remove(&flow) {
                        writer.close();
                    }
                }
                Output::Event(event) => self.on_event(event),
            }
        }
    }
}
