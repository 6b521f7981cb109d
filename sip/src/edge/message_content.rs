//! The content of a MESSAGE: words for its reader, or a note for an app alone.
//!
//! | media type | it is |
//! | --- | --- |
//! | `application/im-iscomposing+xml` (RFC 3994) | a notice that its sender writes |
//! | `message/imdn+xml` (RFC 5438 §7) | a notification that another message was delivered or displayed |
//! | `message/cpim` (RFC 3862) | what its content is |
//! | `multipart/*` (RFC 2046 §5.1) | what its parts are, where none of them is something else |
//! | any other | words |
//!
//! Invariant: what cannot be read is words, so that no message is lost. A content is looked at once on each level, and of levels there are
//! [`LEVELS_MAX`].

use crate::message::{Params, media_type, unquote};

/// Contents within contents that are looked into.
const LEVELS_MAX: u8 = 4;

/// The content of a MESSAGE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageContent {
    /// Something for its reader.
    Words,
    /// A typing indication, which is soon over.
    Composing,
    /// A note that another message was delivered or displayed.
    Notification,
}

impl MessageContent {
    /// Reads the Content-Type and the body of a MESSAGE.
    pub fn of(content_type: &str, body: &[u8]) -> Self {
        Self::within(content_type, body, LEVELS_MAX)
    }

    fn within(content_type: &str, body: &[u8], levels: u8) -> Self {
        let params = &content_type[content_type.find(';').unwrap_or(content_type.len())..];
        let media = media_type(content_type);
        let Some(levels) = levels.checked_sub(1) else { return Self::Words };
        match &*media {
            "application/im-iscomposing+xml" => Self::Composing,
            "message/imdn+xml" => Self::Notification,
            "message/cpim" => {
                // The headers of the message, and behind an empty line those of its content.
                let (first, behind) = head(body.trim_ascii_start());
                let (second, content) = if first.is_some() { (None, behind) } else { head(behind) };
                let content_type = first.or(second);
                content_type.map_or(Self::Words, |content_type| Self::within(&content_type, content, levels))
            }
            multipart if multipart.starts_with("multipart/") => {
                let boundary = Params::loose(params).value("boundary");
                boundary.map_or(Self::Words, |boundary| Self::of_parts(&unquote(boundary), body, levels))
            }
            _ => Self::Words,
        }
    }

    fn of_parts(boundary: &str, body: &[u8], levels: u8) -> Self {
        let of_part = |part: &[u8]| {
            let (content_type, content) = head(part);
            content_type.map_or(Self::Words, |content_type| Self::within(&content_type, content, levels))
        };
        let delimiter = format!("--{boundary}");
        let (mut all, mut begun, mut at) = (None, None, 0);
        for line in body.split_inclusive(|byte| *byte == b'\n') {
            let behind = line.trim_ascii_end().strip_prefix(delimiter.as_bytes());
            if let Some(behind) = behind.filter(|behind| behind.is_empty() || **behind == *b"--") {
                all = begun.take().map(|from| of_part(&body[from..at])).map_or(all, |part| Some(part.beside(all)));
                if !behind.is_empty() {
                    break;
                }
                begun = Some(at + line.len());
            }
            at += line.len();
        }
        // Without the last delimiter, some of it may be missing.
        if begun.is_some() { Self::Words } else { all.unwrap_or(Self::Words) }
    }

    /// Both of two parts.
    fn beside(self, other: Option<Self>) -> Self {
        match other {
            Some(Self::Words) => Self::Words,
            Some(Self::Notification) if self == Self::Composing => Self::Notification,
            _ => self,
        }
    }
}

/// The Content-Type of the header lines that a text begins with, unfolded, and what stands behind the empty line that ends them.
fn head(text: &[u8]) -> (Option<String>, &[u8]) {
    let (mut content_type, mut is_open, mut at) = (None::<String>, false, 0);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        at += line.len();
        let line = String::from_utf8_lossy(line.trim_ascii_end());
        if line.is_empty() {
            return (content_type, &text[at..]);
        }
        if line.starts_with([' ', '\t']) {
            if let Some(value) = content_type.as_mut().filter(|_| is_open) {
                value.push_str(&line);
            }
            continue;
        }
        let named = line.split_once(':').filter(|(name, _)| name.trim_end().eq_ignore_ascii_case("Content-Type"));
        is_open = named.is_some();
        if let Some((_, value)) = named {
            content_type.get_or_insert_with(|| value.trim().to_owned());
        }
    }
    (content_type, b"")
}

