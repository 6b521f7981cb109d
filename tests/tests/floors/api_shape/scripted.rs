//! Use cases that answer as a script says, and a way to ask a router without a network.
//!
//! Invariant: every answer holds fixed values, so that a test can write down the whole body it expects.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::http::response::Parts;
use hyper::service::Service;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::service::TowerToHyperService;
use relay::api::access::{App, SipServer};
use relay::api::device_body::LifetimeRange;
use relay::api::limits::Limits;
use relay::api::{Api, Settings};
use relay::api::{EndConnection, Peer};
use relay::config::DomainRules;
use relay::doctor::{DoctorStep, Finding, Patient, Report, Verdict};
use relay::domain::{MessageOutcome, PushOutcome, PushProvider, WipeReason};
use relay::metrics::Metrics;
use relay::push::Event;
use relay::secret::Aor;
use relay::secret::{ApiKey, InstanceSecret};
use relay::service::apps::{Enable, EnableError, Enabled};
use relay::service::devices::{
    AccessError, CallError, Change, ChangeError, OwnCredential, OwnExport, Step, TestError, Tested, Timeline,
    TimelineEvent,
};
use relay::service::devices::{TraceAnswer, TraceError, TraceRequest};
use relay::service::operators::{CallStories, Export, InstanceKind, Listed, OperatorError, Page, Which, WhichCalls};
use relay::service::sip_servers::{Expected, Wake, WakeError};
use relay::service::views::{
    CallStatus, CallView, EdgeAddress, InstanceStatusView, ReceiptView, Registration, RegistrationState, View,
    Voicemail, Wiped,
};
use relay::service::{AppService, DeviceService, ExamineError, OperatorService, SipServerService};
use relay::vault::AorHash;
use relay::vault::items::{Counts, Message, MissedCall};
use relay::vault::record::{Presence, Provider, WakeFor};
use serde_json::Value;
use sip::id::{CallId, InstanceId, MessageId, ShardTag};
use tokio::sync::{mpsc, watch};

use super::elsewhere::Nodes;

/// The key of the one App.
pub const APP_KEY: &str = "app-key-1";
/// The key of a SIP server.
pub const SERVER_KEY: &str = "sip-server-key-1";
/// The key of another SIP server of the same domain.
pub const OTHER_SERVER_KEY: &str = "sip-server-key-2";
/// The secret of the one instance.
pub const SECRET: &str = "instance-secret-1";
/// 2026-11-27T09:00:00Z
pub const EXPIRES_AT: u64 = 1_795_770_000;

/// The one instance.
pub fn instance() -> InstanceId {
    InstanceId::new(7 << 64, ShardTag(1))
}

/// Its one call.
pub fn ringing_call() -> CallId {
    CallId::new(8 << 64, ShardTag(1))
}

/// Its call that was cancelled.
pub fn cancelled_call() -> CallId {
    CallId::new(9 << 64, ShardTag(1))
}

/// Its one message.
pub fn message() -> MessageId {
    MessageId::new(10 << 64, ShardTag(1))
}

/// What the script says, and what was asked.
#[derive(Clone, Default)]
pub struct Scripted(Arc<Mutex<Script>>);

/// The script.
#[derive(Default)]
pub struct Script {
    /// How an enabling ends; `None`: well.
    pub refuse: Option<EnableError>,
    /// The SIP server is slow.
    pub slow: bool,
    /// The store does not answer.
    pub store_away: bool,
    /// A wipe waits for the store.
    pub wiping: bool,
    /// The instance was wiped.
    pub wiped: bool,
    /// The App has no provider for a changed token.
    pub no_provider: bool,
    /// There is only a VoIP token.
    pub no_target: bool,
    /// Seconds that a test push must wait; 0: none.
    pub test_wait_s: u64,
    /// A trace is being recorded.
    pub traced: bool,
    /// What was enabled.
    pub enabled: Vec<(String, Enable)>,
    /// What was changed.
    pub changed: Vec<Change>,
    /// Who was woken.
    pub woken: Vec<Wake>,
    /// The other nodes.
    pub nodes: Nodes,
}

