//! What is computed with a secret, in the moment that it is needed.
//!
//! Invariant: a function here reads a [`Record`] that its caller unsealed for this one call, under
//! [`with_clean_stack`](crate::secret::with_clean_stack), and gives back nothing from which the secret can be found.

use sip::auth::{Challenge, DigestResponse, Ha1, Hash};
use sip::endpoint::{EDGE_REALM, Proof as DeviceProof};
use sip::id::InstanceId;

use crate::secret::InstanceSecret;
use crate::vault::record::{Proof, Record};

/// Why a SIP server's challenge has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswerable {
    /// It names another realm than the HA1s were made for.
    Realm,
    /// It asks for an algorithm for which there is no HA1, or a protection that is not known.
    Algorithm,
    /// It offers no digest that this relay makes: an unknown one, or MD5 where the operator refuses it.
    Digest,
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
    let ha1 = ha1_for(record, challenge)?;
    let answer = DigestResponse { username: &record.account.auth_username, method, uri, cnonce, nc, body: b"" };
    challenge.answer(&ha1, &answer).map_err(|_| Unanswerable::Algorithm)
}

fn ha1_for(record: &Record, challenge: &Challenge) -> Result<Ha1, Unanswerable> {
    let hash = challenge.algorithm.hash;
    match &record.account.proof {
        Proof::Password(password) => {
            Ok(Ha1::compute(hash, &record.account.auth_username, &challenge.realm, password.expose()))
        }
        Proof::Ha1 { realm, .. } if *realm != challenge.realm => Err(Unanswerable::Realm),
        Proof::Ha1 { md5, sha256, sha512_256, .. } => {
            let given = match hash {
                Hash::Md5 => md5,
                Hash::Sha256 => sha256,
                Hash::Sha512_256 => sha512_256,
            };
            let text = given.as_ref().ok_or(Unanswerable::Algorithm)?;
            Ha1::from_hex(hash, text.expose()).ok_or(Unanswerable::Algorithm)
        }
    }
}

/// Whether two records of one account would answer a challenge alike.
pub(crate) fn same_credentials(one: &Record, other: &Record) -> bool {
    one.account.auth_username == other.account.auth_username && one.account.proof == other.account.proof
}

/// Whether what a device shows at the edge proves that it is this instance's.
pub(crate) fn verify_device(id: InstanceId, secret: &InstanceSecret, proof: &DeviceProof) -> bool {
    match proof {
        DeviceProof::Bearer(token) => InstanceSecret::new(token) == *secret,
        DeviceProof::Digest(credentials) => {
            let name = id.to_string();
            let ha1 = Ha1::compute(credentials.algorithm.hash, &name, EDGE_REALM, secret.expose());
            let named = *credentials.username == *name && &*credentials.realm == EDGE_REALM;
            credentials.verify(&ha1, "REGISTER", b"") && named
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
        let call_push = PushTarget { provider: Provider::Fcm, token: PushToken::new("token"), confirmed_at_ms: 0 };
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
        let record = record(Proof::Ha1 {
            realm: "example.com".into(),
            md5: None,
            sha256: Some(Ha1Text::new(ha1.expose())),
            sha512_256: None,
        });
        let credentials = Credentials::parse(&answered(&record, "example.com", Hash::Sha256).unwrap()).unwrap();
        assert!(credentials.verify(&ha1, "REGISTER", b""));
        assert_eq!(answered(&record, "evil.example", Hash::Sha256), Err(Unanswerable::Realm));
        assert_eq!(answered(&record, "example.com", Hash::Md5), Err(Unanswerable::Algorithm));
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
        assert!(verify_device(id, &secret, &shows("instance-secret")));
        assert!(!verify_device(id, &secret, &shows("another")));
        assert!(!verify_device(other, &secret, &shows("instance-secret")), "another instance's id");
        assert!(verify_device(id, &secret, &DeviceProof::Bearer("instance-secret".into())));
        assert!(!verify_device(id, &secret, &DeviceProof::Bearer("instance-secre".into())));
    }
}
