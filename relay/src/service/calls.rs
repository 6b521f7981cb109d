//! The stories of calls for an operator: those of calls under way, and those that are kept.
//!
//! The store has all stories of one instance; of all instances together a node knows the latest calls alone, and says where that is not all.
//!
//! Invariant: an operator learns no more of a caller than the story holds, which is too little to call back.

use std::collections::BTreeMap;
use std::time::Duration;

use sip::id::{CallId, InstanceId};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Inner;
use super::operators::{CallStories, WhichCalls};
use crate::agent::request::Request;
use crate::agent::stories::RecentCall;
use crate::domain::story::{Story, StoryOutcome};
use crate::vault::StoreError;

/// How long an answer waits for what an earlier run has kept.
const WAIT_FOR_RECALL: Duration = Duration::from_secs(2);
/// How soon it is looked again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Instances whose stories are read from the store at once.
const AT_ONCE: usize = 16;
/// Devices of one call among which the one is looked for that stands for it.
const DEVICES: usize = 64;

impl Inner {
    /// The calls of this node that were asked for, newest first.
    pub(super) async fn calls(&self, which: &WhichCalls) -> CallStories {
        // What is not here is another node's to tell.
        let one = match which.instance {
            Some(id) if self.look_as_relay(id).await.is_ok() => Some(id),
            _ => None,
        };
        let recent = self.dependencies.agent.stories();
        let until = Instant::now() + WAIT_FOR_RECALL;
        while one.is_none() && which.waits && recent.unread() > 0 && Instant::now() < until {
            sleep(LOOK_AGAIN).await;
        }
        let mut is_whole = one.is_some() || recent.unread() == 0;
        let going_on = self.dependencies.agent.ask_all(|reply| Request::Stories { reply }).await;
        let going_on = going_on.into_iter().flatten().filter(|story| which.is_one(&RecentCall::of(story)));
        let mut told: BTreeMap<(InstanceId, CallId), Story> =
            going_on.map(|story| ((story.instance, story.call), story)).collect();
        if let Some(id) = one {
            match self.dependencies.vault.stories(id).await {
                Ok(kept) => {
                    for story in kept.into_iter().filter(|story| which.is_one(&RecentCall::of(story))) {
                        told.entry((id, story.call)).or_insert(story);
                    }
                }
                Err(_) => is_whole = false,
            }
        } else {
            is_whole &= self.tell_recent(which, &mut told).await;
        }
        let mut stories: Vec<Story> = told.into_values().collect();
        stories.sort_by_key(|story| std::cmp::Reverse((story.at_ms, story.call)));
        if which.once {
            stories = once(stories, |story| story.call, Story::outcome);
        }
        stories.truncate(which.limit);
        let is_full = if which.call.is_some() { !stories.is_empty() } else { stories.len() == which.limit };
        is_whole &= which.instance.is_some() || is_full || recent.knows_all_since(which.since_ms);
        CallStories { stories, is_whole }
    }

    /// Adds those of the latest calls that were asked for; whether the store has told them all.
    async fn tell_recent(&self, which: &WhichCalls, told: &mut BTreeMap<(InstanceId, CallId), Story>) -> bool {
        let recent = self.dependencies.agent.stories();
        let mut over =
            recent.recent(if which.once { which.limit * DEVICES } else { which.limit }, |call| which.is_one(call));
        if which.once {
            over = once(over, |call| call.call, |call| call.outcome);
            over.truncate(which.limit);
        }
        let mut is_whole = true;
        let mut wanted: BTreeMap<InstanceId, Vec<CallId>> = BTreeMap::new();
        for RecentCall { instance, call, .. } in over {
            if !told.contains_key(&(instance, call)) {
                wanted.entry(instance).or_default().push(call);
            }
        }
        let mut asked: JoinSet<(InstanceId, Result<Vec<Story>, StoreError>)> = JoinSet::new();
        let mut left = wanted.keys().copied();
        loop {
            while asked.len() < AT_ONCE
                && let Some(instance) = left.next()
            {
                let vault = self.dependencies.vault.clone();
                asked.spawn(async move { (instance, vault.stories(instance).await) });
            }
            let Some(answer) = asked.join_next().await else { break };
            match answer {
                Ok((instance, Ok(stories))) => {
                    let calls = wanted.get(&instance).map_or(&[][..], Vec::as_slice);
                    for story in stories.into_iter().filter(|story| calls.contains(&story.call)) {
                        told.insert((instance, story.call), story);
                    }
                }
                Ok((_, Err(_))) | Err(_) => is_whole = false,
            }
        }
        is_whole
    }

    /// The stories of an instance's calls, oldest first.
    pub(super) async fn stories_of(&self, id: InstanceId) -> Result<Vec<Story>, StoreError> {
        let mut all = self.dependencies.vault.stories(id).await?;
        let going_on = self.dependencies.agent.ask(id, |reply| Request::Stories { reply }).await.unwrap_or_default();
        for story in going_on.into_iter().filter(|story| story.instance == id) {
            all.retain(|kept| kept.call != story.call);
            all.push(story);
        }
        Ok(all)
    }
}

/// Of each call one device, in the order of the calls: the one that answered it, else the first.
fn once<T>(devices: Vec<T>, call: impl Fn(&T) -> CallId, outcome: impl Fn(&T) -> StoryOutcome) -> Vec<T> {
    let mut calls: Vec<T> = Vec::new();
    for device in devices {
        match calls.iter_mut().find(|known| call(known) == call(&device)) {
            None => calls.push(device),
            Some(known) if outcome(&device) == StoryOutcome::Answered => *known = device,
            Some(_) => {}
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    #[test]
    fn the_device_that_answered_stands_for_its_call() {
        let call = |number: u128| CallId::new(number << 16, ShardTag(0));
        let devices = vec![
            (call(3), StoryOutcome::AnsweredElsewhere, "a"),
            (call(3), StoryOutcome::Answered, "b"),
            (call(3), StoryOutcome::AnsweredElsewhere, "c"),
            (call(2), StoryOutcome::TimedOut, "d"),
            (call(2), StoryOutcome::TimedOut, "e"),
            (call(1), StoryOutcome::Answered, "f"),
        ];
        let told = once(devices, |device| device.0, |device| device.1);
        assert_eq!(told.iter().map(|device| device.2).collect::<Vec<_>>(), ["b", "d", "f"]);
    }
}
