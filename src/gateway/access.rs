//! Who may publish what. A token names an application and its kinds; nothing in a request does.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::http::{HeaderMap, header::AUTHORIZATION};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::problem::Problem;
use crate::{
    admin::hash_secret,
    clock::Clock,
    intake::INTAKE,
    kind::{CANCEL, JOBS, Kind, Lane},
    meta::scoped,
    store::{GatewayToken, Store},
    streams::Application,
};

/// A revoked token is refused after this.
pub const KNOWN_FOR: Duration = Duration::from_secs(1);

/// Tokens in memory.
const MOST_KNOWN: usize = 1000;

/// Tokens that are looked up at a time: guesses must not take all connections to the database.
const LOOKS: usize = 2;

/// How long a look-up waits for those before it.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// An application, as its token names it.
#[derive(Debug)]
pub struct Caller {
    /// The token's name.
    pub name: String,
    application: String,
    kinds: Application,
    of_application: Option<Application>,
    pace: Option<Arc<Pace>>,
}

impl Caller {
    /// Whether it may publish a kind, and see jobs of it.
    pub fn may_publish(&self, kind: &str) -> bool {
        self.kinds.may_publish(kind) && self.of_application.as_ref().is_none_or(|all| all.may_publish(kind))
    }

    /// An id of its application, as in tables.
    pub fn scoped(&self, job_id: &str) -> String {
        scoped(&self.application, job_id)
    }

    /// Where its jobs of a kind go.
    pub fn subject(&self, kind: Kind, lane: Lane) -> String {
        self.own(kind.intake_subject(lane))
    }

    /// Where its cancellations go.
    pub fn cancel_subject(&self) -> String {
        self.own(CANCEL.intake_subject())
    }

    fn own(&self, subject: String) -> String {
        match self.application.as_str() {
            "" => subject,
            application => subject.replacen(JOBS, &format!("{INTAKE}{application}."), 1),
        }
    }

    /// Takes the room of so many jobs.
    ///
    /// # Errors
    /// 429 if earlier ones have taken it.
    pub fn take(&self, jobs: usize) -> Result<(), Problem> {
        self.pace.as_ref().map_or(Ok(()), |pace| pace.take(jobs, Instant::now()))
    }
}

/// A rate. Whoever takes more than a second's worth waits for it before the next time.
#[derive(Debug)]
struct Pace {
    rate: i32,
    free: Mutex<Option<Instant>>,
}

impl Pace {
    fn take(&self, jobs: usize, now: Instant) -> Result<(), Problem> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        // A second's worth is kept.
        let from = free.unwrap_or(now).max(now.checked_sub(Duration::from_secs(1)).unwrap_or(now));
        if from > now {
            let seconds = (from - now).as_secs_f64().ceil();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole seconds above zero")]
            return Err(Problem::too_many(self.rate, seconds as u64));
        }
        let jobs = u32::try_from(jobs).unwrap_or(u32::MAX);
        *free = Some(from + Duration::from_secs(1).mul_f64(f64::from(jobs) / f64::from(self.rate)));
        Ok(())
    }
}

struct Known {
    caller: Arc<Caller>,
    since: Instant,
}

/// The tokens.
pub struct Access {
    store: Store,
    clock: Clock,
    applications: Vec<Application>,
    known: Mutex<HashMap<Vec<u8>, Known>>,
    looks: Semaphore,
}

impl Access {
    /// Of these applications, or of the only one.
    pub fn new(store: Store, clock: Clock, applications: Vec<Application>) -> Self {
        Self { store, clock, applications, known: Mutex::default(), looks: Semaphore::new(LOOKS) }
    }

    /// Who sends a request with these headers.
    ///
    /// # Errors
    /// 401, or 403 for a token of an application that there is no more.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Arc<Caller>, Problem> {
        let secret = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let secret = secret.and_then(|text| text.split_once(' ')).filter(|(way, _)| way.eq_ignore_ascii_case("bearer"));
        let hash = hash_secret(secret.ok_or_else(Problem::unauthorized)?.1.trim());
        if let Some(caller) = self.fresh(&hash) {
            return Ok(caller);
        }
        let busy = |_| Problem::busy("too many tokens are being looked up");
        let _look = timeout(LOOK_TIMEOUT, self.looks.acquire()).await.map_err(busy)?;
        if let Some(caller) = self.fresh(&hash) {
            return Ok(caller);
        }
        let Some(token) = self.store.gateway_token(&hash, self.clock.now()).await? else {
            self.known().remove(&hash);
            return Err(Problem::unauthorized());
        };
        self.know(hash, token)
    }

    fn fresh(&self, hash: &[u8]) -> Option<Arc<Caller>> {
        let known = self.known();
        known.get(hash).filter(|known| known.since.elapsed() < KNOWN_FOR).map(|known| Arc::clone(&known.caller))
    }

    fn know(&self, hash: Vec<u8>, token: GatewayToken) -> Result<Arc<Caller>, Problem> {
        let of_application = self.applications.iter().find(|application| application.name == token.application);
        let is_known =
            if self.applications.is_empty() { token.application.is_empty() } else { of_application.is_some() };
        if !is_known {
            let detail = format!("the application {:?} of this token is not in APPLICATIONS", token.application);
            return Err(Problem::forbidden(detail));
        }
        let mut known = self.known();
        let before = known.get(&hash).and_then(|known| known.caller.pace.clone());
        let pace = token.rate.map(|rate| {
            let same = before.filter(|pace| pace.rate == rate);
            same.unwrap_or_else(|| Arc::new(Pace { rate, free: Mutex::default() }))
        });
        let caller = Arc::new(Caller {
            name: token.name,
            kinds: Application { name: token.application.clone(), kinds: token.kinds },
            application: token.application,
            of_application: of_application.cloned(),
            pace,
        });
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(hash, Known { caller: Arc::clone(&caller), since: Instant::now() });
        Ok(caller)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_keeps_a_second_and_lends_no_more() {
        let pace = Pace { rate: 10, free: Mutex::default() };
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        assert_eq!(pace.take(5, start), Ok(()));
        assert_eq!(pace.take(1, after(100)), Err(Problem::too_many(10, 1)));
        assert_eq!(pace.take(30, after(500)), Ok(()), "a batch is taken whole");
        assert_eq!(pace.take(1, after(600)), Err(Problem::too_many(10, 3)));
        assert_eq!(pace.take(10, after(60_000)), Ok(()));
        assert_eq!(pace.take(1, after(60_000)), Ok(()), "a second's worth was kept");
    }
}
