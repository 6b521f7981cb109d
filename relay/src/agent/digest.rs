//! Digests that are computed with a secret.
//!
//! Invariant: a function here reads a [`Record`] that its caller has unsealed for this one call, under
//! [`with_clean_stack`](crate::secret::with_clean_stack). The secret cannot be derived from its result.

use sip::auth::{Challenge, DigestResponse, Ha1, Hash};
use sip::endpoint::{EDGE_REALM, Proof as DeviceProof};
use sip::id::InstanceId;

use crate::secret::{Ha1Text, InstanceSecret};
use crate::vault::record::{Ha1s, Proof, REALMS_MAX, Record};

/// Why a SIP server's challenge has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswerable {
    /// The challenge names another realm than the HA1s were made for.
    Realm,
    /// The challenge asks for an algorithm for which there is no HA1, or a protection that is not known.
    Algorithm,
    /// The challenge offers no digest that this relay makes: an unknown one, or MD5 where the operator refuses it.
    Digest,
    /// The challenge cannot be read.
    Challenge,
}

/// A challenge and what the endpoint adds to it.
pub(crate) struct Challenged<'a> {
    pub challenge: &'a Challenge,
    pub nc: u32,
    pub cnonce: &'a str,
    pub uri: &'a str,
    /// REGISTER or SUBSCRIBE.
    pub method: &'static str,
}

/// The `Authorization` that answers the challenge to a REGISTER or SUBSCRIBE on behalf of the account.
pub(crate) fn answer(record: &Record, challenged: &Challenged<'_>) -> Result<String, Unanswerable> {
    let Challenged { challenge, nc, cnonce, uri, method } = *challenged;
    let ha1 = ha1_for(&record.account.auth_username, &record.account.proof, challenge)?;
    let answer = DigestResponse { username: &record.account.auth_username, method, uri, cnonce, nc, body: b"" };
    challenge.answer(&ha1, &answer).map_err(|_| Unanswerable::Algorithm)
}

/// The HA1 that answers a challenge to this user.
pub(crate) fn ha1_for(username: &str, proof: &Proof, challenge: &Challenge) -> Result<Ha1, Unanswerable> {
    let hash = challenge.algorithm.hash;
    match proof {
        Proof::Password(password) => Ok(Ha1::compute(hash, username, &challenge.realm, password.expose())),
        Proof::Ha1(ha1s) => from(std::slice::from_ref(ha1s), challenge, hash),
        Proof::Derived(all) => from(all, challenge, hash),
    }
}

fn from(all: &[Ha1s], challenge: &Challenge, hash: Hash) -> Result<Ha1, Unanswerable> {
    let ha1s = all.iter().find(|ha1s| *ha1s.realm == *challenge.realm).ok_or(Unanswerable::Realm)?;
    let text = of(ha1s, hash).ok_or(Unanswerable::Algorithm)?;
    Ha1::from_hex(hash, text.expose()).ok_or(Unanswerable::Algorithm)
}

fn of(ha1s: &Ha1s, hash: Hash) -> Option<&Ha1Text> {
    match hash {
        Hash::Md5 => ha1s.md5.as_ref(),
        Hash::Sha256 => ha1s.sha256.as_ref(),
        Hash::Sha512_256 => ha1s.sha512_256.as_ref(),
    }
}

/// A challenge of a SIP server that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    realm: Box<str>,
    hash: Hash,
}

impl Asked {
    /// The realm and the algorithm of this challenge.
    pub(crate) fn of(challenge: &Challenge) -> Self {
        Self { realm: (&*challenge.realm).into(), hash: challenge.algorithm.hash }
    }
}

/// Has a password give way to what answers the same challenges again, and no other; `false`: it stays, for there is none, or nothing
/// was asked.
pub fn give_up_password(record: &mut Record, asked: &[Asked]) -> bool {
    let Proof::Password(password) = &record.account.proof else { return false };
    let mut all: Vec<Ha1s> = Vec::new();
    for Asked { realm, hash } in asked.iter().take(REALMS_MAX) {
        let ha1 = Ha1::compute(*hash, &record.account.auth_username, realm, password.expose());
        let text = Some(Ha1Text::new(ha1.expose()));
        let place = all.iter().position(|ha1s| ha1s.realm == *realm).unwrap_or(all.len());
        if place == all.len() {
            all.push(Ha1s { realm: realm.clone(), md5: None, sha256: None, sha512_256: None });
        }
        match hash {
            Hash::Md5 => all[place].md5 = text,
            Hash::Sha256 => all[place].sha256 = text,
            Hash::Sha512_256 => all[place].sha512_256 = text,
        }
    }
    if all.is_empty() {
        return false;
    }
    record.account.proof = Proof::Derived(all);
    true
}

