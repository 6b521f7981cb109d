//! The port of an `https` URL.
//!
//! Invariant: a URL that names a port leads to that port and to no other one.

use hyper::Uri;

/// The usual port of `https`.
const USUAL: u16 = 443;

/// The port that `url` names, or the usual one where it names none (RFC 3986 §6.2.3: an empty one is none); `None` when it names
/// what is no port, or 0.
pub(crate) fn https_port(url: &Uri) -> Option<u16> {
    let authority = url.authority()?;
    let host_and_port = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, rest)| rest);
    match host_and_port.get(authority.host().len()..)?.split_at_checked(1) {
        None | Some((":", "")) => Some(USUAL),
        Some((":", port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            port.parse().ok().filter(|port| *port != 0)
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_the_one_that_is_named_or_none() {
        for (url, port) in [
            ("https://h/", Some(443)),
            ("https://h:/", Some(443)),
            ("https://h:8443/a?b=c:9", Some(8_443)),
            ("https://h:00443/", Some(443)),
            ("https://u:7@h:65535", Some(65_535)),
            ("https://[2001:db8::1]", Some(443)),
            ("https://[2001:db8::1]:8443/x", Some(8_443)),
            ("https://h:0/", None),
            ("https://h:65536/", None),
            ("https://h:99999/", None),
            ("https://h:99999999999999999999/", None),
            ("/h", None),
        ] {
            assert_eq!(https_port(&url.parse().expect(url)), port, "{url}");
        }
        for odd in ["https://h:+443/", "https://h:4a/", "https://[::1]443/", "https://h:443:443/", "https://h:-1/"] {
            assert!(odd.parse().ok().and_then(|url| https_port(&url)).is_none(), "{odd}");
        }
    }
}
