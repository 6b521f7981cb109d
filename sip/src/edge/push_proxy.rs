//! The push proxy of RFC 8599: what a REGISTER asks of it, and how it knows its registrations again.
//!
//! A device registers *through* the edge at its own SIP server, whose digest passes between the two; the relay holds no
//! credential. It puts itself into the Path (RFC 3327), so that calls come back by it, and wakes the device that the
//! parameters `pn-provider`, `pn-param` and `pn-prid` of the Contact name.
//!
//! | Contact | section | it asks |
//! | --- | --- | --- |
//! | all of `pn-provider`, `pn-prid` | §4.1.1 | for pushes |
//! | `pn-provider` alone, with or without a value | §4.1.5 | which services there are |
//! | none of them, or `expires=0` | §4.1.2 | for no pushes any more; where the operator lets it, to be reached by its flow alone (RFC 5626) |
//!
//! A registration is named by a keyed hash of its SIP server (registrar and proxy), its AOR and its `pn-*` parameters: the
//! same after a restart, on every node that shares the key, and of no use to find any of them. Its name is also its PURR
//! (§6.2.1). A registration of the same AOR at somebody else's SIP server has other names, and changes nothing of Alice's. One that is reached by its
//! flow alone is named by its device's key among those of the AOR in place of the `pn-*`.
//!
//! Invariant: nothing here is a secret of the account. A Path is believed only when its MAC is right, and a PURR only when it is a name that this key makes. No
//! `Debug` here shows a push token or an AOR.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::forward::SentBy;
use crate::flow::{MAC_LEN, TokenKey, Transport};
use crate::id::{BindingId, InstanceId, ShardTag};
use crate::message::{Message, Method, Name, NameAddr, Party, Scheme, Uri, is_quoted_text, unquote, wholly_unescaped};

/// How long before a registration ends its device is asked to refresh it, at the least (RFC 8599 §5.5).
pub const RENEW_BEFORE: Duration = Duration::from_secs(120);
/// How long before the end a device that wakes by itself is told to refresh, in seconds: more than 120 (RFC 8599
/// §5.6.1.1), so that no push is needed for it.
pub const REFRESH_BEFORE_S: u32 = 180;
/// The longest that a push for a refresh comes before the end of a long registration.
const RENEW_BEFORE_MAX: Duration = Duration::from_secs(3600);
/// The longest `pn-param` or `pn-prid`, in bytes, escapes resolved.
const VALUE_MAX: usize = 4096;
/// The longest AOR, registrar or proxy, in bytes: they are kept of each registration, as long as that stands.
pub const URI_MAX: usize = 512;
/// The longest key of a device that is kept as it is, in bytes; a longer one by its hash.
const CONTACT_MAX: usize = 128;
/// The lifetime of a Contact when nobody names one, in seconds.
const EXPIRES_DEFAULT: u32 = 3600;
/// Values of a Service-Route that are kept of one registration; a longer one is as if there were none.
pub const SERVICE_ROUTES_MAX: usize = 8;
/// Their bytes, likewise.
pub const SERVICE_ROUTE_BYTES: usize = 1024;
/// Identities of other domains that are kept of one registration.
pub const IDENTITIES_MAX: usize = 8;
/// Their bytes.
pub const IDENTITIES_BYTES: usize = 512;
/// The purposes that a Path's MAC is bound to, so that no other token passes for one: of a registration that is pushed for,
/// and of one that its flow alone leads to.
const PATH: &[u8] = b"sipwake path 1";
const FLOW_PATH: &[u8] = b"sipwake flow path 1";

/// How a registration that passed through is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The device is pushed, and comes (RFC 8599).
    Pushed,
    /// The device is reached by the flow of its REGISTER, as long as that flow stands (RFC 5626).
    ByFlow,
}

impl Reach {
    fn purpose(self) -> &'static [u8] {
        match self {
            Self::Pushed => PATH,
            Self::ByFlow => FLOW_PATH,
        }
    }
}

