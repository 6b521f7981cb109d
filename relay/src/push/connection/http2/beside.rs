//! The connections beside the shared one: for calls that wait behind one which is not proven, or for a stream of one that is full.
//!
//! Invariant: a call that has a stream at once causes nothing here. A connection that is begun for one waiting call serves all of them.

use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::sync::{Arc, Weak};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::sleep;

use super::{Channel, Connection, Flight, freshness};
use crate::push::connection::history::ConnectionHistory;
use crate::push::connection::spare_connections::{IDLE, is_full, is_held_up};
use crate::push::connection::state::{Line, Place};
use crate::push::connection::urgency::Urgency;

impl Channel {
    /// A connection beside this line, for a call that waits behind it.
    pub(super) async fn beside<F>(
        &self,
        line: &Line,
        make: &impl Fn(&Arc<ConnectionHistory>) -> F,
    ) -> (Arc<Connection>, Place)
    where
        F: Future<Output = Result<Arc<Connection>, Option<&'static str>>> + Send + 'static,
    {
        tokio::select! {
            further = self.further(line, make) => further,
            spare = self.spare(line, make) => spare,
        }
    }

    /// A stream of a spare connection, when there is one. The place among those that wait for it is kept until then.
    async fn spare<F>(&self, line: &Line, make: &impl Fn(&Arc<ConnectionHistory>) -> F) -> (Arc<Connection>, Place)
    where
        F: Future<Output = Result<Arc<Connection>, Option<&'static str>>> + Send + 'static,
    {
        let mut looking = pin!(self.look_for_all(line, make));
        let (mut known, mut streams) = (Vec::<Weak<Connection>>::new(), FuturesUnordered::new());
        loop {
            // Of whatever is made after this.
            let changed = self.spare.changed();
            known.retain(|known| known.strong_count() > 0);
            for spare in self.spare.all(freshness).filter(|spare| !spare.is_shut_out()) {
                if !known.iter().any(|known| known.as_ptr() == Arc::as_ptr(&spare)) {
                    known.push(Arc::downgrade(&spare));
                    streams.push(stream_of(spare));
                }
            }
            let first = async {
                while let Some(stream) = streams.next().await {
                    if let Some(stream) = stream {
                        return stream;
                    }
                }
                pending().await
            };
            tokio::select! {
                biased;
                stream = first => return stream,
                () = changed => {}
                never = &mut looking => match never {},
            }
        }
    }

    /// Begins spare connections for all calls that wait, when it is the turn of this one, as long as it waits.
    async fn look_for_all<F>(&self, line: &Line, make: &impl Fn(&Arc<ConnectionHistory>) -> F) -> Infallible
    where
        F: Future<Output = Result<Arc<Connection>, Option<&'static str>>> + Send + 'static,
    {
        let mut turn = self.spare.turn().await;
        loop {
            turn.due().await;
            if is_full(line)
                && let Some(flight) =
                    self.spare.next(freshness, |spare| is_full(&spare.line) || is_held_up(&spare.line))
            {
                let (making, of) = (make(&self.history), Arc::downgrade(flight));
                let made = async {
                    let spare = making.await?;
                    spare.line.set_aside(true);
                    tokio::spawn(let_go(of, Arc::downgrade(&spare)));
                    Ok(spare)
                };
                flight.begin(freshness, || made, None);
            }
        }
    }

    /// A connection of its own for a call that waits behind this line, when that is due.
    async fn further<F>(&self, line: &Line, make: &impl Fn(&Arc<ConnectionHistory>) -> F) -> (Arc<Connection>, Place)
    where
        F: Future<Output = Result<Arc<Connection>, Option<&'static str>>>,
    {
        loop {
            let begun = self.further.due(line).await;
            // A dial that fails tells why by itself.
            let Ok(connection) = make(&self.history).await else { continue };
            connection.line.set_aside(true);
            // What leaves the first one's request unanswered may be the service's end of every connection.
            connection.line.ask();
            if let Some(stream) = connection.line.admit(Urgency::Urgent, || connection.streams_allowed()).await {
                begun.take_up();
                return (connection, stream);
            }
        }
    }

    /// A connection beside the one for all, on which the service has answered, takes the place of one on which it has not.
    pub(super) fn promote(&self, connection: &Arc<Connection>) {
        let is_worse = |now: &Arc<Connection>| !now.line.is_proven() || now.line.is_retired();
        if connection.line.is_retired() {
            return;
        }
        if let Ok(earlier) = self.flight.supersede(Arc::clone(connection), is_worse) {
            connection.line.set_aside(false);
            if let Some(earlier) = earlier {
                earlier.line.retire();
            }
        }
    }
}

/// The right to a stream of this one; `None`: it takes no further requests.
async fn stream_of(spare: Arc<Connection>) -> Option<(Arc<Connection>, Place)> {
    let stream = spare.line.admit(Urgency::Urgent, || spare.streams_allowed()).await;
    stream.map(|stream| (spare, stream))
}

/// Lets a spare connection go that is not used any more, or has ended.
async fn let_go(flight: Weak<Flight>, spare: Weak<Connection>) {
    let mut served = None;
    loop {
        sleep(IDLE).await;
        let (Some(flight), Some(spare)) = (flight.upgrade(), spare.upgrade()) else { return };
        let now = spare.line.served_if_idle();
        if spare.line.is_retired() || !spare.line.is_aside() || now.is_some() && now == served {
            if spare.line.is_aside() {
                spare.line.retire();
            }
            flight.forget(|known| Arc::ptr_eq(known, &spare));
            return;
        }
        served = now;
    }
}
