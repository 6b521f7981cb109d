//! A stand-in phone: registers over TLS (or secure WebSocket, TCP, UDP) as its user would, and takes calls.
//!
//! Invariant: the connection is dropped with the phone; what came against the RFCs is in [`Phone::violations`].

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use sip::message::{Message, Method, Name, Uri};

use crate::authority::Authority;
use crate::board::{Board, Missed};
use crate::dialog::{Dialog, faults};
use crate::digest::{Algorithm, Fields, answer, token};
use crate::leg::{Appearance, Leg};
use crate::lines::{Lines, first_line, sdp};
use crate::wire::{self, Datagrams, Event, Flow, Handler, Resend, Tasks, Transport};

/// How the phone proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Digest with this algorithm, when the server offers it.
    Digest(Algorithm),
    /// `Authorization: Bearer` with the password as the token (RFC 8898).
    Bearer,
}

/// The identity of a phone, and its registrar.
#[derive(Clone)]
pub struct Settings {
    /// Where it connects and registers: `sip:127.0.0.1:5061;transport=tls`, or `;transport=ws` for a secure WebSocket. The
    /// host is what TLS verifies.
    pub server: String,
    /// Where it connects in place of that, because something lies in between.
    pub way: Option<SocketAddr>,
    /// Its AOR.
    pub aor: String,
    /// The digest's user.
    pub username: String,
    /// The password, or the instance secret.
    pub password: String,
    /// How it proves it.
    pub proof: Proof,
    /// The authority whose certificates it trusts; for TLS.
    pub authority: Option<Authority>,
    /// Its instance (`urn:uuid:…`), with reg-id 1.
    pub instance: Option<String>,
    /// The lifetime that it asks for, in seconds.
    pub expires: u32,
    /// Its SIP server and its push service, when `server` is only the push proxy on the way (RFC 8599).
    pub through: Option<Through>,
}

/// How a phone registers through a push proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Through {
    /// Its SIP server: the Request-URI of REGISTER.
    pub registrar: String,
    /// Parameters of the Contact's URI: `;pn-provider=fcm;pn-param=…;pn-prid=…`
    pub pn: String,
    /// Further parameters of the Contact: `;+sip.pnsreg`
    pub features: String,
}

impl Settings {
    /// A phone of `username` at `server`, trusting `authority`; its AOR is the user at the server's host.
    pub fn new(server: &str, username: &str, password: &str, authority: Option<&Authority>) -> Self {
        let host = Uri::parse(server).map(|uri| uri.host.to_owned()).unwrap_or_default();
        Self {
            server: server.to_owned(),
            way: None,
            aor: format!("sip:{username}@{host}"),
            username: username.to_owned(),
            password: password.to_owned(),
            proof: Proof::Digest(Algorithm::Sha256),
            authority: authority.cloned(),
            instance: Some(format!("urn:uuid:00000000-0000-4000-8000-{}", &token()[..12])),
            expires: 300,
            through: None,
        }
    }
}

/// A phone with its connection.
pub struct Phone {
    settings: Settings,
    flow: Flow,
    contact: String,
    board: Board<State>,
    _tasks: Arc<Tasks>,
}

#[derive(Default)]
struct State {
    /// Nothing is read or answered any more, though the connection stands.
    silent: bool,
    closed: bool,
    pongs: u32,
    cseq: u32,
    register_call_id: String,
    challenge: Option<(Fields, u32)>,
    /// Responses to requests outside calls, by branch.
    responses: HashMap<String, Message>,
    invites: VecDeque<IncomingCall>,
    /// How many INVITEs outside dialogs came.
    invited: usize,
    legs: HashMap<String, Leg>,
    /// Requests outside dialogs, with what was answered.
    requests: Vec<Message>,
    answered: HashMap<String, Bytes>,
    violations: Vec<String>,
    log: Vec<String>,
}

