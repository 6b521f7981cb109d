//! Tables of a shard.
//!
//! | table | rows |
//! | --- | --- |
//! | [`instances`] | push instances: the sealed record, the state, the next moment of the lease |
//! | [`addresses`] | registrations that pass through, by the addresses by which they are asked for |
//! | `endings` | how an instance begins and ends, as those are told who wait for it |
//! | `index`, `moments` | which slot has the row of an instance or an account, and when it falls due |
//! | [`attached`] | devices that have a flow, and their Apps |
//! | [`calls`] | calls that devices were told of, so that a device that wakes late can ask |
//! | [`ended_ahead`] | instances that have ended before they came here |
//! | [`woken_elsewhere`] | calls for which a node that leaves has woken devices that are here now |
//! | [`missed`] | the callers of a device's missed calls |
//! | [`senders`] | the senders of a device's latest messages |
//! | [`timeline`] | what happened to an instance, step by step |
//! | [`lease`] | when a lease's user is reminded |
//! | `lease_clocks` | the clock that each lease end was read from |
//! | [`pending_notices`] | notices that no push service has taken yet |
//!
//! Invariant: a table reads no clock and sends nothing; each states its own limit.

pub(crate) mod addresses;
pub(crate) mod attached;
pub(crate) mod calls;
pub(crate) mod ended_ahead;
mod endings;
mod index;
pub(crate) mod instances;
pub(crate) mod lease;
mod lease_clocks;
pub(crate) mod missed;
mod moments;
pub(crate) mod pending_notices;
pub(crate) mod senders;
pub(crate) mod timeline;
pub(crate) mod woken_elsewhere;