/// The address of a device at a push service, as its Contact names it (RFC 8599 §8.7).
#[derive(Clone, PartialEq, Eq)]
pub struct PushContact {
    /// The service: `apns`, `fcm`, …
    pub provider: Box<str>,
    /// The application, where the service needs it beside the device's name (§10, §11).
    pub param: Option<Box<str>>,
    /// The device's name at the service, escapes resolved.
    pub prid: Box<str>,
}

impl fmt::Debug for PushContact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushContact").field("provider", &self.provider).finish_non_exhaustive()
    }
}

/// The request that a REGISTER makes of a push proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushRequest {
    /// Pushes, for this registration.
    Push(PushContact),
    /// The question whether one service is there, or which are.
    Query(Option<Box<str>>),
    /// No pushes, or none any more.
    Nothing,
}

/// A REGISTER as far as a push proxy must understand it.
#[derive(Clone, PartialEq, Eq)]
pub struct RegisterIntent {
    /// The address of record: scheme, user and host in one spelling.
    pub aor: Box<str>,
    /// The SIP server that it goes to, as [`server_of`] spells it.
    pub server: Box<str>,
    /// The key that tells the AOR's devices apart: `+sip.instance`, else the Contact's URI without `pn-*`, or the hash of a long one; empty
    /// for `*`.
    pub contact: Box<str>,
    /// The request that its `pn-*` parameters make.
    pub push_request: PushRequest,
    /// The lifetime that it asks for, in seconds.
    pub expires: u32,
    /// The device refreshes by itself (`+sip.pnsreg`, §4.1.4).
    pub refreshes_itself: bool,
    /// Whether it registers as RFC 5626 has it, so that the Path must say that the first hop can (§5.1 there).
    pub outbound: bool,
    /// Whether it shows a proof to its SIP server.
    pub proves: bool,
    /// Whether it names no Contact, and asks for the registered ones (RFC 3261 §10.2.3).
    pub is_question: bool,
    uri: Box<str>,
}

impl fmt::Debug for RegisterIntent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisterIntent")
            .field("push_request", &self.push_request)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// The status that answers a REGISTER which cannot be served: 400, 403, 414 or 416.
pub type Unfit = u16;

/// Reads a REGISTER, whose Route has `own_routes` values of this relay on top.
///
/// # Errors
/// 416 when the AOR or the registrar is not one of SIP; 403 when more than one Route follows ours, for then it is not the
/// proxy named first that says who answers; 414 when the registrar is longer than [`URI_MAX`]; 400 when the AOR or the proxy is, when To can
/// be read in two ways, when a Route is broken, and for each [`contact_fault`]. A Contact that is no address decides nothing beside one that is
/// (RFC 3261 §10.2.4, §16.3).
pub fn read(register: &Message, own_routes: usize) -> Result<RegisterIntent, Unfit> {
    let (aor, server) = account_of(register, own_routes)?;
    let proves = register.has(Name::Authorization) || register.has(Name::ProxyAuthorization);
    if contact_fault(register).is_some() {
        return Err(400);
    }
    let contacts = register.contacts();
    let lasting = lasting(register, &contacts);
    let Some(contact) = lasting.first().copied().or(contacts.first()) else {
        let is_question = !register.has(Name::Contact);
        let nobody = || Box::<str>::default();
        let (push_request, contact, uri) = (PushRequest::Nothing, nobody(), nobody());
        return Ok(RegisterIntent {
            aor,
            server,
            contact,
            push_request,
            expires: 0,
            refreshes_itself: false,
            outbound: false,
            proves,
            is_question,
            uri,
        });
    };
    let (expires, key) = (lasts_for(register, contact), contact_key(contact));
    let push_request = if expires == 0 { PushRequest::Nothing } else { push_request(contact)? };
    Ok(RegisterIntent {
        aor,
        server,
        contact: key,
        push_request,
        expires,
        refreshes_itself: contact.params.get("+sip.pnsreg").is_some(),
        outbound: contact.params.get("reg-id").is_some(),
        proves,
        is_question: false,
        uri: contact.target().unwrap_or_default().into(),
    })
}