impl Scripted {
    /// Changes or reads the script.
    pub fn with<T>(&self, look: impl FnOnce(&mut Script) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    fn admit(&self, id: InstanceId, proof: &InstanceSecret) -> Result<(), AccessError> {
        match self.with(|script| (script.store_away, script.wiped || id != instance())) {
            (true, _) => Err(AccessError::StoreAway),
            (_, true) => Err(AccessError::Unknown),
            _ if proof.expose() != SECRET => Err(AccessError::Forbidden),
            _ => Ok(()),
        }
    }

    fn admit_operator(&self, id: InstanceId) -> Result<(), OperatorError> {
        self.admit(id, &InstanceSecret::new(SECRET)).map_err(|error| match error {
            AccessError::StoreAway => OperatorError::StoreAway,
            _ => OperatorError::Unknown,
        })
    }
}

/// The registration of every answer.
pub fn registration() -> Registration {
    Registration {
        state: RegistrationState::Registered,
        status: Some(200),
        expires_in_s: Some(600),
        failing_since: None,
    }
}

fn edge() -> EdgeAddress {
    EdgeAddress {
        proxy: "sip:relay1.example.net:5061;transport=tls".into(),
        websocket: None,
        username: instance(),
        realm: "sipwake",
    }
}

fn view() -> View {
    View {
        instance: instance(),
        state: InstanceStatusView::Active,
        registration: registration(),
        created_at: EXPIRES_AT - 432_000,
        expires_at: EXPIRES_AT,
        label: Some("Pixel 8".into()),
        call_push: Provider::ApnsProduction,
        alert_push: Some(Provider::Fcm),
        public_key: None,
        wake_for: WakeFor { call: true, message: false, voicemail: true, missed_call: true },
        presence: Presence::Background,
        edge: edge(),
        voicemail: Some(Voicemail { waiting: true, new: Some(2), old: Some(1), urgent: None }),
        kept: Some(Counts { messages: 1, missed_calls: 3 }),
    }
}

fn kept_message(name: Option<&str>, content_type: &str, body: &[u8]) -> Message {
    Message {
        id: message(),
        from: "sip:bob@example.com".into(),
        name: name.map(Into::into),
        content_type: content_type.into(),
        body: body.into(),
        received_at: EXPIRES_AT - 60,
        expires_at: EXPIRES_AT,
    }
}

fn missed_call() -> MissedCall {
    MissedCall {
        call: cancelled_call(),
        from: "sip:bob@example.com".into(),
        name: Some("Bob".into()),
        at: EXPIRES_AT - 60,
        expires_at: EXPIRES_AT,
        given_up: true,
    }
}

fn timeline() -> Timeline {
    let at_ms = EXPIRES_AT * 1_000 + 7;
    let one = |call, what| Step { at_ms, last_ms: at_ms, count: 1, call, what };
    let (event, call) = (Event::Call, Some(ringing_call()));
    let refused = TimelineEvent::PushEnded { event, outcome: PushOutcome::Refused, reason: Some("BadTopic") };
    let steps = vec![
        Step { count: 3, last_ms: at_ms + 2_000, ..one(None, TimelineEvent::Registered) },
        one(None, TimelineEvent::RegistrationRetry { status: Some(503), after_s: 30 }),
        one(call, TimelineEvent::Invite),
        one(call, TimelineEvent::PushSent { event, provider: PushProvider::Apns }),
        one(call, refused),
        one(call, TimelineEvent::DeviceAttached { after_ms: Some(950) }),
        one(call, TimelineEvent::CallEnded(sip::endpoint::CallState::Answered)),
        one(None, TimelineEvent::Message { outcome: MessageOutcome::Kept }),
        one(None, TimelineEvent::Voicemail { new: Some(2), old: None }),
    ];
    Timeline { enabled_at_ms: EXPIRES_AT * 1_000, steps }
}

fn receipt(reason: WipeReason) -> ReceiptView {
    ReceiptView { instance: instance(), wiped_at: EXPIRES_AT, reason, unregistered: true, signature: "c2ln".into() }
}

fn listed() -> Listed {
    Listed {
        instance: instance(),
        kind: InstanceKind::Lent,
        app: "com.example.phone".into(),
        state: InstanceStatusView::Active,
        registration: registration(),
        created_at: EXPIRES_AT - 432_000,
        expires_at: EXPIRES_AT,
        call_push: Provider::ApnsSandbox,
        alert_push: None,
    }
}

impl AppService for Scripted {
    async fn examine(&self, _app: &str, _source: std::net::IpAddr, patient: Patient) -> Result<Report, ExamineError> {
        let verdict = if patient.credentials.is_some() { Verdict::Good } else { Verdict::Bad };
        let finding =
            Finding { step: DoctorStep::Register, verdict, what: patient.aor.len().to_string(), remedy: None };
        Ok(Report { findings: vec![finding], proof: None })
    }

