//! The status page, in Debian's Chromium: a person logs in and sees a push service fail and come back.
//!
//! With `SIPWAKE_TEST_PICTURES=DIRECTORY` it leaves pictures there: wide, on a phone, in the dark; healthy and failing.

use std::path::PathBuf;
use std::time::Duration;

use tests::board::Missed;
use tests::browser::{Browser, PHONE, Page, Screen, WIDE};
use tests::fcm::Answer;
use tests::world::{FCM_TOKEN, Outcome, SOON, World};

const SCREENS: [(&str, Screen); 3] =
    [("wide", WIDE), ("phone", PHONE), ("dark", Screen { width: 1280, height: 900, dark: true })];
/// The page asks for itself again each 15 s.
const REFRESHED_WITHIN: Duration = Duration::from_secs(40);

fn url(world: &World) -> String {
    format!("https://{}/", world.relay.operator_address())
}

/// Looks at the page with each screen: nothing is cut off, and text is seen on its ground.
async fn looked_at(page: &Page, when: &str) -> Outcome {
    for (name, screen) in SCREENS {
        page.look_with(screen).await?;
        let width = page.run("document.documentElement.scrollWidth").await?;
        assert_eq!(width, screen.width, "{when}, {name}: it is as wide as the screen");
        let spills = "(() => { const all = document.querySelector('details'); all.open = true; \
             const cards = [...document.querySelectorAll('.card')].filter(card => card.scrollWidth > card.clientWidth); \
             all.open = false; return cards.map(card => card.innerText).join() })()";
        assert_eq!(page.run(spills).await?, "", "{when}, {name}: a card spills over");
        let light = page.run("getComputedStyle(document.body).backgroundColor === 'rgb(255, 255, 255)'").await?;
        assert_eq!(light, !screen.dark, "{when}, {name}: the ground");
        if let Some(directory) = std::env::var_os("SIPWAKE_TEST_PICTURES").map(PathBuf::from) {
            page.picture(&directory.join(format!("{when}-{name}.png"))).await?;
        }
    }
    page.look_with(PHONE).await?;
    let height = page.run("document.documentElement.scrollHeight").await?.as_f64().unwrap_or(f64::MAX);
    assert!(height <= 2.0 * f64::from(PHONE.height), "{when}: it is {height} high, more than two screens of a phone");
    page.look_with(WIDE).await
}

async fn text(page: &Page) -> Result<String, Missed> {
    Ok(page.run("document.documentElement.outerHTML").await?.as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_logs_in_and_sees_a_push_service_fail_and_come_back() -> Outcome {
    let world = World::with(|setup| setup.ring_timeout = "2s".to_owned()).await?;
    let token = world.relay.setup().operator_token.clone();
    let alice = world.enable_android().await?;
    world.rings_on(&alice).await?;
    let browser = Browser::start(&world.relay.certificate_files().1).await?;

    let (wrong, asked) = browser.log_in(&url(&world), "operator", "a-wrong-token-0123456789").await?;
    let refused = text(&wrong).await?;
    assert_eq!(asked, 2, "who was refused is asked again");
    assert!(refused.contains("unauthorized") && !refused.contains("phones reachable"), "{refused}");

    let (page, asked) = browser.log_in(&url(&world), "anybody", &token).await?;
    assert_eq!(asked, 1);
    page.until("document.querySelector('.banner.good') !== null", SOON).await?;
    let good = text(&page).await?;
    assert!(good.contains("A call can wake its phone") && good.contains("<b>1</b> of 1"), "{good}");
    looked_at(&page, "healthy").await?;

    // From here on the page is only looked at: it asks for itself.
    world.fcm.answer_all(Some(Answer::denied()));
    for _ in 0..3 {
        world.call()?.expect(480, SOON).await?;
    }
    page.until("document.querySelector('.banner.bad') !== null", REFRESHED_WITHIN).await?;
    let says = "document.querySelector('.banner').innerText";
    let banner = page.run(says).await?.as_str().unwrap_or_default().to_owned();
    let all = "pushes failed in 5 min, failing since 20";
    assert!(banner.contains("Calls fail.") && banner.contains(all) && banner.contains("Firebase"), "{banner}");
    let bad = text(&page).await?;
    assert!(bad.contains("FCM: pushes refused") && bad.contains("Calls whose push failed"), "{bad}");
    looked_at(&page, "failing").await?;

    world.fcm.answer_all(None);
    world.rings_on(&alice).await?;
    page.until("document.querySelector('.banner.warn') !== null", REFRESHED_WITHIN).await?;
    let back = text(&page).await?;
    assert!(back.contains("pushes failed in 5 min; it took a push at"), "{back}");
    looked_at(&page, "back").await?;
    for page in [refused, good, bad, back] {
        assert!(!page.contains("alice") && !page.contains(FCM_TOKEN) && !page.contains(&token), "it knows nobody");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_used_by_keyboard_and_heard_by_a_screen_reader() -> Outcome {
    let world = World::start().await?;
    let browser = Browser::start(&world.relay.certificate_files().1).await?;
    let page = browser.log_in(&url(&world), "operator", &world.relay.setup().operator_token).await?.0;
    let heard = page.heard().await?;
    let is_heard = |role: &str, name: &str| heard.iter().any(|(r, n)| r == role && n.contains(name));
    for (role, name) in [
        ("heading", "sipwake"),
        ("status", ""),
        ("heading", "Needs attention"),
        ("image", "Phones reachable, the last hour: now"),
        ("image", "Pushes a minute, the last hour: now"),
        ("combobox", "Your clock: UTC"),
        ("main", ""),
    ] {
        assert!(is_heard(role, name), "{role} {name}: {heard:?}");
    }

    let reached = "document.activeElement.innerText";
    for (stop, says) in [("hold", "hold"), ("the clock", ""), ("show", "show"), ("every number", "Every number")] {
        page.press("Tab").await?;
        let found = page.run(reached).await?;
        assert!(found.as_str().is_some_and(|found| found.contains(says)), "{stop}: {found}");
    }
    assert_eq!(page.run("document.querySelector('details').open").await?, false);
    page.press("Enter").await?;
    page.until("document.querySelector('details')?.open", SOON).await?;
    page.run("document.querySelector('header a').focus()").await?;
    page.press("Enter").await?;
    page.until("location.search === '?zone=0&still'", SOON).await?;
    assert_eq!(page.run("document.querySelector('meta[http-equiv]')").await?, serde_json::Value::Null);
    page.run("document.querySelector('select').value = '345'; document.querySelector('button').click()").await?;
    page.until("location.search === '?zone=345&still='", SOON).await?;
    page.until("document.querySelector('header')?.innerText.includes('at your place')", SOON).await
}
