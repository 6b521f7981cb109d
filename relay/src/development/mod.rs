//! Parts that make a relay without a configuration one that can be tried at once: a folder for values that shall be the same the next time,
//! and a SIP server with two accounts.
//!
//! Invariant: a relay that has a configuration uses nothing of this. Everything here is on loopback.

pub mod folder;
mod hop;
mod location;
mod proxy;
pub mod sip_server;

use std::io;

use crate::config::{Config, Origin, Tls};
use crate::net::tls;
use crate::secret::{ApiKey, SecretText};
use folder::{APP_KEY, CA_KEY, Folder, OPERATOR_TOKEN};

/// Has a relay without a configuration use what its folder keeps, where the environment names nothing else.
///
/// # Errors
/// When something can be neither read nor made.
pub fn adopt(config: &mut Config, folder: &Folder) -> io::Result<()> {
    if let Tls::Development { ca_key } = &mut config.tls {
        let key = folder.made(CA_KEY, tls::is_ca_key, || tls::new_ca_key().map_err(io::Error::other))?;
        *ca_key = Some(SecretText::new(&key));
    }
    let of_environment = |place: &str| {
        let from = config.settings.iter().find(|setting| setting.place == place);
        from.is_some_and(|setting| matches!(setting.origin, Origin::Environment(_)))
    };
    if !of_environment("operator.token_file") {
        config.operator.token = ApiKey::new(&folder.key(OPERATOR_TOKEN)?);
    }
    // The one App stands for all that a file would name.
    if let [app] = &mut *config.apps
        && app.apns.is_none()
        && app.fcm.is_none()
    {
        app.api_key = ApiKey::new(&folder.key(APP_KEY)?);
    }
    Ok(())
}
