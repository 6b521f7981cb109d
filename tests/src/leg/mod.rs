//! One side of a call or of a single request, as a user agent: its transactions and its dialog (RFC 3261 §12, §13, §17).
//! The stand-in caller and the stand-in phone are both made of it.
//!
//! Invariant: each request in the dialog gets an answer at once, each 2xx to an INVITE is sent until its ACK comes, each
//! repeated request gets the same answer again; what breaks a rule is recorded, never fatal.

mod answering;

use std::time::{Duration, Instant};

use bytes::Bytes;
use sip::message::{Message, Name};

use crate::board::{Board, Missed};
use crate::dialog::{Dialog, contact, faults};
use crate::digest::token;
use crate::lines::{Lines, first_line, parse, sdp};
use crate::wire::{Flow, Resend, Transport};

/// How this side appears in its messages.
#[derive(Clone, Debug)]
pub struct Appearance {
    /// `SIP/2.0/TLS host:port`, topmost first: more than one when a proxy stands in this side.
    pub vias: Vec<String>,
    /// Our URI.
    pub contact: String,
    /// The Record-Route of the proxy that stands in this side.
    pub own_route: Option<String>,
    /// Whether its CANCELs and its ACKs of refusals lack the Route of their INVITE, as OpenSIPS has it.
    pub forgets_route: bool,
}

/// One side; cheap to clone.
#[derive(Clone)]
pub struct Leg {
    flow: Flow,
    appearance: Appearance,
    board: Board<State>,
}

/// A request that this side sent; for waiting for its responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    branch: String,
    method: String,
}

struct State {
    dialog: Dialog,
    /// Whether our first request begins the dialog.
    calling: bool,
    ended: bool,
    sent: Vec<ClientTransaction>,
    served: Vec<ServerTransaction>,
    /// Requests that no test has asked for yet.
    requests: Vec<Message>,
    /// Everything, in order: `→ INVITE …`, `← 180 …`.
    log: Vec<String>,
    violations: Vec<String>,
}

struct ClientTransaction {
    key: Sent,
    request: Message,
    at: Instant,
    responses: Vec<(Instant, Message)>,
    /// How many responses a test has looked at.
    taken: usize,
    resend: Option<Resend>,
    ack: Option<Bytes>,
}

struct ServerTransaction {
    key: Sent,
    request: Message,
    answer: Option<(u16, Bytes)>,
    resend: Option<Resend>,
}

impl Leg {
    /// Cuts its connection, if it has one.
    pub fn drop_connection(&self) {
        self.flow.drop_connection();
    }

    /// A side that speaks on `flow`.
    pub fn new(flow: Flow, appearance: Appearance, dialog: Dialog) -> Self {
        let state = State {
            calling: dialog.remote_tag().is_none(),
            dialog,
            ended: false,
            sent: Vec::new(),
            served: Vec::new(),
            requests: Vec::new(),
            log: Vec::new(),
            violations: Vec::new(),
        };
        Self { flow, appearance, board: Board::new(state) }
    }

    /// The dialog as it stands.
    pub fn dialog(&self) -> Dialog {
        self.board.read(|state| state.dialog.clone())
    }

    /// Whether a BYE went either way.
    pub fn ended(&self) -> bool {
        self.board.read(|state| state.ended)
    }

    /// The URI of the Contact that it has told the other side.
    pub fn contact(&self) -> &str {
        &self.appearance.contact
    }

    /// The flow.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// The peer's violations of the RFCs.
    pub fn violations(&self) -> Vec<String> {
        self.board.read(|state| state.violations.clone())
    }

    /// A request that this side sent, as it was sent.
    pub fn request_of(&self, sent: &Sent) -> Option<Message> {
        self.board.read(|state| state.sent.iter().find(|it| it.key == *sent).map(|it| it.request.clone()))
    }

    /// Everything sent and received, one line each, in order.
    pub fn log(&self) -> Vec<String> {
        self.board.read(|state| state.log.clone())
    }

