//! The size of one answer: what of it is of use.
//!
//! | of an answer | is kept |
//! | --- | --- |
//! | records of the type that was asked for | [`RECORDS_MAX`], best first: SRV and NAPTR by their order, addresses as they came |
//! | aliases (CNAME) on the way to them | [`ALIASES_MAX`], while they are followed |
//! | authority and additional records | the SOA record, and few of the others |
//!
//! Invariant: the owner of a domain decides what its name servers answer, up to 64 KB for each question; no answer is larger here than
//! [`RECORDS_MAX`] records.

use std::cmp::Reverse;

use hickory_resolver::proto::ProtoError;
use hickory_resolver::proto::op::DnsResponse;
use hickory_resolver::proto::rr::{RData, Record, RecordType};

use super::naptr;

/// Records of one answer that are looked at; the rest, by their order, are not.
pub(super) const RECORDS_MAX: usize = 64;
/// Aliases of one answer that are looked at.
const ALIASES_MAX: usize = 16;
/// Likewise records that say who answers.
const AUTHORITIES_MAX: usize = 16;

/// A response to a question of this type, no larger than is of use.
pub(super) fn bounded(response: DnsResponse, kind: RecordType) -> Result<DnsResponse, ProtoError> {
    let is_bounded = response.answers.len() <= RECORDS_MAX
        && response.authorities.len() <= AUTHORITIES_MAX
        && response.additionals.len() <= RECORDS_MAX;
    if is_bounded {
        return Ok(response);
    }
    let mut message = response.into_message();
    message.answers = of_use(message.answers, kind);
    message.authorities.sort_by_key(|record| record.record_type() != RecordType::SOA);
    message.authorities.truncate(AUTHORITIES_MAX);
    message.additionals.truncate(AUTHORITIES_MAX);
    DnsResponse::from_message(message)
}

/// The records of one type and the aliases that lead to them.
pub(super) fn of_use(answers: Vec<Record>, kind: RecordType) -> Vec<Record> {
    let (mut records, others): (Vec<_>, Vec<_>) = answers.into_iter().partition(|record| record.record_type() == kind);
    // Stable: what no order is known of stays as it came.
    records.sort_by_key(|record| place(&record.data));
    records.truncate(RECORDS_MAX);
    let aliases = others.into_iter().filter(|record| record.record_type() == RecordType::CNAME).take(ALIASES_MAX);
    aliases.chain(records).collect()
}

/// Where a record stands among others of its type; the least is used first.
fn place(data: &RData) -> (bool, u16, u16, Reverse<u16>) {
    match data {
        RData::SRV(record) => (false, record.priority, 0, Reverse(record.weight)),
        RData::NAPTR(record) => (!naptr::is_known(record), record.order, record.preference, Reverse(0)),
        _ => (false, 0, 0, Reverse(0)),
    }
}
