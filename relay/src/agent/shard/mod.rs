//! The loop around one endpoint.
//!
//! | room | what it is |
//! | --- | --- |
//! | `events`, `requests` | what follows from an event of the endpoint, and from a use case's request |
//! | *calls* | |
//! | `call_pushes`, `expected_calls` | waking devices: for an INVITE, and for a call that its SIP server holds |
//! | `stories`, `traces` | the stories of calls, and recordings of SIP |
//! | *beside calls* | |
//! | `messages`, `missed_calls`, `voicemail` | what is kept, and the mailbox |
//! | `alerts`, `test_push`, `reminders` | pushes that are no call |
//! | `activity` | the timeline |
//! | *the life of an instance* | |
//! | `succession`, `wipes`, `final_pushes` | its replacement, its end, and the pushes that tell of it |
//! | `targets` | where its pushes go |
//! | `awaiting_claim`, `doubt`, `waiting` | what waits: for the instance, for the lease, and what these have in common |
//! | *registrations that pass through (RFC 8599)* | |
//! | `forwarded_registers`, `path_lookups` | REGISTERs, and requests by our Path |
//! | `push_bindings`, `flow_bindings` | those that are pushed for, and those with a flow alone |
//! | `orphaned_bindings` | those whose Path leads to a node that is gone |
//! | *the shard itself* | |
//! | `outgoing` | where its bytes leave |
//! | `hand_over`, `elsewhere` | instances on their way from and to other nodes, and devices of those that others have |
//!
//! Invariant: one mutation of the endpoint, then all of its outputs, then the next; an event's answer is the next
//! mutation. Nothing here waits but for the next input or the next deadline.

mod activity;
pub(crate) mod alerts;
mod awaiting_claim;
mod call_pushes;
mod doubt;
pub(crate) mod elsewhere;
mod events;
pub(crate) mod expected_calls;
mod final_pushes;
mod flow_bindings;
mod forwarded_registers;
mod hand_over;
pub(crate) mod messages;
mod missed_calls;
mod orphaned_bindings;
mod outgoing;
pub(crate) mod path_lookups;
pub(crate) mod push_bindings;
mod reminders;
mod requests;
mod stories;
mod succession;
mod targets;
mod test_push;
mod traces;
mod voicemail;
mod waiting;
mod wipes;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use sip::endpoint::{
    CarriedProofId, Endpoint, ForwardedRegisterId, Input, Mailbox, Output, Poll as Polled, Settings, Side, Source,
};
use sip::id::{CallId, FlowId, InstanceId, UpstreamId};
use sip::message::Message;
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use crate::agent::RecordNote;
use crate::agent::ShardInput;
use crate::agent::Shared;
use crate::agent::digest::Asked;
use crate::agent::request::{Arrival, Request};
use crate::agent::shard::awaiting_claim::AwaitingClaim;
use crate::agent::shard::doubt::{Claim, Doubt, LOOK_AGAIN, NodeLease};
use crate::agent::shard::flow_bindings::FlowBindings;
use crate::agent::shard::forwarded_registers::HeldQuotas;
use crate::agent::shard::hand_over::HandOver;
use crate::agent::shard::orphaned_bindings::OrphanedBindings;
use crate::agent::shard::outgoing::Outgoing;
use crate::agent::shard::path_lookups::PathLookups;
use crate::agent::shard::push_bindings::PushBindings;
use crate::agent::shard::reminders::Services;
use crate::agent::shard::stories::Stories;
use crate::agent::shard::waiting::Cancelled;
use crate::agent::tables::attached::Attached;
use crate::agent::tables::calls::Calls;
use crate::agent::tables::instances::{Due, Instances};
use crate::agent::trace::Trace;
use crate::clock::{self, Frames, Reading, confirmed_now, unix_now};
use crate::limits::guesses::Permit;
use crate::limits::pushes::PushBudgets;
use crate::net::Transport;
use crate::net::drain::Drain;
use crate::random;
use crate::vault::MAX_LIFETIME_S;
use call_pushes::CallPush;
use final_pushes::FinalPushes;

