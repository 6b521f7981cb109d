//! Pushes in time for the device's own refresh (RFC 8599 §5.5), and the end.

use sip::endpoint::PushBindingEnd;
use sip::message::Name;

use super::through::{PN, Register, Through, values};

#[test]
fn a_device_is_pushed_in_time_to_refresh_again_half_way_to_the_end_each_time_and_then_it_is_over() {
    let (mut through, _) = Through::asleep();
    through.advance(449);
    assert_eq!(through.refreshes(), 0, "not before the last quarter");
    through.advance(2);
    assert_eq!(through.refreshes(), 1, "at least 120 s before the end");
    through.advance(76);
    assert_eq!(through.refreshes(), 2, "the first may be lost");
    through.advance(38);
    assert_eq!(through.refreshes(), 3, "and the second");
    through.advance(62);
    assert_eq!((through.refreshes(), through.ends()), (4, vec![PushBindingEnd::Expired]));
    assert_eq!(through.world.endpoint.counts().push_bindings, 0);
    assert_eq!(through.left(), 1);
}

#[test]
fn a_refresh_starts_the_registrations_life_anew() {
    let (mut through, _) = Through::asleep();
    through.advance(460);
    assert_eq!(through.refreshes(), 1);
    through.registered(&Register::by(2).expires(1200));
    through.advance(800);
    assert_eq!((through.refreshes(), through.ends().len()), (1, 0));
    through.advance(110);
    assert_eq!(through.refreshes(), 2);
}

/// §4.1.4: it was told to refresh by itself 180 s before the end.
#[test]
fn a_device_that_wakes_by_itself_is_pushed_only_when_it_has_not() {
    let mut through = Through::new();
    through.registered(&Register::by(1).contact(&format!("<sip:alice@h{PN}>;+sip.pnsreg")));
    through.advance(479);
    assert_eq!(through.refreshes(), 0);
    through.advance(2);
    assert_eq!(through.refreshes(), 1);
}

/// 180 s before the end of a shorter life is at once, or was before it began.
#[test]
fn a_device_that_wakes_by_itself_is_told_so_only_where_that_leaves_time_and_else_is_pushed() {
    let own = Register::by(1).contact(&format!("<sip:alice@h{PN}>;+sip.pnsreg"));
    for (granted, by_itself, refreshed) in [(60, false, 30), (180, false, 90), (359, false, 239), (360, true, 270)] {
        let mut through = Through::new();
        through.registered(&own.clone().expires(granted));
        let caps = values(&through.world.last("REGISTER 200"), Name::FeatureCaps);
        assert_eq!(caps.concat().contains("pnsreg=\"180\""), by_itself, "{granted}");
        through.advance(refreshed - 1);
        assert_eq!(through.refreshes(), 0, "{granted}");
        through.advance(2);
        assert_eq!(through.refreshes(), 1, "{granted}");
    }
}

/// What its SIP server has not registered is neither kept nor promised.
#[test]
fn a_contact_that_a_2xx_grants_no_life_is_promised_no_pushes() {
    let mut through = Through::new();
    through.register(&Register::by(1));
    let register = through.world.last("REGISTER");
    let contact = format!("<{}>;expires=0", register.contacts()[0].target().unwrap());
    let source = through.world.upstream;
    through.world.reply(source, &register, 200, &[("Contact", &contact)], "");
    assert_eq!(values(&through.world.last("REGISTER 200"), Name::FeatureCaps), [""; 0]);
    assert_eq!(through.world.endpoint.counts().push_bindings, 0);
}

/// A sealed registration cannot be opened for longer; a stranger's server may grant a hundred years.
#[test]
fn a_registration_for_longer_than_anything_is_kept_is_refreshed_before_that_or_over() {
    const DAY: u64 = 86_400;
    for granted in [30 * DAY as u32, u32::MAX] {
        let mut through = Through::new();
        through.registered(&Register::by(1).expires(granted));
        through.world.input(sip::endpoint::Input::Closed(sip::id::FlowId::Stream(1)));
        through.advance(5 * DAY);
        assert_eq!(through.refreshes(), 0);
        through.advance(DAY - 60);
        assert!(through.refreshes() >= 1, "{granted}");
        through.registered(&Register::by(2).expires(granted));
        through.advance(6 * DAY - 10);
        assert_eq!(through.world.endpoint.counts().push_bindings, 1, "{granted}");
        through.advance(20);
        assert_eq!(through.world.endpoint.counts().push_bindings, 0, "{granted}");
    }
}