/// What keeps the Contacts of a REGISTER from being served, in words for its `Warning`: more than one is to last (RFC 8599 §4.1.1), none is an
/// address, `*` is not alone or is to last, or a `pn-*` parameter has no form.
pub fn contact_fault(register: &Message) -> Option<&'static str> {
    let contacts = register.contacts();
    if register.elements(Name::Contact).any(|element| element == "*") {
        let is_alone = contacts.is_empty() && register.number(Name::Expires) == Some(0);
        return (!is_alone).then_some("a Contact of * stands alone, with Expires: 0");
    }
    if contacts.is_empty() {
        return register.has(Name::Contact).then_some("no Contact of this REGISTER is an address");
    }
    let lasting = lasting(register, &contacts);
    let (lasts, others) = lasting.split_first()?;
    // A Contact that is written twice is one (RFC 3261 §10.3).
    if others.iter().any(|other| other.target() != lasts.target()) {
        return Some("a REGISTER may register one Contact");
    }
    push_request(lasts).is_err().then_some("the pn-provider, pn-param or pn-prid of the Contact cannot be read")
}

/// The Contacts that a REGISTER registers. Of several, only those whose host and port can be read, if there is one.
fn lasting<'a, 'b>(register: &Message, contacts: &'b [Party<'a>]) -> Vec<&'b Party<'a>> {
    let mut all: Vec<_> = contacts.iter().filter(|contact| lasts_for(register, contact) > 0).collect();
    let leads = |contact: &&Party<'_>| {
        // The text behind the port does not matter.
        let head = contact.target().and_then(|target| target.split([';', '?']).next());
        head.is_some_and(|head| Uri::parse(head).is_some())
    };
    if all.len() > 1 && all.iter().any(leads) {
        all.retain(leads);
    }
    all
}

/// The address of record of a REGISTER, and its SIP server as [`server_of`] spells it.
fn account_of(register: &Message, own_routes: usize) -> Result<(Box<str>, Box<str>), Unfit> {
    let registrar = register.request_uri().unwrap_or_default();
    if registrar.len() > URI_MAX {
        return Err(414);
    }
    let aor = address_of_record(register)?;
    if register.values(Name::Route).any(|route| std::str::from_utf8(route).is_err()) {
        return Err(400);
    }
    let routes = register.elements(Name::Route).count();
    if routes > own_routes + 1 {
        return Err(403);
    }
    let proxy = register.route(own_routes);
    if proxy.is_none() && routes > own_routes {
        return Err(400);
    }
    let proxy = proxy.as_ref().map(|proxy| proxy.uri.text);
    if aor.len() > URI_MAX || proxy.is_some_and(|proxy| proxy.len() > URI_MAX) {
        return Err(400);
    }
    Ok((aor, server_of(registrar, proxy).ok_or(416_u16)?))
}

/// The AOR that a REGISTER is for. Its SIP server says whether it may be registered, so that server must read the same one in
/// the address of To: there is one, however odd the text beside it may be.
fn address_of_record(register: &Message) -> Result<Box<str>, Unfit> {
    let value = register.values(Name::To).next().unwrap_or_default();
    let count = |byte| memchr::memchr_iter(byte, value).count();
    let alone = match (count(b'<'), count(b'>')) {
        (0, 0) => !value.iter().any(|byte| matches!(byte, b',' | b'"' | b'?')),
        (1, 1) => {
            let name = value.split(|byte| *byte == b'<').next().unwrap_or_default();
            // Some take what begins with a scheme for the address.
            !name.contains(&b':') || is_quoted_text(&String::from_utf8_lossy(name))
        }
        _ => named_in_quotes(value).is_some_and(|(name, rest)| {
            let count = |byte| memchr::memchr_iter(byte, rest).count();
            // Some take what stands in the first angle brackets for the address, quoted or not: that must be none.
            (count(b'<'), count(b'>')) == (1, 1) && !name.iter().any(|byte| matches!(byte, b':' | b'@'))
        }),
    };
    if !alone {
        return Err(400);
    }
    register.to().and_then(|to| aor_of(&to.uri()?)).ok_or(416)
}