/// Inputs taken from the inbox at once.
const BATCH: usize = 64;
/// The pause between two checks of the timers, unless an input comes. Each call sets some timers, and few of them still matter when they are due.
const TIMER_STEP: Duration = Duration::from_millis(10);
/// The longest sleep while messages come. A timer later than the runtime's own wakes nobody; an earlier one costs two system calls.
const BUSY_NAP: Duration = Duration::from_millis(50);
/// The longest sleep: the wall clock may be set, and expiries follow it.
const NAP_MAX: Duration = Duration::from_secs(30);

/// One shard.
pub(crate) struct Shard {
    index: usize,
    shared: Arc<Shared>,

    // The endpoint, its inputs and its outputs.
    endpoint: Endpoint,
    /// The next deadline of the endpoint.
    due: Option<Instant>,
    /// The next inputs of the endpoint.
    next: VecDeque<Input>,
    outgoing: Outgoing,
    /// SIP servers whose last dial failed.
    unreachable: HashSet<UpstreamId>,
    /// How many registrations wait for their turn, as the metric says.
    waiting_told: usize,

    // Waiting requests and inputs.
    /// Requests for instances that may be on their way here.
    awaiting_claim: AwaitingClaim,
    /// Inputs from the network that came while this node's ownership is in doubt.
    doubt: Doubt<ShardInput>,
    /// Requests by our Path that wait for the store.
    path_lookups: PathLookups,
    /// Proofs of devices for which the store is asked.
    proofs_elsewhere: usize,
    /// The process is about to end: no new call begins to wait.
    refuses_calls: bool,

    // Lent accounts.
    instances: Instances,
    /// When the ends of leases must be converted to another clock.
    frames: Frames,
    /// Devices that have a flow.
    attached: Attached,
    /// Challenges by SIP servers to passwords that they have not accepted yet.
    asked: HashMap<InstanceId, Vec<Asked>>,
    /// Steps of all timelines.
    steps: usize,
    /// The instances whose mailboxes this run was notified of. Holds the last notice while the store is asked for the state that earlier runs knew.
    mailboxes: BTreeMap<InstanceId, Option<Box<Mailbox>>>,
    /// Recordings of instances under way.
    traces: BTreeMap<InstanceId, Trace>,
    hand_over: HandOver,

    // Registrations that pass through.
    push_bindings: PushBindings,
    flow_bindings: FlowBindings,
    /// REGISTERs that are being forwarded to a SIP server.
    forwarded_registers: HashMap<ForwardedRegisterId, HeldQuotas>,
    /// Proofs in other requests that are being forwarded.
    proofs_under_way: HashMap<CarriedProofId, Permit>,
    /// Registrations that passed through nodes that are gone.
    orphaned_bindings: OrphanedBindings,

    // Calls.
    calls: Calls,
    stories: Stories,
    /// The pushes of calls that are not over, which are being delivered or may be sent a second time; and those of ended calls that have left and await
    /// an answer.
    pushes: BTreeMap<(InstanceId, CallId), CallPush>,
    /// The requesters that wait for a device that was woken for an announced call.
    arrivals: BTreeMap<(InstanceId, CallId), Vec<mpsc::UnboundedSender<Arrival>>>,
    /// Whether a call's push has been handed over in this turn.
    hurried: bool,
    /// Whether the CANCEL of the request that is handed to the endpoint is waiting behind it.
    is_cancelled: bool,

    // Pushes of all kinds.
    /// How many more pushes devices, callers and apps may cause.
    budgets: PushBudgets,
    /// The last known health of the push services, while a notice waits for them.
    services: Services,
    /// The pushes that outlive their instances.
    final_pushes: FinalPushes,
}

