//! Devices in a browser: the page of `relay/examples/browser` in the real Chromium with the real JsSIP, over the WSS edge. Who
//! calls is another page, whose JsSIP has the edge as its outbound proxy, by way of the real Kamailio.

use std::time::Duration;

use relay::push::webpush;
use serde_json::json;
use tests::authority::Authority;
use tests::board::Missed;
use tests::browser::{Browser, Page, Pages};
use tests::fcm;
use tests::gate::Gate;
use tests::kamailio::Reach;
use tests::relay_setup::Setup;
use tests::webpush::{WebPush, application_key};
use tests::wire::Transport;
use tests::world::FCM_TOKEN;
use tests::world::real::Plan;

use crate::{Outcome, World};

/// The most that one step may take: a browser shares the machine with all other tests.
const SOON: Duration = Duration::from_secs(60);

const PHONE: &str = include_str!("../../../relay/examples/browser/index.html");
const WORKER: &str = include_str!("../../../relay/examples/browser/push.js");
const CALLER: &str = include_str!("../../browser/caller.html");

/// How much sound a page has got, once it has some.
const HEARS: &str = "(async () => {
    const stats = await SESSION.connection.getStats();
    const inbound = [...stats.values()].find((it) => it.type === 'inbound-rtp' && it.kind === 'audio');
    return !!inbound && inbound.packetsReceived > 20 && inbound.totalAudioEnergy > 0;
})()";

/// Two pages of one browser; Alice's has lent her account.
struct Pair {
    world: World,
    phone: Page,
    caller: Page,
    _pages: Pages,
}

impl Pair {
    /// Alice's page has lent her account and sleeps; Bob's is registered.
    async fn start() -> Result<Self, Missed> {
        let pair = Self::with(None).await?;
        pair.lend(FCM_TOKEN).await?;
        pair.register_the_caller().await?;
        Ok(pair)
    }

    /// Alice's page has not lent anything yet; Bob's is not registered.
    async fn with(webpush: Option<webpush::Settings>) -> Result<Self, Missed> {
        let pages = Pages::serve(&[("/", PHONE), ("/push.js", WORKER), ("/caller", CALLER)]).await?;
        // JsSIP names its domain alone.
        let plan = Plan { reach: Reach::Path, provider: "fcm", by_domain: true, ..Plan::over(Transport::Tls) };
        let origin = ("SIPWAKE_API__ORIGINS".to_owned(), pages.origin());
        let change = |setup: &mut Setup| {
            setup.environment.push(origin);
            setup.apps[0].webpush = webpush;
        };
        let world = World::real_with(plan, change).await?;
        let browser = Browser::start(&world.relay.certificate_files().1).await?;
        let (phone, caller) = (
            browser.open(&format!("{}/", pages.origin())).await?,
            browser.open(&format!("{}/caller", pages.origin())).await?,
        );
        Ok(Self { world, phone, caller, _pages: pages })
    }

    /// By this token of FCM; without one by Web Push.
    async fn lend(&self, token: &str) -> Outcome {
        let (relay, server) = (&self.world.relay, &self.world.registrar);
        let fields = json!({
            "api": format!("https://{}", relay.api_address()), "key": relay.setup().apps[0].api_key,
            "aor": self.world.aor(), "password": server.password, "token": token,
            "registrar": server.uri(Transport::Tls),
        });
        let fill =
            format!("for (const [name, value] of Object.entries({fields})) $('lend').elements[name].value = value");
        self.phone.run(&fill).await?;
        self.phone.run("$('lend').requestSubmit()").await?;
        self.phone
            .until("$('state').textContent.startsWith('asleep as pi_')", SOON)
            .await
            .map_err(|missed| self.told(missed))
    }

    /// By RFC 8599 through the edge, which is Bob's proxy for what he calls, too.
    async fn register_the_caller(&self) -> Outcome {
        let server = &self.world.registrar;
        let (domain, (user, password)) = (server.domain(), &server.other);
        let edge = format!("wss://{}/", self.world.relay.websocket_address());
        let settings = json!({
            "edge": edge, "aor": server.aor(user), "user": user, "password": password, "realm": domain,
            "contact": format!("sip:bob@b0b.invalid;transport=ws;pn-provider=fcm;pn-param={};pn-prid=bobs-token", fcm::PROJECT),
        });
        self.caller.run(&format!("caller.start({settings})")).await?;
        self.caller.until("caller.state === 'registered'", SOON).await.map_err(|missed| self.told(missed))
    }

