//! The state of one shard: inputs in, outputs out.
//!
//! # The drive contract
//! One mutation ([`Endpoint::handle`] or [`Endpoint::handle_timeout`]), then [`Endpoint::poll`] until it gives
//! [`Poll::Until`], which says when to call [`Endpoint::handle_timeout`]; then the next mutation. `now` never goes back.
//!
//! # Owners
//! State has owners with private fields; logic that concerns several owners is here, in `impl Endpoint`.
//!
//! | room | owner | what it holds |
//! | --- | --- | --- |
//! | `core` | `Core` | settings, randomness, deadlines, transactions, outputs |
//! | `io`, `events`, `new_binding`, `pushed`, `counts`, `settings` | | the inputs, outputs and events; how much an endpoint holds; the settings that an endpoint is given once |
//! | `requests` | | classification of requests and responses from the network, and dispatch to the rooms below |
//! | `broken` | | requests that lack what every one has, or break its grammar |
//! | `unanswered`, `returns` | | requests whose stream has ended before they were answered, and the peer that it led to |
//! | `flows` | `FlowTable` | flows of both sides: pings, and the end of a stream |
//! | `bindings` | `Bindings` | registrations and GRUUs |
//! | `late_answers` | | a SIP server's answers to a REGISTER that was given up |
//! | `credentials` | `Verdicts` | a SIP server's verdicts on the different credentials of one binding's devices |
//! | `groups` | `Groups` | the devices that share a binding, and the credentials in use |
//! | `subscriptions` | `Subscriptions` | subscriptions to mailboxes |
//! | `upstreams` | `Upstreams` | SIP servers: the flow to each, the pace of REGISTERs, failback to a better address |
//! | `lost_time` | | time in which the machine stood still |
//! | `devices` | `Devices` | the instances that are served |
//! | `budgets` | `Budgets`, `Callers` | how much each device may be sent and may begin, and the share of each caller |
//! | [`successors`] | `Successors` | instances that were enabled again, and their predecessors |
//! | `attachments` | `Attachments` | REGISTERs at the edge, and the flow by which each device is attached |
//! | `early_proofs` | | proofs of devices whose instances may be on their way here |
//! | [`elsewhere`] | `Elsewhere` | instances that another node has, and whose dialogs go through here |
//! | `left_flows` | `LeftFlows` | the flows that devices have left for later ones |
//! | [`calls`] | `Calls` | calls: expected, waiting, closed |
//! | `dialogs` | `DialogForwarding` | requests inside a dialog, in both directions |
//! | `carried_proofs` | `CarriedProofs` | proofs for a SIP server in other requests than REGISTER |
//! | [`outgoing`] | `Outgoing` | requests that a device begins, to its own SIP server |
//! | `asked` | `AskedByDevices` | unanswered requests of devices, and the flows that they are answered by |
//! | `asked_servers` | `AskedOfServers` | unanswered requests that were sent to SIP servers for devices, by stream |
//! | `open_requests` | `Unacknowledged` | what is open beside calls when the process is about to end |
//! | `unanswered_by_device` | | requests that a device leaves without any response |
//! | [`unproven`] | `Unproven` | in-call messages by a flow on which their device has not proved itself |
//! | [`parked`] | `ParkedRequests` | requests inside a dialog that wait for a peer without a flow |
//! | [`messages`] | `Messages` | MESSAGEs outside a dialog |
//! | `traced` | | the instances that a message is about |
//! | `notify` | | NOTIFYs outside a dialog, OPTIONS |
//! | [`forwarded_registers`], [`register_table`], [`register_turns`], [`register_outcomes`] | `ForwardedRegisters` | REGISTERs that are forwarded to another SIP server, when they may go, and how they ended |
//! | [`given_nonces`] | `GivenNonces` | the nonces that addresses of SIP servers have given, which tell whose a refused proof is |
//! | [`held_answers`] | `HeldAnswers` | the answers that wait until a registration is kept |
//! | `replaced`, `lingering` | | registrations whose place another one takes; those that have ended while a caller waits |
//! | [`push_bindings`], `flow_bindings` | `PushBindings` | registrations made by forwarded REGISTERs, whose devices are pushed (RFC 8599) or reached by their flow alone (RFC 5626) |
//!
//! Invariant: same settings, seed and inputs give the same outputs. No iteration over a hash map decides anything. What
//! an input may make it keep is bounded: transactions by [`TRANSACTIONS_MAX`], calls of an instance by
//! [`calls::CALLS_PER_INSTANCE`], those that came too early by [`calls::overtaking::OVERTAKING_MAX`], predecessors by [`successors::SUCCESSIONS_MAX`], MESSAGEs
//! by [`messages::MESSAGES_MAX`], the rest by bindings and open flows.

