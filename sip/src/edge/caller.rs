//! The caller of a call, or the sender of a message, as a device may be told (RFC 3261 §19.1, RFC 3323, RFC 3325, RFC 3966).
//!
//! | the address | what is told |
//! | --- | --- |
//! | `sip:` or `sips:` with a user | `sip:user@host`; of a number its `ext`, `isub` and `phone-context`, too |
//! | one that breaks its grammar behind the host | the same |
//! | `sip:` or `sips:` without a user | `sip:host` |
//! | `tel:` | `tel:` and the number, with these three |
//! | `im:`, `pres:`, `xmpp:`, `mailto:`, `h323:`, `acct:` | `scheme:user@host` |
//! | the user `anonymous`, or a host `anonymous.invalid` | [`ANONYMOUS`] |
//! | anything else, and what has two `@` | nothing |
//!
//! Invariant: no password, no port, no header and no parameter but those named here gets out. Of what could be read in two ways nothing is
//! told: a piece of a password could be taken for a host, and a password without its scheme for a user.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use crate::message::{Message, Name, Party, Uri, unescaped, wholly_unescaped};

/// The address shown for a caller whose identity may not be told.
pub const ANONYMOUS: &str = "sip:anonymous@anonymous.invalid";

/// The schemes beside `sip:` and `tel:` whose addresses are of a user at a host. An unknown scheme may be a user itself, in front of a password.
const OTHER_SCHEMES: &[&str] = &["im", "pres", "xmpp", "mailto", "h323", "acct"];
/// The parameters of a number that are a part of it (RFC 3966 §5.1.5, §5.3).
const NUMBER_PARAMS: &[&str] = &["ext", "isub", "phone-context"];

/// The visual separators of a number (RFC 3966 §3).
const SEPARATORS: &[u8] = b"-.()";

/// The identities that a SIP server asserts, of which the first that can be read are believed: it may assert two (RFC 3325 §9.1).
const IDENTITIES_READ: usize = 8;

/// A caller, as a device may know it: the URI, and the display name where there is one.
pub type Caller = (Box<str>, Option<Box<str>>);

/// The caller of a request, as the device may know it. It came from the account's own SIP server, so its
/// P-Asserted-Identity is believed before its From (RFC 3325 §9.1); a private caller is anonymous here too (RFC 3323 §4.1.1.3,
/// §4.2), whether it says so by Privacy or by an anonymous From.
pub fn caller(request: &Message) -> Caller {
    let Some(from) = request.from().filter(|_| !wants_privacy(request)) else { return (ANONYMOUS.into(), None) };
    let own = from.target().and_then(Address::read);
    if own.as_ref().is_some_and(Address::is_anonymous) {
        return (ANONYMOUS.into(), None);
    }
    let name = |party: &Party<'_>| party.name().and_then(shown);
    match asserted(request) {
        None => (own.map_or_else(|| ANONYMOUS.into(), |own| own.told()), name(&from)),
        Some((party, who)) => {
            // The From may say in words who the same caller is.
            let is_same = own.as_ref().and_then(Address::subscriber).is_some_and(|own| who.subscriber() == Some(own));
            (who.told(), name(&party).or_else(|| is_same.then(|| name(&from)).flatten()))
        }
    }
}

/// The text that a request's `caller` is counted by. For an anonymous caller it is the identity that the SIP server asserts nevertheless, so that
/// callers who withhold their numbers are counted apart; failing that, a From that cannot be read. It must be hashed, and neither stored nor shown.
pub fn counted_caller<'a>(request: &'a Message, caller: &'a Caller) -> Cow<'a, str> {
    if *caller.0 != *ANONYMOUS {
        return Cow::Borrowed(&caller.0);
    }
    match asserted(request) {
        Some((_, who)) => Cow::Owned(who.told().into()),
        None => {
            let from = request.from().filter(|_| !wants_privacy(request)).and_then(|from| from.target());
            Cow::Borrowed(from.filter(|from| Address::read(from).is_none()).unwrap_or(ANONYMOUS))
        }
    }
}

