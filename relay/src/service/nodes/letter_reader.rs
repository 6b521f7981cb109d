//! The reader of the letters to this run: it passes each letter to its receiver, and has questions answered.
//!
//! Invariant: the reader waits for no answer, because the next letter may be that answer. A question is parsed once, before it is queued.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use super::drain_messages::{NodeMessage, is_node_message};
use super::peer_request_queues::{Kind, PeerRequestQueues};
use super::{ANSWER_WAIT, Answering, Body};
use crate::agent::request::Woken;
use crate::clock;
use crate::outage::Outage;
use crate::service::ownership::missing_records::Question;
use crate::service::ownership::offers::Offer;
use crate::service::{Inner, Service};
use crate::vault::peer_messages::{Letter, LetterNumber, WokenCall};
use crate::vault::{AwayReason, Owner, StoreError};

/// How soon letters are looked for again in a store that was away.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What a node asks of another one. The first bytes tell which: an earlier version takes each of them for a request, and answers that it is none.
enum Ask {
    /// A message about a node or an instance; `None`: one of a later version.
    Message(Option<NodeMessage>),
    /// A question about records.
    Question(Question),
    /// A word about accounts whose SIP server the writer does not reach.
    Offer(Offer),
    /// A request of an app, a SIP server or an operator, in bytes that only the floor above reads.
    Request(Body),
}

/// Where an answer goes.
struct Return {
    number: LetterNumber,
    to: Owner,
}

struct Reader<'a> {
    inner: Arc<Inner>,
    answering: &'a Answering,
    queues: PeerRequestQueues,
    /// Told when an instance of this node has ended at another one.
    ended: &'a Notify,
}

impl Service {
    /// Reads the letters of other nodes and has `answering` answer their questions, until the process ends.
    pub async fn read_letters(self, answering: Answering) {
        let ended = Notify::new();
        let queues = PeerRequestQueues::new(ANSWER_WAIT);
        let reader = Reader { inner: self.0.clone(), answering: &answering, queues, ended: &ended };
        // Beside the letters: some wait for answers that are among them.
        let release_ended = async {
            loop {
                ended.notified().await;
                self.0.release_ended().await;
            }
        };
        tokio::select! {
            () = reader.read_all() => {}
            () = release_ended => {}
        }
    }
}

impl Reader<'_> {
    async fn read_all(&self) {
        let mut outage = Outage::default();
        loop {
            match self.inner.dependencies.vault.next_letter().await {
                Ok(letter) => {
                    if let Some(times) = outage.over() {
                        tracing::warn!(event = "letters-read-again", times, "the store gives out letters again");
                    }
                    if let Some(letter) = letter {
                        self.take(letter).await;
                    }
                }
                Err(error) => {
                    // The lease tells of a store that is away. One may have a connection for it, and no second one for letters.
                    if matches!(error, StoreError::Away(AwayReason::Refused(_)))
                        && let Some(times) = outage.again()
                    {
                        tracing::warn!(event = "letters-not-read", %error, remedy = error.remedy(), times, "the store refuses to give out the letters of other nodes: what they ask of this one waits in vain");
                    }
                    sleep(LOOK_AGAIN).await;
                }
            }
        }
    }

    async fn take(&self, letter: Letter) {
        let it = &self.inner;
        match letter {
            Letter::Ended => self.ended.notify_one(),
            Letter::TakenOver { registered, left } => {
                if it.is_leaving() {
                    it.dependencies.agent.taken_over(&registered).await;
                    it.hand_over.note_taken(&registered, &left);
                }
            }
            Letter::NotRegistered(ids) => {
                if it.is_leaving() {
                    it.hand_over.note_failed(&ids);
                }
            }
            Letter::Woken(calls) => {
                let now = clock::now();
                let until = |left_ms| now + Duration::from_millis(u64::from(left_ms));
                let woken =
                    |call: &WokenCall| Woken { instance: call.instance, mark: call.mark, until: until(call.left_ms) };
                it.dependencies.agent.woken_elsewhere(&calls.iter().map(woken).collect::<Vec<_>>()).await;
            }
            Letter::Answer { number, body } => {
                if let Some(waiting) = it.questions.lock().get(&number) {
                    // An error means that nobody waits any more.
                    let _ = waiting.send(body);
                }
            }
            Letter::Ask { number, from, body } => self.answer(Return { number, to: from }, Ask::parse(body)),
        }
    }

    /// Answers as soon as the queue of the question's kind has a place.
    fn answer(&self, back: Return, ask: Ask) {
        let (it, kind) = (self.inner.clone(), ask.kind());
        match ask {
            Ask::Message(message) => self.queues.answer(kind, async move |_place| {
                let body = match message {
                    Some(message) => it.clone().hear(back.to.clone(), message).await,
                    None => Body::default(),
                };
                it.write_answer(&back, body).await;
            }),
            Ask::Question(question) => self.queues.answer(kind, async move |_place| {
                let body = it.answer_lost(question).await;
                it.write_answer(&back, body).await;
            }),
            Ask::Offer(offer) => self.queues.answer(kind, async move |_place| {
                let body = it.hear_offer(&back.to, offer).await;
                it.write_answer(&back, body).await;
            }),
            Ask::Request(body) => {
                let answering = self.answering.clone();
                self.queues.answer(kind, async move |place| {
                    let (tell, mut told) = mpsc::unbounded_channel();
                    let written = async {
                        let mut until_the_first = Some(place);
                        while let Some(body) = told.recv().await {
                            it.write_answer(&back, body).await;
                            until_the_first = None;
                        }
                        drop(until_the_first);
                    };
                    tokio::join!(answering(body, tell), written);
                });
            }
        }
    }
}

impl Ask {
    fn parse(body: Body) -> Self {
        if is_node_message(&body) {
            return Self::Message(NodeMessage::decode(&body));
        }
        if let Some(offer) = Offer::read(&body) {
            return Self::Offer(offer);
        }
        match Question::read(&body) {
            Some(question) => Self::Question(question),
            None => Self::Request(body),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Message(_) => Kind::NodeMessage,
            Self::Question(Question::Seek(_)) => Kind::Seek,
            Self::Question(Question::Have(_)) | Self::Offer(_) => Kind::Have,
            Self::Request(_) => Kind::Request,
        }
    }
}

impl Inner {
    async fn write_answer(&self, back: &Return, body: Body) {
        let answer = Letter::Answer { number: back.number, body };
        // The asking node has its own timeout.
        let _ = self.dependencies.vault.write_letter(&back.to, &answer).await;
    }
}
