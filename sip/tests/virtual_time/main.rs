//! The endpoint in virtual time, each RFC's part of it in a room of its own: no socket, no clock, no waiting.

mod admission;
mod announced;
mod answered_call;
mod attaching;
mod crowds;
mod endpoint;
mod flows;
mod forking;
mod in_call;
mod instructions;
mod invitations;
mod largest;
mod moves;
mod oddities;
mod paging;
mod presence;
mod push_proxy;
mod refusals;
mod registration;
mod regressions;
mod script;
mod strangers;
mod subscription;
mod unregistration;
mod victims;
mod world;
