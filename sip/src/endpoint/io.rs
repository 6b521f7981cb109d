//! What goes into an endpoint and what comes out of it.
//!
//! Invariant: no type here holds a credential of an account: a challenge goes out, its answer comes in.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::pushed::{
    ForwardedRegisterId, PushBinding, PushBindingEnd, RegisterRoute, RestoredPushBinding, RouteRequest,
};
use crate::auth::Challenge;
pub use crate::edge::admission::EDGE_REALM;
pub use crate::edge::mailbox::Mailbox;
pub use crate::edge::pending_message::StoreOutcome;
pub use crate::edge::push_proxy::{PushContact, PushRequest};
pub use crate::edge::{CallState, InboundMessage, IncomingCall, MessageRequestId, Proof, VerificationId};
pub use crate::flow::{Side, Source, Transport};
use crate::id::{BindingId, CallId, FlowId, InstanceId, MessageId, UpstreamId};
use crate::message::Message;
pub use crate::registration::RegistrationFailure;

/// A device's share in a binding, which is registered and kept. Of several devices with one binding the first tells what
/// is registered; the others name the same account.
#[derive(Clone)]
pub struct NewBinding {
    /// The opaque user of its Contact.
    pub binding: BindingId,
    /// A device that its calls are for.
    pub instance: InstanceId,
    /// The address of record, with its scheme.
    pub aor: Box<str>,
    /// The Request-URI of REGISTER: the registrar, without a user.
    pub registrar: Box<str>,
    /// Where requests go.
    pub upstream: UpstreamId,
    /// `+sip.instance`, a UUID.
    pub sip_instance: [u8; 16],
    /// Whether to register at once; `false` keeps the device silent (the app is in the foreground).
    pub register: bool,
    /// The SIP server has accepted this device's credentials before. One that has not proven itself gets no call: a binding
    /// that stands is registered again with its credentials first.
    pub proven: bool,
}

impl fmt::Debug for NewBinding {
    /// Shows nothing of whose account it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewBinding({}, {})", self.binding, self.instance)
    }
}

