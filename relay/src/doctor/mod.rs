//! Walks an account's path to its SIP server as the relay would, and says in words what would go wrong and what to do.
//!
//! | step | examination |
//! | --- | --- |
//! | `account` | its domain and URIs are judged as an enabling's are |
//! | `dns` | every NAPTR, SRV, A and AAAA record is asked for; each address is judged by `upstream.allow_addresses` |
//! | `connection` | each address is connected to, with the certificate verified as for a call; all of them, not the first alone, some side by side |
//! | `options` | OPTIONS by the best connection |
//! | `register` | REGISTER without a Contact, up to the challenge; with the password or its HA1: the registered Contacts, then, where none is a relay's, a Contact of its own with a Path, and its end ([`registering`]) |
//!
//! Invariant: nothing is dialled that the relay would not dial. Without a password nothing is changed at the SIP server; with it a Contact is
//! registered that is taken away again, unless the server lists the Contact of a relay: of some servers it would take that one's place. A refused password ends
//! the examination. DNS findings about addresses that the relay does not dial are told at the machine itself alone (`discreet`).

mod discreet;
mod line;
mod refusals;
mod registering;
mod report;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use sip::message::{Method, Name, Uri};
use tokio::time::timeout;

use crate::agent::transport::upstreams::{NoRoute, Route};
use crate::config::{DomainRules, Upstream};
use crate::net::Transport;
use crate::net::address_policy::Reach;
use crate::net::dial::{self, DialError};
use crate::net::dns::report::{Answer, RecordTarget};
use crate::net::dns::resolve::{Candidate, ResolveError, Resolver};
use crate::net::tls::{ClientTls, TlsError};
use crate::net::tls_fault::TlsFault;
use crate::vault::record::Proof;
use discreet::{NOWHERE, discreet};
pub use line::{Line, LineError, token};
use refusals::Ended;
use registering::Registering;
pub use report::{DoctorStep, Finding, Report, Verdict, is_obeyed};

/// The remedy for an address that the relay does not go to.
const ALLOW: &str = "the operator can list its network in upstream.allow_addresses, if it is meant (of a relay without a configuration: serve --public and doctor --public, or SIPWAKE_UPSTREAM__ALLOW_ADDRESSES)";
/// Addresses that are connected to side by side; those behind them where none of them stands.
const CONNECTIONS: usize = 8;
/// How long names are asked for, all together.
const NAMES_WITHIN: Duration = Duration::from_secs(20);

/// The dependencies of the examinations.
#[derive(Clone)]
pub struct Doctor {
    resolver: Resolver,
    tls: ClientTls,
    domains: DomainRules,
    /// An app asks, and not the operator.
    is_discreet: bool,
    allow_md5: bool,
    register_expires: Duration,
}

