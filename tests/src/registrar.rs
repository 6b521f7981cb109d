//! A stand-in SIP server: registrar with digest and location table, and the proxy through which callers come.
//!
//! The stand-in listens on UDP, TCP and TLS, each on a free port of 127.0.0.1. How it treats an AOR can be scripted.
//!
//! Invariant: a REGISTER without the right digest changes nothing; a repeated datagram gets the same answer; a call goes
//! down the flow that the binding was registered on.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sip::message::{Message, Method, Name, NameAddr};

use crate::authority::Authority;
use crate::board::{Board, Missed};
use crate::caller::{CallOptions, Caller, dialog};
use crate::digest::{Algorithm, Fields, token};
use crate::leg::{Appearance, Leg};
use crate::lines::{Lines, first_line};
use crate::location::Location;
pub use crate::location::{Binding, aor_of};
use crate::ports;
use crate::wire::{self, Datagrams, Event, Flow, Handler, Tasks, Transport};

/// How the stand-in is set up.
#[derive(Clone)]
pub struct Settings {
    /// The SIP domain, and the digest's realm.
    pub domain: String,
    /// Password by user name.
    pub users: HashMap<String, String>,
    /// The algorithms that it offers, most wanted first.
    pub algorithms: Vec<Algorithm>,
    /// The longest lifetime that it grants, in seconds.
    pub longest: u32,
    /// The shortest that it takes, in seconds; less is 423.
    pub shortest: u32,
    /// The issuer of its TLS certificate; without one, TLS is off.
    pub authority: Option<Authority>,
    /// The letters of a nonce.
    pub nonce_length: usize,
    /// The Flow-Timer that it promises, in seconds (RFC 5626 §5.4).
    pub flow_timer: Option<u32>,
    /// The names in the certificate; the domain and loopback unless told.
    pub certified: Option<Vec<String>>,
    /// The most Contacts that an AOR may have; a REGISTER that would make more is 403.
    pub contacts: usize,
    /// Whether it knows RFC 5626; else it tells Contacts apart by their URIs alone.
    pub outbound: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            domain: "example.test".to_owned(),
            users: HashMap::from([("alice".to_owned(), "wonderland".to_owned())]),
            algorithms: vec![Algorithm::Sha256, Algorithm::Md5],
            longest: 600,
            shortest: 1,
            authority: None,
            nonce_length: 32,
            flow_timer: None,
            certified: None,
            contacts: usize::MAX,
            outbound: true,
        }
    }
}

/// How the stand-in treats the REGISTERs of an AOR. Unless a variant says otherwise, it first verifies the credentials.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// As a registrar does.
    Accept,
    /// Accepts, and grants this many seconds whatever is asked.
    Grant(u32),
    /// This final response.
    Refuse(u16),
    /// 401, whatever comes.
    AskForever,
    /// 401 with `stale=true`, whatever comes.
    StaleForever,
    /// 423 below this many seconds.
    MinExpires(u32),
    /// 503 with `Retry-After`, in seconds.
    RetryAfter(u32),
    /// Says nothing.
    Silence,
    /// As a registrar does, after a time.
    Slow(Duration),
    /// 302 to this URI.
    Redirect(String),
}

/// A REGISTER that came.
#[derive(Clone)]
pub struct RegisterSeen {
    /// When.
    pub at: Instant,
    /// The AOR's key, see [`aor_of`].
    pub aor: String,
    /// The request.
    pub request: Message,
    /// Where it came from.
    pub flow: Flow,
    /// The status of the answer; `None` for silence.
    pub status: Option<u16>,
    /// Whether its digest was right.
    pub proven: bool,
}

/// The stand-in; everything stops when the last clone is dropped.
#[derive(Clone)]
pub struct Registrar(Arc<Inner>);

struct Inner {
    settings: Settings,
    board: Board<State>,
    udp: Datagrams,
    tcp: SocketAddr,
    tls: Option<SocketAddr>,
    _tasks: Arc<Tasks>,
}

#[derive(Default)]
struct State {
    /// Keep-alives get no answer.
    deaf: bool,
    location: Location,
    behaviours: BTreeMap<String, Vec<Behaviour>>,
    registers: Vec<RegisterSeen>,
    legs: HashMap<String, Leg>,
    /// How often each nonce was used, as its highest `nc`.
    nonces: HashMap<String, u32>,
    /// Answers by branch, for repeated datagrams.
    answered: HashMap<String, Option<Bytes>>,
    pings: HashMap<u64, u32>,
    /// Passwords that were changed since the start.
    passwords: HashMap<String, String>,
    /// The realm of the digest, when it is no longer the domain.
    realm: Option<String>,
    violations: Vec<String>,
}