/// What the shell tells an endpoint.
pub enum Input {
    /// A whole message, from a stream's framer or a datagram. Bytes that are [`crate::message::Malformed`] never get
    /// here: their stream is closed, their datagram dropped.
    Received {
        /// Where it came from.
        source: Source,
        /// The message.
        message: Message,
    },
    /// A double CRLF came; the endpoint answers it.
    Ping(Source),
    /// A single CRLF came.
    Pong(FlowId),
    /// A datagram for which [`super::Endpoint::is_stun`] is true.
    Stun {
        /// Where it came from.
        flow: FlowId,
        /// The datagram.
        bytes: Bytes,
    },
    /// The flow that [`Output::Dial`] asked for is open. For UDP: its address is known.
    Dialled {
        /// The upstream it leads to.
        upstream: UpstreamId,
        /// The flow.
        flow: FlowId,
        /// Its transport.
        transport: Transport,
    },
    /// The flow that is told of next leads to another address than the one that [`Output::Dial`] was to avoid: whom that one
    /// turned away need not wait for its back-off (RFC 3263 §4.3).
    UpstreamAddressChanged(UpstreamId),
    /// A flow to an address that is better than the one in use is open: to be tried, and moved to when somebody answers there.
    /// Ends with [`Event::FailbackProbed`].
    FailbackDialled {
        /// The upstream it leads to.
        upstream: UpstreamId,
        /// The flow.
        flow: FlowId,
        /// Its transport.
        transport: Transport,
    },
    /// The flow that [`Output::Dial`] asked for could not be opened; the endpoint backs off and asks again.
    DialFailed(UpstreamId),
    /// All addresses that an upstream's names resolve to: requests from them are believed. Replaces the earlier set.
    Addresses {
        /// The upstream.
        upstream: UpstreamId,
        /// Its addresses.
        addresses: Arc<[IpAddr]>,
    },
    /// A stream ended or broke, whoever closed it.
    Closed(FlowId),
    /// Register this binding and keep it; or let one more device share it.
    Bind(Box<NewBinding>),
    /// This device leaves its binding; ends with [`Event::Unbound`]. The last one has it unregistered, within `deadline`.
    Unbind {
        /// The device.
        instance: InstanceId,
        /// How long the SIP server may take to confirm.
        deadline: Duration,
    },
    /// Another node serves this device from now on: forget it, and say nothing to its SIP server when it was the last of its
    /// binding; ends with [`Event::Unbound`].
    Release(InstanceId),
    /// This device's app is in the foreground: it gets no calls from here. When all of a binding are, it is unregistered and
    /// kept silent.
    Suspend(InstanceId),
    /// The app is in the background again.
    Resume(InstanceId),
    /// The answer to [`Event::Challenged`]: the value of an `Authorization`, or `None` when there is no credential for this
    /// realm or algorithm.
    Authorization {
        /// The binding that was challenged.
        binding: BindingId,
        /// Whose credentials answer.
        instance: InstanceId,
        /// The value of the Authorization header.
        authorization: Option<String>,
    },
    /// The answer to [`Event::VerifyDevice`].
    DeviceVerified {
        /// The knock.
        verification: VerificationId,
        /// Whether the proof was right.
        granted: bool,
    },
    /// A SIP server holds a call for this device and sends its INVITE when the device is awake: [`Event::Wake`] follows,
    /// unless the device was woken for it before or its budget is spent. The INVITE takes the name of the announced call.
    ExpectCall {
        /// The device.
        instance: InstanceId,
        /// The caller, as the server names it; may be empty.
        from: Box<str>,
        /// The caller's display name.
        name: Option<Box<str>>,
    },
    /// The caller shall hear ringing: a push was accepted, or a device says that it rings.
    Ring {
        /// The call.
        call: CallId,
        /// The device.
        instance: InstanceId,
    },
    /// A device declines without a flow: 603, and no other device rings on.
    Decline(CallId),
    /// Ask the account's server how the mailbox stands, and to say so whenever it changes (RFC 3842), for as long as the
    /// binding lives.
    Subscribe(BindingId),
    /// The answer to [`Event::SubscriptionChallenged`], as [`Input::Authorization`].
    SubscriptionAuthorization {
        /// The binding.
        binding: BindingId,
        /// The value of the Authorization header.
        authorization: Option<String>,
    },
    /// The call cannot reach this device (the push was refused for good): 480 at once, unless another device may answer.
    DeviceUnreachable {
        /// The call.
        call: CallId,
        /// The device.
        instance: InstanceId,
    },
    /// The answer to [`Event::StoreMessage`].
    MessageStored {
        /// The MESSAGE.
        request: MessageRequestId,
        /// Whose copy.
        instance: InstanceId,
        /// What the store did.
        outcome: StoreOutcome,
    },
    /// The process is about to end: every call without a final answer gets 480, and no device rings on.
    EndCalls,
    /// The answer to [`Event::RouteNeeded`].
    Route {
        /// The REGISTER.
        register: ForwardedRegisterId,
        /// Where it goes, or the status that refuses it: 403, 503, 555, …
        route: Result<RegisterRoute, u16>,
    },
    /// Keep a registration that passed through an earlier run of this relay.
    RestorePushBinding(Box<RestoredPushBinding>),
    /// Forget a registration that passed through: its push token is dead. Ends with [`Event::PushBindingEnded`].
    RemovePushBinding(InstanceId),
}

