//! Batches of operations on dead letters, and on jobs that have a row.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    Acting, Refused,
    operations::{Stepped, add},
    preview::of_list,
    spec::{Act, LetterFilter},
};
use crate::{
    dead_letter::{Change, Letter, Letters, Redriver, taken_back, wake},
    store::{
        EndedNow, OperationRow, Progress, RunAsk, ToEnd, WaitingRun,
        lists::{JobFilter, JobLine, Page},
    },
};

/// Jobs of a batch.
const BATCH: usize = 50;

/// Dead letters that are read for one.
const READ: usize = 500;

/// Why a job is passed over.
const CHANGED: &str = "it has changed meanwhile";

impl Acting<'_> {
    pub(super) async fn step_letters(
        &self,
        row: &OperationRow,
        act: Act,
        filter: &LetterFilter,
        progress: &mut Progress,
    ) -> Result<Stepped, Refused> {
        let context = self.nats()?;
        let all = Letters::open(context).await.map_err(Refused::Nats)?;
        let number = |json: &Value| json.as_u64().unwrap_or(0);
        let last = number(&progress.cursor["last"]);
        let mut todo: Vec<u64> = progress.cursor["todo"].as_array().into_iter().flatten().map(number).collect();
        if todo.is_empty() {
            let (found, next) = matching(&all, filter, number(&progress.cursor["next"]), last).await?;
            progress.cursor = json!({ "next": next, "last": last, "todo": found });
            // Noted before it is begun: whoever goes on knows what may be done already.
            if !self.note(row, progress).await? {
                return Ok(Stepped::Lost);
            }
            todo = found;
        }
        let mut letters: Vec<Letter> = Vec::with_capacity(todo.len());
        for number in &todo {
            letters.extend(all.get(*number).await.map_err(Refused::Nats)?);
        }
        if letters.len() < todo.len() {
            let gone: Vec<u64> =
                todo.iter().copied().filter(|number| !letters.iter().any(|letter| letter.number == *number)).collect();
            let own = self.store.acted_on_letters(row.id, &gone).await?.len();
            progress.done += i64::try_from(own).unwrap_or(0);
            add(&mut progress.skipped, "somebody was faster", gone.len() - own);
        }
        let Self { store, clock, actor, .. } = *self;
        let redriver = Redriver { context, letters: &all, store, clock, actor };
        if act == Act::Retry {
            let change = Change { operation: Some(row.id), ..Change::default() };
            for sent in redriver.redrive(&letters, &change).await.map_err(Refused::Nats)? {
                match sent {
                    Ok(()) => progress.done += 1,
                    Err(why) => add(&mut progress.failed, &why, 1),
                }
            }
        } else {
            redriver.discard_for(&letters, Some(&row.reason), Some(row.id)).await.map_err(Refused::Nats)?;
            progress.done += i64::try_from(letters.len()).unwrap_or(0);
        }
        progress.cursor["todo"] = json!([]);
        let is_last = number(&progress.cursor["next"]) > last;
        self.go_on(row, progress, is_last).await
    }

    pub(super) async fn step_jobs(
        &self,
        row: &OperationRow,
        act: Act,
        filter: &JobFilter,
        progress: &mut Progress,
    ) -> Result<Stepped, Refused> {
        if act == Act::Retry {
            self.step_wake(row, filter, progress).await
        } else {
            self.step_cancel(row, filter, progress).await
        }
    }

    async fn step_wake(
        &self,
        row: &OperationRow,
        filter: &JobFilter,
        progress: &mut Progress,
    ) -> Result<Stepped, Refused> {
        let context = self.nats()?;
        let mut todo: Vec<String> = progress.cursor["todo"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        if todo.is_empty() {
            let page = self.page(filter, progress).await?;
            todo = page.items.into_iter().map(|line| line.job_id).collect();
            progress.cursor = json!({ "page": page.next, "is_last": page.next.is_none(), "todo": todo });
            if !self.note(row, progress).await? {
                return Ok(Stepped::Lost);
            }
        }
        let ids: Vec<&str> = todo.iter().map(String::as_str).collect();
        let mut done: HashSet<String> = self.store.acted_on(row.id, &ids).await?;
        let detail = json!({ "operation": row.id.to_string() });
        // Also those of a lost holder: it may not have published them.
        done.extend(self.wake(&ids, detail.clone()).await?);
        let asks: Vec<RunAsk> = ids.iter().map(|id| RunAsk { job_id: (*id).to_owned() }).collect();
        for (id, run) in ids.iter().zip(self.store.look_up_runs(&asks).await?) {
            let Some(run) = run.filter(|run| run.state == "open") else { continue };
            let parked = wake::parked_run(context, &run.stream, run.sequence).await.map_err(Refused::Nats)?;
            let Some(parked) = parked else { continue };
            // Recorded first: whoever goes on after a kill counts it, and wakes it again if it is still parked.
            if done.insert((*id).to_owned()) {
                let root = self.store.root_of(id).await?;
                self.store.record_audit(&[self.act("job.woken", Some(id), root.as_deref(), detail.clone())]).await?;
            }
            wake::run(context, parked).await.map_err(Refused::Nats)?;
        }
        progress.done += i64::try_from(done.len()).unwrap_or(0);
        add(&mut progress.skipped, CHANGED, todo.len() - done.len());
        progress.cursor["todo"] = json!([]);
        let is_last = progress.cursor["is_last"] == true;
        self.go_on(row, progress, is_last).await
    }

    async fn step_cancel(
        &self,
        row: &OperationRow,
        filter: &JobFilter,
        progress: &mut Progress,
    ) -> Result<Stepped, Refused> {
        let page = self.page(filter, progress).await?;
        let is_last = page.next.is_none();
        let mut jobs = ToEnd::default();
        for line in &page.items {
            match line.state.as_str() {
                "delayed" => jobs.delayed.push(line.job_id.clone()),
                "open" => {
                    jobs.runs.push(WaitingRun { root_id: line.root_id.clone(), ..WaitingRun::root(&line.job_id) });
                }
                _ => jobs.deliveries.push(line.job_id.clone()),
            }
        }
        let after = |ended: &EndedNow| {
            let mut after = progress.clone();
            after.done += i64::try_from(ended.ended.len()).unwrap_or(0);
            add(&mut after.skipped, CHANGED, page.items.len().saturating_sub(ended.ended.len()));
            after.cursor = json!({ "page": page.next, "is_last": is_last, "todo": [] });
            let detail = || json!({ "operation": row.id.to_string() });
            let acts = page.items.iter().filter(|line| ended.ended.contains(&line.job_id));
            let acts = acts.map(|line| self.act("job.cancelled", Some(&line.job_id), Some(&line.root_id), detail()));
            (after, acts.collect())
        };
        let Some(ended) = self.store.end_for_operation(row, &jobs, after, self.clock.now()).await? else {
            return Ok(Stepped::Lost);
        };
        for position in &ended.parked {
            // If that fails, its message stays parked until it is due, to no effect, and is told of then.
            let _ = taken_back::delayed(self.nats()?, position, self.clock.now()).await;
        }
        let runs = jobs.runs.iter().map(|run| &run.job_id).filter(|id| ended.ended.contains(*id));
        self.tell_parked(&runs.cloned().collect::<Vec<_>>()).await;
        *progress = self.operation(row.id).await?.progress;
        Ok(if is_last { Stepped::Ended } else { Stepped::More })
    }

    /// The next page of jobs.
    async fn page(&self, filter: &JobFilter, progress: &Progress) -> Result<Page<JobLine>, Refused> {
        let from = progress.cursor["page"].as_str();
        let most = u32::try_from(BATCH).unwrap_or(1);
        self.store.jobs(filter, most, from, self.clock.now()).await.map_err(of_list)
    }

    /// Notes the end of a batch.
    async fn go_on(&self, row: &OperationRow, progress: &Progress, is_last: bool) -> Result<Stepped, Refused> {
        match self.note(row, progress).await? {
            false => Ok(Stepped::Lost),
            true if is_last => Ok(Stepped::Ended),
            true => Ok(Stepped::More),
        }
    }
}

/// Numbers of the next letters that match, and where the next look begins.
async fn matching(all: &Letters, filter: &LetterFilter, from: u64, last: u64) -> Result<(Vec<u64>, u64), Refused> {
    let kind = filter.kind.map(|kind| kind.name);
    let (mut found, mut next) = (Vec::new(), from);
    for _ in 0..READ {
        if next > last || found.len() >= BATCH {
            break;
        }
        let Some((number, letter)) = all.next(kind, next).await.map_err(Refused::Nats)? else {
            next = last + 1;
            break;
        };
        next = number + 1;
        if number <= last && letter.is_some_and(|letter| filter.takes(&letter)) {
            found.push(number);
        }
    }
    Ok((found, next))
}
