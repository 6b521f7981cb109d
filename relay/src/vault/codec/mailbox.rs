//! The state of a mailbox, as bytes.
//!
//! ```text
//! mailbox = 1 flag part part part part     whether a message waits; new, old, urgent: numbers; account: a text
//! part    = flag [number | text]
//! ```
//!
//! Invariant: that of the [folder](super).

use sip::endpoint::Mailbox;

use super::{Reader, number, text};

const VERSION: u8 = 1;

/// Shows every byte of the encoded form to `sink`, in order.
pub(in crate::vault) fn visit(mailbox: &Mailbox, sink: &mut dyn FnMut(&[u8])) {
    let Mailbox { waiting, new, old, urgent, account } = mailbox;
    sink(&[VERSION, u8::from(*waiting)]);
    for count in [new, old, urgent] {
        sink(&[u8::from(count.is_some())]);
        if let Some(count) = count {
            number(u64::from(*count), sink);
        }
    }
    sink(&[u8::from(account.is_some())]);
    if let Some(account) = account {
        text(account, sink);
    }
}

/// Reads what [`visit`] showed.
pub(in crate::vault) fn read(bytes: &[u8]) -> Option<Mailbox> {
    let mut rest = Reader(bytes);
    if rest.byte().ok()? != VERSION {
        return None;
    }
    let waiting = rest.flag().ok()?;
    let mut count = || -> Option<Option<u32>> {
        Some(if rest.flag().ok()? { Some(u32::try_from(rest.number().ok()?).ok()?) } else { None })
    };
    let (new, old, urgent) = (count()?, count()?, count()?);
    let account = if rest.flag().ok()? { Some(rest.text().ok()?.into()) } else { None };
    rest.0.is_empty().then_some(Mailbox { waiting, new, old, urgent, account })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_reads_back_as_itself_and_nothing_shorter_or_longer_does() {
        let full = Mailbox {
            waiting: true,
            new: Some(2),
            old: Some(u32::MAX),
            urgent: Some(0),
            account: Some("sip:alice@vm.example.com".into()),
        };
        for mailbox in [Mailbox::default(), full] {
            let mut bytes = Vec::new();
            visit(&mailbox, &mut |part| bytes.extend_from_slice(part));
            assert!((0..bytes.len()).all(|len| read(&bytes[..len]).is_none()));
            assert_eq!(read(&[&bytes[..], &[0]].concat()), None);
            assert_eq!(read(&bytes), Some(mailbox));
        }
    }
}