    async fn enable(&self, app: &str, _source: std::net::IpAddr, request: Enable) -> Result<Enabled, EnableError> {
        let (refuse, slow) = self.with(|script| (script.refuse, script.slow));
        if let Some(error) = refuse {
            return Err(error);
        }
        self.with(|script| script.enabled.push((app.to_owned(), request)));
        let registering = Registration {
            state: RegistrationState::Registering,
            status: None,
            expires_in_s: None,
            failing_since: None,
        };
        Ok(Enabled {
            instance: instance(),
            secret: InstanceSecret::new(SECRET),
            expires_at: EXPIRES_AT,
            registration: if slow { registering } else { registration() },
            edge: edge(),
        })
    }
}

impl DeviceService for Scripted {
    async fn read(&self, id: InstanceId, proof: &InstanceSecret) -> Result<View, AccessError> {
        self.admit(id, proof).map(|()| view())
    }

    async fn change(&self, id: InstanceId, proof: &InstanceSecret, change: Change) -> Result<View, ChangeError> {
        self.admit(id, proof)?;
        if self.with(|script| script.no_provider) {
            return Err(ChangeError::ProviderNotConfigured { alert: false });
        }
        self.with(|script| script.changed.push(change));
        Ok(view())
    }

    async fn disable(&self, id: InstanceId, proof: &InstanceSecret) -> Result<Wiped, AccessError> {
        self.admit(id, proof)?;
        self.with(|script| script.wiped = true);
        Ok(if self.with(|script| script.wiping) { Wiped::Wiping } else { Wiped::Done(receipt(WipeReason::Disabled)) })
    }

    async fn call(&self, id: InstanceId, proof: &InstanceSecret, call: CallId) -> Result<CallView, CallError> {
        self.admit(id, proof)?;
        let state = match call {
            call if call == ringing_call() => CallStatus::Ringing,
            call if call == cancelled_call() => CallStatus::Cancelled,
            _ => return Err(CallError::UnknownCall),
        };
        Ok(CallView { state, deadline: EXPIRES_AT })
    }

    async fn progress(&self, id: InstanceId, proof: &InstanceSecret, call: CallId) -> Result<(), CallError> {
        match self.call(id, proof, call).await?.state {
            CallStatus::Ringing => Ok(()),
            over => Err(CallError::Over(over)),
        }
    }

    async fn decline(&self, id: InstanceId, proof: &InstanceSecret, call: CallId) -> Result<(), CallError> {
        self.progress(id, proof, call).await
    }

    async fn messages(&self, id: InstanceId, proof: &InstanceSecret) -> Result<Vec<Message>, AccessError> {
        self.admit(id, proof)?;
        let text = kept_message(Some("Bob"), "text/plain", "Grüße\0".as_bytes());
        Ok(vec![text, kept_message(None, "application/octet-stream", b"\xff\x00")])
    }

    async fn forget_message(&self, id: InstanceId, proof: &InstanceSecret, it: MessageId) -> Result<bool, AccessError> {
        self.admit(id, proof).map(|()| it == message())
    }

    async fn missed_calls(&self, id: InstanceId, proof: &InstanceSecret) -> Result<Vec<MissedCall>, AccessError> {
        self.admit(id, proof).map(|()| vec![missed_call()])
    }

    async fn forget_missed_call(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
        it: CallId,
    ) -> Result<bool, AccessError> {
        self.admit(id, proof).map(|()| it == ringing_call() || it == cancelled_call())
    }

    async fn timeline(&self, id: InstanceId, proof: &InstanceSecret) -> Result<Timeline, AccessError> {
        self.admit(id, proof).map(|()| timeline())
    }

    async fn own_export(&self, id: InstanceId, proof: &InstanceSecret) -> Result<OwnExport, AccessError> {
        self.admit(id, proof)?;
        Ok(OwnExport {
            view: view(),
            app: "com.example.phone".into(),
            aor: Aor::new("sip:alice@example.com"),
            auth_username: "alice".into(),
            credential: OwnCredential::Password,
            registrar: None,
            outbound_proxy: None,
            calls: vec![(ringing_call(), CallView { state: CallStatus::Ringing, deadline: EXPIRES_AT })],
            timeline: timeline(),
            messages: vec![kept_message(None, "text/plain", b"hello")],
            missed_calls: vec![missed_call()],
            stories: Vec::new(),
        })
    }

    async fn test(&self, id: InstanceId, proof: &InstanceSecret) -> Result<Tested, TestError> {
        self.admit(id, proof)?;
        match self.with(|script| (script.no_target, script.test_wait_s)) {
            (true, _) => Err(TestError::NoTarget),
            (_, 0) => Ok(Tested { alert: true, provider: Provider::Fcm }),
            (_, wait_s) => Err(TestError::TooSoon { wait_s }),
        }
    }

