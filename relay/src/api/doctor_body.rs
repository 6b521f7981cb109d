//! The body of `POST /v1/doctor`.
//!
//! Invariant: every error of a body is reported in one answer; none repeats a value.

use super::enable_body::{self, MAX_USERNAME};
use super::json::{At, Errors, Json};
use super::problem::Problem;
use super::sip_uri::SipUri;
use crate::doctor::Patient;

/// Reads the body of an examination.
pub fn read(body: &Json) -> Result<Patient, Problem> {
    let mut errors = Errors::default();
    let patient = patient(body, &mut errors);
    errors.into_result(patient)
}

fn patient(body: &Json, errors: &mut Errors) -> Option<Patient> {
    let body = At::root(body).object(&["account"], errors)?;
    let known = ["aor", "auth_username", "password", "ha1", "registrar", "outbound_proxy"];
    let fields = body.require("account", errors).and_then(|at| at.object(&known, errors))?;
    let aor = fields.require("aor", errors).and_then(|at| enable_body::uri(&at, SipUri::address_of_record, errors));
    let mut server = |name| match fields.get(name) {
        None => Some(None),
        Some(at) => enable_body::server(&at, aor.as_ref(), errors).map(|uri| Some(uri.to_string().into())),
    };
    let (registrar, outbound_proxy) = (server("registrar"), server("outbound_proxy"));
    let username = match fields.get("auth_username") {
        Some(at) => at.text(1, MAX_USERNAME, errors).map(Box::from),
        None => aor.as_ref().and_then(|aor| enable_body::username_of(aor, &fields, errors)),
    };
    let credentials = match fields.get("password").or(fields.get("ha1")) {
        None => Some(None),
        Some(_) => enable_body::proof(&fields, errors).zip(username).map(|(proof, user)| Some((user, proof))),
    };
    Some(Patient {
        aor: aor?.to_string().into(),
        registrar: registrar?,
        outbound_proxy: outbound_proxy?,
        credentials: credentials?,
    })
}
