//! Guessing passwords, in virtual time.

use super::*;

fn guesses() -> Guesses {
    Guesses::new(Free { per_account: 5, per_source: 60 })
}

fn attempt<'a>(aor: &'a str, source: &str) -> Attempt<'a> {
    let source = source.parse().unwrap();
    Attempt { aor, usernames: &[], server: "example.com", addresses: &[], source, renews: false }
}

/// How many of so many wrong proofs, one after the other, begin within a time.
fn wrong(guesses: &Guesses, start: Instant, seconds: u64, of: impl Fn(u64) -> (String, String)) -> usize {
    let mut begun = 0;
    for n in 0..seconds * 100 {
        let now = start + Duration::from_millis(n * 10);
        let (aor, source) = of(n);
        if let Ok(permit) = guesses.admit(&attempt(&aor, &source), now) {
            permit.refused(now);
            begun += 1;
        }
    }
    begun
}

#[test]
fn two_hundred_wrong_passwords_for_one_account_are_six_in_a_second_and_a_dozen_in_an_hour() {
    let now = Instant::now();
    let one = |_| ("sip:alice@example.com".to_owned(), "192.0.2.1".to_owned());
    assert_eq!(wrong(&guesses(), now, 1, one), 5);
    let hour = wrong(&guesses(), now, 3600, one);
    assert!((12..20).contains(&hour), "{hour}");
}

#[test]
fn many_at_once_are_no_way_around() {
    let (guesses, now) = (guesses(), Instant::now());
    let begun: Vec<_> =
        (0..200).filter_map(|_| guesses.admit(&attempt("sip:alice@example.com", "192.0.2.1"), now).ok()).collect();
    assert_eq!(begun.len(), 5);
    for permit in begun {
        permit.refused(now);
    }
    assert!(guesses.admit(&attempt("sip:alice@example.com", "192.0.2.1"), now).is_err());
}

#[test]
fn an_account_spelt_in_many_ways_is_one() {
    let (guesses, now) = (guesses(), Instant::now());
    let spellings =
        ["sip:alice@example.com", "sips:ALICE@Example.Com", "sip:%61lice@example.com", "sip:al%69ce@example.com"];
    let begun = wrong(&guesses, now, 1, |n| (spellings[n as usize % 4].to_owned(), "192.0.2.1".to_owned()));
    assert_eq!(begun, 5);
    let bob = ["bob".into()];
    let named = |aor| Attempt { usernames: &bob, ..attempt(aor, "192.0.2.2") };
    let aors: Vec<String> = (0..50).map(|n| format!("sip:x{n}@example.com")).collect();
    let begun = aors.iter().filter(|aor| guesses.admit(&named(aor), now).map(|it| it.refused(now)).is_ok()).count();
    assert_eq!(begun, 5, "one user name under many addresses");
}

#[test]
fn a_crowd_of_sources_guesses_one_account_slowly_and_its_owner_is_let_past() {
    let (guesses, start) = (guesses(), Instant::now());
    guesses.admit(&attempt("sip:alice@example.com", "198.51.100.1"), start).ok().unwrap().accepted(start);
    let crowd = |n| ("sip:alice@example.com".to_owned(), format!("10.{}.{}.1", n / 256 % 256, n % 256));
    let begun = wrong(&guesses, start, 600, crowd);
    assert!((20..50).contains(&begun), "{begun}");
    let end = start + Duration::from_secs(600);
    assert!(guesses.admit(&attempt("sip:alice@example.com", "198.51.100.1"), end).is_ok(), "the owner");
    let wait = guesses.admit(&attempt("sip:alice@example.com", "198.51.100.2"), end).err().unwrap();
    assert!(wait.after <= ACCOUNT_PAUSE.1 && !wait.by_source, "anybody else waits {wait:?} at most");
}

#[test]
fn a_source_that_tries_many_accounts_is_slowed_down_and_others_are_not() {
    let (guesses, start) = (guesses(), Instant::now());
    let spray = |n| (format!("sip:u{n}@example.com"), "192.0.2.1".to_owned());
    let begun = wrong(&guesses, start, 60, spray);
    assert!((60..=125).contains(&begun), "{begun}");
    let end = start + Duration::from_secs(60);
    assert!(guesses.admit(&attempt("sip:bob@example.com", "192.0.2.9"), end).is_ok());
    assert!(guesses.admit(&attempt("sip:u1@example.com", "192.0.2.1"), end + Duration::from_secs(120)).is_ok());
}

