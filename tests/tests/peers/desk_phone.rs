//! Another phone of the account, a baresip that registers at the SIP server itself, beside the relay's Contact.

use tests::baresip::{Account, Baresip};
use tests::board::Missed;
use tests::sipp::Sipp;
use tests::wire::Transport;
use tests::world::real::{RealServer, SOON};

use crate::{Outcome, World};

pub struct DeskPhone(Baresip);

impl DeskPhone {
    pub async fn start(world: &World) -> Result<Self, Missed> {
        let RealServer { user, password, .. } = &world.registrar;
        let proxy = world.registrar.uri(Transport::Udp);
        let account = Account { aor: world.aor(), outbound: false, ..Account::new(&proxy, user, password) };
        let desk = Baresip::start(&account, &world.authority).await?;
        desk.await_registered(SOON).await?;
        world.await_location(2).await?;
        Ok(Self(desk))
    }

    /// It answers its n-th call, which the caller then ends.
    pub async fn takes(&self, world: &World, nth: usize, caller: Sipp) -> Outcome {
        self.0.answer(nth, SOON).await?;
        closed(world, &self.0, caller).await
    }

    /// It unregisters.
    pub async fn leaves(self, world: &World) -> Outcome {
        self.0.command("quit", "").await?;
        world.await_location(1).await.map(drop)
    }
}

/// The call ends on both sides.
pub async fn closed(world: &World, phone: &Baresip, caller: Sipp) -> Outcome {
    world.finished(caller).await?;
    phone.await_event("CALL_CLOSED", SOON).await.map(drop)
}
