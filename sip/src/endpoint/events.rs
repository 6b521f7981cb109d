//! The events of an endpoint: what its shell acts on, apart from messages to send.
//!
//! Invariant: no event holds a credential of an account. Values that a caller has chosen have types of their own, so that no log prints them.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::pushed::{
    ContactsRemoved, FlowBinding, ForwardedRegisterId, ProofStep, PushBinding, PushBindingEnd, PushBindingSuccession,
    RegisterOutcome, RouteRequest,
};
use crate::auth::Challenge;
use crate::edge::mailbox::Mailbox;
use crate::edge::replaces::DialogMark;
use crate::edge::{CallState, InboundMessage, IncomingCall, Proof, VerificationId};
use crate::id::{BindingId, CallId, FlowId, InstanceId, MessageId, UpstreamId};
use crate::registration::RegistrationFailure;
use crate::transaction::InviteChange;

/// A name that a registrar gave (RFC 5627). It holds an address of record, and prints none.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GivenName(pub Box<str>);

impl fmt::Debug for GivenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GivenName")
    }
}

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// The SIP server wants a digest for a REGISTER of this binding; answer with [`Input::Authorization`](super::Input::Authorization). One REGISTER may need
    /// several, one after the other: its registrar's and a proxy's.
    Challenged {
        /// The binding that is being registered.
        binding: BindingId,
        /// The device whose credentials are to answer.
        instance: InstanceId,
        /// The challenge: first the topmost that is supported (RFC 8760 §2.4); when the answer is `None`, the next one that
        /// the same response offers, until there is none.
        challenge: Challenge,
        /// The count of answers with this nonce, this one included.
        nc: u32,
        /// A fresh client nonce.
        cnonce: String,
        /// The digest's URI: the Request-URI.
        uri: Box<str>,
    },
    /// As [`Event::Challenged`], for a SUBSCRIBE; answer with [`Input::SubscriptionAuthorization`](super::Input::SubscriptionAuthorization).
    SubscriptionChallenged {
        /// The binding whose mailbox is subscribed to; the credentials of any of its devices will do.
        binding: BindingId,
        /// The challenge, as in [`Event::Challenged`].
        challenge: Challenge,
        /// The count of answers with this nonce, this one included.
        nc: u32,
        /// A fresh client nonce.
        cnonce: String,
        /// The digest's URI: the Request-URI.
        uri: Box<str>,
    },
    /// The binding is registered; also after each refresh.
    Registered {
        /// The binding; the event concerns all its [callable instances](super::Endpoint::callable_instances).
        binding: BindingId,
        /// The device whose credentials were accepted.
        instance: InstanceId,
        /// The lifetime that the SIP server granted.
        expires: Duration,
        /// Whether it was registered immediately before, too.
        refresh: bool,
    },
    /// The address and port of a SIP server have granted a registration, of a lent account or of one that passes through; also each refresh.
    AddressGrants(SocketAddr),
    /// An upstream's SIP server reports the address at which it sees this relay (RFC 3581, RFC 8489); told when it changes.
    PublicAddress {
        /// The SIP server that said so.
        upstream: UpstreamId,
        /// The public side of this relay's socket, behind whatever NAT there is.
        address: SocketAddr,
    },
    /// The flow of an [`Input::Dialled`](super::Input::Dialled) or [`Input::FailbackDialled`](super::Input::FailbackDialled) was taken or discarded; told once
    /// for each.
    FlowSettled {
        /// The upstream that it was opened for.
        upstream: UpstreamId,
        /// The flow.
        flow: FlowId,
        /// Whether the flow is in use, and otherwise why not.
        outcome: FlowOutcome,
    },
    /// No flow to an upstream is in use, dialled or wanted here; the next one is asked for by [`Output::Dial`](super::Output::Dial).
    UpstreamIdle {
        /// The upstream.
        upstream: UpstreamId,
        /// Whether nothing here needs the upstream any more; otherwise its addresses still matter.
        forgotten: bool,
    },
    /// A SIP server has asked a device for credentials with a challenge that cannot be answered: the attempt has failed, as the next event tells.
    Unanswerable {
        /// The device whose credentials were to be used.
        instance: InstanceId,
        /// Whether the digest challenge cannot be read; otherwise it offers no supported algorithm.
        unreadable: bool,
    },
    /// A registration attempt failed. After [`RegistrationFailure::Refused`] this device must be unbound; so it must after
    /// [`REFUSALS_MAX`](super::REFUSALS_MAX) times [`RegistrationFailure::CredentialsRefused`], unless the SIP server is at fault. The endpoint then tries the
    /// credentials of another device of the binding. When the binding is still [registered](super::Endpoint::is_registered), the attempt was a check of a
    /// joining device.
    RegistrationFailed {
        /// The binding of the attempt.
        binding: BindingId,
        /// The device whose credentials were to be used.
        instance: InstanceId,
        /// Whether the account is refused, or the attempt is repeated.
        failure: RegistrationFailure,
    },
    /// The unregistration of a binding whose apps are in the foreground was confirmed with this status; or it was not, with this status or without an
    /// answer, and is tried again while the Contact stands.
    Unregistered(BindingId, Result<u16, Option<u16>>),
    /// The device is gone from this endpoint, after [`Input::Unbind`](super::Input::Unbind) or [`Input::Release`](super::Input::Release).
    Unbound {
        /// The device of [`Input::Unbind`](super::Input::Unbind) or [`Input::Release`](super::Input::Release).
        instance: InstanceId,
        /// What became of its registration.
        outcome: Unbinding,
    },
    /// A device wants to attach, or continues a call by another connection; answer with [`Input::DeviceVerified`](super::Input::DeviceVerified).
    VerifyDevice {
        /// The number for the answer.
        verification: VerificationId,
        /// The instance that From, To and the proof of a REGISTER name, or the dialog and the proof of another request.
        instance: InstanceId,
        /// The method of the request that carries the proof, whose body is taken as empty.
        method: Box<str>,
        /// The proof.
        proof: Proof,
    },
    /// The peer of a device's flow has proven to be a device: by an instance's secret, or by a registration that its SIP server has accepted.
    FlowProven(FlowId),
    /// A device is attached by a flow.
    Attached(InstanceId),
    /// A device has no flow any more.
    Detached(InstanceId),
    /// A call waits: wake this device. At most once for a call and a device.
    Wake(Box<IncomingCall>),
    /// A call is forked to a device that is attached; no push is needed. An [`Event::Wake`] follows if the device leaves it
    /// without any response.
    Forked(Box<IncomingCall>),
    /// The INVITE of a call has come that [`Input::ExpectCall`](super::Input::ExpectCall) announced; its device is not woken again.
    ExpectedCallArrived(Box<IncomingCall>),
    /// A call's state changed for one of its devices; [`CallState::Ringing`] comes once more when the device itself rings.
    /// After [`CallState::is_final`] nothing follows for this device.
    Call {
        /// The identifier that the push carried.
        call: CallId,
        /// The device for which the state has changed.
        instance: InstanceId,
        /// How the call stands for this device now.
        state: CallState,
        /// When a device came for it: from the INVITE's arrival to its attachment. Told once, and once more of a device that was attached, and woken after all.
        woke_after: Option<Duration>,
    },
    /// The caller has given up, and this device, which was sent a CANCEL, may still answer: where its 200 crosses the CANCEL, the 200 wins. Nothing
    /// else may make the device ring any more. A final [`Event::Call`] follows within [`EdgeTiming::cancel`](crate::timing::EdgeTiming::cancel).
    GivenUp {
        /// The call.
        call: CallId,
        /// The device.
        instance: InstanceId,
        /// The final state, unless the device answers.
        state: CallState,
    },
    /// A device has answered a call, and the dialog is established.
    DialogBegun {
        /// The call.
        call: CallId,
        /// The device.
        instance: InstanceId,
        /// The mark by which [`Event::DialogEnded`] names this dialog.
        dialog: DialogMark,
    },
    /// One side of a dialog of this device has sent BYE; the dialog may be one of which this endpoint knows nothing more.
    DialogEnded {
        /// The device.
        instance: InstanceId,
        /// The dialog.
        dialog: DialogMark,
        /// Whether the device hung up; otherwise the other side did.
        by_device: bool,
    },
    /// A device has refused a call, which is over for it: its final [`Event::Call`] follows.
    DeviceRefused {
        /// The call.
        call: CallId,
        /// The device.
        instance: InstanceId,
        /// The status of its response, 300 to 699.
        status: u16,
    },
    /// A caller's INVITE is valid no longer (RFC 3261 §13.2.1): it ends as by its CANCEL.
    InviteExpired {
        /// The call.
        call: CallId,
        /// A device that it was for, and that had not refused it.
        instance: InstanceId,
    },
    /// A device's final response to a call is longer than its SIP server may take; the caller gets 500 in its place.
    AnswerTooLong {
        /// The call.
        call: CallId,
        /// The device.
        instance: InstanceId,
    },
    /// The caller has its final answer; told once for a call, after the last [`Event::Call`] of each device.
    Ended {
        /// The identifier that the pushes carried.
        call: CallId,
        /// How it ended: answered when any device did.
        state: CallState,
    },
    /// A call has ended that nobody answered; told once for each device that was to get it and did not decline it. Where the caller's server may send
    /// the call again, as after a 488, this is told once no new INVITE has come for
    /// [`EdgeTiming::comes_again`](crate::timing::EdgeTiming::comes_again).
    Missed {
        /// The call as its push told it; `wait` means nothing any more.
        call: Box<IncomingCall>,
        /// [`CallState::Cancelled`] or [`CallState::TimedOut`].
        state: CallState,
    },
    /// A device does not get this call, because it has had too many or has too many waiting: the call is neither offered nor pushed, and no device
    /// answers it. Told for a limited number of calls of each caller; `wait` means nothing.
    Refused(Box<IncomingCall>),
    /// A MESSAGE is to be stored for a device; answer with [`Input::MessageStored`](super::Input::MessageStored).
    StoreMessage(Box<InboundMessage>),
    /// A device has answered a MESSAGE after it was stored: the stored copy is to be discarded.
    DiscardMessage {
        /// The device that it was stored for.
        instance: InstanceId,
        /// The identifier that [`Event::StoreMessage`] gave it.
        message: MessageId,
    },
    /// A MESSAGE has ended without being stored.
    MessageEnded {
        /// The device that it was for; the first one of the binding when it was refused for all.
        instance: InstanceId,
        /// Whether the device took it, or why it was refused.
        end: MessageEnd,
    },
    /// The account's server says how the mailbox stands (RFC 3842); also when nothing has changed.
    Mailbox {
        /// One device of the binding; the event comes for each.
        instance: InstanceId,
        /// Counts of messages, by class.
        mailbox: Box<Mailbox>,
    },
    /// A registrar has assigned a name to a binding here (a GRUU), or has withdrawn it: [`super::Endpoint::canonical_name`] of the Request-URI of
    /// requests for the binding.
    Name {
        /// The name, in its canonical form.
        name: GivenName,
        /// Whether the name was assigned; otherwise it was withdrawn.
        given: bool,
    },
    /// The server transaction of an INVITE has begun or is over: [`super::Endpoint::key_of_cancelled_or_acked`] of its CANCEL and of its ACK is
    /// the same, whatever else these say, and they are for this endpoint. Told before the first response is sent.
    InviteTransaction(InviteChange),
    /// An INVITE was answered without becoming a call.
    InviteRefused {
        /// The status: 403 wrong source, 404 unknown Contact, 430 no flow (also where the caller hears 480), 480 over the
        /// rate, 482, 483, …
        status: u16,
    },
    /// A request was refused before it reached a binding; an INVITE also with [`Event::InviteRefused`].
    RequestRefused(RequestRefusal),
    /// A response was dropped: its topmost Via is not this relay's (RFC 3261 §18.1.2), or it came from another address than its request's datagram went to.
    ResponseRefused,
    /// A device's REGISTER was answered without [`Event::VerifyDevice`].
    EdgeRegister(EdgeRegister),
    /// A device registers through this relay (RFC 8599); answer with [`Input::Route`](super::Input::Route).
    RouteNeeded(Box<RouteRequest>),
    /// A REGISTER that [`Event::RouteNeeded`] told of has ended; once for each, before what follows from it.
    RegisterEnded {
        /// The number in that event.
        register: ForwardedRegisterId,
        /// Whether its SIP server took the proof that it carried; `None` when there was none, or nothing was said about it.
        proof: Option<bool>,
        /// Its SIP server refused the proof, which may have been for another of its addresses. Few of these are to be excused: a guesser makes as many as he
        /// likes.
        in_doubt: bool,
        /// How it ended, for whoever watches; `None`: it asked the relay for its push services alone.
        outcome: Option<RegisterOutcome>,
        /// The registration that it asked for; `None`: it asked for none, or a later REGISTER has been accepted for the same.
        instance: Option<InstanceId>,
    },
    /// A device shows its SIP server a proof by another method than REGISTER.
    Proof(ProofStep),
    /// One more reference to an upstream is used here: its flow stays for the dialogs of a device that is known no more, or it is remembered which of its
    /// addresses have failed.
    UpstreamKept(UpstreamId),
    /// One reference to an upstream is used no more that [`Input::Route`](super::Input::Route), [`Input::RestorePushBinding`](super::Input::RestorePushBinding)
    /// or [`Event::UpstreamKept`] gave; once for each.
    UpstreamReleased(UpstreamId),
    /// A SIP server has accepted a forwarded REGISTER that asks for pushes, or its refresh.
    PushBindingAccepted(Box<PushBinding>),
    /// A push binding is no more.
    PushBindingEnded {
        /// The instance of its [`PushBinding`].
        instance: InstanceId,
        /// Whether the device, its SIP server, time or the shell ended it.
        end: PushBindingEnd,
    },
    /// A registration that passed through replaces another one of its device, which ends next.
    PushBindingSucceeded(Box<PushBindingSuccession>),
    /// A SIP server has accepted a forwarded REGISTER that removes Contacts which are not known here.
    ContactsRemoved(Box<ContactsRemoved>),
    /// A SIP server has accepted a forwarded REGISTER that asks for no pushes, or its refresh.
    FlowBindingAccepted(Box<FlowBinding>),
    /// A registration that is reached by its flow alone is no more: its flow has ended, or its SIP server or its device has ended it.
    FlowBindingEnded(InstanceId),
    /// The device of a push binding must register again: because the binding ends soon (RFC 8599 §5.5), or because a request other than a call waits
    /// for it (§6.2.3).
    RefreshNeeded(InstanceId),
}