    async fn trace(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
        request: TraceRequest,
    ) -> Result<TraceAnswer, TraceError> {
        self.admit(id, proof)?;
        self.traced(request)
    }
}

impl SipServerService for Scripted {
    async fn expect(&self, request: Wake, _: watch::Receiver<bool>) -> Result<Expected, WakeError> {
        let user = request.aor.expose().trim_start_matches("sip:").split('@').next().unwrap_or_default().to_owned();
        self.with(|script| script.woken.push(request));
        match user.as_str() {
            "alice" => Ok(Expected { known: 2, awake: 1, arrivals: mpsc::unbounded_channel().1 }),
            // Nobody is left who could come.
            "asleep" => Ok(Expected { known: 1, awake: 0, arrivals: mpsc::unbounded_channel().1 }),
            _ => Err(WakeError::Unknown),
        }
    }
}

impl OperatorService for Scripted {
    async fn list(&self, after: Option<InstanceId>, limit: usize, which: Which) -> Result<Page, OperatorError> {
        self.admit_operator(instance())?;
        let wanted = Which { app: Some("com.example.phone".into()), domain: Some("example.com".into()) };
        match after {
            _ if which != Which::default() && which != wanted => Ok(Page::default()),
            Some(_) => Ok(Page::default()),
            None => Ok(Page { instances: vec![listed()], next: (limit == 1).then(instance) }),
        }
    }

    async fn find(&self, aor: AorHash) -> Result<Vec<Listed>, OperatorError> {
        self.admit_operator(instance())?;
        Ok(if aor == AorHash::of(&Aor::new("sip:alice@example.com")) { vec![listed()] } else { Vec::new() })
    }

    async fn calls(&self, _which: WhichCalls) -> CallStories {
        CallStories { stories: Vec::new(), is_whole: true }
    }

    async fn show(&self, id: InstanceId) -> Result<Listed, OperatorError> {
        self.admit_operator(id).map(|()| listed())
    }

    async fn wipe(&self, id: InstanceId) -> Result<Wiped, OperatorError> {
        self.admit_operator(id)?;
        self.with(|script| script.wiped = true);
        Ok(if self.with(|script| script.wiping) { Wiped::Wiping } else { Wiped::Done(receipt(WipeReason::Operator)) })
    }

    async fn export(&self, id: InstanceId) -> Result<Export, OperatorError> {
        self.admit_operator(id)?;
        Ok(Export {
            listed: listed(),
            public_key: None,
            preferences: Some((
                WakeFor { call: true, message: false, voicemail: false, missed_call: false },
                Presence::Background,
            )),
            calls: vec![(ringing_call(), CallView { state: CallStatus::Ringing, deadline: EXPIRES_AT })],
            stories: Vec::new(),
        })
    }

    async fn trace(&self, id: InstanceId, request: TraceRequest) -> Result<TraceAnswer, TraceError> {
        self.admit_operator(id).map_err(|_| AccessError::Unknown)?;
        self.traced(request)
    }
}

impl Scripted {
    /// A recording that goes on until it is ended.
    fn traced(&self, request: TraceRequest) -> Result<TraceAnswer, TraceError> {
        let traced = self.with(|script| std::mem::replace(&mut script.traced, request != TraceRequest::End));
        match request {
            TraceRequest::Begin { for_s } => Ok(TraceAnswer::Begun { until: EXPIRES_AT + for_s }),
            TraceRequest::Read if traced => Ok(TraceAnswer::File(b"\x0a\x0d\x0d\x0a".to_vec())),
            TraceRequest::End if traced => Ok(TraceAnswer::Ended),
            TraceRequest::Read | TraceRequest::End => Err(TraceError::None),
        }
    }
}

/// A router to ask, over scripted use cases.
pub struct Door {
    /// The script behind it.
    pub script: Scripted,
    /// What it counts in.
    pub metrics: Metrics,
    /// How it asks.
    pub ask: Ask,
}

impl Door {
    /// An API with the default limits.
    pub fn new() -> Self {
        Self::limited(Limits::default())
    }

    /// An API with other limits.
    pub fn limited(limits: Limits) -> Self {
        Self::with(limits, &[])
    }

    /// An API that pages of these origins may call.
    pub fn for_pages(origins: &[&str]) -> Self {
        Self::with(Limits::default(), origins)
    }

