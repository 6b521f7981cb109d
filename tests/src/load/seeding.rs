//! Enabling a million accounts in minutes: their records are sealed and put into the store before the relay starts, by the
//! relay's own vault, as an earlier run of the same node would have left them.
//!
//! Invariant: what is written is what the relay writes after an enabling: the HA1 that the registrar has asked for, the group's
//! Contact, the lookup, the index. The SIP server knows the Contacts, as from that earlier run.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use relay::clock::unix_now;
use relay::secret::{Aor, Ha1Text, InstanceSecret, PushToken};
use relay::vault::record::{Account, Device, Ha1s, Presence, Proof, Provider, PushTarget, Record, WakeFor};
use relay::vault::{Fence, Keyring, RecordToWrite, Vault};
use sip::id::InstanceId;
use tokio::task::JoinSet;

use super::accounts::{self, Accounts, Contact, DOMAIN, Enabled};
use super::exchange::Way;
use super::plan::{Hash, Plan};
use super::registrar::REALM;
use crate::board::Missed;
use crate::digest::{Algorithm, token};
use crate::relay_setup::Setup;

/// Writers at once, each with a connection to the store of its own.
const WRITERS: u32 = 4;
/// Records that each writer puts at once.
const AT_ONCE: u32 = 64;
/// How long the records live.
const LIFETIME_S: u64 = 5 * 86_400;

/// The ground on which accounts are seeded: the relay and the SIP server that they belong to.
pub struct Ground<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The relay that will find them.
    pub setup: &'a Setup,
    /// All accounts.
    pub accounts: &'a Accounts,
    /// The registrar's URI in each record.
    pub registrar: String,
    /// How the SIP server reaches the relay; `None`: not before it has registered.
    pub way: Option<Way>,
}

/// Puts the records of a range of accounts into the store; how long it took.
///
/// # Errors
/// When the store does not take one.
pub async fn seed(ground: &Ground<'_>, range: Range<u32>) -> Result<Duration, Missed> {
    let fault = |error: String| Missed::new("a store that is seeded", error);
    let begun = Instant::now();
    let Setup { keyring, store, edge_ip, ports, apps, .. } = ground.setup;
    let keyring = keyring.as_ref().ok_or_else(|| fault("the relay has no keyring that could be shared".into()))?;
    let keyring = Keyring::open(keyring).map_err(|error| fault(error.to_string()))?;
    let node = format!("{edge_ip}:{}", ports.edge);
    let share = (range.end - range.start).div_ceil(WRITERS);
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let from = (range.start + writer * share).min(range.end);
        let own = from..(from + share).min(range.end);
        let vault = Vault::open(store, keyring.clone(), &node).map_err(|error| fault(error.to_string()))?;
        let like = Arc::new(Likeness {
            app: apps.first().map(|app| app.id.as_str()).unwrap_or_default().into(),
            registrar: ground.registrar.clone(),
            hash: ground.plan.digest,
            push: ground.plan.push,
            udp: ports.udp,
            way: ground.way.clone(),
        });
        writers.spawn(write(vault, ground.accounts.clone(), own, like));
    }
    while let Some(writer) = writers.join_next().await {
        writer.map_err(|error| fault(error.to_string()))?.map_err(fault)?;
    }
    Ok(begun.elapsed())
}

/// The common part of all records.
struct Likeness {
    app: Box<str>,
    registrar: String,
    hash: Hash,
    push: super::plan::PushSide,
    udp: u16,
    way: Option<Way>,
}

async fn write(vault: Vault, accounts: Accounts, range: Range<u32>, like: Arc<Likeness>) -> Result<(), String> {
    for begin in range.clone().step_by(AT_ONCE as usize) {
        let mut under_way = JoinSet::new();
        for number in begin..(begin + AT_ONCE).min(range.end) {
            let (vault, accounts, like) = (vault.clone(), accounts.clone(), like.clone());
            under_way.spawn(async move { like.put(&vault, &accounts, number).await });
        }
        while let Some(put) = under_way.join_next().await {
            put.map_err(|error| error.to_string())??;
        }
    }
    Ok(())
}

impl Likeness {
    async fn put(&self, vault: &Vault, accounts: &Accounts, number: u32) -> Result<(), String> {
        let (secret, record) = self.record(vault, number);
        let mut random = [0; 16];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| "the system has no randomness")?;
        let id = InstanceId::new(u128::from_be_bytes(random), record.binding.tag());
        let (lookup, sealed) = (vault.lookup_of(&record), vault.seal(id, &record));
        let put = vault
            .put(RecordToWrite {
                id,
                sealed: &sealed,
                expires_at: record.expires_at,
                lookup: &lookup,
                fence: Fence::NEW,
            })
            .await;
        put.map_err(|error| error.to_string())?;
        let account = &accounts[number as usize];
        if let Some(way) = &self.way {
            let uri = format!("sip:{}@127.0.0.1:{}", record.binding, self.udp);
            account.register(Some(Contact { uri, way: way.clone() }));
        }
        let _ = account.enabled.set(Enabled { id: id.to_string().into(), secret: secret.into() });
        Ok(())
    }

    fn record(&self, vault: &Vault, number: u32) -> (String, Record) {
        let (user, now) = (accounts::user(number), unix_now());
        let algorithm = match self.hash {
            Hash::Md5 => Algorithm::Md5,
            Hash::Sha256 => Algorithm::Sha256,
        };
        let ha1 = Some(Ha1Text::new(&algorithm.ha1(&user, REALM, &accounts::password(number))));
        let (md5, sha256) = match self.hash {
            Hash::Md5 => (ha1, None),
            Hash::Sha256 => (None, ha1),
        };
        let (provider, push) = if self.push.is_fcm(number) {
            (Provider::Fcm, accounts::fcm_token(number))
        } else {
            (Provider::ApnsProduction, accounts::apns_token(number))
        };
        let account = Account {
            aor: Aor::new(&format!("sip:{user}@{DOMAIN}")),
            auth_username: user.into(),
            proof: Proof::Derived(vec![Ha1s { realm: REALM.into(), md5, sha256, sha512_256: None }]),
            registrar: Some(self.registrar.as_str().into()),
            outbound_proxy: None,
        };
        let group = vault.group(&self.app, &account);
        let secret = format!("{}{}", token(), token());
        let call_push = PushTarget::new(provider, PushToken::new(&push), now * 1_000);
        let record = Record {
            app: self.app.clone(),
            account,
            device: Device { call_push, alert_push: None, label: Some("Load test phone".into()) },
            wake_for: WakeFor { call: true, message: false, voicemail: false, missed_call: false },
            secret: InstanceSecret::new(&secret),
            binding: group.binding(),
            sip_instance: vault.sip_instance(group),
            proven: true,
            created_at: now,
            expires_at: now + LIFETIME_S,
            presence: Presence::Background,
            reminded: None,
            told_failing: false,
        };
        (secret, record)
    }
}
