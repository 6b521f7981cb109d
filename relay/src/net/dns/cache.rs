//! The answers of name servers, for as long as they hold.
//!
//! Invariant: the owner of a domain may have the relay ask for as many names as there are. All answers that are remembered have [`BYTES_MAX`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Message, Query};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use moka::Expiry;
use moka::sync::Cache;

use super::answer_size::of_use;
use super::name_server::is_silence;

/// An answer is kept at least this long, so that a TTL of 0 cannot make the relay hammer DNS.
pub const MIN_TTL: Duration = Duration::from_secs(5);
/// An answer is kept at most this long, so that a server that moved is found again.
pub const MAX_TTL: Duration = Duration::from_secs(3_600);
/// A negative answer is kept at most this long.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(60);

/// A question that was answered with an error for so long is always so: some name servers have nothing else for a type that they do not know.
const ALWAYS: Duration = Duration::from_secs(60);
/// Questions of which is remembered that they were answered with an error; the least used leave first.
const FAILING_MAX: u64 = 10_000;
/// How long that is remembered when nobody asks again.
const FAILING_KEPT: Duration = Duration::from_secs(2 * 3_600);

/// The memory of all remembered answers, in bytes; the least used leave first.
const BYTES_MAX: u64 = 32 << 20;
/// The memory of a remembered answer beside its records, in bytes.
const OVERHEAD: usize = 512;

/// The known answer to a question: its records and how long they hold; `None`: there are none.
pub(super) type Found = Option<(Vec<RData>, Duration)>;

/// The remembered answers; clones share them.
#[derive(Clone)]
pub(crate) struct Answers {
    kept: Cache<Query, Kept>,
    /// Since when questions have been answered with an error alone.
    failing: Cache<Query, Instant>,
}

#[derive(Clone)]
struct Kept {
    /// Empty: there are none.
    records: Arc<[RData]>,
    until: Instant,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            kept: Cache::builder().max_capacity(BYTES_MAX).weigher(weight).expire_after(UntilItsEnd).build(),
            failing: Cache::builder().max_capacity(FAILING_MAX).time_to_idle(FAILING_KEPT).build(),
        }
    }
}

impl Answers {
    /// An earlier answer that still holds.
    pub(crate) fn get(&self, query: &Query, now: Instant) -> Option<Found> {
        let Kept { records, until } = self.kept.get(query)?;
        let left = until.checked_duration_since(now)?;
        Some((!records.is_empty()).then(|| (records.to_vec(), left)))
    }

    /// Whether a question has been answered with an error for [`ALWAYS`].
    pub(super) fn always_fails(&self, query: &Query, now: Instant) -> bool {
        self.failing.get(query).is_some_and(|since| since + ALWAYS <= now)
    }

    /// Remembers an answer, and says what is of use in it. An error other than that there is nothing is not remembered.
    pub(crate) fn insert(
        &self,
        query: &Query,
        answer: Result<Message, NetError>,
        now: Instant,
    ) -> Result<Found, NetError> {
        let (found, ttl) = match answer {
            Ok(message) => match found(message, query.query_type()) {
                Some((records, ttl)) => (Some((records, ttl)), ttl),
                None => (None, MIN_TTL),
            },
            Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) => {
                let ttl = nothing.negative_ttl.map_or(MIN_TTL, |ttl| Duration::from_secs(ttl.into()));
                (None, ttl.clamp(MIN_TTL, MAX_NEGATIVE_TTL))
            }
            Err(error) => {
                if !is_silence(&error) {
                    self.failing.get_with_by_ref(query, || now);
                }
                return Err(error);
            }
        };
        self.failing.invalidate(query);
        let records = found.as_ref().map_or_else(|| Arc::from([]), |(records, _)| Arc::from(&**records));
        self.kept.insert(query.clone(), Kept { records, until: now + ttl });
        Ok(found)
    }
}

