//! The challenges that a binding answers: its registrar's, and those of the proxies before it.
//!
//! | a challenge for | known in this attempt | follows |
//! | --- | --- | --- |
//! | a place or realm that is new, or an old nonce | no | answer it |
//! | the same, `stale=true` | yes | answer it, at most [`STALE_MAX`] times |
//! | the same | yes | the credentials are refused (RFC 3261 §22.2) |
//! | the registrar, in another realm | yes | likewise: a registrar has one realm |
//! | nothing that can be read | no | nothing was refused |
//!
//! An answer that was right once is carried from then on with a rising count, so that a refresh is one round trip (RFC
//! 7616 §3.6); the nonce that a 2xx names for the next time takes its place (RFC 7616 §3.5).
//!
//! A challenge is what its header says, and not its status: one that came in the other status's header alone is answered in the header that belongs to it.
//!
//! A challenge whose answer was refused, or turned down by another 4xx or 6xx, or was another device's, rests: it is answered again only when its place asks
//! again, and then its nonce is counted on.
//!
//! Invariant: at most [`CHALLENGES_MAX`] challenges are kept, those that rest last; refused credentials are sent no second time.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::auth::{Challenge, Hash, PackedChallenge};
use crate::message::{Message, Name};

/// Challenges kept for one binding: its registrar's, and those of two proxies on the way (RFC 3261 §22.3).
pub const CHALLENGES_MAX: usize = 3;
/// Challenges of one place that one attempt answers; beyond them the attempt has failed (a server that calls every nonce
/// stale).
pub const STALE_MAX: u8 = 3;
/// Earlier nonces of one place whose counts are kept.
const EARLIER_MAX: usize = 7;

/// The sender of a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenger {
    /// The registrar, by 401.
    Registrar,
    /// A proxy before it, by 407.
    Proxy,
}

impl Challenger {
    /// The challenger behind a 401 or 407.
    pub(crate) fn by(status: u16) -> Self {
        if status == 401 { Self::Registrar } else { Self::Proxy }
    }

    /// The header that carries the answer.
    pub fn credentials_header(self) -> Name {
        match self {
            Self::Registrar => Name::Authorization,
            Self::Proxy => Name::ProxyAuthorization,
        }
    }

    /// The header that asks.
    fn challenge_header(self) -> Name {
        match self {
            Self::Registrar => Name::WwwAuthenticate,
            Self::Proxy => Name::ProxyAuthenticate,
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Registrar => Self::Proxy,
            Self::Proxy => Self::Registrar,
        }
    }

    /// The status that asks.
    pub fn status(self) -> u16 {
        match self {
            Self::Registrar => 401,
            Self::Proxy => 407,
        }
    }
}

/// The consequence of a 401 or 407.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answer; the challenges of the same response that may be answered instead, when there is no credential for the first.
    Answer {
        /// The other challenges, in the server's order (RFC 8760 §2.4).
        others: Vec<Challenge>,
    },
    /// The answer was wrong.
    Refused,
    /// The response has no challenge that can be answered, before anything was answered in this attempt.
    Unanswerable {
        /// Whether it has a digest challenge that cannot be read; otherwise it offers no supported digest.
        unreadable: bool,
    },
    /// The challenges of this attempt do not end.
    Endless,
}

/// The challenges that a binding answers.
#[derive(Clone, Debug, Default)]
pub struct Challenges(Box<[KnownChallenge]>);

#[derive(Clone, Debug)]
struct KnownChallenge {
    challenger: Challenger,
    challenge: PackedChallenge,
    /// Answers given with this nonce.
    nc: u32,
    /// Challenges of this attempt; 0: its answer is one of an earlier attempt.
    asked: u8,
    /// Whether it rests until its place asks again.
    rests: bool,
    /// Nonces before this one, the latest first: registrars behind one name may take turns, each with its own. Most have had one alone, so the rest is boxed.
    #[expect(clippy::box_collection, reason = "a row has one pointer in place of three words")]
    earlier: Option<Box<Vec<Answered>>>,
}

/// A nonce that was answered before.
#[derive(Clone, Copy, Debug)]
struct Answered {
    /// A hash of the nonce and its realm.
    mark: u32,
    /// Answers given with it.
    nc: u32,
}

fn mark(realm: &str, nonce: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    (realm, nonce).hash(&mut hasher);
    hasher.finish() as u32
}

