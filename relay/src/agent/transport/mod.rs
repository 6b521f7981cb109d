//! The network side of the agent: connections, datagrams, dialling, and which SIP server is reached where.
//!
//! | room | contents |
//! | --- | --- |
//! | [`connections`], [`read`], [`framing`] | one stream connection, its reads, and the messages in its bytes |
//! | [`heartbeat`] | the pings of a WebSocket that alone leads to a device |
//! | [`lf_probe`], [`servers`] | which SIP servers see a bare LF as the end of a line, as they say themselves |
//! | [`outbox`], [`write_batch`] | the messages that wait to be written on it, and those written at once |
//! | [`name_shards`] | which shard has a binding that its registrar has named |
//! | [`sender_names`] | which shard has the registration that a device begins a request with |
//! | [`listeners`] | the sockets that devices and SIP servers connect to |
//! | [`datagrams`], [`steering`] | the upstream UDP sockets, and which core a datagram is for |
//! | [`invite_shards`] | which shard has the INVITE that a CANCEL or an ACK is for |
//! | [`dial`], [`targets`] | opening a flow to a SIP server, and which of its addresses is tried next |
//! | [`large`] | streams for messages that are too large for a datagram |
//! | [`upstreams`], [`trusted`] | SIP servers by number, and whose requests are believed to be theirs |
//!
//! Invariant: nothing here knows an instance or a secret. Bytes read become a message for the shard that the message
//! itself names, or that has its transaction.

pub(crate) mod connections;
pub(crate) mod datagrams;
pub(crate) mod dial;
pub(crate) mod framing;
mod heartbeat;
pub(crate) mod invite_shards;
pub(crate) mod large;
mod lf_probe;
pub(crate) mod listeners;
pub(crate) mod name_shards;
pub(crate) mod outbox;
mod read;
mod sender_names;
pub(crate) mod servers;
pub(crate) mod steering;
pub(crate) mod targets;
pub(crate) mod trusted;
pub(crate) mod upstreams;
mod write_batch;
