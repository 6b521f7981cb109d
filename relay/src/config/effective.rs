//! Every setting as it is in force: its value, and where that comes from.
//!
//! Invariant: no secret stands here: files are named and not opened, and of a URL user, password, query and fragment are left out, and of a store's what is
//! no host or database.

use std::net::Ipv6Addr;

use toml::Value;

/// The table of settings, which has the defaults.
const TABLE: &str = include_str!("settings.md");
/// How the URL of a Redis begins.
const SCHEMES: [&str; 6] = ["redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"];

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its place: `call.ring_timeout`, `app[0].id`.
    pub place: String,
    /// Its value as the file would have it; the default in words where it is not set.
    pub value: String,
    /// Its origin.
    pub origin: Origin,
}

/// The origin of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The file, with its line where it is known.
    File(Option<usize>),
    /// A variable of the environment.
    Environment(String),
    /// The setting is not set.
    Default,
}

/// A value as the file would have it.
pub(super) fn written(place: &str, value: &Value) -> String {
    match value {
        Value::String(url) if place == "store.url" => Value::String(without_credentials(url)).to_string(),
        Value::String(url) if is_of_web(url) => Value::String(without_secrets(url)).to_string(),
        other => other.to_string(),
    }
}

/// The default of a setting, as the table of settings has it; `None` when it is none of the table's.
pub(super) fn default_of(place: &str) -> Option<String> {
    let place = nameless(place);
    TABLE.lines().find_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let (names, _, default) = (cells.next()?, cells.next()?, cells.next()?);
        let mut names = names.split(", ").map(|name| name.trim_matches('`'));
        let first = names.next()?;
        let section = first.rsplit_once('.').map_or("", |(section, _)| section);
        let fits = first == place || names.any(|name| format!("{section}.{name}") == place || name == place);
        fits.then(|| default.replace('`', ""))
    })
}

/// `app[0].id` as the table has it: `app[].id`.
fn nameless(place: &str) -> String {
    let mut out = String::with_capacity(place.len());
    let mut inside = false;
    for c in place.chars() {
        inside = (inside && c != ']') || c == '[';
        if !inside || c == '[' {
            out.push(c);
        }
    }
    out
}

/// Whether a text is a URL of the web, whose scheme may be written in capitals.
fn is_of_web(text: &str) -> bool {
    let is_scheme = |scheme: &str| ["https", "http"].iter().any(|web| scheme.eq_ignore_ascii_case(web));
    text.split_once("://").is_some_and(|(scheme, _)| is_scheme(scheme))
}

/// A URL of the web without its user, and without what follows `?` or `#`.
fn without_secrets(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (rest, query) = rest.split_once(['?', '#']).map_or((rest, ""), |(rest, _)| (rest, "?…"));
    match rest.rsplit_once('@') {
        Some((before, _)) if before.contains('/') => format!("{scheme}://…"),
        Some((_, rest)) => format!("{scheme}://…@{rest}{query}"),
        None => format!("{scheme}://{rest}{query}"),
    }
}

/// Its scheme, hosts and path: a password may stand before `@`, after `?`, or in place of all of it. Where an `@` follows a `/`, `?` or `#`, which of
/// them begins the password cannot be told, and the scheme stands alone; so it does where a path is no database.
fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| SCHEMES.contains(scheme)) else {
        return if url == "memory:" { url } else { "…" }.to_owned();
    };
    let (user, rest) = match rest.rsplit_once('@') {
        Some((before, _)) if before.contains(['/', '?', '#']) => return format!("{scheme}://…"),
        Some((_, rest)) => ("…@", rest),
        None => ("", rest),
    };
    let (rest, query) = rest.split_once(['?', '#']).map_or((rest, ""), |(rest, _)| (rest, "?…"));
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !has_hosts_alone(hosts) || !is_database(scheme, path) {
        return format!("{scheme}://…");
    }
    format!("{scheme}://{user}{rest}{query}")
}

/// Whether a path, without its first `/`, is that of a database: its number, by Sentinel behind the name of a service.
fn is_database(scheme: &str, path: &str) -> bool {
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !scheme.ends_with("+sentinel") {
        return is_number(path);
    }
    let (service, number) = path.split_once('/').unwrap_or((path, ""));
    service.chars().all(is_of_name) && is_number(number)
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._".contains(c)
}