impl State {
    fn violations(&self) -> Vec<String> {
        let calls = self.legs.values().flat_map(Leg::violations);
        self.violations.iter().cloned().chain(calls).collect()
    }
}

impl Phone {
    /// Connects, without registering.
    ///
    /// # Errors
    /// When the server's URI is none, or the connection or its TLS fails.
    pub async fn connect(settings: Settings) -> io::Result<Self> {
        let uri = Uri::parse(&settings.server).ok_or_else(|| io::Error::other("the server is no SIP URI"))?;
        let (host, port) = (uri.host.trim_matches(['[', ']']), uri.port.unwrap_or(5061));
        let numeric: Result<IpAddr, _> = host.parse();
        let server = match numeric {
            Ok(ip) => Some(SocketAddr::new(ip, port)),
            Err(_) => (host, port).to_socket_addrs()?.find(SocketAddr::is_ipv4),
        };
        let server = settings.way.or(server).ok_or_else(|| io::Error::other("the server has no IPv4 address"))?;
        let transport = match uri.transport() {
            Some("udp") => Transport::Udp,
            Some("tcp") => Transport::Tcp,
            Some("ws") => Transport::Wss,
            _ => Transport::Tls,
        };
        let tasks = Arc::new(Tasks::default());
        let board = Board::new(State { register_call_id: format!("{}@phone", token()), ..State::default() });
        let contact: Arc<OnceLock<String>> = Arc::default();
        let handler = handler(board.clone(), contact.clone());
        let flow = match transport {
            Transport::Udp => Datagrams::bind(&tasks, handler).await?.flow(server),
            Transport::Tcp => wire::connect(server, None, handler).await?,
            Transport::Tls | Transport::Wss => {
                let authority = settings.authority.clone().ok_or_else(|| io::Error::other("TLS wants an authority"))?;
                let tls = authority.client_config(&[]);
                match transport {
                    Transport::Wss => wire::connect_websocket(server, tls, host, handler).await?,
                    _ => wire::connect(server, Some((tls, host)), handler).await?,
                }
            }
        };
        // A phone in a browser does not know its own address (RFC 7118 §5.2).
        let sent_by = match transport {
            Transport::Wss => format!("{}.invalid", token()),
            _ => flow.local().to_string(),
        };
        let pn = settings.through.as_ref().map(|through| through.pn.as_str()).unwrap_or_default();
        let own = format!("sip:{}@{sent_by};transport={}{pn}", settings.username, transport.param());
        let contact = contact.get_or_init(|| own).clone();
        Ok(Self { settings, flow, contact, board, _tasks: tasks })
    }

    /// Another account of the same phone, on the same connection.
    pub fn also(&self, settings: Settings) -> Self {
        let pn = settings.through.as_ref().map(|through| through.pn.as_str()).unwrap_or_default();
        let (local, transport) = (self.flow.local(), self.flow.transport().param());
        let contact = format!("sip:{}@{local};transport={transport}{pn}", settings.username);
        let (flow, board, _tasks) = (self.flow.clone(), self.board.clone(), self._tasks.clone());
        Self { settings, flow, contact, board, _tasks }
    }

    /// Connects and registers; the 200 must come `within` the time.
    ///
    /// # Errors
    /// [`Missed`] when the connection fails or another answer comes.
    pub async fn registered(settings: Settings, within: Duration) -> Result<Self, Missed> {
        let phone = Self::connect(settings).await.map_err(|e| Missed::new("a connection", e.to_string()))?;
        let answer = phone.register(within).await?;
        match answer.status() {
            Some(200) => Ok(phone),
            _ => Err(Missed::new("200 to REGISTER", first_line(&answer))),
        }
    }

    /// The phone's identity and registrar.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Its Contact's URI.
    pub fn contact(&self) -> &str {
        &self.contact
    }

    /// Its connection.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Registers, answering up to two challenges, and gives the final response.
    ///
    /// # Errors
    /// [`Missed`] when none comes `within` the time.
    pub async fn register(&self, within: Duration) -> Result<Message, Missed> {
        self.register_for(self.settings.expires, within).await
    }

