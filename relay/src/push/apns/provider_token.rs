//! The provider token that every request to APNs carries: a JWT, signed with ES256, used for most of an hour.
//!
//! Apple refuses a token older than an hour, and also a key whose token changes more than once in 20 minutes. So one
//! signer serves all that use the same key, and a token that APNs calls expired is signed anew at once, but only once
//! in that time. Its age is counted since boot: a clock that jumps makes no token old that was signed before. While the clocks of this node differ, a
//! token that is refused is followed by one of another clock.
//!
//! Invariant: the key and the token are never printed.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use hyper::header::HeaderValue;

use crate::clock::token_times::{TokenTimes, is_about, is_within};
use crate::lock::Mutex;
use crate::push::jwt;
use crate::push::setup::Problem;

/// How old a token may become; Apple's bounds are 20 and 60 minutes.
const RENEW_AFTER: Duration = Duration::from_secs(45 * 60);
/// How long after one refusal another does not lead to a new token.
const RESIGN_EVERY: Duration = Duration::from_secs(20 * 60);
/// A step of the clock after which a refused token is made anew.
const SMALL_STEP: Duration = Duration::from_secs(2);

/// Signs and keeps the provider token of one key.
pub(crate) struct Signer {
    key: EcdsaKeyPair,
    key_id: Box<str>,
    team_id: Box<str>,
    issued: Mutex<Issued>,
}

/// A token in use: as a header value, and which one it is.
#[derive(Clone)]
pub(super) struct Pass {
    pub(super) header: HeaderValue,
    serial: u64,
}

#[derive(Default)]
struct Issued {
    pass: Option<Pass>,
    serial: u64,
    /// When it was signed: as it says, and since boot.
    at: Option<(SystemTime, Duration)>,
    /// When one was signed in place of a refused one, since boot.
    resigned_at: Option<Duration>,
    /// APNs has refused the token in use.
    is_refused: bool,
    /// Of the clocks that differ the other one signs.
    by_other: bool,
}

impl Issued {
    /// The time by the clock that has signed, and the token's age.
    fn now(&self, up: Duration) -> Option<(SystemTime, Duration)> {
        let (at, signed) = self.at?;
        let age = up.saturating_sub(signed);
        Some((at + age, age))
    }
}