/// Whether what stands before the path are hosts with their ports. Else it may be a user and a password whose `@` and host were forgotten.
fn has_hosts_alone(authority: &str) -> bool {
    authority.split(',').all(|host| {
        let (name, port) = match host.rsplit_once(':') {
            // An IPv6 address ends with its bracket.
            Some((name, port)) if !port.ends_with(']') => (name, port.parse::<u16>().is_ok()),
            _ => (host, true),
        };
        let inside = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        port && inside.map_or_else(|| name.chars().all(is_of_name), |address| address.parse::<Ipv6Addr>().is_ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_of_the_table_has_its_default_and_a_section_has_none() {
        let told = |place| default_of(place).unwrap();
        assert_eq!(told("edge.listen"), "0.0.0.0:5061");
        assert_eq!(told("app[3].apns.team_id"), "none: must be named");
        assert_eq!(told("app[12].id"), "none: must be named");
        assert_eq!(told("acme.state"), "acme beside store.keyring", "of a default in words each mark is taken");
        assert_eq!((default_of("edge"), default_of("app[0]"), default_of("app")), (None, None, None));
    }

    #[test]
    fn a_store_is_shown_without_its_password() {
        let shown = |url: &str| written("store.url", &Value::String(url.to_owned()));
        assert_eq!(shown("rediss://relay:secret@redis.example.net/"), "\"rediss://…@redis.example.net/\"");
        assert_eq!(shown("redis://:p@ss@h"), "\"redis://…@h\"");
        assert_eq!(shown("redis://h/?password=secret"), "\"redis://h/?…\"");
        assert_eq!(shown("redis://u:p@h?password=se@ret"), "\"redis://…\"");
        assert_eq!(shown("redis://u:pa#ss@h/"), "\"redis://…\"");
        let sentinels = "redis+sentinel://a:26379,b/main/1?sentinel_password=secret";
        assert_eq!(shown(sentinels), "\"redis+sentinel://a:26379,b/main/1?…\"");
        for forgotten in
            ["redis://relay:secret", "redis://:secret/0", "rediss://relay:secret,b:6379", "redis://a:1:secret"]
                .into_iter()
                .chain(["redis://a/secret", "redis://a:1/0/secret", "redis://a/0@secret", "redis://a/:secret@b"])
                .chain(["redis+cluster://a,b/secret", "redis+sentinel://a/main/secret", "redis+sentinel://a/:secret"])
                .chain(["redis://:a@b:port/db#secret", "redis://:se/cret@b"])
        {
            let scheme = forgotten.split(':').next().unwrap();
            assert_eq!(shown(forgotten), format!("\"{scheme}://…\""), "{forgotten}");
        }
        for whole in ["redis://[2001:db8::1]:6379/0", "redis://[::1]/", "redis://redis", "redis+cluster://a:1,b_c.d:2"]
        {
            assert_eq!(shown(whole), format!("\"{whole}\""));
        }
        for other in ["secret", "secret://a", "relay:secret@redis://a", "http://a/secret"] {
            assert_eq!(shown(other), "\"…\"");
        }
        assert_eq!(shown("redis://secret@a/1"), "\"redis://…@a/1\"");
        assert_eq!(shown("memory:"), "\"memory:\"");
    }

    #[test]
    fn a_url_of_the_web_is_shown_without_what_may_be_a_secret() {
        let shown = |url: &str| written("acme.directory_url", &Value::String(url.to_owned()));
        for (url, what) in [
            ("https://ca.example/directory", "https://ca.example/directory"),
            ("https://ca.example:8443/d?key=secret", "https://ca.example:8443/d?…"),
            ("https://ca.example/d#secret", "https://ca.example/d?…"),
            ("HTTPS://ca.example/d?key=secret", "HTTPS://ca.example/d?…"),
            ("https://me:secret@ca.example/d?secret", "https://…@ca.example/d?…"),
            ("https://me:se/cret@ca.example", "https://…"),
            ("mailto:ops@example.net", "mailto:ops@example.net"),
        ] {
            assert_eq!(shown(url), format!("\"{what}\""), "{url}");
        }
    }
}