#[test]
fn a_stranger_keeps_no_owner_waiting_who_renews_what_is_kept_here() {
    let (guesses, start) = (guesses(), Instant::now());
    let crowd = |n| ("sip:alice@example.com".to_owned(), format!("10.{}.{}.1", n / 256 % 256, n % 256));
    wrong(&guesses, start, 60, crowd);
    wrong(&guesses, start, 60, |n| (format!("sip:u{n}@example.com"), "192.0.2.1".to_owned()));
    let end = start + Duration::from_secs(60);
    let renewal = Attempt { renews: true, ..attempt("sip:alice@example.com", "192.0.2.1") };
    assert!(guesses.admit(&renewal, end).is_ok(), "by the address of one who guesses, even");
    // Nor is it a way around: a source that knows the device has no more attempts than its own.
    let begun = (0..100).filter(|_| guesses.admit(&renewal, end).map(|it| it.refused(end)).is_ok()).count();
    assert_eq!(begun, 5);
}

#[test]
fn a_right_proof_that_renews_forgets_the_failures_of_its_source_in_other_requests() {
    let (guesses, now) = (guesses(), Instant::now());
    for source in ["192.0.2.1", "192.0.2.2"] {
        let begun = (0..5).filter_map(|_| guesses.admit(&attempt("sip:alice@example.com", source), now).ok());
        assert_eq!(begun.map(|permit| permit.refused(now)).count(), 5);
        assert!(guesses.admit(&attempt("sip:alice@example.com", source), now).is_err());
    }
    let renewal = Attempt { renews: true, ..attempt("sip:alice@example.com", "192.0.2.1") };
    guesses.admit(&renewal, now).ok().unwrap().accepted(now);
    assert!(guesses.admit(&attempt("sip:alice@example.com", "192.0.2.1"), now).is_ok());
    assert!(guesses.admit(&attempt("sip:alice@example.com", "192.0.2.2"), now).is_err());
}

#[test]
fn right_proofs_are_never_slowed_down_and_leave_little() {
    let (guesses, now) = (guesses(), Instant::now());
    for n in 0..1000 {
        let aor = format!("sip:u{n}@example.com");
        let permit = guesses.admit(&attempt(&aor, "192.0.2.1"), now).ok().unwrap();
        permit.accepted(now);
    }
    for _ in 0..3 {
        for _ in 0..4 {
            guesses.admit(&attempt("sip:alice@example.com", "192.0.2.1"), now).ok().unwrap().refused(now);
        }
        guesses.admit(&attempt("sip:alice@example.com", "192.0.2.1"), now).ok().unwrap().accepted(now);
    }
    let later = now + REMEMBERED;
    drop(guesses.admit(&attempt("sip:x@example.com", "192.0.2.2"), later));
    assert!(guesses.lock().len() <= 2, "an hour later all is forgotten");
}

#[test]
fn one_user_is_one_whatever_stands_beside_him() {
    let (guesses, now) = (guesses(), Instant::now());
    let begun = (0..50).filter(|n| {
        let aor = format!("sip:x{n}@example.com");
        let names = match n % 3 {
            0 => vec!["bob".into()],
            1 => vec!["BOB".into()],
            _ => vec![format!("decoy{n}").into(), "b%6fb".into()],
        };
        let attempt = Attempt { usernames: &names, ..attempt(&aor, "192.0.2.2") };
        guesses.admit(&attempt, now).map(|it| it.refused(now)).is_ok()
    });
    assert_eq!(begun.count(), 5);
}

#[test]
fn a_user_with_one_domain_after_the_other_is_slowed_down() {
    let (guesses, now) = (guesses(), Instant::now());
    let begun = (0..50).filter(|n| {
        let (aor, names) = (format!("sip:x{n}@example.com"), [format!("bob@h{n}.test").into()]);
        let attempt = Attempt { usernames: &names, ..attempt(&aor, "192.0.2.2") };
        guesses.admit(&attempt, now).map(|it| it.refused(now)).is_ok()
    });
    assert_eq!(begun.count(), 20);
    let (aor, names) = ("sip:bob@h1.test", ["bob@h1.test".into()]);
    let owner = Attempt { usernames: &names, ..attempt(aor, "192.0.2.3") };
    assert!(guesses.admit(&owner, now).is_ok(), "from elsewhere");
}

