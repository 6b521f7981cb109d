//! The status page: one look at the relay, in a browser, on a phone too, at three in the morning.
//!
//! | part | what it is |
//! | --- | --- |
//! | `banner` | how it stands, in one sentence, with the next step |
//! | `attention` | what has gone wrong, lately first, and what it means |
//! | [`calls`] | the last calls |
//! | `status` | banner, numbers and attention as JSON |
//! | `tables` | everything else, folded away |
//! | `html` | text, numbers and charts as HTML |
//!
//! Invariant: built from the metrics, their last hour, the readiness and the stories of calls alone, so it can hold no secret; it loads nothing
//! and runs nothing, which its content security policy enforces. It asks for itself again each [`REFRESH_S`].

mod attention;
mod banner;
pub(super) mod calls;
mod html;
mod status;
mod tables;

use std::fmt::Write;
use std::time::Duration;

use tokio::time::Instant;

use super::canary::{Canaries, Round};
use super::history::{History, Watched};
use super::readiness::Readiness;
use crate::clock;
use crate::metrics::reading::Reading;
use crate::metrics::{Metric, Metrics};
use crate::push;
use crate::service::operators::CallStories;

use attention::SPANS;
use html::{Escaped, bound, chart, count, span, time};
pub use status::status;

/// The policy that the page is sent with: its own style, and a form that leads back to it.
pub const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// How often the page is asked for again, in seconds.
const REFRESH_S: u32 = 15;
/// The farthest that a reader's clock is from UTC, in minutes.
const FARTHEST_MIN: i32 = 14 * 60;
const STYLE: &str = include_str!("style.css");

/// How the page is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Everything is unfolded.
    pub all: bool,
    /// The page does not reload by itself: nothing is read out anew, and unfolded parts stay so.
    pub still: bool,
    /// The reader's clock is so many minutes before UTC.
    pub zone_min: i32,
}

impl View {
    /// Reads `all`, `still` and `zone` (minutes) of a query; anything else counts for nothing.
    pub fn of(query: &str) -> Self {
        let mut view = Self::default();
        for pair in query.split('&') {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("all", _) => view.all = true,
                ("still", _) => view.still = true,
                ("zone", minutes) => {
                    let minutes = minutes.replace("%2B", "").parse::<i32>().unwrap_or(0);
                    view.zone_min = minutes.clamp(-FARTHEST_MIN, FARTHEST_MIN);
                }
                _ => {}
            }
        }
        view
    }

    fn query(self) -> String {
        let all = if self.all { "&amp;all" } else { "" };
        let still = if self.still { "&amp;still" } else { "" };
        format!("?zone={}{all}{still}", self.zone_min)
    }
}

/// The data of the page.
pub struct PageData<'a> {
    reading: Reading,
    at: Instant,
    up: Duration,
    history: &'a History,
    readiness: &'a Readiness,
    services: Vec<push::Report>,
    calls: CallStories,
    canaries: Vec<(Box<str>, Round)>,
}

impl<'a> PageData<'a> {
    /// At these, now.
    pub fn new(metrics: &Metrics, history: &'a History, readiness: &'a Readiness, canaries: &Canaries) -> Self {
        let services = readiness.push_services();
        let (calls, canaries) = (CallStories { is_whole: true, ..CallStories::default() }, canaries.rounds());
        let (reading, up) = (Reading::of(metrics), metrics.up());
        Self { reading, at: Instant::now(), up, history, readiness, services, calls, canaries }
    }

    /// With these calls.
    pub fn with_calls(self, calls: CallStories) -> Self {
        Self { calls, ..self }
    }

    fn growth(&self, span: Duration, watched: Watched) -> f64 {
        self.history.growth((self.at, &self.reading), span, watched)
    }

    /// How often something happened in the last five minutes.
    fn lately(&self, metric: Metric, label: &'static str, value: &'static str) -> f64 {
        let labels = [(label, value)];
        (self.reading.value(metric, &labels) - self.before(SPANS[0], metric, &labels)).max(0.0)
    }

    fn before(&self, span: Duration, metric: Metric, labels: &[(&str, &str)]) -> f64 {
        self.history.before(self.at, span, |reading| reading.value(metric, labels))
    }
}

