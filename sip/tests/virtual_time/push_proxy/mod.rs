//! The push proxy in virtual time (RFC 8599, RFC 3327), and the same without push (RFC 5626): what a device, its registrar and
//! a stranger see of it.

mod asides;
mod by_flow;
mod calls;
mod carried_proofs;
mod failover;
mod kept_first;
mod kept_streams;
mod limits;
mod lingering;
mod outgoing;
mod outgoing_identities;
mod outgoing_moves;
mod overtaken;
mod own_proof;
mod owners;
mod passing;
mod renewing;
mod replacing;
mod requests;
mod server_streams;
pub(crate) mod through;
mod unheard;
