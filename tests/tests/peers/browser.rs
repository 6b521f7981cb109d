//! Devices in a browser: the page of `relay/examples/browser` in the real Chromium with the real JsSIP, over the WSS edge. Who
//! calls is another page, whose JsSIP has the edge as its outbound proxy, by way of the real Kamailio.

use std::time::Duration;

use serde_json::json;
use tests::apns::Apns;
use tests::authority::Authority;
use tests::board::Missed;
use tests::browser::{Browser, Page, Pages};
use tests::digest::token;
use tests::dns::{Dns, Record};
use tests::fcm::{self, Fcm};
use tests::gate::Gate;
use tests::kamailio::{self, Kamailio, Reach};
use tests::relay_process::RelayProcess;
use tests::relay_setup::{App, Setup};
use tests::scene::FCM_TOKEN;
use tests::wire::Transport;

/// The most that one step may take: a browser shares the machine with all other tests.
const SOON: Duration = Duration::from_secs(60);

const PHONE: &str = include_str!("../../../relay/examples/browser/index.html");
const CALLER: &str = include_str!("../../browser/caller.html");

/// How much sound a page has got, once it has some.
const HEARS: &str = "(async () => {
    const stats = await SESSION.connection.getStats();
    const inbound = [...stats.values()].find((it) => it.type === 'inbound-rtp' && it.kind === 'audio');
    return !!inbound && inbound.packetsReceived > 20 && inbound.totalAudioEnergy > 0;
})()";

struct World {
    kamailio: Kamailio,
    fcm: Fcm,
    relay: RelayProcess,
    phone: Page,
    caller: Page,
    user: String,
    _apns: Apns,
    _dns: Dns,
    _pages: Pages,
    _permit: tokio::sync::SemaphorePermit<'static>,
}

impl World {
    /// Alice's page has lent her account and sleeps; Bob's is registered.
    async fn start() -> Result<Self, Missed> {
        let permit = super::world::turn().await;
        let authority = Authority::new();
        let (user, password) = (format!("alice-{}", token()), format!("pass-{}", token()));
        let (other, other_password) = (format!("bob-{}", token()), format!("pass-{}", token()));
        let (apns, fcm) = tokio::join!(Apns::start(&authority), Fcm::start(&authority));
        let settings = kamailio::Settings {
            users: vec![(user.clone(), password.clone()), (other.clone(), other_password.clone())],
            reach: Reach::Path,
            ..kamailio::Settings::default()
        };
        let kamailio = Kamailio::start(settings, &authority).await?;
        let pages = Pages::serve(&[("/", PHONE), ("/caller", CALLER)]).await?;
        let mut setup = Setup::new(&authority, vec![App::served_by(&apns, &fcm)]);
        setup.environment.push(("SIPWAKE_API__ORIGINS".to_owned(), pages.origin()));
        // JsSIP names its domain alone.
        let dns = Dns::start(vec![
            Record::srv("_sips._tcp.example.test", 0, 0, kamailio.address(Transport::Tls).port(), "host.example.test"),
            Record::address("host.example.test", "127.0.0.1"),
        ]);
        let dns = dns.await?;
        setup.upstream = format!("name_servers = [\"{}\"]\n", dns.address());
        let relay = RelayProcess::start(setup).await?;
        let browser = Browser::start(&relay.certificate_files().1).await?;
        let (phone, caller) = (
            browser.open(&format!("{}/", pages.origin())).await?,
            browser.open(&format!("{}/caller", pages.origin())).await?,
        );
        let world =
            Self { kamailio, fcm, relay, phone, caller, user, _apns: apns, _dns: dns, _pages: pages, _permit: permit };
        world.lend(&password).await?;
        world.register_the_caller(&other, &other_password).await?;
        Ok(world)
    }