/// A display name in quotes, and the angle bracket with what follows it (RFC 3261 §25.1).
fn named_in_quotes(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let value = value.trim_ascii_start();
    let inner = value.strip_prefix(b"\"")?;
    let mut is_escaped = false;
    let is_end = |byte: &u8| {
        let ends = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        ends
    };
    let (name, rest) = inner.split_at(inner.iter().position(is_end)?);
    let rest = rest[1..].trim_ascii_start();
    rest.starts_with(b"<").then_some((name, rest))
}

/// The request that a Contact's `pn-*` parameters make, also where the rest of its URI is odd.
fn push_request(contact: &Party<'_>) -> Result<PushRequest, Unfit> {
    let params = Uri::params_of(contact.target().unwrap_or_default());
    // An escape makes no other name of it (RFC 3261 §19.1.4).
    let is_named = |it: &str, name| it.contains('%') && resolved(it).is_some_and(|it| it.eq_ignore_ascii_case(name));
    let named = |name| params.iter().find(|(it, _)| it.eq_ignore_ascii_case(name) || is_named(it, name));
    let value = |name| {
        let value = named(name).and_then(|(_, value)| value);
        value.map(|value| resolved(value).ok_or(400_u16)).transpose()
    };
    let Some((_, provider)) = named("pn-provider") else { return Ok(PushRequest::Nothing) };
    let provider = provider.filter(|provider| !provider.is_empty()).map(|name| resolved(name).ok_or(400_u16));
    let provider: Option<Box<str>> = provider.transpose()?.map(|name| name.to_ascii_lowercase().into());
    match (provider, value("pn-prid")?) {
        (Some(provider), Some(prid)) => {
            Ok(PushRequest::Push(PushContact { provider, param: value("pn-param")?, prid }))
        }
        (None, Some(_)) => Err(400),
        (provider, None) => Ok(PushRequest::Query(provider)),
    }
}

/// A parameter's value, its escapes resolved (RFC 8599 §8.7); `None` when it is empty, too long or no text.
fn resolved(value: &str) -> Option<Box<str>> {
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                (high << 4 | low) as u8
            }
            other => other,
        });
    }
    let text = String::from_utf8(out).ok()?;
    (!text.is_empty() && text.len() <= VALUE_MAX && !text.contains(char::is_control)).then(|| text.into())
}

fn aor_of(uri: &Uri<'_>) -> Option<Box<str>> {
    let scheme = match uri.scheme {
        Scheme::Sip => "sip",
        Scheme::Sips => "sips",
        Scheme::Other => return None,
    };
    Some(format!("{scheme}:{}@{}", uri.user?, uri.canonical_host()).into())
}

/// The lifetime that a Contact asks for, in seconds.
pub(super) fn lasts_for(register: &Message, contact: &Party<'_>) -> u32 {
    contact.expires(EXPIRES_DEFAULT).or_else(|| register.number(Name::Expires)).unwrap_or(EXPIRES_DEFAULT)
}

pub(super) fn contact_key(contact: &Party<'_>) -> Box<str> {
    let instance = contact.params.value("+sip.instance").map(unquote).filter(|instance| !instance.is_empty());
    let key = match instance {
        Some(instance) => instance.to_ascii_lowercase(),
        None => {
            let target = contact.target().unwrap_or_default();
            target.split(';').next().unwrap_or(target).to_owned()
        }
    };
    if key.len() > CONTACT_MAX {
        let of_address = if names_device(&key) { "" } else { "sip:" };
        format!("{of_address}sha256:{}", URL_SAFE_NO_PAD.encode(Sha256::digest(key.as_bytes()))).into()
    } else {
        key.into()
    }
}

