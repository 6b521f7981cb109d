//! Everything that DNS says about a target, for a person who wants to know why it is not found.
//!
//! Invariant: it decides nothing: the addresses dialled are [`Resolver::resolve`]'s answer. Of the names that it leads to [`NAMES_MAX`] of a kind are followed.

use std::net::{IpAddr, SocketAddr};

use hickory_resolver::proto::rr::{RData, RecordType};

use super::resolve::{ResolveError, Resolver, Target, dns_name};
use crate::net::Transport;

/// Names of services, and of hosts, that are followed, each asked for after the other.
const NAMES_MAX: usize = 8;

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Type and name: `SRV _sips._tcp.example.com`.
    pub question: String,
    /// The name in it.
    pub name: String,
    /// The records; empty: there is none.
    pub answer: Result<Vec<Answer>, ResolveError>,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// In words.
    pub text: String,
    /// The target of the record.
    pub leads: RecordTarget,
}

/// The target of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordTarget {
    /// To another name, in lower case and without a dot at its end.
    Name(String),
    /// To an address.
    Address {
        /// Why it may not be dialled.
        forbidden: Option<String>,
    },
}

impl Resolver {
    /// Asks for every record that leads from a target to addresses: NAPTR, SRV, A and AAAA, each once.
    pub async fn trail(&self, target: &Target) -> Vec<Asked> {
        let host = target.host.trim_end_matches('.').to_ascii_lowercase();
        let mut asked = Vec::new();
        let numeric: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
        let mut names = vec![host.clone()];
        if numeric.is_none() && target.port.is_none() {
            asked.push(self.ask(RecordType::NAPTR, &host, &mut names).await);
            for transport in [Transport::Tls, Transport::Tcp, Transport::Udp] {
                let service = match transport {
                    Transport::Tls => "_sips._tcp",
                    Transport::Tcp => "_sip._tcp",
                    Transport::Udp => "_sip._udp",
                };
                if target.transport.is_none_or(|wanted| wanted == transport) {
                    asked.push(self.ask(RecordType::SRV, &format!("{service}.{host}"), &mut names).await);
                }
            }
            // NAPTR may name other services than the usual ones.
            for service in
                names.iter().filter(|name| name.starts_with('_')).take(NAMES_MAX).cloned().collect::<Vec<_>>()
            {
                if !asked.iter().any(|it| it.question == format!("SRV {service}")) {
                    asked.push(self.ask(RecordType::SRV, &service, &mut names).await);
                }
            }
        }
        for name in names.into_iter().filter(|name| numeric.is_none() && !name.starts_with('_')).take(NAMES_MAX) {
            for kind in [RecordType::A, RecordType::AAAA] {
                asked.push(self.ask(kind, &name, &mut Vec::new()).await);
            }
        }
        asked
    }

    /// One question; the names that its answer leads to are added to `names`.
    async fn ask(&self, kind: RecordType, name: &str, names: &mut Vec<String>) -> Asked {
        let asked = |answer| Asked { question: format!("{kind} {name}"), name: name.to_owned(), answer };
        let Some(owner) = dns_name(name) else { return asked(Err(ResolveError::NotAHost)) };
        let records = match self.lookup(owner, kind).await {
            Err(error) => return asked(Err(error)),
            Ok(found) => found.map(|(records, _)| records).unwrap_or_default(),
        };
        let mut follow = |name: String| {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            if !name.is_empty() && !names.contains(&name) {
                names.push(name.clone());
            }
            RecordTarget::Name(name)
        };
        let told = records.iter().filter_map(|record| {
            let (text, leads) = match record {
                RData::NAPTR(record) => {
                    let service = String::from_utf8_lossy(&record.services).into_owned();
                    let text = format!("{} {} {service} {}", record.order, record.preference, record.replacement);
                    (text, follow(record.replacement.to_ascii()))
                }
                RData::SRV(record) => {
                    let text = format!("{} {} port {} {}", record.priority, record.weight, record.port, record.target);
                    (text, follow(record.target.to_ascii()))
                }
                other => {
                    let ip = other.ip_addr()?;
                    let refused = self.reach().check(SocketAddr::new(ip, 5061)).err();
                    (ip.to_string(), RecordTarget::Address { forbidden: refused.map(|why| why.to_string()) })
                }
            };
            Some(Answer { text, leads })
        });
        asked(Ok(told.collect()))
    }
}