    /// Takes its registration back and gives the final response.
    ///
    /// # Errors
    /// [`Missed`] when none comes `within` the time.
    pub async fn unregister(&self, within: Duration) -> Result<Message, Missed> {
        self.register_for(0, within).await
    }

    /// One REGISTER with this `Authorization`, or none; gives its final response.
    ///
    /// # Errors
    /// [`Missed`] when none comes `within` the time.
    pub async fn register_once(
        &self,
        authorization: Option<String>,
        expires: u32,
        within: Duration,
    ) -> Result<Message, Missed> {
        let mut contact = format!("<{}>;expires={expires}", self.contact);
        if let Some(instance) = &self.settings.instance {
            contact += &format!(";+sip.instance=\"<{instance}>\";reg-id=1");
        }
        let through = self.settings.through.as_ref();
        contact += through.map(|through| through.features.as_str()).unwrap_or_default();
        self.send_register(authorization, Some(contact), within).await
    }

    /// Asks its SIP server which Contacts are registered (RFC 3261 §10.2.3), answering one challenge, and gives the final response.
    ///
    /// # Errors
    /// [`Missed`] when none comes `within` the time.
    pub async fn fetch(&self, within: Duration) -> Result<Message, Missed> {
        let response = self.send_register(None, None, within).await?;
        if response.status() != Some(401) {
            return Ok(response);
        }
        self.keep_challenge(&response);
        self.send_register(self.authorization(), None, within).await
    }

    async fn send_register(
        &self,
        authorization: Option<String>,
        contact: Option<String>,
        within: Duration,
    ) -> Result<Message, Missed> {
        let (cseq, call_id) = self.board.change(|state| {
            state.cseq += 1;
            (state.cseq, state.register_call_id.clone())
        });
        let route = self.settings.through.as_ref().map(|_| format!("<{};lr>", self.settings.server));
        let lines = Lines::request("REGISTER", self.registrar())
            .lines(route.as_ref().map(|route| ("Route", route.as_str())))
            .line("From", &format!("<{}>;tag=phone", self.settings.aor))
            .line("To", &format!("<{}>", self.settings.aor))
            .line("Call-ID", &call_id)
            .line("CSeq", &format!("{cseq} REGISTER"))
            .lines(contact.as_ref().map(|value| ("Contact", value.as_str())))
            .line("Supported", "path, outbound, gruu")
            .lines(authorization.as_ref().map(|value| ("Authorization", value.as_str())));
        self.transact(lines, within).await
    }

    /// Sends a request outside any dialog and gives its final response.
    ///
    /// # Errors
    /// [`Missed`] when none comes `within` the time.
    pub async fn request(&self, method: &str, uri: &str, within: Duration) -> Result<Message, Missed> {
        let lines = Lines::request(method, uri)
            .line("From", &format!("<{}>;tag={}", self.settings.aor, token()))
            .line("To", &format!("<{uri}>"))
            .line("Call-ID", &format!("{}@phone", token()))
            .line("CSeq", &format!("1 {method}"))
            .line("Contact", &format!("<{}>", self.contact));
        self.transact(lines, within).await
    }

    /// Waits for the next INVITE outside a dialog.
    ///
    /// # Errors
    /// [`Missed`] when none comes `within` the time.
    pub async fn next_invite(&self, within: Duration) -> Result<IncomingCall, Missed> {
        let found = self.board.wait(within, |state| state.invites.pop_front());
        found.await.ok_or_else(|| self.missed("an INVITE"))
    }

    /// How many INVITEs outside dialogs came so far.
    pub fn invited(&self) -> usize {
        self.board.read(|state| state.invited)
    }