/// The page of the node `name`, as it stands now.
pub fn render(name: &str, look: &PageData<'_>, view: View) -> String {
    let words = banner::words(look);
    let mut page = String::with_capacity(32 * 1024);
    let title = match words.first().map(|word| word.state) {
        Some(banner::State::Bad) => "calls fail",
        Some(banner::State::Warn) => "look",
        Some(banner::State::Good) | None => "ready",
    };
    let refresh =
        if view.still { String::new() } else { format!("<meta http-equiv=\"refresh\" content=\"{REFRESH_S}\">") };
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>sipwake {}: {title}</title>\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><meta name=\"robots\" content=\"noindex\">\
         {refresh}<link rel=\"icon\" href=\"data:,\"><style>{STYLE}</style></head><body>",
        Escaped(name)
    );
    head(&mut page, name, look, view);
    page.push_str("<main>");
    banner::write(&mut page, &words);
    write_numbers(&mut page, &numbers(look));
    attention::write(&mut page, look, words.iter().all(|word| word.state == banner::State::Good));
    calls::write(&mut page, &look.calls);
    charts(&mut page, look);
    let (open, link, other) = if view.all {
        (" open", "fold everything", View { all: false, ..view })
    } else {
        ("", "keep everything unfolded", View { all: true, ..view })
    };
    let _ = write!(
        page,
        "<details{open}><summary>Every number</summary><p><a href=\"{}\">{link}</a></p><div class=\"tables\">",
        other.query()
    );
    tables::write(&mut page, look);
    page.push_str("</div></details></main></body></html>\n");
    page
}

/// The head of the page: the relay's name and the time.
fn head(page: &mut String, name: &str, look: &PageData<'_>, view: View) {
    let now = clock::advertised_now();
    let _ = write!(
        page,
        "<header><h1>sipwake {} <span class=\"quiet\">{}</span></h1><p>As of <b>{}</b>",
        Escaped(name),
        env!("CARGO_PKG_VERSION"),
        time(now),
    );
    if view.zone_min != 0 {
        let local = now.saturating_add_signed(i64::from(view.zone_min) * 60);
        let _ = write!(page, ", <b>{}</b> at your place", time(local).trim_end_matches(" UTC"));
    }
    let (when, link, other) = if view.still {
        ("not refreshed".to_owned(), "go on", View { still: false, ..view })
    } else {
        (format!("refreshed each {REFRESH_S} s"), "hold", View { still: true, ..view })
    };
    let _ =
        write!(page, "; up for {}; {when} (<a href=\"{}\">{link}</a>).", span(look.up.as_secs_f64()), other.query());
    page.push_str(" <form><label>Your clock: UTC <select name=\"zone\">");
    for minutes in zones() {
        let chosen = if minutes == view.zone_min { " selected" } else { "" };
        let (sign, far) = (if minutes < 0 { '-' } else { '+' }, minutes.abs());
        let _ = write!(page, "<option value=\"{minutes}\"{chosen}>{sign}{:02}:{:02}</option>", far / 60, far % 60);
    }
    let all = if view.all { "<input type=\"hidden\" name=\"all\">" } else { "" };
    let still = if view.still { "<input type=\"hidden\" name=\"still\">" } else { "" };
    let _ = write!(page, "</select></label> {all}{still}<button>show</button></form></p></header>");
}

/// The clocks of the world, in minutes before UTC.
fn zones() -> Vec<i32> {
    const ODD: [i32; 12] = [-570, -210, -150, 210, 270, 330, 345, 390, 525, 570, 630, 765];
    let mut zones: Vec<i32> = (-12 * 60..=FARTHEST_MIN).step_by(60).chain(ODD).collect();
    zones.sort_unstable();
    zones
}

/// A push service as a person calls it.
fn service_name(service: &str) -> &str {
    match service {
        "apns" => "APNs",
        "apns-sandbox" => "APNs sandbox",
        "fcm" => "FCM",
        "webpush" => "Web Push",
        other => other,
    }
}