/// Why there can be no examination.
#[derive(Debug, thiserror::Error)]
pub enum NoDoctor {
    /// No resolver.
    #[error("the name servers cannot be used: {0}")]
    Resolver(#[from] ResolveError),
    /// No trust.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Why a connection does not stand.
#[derive(Debug, thiserror::Error)]
enum NoLine {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Line(#[from] LineError),
}

/// The account to look at.
pub struct Patient {
    /// Its AOR.
    pub aor: Box<str>,
    /// Its registrar, if it is not the AOR's domain.
    pub registrar: Option<Box<str>>,
    /// Its outbound proxy.
    pub outbound_proxy: Option<Box<str>>,
    /// The digest's user, and what it is computed from, if its registration shall be tried.
    pub credentials: Option<(Box<str>, Proof)>,
}

impl Doctor {
    /// A doctor that goes as a relay with these settings goes, and tells its operator all.
    ///
    /// # Errors
    /// [`NoDoctor`] when they cannot be used.
    pub fn new(upstream: &Upstream) -> Result<Self, NoDoctor> {
        let reach = Reach::new(&upstream.allow_addresses);
        let resolver = if upstream.name_servers.is_empty() {
            Resolver::new(reach, upstream.transports)?
        } else {
            Resolver::with_nameservers(&upstream.name_servers, reach, upstream.transports)?
        };
        let tls = ClientTls::new(upstream.ca_file.as_deref())?;
        let resolver = resolver.sending_from(upstream.udp_listen.ip());
        Ok(Self { is_discreet: false, ..Self::of_relay(resolver, tls, upstream) })
    }

    /// The same, with what a relay has already, and for its apps.
    pub fn of_relay(resolver: Resolver, tls: ClientTls, upstream: &Upstream) -> Self {
        Self {
            resolver,
            tls,
            domains: upstream.domains.clone(),
            is_discreet: true,
            allow_md5: upstream.allow_md5,
            register_expires: upstream.register_expires,
        }
    }

    /// The same, which asks for names in the share of who wants to know.
    pub fn asked_by(&self, app: &str, source: IpAddr) -> Self {
        Self { resolver: self.resolver.asked_by_app(app, source), ..self.clone() }
    }

    /// The server that an account's requests go to, by name and by address, as [`crate::limits`] counts it; `None` when its URIs cannot be used.
    pub async fn server_of(&self, patient: &Patient) -> Option<(String, Vec<SocketAddr>)> {
        let route = Route::to(&patient.aor, patient.registrar.as_deref(), patient.outbound_proxy.as_deref()).ok()?;
        let found = self.resolver.resolve(&route.target(), 0).await;
        Some((route.server(), found.map(|found| found.addresses()).unwrap_or_default()))
    }

    /// Examines an account.
    pub async fn examine(&self, patient: &Patient) -> Report {
        let mut report = Report::default();
        if let Some(route) = self.look_at_account(patient, &mut report)
            && let Some(candidates) = self.look_at_names_in_time(&route, &mut report).await
            && let Some((line, candidate)) = self.look_at_connections(&route, &candidates, &mut report).await
        {
            self.look_at_server(line, candidate, &route, patient, &mut report).await;
        }
        report
    }

    fn look_at_account(&self, patient: &Patient, report: &mut Report) -> Option<Route> {
        const STEP: DoctorStep = DoctorStep::Account;
        let Patient { aor, registrar, outbound_proxy, .. } = patient;
        let route = match Route::to(aor, registrar.as_deref(), outbound_proxy.as_deref()) {
            Ok(route) => route,
            Err(error) => {
                let remedy = match error {
                    NoRoute::NotSip => "write sip:user@domain, and sip:host;transport=tls for a registrar or a proxy",
                    _ => "name a transport among tls, tcp and udp, or none",
                };
                report.bad(STEP, "one of its URIs cannot be used", remedy);
                return None;
            }
        };
        for (what, uri) in
            [("AOR", Some(aor)), ("registrar", registrar.as_ref()), ("outbound proxy", outbound_proxy.as_ref())]
        {
            let Some(uri) = uri.and_then(|uri| Uri::parse(uri)) else { continue };
            if !self.domains.allow(uri.host) {
                let what = format!("the host of its {what}, {}, is not served by this relay", uri.host);
                report.bad(STEP, what, "the operator can add it to upstream.domains");
            }
        }
        if report.is_healthy() {
            report.good(STEP, format!("requests go to {} for {}", route.server(), route.registrar()));
            return Some(route);
        }
        None
    }

    async fn look_at_names_in_time(&self, route: &Route, report: &mut Report) -> Option<Vec<Candidate>> {
        let looked = timeout(NAMES_WITHIN, self.look_at_names(route, report)).await;
        looked.unwrap_or_else(|_| {
            let what = format!("its names are not found within {} s", NAMES_WITHIN.as_secs());
            report.bad(
                DoctorStep::Dns,
                what,
                "look at the name servers of its domain; a call would come late or not at all",
            );
            None
        })
    }

    async fn look_at_names(&self, route: &Route, report: &mut Report) -> Option<Vec<Candidate>> {
        const STEP: DoctorStep = DoctorStep::Dns;
        let mut trail = self.resolver.trail(&route.target()).await;
        if self.is_discreet {
            trail = discreet(&route.target(), trail);
        }
        for asked in trail {
            let records = match asked.answer {
                Ok(records) => records,
                Err(error) => {
                    report.note(STEP, format!("{}: {error}", asked.question), "the relay asks again");
                    continue;
                }
            };
            let told: Vec<&str> = records.iter().map(|record| &*record.text).collect();
            match told.is_empty() {
                true if self.is_discreet => report.note(STEP, format!("{}: {NOWHERE}", asked.question), ""),
                true => report.note(STEP, format!("{}: none", asked.question), ""),
                false => report.good(STEP, format!("{}: {}", asked.question, told.join(", "))),
            }
            for Answer { text, leads } in &records {
                if let RecordTarget::Address { forbidden: Some(why) } = leads {
                    report.note(STEP, format!("{text}: {why}"), ALLOW);
                }
            }
        }
        let found = self.resolver.resolve(&route.target(), 0).await;
        match found.and_then(|found| self.resolver.sendable(found)) {
            Ok(found) => {
                let order: Vec<String> =
                    found.candidates.iter().map(|it| format!("{} {}", it.transport, it.address)).collect();
                report.good(STEP, format!("dialled in this order: {}", order.join(", ")));
                Some(found.candidates)
            }
            Err(error) => {
                let remedy = match error {
                    ResolveError::NotAllowed(_) => ALLOW,
                    ResolveError::NotAHost => "write a host name or a numeric address in its usual form",
                    ResolveError::NoSuchDomain => {
                        "publish SRV or A records for the domain, or name the registrar's host"
                    }
                    ResolveError::NoUsableTransport => {
                        "publish a record for a transport that upstream.transports names and, over UDP, an address of the family of upstream.udp_listen; or let the operator add one"
                    }
                    ResolveError::Timeout | ResolveError::Unavailable => {
                        "look at the name servers (upstream.name_servers, or the system's)"
                    }
                };
                let what = match error {
                    ResolveError::NotAllowed(_) if self.is_discreet => format!("it {NOWHERE}"),
                    error => error.to_string(),
                };
                report.bad(STEP, what, remedy);
                None
            }
        }
    }

    /// Connects to each address; the first connection that stands, and its address.
    async fn look_at_connections<'a>(
        &self,
        route: &Route,
        candidates: &'a [Candidate],
        report: &mut Report,
    ) -> Option<(Line, &'a Candidate)> {
        const STEP: DoctorStep = DoctorStep::Connection;
        let domain = route.verified_domain();
        let mut best = None;
        for some in candidates.chunks(CONNECTIONS) {
            // Side by side: a silent address keeps nobody from the address behind it.
            let opened = join_all(some.iter().map(|candidate| self.open(candidate, domain))).await;
            for (candidate, opened) in some.iter().zip(opened) {
                let Candidate { address, transport, .. } = candidate;
                match opened {
                    Ok(line) => {
                        let how = match transport {
                            Transport::Tls => format!("; its certificate is valid for {domain}"),
                            Transport::Tcp => " in the clear".to_owned(),
                            Transport::Udp => ": datagrams leave; whether they arrive, OPTIONS tells".to_owned(),
                        };
                        report.good(STEP, format!("{transport} {address}{how}"));
                        best = best.or(Some((line, candidate)));
                    }
                    Err(NoLine::Dial(error)) => {
                        report.note(STEP, format!("{transport}: {error}"), remedy_of(&error, domain));
                    }
                    Err(NoLine::Line(error)) => report.note(STEP, format!("{transport} {address}: {error}"), ""),
                }
            }
            if best.is_some() {
                break;
            }
        }
        if best.is_none() {
            report.bad(STEP, "none of its addresses can be used", "mend one of them; a call would not come");
        }
        best
    }

    async fn open(&self, candidate: &Candidate, domain: &str) -> Result<Line, NoLine> {
        let Candidate { address, transport, .. } = *candidate;
        Ok(match transport {
            Transport::Udp => Line::by_datagrams(address).await?,
            Transport::Tcp => Line::by_stream(dial::tcp(address).await?, transport)?,
            Transport::Tls => Line::by_stream(dial::tls(address, &self.tls, domain).await?, transport)?,
        })
    }

    /// A connection to where an account's requests go, the first that stands.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub async fn connect(&self, patient: &Patient) -> Result<Line, String> {
        let mut report = Report::default();
        let said = |report: &Report| {
            let bad = report.findings.iter().rfind(|finding| finding.verdict == Verdict::Bad);
            bad.map_or_else(String::new, |finding| finding.what.clone())
        };
        let Some(route) = self.look_at_account(patient, &mut report) else { return Err(said(&report)) };
        let found = self.resolver.resolve(&route.target(), 0).await;
        let found = found.and_then(|found| self.resolver.sendable(found)).map_err(|error| error.to_string())?;
        let mut last = "its SIP server has no address".to_owned();
        for candidate in found.candidates.iter().take(CONNECTIONS) {
            match self.open(candidate, route.verified_domain()).await {
                Ok(line) => return Ok(line),
                Err(error) => last = format!("{}: {error}", candidate.transport),
            }
        }
        Err(last)
    }

    async fn look_at_server(
        &self,
        mut line: Line,
        candidate: &Candidate,
        route: &Route,
        patient: &Patient,
        report: &mut Report,
    ) {
        const STEP: DoctorStep = DoctorStep::Options;
        match line.ask(Method::Options, route.registrar(), &patient.aor, &[]).await {
            Ok(response) => {
                let told = |name| response.text(name).map(|value| format!("; {name}: {value}")).unwrap_or_default();
                let more = format!("{}{}{}", told(Name::Server), told(Name::Allow), told(Name::Supported));
                report.good(STEP, format!("{}{more}", response.status().unwrap_or_default()));
            }
            Err(LineError::Silent) => {
                let remedy = "many servers leave it unanswered from whom they do not know";
                report.note(STEP, "no answer to OPTIONS", remedy);
            }
            // The relay's REGISTER is the first request on its connection.
            Err(error) => match self.open(candidate, route.verified_domain()).await {
                Ok(another) => {
                    report.note(STEP, error.to_string(), "another connection is tried for REGISTER");
                    line = another;
                }
                Err(_) => return report.bad(STEP, error.to_string(), "look at the SIP server's log, or its firewall"),
            },
        }
        if let Err(Ended { fault, remedy, .. }) =
            Registering::new(self, line, candidate, route, patient).look(report).await
        {
            report.bad(DoctorStep::Register, fault, remedy);
        }
    }
}

fn remedy_of(error: &DialError, domain: &str) -> String {
    match error {
        DialError::Timeout(_) => {
            "open the firewall for the relay's address, or correct the address and port in DNS".into()
        }
        DialError::Unreachable(_, error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "it closed the connection before TLS stood: let it speak TLS 1.2 or 1.3 there, and look at its log".into()
        }
        DialError::Unreachable(..) => "nobody listens there: start the server, or correct the port in DNS".into(),
        DialError::NotTls(..) => {
            "it does not speak TLS on this port: correct the port, or name the transport that it speaks".into()
        }
        DialError::NotTrusted { fault: TlsFault::Expired, .. } => "renew the certificate".into(),
        DialError::NotTrusted { fault: TlsFault::NotYetValid, .. } => {
            "set the relay's clock right, or issue a certificate that is valid now".into()
        }
        DialError::NotTrusted { fault: TlsFault::IsCa, .. } => {
            "issue a certificate that is no CA's (openssl req -x509: -addext basicConstraints=critical,CA:FALSE), and name it, or its CA, in upstream.ca_file".into()
        }
        DialError::NotTrusted { .. } => format!(
            "issue a certificate with the subjectAltName {domain} (RFC 5922: no wildcard, no common name), from a CA that the system or upstream.ca_file trusts"
        ),
        DialError::NotADomain(_) => "name the server by a domain".into(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::Config;

    #[test]
    fn the_remedy_is_for_the_fault_that_was_found() {
        let address = "192.0.2.1:5061".parse().expect("an address");
        let closed = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "tls handshake eof");
        let not_trusted = |fault| {
            let (domain, why) = ("sip.example.com".to_owned(), String::new());
            DialError::NotTrusted { address, domain, why, fault }
        };
        for (error, word) in [
            (DialError::Unreachable(address, closed), "TLS 1.2"),
            (DialError::Unreachable(address, std::io::ErrorKind::ConnectionRefused.into()), "nobody listens"),
            (not_trusted(TlsFault::Expired), "renew"),
            (not_trusted(TlsFault::NotYetValid), "clock"),
            (not_trusted(TlsFault::IsCa), "CA:FALSE"),
            (not_trusted(TlsFault::OtherName), "subjectAltName sip.example.com"),
        ] {
            let remedy = remedy_of(&error, "sip.example.com");
            assert!(remedy.contains(word), "{error}: {remedy}");
        }
        let end = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "peer closed, see https://library.example");
        assert_eq!(line::LineError::from(end).to_string(), "it closed the connection");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_behind_many_that_are_silent_is_found_and_the_examination_goes_on_by_it() {
        // The servers accept connections, and say nothing in TLS.
        let (mut listeners, mut candidates) = (Vec::new(), Vec::new());
        for place in 0..10 {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
            let transport = if place == 9 { Transport::Tcp } else { Transport::Tls };
            candidates.push(Candidate { address: listener.local_addr().expect("it has one"), transport, rank: 0 });
            listeners.push(listener);
        }
        let doctor = Doctor::new(&Config::development().expect("it has no problem").upstream).expect("names");
        let route = Route::to("sip:alice@example.net", None, None).expect("a route");
        // Behind four of them, within one turn, and behind nine, in the second one.
        for among in [&candidates[5..], &candidates[..]] {
            let (mut report, begun) = (Report::default(), tokio::time::Instant::now());
            assert!(doctor.look_at_connections(&route, among, &mut report).await.is_some(), "{report}");
            assert!(report.is_healthy() && report.findings.len() == among.len(), "{report}");
            assert!(begun.elapsed() < Duration::from_secs(21), "{:?}", begun.elapsed());
        }
        let mut report = Report::default();
        assert!(doctor.look_at_connections(&route, &candidates[..9], &mut report).await.is_none());
        assert!(!report.is_healthy(), "each was tried: {report}");
    }
}
