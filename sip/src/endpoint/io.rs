//! The inputs and outputs of an endpoint.
//!
//! Invariant: no type here holds a credential of an account: a challenge goes out, its answer comes in.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::new_binding::{KnownElsewhere, NewBinding};
use super::pushed::{
    CarriedProofId, ContactsRemoved, FlowBinding, ForwardedRegisterId, ProofStep, PushBinding, PushBindingEnd,
    PushBindingSuccession, RegisterRoute, RestoredPushBinding, RouteRefusal, RouteRequest,
};
use crate::auth::Challenge;
pub use crate::edge::admission::EDGE_REALM;
pub use crate::edge::caller::{ANONYMOUS, shown, told};
pub use crate::edge::caller_key::{CallerKey, CallerKeys};
pub use crate::edge::invite_mark::InviteMark;
pub use crate::edge::mailbox::Mailbox;
pub use crate::edge::message_content::MessageContent;
pub use crate::edge::own_proof::SECRET_MARK;
pub use crate::edge::pending_message::StoreOutcome;
pub use crate::edge::push_proxy::{PushContact, PushRequest, RegistrationNames, names_device, server_of};
pub use crate::edge::removed_contacts::RemovedContact;
pub use crate::edge::replaces::{DialogMark, Replaces};
pub use crate::edge::{CallState, InboundMessage, IncomingCall, MessageRequestId, Proof, VerificationId};
pub use crate::flow::{Side, Source, Transport};
use crate::id::{BindingId, CallId, FlowId, InstanceId, MessageId, UpstreamId};
use crate::message::Message;
pub use crate::registration::ContactHosts;
pub use crate::registration::{REFUSALS_MAX, RegistrationFailure};
pub use crate::transaction::InviteChange;

/// How another node has come by a push binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewOwner {
    /// Its device has registered there, so its SIP server has a Path to it.
    Chosen,
    /// It has taken it over from this one: the Path leads here alone.
    Successor,
}

