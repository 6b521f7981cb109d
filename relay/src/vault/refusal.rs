//! A store's refusal in words, and what an operator should do about it.
//!
//! Invariant: of the store's text only a known code is repeated. `ERR` says nothing by itself, and is reported with its sentence if that is known.

use super::store::{AwayReason, StoreError};
use crate::net::tls_fault::TlsFault;

/// By the code of each refusal that Redis has a code for: what is the matter, and what to do.
macro_rules! refusals {
    ($($($code:literal)|+ => $words:literal, $remedy:literal;)*) => {
        /// Of one code: both in one line, and what to do.
        fn named(code: &str) -> Option<(&'static str, &'static str)> {
            match code {
                $($($code)|+ => Some((concat!($words, ": ", $remedy), $remedy)),)*
                _ => None,
            }
        }
        #[cfg(test)]
        const CODES: &[&str] = &[$($($code),+),*];
    };
}

refusals! {
    "OOM" => "the store is full (OOM)", "give it more memory (maxmemory)";
    "READONLY" => "the store is a replica, and takes no writes (READONLY)",
        "name its master in store.url, or use redis+sentinel:// or redis+cluster://";
    "MASTERDOWN" => "the store is a replica that has lost its master (MASTERDOWN)",
        "bring the master back, or name the one that has taken over";
    "NOREPLICAS" => "the store takes no writes while it has too few replicas (NOREPLICAS)",
        "bring its replicas back, or lower min-replicas-to-write";
    "MISCONF" => "the store takes no writes since it could not save them to its disk (MISCONF)",
        "see to its disk, or set save \"\": it has nothing to save";
    "NOAUTH" | "WRONGPASS" | "AUTH" => "the store refuses the relay's password", "correct user and password in store.url";
    "NOPERM" => "the store refuses what the relay needs (NOPERM)", "grant its user what docs/operators.md names";
    "BUSY" => "the store is busy with a script that takes too long (BUSY)",
        "end it (SCRIPT KILL), and give the relay a Redis of its own";
    "MAXCLIENTS" => "the store takes no further connection (maxclients)",
        "raise maxclients, or end what else holds its connections";
    "DENIED" => "the store is in protected mode, and takes no connection from another host (DENIED)",
        "give it a user and a password, or protected-mode no on a network of its own";
    "NOPERM for SELECT" => "the store refuses the database of store.url to the relay's user (NOPERM)",
        "grant its user +select, or name database 0";
    "ERR DB index is out of range" => "the store has no database of the number in store.url",
        "name one that it has (its setting databases), or 0";
    "MOVED by its Cluster" => "the Cluster sends the relay on to another of its nodes, and that does not answer for it yet, or refuses the relay's user (MOVED or ASK)",
        "give each node the user of store.url (ACL WHOAMI with it tells; one that was set and not saved is gone with a restart); bring back the node that fell out, or wait until a replica has taken over (CLUSTER NODES tells)";
    "MOVED" | "ASK" | "CROSSSLOT" | "ERR SELECT is not allowed in cluster mode" => "the store is a Cluster, and store.url names one Redis (MOVED or ASK)", "write redis+cluster://";
    "LOADING" => "the store is reading its data (LOADING)", "wait until it has";
    "CLUSTERDOWN" | "TRYAGAIN" => "a part of the Cluster has no master (CLUSTERDOWN)",
        "bring its node back, or wait until a replica has taken over";
    "EXECABORT" | "UNKILLABLE" => "the store is busy with something that has failed in it", "look at its own log";
    "NOAUTH of a sentinel" => "a sentinel wants a password, and refuses the user and password of store.url (NOAUTH)",
        "give the sentinels the user and password of Redis, or none (requirepass, or a user, in their own configuration)";
    "NOPERM of a sentinel" => "a sentinel refuses to say where the master is (NOPERM)", "grant its user +sentinel|masters";
    "no such service at the sentinels" => "the sentinels know no service of the name in store.url",
        "write the name that they watch: sentinel monitor NAME in their configuration";
    "no master at the sentinels" => "the sentinels name no Redis that is a master now",
        "wait for their fail-over, or end it (SENTINEL MASTERS tells); a Redis that was told by hand to follow another one is none";
    "FULL" => "a node does not read its letters", "look at that node";
}

/// What to do about a refusal that has no remedy here: a server writes none down.
const ASK_IT: &str =
    "log in to it by redis-cli with the user and the database of store.url: what it refuses stands there in its words";

impl StoreError {
    /// In short, for a check: what is the matter, and what an operator is to do or to look at.
    pub fn in_words(&self) -> &'static str {
        const OTHER: &str = "the store refuses; the log has the code";
        match self {
            Self::Away(AwayReason::Refused(code)) => named(code).map_or(OTHER, |(words, _)| words),
            Self::Away(AwayReason::Tls(_)) => "TLS with the store fails; the log has the reason",
            _ => "the store does not answer",
        }
    }

    /// The operator's remedy.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Away(AwayReason::Refused(code)) => named(code).map_or(ASK_IT, |(_, remedy)| remedy),
            Self::Away(AwayReason::Tls(fault)) => tls_remedy(*fault),
            Self::Away(AwayReason::Unreachable) => {
                "start the store, or correct its address; a Redis that speaks TLS closes each plain connection at once, and so does one that speaks TLS and has all its clients (maxclients)"
            }
            _ => "start the store, or correct its address; look at the network to it",
        }
    }
}

/// What to do where the store and the relay do not come to speak TLS.
const fn tls_remedy(fault: TlsFault) -> &'static str {
    match fault {
        TlsFault::Expired => "renew the store's certificate, and have the store load it",
        TlsFault::NotYetValid => "set the clock of this machine, or renew the store's certificate",
        TlsFault::OtherName => "write in store.url a name that the store's certificate has, or issue one for this name",
        TlsFault::UnknownCa => "name the CA of the store's certificate in store.ca_file",
        TlsFault::IsCa => {
            "issue a certificate for the store that is no CA's (openssl req -x509: -addext basicConstraints=CA:FALSE)"
        }
        TlsFault::Certificate => "issue another certificate for the store",
        TlsFault::OursRefused => "name in store.client_certificate and store.client_key what the store's CA has issued",
        TlsFault::NoCommonTls => {
            "write redis for rediss, or name the store's TLS port; it is to speak TLS 1.2 or later"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_that_has_a_code_is_told_with_what_to_do() {
        for code in CODES {
            let error = StoreError::Away(AwayReason::Refused((*code).into()));
            assert!(error.in_words().ends_with(error.remedy()), "{code}: {}", error.in_words());
        }
        let other = StoreError::Away(AwayReason::Refused("hush".into()));
        assert!(!format!("{}{}", other.in_words(), other.remedy()).contains("hush"));
    }
}
