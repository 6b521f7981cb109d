//! A relay in the process of its test, or of the demo.

use relay::config::Config;
use relay::serve::{Relay, Running};
use relay::timing::Timing;

use super::{Node, World, stand_in};
use crate::board::Missed;
use crate::registrar::Registrar;
use crate::relay_setup::Setup;
use crate::scratch::Scratch;

/// A relay that runs here.
pub struct InProcess {
    running: Running,
    setup: Setup,
    _scratch: Scratch,
}

impl World<Registrar, InProcess> {
    /// With the default settings.
    ///
    /// # Errors
    /// [`Missed`] when something does not start.
    pub async fn in_process() -> Result<Self, Missed> {
        Self::around(async |authority, _| stand_in(authority, |_| {}).await).await
    }

    /// The relay drains and stops.
    pub async fn shutdown(self) {
        self.relay.running.shutdown().await;
    }
}

impl Node for InProcess {
    async fn start(setup: Setup) -> Result<Self, Missed> {
        let scratch = Scratch::new();
        let mut config =
            Config::load(&setup.write(&scratch)).map_err(|it| Missed::new("a configuration", it.to_string()))?;
        config.timing = Timing::scaled(setup.timing);
        let running = Relay::start(config).await.map_err(|error| Missed::new("a relay", error.to_string()))?;
        Ok(Self { running, setup, _scratch: scratch })
    }

    fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The relay logs where this process logs.
    fn log(&self) -> String {
        String::new()
    }
}
