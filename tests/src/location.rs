//! The stand-in registrar's location table (RFC 3261 §10.3, RFC 5626 §6).
//!
//! Invariant: a binding past its time is not seen; one instance with one reg-id has one binding.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sip::message::{Message, Name, NameAddr, Uri, unquote};

use crate::wire::Flow;

/// One Contact of an AOR.
#[derive(Clone)]
pub struct Binding {
    /// The Contact's URI.
    pub uri: String,
    /// The Contact as it came, with its parameters.
    pub contact: String,
    /// `+sip.instance`, without quotes and angle brackets.
    pub instance: Option<String>,
    /// `reg-id`
    pub reg_id: Option<u32>,
    /// The way back to it, topmost first (RFC 3327).
    pub path: Vec<String>,
    /// The flow that it was registered on.
    pub flow: Flow,
    /// When it ends.
    pub expires_at: Instant,
    /// When it was last registered.
    pub registered_at: Instant,
}

/// All bindings.
#[derive(Clone, Default)]
pub struct Location(BTreeMap<String, Vec<Binding>>);

impl Location {
    /// The live bindings of an AOR (see [`aor_of`]), oldest first.
    pub fn bindings(&self, aor: &str) -> Vec<Binding> {
        let now = Instant::now();
        let all = self.0.get(aor).map(Vec::as_slice).unwrap_or_default();
        all.iter().filter(|binding| binding.expires_at > now).cloned().collect()
    }

    /// Takes what a REGISTER says; `granted` gives the seconds for those that it asks (never called with 0). `outbound`: whether
    /// Contacts are told apart by instance and reg-id (RFC 5626 §6), else by their URIs alone.
    pub fn update(&mut self, aor: &str, register: &Message, flow: &Flow, outbound: bool, granted: impl Fn(u32) -> u32) {
        let bindings = self.0.entry(aor.to_owned()).or_default();
        let header = register.number(Name::Expires);
        if register.elements(Name::Contact).any(|contact| contact == "*") {
            return bindings.clear();
        }
        for element in register.elements(Name::Contact) {
            let Some(contact) = NameAddr::parse(element) else { continue };
            let instance =
                contact.params.value("+sip.instance").map(|value| unquote(value).trim_matches(['<', '>']).to_owned());
            let reg_id = contact.params.value("reg-id").filter(|_| outbound).and_then(|value| value.parse().ok());
            let asked = contact.params.value("expires").and_then(|value| value.parse().ok()).or(header).unwrap_or(3600);
            let by_instance = instance.is_some() && reg_id.is_some();
            bindings.retain(|known| {
                if by_instance {
                    known.instance != instance || known.reg_id != reg_id
                } else {
                    known.uri != contact.uri.text
                }
            });
            if asked > 0 {
                let now = Instant::now();
                bindings.push(Binding {
                    uri: contact.uri.text.to_owned(),
                    contact: element.to_owned(),
                    instance,
                    reg_id,
                    path: register.elements(Name::Path).map(str::to_owned).collect(),
                    flow: flow.clone(),
                    expires_at: now + Duration::from_secs(granted(asked).into()),
                    registered_at: now,
                });
            }
        }
    }

    /// Every live binding.
    pub fn all(&self) -> Vec<Binding> {
        self.0.keys().flat_map(|aor| self.bindings(aor)).collect()
    }

    /// Forgets everything, as a restart would.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl Binding {
    /// As a 200 lists it (RFC 3261 §10.3 step 8).
    pub fn listed(&self) -> String {
        let left = self.expires_at.saturating_duration_since(Instant::now()).as_secs_f64().round();
        let mut text = format!("<{}>;expires={left}", self.uri);
        if let Some(instance) = &self.instance {
            text += &format!(";+sip.instance=\"<{instance}>\"");
        }
        if let Some(reg_id) = self.reg_id {
            text += &format!(";reg-id={reg_id}");
        }
        text
    }
}

/// The key of an AOR: `user@host` in lower case, without scheme, port and parameters.
pub fn aor_of(uri: &str) -> String {
    let parsed = Uri::parse(uri);
    let key = parsed.map(|uri| format!("{}@{}", Uri::unescaped_user(uri.user.unwrap_or_default()), uri.host));
    key.unwrap_or_else(|| uri.to_owned()).to_ascii_lowercase()
}