/// Kamailio without `use_domain` looks for the user alone.
#[test]
fn many_sources_guess_a_user_slowly_however_his_name_is_dressed_up() {
    let (guesses, now) = (guesses(), Instant::now());
    let dressed = |n: usize| -> Box<str> {
        match n % 8 {
            0 => format!("bob@h{n}.test"),
            1 => format!("sip:bob@h{n}.test"),
            2 => format!("bob;x={n}"),
            3 => format!("D{n}\\bob"),
            4 => format!("{}bob ", " ".repeat(n)),
            5 => format!("BOB%40h{n}.test"),
            6 => format!("bob:{n}"),
            _ => format!("d{n}/bob"),
        }
        .into()
    };
    let begun = (0..400).filter(|n| {
        let (domain, source, names) = (format!("h{n}.test"), format!("10.{}.{}.1", n / 256, n % 256), [dressed(*n)]);
        let aor = format!("sip:bob@{domain}");
        let attempt = Attempt { usernames: &names, ..attempt(&aor, &source) };
        guesses.admit(&attempt, now).map(|it| it.refused(now)).is_ok()
    });
    assert_eq!(begun.count(), 80);
    let (names, others) = (["bob@h1.test".into()], ["rob@h1.test".into()]);
    let wait = guesses.admit(&Attempt { usernames: &names, ..attempt("sip:bob@h1.test", "192.0.2.3") }, now);
    assert!(wait.err().unwrap().after <= ACCOUNT_PAUSE.0, "one after the other");
    assert!(guesses.admit(&Attempt { usernames: &others, ..attempt("sip:rob@h1.test", "192.0.2.3") }, now).is_ok());
}

/// MySQL and MariaDB compare names without regard to accents, in most of their collations.
#[test]
fn many_sources_guess_a_user_no_faster_by_accents_and_what_is_not_seen() {
    let (guesses, now) = (guesses(), Instant::now());
    let forms = [
        "víctim",
        "vićtïm",
        "ṽiçtîm",
        "vi\u{301}ctim",
        "v\u{200b}ictim",
        "ｖictim",
        "vict\u{ad}im",
        "V%C3%8DCTIM",
        "v%EDctim",
    ];
    let begun = (0..300).filter(|n| {
        let (names, source) = ([forms[n % forms.len()].into()], format!("10.{}.{}.1", n / 256, n % 256));
        let aor = format!("sip:{}@example.com", forms[n / 8 % forms.len()]);
        let attempt = Attempt { usernames: &names, ..attempt(&aor, &source) };
        guesses.admit(&attempt, now).map(|it| it.refused(now)).is_ok()
    });
    assert_eq!(begun.count(), 20);
    let another = ["vector".into()];
    let another = Attempt { usernames: &another, ..attempt("sip:vector@example.com", "192.0.2.3") };
    assert!(guesses.admit(&another, now).is_ok());
}

#[test]
fn who_was_right_for_an_account_of_its_own_is_not_let_past_for_anothers() {
    let (guesses, now) = (guesses(), Instant::now());
    let (hers, mine) = (["alice".into()], ["mallory".into()]);
    let begun = (0..200).filter(|n| {
        let source = format!("10.0.{n}.1");
        let own = Attempt { usernames: &mine, ..attempt("sip:mallory@example.com", &source) };
        // Her own failures keep her waiting, too, some time.
        let _ = guesses.admit(&own, now).map(|it| it.accepted(now));
        let guess = Attempt { usernames: &hers, ..attempt("sip:mallory@example.com", &source) };
        guesses.admit(&guess, now).map(|it| it.refused(now)).is_ok()
    });
    assert_eq!(begun.count(), 20);
}