/// The form of an address that may be told: [`ANONYMOUS`] for an anonymous one; `None` where the address cannot be read.
pub fn told(address: &str) -> Option<Box<str>> {
    let address = Address::read(address)?;
    Some(if address.is_anonymous() { ANONYMOUS.into() } else { address.told() })
}

/// The form in which an address is counted: one for all ways to write an address that a SIP server may take for the same caller's (RFC 3261 §19.1.4,
/// RFC 3966 §4). Case, escapes, separators of a number, parameters of a user and ways to write a host are no more in it; an address that cannot be
/// read is as it was written. It must be hashed, and neither stored nor shown.
pub fn counted(address: &str) -> Cow<'_, [u8]> {
    Address::read(address).map_or(Cow::Borrowed(address.as_bytes()), |it| Cow::Owned(it.counted()))
}

/// A display name as it is shown: without control characters; one that is an address itself, as what may be told of it.
pub fn shown(name: Cow<'_, str>) -> Option<Box<str>> {
    if Uri::is_sip(name.trim_start()) {
        return told(name.trim());
    }
    Some(if name.contains(char::is_control) {
        name.chars().filter(|c| !c.is_control()).collect::<String>().into()
    } else {
        name.into()
    })
}

/// The parts of an address.
#[derive(Clone, Copy)]
enum Address<'a> {
    /// A user at a host.
    User { scheme: &'a str, user: &'a str, host: &'a str },
    /// A host alone.
    Host(&'a str),
    /// A number of `tel:`.
    Number(&'a str),
}

impl<'a> Address<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once(':')?;
        if scheme.eq_ignore_ascii_case("tel") {
            return is_number(before_params(rest)).then_some(Self::Number(rest));
        }
        let is_sip = Uri::is_sip(text);
        if !is_sip && !OTHER_SCHEMES.iter().any(|known| known.eq_ignore_ascii_case(scheme)) {
            return None;
        }
        match Uri::user_and_host_of(rest) {
            Some((user, host)) => {
                let scheme = if is_sip { "sip" } else { scheme };
                // A path or a query before the `@` cannot be interpreted.
                (is_sip || !user.contains(['/', '?', '#', ';'])).then_some(Self::User { scheme, user, host })
            }
            None if is_sip && !rest.contains('@') => Uri::parse(text).map(|uri| Self::Host(uri.host)),
            None => None,
        }
    }

    fn is_anonymous(&self) -> bool {
        match self {
            Self::User { user, host, .. } => {
                is_nobodys(host) || unescaped(before_params(user)).eq_ignore_ascii_case("anonymous")
            }
            Self::Host(host) => is_nobodys(host),
            Self::Number(_) => false,
        }
    }

    /// The user, or the number without its parameters.
    fn subscriber(&self) -> Option<&'a str> {
        match self {
            Self::User { user, .. } => Some(before_params(user)),
            Self::Number(number) => Some(before_params(number)),
            Self::Host(_) => None,
        }
    }

    fn counted(&self) -> Vec<u8> {
        let (scheme, user, context) = match *self {
            Self::User { scheme, user, host } => (scheme, user, counted_host(host)),
            Self::Host(host) => ("sip", "", counted_host(host)),
            Self::Number(number) => ("tel", number, counted_context(number)),
        };
        // The user is last: the others cannot hold what stands between them.
        let mut form = [scheme, "\n", &context, "\n"].concat().to_ascii_lowercase().into_bytes();
        form.extend(counted_user(user));
        form
    }

    fn told(&self) -> Box<str> {
        match *self {
            Self::User { scheme, user, host } => {
                // A user that is no number may contain a `;` (RFC 4475 §3.1.1.1).
                let (user, params) = match user.find(';') {
                    Some(end) if is_number(&user[..end]) => user.split_at(end),
                    _ => (user, ""),
                };
                let mut text = String::with_capacity(scheme.len() + user.len() + params.len() + host.len() + 2);
                text.extend([scheme, ":", user]);
                push_params(&mut text, params);
                text.extend(["@", host]);
                text.into()
            }
            Self::Host(host) => ["sip:", host].concat().into(),
            Self::Number(number) => {
                let (number, params) = number.split_at(number.find(';').unwrap_or(number.len()));
                let mut text = String::with_capacity(4 + number.len() + params.len());
                text.extend(["tel:", number]);
                push_params(&mut text, params);
                text.into()
            }
        }
    }
}

