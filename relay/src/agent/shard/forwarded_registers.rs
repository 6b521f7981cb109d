//! REGISTERs that are forwarded to their own SIP servers: which may pass, and by which route. Also the proofs in other forwarded requests.
//!
//! Invariant: a REGISTER goes only to servers that the operator serves, at a bounded rate for each sender. A proof in it, or in another request, counts as a
//! tried password before the request leaves, as one in the HTTPS API does.

use std::net::SocketAddr;

use sip::endpoint::{
    ForwardedRegisterId, Input, ProofRequest, ProofStep, PushBindingEnd, PushRequest, RegisterOutcome, RegisterRoute,
    RouteRefusal, RouteRequest,
};
use sip::id::{InstanceId, UpstreamId};
use sip::message::Uri;

use super::Shard;
use crate::agent::ShardInput;
use crate::agent::transport::upstreams::Route;
use crate::clock::{self, unix_now_ms};
use crate::config::DomainRules;
use crate::limits::guesses::{Attempt, Permit};
use crate::limits::holdings::Holding;
use crate::metrics::labels::{EdgeRegisterOutcome, PassedEnd, PassedRegisterOutcome};
use crate::push::NoAddress;

/// The `Retry-After` for a registration that meets a limit, in seconds.
const FULL_RETRY_S: u32 = 60;

/// Why a REGISTER without push parameters does not pass, in the text of its Warning.
const NO_PUSH: &str =
    "this relay registers this domain with pn-provider alone (RFC 8599): its operator lets no other device register";
/// Why a REGISTER for other servers does not pass, likewise.
const OTHER_DOMAIN: &str =
    "this relay does not serve the domain of To, of the Request-URI or of the Route behind its own";

/// The resources that a REGISTER holds while it is on its way through.
#[derive(Default)]
pub(crate) struct HeldQuotas {
    /// The permit to try its proof.
    permit: Option<Permit>,
    /// The quota place for the registration that it asks for.
    place: Option<Holding>,
}

impl Shard {
    /// Decides whether a device may register through this relay, and by which route. A proof is counted by its destination addresses as well, so these are
    /// looked up first, unless a flow is up: a phone that was woken waits for no name server, which may be away.
    pub(crate) fn on_route_needed(&mut self, asked: Box<RouteRequest>) {
        let RouteRequest { aor, registrar, proxy, proof, .. } = &*asked;
        let route = Route::through(aor, registrar, proxy.as_deref());
        match (self.may_pass(&asked), route) {
            (Ok(()), Ok(route)) if proof.is_some() => {
                if let Some(addresses) = self.addresses_in_use(&route) {
                    let route = self.route_of(&asked, &addresses);
                    return self.answer_route(&asked, route);
                }
                let (shared, shard) = (self.shared.clone(), self.index);
                tokio::spawn(async move {
                    let addresses = shared.dialler.addresses_of(&route.target(), asked.source).await;
                    shared.shards.send(shard, ShardInput::ServerFound(Box::new((*asked, addresses)))).await;
                });
            }
            (may, _) => {
                let route = may.and_then(|()| self.route_of(&asked, &[]));
                self.answer_route(&asked, route);
            }
        }
    }

    /// The addresses of a SIP server to which a flow is up: requests go by that, whatever DNS says meanwhile. `None`: none is.
    fn addresses_in_use(&self, route: &Route) -> Option<Vec<SocketAddr>> {
        let upstream = self.shared.upstreams.number_of(route)?;
        self.endpoint.flow_to(upstream)?;
        Some(self.counted_addresses(upstream))
    }

    /// The addresses at which proofs count: where the flow leads, and what DNS has named last. Its name may be a guesser's own, who has it name the former
    /// behind many others, or not any more.
    fn counted_addresses(&self, upstream: UpstreamId) -> Vec<SocketAddr> {
        let led_to = self.shared.dialler.led_to(self.index, upstream).map(|(address, _)| address);
        let named = self.shared.upstreams.last_addresses(upstream);
        led_to.into_iter().chain(named.into_iter().filter(|address| Some(*address) != led_to)).collect()
    }

    /// DNS has named the destination of a REGISTER with a proof.
    pub(crate) fn on_server_found(&mut self, asked: &RouteRequest, addresses: &[SocketAddr]) {
        let route = self.route_of(asked, addresses);
        self.answer_route(asked, route);
        self.settle(clock::now());
    }

