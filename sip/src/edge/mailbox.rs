//! The state of a voicemail box, as its server reports it: `application/simple-message-summary` (RFC 3842 §5).
//!
//! ```text
//! Messages-Waiting: yes
//! Message-Account: sip:alice@vmail.example.com
//! Voice-Message: 2/8 (0/2)
//! ```
//!
//! Only the message class for voice is voicemail; the others, and headers of single messages, are passed over.
//!
//! Invariant: a text whose state cannot be read is not read at all; its other lines decide nothing, and counts that cannot be read are as if they
//! were not there. The parts that are kept are bounded by [`ACCOUNT_BYTES`].

use std::borrow::Cow;
use std::fmt;

use super::caller;

/// The media type that this module reads.
pub const MEDIA_TYPE: &str = "application/simple-message-summary";
/// The longest `Message-Account` that is kept, in bytes; a longer one is left out.
pub const ACCOUNT_BYTES: usize = 255;

/// How a mailbox stands.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Mailbox {
    /// Whether a message waits, of whatever class.
    pub waiting: bool,
    /// Voice messages that were not heard yet; `None` when the server tells no numbers.
    pub new: Option<u32>,
    /// Voice messages that were heard.
    pub old: Option<u32>,
    /// The number of urgent messages among the new ones, where the server tells.
    pub urgent: Option<u32>,
    /// The mailbox's URI, as callers' are told, where the server tells.
    pub account: Option<Box<str>>,
}

impl Mailbox {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(body);
        // Some begin it with a byte order mark.
        let lines = unfolded(text.trim_start_matches('\u{feff}'));
        let lines = lines.iter().map(|line| &**line).skip_while(|line| line.trim().is_empty());
        // An empty line begins the headers of single messages.
        let summary = || lines.clone().take_while(|line| !line.trim().is_empty()).filter_map(field);
        let (_, status) = summary().find(|(name, _)| name.eq_ignore_ascii_case("Messages-Waiting"))?;
        let waiting = match status {
            yes if yes.eq_ignore_ascii_case("yes") => true,
            no if no.eq_ignore_ascii_case("no") => false,
            _ => return None,
        };
        let mut mailbox = Self { waiting, ..Self::default() };
        for (name, value) in summary() {
            if name.eq_ignore_ascii_case("Voice-Message") {
                let Some((new, old, urgent)) = counts(value) else { continue };
                (mailbox.new, mailbox.old, mailbox.urgent) = (Some(new), Some(old), urgent);
            } else if name.eq_ignore_ascii_case("Message-Account") {
                mailbox.account = Some(value).filter(|uri| uri.len() <= ACCOUNT_BYTES).and_then(caller::told);
            }
        }
        Some(mailbox)
    }
}

impl fmt::Debug for Mailbox {
    /// Leaves the account out: it names a person.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { waiting, new, old, urgent, .. } = self;
        write!(f, "Mailbox({waiting}, {new:?}/{old:?}, {urgent:?})")
    }
}

/// The lines of a text, each with those that continue it (RFC 3842 §5.2, RFC 3261 §7.3.1).
fn unfolded(text: &str) -> Vec<Cow<'_, str>> {
    let mut lines: Vec<Cow<'_, str>> = Vec::new();
    for line in text.lines().map(|line| line.trim_end_matches('\r')) {
        let continues = line.starts_with([' ', '\t']) && !line.trim().is_empty();
        match lines.last_mut().filter(|last| continues && !last.trim().is_empty()) {
            Some(last) => last.to_mut().extend([" ", line.trim_start()]),
            None => lines.push(Cow::Borrowed(line)),
        }
    }
    lines
}

fn field(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    let name = name.trim_end();
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte);
    (!name.is_empty() && name.bytes().all(token)).then_some((name, value.trim()))
}

/// `2/8 (0/2)`: new, old, and of the new those that are urgent, where that can be read.
fn counts(value: &str) -> Option<(u32, u32, Option<u32>)> {
    let (all, urgent) = value.split_once('(').map_or((value, None), |(all, urgent)| (all, Some(urgent)));
    let pair = |text: &str| {
        let (new, old) = text.split_once('/')?;
        Some((number(new)?, number(old)?))
    };
    let (new, old) = pair(all)?;
    let urgent = urgent.and_then(|urgent| pair(urgent.trim_end().strip_suffix(')')?));
    Some((new, old, urgent.map(|(new, _)| new)))
}

