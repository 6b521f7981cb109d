//! What goes into an endpoint and what comes out of it.
//!
//! Invariant: no type here holds a credential of an account: a challenge goes out, its answer comes in.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::auth::{Challenge, Credentials};
use crate::id::{BindingId, CallId, FlowId, InstanceId, ShardTag, UpstreamId};
use crate::message::Limits;

/// A transport toward a SIP server or a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Datagrams, toward SIP servers alone.
    Udp,
    /// Plain streams, toward SIP servers alone.
    Tcp,
    /// SIP over TLS.
    Tls,
    /// SIP over secure WebSocket (RFC 7118), toward devices alone.
    Wss,
}

/// Which door a flow came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// A device, at the edge.
    Device,
    /// A SIP server.
    Upstream,
}

/// Where a message came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The flow; answers go back by it.
    pub flow: FlowId,
    /// The door.
    pub side: Side,
    /// The transport.
    pub transport: Transport,
    /// The peer's address, as the socket tells it.
    pub peer: SocketAddr,
}

/// What an endpoint is told once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A tag of this endpoint's own shard, for identifiers that no binding gives a tag to.
    pub tag: ShardTag,
    /// `host:port` of the edge, as Record-Route and Via name it to devices.
    pub edge: Box<str>,
    /// `host:port` for each upstream transport, as Contact, Via and Record-Route name it to SIP servers.
    pub upstream_udp: Box<str>,
    /// Likewise over TCP.
    pub upstream_tcp: Box<str>,
    /// Likewise over TLS.
    pub upstream_tls: Box<str>,
    /// Requested registration lifetime.
    pub register_expires: Duration,
    /// How long a call is held for its device; then 480.
    pub ring_timeout: Duration,
    /// How long a device may ring; then 408.
    pub answer_timeout: Duration,
    /// Limits of one message.
    pub limits: Limits,
    /// The key that signs flow tokens; the same on every shard of a node and over its restarts.
    pub token_key: [u8; 32],
}

/// A binding to register and keep.
#[derive(Clone, Debug)]
pub struct NewBinding {
    /// The opaque user of its Contact.
    pub binding: BindingId,
    /// The device that its calls are for.
    pub instance: InstanceId,
    /// The address of record, with its scheme.
    pub aor: Box<str>,
    /// The Request-URI of REGISTER: the registrar, without a user.
    pub registrar: Box<str>,
    /// Where requests go.
    pub upstream: UpstreamId,
    /// `+sip.instance`, a UUID.
    pub sip_instance: [u8; 16],
    /// Whether to register at once; `false` keeps the binding silent (the app is in the foreground).
    pub register: bool,
}

