//! A name server that answers A, AAAA, SRV, NAPTR and CNAME from a table, over UDP and TCP on loopback.
//!
//! Invariant: it answers only what its table holds: no such name is NXDOMAIN, another type is an empty answer. Of an alias it tells what is
//! behind it, as a recursive one does, unless it is told not to. It stops when dropped.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const NAPTR: u16 = 35;

/// The bytes of an answer by UDP to a question without EDNS (RFC 1035 §4.2.1).
const DATAGRAM_MAX: usize = 512;

/// One record; every name without a trailing dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    owner: String,
    kind: u16,
    ttl: u32,
    data: Vec<u8>,
}

impl Record {
    /// An A or AAAA record, with a TTL of 60 s.
    pub fn address(owner: &str, ip: &str) -> Self {
        let ip: IpAddr = ip.parse().expect("a numeric address");
        let (kind, data) = match ip {
            IpAddr::V4(ip) => (A, ip.octets().to_vec()),
            IpAddr::V6(ip) => (AAAA, ip.octets().to_vec()),
        };
        Self { owner: owner.to_ascii_lowercase(), kind, ttl: 60, data }
    }

    /// A SRV record (RFC 2782), with a TTL of 60 s; a target of `.` says that the service is not available.
    pub fn srv(owner: &str, priority: u16, weight: u16, port: u16, target: &str) -> Self {
        let mut data = Vec::new();
        for number in [priority, weight, port] {
            data.extend(number.to_be_bytes());
        }
        data.extend(name(target.trim_end_matches('.')));
        Self { owner: owner.to_ascii_lowercase(), kind: SRV, ttl: 60, data }
    }

    /// A NAPTR record (RFC 3403) with the flag `s` and no regular expression, with a TTL of 60 s.
    pub fn naptr(owner: &str, order: u16, preference: u16, service: &str, replacement: &str) -> Self {
        let mut data = Vec::new();
        for number in [order, preference] {
            data.extend(number.to_be_bytes());
        }
        for text in ["s", service, ""] {
            data.push(text.len() as u8);
            data.extend(text.bytes());
        }
        data.extend(name(replacement));
        Self { owner: owner.to_ascii_lowercase(), kind: NAPTR, ttl: 60, data }
    }

    /// A CNAME record, with a TTL of 60 s.
    pub fn alias(owner: &str, target: &str) -> Self {
        Self { owner: owner.to_ascii_lowercase(), kind: CNAME, ttl: 60, data: name(target) }
    }

    /// The same with another TTL, in seconds.
    pub fn with_ttl(self, ttl: u32) -> Self {
        Self { ttl, ..self }
    }
}

/// The name server; stops when dropped.
#[derive(Debug)]
pub struct Dns {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// Ends with it.
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct State {
    records: Vec<Record>,
    silent: bool,
    silent_about_ipv6: bool,
    late_with_ipv6: Duration,
    late: Duration,
    silent_about: Option<String>,
    tells_aliases_alone: bool,
    error: Option<u8>,
    unanswerable: Vec<(String, u16)>,
    without_edns: Option<Option<u8>>,
    asked: BTreeMap<String, usize>,
}

impl Dns {
    /// Starts it on a free loopback port.
    pub async fn start(records: Vec<Record>) -> io::Result<Self> {
        let (socket, listener) = loop {
            let socket = UdpSocket::bind("127.0.0.1:0").await?;
            // The port may be another test's.
            if let Ok(listener) = TcpListener::bind(socket.local_addr()?).await {
                break (Arc::new(socket), listener);
            }
        };
        let address = socket.local_addr()?;
        let state = Arc::new(Mutex::new(State { records, ..State::default() }));
        let mut tasks = JoinSet::new();
        let answering = state.clone();
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve_stream(stream, answering.clone()));
            }
        });
        let answering = state.clone();
        tasks.spawn(async move {
            let mut buffer = [0; 1_500];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
                let answer = lock(&answering).answer(&buffer[..length]);
                let Some((mut answer, late)) = answer else { continue };
                if answer.len() > DATAGRAM_MAX && !has_additional(&buffer[..length]) {
                    cut(&mut answer);
                }
                if late.is_zero() {
                    let _ = socket.send_to(&answer, peer).await;
                    continue;
                }
                let socket = socket.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(late).await;
                    let _ = socket.send_to(&answer, peer).await;
                });
            }
        });
        Ok(Self { address, state, _tasks: tasks })
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers from these records from now on.
    pub fn set(&self, records: Vec<Record>) {
        lock(&self.state).records = records;
    }

    /// Hears and says nothing from now on, or speaks again.
    pub fn silence(&self, silent: bool) {
        lock(&self.state).silent = silent;
    }

    /// Leaves each question for AAAA unanswered from now on.
    pub fn ignore_ipv6(&self) {
        lock(&self.state).silent_about_ipv6 = true;
    }

    /// Answers each question for AAAA so late from now on.
    pub fn delay_ipv6(&self, late: Duration) {
        lock(&self.state).late_with_ipv6 = late;
    }

    /// Answers each question so late from now on.
    pub fn delay(&self, late: Duration) {
        lock(&self.state).late = late;
    }

    /// Leaves each question for a name in this domain unanswered from now on.
    pub fn ignore_domain(&self, domain: &str) {
        lock(&self.state).silent_about = Some(format!(".{domain}"));
    }

    /// Tells that a name is an alias from now on, and not what is behind it.
    pub fn tell_aliases_alone(&self) {
        lock(&self.state).tells_aliases_alone = true;
    }

    /// Answers everything with this error (RFC 1035 §4.1.1, RCODE) from now on.
    pub fn fail_with(&self, code: u8) {
        lock(&self.state).error = Some(code);
    }

    /// Answers questions for records of a type (`A`, `AAAA`, `SRV`, `NAPTR`) of a name with SERVFAIL, until [`Self::answer_all`].
    pub fn fail_about(&self, owner: &str, kind: &str) {
        let kind = match kind {
            "A" => A,
            "AAAA" => AAAA,
            "SRV" => SRV,
            "NAPTR" => NAPTR,
            other => panic!("no type of record: {other}"),
        };
        lock(&self.state).unanswerable.push((owner.to_ascii_lowercase(), kind));
    }

    /// Answers everything again.
    pub fn answer_all(&self) {
        lock(&self.state).unanswerable.clear();
    }

    /// Answers a question that has an OPT record (RFC 6891) with this error from now on, or not at all.
    pub fn refuse_edns(&self, code: Option<u8>) {
        lock(&self.state).without_edns = Some(code);
    }

    /// How many questions came.
    pub fn questions(&self) -> usize {
        lock(&self.state).asked.values().sum()
    }

    /// How often a name was asked for, whatever the type.
    pub fn asked(&self, name: &str) -> usize {
        lock(&self.state).asked.get(&name.to_ascii_lowercase()).copied().unwrap_or(0)
    }
}

