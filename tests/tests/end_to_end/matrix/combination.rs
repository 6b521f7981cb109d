//! One combination of the matrix: a world, an account whose device wakes, and one whose device never does.
//!
//! Invariant: what is played on it knows nothing of the combination.

use std::fmt;

use serde_json::{Value, json};
use tests::api_client::Instance;
use tests::board::Missed;
use tests::caller::{CallOptions, Caller};
use tests::phone::{self, Phone};
use tests::push_phone::{PushPhone, Service};
use tests::wire::Transport;
use tests::world::{Device, Node, OTHER_TOKEN, Outcome, Ringing, SOON, SipServer, TOKEN, World, apple};

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

/// A combination in which Alice's device sleeps.
pub struct Combination {
    pub cell: Cell,
    pub world: World,
    pub alice: Alice,
}

/// Alice's device while it sleeps.
pub enum Alice {
    /// It has lent the account.
    Lent(Instance),
    /// It registers by itself.
    Own(Box<PushPhone>),
}

impl Combination {
    /// Starts everything; both accounts are registered, both devices asleep.
    pub async fn start(cell: Cell) -> Result<Self, Missed> {
        let mut world = World::among(&[NOBODY], |setup| {
            setup.ring_timeout = RING_TIMEOUT.to_owned();
            setup.transports = vec![Transport::Tls, cell.upstream];
        })
        .await?;
        (world.transport, world.edge) = (cell.upstream, cell.device);
        let alice = match cell.mode {
            Mode::Credentials => {
                world.enable_as(&world.enable_request_of(NOBODY.0, json!({"call_push": apple(OTHER_TOKEN)}))).await?;
                Alice::Lent(world.enable().await?)
            }
            Mode::PushProxy => {
                let phone = world.push_phone(&Service::ApnsVoip(TOKEN.to_owned()));
                let nobodys = world.push_phone_of(NOBODY.0, &Service::ApnsVoip(OTHER_TOKEN.to_owned()));
                nobodys.register_and_sleep(SOON).await?;
                phone.register_and_sleep(SOON).await?;
                Alice::Own(Box::new(phone))
            }
        };
        world.await_all_asleep().await?;
        Ok(Self { cell, world, alice })
    }

    /// Bob calls the account whose device never comes.
    pub fn call_nobody(&self) -> Result<Caller, Missed> {
        self.world.call_to(&self.world.registrar.aor(NOBODY.0), &CallOptions::default())
    }

    /// The next push; it is for a call of Bob's.
    pub async fn pushed(&self) -> Result<Value, Missed> {
        let push = self.world.push().await?;
        assert_eq!((push["event"].as_str(), push["from"].as_str()), (Some("call"), Some("sip:bob@example.test")));
        Ok(push)
    }

    /// Pushes that were sent so far, of both accounts.
    pub fn pushes(&self) -> u64 {
        self.world.apns.requests()
    }

    /// The other door of devices.
    pub fn other_edge(&self) -> Transport {
        if self.cell.device == Transport::Wss { Transport::Tls } else { Transport::Wss }
    }

    /// Alice's device wakes, and comes by this door.
    pub async fn wake_over(&self, edge: Transport) -> Result<Phone, Missed> {
        let phone = match &self.alice {
            Alice::Lent(it) => {
                let settings = phone::Settings { server: it.edge_over(edge), ..self.world.device(it) };
                Phone::registered(settings, SOON).await?
            }
            Alice::Own(phone) => {
                let mut phone = phone.clone();
                phone.settings.server = match edge {
                    Transport::Wss => format!("sip:{};transport=ws", self.world.relay.websocket_address()),
                    _ => self.world.relay.edge_uri(),
                };
                phone.wake(SOON).await?.0
            }
        };
        self.world.watch_phone(&phone);
        Ok(phone)
    }

    /// Another device of Alice, an Android phone, lends the account, too; `None`: nothing is lent here.
    pub async fn lend_by_another_device(&self) -> Result<Option<Instance>, Missed> {
        match &self.alice {
            Alice::Lent(_) => self.world.enable_android().await.map(Some),
            Alice::Own(_) => Ok(None),
        }
    }

    /// Nobody has an objection; Alice's device falls asleep, and the relay knows.
    pub async fn sleep(&self, phone: Phone) -> Outcome {
        self.world.content()?;
        phone.drop_connection();
        self.world.await_all_asleep().await
    }

    /// The relay tells Alice's device that a call is in this state; it has no secret to ask with where it lent nothing.
    pub async fn told(&self, push: &Value, state: &str) -> Outcome {
        match &self.alice {
            Alice::Lent(instance) => self.world.await_state(instance, push, state).await,
            Alice::Own(_) => Ok(()),
        }
    }

    /// A call of Bob's wakes Alice's device; it has the INVITE and has answered nothing.
    pub async fn rings(&self) -> Result<Ringing, Missed> {
        let caller = self.world.call()?;
        let push = self.pushed().await?;
        let (phone, call) = self.world.wake_to_call(&self.alice).await?;
        Ok(Ringing { caller, push, phone, call })
    }

    /// The same, answered.
    pub async fn answered(&self) -> Result<Ringing, Missed> {
        let ringing = self.rings().await?;
        self.world.answer(&ringing.caller, &ringing.call).await?;
        Ok(ringing)
    }
}

impl Device for Alice {
    fn aor(&self) -> &str {
        match self {
            Self::Lent(instance) => instance.aor(),
            Self::Own(phone) => phone.aor(),
        }
    }

    fn call_token(&self) -> &str {
        TOKEN
    }

    fn has_fcm(&self) -> bool {
        false
    }

    async fn register<S: SipServer + Sync, N: Node + Sync>(&self, world: &World<S, N>) -> Result<Phone, Missed> {
        match self {
            Self::Lent(instance) => instance.register(world).await,
            Self::Own(phone) => phone.register(world).await,
        }
    }
}