/// Outcome of a flow that was opened for an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowOutcome {
    /// The flow is in use now.
    Taken,
    /// The flow was closed because another one is in use or none is needed; nothing is said against its address.
    NotWanted,
    /// The flow was closed because its address does not register the existing bindings, or does not answer.
    DoesNotServe,
}

/// Reason why a request was refused before it reached a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestRefusal {
    /// 403: the request did not come from the account's own SIP server.
    WrongSource,
    /// 404: the Request-URI names no binding here.
    Unknown,
    /// 405, or 403 for a device: the method is not served outside a dialog.
    Method,
}

/// Outcome of a device's REGISTER for which no proof was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeRegister {
    /// 401: the REGISTER carried no credentials, or none over a fresh nonce.
    Challenged,
    /// 403: From, To and credentials do not name the same instance.
    Refused,
    /// 403: no such instance is served here.
    Unknown,
    /// 503: no such instance is here yet, and some may be on their way.
    Early,
    /// 403 or 503: the flow carries as many instances as it may, or the endpoint is full.
    Limited,
}

/// What becomes of the registration of a device that leaves its binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unbinding {
    /// The SIP server confirmed the end of the registration, or had none to end.
    Confirmed,
    /// The SIP server has not confirmed the end of the registration.
    Unconfirmed,
    /// Other devices keep the binding: it was not unregistered.
    Shared,
}

/// Outcome of a MESSAGE that is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageEnd {
    /// The device accepted it.
    Delivered,
    /// The device refused it, with this status.
    Refused(u16),
    /// The MESSAGE only said that its sender is composing (RFC 3994): it was given to the attached devices, and is never stored.
    Composing,
    /// The body is larger than [`super::Settings::message_bytes`]: 413.
    TooLarge,
    /// Too many MESSAGEs have come for this device: 480.
    Limited,
    /// The MESSAGE cannot be stored as it is: 400, 415 or 420.
    Unfit,
}
