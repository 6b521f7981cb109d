//! `sipwake canary`: rings a test account end to end, on a schedule, and tells the relay how that went.
//!
//! The canary is an app that lends the account, the caller, and the device that comes: it uses the relay from outside, as apps, phones and
//! SIP servers do. One thing it cannot be is the phone that a push service delivers to. The push goes to a real token, and the
//! service's own "accepted" stands for its arrival.
//!
//! Invariant: no password, key or token stands among the arguments. Its report to the relay names a step and an app, and no
//! account. Nothing stays lent, unless the process is killed (a signal that asks it to
//! end ends the round by its last step); then the next round replaces it.

mod caller;
mod round;

use std::cell::RefCell;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;
use sip::message::Uri;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use self::caller::Identity;
use self::round::{Canary as Rounds, RoundResult};
use super::https::Https;
use super::operator::{At, at_this_machine};
use super::table::{pretty, printable};
use super::{CommandError, interrupted, key_from, password, subscription};
use crate::config::Config;
use crate::doctor::Doctor;
use crate::domain::Word as _;

/// Ring a test account end to end, again and again or once, and tell the relay how it went
///
/// Lends the account, calls it through its SIP server, waits until the push service has taken the push, comes to the edge as its
/// device, answers, hangs up, and takes the account back. The relay's metrics (sipwake_canary_*) and its status page have the
/// result. On the relay's machine its configuration says where API and operator listener are, and has the keys.
#[derive(Args)]
pub struct Canary {
    /// The App whose instance is rung
    #[arg(long, value_name = "ID")]
    app: Box<str>,
    /// The file with the App's key [default: that of the configuration]
    #[arg(long, value_name = "FILE")]
    app_key_file: Option<PathBuf>,
    /// The relay's API [default: that of the configuration, on this machine]
    #[arg(long, value_name = "URL")]
    api: Option<String>,
    /// The account that is lent and called: sip:user@domain. Nobody else should use it
    #[arg(long, value_name = "URI")]
    aor: String,
    /// The file whose first line is its password
    #[arg(long, value_name = "FILE")]
    password_file: PathBuf,
    /// The user name for the SIP server's digest, when it is not the AOR's user
    #[arg(long, value_name = "NAME")]
    auth_username: Option<String>,
    /// The registrar, when it is not the AOR's domain
    #[arg(long, value_name = "URI")]
    registrar: Option<Box<str>>,
    /// Where requests go instead of the registrar
    #[arg(long, value_name = "URI")]
    outbound_proxy: Option<Box<str>>,
    /// The account that calls [default: it calls itself]
    #[arg(long, value_name = "URI", requires = "caller_password_file")]
    caller: Option<String>,
    /// The file whose first line is the caller's password
    #[arg(long, value_name = "FILE", requires = "caller")]
    caller_password_file: Option<PathBuf>,
    /// The caller's user name for the digest, when it is not the AOR's user
    #[arg(long, value_name = "NAME", requires = "caller")]
    caller_auth_username: Option<String>,
    /// The push service
    #[arg(long, value_enum)]
    provider: Provider,
    /// The file with a token of a real device at that service, whose app takes a push for an instance that it does not know; of
    /// webpush its subscription, as PushSubscription.toJSON() writes it
    #[arg(long, value_name = "FILE")]
    push_token_file: PathBuf,
    /// How long a call may take from its INVITE to its end, in seconds: 1 to 600
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=600))]
    within: u64,
    /// How often, in seconds: 10 to 86400; the alerts want it each 600 at least
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(10..=86_400))]
    every: u64,
    /// Ring once, and end with 0 when all of it worked
    #[arg(long, conflicts_with = "every")]
    once: bool,
    #[command(flatten)]
    at: At,
}

#[derive(Clone, Copy, ValueEnum)]
enum Provider {
    Apns,
    ApnsSandbox,
    Fcm,
    Webpush,
}

/// Rings as asked.
///
/// # Errors
/// [`CommandError`] when it cannot ring at all; with `--once` also when a step failed, or the relay could not be told.
pub async fn run(canary: Canary) -> Result<(), CommandError> {
    let (say, stopped) = watch::channel(false);
    // One for all rounds: a signal that comes between two waits is not lost.
    let signal = interrupted();
    tokio::spawn(async move {
        signal.await;
        say.send_replace(true);
    });
    let mut rounds = canary.rounds(&stopped)?;
    if canary.once {
        let told = rounds.round().await;
        let shown = canary.show(&told);
        // A round that was stopped says nothing about calls.
        if told.failed.is_none() || !rounds.is_stopped() {
            canary.report(&told).await?;
        }
        return match told.failed {
            Some((step, why)) => Err(CommandError::Canary { step: step.word(), why }),
            None => Ok(shown?),
        };
    }
    let mut ticks = interval(Duration::from_secs(canary.every));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = rounds.stopped() => return Ok(()),
            _ = ticks.tick() => {}
        }
        // The canary runs for months; certificates, CAs and keys change meanwhile. A file that cannot be read stays as it was.
        match canary.rounds(&stopped) {
            Ok(read) => rounds = read,
            Err(error) => {
                tracing::warn!(event = "canary-not-read-again", %error, "what the canary rings with cannot be read again; it stays as it was");
            }
        }
        let told = rounds.round().await;
        // The relay is told whoever reads here.
        drop(canary.show(&told));
        if told.failed.is_some() && rounds.is_stopped() {
            return Ok(());
        }
        if let Err(error) = canary.report(&told).await {
            // The relay may be away: then its absence is the alarm, and the next round tries again.
            tracing::warn!(event = "canary-not-told", %error, "the relay could not be told of a round");
        }
    }
}