impl Registrar {
    /// Starts it.
    ///
    /// # Errors
    /// When a socket cannot be bound.
    pub async fn start(settings: Settings) -> io::Result<Self> {
        let tasks = Arc::new(Tasks::default());
        let slot: Arc<std::sync::OnceLock<Weak<Inner>>> = Arc::default();
        let fed = slot.clone();
        let handler: Handler = Arc::new(move |event| {
            if let Some(inner) = fed.get().and_then(Weak::upgrade) {
                inner.handle(event);
            }
        });
        // One port for both: what is too large for a datagram comes by TCP to where the datagrams go (RFC 3261 §18.1.1).
        let port = ports::free();
        let udp = Datagrams::bind_at(port, &tasks, handler.clone()).await?;
        let tcp = wire::listen_at(port, &tasks, None, handler.clone()).await?;
        let tls = match &settings.authority {
            None => None,
            Some(authority) => {
                let usual = || [settings.domain.as_str(), "localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
                let names = settings.certified.clone().unwrap_or_else(usual);
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                Some(wire::listen(&tasks, Some(authority.server_config(&names, &[])), handler).await?)
            }
        };
        let inner = Arc::new(Inner { settings, board: Board::default(), udp, tcp, tls, _tasks: tasks });
        let _ = slot.set(Arc::downgrade(&inner));
        Ok(Self(inner))
    }

    /// The address of a listener.
    ///
    /// # Panics
    /// For TLS without an authority.
    pub fn address(&self, transport: Transport) -> SocketAddr {
        self.0.address(transport)
    }

    /// The listener as a URI: `sip:127.0.0.1:5061;transport=tls`.
    pub fn uri(&self, transport: Transport) -> String {
        format!("sip:{};transport={}", self.address(transport), transport.param())
    }

    /// The AOR of a user, as a URI.
    pub fn aor(&self, user: &str) -> String {
        format!("sip:{user}@{}", self.0.settings.domain)
    }

    /// The domain of its accounts.
    pub fn domain(&self) -> &str {
        &self.0.settings.domain
    }

    /// The users that it knows.
    pub fn users(&self) -> Vec<String> {
        self.0.settings.users.keys().cloned().collect()
    }

    /// The password of a user; `None` for one who is not known.
    pub fn password(&self, user: &str) -> Option<String> {
        self.0.settings.users.get(user).cloned()
    }

    /// Treats the REGISTERs of an AOR so from now on.
    pub fn behave(&self, aor: &str, behaviour: Behaviour) {
        self.0.board.change(|state| state.behaviours.insert(aor_of(aor), vec![behaviour]));
    }

    /// Treats the next proven or refused REGISTERs of an AOR so, one after the other; the last stays in force.
    pub fn script(&self, aor: &str, behaviours: &[Behaviour]) {
        self.0.board.change(|state| state.behaviours.insert(aor_of(aor), behaviours.to_vec()));
    }

    /// Gives a user another password; nonces that were given out are forgotten, as a restart would.
    pub fn change_password(&self, user: &str, password: &str) {
        self.0.board.change(|state| {
            state.passwords.insert(user.to_owned(), password.to_owned());
            state.nonces.clear();
        });
    }

    /// Asks for digests in another realm from now on; nonces that were given out are forgotten.
    pub fn change_realm(&self, realm: &str) {
        self.0.board.change(|state| {
            state.realm = Some(realm.to_owned());
            state.nonces.clear();
        });
    }

    /// The live bindings of an AOR, oldest first.
    pub fn contacts(&self, aor: &str) -> Vec<Binding> {
        self.0.board.read(|state| state.location.bindings(&aor_of(aor)))
    }

    /// Waits until an AOR has exactly `count` bindings.
    ///
    /// # Errors
    /// [`Missed`] when it has not `within` the time.
    pub async fn await_contacts(&self, aor: &str, count: usize, within: Duration) -> Result<Vec<Binding>, Missed> {
        let key = aor_of(aor);
        let found = self.0.board.wait(within, |state| {
            let bindings = state.location.bindings(&key);
            (bindings.len() == count).then_some(bindings)
        });
        found.await.ok_or_else(|| Missed::new(format!("{count} contacts of {key}"), self.report(&key)))
    }

    /// The REGISTERs of an AOR, in order.
    pub fn registers(&self, aor: &str) -> Vec<RegisterSeen> {
        let key = aor_of(aor);
        self.0.board.read(|state| state.registers.iter().filter(|seen| seen.aor == key).cloned().collect())
    }

    /// How many REGISTERs came, of all AORs.
    pub fn register_count(&self) -> usize {
        self.0.board.read(|state| state.registers.len())
    }

    /// How many AORs have a live binding.
    pub fn registered(&self) -> usize {
        self.0.board.read(|state| state.location.all().len())
    }

    /// Waits until `count` REGISTERs of an AOR have come, and gives the last.
    ///
    /// # Errors
    /// [`Missed`] when they have not `within` the time.
    pub async fn await_registers(&self, aor: &str, count: usize, within: Duration) -> Result<RegisterSeen, Missed> {
        let key = aor_of(aor);
        let found = self.0.board.wait(within, |state| {
            let mut seen = state.registers.iter().filter(|seen| seen.aor == key);
            seen.nth(count.saturating_sub(1)).map(|_| ())
        });
        found.await.ok_or_else(|| Missed::new(format!("{count} REGISTERs of {key}"), self.report(&key)))?;
        self.last_register(aor).ok_or_else(|| Missed::new("a REGISTER", ""))
    }

    /// The last REGISTER of an AOR.
    pub fn last_register(&self, aor: &str) -> Option<RegisterSeen> {
        self.registers(aor).pop()
    }

    /// Waits until the flow of an AOR's newest binding has carried `count` keep-alives.
    ///
    /// # Errors
    /// [`Missed`] when it has not `within` the time.
    pub async fn await_pings(&self, aor: &str, count: u32, within: Duration) -> Result<(), Missed> {
        let key = aor_of(aor);
        let found = self.0.board.wait(within, |state| {
            let binding = state.location.bindings(&key).pop()?;
            (state.pings.get(&binding.flow.id()).copied().unwrap_or(0) >= count).then_some(())
        });
        found.await.ok_or_else(|| Missed::new(format!("{count} keep-alives of {key}"), ""))
    }

    /// Sends a request to the newest binding of an AOR, along its flow.
    ///
    /// # Errors
    /// [`Missed`] when the AOR has no binding.
    pub fn call(&self, aor: &str, options: &CallOptions) -> Result<Caller, Missed> {
        let binding = self.contacts(aor).pop().ok_or_else(|| Missed::new(format!("a contact of {aor}"), ""))?;
        Ok(self.call_contact(aor, &binding.uri, &binding.flow, &by_path(&binding, options)))
    }

    /// As [`Self::call`], on a connection that is opened to the first address of the binding's Path, as a server does whose
    /// earlier connections are gone.
    ///
    /// # Errors
    /// [`Missed`] when the AOR has no binding with a Path, or nobody listens there.
    pub async fn call_by_path(&self, aor: &str, options: &CallOptions) -> Result<Caller, Missed> {
        let flow = self.path_flow(aor).await?;
        self.call_along(aor, &flow, options)
    }

    /// As [`Self::call`], along any flow of this server.
    ///
    /// # Errors
    /// [`Missed`] when the AOR has no binding.
    pub fn call_along(&self, aor: &str, flow: &Flow, options: &CallOptions) -> Result<Caller, Missed> {
        let binding = self.contacts(aor).pop().ok_or_else(|| Missed::new(format!("a contact of {aor}"), ""))?;
        Ok(self.call_contact(aor, &binding.uri, flow, &by_path(&binding, options)))
    }

    /// A connection to the first address of the Path of an AOR's newest binding.
    ///
    /// # Errors
    /// [`Missed`] when the AOR has no binding with a Path, or nobody listens there.
    pub async fn path_flow(&self, aor: &str) -> Result<Flow, Missed> {
        let binding = self.contacts(aor).pop().ok_or_else(|| Missed::new(format!("a contact of {aor}"), ""))?;
        let none = || Missed::new(format!("a Path of {aor}"), binding.path.join(", "));
        let path = binding.path.first().and_then(|path| NameAddr::parse(path)).ok_or_else(none)?;
        let address = format!("{}:{}", path.uri.host, path.uri.port.unwrap_or(5061)).parse().map_err(|_| none())?;
        match path.uri.transport() {
            None | Some("udp") => Ok(self.0.udp.flow(address)),
            Some("tls") => self.connect(address, Some(path.uri.host)).await,
            _ => self.connect(address, None).await,
        }
    }

    /// As [`Self::call`], on a TLS connection that is opened to this address.
    ///
    /// # Errors
    /// [`Missed`] when the AOR has no binding, or nobody listens there.
    pub async fn call_anew(&self, aor: &str, address: SocketAddr, options: &CallOptions) -> Result<Caller, Missed> {
        let binding = self.contacts(aor).pop().ok_or_else(|| Missed::new(format!("a contact of {aor}"), ""))?;
        let flow = self.connect(address, Some(&address.ip().to_string())).await?;
        Ok(self.call_contact(aor, &binding.uri, &flow, options))
    }

    /// A connection of this server's own; `name` is verified in TLS, for which it is needed.
    async fn connect(&self, address: SocketAddr, name: Option<&str>) -> Result<Flow, Missed> {
        let inner = Arc::downgrade(&self.0);
        let handler: Handler = Arc::new(move |event| {
            if let Some(inner) = inner.upgrade() {
                inner.handle(event);
            }
        });
        let authority = self.0.settings.authority.as_ref();
        let tls = name.zip(authority).map(|(name, authority)| (authority.client_config(&[]), name));
        wire::connect(address, tls, handler).await.map_err(|error| Missed::new("a connection", error.to_string()))
    }

    /// Sends a request for `aor` to any URI along any flow of this server.
    pub fn call_contact(&self, aor: &str, uri: &str, flow: &Flow, options: &CallOptions) -> Caller {
        let transport = flow.transport();
        let own = format!("{};transport={}", self.address(transport), transport.param());
        let route = format!("<sip:{own};lr>");
        let leg = Leg::new(
            flow.clone(),
            Appearance {
                vias: vec![
                    format!("SIP/2.0/{} {}", transport.via(), self.address(transport)),
                    "SIP/2.0/UDP 127.0.0.1:5099".to_owned(),
                ],
                contact: format!("sip:bob@127.0.0.1:5099;c={}", token()),
                own_route: options.record_route.then(|| route.clone()),
                forgets_route: options.forgets_route,
            },
            dialog(options, aor, uri),
        );
        self.0.board.change(|state| state.legs.insert(leg.dialog().call_id, leg.clone()));
        Caller::start(leg, options.record_route.then_some(route.as_str()), options)
    }

    /// Leaves keep-alives without an answer from now on, or answers them again.
    pub fn be_deaf(&self, deaf: bool) {
        self.0.board.change(|state| state.deaf = deaf);
    }

    /// Cuts every connection that a binding was registered on; the bindings stay.
    pub fn drop_flows(&self) {
        self.0.board.read(|state| state.location.all()).iter().for_each(|binding| binding.flow.drop_connection());
    }

    /// Forgets all bindings, as a restart would.
    pub fn forget(&self) {
        self.0.board.change(|state| state.location.clear());
    }

    /// Violations of the RFCs by the other side.
    pub fn violations(&self) -> Vec<String> {
        self.0.board.read(|state| state.violations.clone())
    }

    fn report(&self, key: &str) -> String {
        let registers = self.registers(&format!("sip:{key}"));
        let seen: Vec<String> = registers.iter().map(|seen| format!("REGISTER → {:?}", seen.status)).collect();
        format!("{} ({} contacts)", seen.join(", "), self.contacts(&format!("sip:{key}")).len())
    }
}

/// The options of a request to a binding: its Path is the Route (RFC 3327 §5.4).
fn by_path(binding: &Binding, options: &CallOptions) -> CallOptions {
    binding.path.iter().fold(options.clone(), |options, path| options.header("Route", path))
}

/// The answer to a REGISTER.
struct Verdict {
    status: Option<u16>,
    headers: Vec<(String, String)>,
    proven: bool,
    after: Option<Duration>,
}

impl Verdict {
    fn refused(status: u16, proven: bool) -> Self {
        Self { status: Some(status), headers: Vec::new(), proven, after: None }
    }

    fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }
}

impl Inner {
    fn address(&self, transport: Transport) -> SocketAddr {
        match transport {
            Transport::Udp => self.udp.local(),
            Transport::Tcp => self.tcp,
            Transport::Tls => self.tls.expect("a registrar without an authority has no TLS"),
            Transport::Wss => panic!("a registrar is not reached by WebSocket"),
        }
    }

    fn handle(&self, event: Event) {
        match event {
            Event::Message(flow, message) => self.on_message(&flow, message),
            Event::Ping(flow, answer) => {
                if !self.board.read(|state| state.deaf) {
                    flow.send(&answer);
                }
                self.board.change(|state| *state.pings.entry(flow.id()).or_default() += 1);
            }
            Event::Garbage(flow, _) => {
                let note = format!("bytes that are no SIP from {}", flow.remote());
                self.board.change(|state| state.violations.push(note));
            }
            // Waiters look again: a flow is no longer open.
            Event::Closed(_) => self.board.change(|_| ()),
            Event::Pong(_) => {}
        }
    }

    fn on_message(&self, flow: &Flow, message: Message) {
        if message.method() == Some(Method::Register) {
            return self.on_register(flow, message);
        }
        let leg = self.board.read(|state| state.legs.get(message.call_id().unwrap_or_default()).cloned());
        match leg {
            Some(leg) => leg.receive(message),
            None if message.is_request() && message.method() != Some(Method::Ack) => {
                let status = if message.method() == Some(Method::Options) { 200 } else { 404 };
                flow.send(&Lines::response(&message, status, &token()).finish());
            }
            None => {
                let note = format!("{} for no call", first_line(&message));
                self.board.change(|state| state.violations.push(note));
            }
        }
    }

