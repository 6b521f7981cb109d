//! A store that an earlier run has left behind, without the minutes that it takes to enable all of it.

use relay::clock::unix_now;
use relay::secret::{Aor, InstanceSecret, Password, PushToken};
use relay::vault::record::{Account, Device, Presence, Proof, Provider, PushTarget, Record, WakeFor};
use relay::vault::{Fence, Keyring, RecordToWrite, Vault};
use serde_json::json;
use sip::id::InstanceId;
use tests::api_client::Instance;
use tests::board::Missed;
use tests::relay_setup::Setup;
use tests::world::World;
use tokio::task::JoinSet;

/// The secret of each.
const SECRET: &str = "the-same-secret-for-all-of-what-is-seeded-0";
/// The password of each, which the SIP server knows.
const PASSWORD: &str = "a password of theirs";

/// Puts the records of so many further instances into the store, as an earlier run of the world's relay has left them: their apps are in the
/// foreground, so nobody registers them.
pub async fn seed(world: &World, store: &str, count: u128) -> Result<Vec<Instance>, Missed> {
    let Setup { keyring, edge_ip, ports, apps, .. } = world.relay.setup();
    let keyring = Keyring::open(keyring.as_ref().expect("a keyring")).expect("opened");
    let vault = Vault::open(store, keyring, &format!("{edge_ip}:{}", ports.edge)).expect("a store");
    let (app, now) = (apps[0].id.clone(), unix_now());
    // A name in its place would be asked of DNS, which no test has to have.
    let registrar: Box<str> = world.registrar.uri(world.transport).into();
    let (mut under_way, mut seeded) = (JoinSet::new(), Vec::new());
    for number in 0..count {
        world.registrar.change_password(&format!("s{number}"), PASSWORD);
        let (vault, app, registrar) = (vault.clone(), app.clone(), registrar.clone());
        let aor = world.registrar.aor(&format!("s{number}"));
        under_way.spawn(async move {
            let account = Account {
                aor: Aor::new(&aor),
                auth_username: format!("s{number}").into(),
                proof: Proof::Password(Password::new(PASSWORD)),
                registrar: Some(registrar),
                outbound_proxy: None,
            };
            let group = vault.group(&app, &account);
            let call_push = PushTarget::new(Provider::ApnsProduction, PushToken::new(&format!("{number:064x}")), 0);
            let record = Record {
                app: app.into(),
                account,
                device: Device { call_push, alert_push: None, label: None },
                wake_for: WakeFor { call: true, message: false, voicemail: false, missed_call: false },
                secret: InstanceSecret::new(SECRET),
                binding: group.binding(),
                sip_instance: vault.sip_instance(group),
                proven: true,
                created_at: now,
                expires_at: now + 86_400 * 4,
                presence: Presence::Foreground,
                reminded: None,
                told_failing: false,
            };
            let id = InstanceId::new(number << 16, group.tag());
            let (sealed, lookup) = (vault.seal(id, &record), vault.lookup_of(&record));
            vault
                .put(RecordToWrite {
                    id,
                    sealed: &sealed,
                    expires_at: record.expires_at,
                    lookup: &lookup,
                    fence: Fence::NEW,
                })
                .await
                .map(|_| id)
        });
        if number % 64 == 63 || number + 1 == count {
            while let Some(put) = under_way.join_next().await {
                let id = put.expect("no panic").expect("put");
                let answer = json!({"instance": id.to_string(), "secret": SECRET});
                seeded.push(Instance::new(&json!({}), answer));
            }
        }
    }
    Ok(seeded)
}
