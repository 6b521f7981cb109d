//! A stand-in caller: one request toward a registered Contact, through the stand-in registrar or straight to an address,
//! and the call that may follow.
//!
//! Invariant: every response is kept in order with its time; a request from the callee's side gets a 200 at once; what
//! breaks a rule is in [`Caller::violations`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sip::message::Message;

use crate::board::Missed;
use crate::dialog::Dialog;
use crate::digest::token;
use crate::leg::{Appearance, Leg, Sent};
use crate::lines::sdp;
use crate::wire::{self, Datagrams, Event, Flow, Handler, Tasks, Transport};

/// How long a CANCEL waits for the first response, without which it may not be sent (RFC 3261 §9.1).
const FIRST_RESPONSE_WITHIN: Duration = Duration::from_secs(5);

/// The variable parts of a request.
#[derive(Clone, Debug)]
pub struct CallOptions {
    /// The method; INVITE unless told.
    pub method: String,
    /// From, without a tag.
    pub from: String,
    /// To; the AOR that is called unless told.
    pub to: Option<String>,
    /// Further headers, in order.
    pub headers: Vec<(String, String)>,
    /// Media type and text; an SDP offer for an INVITE unless told.
    pub body: Option<(String, String)>,
    /// Whether the proxy in front of the caller stays in the path.
    pub record_route: bool,
    /// Whether its CANCEL and the ACK of a refusal lack the Route of the INVITE, as OpenSIPS has it.
    pub forgets_route: bool,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self {
            method: "INVITE".to_owned(),
            from: "\"Bob\" <sip:bob@example.test>".to_owned(),
            to: None,
            headers: Vec::new(),
            body: Some(("application/sdp".to_owned(), sdp(1))),
            record_route: true,
            forgets_route: false,
        }
    }
}

impl CallOptions {
    /// Another request than an INVITE, without a body.
    pub fn request(method: &str) -> Self {
        Self { method: method.to_owned(), body: None, ..Self::default() }
    }

    /// Another caller: a name-addr without a tag.
    pub fn from(mut self, from: &str) -> Self {
        self.from = from.to_owned();
        self
    }

    /// A further header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A caller who wants to stay unknown (RFC 3323): `Privacy: id`, beside the identity that the proxy asserts.
    pub fn private(self, asserted: &str) -> Self {
        self.from("\"Anonymous\" <sip:anonymous@anonymous.invalid>")
            .header("Privacy", "id")
            .header("P-Asserted-Identity", asserted)
    }

    /// Another body.
    pub fn body(mut self, content_type: &str, text: &str) -> Self {
        self.body = Some((content_type.to_owned(), text.to_owned()));
        self
    }
}

/// One request that was sent, and the call that it may have begun.
pub struct Caller {
    leg: Leg,
    first: Sent,
    /// Of a caller with a socket of its own.
    own: Option<(Flow, Arc<Tasks>)>,
}

impl Caller {
    /// Sends the request to `target`, on a leg that somebody else feeds.
    pub(crate) fn start(leg: Leg, own_route: Option<&str>, options: &CallOptions) -> Self {
        let mut headers = options.headers.clone();
        if let Some(route) = own_route {
            headers.insert(0, ("Record-Route".to_owned(), route.to_owned()));
        }
        let body = options.body.as_ref().map(|(kind, text)| (kind.as_str(), text.as_str()));
        let first = leg.send(&options.method, &headers, body);
        Self { leg, first, own: None }
    }

