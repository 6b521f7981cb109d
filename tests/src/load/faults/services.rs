//! The push services of a run: those of the app that has the trouble, and those of two apps that have none.
//!
//! Invariant: each is a server of its own on loopback; an address that is mute or silent is held until the end of the run.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;

use super::script::{Fault, Mood, Service};
use crate::apns::Apns;
use crate::authority::Authority;
use crate::board::Missed;
use crate::fcm::Fcm;
use crate::load::accounts;
use crate::load::enabling::{Targets, targets};
use crate::load::plan::PushSide;
use crate::push_inbox::Heard;
use crate::relay_setup::App;
use crate::webpush::WebPush;
use crate::wire::Tasks;

/// The bundle id of the app that has the trouble.
const TROUBLED: &str = "com.example.troubled";
/// That of an app on APNs that has none.
const APPLE: &str = "com.example.apple";
/// That of an app on FCM that has none.
const GOOGLE: &str = "com.example.google";

/// The services of the app that has the trouble; it uses one of them.
pub struct Troubled {
    /// The issuer of their certificates.
    pub authority: Authority,
    /// Apple's.
    pub apns: Apns,
    /// Google's.
    pub fcm: Fcm,
    /// That of a browser.
    pub webpush: WebPush,
    /// The push tokens that its calls go to.
    pub own_tokens: Vec<String>,
    service: Service,
    /// Connections that were taken at an address that is mute.
    ignored: Arc<AtomicUsize>,
    _tasks: Tasks,
    _fillers: Vec<TcpStream>,
    _full: Option<tokio::net::TcpListener>,
}

/// The services of the apps that have none.
pub struct Others {
    apns: Apns,
    fcm: Fcm,
}

impl Troubled {
    /// Starts them; calls will go to these accounts.
    ///
    /// # Errors
    /// When the address that the fault is about cannot be bound.
    pub async fn start(authority: &Authority, fault: &Fault, own: impl Iterator<Item = u32>) -> Result<Self, Missed> {
        let own_tokens = own.map(|number| token(fault.service, number)).collect();
        let (apns, fcm) = (Apns::start_for(authority, TROUBLED).await, Fcm::start(authority).await);
        let mut started = Self {
            authority: authority.clone(),
            webpush: WebPush::start(authority).await,
            own_tokens,
            service: fault.service,
            ignored: Arc::default(),
            _tasks: Tasks::default(),
            _fillers: Vec::new(),
            _full: None,
            apns,
            fcm,
        };
        if let Some(mood) = fault.first_address {
            let opened = started.open_address(mood).await;
            opened.map_err(|error| Missed::new("the address ::1", error.to_string()))?;
        }
        Ok(started)
    }

    /// The app, as the relay is told of it.
    pub fn app(&self) -> App {
        let app = App::new(TROUBLED);
        match self.service {
            Service::Apns => App { apns: Some((&self.apns).into()), ..app },
            Service::Fcm => App { fcm: Some((&self.fcm).into()), ..app },
            Service::WebPush => App { webpush: Some(self.webpush.settings()), ..app },
        }
    }

    /// Where its devices are pushed to.
    pub fn targets(&self) -> Targets {
        match self.service {
            Service::Apns => targets(PushSide::Apns),
            Service::Fcm => targets(PushSide::Fcm),
            Service::WebPush => {
                let webpush = self.webpush.clone();
                Arc::new(move |number| -> Value { webpush.subscribe_as(web_token(number)).target() })
            }
        }
    }

    /// Requests for calls' pushes so far, and for access tokens.
    pub fn requests(&self) -> (u64, u64) {
        let pushes = self.apns.call_requests() + self.fcm.call_requests() + self.webpush.call_requests();
        (pushes, self.fcm.token_requests())
    }

    /// Connections that were begun.
    pub fn connections(&self) -> usize {
        let ignored = self.ignored.load(Ordering::Relaxed);
        self.apns.dials() + self.fcm.dials() + self.webpush.dials() + ignored
    }