impl Shard {
    pub(crate) fn new(index: usize, settings: Settings, shared: Arc<Shared>) -> Self {
        let now = clock::now();
        let orphaned_bindings = OrphanedBindings::new(settings.upstream.registrations_per_second);
        let mut endpoint = Endpoint::new(now, settings, random::bytes());
        if shared.vault.is_shared() {
            endpoint.expect_other_nodes();
        }
        Self {
            index,
            orphaned_bindings,
            endpoint,
            due: None,
            next: VecDeque::new(),
            outgoing: Outgoing::default(),
            unreachable: HashSet::new(),
            waiting_told: 0,
            awaiting_claim: AwaitingClaim::default(),
            doubt: Doubt::new(),
            path_lookups: PathLookups::default(),
            proofs_elsewhere: 0,
            refuses_calls: false,
            instances: Instances::default(),
            frames: Frames::default(),
            attached: Attached::default(),
            asked: HashMap::new(),
            steps: 0,
            mailboxes: BTreeMap::new(),
            traces: BTreeMap::new(),
            hand_over: HandOver::default(),
            push_bindings: PushBindings::default(),
            flow_bindings: FlowBindings::new(),
            forwarded_registers: HashMap::new(),
            proofs_under_way: HashMap::new(),
            calls: Calls::default(),
            stories: Stories::default(),
            pushes: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            hurried: false,
            is_cancelled: false,
            budgets: PushBudgets::new(shared.quotas.limits(), shared.shards.len()),
            services: Services::default(),
            final_pushes: FinalPushes::default(),
            shared,
        }
    }

