//! The commands other than serving: a device to try a relay with, and the operator's view of its instances.
//!
//! | room | contents |
//! | --- | --- |
//! | [`calls`] | `sipwake calls`: the last calls, and the story of one |
//! | `colour` | colours on a terminal |
//! | [`control`] | `sipwake reload`, `drain`, `config show` |
//! | `answer` | a relay's answer in the shape that is asked for |
//! | [`audit`] | `sipwake audit`, `sipwake report`: whether a trail is whole, and what it tells |
//! | [`canary`] | `sipwake canary`: rings a test account end to end, and tells the relay how that went |
//! | [`device`] | `sipwake device`: enable, wait, answer or decline, disable |
//! | [`doctor`] | `sipwake doctor`: what would go wrong with an account |
//! | `password` | a password that never stands among the arguments |
//! | [`live`] | `sipwake check --live`: whether a relay serves |
//! | [`keys`] | `sipwake keys`: the keyring's fingerprint, and rotating it |
//! | [`instances`] | `sipwake instances`: list, find, show, wipe, export |
//! | `operator` | where a relay's operator listener is, and how it is asked |
//! | `question` | the question before an action that cannot be undone |
//! | [`receipt`] | `sipwake receipt`: whether a receipt is a relay's |
//! | `seal_key` | the key that a device's pushes are sealed to, in a file |
//! | `secret_file` | files that hold a secret |
//! | `subscription` | a Web Push subscription, in a file |
//! | `table` | a relay's answers, as a person reads them |
//! | [`shell`] | `sipwake completions`, `man` |
//! | [`status`] | `sipwake status`, `nodes` |
//! | [`trace`] | `sipwake trace`: one instance's SIP for a while, as pcapng |
//! | `https` | a request to a relay |
//!
//! Invariant: a command is a client like any other: it knows the relay's published interface, and nothing of the process's inside. Its result goes to stdout,
//! everything else to stderr. No secret is printed. A command completes its work even if its output is closed.

mod answer;
pub mod audit;
pub mod calls;
pub mod canary;
mod colour;
pub mod control;
pub mod device;
pub mod doctor;
mod https;
pub mod instances;
pub mod keys;
pub mod live;
mod operator;
mod password;
mod question;
pub mod receipt;
mod seal_key;
mod secret_file;
pub mod shell;
pub mod status;
mod subscription;
mod table;
pub mod trace;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use table::printable;
use tokio::signal::unix::{SignalKind, signal};

