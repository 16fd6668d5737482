//! The page at `/` in a real Chromium. With `DSE_PICTURES=DIR` it leaves pictures there, for a person to look at.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod support;

use std::path::PathBuf;
use std::time::Duration;

use fake_engine::{Container, FakeEngine};
use serde_json::{Value, json};
use support::browser::Browser;
use support::eventually;
use support::exporter::Setup;

const DEADLINE: Duration = Duration::from_secs(60);

/// What a container must not be able to do to whoever looks.
const EVIL: &str = "<img src=x onerror=\"window.hacked=1\"><b>evil</b>";

/// The key that goes to the next element, as WebDriver writes it.
const TAB: &str = "\u{e004}";

fn names(browser: &Browser) -> Vec<String> {
    let names =
        browser.run("return [...document.querySelectorAll('td.name')].map((c) => c.firstChild.textContent)");
    serde_json::from_value(names).unwrap()
}

#[track_caller]
fn shows(browser: &Browser, selector: &str, expected: &str) {
    let script = format!("return (document.querySelector({}) || {{}}).innerText || ''", json!(selector));
    eventually(DEADLINE, || match browser.run(&script).as_str().unwrap_or_default() {
        text if text.contains(expected) => Ok(()),
        text => Err(format!("{selector} says {text:?}, not {expected:?}")),
    });
}

/// The contrast of text with what it stands on, as WCAG defines it: the least of all texts on the page.
const CONTRAST: &str = "
const parse = (color) => color.match(/[0-9.]+/g).map(Number);
const light = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
let least = [99, ''];
for (const element of document.querySelectorAll('body *')) {
  const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || !element.checkVisibility() || element.tagName === 'NOSCRIPT') continue;
  let behind = element, ground = [0, 0, 0, 0];
  while (behind && !(ground[3] === undefined || ground[3] > 0)) {
    ground = parse(getComputedStyle(behind).backgroundColor);
    behind = behind.parentElement;
  }
  const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground)];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < least[0]) least = [ratio, element.outerHTML.slice(0, 120)];
}
return least";

