//! What an operation would act on: how many, and some of them.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{
    Acting, Refused,
    predict::{self, Prediction, of_parked},
    spec::{Act, LetterFilter, Spec},
};
use crate::{
    dead_letter::{Filter, Letters},
    kind::Queue,
    store::lists::{EXACT_UP_TO, JobFilter, JobLine, ListError},
    streams::Standing,
};

/// Jobs that a preview shows.
const SAMPLE: usize = 20;

/// What an operation would act on.
pub struct Preview {
    /// The operation.
    pub spec: Spec,
    /// How many jobs.
    pub count: u64,
    /// Some of them, in the order in which they would be acted on.
    pub sample: Vec<Sampled>,
    /// Where it would begin.
    pub(super) cursor: Value,
}

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// Its id.
    pub job_id: String,
    /// Its kind or queue.
    pub kind: String,
    /// Its state, or `waiting`.
    pub state: String,
    /// Why it is in it.
    pub reason: Option<String>,
    /// Its dead letter.
    pub letter: Option<u64>,
    /// When it died, was first recorded or published.
    pub at: DateTime<Utc>,
    /// What would become of it, if it is tried again.
    pub prediction: Option<Prediction>,
}

impl Preview {
    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let one = |job: &Sampled| {
            json!({
                "job_id": job.job_id,
                "kind": job.kind,
                "state": job.state,
                "reason": job.reason,
                "letter": job.letter,
                "at": job.at,
                "prediction": job.prediction.map(Prediction::name),
            })
        };
        json!({
            "act": self.spec.act().name(),
            "filter": self.spec.to_json(),
            "count": self.count,
            "sample": self.sample.iter().map(one).collect::<Value>(),
        })
    }
}

