//! A record as bytes, for sealing.
//!
//! Numbers and lengths are LEB128, 7 bits a byte, least significant first; a text is its length and its bytes. The first
//! byte tells the record of a [lent account](lent) from that of a [push binding](push_binding).
//!
//! Invariant: a record shows its bytes part by part, so that whoever seals knows their number beforehand, and writes them
//! into a buffer that never moves and leaves no plaintext behind. Reading accepts only what writing makes: every byte
//! used, no unknown bit, no length beyond the end; but a number may have bytes that it does not need. Neither keeps a copy of its own that is not wiped.

pub(super) mod lent;
pub(super) mod mailbox;
mod push_binding;
pub(super) mod story;

use zeroize::Zeroizing;

use super::record::StoredRecord;

/// The bytes are not a record of this version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NotARecord;

/// Reads a record of either kind.
pub(super) fn decode(bytes: &[u8]) -> Result<StoredRecord, NotARecord> {
    match bytes.first() {
        Some(&push_binding::KIND) => push_binding::decode(bytes).map(StoredRecord::PushBinding),
        _ => lent::decode(bytes).map(StoredRecord::Lent),
    }
}

pub(super) fn text(text: &str, sink: &mut dyn FnMut(&[u8])) {
    number(text.len() as u64, sink);
    sink(text.as_bytes());
}

/// A text that is likely to be lower-case hexadecimal, which takes half of it: twice its bytes, and one more if it is, then the bytes.
pub(super) fn packed(text: &str, sink: &mut dyn FnMut(&[u8])) {
    let (digits, odd) = text.as_bytes().as_chunks::<2>();
    let is_hex = odd.is_empty() && !text.is_empty() && text.bytes().all(|digit| hex_value(digit).is_some());
    if !is_hex {
        number((text.len() as u64) << 1, sink);
        return sink(text.as_bytes());
    }
    number((digits.len() as u64) << 1 | 1, sink);
    for [high, low] in digits {
        let (high, low) = (hex_value(*high).unwrap_or(0), hex_value(*low).unwrap_or(0));
        sink(&[high << 4 | low]);
    }
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

pub(super) fn number(mut value: u64, sink: &mut dyn FnMut(&[u8])) {
    while value >= 0x80 {
        sink(&[value as u8 | 0x80]);
        value >>= 7;
    }
    sink(&[value as u8]);
}

/// A number that says one thing more: with the mark it has a byte more than it needs. One of more than 56 bits has none.
pub(super) fn marked_number(value: u64, mark: bool, sink: &mut dyn FnMut(&[u8])) {
    if !mark || value >> 56 != 0 {
        return number(value, sink);
    }
    let mut rest = value;
    while rest >= 0x80 {
        sink(&[rest as u8 | 0x80]);
        rest >>= 7;
    }
    sink(&[rest as u8 | 0x80, 0]);
}

/// A moment in milliseconds since 1970; records of an earlier version had seconds.
fn milliseconds(value: u64) -> u64 {
    const SECONDS_END: u64 = 100_000_000_000;
    if value < SECONDS_END { value * 1_000 } else { value }
}

/// Reads one part after the other.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn text_if(&mut self, present: bool) -> Result<Option<&'a str>, NotARecord> {
        present.then(|| self.text()).transpose()
    }

    pub(super) fn text(&mut self) -> Result<&'a str, NotARecord> {
        let len = usize::try_from(self.number()?).map_err(|_| NotARecord)?;
        std::str::from_utf8(self.take(len)?).map_err(|_| NotARecord)
    }

    /// What [`packed`] wrote.
    pub(super) fn packed(&mut self) -> Result<Zeroizing<String>, NotARecord> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let word = self.number()?;
        let bytes = self.take(usize::try_from(word >> 1).map_err(|_| NotARecord)?)?;
        if word & 1 == 0 {
            return std::str::from_utf8(bytes).map(|text| Zeroizing::new(text.to_owned())).map_err(|_| NotARecord);
        }
        // Of its full length from the beginning, so that it never moves.
        let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len()));
        for byte in bytes {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        Ok(text)
    }

    pub(super) fn number(&mut self) -> Result<u64, NotARecord> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(NotARecord)
    }

    /// What [`marked_number`] wrote.
    pub(super) fn marked_number(&mut self) -> Result<(u64, bool), NotARecord> {
        let bytes = self.0;
        let value = self.number()?;
        let taken = bytes.len() - self.0.len();
        let is_marked = taken > 1 && bytes.get(taken - 1) == Some(&0);
        Ok((value, is_marked))
    }

    /// A byte that is 0 or 1.
    pub(in crate::vault) fn flag(&mut self) -> Result<bool, NotARecord> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(NotARecord),
        }
    }

    pub(super) fn byte(&mut self) -> Result<u8, NotARecord> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], NotARecord> {
        self.take(N)?.try_into().map_err(|_| NotARecord)
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], NotARecord> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(NotARecord)?;
        self.0 = rest;
        Ok(taken)
    }
}
