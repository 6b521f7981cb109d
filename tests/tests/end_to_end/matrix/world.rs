//! One combination of the matrix: a scene, an account whose device wakes, and one whose device never does.
//!
//! Invariant: what is played on it knows nothing of the combination.

use std::fmt;

use serde_json::{Value, json};
use tests::api_client::Instance;
use tests::board::Missed;
use tests::caller::{CallOptions, Caller};
use tests::phone::{self, IncomingCall, Phone};
use tests::push_phone::{PushPhone, Service};
use tests::scene::{OTHER_TOKEN, SOON, Scene, TOKEN};
use tests::wire::Transport;

use super::Outcome;

/// How long a call waits for its device. Each other call takes far less, even on a busy machine.
pub const RING_TIMEOUT: &str = "15s";
/// The account whose device never comes.
const NOBODY: (&str, &str) = ("dora", "explorer");

/// How an account is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The relay holds the credentials and registers.
    Credentials,
    /// The device registers through the relay, which holds none (RFC 8599).
    PushProxy,
}

/// One combination.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// Between the SIP server and the relay.
    pub upstream: Transport,
    /// Between the relay and the device.
    pub device: Transport,
    /// How the account is served.
    pub mode: Mode,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}, {:?}", self.upstream.via(), self.device.via(), self.mode)
    }
}

/// A scene in which Alice's device sleeps.
pub struct World {
    pub cell: Cell,
    pub scene: Scene,
    alice: Alice,
}

/// Alice's device while it sleeps.
enum Alice {
    /// It has lent the account.
    Lent(Instance),
    /// It registers by itself.
    Own(Box<PushPhone>),
}

impl World {
    /// Starts everything; both accounts are registered, both devices asleep.
    pub async fn start(cell: Cell) -> Result<Self, Missed> {
        let mut scene = Scene::among(&[NOBODY], |setup| {
            setup.ring_timeout = RING_TIMEOUT.to_owned();
            setup.transports = vec![Transport::Tls, cell.upstream];
        })
        .await?;
        (scene.transport, scene.edge) = (cell.upstream, cell.device);
        let alice = match cell.mode {
            Mode::Credentials => {
                lend_nobodys(&scene).await?;
                Alice::Lent(scene.enable().await?)
            }
            Mode::PushProxy => {
                let phone = scene.push_phone(&Service::ApnsVoip(TOKEN.to_owned()));
                let mut nobodys = phone.clone().woken_by(&Service::ApnsVoip(OTHER_TOKEN.to_owned())).another_device();
                let (user, password) = NOBODY;
                nobodys.settings.aor = scene.registrar.aor(user);
                (nobodys.settings.username, nobodys.settings.password) = (user.to_owned(), password.to_owned());
                nobodys.register_and_sleep(SOON).await?;
                phone.register_and_sleep(SOON).await?;
                Alice::Own(Box::new(phone))
            }
        };
        scene.await_metric("sipwake_edge_flows", 0.0).await?;
        Ok(Self { cell, scene, alice })
    }

    /// Bob calls Alice, whose device is not asked for here.
    pub fn call(&self) -> Result<Caller, Missed> {
        self.scene.call()
    }

    /// Bob calls the account whose device never comes.
    pub fn call_nobody(&self) -> Result<Caller, Missed> {
        let aor = self.scene.registrar.aor(NOBODY.0);
        self.scene.registrar.call(&aor, &CallOptions::default())
    }

    /// The next push; it is for a call of Bob's.
    pub async fn pushed(&self) -> Result<Value, Missed> {
        let push = self.scene.push().await?;
        assert_eq!((push["event"].as_str(), push["from"].as_str()), (Some("call"), Some("sip:bob@example.test")));
        Ok(push)
    }

    /// Pushes that were sent so far, of both accounts.
    pub fn pushes(&self) -> u64 {
        self.scene.apns.requests()
    }

    /// Alice's device wakes: it has a connection and is registered.
    pub async fn wake(&self) -> Result<Phone, Missed> {
        match &self.alice {
            Alice::Lent(instance) => self.scene.wake(instance).await,
            Alice::Own(phone) => phone.wake(SOON).await.map(|(phone, _)| phone),
        }
    }

    /// The other door of devices.
    pub fn other_edge(&self) -> Transport {
        if self.cell.device == Transport::Wss { Transport::Tls } else { Transport::Wss }
    }

    /// Alice's device wakes, and comes by this door.
    pub async fn wake_over(&self, edge: Transport) -> Result<Phone, Missed> {
        let scene = &self.scene;
        match &self.alice {
            Alice::Lent(it) => {
                let server = it.edge_over(edge);
                let settings = phone::Settings::new(&server, &it.id, &it.secret, Some(&scene.authority));
                Phone::registered(settings, SOON).await
            }
            Alice::Own(phone) => {
                let mut phone = phone.clone();
                phone.settings.server = match edge {
                    Transport::Wss => format!("sip:{};transport=ws", scene.relay.websocket_address()),
                    _ => scene.relay.edge_uri(),
                };
                phone.wake(SOON).await.map(|(phone, _)| phone)
            }
        }
    }

    /// Another device of Alice, an Android phone, lends the account, too; `None`: nothing is lent here.
    pub async fn lend_by_another_device(&self) -> Result<Option<Instance>, Missed> {
        match &self.alice {
            Alice::Lent(_) => self.scene.enable_android().await.map(Some),
            Alice::Own(_) => Ok(None),
        }
    }

    /// Alice's device falls asleep, and the relay knows.
    pub async fn sleep(&self, phone: Phone) -> Outcome {
        self.scene.content_with(&[], &[&phone])?;
        phone.drop_connection();
        self.scene.await_metric("sipwake_edge_flows", 0.0).await
    }

    /// A device that comes now is let in, and is not rung.
    pub async fn wakes_in_vain(&self) -> Outcome {
        let phone = self.wake().await?;
        // The pong comes after whatever followed the registration.
        phone.ping(SOON).await?;
        assert_eq!(phone.invited(), 0, "a call that has ended rings");
        self.sleep(phone).await
    }

    /// The relay tells Alice's device that a call stands so; it has no secret to ask with where it lent nothing.
    pub async fn told(&self, push: &Value, state: &str) -> Outcome {
        match &self.alice {
            Alice::Lent(instance) => self.scene.await_state(instance, push, state).await,
            Alice::Own(_) => Ok(()),
        }
    }

    /// A call wakes Alice's device; it has the INVITE and has answered nothing.
    pub async fn rung(&self) -> Result<(Caller, Value, Phone, IncomingCall), Missed> {
        let caller = self.call()?;
        let push = self.pushed().await?;
        let phone = self.wake().await?;
        let call = phone.next_invite(SOON).await?;
        Ok((caller, push, phone, call))
    }

    /// The same, answered.
    pub async fn talking(&self) -> Result<(Caller, Value, Phone, IncomingCall), Missed> {
        let (caller, push, phone, call) = self.rung().await?;
        self.scene.answer(&caller, &call).await?;
        Ok((caller, push, phone, call))
    }
}

/// Push is enabled for the account whose device never comes.
async fn lend_nobodys(scene: &Scene) -> Outcome {
    let mut wish = scene.wish(OTHER_TOKEN);
    let (user, password) = NOBODY;
    wish["account"]["aor"] = json!(scene.registrar.aor(user));
    wish["account"]["auth_username"] = json!(user);
    wish["account"]["password"] = json!(password);
    scene.enable_as(&wish).await.map(drop)
}