#[cfg(test)]
mod tests {
    use super::MessageContent::{Composing, Notification, Words};
    use super::*;

    const TYPES: [(&str, MessageContent); 7] = [
        ("message/imdn+xml", Notification),
        ("Message/IMDN+XML; charset=utf-8", Notification),
        ("application/im-iscomposing+xml", Composing),
        (" Application/im-isComposing+xml ;charset=utf-8", Composing),
        ("message / imdn+xml", Notification),
        ("application/\t im-iscomposing+xml", Composing),
        ("text/plain", Words),
    ];

    fn cpim(media: &str, body: &str) -> String {
        let asking = "NS: imdn <urn:ietf:params:imdn>\r\nimdn.Disposition-Notification: display\r\n\r\n";
        format!("{asking}Content-Type:{media}\r\nContent-Length: 3\r\n\r\n{body}")
    }

    fn multipart(parts: &[&str]) -> String {
        let part = |media: &&str| format!("--b 1\r\nContent-ID: 1\r\nContent-Type:{media}\r\n\r\n<x/>\r\n");
        format!("preamble\r\n{}--b 1--\r\n", parts.iter().map(part).collect::<String>())
    }

    const MIXED: &str = "multipart/Mixed; boundary=\"b 1\"";

    fn of(content_type: &str, body: &str) -> MessageContent {
        MessageContent::of(content_type, body.as_bytes())
    }

    #[test]
    fn what_is_for_an_app_is_told_from_words_however_it_is_wrapped() {
        for (media, content) in TYPES {
            assert_eq!(of(media, "<x/>"), content, "{media}");
            let (in_cpim, in_parts) = (cpim(media, "<x/>"), multipart(&[media]));
            for body in [
                in_cpim.clone(),
                in_cpim.replace('\r', ""),
                format!("\r\n{in_cpim}"),
                format!("Content-Type:{media}\n\n"),
            ] {
                assert_eq!(of("message/CPIM", &body), content, "{body}");
            }
            assert_eq!(of(MIXED, &in_parts), content, "{media}");
            assert_eq!(of(MIXED, &in_parts.replace('\r', "")), content, "{media}");
            let unquoted = in_parts.replace("--b 1", "--=_b:1");
            assert_eq!(of("multipart/mixed; charset=\"x;y\" ; boundary==_b:1;", &unquoted), content, "{media}");
            assert_eq!(
                of("message/cpim", &cpim("multipart/mixed;\r\n boundary=\"b 1\"", &in_parts)),
                content,
                "{media}"
            );
        }
    }

    #[test]
    fn parts_are_words_where_one_of_them_is() {
        for (parts, content) in [
            (&["message/imdn+xml", "application/im-iscomposing+xml"][..], Notification),
            (&["application/im-iscomposing+xml", "message/imdn+xml"], Notification),
            (&["message/imdn+xml", "text/plain"], Words),
            (&["text/plain", "message/imdn+xml"], Words),
            (&["text/plain", "application/im-iscomposing+xml"], Words),
            (&[], Words),
        ] {
            assert_eq!(of(MIXED, &multipart(parts)), content, "{parts:?}");
        }
    }

    #[test]
    fn what_a_person_writes_or_nobody_can_read_is_words() {
        let parts = multipart(&["message/imdn+xml"]);
        for (content_type, body) in [
            ("message/cpim", cpim("text/plain", "my phone shows message/imdn+xml to me")),
            ("message/cpim", cpim("text/plain", "\r\nContent-Type: message/imdn+xml\r\n\r\n")),
            ("text/plain", "Content-Type: message/imdn+xml".to_owned()),
            ("message/cpim", "hello".to_owned()),
            ("message/cpim", String::new()),
            ("", String::new()),
            ("multipart/mixed", parts.clone()),
            ("multipart/mixed;boundary=c", parts.clone()),
            (MIXED, parts.replace("--b 1--\r\n", "")),
            (MIXED, parts.replace("Content-Type", "X")),
        ] {
            assert_eq!(of(content_type, &body), Words, "{content_type}: {body}");
        }
        let deep = (0..9).fold("<x/>".to_owned(), |body, _| cpim("message/cpim", &body));
        assert_eq!(of("message/cpim", &deep), Words);
    }
}