impl Acting<'_> {
    /// Counts what an operation would act on, and shows some of it.
    ///
    /// # Errors
    /// If it is too much for one operation, or a server does not answer.
    pub async fn preview(&self, spec: Spec) -> Result<Preview, Refused> {
        match spec {
            Spec::Letters(act, filter) => self.preview_letters(act, filter).await,
            Spec::Jobs(act, filter) => self.preview_jobs(act, filter).await,
            Spec::Queue(queue) => self.preview_queue(queue).await,
        }
    }

    async fn preview_letters(&self, act: Act, filter: LetterFilter) -> Result<Preview, Refused> {
        let all = Letters::open(self.nats()?).await.map_err(Refused::Nats)?;
        let (_, last) = all.bounds().await.map_err(Refused::Nats)?;
        let of_kind = Filter { kind: filter.kind.map(|kind| kind.name.to_owned()), ..Filter::default() };
        let (mut count, mut first, mut numbers) = (0, None, Vec::new());
        let see = |letter: crate::dead_letter::Letter| {
            if letter.number <= last && filter.takes(&letter) {
                count += 1;
                first = first.or(Some(letter.number));
                if numbers.len() < SAMPLE {
                    numbers.push(letter.number);
                }
            }
        };
        all.each(&of_kind, see).await.map_err(Refused::Nats)?;
        let mut letters = Vec::with_capacity(numbers.len());
        for number in numbers {
            letters.extend(all.get(number).await.map_err(Refused::Nats)?);
        }
        let mut predictions = Vec::new();
        if act == Act::Retry {
            predictions = predict::of_letters(self.store, &letters, None, self.clock.now()).await?;
        }
        let sample = letters.iter().enumerate().map(|(index, letter)| Sampled {
            job_id: letter.job_id.clone(),
            kind: letter.kind.clone(),
            state: "dead".to_owned(),
            reason: Some(letter.reason.clone()),
            letter: Some(letter.number),
            at: letter.last,
            prediction: predictions.get(index).copied(),
        });
        let cursor = json!({ "next": first.unwrap_or(1), "last": last, "todo": [] });
        Ok(Preview { sample: sample.collect(), spec: Spec::Letters(act, filter), count, cursor })
    }

    async fn preview_jobs(&self, act: Act, filter: JobFilter) -> Result<Preview, Refused> {
        // Jobs that are recorded from now on are not meant.
        let now = self.clock.now();
        let filter = JobFilter { until: Some(filter.until.map_or(now, |until| until.min(now))), ..filter };
        let count = self.store.count_jobs(&filter).await?;
        if !count.is_exact {
            return Err(Refused::Conflict(format!(
                "there are more than {EXACT_UP_TO} such jobs, or they are too many to count: choose fewer by queue, kind \
                 or time"
            )));
        }
        let page = self.store.jobs(&filter, u32::try_from(SAMPLE).unwrap_or(1), None, now).await;
        let lines = page.map_err(of_list)?.items;
        let sample = self.sampled(act, &lines).await?;
        let cursor = json!({ "page": null, "is_last": false, "todo": [] });
        Ok(Preview { spec: Spec::Jobs(act, filter), count: count.number, sample, cursor })
    }

    async fn sampled(&self, act: Act, lines: &[JobLine]) -> Result<Vec<Sampled>, Refused> {
        let now = self.clock.now();
        let mut known = Vec::new();
        if act == Act::Retry {
            let ids: Vec<&str> = lines.iter().map(|line| line.job_id.as_str()).collect();
            known = self.store.claims_of(&ids).await?;
        }
        let pauses = self.store.pauses(now).await?;
        let sampled = |line: &JobLine| {
            let subject = known.iter().find(|claim| claim.id == line.job_id);
            let not_after = subject.map(|claim| claim.not_after);
            let subject = subject.and_then(|claim| claim.subject.as_deref()).unwrap_or_default();
            let prediction = of_parked(subject, line.reason.as_deref(), not_after, &pauses, now);
            Sampled {
                job_id: line.job_id.clone(),
                kind: line.queue.clone().unwrap_or_else(|| line.kind.clone()),
                state: line.state.clone(),
                reason: line.reason.clone(),
                letter: None,
                at: line.created_at,
                prediction: (act == Act::Retry).then_some(prediction),
            }
        };
        Ok(lines.iter().map(sampled).collect())
    }

    async fn preview_queue(&self, queue: Queue) -> Result<Preview, Refused> {
        let context = self.nats()?;
        let (mut count, mut sample, mut standings) = (0, Vec::new(), Vec::new());
        for consumer in self.streams.consumers_of(&queue) {
            let standing = consumer.standing(context).await.map_err(|error| Refused::Nats(error.to_string()))?;
            let first = standing.page(context, 1, SAMPLE.saturating_sub(sample.len())).await.map_err(Refused::Nats)?;
            sample.extend(first.messages.into_iter().map(|message| Sampled {
                job_id: message.job_id,
                kind: queue.durable(),
                state: "waiting".to_owned(),
                reason: None,
                letter: None,
                at: message.published,
                prediction: None,
            }));
            count += standing.messages;
            standings.push(standing);
        }
        let standings: Vec<Value> = standings.iter().map(standing_to_json).collect();
        let cursor = json!({ "standings": standings, "index": 0, "next": 1, "out": [] });
        Ok(Preview { spec: Spec::Queue(queue), count, sample, cursor })
    }
}

pub(super) fn of_list(error: ListError) -> Refused {
    match error {
        ListError::Store(error) => error.into(),
        other => Refused::Conflict(other.to_string()),
    }
}

fn standing_to_json(standing: &Standing) -> Value {
    json!({
        "stream": standing.stream, "subject": standing.subject, "created": standing.created,
        "messages": standing.messages, "last": standing.last,
    })
}

pub(super) fn standing_of_json(json: &Value) -> Option<Standing> {
    Some(Standing {
        stream: json["stream"].as_str()?.to_owned(),
        subject: json["subject"].as_str()?.to_owned(),
        created: json["created"].as_i64()?,
        messages: json["messages"].as_u64()?,
        last: json["last"].as_u64()?,
    })
}
