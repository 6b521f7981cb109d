//! `sipwake device`: a softphone for the command line, for trying a relay without an app.
//!
//! Invariant: no password and no key stands among the arguments. What was enabled is disabled again, however the command
//! ends, unless it is to be kept. It signals only: no sound is sent or heard.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use sip::message::Uri;
use zeroize::Zeroizing;

use super::https::Https;
use super::{CommandError, interrupted, key_from, password, seal_key};
use crate::hpke::PrivateKey;
use crate::secret::InstanceSecret;
use crate::softphone::{Answering, Identity, Softphone};

/// Be a phone: lend an account to a relay, wait for calls, answer or decline them, and take the account back
///
/// It signals only: the audio line of its answers is inactive. The account's password is read from --password-file, or
/// from the first line of the standard input, which is asked on a terminal.
#[derive(Args)]
pub struct Device {
    /// The relay's API
    #[arg(long, value_name = "URL", default_value = "https://127.0.0.1:8443")]
    api: String,
    /// A CA that vouches for the relay's certificate, beside the system's (PEM)
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The file with the App's key
    #[arg(long, value_name = "FILE", required_unless_present = "open")]
    app_key_file: Option<PathBuf>,
    /// The account: sip:user@domain
    #[arg(long, value_name = "URI", required_unless_present = "open")]
    aor: Option<String>,
    /// The file whose first line is the account's password; without it the standard input
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The user name for the SIP server's digest, when it is not the AOR's user
    #[arg(long, value_name = "NAME")]
    auth_username: Option<String>,
    /// The account's registrar, when it is not the AOR's domain
    #[arg(long, value_name = "URI")]
    registrar: Option<String>,
    /// Where requests go instead of the registrar
    #[arg(long, value_name = "URI")]
    outbound_proxy: Option<String>,
    /// The push service
    #[arg(long, value_enum, default_value = "fcm")]
    provider: Provider,
    /// The device's token at the push service
    #[arg(long, value_name = "TOKEN", default_value = "sipwake-device")]
    push_token: String,
    /// The lease, in seconds
    #[arg(long, value_name = "SECONDS")]
    lifetime: Option<u64>,
    /// What to do with a call
    #[arg(long, value_enum, default_value = "answer")]
    on_call: OnCall,
    /// How long to ring before, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1)]
    ring: u64,
    /// Hang up an answered call after this many seconds; without it the caller does
    #[arg(long, value_name = "SECONDS")]
    talk: Option<u64>,
    /// How many calls to take before the account is taken back; 0: until it is stopped
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    calls: u32,
    /// How long to wait for a call, in seconds; without it for ever
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
    /// Stay away from the relay until a line comes on the standard input: so that a call has to be pushed. The line may be the
    /// push, and is shown then
    #[arg(long)]
    asleep: bool,
    /// The file with the device's X25519 private key, to whose public half pushes seal who calls; made when it is not there
    #[arg(long, value_name = "FILE")]
    seal_key: Option<PathBuf>,
    /// Open pushes from the standard input with --seal-key, one JSON object on a line, and do nothing else
    #[arg(long, requires = "seal_key")]
    open: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Provider {
    Apns,
    Fcm,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnCall {
    Answer,
    Decline,
}

/// Enables, takes calls as asked, and disables.
///
/// # Errors
/// [`CommandError`] when one of it did not happen.
pub async fn run(device: Device) -> Result<(), CommandError> {
    let seal_key = device.seal_key.as_deref().map(seal_key::read_or_make).transpose()?;
    let (app_key_file, aor) = match (&device.app_key_file, &device.aor) {
        (Some(file), Some(aor)) if !device.open => (file, aor),
        // The arguments say that it opens alone, and with which key.
        _ => return seal_key.as_ref().map_or(Ok(()), open_all),
    };
    let https = Https::new(&device.api, device.ca.as_deref())?;
    let key = key_from(app_key_file)?;
    let answering = device.body(aor, seal_key.as_ref())?;
    let enabled = https.ask("POST", "/v1/instances", key.expose(), Some(&answering)).await;
    drop(answering);
    let enabled = enabled?;
    let instance = Instance::read(&enabled).ok_or(CommandError::NotARelay)?;
    say(&format!("enabled {} until {}", instance.who.user, text(&enabled["expires_at"])));
    let registration = &enabled["registration"];
    say(&format!("registration: {} {}", text(&registration["state"]), registration["status"]));
    let (path, secret) = (format!("/v1/instances/{}", instance.who.user), instance.who.secret.clone());
    let attended = tokio::select! {
        attended = device.attend(&https, instance, seal_key.as_ref()) => attended,
        () = interrupted() => {
            say("interrupted");
            if device.calls == 0 { Ok(()) } else { Err(crate::softphone::PhoneError::NoCall.into()) }
        }
    };
    let receipt = https.ask("DELETE", &path, secret.expose(), None).await;
    if let Ok(receipt) = &receipt {
        say(&match receipt["state"].as_str() {
            Some(state) => format!("disabled: {state}; the relay's store is away, and the receipt comes later"),
            None => {
                format!("disabled: wiped {}, unregistered: {}", text(&receipt["wiped_at"]), receipt["unregistered"])
            }
        });
    }
    attended.and(receipt.map(drop))
}

/// An instance, as the answer to enabling names it.
pub(super) struct Instance {
    pub(super) who: Identity,
    pub(super) port: u16,
}

impl Instance {
    pub(super) fn read(enabled: &Value) -> Option<Self> {
        let edge = enabled["edge"]["proxy"].as_str()?;
        let uri = Uri::parse(edge)?;
        let who = Identity {
            edge: edge.to_owned(),
            host: uri.host.to_owned(),
            user: enabled["edge"]["username"].as_str()?.to_owned(),
            realm: enabled["edge"]["realm"].as_str()?.to_owned(),
            secret: InstanceSecret::new(enabled["secret"].as_str()?),
        };
        Some(Self { port: uri.port.unwrap_or(5061), who })
    }
}

impl Device {
    /// The body of the enabling; the one place where the password stands in it.
    fn body(&self, aor: &str, seal_key: Option<&PrivateKey>) -> Result<Value, CommandError> {
        let password = password::read(self.password_file.as_deref())?;
        let mut body = json!({
            "account": {"aor": aor, "password": password.expose()},
            "device": {"call_push": {"provider": self.provider.name(), "token": self.push_token}, "label": "sipwake device"},
        });
        let account = &mut body["account"];
        for (name, value) in [
            ("auth_username", &self.auth_username),
            ("registrar", &self.registrar),
            ("outbound_proxy", &self.outbound_proxy),
        ] {
            if let Some(value) = value {
                account[name] = value.as_str().into();
            }
        }
        if let Some(public) = seal_key.and_then(PrivateKey::public) {
            say(&format!("pushes are sealed to {public}"));
            body["device"]["public_key"] = public.to_string().into();
        }
        if let Some(lifetime) = self.lifetime {
            body["lifetime_s"] = lifetime.into();
        }
        Ok(body)
    }

    /// Goes to the edge and takes the calls.
    async fn attend(
        &self,
        https: &Https,
        instance: Instance,
        seal_key: Option<&PrivateKey>,
    ) -> Result<(), CommandError> {
        if self.asleep {
            say("asleep: a call is pushed; a line on the standard input wakes this phone");
            // A closed input wakes, too: nothing else could.
            let line = tokio::task::spawn_blocking(read_line).await.unwrap_or_default();
            if let (Some(key), true) = (seal_key, line.trim_start().starts_with('{')) {
                say(&format!("woken by {}", seal_key::opened(key, &line)?));
            }
        }
        let stream = https.dial(&instance.who.host, instance.port).await?;
        let edge = format!("{}:{}", instance.who.host, instance.port);
        let mut phone = Softphone::register(instance.who, stream).await?;
        say(&format!("attached to {edge}"));
        let answering = Answering {
            answer: self.on_call == OnCall::Answer,
            ring: Duration::from_secs(self.ring),
            talk: self.talk.map(Duration::from_secs),
            calls: self.calls,
            wait: self.wait.map(Duration::from_secs),
        };
        let taken = phone.take_calls(&answering, say).await;
        // The lease ends anyway.
        let _ = phone.unregister().await;
        Ok(taken?)
    }
}

impl Provider {
    fn name(self) -> &'static str {
        match self {
            Self::Apns => "apns",
            Self::Fcm => "fcm",
        }
    }
}

fn read_line() -> Zeroizing<String> {
    let mut line = Zeroizing::new(String::new());
    let _ = std::io::stdin().lock().read_line(&mut line);
    line
}

/// Shows each push of the standard input with what is sealed in it.
fn open_all(key: &PrivateKey) -> Result<(), CommandError> {
    for line in std::io::stdin().lock().lines() {
        let line = Zeroizing::new(line?);
        if !line.trim().is_empty() {
            say(&seal_key::opened(key, &line)?.to_string());
        }
    }
    Ok(())
}

/// One step, as it happens.
fn say(what: &str) {
    // Who does not listen any more is not told.
    let _ = writeln!(std::io::stdout(), "{what}");
    let _ = std::io::stdout().flush();
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}
