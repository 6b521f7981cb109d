//! A relay under attack, and a bystander: a user whose calls must ring on.
//!
//! Invariant: the relay logs at trace level, and every secret that the world hands out is known to it, so that
//! [`World::unharmed`] can say that none was logged.

use super::{Outcome, World};
use crate::api_client::Instance;
use crate::board::Missed;
use crate::digest::token;
use crate::registrar;
use crate::relay_setup::Setup;
use crate::wire::Transport;

/// How much the relay's resident memory may grow under an attack, unless the test says otherwise: 96 MiB.
pub const GROWTH: u64 = 96 << 20;
/// The user who is left alone.
const BYSTANDER: &str = "alice";
/// The users that the SIP server knows.
const USERS: [&str; 4] = [BYSTANDER, "mallory", "trent", "peggy"];

/// The state of a relay before an attack.
pub(super) struct Attacked {
    bystander: Option<Instance>,
    /// Its resident memory in bytes.
    began_with: u64,
}

impl World {
    /// A relay with every transport toward SIP servers, and the account of a bystander lent to it.
    ///
    /// # Errors
    /// [`Missed`] when something does not start, or the bystander's phone does not ring.
    pub async fn attacked() -> Result<Self, Missed> {
        Self::attacked_with(|_| {}).await
    }

    /// The same with another configuration.
    ///
    /// # Errors
    /// As [`Self::attacked`].
    pub async fn attacked_with(change: impl FnOnce(&mut Setup)) -> Result<Self, Missed> {
        let mut world = Self::attacked_alone(change).await?;
        let bystander = world.lend(BYSTANDER).await?;
        world.rings_on(&bystander).await?;
        // The first call and the first push have taken what they take once.
        world.attacked = Some(Attacked { began_with: world.relay.resident()?, bystander: Some(bystander) });
        Ok(world)
    }

    /// A relay that nobody has lent an account to.
    ///
    /// # Errors
    /// [`Missed`] when something does not start.
    pub async fn attacked_alone(change: impl FnOnce(&mut Setup)) -> Result<Self, Missed> {
        let server = |settings: &mut registrar::Settings| {
            settings.users = USERS.map(|user| (user.to_owned(), format!("password-{}", token()))).into();
            settings.contacts = usize::MAX;
        };
        let traced = |setup: &mut Setup| {
            setup.transports = vec![Transport::Tls, Transport::Tcp, Transport::Udp];
            setup.log = "trace".to_owned();
            // Beside its other files, where a test looks for what it has written.
            setup.keyring = None;
            change(setup);
        };
        let mut world = Self::between(server, traced).await?;
        world.secrets.keep("a caller", "bob@example.test");
        world.attacked = Some(Attacked { began_with: world.relay.resident()?, bystander: None });
        Ok(world)
    }

    /// The device that nobody may disturb.
    ///
    /// # Panics
    /// When there is none.
    pub fn bystander(&self) -> &Instance {
        let bystander = self.attacked.as_ref().and_then(|attacked| attacked.bystander.as_ref());
        bystander.expect("the world has a bystander")
    }

    /// After an attack: the process is well, the bystander's phone rings, memory has grown by less than [`GROWTH`], and
    /// the log at trace level tells no secret.
    ///
    /// # Errors
    /// [`Missed`] when the bystander's phone does not ring.
    ///
    /// # Panics
    /// When anything else is not so.
    pub async fn unharmed(&self) -> Outcome {
        self.unharmed_within(GROWTH).await
    }

    /// The same, with another bound on what memory may have grown by, in bytes.
    ///
    /// # Errors
    /// As [`Self::unharmed`].
    ///
    /// # Panics
    /// As [`Self::unharmed`].
    pub async fn unharmed_within(&self, growth: u64) -> Outcome {
        assert!(self.relay.is_running(), "{}", self.relay.log());
        assert_eq!(self.relay.operator().get("/healthz").await?.status, 200);
        let attacked = self.attacked.as_ref().expect("the world was made for attacks");
        if let Some(bystander) = &attacked.bystander {
            self.rings_on(bystander).await?;
        }
        let resident = self.relay.resident()?;
        let grown = resident.saturating_sub(attacked.began_with);
        assert!(grown < growth, "memory grew by {} KiB, to {} KiB", grown >> 10, resident >> 10);
        self.secrets.assert_none_in("the log at trace level", &self.relay.log());
        assert!(!self.relay.log().contains("panicked"), "{}", self.relay.log());
        Ok(())
    }
}