/// What the shell tells an endpoint.
#[derive(Debug)]
pub enum Input {
    /// A whole message, from a stream's framer or a datagram.
    Received {
        /// Where it came from.
        source: Source,
        /// The message's bytes.
        bytes: Bytes,
    },
    /// A double CRLF came; the endpoint answers it.
    Ping(Source),
    /// A single CRLF came.
    Pong(FlowId),
    /// The flow that [`Output::Dial`] asked for is open. For UDP: its address is known.
    Dialled {
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
    /// Register this binding and keep it.
    Bind(Box<NewBinding>),
    /// Unregister this binding, within `deadline`, and forget it; ends with [`Event::Unbound`].
    Unbind {
        /// The binding.
        binding: BindingId,
        /// How long the SIP server may take to confirm.
        deadline: Duration,
    },
    /// The app is in the foreground: unregister, and keep the binding silent.
    Suspend(BindingId),
    /// The app is in the background again: register.
    Resume(BindingId),
    /// The answer to [`Event::Challenged`]: an `Authorization` value, or `None` when there is no credential for it.
    Answer {
        /// The binding that was challenged.
        binding: BindingId,
        /// The value of the Authorization header.
        authorization: Option<String>,
    },
    /// The answer to [`Event::Knock`].
    Admit {
        /// The knock.
        knock: KnockId,
        /// Whether the proof was right.
        granted: bool,
    },
    /// The caller shall hear ringing: a push was accepted, or the device says that it rings.
    Ring(CallId),
    /// The device declines without a flow: 603.
    Decline(CallId),
    /// The call cannot reach its device (the push was refused for good): 480 at once.
    GiveUp(CallId),
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

/// One device's attempt to attach, while its proof is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KnockId(pub u64);

/// What a device shows to prove itself.
#[derive(Debug)]
pub enum Proof {
    /// A digest over a nonce that this endpoint made and has found fresh; what is left is to verify the response.
    Digest(Box<Credentials>),
    /// A bearer token (RFC 8898): the instance secret itself.
    Bearer(Box<str>),
}

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// The SIP server wants a digest for a REGISTER of this binding; answer with [`Input::Answer`].
    Challenged {
        /// The binding.
        binding: BindingId,
        /// The challenge, the topmost that is supported (RFC 8760 §2.4).
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
        /// The lifetime that the SIP server granted.
        expires: Duration,
        /// Whether it was registered just before, too.
        refresh: bool,
    },
    /// A registration attempt failed.
    RegistrationFailed {
        /// The binding.
        binding: BindingId,
        /// What it means.
        failure: RegistrationFailure,
    },
    /// The binding is gone from this endpoint, after [`Input::Unbind`].
    Unbound {
        /// The binding.
        binding: BindingId,
        /// Whether the SIP server confirmed, or had no registration to end.
        confirmed: bool,
    },
    /// A device wants to attach; answer with [`Input::Admit`].
    Knock {
        /// The knock.
        knock: KnockId,
        /// Who it says it is.
        instance: InstanceId,
        /// Its proof, for the method REGISTER and an empty body.
        proof: Proof,
    },
    /// A device is attached by a flow.
    Attached(InstanceId),
    /// A device has no flow any more.
    Detached(InstanceId),
    /// A call is held: wake the device. Exactly once for a call.
    Wake(Box<IncomingCall>),
    /// A call is offered to a device that is attached; no push is needed. A [`Event::Wake`] may follow if it is silent.
    Offered(Box<IncomingCall>),
    /// A call's state changed. After [`CallState::is_final`] nothing follows for it.
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
    /// An INVITE was answered without becoming a call.
    Refused {
        /// The status: 403 wrong source, 404 unknown Contact, 480 over the rate, 482, 483, …
        status: u16,
    },
}

/// Why a registration attempt failed, by what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrationFailure {
    /// The SIP server refuses this account; it is not tried again.
    Refused {
        /// Its status.
        status: u16,
    },
    /// No answer, no connection, or a failure of the server; it is tried again after this long.
    Retry {
        /// The status, if there was an answer.
        status: Option<u16>,
        /// The wait.
        after: Duration,
    },
}

/// A call that waits for its device.
#[derive(Clone, Debug)]
pub struct IncomingCall {
    /// The call.
    pub call: CallId,
    /// Whom it is for.
    pub instance: InstanceId,
    /// The caller's URI; `sip:anonymous@anonymous.invalid` when privacy was asked for (RFC 3323).
    pub from: Box<str>,
    /// The caller's display name.
    pub name: Option<Box<str>>,
    /// How long it waits at most, from now.
    pub wait: Duration,
}

/// How a call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallState {
    /// Held; the device is being woken.
    Waking,
    /// The caller hears ringing.
    Ringing,
    /// A device answered.
    Answered,
    /// The caller gave up.
    Cancelled,
    /// Another device answered.
    AnsweredElsewhere,
    /// The device declined.
    Declined,
    /// Nobody came, or nobody answered, in time.
    TimedOut,
}

impl CallState {
    /// Whether the call needs no device any more.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Waking | Self::Ringing)
    }

    /// The contract's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waking => "waking",
            Self::Ringing => "ringing",
            Self::Answered => "answered",
            Self::Cancelled => "cancelled",
            Self::AnsweredElsewhere => "answered-elsewhere",
            Self::Declined => "declined",
            Self::TimedOut => "timed-out",
        }
    }
}