impl Canary {
    /// The inputs of a round, from its files as they are now.
    fn rounds(&self, stopped: &watch::Receiver<bool>) -> Result<Rounds, CommandError> {
        let config = self.at.configuration()?;
        let https = match (&self.api, &config) {
            (Some(api), _) => Https::new(api, self.at.ca())?,
            (None, Some(config)) => at_this_machine(config, config.api_address())?,
            (None, None) => return Err(CommandError::NoRelay),
        };
        let configured = config.as_ref().and_then(|config| config.apps.iter().find(|app| app.id == self.app));
        let key = match (&self.app_key_file, configured) {
            (Some(file), _) => key_from(file)?,
            (None, Some(app)) => app.api_key.clone(),
            (None, None) => return Err(CommandError::NoAppKey),
        };
        let config = match config {
            Some(config) => config,
            None => Config::development().map_err(|problems| CommandError::Configuration(problems.to_string()))?,
        };
        let caller = match (&self.caller, &self.caller_password_file) {
            (Some(aor), Some(file)) => Some(Identity {
                aor: aor.clone(),
                username: username(aor, self.caller_auth_username.as_deref()),
                password: password::read(Some(file))?,
            }),
            _ => None,
        };
        let token = || key_from(&self.push_token_file);
        let target = match self.provider {
            Provider::Fcm => json!({"provider": "fcm", "token": token()?.expose()}),
            Provider::Apns => json!({"provider": "apns", "token": token()?.expose()}),
            Provider::ApnsSandbox => json!({"provider": "apns", "token": token()?.expose(), "environment": "sandbox"}),
            Provider::Webpush => subscription::read(&self.push_token_file)?,
        };
        Ok(Rounds {
            https,
            key,
            callee: Identity {
                aor: self.aor.clone(),
                username: username(&self.aor, self.auth_username.as_deref()),
                password: password::read(Some(&self.password_file))?,
            },
            caller,
            registrar: self.registrar.clone(),
            outbound_proxy: self.outbound_proxy.clone(),
            target,
            doctor: Doctor::new(&config.upstream)?,
            within: Duration::from_secs(self.within),
            lent: RefCell::default(),
            stop: stopped.clone(),
        })
    }

    fn show(&self, told: &RoundResult) -> io::Result<()> {
        let mut out = io::stdout();
        if self.at.json {
            out.write_all(pretty(&told.to_json(&self.app)).as_bytes())?;
        } else {
            for (step, seconds) in &told.seconds {
                writeln!(out, "{:<7} {seconds:>8.3} s", step.word())?;
            }
            match &told.failed {
                Some((step, why)) => writeln!(out, "{}", failed(step.word(), why))?,
                None => writeln!(out, "rung, answered and taken back")?,
            }
        }
        out.flush()
    }

    async fn report(&self, told: &RoundResult) -> Result<(), CommandError> {
        self.at.open()?.call("POST", "/canary", Some(&told.to_json(&self.app))).await.map(drop)
    }
}

/// The failure of a step as it is shown: a refusal may have several lines.
fn failed(step: &str, why: &str) -> String {
    let lines: Vec<String> = why.lines().map(printable).collect();
    format!("{step:<7} FAILED: {}", lines.join("\n"))
}

fn username(aor: &str, named: Option<&str>) -> String {
    let user = Uri::parse(aor).and_then(|uri| uri.user.map(str::to_owned));
    named.map(str::to_owned).or(user).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::CanaryStep;

    #[test]
    fn a_refusal_of_several_lines_is_shown_as_so_many() {
        let told = failed("enable", "Correct each place.\n  /account/aor: expected a string\u{1b}[2J");
        assert_eq!(told, "enable  FAILED: Correct each place.\n  /account/aor: expected a string\\u{1b}[2J");
    }

    #[test]
    fn a_refusal_of_several_lines_is_reported_in_one_that_the_listener_takes() {
        let why = format!("Correct each place.\n  /call_push/token: expected\u{1b}[2J\n\n{}", "é".repeat(4_000));
        let told =
            RoundResult { failed: Some((CanaryStep::Enable, why)), seconds: Vec::new() }.to_json("com.example.phone");
        let why = told["why"].as_str().unwrap();
        assert!(
            why.starts_with("Correct each place.; /call_push/token: expected[2J; éé") && why.len() < 4_096,
            "{why}"
        );
    }
}
