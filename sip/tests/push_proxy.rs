//! The push proxy in virtual time (RFC 8599, RFC 3327): what a device, its registrar and a stranger see of it.

mod world;

#[path = "push_proxy/calls.rs"]
mod calls;
#[path = "push_proxy/limits.rs"]
mod limits;
#[path = "push_proxy/passing.rs"]
mod passing;
#[path = "push_proxy/renewing.rs"]
mod renewing;
#[path = "push_proxy/requests.rs"]
mod requests;
#[path = "push_proxy/through.rs"]
mod through;