    fn on_register(&self, flow: &Flow, request: Message) {
        let branch = request.via().and_then(|via| via.branch().map(str::to_owned)).unwrap_or_default();
        if let Some(answer) = self.board.read(|state| state.answered.get(&branch).cloned()) {
            return answer.iter().for_each(|answer| flow.send(answer));
        }
        let aor = request.to().and_then(|to| to.target()).map(aor_of).unwrap_or_default();
        self.board.change(|state| {
            if let Err(fault) = request.check() {
                state.violations.push(format!("REGISTER: {fault}"));
            }
            let verdict = self.judge(state, &aor, flow, &request);
            let answer = verdict.status.map(|status| {
                let headers = verdict.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                Lines::response(&request, status, &token()).lines(headers).finish()
            });
            state.answered.insert(branch, answer.clone());
            state.registers.push(RegisterSeen {
                at: Instant::now(),
                aor,
                request,
                flow: flow.clone(),
                status: verdict.status,
                proven: verdict.proven,
            });
            match (answer, verdict.after) {
                (Some(answer), None) => flow.send(&answer),
                (Some(answer), Some(after)) => {
                    let flow = flow.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(after).await;
                        flow.send(&answer);
                    });
                }
                (None, _) => {}
            }
        });
    }

    fn judge(&self, state: &mut State, aor: &str, flow: &Flow, request: &Message) -> Verdict {
        let behaviour = state.behaviours.get(aor).and_then(|script| script.first().cloned());
        let behaviour = behaviour.unwrap_or(Behaviour::Accept);
        match behaviour {
            Behaviour::Silence => {
                advance(state, aor);
                return Verdict { status: None, headers: Vec::new(), proven: false, after: None };
            }
            Behaviour::AskForever | Behaviour::StaleForever => {
                advance(state, aor);
                return self.challenge(state, matches!(behaviour, Behaviour::StaleForever));
            }
            _ => {}
        }
        if let Err(why) = self.prove(state, aor, request) {
            if let Some(why) = why {
                state.violations.push(why);
            }
            let verdict = self.challenge(state, false);
            return match behaviour {
                Behaviour::Slow(after) => Verdict { after: Some(after), ..verdict },
                _ => verdict,
            };
        }
        advance(state, aor);
        self.proven(state, aor, flow, request, behaviour)
    }

    fn proven(&self, state: &mut State, aor: &str, flow: &Flow, request: &Message, behaviour: Behaviour) -> Verdict {
        let asked = request.number(Name::Expires).or_else(|| {
            let contacts = request.contacts();
            contacts.first()?.params.value("expires")?.parse().ok()
        });
        let mut shortest = self.settings.shortest;
        let mut longest = self.settings.longest;
        let mut after = None;
        match behaviour {
            Behaviour::Refuse(status) => return Verdict::refused(status, true),
            Behaviour::RetryAfter(seconds) => return Verdict::refused(503, true).with("Retry-After", seconds),
            Behaviour::Redirect(uri) => return Verdict::refused(302, true).with("Contact", format!("<{uri}>")),
            Behaviour::MinExpires(seconds) => shortest = seconds,
            Behaviour::Grant(seconds) => (shortest, longest) = (0, seconds),
            Behaviour::Slow(time) => after = Some(time),
            _ => {}
        }
        if asked.is_some_and(|asked| asked > 0 && asked < shortest) {
            return Verdict::refused(423, true).with("Min-Expires", shortest);
        }
        if request.has(Name::Path) && !request.lists(Name::Supported, "path") {
            return Verdict::refused(420, true).with("Unsupported", "path");
        }
        let before = state.location.clone();
        state.location.update(aor, request, flow, self.settings.outbound, |asked| asked.min(longest));
        if state.location.bindings(aor).len() > self.settings.contacts {
            state.location = before;
            return Verdict::refused(403, true);
        }
        let mut verdict = Verdict { after, ..Verdict::refused(200, true) };
        for path in request.elements(Name::Path) {
            verdict = verdict.with("Path", path);
        }
        let bindings = state.location.bindings(aor);
        if bindings.iter().any(|binding| binding.reg_id.is_some()) {
            verdict = verdict.with("Require", "outbound").with("Supported", "path, outbound");
        }
        for binding in bindings {
            verdict = verdict.with("Contact", binding.listed());
        }
        if let Some(seconds) = self.settings.flow_timer {
            verdict = verdict.with("Flow-Timer", seconds);
        }
        verdict
    }

    fn challenge(&self, state: &mut State, stale: bool) -> Verdict {
        let mut verdict = Verdict::refused(401, false);
        let mut nonce = String::new();
        while nonce.len() < self.settings.nonce_length {
            nonce += &token();
        }
        nonce.truncate(self.settings.nonce_length);
        state.nonces.insert(nonce.clone(), 0);
        let (realm, stale) =
            (state.realm.as_ref().unwrap_or(&self.settings.domain), if stale { ", stale=true" } else { "" });
        for algorithm in &self.settings.algorithms {
            let name = algorithm.name();
            let value = format!("Digest realm=\"{realm}\", nonce=\"{nonce}\", algorithm={name}, qop=\"auth\"{stale}");
            verdict = verdict.with("WWW-Authenticate", value);
        }
        verdict
    }

    /// Checks the digest. `Err(None)` when there is none or its nonce is old, `Err(Some)` when it is wrong.
    fn prove(&self, state: &mut State, aor: &str, request: &Message) -> Result<(), Option<String>> {
        let fields = request.text(Name::Authorization).and_then(Fields::parse).ok_or(None)?;
        let field = |name: &str| fields.get(name).ok_or_else(|| Some(format!("REGISTER {aor}: digest without {name}")));
        let (user, nonce, uri) = (field("username")?, field("nonce")?, field("uri")?);
        let wrong = |what: &str| Some(format!("REGISTER {aor}: {what}"));
        let algorithm = fields.algorithm().filter(|a| self.settings.algorithms.contains(a));
        let algorithm = algorithm.ok_or_else(|| wrong("an algorithm that was not offered"))?;
        let realm = state.realm.as_ref().unwrap_or(&self.settings.domain);
        if field("realm")? != realm {
            // A client that was challenged in the earlier realm is challenged again.
            return Err(if state.realm.is_some() { None } else { wrong("another realm") });
        }
        if Some(uri) != request.request_uri() {
            return Err(wrong("the digest's uri is not the Request-URI"));
        }
        let used = state.nonces.get_mut(nonce).ok_or(None)?;
        let (nc, cnonce) = (field("nc")?, field("cnonce")?);
        let count = u32::from_str_radix(nc, 16).map_err(|_| wrong("nc is no number"))?;
        if count <= *used {
            return Err(wrong("nc does not grow"));
        }
        *used = count;
        // An account of another's AOR is no proof for this one.
        let owner = aor.split('@').next() == Some(user);
        let password = state.passwords.get(user).or_else(|| self.settings.users.get(user));
        let password = password.filter(|_| owner).ok_or(None)?;
        let ha1 = algorithm.ha1(user, state.realm.as_ref().unwrap_or(&self.settings.domain), password);
        let expected = algorithm.response(&ha1, "REGISTER", uri, nonce, Some((nc, cnonce)));
        if field("response")? == expected { Ok(()) } else { Err(None) }
    }
}

/// Goes on to the next behaviour of a script; the last stays.
fn advance(state: &mut State, aor: &str) {
    if let Some(script) = state.behaviours.get_mut(aor)
        && script.len() > 1
    {
        script.remove(0);
    }
}
