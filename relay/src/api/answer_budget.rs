//! A budget for kept and recorded data on its way to devices at once, whichever node has it.
//!
//! An answer with a full box of messages, or a trace, is megabytes, and waits for its peer for as long as
//! [`ANSWER_TIMEOUT`](crate::net::https::ANSWER_TIMEOUT). So each is counted from the moment that it is made until its last byte was written, or is
//! wanted no more.
//!
//! Invariant: of one instance at most [`EACH`] answers wait, of one address at most [`BYTES_EACH`] bytes, of all [`BYTES`]; one that is over that is
//! dropped at once, and answered 429. The requester is authenticated first: a stranger takes no place. An answer that another node, or a shard, makes
//! has its place before it is asked for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, MutexGuard};

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::Value;
use sip::id::InstanceId;

use super::problem::{Problem, ProblemType};
use crate::lock::Mutex;

/// Answers that wait for one instance.
const EACH: usize = 4;
/// Bytes that wait for one address (IPv6: one /64), and for all: 64 and 256 MiB.
const BYTES_EACH: usize = 64 << 20;
const BYTES: usize = 256 << 20;
/// How long who has too many on their way waits before it asks again, in seconds.
const RETRY_S: u64 = 5;

/// The answers on their way; cheap to clone.
#[derive(Clone, Default)]
pub struct Boxes(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    bytes: usize,
    instances: BTreeMap<InstanceId, usize>,
    addresses: BTreeMap<IpAddr, usize>,
}

/// The place of an answer of one instance; given back when it is dropped.
pub struct Place {
    id: InstanceId,
    from: IpAddr,
    /// Bytes that are counted.
    len: usize,
    boxes: Boxes,
}

/// An answer's bytes; counted until they are dropped.
struct Counted {
    bytes: Vec<u8>,
    _place: Place,
}

impl Boxes {
    /// The answer with this body, for an instance at this address.
    ///
    /// # Errors
    /// 429 where too much is on its way.
    pub fn answer(&self, id: InstanceId, from: IpAddr, body: &Value) -> Result<Response, Problem> {
        let counted = self.place(id, from)?.fill(body.to_string().into_bytes())?;
        Ok((StatusCode::OK, [(CONTENT_TYPE, "application/json")], Body::from(counted)).into_response())
    }

    /// A place for an answer that is to be made, for an instance at this address.
    ///
    /// # Errors
    /// 429 where the instance has no more of them, or its address, or the node, is full.
    pub fn place(&self, id: InstanceId, from: IpAddr) -> Result<Place, Problem> {
        let mut waiting = self.lock();
        let answers = waiting.instances.get(&id).copied().unwrap_or_default();
        let of_address = waiting.addresses.get(&from).copied().unwrap_or_default();
        if answers >= EACH || of_address >= BYTES_EACH || waiting.bytes >= BYTES {
            return Err(too_many());
        }
        *waiting.instances.entry(id).or_default() += 1;
        drop(waiting);
        Ok(Place { id, from, len: 0, boxes: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock()
    }
}

impl Place {
    /// The answer's body.
    ///
    /// # Errors
    /// 429 where too much is on its way.
    pub fn fill(mut self, bytes: Vec<u8>) -> Result<Bytes, Problem> {
        let mut waiting = self.boxes.lock();
        let of_address = waiting.addresses.get(&self.from).copied().unwrap_or_default();
        let fits = |have: usize, limit: usize| have == 0 || have.saturating_add(bytes.len()) <= limit;
        if !fits(of_address, BYTES_EACH) || !fits(waiting.bytes, BYTES) {
            drop(waiting);
            return Err(too_many());
        }
        waiting.bytes += bytes.len();
        *waiting.addresses.entry(self.from).or_default() += bytes.len();
        drop(waiting);
        self.len = bytes.len();
        Ok(Bytes::from_owner(Counted { bytes, _place: self }))
    }

    /// A response whose body is that of one which was made elsewhere.
    ///
    /// # Errors
    /// As of [`Self::fill`].
    pub async fn hold(self, response: Response) -> Result<Response, Problem> {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Ok(Response::from_parts(parts, Body::from(self.fill(body.into())?)))
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.boxes.lock();
        waiting.bytes = waiting.bytes.saturating_sub(self.len);
        take_off(&mut waiting.instances, self.id, 1);
        take_off(&mut waiting.addresses, self.from, self.len);
    }
}

fn too_many() -> Problem {
    let detail = "Answers to you wait to be read: read them, or come back after the seconds that Retry-After names.";
    Problem::new(ProblemType::TooManyRequests, detail).retry_after(RETRY_S)
}

/// Counts so many less; what comes to nothing is forgotten.
fn take_off<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K, by: usize) {
    if let Some(count) = counts.get_mut(&key) {
        *count = count.saturating_sub(by);
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    impl Boxes {
        fn count(&self, id: InstanceId, from: IpAddr, text: String) -> Option<Bytes> {
            self.place(id, from).ok()?.fill(text.into_bytes()).ok()
        }
    }

    fn id(number: u128) -> InstanceId {
        InstanceId::new(number << 64, ShardTag(1))
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn of_one_instance_a_few_answers_wait_and_what_is_written_makes_room() {
        let boxes = Boxes::default();
        let ask = |number| boxes.count(id(number), address(1), "a box".to_owned());
        let mut waiting: Vec<_> = (0..EACH).map(|_| ask(1).expect("room")).collect();
        assert!(ask(1).is_none());
        let other = ask(2).expect("another one's is no matter of it");
        let rest = waiting.pop().expect("one").slice(2..);
        assert!(ask(1).is_none(), "a part of it is not written");
        drop(rest);
        assert!(ask(1).is_some());
        let made = boxes.place(id(3), address(1)).expect("one that is to be made has its place");
        drop((waiting, other, made));
        let left = boxes.lock();
        assert!(left.bytes == 0 && left.instances.is_empty() && left.addresses.is_empty());
    }

    #[test]
    fn however_many_instances_and_addresses_there_are_what_waits_is_bounded() {
        let boxes = Boxes::default();
        let mut waiting = Vec::new();
        // A box of 4 MiB for each instance, a hundred of them at each address.
        for number in 0..1_000_u128 {
            waiting.extend(boxes.count(id(number), address((number / 100) as u8), "x".repeat(4 << 20)));
        }
        assert_eq!(waiting.len(), BYTES / (4 << 20));
        let of_one = boxes.lock().addresses.values().copied().max();
        assert_eq!(of_one, Some(BYTES_EACH));
        assert!(boxes.count(id(5_000), address(99), "x".to_owned()).is_none());
        waiting.truncate(1);
        assert!(boxes.count(id(5_000), address(99), "x".to_owned()).is_some());
    }
}