    /// Sends a request with these further headers and this body (media type, text); starts its transaction.
    pub fn send(&self, method: &str, headers: &[(String, String)], body: Option<(&str, &str)>) -> Sent {
        self.board.change(|state| {
            state.dialog.cseq += 1;
            let branch = format!("z9hG4bK{}", token());
            let number = state.dialog.cseq;
            let lines = self.compose(state, method, number, &branch);
            let lines = lines.lines(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            let bytes = match body {
                Some((kind, text)) => lines.body(kind, text),
                None => lines.finish(),
            };
            self.start(state, Sent { branch, method: method.to_owned() }, bytes)
        })
    }

    /// Sends a CANCEL for `invite` (RFC 3261 §9.1).
    pub fn cancel(&self, invite: &Sent, headers: &[(&str, &str)]) -> Option<Sent> {
        self.board.change(|state| {
            let request = state.sent.iter().find(|t| t.key == *invite)?.request.clone();
            let number = request.cseq().map_or(0, |(number, _)| number);
            let lines = Lines::request("CANCEL", request.request_uri().unwrap_or_default())
                .line("Via", request.elements(Name::Via).next().unwrap_or_default())
                .line("Max-Forwards", "70")
                .lines(self.route_again(&request))
                .copy(&request, Name::From)
                .copy(&request, Name::To)
                .copy(&request, Name::CallId)
                .line("CSeq", &format!("{number} CANCEL"))
                .lines(headers.iter().copied());
            let key = Sent { branch: invite.branch.clone(), method: "CANCEL".to_owned() };
            Some(self.start(state, key, lines.finish()))
        })
    }

    /// Acknowledges the 2xx to `invite`, and from then on each of its repetitions (RFC 3261 §13.2.2.4).
    pub fn acknowledge(&self, invite: &Sent) {
        self.board.change(|state| {
            let Some(index) = state.sent.iter().position(|t| t.key == *invite) else { return };
            let number = state.sent[index].request.cseq().map_or(0, |(number, _)| number);
            let ack = self.compose(state, "ACK", number, &format!("z9hG4bK{}", token())).finish();
            state.log.push("→ ACK".to_owned());
            self.flow.send(&ack);
            state.sent[index].ack = Some(ack);
        });
    }

    /// All responses to a request so far, with the time since it was sent.
    pub fn responses(&self, sent: &Sent) -> Vec<(Duration, Message)> {
        self.board.read(|state| {
            let transaction = state.sent.iter().find(|t| t.key == *sent);
            transaction.map_or_else(Vec::new, |t| {
                t.responses.iter().map(|(at, response)| (at.duration_since(t.at), response.clone())).collect()
            })
        })
    }

    /// Waits for the next response with this status; any other final response ends the wait at once.
    ///
    /// # Errors
    /// [`Missed`] when another final response comes, or none `within` the time.
    pub async fn expect(&self, sent: &Sent, status: u16, within: Duration) -> Result<Message, Missed> {
        let found = self.next_response(sent, within, |got| got == status || got >= 200).await;
        match found {
            Some(response) if response.status() == Some(status) => Ok(response),
            _ => Err(self.missed(format!("{status} to {}", sent.method))),
        }
    }

    /// Waits for the final response.
    ///
    /// # Errors
    /// [`Missed`] when none comes `within` the time.
    pub async fn final_response(&self, sent: &Sent, within: Duration) -> Result<Message, Missed> {
        let found = self.next_response(sent, within, |got| got >= 200).await;
        found.ok_or_else(|| self.missed(format!("a final response to {}", sent.method)))
    }

    /// Waits until some response has come, without taking it.
    ///
    /// # Errors
    /// [`Missed`] when none comes `within` the time.
    pub async fn any_response(&self, sent: &Sent, within: Duration) -> Result<u16, Missed> {
        let found = self.board.wait(within, |state| {
            let transaction = state.sent.iter().find(|t| t.key == *sent)?;
            transaction.responses.last().and_then(|(_, response)| response.status())
        });
        found.await.ok_or_else(|| self.missed(format!("a response to {}", sent.method)))
    }

    /// Sends a request in the dialog, waits for its final response, and acknowledges it when it is an INVITE's.
    ///
    /// # Errors
    /// [`Missed`] when no final response comes `within` the time.
    pub async fn ask(
        &self,
        method: &str,
        headers: &[(String, String)],
        body: Option<(&str, &str)>,
        within: Duration,
    ) -> Result<Message, Missed> {
        let sent = self.send(method, headers, body);
        let response = self.final_response(&sent, within).await?;
        if method == "INVITE" && response.status().is_some_and(|status| status < 300) {
            self.acknowledge(&sent);
        }
        Ok(response)
    }

    /// Sends BYE and waits for its 200.
    ///
    /// # Errors
    /// [`Missed`] when another answer comes, or none `within` the time.
    pub async fn bye(&self, within: Duration) -> Result<(), Missed> {
        let sent = self.send("BYE", &[], None);
        self.board.change(|state| state.ended = true);
        self.expect(&sent, 200, within).await.map(drop)
    }

    /// Offers anew and waits for the answer, which is acknowledged when it is a 200.
    ///
    /// # Errors
    /// [`Missed`] when no final response comes `within` the time.
    pub async fn reinvite(&self, within: Duration) -> Result<Message, Missed> {
        self.ask("INVITE", &[], Some(("application/sdp", &sdp(2))), within).await
    }

    /// Waits for a request of this method from the peer; it has been answered already.
    ///
    /// # Errors
    /// [`Missed`] when none comes `within` the time.
    pub async fn expect_request(&self, method: &str, within: Duration) -> Result<Message, Missed> {
        let found = self.board.wait(within, |state| {
            let index = state.requests.iter().position(|request| request.method_text() == Some(method))?;
            Some(state.requests.remove(index))
        });
        found.await.ok_or_else(|| self.missed(format!("{method} from the peer")))
    }

    /// Takes what came on the flow for this Call-ID.
    pub fn receive(&self, message: Message) {
        self.board.change(|state| {
            state.log.push(format!("← {}", first_line(&message)));
            if message.is_request() { self.on_request(state, message) } else { self.on_response(state, message) }
        });
    }

    /// Takes the INVITE that begins the dialog; it is answered by [`Self::respond`].
    pub fn receive_invite(&self, invite: &Message) {
        self.board.change(|state| {
            state.log.push(format!("← {}", first_line(invite)));
            state.violations.extend(faults(invite));
            let key = key_of(invite);
            state.served.push(ServerTransaction { key, request: invite.clone(), answer: None, resend: None });
        });
    }

    /// Whether this request, by its branch, was taken before.
    pub fn serves(&self, request: &Message) -> bool {
        let key = key_of(request);
        self.board.read(|state| state.served.iter().any(|t| t.key == key))
    }

    /// Answers the INVITE that began the dialog.
    pub fn respond(&self, status: u16, headers: &[(&str, &str)], body: Option<(&str, &str)>) {
        self.board.change(|state| {
            // After a final answer, such as the 487 to a CANCEL, nothing more is said.
            if state.served.first().is_some_and(|t| t.answer.as_ref().is_none_or(|(status, _)| *status < 200)) {
                self.answer(state, 0, status, headers, body);
            }
        });
    }

    /// The failure to see `awaited`, with all messages seen, for a report.
    pub fn missed(&self, awaited: String) -> Missed {
        Missed::new(awaited, self.log().join(" | "))
    }

    async fn next_response(&self, sent: &Sent, within: Duration, wanted: impl Fn(u16) -> bool) -> Option<Message> {
        let found = self.board.wait(within, |state| {
            let transaction = state.sent.iter_mut().find(|t| t.key == *sent)?;
            while let Some((_, response)) = transaction.responses.get(transaction.taken) {
                let response = response.clone();
                let last = response.status().unwrap_or_default();
                // A final response stays, for later waits.
                if last < 200 {
                    transaction.taken += 1;
                }
                if wanted(last) {
                    return Some(response);
                }
            }
            None
        });
        found.await
    }

    fn compose(&self, state: &State, method: &str, number: u32, branch: &str) -> Lines {
        let dialog = &state.dialog;
        let mut lines = Lines::request(method, &dialog.target);
        for (depth, via) in self.appearance.vias.iter().enumerate() {
            let depth = if depth == 0 { String::new() } else { format!("-{depth}") };
            let rport = if self.flow.transport() == Transport::Udp { ";rport" } else { "" };
            lines = lines.line("Via", &format!("{via};branch={branch}{depth}{rport}"));
        }
        lines = lines.line("Max-Forwards", &(71 - self.appearance.vias.len()).to_string());
        let own = self.appearance.own_route.as_ref();
        for route in dialog.routes.iter().skip(usize::from(own.is_some() && own == dialog.routes.first())) {
            lines = lines.line("Route", route);
        }
        lines = lines
            .line("From", &dialog.local)
            .line("To", &dialog.remote)
            .line("Call-ID", &dialog.call_id)
            .line("CSeq", &format!("{number} {method}"));
        match method {
            "ACK" | "BYE" | "CANCEL" | "MESSAGE" | "INFO" => lines,
            _ => lines.line("Contact", &format!("<{}>", self.appearance.contact)),
        }
    }

    fn start(&self, state: &mut State, key: Sent, bytes: Bytes) -> Sent {
        let request = parse(&bytes);
        state.log.push(format!("→ {}", first_line(&request)));
        let resend = match self.flow.transport() {
            Transport::Udp => Some(Resend::start(&self.flow, bytes)),
            Transport::Tcp | Transport::Tls | Transport::Wss => {
                self.flow.send(&bytes);
                None
            }
        };
        let at = Instant::now();
        let transaction =
            ClientTransaction { key: key.clone(), request, at, responses: Vec::new(), taken: 0, resend, ack: None };
        state.sent.push(transaction);
        key
    }

    fn on_response(&self, state: &mut State, response: Message) {
        let key = key_of(&response);
        let status = response.status().unwrap_or_default();
        let invite = key.method == "INVITE";
        let Some(index) = state.sent.iter().position(|t| t.key == key) else {
            return state.violations.push(format!("a {status} to no request of ours"));
        };
        let vias = response.elements(Name::Via).count();
        let expected = state.sent[index].request.elements(Name::Via).count();
        if vias != expected {
            state.violations.push(format!("a {status} with {vias} Vias, sent with {expected}"));
        }
        let earlier = state.sent[index].responses.iter().find_map(|(_, r)| r.status().filter(|s| *s >= 200));
        if invite || status >= 200 {
            state.sent[index].resend = None;
        }
        match status {
            101..300 if invite => {
                if earlier.is_none() {
                    self.learn(state, index, &response);
                }
                if let Some(ack) = &state.sent[index].ack {
                    self.flow.send(ack);
                }
            }
            300.. if invite => self.acknowledge_failure(state, index, &response),
            _ => {}
        }
        match earlier {
            // A repetition; a 2xx is repeated until its ACK comes.
            Some(earlier) if earlier == status => {}
            Some(earlier) => state.violations.push(format!("a {status} after the final {earlier}")),
            None => state.sent[index].responses.push((Instant::now(), response)),
        }
    }

    /// Takes the dialog from a provisional or successful response to an INVITE.
    fn learn(&self, state: &mut State, index: usize, response: &Message) {
        if !(state.calling && index == 0) {
            state.dialog.target = contact(response).unwrap_or_else(|| state.dialog.target.clone());
            return;
        }
        state.dialog.learn(response);
        let (own, routes) = (self.appearance.own_route.as_ref(), &state.dialog.routes);
        if own.is_some() && !routes.is_empty() && own != routes.first() {
            state.violations.push("the Record-Route that we put in did not come back".to_owned());
        }
    }

    /// The ACK to a final response that is no 2xx, part of the transaction (RFC 3261 §17.1.1.3).
    fn acknowledge_failure(&self, state: &mut State, index: usize, response: &Message) {
        let request = &state.sent[index].request;
        let number = request.cseq().map_or(0, |(number, _)| number);
        let ack = Lines::request("ACK", request.request_uri().unwrap_or_default())
            .line("Via", request.elements(Name::Via).next().unwrap_or_default())
            .line("Max-Forwards", "70")
            .lines(self.route_again(request))
            .copy(request, Name::From)
            .copy(response, Name::To)
            .copy(request, Name::CallId)
            .line("CSeq", &format!("{number} ACK"))
            .finish();
        self.flow.send(&ack);
    }

    /// The Route of what belongs to the transaction of `request`.
    fn route_again<'a>(&self, request: &'a Message) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let routes = request.elements(Name::Route).map(|route| ("Route", route));
        routes.take(if self.appearance.forgets_route { 0 } else { usize::MAX })
    }
}

/// The key that ties a message to its transaction (RFC 3261 §17.1.3, §17.2.3).
fn key_of(message: &Message) -> Sent {
    let branch = message.via().and_then(|via| via.branch().map(str::to_owned)).unwrap_or_default();
    let method = message.cseq().map(|(_, method)| method.to_owned()).unwrap_or_default();
    Sent { branch, method }
}
