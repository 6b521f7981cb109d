//! What is computed for a push: its body, in the clear and sealed to its device, and the tokens that the relay is known by to a service.
//! A token is signed once in most of an hour, a body for each push.

#[path = "../../sip/benches/measure/mod.rs"]
mod measure;

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::SystemTime;

use criterion::{Criterion, criterion_group, criterion_main};
use mimalloc::MiMalloc;
use relay::hpke::PrivateKey;
use relay::push::measured::{Tokens, apns_body, fcm_object, webpush_body};
use relay::push::{Event, Push};
use relay::secret::ZeroOnFree;
use relay::vault::record::WebPushKeys;
use sip::id::{CallId, InstanceId, ShardTag};

use measure::ProcessorTime;

/// That of the relay.
#[global_allocator]
static MEMORY: ZeroOnFree<MiMalloc> = ZeroOnFree(MiMalloc);

criterion_group! {
    name = benches;
    config = measure::criterion();
    targets = bodies, tokens
}
criterion_main!(benches);

fn bodies(criterion: &mut Criterion<ProcessorTime>) {
    let push = push();
    let device = PrivateKey::generate().and_then(|key| key.public());
    for (name, key) in [("in the clear", None), ("sealed to its device", device.as_ref())] {
        assert!(apns_body(&push, key).is_some() && fcm_object(&push, key).is_some());
        criterion.bench_function(&format!("push body for APNs {name}"), |bencher| {
            bencher.iter(|| apns_body(black_box(&push), key));
        });
        criterion.bench_function(&format!("push object for FCM {name}"), |bencher| {
            bencher.iter(|| fcm_object(black_box(&push), key));
        });
    }
    let point = rcgen::KeyPair::generate().expect("a key on P-256").public_key_raw().to_vec();
    let keys = WebPushKeys { p256dh: point.try_into().expect("an uncompressed point"), auth: [5; 16] };
    assert!(webpush_body(&push, &keys).is_some());
    criterion
        .bench_function("push body for Web Push", |bencher| bencher.iter(|| webpush_body(black_box(&push), &keys)));
}

fn tokens(criterion: &mut Criterion<ProcessorTime>) {
    let (now, tokens) = (SystemTime::now(), read_tokens());
    assert!(tokens.sign_for_apns(now) && tokens.sign_for_fcm(now) && tokens.sign_for_webpush(now));
    criterion.bench_function("token for APNs (ES256)", |bencher| bencher.iter(|| tokens.sign_for_apns(now)));
    criterion.bench_function("assertion for FCM (RS256)", |bencher| bencher.iter(|| tokens.sign_for_fcm(now)));
    criterion.bench_function("token for Web Push (ES256)", |bencher| bencher.iter(|| tokens.sign_for_webpush(now)));
}

fn read_tokens() -> Tokens {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (p8, account) = (folder.join("bench.p8"), folder.join("bench-service-account.json"));
    fs::write(&p8, rcgen::KeyPair::generate().expect("a key on P-256").serialize_pem()).expect("a file");
    let key_file = serde_json::json!({
        "type": "service_account",
        "project_id": "bench",
        "private_key_id": "0123456789abcdef0123456789abcdef01234567",
        "private_key": include_str!("../../tests/src/fcm-key.pem"),
        "client_email": "push@bench.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
    });
    fs::write(&account, key_file.to_string()).expect("a file");
    Tokens::read(&p8, &account).expect("both keys are sound")
}

fn push() -> Push {
    Push {
        event: Event::Call,
        instance: InstanceId::new(1 << 64, ShardTag(1)),
        call: Some(CallId::new(2 << 64, ShardTag(1))),
        from: Some("sip:bob@example.com".into()),
        name: Some("Bob Builder".into()),
        edge: "relay1.example.net:5061".into(),
        sent_at: 1_795_000_000,
        deadline: 1_795_000_030,
        made_at: relay::clock::now(),
        extra: Vec::new(),
    }
}
