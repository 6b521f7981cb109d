//! The shard's reactions to the events of its endpoint.
//!
//! Invariant: a secret is unsealed for one event, in [`Shard::with_record`], and dropped before the next event. No reaction waits.

use std::time::{Duration, Instant};

use sip::endpoint::{CallState, EdgeRegister, Event, IncomingCall, Input, Proof, RegistrationFailure, RequestRefusal};
use sip::id::{BindingId, CallId, InstanceId};

use super::Shard;
use super::call_pushes::ReconsiderReason;
use super::stories::CallOrigin;
use crate::agent::digest::{self, Asked, Challenged, Unanswerable};
use crate::agent::tables::instances::{EndKind, FirstRegistration, Row};
use crate::agent::tables::timeline::TimelineEvent;
use crate::agent::{NodeNews, RecordNote};
use crate::audit::{Act, AuditSubject};
use crate::clock::{self, Moment, advertised_now, confirmed_now, unix_now};
use crate::domain::story::Moment as CallMoment;
use crate::domain::{InstanceState, WipeReason};
use crate::metrics::labels::{EdgeRegisterOutcome, InviteOutcome, RegistrationOutcome, SipRefusal};
use crate::vault::Sealed;
use crate::vault::record::{REALMS_MAX, Record, StoredRecord};

