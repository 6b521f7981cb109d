//! What a binding, and the connection of a device that does nothing, cost of the relay's heap, counted: a relay runs in this process,
//! with accounts that are enabled by its API.
//!
//! The difference of few and of many is that of these alone. `SIPWAKE_TEST_SITES=1` tells it by the functions that have asked for it.

mod counting;
mod registrar;
mod sites;

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use relay::config::Config;
use relay::serve::{Relay, Running};
use relay::timing::{SHARDS_VARIABLE, Timing};
use serde_json::json;
use tests::api_client::Instance;
use tests::apns::{self, Apns};
use tests::authority::Authority;
use tests::raw::Raw;
use tests::relay_setup::{App, Setup};
use tests::scratch::Scratch;
use tests::wire::Transport;

use counting::Counting;

#[global_allocator]
static HEAP: Counting = Counting;

/// Bytes of a binding, its copy in a store in memory included; and bytes of an idle connection and its device, those of the client, of
/// the kernel and of aws-lc not included. Who makes one dearer for a reason writes the new figure here, and the reason into the commit.
///
/// Of transactions there are a few at once ([`LINGER`]): their table, which keeps room for 896 of the busiest moment, would be 387 bytes of a binding.
const BINDING: i64 = 1_465;
const DEVICE: i64 = 11_375;
/// The most that one may take beyond that, in hundredths: a binding, and a device. Another machine, with other tables and threads, counts a few hundredths more.
const BOUND: (i64, i64) = (5, 5);

/// Accounts of the two counts. The second fills tables of hashes as 100,000 accounts on one shard would: to 76 %.
const ACCOUNTS: (u32, u32) = (40, 782);
/// Devices of the two counts.
const DEVICES: (u32, u32) = (4, 36);
/// How long nothing is given back when all has been (longer than `relay::net::https::QUIET`, after which connections end); and how long that may take.
const STILL: Duration = Duration::from_secs(2);
const SETTLED_WITHIN: Duration = Duration::from_secs(20);
/// How long a transaction lingers that is over (timer K).
const LINGER: Duration = Duration::from_millis(20);
/// Says that so many are to be counted.
const VARIABLE: &str = "SIPWAKE_TEST_COUNTED";
/// Has the bytes told by the functions that have asked for them.
const SITES: &str = "SIPWAKE_TEST_SITES";

#[test]
fn a_binding_takes_no_more_bytes_than_before() {
    let bytes = counted("accounts_are_kept", ACCOUNTS.1);
    // What tells the sites takes many times as much.
    let is_told = std::env::var_os(SITES).is_some();
    assert!(is_told || bytes <= BINDING + BINDING * BOUND.0 / 100, "a binding takes {bytes} bytes, {BINDING} before");
}

#[test]
fn an_idle_device_takes_no_more_bytes_than_before() {
    let bytes = counted("devices_are_attached", DEVICES.1);
    assert!(bytes <= DEVICE + DEVICE * BOUND.1 / 100, "an idle device takes {bytes} bytes, {DEVICE} before");
}

/// What this program counts when it runs another time, with one test alone and on one shard, whatever machine this is.
fn counted(test: &str, many: u32) -> i64 {
    let mut child = Command::new(std::env::current_exe().expect("this program has a path"));
    child.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    let output = child.env(VARIABLE, many.to_string()).env(SHARDS_VARIABLE, "1").output();
    let output = output.expect("this program runs again");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    println!("{said}");
    let bytes = said.lines().find_map(|line| line.split_once("bytes each: ")?.1.parse().ok());
    bytes.unwrap_or_else(|| panic!("no figure in {said}"))
}

/// How many are to be counted; `None`: it is only to be seen that they come to be.
fn wanted() -> Option<u32> {
    std::env::var(VARIABLE).ok()?.parse().ok()
}

#[tokio::test]
async fn accounts_are_kept() {
    let many = wanted().unwrap_or(ACCOUNTS.0 + 1);
    let stage = Stage::set().await;
    stage.enable(0..ACCOUNTS.0).await;
    let few = settled().await;
    if wanted().and(std::env::var_os(SITES)).is_some() {
        sites::begin();
    }
    stage.enable(ACCOUNTS.0..many).await;
    let held = settled().await;
    let number = many - ACCOUNTS.0;
    tell(&sites::take(), number);
    println!("bytes each: {}", (held - few) / i64::from(number));
}