/// Whether a key names a device, and not the address that it has, as others may in another network.
pub fn names_device(contact: &str) -> bool {
    let is = |scheme: &str| contact.get(..scheme.len()).is_some_and(|it| it.eq_ignore_ascii_case(scheme));
    !is("sip:") && !is("sips:")
}

impl RegisterIntent {
    /// The registration that it asks for, and how that is to be reached; `None`: it ends one, or only asks.
    pub fn registration(&self, key: &TokenKey) -> Option<(InstanceId, Reach)> {
        match &self.push_request {
            PushRequest::Push(push) => Some((identify(key, &self.aor, &self.server, push), Reach::Pushed)),
            PushRequest::Nothing if self.expires > 0 => {
                Some((identify_by_flow(key, &self.aor, &self.server, &self.contact), Reach::ByFlow))
            }
            PushRequest::Nothing | PushRequest::Query(_) => None,
        }
    }

    /// The registration of the same account that a Contact names by its push parameters; `None`: it has none that can be read.
    pub fn pushed_by(&self, key: &TokenKey, contact: &Party<'_>) -> Option<InstanceId> {
        match push_request(contact) {
            Ok(PushRequest::Push(push)) => Some(identify(key, &self.aor, &self.server, &push)),
            _ => None,
        }
    }

    /// Whether the device is left to refresh a registration of this life by itself: one of a shorter life would be due at once, again and
    /// again, [`REFRESH_BEFORE_S`] before its end.
    pub fn keeps_itself(&self, life: Duration) -> bool {
        self.refreshes_itself && life >= 2 * Duration::from_secs(u64::from(REFRESH_BEFORE_S))
    }

    /// The lifetime that a 2xx grants its Contact; zero when it does not register it (RFC 3261 §10.3 step 8).
    pub fn granted(&self, response: &Message) -> Duration {
        if self.expires == 0 {
            return Duration::ZERO;
        }
        let contacts = response.contacts();
        let header = || response.number(Name::Expires).unwrap_or(self.expires);
        let life = |contact: &&Party<'_>| contact.expires(header()).unwrap_or_else(header);
        let names_token = |contact: &Party<'_>| match &self.push_request {
            PushRequest::Push(_) => push_request(contact).as_ref() == Ok(&self.push_request),
            PushRequest::Query(_) | PushRequest::Nothing => false,
        };
        let same = contacts.iter().find(|contact| contact.target() == Some(&*self.uri));
        let is_its = |contact: &&Party<'_>| contact_key(contact) == self.contact || names_token(contact);
        // What the device has left behind at other addresses ends sooner.
        let ours = same.or_else(|| contacts.iter().filter(is_its).max_by_key(life));
        // A server between that rewrites Contacts: if there is but one, it is meant.
        let ours = ours.or(if let [one] = &contacts[..] { Some(one) } else { None });
        Duration::from_secs(u64::from(ours.as_ref().map_or_else(header, life)))
    }
}

/// The SIP server that a REGISTER goes to, in one spelling: its Request-URI, and the Route that is left when ours is taken
/// off. All of both counts: by a user, a `maddr`, a port or a header of a URI somebody else may answer. `None`: one of them
/// is not a URI of SIP.
pub fn server_of(registrar: &str, proxy: Option<&str>) -> Option<Box<str>> {
    let (registrar, proxy) = (spelling(registrar)?, proxy.map(spelling));
    match proxy {
        Some(proxy) => Some(format!("{registrar} by {}", proxy?).into()),
        None => Some(registrar.into()),
    }
}

/// The registrar and the proxy of what [`server_of`] has spelt.
pub fn server_parts(server: &str) -> (&str, Option<&str>) {
    server.split_once(" by ").map_or((server, None), |(registrar, proxy)| (registrar, Some(proxy)))
}

