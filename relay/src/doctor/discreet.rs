//! The part of the DNS findings that an app may see: nothing of names and addresses that lead where the relay does not go.
//!
//! The holder of an app key chooses the name that is asked for, and the name servers may be those of the operator's own network.
//!
//! Invariant: a name that the app did not write is left out, even from the list of queries, unless it leads to an address that may be dialled.

use std::collections::BTreeSet;

use crate::net::dns::report::{Asked, RecordTarget};
use crate::net::dns::resolve::Target;

/// In place of what is left out.
pub(super) const NOWHERE: &str = "leads to no address that this relay may dial";

/// The questions and records that may be told.
pub(super) fn discreet(target: &Target, trail: Vec<Asked>) -> Vec<Asked> {
    let reached = reached(&trail);
    let host = target.host.trim_end_matches('.').to_ascii_lowercase();
    let is_askers_own = |name: &str| name == host || name.strip_suffix(&host).is_some_and(is_usual);
    let shown = trail.into_iter().filter(|asked| is_askers_own(&asked.name) || reached.contains(&asked.name));
    shown
        .map(|mut asked| {
            if let Ok(records) = &mut asked.answer {
                records.retain(|record| leads_there(&record.leads, &reached));
            }
            asked
        })
        .collect()
}

/// Whether the relay itself puts this before a host's name.
fn is_usual(service: &str) -> bool {
    matches!(service, "_sips._tcp." | "_sip._tcp." | "_sip._udp.")
}

fn leads_there(leads: &RecordTarget, reached: &BTreeSet<String>) -> bool {
    match leads {
        RecordTarget::Name(name) => reached.contains(name),
        RecordTarget::Address { forbidden } => forbidden.is_none(),
    }
}

/// The names that lead to an address which may be dialled.
fn reached(trail: &[Asked]) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    loop {
        let before = reached.len();
        for asked in trail {
            let records = asked.answer.as_deref().unwrap_or_default();
            if records.iter().any(|record| leads_there(&record.leads, &reached)) {
                reached.insert(asked.name.clone());
            }
        }
        if reached.len() == before {
            return reached;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::dns::report::Answer;

    fn asked(question: &str, records: &[(&str, RecordTarget)]) -> Asked {
        let name = question.split(' ').next_back().unwrap().to_owned();
        let answers = records.iter().map(|(text, leads)| Answer { text: (*text).to_owned(), leads: leads.clone() });
        Asked { question: question.to_owned(), name, answer: Ok(answers.collect()) }
    }

    fn to(name: &str) -> RecordTarget {
        RecordTarget::Name(name.to_owned())
    }

    fn address(is_allowed: bool) -> RecordTarget {
        RecordTarget::Address { forbidden: (!is_allowed).then(|| "not public".to_owned()) }
    }

    #[test]
    fn names_and_addresses_that_lead_inside_are_not_told_whatever_leads_to_them() {
        let target = Target { host: "a.test".into(), port: None, transport: None };
        let trail = vec![
            asked("NAPTR a.test", &[("10 50 SIP+D2U _sip._udp.in.test", to("_sip._udp.in.test"))]),
            asked("SRV _sips._tcp.a.test", &[("pbx.in.test", to("pbx.in.test")), ("out.test", to("out.test"))]),
            asked("SRV _sip._udp.a.test", &[("gone.in.test", to("gone.in.test"))]),
            asked("SRV _sip._udp.in.test", &[("pbx.in.test", to("pbx.in.test"))]),
            asked("A a.test", &[("10.0.0.1", address(false))]),
            asked("A pbx.in.test", &[("10.20.30.40", address(false))]),
            asked("AAAA pbx.in.test", &[]),
            asked("A out.test", &[("192.0.2.1", address(true)), ("10.0.0.2", address(false))]),
            asked("A gone.in.test", &[]),
        ];
        let told: Vec<(String, Vec<String>)> = discreet(&target, trail)
            .into_iter()
            .map(|asked| (asked.question, asked.answer.unwrap().into_iter().map(|it| it.text).collect()))
            .collect();
        let expected: [(&str, &[&str]); 5] = [
            ("NAPTR a.test", &[]),
            ("SRV _sips._tcp.a.test", &["out.test"]),
            ("SRV _sip._udp.a.test", &[]),
            ("A a.test", &[]),
            ("A out.test", &["192.0.2.1"]),
        ];
        let told: Vec<_> = told.iter().map(|(q, all)| (q.as_str(), all.iter().map(String::as_str).collect())).collect();
        let expected: Vec<(&str, Vec<&str>)> = expected.map(|(q, all)| (q, all.to_vec())).to_vec();
        assert_eq!(told, expected);
    }
}