/// The records of a message and how long they hold.
pub(crate) fn found(message: Message, kind: RecordType) -> Found {
    let answers = of_use(message.answers, kind);
    let ttl = answers.iter().map(|record| record.ttl).min().map_or(MIN_TTL, |ttl| Duration::from_secs(ttl.into()));
    let records: Vec<_> =
        answers.into_iter().filter(|record| record.record_type() == kind).map(|record| record.data).collect();
    (!records.is_empty()).then(|| (records, ttl.clamp(MIN_TTL, MAX_TTL)))
}

/// The bytes of an answer.
fn weight(query: &Query, kept: &Kept) -> u32 {
    let records = kept.records.iter().map(|data| size_of::<RData>() + beside(data));
    (OVERHEAD + name_bytes(query.name()) + records.sum::<usize>()).try_into().unwrap_or(u32::MAX)
}

/// The heap memory of a record.
fn beside(data: &RData) -> usize {
    match data {
        RData::SRV(record) => name_bytes(&record.target),
        RData::NAPTR(record) => {
            let texts = [&record.flags, &record.services, &record.regexp];
            texts.iter().map(|text| text.len()).sum::<usize>() + name_bytes(&record.replacement)
        }
        _ => 0,
    }
}

/// The bytes of a name and of the places of its labels, each rounded up by its allocator.
fn name_bytes(name: &Name) -> usize {
    2 * name.len()
}

struct UntilItsEnd;

impl Expiry<Query, Kept> for UntilItsEnd {
    fn expire_after_create(&self, _: &Query, kept: &Kept, at: Instant) -> Option<Duration> {
        Some(kept.until.saturating_duration_since(at))
    }

