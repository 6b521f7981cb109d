//! What is computed with a secret: a record sealed and opened, the proof of a device checked, a text sealed to a device.

#[path = "../../sip/benches/measure/mod.rs"]
mod measure;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use mimalloc::MiMalloc;
use relay::agent::verify_device;
use relay::hpke::PrivateKey;
use relay::secret::{Aor, Ha1Text, InstanceSecret, PushToken, ZeroOnFree};
use relay::vault::record::{Account, Device, Ha1s, Presence, Proof, Provider, PushTarget, Record, WakeFor};
use relay::vault::{Keyring, Vault};
use sip::auth::{Challenge, Credentials, DigestResponse, Ha1, Hash, challenge_value};
use sip::endpoint::{EDGE_REALM, Proof as DeviceProof};
use sip::id::{BindingId, InstanceId, ShardTag};

use measure::ProcessorTime;

/// That of the relay.
#[global_allocator]
static MEMORY: ZeroOnFree<MiMalloc> = ZeroOnFree(MiMalloc);

const SECRET: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ";

criterion_group! {
    name = benches;
    config = measure::criterion();
    targets = records, devices
}
criterion_main!(benches);

fn records(criterion: &mut Criterion<ProcessorTime>) {
    let vault = Vault::open("memory:", Keyring::ephemeral(), "relay1.example.net:5061").expect("a store in memory");
    let (id, record) = (InstanceId::new(1 << 64, ShardTag(1)), record());
    let sealed = vault.seal(id, &record);
    assert!(vault.open_lent(id, &sealed, |opened| *opened == record).expect("it opens"));
    criterion.bench_function("record sealed", |bencher| bencher.iter(|| vault.seal(id, black_box(&record))));
    criterion.bench_function("record opened", |bencher| {
        bencher.iter(|| vault.open_lent(id, black_box(&sealed), |record| record.expires_at).is_ok());
    });
}

fn devices(criterion: &mut Criterion<ProcessorTime>) {
    let (id, secret) = (InstanceId::new(1 << 64, ShardTag(1)), InstanceSecret::new(SECRET));
    for (name, proof) in [("bearer", DeviceProof::Bearer(SECRET.into())), ("digest", digest(id))] {
        assert!(verify_device(id, &secret, "REGISTER", &proof));
        criterion.bench_function(&format!("device proves itself by {name}"), |bencher| {
            bencher.iter(|| verify_device(id, &secret, "REGISTER", black_box(&proof)));
        });
    }
    let key = PrivateKey::generate().and_then(|key| key.public()).expect("a key of a device");
    let plaintext = [b' '; 256];
    assert!(key.seal(b"info", b"", &plaintext).is_some());
    criterion.bench_function("256 bytes sealed to a device", |bencher| {
        bencher.iter(|| key.seal(b"info", b"", black_box(&plaintext)));
    });
}

fn digest(id: InstanceId) -> DeviceProof {
    let (name, nonce) = (id.to_string(), "5b1f0c2a9d3e4f6071829a0b");
    let ha1 = Ha1::compute(Hash::Sha256, &name, EDGE_REALM, SECRET);
    let terms = DigestResponse {
        username: &name,
        method: "REGISTER",
        uri: "sip:relay1.example.net",
        cnonce: "0a4f113b0a4f113b",
        nc: 1,
        body: b"",
    };
    let challenge = Challenge::parse(&challenge_value(EDGE_REALM, nonce, Hash::Sha256, false)).expect("a challenge");
    let answer = challenge.answer(&ha1, &terms).expect("its answer");
    DeviceProof::Digest(Box::new(Credentials::parse(&answer).expect("credentials")))
}

/// What most records are: an iPhone, and an account whose SIP server has asked for one digest.
fn record() -> Record {
    let derived =
        Ha1s { realm: "example.com".into(), md5: None, sha256: Some(Ha1Text::new(&"1e".repeat(32))), sha512_256: None };
    Record {
        app: "com.example.phone".into(),
        account: Account {
            aor: Aor::new("sip:alice@example.com"),
            auth_username: "alice".into(),
            proof: Proof::Derived(vec![derived]),
            registrar: None,
            outbound_proxy: None,
        },
        device: Device {
            call_push: PushTarget::new(Provider::ApnsProduction, PushToken::new(&"a5".repeat(32)), 1_795_000_000_000),
            alert_push: None,
            label: Some("Alice's phone".into()),
        },
        wake_for: WakeFor { call: true, message: false, voicemail: false, missed_call: false },
        secret: InstanceSecret::new(SECRET),
        binding: BindingId::new(2 << 64, ShardTag(1)),
        sip_instance: [3; 16],
        proven: true,
        created_at: 1_795_000_000,
        expires_at: 1_795_432_000,
        presence: Presence::Background,
        reminded: None,
        told_failing: false,
    }
}
