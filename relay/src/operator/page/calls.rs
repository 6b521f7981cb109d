//! The last calls of this node, newest first.
//!
//! Invariant: a caller is shown as shortened as the story has it.

use std::fmt::Write;

use super::html::{Escaped, time};
use crate::domain::Word as _;
use crate::domain::story::{Moment, StoryOutcome};
use crate::service::operators::CallStories;

/// How many calls are shown.
pub(in crate::operator) const SHOWN: usize = 5;

/// Writes the list.
pub(super) fn write(page: &mut String, told: &CallStories) {
    page.push_str("<section aria-labelledby=\"calls\"><h2 id=\"calls\">Last calls</h2>");
    if !told.is_whole {
        page.push_str(
            "<p class=\"quiet\">Some are missing: the store does not answer, or this node has just started.</p>",
        );
    }
    if told.stories.is_empty() {
        page.push_str("<p class=\"quiet\">None in the last day. Other nodes: sipwake calls.</p></section>");
        return;
    }
    page.push_str("<table class=\"calls\"><thead><tr>");
    for column in ["came at", "from", "device came after", "outcome", "why"] {
        let _ = write!(page, "<th scope=\"col\">{column}</th>");
    }
    page.push_str("</tr></thead><tbody>");
    for story in &told.stories {
        let outcome = story.outcome();
        let class = match outcome {
            StoryOutcome::Unreachable => " class=\"bad\"",
            StoryOutcome::Answered => " class=\"good\"",
            _ => "",
        };
        let at = time(story.at_ms / 1_000);
        let came = story.when(|moment| matches!(moment, Moment::DeviceAttached));
        let came = came.map_or_else(|| "–".to_owned(), |ms| format!("{}.{} s", ms / 1_000, ms % 1_000 / 100));
        let _ = write!(
            page,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{came}</td><td{class}>{}</td><td class=\"why\">{}</td></tr>",
            at.split_once(' ').map_or(&*at, |(_, clock)| clock),
            Escaped(story.from.as_str()),
            outcome.word(),
            Escaped(&story.why().unwrap_or_else(|| story.app.to_string())),
        );
    }
    page.push_str("</tbody></table><p class=\"quiet\">Each step: sipwake calls, sipwake calls show C.</p></section>");
}

#[cfg(test)]
mod tests {
    use sip::endpoint::CallState;
    use sip::id::{CallId, InstanceId, ShardTag};

    use super::*;
    use crate::domain::story::Story;

    #[test]
    fn a_missed_call_has_its_reason_and_a_hole_is_said() {
        let (call, instance) = (CallId::new(1 << 16, ShardTag(0)), InstanceId::new(2 << 16, ShardTag(0)));
        let mut story = Story::new(call, instance, "com.example.phone", "sip:<bob>@example.com", 1_795_000_000_000);
        story.tell(1_795_000_002_000, Moment::Ended(CallState::Cancelled));
        let mut page = String::new();
        write(&mut page, &CallStories { stories: vec![story], is_whole: false });
        assert!(page.contains("the caller gave up after 2.0 s") && page.contains("&lt;…"), "{page}");
        assert!(page.contains("Some are missing") && !page.contains("bob"));
        page.clear();
        write(&mut page, &CallStories { stories: Vec::new(), is_whole: true });
        assert!(page.contains("None in the last day"));
    }
}