    /// Waits for a request of this method outside dialogs; it has been answered 200.
    ///
    /// # Errors
    /// [`Missed`] when none comes `within` the time.
    pub async fn next_request(&self, method: &str, within: Duration) -> Result<Message, Missed> {
        let found = self.board.wait(within, |state| {
            let index = state.requests.iter().position(|request| request.method_text() == Some(method))?;
            Some(state.requests.remove(index))
        });
        found.await.ok_or_else(|| self.missed(method))
    }

    /// Goes on with a call that began on an earlier connection, as a phone does that has changed its network: the same
    /// dialog, from now on by this connection.
    pub fn take_over(&self, call: &IncomingCall) -> IncomingCall {
        let appearance = Appearance {
            vias: vec![via(&self.flow, &self.contact)],
            contact: call.leg.contact().to_owned(),
            own_route: None,
            forgets_route: false,
        };
        let leg = Leg::new(self.flow.clone(), appearance, call.leg.dialog());
        let call_id = call.invite.call_id().unwrap_or_default().to_owned();
        self.board.change(|state| state.legs.insert(call_id, leg.clone()));
        IncomingCall { invite: call.invite.clone(), leg }
    }

    /// Sends the double CRLF and waits for the single one (RFC 5626 §4.4.1).
    ///
    /// # Errors
    /// [`Missed`] when it does not come `within` the time.
    pub async fn ping(&self, within: Duration) -> Result<(), Missed> {
        let before = self.board.read(|state| state.pongs);
        self.flow.send(&Bytes::from_static(b"\r\n\r\n"));
        let found = self.board.wait(within, |state| (state.pongs > before).then_some(()));
        found.await.ok_or_else(|| self.missed("a pong"))
    }

    /// Sends any bytes.
    pub fn send_raw(&self, bytes: &[u8]) {
        self.flow.send(&Bytes::copy_from_slice(bytes));
    }

    /// Loses the connection, with no farewell in SIP or TLS.
    pub fn drop_connection(&self) {
        self.flow.drop_connection();
    }

    /// Answers nothing from now on, though the connection stands: a phone out of reach.
    pub fn fall_silent(&self) {
        self.board.change(|state| state.silent = true);
    }

    /// Waits until the other side has closed the connection.
    ///
    /// # Errors
    /// [`Missed`] when it has not `within` the time.
    pub async fn await_closed(&self, within: Duration) -> Result<(), Missed> {
        let found = self.board.wait(within, |state| state.closed.then_some(()));
        found.await.ok_or_else(|| self.missed("the end of the connection"))
    }

    /// Violations of the RFCs by the other side, in calls and outside.
    pub fn violations(&self) -> Vec<String> {
        self.board.read(State::violations)
    }

    /// Tells [the same](Self::violations), also once the phone is gone.
    pub fn witness(&self) -> impl Fn() -> Vec<String> + Send + use<> {
        let board = self.board.clone();
        move || board.read(State::violations)
    }

    async fn register_for(&self, expires: u32, within: Duration) -> Result<Message, Missed> {
        let mut authorization = self.authorization();
        for _ in 0..2 {
            let response = self.register_once(authorization, expires, within).await?;
            if response.status() != Some(401) || self.settings.proof == Proof::Bearer {
                return Ok(response);
            }
            self.keep_challenge(&response);
            authorization = self.authorization();
        }
        self.register_once(authorization, expires, within).await
    }

    fn authorization(&self) -> Option<String> {
        if self.settings.proof == Proof::Bearer {
            return Some(format!("Bearer {}", self.settings.password));
        }
        let (challenge, count) = self.board.change(|state| {
            let (challenge, count) = state.challenge.as_mut()?;
            *count += 1;
            Some((challenge.clone(), *count))
        })?;
        let Settings { username, password, .. } = &self.settings;
        answer(&challenge, username, password, "REGISTER", self.registrar(), count)
    }

    /// The Request-URI of its REGISTERs.
    fn registrar(&self) -> &str {
        self.settings.through.as_ref().map_or(&self.settings.server, |through| &through.registrar)
    }