impl Shard {
    /// `at`: when the message that caused the event arrived from the network.
    pub(crate) fn on_event(&mut self, at: Instant, event: Event) {
        match event {
            Event::Challenged { binding, instance, challenge, nc, cnonce, uri } => {
                let challenged =
                    Challenged { challenge: &challenge, nc, cnonce: &cnonce, uri: &uri, method: "REGISTER" };
                let authorization = self.answer(instance, &challenged);
                self.next.push_back(Input::Authorization { binding, instance, authorization });
            }
            Event::SubscriptionChallenged { binding, challenge, nc, cnonce, uri } => {
                let challenged =
                    Challenged { challenge: &challenge, nc, cnonce: &cnonce, uri: &uri, method: "SUBSCRIBE" };
                self.on_subscription_challenged(binding, &challenged);
            }
            Event::Registered { binding, instance, expires, refresh } => {
                self.on_registered(binding, instance, expires, refresh);
            }
            Event::AddressGrants(address) => self.shared.dialler.grants(address),
            Event::PublicAddress { upstream, address } => {
                tracing::info!(event = "public-address", upstream = upstream.0, %address, "a SIP server says where it sees this relay");
            }
            Event::FlowSettled { upstream, flow, outcome } => {
                self.shared.dialler.on_flow_outcome(self.index, upstream, flow, outcome);
            }
            Event::UpstreamIdle { upstream, forgotten } => {
                if forgotten {
                    self.unreachable.remove(&upstream);
                }
                self.shared.dialler.idle(self.index, upstream, forgotten);
            }
            Event::Unanswerable { instance, unreadable } => {
                let why = if unreadable { Unanswerable::Challenge } else { Unanswerable::Digest };
                self.on_unanswerable(instance, why);
            }
            Event::RegistrationFailed { binding, instance, failure } => {
                self.on_registration_failed(binding, instance, failure);
            }
            Event::Unregistered(binding, outcome) => self.on_unregistered(binding, outcome),
            Event::Unbound { instance, outcome } => self.on_unbound(instance, outcome),
            Event::VerifyDevice { verification, instance, method, proof }
                if self.instances.get(instance).is_none() && self.shared.vault.is_shared() =>
            {
                self.verify_elsewhere(verification, instance, method, proof);
            }
            Event::VerifyDevice { verification, instance, method, proof } => {
                let granted = self.verify_device(instance, &method, &proof);
                self.next.push_back(Input::DeviceVerified { verification, granted });
            }
            Event::FlowProven(flow) => self.know(flow),
            Event::Attached(instance) => self.on_attached(instance),
            Event::Detached(instance) => self.on_detached(instance),
            Event::Wake(call) => self.on_wake(at, call),
            Event::Forked(call) => self.on_call_without_push(at, call, CallOrigin::Forked),
            Event::ExpectedCallArrived(call) => self.on_call_without_push(at, call, CallOrigin::Arrived),
            Event::Missed { call, state } => self.on_missed(&call, state),
            Event::Refused(call) => self.on_call_refused(at, call),
            Event::StoreMessage(message) => self.store_message(&message),
            Event::DiscardMessage { instance, message } => self.discard_message(instance, message),
            Event::MessageEnded { instance, end } => self.on_message_ended(instance, end),
            Event::Mailbox { instance, mailbox } => self.on_mailbox(instance, mailbox),
            Event::Call { call, instance, state, woke_after } => self.on_call(call, instance, state, woke_after),
            Event::GivenUp { call, instance, state } => self.on_given_up(call, instance, state),
            Event::DeviceRefused { call, instance, status } => {
                self.note(instance, Some(call), TimelineEvent::DeviceRefused { status });
            }
            Event::InviteExpired { call, instance } => self.tell_moment(instance, call, CallMoment::Expired),
            Event::AnswerTooLong { call, instance } => tracing::info!(
                event = "answer-too-long",
                %call,
                %instance,
                "a device's answer to a call is longer than 15 KiB: its caller gets 500"
            ),
            Event::Ended { call, state } => self.on_call_ended(call, state),
            Event::DialogBegun { call, instance, dialog } => self.on_dialog_begun(instance, call, dialog),
            Event::DialogEnded { instance, dialog, by_device } => self.on_dialog_ended(instance, dialog, by_device),
            Event::RouteNeeded(asked) => self.on_route_needed(asked),
            Event::RegisterEnded { register, proof, in_doubt, outcome, instance } => {
                self.on_register_ended(register, proof, in_doubt);
                self.note_register_outcome(instance, outcome);
            }
            Event::Proof(step) => self.on_proof(step),
            Event::UpstreamKept(upstream) => self.shared.upstreams.keep(upstream),
            Event::UpstreamReleased(upstream) => self.shared.upstreams.release(upstream),
            Event::PushBindingAccepted(registration) => self.on_push_binding(*registration),
            Event::PushBindingEnded { instance, end } => self.on_push_binding_ended(instance, end),
            Event::PushBindingSucceeded(it) => {
                self.push_bindings.note_successor(it.earlier, it.successor);
                self.hand_on(it.earlier, it.successor, &it.calls);
            }
            // An error means that nobody is told any more: the process ends.
            Event::ContactsRemoved(taken) => drop(self.shared.node_news.send(NodeNews::ContactsRemoved(taken))),
            Event::FlowBindingAccepted(accepted) => self.on_flow_binding(&accepted),
            Event::FlowBindingEnded(instance) => self.on_flow_binding_ended(instance),
            Event::RefreshNeeded(instance) => self.refresh(instance),
            Event::RequestRefused(reason) => self.shared.metrics.sip_refused(refusal(reason)),
            Event::ResponseRefused => self.shared.metrics.sip_refused(SipRefusal::WrongSource),
            Event::EdgeRegister(outcome) => self.shared.metrics.edge_register(edge_register_outcome(outcome)),
            Event::Name { name, given } => self.shared.shards.names.note(self.index, &name.0, given),
            Event::InviteTransaction(change) => self.shared.shards.invites.note(self.index, &change),
            Event::InviteRefused { status } => self.shared.metrics.invite(invite_outcome(status)),
        }
    }

    /// Answers a challenge with the credentials of any device of the binding.
    fn on_subscription_challenged(&mut self, binding: BindingId, challenged: &Challenged<'_>) {
        let members = self.endpoint.callable_instances(binding);
        let answer = |id| self.with_record(id, |it| digest::answer(it, challenged))?.ok();
        let authorization = members.into_iter().find_map(answer);
        self.next.push_back(Input::SubscriptionAuthorization { binding, authorization });
    }