impl KnownChallenge {
    /// Another challenge takes the place of this one. The count goes on while the nonce is the same, also when a challenge
    /// repeats it, or comes back to it after another one (RFC 7616 §3.4).
    fn take(&mut self, challenge: &Challenge) {
        if *challenge.nonce != *self.challenge.nonce() || *challenge.realm != *self.challenge.realm() {
            let (old, new) =
                (mark(self.challenge.realm(), self.challenge.nonce()), mark(&challenge.realm, &challenge.nonce));
            let mut earlier = self.earlier.take().unwrap_or_default();
            let known = earlier.iter().position(|it| it.mark == new).map(|at| earlier.remove(at));
            if self.nc > 0 {
                earlier.truncate(EARLIER_MAX - 1);
                earlier.insert(0, Answered { mark: old, nc: self.nc });
            }
            self.earlier = Some(earlier).filter(|earlier| !earlier.is_empty());
            self.nc = known.map_or(0, |it| it.nc);
        }
        self.challenge = PackedChallenge::new(challenge);
    }

    /// The count of answers with this challenge's nonce, if it is known here.
    fn count_of(&mut self, challenge: &Challenge) -> Option<&mut u32> {
        if *challenge.nonce == *self.challenge.nonce() && *challenge.realm == *self.challenge.realm() {
            return Some(&mut self.nc);
        }
        let mark = mark(&challenge.realm, &challenge.nonce);
        self.earlier.iter_mut().flat_map(|earlier| earlier.iter_mut()).find(|it| it.mark == mark).map(|it| &mut it.nc)
    }
}

/// Whether a response has a digest challenge that cannot be read, or that is no text.
fn is_unreadable(response: &Message, name: Name) -> bool {
    let values = || response.values(name).map(std::str::from_utf8);
    values().any(|value| value.is_err()) || Challenge::is_unreadable(values().filter_map(Result::ok))
}

impl Challenges {
    /// The number of challenges that are answered.
    pub fn len(&self) -> usize {
        self.0.iter().take_while(|key| !key.rests).count()
    }

    /// Whether no challenge is answered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A new attempt begins: what is known may have become old without being wrong.
    pub fn begin(&mut self) {
        self.0.iter_mut().for_each(|key| key.asked = 0);
    }

    /// Lets all challenges rest: their answers were refused, or others answer from now on. The counts stay, because a server that takes each count of a nonce
    /// once would refuse one that begins anew (RFC 7616 §3.4).
    pub fn rest(&mut self) {
        self.0.iter_mut().for_each(|key| (key.rests, key.asked) = (true, 0));
    }

    /// Notes that others have answered meanwhile, some with the same nonces.
    pub fn count_on(&mut self, others: &Self) {
        for other in &others.0 {
            let challenge = other.challenge.unpack();
            if let Some(known) = self.0.iter_mut().find_map(|key| key.count_of(&challenge)) {
                *known = other.nc.max(*known);
            }
        }
    }

    /// The count for one more answer to a challenge of the same account, made elsewhere; there it is the `nc`th.
    pub fn count(&mut self, challenge: &Challenge, nc: u32) -> u32 {
        let Some(known) = self.0.iter_mut().find_map(|key| key.count_of(challenge)) else { return nc };
        *known = known.saturating_add(1).max(nc);
        *known
    }

    /// The challenge at `index`, and the count of answers with its nonce, this one included.
    pub fn next_answer(&mut self, index: usize) -> Option<(Challenge, u32)> {
        let key = self.0.get_mut(index).filter(|key| !key.rests)?;
        key.nc = key.nc.saturating_add(1);
        Some((key.challenge.unpack(), key.nc))
    }

    /// The sender of the challenge at `index`.
    pub fn challenger(&self, index: usize) -> Option<Challenger> {
        self.0.get(index).filter(|key| !key.rests).map(|key| key.challenger)
    }

    /// There is no credential for the challenge at `index`: takes another one of the same response, or lets one that comes
    /// from an earlier attempt go. The status of the refusal when neither can be done.
    ///
    /// # Errors
    /// The status of the response that asked.
    pub fn skip(&mut self, index: usize, others: &mut Vec<Challenge>) -> Result<(), u16> {
        let Some(key) = self.0.get_mut(index) else { return Err(Challenger::Registrar.status()) };
        if key.asked == 0 {
            self.change(|all| all.remove(index));
            return Ok(());
        }
        if others.is_empty() {
            return Err(key.challenger.status());
        }
        // The count that was not used with the nonce is that of the next challenge, if its nonce is the same.
        key.nc = key.nc.saturating_sub(1);
        key.take(&others.remove(0));
        Ok(())
    }