    fn told(&self, missed: Missed) -> Missed {
        let World { relay, registrar, .. } = &self.world;
        Missed::new(missed.awaited, format!("{}\n{}\n{}", missed.seen, relay.log(), registrar.output()))
    }

    /// Bob calls Alice.
    async fn calls(&self) -> Outcome {
        self.caller.run(&format!("caller.call({:?})", self.world.aor())).await.map(drop)
    }

    /// Bob calls, the push comes to the page of Alice, and it rings.
    async fn rings(&self) -> Outcome {
        self.calls().await?;
        self.pushed("call").await?;
        self.shows("ringing").await?;
        self.caller.until("caller.heard.includes(180)", SOON).await
    }

    /// The next push comes to the page of Alice.
    async fn pushed(&self, event: &str) -> Outcome {
        let push = self.world.android_push().await.map_err(|missed| self.told(missed))?;
        assert_eq!(push["event"], event);
        // As its service worker would: FCM carries the object as a text.
        self.phone.run(&format!("phone.onPush({:?})", push.to_string())).await.map(drop)
    }

    async fn answered(&self) -> Outcome {
        self.rings().await?;
        self.phone.run("$('answer').click()").await?;
        self.shows("talking").await?;
        self.caller.until("caller.state === 'talking'", SOON).await.map_err(|missed| self.told(missed))?;
        self.both_hear().await
    }

    async fn both_hear(&self) -> Outcome {
        self.phone.until(&HEARS.replace("SESSION", "phone.session"), SOON).await?;
        self.caller.until(&HEARS.replace("SESSION", "caller.session"), SOON).await
    }

    async fn shows(&self, state: &str) -> Outcome {
        let script = format!("$('state').textContent === {state:?}");
        self.phone.until(&script, SOON).await.map_err(|missed| self.told(missed))
    }