    fn on_unanswerable(&mut self, instance: InstanceId, why: Unanswerable) {
        if let Some(row) = self.instances.get_mut(instance) {
            row.unanswerable = Some(why);
        }
    }

    /// Whether the device shows the secret of this instance.
    fn verify_device(&mut self, instance: InstanceId, method: &str, proof: &Proof) -> bool {
        let shows = |record: &Record| digest::verify_device(instance, &record.secret, method, proof);
        let app = self.with_record(instance, |record| shows(record).then(|| record.app.clone()));
        if method == "REGISTER" {
            self.shared.metrics.edge_register(match &app {
                Some(Some(_)) => EdgeRegisterOutcome::Attached,
                Some(None) => EdgeRegisterOutcome::Refused,
                None => EdgeRegisterOutcome::Unknown,
            });
        }
        let Some(app) = app.flatten() else { return false };
        self.attached.show(instance, &app);
        true
    }

    fn on_attached(&mut self, instance: InstanceId) {
        self.tell_arrivals(instance);
        self.tell_came_for_announced(instance);
        if self.attached.insert(instance) {
            self.shared.metrics.edge_flows(1);
        }
        self.reconsider_pushes(instance, ReconsiderReason::DeviceCame);
        self.note(instance, None, TimelineEvent::DeviceAttached { after_ms: None });
    }

    fn on_detached(&mut self, instance: InstanceId) {
        if self.attached.remove(instance) {
            self.shared.metrics.edge_flows(-1);
        }
        self.resume_pushes(instance);
        self.note(instance, None, TimelineEvent::DeviceDetached);
    }

    fn on_wake(&mut self, at: Instant, call: Box<IncomingCall>) {
        self.note_invite(&call);
        let how = self.wake(at, &call).map_or_else(CallOrigin::Withheld, CallOrigin::Pushed);
        self.begin_story(call, at, how);
    }

    /// A call is forked to a device that is attached, or that was woken before.
    fn on_call_without_push(&mut self, at: Instant, call: Box<IncomingCall>, origin: CallOrigin) {
        self.note_invite(&call);
        self.track_call(&call, None);
        self.begin_story(call, at, origin);
    }

    /// Runs `work` on the opened record of a lent account. `None`: there is no record, or it does not open.
    pub(crate) fn with_record<T>(&self, id: InstanceId, work: impl FnOnce(&Record) -> T) -> Option<T> {
        self.opened(id, &self.instances.get(id)?.sealed, |record| record.lent().map(work))
    }

    /// Opens the sealed record of an instance of either kind.
    pub(crate) fn opened<T>(
        &self,
        id: InstanceId,
        sealed: &Sealed,
        work: impl FnOnce(&StoredRecord) -> Option<T>,
    ) -> Option<T> {
        let opened = self.shared.vault.open_record(id, sealed, work);
        opened
            .inspect_err(
                |error| tracing::error!(event = "record-unreadable", instance = %id, %error, "a record does not open"),
            )
            .ok()?
    }

    /// Moves an instance from one state to another, in the metrics too.
    pub(crate) fn set_state(&mut self, id: InstanceId, state: InstanceState) {
        if let Some(row) = self.instances.get_mut(id)
            && row.state != InstanceState::Ending
            && row.state != state
        {
            self.shared.metrics.instance_moves(row.state, state);
            row.state = state;
            self.note_settled(id);
        }
    }

    /// Writes an audit line about an instance, if the audit trail is on.
    pub(crate) fn audit(&self, id: InstanceId, act: Act) {
        self.shared.audit.note(act, || AuditSubject {
            instance: Some(id),
            account: self.instances.get(id).map(Row::aor),
            app: self.with_record(id, |record| record.app.clone()),
        });
    }