use crate::log::say;
use crate::net::dial::DialError;
use crate::net::tls::TlsError;
use crate::regular_file::BYTE_ORDER_MARK;
use crate::secret::ApiKey;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A file cannot be read.
    #[error("{} cannot be read: {why}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The system's word.
        why: io::Error,
    },
    /// A file cannot be written.
    #[error("{} cannot be written: {why}", file.display())]
    NotWritten {
        /// The file.
        file: PathBuf,
        /// The system's word.
        why: io::Error,
    },
    /// The text is no subscription.
    #[error(
        "{} is no Web Push subscription: write what PushSubscription.toJSON() gives, an object with endpoint and keys (p256dh, auth)",
        .0.display()
    )]
    NotASubscription(PathBuf),
    /// No password was given.
    #[error("no password: name a --password-file, or write it as the first line of the standard input")]
    NoPassword,
    /// The text is no HA1.
    #[error(
        "{} is no ha1: write what enabling takes, an object with realm and at least one of MD5, SHA-256 and SHA-512-256",
        .0.display()
    )]
    NotHa1(PathBuf),
    /// The address of the relay is none.
    #[error("{0:?} is not an address such as https://relay1.example.net:8443")]
    Address(String),
    /// The name of the relay leads nowhere.
    #[error("{host}: {why}")]
    Name {
        /// The host.
        host: String,
        /// The system's word.
        why: io::Error,
    },
    /// The CA cannot be used.
    #[error("{0}")]
    Ca(#[from] TlsError),
    /// No connection.
    #[error("{0}")]
    Dial(#[from] DialError),
    /// The relay is known by a certificate, and shows another one.
    #[error(
        "what answers at {address} shows another certificate than {} holds, and none that the relay of this configuration has noted as in use: another program listens there, or it is a relay of another configuration; name its CA (--ca) if it is to be asked", file.display()
    )]
    OtherCertificate {
        /// The address that was asked.
        address: SocketAddr,
        /// The file of `tls.certificate`.
        file: PathBuf,
    },
    /// The connection broke.
    #[error("the relay did not answer: {0}")]
    Http(#[from] hyper::Error),
    /// No answer in time.
    #[error("the relay did not answer in time")]
    Timeout,
    /// The relay refused.
    #[error("the relay refused with {status}: {detail}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its title, its detail and every place that is wrong.
        detail: String,
    },
    /// A trace is no more.
    #[error(
        "the recording ended before its time: another trace of this instance was ended, the instance was wiped, or the relay was started again; {0}"
    )]
    TraceEnded(&'static str),
    /// The peer is no relay.
    #[error("the answer is not a relay's")]
    NotARelay,
    /// The SIP side of the device.
    #[error("{0}")]
    Phone(#[from] crate::softphone::PhoneError),
    /// A call that was placed did not come about.
    #[error("{0}")]
    Call(#[from] crate::softphone::caller::CallError),
    /// An argument is missing; ends with 2, as bad usage does.
    #[error("{0}")]
    Usage(&'static str),
    /// The configuration cannot be used.
    #[error("{0}")]
    Configuration(String),
    /// There can be no examination.
    #[error("{0}")]
    NoDoctor(#[from] crate::doctor::NoDoctor),
    /// Something bad was found.
    #[error("a call would not come; what is BAD above must be mended")]
    Unhealthy,
    /// The file is no receipt.
    #[error("{} is no receipt as DELETE answers it: a JSON object", .0.display())]
    NotAReceipt(PathBuf),
    /// The file has no keys.
    #[error("{} holds no keys as GET /v1/keys answers them: a JSON object", .0.display())]
    NoKeys(PathBuf),
    /// None of the named keys has signed it.
    #[error("none of these keys has signed this receipt: it was altered, or is another relay's")]
    WrongReceipt,
    /// The operator's token was not named.
    #[error("no token: name a --token-file, or the --config of a relay on this machine")]
    NoToken,
    /// The question was not answered with yes.
    #[error("{0} Nothing was done: nobody said yes (--yes says so beforehand)")]
    NotConfirmed(String),
    /// The AOR is none.
    #[error("line {line} of the standard input is no AOR: {why}; nothing was done")]
    NotAnAor {
        /// The line, from 1 on.
        line: usize,
        /// What it lacks.
        why: &'static str,
    },
    /// A filter that cannot be sent.
    #[error("--{0} holds characters that none can have")]
    NoSuchFilter(&'static str),
    /// The relay does not serve, or is not ready.
    #[error("the relay {0}")]
    NotReady(String),
    /// Some were not wiped.
    #[error("{0} could not be wiped; the others were")]
    NotAll(usize),
    /// Some are being wiped, and something of them may be left in the store.
    #[error(
        "{0} being wiped, and not erased yet: the store is away, or the wipe cannot be written down (sipwake status says which); run it again with their ids, and it prints their receipts"
    )]
    Wiping(usize),
    /// Some were not wiped, and some are being wiped.
    #[error(
        "{failed} could not be wiped, and {wiping} being wiped are not erased yet: the store is away, or the wipes cannot be written down (sipwake status says which); run it again with their ids"
    )]
    NotAllAndWiping {
        /// How many could not be wiped.
        failed: usize,
        /// How many are being wiped.
        wiping: usize,
    },
    /// Not all instances were seen.
    #[error(
        "not all were wiped: there may be more of {0}: no answer, or instances were still being taken over; run it again"
    )]
    NotAllSeen(String),
    /// A trail is not whole.
    #[error("{0}")]
    Trail(#[from] crate::audit::Fault),
    /// A report on a trail that is not whole.
    #[error(
        "a trail is not whole, lacks lines for which there was no room, or was not read: the numbers are too small; the report names where (NOT WHOLE, NOT SURE, lost, trail.faults)"
    )]
    NotWhole,
    /// A line that was there is not.
    #[error("no line of the trail has the chain {0}: it was cut, or made anew")]
    NotInTrail(String),
    /// A file without a key.
    #[error("{} holds no X25519 private key (43 characters of base64url); name a file that is not there, and one is made", .0.display())]
    NoSealKey(PathBuf),
    /// The line is no push.
    #[error("this is no push: a push is a JSON object on one line")]
    NotAPush,
    /// The push cannot be opened with this key.
    #[error("this push was sealed to another key, or was altered")]
    SealedToAnother,
    /// No relay was named.
    #[error("no relay: name its --api, or the --config of a relay on this machine")]
    NoRelay,
    /// The App's key is not known.
    #[error("no key of this app: name an --app-key-file, or the --config of a relay that serves it")]
    NoAppKey,
    /// A round was not whole.
    #[error("{step}: {why}")]
    Canary {
        /// The step that failed.
        step: &'static str,
        /// Why, in words.
        why: String,
    },
    /// The action was done, and what it came to cannot be printed.
    #[error("it was done, and stands above, because the output is closed: {0}")]
    Unprinted(io::Error),
    /// Nothing can be printed.
    #[error("the output is closed: {0}")]
    Output(#[from] io::Error),
}

/// Prints what an action came to that is done by now. Where the output is closed, the standard error hears it.
fn print_done(text: &str) -> Result<(), CommandError> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|why| {
        say(text);
        CommandError::Unprinted(why)
    })
}

/// Reads a key from a file: its one line.
fn key_from(file: &Path) -> Result<ApiKey, CommandError> {
    Ok(ApiKey::new(secret_file::read(file)?.trim_start_matches(BYTE_ORDER_MARK).trim()))
}

/// Waits for SIGTERM, SIGINT, or the end of the terminal (SIGHUP) where that is not ignored, as under `nohup`.
fn interrupted() -> impl Future<Output = ()> {
    // Now, and not when it is first waited for: a signal that comes before shall not be lost.
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let hangup = if ignores_hangup() { None } else { signal(SignalKind::hangup()).ok() };
    async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else { return std::future::pending().await };
        let hung_up = async {
            match hangup {
                Some(mut hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = hung_up => {}
        }
    }
}

/// Whether the process was started so that SIGHUP does not end it, or may have been.
fn ignores_hangup() -> bool {
    may_ignore_hangup(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())
}

/// The same by what Linux says of a process. Elsewhere nothing says it, and the signal is left as it is: a handler would take away what `nohup` has set.
fn may_ignore_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // Bit 0 is signal 1.
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_none_or(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hangup_that_is_ignored_or_may_be_is_left_as_it_is() {
        for (status, may_be) in [
            ("Name:\tsipwake\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\n", false),
            ("Name:\tsipwake\nSigIgn:\t0000000000001001\n", true),
            ("", true),
        ] {
            assert_eq!(may_ignore_hangup(status), may_be, "{status:?}");
        }
    }
}