    /// Keeps the challenge whose algorithm is ours, else the first that we know.
    fn keep_challenge(&self, response: &Message) {
        let offered: Vec<Fields> = response
            .values(Name::WwwAuthenticate)
            .filter_map(|value| Fields::parse(std::str::from_utf8(value).ok()?))
            .filter(|challenge| challenge.algorithm().is_some())
            .collect();
        let wanted = |challenge: &&Fields| challenge.algorithm().map(Proof::Digest) == Some(self.settings.proof);
        let chosen = offered.iter().find(wanted).or(offered.first()).cloned();
        self.board.change(|state| state.challenge = chosen.map(|challenge| (challenge, 0)));
    }

    async fn transact(&self, lines: Lines, within: Duration) -> Result<Message, Missed> {
        let branch = format!("z9hG4bK{}", token());
        let via = via(&self.flow, &self.contact);
        let bytes = lines.line("Via", &format!("{via};branch={branch};rport")).line("Max-Forwards", "70").finish();
        let resend = (self.flow.transport() == Transport::Udp).then(|| Resend::start(&self.flow, bytes.clone()));
        if resend.is_none() {
            self.flow.send(&bytes);
        }
        let found = self.board.wait(within, |state| match state.responses.remove(&branch) {
            Some(response) => Some(Some(response)),
            None => state.closed.then_some(None),
        });
        found.await.flatten().ok_or_else(|| self.missed("a final response"))
    }

    fn missed(&self, awaited: &str) -> Missed {
        let seen = self.board.read(|state| {
            let end = if state.closed { "; the connection was closed" } else { "" };
            state.log.join(" | ") + end
        });
        Missed::new(format!("{awaited} at the phone"), seen)
    }
}

impl Drop for Phone {
    fn drop(&mut self) {
        self.flow.drop_connection();
    }
}

/// An INVITE that came, and the call that it may become; cheap to clone.
#[derive(Clone)]
pub struct IncomingCall {
    invite: Message,
    leg: Leg,
}

impl IncomingCall {
    /// The INVITE.
    pub fn invite(&self) -> &Message {
        &self.invite
    }

    /// The call's further requests, in both directions.
    pub fn leg(&self) -> &Leg {
        &self.leg
    }

    /// 180
    pub fn ring(&self) {
        self.leg.respond(180, &[], None);
    }

    /// 200 with an SDP answer; sent until the ACK comes.
    pub fn answer(&self) {
        self.leg.respond(200, &[], Some(("application/sdp", &sdp(1))));
    }

    /// A final response that is no success: 486, 603.
    pub fn decline(&self, status: u16) {
        self.leg.respond(status, &[], None);
    }

    /// Waits for the ACK.
    ///
    /// # Errors
    /// [`Missed`] when it does not come `within` the time.
    pub async fn expect_ack(&self, within: Duration) -> Result<Message, Missed> {
        self.leg.expect_request("ACK", within).await
    }

    /// Waits for the CANCEL; it has been answered, and the INVITE with 487.
    ///
    /// # Errors
    /// [`Missed`] when it does not come `within` the time.
    pub async fn expect_cancel(&self, within: Duration) -> Result<Message, Missed> {
        self.leg.expect_request("CANCEL", within).await
    }

    /// Waits until the caller hangs up.
    ///
    /// # Errors
    /// [`Missed`] when no BYE comes `within` the time.
    pub async fn expect_bye(&self, within: Duration) -> Result<Message, Missed> {
        self.leg.expect_request("BYE", within).await
    }

    /// Ends the call and waits for the 200.
    ///
    /// # Errors
    /// [`Missed`] when another answer comes, or none `within` the time.
    pub async fn hang_up(&self, within: Duration) -> Result<(), Missed> {
        self.leg.bye(within).await
    }

    /// Offers anew and waits for the final response, which is acknowledged.
    ///
    /// # Errors
    /// [`Missed`] when none comes `within` the time.
    pub async fn reinvite(&self, within: Duration) -> Result<Message, Missed> {
        self.leg.reinvite(within).await
    }
}

