//! Empties a queue: its jobs end, and then its messages go, none that came later than the count that was confirmed.

use futures::future::join_all;
use serde_json::{Value, json};

use super::{
    Acting, Refused,
    operations::{Stepped, add},
    preview::standing_of_json,
};
use crate::{
    dead_letter::take_out_if_there,
    effects::events::RootJob,
    events::{End, Notify},
    kind::{Queue, Stage},
    plan::Reason,
    store::{EndedNow, OperationRow, Progress, ToEnd, WaitingRun},
    streams::{Queued, Standing},
};

/// Messages of a batch: each is read by a request of its own.
const BATCH: usize = 200;

/// Why a message stays.
const RUNS: &str = "it runs, or has ended before: its worker takes its message";

impl Acting<'_> {
    pub(super) async fn step_queue(
        &self,
        row: &OperationRow,
        queue: Queue,
        progress: &mut Progress,
    ) -> Result<Stepped, Refused> {
        let context = self.nats()?;
        self.take_out_noted(queue, &mut progress.cursor).await?;
        let standings: Option<Vec<Standing>> =
            progress.cursor["standings"].as_array().into_iter().flatten().map(standing_of_json).collect();
        let index = usize::try_from(progress.cursor["index"].as_u64().unwrap_or(0)).unwrap_or(usize::MAX);
        let Some(standing) = standings.as_ref().and_then(|all| all.get(index)) else {
            return Ok(if self.note(row, progress).await? { Stepped::Ended } else { Stepped::Lost });
        };
        self.check_stream(queue, standing).await?;
        let from = progress.cursor["next"].as_u64().unwrap_or(1);
        let page = standing.page(context, from, BATCH).await.map_err(Refused::Nats)?;
        let jobs = to_end(queue, &page.messages);
        let after = |ended: &EndedNow| {
            let mut after = progress.clone();
            let gone: Vec<&Queued> =
                page.messages.iter().filter(|message| ended.cancelled.contains(&message.job_id)).collect();
            after.done += i64::try_from(gone.len()).unwrap_or(0);
            add(&mut after.skipped, RUNS, page.messages.len() - gone.len());
            let out: Vec<Value> = gone.iter().map(|message| json!([message.stream, message.sequence])).collect();
            after.cursor["out"] = out.into();
            let told = gone.iter().filter(|message| message.notify.wants(End::Cancelled) && message.is_root());
            after.cursor["tell"] = told.map(|message| message.job_id.as_str()).collect::<Vec<_>>().into();
            if let Some(next) = page.next {
                after.cursor["next"] = next.into();
            } else {
                after.cursor["index"] = (index + 1).into();
                after.cursor["next"] = 1.into();
            }
            let mut acts = Vec::new();
            for message in &page.messages {
                if ended.ended.contains(&message.job_id) {
                    let detail = json!({ "operation": row.id.to_string() });
                    acts.push(self.act("job.cancelled", Some(&message.job_id), Some(&message.root_id), detail));
                }
            }
            (after, acts)
        };
        if self.store.end_for_operation(row, &jobs, after, self.clock.now()).await?.is_none() {
            return Ok(Stepped::Lost);
        }
        // On record, so that whoever goes on after a kill takes them out and counts nothing twice.
        *progress = self.operation(row.id).await?.progress;
        self.take_out_noted(queue, &mut progress.cursor).await?;
        Ok(if self.note(row, progress).await? { Stepped::More } else { Stepped::Lost })
    }

    /// One that was made anew counts from 1 again: its messages came later.
    async fn check_stream(&self, queue: Queue, standing: &Standing) -> Result<(), Refused> {
        let consumers = self.streams.consumers_of(&queue);
        let consumer = consumers.iter().find(|consumer| consumer.stream == standing.stream);
        let consumer = consumer.ok_or_else(|| Refused::Conflict(format!("{} is no stream of it", standing.stream)))?;
        let now = consumer.standing(self.nats()?).await.map_err(|error| Refused::Nats(error.to_string()))?;
        if now.created != standing.created {
            return Err(Refused::Conflict(format!(
                "the stream {} was made anew: what it holds came later",
                standing.stream
            )));
        }
        Ok(())
    }

    /// Takes out the messages whose jobs have ended, and tells of them first where they ask for it: no worker will. Safe
    /// to repeat.
    async fn take_out_noted(&self, queue: Queue, cursor: &mut Value) -> Result<(), Refused> {
        let context = self.nats()?;
        let notify = Notify::of(End::Cancelled);
        for id in cursor["tell"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let (kind, lane) = (queue.kind.name.to_owned(), queue.lane);
            let job = RootJob { job_id: id.to_owned(), kind, lane, notify };
            let Some(mut event) = job.event(End::Cancelled, self.clock.now()) else { continue };
            event.reason = Some(Reason::Cancelled.name().to_owned());
            event.publish(context).await.map_err(Refused::Nats)?;
        }
        cursor["tell"] = json!([]);
        let place = |json: &Value| Some((json[0].as_str()?.to_owned(), json[1].as_u64()?));
        let out: Vec<(String, u64)> = cursor["out"].as_array().into_iter().flatten().filter_map(place).collect();
        let taken = out.iter().map(|(stream, sequence)| take_out_if_there(context, stream, *sequence));
        join_all(taken).await.into_iter().collect::<Result<Vec<()>, String>>().map_err(Refused::Nats)?;
        cursor["out"] = json!([]);
        Ok(())
    }
}

fn to_end(queue: Queue, messages: &[Queued]) -> ToEnd {
    if queue.kind.stage == Stage::Delivery {
        let deliveries = messages.iter().map(|message| message.job_id.clone()).collect();
        return ToEnd { deliveries, ..ToEnd::default() };
    }
    let run = |message: &Queued| WaitingRun {
        job_id: message.job_id.clone(),
        root_id: message.root_id.clone(),
        kind: queue.kind.name.to_owned(),
        stream: message.stream.clone(),
        sequence: i64::try_from(message.sequence).unwrap_or(i64::MAX),
    };
    let mut runs: Vec<WaitingRun> = messages.iter().map(run).collect();
    // A statement writes a row once.
    runs.sort_by(|one, other| one.job_id.cmp(&other.job_id));
    runs.dedup_by(|one, other| one.job_id == other.job_id);
    ToEnd { runs, revived: true, ..ToEnd::default() }
}
