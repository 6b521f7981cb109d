//! One side's answers to the other's requests: at once, and the same again for a repetition.
//!
//! Invariant: a 2xx to an INVITE is sent until its ACK comes; what breaks a rule is recorded and still answered.

use sip::message::{Message, Method, Name, NameAddr};

use super::{Leg, ServerTransaction, State, key_of};
use crate::dialog::{contact, faults};
use crate::digest::token;
use crate::lines::{Lines, sdp};
use crate::wire::{Resend, Transport};

impl Leg {
    pub(super) fn on_request(&self, state: &mut State, request: Message) {
        let key = key_of(&request);
        match request.method() {
            Some(Method::Ack) => return self.on_ack(state, request),
            Some(Method::Cancel) => return self.on_cancel(state, request),
            _ => {}
        }
        if let Some(known) = state.served.iter().find(|t| t.key == key) {
            if let Some((_, bytes)) = &known.answer {
                self.flow.send(bytes);
            }
            return;
        }
        state.violations.extend(faults(&request));
        self.check_dialog(state, &request);
        let (number, method) = request.cseq().unwrap_or_default();
        let method = method.to_owned();
        let status = match state.dialog.remote_cseq {
            _ if state.ended && method != "BYE" => 481,
            Some(last) if number <= last => 500,
            _ => 200,
        };
        if status == 200 {
            state.dialog.remote_cseq = Some(number);
        }
        state.served.push(ServerTransaction { key, request: request.clone(), answer: None, resend: None });
        let index = state.served.len() - 1;
        match method.as_str() {
            "INVITE" if status == 200 => {
                state.dialog.target = contact(&request).unwrap_or_else(|| state.dialog.target.clone());
                self.answer(state, index, 200, &[], Some(("application/sdp", &sdp(2))));
            }
            _ => self.answer(state, index, status, &[], None),
        }
        state.ended |= method == "BYE";
        state.requests.push(request);
    }

    fn check_dialog(&self, state: &mut State, request: &Message) {
        let from_tag = request.from().and_then(|from| from.tag().map(str::to_owned));
        let violations = &mut state.violations;
        if state.dialog.remote_tag().is_some_and(|tag| Some(tag) != from_tag.as_deref()) {
            violations.push("a request with another From tag than the dialog's".to_owned());
        }
        if request.request_uri() != Some(&self.appearance.contact) {
            let uri = request.request_uri().unwrap_or_default();
            violations.push(format!("a request to {uri} instead of {}", self.appearance.contact));
        }
        match (&self.appearance.own_route, request.elements(Name::Route).next()) {
            (None, None) => {}
            (Some(own), Some(route)) if own == route => {}
            (_, route) => violations.push(format!("a request with the Route {route:?}")),
        }
    }

    fn on_ack(&self, state: &mut State, ack: Message) {
        let number = ack.cseq().map(|(number, _)| number);
        let served = state.served.iter_mut().find(|t| {
            t.request.method() == Some(Method::Invite) && t.request.cseq().map(|(number, _)| number) == number
        });
        match served {
            None => state.violations.push("an ACK for no INVITE".to_owned()),
            Some(served) => {
                let first = served.resend.take().is_some();
                let success = served.answer.as_ref().is_some_and(|(status, _)| *status < 300);
                if success {
                    let own = self.appearance.contact.as_str();
                    if ack.request_uri() != Some(own) {
                        state.violations.push(format!("an ACK to {:?} instead of {own}", ack.request_uri()));
                    }
                }
                if first || !success {
                    state.requests.push(ack);
                }
            }
        }
    }

    fn on_cancel(&self, state: &mut State, cancel: Message) {
        let branch = key_of(&cancel).branch;
        let found = state.served.iter().position(|t| t.key.branch == branch && t.key.method == "INVITE");
        let status = if found.is_some() { 200 } else { 481 };
        self.flow.send(&Lines::response(&cancel, status, &token()).finish());
        if let Some(index) = found
            && state.served[index].answer.as_ref().is_none_or(|(status, _)| *status < 200)
        {
            self.answer(state, index, 487, &[], None);
        }
        state.requests.push(cancel);
    }

    pub(super) fn answer(
        &self,
        state: &mut State,
        index: usize,
        status: u16,
        headers: &[(&str, &str)],
        body: Option<(&str, &str)>,
    ) {
        let request = &state.served[index].request;
        let local = NameAddr::parse(&state.dialog.local);
        let tag = local.and_then(|local| local.params.value("tag")).unwrap_or_default().to_owned();
        let invite = request.method() == Some(Method::Invite);
        let mut lines = Lines::response(request, status, &tag);
        if invite && (101..300).contains(&status) {
            lines = lines.line("Contact", &format!("<{}>", self.appearance.contact));
        }
        lines = lines.lines(headers.iter().copied());
        let bytes = match body {
            Some((kind, text)) => lines.body(kind, text),
            None => lines.finish(),
        };
        state.log.push(format!("→ {status} to {}", request.method_text().unwrap_or_default()));
        let repeat =
            invite && ((200..300).contains(&status) || status >= 300 && self.flow.transport() == Transport::Udp);
        if repeat {
            state.served[index].resend = Some(Resend::start(&self.flow, bytes.clone()));
        } else {
            self.flow.send(&bytes);
        }
        state.served[index].answer = Some((status, bytes));
    }
}