/// Takes what comes on the connection. `contact` is set before anything can come that needs it.
fn handler(board: Board<State>, contact: Arc<OnceLock<String>>) -> Handler {
    Arc::new(move |event| {
        board.change(|state| match event {
            _ if state.silent => {}
            Event::Message(flow, message) => {
                state.log.push(format!("← {}", first_line(&message)));
                let contact = contact.get().cloned().unwrap_or_default();
                on_message(state, &flow, &contact, message);
            }
            Event::Pong(_) => state.pongs += 1,
            Event::Ping(flow, answer) => flow.send(&answer),
            Event::Garbage(..) => state.violations.push("bytes that are no SIP".to_owned()),
            Event::Closed(_) => state.closed = true,
        });
    })
}

fn on_message(state: &mut State, flow: &Flow, contact: &str, message: Message) {
    let call_id = message.call_id().unwrap_or_default().to_owned();
    if let Some(leg) = state.legs.get(&call_id) {
        let begins = message.method() == Some(Method::Invite) && message.to().is_none_or(|to| to.tag().is_none());
        if begins && !leg.serves(&message) {
            state.violations.push("the same INVITE came twice (RFC 3261 §8.2.2.2)".to_owned());
            state.invited += 1;
            return flow.send(&Lines::response(&message, 482, &token()).finish());
        }
        return leg.receive(message);
    }
    let branch = branch(&message);
    if let Some(status) = message.status() {
        if status >= 200 {
            state.responses.insert(branch, message);
        }
        return;
    }
    if let Some(answer) = state.answered.get(&branch) {
        return flow.send(answer);
    }
    let tagged = message.to().is_some_and(|to| to.tag().is_some());
    match message.method() {
        Some(Method::Invite) if !tagged => on_invite(state, flow, contact, message),
        Some(Method::Ack) => {}
        _ => {
            state.violations.extend(faults(&message));
            let status = if tagged || message.method() == Some(Method::Cancel) { 481 } else { 200 };
            let answer = Lines::response(&message, status, &token()).finish();
            flow.send(&answer);
            state.answered.insert(branch, answer);
            state.requests.push(message);
        }
    }
}

fn on_invite(state: &mut State, flow: &Flow, contact: &str, invite: Message) {
    if invite.has(Name::Route) {
        state.violations.push("an INVITE with a Route left in it".to_owned());
    }
    // A call that waited for a phone names the Contact that was registered when it came (RFC 8599 §5.6.2).
    let user = |uri: &str| uri.split('@').next().map(str::to_owned);
    let same = if contact.contains(";pn-provider") {
        invite.request_uri().and_then(user) == user(contact)
    } else {
        invite.request_uri() == Some(contact)
    };
    if !same {
        let uri = invite.request_uri().unwrap_or_default();
        state.violations.push(format!("an INVITE to {uri} instead of {contact}"));
    }
    let appearance = Appearance {
        vias: vec![via(flow, contact)],
        contact: contact.to_owned(),
        own_route: None,
        forgets_route: false,
    };
    let leg = Leg::new(flow.clone(), appearance, Dialog::called(&invite, &token()));
    leg.receive_invite(&invite);
    state.legs.insert(invite.call_id().unwrap_or_default().to_owned(), leg.clone());
    state.invited += 1;
    state.invites.push_back(IncomingCall { invite, leg });
}

/// The beginning of our Via: the transport, and the host and port of our Contact.
fn via(flow: &Flow, contact: &str) -> String {
    let (_, after_user) = contact.split_once('@').unwrap_or_default();
    let sent_by = after_user.split(';').next().unwrap_or_default();
    format!("SIP/2.0/{} {sent_by}", flow.transport().via())
}

fn branch(message: &Message) -> String {
    message.via().and_then(|via| via.branch().map(str::to_owned)).unwrap_or_default()
}
