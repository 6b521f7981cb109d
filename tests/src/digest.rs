//! Digest authentication as the other side of the relay does it (RFC 7616, RFC 8760): independent of `sip::auth`, so
//! that an error there cannot hide.
//!
//! Invariant: MD5 and SHA-256 with qop `auth`, or none; nothing else is offered or accepted.

use md5::Md5;
use sha2::{Digest as _, Sha256};

/// A hash algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// MD5
    Md5,
    /// SHA-256
    Sha256,
}

impl Algorithm {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
        }
    }

    fn hash(self, text: &str) -> String {
        match self {
            Self::Md5 => hex(&Md5::digest(text)),
            Self::Sha256 => hex(&Sha256::digest(text)),
        }
    }

    /// `H(user:realm:password)` in hexadecimal.
    pub fn ha1(self, user: &str, realm: &str, password: &str) -> String {
        self.hash(&format!("{user}:{realm}:{password}"))
    }

    /// The response to a challenge; `qop` is `(nc, cnonce)` for qop `auth`.
    pub fn response(self, ha1: &str, method: &str, uri: &str, nonce: &str, qop: Option<(&str, &str)>) -> String {
        let ha2 = self.hash(&format!("{method}:{uri}"));
        self.hash(&match qop {
            Some((nc, cnonce)) => format!("{ha1}:{nonce}:{nc}:{cnonce}:auth:{ha2}"),
            None => format!("{ha1}:{nonce}:{ha2}"),
        })
    }
}

/// The fields of a challenge or of an answer to one.
#[derive(Clone, Debug, Default)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// Reads `Digest name=value, …`; `None` for another scheme.
    pub fn parse(value: &str) -> Option<Self> {
        let (scheme, rest) = value.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("Digest").then_some(())?;
        let mut fields = Vec::new();
        for part in split(rest) {
            let (name, value) = part.split_once('=')?;
            fields.push((name.trim().to_ascii_lowercase(), value.trim().trim_matches('"').to_owned()));
        }
        Some(Self(fields))
    }

    /// The value of a field, without quotes.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The algorithm; MD5 when none is named, `None` when it is unknown.
    pub fn algorithm(&self) -> Option<Algorithm> {
        match self.get("algorithm") {
            None => Some(Algorithm::Md5),
            Some(name) => [Algorithm::Md5, Algorithm::Sha256].into_iter().find(|a| a.name().eq_ignore_ascii_case(name)),
        }
    }
}

/// Writes the answer of `user` to a challenge; `count` is how often its nonce was used, from 1.
pub fn answer(challenge: &Fields, user: &str, password: &str, method: &str, uri: &str, count: u32) -> Option<String> {
    let algorithm = challenge.algorithm()?;
    let (realm, nonce) = (challenge.get("realm")?, challenge.get("nonce")?);
    let ha1 = algorithm.ha1(user, realm, password);
    let (nc, cnonce) = (format!("{count:08x}"), token());
    let qop = challenge.get("qop").map(|_| (nc.as_str(), cnonce.as_str()));
    let response = algorithm.response(&ha1, method, uri, nonce, qop);
    let mut out = format!(
        "Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", response=\"{response}\", \
         algorithm={}",
        algorithm.name()
    );
    if qop.is_some() {
        out += &format!(", qop=auth, nc={nc}, cnonce=\"{cnonce}\"");
    }
    if let Some(opaque) = challenge.get("opaque") {
        out += &format!(", opaque=\"{opaque}\"");
    }
    Some(out)
}

/// Sixteen random hexadecimal digits: a nonce, a tag, a branch.
pub fn token() -> String {
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).expect("the system has randomness");
    hex(&random)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Splits at commas outside quotes.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        let literal = escaped;
        escaped = quoted && byte == b'\\' && !literal;
        match byte {
            b'"' if !literal => quoted = !quoted,
            b',' if !quoted => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_7616_comes_out() {
        let qop = Some(("00000001", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"));
        let nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v";
        for (algorithm, expected) in [
            (Algorithm::Md5, "8ca523f5e9506fed4657c9700eebdbec"),
            (Algorithm::Sha256, "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ] {
            let ha1 = algorithm.ha1("Mufasa", "http-auth@example.org", "Circle of Life");
            assert_eq!(algorithm.response(&ha1, "GET", "/dir/index.html", nonce, qop), expected);
        }
    }
}