#[test]
fn a_right_proof_beside_it_forgets_no_failure() {
    let (guesses, now) = (guesses(), Instant::now());
    let (hers, both) = (["alice".into()], ["alice".into(), "mallory".into()]);
    for _ in 0..5 {
        let guess = Attempt { usernames: &hers, ..attempt("sip:mallory@example.com", "192.0.2.2") };
        guesses.admit(&guess, now).ok().unwrap().refused(now);
    }
    let later = now + SOURCE_PAUSE.0;
    let own = Attempt { usernames: &both, ..attempt("sip:mallory@example.com", "192.0.2.2") };
    guesses.admit(&own, later).ok().unwrap().accepted(later);
    let guess = Attempt { usernames: &hers, ..attempt("sip:mallory@example.com", "192.0.2.2") };
    guesses.admit(&guess, later).ok().unwrap().refused(later);
    assert!(guesses.admit(&guess, later).is_err());
}

#[test]
fn many_names_of_one_server_are_one() {
    let (guesses, now) = (guesses(), Instant::now());
    let addresses = ["192.0.2.10:5061".parse().unwrap(), "[::ffff:192.0.2.11]:5061".parse().unwrap()];
    let begun = (0..50).filter(|n| {
        let server = format!("n{n}.test");
        let addresses = if n % 2 == 0 { &addresses[..] } else { &addresses[1..] };
        let attempt = Attempt { server: &server, addresses, ..attempt("sip:alice@example.com", "192.0.2.2") };
        guesses.admit(&attempt, now).map(|it| it.refused(now)).is_ok()
    });
    assert_eq!(begun.count(), 5);
}

/// An attacker with a server that says 200, or 403, to everything.
#[test]
fn who_fills_the_table_keeps_nobody_waiting_and_has_no_guessing_forgotten() {
    let (guesses, now) = (guesses(), Instant::now());
    for _ in 0..5 {
        guesses.admit(&attempt("sip:alice@example.com", "192.0.2.1"), now).ok().unwrap().refused(now);
    }
    for n in 0..ENTRIES_MAX as u64 {
        let (aor, source) = (format!("sip:u{n}@mallory.test"), format!("10.{}.{}.1", n / 256 % 256, n % 256));
        let own = Attempt { server: "mallory.test", ..attempt(&aor, &source) };
        let Ok(permit) = guesses.admit(&own, now) else { panic!("{n}") };
        if n % 2 == 0 { permit.accepted(now) } else { permit.refused(now) }
    }
    assert!(guesses.lock().len() <= ENTRIES_MAX);
    assert!(guesses.admit(&attempt("sip:bob@example.com", "192.0.2.3"), now).is_ok());
    assert!(guesses.admit(&attempt("sip:alice@example.com", "192.0.2.1"), now).is_err(), "she is still guarded");
}

#[test]
fn a_server_that_is_named_by_its_address_counts_a_failure_once() {
    let (guesses, now) = (guesses(), Instant::now());
    let addresses = ["192.0.2.9:5061".parse().unwrap()];
    let usernames = ["alice".into()];
    let server = "192.0.2.9:5061";
    for failure in 0..5 {
        let attempt =
            Attempt { server, addresses: &addresses, usernames: &usernames, ..attempt("sip:alice@h", "192.0.2.1") };
        let permit = guesses.admit(&attempt, now).unwrap_or_else(|wait| panic!("{failure}: {wait:?}"));
        permit.refused(now);
    }
}

#[test]
fn a_stranger_who_polls_keeps_nobody_out_who_has_not_failed_and_gets_no_more_guesses() {
    let (guesses, start) = (guesses(), Instant::now());
    let (mut begun, mut alice_comes, mut waited, mut let_in) = (0, Duration::from_secs(120), 0, false);
    for tenth in 0..6000u64 {
        let now = start + Duration::from_millis(tenth * 100);
        for stranger in ["10.0.0.1", "10.0.0.2", "10.0.0.3"] {
            if let Ok(permit) = guesses.admit(&attempt("sip:alice@example.com", stranger), now) {
                permit.refused(now);
                begun += 1;
            }
        }
        if !let_in && now - start >= alice_comes {
            match guesses.admit(&attempt("sip:alice@example.com", "192.0.2.7"), now) {
                Ok(permit) => {
                    permit.accepted(now);
                    let_in = true;
                }
                Err(wait) => {
                    waited += 1;
                    // The wait is rounded up, and she is a little late.
                    alice_comes = now - start + Duration::from_secs(wait.seconds()) + Duration::from_millis(700);
                }
            }
        }
    }
    assert!(let_in && waited <= 1, "told to wait {waited} times, let in: {let_in}");
    assert!((20..50).contains(&begun), "{begun}");
}