/// A user, or a number, without its parameters. A server may compare users without case.
fn counted_user(user: &str) -> Vec<u8> {
    let mut user = wholly_unescaped(user);
    user.truncate(user.iter().position(|byte| *byte == b';').unwrap_or(user.len()));
    if std::str::from_utf8(&user).is_ok_and(is_number) {
        user.retain(|byte| !SEPARATORS.contains(byte));
    }
    user.make_ascii_lowercase();
    user
}

/// The place where a number of `tel:` that is not global is one (RFC 3966 §5.1.5).
fn counted_context(number: &str) -> String {
    if number.starts_with('+') {
        return String::new();
    }
    let contexts = number.split(';').filter_map(|param| param.split_once('='));
    let context =
        contexts.filter(|(name, _)| name.eq_ignore_ascii_case("phone-context")).map(|(_, value)| value).next();
    let context = String::from_utf8_lossy(&wholly_unescaped(context.unwrap_or_default())).into_owned();
    if is_number(&context) {
        context.replace(|c: char| c.is_ascii() && SEPARATORS.contains(&(c as u8)), "")
    } else {
        counted_host(&context)
    }
}

/// A host without its final dot; an address by its value.
fn counted_host(host: &str) -> String {
    if let Some(Ok(address)) = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).map(str::parse::<Ipv6Addr>) {
        return address.to_canonical().to_string();
    }
    let labels: Vec<Option<u16>> = host.split('.').map(|label| label.parse().ok()).collect();
    match labels[..] {
        // Leading zeros are in the grammar.
        [Some(a), Some(b), Some(c), Some(d)] => format!("{a}.{b}.{c}.{d}"),
        _ => host.strip_suffix('.').unwrap_or(host).to_owned(),
    }
}

/// The parameters that are a part of a number; not their values that could be an address themselves.
fn push_params(text: &mut String, params: &str) {
    for param in params.split(';') {
        let (name, value) = param.split_once('=').unwrap_or_default();
        let sound = |b: u8| b.is_ascii_alphanumeric() || b"-_.!~*'()%+".contains(&b);
        let known = NUMBER_PARAMS.iter().any(|known| known.eq_ignore_ascii_case(name));
        if known && !value.is_empty() && value.bytes().all(sound) {
            text.extend([";", param]);
        }
    }
}

/// Digits, with what may stand between them (RFC 3966 §3); not the letters of its local numbers, which could be a word.
fn is_number(text: &str) -> bool {
    let text = unescaped(text);
    let digit = |b: &u8| b.is_ascii_digit() || matches!(b, b'*' | b'#');
    let number = text.strip_prefix('+').unwrap_or(&text).as_bytes();
    number.iter().any(digit) && number.iter().all(|b| digit(b) || SEPARATORS.contains(b))
}

fn before_params(user: &str) -> &str {
    user.split_once(';').map_or(user, |(user, _)| user)
}

fn is_nobodys(host: &str) -> bool {
    host.strip_suffix('.').unwrap_or(host).eq_ignore_ascii_case("anonymous.invalid")
}

fn wants_privacy(request: &Message) -> bool {
    request.values(Name::Privacy).any(|value| {
        let text = String::from_utf8_lossy(value).to_ascii_lowercase();
        text.split([';', ',']).any(|word| matches!(word.trim(), "id" | "user" | "header"))
    })
}