/// The Service-Route of a 2xx (RFC 3608 §6), as it is to be put into Route; empty when there is none, or when it is not one of
/// SIP's, or longer than [`SERVICE_ROUTES_MAX`] values or [`SERVICE_ROUTE_BYTES`].
pub fn service_route(response: &Message) -> Box<[Box<str>]> {
    let values: Vec<&str> = response.elements(Name::ServiceRoute).collect();
    let fits = values.len() <= SERVICE_ROUTES_MAX
        && values.iter().map(|value| value.len()).sum::<usize>() <= SERVICE_ROUTE_BYTES;
    let sound = |value: &&str| NameAddr::parse(value).is_some_and(|route| spelling(route.uri.text).is_some());
    if fits && values.iter().all(sound) { values.into_iter().map(Into::into).collect() } else { Box::default() }
}

/// The identities of other domains that the 2xx to a REGISTER of this AOR gives its account (P-Associated-URI, RFC 7315 §4.1), as AORs are
/// spelt; of more than [`IDENTITIES_MAX`], or [`IDENTITIES_BYTES`], the first ones.
pub fn identities(response: &Message, aor: &str) -> Box<[Box<str>]> {
    let host = |aor: &str| aor.rsplit_once('@').map(|(_, host)| host.to_owned());
    let uris = response.elements(Name::PAssociatedUri).filter_map(|value| Some(NameAddr::parse(value)?.uri));
    let named = uris.filter(|uri| !names_nobody(uri)).filter_map(|uri| aor_of(&uri));
    let (mut all, mut left) = (Vec::new(), IDENTITIES_BYTES);
    for identity in named.filter(|identity| host(identity) != host(aor)).take(IDENTITIES_MAX) {
        let Some(rest) = left.checked_sub(identity.len()) else { break };
        left = rest;
        all.push(identity);
    }
    all.into()
}

/// The names that the 2xx to a REGISTER gives.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistrationNames {
    /// The AOR.
    pub address: Box<str>,
    /// Its shard.
    pub shard: ShardTag,
    /// The identities of other domains.
    pub identities: Box<[Box<str>]>,
    /// Whether any Contact is registered.
    pub stands: bool,
}

/// The names of the registration that a 2xx to a REGISTER is about; `None`: it is no such response, or names nobody.
pub fn names_of_registration(response: &Message) -> Option<RegistrationNames> {
    let is_granted = matches!(response.status(), Some(200..300));
    let (_, method) = response.cseq().filter(|_| is_granted)?;
    let address = response.to().filter(|_| method == Method::Register.as_str()).and_then(|to| aor_of(&to.uri()?))?;
    let (shard, identities) = (tag_of(&address), identities(response, &address));
    Some(RegistrationNames { address, shard, identities, stands: response.has(Name::Contact) })
}

/// A URI with its host, its parameters and their order in one spelling (RFC 3261 §19.1.4).
pub fn spelling(uri: &str) -> Option<String> {
    let uri = Uri::parse(uri)?;
    let scheme = match uri.scheme {
        Scheme::Sip => "sip:",
        Scheme::Sips => "sips:",
        Scheme::Other => return None,
    };
    let rest = &uri.text[scheme.len()..];
    // The user with its password, as written.
    let user = rest.find('@').filter(|_| uri.user.is_some()).map_or("", |at| &rest[..=at]);
    let port = uri.port.map(|port| format!(":{port}")).unwrap_or_default();
    let named = |(name, value): (&str, Option<&str>)| match (name.to_ascii_lowercase(), value) {
        (name, None) => format!(";{name}"),
        (name, Some(value)) if name == "transport" || name == "maddr" => {
            format!(";{name}={}", value.to_ascii_lowercase())
        }
        // The meaning of another parameter is the server's own affair, and case may matter in it.
        (name, Some(value)) => format!(";{name}={value}"),
    };
    // `lr` is dropped whatever its value: it is a flag, and a peer may return it without the value.
    let mut params: Vec<String> =
        uri.params.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("lr")).map(named).collect();
    params.sort_unstable();
    let headers = uri.headers.map(|headers| format!("?{headers}")).unwrap_or_default();
    let host = uri.canonical_host();
    let host = host.trim_end_matches('.');
    Some(format!("{scheme}{user}{host}{port}{}{headers}", params.concat()))
}

