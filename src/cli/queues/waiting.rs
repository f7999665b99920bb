//! The jobs that wait in a paused queue, and those that expire while they do.

use chrono::{DateTime, Utc};

use super::super::connect;
use crate::{
    config::Source,
    jobs,
    kind::{Kind, Queue},
    pauses::{Pause, Scope},
    pipeline::{Form, Registry},
    streams::{Queued, Streams},
    text::instant,
};

/// The most jobs that are read: each is a request.
const MOST: usize = 1000;

/// The jobs that a pause holds up.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    jobs: u64,
    /// Expiries of those that were read, the soonest first. Of the others, most expire later.
    expiries: Vec<DateTime<Utc>>,
    unknown: Option<String>,
}

impl Waiting {
    pub(super) async fn of(source: &Source, streams: &Streams, pause: &Pause) -> Self {
        if pause.scope == Scope::Provider {
            return Self {
                unknown: Some("its deliveries wait beside those of other providers".into()),
                ..Self::default()
            };
        }
        Self::look(source, streams, pause).await.unwrap_or_else(|why| Self { unknown: Some(why), ..Self::default() })
    }

    async fn look(source: &Source, streams: &Streams, pause: &Pause) -> Result<Self, String> {
        let context = connect::jetstream(source).await.map_err(|failed| failed.0)?;
        let registry = jobs::registry();
        let mut waiting = Self::default();
        for queue in registry.kinds().iter().flat_map(Kind::queues).filter(|queue| pause.holds(*queue)) {
            for consumer in streams.consumers_of(&queue) {
                let standing = consumer.standing(&context).await.map_err(|error| error.to_string())?;
                waiting.jobs += standing.messages;
                let page = standing.page(&context, 1, MOST.saturating_sub(waiting.expiries.len())).await?;
                waiting.expiries.extend(page.messages.iter().filter_map(|message| expiry(&registry, queue, message)));
            }
        }
        waiting.expiries.sort_unstable();
        Ok(waiting)
    }

    pub(super) fn in_words(&self, until: Option<DateTime<Utc>>) -> String {
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
        match (until, expiries.first()) {
            (_, None) => "no jobs wait in it now".to_owned(),
            (Some(until), Some(_)) => {
                let expire = expiries.partition_point(|expiry| *expiry <= until);
                format!("{of} jobs that wait in it, {expire} expire before that")
            }
            (None, Some(first)) => format!("{of} jobs that wait in it, the first expires at {}", instant(*first)),
        }
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
