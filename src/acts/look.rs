//! What a retry of a job would do, and why nothing.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{
    Acting, Refused,
    predict::{self, Prediction, of_parked},
};
use crate::{
    dead_letter::{
        Filter, Letter, Letters,
        wake::{self, ParkedRun},
    },
    meta::NO_MESSAGE,
    plan::Channel,
    store::{AuditEntry, DelayedLine, LedgerLine, RunLine, Trail},
    text::instant,
};

/// How a job is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Its dead letter is sent back to its queue: its number, if it was looked for.
    Redrive(Option<u64>),
    /// It is parked, and goes on now.
    Wake,
}

/// One job that a retry would try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prospect {
    /// Its id.
    pub job_id: String,
    /// How.
    pub way: Way,
    /// What would become of it.
    pub prediction: Prediction,
    /// When it goes on by itself, if it is parked.
    pub until: Option<DateTime<Utc>>,
}

impl Prospect {
    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let (act, letter) = match self.way {
            Way::Redrive(number) => ("redrive", number),
            Way::Wake => ("wake", None),
        };
        json!({
            "job_id": self.job_id, "act": act, "letter": letter, "prediction": self.prediction.name(),
            "until": self.until,
        })
    }
}

/// A job and what followed from it, as far as a retry is concerned.
pub struct Found {
    /// The job that an application published.
    pub root_id: String,
    /// The dead letters that a retry would redrive.
    pub letters: Vec<Letter>,
    /// Dead deliveries whose letter was not looked for.
    pub dead: Vec<LedgerLine>,
    /// The deliveries that it would wake.
    pub deliveries: Vec<LedgerLine>,
    /// The runs that it would wake.
    pub runs: Vec<(RunLine, ParkedRun)>,
    /// Why nothing more would be done.
    pub why_not: String,
}

impl Acting<'_> {
    /// What a retry of a job, of that with this id or of all that followed from it, would act on: at most `most` of each
    /// sort. Unless `thorough`, a dead letter that is not where its row says, or that has no row, is not looked for.
    ///
    /// # Errors
    /// If a server does not answer.
    pub async fn look(
        &self,
        id: &str,
        way: Option<&Trail>,
        delayed: Option<&DelayedLine>,
        most: usize,
        thorough: bool,
    ) -> Result<Found, Refused> {
        let root_id = way.map_or(id, |way| way.root_id.as_str());
        let is_meant = |job: &str, run: &str| id == root_id || id == job || id == run;
        let all: Vec<&RunLine> = way.iter().flat_map(|way| &way.runs).filter(|run| is_meant(&run.job_id, "")).collect();
        let lines: Vec<&LedgerLine> =
            way.iter().flat_map(|way| &way.deliveries).filter(|line| is_meant(&line.id, &line.run_id)).collect();
        let is_unknown = all.is_empty() && lines.is_empty();
        let letters = self.letters_of(id, is_unknown, &all, &lines, most, thorough).await?;
        let mut dead = Vec::new();
        if !thorough {
            // One that was sent directly has its letter under a sequence that no row has.
            let is_decided = |line: &LedgerLine| {
                let acts = way.iter().flat_map(|way| &way.audit).filter(|act| act.job_id.as_deref() == Some(&line.id));
                acts.clone().any(|act| act.action.starts_with("dead_letter.") && act.at >= line.updated_at)
            };
            let has_letter = |line: &LedgerLine| letters.iter().any(|letter| letter.job_id == line.id);
            let left = lines.iter().filter(|line| line.state == "dead" && !has_letter(line) && !is_decided(line));
            dead.extend(left.take(most).map(|line| (*line).clone()));
        }
        let mut runs = Vec::new();
        for run in all.iter().filter(|run| run.state == "open" && run.stream_seq != NO_MESSAGE).take(most) {
            let parked = wake::parked_run(self.nats()?, &run.stream, run.stream_seq).await.map_err(Refused::Nats)?;
            runs.extend(parked.map(|parked| ((*run).clone(), parked)));
        }
        let deliveries = lines.iter().filter(|line| line.state == "held").take(most).map(|line| (*line).clone());
        Ok(Found {
            deliveries: deliveries.collect(),
            why_not: why_not(id, &all, &lines, delayed, way.map_or(&[], |way| &way.audit)),
            root_id: root_id.to_owned(),
            letters,
            dead,
            runs,
        })
    }

    async fn letters_of(
        &self,
        id: &str,
        is_unknown: bool,
        runs: &[&RunLine],
        lines: &[&LedgerLine],
        most: usize,
        thorough: bool,
    ) -> Result<Vec<Letter>, Refused> {
        let dead_runs = runs.iter().filter(|run| run.state == "dead");
        let mut places: Vec<(&str, String, String, i64)> =
            dead_runs.map(|run| (run.job_id.as_str(), run.kind.clone(), run.stream.clone(), run.stream_seq)).collect();
        let dead: Vec<&LedgerLine> = lines.iter().copied().filter(|line| line.state == "dead").collect();
        let ids: Vec<&str> = dead.iter().map(|line| line.id.as_str()).collect();
        for claim in if ids.is_empty() { Vec::new() } else { self.store.claims_of(&ids).await? } {
            let Some(line) = dead.iter().find(|line| line.id == claim.id) else { continue };
            let kind = Channel::parse(&line.channel).map_or_else(String::new, |channel| channel.kind().name.to_owned());
            places.push((&line.id, kind, "DELIVERIES".to_owned(), claim.claim_sequence.unwrap_or(NO_MESSAGE)));
        }
        if places.is_empty() && !(is_unknown && thorough) {
            return Ok(Vec::new());
        }
        let stream = Letters::open(self.nats()?).await.map_err(Refused::Nats)?;
        let (mut letters, mut missing) = (Vec::new(), Vec::new());
        for (job_id, kind, name, sequence) in places.iter().take(most) {
            let found = stream.of_message(kind, name, *sequence).await.map_err(Refused::Nats)?;
            match found.filter(|letter| letter.job_id == *job_id) {
                Some(letter) => letters.push(letter),
                None => missing.push((*job_id).to_owned()),
            }
        }
        if is_unknown {
            missing.push(id.to_owned());
        }
        if thorough && !missing.is_empty() {
            let (mut numbers, filter) = (Vec::new(), Filter { job_ids: missing, ..Filter::default() });
            stream.each(&filter, |letter| numbers.push(letter.number)).await.map_err(Refused::Nats)?;
            for number in numbers {
                letters.extend(stream.get(number).await.map_err(Refused::Nats)?);
            }
            letters.sort_unstable_by_key(|letter| letter.number);
            letters.dedup_by_key(|letter| letter.number);
        }
        Ok(letters)
    }

    /// What would become of each of them, as things are now.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn prospects(&self, found: &Found) -> Result<Vec<Prospect>, Refused> {
        let now = self.clock.now();
        let predictions = predict::of_letters(self.store, &found.letters, None, now).await?;
        let pauses = self.store.pauses(now).await?;
        let mut prospects: Vec<Prospect> = found
            .letters
            .iter()
            .zip(predictions)
            .map(|(letter, prediction)| Prospect {
                job_id: letter.job_id.clone(),
                way: Way::Redrive(Some(letter.number)),
                prediction,
                until: None,
            })
            .collect();
        for (run, parked) in &found.runs {
            let prediction = of_parked(&parked.subject, run.reason.as_deref(), parked.not_after, &pauses, now);
            let (job_id, until) = (run.job_id.clone(), parked.until);
            prospects.push(Prospect { job_id, way: Way::Wake, prediction, until });
        }
        let lines = || found.dead.iter().chain(&found.deliveries);
        let ids: Vec<&str> = lines().map(|line| line.id.as_str()).collect();
        let claims = if ids.is_empty() { Vec::new() } else { self.store.claims_of(&ids).await? };
        for line in lines() {
            let is_dead = line.state == "dead";
            let reason = line.reason.as_deref().filter(|_| !is_dead);
            let subject = claims.iter().find(|claim| claim.id == line.id).and_then(|claim| claim.subject.as_deref());
            let subject = subject.unwrap_or_default();
            prospects.push(Prospect {
                job_id: line.id.clone(),
                way: if is_dead { Way::Redrive(None) } else { Way::Wake },
                prediction: of_parked(subject, reason, Some(line.not_after), &pauses, now),
                until: line.held_until.filter(|_| !is_dead),
            });
        }
        Ok(prospects)
    }
}