/// The name of a registration, on the shard of its AOR. `server`: as [`server_of`] spells it.
pub fn identify(key: &TokenKey, aor: &str, server: &str, push: &PushContact) -> InstanceId {
    let parts = [server, aor, &push.provider, push.param.as_deref().unwrap_or_default(), &push.prid];
    let bits = key.name("sipwake push instance 2", &parts.map(str::as_bytes));
    InstanceId::new(u128::from_be_bytes(bits), tag_of(aor))
}

/// The name of a registration that its flow alone leads to, on the shard of its AOR. `contact`: the key that tells the AOR's
/// devices apart, so that a device which comes back by another flow is the same one.
fn identify_by_flow(key: &TokenKey, aor: &str, server: &str, contact: &str) -> InstanceId {
    let bits = key.name("sipwake flow instance 1", &[server, aor, contact].map(str::as_bytes));
    InstanceId::new(u128::from_be_bytes(bits), tag_of(aor))
}

/// The binding of a registration, on the same shard.
pub fn binding_of(key: &TokenKey, instance: InstanceId) -> BindingId {
    let bits = key.name("sipwake push binding 2", &[&instance.to_bytes()]);
    BindingId::new(u128::from_be_bytes(bits), instance.tag())
}

/// The name by which the failures of an account at its SIP server are counted: the same for all devices of an AOR, for both schemes, and for each spelling that
/// a SIP server may take for the same user (RFC 3261 §19.1.4; some fold its case, too).
pub fn account_name(key: &TokenKey, aor: &str) -> BindingId {
    let address = aor.split_once(':').map_or(aor, |(_, address)| address);
    let address = wholly_unescaped(address).to_ascii_lowercase();
    let bits = key.name("sipwake push account 1", &[&address]);
    BindingId::new(u128::from_be_bytes(bits), ShardTag(0))
}

/// The shard of the AOR that a REGISTER names; `None` when it names none.
pub fn shard_of(register: &Message) -> Option<ShardTag> {
    register.to().and_then(|to| aor_of(&to.uri()?)).map(|aor| tag_of(&aor))
}

/// The shard of the AOR that a request's From names.
pub fn shard_of_sender(request: &Message) -> Option<ShardTag> {
    let from = request.from()?.uri()?;
    let named = if names_nobody(&from) { preferred(request).find_map(|uri| aor_of(&uri)) } else { aor_of(&from) };
    named.map(|aor| tag_of(&aor))
}

/// The address by which a request is begun, in the spelling of AORs: From, or where that names nobody the first preferred one.
pub fn address_of_sender(request: &Message) -> Option<Box<str>> {
    let from = request.from()?.uri()?;
    if names_nobody(&from) { preferred(request).find_map(|uri| address_of(&uri)) } else { address_of(&from) }
}

/// Whether a From does not say whose a request is: its host is of `.invalid`, as an anonymous one's (RFC 3323 §4.1.1.3, RFC 2606 §2), or it
/// has none, as a number.
pub fn names_nobody(from: &Uri<'_>) -> bool {
    let last = from.host.trim_end_matches('.').rsplit('.').next();
    from.scheme == Scheme::Other || last.is_some_and(|label| label.eq_ignore_ascii_case("invalid"))
}

/// The identities that a device prefers: those of its accounts that it begins a request with (RFC 3325 §9.2).
pub fn preferred(request: &Message) -> impl Iterator<Item = Uri<'_>> {
    request.elements(Name::PPreferredIdentity).filter_map(|value| Some(NameAddr::parse(value)?.uri))
}

/// An address as an AOR is spelt, also without a user; `None` for one that is not of SIP.
pub fn address_of(uri: &Uri<'_>) -> Option<Box<str>> {
    let named = aor_of(uri);
    named.or_else(|| (uri.scheme != Scheme::Other).then(|| format!("sip:{}", uri.canonical_host()).into()))
}

