//! The connections beside the one for all: for calls that wait behind one which is not proven, or for a stream of one that is full.
//!
//! Invariant: nothing here is done for a call that has a stream at once; and what is begun for one that waits serves all that do.

use std::sync::{Arc, Weak};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{sleep, timeout};

use super::{Channel, Connection, Flight, freshness};
use crate::push::connection::history::ConnectionHistory;
use crate::push::connection::spare_connections::{FULL_FOR, IDLE};
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

    /// A stream of a spare connection, when there is one.
    async fn spare<F>(&self, line: &Line, make: &impl Fn(&Arc<ConnectionHistory>) -> F) -> (Arc<Connection>, Place)
    where
        F: Future<Output = Result<Arc<Connection>, Option<&'static str>>> + Send + 'static,
    {
        let is_full = |line: &Line| line.has_served() && line.is_proven() && !line.has_room();
        loop {
            let spares = self.spare.all(freshness);
            let streams = spares.into_iter().filter(|spare| !spare.is_shut_out()).map(|spare| {
                Box::pin(async move {
                    let stream = spare.line.admit(Urgency::Urgent, || spare.streams_allowed()).await;
                    stream.map(|stream| (spare, stream))
                })
            });
            let mut streams: FuturesUnordered<_> = streams.collect();
            let first = async {
                while let Some(stream) = streams.next().await {
                    if let Some(stream) = stream {
                        return stream;
                    }
                }
                std::future::pending().await
            };
            if let Ok(stream) = timeout(FULL_FOR, first).await {
                return stream;
            }
            if is_full(line)
                && let Some(flight) = self.spare.next(freshness, |spare| is_full(&spare.line))
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