    fn with(limits: Limits, origins: &[&str]) -> Self {
        let (script, metrics) = (Scripted::default(), Metrics::new());
        let app = App {
            id: "com.example.phone".into(),
            key: ApiKey::new(APP_KEY),
            apns: true,
            fcm: true,
            webpush: false,
            webpush_key: None,
        };
        let lifetime = LifetimeRange { min_s: 259_200, default_s: 432_000, max_s: 518_400 };
        let domains = DomainRules::parse(&["example.com".to_owned()]).unwrap();
        let servers = [("pbx-1", SERVER_KEY), ("pbx-2", OTHER_SERVER_KEY)].map(|(id, key)| SipServer {
            id: id.into(),
            key: ApiKey::new(key),
            domains: domains.clone(),
            registrars: Arc::default(),
        });
        let origins = origins.iter().map(|origin| (*origin).into()).collect();
        let settings = Settings {
            apps: vec![app],
            sip_servers: servers.into(),
            lifetime,
            limits,
            receipt_key: Box::new(|| [7; 32]),
            origins,
        };
        let api = Api::new(settings, script.clone(), metrics.clone());
        Self { script, metrics, ask: Ask::new(TowerToHyperService::new(api.router())) }
    }
}

type Later<T> = std::pin::Pin<Box<dyn Future<Output = T>>>;

/// Asks a router.
pub struct Ask(Box<dyn Fn(Request<Full<Bytes>>) -> Later<Unread>>);

/// An answer whose body nobody has read yet.
pub struct Unread {
    parts: Parts,
    body: Later<Bytes>,
}

impl Unread {
    /// Its status.
    pub fn status(&self) -> u16 {
        self.parts.status.as_u16()
    }

    /// Takes it in.
    pub async fn read(self) -> Answer {
        Answer {
            status: self.status(),
            text: String::from_utf8(self.body.await.to_vec()).unwrap(),
            ends_connection: self.parts.extensions.get::<EndConnection>().is_some(),
            headers: self.parts.headers,
        }
    }
}

impl Ask {
    /// Asks `router`.
    pub fn new<S, B>(router: S) -> Self
    where
        S: Service<Request<Full<Bytes>>, Response = Response<B>> + 'static,
        S::Error: std::fmt::Debug,
        S::Future: 'static,
        B: hyper::body::Body + 'static,
        B::Error: std::fmt::Debug,
    {
        Self(Box::new(move |request| {
            let answer = router.call(request);
            Box::pin(async move {
                let (parts, body) = answer.await.unwrap().into_parts();
                Unread { parts, body: Box::pin(async move { body.collect().await.unwrap().to_bytes() }) }
            })
        }))
    }

    /// Sends a whole request.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        self.leave_unread(request).await.read().await
    }

    /// Sends a whole request, and reads no answer.
    pub async fn leave_unread(&self, request: Request<Full<Bytes>>) -> Unread {
        (self.0)(request).await
    }

    /// Sends `method path` with `key` and, unless it is empty, a JSON `body`.
    pub async fn of(&self, method: &str, path: &str, key: &str, body: &str) -> Answer {
        self.from("192.0.2.1:4000", method, path, key, body).await
    }

    /// Sends `method path` with this `Authorization`.
    pub async fn with_authorization(&self, method: &str, path: &str, credentials: &str) -> Answer {
        let peer: SocketAddr = "192.0.2.1:4000".parse().unwrap();
        let request = Request::builder().method(method).uri(path).extension(Peer(peer));
        self.send(request.header("authorization", credentials).body(Full::default()).unwrap()).await
    }

    /// The same, from an address.
    pub async fn from(&self, peer: &str, method: &str, path: &str, key: &str, body: &str) -> Answer {
        let peer: SocketAddr = peer.parse().unwrap();
        let mut request = Request::builder().method(method).uri(path).extension(Peer(peer));
        if !key.is_empty() {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        self.send(request.body(Full::from(body.to_owned())).unwrap()).await
    }
}

/// An answer, taken in.
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its body.
    pub text: String,
    /// It asks for the connection to be closed.
    pub ends_connection: bool,
}

impl Answer {
    /// One header field; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// All header fields of this name.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    /// The NAME of the problem, after checking that it is one in every respect.
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json");
        let body = self.json();
        assert_eq!(body["status"], self.status, "{body}");
        assert!(StatusCode::from_u16(self.status).unwrap().as_u16() >= 400);
        for member in ["title", "detail"] {
            assert!(body[member].as_str().is_some_and(|text| text.len() > 10), "{member} of {body}");
        }
        body["type"].as_str().unwrap().strip_prefix("urn:sipwake:problem:").unwrap().to_owned()
    }

    /// The pointers of the errors.
    pub fn pointers(&self) -> Vec<String> {
        let errors = self.json()["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect()
    }
}
