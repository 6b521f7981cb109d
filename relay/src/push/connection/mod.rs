//! The way to a push service: one multiplexed HTTP/2 connection for all, made when it is needed.
//!
//! | room | what it is |
//! | --- | --- |
//! | `http2` | the connection that all pushes of a service share |
//! | `http1` | the connections to a service that speaks no HTTP/2 |
//! | `core_connections` | the connections that belong to one core each |
//! | `further_connections` | the further connections for calls that wait behind one that is not proven |
//! | `spare_connections` | the further connections for calls that wait for a stream of one that serves |
//! | `state` | whether a request may go over a connection |
//! | `history` | how the earlier connections ended, and the wait before the next dial |
//! | *making one* | |
//! | `endpoint` | the service's origin, and the roots trusted there |
//! | `network` | the streams below TLS |
//! | `dial` | handshakes, raced over the addresses of a name |
//! | `identity` | the certificate that is shown to the service |
//! | `single_flight` | one task makes a connection, however many wait for it |
//! | `backoff` | the wait after a failure |
//! | *one request* | |
//! | `request` | what is sent, and why nothing came back |
//! | `urgency` | whether somebody waits for it now |
//! | `departure` | the moment at which a push leaves |
//! | `withdrawal` | taking back what has not left |
//! | `answer_timeout` | the wait for an answer |
//! | `answer`, `answer_body` | the answer, its status and its body |
//! | `attempt` | the outcome of one try |
//! | `not_before`, `retries` | the pause that a service has asked for, and further tries of alerts |
//! | `allowance` | the bytes that a service may send |
//!
//! Invariant: a connection carries requests and knows nothing of what a push says.

pub(super) mod allowance;
pub(super) mod answer;
pub(super) mod answer_body;
pub(super) mod answer_timeout;
pub(super) mod attempt;
pub(super) mod backoff;
mod core_connections;
pub(super) mod departure;
mod dial;
pub(super) mod endpoint;
mod further_connections;
mod history;
mod http1;
pub(super) mod http2;
pub(super) mod identity;
pub(super) mod network;
pub(super) mod not_before;
mod request;
pub(super) mod retries;
pub(super) mod single_flight;
mod spare_connections;
pub(super) mod state;
pub(super) mod urgency;
pub(super) mod withdrawal;