/// An external event that the shell reports to an endpoint.
#[derive(Clone)]
pub enum Input {
    /// A whole message, from a stream's framer or a datagram. Bytes that are [`crate::message::Malformed`] never get
    /// here: their stream is closed, their datagram dropped.
    Received {
        /// The flow, and the address behind it.
        source: Source,
        /// One whole message, its body included.
        message: Message,
    },
    /// A double CRLF came; the endpoint answers it.
    Ping(Source),
    /// A single CRLF came.
    Pong(FlowId),
    /// A datagram for which [`super::Endpoint::is_stun`] is true.
    Stun {
        /// The datagram flow of the peer that sent it.
        flow: FlowId,
        /// The whole datagram.
        bytes: Bytes,
    },
    /// The stream of the next [`Input::Dialled`] or [`Input::FailbackDialled`] leads to this address, at which registrations are
    /// paced whatever SIP server they are for. A datagram's flow says it by itself.
    LeadsTo {
        /// The stream.
        flow: FlowId,
        /// The address at its other end.
        address: IpAddr,
    },
    /// The flow that [`Output::Dial`] asked for is open; for UDP, its address is known. Ends with [`Event::FlowSettled`].
    Dialled {
        /// The upstream of the [`Output::Dial`] that is answered.
        upstream: UpstreamId,
        /// The stream, or for UDP the address to send to.
        flow: FlowId,
        /// The transport that Via, Contact and Record-Route on it name.
        transport: Transport,
    },
    /// The next [`Input::Dialled`] leads elsewhere than what [`Output::Dial`] was to avoid: a binding that failed there waits no longer (RFC 3263 §4.3).
    UpstreamAddressChanged(UpstreamId),
    /// DNS has put the address of its flow in the place of the one before: what was refused there is asked for here at once.
    UpstreamReplaced(UpstreamId),
    /// This upstream has granted another endpoint's registration: neither bindings that have failed once nor a dial that has failed wait longer.
    UpstreamServes(UpstreamId),
    /// A flow to a better address is open (RFC 3263 §4.3). The endpoint probes it with OPTIONS and the REGISTER of a binding that stands, and
    /// moves to it when that is granted; ends with [`Event::FlowSettled`].
    FailbackDialled {
        /// The upstream that the address belongs to.
        upstream: UpstreamId,
        /// The stream, or for UDP the address to send to.
        flow: FlowId,
        /// The transport that Via, Contact and Record-Route on it name.
        transport: Transport,
    },
    /// The flow that [`Output::Dial`] asked for could not be opened; the endpoint backs off and asks again.
    DialFailed(UpstreamId),
    /// The addresses that an upstream's names resolve to: requests from them are trusted. Replaces the earlier set.
    Addresses {
        /// An upstream that a binding or a push binding uses; others are ignored.
        upstream: UpstreamId,
        /// The addresses of every record, also of those that are not dialled; ports do not matter.
        addresses: Arc<[IpAddr]>,
        /// Whether the set is complete; otherwise another source may belong to the upstream, too.
        is_whole: bool,
    },
    /// A stream ended or broke, closed by either side.
    Closed(FlowId),
    /// The framing of a stream toward a SIP server is lost, and this side reads no more of it. The cause may be a third party's message that the
    /// server passed on, so this is no failure of the server. The stream can be written to for some seconds, or until [`Output::Close`];
    /// [`Input::Closed`] follows.
    Doubted(FlowId),
    /// The stream for the requests that [`Output::SendLarge`] sent to this address is lost: those without any response are sent again, by another
    /// stream where one was open, otherwise as datagrams.
    StreamLost {
        /// The address that a datagram would have gone to.
        peer: SocketAddr,
        /// Whether a stream was open and has ended; otherwise none could be opened in time.
        was_open: bool,
    },
    /// Register this binding and keep it; or let one more device share it.
    Bind(Box<NewBinding>),
    /// This device leaves its binding; ends with [`Event::Unbound`]. The last one has it unregistered, within `deadline`.
    Unbind {
        /// A device of [`Input::Bind`]; one that is not known is [`Event::Unbound`] at once.
        instance: InstanceId,
        /// How long the SIP server may take to confirm, counted from now.
        deadline: Duration,
    },
    /// An obstacle to this device's registration may be gone, such as the Contact of an earlier device where one is allowed: a REGISTER that waits
    /// after a failure goes at once, unless its SIP server has sent Retry-After or refuses the credentials.
    RetryNow(InstanceId),
    /// Another relay may have removed this device's registration at its SIP server by registering its own: an active registration is renewed at once,
    /// and one that waits after a failure is retried as by [`Input::RetryNow`].
    RegisterAgain(InstanceId),
    /// Another node serves this device from now on: it is forgotten, and its binding is not unregistered even if this was its last device; ends with
    /// [`Event::Unbound`].
    Release(InstanceId),
    /// This device's app is in the foreground: it gets no calls from this endpoint. A binding whose devices are all suspended is unregistered and
    /// stays unregistered.
    Suspend(InstanceId),
    /// The app is in the background again.
    Resume(InstanceId),
    /// This device has the same credentials as another, proven device of its binding: it gets the next call before the SIP server has judged them.
    Vouch(InstanceId),
    /// A device is enabled again: the later instance takes over the calls and the dialogs of the earlier one, which is to be unbound next. Ignored
    /// where the two belong to different bindings, and where the later one is not proven.
    Succeed {
        /// The instance that ends.
        earlier: InstanceId,
        /// The instance that takes its place.
        successor: InstanceId,
    },
    /// The answer to [`Event::Challenged`]: the value of an `Authorization`, or `None` when there is no credential for this
    /// realm or algorithm.
    Authorization {
        /// The binding that was challenged.
        binding: BindingId,
        /// The instance that [`Event::Challenged`] named; an answer for another one is ignored.
        instance: InstanceId,
        /// The value of the Authorization header.
        authorization: Option<String>,
    },
    /// The answer to [`Event::VerifyDevice`].
    DeviceVerified {
        /// The number in the event.
        verification: VerificationId,
        /// Whether the proof is right; 200 or 403.
        granted: bool,
    },
    /// Likewise: nobody can tell at this moment; 503.
    DeviceUnverified(VerificationId),
    /// Another node has this instance: its dialogs may go through here.
    KnownElsewhere(Box<KnownElsewhere>),
    /// No node has this instance any more: where it is not here either, its dialogs go through here no longer.
    NotElsewhere(InstanceId),
    /// A SIP server holds a call for this device and sends its INVITE when the device is awake. [`Event::Wake`] follows, unless the device was woken
    /// for this call before and may still come for it, its budget is spent, or it does not get such calls ([`Endpoint::is_announced_to`](super::Endpoint::is_announced_to)).
    /// The next INVITE of this caller to the binding takes the identifier of this call; so does an INVITE of any caller that was not announced
    /// itself.
    ExpectCall {
        /// The device to wake; its binding expects the INVITE.
        instance: InstanceId,
        /// The caller, as the server names it; may be empty.
        from: Box<str>,
        /// The caller's display name.
        name: Option<Box<str>>,
        /// How long the server waits for a device. The call is expected for a moment more unless one has come by then.
        wait: Duration,
    },
    /// A SIP server waits no longer for the devices of a call that [`Input::ExpectCall`] announced, and has not heard whether one has come: the call is
    /// expected for a moment more, unless one has.
    StopExpecting(CallId),
    /// A device's app wants no calls any more: none that was announced is expected for it. Those whose INVITE has come go on.
    LeaveExpected(InstanceId),
    /// The caller shall hear ringing: a push was accepted, or a device says that it rings.
    Ring {
        /// A call that [`Event::Wake`] named; a call that has ended is ignored.
        call: CallId,
        /// The device that rings, or whose push was accepted.
        instance: InstanceId,
    },
    /// A device declines without a flow: 603, and no other device rings on.
    Decline(CallId),
    /// Subscribe to the mailbox of a binding (RFC 3842) until the binding ends: [`Event::Mailbox`] now and at each change.
    Subscribe(BindingId),
    /// The answer to [`Event::SubscriptionChallenged`], as [`Input::Authorization`].
    SubscriptionAuthorization {
        /// The binding that was challenged.
        binding: BindingId,
        /// The value of the Authorization header; `None` ends the subscription.
        authorization: Option<String>,
    },
    /// The call cannot reach this device (the push was refused for good): 480 at once, unless another device may answer.
    DeviceUnreachable {
        /// A call that [`Event::Wake`] named.
        call: CallId,
        /// The device; it counts again when it attaches by itself.
        instance: InstanceId,
    },
    /// The answer to [`Event::StoreMessage`].
    MessageStored {
        /// The request in the event.
        request: MessageRequestId,
        /// The device that the copy is for.
        instance: InstanceId,
        /// The store's answer; the sender gets 202, 480 or 503.
        outcome: StoreOutcome,
    },
    /// The process is about to end: every call without a final answer gets [`Failover::status`], and devices stop ringing; requests in dialogs, those
    /// that devices have begun, and MESSAGEs get 503 with Retry-After.
    EndCalls(Failover),
    /// The process is about to end, and calls that come from now on would wait in vain: each new INVITE gets 503 with Retry-After, and wakes nobody. Calls that
    /// wait already or were announced, and dialogs, are served on.
    RefuseCalls(Failover),
    /// Another relay has taken this instance over, whose calls still wait here: a binding whose instances are all taken is not registered, or refreshed, from
    /// here any more.
    Taken(InstanceId),
    /// Another relay takes all bindings over: none is registered, or refreshed, from here any more. Calls are served on.
    HandOver,
    /// The machine stood still for a time, and so did its monotonic clock: a registrar may have forgotten its bindings, and callers have waited.
    /// Deadlines are moved forward by that time, and flows are probed.
    TimeLost {
        /// The time lost, unless the wall clock was set meanwhile.
        lost: Duration,
        /// The part of `lost` that is certain.
        for_sure: Duration,
    },
    /// The answer to [`Event::RouteNeeded`].
    Route {
        /// The number in the event.
        register: ForwardedRegisterId,
        /// The route by which it is forwarded, or the status that refuses it: 403, 503, 555, …
        route: Result<RegisterRoute, RouteRefusal>,
    },
    /// The answer to [`ProofStep::Asked`]: it passes, or so many seconds are to be waited.
    ProofAdmitted(CarriedProofId, Result<(), u32>),
    /// Keep a push binding that an earlier run of this relay has stored.
    RestorePushBinding(Box<RestoredPushBinding>),
    /// A push binding is kept where other nodes find it, or cannot be at present: its device has its answer now.
    PushBindingKept(InstanceId),
    /// Forget a push binding: its push token is dead. Ends with [`Event::PushBindingEnded`].
    RemovePushBinding(InstanceId),
    /// Forget a push binding that another node has by now, once the calls that wait for its device here are over. Ends likewise.
    ReleasePushBinding {
        /// The binding.
        instance: InstanceId,
        /// How the other node has come by it.
        to: NewOwner,
    },
}