    async fn hears(&self, state: &str) -> Outcome {
        let script = format!("caller.state.startsWith({state:?})");
        let seen = self.caller.until(&script, SOON).await;
        match seen {
            Ok(()) => Ok(()),
            Err(missed) => {
                let state = self.caller.run("caller.state").await.unwrap_or_default();
                Err(self.told(Missed::new(missed.awaited, state.to_string())))
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_sleeps_is_pushed_registers_answers_with_sound_both_ways_and_either_side_hangs_up() -> Outcome {
    let pair = Pair::start().await?;
    pair.answered().await?;
    pair.caller.run("caller.session.terminate()").await?;
    pair.shows("ended (remote)").await?;
    // It is there still, and rings with no push.
    pair.calls().await?;
    pair.shows("ringing").await?;
    pair.phone.run("$('answer').click()").await?;
    pair.hears("talking").await?;
    pair.both_hear().await?;
    pair.phone.run("$('hangup').click()").await?;
    pair.hears("ended (remote)").await?;
    assert_eq!(pair.world.fcm.count(), 1, "one push for one call, and none for a device that is there");

    pair.phone.run("$('end').click()").await?;
    pair.shows("wiped").await?;
    pair.world.await_location(0).await?;
    pair.world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_subscribed_to_web_push_rings_from_its_service_worker_and_is_told_when_the_call_is_over() -> Outcome
{
    let authority = Authority::new();
    let push_server = WebPush::start(&authority).await;
    let pair = Pair::with(Some(push_server.settings())).await?;
    // The push service of Chromium is Google's, and far away: the subscription is one at the stand-in.
    let device = push_server.subscribe();
    let target = device.target();
    let subscription =
        json!({"endpoint": target["endpoint"], "keys": {"p256dh": target["p256dh"], "auth": target["auth"]}});
    let subscribes = format!(
        "PushManager.prototype.subscribe = async (wish) => {{ window.wished = wish; return {{ toJSON: () => ({subscription}) }}; }}"
    );
    pair.phone.run(&subscribes).await?;
    pair.lend("").await?;
    pair.register_the_caller().await?;
    let wished = pair.phone.run("[window.wished.applicationServerKey, window.wished.userVisibleOnly]").await?;
    assert_eq!(wished, json!([application_key(&authority), true]));

    pair.calls().await?;
    let push = push_server.next_push(SOON).await.ok_or_else(|| pair.told(Missed::new("a push", "none")))?;
    assert_eq!((&push.payload["event"], push.ttl), (&json!("call"), 0));
    pair.phone.deliver_push(&push.payload.to_string()).await?;
    pair.shows("ringing").await?;
    pair.phone.run("$('answer').click()").await?;
    pair.shows("talking").await?;
    pair.hears("talking").await?;
    pair.both_hear().await?;
    pair.caller.run("caller.session.terminate()").await?;
    pair.shows("ended (remote)").await?;

    // A call that is given up before the page has come.
    pair.phone.run("phone.sleep()").await?;
    pair.world.await_metric("sipwake_edge_flows", 1.0).await?;
    pair.calls().await?;
    let push = push_server.next_push(SOON).await.ok_or_else(|| pair.told(Missed::new("a push", "none")))?;
    pair.caller.run("caller.session.terminate()").await?;
    let mut ended = push_server.next_push(SOON).await.ok_or_else(|| pair.told(Missed::new("call-ended", "none")))?;
    if ended.payload["event"] == "missed-call" {
        ended = push_server.next_push(SOON).await.ok_or_else(|| pair.told(Missed::new("call-ended", "none")))?;
    }
    assert_eq!((&ended.payload["event"], &ended.payload["call"]), (&json!("call-ended"), &push.payload["call"]));
    pair.phone.run(&format!("phone.call = {{ id: {} }}; 1", push.payload["call"])).await?;
    pair.phone.deliver_push(&ended.payload.to_string()).await?;
    pair.shows("it is over").await?;
    assert_eq!(push_server.violations(), Vec::<String>::new());
    pair.world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_declines_and_the_caller_hears_so_and_a_caller_who_gives_up_leaves_no_page_ringing() -> Outcome {
    let pair = Pair::start().await?;
    pair.rings().await?;
    pair.phone.run("$('decline').click()").await?;
    pair.hears("failed: Rejected 603").await?;
    pair.pushed("call-ended").await?;
    pair.phone.run("window.earlier = phone.ua; phone.sleep()").await?;
    pair.world.await_metric("sipwake_edge_flows", 1.0).await?;
    pair.rings().await?;
    // JsSIP closes the socket of what was stopped seconds later.
    let state = pair.phone.run("earlier.emit('disconnected', {}); $('state').textContent").await?;
    assert_eq!(state, "ringing", "it came by the next connection");
    pair.caller.run("caller.session.terminate()").await?;
    pair.shows("Canceled").await?;
    pair.world.end().await
}

/// Its connection is the earlier instance's, and brings it no call.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_lends_again_while_it_is_connected_rings_for_the_later_instance() -> Outcome {
    let pair = Pair::start().await?;
    pair.rings().await?;
    pair.phone.run("window.earlier = phone.lease.instance; $('decline').click()").await?;
    pair.hears("failed: Rejected 603").await?;
    pair.pushed("call-ended").await?;
    pair.phone.run("$('lend').requestSubmit()").await?;
    pair.phone.until("phone.lease.instance !== earlier", SOON).await?;
    pair.rings().await?;
    pair.world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_loses_its_socket_in_a_call_comes_back_and_either_side_can_hang_up() -> Outcome {
    let pair = Pair::start().await?;
    let mut gate = Gate::closed(pair.world.relay.websocket_address());
    gate.open()?;
    pair.phone.run(&format!("phone.lease.edge.websocket = 'wss://{}/'", gate.address())).await?;
    for by_caller in [true, false] {
        if by_caller {
            pair.answered().await?;
        } else {
            pair.phone.run("$('caller').textContent = 'who was pushed before'").await?;
            pair.calls().await?;
            pair.shows("ringing").await?;
            pair.phone.until("$('caller').textContent !== 'who was pushed before'", SOON).await?;
            pair.phone.until("phone.session.call.startsWith('c_')", SOON).await?;
            pair.phone.run("$('answer').click()").await?;
            pair.shows("talking").await?;
            pair.hears("talking").await?;
        }
        gate.close();
        pair.phone.until("!phone.ua.isConnected()", SOON).await?;
        if by_caller {
            // It says so while the page is away: what it says waits.
            pair.caller.run("caller.session.terminate()").await?;
            gate.open()?;
            pair.shows("ended (remote)").await?;
        } else {
            gate.open()?;
            pair.phone.until("phone.ua.isRegistered() && phone.ua.isConnected()", SOON).await?;
            pair.phone.run("$('hangup').click()").await?;
            pair.hears("ended (remote)").await?;
        }
        pair.phone.until("phone.ua.isRegistered() && phone.ua.isConnected()", SOON).await?;
    }
    pair.world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_keeps_its_secret_until_the_relay_has_taken_the_account_back() -> Outcome {
    let pair = Pair::start().await?;
    pair.phone.run("window.asks = window.fetch; 1").await?;
    let stub = |body: &str| format!("window.fetch = async () => {{ {body} }}; 1");
    for (body, told) in [
        (
            "return new Response('{\"type\":\"x\"}', { status: 503, headers: { 'Retry-After': '5' } })",
            "not taken back: 503",
        ),
        ("return new Response('<html>', { status: 404 })", "not taken back: no answer of the relay: 404"),
        ("throw new TypeError('gone')", "not taken back: no answer"),
    ] {
        pair.phone.run(&stub(body)).await?;
        pair.phone.run("$('end').click()").await?;
        pair.phone.until(&format!("$('state').textContent.startsWith('{told}')"), SOON).await?;
        assert_eq!(pair.phone.run("!!localStorage.getItem('lease') && !$('end').disabled").await?, json!(true));
    }
    pair.phone.run("window.fetch = window.asks; 1").await?;
    pair.phone.run("$('end').click()").await?;
    pair.shows("wiped").await?;
    assert_eq!(pair.phone.run("[phone.lease, localStorage.getItem('lease')]").await?, json!([null, null]));
    pair.world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_whose_pushed_call_is_over_hears_so_of_the_relay() -> Outcome {
    let pair = Pair::start().await?;
    let push = "({ event: 'call', call: 'c_aaaaaaaaaaaaaaaaaaaaaaaaaa', name: 'Bob', sent_at: 100, deadline: 130 })";
    pair.phone.run(&format!("phone.onPush({push})")).await?;
    pair.shows("it is over").await?;
    assert_eq!(pair.phone.run("phone.call").await?, json!(null));
    pair.world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_renews_its_lease_and_says_when_it_is_over() -> Outcome {
    let pair = Pair::start().await?;
    let lease = "const { api, instance, secret } = phone.lease;";
    let ask = |method: &str, more: &str| {
        let fields = format!("method: '{method}', headers: {{ Authorization: `Bearer ${{secret}}`{more}");
        format!(
            "(async () => {{ {lease} return (await fetch(`${{api}}/v1/instances/${{instance}}`, {{ {fields} }})).json(); }})()"
        )
    };
    // As if two days of it had gone by.
    let short = ask("PATCH", ", 'Content-Type': 'application/json' }, body: JSON.stringify({ lifetime_s: 259200 })");
    let left = "(Date.parse(told.expires_at) - Date.now()) / 1000";
    let lasts = format!("{}.then((told) => {left} > 400000)", ask("GET", " }"));
    pair.phone
        .run("navigator.serviceWorker.register('push.js').then(() => navigator.serviceWorker.ready).then(() => 1)")
        .await?;
    for event in ["renew", "expiring"] {
        let told = pair.phone.run(&short).await?;
        assert_eq!(pair.phone.run(&lasts).await?, json!(false), "{told}");
        let push =
            pair.phone.run(&format!("JSON.stringify({{ event: '{event}', instance: phone.lease.instance }})")).await?;
        pair.phone.deliver_push(push.as_str().unwrap_or_default()).await?;
        pair.phone.until(&lasts, SOON).await?;
        pair.phone.until("$('state').textContent.startsWith('asleep as pi_')", SOON).await?;
    }
    // What is told of another lease ends nothing.
    pair.phone.run("phone.onPush({ event: 'expired', instance: 'pi_another' })").await?;
    assert_eq!(pair.phone.run("!!phone.lease").await?, json!(true));
    pair.phone.run("phone.onPush({ event: 'expired', instance: phone.lease.instance })").await?;
    pair.shows("no calls come any more: lend the account again").await?;
    assert_eq!(
        pair.phone.run("[phone.lease, localStorage.getItem('lease'), $('end').disabled]").await?,
        json!([null, null, true])
    );

    // One that was wiped while the page was closed.
    pair.lend(FCM_TOKEN).await?;
    pair.phone.run(&ask("DELETE", " }")).await?;
    pair.phone.run("phone.renew()").await?;
    pair.shows("no calls come any more: lend the account again").await?;
    pair.world.end().await
}