/// Why there is nothing to retry.
fn why_not(
    id: &str,
    runs: &[&RunLine],
    lines: &[&LedgerLine],
    delayed: Option<&DelayedLine>,
    audit: &[AuditEntry],
) -> String {
    if let Some(due) = delayed.filter(|delayed| delayed.state == "waiting").and_then(|delayed| delayed.due) {
        return format!(
            "job {id} is delayed until {}: it runs by itself. To change that, cancel it, or publish it again under its id",
            instant(due)
        );
    }
    let count = |state: &str| lines.iter().filter(|line| line.state == state).count();
    let (sending, pending) = (count("sending"), count("pending"));
    if sending > 0 {
        return format!("job {id} is running: {sending} of its deliveries are being sent now");
    }
    if pending > 0 {
        return format!("job {id} waits for a worker: {pending} of its deliveries have not begun");
    }
    if runs.iter().any(|run| run.state == "open" && run.reason.as_deref() == Some("not_due")) {
        return format!("job {id} is not due yet: it runs by itself when it is");
    }
    if runs.iter().any(|run| run.state == "open") {
        return format!("job {id} is running, or tries again by itself within seconds");
    }
    if runs.iter().any(|run| run.state == "dead") || count("dead") > 0 {
        return format!("job {id} is dead, and its dead letter is gone{}", became(audit));
    }
    let last = lines.last().map(|line| (&line.state, &line.reason));
    let last = last.or_else(|| runs.last().map(|run| (&run.state, &run.reason)));
    match last {
        Some((state, reason)) => {
            let because = reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            format!(
                "job {id} has ended: {state}{because}. A second run under its id would have no effect: publish it under \
                 a new one"
            )
        }
        None => format!("job {id} has no record of a run{}", became(audit)),
    }
}

/// What became of its dead letter.
fn became(audit: &[AuditEntry]) -> String {
    let act = audit.iter().rev().find(|act| act.action.starts_with("dead_letter."));
    let became = act.map(|act| (act.action.trim_start_matches("dead_letter."), &act.actor));
    became.map(|(act, actor)| format!(": its dead letter was {act} by {actor}")).unwrap_or_default()
}