/// The four numbers that tell most.
struct Numbers {
    /// Phones that a call reaches, and all that should be.
    reached: f64,
    all: f64,
    /// Calls that wait now.
    waiting: f64,
    /// Pushes that each service has accepted in five minutes.
    pushes: Vec<(&'static str, f64)>,
    /// Within how many seconds 9 of 10 phones woke in the last hour.
    wake: Option<f64>,
}

/// Phones that a call reaches, and all that should be.
fn phones(reading: &Reading) -> (f64, f64) {
    let state = |state| reading.value(Metric::Instances, &[("state", state)]);
    let passed = reading.value(Metric::PushRegistrations, &[]);
    let elsewhere = state("foreground") + state("ending");
    (state("registered") + passed, reading.value(Metric::Instances, &[]) - elsewhere + passed)
}

fn numbers(look: &PageData<'_>) -> Numbers {
    let reading = &look.reading;
    let (reached, all) = phones(reading);
    let mut pushes = Vec::new();
    for (name, provider) in [("APNs", "apns"), ("FCM", "fcm"), ("Web Push", "webpush"), ("printed", "printed")] {
        let ever = reading.value(Metric::Pushes, &[("provider", provider)]);
        if ever > 0.0 || (["apns", "fcm"].contains(&provider) && reading.value(Metric::Pushes, &[]) == 0.0) {
            let labels = [("provider", provider), ("outcome", "accepted")];
            let lately = reading.value(Metric::Pushes, &labels) - look.before(SPANS[0], Metric::Pushes, &labels);
            pushes.push((name, lately.max(0.0)));
        }
    }
    let wake = look.history.within((look.at, reading), SPANS[1], Metric::Wake, 0.9);
    Numbers { reached, all, waiting: reading.value(Metric::CallsWaiting, &[]), pushes, wake }
}

fn write_numbers(page: &mut String, numbers: &Numbers) {
    let pushes: Vec<_> =
        numbers.pushes.iter().map(|(name, lately)| format!("<b>{}</b> {name}", count(*lately))).collect();
    let _ = write!(
        page,
        "<dl class=\"numbers\" aria-label=\"The four numbers\">\
         <div class=\"card\"><dt>phones reachable</dt><dd><b>{}</b> of {}</dd></div>\
         <div class=\"card\"><dt>calls waiting now</dt><dd><b>{}</b></dd></div>\
         <div class=\"card\"><dt>pushes accepted, 5 min</dt><dd>{}</dd></div>\
         <div class=\"card\"><dt>9 of 10 phones woke within, 1 h</dt><dd><b>{}</b></dd></div></dl>",
        count(numbers.reached),
        count(numbers.all),
        count(numbers.waiting),
        pushes.join(" · "),
        Escaped(&bound(numbers.wake)),
    );
}

/// The last hour, drawn.
fn charts(page: &mut String, look: &PageData<'_>) {
    let line = |value: &dyn Fn(&Reading) -> f64| look.history.minutes((look.at, &look.reading), value);
    let each_minute = |value: &dyn Fn(&Reading) -> f64| -> Vec<f64> {
        line(value).windows(2).map(|pair| (pair[1] - pair[0]).max(0.0)).collect()
    };
    let outcomes = |reading: &Reading, metric, outcomes: &[&str]| -> f64 {
        outcomes.iter().map(|outcome| reading.value(metric, &[("outcome", outcome)])).sum()
    };
    page.push_str("<section aria-labelledby=\"hour\"><h2 id=\"hour\">The last hour</h2><div class=\"charts\">");
    let registered = line(&|reading| {
        reading.value(Metric::Instances, &[("state", "registered")]) + reading.value(Metric::PushRegistrations, &[])
    });
    chart(page, "Phones reachable", [&registered, &[]], "");
    let calls = each_minute(&|reading| reading.value(Metric::Invites, &[]));
    let missed = each_minute(&|reading| {
        outcomes(reading, Metric::Invites, &["timed-out", "unreachable", "limited", "refused-by-device"])
    });
    chart(page, "Calls a minute", [&calls, &missed], "");
    let pushed = each_minute(&|reading| outcomes(reading, Metric::Pushes, &["accepted"]));
    let failed = each_minute(&|reading| outcomes(reading, Metric::Pushes, &["failed", "refused", "too-late"]));
    chart(page, "Pushes a minute", [&pushed, &failed], "");
    let of_both = |reading: &Reading, words: &[&str]| {
        outcomes(reading, Metric::Registrations, words) + outcomes(reading, Metric::PassedRegisters, words)
    };
    let registered = each_minute(&|reading| of_both(reading, &["registered", "refreshed"]));
    let refused = each_minute(&|reading| of_both(reading, &["refused", "failed", "timed-out", "unreachable"]));
    chart(page, "Registrations a minute", [&registered, &refused], "");
    page.push_str("</div></section>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{CanaryStep, InstanceState, PushOutcome};
    use crate::metrics::labels::{InviteOutcome, PassedEnd, PassedRegisterOutcome, RegistrationOutcome};
    use crate::operator::readiness::Check;

    fn ready() -> Readiness {
        let readiness = Readiness::default();
        Check::ALL.iter().for_each(|check| readiness.pass(*check));
        readiness
    }

    fn page(metrics: &Metrics, readiness: &Readiness, query: &str) -> String {
        render(
            "relay<1>:5061",
            &PageData::new(metrics, &History::default(), readiness, &Canaries::default()),
            View::of(query),
        )
    }

    #[test]
    fn the_time_that_it_is_up_is_right_while_the_clock_is_not() {
        // The simulated machine is that of its thread.
        let simulated = std::thread::spawn(|| {
            let mut machine = clock::Machine::default();
            machine.off_ms = -86_400_000;
            clock::set_virtual(&machine);
            let begun_by_a_wrong_clock = Metrics::new();
            (machine.up, machine.off_ms) = (Duration::from_secs(60), 0);
            clock::set_virtual(&machine);
            let shown = page(&begun_by_a_wrong_clock, &ready(), "");
            assert!(shown.contains("; up for 1 min;"), "{shown}");
        });
        simulated.join().expect("no panic");
    }

    #[test]
    fn the_banner_has_three_states_and_is_never_good_while_every_push_fails() {
        let (metrics, readiness) = (Metrics::new(), ready());
        let good = page(&metrics, &readiness, "");
        assert!(good.contains("banner good") && good.contains("A call can wake its phone"));
        readiness.fail(Check::Store, "the store does not answer");
        let warn = page(&metrics, &readiness, "");
        assert!(warn.contains("banner warn") && warn.contains("known phones still ring"), "{warn}");
        assert!(warn.contains("Nothing else has gone wrong since the start."), "{warn}");
        readiness.pass(Check::Store);
        let fcm = metrics.push_service("com.example.phone", "fcm");
        let mut report = push::Report {
            app: "com.example.phone".into(),
            service: "fcm",
            state: push::State::Unknown,
            since: 0,
            reason: None,
            last_accepted: 0,
            waiting: 0,
        };
        let history = History::default();
        let shown = |report: &push::Report| {
            let mut look = PageData::new(&metrics, &history, &readiness, &Canaries::default());
            look.services = vec![report.clone()];
            render("relay", &look, View::default())
        };
        assert!(shown(&report).contains("banner good"));
        fcm.push(PushOutcome::Failed);
        let first = shown(&report);
        assert!(first.contains("banner warn") && first.contains("1 of 1 pushes failed in 5 min"), "{first}");
        fcm.push(PushOutcome::Failed);
        fcm.push(PushOutcome::Failed);
        let bad = shown(&report);
        assert!(bad.contains("banner bad") && bad.contains("look at DNS"), "{bad}");
        report.app = "com.example.other".into();
        let other = metrics.push_service("com.example.other", "fcm");
        (0..3).for_each(|_| other.push(PushOutcome::Refused));
        let warn = shown(&report);
        assert!(warn.contains("banner warn") && warn.contains("3 of 3 pushes failed"), "tokens of their own: {warn}");
        report.app = "com.example.phone".into();
        (report.state, report.since) = (push::State::Failing, 1_795_000_000);
        report.reason = Some(("Unreachable", "no connection can be made (its name does not resolve: gone)".into()));
        let bad = shown(&report);
        let says = "FCM for com.example.phone: 3 of 3 pushes failed in 5 min, failing since 2026-";
        assert!(bad.contains("banner bad") && bad.contains(says) && bad.contains("Next: look at DNS"), "{bad}");
        fcm.push(PushOutcome::Accepted);
        (report.state, report.reason, report.last_accepted) = (push::State::Well, None, 1_795_000_060);
        let back = shown(&report);
        assert!(back.contains("banner warn") && back.contains("it took a push at 2026-"), "{back}");
        readiness.fail(Check::Shards, "a shard does not answer");
        let bad = page(&metrics, &readiness, "");
        assert!(bad.contains("banner bad") && bad.contains("shards: a shard does not answer"));
    }

    #[test]
    fn a_drain_that_was_asked_for_is_no_fault_and_hides_none() {
        let (metrics, readiness) = (Metrics::new(), ready());
        readiness.fail(Check::Serving, crate::operator::readiness::SHUTTING_DOWN);
        let drains = page(&metrics, &readiness, "");
        assert!(drains.contains("banner warn") && drains.contains("The relay drains and ends"), "{drains}");
        assert!(!drains.contains("mend this first"), "{drains}");
        readiness.fail(Check::Shards, "a shard does not answer");
        let bad = page(&metrics, &readiness, "");
        assert!(bad.contains("banner bad") && bad.contains("Not ready: shards: a shard"), "{bad}");
        assert!(bad.contains("The relay drains and ends"), "{bad}");
    }

    #[test]
    fn registrations_that_wait_are_told_once_some_have_waited_for_five_minutes() {
        let (metrics, readiness, history) = (Metrics::new(), ready(), History::default());
        let now = Instant::now();
        let shown = |after: u64| {
            let mut look = PageData::new(&metrics, &history, &readiness, &Canaries::default());
            look.at = now + Duration::from_secs(after);
            render("relay", &look, View::default())
        };
        let take = |after: u64| history.take(now + Duration::from_secs(after), Reading::of(&metrics));
        take(0);
        metrics.registrations_waiting(20);
        for after in [15, 300] {
            take(after);
            assert!(shown(after).contains("banner good"), "{after}: some have waited for less than 5 min");
        }
        take(320);
        let warn = shown(320);
        assert!(warn.contains("banner warn") && warn.contains("20 registrations wait for their turn"), "{warn}");
        metrics.registrations_waiting(-20);
        assert!(shown(330).contains("banner good"));
        take(330);
        metrics.registrations_waiting(1);
        assert!(shown(340).contains("banner good"), "none waited some seconds ago");
    }

    #[test]
    fn a_relay_that_reaches_no_phone_of_any_says_so() {
        let (metrics, readiness) = (Metrics::new(), ready());
        metrics.instance_enters(InstanceState::Retrying);
        assert!(page(&metrics, &readiness, "").contains("The only phone is not reachable: no SIP server"));
        (0..4).for_each(|_| metrics.instance_enters(InstanceState::Retrying));
        let none = page(&metrics, &readiness, "");
        assert!(none.contains("banner warn") && none.contains("None of 5 phones is reachable"), "{none}");
        metrics.registration(RegistrationOutcome::Registered);
        let none = page(&metrics, &readiness, "");
        assert!(none.contains("None of 5 phones is reachable: no registration stands any more"), "{none}");
    }

    #[test]
    fn phones_without_a_registration_are_told_by_the_state_however_long_ago_it_began() {
        // Registered, retrying, ending; what is told of it.
        for (registered, retrying, ending, banner, says) in [
            (20, 0, 0, "banner good", "A call can wake its phone. Nothing is to be done."),
            (3, 17, 0, "banner warn", "17 of 20 phones have no registration now"),
            (17, 5, 0, "banner warn", "5 of 22 phones have no registration now"),
            (1, 2, 0, "banner warn", "2 of 3 phones have no registration now"),
            (37, 1, 0, "banner good", "1 of 38 phones has no registration now"),
            (96, 4, 0, "banner good", "4 of 100 phones have no registration now"),
            (3, 0, 17, "banner good", "Nothing is to be done."),
        ] {
            let (metrics, readiness) = (Metrics::new(), ready());
            (0..registered).for_each(|_| metrics.instance_enters(InstanceState::Registered));
            (0..retrying).for_each(|_| metrics.instance_enters(InstanceState::Retrying));
            (0..ending).for_each(|_| metrics.instance_enters(InstanceState::Ending));
            // Refreshes of the others thin no failure out.
            (0..500).for_each(|_| metrics.registration(RegistrationOutcome::Refreshed));
            let shown = page(&metrics, &readiness, "");
            assert!(shown.contains(banner) && shown.contains(says), "{registered} {retrying} {ending}: {shown}");
            assert_eq!(shown.contains("Nothing is to be done"), retrying == 0, "{registered} {retrying} {ending}");
        }
    }

    #[test]
    fn phones_that_register_through_the_relay_are_told_when_they_are_lost_and_while_they_cannot_refresh() {
        use PassedEnd::{Expired, Replaced, Unregistered};
        // What stands, and how many of these failed to refresh; how the others ended; what is told of it.
        type Case = (i32, usize, &'static [(PassedEnd, u8)], &'static str, &'static str);
        let cases: &[Case] = &[
            (0, 0, &[(Expired, 20)], "banner warn", "20 phones that register through this relay lost"),
            (17, 0, &[(Expired, 6)], "banner warn", "6 phones that register through this relay lost"),
            (100, 0, &[(Expired, 20)], "banner good", "Nothing is to be done."),
            (0, 0, &[(Expired, 2)], "banner good", "Phones lost: ran out"),
            (0, 0, &[(Unregistered, 20), (Replaced, 20)], "banner good", "Nothing has gone wrong since the start."),
            (20, 20, &[], "banner warn", "The last refresh of 20 of 20 phones"),
            (100, 21, &[], "banner warn", "docs/runbooks.md, PassedRegistersFail"),
            (8, 2, &[], "banner good", "Nothing is to be done."),
            (100, 20, &[], "banner good", "Nothing is to be done."),
        ];
        for (stand, fail, ends, banner, says) in cases {
            let (metrics, readiness) = (Metrics::new(), ready());
            metrics.push_registrations(*stand);
            // However often few phones and strangers try.
            for outcome in [PassedRegisterOutcome::Unproven, PassedRegisterOutcome::FirstFailed] {
                (0..*fail * 50).for_each(|_| metrics.passed_register(outcome));
            }
            let _failing: Vec<_> = (0..*fail).map(|_| metrics.push_registration_fails()).collect();
            for (end, count) in *ends {
                for phone in 0..*count {
                    metrics.push_registration_ended(*end);
                    if *end == Expired {
                        metrics.push_registration_runs_out([phone; 16], [phone; 16]);
                    }
                }
            }
            let shown = page(&metrics, &readiness, "");
            assert!(shown.contains(banner) && shown.contains(says), "{stand} {fail} {ends:?}: {shown}");
        }
    }

    #[test]
    fn a_lost_phone_is_no_more_told_when_it_is_back_and_others_that_register_hide_none() {
        let (metrics, readiness) = (Metrics::new(), ready());
        (0..20).for_each(|phone| metrics.push_registration_runs_out([phone; 16], [phone; 16]));
        (100..160).for_each(|other| metrics.push_registration_begins([other; 16], [other; 16]));
        let lost = page(&metrics, &readiness, "");
        assert!(lost.contains("20 phones that register through this relay lost"), "{lost}");
        (0..20).for_each(|phone| metrics.push_registration_begins([phone; 16], [phone + 20; 16]));
        let back = page(&metrics, &readiness, "");
        assert!(back.contains("banner good"), "{back}");
        assert_eq!(Reading::of(&metrics).value(Metric::PushRegistrationsLost, &[]), 0.0);
    }

    #[test]
    fn calls_that_the_stacks_of_the_phones_refuse_are_told_when_they_are_most() {
        for (refused, answered, banner) in
            [(12, 0, "banner warn"), (12, 11, "banner warn"), (2, 0, "good"), (12, 12, "good")]
        {
            let (metrics, readiness) = (Metrics::new(), ready());
            (0..refused).for_each(|_| metrics.invite(InviteOutcome::RefusedByDevice));
            (0..answered).for_each(|_| metrics.invite(InviteOutcome::Answered));
            let shown = page(&metrics, &readiness, "");
            assert!(shown.contains(banner) && shown.contains("Calls refused by the phone"), "{refused}: {shown}");
        }
    }

    #[test]
    fn phones_whose_first_registration_is_long_under_way_are_told_and_a_burst_of_new_ones_is_not() {
        let (metrics, readiness, history) = (Metrics::new(), ready(), History::default());
        let now = Instant::now();
        metrics.instance_enters(InstanceState::Registered);
        (0..9).for_each(|_| metrics.instance_enters(InstanceState::Registering));
        let shown = |after: u64| {
            let mut look = PageData::new(&metrics, &history, &readiness, &Canaries::default());
            look.at = now + Duration::from_secs(after);
            render("relay", &look, View::default())
        };
        for after in [0, 150, 290] {
            history.take(now + Duration::from_secs(after), Reading::of(&metrics));
            assert!(shown(after).contains("banner good"), "{after}");
        }
        let long = shown(310);
        assert!(long.contains("banner warn") && long.contains("9 of 10 phones have no registration now"), "{long}");
    }

    #[test]
    fn a_canary_whose_last_round_failed_is_told_with_its_step_for_an_hour_and_one_that_is_silent_as_that() {
        let (metrics, readiness, history) = (Metrics::new(), ready(), History::default());
        let shown = |ago_s: u64, failed: Option<CanaryStep>| {
            let failed = failed.map(|step| (step, "the edge <refused>".into()));
            let at = clock::advertised_now() - ago_s;
            let round = Round { at, failed, steps: vec![(CanaryStep::Push, 12)], last_whole: None };
            let mut look = PageData::new(&metrics, &history, &readiness, &Canaries::default());
            look.canaries = vec![("com.example.phone".into(), round)];
            render("relay", &look, View::default())
        };
        let rang = shown(60, None);
        assert!(rang.contains("banner good") && rang.contains("pushed after 12 ms"), "{rang}");
        let failed = shown(60, Some(CanaryStep::Attach));
        assert!(failed.contains("banner bad") && failed.contains("at its step attach: the edge &lt;refused&gt;"));
        // Nobody knows by now whether calls fail.
        for last in [None, Some(CanaryStep::Attach)] {
            let silent = shown(7_230, last);
            let says = "The canary of com.example.phone has told nothing for 2 h 0 min";
            assert!(silent.contains("banner warn") && silent.contains(says), "{last:?}: {silent}");
        }
    }

    #[test]
    fn only_what_went_wrong_needs_attention_and_zeros_are_grey() {
        let (metrics, readiness) = (Metrics::new(), ready());
        assert!(page(&metrics, &readiness, "").contains("Nothing has gone wrong since the start."));
        metrics.invite(InviteOutcome::Unreachable);
        for _ in 0..37 {
            metrics.instance_enters(InstanceState::Registered);
        }
        metrics.instance_enters(InstanceState::Retrying);
        let shown = page(&metrics, &readiness, "");
        assert!(shown.contains("Calls whose push failed") && !shown.contains("Calls without a phone"));
        assert!(shown.contains("<b>37</b> of 38"), "{shown}");
        assert!(shown.contains("<tr class=\"zero\"><th scope=\"row\">ending</th><td>0</td>"));
    }

    #[test]
    fn it_loads_nothing_runs_nothing_escapes_and_remembers_how_it_is_looked_at() {
        let (metrics, readiness) = (Metrics::new(), ready());
        readiness.warn_of(crate::metrics::labels::Warning::Clock, vec!["the clock <jumped>".into()]);
        let shown = page(&metrics, &readiness, "zone=-210&all&other=1");
        assert!(shown.contains("relay&lt;1&gt;:5061") && shown.contains("the clock &lt;jumped&gt;"));
        assert!(
            !shown.contains("src=")
                && !shown.contains("<script")
                && !shown.contains("http://")
                && !shown.contains("https://")
        );
        assert!(shown.contains("<details open>") && shown.contains("at your place"));
        assert!(shown.contains("<option value=\"-210\" selected>-03:30</option>"));
        assert!(!page(&metrics, &readiness, "").contains("<details open>"));
        assert_eq!(View::of("zone=99999"), View { zone_min: FARTHEST_MIN, ..View::default() });
        let view = View::of("still&zone=345");
        assert_eq!(View::of(&view.query().replace("&amp;", "&")[1..]), view);
        assert!(
            shown.contains("http-equiv=\"refresh\"") && !page(&metrics, &readiness, "still").contains("http-equiv")
        );
        assert_eq!(View::of("zone=x&&="), View::default());
    }
}
