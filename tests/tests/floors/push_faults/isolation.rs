//! One service of one app misbehaves: how many of its own calls are pushed in their deadline, and what the others feel.

use std::sync::Arc;
use std::time::Duration;

use relay::metrics::Metrics;
use relay::push::{AppPush, Delivery, PushService, Verdict};
use tests::apns::{Answer, Apns};
use tests::authority::Authority;
use tests::fcm::{self, Fcm, TokenAnswer};
use tests::virtual_net::{Mood, VirtualNet};
use tokio::time::sleep;

use super::{APP, Calls, apple, call, google};

const OTHER: &str = "com.example.other";
const OWN_CALLS: u32 = 100;
const OTHER_CALLS: u32 = 200;
const GAP: Duration = Duration::from_millis(50);
/// What a push of the others may take at most; they do not feel anything, so the time that it is computed in counts alone.
const UNDISTURBED: Duration = Duration::from_millis(20);

/// What misbehaves: Apple's service or Google's.
enum Fault {
    Apple(fn(&Apns)),
    Google(fn(&Fcm)),
    /// The address of Apple's service.
    Address(Mood),
}

/// Each fault, with the least share of the app's own calls that must be pushed in their deadline, in percent.
fn faults() -> Vec<(&'static str, Fault, u32)> {
    use Fault::{Address, Apple, Google};
    vec![
        ("nothing", Apple(|_| {}), 100),
        ("APNs answers nothing", Apple(|it| it.answer_all(Some(Answer::Stall))), 0),
        ("APNs falls silent with each push", Apple(|it| it.answer_all(Some(Answer::Freeze))), 0),
        ("the first connection falls silent", Apple(|it| it.answer_on(1, Answer::Freeze)), 95),
        ("the first connection answers nothing", Apple(|it| it.answer_on(1, Answer::Stall)), 90),
        ("the first connection answers nothing", Google(|it| it.answer_on(1, fcm::Answer::Stall)), 100),
        ("APNs answers 503", Apple(|it| it.answer_all(Some(Answer::Unavailable { retry_after: None }))), 0),
        (
            "the first connection answers 503",
            Apple(|it| it.answer_on(1, Answer::Unavailable { retry_after: None })),
            100,
        ),
        ("the first connection answers 500", Apple(|it| it.answer_on(1, Answer::ServerError)), 100),
        ("each push ends its connection", Apple(|it| it.answer_all(Some(Answer::AcceptAndGoAway))), 40),
        ("one stream at a time", Apple(|it| it.allow_streams(1)), 100),
        ("APNs resets each stream", Apple(|it| it.answer_all(Some(Answer::Reset(2)))), 0),
        ("APNs answers after 3.5 s", Apple(|it| it.answer_all(Some(Answer::Slow(Duration::from_millis(3_500))))), 100),
        ("APNs answers after 12 s", Apple(|it| it.answer_all(Some(Answer::Slow(Duration::from_secs(12))))), 100),
        ("APNs refuses the provider token", Apple(|it| it.answer_all(Some(Answer::InvalidProviderToken))), 0),
        ("APNs cannot be connected to", Address(Mood::Refuses), 0),
        ("APNs is mute", Address(Mood::Mute), 0),
        ("APNs is mute after the connection", Address(Mood::MuteAfterConnect), 0),
        ("FCM answers nothing", Google(|it| it.answer_all(Some(fcm::Answer::Stall))), 0),
        ("FCM answers 503", Google(|it| it.answer_all(Some(fcm::Answer::Unavailable { retry_after: None }))), 0),
        ("FCM refuses each token", Google(|it| it.answer_all(Some(fcm::Answer::Unauthenticated))), 0),
        (
            "the token endpoint hangs twice",
            Google(|it| it.answer_token_with([TokenAnswer::Stall, TokenAnswer::Stall])),
            100,
        ),
        (
            "the token endpoint is away for a while",
            Google(|it| it.answer_token_with(std::iter::repeat_n(TokenAnswer::Unavailable, 6))),
            100,
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_service_that_misbehaves_slows_no_other_and_keeps_what_calls_it_can() {
    let authority = Authority::new();
    let mut table = Vec::new();
    let mut wrong = Vec::new();
    for (name, fault, least) in faults() {
        let net = VirtualNet::new();
        let (own_apns, own_fcm) = (Apns::start_within(&net, &authority, APP), Fcm::start_within(&net, &authority));
        let (apns, fcm) = (Apns::start_within(&net, &authority, OTHER), Fcm::start_within(&net, &authority));
        let app = |apns: &Apns, fcm: &Fcm| AppPush {
            apns: Some(apns.settings()),
            fcm: Some(fcm.settings()),
            ..AppPush::default()
        };
        let apps = vec![(APP.into(), app(&own_apns, &own_fcm)), (OTHER.into(), app(&apns, &fcm))];
        let service = PushService::new(Arc::new(net.clone()), apps, &Metrics::new()).expect("the settings are good");
        // The others are warm; the service that misbehaves does so from the start.
        for target in [apple, google] {
            drop(ring(&service, OTHER, target, 10_000, 1, GAP).await.ended().await);
        }
        let own_target = if matches!(fault, Fault::Google(_)) { google } else { apple };
        match fault {
            Fault::Apple(set) => set(&own_apns),
            Fault::Google(set) => set(&own_fcm),
            Fault::Address(mood) => {
                net.place(own_apns.port(), &[("192.0.2.1".parse().expect("an address"), mood)]);
            }
        }
        let own = ring(&service, APP, own_target, 1, OWN_CALLS, GAP);
        let others = async {
            let mut deliveries = ring(&service, OTHER, apple, 1, OTHER_CALLS, GAP / 2).await.ended().await;
            deliveries.extend(ring(&service, OTHER, google, 1, OTHER_CALLS, GAP / 2).await.ended().await);
            deliveries
        };
        let (own, others) = tokio::join!(own, others);
        let own = accepted(&own.ended().await);
        let mut took: Vec<_> = others.iter().map(|delivery| delivery.elapsed).collect();
        took.sort();
        let (middle, most) = (took[took.len() / 2], took[took.len() * 99 / 100]);
        table.push(format!("{name}: {own} of {OWN_CALLS} own calls, others {middle:?} / {most:?}"));
        if accepted(&others) != 2 * OTHER_CALLS || most > UNDISTURBED || own * 100 < least * OWN_CALLS {
            wrong.push(format!("{}: at least {least} % wanted", table[table.len() - 1]));
        }
        let violations = [own_apns.violations(), own_fcm.violations(), apns.violations(), fcm.violations()].concat();
        if !violations.is_empty() {
            wrong.push(format!("{name}: {violations:?}"));
        }
    }
    println!("{}", table.join("\n"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn ring(
    service: &PushService,
    app: &'static str,
    target: fn(u32) -> relay::vault::record::PushTarget,
    from: u32,
    count: u32,
    gap: Duration,
) -> Calls {
    let mut calls = Vec::new();
    for number in from..from + count {
        let service = service.clone();
        calls.push(tokio::spawn(async move { service.deliver(app, &target(number), &call(number)).await }));
        sleep(gap).await;
    }
    Calls(calls)
}

fn accepted(deliveries: &[Delivery]) -> u32 {
    deliveries.iter().filter(|delivery| delivery.verdict == Verdict::Accepted).count() as u32
}
