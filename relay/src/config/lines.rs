//! The line of each setting in the file.
//!
//! Invariant: it holds places and line numbers, and nothing of the values.

use std::collections::HashMap;

use toml::de::{DeTable, DeValue};

/// The line of each setting and section, by its place (`call.ring_timeout`, `app[0].apns`); lines count from 1.
#[derive(Debug, Clone, Default)]
pub struct Lines(HashMap<String, usize>);

impl Lines {
    /// Reads them out of a configuration; none where it is not TOML.
    pub(super) fn read(text: &str) -> Self {
        let mut lines = Self::default();
        if let Ok(root) = DeTable::parse(text) {
            lines.take_in(text, "", root.get_ref());
        }
        lines
    }

    /// The line of this place; of the section around it when it is not there itself.
    pub fn of(&self, place: &str) -> Option<usize> {
        let mut place = place;
        loop {
            if let Some(line) = self.0.get(place) {
                return Some(*line);
            }
            place = &place[..place.rfind(['.', '['])?];
        }
    }

    /// Whether the file has this place itself.
    pub(super) fn has(&self, place: &str) -> bool {
        self.0.contains_key(place)
    }

    fn take_in(&mut self, text: &str, prefix: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let place = format!("{prefix}{}", key.get_ref());
            self.0.entry(place.clone()).or_insert_with(|| line(text, key.span().start));
            match value.get_ref() {
                DeValue::Table(inner) => self.take_in(text, &format!("{place}."), inner),
                DeValue::Array(items) => {
                    for (index, item) in items.iter().enumerate() {
                        let place = format!("{place}[{index}]");
                        self.0.insert(place.clone(), line(text, item.span().start));
                        if let DeValue::Table(inner) = item.get_ref() {
                            self.take_in(text, &format!("{place}."), inner);
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

/// The line of a byte.
pub(super) fn line(text: &str, at: usize) -> usize {
    text.get(..at).unwrap_or_default().matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_has_its_line_and_what_is_absent_that_of_its_section() {
        let text = "# first\n[edge]\npublic = \"a\"\n\n[[app]]\nid = \"one\"\n  [app.apns]\n  key_id = \"k\"\n[[app]]\nid = \"two\"\n\
                    [call]\nring_timeout = \"\"\n";
        let lines = Lines::read(text);
        for (place, line) in [
            ("edge", Some(2)),
            ("edge.public", Some(3)),
            ("edge.listen", Some(2)),
            ("app[0]", Some(5)),
            ("app[0].id", Some(6)),
            ("app[0].apns.key_id", Some(8)),
            ("app[0].apns.team_id", Some(7)),
            ("app[1].id", Some(10)),
            ("app[1].apns", Some(9)),
            ("call.ring_timeout", Some(12)),
            ("store.url", None),
        ] {
            assert_eq!(lines.of(place), line, "{place}");
        }
        assert_eq!(Lines::read("this is = = no TOML").of("edge"), None);
    }
}
