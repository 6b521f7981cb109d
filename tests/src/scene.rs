//! The earlier names of the [`World`], for tests that have not moved to it yet.

use crate::api_client::Instance;
use crate::board::Missed;
use crate::caller::Caller;
use crate::phone::Phone;
use crate::world::Outcome;
pub use crate::world::{FCM_TOKEN, OTHER_TOKEN, Ringing, SOON, TOKEN, World, World as Scene, text};

impl World {
    /// [`World::lent`].
    ///
    /// # Errors
    /// As there.
    pub async fn enabled() -> Result<(Self, Instance), Missed> {
        Self::lent().await
    }

    /// [`World::content`].
    ///
    /// # Errors
    /// As there.
    pub fn content_with(&self, callers: &[&Caller], phones: &[&Phone]) -> Outcome {
        callers.iter().for_each(|caller| self.watch_caller(caller));
        phones.iter().for_each(|phone| self.watch_phone(phone));
        self.content()
    }
}
