//! SIP signalling for sleeping phones, as pure computation: bytes and `now` in, outputs out.
//!
//! # The floors
//! Imports point downward only; `tests/tests/house/tidy.rs` enforces it.
//!
//! | floor | module | what it is |
//! | --- | --- | --- |
//! | 0 | [`message`] | bytes ⇄ [`message::Message`]; lossless headers, lazy typed views; framing of streams; limits |
//! | 0 | [`id`] | 128-bit identifiers and the shard that each names |
//! | 0 | [`bucket`] | a token bucket: a burst at once, and then one at each interval |
//! | 0 | `random` | a stream of random numbers from a seed that is handed in |
//! | 0 | `timers` | deadlines in their order |
//! | 1 | [`auth`] | digest: challenge, HA1, answer, verification (RFC 7616, RFC 8760) |
//! | 1 | `transaction` | the four transaction machines of RFC 3261 §17 with RFC 6026 and RFC 4320 |
//! | 1 | [`timing`] | every timeout and interval of the protocol, as settings |
//! | 2 | `flow` | flows (RFC 5626): keep-alive, back-off; signed flow tokens |
//! | 2 | `registration` | one machine for one binding |
//! | 2 | `subscription` | one machine for one binding's mailbox |
//! | 3 | `edge` | admission of devices, calls, forwarding (RFC 3261 §16) |
//! | 4 | [`endpoint`] | the state of one shard: inputs in, outputs out |
//!
//! # The drive loop
//! One mutation, then [`Endpoint::poll`] until it says when the next one is due. The example follows a call from its INVITE to its BYE, with the SIP
//! server and the device played by hand.
//!
//! ```
//! # use std::time::{Duration, Instant};
//! # use sip::endpoint::{NewBinding, Presence, Settings, Side, Source, Timing, Transport, UpstreamPolicy};
//! # use sip::id::{BindingId, FlowId, InstanceId, ShardTag, UpstreamId};
//! # use sip::message::{Limits, Message, Name};
//! use sip::{Endpoint, Event, Input, Output, Poll};
//!
//! # let settings = Settings {
//! #     tag: ShardTag(0), edge: "edge.test:5061".into(), edge_websocket: "edge.test:443".into(),
//! #     upstream_udp: "relay.test:5060".into(), upstream_tcp: "relay.test:5060".into(), upstream_tls: "relay.test:5061".into(),
//! #     register_expires: Duration::from_secs(600), ring_timeout: Duration::from_secs(30),
//! #     answer_timeout: Duration::from_secs(120), timing: Timing::default(), limits: Limits::default(), token_key: [7; 32],
//! #     upstream: UpstreamPolicy::default(), message_bytes: 16_384,
//! # };
//! # let (binding, instance) = (BindingId::new(1 << 64, ShardTag(0)), InstanceId::new(2 << 64, ShardTag(0)));
//! # let account = NewBinding {
//! #     binding, instance, aor: "sip:alice@example.com".into(), registrar: "sip:example.com".into(), upstream: UpstreamId(1),
//! #     sip_instance: [1; 16], presence: Presence::Background, proven: false, same_as: None, taken_from: Vec::new(),
//! # };
//! # let peer = "192.0.2.1:5060".parse().unwrap();
//! # let server = Source { flow: FlowId::Datagram(peer), side: Side::Upstream, transport: Transport::Udp, peer, split: false };
//! # let phone = Source { flow: FlowId::Stream(1), side: Side::Device, transport: Transport::Tls, peer, split: false };
//! # fn parse(text: &str) -> Message { Message::parse(&text.to_owned().into(), &Limits::default()).unwrap() }
//! # fn request(line: &str, cseq: &str, more: &str) -> Message {
//! #     parse(&format!("{line} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK{}\r\nMax-Forwards: 70\r\n\
//! #         From: <sip:bob@example.com>;tag=b\r\nCall-ID: one\r\nCSeq: {cseq}\r\n{more}\r\n", cseq.replace(' ', "")))
//! # }
//! # fn answer(to: &Message, status: u16, more: &str) -> Message {
//! #     let mut text = format!("SIP/2.0 {status} Fine\r\n{more}");
//! #     for name in [Name::Via, Name::RecordRoute, Name::From, Name::CallId, Name::CSeq] {
//! #         for value in to.values(name) { text += &format!("{name}: {}\r\n", std::str::from_utf8(value).unwrap()); }
//! #     }
//! #     let tag = if to.text(Name::To).unwrap().contains("tag=") { "" } else { ";tag=a" };
//! #     parse(&format!("{text}To: {}{tag}\r\n\r\n", to.text(Name::To).unwrap()))
//! # }
//! /// Does all that the endpoint wants: gathers what it sends, and gives the next deadline.
//! fn drain(endpoint: &mut Endpoint, now: Instant, sent: &mut Vec<Message>) -> Option<Instant> {
//!     loop {
//!         let input = match endpoint.poll() {
//!             Poll::Until(deadline) => return deadline,
//!             Poll::Output(Output::Send { bytes, .. }) => {
//!                 sent.push(Message::parse(&bytes, &Limits::default()).unwrap());
//!                 continue;
//!             }
//!             Poll::Output(Output::Dial { upstream, .. }) => {
//! #               let peer = "192.0.2.1:5060".parse().unwrap();
//!                 Input::Dialled { upstream, flow: FlowId::Datagram(peer), transport: Transport::Udp }
//!             }
//!             Poll::Output(Output::Event(Event::Wake(call))) => Input::Ring { call: call.call, instance: call.instance },
//!             Poll::Output(Output::Event(Event::VerifyDevice { verification, .. })) => {
//!                 Input::DeviceVerified { verification, granted: true }
//!             }
//!             Poll::Output(_) => continue,
//!         };
//!         endpoint.handle(now, input);
//!     }
//! }
//!
//! let now = Instant::now();
//! let mut endpoint = Endpoint::new(now, settings, [3; 32]);
//! let mut tell = |input| {
//!     let mut sent = Vec::new();
//!     endpoint.handle(now, input);
//!     drain(&mut endpoint, now, &mut sent).expect("a refresh, a retransmission or a timeout is due some time");
//!     sent
//! };
//! let register = tell(Input::Bind(Box::new(account))).remove(0);
//! # let contact = format!("Contact: {}\r\n", register.text(Name::Contact).unwrap());
//! tell(Input::Received { source: server, message: answer(&register, 200, &contact) });
//! # let line = format!("INVITE sip:{binding}@relay.test");
//! # let more = "To: <sip:alice@example.com>\r\nContact: <sip:bob@192.0.2.1>\r\n";
//! let invite = request(&line, "1 INVITE", more);
//! let ringing = tell(Input::Received { source: server, message: invite });
//! assert_eq!(ringing.iter().map(|it| it.status()).collect::<Vec<_>>(), [Some(100), Some(180)]);
//! # let who = format!("REGISTER sip:edge.test SIP/2.0\r\nVia: SIP/2.0/TLS p;branch=z9hG4bKr\r\nMax-Forwards: 70\r\n\
//! #     From: <sip:{instance}@edge.test>;tag=r\r\nTo: <sip:{instance}@edge.test>\r\nCall-ID: r\r\nCSeq: 1 REGISTER\r\n\
//! #     Authorization: Bearer secret\r\nContact: <sip:phone@10.0.0.1>\r\nExpires: 300\r\n\r\n");
//! let woken = tell(Input::Received { source: phone, message: parse(&who) });
//! let forked = woken.iter().find(|it| it.method_text() == Some("INVITE")).expect("the device has come for its call");
//! let contact = "Contact: <sip:phone@10.0.0.1>\r\n";
//! let answered = tell(Input::Received { source: phone, message: answer(forked, 200, contact) }).remove(0);
//! assert_eq!(answered.status(), Some(200));
//! # let mut routes: Vec<_> = answered.elements(Name::RecordRoute).map(str::to_owned).collect();
//! # routes.reverse();
//! # let more = format!("To: <sip:alice@example.com>;tag=a\r\nRoute: {}\r\n", routes.join(", "));
//! let ack = request("ACK sip:phone@10.0.0.1", "1 ACK", &more);
//! assert_eq!(tell(Input::Received { source: server, message: ack })[0].method_text(), Some("ACK"));
//! let bye = request("BYE sip:phone@10.0.0.1", "2 BYE", &more);
//! let bye = tell(Input::Received { source: server, message: bye }).remove(0);
//! let ended = tell(Input::Received { source: phone, message: answer(&bye, 200, "") });
//! assert_eq!(ended[0].status(), Some(200));
//! ```
//!
//! Invariant: this crate owns no socket, no clock, no task and no source of randomness; all four are handed in. The
//! same inputs and the same seed give the same outputs, byte for byte. No credential enters it, except for the moment
//! that [`auth`] computes with one on behalf of its caller.

// With `clippy.toml`: no order of a hash map decides anything.
#![warn(clippy::iter_over_hash_type)]

pub mod auth;
pub mod bucket;
mod edge;
pub mod endpoint;
mod flow;
pub mod id;
pub mod message;
pub mod random;
mod registration;
mod subscription;
mod timers;
pub mod timing;
mod transaction;

pub use endpoint::{Endpoint, Event, Input, Output, Poll};
pub use registration::{MIN_EXPIRES_MAX, challenges};