    /// A 401 or 407 came. `allowed`: the hashes that may be used.
    pub fn on_challenge(&mut self, challenger: Challenger, response: &Message, allowed: &[Hash]) -> Verdict {
        let offered = |challenger: Challenger| {
            let values = response.values(challenger.challenge_header());
            let offered = Challenge::all_supported(values.filter_map(|value| std::str::from_utf8(value).ok()), allowed);
            (!offered.is_empty()).then_some((challenger, offered))
        };
        let Some((challenger, mut offered)) = offered(challenger).or_else(|| offered(challenger.other())) else {
            let answered = self.0.iter().any(|key| key.challenger == challenger && key.asked > 0);
            let is_unreadable = |challenger: Challenger| is_unreadable(response, challenger.challenge_header());
            return if answered {
                Verdict::Refused
            } else {
                Verdict::Unanswerable { unreadable: is_unreadable(challenger) || is_unreadable(challenger.other()) }
            };
        };
        // Of several, the one for the realm that was answered in this attempt: a digest of another would be made for
        // somebody else (RFC 7616 §5.8).
        let asked = |challenge: &Challenge| {
            self.0
                .iter()
                .any(|key| key.challenger == challenger && key.asked > 0 && *key.challenge.realm() == *challenge.realm)
        };
        let at = offered.iter().position(asked).unwrap_or(0);
        let first = offered.remove(at);
        let known = self.0.iter().position(|key| {
            key.challenger == challenger
                && (challenger == Challenger::Registrar || *key.challenge.realm() == *first.realm)
        });
        let Some(index) = known else {
            if !self.make_room(challenger) {
                return Verdict::Endless;
            }
            let challenge = PackedChallenge::new(&first);
            let known = KnownChallenge { challenger, challenge, nc: 0, asked: 1, rests: false, earlier: None };
            let behind = self.len();
            // Most bindings have one challenge for their whole life.
            self.change(|all| {
                all.reserve_exact(1);
                all.insert(behind, known);
            });
            return Verdict::Answer { others: offered };
        };
        let key = &mut self.0[index];
        if key.asked > 0 && (!first.stale || *key.challenge.realm() != *first.realm) {
            return Verdict::Refused;
        }
        if key.asked >= STALE_MAX {
            return Verdict::Endless;
        }
        key.take(&first);
        key.asked += 1;
        if std::mem::take(&mut key.rests) {
            self.0.sort_by_key(|key| key.rests);
        }
        Verdict::Answer { others: offered }
    }

    /// A 2xx came, which may name the nonces of the next answers.
    pub fn on_success(&mut self, response: &Message) {
        for key in self.0.iter_mut().filter(|key| !key.rests) {
            let mut infos: Box<dyn Iterator<Item = &[u8]>> = match key.challenger {
                Challenger::Registrar => Box::new(response.values(Name::AuthenticationInfo)),
                Challenger::Proxy => Box::new(response.values_written("Proxy-Authentication-Info")),
            };
            let info = infos.next().and_then(|value| std::str::from_utf8(value).ok());
            let Some(info) = info else { continue };
            let mut challenge = key.challenge.unpack();
            if challenge.follow(info) {
                key.take(&challenge);
            }
        }
    }

    /// Makes room for a challenge; a proxy that asked in an earlier attempt may be gone from the way.
    fn make_room(&mut self, challenger: Challenger) -> bool {
        if self.0.len() < CHALLENGES_MAX {
            return true;
        }
        let resting = self.0.iter().position(|key| key.rests);
        let gone = resting.or_else(|| self.0.iter().position(|key| key.asked == 0 && key.challenger == challenger));
        gone.map(|index| self.change(|all| all.remove(index))).is_some()
    }

    /// Adds one or takes one out.
    fn change<T>(&mut self, change: impl FnOnce(&mut Vec<KnownChallenge>) -> T) -> T {
        let mut all = std::mem::take(&mut self.0).into_vec();
        let told = change(&mut all);
        self.0 = all.into_boxed_slice();
        told
    }
}
