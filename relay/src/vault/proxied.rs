//! What is held about a registration that only passes through (RFC 8599): no credential, for there is none.
//!
//! ```text
//! proxied = kind flags confirmed_at expires_at app aor contact registrar [proxy] provider param prid      kind is one byte, 2
//! ```
//!
//! Invariant: as that of `codec`: writing appends exactly as many bytes as it says, reading accepts only what writing makes.

use super::codec::{NotARecord, Reader, number, text};
use crate::secret::{Aor, PushToken};

/// The first byte of this kind; that of a lent account's record is another.
pub(super) const KIND: u8 = 2;

const HAS_PROXY: u8 = 1;
const HAS_PARAM: u8 = 1 << 1;
const REFRESHES_ITSELF: u8 = 1 << 2;
const KNOWN_FLAGS: u8 = (1 << 3) - 1;

/// A registration that passed through, as it is found again after a restart.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxiedRecord {
    /// The App's id.
    pub app: Box<str>,
    /// The address of record.
    pub aor: Aor,
    /// What tells the AOR's devices apart.
    pub contact: Box<str>,
    /// The Request-URI of its REGISTER.
    pub registrar: Box<str>,
    /// The SIP server's own outbound proxy.
    pub proxy: Option<Box<str>>,
    /// `pn-provider`
    pub provider: Box<str>,
    /// `pn-param`
    pub param: Option<Box<str>>,
    /// `pn-prid`
    pub prid: PushToken,
    /// The device refreshes it by itself.
    pub refreshes_itself: bool,
    /// When its device named the push token last, in seconds since 1970.
    pub confirmed_at: u64,
    /// When it ends, in seconds since 1970.
    pub expires_at: u64,
}

/// How many bytes [`encode`] appends.
pub(super) fn encoded_len(record: &ProxiedRecord) -> usize {
    let mut len = 0;
    visit(record, &mut |bytes| len += bytes.len());
    len
}

/// Appends the record to `out`.
pub(super) fn encode(record: &ProxiedRecord, out: &mut Vec<u8>) {
    visit(record, &mut |bytes| out.extend_from_slice(bytes));
}

fn visit(record: &ProxiedRecord, sink: &mut dyn FnMut(&[u8])) {
    let ProxiedRecord { app, aor, contact, registrar, proxy, provider, param, prid, .. } = record;
    let bit = |bit: u8, set: bool| if set { bit } else { 0 };
    let flags = bit(HAS_PROXY, proxy.is_some())
        | bit(HAS_PARAM, param.is_some())
        | bit(REFRESHES_ITSELF, record.refreshes_itself);
    sink(&[KIND, flags]);
    number(record.confirmed_at, sink);
    number(record.expires_at, sink);
    for part in [app, aor.expose(), contact, registrar].into_iter().map(|part: &str| part).chain(proxy.as_deref()) {
        text(part, sink);
    }
    text(provider, sink);
    if let Some(param) = param {
        text(param, sink);
    }
    text(prid.expose(), sink);
}

/// Reads what [`encode`] wrote.
pub(super) fn decode(bytes: &[u8]) -> Result<ProxiedRecord, NotARecord> {
    let mut rest = Reader(bytes);
    let [kind, flags] = rest.array()?;
    if kind != KIND || flags & !KNOWN_FLAGS != 0 {
        return Err(NotARecord);
    }
    // The fields of a struct expression are read in the order in which they stand here: that of the format.
    let record = ProxiedRecord {
        confirmed_at: rest.number()?,
        expires_at: rest.number()?,
        refreshes_itself: flags & REFRESHES_ITSELF != 0,
        app: rest.text()?.into(),
        aor: Aor::new(rest.text()?),
        contact: rest.text()?.into(),
        registrar: rest.text()?.into(),
        proxy: rest.text_if(flags & HAS_PROXY != 0)?.map(Into::into),
        provider: rest.text()?.into(),
        param: rest.text_if(flags & HAS_PARAM != 0)?.map(Into::into),
        prid: PushToken::new(rest.text()?),
    };
    if rest.0.is_empty() { Ok(record) } else { Err(NotARecord) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> [ProxiedRecord; 2] {
        let full = ProxiedRecord {
            app: "com.example.phone".into(),
            aor: Aor::new("sip:alice@example.com"),
            contact: "<urn:uuid:1>".into(),
            registrar: "sip:example.com".into(),
            proxy: Some("sip:proxy.example.com;lr".into()),
            provider: "apns".into(),
            param: Some("TEAM.com.example.phone".into()),
            prid: PushToken::new("token"),
            refreshes_itself: true,
            confirmed_at: 1_795_000_000,
            expires_at: 1_795_432_000,
        };
        [ProxiedRecord { proxy: None, param: None, refreshes_itself: false, ..full.clone() }, full]
    }

    #[test]
    fn a_proxied_record_reads_back_as_itself_and_nothing_else_does() {
        for record in samples() {
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            assert_eq!(bytes.len(), encoded_len(&record));
            assert_eq!(decode(&bytes), Ok(record));
            for len in 0..bytes.len() {
                assert_eq!(decode(&bytes[..len]), Err(NotARecord), "{len}");
            }
            assert_eq!(super::super::codec::decode(&bytes), Err(NotARecord), "it is no lent account");
            bytes.push(0);
            assert_eq!(decode(&bytes), Err(NotARecord));
        }
    }
}