    fn answer(&mut self, id: InstanceId, challenged: &Challenged<'_>) -> Option<String> {
        let answer = |record: &Record| (digest::answer(record, challenged), record.account.proof.is_password());
        let (answer, is_password) = self.with_record(id, answer)?;
        let lives = self.instances.get(id).is_some_and(|row| row.ending.is_none());
        if answer.is_ok() && is_password && lives && !self.shared.keep_passwords {
            let (all, asked) = (self.asked.entry(id).or_default(), Asked::of(challenged.challenge));
            if !all.contains(&asked) && all.len() < REALMS_MAX {
                all.push(asked);
            }
        }
        if let Some(row) = self.instances.get_mut(id) {
            row.unanswerable = answer.as_ref().err().copied();
        }
        answer.ok()
    }

    /// A binding is registered, and so is each of its members.
    fn on_registered(&mut self, binding: BindingId, by: InstanceId, expires: Duration, refresh: bool) {
        let outcome = if refresh { RegistrationOutcome::Refreshed } else { RegistrationOutcome::Registered };
        self.shared.metrics.registration(outcome);
        let mut proves = !refresh;
        if let Some((upstream, is_proven)) = self.instances.get(by).map(|row| (row.upstream, row.is_proven)) {
            self.shared.dialler.serves(self.index, upstream);
            self.shared.silent_servers.answers(&self.shared.upstreams, upstream);
            self.shared.refusal_doubts.granted(&self.shared.upstreams, upstream, by, is_proven.then(clock::now));
        }
        let mut asked = self.asked.remove(&by).filter(|asked| !asked.is_empty());
        for id in self.endpoint.callable_instances(binding) {
            // An app in the foreground registers by itself: this registration does not concern it, and its state stays.
            if self.instances.get(id).is_some_and(|row| row.state == InstanceState::Foreground) {
                continue;
            }
            self.set_state(id, InstanceState::Registered);
            if self.instances.set_not_lost(id) {
                self.tell_registration_restored(id);
            }
            self.note(id, None, TimelineEvent::Registered);
            if !refresh {
                self.audit(id, Act::Registered);
            }
            if !refresh && self.shared.subscribe && self.with_record(id, |it| it.wake_for.voicemail) == Some(true) {
                self.next.push_back(Input::Subscribe(binding));
            }
            if let Some(row) = self.instances.get_mut(id) {
                if std::mem::take(&mut proves) {
                    self.shared.upstreams.prove(row.upstream);
                }
                row.status = 200;
                row.unanswerable = None;
                row.set_registered_until(unix_now() + expires.as_secs());
                if let Some(first) = row.first.take() {
                    let asked = if id == by { asked.take().unwrap_or_default() } else { Vec::new() };
                    // The receiver is gone if the use case took too long; the instance is kept all the same.
                    let _ = first.send(FirstRegistration::Registered { expires, asked });
                }
            }
        }
        if let Some(row) = self.instances.get_mut(by)
            && !std::mem::replace(&mut row.is_proven, true)
            && row.is_stored
        {
            self.note_proven(by);
        }
        if let Some(asked) = asked {
            // An error means that nobody writes it down any more: the process ends.
            let _ = self.shared.record_notes.send(RecordNote::Accepted { id: by, asked });
        }
    }

    /// Notes in the record that the credentials were accepted.
    pub(crate) fn note_proven(&self, id: InstanceId) {
        // An error means that nobody writes it down any more: the process ends.
        let _ = self.shared.record_notes.send(RecordNote::Proven(id));
    }