#[test]
fn one_network_fills_no_line_whatever_its_sources_are() {
    for of_network in [|n: usize| format!("2001:db8:7:{n:x}::1"), |n| format!("10.0.0.{n}")] {
        let (guesses, start) = (guesses(), Instant::now());
        let ask = |source: &str, now| guesses.admit(&attempt("sip:alice@example.com", source), now);
        for n in 0..20 {
            ask(&format!("172.16.{n}.1"), start).ok().unwrap().refused(start);
        }
        for n in 1..=40 {
            assert!(ask(&of_network(n), start).is_err());
        }
        assert!(ask("192.0.2.7", start).is_err(), "she has a place");
        let mut now = start + ACCOUNT_PAUSE.0;
        let mut turns = 0;
        while ask("192.0.2.7", now).is_err() {
            for n in 1..=40 {
                if let Ok(permit) = ask(&of_network(n), now) {
                    permit.refused(now);
                    turns += 1;
                }
            }
            now += Duration::from_secs(1);
        }
        assert!(turns <= 4, "{turns} were before her");
    }
}

#[test]
fn those_who_wait_have_their_turns_in_the_order_in_which_they_came_and_one_who_does_not_come_loses_it() {
    let (guesses, start) = (guesses(), Instant::now());
    let ask = |source: &str, now| guesses.admit(&attempt("sip:alice@example.com", source), now);
    for n in 0..20 {
        ask(&format!("10.0.{n}.1"), start).ok().unwrap().refused(start);
    }
    for source in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        assert!(ask(source, start).is_err());
    }
    let open = start + ACCOUNT_PAUSE.0;
    let wait = ask("192.0.2.2", open).err().unwrap().after;
    assert!(wait <= TURN, "it is the turn of another for {wait:?}");
    assert!(ask("10.0.1.1", open).is_err(), "who has failed is behind all of them");
    // The first does not come.
    let later = open + TURN;
    ask("192.0.2.2", later).ok().unwrap().refused(later);
    let again = later + ACCOUNT_PAUSE.0 * 2;
    assert!(ask("10.0.1.1", again).is_err());
    assert!(ask("192.0.2.3", again).is_ok(), "the next one");
}

/// An attacker with a server that never answers.
#[test]
fn what_few_sources_have_under_way_keeps_nobody_out_and_who_was_right_the_least() {
    let (guesses, now) = (guesses(), Instant::now());
    let addresses: Vec<SocketAddr> = (1..=4).map(|n| format!("192.0.2.{n}:5061").parse().unwrap()).collect();
    let begin = |source: &str, n: usize| {
        let (aor, names) = (format!("sip:u{n}@evil.test"), [0, 1, 2, 3].map(|name| format!("{name}-{n}").into()));
        let own = Attempt { server: "evil.test", addresses: &addresses, usernames: &names, ..attempt(&aor, source) };
        guesses.admit(&own, now).ok()
    };
    guesses.admit(&attempt("sip:alice@example.com", "2001:db8:9:1::7"), now).ok().unwrap().accepted(now);
    let mut held: Vec<_> = (0..6_000).filter_map(|n| begin(&format!("2001:db8:9:{}::7", n % 6), n)).collect();
    assert!((1..=500).contains(&held.len()), "{}", held.len());
    let small = (0..100).map(|n| (format!("sip:s{n}@evil.test"), format!("2001:db8:9:{}::7", n % 6)));
    held.extend(small.filter_map(|(aor, source)| guesses.admit(&attempt(&aor, &source), now).ok()));
    assert!(guesses.lock().len() <= ENTRIES_MAX / 8);
    let ask = |source, renews| guesses.admit(&Attempt { renews, ..attempt("sip:bob@example.com", source) }, now);
    assert!(ask("192.0.2.3", false).is_ok());
    assert!(ask("2001:db8:9:1::7", false).is_err(), "a stranger at the same source");
    assert!(ask("2001:db8:9:1::7", true).is_ok(), "who renews");
    assert!(guesses.admit(&attempt("sip:alice@example.com", "2001:db8:9:1::7"), now).is_ok(), "who was right");

    drop(held);
    assert!(guesses.lock().under_way.is_empty());
    assert!(ask("2001:db8:9:1::7", false).is_ok());
}