    /// A caller with a socket of its own, who sends to `server` what is meant for the URI `target`. `name` is verified
    /// in TLS, for which `tls` is needed.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub async fn direct(
        server: SocketAddr,
        transport: Transport,
        tls: Option<(Arc<rustls::ClientConfig>, &str)>,
        target: &str,
        options: &CallOptions,
    ) -> io::Result<Self> {
        let tasks = Arc::new(Tasks::default());
        let slot: Arc<std::sync::OnceLock<Leg>> = Arc::default();
        let fed = slot.clone();
        let handler: Handler = Arc::new(move |event| {
            if let (Event::Message(_, message), Some(leg)) = (event, fed.get()) {
                leg.receive(message);
            }
        });
        let flow = match transport {
            Transport::Udp => Datagrams::bind(&tasks, handler).await?.flow(server),
            Transport::Tcp => wire::connect(server, None, handler).await?,
            Transport::Tls => wire::connect(server, tls, handler).await?,
            Transport::Wss => return Err(io::Error::other("a caller does not come by WebSocket")),
        };
        let appearance = Appearance {
            vias: vec![format!("SIP/2.0/{} {}", transport.via(), flow.local())],
            contact: format!("sip:caller@{};transport={}", flow.local(), transport.param()),
            own_route: None,
            forgets_route: options.forgets_route,
        };
        let leg = Leg::new(flow.clone(), appearance, dialog(options, target, target));
        let _ = slot.set(leg.clone());
        let mut caller = Self::start(leg, None, options);
        caller.own = Some((flow, tasks));
        Ok(caller)
    }

    /// Waits for a response with this status, over provisional ones; another final response ends the wait at once.
    ///
    /// # Errors
    /// [`Missed`] when it does not come `within` the time.
    pub async fn expect(&self, status: u16, within: Duration) -> Result<Message, Missed> {
        self.leg.expect(&self.first, status, within).await
    }

    /// Waits for the final response, whatever it is.
    ///
    /// # Errors
    /// [`Missed`] when none comes `within` the time.
    pub async fn final_response(&self, within: Duration) -> Result<Message, Missed> {
        self.leg.final_response(&self.first, within).await
    }

    /// Waits for 200 and acknowledges it.
    ///
    /// # Errors
    /// [`Missed`] when another final response comes, or none `within` the time.
    pub async fn answered(&self, within: Duration) -> Result<Message, Missed> {
        let answer = self.expect(200, within).await?;
        self.ack();
        Ok(answer)
    }

    /// Status and time since the request, of every response so far.
    pub fn responses(&self) -> Vec<(Duration, u16)> {
        let responses = self.leg.responses(&self.first).into_iter();
        responses.map(|(after, response)| (after, response.status().unwrap_or_default())).collect()
    }

    /// Acknowledges the 200; its repetitions are acknowledged alike.
    pub fn ack(&self) {
        self.leg.acknowledge(&self.first);
    }

    /// Gives the call up, as soon as a response has come, and waits for the 200 to the CANCEL.
    ///
    /// # Errors
    /// [`Missed`] when no response comes to the INVITE or to the CANCEL.
    pub async fn cancel(&self) -> Result<(), Missed> {
        self.cancel_because(&[]).await
    }

    /// The same because another device answered (RFC 3326).
    ///
    /// # Errors
    /// [`Missed`] as for [`Self::cancel`].
    pub async fn cancel_answered_elsewhere(&self) -> Result<(), Missed> {
        self.cancel_because(&[("Reason", "SIP;cause=200;text=\"Call completed elsewhere\"")]).await
    }

    /// The request that it began with.
    pub fn first(&self) -> Sent {
        self.first.clone()
    }

    /// The call's further requests: BYE, re-INVITE, INFO; and those from the other side.
    pub fn leg(&self) -> &Leg {
        &self.leg
    }

    /// Ends the call and waits for the 200.
    ///
    /// # Errors
    /// [`Missed`] when another answer comes, or none `within` the time.
    pub async fn bye(&self, within: Duration) -> Result<(), Missed> {
        self.leg.bye(within).await
    }

    /// Waits until the other side ends the call.
    ///
    /// # Errors
    /// [`Missed`] when no BYE comes `within` the time.
    pub async fn expect_bye(&self, within: Duration) -> Result<Message, Missed> {
        self.leg.expect_request("BYE", within).await
    }

    /// Offers anew and waits for the final response, which is acknowledged.
    ///
    /// # Errors
    /// [`Missed`] when none comes `within` the time.
    pub async fn reinvite(&self, within: Duration) -> Result<Message, Missed> {
        self.leg.reinvite(within).await
    }

    /// The other side's violations of the RFCs.
    pub fn violations(&self) -> Vec<String> {
        self.leg.violations()
    }

    async fn cancel_because(&self, headers: &[(&str, &str)]) -> Result<(), Missed> {
        self.leg.any_response(&self.first, FIRST_RESPONSE_WITHIN).await?;
        let cancel = self.leg.cancel(&self.first, headers).ok_or_else(|| self.leg.missed("an INVITE".to_owned()))?;
        self.leg.expect(&cancel, 200, FIRST_RESPONSE_WITHIN).await.map(drop)
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if let Some((flow, _)) = &self.own {
            flow.drop_connection();
        }
    }
}

/// The caller's side before any response: a request for `aor` that goes to the URI `target`.
pub(crate) fn dialog(options: &CallOptions, aor: &str, target: &str) -> Dialog {
    Dialog {
        call_id: format!("{}@caller", token()),
        local: format!("{};tag={}", options.from, token()),
        remote: options.to.clone().unwrap_or_else(|| format!("<{aor}>")),
        cseq: 0,
        remote_cseq: None,
        target: target.to_owned(),
        routes: Vec::new(),
    }
}