    fn answer_route(&mut self, asked: &RouteRequest, route: Result<RegisterRoute, RouteRefusal>) {
        if let Err(RouteRefusal { status, .. }) = route {
            // Any peer may send a few each second.
            tracing::debug!(event = "passing-refused", status, "a registration may not pass");
            // A name that is not an instance's comes this way, too: most often the SIP user name in place of `edge.username`.
            match status {
                403 => self.shared.metrics.edge_register(EdgeRegisterOutcome::Unknown),
                503 => self.shared.metrics.edge_register(EdgeRegisterOutcome::Limited),
                _ => {}
            }
        }
        self.next.push_back(Input::Route { register: asked.register, route });
    }

    /// Whether a REGISTER is for servers, and for a push service, that are served here.
    fn may_pass(&self, asked: &RouteRequest) -> Result<(), RouteRefusal> {
        let refused = |status: u16, text| RouteRefusal { warning: Some(text), ..RouteRefusal::from(status) };
        let forbidden = |text| refused(403, text);
        if !is_within(asked, &self.shared.domains) {
            return Err(forbidden(OTHER_DOMAIN));
        }
        match &asked.push {
            PushRequest::Push(contact) => {
                let address = self.shared.push.address(contact, unix_now_ms());
                address.map_err(|why| refused(why.status(), why.warning()))?;
            }
            PushRequest::Query(Some(one)) if !self.shared.push.providers().contains(&&**one) => {
                let why = NoAddress::NotServed;
                return Err(refused(why.status(), why.warning()));
            }
            // A registration known here or at another node may be removed and queried, whatever the operator permits for new ones.
            PushRequest::Nothing
                if asked.registers && !asked.renews && !is_within(asked, &self.shared.flow_domains) =>
            {
                return Err(forbidden(NO_PUSH));
            }
            PushRequest::Query(_) | PushRequest::Nothing => {}
        }
        Ok(())
    }

    fn route_of(&mut self, asked: &RouteRequest, addresses: &[SocketAddr]) -> Result<RegisterRoute, RouteRefusal> {
        let RouteRequest { aor, registrar, proxy, push, .. } = asked;
        let services = self.shared.push.providers();
        let route = Route::through(aor, registrar, proxy.as_deref()).map_err(|_| 416_u16)?;
        let server = route.server();
        let by_flow = *push == PushRequest::Nothing && is_within(asked, &self.shared.flow_domains);
        if asked.registers && (by_flow || matches!(push, PushRequest::Push(_))) && !asked.renews {
            let place = self.shared.quotas.place_registration(&server, asked.source);
            let place = place.map_err(|_| wait(FULL_RETRY_S))?;
            self.forwarded_registers.entry(asked.register).or_default().place = Some(place);
        }
        if let Err(refusal) = self.admit_proof(asked, &server, addresses) {
            self.forwarded_registers.remove(&asked.register);
            return Err(refusal);
        }
        let registrar = route.registrar().into();
        let upstream = self.shared.upstreams.acquire_for(asked.source, route);
        let kept_first = self.shared.vault.is_shared() && !self.push_bindings.is_store_away();
        Ok(RegisterRoute { upstream, registrar, services, by_flow, kept_first })
    }

    /// Permits a proof to this server, unless too many wrong ones went there.
    fn admit_proof(
        &mut self,
        asked: &RouteRequest,
        server: &str,
        addresses: &[SocketAddr],
    ) -> Result<(), RouteRefusal> {
        let Some(proof) = &asked.proof else { return Ok(()) };
        let attempt = Attempt {
            aor: &asked.aor,
            usernames: &proof.usernames,
            server,
            addresses,
            source: asked.source,
            renews: asked.familiar,
        };
        let permit = self.shared.quotas.try_password(&attempt);
        let permit = permit.map_err(|pause| wait(u32::try_from(pause.seconds()).unwrap_or(u32::MAX)))?;
        self.forwarded_registers.entry(asked.register).or_default().permit = Some(permit);
        Ok(())
    }

    /// A forwarded REGISTER has ended. If its registration was accepted, that takes a place of its own within the same turn.
    pub(crate) fn on_register_ended(&mut self, register: ForwardedRegisterId, proof: Option<bool>, in_doubt: bool) {
        let Some(permit) = self.forwarded_registers.remove(&register).and_then(|held| held.permit) else { return };
        match proof {
            Some(true) => permit.accepted(clock::now()),
            Some(false) => permit.refused(clock::now()),
            None if in_doubt => permit.doubted(clock::now()),
            None => drop(permit),
        }
    }