    fn expire_after_update(&self, _: &Query, kept: &Kept, at: Instant, _: Option<Duration>) -> Option<Duration> {
        Some(kept.until.saturating_duration_since(at))
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::op::{DnsResponse, MessageType, OpCode};
    use hickory_resolver::proto::rr::Record;
    use hickory_resolver::proto::rr::rdata::{A, CNAME, NAPTR, SRV};

    use super::super::answer_size::{RECORDS_MAX, bounded};
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn message(records: impl IntoIterator<Item = RData>) -> Message {
        let mut message = Message::new(7, MessageType::Response, OpCode::Query);
        message.answers =
            records.into_iter().map(|data| Record::from_rdata(name("a.evil.example."), 600, data)).collect();
        message
    }

    fn address(number: u32) -> RData {
        RData::A(A::from(std::net::Ipv4Addr::from(number)))
    }

    fn server(priority: u16, weight: u16) -> RData {
        RData::SRV(SRV::new(priority, weight, 5061, name("host.evil.example.")))
    }

    #[test]
    fn of_a_large_answer_the_best_records_of_the_type_asked_for_are_kept() {
        let flood = (0..3_000).map(|number| server(3_000 - number, 0)).chain((0..1_000).map(address));
        let response = DnsResponse::from_message(message(flood)).unwrap();
        let response = bounded(response, RecordType::SRV).unwrap();
        assert_eq!((response.answers.len(), response.as_buffer().len() < 8_192), (RECORDS_MAX, true));
        let (records, ttl) = found(response.into_message(), RecordType::SRV).unwrap();
        assert_eq!((&records[0], &records[63], ttl.as_secs()), (&server(1, 0), &server(64, 0), 600));

        let heavier = (0..100).map(|weight| server(1, weight));
        let (records, _) = found(message(heavier), RecordType::SRV).unwrap();
        assert!(records.contains(&server(1, 99)) && !records.contains(&server(1, 0)));

        let service = |order, flags: &str| {
            let bytes = |text: &str| text.as_bytes().into();
            RData::NAPTR(NAPTR::new(order, 1, bytes(flags), bytes("SIPS+D2T"), bytes(""), name("s.example.")))
        };
        let unusable = (0..2_000).map(|order| service(order, "u"));
        let (records, _) = found(message(unusable.chain([service(9_000, "s")])), RecordType::NAPTR).unwrap();
        assert_eq!((records.len(), &records[0]), (RECORDS_MAX, &service(9_000, "s")));
    }

    #[test]
    fn an_alias_among_many_records_is_kept_and_limits_how_long_they_hold() {
        let mut answer = message((0..4_000).map(address));
        let alias = RData::CNAME(CNAME(name("b.evil.example.")));
        answer.answers.insert(2_000, Record::from_rdata(name("a.evil.example."), 30, alias));
        let response = bounded(DnsResponse::from_message(answer).unwrap(), RecordType::A).unwrap();
        assert_eq!(response.answers.len(), RECORDS_MAX + 1);
        let (records, ttl) = found(response.into_message(), RecordType::A).unwrap();
        assert_eq!((records.len(), &records[0], ttl.as_secs()), (RECORDS_MAX, &address(0), 30));
        assert_eq!(found(message((0..9).map(address)), RecordType::AAAA), None);
    }

    #[test]
    fn a_question_that_is_answered_with_an_error_for_long_is_known_until_it_is_answered() {
        let (answers, start) = (Answers::default(), Instant::now());
        let query = Query::query(name("a.evil.example."), RecordType::AAAA);
        let other = Query::query(name("a.evil.example."), RecordType::A);
        let after = |time: Duration| start + time;
        let moment = Duration::from_secs(1);
        answers.insert(&query, Err(NetError::NoConnections), start).unwrap_err();
        answers.insert(&query, Err(NetError::NoConnections), after(moment)).unwrap_err();
        answers.insert(&query, Err(NetError::Timeout), after(2 * moment)).unwrap_err();
        assert!(!answers.always_fails(&query, after(ALWAYS - moment)));
        assert!(answers.always_fails(&query, after(ALWAYS)) && !answers.always_fails(&other, after(ALWAYS)));
        answers.insert(&query, Ok(message([])), after(ALWAYS)).unwrap();
        assert!(!answers.always_fails(&query, after(2 * ALWAYS)));
        answers.insert(&query, Err(NetError::Timeout), start).unwrap_err();
        assert!(!answers.always_fails(&query, after(ALWAYS)), "silence is no answer");
    }

    #[test]
    fn what_strangers_have_the_relay_ask_for_takes_a_fixed_number_of_bytes() {
        let (answers, now) = (Answers::default(), Instant::now());
        let long = name(&format!("{0}.{0}.{0}.", "x".repeat(63)));
        let data: Box<[u8]> = vec![b'x'; 250].into();
        let large = RData::NAPTR(NAPTR::new(1, 1, data.clone(), data.clone(), data, long));
        for number in 0..1_000 {
            let query = Query::query(name(&format!("n{number}.evil.example.")), RecordType::NAPTR);
            let found = answers.insert(&query, Ok(message(std::iter::repeat_n(large.clone(), 60))), now).unwrap();
            assert_eq!(found.map(|(records, _)| records.len()), Some(60));
        }
        answers.kept.run_pending_tasks();
        let held: usize = answers.kept.iter().map(|(_, kept)| kept.records.len() * 1_000).sum();
        assert!(held as u64 <= BYTES_MAX, "{held}");
    }

    #[test]
    fn an_answer_holds_for_its_ttl_within_limits_and_an_error_for_none() {
        let (answers, now) = (Answers::default(), Instant::now());
        let query = Query::query(name("sip.example."), RecordType::A);
        assert!(answers.insert(&query, Err(NetError::Timeout), now).is_err());
        assert_eq!(answers.get(&query, now), None);
        assert_eq!(answers.insert(&query, Ok(message([])), now).unwrap(), None);
        assert_eq!(answers.get(&query, now), Some(None));
        let told = answers.insert(&query, Ok(message([address(1)])), now).unwrap();
        assert_eq!(told, Some((vec![address(1)], Duration::from_secs(600))));
        let later = now + Duration::from_secs(400);
        assert_eq!(answers.get(&query, later), Some(Some((vec![address(1)], Duration::from_secs(200)))));
        assert_eq!(answers.get(&query, now + Duration::from_secs(601)), None);
    }
}