#[test]
fn the_page_shows_what_happens_without_a_reload() {
    let pictures = std::env::var_os("DSE_PICTURES").map(PathBuf::from);
    let engine = FakeEngine::start().unwrap();
    let web = engine.add(Container::new("web").image("nginx:1.29").health("healthy", 0));
    engine.add(Container::new("shop").image("registry.example.com/shop/frontend:2026.11").restart_count(2));
    engine
        .add(Container::new("sick").image("postgres:18").health("unhealthy", 5).restart_policy("always", 0));
    engine.add(Container::new("hungry").exited(137, "2026-11-25T10:00:00Z").oom_killed(true));
    engine.add(Container::new("batch").exited(3, "2026-11-25T11:00:00Z"));
    engine.add(Container::new("done").exited(0, "2026-11-25T11:30:00Z"));
    engine.add(Container::new("asleep").status("paused"));
    engine.add(Container::new("evil").named(EVIL).image(EVIL));
    let exporter = Setup::new(&engine.host()).set("/docker/stale_after", 500).start();
    exporter.scrape();

    let browser = Browser::start();
    browser.open(&format!("http://{}/", exporter.address()));
    shows(&browser, "#verdict", "3 containers need attention");
    // What needs attention first, then by name.
    let expected = ["batch", "hungry", "sick", "asleep", EVIL, "done", "shop", "web"];
    assert_eq!(names(&browser), expected);
    for (selector, text) in [
        ("tr:nth-child(2)", "killed for memory"),
        ("tr:nth-child(2) td:nth-child(6)", "137"),
        ("tr:nth-child(3) td:nth-child(3)", "unhealthy"),
        ("tr:nth-child(7) td:nth-child(5)", "2"),
        ("tr:nth-child(8) td.image", "nginx:1.29"),
        ("#states", "running 4"),
        ("#readers", "followed"),
        ("#readers", "scrapes: 1 answered, 0 not"),
        ("footer", env!("CARGO_PKG_VERSION")),
    ] {
        shows(&browser, selector, text);
    }
    // A name is a name.
    assert_eq!(
        browser.run("return [window.hacked, document.querySelectorAll('img, td b').length]"),
        json!([null, 0])
    );

    // Live: what is marked on the page stays, so it was not loaded anew.
    browser.run("window.mark = 1");
    engine.act(&web, "die", |container| container.exited(1, "2026-11-25T12:00:00Z"));
    shows(&browser, "#verdict", "4 containers need attention");
    shows(&browser, "#log li:first-child", "die web");
    assert_eq!(names(&browser)[3], "web");
    engine.destroy(&web);
    shows(&browser, "#verdict", "3 containers need attention");
    assert!(!names(&browser).contains(&"web".to_owned()));
    assert_eq!(browser.run("return window.mark"), json!(1));

    // By keyboard alone: past the link that skips to the containers, to the filter.
    browser.run("document.body.focus()");
    browser.press(TAB);
    assert_eq!(browser.run("return document.activeElement.className"), json!("skip"));
    browser.press(TAB);
    browser.press("SHOP");
    eventually(DEADLINE, || match names(&browser) {
        found if found == ["shop"] => Ok(()),
        found => Err(format!("{found:?}")),
    });
    browser.run(
        "const f = document.getElementById('filter'); f.value = ''; f.dispatchEvent(new Event('input'))",
    );

    browser.run("document.activeElement.blur()");
    let mut grounds = Vec::new();
    for (theme, width) in [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)] {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": theme}]});
        browser.devtools("Emulation.setEmulatedMedia", &features);
        let size = json!({"width": width, "height": 1100, "deviceScaleFactor": 1, "mobile": width < 500});
        browser.devtools("Emulation.setDeviceMetricsOverride", &size);
        let contrast = browser.run(CONTRAST);
        assert!(contrast[0].as_f64().unwrap() >= 4.5, "{theme}: {contrast}");
        let wide = browser.run("return document.documentElement.scrollWidth");
        assert!(wide.as_u64().unwrap() <= width, "{wide} of {width}");
        grounds.push(browser.run("return getComputedStyle(document.body).backgroundColor"));
        if let Some(pictures) = &pictures {
            browser.picture(&pictures.join(format!("page-{theme}-{width}.png")));
        }
    }
    assert_ne!(grounds[0], grounds[1]);
    // Neither the policy nor anything else was broken.
    assert_eq!(browser.complaints(), Vec::<String>::new());

    engine.vanish();
    shows(&browser, "#verdict", "The engine is not followed");
    shows(&browser, "#readers", "not followed: ");
    engine.reopen().unwrap();
    shows(&browser, "#verdict", "3 containers need attention");
    exporter.stop();
    shows(&browser, "#trouble", "The exporter does not answer. What is shown is from");
}

#[test]
fn the_page_brings_everything_with_it_and_allows_nothing_else() {
    let engine = FakeEngine::start().unwrap();
    engine.populate(1500, 3);
    let exporter = Setup::new(&engine.host()).start();
    let page = exporter.get("/").unwrap().body;
    for part in ["-/page.css", "-/page.js"] {
        assert!(page.contains(&format!("\"{part}\"")), "{part}");
    }
    let parts = ["/", "/-/page.css", "/-/page.js"].map(|path| exporter.get(path).unwrap());
    for part in &parts {
        assert_eq!(part.status, 200);
        // No address of anybody else's, and no way from a text to HTML.
        for word in ["http://", "https://", "innerHTML", "eval(", "style=", "onclick"] {
            assert!(!part.body.contains(word), "{word}");
        }
    }
    let size: usize = parts.iter().map(|part| part.body.len()).sum();
    assert!(size < 20 * 1024, "{size} bytes");

    let state: Value = serde_json::from_str(&exporter.get("/-/page.json").unwrap().body).unwrap();
    // However many there are, a browser gets no more than it can show; the sums are of all.
    assert_eq!((state["containers"].as_array().unwrap().len(), &state["total"]), (1000, &json!(1500)));
    exporter.stop();
}
