//! The pushes that the stand-in of a push service took, its scripted answers, and its objections.
//!
//! Invariant: every operation is cheap whatever was recorded before, so that a load generator can use it; violations
//! are kept up to [`MAX_VIOLATIONS`] and counted beyond.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

/// Violations that are kept in words.
const MAX_VIOLATIONS: usize = 1_000;

/// Pushes of type `P` that were taken, and scripted answers of type `A`.
pub struct PushInbox<P, A> {
    taken: Mutex<Taken<P>>,
    count: AtomicU64,
    requests: AtomicU64,
    call_requests: AtomicU64,
    changed: Notify,
    only_counts: AtomicBool,
    listener: Mutex<Option<UnboundedSender<Heard>>>,
    script: Mutex<Script<A>>,
    violations: Mutex<Vec<String>>,
}

/// A push that was taken, as a listener is told of it.
pub struct Heard {
    /// Its token.
    pub token: String,
    /// When the whole request was read.
    pub at: Instant,
    /// Whether it is for a call that comes.
    pub rings: bool,
}

struct Taken<P> {
    pushes: Vec<P>,
    given: usize,
}

struct Script<A> {
    by_token: HashMap<String, VecDeque<A>>,
    by_connection: HashMap<usize, A>,
    otherwise: Option<A>,
}

impl<P: Clone, A: Clone> PushInbox<P, A> {
    pub(crate) fn new() -> Self {
        Self {
            taken: Mutex::new(Taken { pushes: Vec::new(), given: 0 }),
            count: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            call_requests: AtomicU64::new(0),
            changed: Notify::new(),
            only_counts: AtomicBool::new(false),
            listener: Mutex::new(None),
            script: Mutex::new(Script { by_token: HashMap::new(), by_connection: HashMap::new(), otherwise: None }),
            violations: Mutex::new(Vec::new()),
        }
    }

    /// Notes that a request arrived, whatever becomes of it.
    pub(crate) fn arrive(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// How many requests arrived, taken or not.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Notes that a request is for a call that comes, whatever becomes of it.
    pub(crate) fn arrive_for_call(&self) {
        self.call_requests.fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests were for calls that come, taken or not; of those that the service could read.
    pub fn call_requests(&self) -> u64 {
        self.call_requests.load(Ordering::Relaxed)
    }

    /// Notes a push that was taken, and whether it `rings`; `push` is made only when pushes are kept.
    pub(crate) fn take(&self, token: &str, rings: bool, push: impl FnOnce() -> P) {
        if !self.only_counts.load(Ordering::Relaxed) {
            let push = push();
            lock(&self.taken).pushes.push(push);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        if let Some(listener) = &*lock(&self.listener) {
            // The whole request is read: the moment that a listener measures.
            let _ = listener.send(Heard { token: token.to_owned(), at: Instant::now(), rings });
        }
        self.changed.notify_waiters();
    }

    /// How many pushes were taken.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Every push that was taken.
    pub fn pushes(&self) -> Vec<P> {
        lock(&self.taken).pushes.clone()
    }

    /// Waits for the next push that was taken and that this method has not given yet.
    pub async fn next_push(&self, within: Duration) -> Option<P> {
        self.wait(within, || {
            let mut taken = lock(&self.taken);
            let next = taken.pushes.get(taken.given).cloned();
            taken.given += usize::from(next.is_some());
            next
        })
        .await
    }

    /// Waits until so many requests have arrived; false when they did not.
    pub async fn wait_for_requests(&self, at_least: u64, within: Duration) -> bool {
        self.wait(within, || (self.requests() >= at_least).then_some(())).await.is_some()
    }

    /// Keeps no push, only their number (for a load generator), and looks into no payload.
    pub fn record_only_counts(&self, only: bool) {
        self.only_counts.store(only, Ordering::Relaxed);
    }

    pub(crate) fn keeps_pushes(&self) -> bool {
        !self.only_counts.load(Ordering::Relaxed)
    }

    /// Tells each push that was taken.
    pub fn notify(&self, listener: UnboundedSender<Heard>) {
        *lock(&self.listener) = Some(listener);
    }

    /// Scripts the answers to the next pushes to `token`, one each; then it is as without a script.
    pub fn answer_with(&self, token: &str, answers: impl IntoIterator<Item = A>) {
        lock(&self.script).by_token.entry(token.to_owned()).or_default().extend(answers);
    }

    /// The answer to every push without a script of its own; `None` accepts again.
    pub fn answer_all(&self, answer: Option<A>) {
        lock(&self.script).otherwise = answer;
    }

    /// The answer to every push without a script of its own on this connection (1 is the first).
    pub fn answer_on(&self, connection: usize, answer: A) {
        lock(&self.script).by_connection.insert(connection, answer);
    }

    /// The scripted answer to this request, if there is one.
    pub(crate) fn scripted(&self, token: &str, connection: usize) -> Option<A> {
        let mut script = lock(&self.script);
        if script.by_token.is_empty() && script.by_connection.is_empty() {
            return script.otherwise.clone();
        }
        let next = script.by_token.get_mut(token).and_then(VecDeque::pop_front);
        next.or_else(|| script.by_connection.get(&connection).cloned()).or_else(|| script.otherwise.clone())
    }

    pub(crate) fn object(&self, violation: String) {
        let mut violations = lock(&self.violations);
        if violations.len() < MAX_VIOLATIONS {
            violations.push(violation);
        }
    }

    /// Violations of the service's rules, and of sipwake's own promises.
    pub fn violations(&self) -> Vec<String> {
        lock(&self.violations).clone()
    }

    async fn wait<T>(&self, within: Duration, look: impl Fn() -> Option<T>) -> Option<T> {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(found) = look() {
                    return found;
                }
                changed.await;
            }
        };
        tokio::time::timeout(within, waiting).await.ok()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
