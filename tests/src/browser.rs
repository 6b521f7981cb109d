//! The real Chromium, without a window, driven by the Chrome DevTools Protocol over its WebSocket: pages are opened, and scripts
//! run in them. Its microphone plays a beep, and it may use it without asking.
//!
//! Invariant: it trusts one certificate that no public authority has signed, the relay's; its profile lives in a directory of its own;
//! it ends with the handle of its last page.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::{SinkExt as _, StreamExt as _};
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::board::Missed;
use crate::child::Child;
use crate::scratch::Scratch;

/// Debian's package with Chromium.
const PACKAGE: &str = "chromium";
/// JsSIP in one file.
const JSSIP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/browser/dist/jssip.js");
/// The line that makes it.
const MAKE_JSSIP: &str = "npm ci --prefix tests/browser   (npm: sudo apt-get install -y npm)";
/// How long Chromium may take to start, and to do what it is told.
const START_WITHIN: Duration = Duration::from_secs(60);
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How long to wait between two looks into a page.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A running Chromium; cheap to clone.
#[derive(Clone)]
pub struct Browser(Arc<Inner>);

struct Inner {
    child: Child,
    line: Mutex<Line>,
    _profile: Scratch,
}

/// The connection to it.
struct Line {
    socket: WebSocketStream<TcpStream>,
    asked: u64,
}

/// A page.
#[derive(Clone)]
pub struct Page {
    browser: Browser,
    session: String,
}

