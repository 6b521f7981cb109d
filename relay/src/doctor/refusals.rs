//! The faults that end an examination at its REGISTER, each with its remedy.
//!
//! Invariant: a remedy is for the fault that the server's answer shows, and blames no password that the answer says nothing of.

use sip::MIN_EXPIRES_MAX;
use sip::message::{Message, Name};

use super::line::LineError;
use crate::agent::digest::Unanswerable;

/// So many 423 in a row are followed.
const FOLLOWED_MAX: usize = 4;

/// The fault that ended an examination.
pub(super) struct Ended {
    pub fault: String,
    pub remedy: &'static str,
    /// It is that there was no answer.
    pub is_silence: bool,
}

impl From<LineError> for Ended {
    fn from(error: LineError) -> Self {
        Self {
            fault: error.to_string(),
            remedy: "look at the SIP server's log and its firewall: the relay's REGISTER would be lost too",
            is_silence: matches!(error, LineError::Silent),
        }
    }
}

impl Ended {
    pub fn new(fault: impl Into<String>, remedy: &'static str) -> Self {
        Self { fault: fault.into(), remedy, is_silence: false }
    }
}

/// The lifetime that a 423 to one of `asked` seconds wants, as the relay follows it.
pub(super) fn longer(refusal: &Message, asked: u64, followed: usize) -> Result<u64, Ended> {
    let remedy = "a 423 must name in Min-Expires what the server takes (RFC 3261 §21.4.17): more than was asked for, 366 days at most";
    let fault = match refusal.number(Name::MinExpires).map(u64::from) {
        None => format!("423 to {asked} s, without a Min-Expires that can be read"),
        Some(min) if min <= asked => format!("423 to {asked} s, and its Min-Expires is {min}"),
        Some(min) if min > MIN_EXPIRES_MAX.as_secs() => format!("it grants nothing below {min} s"),
        Some(min) if followed < FOLLOWED_MAX => return Ok(min),
        Some(min) => format!("423 to {asked} s, as to {followed} shorter ones before, and its Min-Expires is {min}"),
    };
    Err(Ended::new(fault, remedy))
}

/// Hashes that were given do not fit the challenge, which a password always does.
pub(super) fn unanswerable(error: Unanswerable, realms: usize) -> Ended {
    let (fault, remedy) = match error {
        Unanswerable::Realm if realms > 1 => (
            "ha1 is of one realm, and the account's servers ask in several",
            "lend the password: an edge proxy and the registrar behind it ask in a realm each, above",
        ),
        Unanswerable::Realm => ("ha1 is of another realm", "make it of the realm that the server asks in, above"),
        Unanswerable::Algorithm | Unanswerable::Digest | Unanswerable::Challenge => (
            "ha1 holds no hash for the algorithm that the server asks for first",
            "make one of that algorithm, above, too",
        ),
    };
    Ended::new(fault, remedy)
}

pub(super) fn refused(status: u16, response: &Message, has_proof: bool) -> Ended {
    let remedy = match status {
        401 | 407 => {
            "the user name or the password is wrong, or what ha1 was made of; or the realm is another account's"
        }
        403 if has_proof => {
            "the password may be wrong (many servers say so by 403); or the account is not allowed to register from here: look at the server's rules for addresses and users"
        }
        403 => "the account is not allowed to register from here: look at the server's rules for addresses and users",
        404 | 604 => "the server does not know this address of record",
        301 | 302 | 305 => "the account has moved: name the server that the answer does as its registrar",
        420 | 421 => {
            "the server wants an extension that the relay does not have, or refuses one that it has: see Require, Unsupported and its log"
        }
        423 => {
            "the server grants nothing that the relay asks for: its Min-Expires is missing, or above what it takes itself"
        }
        439 => "a proxy before the registrar does not keep flows (RFC 5626): name the registrar itself",
        494 => "the server wants a security agreement (RFC 3329), which the relay does not make: let it take TLS alone",
        500..600 => "the server cannot serve now: look at its log",
        _ => "look at the SIP server's log",
    };
    let reason = response.text(Name::Warning).map(|warning| format!(" ({warning})")).unwrap_or_default();
    Ended::new(format!("REGISTER is answered {status}{reason}"), remedy)
}
