//! One spelling of a user name for all that a SIP server's database may take for it: MySQL and MariaDB compare names without regard to case, accents and what
//! is not seen, and one who guesses would have a new account with each.
//!
//! `spellings.txt` has a line for each text that stands for others: the text, a tab, and the code points, those in lower case alone, that are it
//! without marks (NFKD), for a collation of Unicode (`utf8mb4_unicode_ci`, `unicode_520_ci`, `uca1400_ai_ci`) or for `utf8mb4_general_ci`; digits of
//! all scripts among them. Of the first line nothing stays. Scripts other than Latin, Greek and Cyrillic keep their letters as they are.
//!
//! Invariant: what is folded is compared and never shown. Names that differ for a server may be one here, which costs those who fail alone.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};

use crate::domain::characters::is_blank;

static SPELLINGS: LazyLock<BTreeMap<u32, &str>> = LazyLock::new(|| {
    let code = |hex| u32::from_str_radix(hex, 16);
    let mut all = BTreeMap::new();
    for (text, points) in include_str!("spellings.txt").lines().filter_map(|line| line.split_once('\t')) {
        for range in points.split(' ') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            if let (Ok(first), Ok(last)) = (code(first), code(last)) {
                all.extend((first..=last).map(|point| (point, text)));
            }
        }
    }
    all
});

/// A name in lower case, in the spelling that stands for all of its kind.
pub(super) fn folded(name: &str) -> String {
    use GeneralCategory::{Control, EnclosingMark, Format, NonspacingMark};
    let mut out = String::with_capacity(name.len());
    let mut push = |c| {
        // For `ß` the collations have both one and two of them.
        if !(c == 's' && out.ends_with('s')) {
            out.push(c);
        }
    };
    for c in name.chars() {
        if matches!(c, ' '..='~') {
            push(c);
        } else if let Some(text) = SPELLINGS.get(&u32::from(c)) {
            text.chars().for_each(&mut push);
        } else if !is_blank(c) && !matches!(c.general_category(), Control | Format | NonspacingMark | EnclosingMark) {
            push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_database_takes_for_one_name_is_one() {
        let forms = [
            "víctim",
            "ṽïçťîm",
            "vi\u{301}ctim",
            "v\u{200b}ictim\u{ad}",
            "vict\u{2060}im\u{fe0f}",
            "ｖｉｃｔｉｍ",
            "ⓥⓘⓒⓣⓘⓜ",
            "𝐯𝒾𝔠𝕥𝗂𝚖",
            "vıctim",
            "vⅰctim",
            "ⅵctim",
            "v\u{365}ctim",
            "vic\u{20dd}tim",
            "vi\u{1}ctim",
            "vict\u{34f}im\u{e0101}",
            "victim\u{640}",
            "vᵢctⁱm",
        ];
        for form in forms {
            assert_eq!(folded(form), "victim", "{form:?}");
        }
        for (form, one) in
            [("１٠٠۱", "1001"), ("①०𝟘¹", "1001"), ("ꞵοb＠ｘ", "ꞵοb@x"), ("straße", "strase"), ("øđłħæœ", "odlhaeoe")]
        {
            assert_eq!(folded(form), one, "{form:?}");
        }
        assert_eq!((folded("strasse"), folded("όθεν"), folded("йод")), ("strase".into(), "οθεν".into(), "иод".into()));
    }

    #[test]
    fn names_that_no_database_takes_for_one_are_several() {
        let names = ["victim", "victin", "vctim", "1001", "1002", "пётр", "павел", "田中", "田口", "김", "이", ""];
        for (n, one) in names.iter().enumerate() {
            assert!(names[n + 1..].iter().all(|other| folded(one) != folded(other)), "{one:?}");
        }
    }
}