    /// Counts how a forwarded REGISTER has ended. A registration whose last refresh failed counts as one that fails until a refresh is granted, or it ends.
    pub(crate) fn note_register_outcome(&mut self, instance: Option<InstanceId>, outcome: Option<RegisterOutcome>) {
        use RegisterOutcome as Of;
        let Some(outcome) = outcome else { return };
        self.shared.metrics.passed_register(passed_register_outcome(outcome));
        let Some(instance) = instance else { return };
        match outcome {
            Of::Registered | Of::Refreshed => self.push_bindings.set_failing(instance, None),
            Of::Unproven | Of::Refused | Of::Failed | Of::TimedOut | Of::Unreachable => {
                self.push_bindings.set_failing(instance, Some(self.shared.metrics.push_registration_fails()));
            }
            Of::Unregistered | Of::Challenged | Of::Limited | Of::FirstFailed => {}
        }
    }

    /// Handles a step of a proof in a request other than REGISTER: it may pass or not, or it has ended. It never counts as right.
    pub(crate) fn on_proof(&mut self, step: ProofStep) {
        match step {
            ProofStep::Asked(asked) => {
                let proof = asked.proof;
                let word = self.admit_carried(&asked).map(|permit| drop(self.proofs_under_way.insert(proof, permit)));
                self.next.push_back(Input::ProofAdmitted(proof, word));
            }
            ProofStep::Ended { proof, refused } => {
                if let Some(permit) = self.proofs_under_way.remove(&proof).filter(|_| refused) {
                    permit.refused(clock::now());
                }
            }
        }
    }

    /// Asks nothing of DNS, because the server's flow is up.
    fn admit_carried(&self, asked: &ProofRequest) -> Result<Permit, u32> {
        let ProofRequest { aor, upstream, source, usernames, .. } = asked;
        let upstreams = &self.shared.upstreams;
        let server = upstreams.route(*upstream).map(|route| route.server()).ok_or(FULL_RETRY_S)?;
        let addresses = self.counted_addresses(*upstream);
        let (server, addresses) = (&*server, &*addresses);
        let attempt = Attempt { aor, usernames, server, addresses, source: *source, renews: false };
        let permit = self.shared.quotas.try_password(&attempt);
        permit.map_err(|pause| u32::try_from(pause.seconds()).unwrap_or(u32::MAX))
    }
}

fn passed_register_outcome(outcome: RegisterOutcome) -> PassedRegisterOutcome {
    match outcome {
        RegisterOutcome::Registered => PassedRegisterOutcome::Registered,
        RegisterOutcome::Refreshed => PassedRegisterOutcome::Refreshed,
        RegisterOutcome::Unregistered => PassedRegisterOutcome::Unregistered,
        RegisterOutcome::Challenged => PassedRegisterOutcome::Challenged,
        RegisterOutcome::Unproven => PassedRegisterOutcome::Unproven,
        RegisterOutcome::Refused => PassedRegisterOutcome::Refused,
        RegisterOutcome::Failed => PassedRegisterOutcome::Failed,
        RegisterOutcome::TimedOut => PassedRegisterOutcome::TimedOut,
        RegisterOutcome::Unreachable => PassedRegisterOutcome::Unreachable,
        RegisterOutcome::Limited => PassedRegisterOutcome::Limited,
        RegisterOutcome::FirstFailed => PassedRegisterOutcome::FirstFailed,
    }
}

pub(super) fn passed_end(end: PushBindingEnd) -> PassedEnd {
    match end {
        PushBindingEnd::Unregistered => PassedEnd::Unregistered,
        PushBindingEnd::Expired => PassedEnd::Expired,
        PushBindingEnd::Replaced => PassedEnd::Replaced,
        PushBindingEnd::Removed => PassedEnd::Removed,
    }
}

/// A 503 with Retry-After.
fn wait(seconds: u32) -> RouteRefusal {
    RouteRefusal { retry_after_s: Some(seconds), ..RouteRefusal::from(503) }
}

/// Whether the AOR of a REGISTER and all servers on its way are of these domains.
fn is_within(asked: &RouteRequest, domains: &DomainRules) -> bool {
    let RouteRequest { aor, registrar, proxy, .. } = asked;
    let allowed = |uri: &str| Uri::parse(uri).is_some_and(|uri| domains.allow(uri.host));
    [Some(aor), Some(registrar), proxy.as_ref()].into_iter().flatten().all(|uri| allowed(uri))
}
