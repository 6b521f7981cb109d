//! The stories of calls, for an operator: those that go on, and those that are kept.
//!
//! Invariant: nothing of a caller is told that the story does not hold, which is too little to call back.

use std::collections::BTreeMap;
use std::time::Duration;

use sip::id::{CallId, InstanceId};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Inner;
use super::operators::{CallStories, WhichCalls};
use crate::agent::request::Request;
use crate::agent::stories::RecentCall;
use crate::domain::story::Story;
use crate::vault::StoreError;

/// How long an answer waits for what an earlier run has kept.
const WAIT_FOR_RECALL: Duration = Duration::from_secs(2);
/// How soon it is looked again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Instances whose stories are read from the store at once.
const AT_ONCE: usize = 16;

impl Inner {
    /// The calls of this node that were asked for, newest first.
    pub(super) async fn calls(&self, which: &WhichCalls) -> CallStories {
        let stories = self.dependencies.agent.stories();
        let until = Instant::now() + WAIT_FOR_RECALL;
        while which.waits && stories.unread() > 0 && Instant::now() < until {
            sleep(LOOK_AGAIN).await;
        }
        let mut is_whole = stories.unread() == 0;
        let going_on = self.dependencies.agent.ask_all(|reply| Request::Stories { reply }).await;
        let going_on = going_on.into_iter().flatten().filter(|story| which.is_one(&RecentCall::of(story)));
        let mut told: BTreeMap<(InstanceId, CallId), Story> =
            going_on.map(|story| ((story.instance, story.call), story)).collect();
        let over = stories.recent(which.limit, |call| which.is_one(call));
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
        let mut stories: Vec<Story> = told.into_values().collect();
        stories.sort_by_key(|story| std::cmp::Reverse((story.at_ms, story.call)));
        stories.truncate(which.limit);
        CallStories { stories, is_whole }
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
