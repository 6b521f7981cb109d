//! Whether the system gives as many file descriptors as the listeners are made for.
//!
//! Invariant: nothing is opened and no limit is changed; with too few a relay runs, and is told what that means.

use rustix::process::{Resource, getrlimit};

use crate::config::{Config, Problem};
use crate::net::listen::{Limits, RESERVE};

/// A caution where one address could hold all of them by what it may open at every listener before it has proven who it is.
pub fn too_few(config: &Config) -> Option<Problem> {
    too_few_of(getrlimit(Resource::Nofile).maximum?, config)
}

fn too_few_of(most: u64, config: &Config) -> Option<Problem> {
    let needed = needed(config);
    (most < needed).then(|| {
        let what = format!(
            "the system lets this process have {most} open files, and what one address may open without a proof takes {needed}: \
             strangers who fill them have others closed before their time"
        );
        let remedy = "raise it: LimitNOFILE= of a unit, ulimits.nofile of a container, ulimit -Hn of a shell; the package has 1048576";
        Problem::new("open files", what, remedy)
    })
}

fn needed(config: &Config) -> u64 {
    let transports = config.upstream.transports;
    let listeners = [
        (Limits::DEVICES, true),
        (Limits::DEVICES, config.edge.websocket.is_some()),
        (Limits::API, true),
        (Limits::OPERATOR, true),
        (Limits::OPERATOR, config.acme.as_ref().is_some_and(|acme| acme.listen.is_some())),
        (Limits::SIP_SERVERS, transports.tls),
        (Limits::SIP_SERVERS, transports.tcp),
    ];
    let open = listeners.iter().filter(|(_, is_open)| *is_open);
    RESERVE + open.map(|(limits, _)| limits.unproven_per_peer() as u64).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_open_files_are_told_with_how_many_are_needed_and_as_many_are_not() {
        let mut config = Config::development().expect("a configuration");
        config.upstream.transports.tls = true;
        config.upstream.transports.tcp = false;
        (config.edge.websocket, config.acme) = (None, None);
        // The edge, the API, the operator's, SIP over TLS, and the reserve.
        let least = 5_120 + 1_280 + 1_280 + 192 + 1_024;
        assert_eq!(too_few_of(least, &config).map(|caution| caution.to_string()), None);
        let caution = too_few_of(least - 1, &config).expect("a caution").to_string();
        assert!(["8895", "8896", "LimitNOFILE"].iter().all(|part| caution.contains(part)), "{caution}");
        config.upstream.transports.tcp = true;
        assert!(too_few_of(least + 191, &config).is_some() && too_few_of(least + 192, &config).is_none());
    }
}