mod asked;
mod asked_servers;
mod attachments;
mod bindings;
mod broken;
mod budgets;
pub mod calls;
mod carried_proofs;
mod core;
mod counts;
mod credentials;
mod devices;
mod dialogs;
pub mod early_proofs;
pub mod elsewhere;
mod events;
mod flow_bindings;
mod flows;
pub mod forwarded_registers;
mod given_nonces;
mod groups;
pub mod held_answers;
mod io;
mod late_answers;
mod left_flows;
mod lingering;
mod lost_time;
pub mod messages;
mod new_binding;
mod notify;
mod open_requests;
pub mod outgoing;
pub mod parked;
pub mod push_bindings;
mod pushed;
mod register_outcomes;
mod register_table;
pub mod register_turns;
mod replaced;
mod requests;
mod returns;
mod settings;
mod subscriptions;
pub mod successors;
mod traced;
mod unanswered;
mod unanswered_by_device;
pub mod unproven;
mod upstreams;

use std::time::Instant;

pub use core::TRANSACTIONS_MAX;
pub use counts::Counts;
pub use events::*;
pub use io::*;
pub use new_binding::*;
pub use pushed::*;
pub use settings::*;

use crate::flow::{SignOfLife, TokenKey};
use crate::id::{BindingId, BranchId, InstanceId, ShardTag};
use crate::message::Message;
use crate::random::Random;
use crate::transaction::{Expired, RequestKey};

use asked::AskedByDevices;
use asked_servers::AskedOfServers;
use attachments::Attachments;
use bindings::Bindings;
use calls::Calls;
use calls::at_end::AtEnd;
use core::{ClientOwner, Core, ServerOwner, TIMERS_SPARE, Timer};
use devices::Devices;
use dialogs::DialogForwarding;
use elsewhere::Elsewhere;
use flows::FlowTable;
use groups::Groups;
use left_flows::LeftFlows;
use messages::Messages;
use open_requests::Unacknowledged;
use outgoing::Outgoing;
use parked::ParkedRequests;
use subscriptions::Subscriptions;
use successors::Successors;
use unproven::Unproven;
use upstreams::Upstreams;

/// One shard's SIP: registrations, calls, attached devices.
#[derive(Debug)]
pub struct Endpoint {
    core: Core,
    bindings: Bindings,
    upstreams: Upstreams,
    devices: Devices,
    groups: Groups,
    attachments: Attachments,
    left_flows: LeftFlows,
    flows: FlowTable,
    dialogs: DialogForwarding,
    outgoing: Outgoing,
    asked: AskedByDevices,
    asked_of_servers: AskedOfServers,
    unproven: Unproven,
    elsewhere: Elsewhere,
    parked: ParkedRequests,
    calls: Calls,
    messages: Messages,
    subscriptions: Subscriptions,
    successors: Successors,
    unacknowledged: Unacknowledged,
    push_bindings: push_bindings::PushBindings,
    held: held_answers::HeldAnswers,
    registers: register_table::ForwardedRegisters,
    given_nonces: given_nonces::GivenNonces,
    proofs: carried_proofs::CarriedProofs,
}

impl Endpoint {
    /// An endpoint with nothing in it. The seed makes every identifier, tag and nonce; it must be secret and random.
    pub fn new(now: Instant, settings: Settings, seed: [u8; 32]) -> Self {
        let mut random = Random::new(seed);
        let mut nonce_key = [0; 32];
        for chunk in nonce_key.chunks_exact_mut(8) {
            chunk.copy_from_slice(&random.bits().to_be_bytes());
        }
        Self {
            core: Core::new(settings, random),
            bindings: Bindings::default(),
            upstreams: Upstreams::default(),
            devices: Devices::default(),
            groups: Groups::default(),
            attachments: Attachments::new(nonce_key, now),
            left_flows: LeftFlows::default(),
            flows: FlowTable::default(),
            dialogs: DialogForwarding::default(),
            outgoing: Outgoing::default(),
            asked: AskedByDevices::default(),
            asked_of_servers: AskedOfServers::default(),
            unproven: Unproven::default(),
            elsewhere: Elsewhere::default(),
            parked: ParkedRequests::default(),
            calls: Calls::default(),
            messages: Messages::default(),
            subscriptions: Subscriptions::default(),
            successors: Successors::default(),
            unacknowledged: Unacknowledged::default(),
            push_bindings: push_bindings::PushBindings::default(),
            held: held_answers::HeldAnswers::default(),
            registers: register_table::ForwardedRegisters::default(),
            given_nonces: given_nonces::GivenNonces::default(),
            proofs: carried_proofs::CarriedProofs::default(),
        }
    }