impl Signer {
    /// Reads the `.p8` file; fails when it holds no P-256 key or when an id is not 10 letters and digits.
    pub(crate) fn new(key_file: &Path, key_id: &str, team_id: &str) -> Result<Self, Problem> {
        for (setting, id) in [("key_id", key_id), ("team_id", team_id)] {
            if id.len() != 10 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err(Problem::Setting { setting, wanted: "the 10 letters and digits that Apple shows" });
            }
        }
        let text = jwt::read_key_file(key_file)?;
        let der = jwt::pkcs8_from_pem(&text)
            .ok_or_else(|| Problem::NoKey { path: key_file.into(), remedy: "download it again" })?;
        let wrong = || Problem::WrongKey { path: key_file.into(), wanted: "a P-256 key, as Apple issues" };
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der).map_err(|_| wrong())?;
        let signer = Self { key, key_id: key_id.into(), team_id: team_id.into(), issued: Mutex::default() };
        signer.sign(UNIX_EPOCH).ok_or_else(wrong)?;
        Ok(signer)
    }

    /// The token to use now. `None` when the system cannot sign.
    pub(super) fn pass(&self, times: &TokenTimes) -> Option<Pass> {
        let mut issued = self.lock();
        issued.by_other &= times.other.is_some();
        // A token of a clock that is not the node's any more is good while that clock may be the right one, unless APNs has refused it; one that was refused
        // does not outlive the smallest step of its clock.
        let stands = |(now, age)| {
            let is_same =
                if issued.is_refused { is_within(now, times.first, SMALL_STEP) } else { is_about(now, times.first) };
            age < RENEW_AFTER && (is_same || times.other.is_some() && !issued.is_refused)
        };
        match &issued.pass {
            Some(pass) if issued.now(times.up).is_some_and(stands) => Some(pass.clone()),
            _ => self.renew(&mut issued, times),
        }
    }

    /// APNs has refused this one.
    pub(super) fn refused(&self, refused: &Pass) {
        let mut issued = self.lock();
        issued.is_refused |= issued.pass.as_ref().is_some_and(|pass| pass.serial == refused.serial);
    }

    /// The token to use instead of `refused`, which APNs does not take for its age: one that another caller has already signed,
    /// or a new one. `None` when one was signed for this reason in the last 20 minutes.
    pub(super) fn pass_instead_of(&self, refused: &Pass, times: &TokenTimes) -> Option<Pass> {
        let mut issued = self.lock();
        match &issued.pass {
            Some(pass) if pass.serial != refused.serial => return Some(pass.clone()),
            _ => {}
        }
        if issued.resigned_at.is_some_and(|at| times.up.saturating_sub(at) < RESIGN_EVERY) {
            return None;
        }
        issued.resigned_at = Some(times.up);
        let was_first = issued.now(times.up).is_some_and(|(now, _)| is_about(now, times.first));
        issued.by_other = was_first && times.other.is_some();
        self.renew(&mut issued, times)
    }

    fn renew(&self, issued: &mut Issued, times: &TokenTimes) -> Option<Pass> {
        let now = times.other.filter(|_| issued.by_other).unwrap_or(times.first);
        let header = self.sign(now)?;
        issued.serial += 1;
        (issued.at, issued.is_refused) = (Some((now, times.up)), false);
        let pass = Pass { header, serial: issued.serial };
        issued.pass = Some(pass.clone());
        Some(pass)
    }

    /// Signs a token. `None` when the system cannot.
    pub(crate) fn sign(&self, now: SystemTime) -> Option<HeaderValue> {
        let iat = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let header = serde_json::json!({"alg": "ES256", "kid": &*self.key_id});
        let claims = serde_json::json!({"iss": &*self.team_id, "iat": iat});
        let sign = |text: &[u8]| Some(self.key.sign(&SystemRandom::new(), text).ok()?.as_ref().to_vec());
        jwt::bearer(&jwt::compact(&header, &claims, sign)?)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Issued> {
        self.issued.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn signer() -> Signer {
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let der = jwt::pkcs8_from_pem(pem.as_bytes()).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der).unwrap();
        Signer { key, key_id: "ABC1234567".into(), team_id: "DEF1234567".into(), issued: Mutex::default() }
    }

    fn at(minutes: u32) -> TokenTimes {
        let up = MINUTE * minutes;
        TokenTimes { first: UNIX_EPOCH + Duration::from_secs(1_795_000_000) + up, other: None, up }
    }

    #[test]
    fn a_token_is_reused_for_45_minutes_and_no_longer() {
        let signer = signer();
        let first = signer.pass(&at(0)).unwrap();
        assert_eq!(signer.pass(&at(44)).unwrap().header, first.header);
        assert_ne!(signer.pass(&at(45)).unwrap().header, first.header);
    }

    #[test]
    fn a_clock_set_back_leads_to_a_new_token() {
        let signer = signer();
        let first = signer.pass(&at(10)).unwrap();
        let back = TokenTimes { up: MINUTE * 11, ..at(0) };
        assert_ne!(signer.pass(&back).unwrap().header, first.header);
    }

    #[test]
    fn a_refused_token_does_not_outlive_a_small_step_of_its_clock_and_a_good_one_does() {
        let signer = signer();
        let first = signer.pass(&at(10)).unwrap();
        let back = TokenTimes { up: at(11).up, ..at(7) };
        assert_eq!(signer.pass(&back).unwrap().header, first.header);
        signer.refused(&first);
        assert_eq!(signer.pass(&at(11)).unwrap().header, first.header, "its clock stands by it");
        assert_ne!(signer.pass(&back).unwrap().header, first.header);
    }

    #[test]
    fn a_refused_token_is_replaced_once_in_20_minutes_for_all_who_were_refused() {
        let signer = signer();
        let first = signer.pass(&at(0)).unwrap();
        let second = signer.pass_instead_of(&first, &at(1)).unwrap();
        assert_ne!(first.header, second.header);
        assert_eq!(signer.pass_instead_of(&first, &at(2)).unwrap().header, second.header, "another who was refused");
        assert!(signer.pass_instead_of(&second, &at(3)).is_none(), "too often");
        assert!(signer.pass_instead_of(&second, &at(22)).is_some());
    }

    /// The same moment by a clock that has jumped two hours ahead.
    fn jumped(minutes: u32) -> TokenTimes {
        let TokenTimes { first, up, .. } = at(minutes);
        TokenTimes { first: first + MINUTE * 120, other: Some(first), up }
    }

    fn issued_at(signer: &Signer) -> SystemTime {
        signer.lock().at.unwrap().0
    }

    #[test]
    fn a_clock_that_jumps_leaves_a_good_token_in_use_and_gives_way_to_the_other_where_it_is_refused() {
        let signer = signer();
        let first = signer.pass(&at(0)).unwrap();
        assert_eq!(signer.pass(&jumped(44)).unwrap().header, first.header);
        let wrong = signer.pass(&jumped(45)).unwrap();
        assert_eq!(issued_at(&signer), jumped(45).first);
        signer.refused(&wrong);
        let right = signer.pass_instead_of(&wrong, &jumped(45)).unwrap();
        assert_eq!(issued_at(&signer), at(45).first);
        assert_eq!(signer.pass(&jumped(80)).unwrap().header, right.header);
        signer.pass(&jumped(91)).unwrap();
        assert_eq!(issued_at(&signer), at(91).first, "the clock that was right");
        // The clock that had jumped is trusted.
        let trusted = TokenTimes { other: None, ..jumped(92) };
        signer.pass(&trusted).unwrap();
        assert_eq!(issued_at(&signer), trusted.first);
    }

    #[test]
    fn a_token_that_a_wrong_clock_has_signed_goes_when_that_is_set_right() {
        let signer = signer();
        let wrong = signer.pass(&TokenTimes { other: None, ..jumped(0) }).unwrap();
        signer.refused(&wrong);
        let right = TokenTimes { other: Some(jumped(5).first), ..at(5) };
        signer.pass(&right).unwrap();
        assert_eq!(issued_at(&signer), at(5).first);
    }
}