/// What the program holds once no more is given back: the connections that an enabling came by are closed after its answer.
async fn settled() -> i64 {
    let began = Instant::now();
    let (mut least, mut since) = (Counting::held(), began);
    while since.elapsed() < STILL && began.elapsed() < SETTLED_WITHIN {
        tokio::time::sleep(STILL / 10).await;
        let held = Counting::held();
        if held < least {
            (least, since) = (held, Instant::now());
        }
    }
    assert!(since.elapsed() >= STILL, "memory was still given back after {SETTLED_WITHIN:?}");
    Counting::held()
}

/// Devices that are connected by TLS and attached, and do nothing.
#[tokio::test]
async fn devices_are_attached() {
    let many = wanted().unwrap_or(DEVICES.0 + 1);
    let stage = Stage::set().await;
    let enabled = stage.enable(0..many).await;
    let (first, others) = enabled.split_at(DEVICES.0 as usize);
    let mut devices = Vec::new();
    for instance in first {
        devices.push(stage.attach(instance).await);
    }
    if wanted().is_some() {
        sites::begin();
    }
    for instance in others {
        devices.push(stage.attach(instance).await);
    }
    // The client's side of each connection is in this process, too.
    let sites: Vec<_> = sites::take().into_iter().filter(|(site, ..)| site != sites::ELSEWHERE).collect();
    let number = many - DEVICES.0;
    tell(&sites, number);
    println!("bytes each: {}", sites.iter().map(|(_, _, bytes)| bytes).sum::<usize>() / number as usize);
}

fn tell(sites: &[(String, usize, usize)], number: u32) {
    for (site, blocks, bytes) in sites {
        println!("{:>8} bytes each in {blocks:>5} blocks of {site}", bytes / number as usize);
    }
}

struct Stage {
    setup: Setup,
    registrar: SocketAddr,
    _running: Running,
    _apns: Apns,
    _scratch: Scratch,
}

impl Stage {
    async fn set() -> Self {
        let (authority, scratch) = (Authority::new(), Scratch::new());
        let apns = Apns::start(&authority).await;
        let mut app = App::new(apns::BUNDLE);
        app.apns = Some((&apns).into());
        let mut setup = Setup::new(&authority, vec![app]);
        setup.transports = vec![Transport::Udp];
        setup.register_expires = "3600s".into();
        let mut config = Config::load(&setup.write(&scratch)).expect("a configuration");
        config.timing = Timing::scaled(0.1);
        // How many transactions there are at once depends on how long each lingers and on how fast this machine is: few.
        config.timing.sip.transaction.t4 = LINGER;
        let running = Relay::start(config).await.expect("a relay");
        Self { registrar: registrar::start().await, setup, _running: running, _apns: apns, _scratch: scratch }
    }

    async fn attach(&self, Instance { id, secret, .. }: &Instance) -> Raw {
        let edge = SocketAddr::from(([127, 0, 0, 1], self.setup.ports.edge));
        let mut device = Raw::tls([127, 0, 0, 1].into(), edge, &self.setup.authority, &[]).await.expect("TLS");
        let register = format!(
            "REGISTER sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1:9;branch=z9hG4bK{id}\r\n\
             From: <sip:{id}@127.0.0.1>;tag=a\r\nTo: <sip:{id}@127.0.0.1>\r\nCall-ID: {id}\r\nCSeq: 1 REGISTER\r\n\
             Max-Forwards: 70\r\nContact: <sip:{id}@127.0.0.1:9;transport=tls>\r\nExpires: 3600\r\n\
             Authorization: Bearer {secret}\r\nContent-Length: 0\r\n\r\n"
        );
        assert!(device.send(register).await);
        assert!(device.await_text("SIP/2.0 200", Duration::from_secs(20)).await, "{}", device.seen());
        device
    }

    async fn enable(&self, numbers: std::ops::Range<u32>) -> Vec<Instance> {
        let api = self.setup.api();
        let mut instances = Vec::new();
        for number in numbers {
            let account = json!({
                "aor": format!("sip:user{number}@example.test"), "password": "correct horse battery",
                "registrar": format!("sip:{};transport=udp", self.registrar),
            });
            let token = format!("{number:064x}");
            let device = json!({"call_push": {"provider": "apns", "token": token}});
            let enabled = api.enabled(&json!({"account": account, "device": device})).await.expect("an instance");
            assert_eq!(enabled.answer["registration"]["state"], "registered");
            instances.push(enabled);
        }
        instances
    }
}