    fn on_registration_failed(&mut self, binding: BindingId, instance: InstanceId, failure: RegistrationFailure) {
        if let Some(row) = self.instances.get(instance) {
            let (servers, upstreams) = (&self.shared.silent_servers, &self.shared.upstreams);
            // A server that DNS no longer names does not speak for the account's SIP server.
            let is_of_account = matches!(
                failure,
                RegistrationFailure::CredentialsRefused { .. }
                    | RegistrationFailure::Retry { status: Some(403 | 404 | 604), .. }
            );
            let is_anothers = row.is_proven && is_of_account && self.shared.dialler.refused(self.index, row.upstream);
            if is_anothers && let RegistrationFailure::CredentialsRefused { status, after, .. } = failure {
                return self.on_registration_retried(binding, instance, Some(status), after);
            }
            match failure {
                // An account that was never registered may name a server that does not exist.
                RegistrationFailure::Retry { status: None, .. } if !row.is_proven => {}
                RegistrationFailure::Retry { status: None, .. } => {
                    servers.fails(upstreams, row.upstream, clock::now(), row.registered_until() <= unix_now());
                }
                _ => servers.answers(upstreams, row.upstream),
            }
        }
        match failure {
            RegistrationFailure::Refused { status } => {
                self.shared.metrics.registration(RegistrationOutcome::Refused);
                let unanswerable = self.instances.get(instance).and_then(|row| row.unanswerable);
                // The owner of the credentials is reported last: unbinding it makes the endpoint try another one's credentials.
                for id in self.with_same_credentials(binding, instance).into_iter().chain([instance]) {
                    self.on_refused(id, status, unanswerable);
                }
            }
            RegistrationFailure::CredentialsRefused { status, in_a_row, after } => {
                if self.shared.believes_refusal(instance, self.instances.get(instance), in_a_row) {
                    self.on_registration_failed(binding, instance, RegistrationFailure::Refused { status });
                } else {
                    self.on_registration_retried(binding, instance, Some(status), after);
                }
            }
            RegistrationFailure::Retry { status, after } => {
                if let Some(row) = self.instances.get(instance) {
                    self.shared.upstreams.fails(row.upstream, self.index);
                }
                self.on_registration_retried(binding, instance, status, after);
            }
        }
    }

    /// The outcome of an unregistration for apps in the foreground: its status becomes theirs.
    fn on_unregistered(&mut self, binding: BindingId, outcome: Result<u16, Option<u16>>) {
        if let Err(status) = outcome {
            // Any answer shows that the server is reached.
            self.shared.metrics.registration(match status {
                Some(_) => RegistrationOutcome::UnregistrationFailed,
                None => RegistrationOutcome::TimedOut,
            });
        }
        for id in self.endpoint.all_instances(binding) {
            let Some(row) = self.instances.get_mut(id).filter(|row| row.state == InstanceState::Foreground) else {
                continue;
            };
            if let Err(status) = outcome {
                tracing::info!(event = "unregistration-failed", instance = %id, status, "an unregistration was not confirmed");
            }
            // A 2xx that still lists the Contact confirms no unregistration.
            row.status = outcome.unwrap_or_else(|status| status.filter(|it| *it >= 300).unwrap_or(0));
        }
    }

    fn on_registration_retried(
        &mut self,
        binding: BindingId,
        instance: InstanceId,
        status: Option<u16>,
        after: Duration,
    ) {
        let unreachable = self.instances.get(instance).is_some_and(|row| self.unreachable.contains(&row.upstream));
        self.shared.metrics.registration(match status {
            Some(status) => RegistrationOutcome::of_refusal(status),
            None if unreachable => RegistrationOutcome::Unreachable,
            None => RegistrationOutcome::TimedOut,
        });
        tracing::debug!(event = "registration-retry", %instance, status, after_s = after.as_secs(), "a registration is tried again later");
        // If the binding is still registered, the refusal was for a joining device, or for the check of a device with other credentials than
        // those in use. That device, and all with the same credentials, get no more calls. Without its flow the binding counts for none of them.
        let stands = self.endpoint.has_its_flow(binding);
        let members = if stands { self.endpoint.callable_instances(binding) } else { Vec::new() };
        let (mut all, serves) = (self.endpoint.all_instances(binding), |id: &InstanceId| members.contains(id));
        all.retain(|id| !serves(id) && (!stands || *id == instance || self.is_registered(*id)));
        for id in all {
            self.on_retried(id, status, after);
        }
    }

    fn is_registered(&self, id: InstanceId) -> bool {
        self.instances.get(id).is_some_and(|row| row.state == InstanceState::Registered)
    }