    /// One mutation. Drain [`Self::poll`] before the next.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Received { source, message } => self.on_message(now, source, message),
            Input::Ping(source) => self.on_ping(now, source),
            Input::Pong(flow) => self.on_sign_of_life(now, flow, SignOfLife::Pong),
            Input::Stun { flow, bytes } => self.on_stun(now, flow, &bytes),
            Input::LeadsTo { flow, address } => self.upstreams.note_address(flow, address),
            Input::Dialled { upstream, flow, transport } => self.on_dialled(now, upstream, flow, transport),
            Input::UpstreamServes(upstream) => self.on_upstream_serves(now, upstream),
            Input::UpstreamReplaced(upstream) => self.on_upstream_replaced(now, upstream),
            Input::UpstreamAddressChanged(upstream) => self.on_address_changed(now, upstream),
            Input::FailbackDialled { upstream, flow, transport } => {
                self.on_failback_dialled(now, upstream, flow, transport);
            }
            Input::DialFailed(upstream) => self.on_dial_failed(now, upstream),
            Input::Addresses { upstream, addresses, is_whole } => {
                self.upstreams.set_addresses(now, upstream, addresses, is_whole);
            }
            Input::Closed(flow) => self.on_closed(now, flow),
            Input::Doubted(flow) => self.on_doubted(now, flow),
            Input::StreamLost { peer, was_open } => self.core.transactions.on_stream_lost(now, peer, was_open),
            Input::Bind(new) => {
                let instance = new.instance;
                self.on_bind(now, *new);
                self.forget_elsewhere(now, instance);
            }
            Input::Unbind { instance, deadline } => self.on_unbind(now, instance, deadline),
            Input::RetryNow(instance) => self.retry_now(now, instance),
            Input::RegisterAgain(instance) => self.register_again(now, instance),
            Input::Release(instance) => self.on_release(now, instance),
            Input::Suspend(instance) => self.on_presence(now, instance, Presence::Foreground),
            Input::Resume(instance) => self.on_presence(now, instance, Presence::Background),
            Input::Vouch(instance) => self.on_vouch(now, instance),
            Input::Succeed { earlier, successor } => self.on_succeed(now, earlier, successor),
            Input::Authorization { binding, instance, authorization } => {
                self.on_authorization(now, binding, instance, authorization);
            }
            Input::DeviceVerified { verification, granted } => self.on_device_verified(now, verification, granted),
            Input::DeviceUnverified(verification) => self.on_device_unverified(now, verification),
            Input::KnownElsewhere(known) => self.on_known_elsewhere(now, *known),
            Input::NotElsewhere(instance) => self.on_not_elsewhere(now, instance),
            Input::ExpectCall { instance, from, name, wait } => self.on_expect_call(now, instance, from, name, wait),
            Input::StopExpecting(call) => self.on_stop_expecting(now, call),
            Input::LeaveExpected(instance) => self.on_leave_expected(instance),
            Input::Ring { call, instance } => self.on_ring(now, call, instance),
            Input::Decline(call) => self.end_call(now, call, CallState::Declined, 603),
            Input::Subscribe(binding) => self.on_subscribe(now, binding),
            Input::SubscriptionAuthorization { binding, authorization } => {
                self.on_subscription_authorization(now, binding, authorization);
            }
            Input::DeviceUnreachable { call, instance } => self.on_device_unreachable(now, call, instance),
            Input::MessageStored { request, instance, outcome } => {
                self.on_message_stored(now, request, instance, outcome);
            }
            Input::RefuseCalls(failover) => self.calls.refused = Some(AtEnd::new(failover)),
            Input::EndCalls(failover) => {
                self.on_end_calls(now, failover);
                self.end_requests(now);
            }
            Input::HandOver => self.on_hand_over(),
            Input::Taken(instance) => self.devices.set_taken(instance),
            Input::TimeLost { lost, for_sure } => self.on_time_lost(now, lost, for_sure),
            Input::Route { register, route } => self.on_route(now, register, route),
            Input::ProofAdmitted(proof, word) => self.on_proof_admitted(now, proof, word),
            Input::RestorePushBinding(restored) => self.on_restore_push_binding(now, *restored),
            Input::PushBindingKept(instance) => self.answer_held(now, instance),
            Input::ReleasePushBinding { instance, to } => self.on_released(now, instance, to),
            Input::RemovePushBinding(instance) => {
                self.attachments.end_dialogs(now, instance);
                self.remove_push_binding(now, instance, PushBindingEnd::Removed);
            }
        }
        self.judge_overtaking(now);
        self.core.flush();
        self.forget_stale_timers();
    }

    /// Frees what deadlines of devices and REGISTERs have left behind that are gone, when it has become the larger part.
    fn forget_stale_timers(&mut self) {
        if self.core.timers.pending() < self.core.sweep_timers_at {
            return;
        }
        let Self { core, devices, attachments, push_bindings, held, registers, upstreams, .. } = self;
        core.timers.retain(|at, timer| match timer {
            Timer::Device(it) => devices.is_armed(*it, at) || attachments.is_gone_until(*it, at),
            Timer::PushBinding(instance) => push_bindings.is_armed(*instance, at),
            Timer::HeldAnswer(instance) => held.is_armed(*instance, at),
            Timer::ForwardedRegister(register) => registers.knows(*register),
            Timer::Upstream(upstream) | Timer::Pace(upstream) | Timer::Held(upstream) => {
                upstreams.registrar(*upstream).is_some()
            }
            _ => true,
        });
        core.sweep_timers_at = core.timers.pending() * 2 + TIMERS_SPARE;
    }

    /// Fires what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.core.timers.pop_due(now) {
            match timer {
                Timer::Binding(binding) => self.on_binding_due(now, binding),
                Timer::Check(binding) => self.settle_group(now, binding),
                Timer::Unbind(binding) => self.on_unbind_due(now, binding),
                Timer::Again(binding) => self.on_too_late_again(now, binding),
                Timer::Upstream(upstream) => self.on_upstream_due(now, upstream),
                Timer::Held(upstream) => self.on_held_due(now, upstream),
                Timer::Pace(upstream) => self.on_pace_due(now, upstream),
                Timer::Device(instance) => self.on_device_due(now, instance),
                Timer::Call(call) => self.on_call_due(now, call),
                Timer::ReplacedFlow(upstream, flow) => self.on_replaced_flow_due(now, upstream, *flow),
                Timer::Return(flow) => {
                    self.core.returns.remove(&*flow);
                }
                Timer::Linger(flow) => self.core.outputs.push_back(Output::Close(*flow)),
                Timer::Parked(who) => self.on_parked_due(now, who),
                Timer::Asked(instance) => self.on_asked_due(now, instance),
                Timer::Unproven(flow) => self.on_unproven_due(now, *flow),
                Timer::Overtaking => self.calls.registration_changed = true,
                Timer::Forget(call) => self.calls.forget(call),
                Timer::Missed(key) => self.on_missed_due(now, *key),
                Timer::Successors => self.on_successors_due(now),
                Timer::Subscription(binding) => self.on_subscription_due(now, binding),
                Timer::Message(message) => self.on_message_due(now, message),
                Timer::Unheard(branch) => self.on_unheard_due(now, branch),
                Timer::ForwardedRegister(register) => self.on_forwarded_register_due(now, register),
                Timer::PushBinding(instance) => self.on_push_binding_due(now, instance),
                Timer::HeldAnswer(instance) => self.on_held_answer_due(now, instance),
                Timer::Elsewhere(instance) => self.on_elsewhere_due(now, instance),
            }
        }
        while let Some(expired) = self.core.transactions.poll_expired(now) {
            match expired {
                Expired::Client(_, ClientOwner::Forwarded(server, upstream)) => {
                    self.on_forwarded_timeout(now, server, upstream);
                }
                Expired::Client(_, ClientOwner::ForwardedRegister(register)) => {
                    self.on_forwarded_register_timeout(now, register);
                }
                Expired::Client(branch, owner) => self.on_unanswered(now, branch, owner),
                Expired::Server(_) => {}
            }
        }
        self.judge_overtaking(now);
        self.core.flush();
        for address in std::mem::take(&mut self.core.sent_again) {
            self.upstreams.charge(now, address);
        }
    }

    /// The next output; when there is none, the next deadline.
    pub fn poll(&mut self) -> Poll {
        if let Some(output) = self.core.outputs.pop_front() {
            return Poll::Output(output);
        }
        let deadlines = [self.core.timers.next(), self.core.transactions.next_deadline()];
        Poll::Until(deadlines.into_iter().flatten().min())
    }

    /// The key of the INVITE whose transaction a CANCEL or an ACK from this side is for (RFC 3261 §9.2, §17.2.3), which
    /// [`Event::InviteTransaction`] told of by the endpoint that has it; `None` for any other message.
    pub fn key_of_cancelled_or_acked(message: &Message, side: Side) -> Option<String> {
        crate::transaction::key_of_cancelled_or_acked(message, side)
    }

    /// The key of the INVITE that a message from this side is, as [`Self::key_of_cancelled_or_acked`] names it; `None` for any other message.
    pub fn key_of_invite(message: &Message, side: Side) -> Option<String> {
        let is_invite = message.is_request() && message.method() == Some(crate::message::Method::Invite);
        is_invite.then(|| RequestKey::of(message, message.via().as_ref(), side).as_str().to_owned())
    }

    /// The shard that a message belongs to; `None`: any shard may answer it. A CANCEL or an ACK whose [`Self::key_of_cancelled_or_acked`] an
    /// endpoint told of is for that one instead.
    ///
    /// A response goes by the branch of its topmost Via; a request by its topmost Route, else by the user of its
    /// Request-URI, else by the user of its From (a device's REGISTER), else by the AOR of a REGISTER that passes through.
    pub fn shard_of(message: &Message) -> Option<ShardTag> {
        if !message.is_request() {
            let branch = message.via()?.branch()?;
            return BranchId::parse(branch.split_once('.').map_or(branch, |(id, _)| id)).map(BranchId::tag);
        }
        // Another user there, as the identifier that somebody else's proxy knows its own by, names no shard.
        let ours = |user: &&str| TokenKey::is_one(user) || crate::edge::push_proxy::is_path(user);
        if let Some(tag) = message.route_user(0).filter(ours).and_then(TokenKey::tag_of) {
            return Some(tag);
        }
        let user = message.request_uri().and_then(crate::message::Uri::user_of);
        if let Some(binding) = user.and_then(BindingId::parse) {
            return Some(binding.tag());
        }
        // A strict router before this relay has put our Route there (RFC 3261 §16.4).
        if let Some(tag) = user.filter(|user| TokenKey::is_one(user)).and_then(TokenKey::tag_of) {
            return Some(tag);
        }
        let from = message.from()?;
        let own = from.user().and_then(InstanceId::parse).map(InstanceId::tag);
        let passing = || crate::edge::push_proxy::shard_of(message);
        own.or_else(|| passing().filter(|_| message.method() == Some(crate::message::Method::Register)))
    }

    /// The shard of the AOR that a request's From names: that of the registration which a device that has registered through
    /// the relay begins it with. A device may call by another name than it has registered, so this is a hint.
    pub fn shard_of_sender(request: &Message) -> Option<ShardTag> {
        crate::edge::push_proxy::shard_of_sender(request)
    }

    /// The address by which a device begins a request: From, or where that names nobody the preferred one.
    pub fn address_of_sender(request: &Message) -> Option<Box<str>> {
        crate::edge::push_proxy::address_of_sender(request)
    }

    /// The names of the registration that a 2xx to a REGISTER is about; `None`: it is no such response, or names nobody.
    pub fn names_of_registration(response: &Message) -> Option<RegistrationNames> {
        crate::edge::push_proxy::names_of_registration(response)
    }

    /// How many calls wait for their final answer, or for the word that they were missed; a shutdown waits until there are none.
    pub fn open_calls(&self) -> usize {
        self.calls.open().len() + self.calls.overtaking() + self.calls.pending_missed()
    }

    /// How many calls are announced whose INVITE has not come.
    pub fn expected_calls(&self) -> usize {
        self.calls.all_expected().len()
    }

    /// How many registrations wait for their turn: `registrations_per_second` of the [`UpstreamPolicy`].
    pub fn registrations_waiting(&self) -> usize {
        self.upstreams.waiting()
    }

    /// How much this endpoint holds at this moment.
    pub fn counts(&self) -> Counts {
        let (attached, device_flows, verifications) = self.attachments.counts();
        Counts {
            push_bindings: self.push_bindings.len(),
            elsewhere: self.elsewhere.len(),
            waiting: self.registers.len() + self.unproven.len() + self.proofs.len(),
            bindings: self.bindings.len(),
            upstreams: self.upstreams.len(),
            devices: self.devices.len(),
            shared: self.groups.len(),
            attached,
            flows: self.upstreams.links() + self.flows.len() + device_flows,
            verifications,
            calls: self.calls.len(),
            messages: self.messages.len(),
            transactions: self.core.transactions.len() + self.dialogs.len() + self.parked.len() + self.asked.len(),
            timers: self.core.timers.pending() + self.core.transactions.timers(),
        }
    }
}