/// Eight bits of the AOR's hash: enough for as many shards as there may be, and next to nothing about the AOR.
fn tag_of(aor: &str) -> ShardTag {
    ShardTag(u16::from(Sha256::digest(aor.as_bytes())[0]))
}

/// The Path that leads requests for a registration back here (RFC 3327 §5.2). `outbound`: with the mark of a first hop
/// that keeps its flows (RFC 5626 §5.1).
pub fn path(key: &TokenKey, (instance, reach): (InstanceId, Reach), sent_by: SentBy<'_>, outbound: bool) -> String {
    let bytes = instance.to_bytes();
    let token = URL_SAFE_NO_PAD.encode([&bytes[..], &key.mac(&bytes, reach.purpose())].concat());
    let transport = match sent_by.transport {
        Transport::Udp => String::new(),
        other => format!(";transport={}", other.param()),
    };
    let outbound = if outbound { ";ob" } else { "" };
    format!("<sip:{token}@{}{transport};lr{outbound}>", sent_by.host)
}

/// Whether a user looks like that of a Path, believed or not.
pub fn is_path(user: &str) -> bool {
    URL_SAFE_NO_PAD.decode(user).is_ok_and(|bytes| bytes.len() == 16 + MAC_LEN)
}

/// The registration whose Path the topmost Route is, and how it was to be reached.
pub fn own_path(key: &TokenKey, request: &Message) -> Option<(InstanceId, Reach)> {
    let bytes = URL_SAFE_NO_PAD.decode(request.route_user(0)?).ok()?;
    let (payload, mac) = bytes.split_first_chunk::<16>()?;
    // The token of a dialog is longer.
    let mac: &[u8; MAC_LEN] = mac.try_into().ok()?;
    let is_of =
        |reach: &Reach| bool::from(subtle::ConstantTimeEq::ct_eq(&key.mac(payload, reach.purpose())[..], &mac[..]));
    let reach = [Reach::Pushed, Reach::ByFlow].into_iter().find(is_of)?;
    Some((InstanceId::from_bytes(*payload), reach))
}

/// Whether the topmost Route says that the first hop of its Path keeps its flows (RFC 5626 §5.1). Without angle brackets, as FreeSWITCH
/// writes it, `ob` stands behind the URI (RFC 3261 §20).
pub fn is_outbound(request: &Message) -> bool {
    request.route(0).is_some_and(|route| route.uri.params.get("ob").is_some() || route.params.get("ob").is_some())
}

/// The registration that a request inside a dialog names by the PURR of its Request-URI (§6.2.3).
pub fn purr(request: &Message) -> Option<InstanceId> {
    Uri::parse(request.request_uri()?)?.params.value("pn-purr").and_then(InstanceId::parse)
}

/// The Feature-Caps of a 2xx that grants this life to a registration which is pushed for (§5.6.1.1, §6.2.1).
pub fn feature_caps(intent: &RegisterIntent, push: &PushContact, instance: InstanceId, life: Duration) -> String {
    let own = if intent.keeps_itself(life) { format!(";+sip.pnsreg=\"{REFRESH_BEFORE_S}\"") } else { String::new() };
    format!("{}{own};+sip.pnspurr=\"{instance}\"", serves(&push.provider))
}

/// One service, as Feature-Caps names it (RFC 6809, RFC 8599 §8.2).
pub fn serves(provider: &str) -> String {
    format!("*;+sip.pns=\"{provider}\"")
}

/// How long before its end a registration is pushed for: a quarter of its life, at least [`RENEW_BEFORE`] and half of a
/// life that is shorter than twice that, at most an hour (§5.5).
pub fn renew_before(life: Duration) -> Duration {
    (life / 4).clamp(RENEW_BEFORE, RENEW_BEFORE_MAX).min(life / 2)
}

#[cfg(test)]
mod tests;