impl fmt::Debug for Input {
    /// Shows which one it is, and nothing of what an account's credentials were used for.
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

/// What [`Endpoint::poll`](super::Endpoint::poll) gives.
#[derive(Debug)]
pub enum Poll {
    /// Do this, and poll again.
    Output(Output),
    /// Nothing more is to be done until the next input, or until this moment: then call
    /// [`Endpoint::handle_timeout`](super::Endpoint::handle_timeout). `None`: no deadline is set.
    Until(Option<Instant>),
}

/// What an endpoint wants done.
#[derive(Debug)]
pub enum Output {
    /// Send these bytes on this flow. When the flow is gone, answer [`Input::Closed`].
    Send {
        /// The flow.
        flow: FlowId,
        /// One message, or a keep-alive.
        bytes: Bytes,
    },
    /// Send this request, which is too large for a datagram (RFC 3261 §18.1.1), by TCP: on a stream to this peer that is
    /// open, or on one that is opened for it. Nothing is answered; what comes by the stream is [`Input::Received`]. When
    /// there is no such stream, the request is lost, and sent again as a datagram.
    SendLarge {
        /// The peer.
        peer: SocketAddr,
        /// One request.
        bytes: Bytes,
    },
    /// Resolve this upstream and open a flow; answer [`Input::Addresses`] and [`Input::Dialled`], or [`Input::DialFailed`].
    Dial {
        /// The upstream.
        upstream: UpstreamId,
        /// The flow that was silent or broke: try another address first.
        avoid: Option<FlowId>,
    },
    /// Close this stream once what was sent on it has left.
    Close(FlowId),
    /// Something happened that the shell must know.
    Event(Event),
}

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// The SIP server wants a digest for a REGISTER of this binding; answer with [`Input::Authorization`]. One REGISTER may need
    /// several, one after the other: its registrar's and a proxy's.
    Challenged {
        /// The binding.
        binding: BindingId,
        /// Whose credentials are to answer.
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
        /// The binding.
        binding: BindingId,
        /// The challenge.
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
        /// The binding.
        binding: BindingId,
        /// Whose credentials were accepted; it stands for all its [members](super::Endpoint::callable_instances).
        instance: InstanceId,
        /// The lifetime that the SIP server granted.
        expires: Duration,
        /// Whether it was registered just before, too.
        refresh: bool,
    },
    /// An upstream's SIP server says where it sees this relay (RFC 3581, RFC 8489); told when it changes.
    PublicAddress {
        /// The upstream.
        upstream: UpstreamId,
        /// The address.
        address: SocketAddr,
    },
    /// The flow of [`Input::FailbackDialled`] is in use now, or was let go.
    FailbackProbed {
        /// The upstream.
        upstream: UpstreamId,
        /// Whether it is in use now.
        moved: bool,
    },
    /// A registration attempt failed. One that is refused ends for this device, which must be unbound; then the credentials of
    /// another one are tried, if the binding has one. While the binding [stands](super::Endpoint::is_registered) all the same, it
    /// was the credentials of one more device that were tried.
    RegistrationFailed {
        /// The binding.
        binding: BindingId,
        /// Whose credentials were to be used.
        instance: InstanceId,
        /// What it means.
        failure: RegistrationFailure,
    },
    /// The device is gone from this endpoint, after [`Input::Unbind`] or [`Input::Release`].
    Unbound {
        /// The device.
        instance: InstanceId,
        /// Whether the SIP server confirmed, or had no registration to end.
        confirmed: bool,
        /// The binding stands on, for other devices.
        shared: bool,
    },
    /// A device wants to attach; answer with [`Input::DeviceVerified`].
    VerifyDevice {
        /// The knock.
        verification: VerificationId,
        /// Who it says it is.
        instance: InstanceId,
        /// Its proof, for the method REGISTER and an empty body.
        proof: Proof,
    },
    /// A device is attached by a flow.
    Attached(InstanceId),
    /// A device has no flow any more.
    Detached(InstanceId),
    /// A call is held: wake this device. At most once for a call and a device.
    Wake(Box<IncomingCall>),
    /// A call is offered to a device that is attached; no push is needed. A [`Event::Wake`] may follow if it is silent.
    Forked(Box<IncomingCall>),
    /// The INVITE of an announced call has come; its device was woken before, and is not woken again.
    ExpectedCallArrived(Box<IncomingCall>),
    /// A call's state changed for one of its devices. After [`CallState::is_final`] nothing follows for this device.
    Call {
        /// The call.
        call: CallId,
        /// Whom it is for.
        instance: InstanceId,
        /// The new state.
        state: CallState,
        /// When a device came for it: from the INVITE's arrival to its attachment. Told once.
        woke_after: Option<Duration>,
    },
    /// The caller has its final answer; told once for a call, after the last [`Event::Call`] of each device.
    Ended {
        /// The call.
        call: CallId,
        /// How it ended: answered when any device did.
        state: CallState,
    },
    /// A call has ended that nobody answered; told once for each device that was to get it and did not decline it.
    Missed {
        /// The call.
        call: Box<IncomingCall>,
        /// [`CallState::Cancelled`] or [`CallState::TimedOut`].
        state: CallState,
    },
    /// A MESSAGE is to be kept for a device; answer with [`Input::MessageStored`].
    StoreMessage(Box<InboundMessage>),
    /// A device has taken a MESSAGE after all that is kept for it: it is to be kept no longer.
    DiscardMessage {
        /// Whose.
        instance: InstanceId,
        /// Which.
        message: MessageId,
    },
    /// A MESSAGE has ended without being kept.
    MessageEnded {
        /// Whom it was for.
        instance: InstanceId,
        /// How.
        end: MessageEnd,
    },
    /// The account's server says how the mailbox stands (RFC 3842); also when nothing has changed.
    Mailbox {
        /// Whose.
        instance: InstanceId,
        /// How it stands.
        mailbox: Box<Mailbox>,
    },
    /// An INVITE was answered without becoming a call.
    InviteRefused {
        /// The status: 403 wrong source, 404 unknown Contact, 480 over the rate, 482, 483, …
        status: u16,
    },
    /// A device registers through this relay (RFC 8599); answer with [`Input::Route`].
    RouteNeeded(Box<RouteRequest>),
    /// A way that [`Input::Route`] or [`Input::RestorePushBinding`] gave is not used any more; once for each.
    UpstreamReleased(UpstreamId),
    /// A SIP server has accepted a registration that passed through, or its refresh.
    PushBindingAccepted(Box<PushBinding>),
    /// A registration that passed through is no more.
    PushBindingEnded {
        /// Which one.
        instance: InstanceId,
        /// Why.
        end: PushBindingEnd,
    },
    /// The device of a registration that passed through is to register again: because that ends soon (RFC 8599 §5.5), or
    /// because a request other than a call waits for it (§6.2.3).
    RefreshNeeded(InstanceId),
}