/// Whether two records of one account would answer a challenge alike.
pub(crate) fn same_credentials(one: &Record, other: &Record) -> bool {
    let is_same = match (&one.account.proof, &other.account.proof) {
        (Proof::Password(_), Proof::Derived(all)) => is_of(one, all),
        (Proof::Derived(all), Proof::Password(_)) => is_of(other, all),
        // The two may cover different challenges: those that both have are compared.
        (Proof::Derived(all), Proof::Derived(others)) => {
            let same = |ha1s: &Ha1s| others.iter().any(|other| is_alike(ha1s, other));
            all.iter().any(same)
        }
        (one, other) => one == other,
    };
    is_same && one.account.auth_username == other.account.auth_username
}

/// Whether these HA1s are of the password of this record.
fn is_of(record: &Record, all: &[Ha1s]) -> bool {
    let mut of_password = record.clone();
    let asked = |ha1s: &Ha1s| {
        let hashes = [Hash::Md5, Hash::Sha256, Hash::Sha512_256].into_iter().filter(|hash| of(ha1s, *hash).is_some());
        hashes.map(|hash| Asked { realm: ha1s.realm.clone(), hash }).collect::<Vec<_>>()
    };
    let asked: Vec<_> = all.iter().flat_map(asked).collect();
    give_up_password(&mut of_password, &asked) && matches!(of_password.account.proof, Proof::Derived(own) if own == all)
}

/// Whether two sets for one realm have an HA1 in common.
fn is_alike(one: &Ha1s, other: &Ha1s) -> bool {
    let shared = |hash| of(one, hash).zip(of(other, hash)).is_some_and(|(one, other)| one == other);
    one.realm == other.realm && [Hash::Md5, Hash::Sha256, Hash::Sha512_256].into_iter().any(shared)
}

/// Whether what a device shows at the edge proves that it is this instance's.
pub fn verify_device(id: InstanceId, secret: &InstanceSecret, method: &str, proof: &DeviceProof) -> bool {
    match proof {
        DeviceProof::Bearer(token) => InstanceSecret::new(token) == *secret,
        DeviceProof::Digest(credentials) => {
            let name = id.to_string();
            let ha1 = Ha1::compute(credentials.algorithm.hash, &name, EDGE_REALM, secret.expose());
            let named = *credentials.username == *name && &*credentials.realm == EDGE_REALM;
            credentials.verify(&ha1, method, b"") && named
        }
    }
}

#[cfg(test)]
mod tests {
    use sip::auth::{Credentials, challenge_value};
    use sip::id::{BindingId, ShardTag};

    use super::*;
    use crate::secret::{Aor, Ha1Text, Password, PushToken};
    use crate::vault::record::{Account, Device, Presence, Provider, PushTarget, WakeFor};

    fn record(proof: Proof) -> Record {
        let call_push = PushTarget::new(Provider::Fcm, PushToken::new("token"), 0);
        Record {
            app: "app".into(),
            account: Account {
                aor: Aor::new("sip:alice@example.com"),
                auth_username: "alice".into(),
                proof,
                registrar: None,
                outbound_proxy: None,
            },
            device: Device { call_push, alert_push: None, label: None },
            wake_for: WakeFor { call: true, message: false, voicemail: false, missed_call: false },
            secret: InstanceSecret::new("instance-secret"),
            binding: BindingId::new(1, ShardTag(1)),
            sip_instance: [0; 16],
            proven: true,
            created_at: 0,
            expires_at: 1,
            presence: Presence::Background,
            reminded: None,
            told_failing: false,
        }
    }

    fn answered(record: &Record, realm: &str, hash: Hash) -> Result<String, Unanswerable> {
        let challenge = Challenge::parse(&challenge_value(realm, "nonce", hash, false)).unwrap();
        answer(
            record,
            &Challenged { challenge: &challenge, nc: 1, cnonce: "cnonce", uri: "sip:example.com", method: "REGISTER" },
        )
    }