    /// The objections of the services.
    pub fn objections(&self) -> Vec<String> {
        [self.apns.violations(), self.fcm.violations(), self.webpush.violations()].concat()
    }

    /// `::1`, at the port of Apple's service.
    async fn open_address(&mut self, mood: Mood) -> std::io::Result<()> {
        /// The number of connections that fill a queue of the kernel, which holds one or two.
        const FILLERS: usize = 8;
        const FULL_AFTER: Duration = Duration::from_millis(100);
        let address = (Ipv6Addr::LOCALHOST, self.apns.port()).into();
        let socket = TcpSocket::new_v6()?;
        socket.bind(address)?;
        match mood {
            Mood::Mute => {
                let (listener, ignored) = (socket.listen(64)?, Arc::clone(&self.ignored));
                let ignore = async move {
                    let mut held = Vec::new();
                    while let Ok((connection, _)) = listener.accept().await {
                        ignored.fetch_add(1, Ordering::Relaxed);
                        held.push(connection);
                    }
                };
                self._tasks.own(tokio::spawn(ignore).abort_handle());
            }
            Mood::Silent => {
                // Nobody accepts: once its queue is full, the kernel drops each SYN.
                self._full = Some(socket.listen(0)?);
                for _ in 0..FILLERS {
                    match tokio::time::timeout(FULL_AFTER, TcpStream::connect(address)).await {
                        Ok(connected) => self._fillers.push(connected?),
                        Err(_) => return Ok(()),
                    }
                }
                return Err(std::io::Error::other("the kernel takes connections that nobody accepts"));
            }
        }
        Ok(())
    }
}

impl Others {
    /// Starts them.
    pub async fn start(authority: &Authority) -> Self {
        Self { apns: Apns::start_for(authority, APPLE).await, fcm: Fcm::start(authority).await }
    }

    /// The apps, as the relay is told of them: Apple's and Google's.
    pub fn apps(&self) -> [App; 2] {
        let (apple, google) = (App::new(APPLE), App::new(GOOGLE));
        [App { apns: Some((&self.apns).into()), ..apple }, App { fcm: Some((&self.fcm).into()), ..google }]
    }

    /// The objections of the services.
    pub fn objections(&self) -> Vec<String> {
        [self.apns.violations(), self.fcm.violations()].concat()
    }
}

/// Tells each call's push that any service takes: for which account, and when it was read. It ends with the services.
pub fn hear(troubled: &Troubled, others: &Others, mut on_push: impl FnMut(u32, Instant) + Send + 'static) {
    let (told, mut heard) = mpsc::unbounded_channel();
    for apns in [&troubled.apns, &others.apns] {
        apns.record_only_counts(true);
        apns.notify(told.clone());
    }
    for fcm in [&troubled.fcm, &others.fcm] {
        fcm.record_only_counts(true);
        fcm.notify(told.clone());
    }
    troubled.webpush.record_only_counts(true);
    troubled.webpush.notify(told);
    tokio::spawn(async move {
        while let Some(Heard { token, at, rings }) = heard.recv().await {
            if let Some(account) = accounts::of_token(&token).filter(|_| rings) {
                on_push(account, at);
            }
        }
    });
}

fn token(service: Service, number: u32) -> String {
    match service {
        Service::Apns => accounts::apns_token(number),
        Service::Fcm => accounts::fcm_token(number),
        Service::WebPush => web_token(number),
    }
}

/// The end of an endpoint's path; it leads back to its account, as the tokens of the others do.
fn web_token(number: u32) -> String {
    format!("load-test-{number:016x}")
}

/// So that both addresses of the service's name are tried, the one with the trouble first (RFC 6724 §6, rule 6).
pub fn hosts(fault: &Fault) -> Option<String> {
    fault.first_address.map(|_| "127.0.0.1 localhost\n::1 localhost\n".to_owned())
}
