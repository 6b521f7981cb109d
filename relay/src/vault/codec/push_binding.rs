//! The record of a push binding (RFC 8599) as bytes. There is no credential in it.
//!
//! ```text
//! record = kind flags confirmed_at_ms expires_at app aor contact registrar [proxy] provider param prid      kind is one byte, 2
//! ```
//!
//! Invariant: that of the [folder](super).

use std::borrow::Cow;

use super::{NotARecord, Reader, milliseconds, number, text};
use crate::secret::{Aor, PushToken};
use crate::vault::record::{PushBindingRecord, Storable};

/// The first byte of this kind; that of a lent account's record is another.
pub(super) const KIND: u8 = 2;

const HAS_PROXY: u8 = 1;
const HAS_PARAM: u8 = 1 << 1;
const REFRESHES_ITSELF: u8 = 1 << 2;
const KNOWN_FLAGS: u8 = (1 << 3) - 1;

impl Storable for PushBindingRecord {
    fn visit(&self, sink: &mut dyn FnMut(&[u8])) {
        visit(self, sink);
    }

    fn found_by(&self) -> (Cow<'_, str>, &Aor, &PushToken) {
        // The same token at another SIP server is another registration, and takes nothing over.
        let proxy = self.proxy.as_deref().unwrap_or_default();
        (Cow::Owned(format!("rfc8599 {} {} {proxy}", self.app, self.registrar)), &self.aor, &self.prid)
    }
}

fn visit(record: &PushBindingRecord, sink: &mut dyn FnMut(&[u8])) {
    let PushBindingRecord { app, aor, contact, registrar, proxy, provider, param, prid, .. } = record;
    let bit = |bit: u8, set: bool| if set { bit } else { 0 };
    let flags = bit(HAS_PROXY, proxy.is_some())
        | bit(HAS_PARAM, param.is_some())
        | bit(REFRESHES_ITSELF, record.refreshes_itself);
    sink(&[KIND, flags]);
    number(record.confirmed_at_ms, sink);
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

/// Reads what [`Storable::visit`] showed.
pub(super) fn decode(bytes: &[u8]) -> Result<PushBindingRecord, NotARecord> {
    let mut rest = Reader(bytes);
    let [kind, flags] = rest.array()?;
    if kind != KIND || flags & !KNOWN_FLAGS != 0 {
        return Err(NotARecord);
    }
    // The fields of a struct expression are read in the order in which they stand here: that of the format.
    let record = PushBindingRecord {
        confirmed_at_ms: milliseconds(rest.number()?),
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

    fn samples() -> [PushBindingRecord; 2] {
        let full = PushBindingRecord {
            app: "com.example.phone".into(),
            aor: Aor::new("sip:alice@example.com"),
            contact: "<urn:uuid:1>".into(),
            registrar: "sip:example.com".into(),
            proxy: Some("sip:proxy.example.com;lr".into()),
            provider: "apns".into(),
            param: Some("TEAM.com.example.phone".into()),
            prid: PushToken::new("token"),
            refreshes_itself: true,
            confirmed_at_ms: 1_795_000_000_123,
            expires_at: 1_795_432_000,
        };
        [PushBindingRecord { proxy: None, param: None, refreshes_itself: false, ..full.clone() }, full]
    }

    #[test]
    fn a_push_binding_reads_back_as_itself_and_nothing_else_does() {
        for record in samples() {
            let mut bytes = Vec::new();
            record.visit(&mut |part| bytes.extend_from_slice(part));
            assert_eq!(decode(&bytes), Ok(record));
            for len in 0..bytes.len() {
                assert_eq!(decode(&bytes[..len]), Err(NotARecord), "{len}");
            }
            assert_eq!(super::super::lent::decode(&bytes), Err(NotARecord), "it is no lent account");
            bytes.push(0);
            assert_eq!(decode(&bytes), Err(NotARecord));
        }
    }
}