    /// The instances with the same credentials as the refused one, which are not tried. If the binding is still registered, its members are left out.
    /// So are those that were accepted before, if the refused one never was.
    fn with_same_credentials(&self, binding: BindingId, refused: InstanceId) -> Vec<InstanceId> {
        let mut others = self.endpoint.all_instances(binding);
        let members =
            if self.endpoint.is_registered(binding) { self.endpoint.callable_instances(binding) } else { Vec::new() };
        let is_proven = |id: InstanceId| self.instances.get(id).is_some_and(|row| row.is_proven);
        let refused_is_proven = is_proven(refused);
        others.retain(|id| *id != refused && !members.contains(id) && (refused_is_proven || !is_proven(*id)));
        others.retain(|id| self.have_same_credentials(refused, *id));
        others
    }

    /// Whether two instances of one account would answer a challenge alike.
    pub(super) fn have_same_credentials(&self, one: InstanceId, other: InstanceId) -> bool {
        let same = |one: &Record| self.with_record(other, |other| digest::same_credentials(one, other));
        self.with_record(one, same).flatten().unwrap_or(false)
    }

    fn on_refused(&mut self, id: InstanceId, status: u16, unanswerable: Option<Unanswerable>) {
        let Some(row) = self.instances.get_mut(id) else { return };
        (row.status, row.unanswerable) = (status, unanswerable);
        row.set_registered_until(0);
        let (first, is_stored) = (row.first.take(), row.is_stored);
        tracing::info!(event = "registration-refused", instance = %id, status, "the SIP server refused a registration");
        // An instance whose enabling was answered 202 is stored before its first registration ends.
        self.end(id, if is_stored { EndKind::Wiped(WipeReason::RefusedUpstream) } else { EndKind::NeverOurs }, None);
        if let Some(first) = first {
            let _ = first.send(FirstRegistration::Refused { status, unanswerable });
        }
    }

    fn on_retried(&mut self, id: InstanceId, status: Option<u16>, after: Duration) {
        let Some(row) = self.instances.get_mut(id).filter(|row| row.state != InstanceState::Foreground) else { return };
        row.set_registered_until(0);
        // An earlier grant does not answer the request that was left unanswered.
        row.status = status.unwrap_or(if row.status < 300 { 0 } else { row.status });
        // An unanswerable challenge belongs to an earlier attempt.
        row.unanswerable = row.unanswerable.filter(|_| matches!(status, Some(401 | 407)));
        let first = row.first.take();
        self.set_state(id, InstanceState::Retrying);
        // The same clock decides when it is due. The user is told as well if the SIP server has never answered, because whoever enabled push waits for this
        // news.
        let tell_at = confirmed_now() + self.shared.lost_notice.as_secs();
        self.instances.set_lost(id, advertised_now(), tell_at);
        let after_s = u32::try_from(after.as_secs()).unwrap_or(u32::MAX);
        self.note(id, None, TimelineEvent::RegistrationRetry { status, after_s });
        if let Some(first) = first {
            let _ = first.send(FirstRegistration::Failed { status });
        }
    }

    /// A new call: its INVITE came, or its SIP server announced it.
    fn note_invite(&mut self, call: &IncomingCall) {
        let has_come = call.mark.is_some();
        let what = match self.calls.of(call.instance, call.call) {
            None if has_come => TimelineEvent::Invite,
            None => TimelineEvent::Announced,
            // Its INVITE comes after it was announced.
            Some(known) if known.mark.is_none() && has_come => TimelineEvent::Invite,
            Some(_) => return,
        };
        self.note(call.instance, Some(call.call), what);
    }

