//! The validity of a certificate (RFC 5280 §4.1.2.5), and how it is signed (§4.1.2.3).
//!
//! Invariant: reads two dates and an algorithm, and judges nothing: whether a certificate is to be trusted is webpki's to say. Any bytes
//! at all give an answer, never a panic.

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const OBJECT_IDENTIFIER: u8 = 0x06;
/// md5WithRSAEncryption, sha1WithRSAEncryption (RFC 3279 §2.2.1), dsa-with-sha1, ecdsa-with-SHA1.
const WEAK: [&[u8]; 4] = [
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x04],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05],
    &[0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x03],
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01],
];

/// The begin (0 when it lies before 1970) and the end of validity in seconds since 1970; `None` when the bytes are no
/// certificate.
pub(super) fn period(certificate: &[u8]) -> Option<(u64, u64)> {
    let mut body = behind_serial_number(certificate)?;
    // Signature algorithm, issuer.
    for _ in 0..2 {
        (_, body) = any(body)?;
    }
    let (validity, _) = element(body, SEQUENCE)?;
    let (begin, end) = any(validity)?;
    let not_before = time(*validity.first()?, begin).unwrap_or(0);
    Some((not_before, time(*end.first()?, any(end)?.0)?))
}

/// Whether it is signed with SHA-1 or MD5; not when the bytes are no certificate.
pub(super) fn is_signed_weakly(certificate: &[u8]) -> bool {
    let algorithm = || element(element(behind_serial_number(certificate)?, SEQUENCE)?.0, OBJECT_IDENTIFIER);
    algorithm().is_some_and(|(algorithm, _)| WEAK.contains(&algorithm))
}

/// The rest of what is signed.
fn behind_serial_number(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut body, _) = element(certificate, SEQUENCE)?;
    if body.first() == Some(&VERSION) {
        (_, body) = any(body)?;
    }
    any(body).map(|(_, rest)| rest)
}

/// The content of the element with this tag, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    (bytes.first() == Some(&tag)).then(|| any(bytes))?
}

/// The content of the next element, and what follows it (X.690 §8.1).
fn any(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[_, short], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81..=0x84 => {
            let (long, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            (long.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// `YYMMDDHHMMSSZ` (years 1950 to 2049) or `YYYYMMDDHHMMSSZ`.
fn time(tag: u8, text: &[u8]) -> Option<u64> {
    let digits = text.strip_suffix(b"Z")?;
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            let year = number(&digits[..2])?;
            (year + if year < 50 { 2000 } else { 1900 }, &digits[2..])
        }
        (GENERALIZED_TIME, 14) => (number(&digits[..4])?, &digits[4..]),
        _ => return None,
    };
    let mut fields = rest.chunks(2).map(number);
    let mut field = || fields.next().flatten();
    let (month, day, hour, minute, second) = (field()?, field()?, field()?, field()?, field()?);
    let days = days_since_1970(year, month, day)?;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| digit.is_ascii_digit().then(|| value * 10 + u64::from(digit - b'0')))
}

/// Days of the Gregorian calendar; `None` before 1970 or when there is no such month.
pub(crate) fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Counting years from March puts the leap day last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    days.checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_after(certificate: &[u8]) -> Option<u64> {
        Some(period(certificate)?.1)
    }

    #[test]
    fn a_signature_by_sha_1_is_known_and_no_other_is() {
        let certificate = |version: &[u8], algorithm: &[u8]| {
            let of = |tag: u8, content: &[u8]| [&[tag, content.len() as u8], content].concat();
            let algorithm = of(SEQUENCE, &of(OBJECT_IDENTIFIER, algorithm));
            of(SEQUENCE, &of(SEQUENCE, &[version, &of(0x02, &[7]), &algorithm].concat()))
        };
        for version in [&[][..], &[VERSION, 3, 2, 1, 2]] {
            for weak in WEAK {
                assert!(is_signed_weakly(&certificate(version, weak)));
            }
            let sha256 = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
            assert!(!is_signed_weakly(&certificate(version, &sha256)));
        }
        assert!(!is_signed_weakly(&[]) && !is_signed_weakly(&[SEQUENCE, 0x82, 1]));
    }

    #[test]
    fn a_date_is_read_in_both_of_its_forms() {
        let dates: [(u8, &[u8], u64); 6] = [
            (UTC_TIME, b"700101000000Z", 0),
            (UTC_TIME, b"261127090000Z", 1_795_770_000),
            (UTC_TIME, b"240229235959Z", 1_709_251_199),
            (UTC_TIME, b"491231235959Z", 2_524_607_999),
            (GENERALIZED_TIME, b"20500101000000Z", 2_524_608_000),
            (GENERALIZED_TIME, b"40960101000000Z", 67_090_118_400),
        ];
        for (tag, text, seconds) in dates {
            assert_eq!(time(tag, text), Some(seconds), "{}", String::from_utf8_lossy(text));
        }
        let wrong: [&[u8]; 5] = [b"", b"Z", b"261127090000", b"26112709000aZ", b"261327090000Z"];
        for text in wrong {
            assert_eq!(time(UTC_TIME, text), None);
        }
    }

    #[test]
    fn a_certificate_cut_anywhere_has_no_date_and_does_no_harm() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2026, 11, 27);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        assert_eq!(not_after(&der), Some(1_795_737_600));
        for length in 0..der.len() {
            assert_eq!(not_after(&der[..length]), None);
        }
    }
}
