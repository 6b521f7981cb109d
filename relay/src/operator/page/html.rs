//! The parts that the page is written with.
//!
//! Invariant: all text goes through [`Escaped`]; nothing here loads or runs anything.

use std::fmt::{Display, Formatter, Result, Write};

use crate::clock;

/// Text as HTML shows it.
pub(super) struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        self.0.chars().try_for_each(|char| match char {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            other => f.write_char(other),
        })
    }
}

/// A whole number, in groups of three digits.
pub(super) fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && digits.as_bytes()[index - 1] != b'-' {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// A bound of a histogram.
pub(super) fn bound(bound: Option<f64>) -> String {
    match bound {
        None => "–".to_owned(),
        Some(bound) if bound.is_infinite() => "over 60 s".to_owned(),
        Some(bound) if bound < 1.0 => format!("{} ms", bound * 1000.0),
        Some(bound) => format!("{bound} s"),
    }
}

/// A time as a person reads it: `2026-11-27 09:00:00 UTC`.
pub(super) fn time(unix: u64) -> String {
    clock::rfc3339(unix).replace('T', " ").replace('Z', " UTC")
}

/// A span of time in its two largest units.
pub(super) fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// A chart of the last hour: one line, or two on one scale, the second of what is bad.
pub(super) fn chart(page: &mut String, title: &str, lines: [&[f64]; 2], unit: &str) {
    let highest = lines.iter().flat_map(|line| line.iter()).fold(0.0_f64, |highest, value| highest.max(*value));
    let last = |line: &[f64]| line.last().map_or_else(|| "–".to_owned(), |value| short(*value));
    let now =
        if lines[1].is_empty() { last(lines[0]) } else { format!("{}, failed {}", last(lines[0]), last(lines[1])) };
    let label = format!("{title}, the last hour: now {now}{unit}, at most {}{unit}", short(highest));
    let _ = write!(page, "<div class=\"card\"><h3>{}</h3>", Escaped(title));
    let _ = write!(
        page,
        "<svg viewBox=\"0 0 120 40\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">",
        Escaped(&label)
    );
    let scale = if highest > 0.0 { 36.0 / highest } else { 0.0 };
    for (class, line) in [("a", lines[0]), ("b", lines[1])] {
        if line.len() > 1 {
            let first = 120.0 - 2.0 * (line.len() - 1) as f64;
            let points = line
                .iter()
                .enumerate()
                .map(|(index, value)| format!("{:.1},{:.1}", first + 2.0 * index as f64, 38.0 - value * scale));
            let _ = write!(page, "<polyline class=\"{class}\" points=\"{}\"/>", points.collect::<Vec<_>>().join(" "));
        }
    }
    if lines[0].len() < 2 {
        page.push_str("</svg><small>drawn from the second minute on</small></div>");
        return;
    }
    let _ = write!(page, "</svg><small>now {}{unit} · at most {}{unit}</small></div>", Escaped(&now), short(highest));
}

fn short(value: f64) -> String {
    if value == value.trunc() { count(value) } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_spans_read_like_ones() {
        for (seconds, text) in
            [(0.0, "0 s"), (59.9, "59 s"), (61.0, "1 min"), (7_260.0, "2 h 1 min"), (1e6, "11 d 13 h")]
        {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(
            (count(0.0), count(999.0), count(1_234_567.0)),
            ("0".into(), "999".into(), "1\u{202f}234\u{202f}567".into())
        );
        assert_eq!(
            (bound(None), bound(Some(0.25)), bound(Some(f64::INFINITY))),
            ("–".into(), "250 ms".into(), "over 60 s".into())
        );
    }

    #[test]
    fn a_chart_tells_in_words_what_it_draws() {
        let mut page = String::new();
        chart(&mut page, "Pushes <a minute>", [&[1.0, 4.0], &[0.0, 2.0]], "");
        assert!(
            page.contains("aria-label=\"Pushes &lt;a minute&gt;, the last hour: now 4, failed 2, at most 4\""),
            "{page}"
        );
        assert_eq!(page.matches("<polyline").count(), 2);
    }
}