    fn on_call(&mut self, id: CallId, instance: InstanceId, state: CallState, woke_after: Option<Duration>) {
        if state.is_final() {
            self.stop_push(id, instance);
            self.arrivals.remove(&(instance, id));
        }
        // A call that is forked at once is reported before it is described, and so not known yet.
        let Some(call) = self.calls.get_mut(id, instance) else { return };
        let (was, was_final) = (call.state, call.state.is_final());
        let rings = woke_after.is_none() && state == CallState::Ringing && was == state;
        if let Some(after) = woke_after {
            self.shared.metrics.wake(after);
        }
        // One that rings by a connection that it has kept has come, too.
        let is_there = woke_after.is_some() || rings;
        if is_there {
            call.sign = true;
            call.wait_until(Moment::after(self.shared.answer_timeout));
        }
        call.state = state;
        // The caller of an announced call gets no response yet.
        let (pushed, has_come) = (call.pushed, call.mark.is_some());
        if is_there || state.is_final() {
            self.set_waiting(id, instance, false);
        }
        if let Some(after) = woke_after {
            let after_ms = u32::try_from(after.as_millis()).ok();
            self.note(instance, Some(id), TimelineEvent::DeviceAttached { after_ms });
        }
        if state != was && !was_final {
            if state.is_final() {
                self.note(instance, Some(id), TimelineEvent::CallEnded(state));
            } else if has_come {
                self.note(instance, Some(id), TimelineEvent::CallerHearsRinging);
            }
        } else if rings {
            self.note_device_rings(id, instance);
        }
        if was_final || !state.is_final() {
            return;
        }
        if pushed.is_some_and(|provider| !provider.is_apple()) && state != CallState::Answered {
            self.tell_call_ended(id, instance);
        }
    }

    /// The caller has given up a call that the device may have answered at the same time: the device is not woken for it any more.
    fn on_given_up(&mut self, id: CallId, instance: InstanceId, state: CallState) {
        self.stop_push(id, instance);
        if let Some(call) = self.calls.get_mut(id, instance) {
            call.given_up = Some(state);
        }
    }

    /// The device rings, by its own word.
    pub(crate) fn note_device_rings(&mut self, id: CallId, instance: InstanceId) {
        if self.calls.get_mut(id, instance).is_some_and(|call| !std::mem::replace(&mut call.rings, true)) {
            self.note(instance, Some(id), TimelineEvent::Ringing);
            self.reconsider_push(id, instance, ReconsiderReason::DeviceCame);
        }
    }

    fn on_call_ended(&mut self, id: CallId, state: CallState) {
        self.shared.metrics.invite(match state {
            CallState::Answered => InviteOutcome::Answered,
            CallState::Cancelled => InviteOutcome::Cancelled,
            CallState::AnsweredElsewhere => InviteOutcome::AnsweredElsewhere,
            CallState::Declined => self.calls.end_of_refused(id),
            CallState::TimedOut if self.calls.are_unreachable(id) => InviteOutcome::Unreachable,
            CallState::TimedOut | CallState::Waking | CallState::Ringing => InviteOutcome::TimedOut,
        });
    }
}

fn refusal(reason: RequestRefusal) -> SipRefusal {
    match reason {
        RequestRefusal::WrongSource => SipRefusal::WrongSource,
        RequestRefusal::Unknown => SipRefusal::Unknown,
        RequestRefusal::Method => SipRefusal::Method,
    }
}

fn edge_register_outcome(outcome: EdgeRegister) -> EdgeRegisterOutcome {
    match outcome {
        EdgeRegister::Challenged => EdgeRegisterOutcome::Challenged,
        EdgeRegister::Refused => EdgeRegisterOutcome::Refused,
        EdgeRegister::Unknown => EdgeRegisterOutcome::Unknown,
        EdgeRegister::Early => EdgeRegisterOutcome::Early,
        EdgeRegister::Limited => EdgeRegisterOutcome::Limited,
    }
}

fn invite_outcome(status: u16) -> InviteOutcome {
    match status {
        404 => InviteOutcome::Unknown,
        403 => InviteOutcome::WrongSource,
        430 => InviteOutcome::Unreachable,
        480 | 486 | 503 => InviteOutcome::Limited,
        487 => InviteOutcome::Cancelled,
        _ => InviteOutcome::Refused,
    }
}