#[test]
fn strangers_from_everywhere_leave_room_for_who_was_right() {
    let (guesses, now) = (guesses(), Instant::now());
    guesses.admit(&attempt("sip:alice@example.com", "192.0.2.1"), now).ok().unwrap().accepted(now);
    let begin = |n: usize| {
        let (aor, source) = (format!("sip:u{n}@evil.test"), format!("10.{}.{}.1", n / 256 % 256, n % 256));
        guesses.admit(&attempt(&aor, &source), now).ok()
    };
    let held: Vec<_> = (0..ENTRIES_MAX).filter_map(begin).collect();
    assert!(held.len() > ENTRIES_MAX / 4);
    assert!(begin(ENTRIES_MAX + 1).is_none());
    assert!(guesses.admit(&attempt("sip:alice@example.com", "192.0.2.1"), now).is_ok());
}

#[test]
fn a_table_of_what_is_under_way_is_not_looked_through_for_each_attempt() {
    let (guesses, now) = (guesses(), Instant::now());
    for key in 0..ENTRIES_MAX as u64 {
        guesses.lock().entries.insert(key, Entry { under_way: 1, ..Entry::default() });
    }
    for n in 0..1_000 {
        let asked = now + n * (SOON / 1_000);
        assert!(guesses.admit(&attempt(&format!("sip:u{n}@example.com"), "192.0.2.1"), asked).is_err());
        assert_eq!(guesses.lock().full_at, Some(now), "the first one alone has looked");
    }
    let later = now + SOON;
    guesses.lock().entries.values_mut().for_each(|entry| entry.under_way = 0);
    assert!(guesses.admit(&attempt("sip:bob@example.com", "192.0.2.1"), later).is_ok(), "looked again");
}

#[test]
fn a_proof_in_doubt_is_excused_a_few_times_whatever_address_of_record_stands_beside_it() {
    let (guesses, now) = (guesses(), Instant::now());
    let alice = ["alice".into()];
    let tried = |aor: &str, source: &str| {
        guesses
            .admit(&Attempt { usernames: &alice, ..attempt(aor, source) }, now)
            .map(|permit| permit.doubted(now))
            .is_ok()
    };
    // As many as are excused, and as many as may fail.
    let begun = (0..50).filter(|n| tried(&format!("sip:x{n}@example.com"), "192.0.2.1")).count();
    assert_eq!(begun, 2 + 5);
    // From ever new sources: as all of its failures are, but for the few that are excused.
    let begun = (0..500).filter(|n| tried("sip:alice@example.com", &format!("10.0.{}.{}", n / 256, n % 256))).count();
    assert!((15..=30).contains(&begun), "{begun}");
    // From one source for ever new users.
    let spray = |n: u64| {
        let user = [format!("u{n}").into()];
        let of = Attempt { usernames: &user, ..attempt("sip:own@example.com", "192.0.2.9") };
        guesses.admit(&of, now).map(|permit| permit.doubted(now)).is_ok()
    };
    assert!((0..500).filter(|n| spray(*n)).count() <= 30 + 60);
    // One without a name counts at once.
    let nameless =
        || guesses.admit(&attempt("sip:bob@example.com", "192.0.2.3"), now).map(|it| it.doubted(now)).is_ok();
    assert_eq!((0..50).filter(|_| nameless()).count(), 5);
    // An honest phone needs one for each address of its server, again and again.
    for change in 1..=100 {
        let later = now + Duration::from_secs(change * 600);
        let of = Attempt { usernames: &["carol".into()], ..attempt("sip:carol@example.com", "192.0.2.4") };
        for _ in 0..2 {
            guesses.admit(&of, later).ok().unwrap().doubted(later);
        }
        let permit = guesses.admit(&of, later).ok().unwrap();
        let table = guesses.lock();
        assert!(permit.keys.iter().all(|key| table.entries[&key.hash].failures == 0), "{change}");
        drop(table);
    }
}
