//! A dialog as a user agent keeps it (RFC 3261 §12), and what a user agent expects of a request it gets.
//!
//! Invariant: routes are loose; a strict router is a violation, not a case.

use sip::message::{Message, Method, Name, NameAddr};

/// One side's view of a dialog, from before its first response on.
#[derive(Clone, Debug)]
pub struct Dialog {
    /// The Call-ID.
    pub call_id: String,
    /// Our address, with our tag.
    pub local: String,
    /// The peer's address, with its tag as soon as it is known.
    pub remote: String,
    /// The number of our last request.
    pub cseq: u32,
    /// The number of the peer's last request.
    pub remote_cseq: Option<u32>,
    /// The peer's Contact.
    pub target: String,
    /// The routes of our requests, nearest first.
    pub routes: Vec<String>,
}

impl Dialog {
    /// The called side of the dialog that `invite` begins; `tag` is ours.
    pub fn called(invite: &Message, tag: &str) -> Self {
        Self {
            call_id: invite.call_id().unwrap_or_default().to_owned(),
            local: format!("{};tag={tag}", invite.text(Name::To).unwrap_or_default()),
            remote: invite.text(Name::From).unwrap_or_default().to_owned(),
            cseq: 0,
            remote_cseq: invite.cseq().map(|(number, _)| number),
            target: contact(invite).unwrap_or_default(),
            routes: invite.elements(Name::RecordRoute).map(str::to_owned).collect(),
        }
    }

    /// The calling side learns from a response what it did not know (RFC 3261 §12.1.2).
    pub fn learn(&mut self, response: &Message) {
        if response.to().is_some_and(|to| to.tag().is_some()) {
            self.remote = response.text(Name::To).unwrap_or_default().to_owned();
        }
        if let Some(target) = contact(response) {
            self.target = target;
        }
        let mut routes: Vec<String> = response.elements(Name::RecordRoute).map(str::to_owned).collect();
        routes.reverse();
        self.routes = routes;
    }

    /// The peer's tag.
    pub fn remote_tag(&self) -> Option<&str> {
        NameAddr::parse(&self.remote).and_then(|address| address.params.value("tag"))
    }
}

/// The URI of the one Contact.
pub fn contact(message: &Message) -> Option<String> {
    message.contacts().first().and_then(|contact| contact.target().map(str::to_owned))
}

/// The faults of a request by RFC 3261 §8.1.1, §12 and §16.6; empty for a sound one.
pub fn faults(request: &Message) -> Vec<String> {
    let mut faults = Vec::new();
    if let Err(fault) = request.check() {
        faults.push(fault.to_string());
    }
    let branch = request.via().and_then(|via| via.branch().map(str::to_owned)).unwrap_or_default();
    if !branch.starts_with("z9hG4bK") {
        faults.push("the branch lacks the magic cookie".to_owned());
    }
    if !request.has(Name::MaxForwards) {
        faults.push("Max-Forwards is absent".to_owned());
    }
    if !request.has(Name::ContentLength) {
        faults.push("Content-Length is absent".to_owned());
    }
    for route in request.elements(Name::RecordRoute) {
        let loose = NameAddr::parse(route).is_some_and(|route| route.uri.params.get("lr").is_some());
        if !loose {
            faults.push("a Record-Route is not a loose router's".to_owned());
        }
    }
    if request.method() == Some(Method::Invite) && request.contacts().len() != 1 {
        faults.push("an INVITE needs exactly one Contact".to_owned());
    }
    let mut branches: Vec<&str> = request.elements(Name::Via).collect();
    branches.sort_unstable();
    if branches.windows(2).any(|pair| pair[0] == pair[1]) {
        faults.push("two Vias are the same: a loop".to_owned());
    }
    faults
}