    async fn lend(&self, password: &str) -> Result<(), Missed> {
        let fields = json!({
            "api": format!("https://{}", self.relay.api_address()), "key": self.relay.setup().apps[0].api_key,
            "aor": self.kamailio.aor(&self.user), "password": password, "token": FCM_TOKEN,
            "registrar": self.kamailio.uri(Transport::Tls),
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
    async fn register_the_caller(&self, user: &str, password: &str) -> Result<(), Missed> {
        let domain = self.kamailio.domain();
        let edge = format!("wss://{}/", self.relay.websocket_address());
        let settings = json!({
            "edge": edge, "aor": self.kamailio.aor(user), "user": user, "password": password, "realm": domain,
            "contact": format!("sip:bob@b0b.invalid;transport=ws;pn-provider=fcm;pn-param={};pn-prid=bobs-token", fcm::PROJECT),
        });
        self.caller.run(&format!("caller.start({settings})")).await?;
        self.caller.until("caller.state === 'registered'", SOON).await.map_err(|missed| self.told(missed))
    }

    fn told(&self, missed: Missed) -> Missed {
        Missed::new(missed.awaited, format!("{}\n{}\n{}", missed.seen, self.relay.log(), self.kamailio.output()))
    }

    /// Bob calls, the push comes to the page of Alice, and it rings.
    async fn rings(&self) -> Result<(), Missed> {
        self.caller.run(&format!("caller.call({:?})", self.kamailio.aor(&self.user))).await?;
        self.pushed("call").await?;
        self.shows("ringing").await?;
        self.caller.until("caller.heard.includes(180)", SOON).await
    }

    /// The next push comes to the page of Alice.
    async fn pushed(&self, event: &str) -> Result<(), Missed> {
        let push = self.fcm.next_push(SOON).await.ok_or_else(|| self.told(Missed::new("a push", "none")))?.payload;
        assert_eq!(push["event"], event);
        // As its service worker would: FCM carries the object as a text.
        self.phone.run(&format!("phone.onPush({:?})", push.to_string())).await.map(drop)
    }

    async fn answered(&self) -> Result<(), Missed> {
        self.rings().await?;
        self.phone.run("$('answer').click()").await?;
        self.shows("talking").await?;
        self.caller.until("caller.state === 'talking'", SOON).await.map_err(|missed| self.told(missed))?;
        self.both_hear().await
    }

    async fn both_hear(&self) -> Result<(), Missed> {
        self.phone.until(&HEARS.replace("SESSION", "phone.session"), SOON).await?;
        self.caller.until(&HEARS.replace("SESSION", "caller.session"), SOON).await
    }

    /// So many devices are connected; Bob's is one.
    async fn relay_has_flows(&self, count: f64) -> Result<(), Missed> {
        let looking = async {
            while self.relay.metric("sipwake_edge_flows").await != Some(count) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(SOON, looking).await.map_err(|_| Missed::new(format!("{count} flows"), "others"))
    }

    async fn shows(&self, state: &str) -> Result<(), Missed> {
        let script = format!("$('state').textContent === {state:?}");
        self.phone.until(&script, SOON).await.map_err(|missed| self.told(missed))
    }

    async fn hears(&self, state: &str) -> Result<(), Missed> {
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
async fn a_page_that_sleeps_is_pushed_registers_answers_with_sound_both_ways_and_either_side_hangs_up()
-> Result<(), Missed> {
    let world = World::start().await?;
    world.answered().await?;
    world.caller.run("caller.session.terminate()").await?;
    world.shows("ended (remote)").await?;
    // It is there still, and rings with no push.
    world.caller.run(&format!("caller.call({:?})", world.kamailio.aor(&world.user))).await?;
    world.shows("ringing").await?;
    world.phone.run("$('answer').click()").await?;
    world.hears("talking").await?;
    world.both_hear().await?;
    world.phone.run("$('hangup').click()").await?;
    world.hears("ended (remote)").await?;
    assert_eq!(world.fcm.count(), 1, "one push for one call, and none for a device that is there");

    world.phone.run("$('end').click()").await?;
    world.shows("wiped").await?;
    world.kamailio.await_location(&world.user, 0, SOON).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_declines_and_the_caller_hears_so_and_a_caller_who_gives_up_leaves_no_page_ringing() -> Result<(), Missed>
{
    let world = World::start().await?;
    world.rings().await?;
    world.phone.run("$('decline').click()").await?;
    world.hears("failed: Rejected 603").await?;
    world.pushed("call-ended").await?;
    world.phone.run("phone.sleep()").await?;
    world.relay_has_flows(1.0).await?;
    world.rings().await?;
    world.caller.run("caller.session.terminate()").await?;
    world.shows("Canceled").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_loses_its_socket_in_a_call_comes_back_and_either_side_can_hang_up() -> Result<(), Missed> {
    let world = World::start().await?;
    let mut gate = Gate::closed(world.relay.websocket_address());
    gate.open()?;
    world.phone.run(&format!("phone.lease.edge.websocket = 'wss://{}/'", gate.address())).await?;
    for by_caller in [true, false] {
        if by_caller {
            world.answered().await?;
        } else {
            world.caller.run(&format!("caller.call({:?})", world.kamailio.aor(&world.user))).await?;
            world.shows("ringing").await?;
            world.phone.run("$('answer').click()").await?;
            world.shows("talking").await?;
            world.hears("talking").await?;
        }
        gate.close();
        world.phone.until("!phone.ua.isConnected()", SOON).await?;
        if by_caller {
            // It says so while the page is away: what it says waits.
            world.caller.run("caller.session.terminate()").await?;
            gate.open()?;
            world.shows("ended (remote)").await?;
        } else {
            gate.open()?;
            world.phone.until("phone.ua.isRegistered() && phone.ua.isConnected()", SOON).await?;
            world.phone.run("$('hangup').click()").await?;
            world.hears("ended (remote)").await?;
        }
        world.phone.until("phone.ua.isRegistered() && phone.ua.isConnected()", SOON).await?;
    }
    Ok(())
}