impl Browser {
    /// Starts Chromium; `server_key` is the PEM file of the key whose certificate it trusts.
    ///
    /// # Errors
    /// [`Missed`] when it is not installed or does not start.
    pub async fn start(server_key: &Path) -> Result<Self, Missed> {
        let profile = Scratch::new();
        let mut command = Command::new("chromium");
        command.args(["--headless=new", "--remote-debugging-port=0", "--no-first-run", "--disable-gpu", "about:blank"]);
        // Root has no sandbox; what it shows is ours alone.
        command.args(["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-sync"]);
        command.args(["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]);
        command.args(["--autoplay-policy=no-user-gesture-required", "--allow-loopback-in-peer-connection"]);
        command.arg(format!("--ignore-certificate-errors-spki-list={}", key_hash(server_key)?));
        command.arg(format!("--user-data-dir={}", profile.path().display())).env("HOME", profile.path());
        let child = Child::spawn(command, PACKAGE)?;
        let told = child.await_line("DevTools listening on ws://", START_WITHIN).await?;
        let address = told.split_once("ws://").map(|(_, address)| address.to_owned()).unwrap_or_default();
        let host = address.split('/').next().unwrap_or_default();
        let stream = TcpStream::connect(host).await?;
        let (socket, _) = tokio_tungstenite::client_async(format!("ws://{address}"), stream)
            .await
            .map_err(|error| Missed::new("DevTools", error.to_string()))?;
        Ok(Self(Arc::new(Inner { child, line: Mutex::new(Line { socket, asked: 0 }), _profile: profile })))
    }

    /// Opens a page and waits until it is there.
    ///
    /// # Errors
    /// [`Missed`] when it does not appear.
    pub async fn open(&self, url: &str) -> Result<Page, Missed> {
        let page = self.attach(url).await?;
        page.await_there().await?;
        Ok(page)
    }

    /// Opens a page that asks for a user and a password, as a person does: tells them once, and gives up when asked again.
    /// Gives how often one was asked, too.
    ///
    /// # Errors
    /// [`Missed`] when nothing appears.
    pub async fn log_in(&self, url: &str, user: &str, password: &str) -> Result<(Page, usize), Missed> {
        let page = self.attach("about:blank").await?;
        page.ask("Fetch.enable", json!({"handleAuthRequests": true})).await?;
        let mut asked = 0;
        let mut line = self.0.line.lock().await;
        let opened = line.say(Some(&page.session), "Page.navigate", json!({"url": url})).await?;
        loop {
            let told = tokio::time::timeout(ANSWER_WITHIN, line.hear()).await.ok().flatten();
            let told = told.ok_or_else(|| self.0.child.missed("a page, or to be asked for a password"))?;
            let request = &told["params"]["requestId"];
            match told["method"].as_str() {
                Some("Fetch.requestPaused") => {
                    line.say(Some(&page.session), "Fetch.continueRequest", json!({"requestId": request})).await?;
                }
                Some("Fetch.authRequired") => {
                    asked += 1;
                    let answer = match asked {
                        1 => json!({"response": "ProvideCredentials", "username": user, "password": password}),
                        _ => json!({"response": "CancelAuth"}),
                    };
                    let params = json!({"requestId": request, "authChallengeResponse": answer});
                    line.say(Some(&page.session), "Fetch.continueWithAuth", params).await?;
                }
                _ if told["id"] == opened => break,
                _ => {}
            }
        }
        drop(line);
        page.ask("Fetch.disable", json!({})).await?;
        page.await_there().await?;
        Ok((page, asked))
    }

    async fn attach(&self, url: &str) -> Result<Page, Missed> {
        let target = self.ask(None, "Target.createTarget", json!({"url": url})).await?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = self.ask(None, "Target.attachToTarget", attach).await?;
        Ok(Page { browser: self.clone(), session: session["sessionId"].as_str().unwrap_or_default().to_owned() })
    }

    async fn ask(&self, session: Option<&str>, method: &str, params: Value) -> Result<Value, Missed> {
        let mut line = self.0.line.lock().await;
        let id = line.say(session, method, params).await?;
        let answer = async {
            // Events come between; nothing here waits for one.
            while let Some(told) = line.hear().await {
                if told["id"] == id {
                    return Some(told);
                }
            }
            None
        };
        let told = tokio::time::timeout(ANSWER_WITHIN, answer).await.ok().flatten();
        let told = told.ok_or_else(|| self.0.child.missed(&format!("an answer to {method}")))?;
        match told.get("error") {
            Some(error) => Err(Missed::new(format!("{method} of Chromium"), error.to_string())),
            None => Ok(told["result"].clone()),
        }
    }
}

impl Line {
    /// Says it; gives the id that the answer will have.
    async fn say(&mut self, session: Option<&str>, method: &str, params: Value) -> Result<u64, Missed> {
        self.asked += 1;
        let mut question = json!({"id": self.asked, "method": method, "params": params});
        if let Some(session) = session {
            question["sessionId"] = json!(session);
        }
        let said = self.socket.send(Message::text(question.to_string())).await;
        said.map_err(|error| Missed::new(format!("{method} of Chromium"), error.to_string()))?;
        Ok(self.asked)
    }

    /// The next answer or event; `None` when Chromium has hung up.
    async fn hear(&mut self) -> Option<Value> {
        while let Some(Ok(message)) = self.socket.next().await {
            if let Ok(text) = message.to_text() {
                return Some(serde_json::from_str(text).unwrap_or_default());
            }
        }
        None
    }
}

impl Page {
    /// Runs a script; its value, of a promise once it is kept.
    ///
    /// # Errors
    /// [`Missed`] when the script throws.
    pub async fn run(&self, script: &str) -> Result<Value, Missed> {
        let params = json!({"expression": script, "awaitPromise": true, "returnByValue": true, "userGesture": true});
        let told = self.browser.ask(Some(&self.session), "Runtime.evaluate", params).await?;
        match told.get("exceptionDetails") {
            Some(thrown) => Err(Missed::new(script, thrown.to_string())),
            None => Ok(told["result"]["value"].clone()),
        }
    }

    /// Waits until a script's value is true.
    ///
    /// # Errors
    /// [`Missed`] when it is not `within` the time, with what the page shows.
    pub async fn until(&self, script: &str, within: Duration) -> Result<(), Missed> {
        let begun = Instant::now();
        // While one page takes the place of another there is none to run it in.
        let between = |missed: &Missed| missed.seen.contains("execution context") || missed.seen.contains("navigated");
        loop {
            match self.run(script).await {
                Ok(Value::Bool(true)) => return Ok(()),
                Err(missed) if !between(&missed) => return Err(missed),
                _ => {}
            }
            if begun.elapsed() > within {
                let shows = self.run("document.body ? document.body.innerText : ''").await.unwrap_or_default();
                return Err(Missed::new(script, shows.to_string()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// The screen on which a page is shown.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Its width, in CSS pixels.
    pub width: u32,
    /// Its height.
    pub height: u32,
    /// The reader prefers a dark page.
    pub dark: bool,
}

/// A desk's screen.
pub const WIDE: Screen = Screen { width: 1280, height: 900, dark: false };
/// A phone's.
pub const PHONE: Screen = Screen { width: 390, height: 844, dark: false };

impl Page {
    /// Looks at the page with another screen from now on.
    ///
    /// # Errors
    /// [`Missed`] when Chromium does not do it.
    pub async fn look_with(&self, Screen { width, height, dark }: Screen) -> Result<(), Missed> {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.ask("Emulation.setDeviceMetricsOverride", metrics).await?;
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.ask("Emulation.setEmulatedMedia", media).await.map(drop)
    }

    /// A picture of the whole page, as a PNG file.
    ///
    /// # Errors
    /// [`Missed`] when none comes.
    pub async fn picture(&self, file: &Path) -> Result<(), Missed> {
        let size =
            self.run("({width: document.documentElement.scrollWidth, height: document.documentElement.scrollHeight})");
        let size = size.await?;
        let clip = json!({"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1});
        let taken = self.ask("Page.captureScreenshot", json!({"captureBeyondViewport": true, "clip": clip})).await?;
        let png = BASE64.decode(taken["data"].as_str().unwrap_or_default());
        let png = png.map_err(|error| Missed::new("a picture", error.to_string()))?;
        Ok(std::fs::write(file, png)?)
    }

    /// Presses a key that writes nothing, as `Tab`, or `Enter`.
    ///
    /// # Errors
    /// [`Missed`] when Chromium does not do it.
    pub async fn press(&self, key: &str) -> Result<(), Missed> {
        let (code, text) = if key == "Enter" { (13, "\r") } else { (9, "") };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.ask("Input.dispatchKeyEvent", event).await?;
        }
        Ok(())
    }

    /// The page as a screen reader has it: each part's role and name.
    ///
    /// # Errors
    /// [`Missed`] when Chromium does not tell.
    pub async fn heard(&self) -> Result<Vec<(String, String)>, Missed> {
        let told = self.ask("Accessibility.getFullAXTree", json!({})).await?;
        let word = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        let parts = told["nodes"].as_array().cloned().unwrap_or_default();
        let parts = parts.iter().filter(|part| part["ignored"] != true);
        Ok(parts.map(|part| (word(&part["role"]), word(&part["name"]))).collect())
    }

    /// Hands a push to the service worker of the page's origin, as the browser's push service does.
    ///
    /// # Errors
    /// [`Missed`] when there is no service worker.
    pub async fn deliver_push(&self, data: &str) -> Result<(), Missed> {
        let origin = self.run("location.origin").await?;
        let registration = {
            let mut line = self.browser.0.line.lock().await;
            line.say(Some(&self.session), "ServiceWorker.enable", json!({})).await?;
            let found = async {
                while let Some(told) = line.hear().await {
                    let registrations = told["params"]["registrations"].as_array().cloned().unwrap_or_default();
                    let live = registrations.into_iter().find(|it| it["isDeleted"] == false);
                    if let Some(live) = live.filter(|_| told["method"] == "ServiceWorker.workerRegistrationUpdated") {
                        return Some(live["registrationId"].clone());
                    }
                }
                None
            };
            let found = tokio::time::timeout(ANSWER_WITHIN, found).await.ok().flatten();
            found.ok_or_else(|| self.browser.0.child.missed("a service worker"))?
        };
        let push = json!({"origin": origin, "registrationId": registration, "data": data});
        self.ask("ServiceWorker.deliverPushMessage", push).await?;
        // So that the registrations are told again the next time.
        self.ask("ServiceWorker.disable", json!({})).await.map(drop)
    }

    async fn await_there(&self) -> Result<(), Missed> {
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'", ANSWER_WITHIN).await
    }

    async fn ask(&self, method: &str, params: Value) -> Result<Value, Missed> {
        self.browser.ask(Some(&self.session), method, params).await
    }
}

/// The hash by which Chromium knows a key: that of its SubjectPublicKeyInfo.
fn key_hash(key: &Path) -> Result<String, Missed> {
    let pem = std::fs::read_to_string(key)?;
    let key = KeyPair::from_pem(&pem).map_err(|error| Missed::new("a key", error.to_string()))?;
    Ok(BASE64.encode(Sha256::digest(key.subject_public_key_info())))
}

/// A web server for some pages, at an origin that browsers trust because it is on their own machine. It serves `jssip.js`, too.
pub struct Pages {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Pages {
    /// Serves these: each a path, and what is there.
    ///
    /// # Errors
    /// [`Missed`] when JsSIP has not been made, with the line that does it.
    pub async fn serve(pages: &[(&str, &str)]) -> Result<Self, Missed> {
        let jssip = std::fs::read_to_string(JSSIP).map_err(|error| {
            Missed::new("JsSIP in tests/browser/dist", format!("{error}; it is made by: {MAKE_JSSIP}"))
        })?;
        let own = ("/jssip.js".to_owned(), ("text/javascript", jssip));
        let page = |(path, text): &(&str, &str)| {
            let kind = if path.ends_with(".js") { "text/javascript" } else { "text/html; charset=utf-8" };
            ((*path).to_owned(), (kind, (*text).to_owned()))
        };
        let all: HashMap<String, _> = pages.iter().map(page).chain([own]).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let all = Arc::new(all);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let all = all.clone();
                // A browser that goes away hears nothing.
                tokio::spawn(async move { drop(answer(stream, &all).await) });
            }
        });
        Ok(Self { address, task })
    }

    /// Their origin.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers one request, and closes.
async fn answer(mut stream: TcpStream, pages: &HashMap<String, (&str, String)>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split(' ').nth(1).unwrap_or_default();
    let (status, kind, body) = match pages.get(path) {
        Some((kind, body)) => ("200 OK", *kind, body.as_str()),
        None => ("404 Not Found", "text/plain", ""),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}