/// How a MESSAGE ended that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageEnd {
    /// Its device took it.
    Delivered,
    /// Its device refused it, with this status.
    Refused(u16),
    /// It only said that somebody writes (RFC 3994): taken and dropped.
    Composing,
    /// Its body is larger than [`super::Settings::message_bytes`]: 413.
    TooLarge,
    /// Too many have come for this device: 480.
    Limited,
    /// It cannot be kept as it is: 400, 415 or 420.
    Unfit,
}

/// How much an endpoint holds: for metrics, and to see that nothing is left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bindings, registered or not.
    pub bindings: usize,
    /// SIP servers that bindings share.
    pub upstreams: usize,
    /// Instances that are served.
    pub devices: usize,
    /// Bindings that several instances share.
    pub shared: usize,
    /// Devices that have a flow.
    pub attached: usize,
    /// Streams of which something is known.
    pub flows: usize,
    /// Devices whose proof is being verified.
    pub verifications: usize,
    /// Calls, those that have just ended included.
    pub calls: usize,
    /// MESSAGEs on their way, those included whose device may still answer.
    pub messages: usize,
    /// Transactions of both kinds, and what is kept for them.
    pub transactions: usize,
    /// Registrations that passed through.
    pub push_bindings: usize,
    /// REGISTERs on their way, and requests that wait for a device.
    pub waiting: usize,
    /// Deadlines, those included whose owner is gone.
    pub timers: usize,
}
