//! `sipwake device`: a softphone for the command line, for trying a relay without an app.
//!
//! Values that are not named come from the relay without a configuration that was started last on this machine: its address, its CA, its
//! App's key, and Alice's account at the SIP server that comes with it.
//!
//! Invariant: no password and no key stands among the arguments. The instance that was enabled is disabled again, however the command
//! ends. It signals only: no sound is sent or heard.

use std::convert::Infallible;
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use sip::message::Uri;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::https::Https;
use super::table::{one_line, printable};
use super::{CommandError, answer, interrupted, key_from, password, seal_key, secret_file, subscription};
use crate::development::folder::{APP_KEY, Addresses, CA, Folder, PASSWORD};
use crate::hpke::PrivateKey;
use crate::secret::{ApiKey, InstanceSecret};
use crate::serve::unconfigured::is_loopback;
use crate::softphone::caller::{Called, call};
use crate::softphone::{Answering, Identity, Softphone};

/// The usual address of a relay's API.
const API: &str = "https://127.0.0.1:8443";
/// How often the registration of an account that is not registered yet is asked for.
const LOOK_AT_REGISTRATION: Duration = Duration::from_secs(2);
/// How long a call that is placed may ring.
const RING: Duration = Duration::from_secs(120);

/// Be a phone: lend an account to a relay, wait for calls, answer or decline them, and take the account back
///
/// It signals only: the audio line of its answers is inactive. The account's password is read from --password-file, or
/// from the first line of the standard input, which is asked on a terminal. Without --api and --aor it is Alice at the relay that
/// `sipwake serve` runs on this machine without a configuration.
#[derive(Args)]
pub struct Device {
    /// Call somebody instead, through the SIP server of the URI, by TCP; without a URI: Alice of the relay without a configuration
    #[arg(long, value_name = "URI", num_args = 0..=1, conflicts_with_all = ["aor", "asleep", "stock", "api"])]
    call: Option<Option<String>>,
    /// The state folder of the relay without a configuration [default: ~/.local/state/sipwake]
    #[arg(long, value_name = "DIR", conflicts_with = "api")]
    state: Option<PathBuf>,
    /// The relay's API [default: https://127.0.0.1:8443]
    #[arg(long, value_name = "URL")]
    api: Option<String>,
    /// A CA that vouches for the relay's certificate, beside the system's (PEM)
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The file with the App's key
    #[arg(long, value_name = "FILE")]
    app_key_file: Option<PathBuf>,
    /// The account: sip:user@domain
    #[arg(long, value_name = "URI")]
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
    /// The file whose first line is that token: of a real device, others may read the command line
    #[arg(long, value_name = "FILE", conflicts_with_all = ["push_token", "subscription"])]
    push_token_file: Option<PathBuf>,
    /// The file with the subscription that webpush pushes to, as PushSubscription.toJSON() writes it
    #[arg(long, value_name = "FILE", required_if_eq("provider", "webpush"), conflicts_with = "push_token")]
    subscription: Option<PathBuf>,
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
    /// Be no phone: write the account of a stock SIP client into this file, as baresip reads it, and take it back when stopped
    #[arg(long, value_name = "FILE", conflicts_with = "asleep")]
    stock: Option<PathBuf>,
    /// The file with the device's X25519 private key, to whose public half pushes seal who calls; made when it is not there
    #[arg(long, value_name = "FILE")]
    seal_key: Option<PathBuf>,
    /// Open pushes from the standard input with --seal-key, one JSON object on a line, and do nothing else
    #[arg(long, requires = "seal_key")]
    open: bool,
}

/// The named values; the rest comes from the relay without a configuration.
struct Named {
    api: String,
    ca: Option<PathBuf>,
    app_key_file: PathBuf,
    account: Account,
    /// The relay is one without a configuration, and no SIP server on another machine finds it.
    is_for_this_machine: bool,
}

struct Account {
    aor: String,
    registrar: Option<String>,
    password_file: Option<PathBuf>,
}