/// Answers messages with their length before them (RFC 1035 §4.2.2).
async fn serve_stream(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    while let Ok(length) = stream.read_u16().await {
        let mut message = vec![0; usize::from(length)];
        if stream.read_exact(&mut message).await.is_err() {
            return;
        }
        let answer = lock(&state).answer(&message);
        let Some((answer, _)) = answer else { continue };
        let framed = [&(answer.len() as u16).to_be_bytes(), &*answer].concat();
        if stream.write_all(&framed).await.is_err() {
            return;
        }
    }
}

/// Leaves the question, and says that there is more (TC).
fn cut(answer: &mut Vec<u8>) {
    let end = question(answer).map_or(answer.len(), |(_, end)| end + 4);
    answer.truncate(end);
    answer[2] |= 0x02;
    answer[6..12].fill(0);
}

/// Whether a question has an OPT record, which is the one that it can have.
fn has_additional(message: &[u8]) -> bool {
    message.get(10..12).is_some_and(|count| count != [0, 0])
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// The answer to one message of one question (RFC 1035 §4.1), and how late it goes; `None` for anything else, or when silent.
    fn answer(&mut self, message: &[u8]) -> Option<(Vec<u8>, Duration)> {
        let (owner, end) = question(message)?;
        let kind = u16::from_be_bytes([*message.get(end)?, *message.get(end + 1)?]);
        *self.asked.entry(owner.clone()).or_default() += 1;
        let is_ignored = self.silent_about.as_ref().is_some_and(|domain| owner.ends_with(&**domain));
        if self.silent || is_ignored || (self.silent_about_ipv6 && kind == AAAA) {
            return None;
        }
        let mut code = self.error;
        if let (Some(refusal), true) = (self.without_edns, has_additional(message)) {
            code = Some(refusal?);
        }
        if self.unanswerable.iter().any(|(name, of)| *name == owner && *of == kind) {
            code = Some(2);
        }
        let records = if code.is_some() { Vec::new() } else { self.records_of(&owner, kind) };
        let known = self.records.iter().any(|record| record.owner == owner);
        let mut answer = message[..2].to_vec();
        // A response, recursion desired and available; NXDOMAIN is code 3.
        answer.extend([0x81, 0x80 | code.unwrap_or(if known { 0 } else { 3 })]);
        for count in [1, records.len() as u16, 0, 0] {
            answer.extend(count.to_be_bytes());
        }
        answer.extend(message.get(12..end + 4)?);
        for record in records {
            answer.extend(name(&record.owner));
            answer.extend(record.kind.to_be_bytes());
            answer.extend(1u16.to_be_bytes());
            answer.extend(record.ttl.to_be_bytes());
            answer.extend((record.data.len() as u16).to_be_bytes());
            answer.extend(&record.data);
        }
        Some((answer, if kind == AAAA { self.late_with_ipv6.max(self.late) } else { self.late }))
    }

    /// The records of a name, behind the aliases that lead to them.
    fn records_of(&self, owner: &str, kind: u16) -> Vec<&Record> {
        let mut found = Vec::new();
        let mut at = owner.to_owned();
        for _ in 0..16 {
            let of = |kind| self.records.iter().filter(move |record| record.kind == kind);
            let alias = of(CNAME).find(|record| record.owner == at);
            found.extend(of(kind).filter(|record| record.owner == at));
            let Some(alias) = alias else { break };
            found.push(alias);
            if self.tells_aliases_alone {
                break;
            }
            at = question(&[&[0; 12], &*alias.data].concat()).map(|(name, _)| name).unwrap_or_default();
        }
        found
    }
}

/// The name asked for, in lower case, and where it ends.
fn question(message: &[u8]) -> Option<(String, usize)> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
}

/// A name in the form of the wire.
fn name(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}
