//! Both push services as stand-ins, and the relay's own sender that leads to them: for tests of delivery without a relay.

use std::sync::Arc;

use relay::config::Transports;
use relay::metrics::Metrics;
use relay::net::address_policy::Reach;
use relay::net::dns::resolve::Resolver;
use relay::push::{AppPush, Network, PushService, System};

use crate::apns::{Apns, BUNDLE};
use crate::authority::Authority;
use crate::fcm::Fcm;

/// The network of this machine, as a relay without settings for names has it.
///
/// # Panics
/// When no resolver can be built.
pub fn system() -> Arc<dyn Network> {
    let names = Resolver::new(Reach::new(&[]), Transports { udp: false, tcp: false, tls: true });
    Arc::new(System::new(names.expect("a resolver")))
}

/// The stand-ins and the sender.
pub struct PushServices {
    /// Apple's.
    pub apns: Apns,
    /// Google's.
    pub fcm: Fcm,
    /// The relay's sender, for the App [`BUNDLE`].
    pub service: PushService,
    _authority: Authority,
}

impl PushServices {
    /// Starts both.
    ///
    /// # Panics
    /// When the relay does not take the settings that lead to them.
    pub async fn start() -> Self {
        let authority = Authority::new();
        let (apns, fcm) = (Apns::start(&authority).await, Fcm::start(&authority).await);
        let app = AppPush { apns: Some(apns.settings()), fcm: Some(fcm.settings()), ..AppPush::default() };
        let service =
            PushService::new(system(), vec![(BUNDLE.into(), app)], &Metrics::new()).expect("the settings are good");
        Self { apns, fcm, service, _authority: authority }
    }

    /// The objections of the services.
    pub fn violations(&self) -> Vec<String> {
        [self.apns.violations(), self.fcm.violations()].concat()
    }
}