/// The identity that the SIP server asserts: of a `sip:` and a `tel:` one (RFC 3325 §9.1) the first.
fn asserted(request: &Message) -> Option<(Party<'_>, Address<'_>)> {
    let mut other = None;
    for element in request.elements(Name::PAssertedIdentity).take(IDENTITIES_READ) {
        let party = Party::read(element.as_bytes());
        let Some(address) = party.target().and_then(Address::read).filter(|it| !it.is_anonymous()) else { continue };
        if matches!(address, Address::User { scheme: "sip", .. } | Address::Host(_)) {
            return Some((party, address));
        }
        other.get_or_insert((party, address));
    }
    other
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::message::Limits;

    fn request(lines: &str) -> Message {
        let text = format!("INVITE sip:a@b SIP/2.0\r\n{lines}\r\nCSeq: 1 INVITE\r\n\r\n");
        Message::parse(&Bytes::from(text), &Limits::default()).expect("a request")
    }

    #[test]
    fn what_may_be_told_of_an_address_is_its_user_and_its_host() {
        for (address, expected) in [
            ("sip:bob@example.com", "sip:bob@example.com"),
            ("SIPS:bob@Example.com:5061;transport=tls?Subject=x", "sip:bob@Example.com"),
            ("sip:bob:pw@example.com", "sip:bob@example.com"),
            ("sip:bob@[2001:db8::1]:5060", "sip:bob@[2001:db8::1]"),
            ("sip:bob:pw@h;x=\"y\"", "sip:bob@h"),
            ("sip:bob:pw@h;;lr", "sip:bob@h"),
            ("sip:bob:pw@h:0;lr", "sip:bob@h"),
            ("sip:bob:pw@h:5060transport=udp", "sip:bob@h"),
            ("sip:bob:@h", "sip:bob@h"),
            ("sip:bob@h;", "sip:bob@h"),
            ("sip:bob@h/pw", "sip:bob@h"),
            ("sip:h", "sip:h"),
            ("sip:h:5060;lr", "sip:h"),
            (
                "sip:+49-30;phone-context=x;verstat=No-TN-Validation;ext=1:pw@h;user=phone",
                "sip:+49-30;phone-context=x;ext=1@h",
            ),
            ("sip:user;par=u%40example.net@example.com", "sip:user;par=u%40example.net@example.com"),
            ("sip:*21#@h", "sip:*21#@h"),
            ("tel:+49-30;isub=1;Phone-Context=+49;rn=x;ext=7", "tel:+49-30;isub=1;Phone-Context=+49;ext=7"),
            ("TEL:110;phone-context=sip:bob:pw@h", "tel:110"),
            ("xmpp:bob:pw@example.com/home", "xmpp:bob@example.com"),
            ("im:bob@example.com", "im:bob@example.com"),
            ("sip:anonymous@example.com", ANONYMOUS),
            ("sip:%41nonymous;x=y:pw@h", ANONYMOUS),
            ("sips:bob@Anonymous.INVALID.;x=\"y\"", ANONYMOUS),
            ("sip:anonymous.invalid", ANONYMOUS),
        ] {
            assert_eq!(told(address).as_deref(), Some(expected), "{address}");
        }
    }

    #[test]
    fn an_address_counts_as_one_however_it_is_written_and_others_as_others() {
        let callers: &[&[&str]] = &[
            &[
                "sip:mal@x.example",
                "SIPS:mal@x.EXample",
                "sip:%6dal@x.example.",
                "sip:m%61%4C@X.example:5062;a=1?b=c",
                "sip:mal;a1=1@x.example",
                "sip:mal%3Ba1=2:pw@x.example",
                "sip:MAL;;@x.example",
            ],
            &["sip:mall@x.example"],
            &["sip:mal@y.example"],
            &["sip:m%00al@x.example"],
            &[
                "sip:+15550001@x.example",
                "sip:+1-555-00.01@x.example;user=phone",
                "sip:%2B1(555)0001;ext=7@x.example",
                "sip:+1%2d5550001;phone-context=a@x.example",
            ],
            &["sip:15550001@x.example"],
            &["tel:+15550001", "TEL:+1-555-0001;ext=2", "tel:+1.(555).0001;isub=1;x=y"],
            &["tel:110;phone-context=+49", "tel:1-1-0;x=y;Phone-Context=+4-9"],
            &["tel:110;phone-context=example.com", "tel:110;phone-context=EXAMPLE.com."],
            &["tel:110"],
            &["sip:a@[2001:db8::1]", "sip:A@[2001:0DB8:0::1]:5060"],
            &["sip:a@127.0.0.1", "sip:a@127.000.0.01", "sip:a@[::ffff:127.0.0.1]"],
            &["sip:x.example", "sip:X.example.;lr"],
            &["xmpp:bob@x.example", "XMPP:b%6Fb@X.example"],
            &["https://bob@x.example"],
            &["https://BOB@x.example"],
        ];
        for (place, ways) in callers.iter().enumerate() {
            let form = counted(ways[0]);
            for way in *ways {
                assert_eq!(counted(way), form, "{way}");
                // What is told of it is counted, too.
                assert_eq!(told(way).map_or(form.clone().into_owned(), |it| counted(&it).into_owned()), *form, "{way}");
            }
            let others = callers.iter().skip(place + 1).flat_map(|it| it.iter());
            others.for_each(|other| assert_ne!(counted(other), form, "{other}"));
        }
    }

    #[test]
    fn of_what_could_be_read_in_two_ways_nothing_is_told() {
        for address in [
            "",
            "bob",
            "bob:pw@h",
            "sip:",
            "sip:@h",
            "sip::pw@h",
            "sip:bob:pw",
            "sip:bob@",
            "sip:bob:p@w@h",
            "sip:bob@corp@h",
            "sip:bob:pw@h;x=y@z",
            "sip:bob:pw@2001:db8::1",
            "sip:bob:pw@[h",
            "sip:bob:pw@h\u{f6}st",
            "sip:b ob:pw@h",
            "sip:bob:pw@h>",
            "sip:\"bob\":pw@h",
            " sip:bob@h",
            "<sip:bob@h>",
            "tel:bob:pw@h",
            "tel:cafe",
            "tel:",
            "https://bob:pw@h/",
            "xmpp:bob",
            "mailto:/bob:pw@h",
            "urn:service:sos",
        ] {
            assert_eq!(told(address), None, "{address}");
        }
    }

    #[test]
    fn no_password_gets_out_however_odd_its_address_is() {
        const PASSWORD: &str = "hunter2";
        // Between bars; where one is empty, nothing stands there.
        let schemes = "sip:|SIPS:|sip: |sip://|tel:|im:|xmpp:|h323:|https://|x:|:||<sip:|sip:sip:".split('|');
        let before = "bob:|bob::|bob@:|bob;p:|+49;ext=1:|:|b:c@d:|bob:%40|\"bob\":|b<b:|bob:1;";
        let behind = "@h|@h:0|@h:|@h;x=\"y\"|@h;;|@h@|@h@i|@@h|@h?a=b@c|@[::1]|@[::1|@::1||@|@h\u{e9}|@h,i|@h>|>@h|\"@h|;@h|?@h|/@h|#@h|:@h|:5060|\
                      %40h|@anonymous.invalid|@h/x|@h:1:2|<@h>|\u{7f}@h|,sip:b@h";
        let starts = schemes.flat_map(|scheme| before.split('|').map(move |it| format!("{scheme}{it}{PASSWORD}")));
        let all = starts.flat_map(|start| behind.split('|').map(move |end| format!("{start}{end}")));
        for address in all {
            let safe =
                |told: Option<&str>| assert!(!told.unwrap_or_default().contains(PASSWORD), "{address}: {told:?}");
            safe(told(&address).as_deref());
            safe(shown(Cow::Borrowed(&address)).as_deref().filter(|_| Uri::is_sip(&address)));
            for lines in [
                format!("From: <{address}>;tag=1"),
                format!("From: {address}"),
                format!("From: \"Bob\" <{address}"),
                format!("From: <sip:b@h>;tag=1\r\nP-Asserted-Identity: <{address}>"),
                format!("From: <sip:b@h>;tag=1\r\nP-Asserted-Identity: {address}, <tel:{address}>"),
            ] {
                let request = request(&lines);
                let (from, name) = caller(&request);
                safe(Some(&from));
                safe(name.as_deref().filter(|name| Uri::is_sip(name)));
            }
        }
    }

    #[test]
    fn who_is_anonymous_stays_so_in_an_address_that_breaks_its_grammar() {
        for from in ["sip:x@anonymous.invalid;x=\"y\"", "sip:anonymous:1@h;;", "sip:anonymous@h:0"] {
            let asserted = "P-Asserted-Identity: \"Bob\" <sip:bob@h>";
            let request = request(&format!("From: \"Bob\" <{from}>;tag=1\r\n{asserted}"));
            let who = caller(&request);
            assert_eq!(who, (ANONYMOUS.into(), None), "{from}");
            assert_eq!(counted_caller(&request, &who), "sip:bob@h");
        }
    }

    #[test]
    fn an_asserted_identity_that_breaks_its_grammar_is_read_as_far_as_it_goes() {
        for (asserted, who, name) in [
            ("\"Robert\" <sip:r:pw@h;x=\"y\">", "sip:r@h", Some("Robert")),
            ("<sip:r@h@i>", "sip:b@h", Some("Bob")),
            ("<sip:b@other;;>", "sip:b@other", Some("Bob")),
            ("\"sip:r:pw@h\" <sip:r@h>", "sip:r@h", Some("sip:r@h")),
        ] {
            let request = request(&format!("From: Bob <sip:b@h>;tag=1\r\nP-Asserted-Identity: {asserted}"));
            let (from, display) = caller(&request);
            assert_eq!((&*from, display.as_deref()), (who, name), "{asserted}");
        }
    }

    #[test]
    fn callers_of_whom_nothing_can_be_told_are_counted_one_by_one() {
        let key = |lines: &str| {
            let request = request(lines);
            let who = caller(&request);
            assert_eq!(&*who.0, ANONYMOUS, "{lines}");
            counted_caller(&request, &who).into_owned()
        };
        assert_ne!(key("From: <sip:bob@corp@h>;tag=1"), key("From: <sip:carol@corp@h>;tag=1"));
        assert_eq!(key("From: <sip:bob@corp@h>;tag=1\r\nPrivacy: id"), key("From: <sip:c@h>;tag=1\r\nPrivacy: id"));
    }

    #[test]
    fn no_identity_is_looked_for_behind_so_many_that_cannot_be_read() {
        let asserts = |unreadable: usize| {
            let list = format!("{}<tel:+4930>,<sip:bob@example.com>", "<a>,".repeat(unreadable));
            let request = request(&format!("From: <x:1>;tag=1\r\nP-Asserted-Identity: {list}"));
            let caller = caller(&request);
            (caller.0.clone(), counted_caller(&request, &caller).into_owned())
        };
        let told = |who: &str| (Box::from(who), who.to_owned());
        assert_eq!(asserts(IDENTITIES_READ - 2), told("sip:bob@example.com"));
        assert_eq!(asserts(IDENTITIES_READ - 1), told("tel:+4930"));
        for unreadable in [IDENTITIES_READ, 10_000] {
            assert_eq!(asserts(unreadable), (ANONYMOUS.into(), "x:1".into()));
        }
    }
}