/// Digits; what is larger than the type is its largest value.
fn number(text: &str) -> Option<u32> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(waiting: bool, new: u32, old: u32, urgent: Option<u32>) -> Mailbox {
        Mailbox { waiting, new: Some(new), old: Some(old), urgent, account: None }
    }

    #[test]
    fn the_summaries_that_servers_send_are_read() {
        for (text, mailbox) in [
            ("Messages-Waiting: yes\r\nVoice-Message: 2/8 (0/2)\r\n", told(true, 2, 8, Some(0))),
            ("Messages-Waiting: no\nVoice-Message: 0/0\n", told(false, 0, 0, None)),
            ("messages-waiting :YES\r\nvoice-message:  1 / 0 ( 1 / 0 ) \r\n", told(true, 1, 0, Some(1))),
            ("Messages-Waiting: yes\r\nFax-Message: 3/0\r\nVoice-Message: 0/1\r\n", told(true, 0, 1, None)),
            ("Messages-Waiting:\r\n yes\r\nVoice-Message:\r\n\t2/8\r\n (0/2)\r\n", told(true, 2, 8, Some(0))),
            ("Messages-Waiting: yes", Mailbox { waiting: true, ..Mailbox::default() }),
            ("Messages-Waiting: yes\r\nVoice-Message: 99999999999/0\r\n", told(true, u32::MAX, 0, None)),
            (
                "Messages-Waiting: yes\r\nVoice-Message: 1/0\r\n\r\nTo: <alice@example.com>\r\nSubject: (hello\r\n",
                told(true, 1, 0, None),
            ),
        ] {
            assert_eq!(Mailbox::parse(text.as_bytes()), Some(mailbox), "{text:?}");
        }
        let account = "Messages-Waiting: yes\r\nMessage-Account: sip:alice@vmail.example.com\r\nVoice-Message: 4/8\r\n";
        let mailbox = Mailbox::parse(account.as_bytes()).unwrap();
        assert_eq!(mailbox.account.as_deref(), Some("sip:alice@vmail.example.com"));
        assert!(!format!("{mailbox:?}").contains("alice"));
        let more = account.replace("alice@vmail.example.com", "alice:hunter2@vmail.example.com;x=\"y\"");
        assert_eq!(Mailbox::parse(more.as_bytes()).unwrap().account, mailbox.account);
        for odd in ["alice", "", "<sip:alice@example.com>", "alice@", "sip:"] {
            let text = account.replace("sip:alice@vmail.example.com", odd);
            assert_eq!(Mailbox::parse(text.as_bytes()), Some(told(true, 4, 8, None)), "{odd}");
        }
        let odd =
            b"Messages-Waiting: yes\r\nno header\r\n: 1/0\r\nMessage-Account: sip:Jos\xe9@h\r\nVoice-Message: 4/8\r\n";
        assert_eq!(Mailbox::parse(odd).map(|it| (it.new, it.old)), Some((Some(4), Some(8))));
        let long = account.replace("alice", &"a".repeat(300));
        assert_eq!(Mailbox::parse(long.as_bytes()).unwrap().account, None);
    }

    #[test]
    fn what_is_no_summary_is_refused() {
        for text in [
            "",
            "\r\n",
            "hello",
            "Voice-Message: 1/0\r\n",
            "Messages-Waiting: perhaps\r\n",
            "\r\n Messages-Waiting: yes\r\n",
            "Messages-Waiting: yes\r\n no\r\n",
            "Voice-Message: 1/0\r\n\r\nMessages-Waiting: yes\r\n",
        ] {
            assert_eq!(Mailbox::parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn lines_that_cannot_be_read_leave_the_others() {
        let waits = Some(Mailbox { waiting: true, ..Mailbox::default() });
        for count in ["3", "1.0/0", "many", "-1/0", "", "/", "1/", "1/0/0", "(1/0)"] {
            let text = format!("Messages-Waiting: yes\r\nVoice-Message: {count}\r\n");
            assert_eq!(Mailbox::parse(text.as_bytes()), waits, "{count}");
            let text = format!("{text}Voice-Message: 1/2 (1/0)\r\n");
            assert_eq!(Mailbox::parse(text.as_bytes()), Some(told(true, 1, 2, Some(1))), "{count}");
        }
        for urgent in ["(0", "(0)", "(0/0", "(0/0) x", "(many/0)", "()"] {
            let text = format!("Messages-Waiting: yes\r\nVoice-Message: 1/0 {urgent}\r\n");
            assert_eq!(Mailbox::parse(text.as_bytes()), Some(told(true, 1, 0, None)), "{urgent}");
        }
        assert_eq!(Mailbox::parse(b"Messages-Waiting: yes\r\nVoice-Message: 1/\xff\r\n"), waits);
        let later = "\u{feff}Message-Account: sip:a@h\r\nVoice-Message: 1/0\r\nno header\r\nMessages-Waiting: no\r\n";
        let expected = Mailbox { account: Some("sip:a@h".into()), ..told(false, 1, 0, None) };
        assert_eq!(Mailbox::parse(later.as_bytes()), Some(expected));
    }
}
