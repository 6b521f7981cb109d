//! Joiners in a caller's name: ZWJ (U+200D) and ZWNJ (U+200C), which are invisible and change the look of their neighbours.
//!
//! | between | joiner | is kept |
//! | --- | --- | --- |
//! | two emoji | ZWJ | yes: it makes one of them (a family, a profession) |
//! | two letters or marks of one script that joins its letters (Arabic, Persian, those of India, …) | either | yes: the word is spelt so |
//! | anything else, Latin letters as well | either | no: two names would look alike |
//!
//! RFC 5892, appendices A.1 and A.2, restricts joiners in domain names likewise, by joining types; here the blocks of the neighbours decide.
//!
//! Invariant: a joiner that is kept stands alone between two neighbours, never at an end.

use std::ops::RangeInclusive;

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory as _};

const ZWNJ: char = '\u{200c}';
const ZWJ: char = '\u{200d}';

/// The blocks of the scripts that join letters or stack them.
const JOINING: &[RangeInclusive<char>] = &[
    // Arabic, Syriac, Thaana, N'Ko, Samaritan, Mandaic.
    '\u{600}'..='\u{8ff}',
    // Devanagari, Bengali, Gurmukhi, Gujarati, Oriya, Tamil, Telugu, Kannada, Malayalam, Sinhala.
    '\u{900}'..='\u{dff}',
    // Tibetan, Myanmar.
    '\u{f00}'..='\u{109f}',
    // Khmer, Mongolian.
    '\u{1780}'..='\u{18af}',
    // Balinese, Sundanese, Batak, Lepcha.
    '\u{1b00}'..='\u{1c4f}',
];

/// Whether this is a joiner.
pub(super) fn is_one(c: char) -> bool {
    matches!(c, ZWJ | ZWNJ)
}

/// Whether a joiner between this text and the character that follows shows.
pub(super) fn shows(before: &str, joiner: char, next: char) -> bool {
    let joining = |c: char| JOINING.iter().position(|block| block.contains(&c)).filter(|_| is_letter(c));
    let Some(last) = before.chars().next_back() else { return false };
    let spells = joining(last).is_some_and(|block| joining(next) == Some(block));
    // A variation selector and a skin tone belong to the emoji before them.
    let emoji = before.chars().rev().find(|c| !matches!(c, '\u{fe0f}' | '\u{1f3fb}'..='\u{1f3ff}'));
    spells || joiner == ZWJ && is_pictograph(next) && emoji.is_some_and(is_pictograph)
}

fn is_letter(c: char) -> bool {
    matches!(c.general_category_group(), GeneralCategoryGroup::Letter | GeneralCategoryGroup::Mark)
}

/// Whether it is a symbol of those blocks that emoji sequences are made of (UTS #51).
fn is_pictograph(c: char) -> bool {
    let in_blocks = matches!(c, '\u{2190}'..='\u{21ff}' | '\u{2600}'..='\u{27bf}' | '\u{2b00}'..='\u{2bff}' | '\u{1f300}'..='\u{1faff}');
    in_blocks && c.general_category_group() == GeneralCategoryGroup::Symbol
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joiner_shows_between_emoji_and_in_scripts_that_join_and_nowhere_else() {
        for (before, joiner, next, shown) in [
            ("👩", ZWJ, '👧', true),
            ("👩🏽", ZWJ, '🚀', true),
            ("🏳\u{fe0f}", ZWJ, '🌈', true),
            ("👩", ZWJ, '♀', true),
            ("👩", ZWNJ, '👧', false),
            ("👩", ZWJ, 'a', false),
            ("می", ZWNJ, 'خ', true),
            ("क्", ZWJ, 'ष', true),
            ("क्", ZWNJ, 'ष', true),
            ("B", ZWJ, 'o', false),
            ("é", ZWNJ, 'é', false),
            ("Я", ZWNJ, 'н', false),
            ("漢", ZWJ, '字', false),
            ("م", ZWNJ, 'ष', false),
            ("م", ZWNJ, 'a', false),
            ("م", ZWNJ, ' ', false),
            ("١", ZWNJ, '٢', false),
            ("م\u{200c}", ZWNJ, 'م', false),
            ("", ZWJ, '👧', false),
        ] {
            assert_eq!(shows(before, joiner, next), shown, "{before:?} {joiner:?} {next:?}");
        }
    }
}
