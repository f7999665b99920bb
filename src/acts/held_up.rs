//! The jobs that a pause holds up, and those that expire while it does.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    jobs,
    kind::{Kind, Queue},
    nats::JetStream,
    pauses::{Pause, Scope},
    pipeline::{Form, Registry},
    streams::{Queued, Streams},
    text::instant,
};

/// The most jobs that are read: each is a request.
const MOST: usize = 1000;

/// How long the reading may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The jobs that a pause holds up.
#[derive(Debug, Default)]
pub struct HeldUp {
    jobs: u64,
    /// Expiries of those that were read, the soonest first. Of the others, most expire later.
    expiries: Vec<DateTime<Utc>>,
    unknown: Option<String>,
}

impl HeldUp {
    /// By this pause, at the moment.
    pub async fn by(context: Result<&JetStream, String>, streams: &Streams, pause: &Pause) -> Self {
        if pause.scope == Scope::Provider {
            return Self::unknown("its deliveries wait beside those of other providers");
        }
        let looked = timeout(PATIENCE, async { Self::look(context?, streams, pause).await }).await;
        let looked = looked.unwrap_or_else(|_| Err(format!("they could not be read within {PATIENCE:?}")));
        looked.unwrap_or_else(|why| Self::unknown(&why))
    }

    fn unknown(why: &str) -> Self {
        Self { unknown: Some(why.to_owned()), ..Self::default() }
    }

    async fn look(context: &JetStream, streams: &Streams, pause: &Pause) -> Result<Self, String> {
        let registry = jobs::registry();
        let mut waiting = Self::default();
        for queue in registry.kinds().iter().flat_map(Kind::queues).filter(|queue| pause.holds(*queue)) {
            for consumer in streams.consumers_of(&queue) {
                let standing = consumer.standing(context).await.map_err(|error| error.to_string())?;
                waiting.jobs += standing.messages;
                let page = standing.page(context, 1, MOST.saturating_sub(waiting.expiries.len())).await?;
                waiting.expiries.extend(page.messages.iter().filter_map(|message| expiry(&registry, queue, message)));
            }
        }
        waiting.expiries.sort_unstable();
        Ok(waiting)
    }

    /// Those of them that were read and expire by the end of the pause, if it has one.
    fn expire_by(&self, until: Option<DateTime<Utc>>) -> Option<usize> {
        until.filter(|_| self.unknown.is_none()).map(|until| self.expiries.partition_point(|expiry| *expiry <= until))
    }

    /// As one line for people.
    #[must_use]
    pub fn in_words(&self, until: Option<DateTime<Utc>>) -> String {
        let Self { jobs, expiries, unknown } = self;
        if let Some(why) = unknown {
            return format!("how many jobs expire meanwhile is not known: {why}");
        }
        let read = expiries.len();
        let of = if (read as u64) < *jobs {
            format!("of the {read} that were read of {jobs}")
        } else {
            format!("of {jobs}")
        };
        match (self.expire_by(until), expiries.first()) {
            (_, None) => "no jobs wait in it now".to_owned(),
            (Some(expire), Some(_)) => format!("{of} jobs that wait in it, {expire} expire before that"),
            (None, Some(first)) => format!("{of} jobs that wait in it, the first expires at {}", instant(*first)),
        }
    }

    /// For programs. `would_expire` is null if the pause has no end, and all are if they are not known.
    #[must_use]
    pub fn to_json(&self, until: Option<DateTime<Utc>>) -> Value {
        let known = self.unknown.is_none();
        json!({
            "jobs": known.then_some(self.jobs),
            "looked_at": known.then_some(self.expiries.len()),
            "would_expire": self.expire_by(until),
            "first_expires_at": self.expiries.first(),
        })
    }
}

fn expiry(registry: &Registry, queue: Queue, message: &Queued) -> Option<DateTime<Utc>> {
    if message.not_after.is_some() {
        return message.not_after;
    }
    let form = if message.is_json { Form::Json } else { Form::Protobuf };
    let job = registry.decoder(queue.kind)?.decode(&message.body, form).ok()?;
    Some(job.default_expiry(message.published))
}