    #[test]
    fn a_password_answers_every_algorithm() {
        let record = record(Proof::Password(Password::new("wonderland")));
        for hash in [Hash::Md5, Hash::Sha256, Hash::Sha512_256] {
            let credentials = Credentials::parse(&answered(&record, "example.com", hash).unwrap()).unwrap();
            assert!(credentials.verify(&Ha1::compute(hash, "alice", "example.com", "wonderland"), "REGISTER", b""));
        }
    }

    #[test]
    fn an_ha1_answers_its_realm_and_its_algorithm_alone() {
        let ha1 = Ha1::compute(Hash::Sha256, "alice", "example.com", "wonderland");
        let record = record(Proof::Ha1(Ha1s {
            realm: "example.com".into(),
            md5: None,
            sha256: Some(Ha1Text::new(ha1.expose())),
            sha512_256: None,
        }));
        let credentials = Credentials::parse(&answered(&record, "example.com", Hash::Sha256).unwrap()).unwrap();
        assert!(credentials.verify(&ha1, "REGISTER", b""));
        assert_eq!(answered(&record, "evil.example", Hash::Sha256), Err(Unanswerable::Realm));
        assert_eq!(answered(&record, "example.com", Hash::Md5), Err(Unanswerable::Algorithm));
    }

    #[test]
    fn a_password_gives_way_to_what_answers_the_same_again_and_nothing_else() {
        let with_password = record(Proof::Password(Password::new("wonderland")));
        let asked = |realm: &str, hash| Asked { realm: realm.into(), hash };
        let challenges = [asked("example.com", Hash::Sha256), asked("proxy", Hash::Md5)];
        let mut derived = with_password.clone();
        assert!(!give_up_password(&mut derived, &[]) && derived == with_password, "nothing was asked");
        assert!(give_up_password(&mut derived, &challenges));
        assert!(!give_up_password(&mut derived, &challenges), "there is none any more");
        for (realm, hash) in [("example.com", Hash::Sha256), ("proxy", Hash::Md5)] {
            assert_eq!(answered(&derived, realm, hash), answered(&with_password, realm, hash));
        }
        assert_eq!(answered(&derived, "example.com", Hash::Md5), Err(Unanswerable::Algorithm));
        assert_eq!(answered(&derived, "elsewhere", Hash::Sha256), Err(Unanswerable::Realm));
        // The same password is recognised by either form of proof.
        let (mut other, mut third) = (with_password.clone(), record(Proof::Password(Password::new("underland"))));
        assert!(same_credentials(&derived, &with_password) && same_credentials(&with_password, &derived));
        assert!(!same_credentials(&derived, &third));
        assert!(give_up_password(&mut other, &challenges[..1]) && same_credentials(&derived, &other));
        assert!(give_up_password(&mut third, &challenges) && !same_credentials(&derived, &third));
    }

    #[test]
    fn a_device_is_admitted_by_its_own_secret_alone() {
        let (id, other) = (InstanceId::new(7 << 16, ShardTag(1)), InstanceId::new(8 << 16, ShardTag(1)));
        let secret = InstanceSecret::new("instance-secret");
        let name = id.to_string();
        let shows = |password: &str| {
            let challenge = Challenge::parse(&challenge_value(EDGE_REALM, "n", Hash::Sha256, false)).unwrap();
            let ha1 = Ha1::compute(Hash::Sha256, &name, EDGE_REALM, password);
            let terms =
                DigestResponse { username: &name, method: "REGISTER", uri: "sip:e", cnonce: "c", nc: 1, body: b"" };
            let value = challenge.answer(&ha1, &terms).unwrap();
            DeviceProof::Digest(Box::new(Credentials::parse(&value).unwrap()))
        };
        assert!(verify_device(id, &secret, "REGISTER", &shows("instance-secret")));
        assert!(!verify_device(id, &secret, "REGISTER", &shows("another")));
        assert!(!verify_device(other, &secret, "REGISTER", &shows("instance-secret")), "another instance's id");
        assert!(verify_device(id, &secret, "REGISTER", &DeviceProof::Bearer("instance-secret".into())));
        assert!(!verify_device(id, &secret, "REGISTER", &DeviceProof::Bearer("instance-secre".into())));
    }
}
