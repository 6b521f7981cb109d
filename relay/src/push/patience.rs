//! How long a request waits for its answer, and what its line learns from that.
//!
//! Invariant: whoever waits for longer than [`ASK_AFTER`], or gives up before, has its line asked; who waits for longer is counted for what the
//! line leaves unanswered, also when it gives up.

use h2::client::ResponseFuture;
use tokio::time::{Instant, timeout_at};

use super::departure::Departure;
use super::line::{ASK_AFTER, Line};

/// How long a request waits, and for what.
#[derive(Clone, Copy)]
pub(super) struct Patience<'a> {
    pub(super) until: Instant,
    /// Whether it waits for its answer on a line that has fallen silent: one that must not be sent twice.
    pub(super) stays: bool,
    /// Whether it asks a service that rests for longer than it may wait.
    pub(super) urgent: bool,
    /// Told when it leaves.
    pub(super) departure: &'a Departure,
}

/// Waits for the head of the answer. On the way the line is suspected, when it is silent, and noted as one that leaves requests
/// unanswered.
pub(super) async fn head_of_answer(
    mut response: ResponseFuture,
    line: &Line,
    sent: Instant,
    patience: Patience<'_>,
) -> Result<hyper::Response<h2::RecvStream>, Option<h2::Error>> {
    let Patience { until, stays, .. } = patience;
    // Whoever gives up has waited, too.
    let waiting = Waiting { line, sent, is_over: false };
    if let Ok(outcome) = timeout_at(until.min(sent + ASK_AFTER), &mut response).await {
        waiting.end();
        return outcome.map_err(Some);
    }
    line.suspect();
    let answered = async {
        match timeout_at(sent + line.answer_patience(), &mut response).await {
            Ok(outcome) => outcome,
            Err(_) => {
                line.note_unanswered(sent);
                response.await
            }
        }
    };
    tokio::select! {
        outcome = timeout_at(until, answered) => match outcome {
            Ok(outcome) => {
                if outcome.is_ok() {
                    line.note_slow_answer(sent.elapsed());
                }
                waiting.end();
                outcome.map_err(Some)
            }
            Err(_) => Err(None),
        },
        () = line.silence(), if !stays => Err(None),
    }
}

/// A request that waits for its answer.
struct Waiting<'a> {
    line: &'a Line,
    sent: Instant,
    is_over: bool,
}

impl Waiting<'_> {
    fn end(mut self) {
        self.is_over = true;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        match self.is_over {
            true => {}
            // Whether it has arrived is not known yet.
            false if self.sent.elapsed() < ASK_AFTER => self.line.doubt(),
            false => self.line.note_unanswered(self.sent),
        }
    }
}
