//! The inputs and outputs of an endpoint.
//!
//! Invariant: no type here holds a credential of an account: a challenge goes out, its answer comes in.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::events::Event;
use super::new_binding::{KnownElsewhere, NewBinding};
use super::pushed::{CarriedProofId, ForwardedRegisterId, RegisterRoute, RestoredPushBinding, RouteRefusal};
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
use crate::id::{BindingId, CallId, FlowId, InstanceId, UpstreamId};
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
        /// The address and port at its other end.
        address: SocketAddr,
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
    /// for this call before and may still come for it, its budget is spent, or it does not get such calls
    /// ([`Endpoint::is_announced_to`](super::Endpoint::is_announced_to)). The next INVITE of this caller to the binding takes the identifier of this call; so
    /// does an INVITE of any caller that was not announced itself.
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
    /// The answer to [`ProofStep::Asked`](super::ProofStep::Asked): it passes, or so many seconds are to be waited.
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

/// Missing state without which requests for a binding cannot be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The binding is not held by this endpoint.
    Binding,
    /// The binding is held here, but the addresses of its SIP server are unknown, so that the server's requests cannot be told from others'.
    Addresses(UpstreamId),
}

/// The next owner of the calls of a process that is about to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failover {
    /// Another node: the caller's server tries the call again.
    OtherNode,
    /// None: the devices have missed the call.
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