impl fmt::Debug for Input {
    /// Shows the variant, and nothing of an account's credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Received { source, message } => write!(f, "Received({source:?}, {message:?})"),
            Self::Authorization { binding, authorization, .. } => {
                write!(f, "Authorization({binding}, {})", authorization.is_some())
            }
            Self::Bind(new) => write!(f, "{new:?}"),
            other => write!(f, "Input({:?})", std::mem::discriminant(other)),
        }
    }
}

/// The result of [`Endpoint::poll`](super::Endpoint::poll).
#[derive(Debug)]
pub enum Poll {
    /// Do this, and poll again.
    Output(Output),
    /// Nothing more is to be done until the next input, or until this moment: then call
    /// [`Endpoint::handle_timeout`](super::Endpoint::handle_timeout). `None`: no deadline is set.
    Until(Option<Instant>),
}

/// An action that the shell must take.
#[derive(Debug)]
pub enum Output {
    /// Send these bytes on this flow. When the flow is gone, answer [`Input::Closed`].
    Send {
        /// The stream, or the address of a datagram.
        flow: FlowId,
        /// One message, or a keep-alive.
        bytes: Bytes,
    },
    /// Send this request, which is too large for a datagram (RFC 3261 §18.1.1), by TCP: on a stream to this peer that is open, or on one that is
    /// opened for it. Messages by the stream are [`Input::Received`]. When none can be opened, and when the stream has ended, answer
    /// [`Input::StreamLost`].
    SendLarge {
        /// The address that the datagram would have gone to.
        peer: SocketAddr,
        /// One request, its Via rewritten to TCP.
        bytes: Bytes,
    },
    /// Send this response to a request that came by a stream which has ended (RFC 3261 §18.2.2): on a stream to this peer that was opened for another
    /// one, or on one that is opened for it. No answer to this output is expected; messages by the stream are [`Input::Received`]. When the peer
    /// cannot be connected to, the response is lost.
    Answer {
        /// The SIP server that has asked, for whose domain a TLS stream is verified.
        upstream: UpstreamId,
        /// The address that the request came from, and the port of its sent-by.
        peer: SocketAddr,
        /// The transport that the request came by: TCP or TLS.
        transport: Transport,
        /// One response.
        bytes: Bytes,
    },
    /// Resolve this upstream and open a flow; answer [`Input::Addresses`] and [`Input::Dialled`], or [`Input::DialFailed`].
    Dial {
        /// An upstream that [`Input::Bind`] or [`Input::Route`] named.
        upstream: UpstreamId,
        /// The flow that was silent, broke or serves badly: try another address first. It may still be in use: the one that is dialled is closed
        /// when it leads to the same address.
        avoid: Option<FlowId>,
        /// It has failed a single account, for whatever reason that has: others may be served well there.
        for_one: bool,
    },
    /// Close this stream once what was sent on it has left.
    Close(FlowId),
    /// Something happened that the shell must know.
    Event(Event),
}

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
    /// The SIP server wants a digest for a REGISTER of this binding; answer with [`Input::Authorization`]. One REGISTER may need
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
    /// As [`Event::Challenged`], for a SUBSCRIBE; answer with [`Input::SubscriptionAuthorization`].
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
    /// An upstream's SIP server reports the address at which it sees this relay (RFC 3581, RFC 8489); told when it changes.
    PublicAddress {
        /// The SIP server that said so.
        upstream: UpstreamId,
        /// The public side of this relay's socket, behind whatever NAT there is.
        address: SocketAddr,
    },
    /// The flow of an [`Input::Dialled`] or [`Input::FailbackDialled`] was taken or discarded; told once for each.
    FlowSettled {
        /// The upstream that it was opened for.
        upstream: UpstreamId,
        /// The flow.
        flow: FlowId,
        /// Whether the flow is in use, and otherwise why not.
        outcome: FlowOutcome,
    },
    /// No flow to an upstream is in use, dialled or wanted here; the next one is asked for by [`Output::Dial`].
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
    /// A registration attempt failed. After [`RegistrationFailure::Refused`] this device must be unbound; so it must after [`REFUSALS_MAX`] times
    /// [`RegistrationFailure::CredentialsRefused`], unless the SIP server is at fault. The endpoint then tries the credentials of another device of
    /// the binding. When the binding is still [registered](super::Endpoint::is_registered), the attempt was a check of a joining device.
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
    /// The device is gone from this endpoint, after [`Input::Unbind`] or [`Input::Release`].
    Unbound {
        /// The device of [`Input::Unbind`] or [`Input::Release`].
        instance: InstanceId,
        /// What became of its registration.
        outcome: Unbinding,
    },
    /// A device wants to attach, or continues a call by another connection; answer with [`Input::DeviceVerified`].
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
    /// The INVITE of a call has come that [`Input::ExpectCall`] announced; its device is not woken again.
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
        /// When a device came for it: from the INVITE's arrival to its attachment. Told once.
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
    /// A MESSAGE is to be stored for a device; answer with [`Input::MessageStored`].
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
    /// A device registers through this relay (RFC 8599); answer with [`Input::Route`].
    RouteNeeded(Box<RouteRequest>),
    /// A REGISTER that [`Event::RouteNeeded`] told of has ended; once for each, before what follows from it.
    RegisterEnded {
        /// The number in that event.
        register: ForwardedRegisterId,
        /// Whether its SIP server took the proof that it carried; `None` when there was none, or nothing was said about it.
        proof: Option<bool>,
    },
    /// A device shows its SIP server a proof by another method than REGISTER.
    Proof(ProofStep),
    /// One more reference to an upstream is used here: its flow stays for the dialogs of a device that is known no more.
    UpstreamKept(UpstreamId),
    /// One reference to an upstream is used no more that [`Input::Route`], [`Input::RestorePushBinding`] or [`Event::UpstreamKept`] gave; once for each.
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

/// Missing state without which requests for a binding cannot be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The binding is not held by this endpoint.
    Binding,
    /// The binding is held here, but the addresses of its SIP server are unknown, so that the server's requests cannot be told from others'.
    Addresses(UpstreamId),
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

/// Who takes the calls of a process that is about to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failover {
    /// Another node: the caller's server tries the call again.
    OtherNode,
    /// Nobody: the devices have missed the call.
    Nobody,
}

impl Failover {
    /// The final answer to a call that waits: 503 with Retry-After, or 480.
    pub fn status(self) -> u16 {
        match self {
            Self::OtherNode => 503,
            Self::Nobody => 480,
        }
    }
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