    /// Runs until `end`.
    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<ShardInput>, end: Drain) {
        let mut batch = Vec::with_capacity(BATCH);
        let end = end.begun();
        tokio::pin!(end);
        let (mut busy, mut looked) = (false, clock::now());
        loop {
            // Deadlines close to each other are handled together; those that fall due meanwhile, with the next message.
            let mut wake_at = self.next_deadline().max(looked + TIMER_STEP);
            if busy {
                wake_at = wake_at.min(clock::now() + BUSY_NAP);
            }
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
            busy = !batch.is_empty();
            looked = clock::now();
            // Inputs that were sent before the doubt ended are in the inbox by now, and counted.
            let lease = self.lease();
            let is_in_doubt = self.doubt.look(lease, batch.len(), inbox.len());
            for input in batch.drain(..) {
                match is_in_doubt.then(|| self.claim_of(&input)).flatten() {
                    Some(claim) => self.doubt.keep(input, claim),
                    None => self.catch_panic(|shard| shard.on_input(input)),
                }
            }
            if self.doubt.is_over() {
                self.do_what_waited();
                if is_in_doubt {
                    self.catch_panic(|shard| shard.judge_claimed(clock::now()));
                }
            }
            if std::mem::take(&mut self.hurried) {
                // The caller's response can wait until the push has left.
                yield_once().await;
            }
            self.begin_stories();
            self.tell_waiting();
            if let Some(udp) = &self.shared.udp {
                self.outgoing.send_datagrams(udp, self.index);
            }
        }
    }

    /// The doubt is over: the inputs that waited are handled, those of the network first.
    fn do_what_waited(&mut self) {
        let waiting = self.doubt.take();
        let cancelled = Cancelled::among_inputs(waiting.iter());
        let (network, own): (VecDeque<_>, VecDeque<_>) =
            waiting.into_iter().partition(|input| matches!(input, ShardInput::Sip { .. }));
        for input in network {
            self.is_cancelled = cancelled.has_input(&input);
            self.catch_panic(|shard| shard.on_input(input));
        }
        self.is_cancelled = false;
        self.catch_panic(Self::on_time);
        // A call that has ended meanwhile, by its CANCEL or its deadline, is not pushed any more.
        for input in own.into_iter().filter(|input| !is_given_up(input)) {
            self.catch_panic(|shard| shard.on_input(input));
        }
    }

    /// The room that an input takes while it waits for the end of a doubt. `None`: the input does not wait, because it is the store's answer, changes
    /// only state of this shard, or only ends something.
    fn claim_of(&self, input: &ShardInput) -> Option<Claim> {
        match input {
            ShardInput::Sip { input, .. } => Some(self.claim_of_network(input)),
            // These lead to a push, the end of a call, a wipe, or a request that is handed in. There is at most one for each operation under way.
            ShardInput::Pushed(_)
            | ShardInput::SignDue(_)
            | ShardInput::PushResumed { .. }
            | ShardInput::TargetAsked { .. }
            | ShardInput::MessageStored(_)
            | ShardInput::MailboxRead(_)
            | ShardInput::AlertEnded(_)
            | ShardInput::OrphanedBindings { .. }
            | ShardInput::PathLookedUp(_)
            | ShardInput::ProofJudged(_)
            | ShardInput::ServerFound(_) => Some(Claim::ToldOnce),
            ShardInput::Request(request) => match &**request {
                // Anybody may ask, so a wrong secret is answered at once.
                Request::Test { id, who, .. } => self.admit(*id, who).is_ok().then_some(Claim::OfOther(0)),
                request => request.is_of_pushes().then_some(Claim::ToldOnce),
            },
            ShardInput::Flow { .. }
            | ShardInput::RequesterGone(_)
            | ShardInput::ServerAsked { .. }
            | ShardInput::Erased(..)
            | ShardInput::PushBindingStored { .. }
            | ShardInput::PushBindingUnkept(_)
            | ShardInput::PushBindingWaited(_)
            | ShardInput::FinalPushEnded(..)
            | ShardInput::ReceiptWaitOver(_) => None,
        }
    }

    fn claim_of_network(&self, input: &Input) -> Claim {
        match input {
            Input::Closed(_)
            | Input::Doubted(_)
            | Input::StreamLost { .. }
            | Input::Dialled { .. }
            | Input::FailbackDialled { .. }
            | Input::LeadsTo { .. }
            | Input::DialFailed(_)
            | Input::UpstreamAddressChanged(_)
            | Input::UpstreamReplaced(_)
            | Input::Addresses { .. } => Claim::ToldOnce,
            Input::Received { source, .. } if self.endpoint.is_sip_server(source) => {
                Claim::OfServer(waiting::bytes_of(input))
            }
            _ => Claim::OfOther(waiting::bytes_of(input)),
        }
    }

    /// Tells the metric how many registrations wait for their turn now.
    fn tell_waiting(&mut self) {
        let waiting = self.endpoint.registrations_waiting();
        if waiting != self.waiting_told {
            self.shared.metrics.registrations_waiting(waiting as i64 - self.waiting_told as i64);
            self.waiting_told = waiting;
        }
    }

    /// The state of this node's lease, read in this order: a reader that sees a doubt as over also sees that there was one.
    fn lease(&self) -> NodeLease {
        let is_doubtful = self.shared.ownership.is_doubtful();
        NodeLease { is_doubtful, lapses: self.shared.ownership.lapses() }
    }

    /// Hands an input that arrived at `at` to the endpoint, and handles all outputs.
    pub(crate) fn drive(&mut self, at: Instant, input: Input) {
        self.next.push_front(input);
        self.settle(at);
    }

    /// Hands all inputs in [`Self::next`] to the endpoint, and handles all outputs; the first input arrived at `at`.
    pub(crate) fn settle(&mut self, at: Instant) {
        while let Some(input) = self.next.pop_front() {
            self.endpoint.handle(clock::now(), input);
            self.drain(at);
        }
    }

    /// A panic that the message of one peer causes must not end the bindings of others: the input is dropped and logged.
    fn catch_panic(&mut self, work: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| work(self))).is_err() {
            tracing::error!(
                event = "fault",
                shard = self.index,
                "an input met a fault of the relay and was dropped; please report this"
            );
            // Otherwise a request would wait for its decision without an end.
            self.next.retain(|input| matches!(input, Input::ProofAdmitted(..)));
            self.is_cancelled = false;
            // The endpoint's next deadline is read again.
            self.due = Some(clock::now());
        }
    }

    fn on_input(&mut self, input: ShardInput) {
        match input {
            ShardInput::Sip { at, input } => return self.on_network_input(at, input),
            ShardInput::Flow { flow, writer, peer } => self.outgoing.opened(flow, writer, peer),
            ShardInput::Pushed(pushed) => self.on_pushed(pushed),
            ShardInput::SignDue(pushed) => self.on_sign_due(*pushed),
            ShardInput::PushResumed { pushed, is_silent } => self.on_push_resumed(pushed, is_silent),
            ShardInput::RequesterGone(gone) => self.on_requester_gone(&gone),
            ShardInput::TargetAsked { instance, event, reply } => {
                // An error means that the push has ended meanwhile.
                let _ = reply.send(self.target_now(self.endpoint.current(instance), event));
            }
            ShardInput::ServerAsked { source, reply } => {
                // An error means that the connection has ended meanwhile.
                let _ = reply.send(self.endpoint.is_sip_server(&source));
            }
            ShardInput::MessageStored(stored) => self.on_message_stored(*stored),
            ShardInput::MailboxRead(read) => self.on_mailbox_read(read.0, read.1),
            ShardInput::AlertEnded(ended) => self.on_alert_ended(*ended),
            ShardInput::Erased(id, erasure) => self.on_erased(id, erasure),
            ShardInput::PushBindingStored { id, fence } => self.on_push_binding_stored(id, fence),
            ShardInput::OrphanedBindings { node, ids, lives } => self.on_orphaned_bindings(&node, &ids, lives),
            ShardInput::PathLookedUp(found) => self.on_path_looked_up(found.0, found.1),
            ShardInput::ProofJudged(judged) => {
                let (verification, method, judged) = *judged;
                self.on_proof_judged(verification, &method, judged);
            }
            ShardInput::ServerFound(found) => self.on_server_found(&found.0, &found.1),
            ShardInput::PushBindingUnkept(id) => self.on_push_binding_unkept(id),
            ShardInput::PushBindingWaited(id) => self.on_push_binding_waited(id),
            ShardInput::FinalPushEnded(id, number) => self.on_final_push_ended(id, number),
            ShardInput::ReceiptWaitOver(id) => self.on_receipt_wait_over(id),
            ShardInput::Request(request) => self.on_request(*request),
        }
        // Inputs that a request or a verdict has caused.
        self.settle(clock::now());
        if self.doubt.is_over() {
            self.judge_claimed(clock::now());
        }
    }

    fn on_network_input(&mut self, at: Instant, input: Input) {
        match &input {
            Input::Closed(flow) => {
                self.outgoing.closed(*flow);
                self.path_lookups.forget_flow(*flow);
            }
            // A failed dial says nothing about a flow in use; and a forgotten SIP server needs no dial.
            Input::DialFailed(upstream)
                if self.endpoint.flow_to(*upstream).is_none() && self.endpoint.knows_upstream(*upstream) =>
            {
                self.unreachable.insert(*upstream);
            }
            Input::Dialled { upstream, .. } => drop(self.unreachable.remove(upstream)),
            Input::Received { source, message } => self.on_arrival(source, message),
            _ => {}
        }
        let changes = matches!(input, Input::Dialled { .. } | Input::Addresses { .. });
        if let Some(input) = self.keep_for_claim(at, input).and_then(|input| self.look_up_path(at, input)) {
            self.drive(at, input);
        }
        if changes {
            self.judge_claimed(at);
        }
    }

    /// A message has come, and goes to the endpoint next.
    fn on_arrival(&mut self, source: &Source, message: &Message) {
        if !self.traces.is_empty() {
            self.trace_in(source, message);
        }
        match source.side {
            Side::Upstream => self.know_server(source),
            Side::Device => self.endpoint.expect_instances(self.shared.ownership.expects_instances()),
        }
    }

    fn on_time(&mut self) {
        let now = clock::now();
        if self.due.is_some_and(|due| due <= now) {
            self.endpoint.handle_timeout(now);
            self.drain(now);
            self.settle(now);
        }
        if self.awaiting_claim.due().is_some_and(|due| due <= now) {
            self.judge_claimed(now);
        }
        self.end_traces();
        self.calls.forget_old(now);
        self.refresh_orphaned_bindings(now);
        self.look_at_services(now);
        // This comes first: when another clock becomes the trusted one, ends are converted before any is due.
        let reading = Reading::now();
        if let Some(frame) = self.frames.look() {
            for id in self.instances.move_ends_to(frame) {
                let _ = self.shared.record_notes.send(RecordNote::EndMoved(id));
            }
        }
        if reading.is_steady {
            self.instances.cut_leases(reading.system + MAX_LIFETIME_S);
        }
        while let Some((id, due)) = self.instances.pop_due(reading.confirmed) {
            match due {
                Due::Reminder(reminder) => self.remind(id, reminder),
                Due::Lost { since } => self.tell_registration_failing(id, since),
                Due::Repeat(what) => self.tell_again(id, what),
                Due::End => self.expire(id),
            }
        }
    }

    /// The peer of an accepted connection has proven its identity.
    pub(crate) fn know(&self, flow: FlowId) {
        if let Some(writer) = self.outgoing.writer(flow) {
            writer.know();
        }
    }

    /// The peer of an accepted connection is a SIP server of a binding here, by its address.
    fn know_server(&self, source: &Source) {
        if let Some(writer) = self.outgoing.writer(source.flow)
            && writer.is_strangers()
            && self.endpoint.is_sip_server(source)
        {
            writer.know();
        }
    }

    /// A connection leads to a device without pushes.
    pub(crate) fn keep_alive(&self, flow: FlowId) {
        if let Some(writer) = self.outgoing.writer(flow) {
            writer.keep_alive();
        }
    }

    fn next_deadline(&self) -> Instant {
        let now = clock::now();
        let end = self.instances.next_moment().map(|at| now + Duration::from_secs(at.saturating_sub(confirmed_now())));
        let nap = now + NAP_MAX;
        if !self.doubt.is_over() || self.shared.ownership.is_doubtful() {
            return now + LOOK_AGAIN;
        }
        let trace = self.next_trace_end().map(|at| now + Duration::from_secs(at.saturating_sub(unix_now())));
        [self.due, end, trace, self.awaiting_claim.due(), self.orphaned_bindings.due()]
            .into_iter()
            .flatten()
            .fold(nap, Instant::min)
    }

    /// Handles the outputs of the endpoint that follow from an input that arrived at `at`.
    fn drain(&mut self, at: Instant) {
        loop {
            let output = match self.endpoint.poll() {
                Polled::Output(output) => output,
                Polled::Until(due) => {
                    self.due = due;
                    return;
                }
            };
            if let (Output::Send { flow, bytes }, false) = (&output, self.traces.is_empty()) {
                self.trace_out(*flow, bytes);
            }
            match output {
                Output::Send { flow, bytes } => {
                    if !self.outgoing.send(flow, bytes) {
                        self.next.push_back(Input::Closed(flow));
                    }
                }
                Output::SendLarge { peer, bytes } => {
                    if !self.shared.large.send(self.index, peer, bytes) {
                        self.next.push_back(Input::StreamLost { peer, was_open: false });
                    }
                }
                Output::Answer { upstream, peer, transport, bytes } => {
                    self.shared.dialler.answer(self.index, upstream, peer, transport, bytes);
                }
                Output::Dial { upstream, avoid, for_one } => {
                    let avoid = avoid.and_then(|flow| match flow {
                        FlowId::Datagram(peer) => Some((peer, Transport::Udp)),
                        // It is the flow in use, or was the last one.
                        FlowId::Stream(_) => self.shared.dialler.led_to(self.index, upstream),
                    });
                    self.shared.dialler.dial(self.index, upstream, avoid, for_one);
                }
                Output::Close(flow) => self.outgoing.close(flow),
                Output::Event(event) => self.on_event(at, event),
            }
        }
    }
}

/// Whether nobody waits any more for the effect of an input that waited.
fn is_given_up(input: &ShardInput) -> bool {
    matches!(input, ShardInput::Request(request) if request.is_given_up())
}

/// Yields to the tasks that are ready.
async fn yield_once() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        // Behind all tasks that are ready on this core, and before the next poll of the system.
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