impl Account {
    /// The host that its REGISTERs are for; empty where it is none.
    fn server_host(&self) -> &str {
        Uri::parse(self.registrar.as_deref().unwrap_or(&self.aor)).map(|uri| uri.host).unwrap_or_default()
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Provider {
    Apns,
    Fcm,
    Webpush,
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
    if let Some(to) = &device.call {
        return device.place(to.as_deref()).await;
    }
    let seal_key = device.seal_key.as_deref().map(seal_key::read_or_make).transpose()?;
    if device.open {
        // The arguments say with which key.
        return seal_key.as_ref().map_or(Ok(()), open_all);
    }
    let named = device.named()?;
    let server = named.account.server_host();
    if named.is_for_this_machine && !server.is_empty() && !is_loopback(server) {
        say(FOR_THIS_MACHINE);
    }
    let https = Https::new(&named.api, named.ca.as_deref())?;
    let key = key_from(&named.app_key_file)?;
    let answering = device.body(&named.account, seal_key.as_ref())?;
    let stopped = interrupted();
    let enabled = https.ask("POST", "/v1/instances", key.expose(), Some(&answering)).await;
    drop(answering);
    let enabled = enabled?;
    let instance = Instance::read(&enabled).ok_or(CommandError::NotARelay)?;
    say(&format!("enabled {} until {}", instance.who.user, text(&enabled["expires_at"])));
    let registration = &enabled["registration"];
    say(&told(registration));
    let is_registered = registration["state"] == "registered";
    let (path, secret) = (instance.path(), instance.who.secret.clone());
    let attended = tokio::select! {
        attended = device.attend(&https, instance, is_registered, seal_key.as_ref()) => attended,
        // A stop on request is no error.
        () = stopped => {
            say("stopped");
            Ok(())
        }
        never = device.explain(&https, &key, &named.account, (&path, &secret), is_registered) => match never {},
    };
    let receipt = https.ask("DELETE", &path, secret.expose(), None).await.and_then(answer::of_wipe);
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

    fn path(&self) -> String {
        format!("/v1/instances/{}", self.who.user)
    }
}

impl Device {
    /// The values named on the command line; the rest from the relay without a configuration.
    fn named(&self) -> Result<Named, CommandError> {
        let folder = self.folder().filter(|_| self.api.is_none());
        let addresses = folder.as_ref().and_then(Folder::addresses);
        let of_folder = |name: &str| folder.as_ref().map(|folder| folder.file(name)).filter(|file| file.is_file());
        let no_key = "name --app-key-file, or start a relay without a configuration: sipwake serve";
        let app_key_file = self.app_key_file.clone().or_else(|| of_folder(APP_KEY));
        let account = match (&self.aor, &addresses) {
            (Some(aor), _) => Account {
                aor: aor.clone(),
                registrar: self.registrar.clone(),
                password_file: self.password_file.clone(),
            },
            (None, Some(Addresses { sip_server: Some(server), .. })) => Account {
                aor: alice(server),
                registrar: Some(format!("sip:{server};transport=udp")),
                password_file: self.password_file.clone().or_else(|| of_folder(PASSWORD)),
            },
            (None, Some(Addresses { public: Some(_), .. })) => {
                return Err(CommandError::Usage(NO_SIP_SERVER));
            }
            (None, _) => {
                return Err(CommandError::Usage("name --aor, or start a relay without a configuration: sipwake serve"));
            }
        };
        let is_for_this_machine = addresses.as_ref().is_some_and(|told| told.public.is_none());
        Ok(Named {
            api: self.api.clone().or(addresses.map(|told| told.api)).unwrap_or_else(|| API.to_owned()),
            ca: self.ca.clone().or_else(|| of_folder(CA)),
            app_key_file: app_key_file.ok_or(CommandError::Usage(no_key))?,
            account,
            is_for_this_machine,
        })
    }

    fn folder(&self) -> Option<Folder> {
        Folder::existing(&self.state.clone().or_else(Folder::usual)?)
    }

    /// Calls somebody.
    async fn place(&self, to: Option<&str>) -> Result<(), CommandError> {
        let addresses = self.folder().and_then(|folder| folder.addresses());
        let is_public = addresses.as_ref().is_some_and(|told| told.public.is_some());
        let server = addresses.and_then(|told| told.sip_server);
        let to = match (to, &server) {
            (Some(to), _) if to.contains(':') => to.to_owned(),
            (Some(user), Some(server)) => format!("sip:{user}@{server}"),
            (None, Some(server)) => format!("sip:alice@{server}"),
            (_, None) if is_public => return Err(CommandError::Usage(NO_CALLEE)),
            (_, None) => {
                return Err(CommandError::Usage(
                    "name whom to call, or start a relay without a configuration: sipwake serve",
                ));
            }
        };
        let uri = Uri::parse(&to)
            .filter(|uri| !uri.host.is_empty())
            .ok_or(CommandError::Usage("whom to call is no SIP address: write sip:user@host"))?;
        let host = uri.host.trim_start_matches('[').trim_end_matches(']');
        let name = |why| CommandError::Name { host: uri.host.to_owned(), why };
        let mut addresses = tokio::net::lookup_host((host, uri.port.unwrap_or(5060))).await.map_err(name)?;
        let address: SocketAddr = addresses.next().ok_or(CommandError::NotARelay)?;
        let from = format!("sip:bob@{}", uri.host);
        say(&format!("calling {to}"));
        let called = Called {
            to: &to,
            from: &from,
            talk: self.talk.map(Duration::from_secs),
            wait: self.wait.map_or(RING, Duration::from_secs),
        };
        Ok(call(address, &called, interrupted(), say).await?)
    }

    /// The body of the enabling; the one place where the password stands in it.
    fn body(&self, account: &Account, seal_key: Option<&PrivateKey>) -> Result<Value, CommandError> {
        let password = password::read(account.password_file.as_deref())?;
        let (aor, registrar) = (&account.aor, &account.registrar);
        let mut body = json!({
            "account": {"aor": aor, "password": password.expose()},
            "device": {"call_push": self.call_push()?, "label": "sipwake device"},
        });
        let account = &mut body["account"];
        for (name, value) in
            [("auth_username", &self.auth_username), ("registrar", registrar), ("outbound_proxy", &self.outbound_proxy)]
        {
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

    fn call_push(&self) -> Result<Value, CommandError> {
        let by_token = |provider| match &self.push_token_file {
            Some(file) => Ok(json!({"provider": provider, "token": key_from(file)?.expose()})),
            None => Ok(json!({"provider": provider, "token": self.push_token})),
        };
        match (self.provider, &self.subscription) {
            (Provider::Apns, None) => by_token("apns"),
            (Provider::Fcm, None) => by_token("fcm"),
            (Provider::Webpush, Some(file)) => subscription::read(file),
            _ => Err(CommandError::Usage("--subscription belongs to --provider webpush, and to no other")),
        }
    }

    /// Says why the account is not registered, and when it is; of a registered one nothing. Ends never.
    async fn explain(
        &self,
        https: &Https,
        key: &ApiKey,
        account: &Account,
        (path, secret): (&str, &InstanceSecret),
        is_registered: bool,
    ) -> Infallible {
        if !is_registered {
            let mut body = json!({"account": {"aor": account.aor}});
            for (name, value) in [("registrar", &account.registrar), ("outbound_proxy", &self.outbound_proxy)] {
                if let Some(value) = value {
                    body["account"][name] = value.as_str().into();
                }
            }
            // A relay that does not look has nothing to say; the account may be registered all the same.
            let found = https.ask("POST", "/v1/doctor", key.expose(), Some(&body)).await.unwrap_or_default();
            // It has looked for a while.
            let view = https.ask("GET", path, secret.expose(), None).await.unwrap_or_default();
            // Where calls wait for the registration, that it has come is said there.
            let says_when = !self.asleep && self.stock.is_none();
            match registered(&view) {
                Some(told) if says_when => say(&told),
                Some(_) => {}
                None => {
                    say(&unregistered(&found, &account.aor));
                    if says_when {
                        let _ = await_registered(https, path, secret).await;
                    }
                }
            }
        }
        std::future::pending().await
    }

    /// Goes to the edge and takes the calls.
    async fn attend(
        &self,
        https: &Https,
        instance: Instance,
        is_registered: bool,
        seal_key: Option<&PrivateKey>,
    ) -> Result<(), CommandError> {
        if let Some(file) = &self.stock {
            write_account(file, &instance)?;
            say(&format!("the account of a stock client is in {}; stop this command to take it back", file.display()));
            if !is_registered {
                await_registered(https, &instance.path(), &instance.who.secret).await?;
            }
            return std::future::pending().await;
        }
        if self.asleep {
            if is_registered {
                say(ASLEEP);
            } else {
                say("asleep, and not registered: no call can come; the relay goes on trying");
            }
            // A closed input wakes, too: nothing else could.
            let mut line = a_line();
            let woken = if is_registered {
                line.await
            } else {
                let path = instance.path();
                tokio::select! {
                    registered = await_registered(https, &path, &instance.who.secret) => {
                        registered?;
                        say(ASLEEP);
                        line.await
                    }
                    woken = &mut line => woken,
                }
            };
            let line = woken.unwrap_or_default();
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

/// The line of a sleeping phone, once a call can come.
const ASLEEP: &str = "asleep: a call is pushed; a line on the standard input wakes this phone";

/// What `device` says without an account where a relay brings no SIP server.
const NO_SIP_SERVER: &str =
    "this relay was started with --public, and brings no SIP server: name an account of yours with --aor";
/// What it says there to a call that names nobody whole.
const NO_CALLEE: &str =
    "this relay was started with --public, and brings no SIP server: name whom to call as sip:user@host";
/// Where the relay's own Contact is of no use to the account's server.
const FOR_THIS_MACHINE: &str = "note: this relay was started for SIP servers on its own machine, and tells them 127.0.0.1 as its address; one elsewhere may send no call here. For such: sipwake serve --public ADDRESS, this machine's address as that server sees it";

/// Why an account is not registered, by what was found on its way.
fn unregistered(found: &Value, aor: &str) -> String {
    let findings = found["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    match findings.iter().find(|finding| finding["verdict"] == "bad") {
        Some(bad) if bad["remedy"].is_string() => {
            format!("not registered yet: {}; {}", text(&bad["what"]), text(&bad["remedy"]))
        }
        Some(bad) => format!("not registered yet: {}", text(&bad["what"])),
        None => format!("not registered yet; sipwake doctor --ask-password --aor {aor} looks why"),
    }
}

/// Comes back when the account is registered at its SIP server.
async fn await_registered(https: &Https, path: &str, secret: &InstanceSecret) -> Result<(), CommandError> {
    loop {
        tokio::time::sleep(LOOK_AT_REGISTRATION).await;
        let view = https.ask("GET", path, secret.expose(), None).await?;
        answer::text(&view["registration"], "state")?;
        if let Some(told) = registered(&view) {
            say(&told);
            return Ok(());
        }
    }
}

/// The text about an instance whose account is registered.
fn registered(view: &Value) -> Option<String> {
    let registration = &view["registration"];
    (registration["state"] == "registered").then(|| told(registration))
}

/// Writes the account as baresip reads it, for its user's eyes alone.
fn write_account(file: &Path, instance: &Instance) -> Result<(), CommandError> {
    let Identity { host, user, secret, .. } = &instance.who;
    let (port, secret) = (instance.port, secret.expose());
    let text = Zeroizing::new(format!(
        "# A stock client registers at sip:{host}:{port};transport=tls as {user} with the password behind auth_pass.\n\
         <sip:{user}@{host};transport=tls>;auth_user={user};auth_pass={secret};outbound=\"sip:{host}:{port};transport=tls\"\n"
    ));
    secret_file::write(file, text.as_bytes()).map_err(|why| CommandError::File { file: file.to_owned(), why })
}

/// A registration in words.
fn told(registration: &Value) -> String {
    let status = registration["status"].as_u64().map(|status| format!(" {status}")).unwrap_or_default();
    format!("registration: {}{status}", text(&registration["state"]))
}

/// Alice at the SIP server of a relay without a configuration; her domain is that server's address.
fn alice(server: &str) -> String {
    format!("sip:alice@{}", server.rsplit_once(':').map_or(server, |(host, _)| host))
}

/// The line that came on the standard input. Its thread waits for nothing but that, and keeps nobody from ending.
fn a_line() -> oneshot::Receiver<Zeroizing<String>> {
    let (told, line) = oneshot::channel();
    std::thread::spawn(move || {
        let mut line = Zeroizing::new(String::new());
        let _ = std::io::stdin().lock().read_line(&mut line);
        // A receiver that has gone is not told.
        let _ = told.send(line);
    });
    line
}

/// Shows each push of the standard input with what is sealed in it.
fn open_all(key: &PrivateKey) -> Result<(), CommandError> {
    for line in std::io::stdin().lock().lines() {
        let line = Zeroizing::new(line?);
        if !line.trim().is_empty() {
            say(&one_line(&seal_key::opened(key, &line)?));
        }
    }
    Ok(())
}

/// One step, as it happens.
fn say(what: &str) {
    // A reader that has gone is not told.
    let _ = writeln!(std::io::stdout(), "{}", printable(what));
    let _ = std::io::stdout().flush();
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_is_not_registered_is_told_with_the_first_thing_that_is_bad() {
        let found = json!({"healthy": false, "findings": [
            {"step": "account", "verdict": "good", "what": "sip:620@pbx.lan"},
            {"step": "dns", "verdict": "bad", "what": "the name servers did not answer", "remedy": "look at them"},
            {"step": "dns", "verdict": "bad", "what": "something else"},
        ]});
        let told = unregistered(&found, "sip:620@pbx.lan");
        assert_eq!(told, "not registered yet: the name servers did not answer; look at them");
        let nothing = unregistered(&Value::Null, "sip:620@pbx.lan");
        assert!(nothing.contains("sipwake doctor --ask-password --aor sip:620@pbx.lan"), "{nothing}");
        let view = |state: &str| json!({"registration": {"state": state, "status": 200}});
        assert_eq!(registered(&view("registered")).as_deref(), Some("registration: registered 200"));
        assert_eq!((registered(&view("retrying")), registered(&Value::Null)), (None, None));
    }

    #[test]
    fn the_server_of_an_account_is_its_registrar_or_its_domain() {
        let host = |aor: &str, registrar: Option<&str>| {
            let account = Account { aor: aor.into(), registrar: registrar.map(str::to_owned), password_file: None };
            account.server_host().to_owned()
        };
        assert_eq!(host("sip:620@pbx.lan", None), "pbx.lan");
        assert_eq!(host("sip:620@pbx.lan", Some("sip:127.0.0.1:5060;transport=udp")), "127.0.0.1");
        assert_eq!(host("620", None), "");
    }
}
