//! Characters that nobody sees: they make no name, and no other name of one.
//!
//! Invariant: what is drawn, if only as a blank that separates words, is not among them.

/// Whether a character is drawn as nothing: Default_Ignorable_Code_Point beside Cf and variation selectors, the blank Braille pattern, noncharacters.
pub(crate) fn is_blank(c: char) -> bool {
    let code = u32::from(c);
    code & 0xfffe == 0xfffe
        || matches!(
            code,
            0x034f
                | 0x115f..=0x1160
                | 0x17b4..=0x17b5
                | 0x180b..=0x180f
                | 0x2065
                | 0x2800
                | 0x3164
                | 0xfdd0..=0xfdef
                | 0xffa0
                | 0xfff0..=0xfff8
                | 0xe0000..=0xe0fff
        )
}
