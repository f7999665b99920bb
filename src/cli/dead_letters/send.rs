//! `redrive` and `discard`, in chunks with progress.

use crate::cli::print::note;
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{BufRead, IsTerminal, Write as _},
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use futures::future::try_join_all;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::{
    super::{actor::actor, connect, failed::Failed, output::Format},
    edit,
    filters::Filters,
};
use crate::{
    acts::predict,
    clock::Clock,
    config::Source,
    dead_letter::{
        Change, Filter, Letter, Letters,
        redrive::{self, CHUNK},
    },
    nats::JetStream,
    policy::Rate,
    store::Store,
    text::visible,
};

/// Letters per progress line, without a bar.
const TELL_EVERY: usize = 1000;

/// Refused letters listed one by one.
const TOLD: usize = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Chosen {
    /// Numbers from `list`, or job ids
    letters: Vec<String>,
    #[command(flatten)]
    filters: Filters,
    /// All of them; required without letters or filters
    #[arg(long)]
    all: bool,
    /// At most this many, oldest first
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
    /// Your name, for the audit log
    #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
    by: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Redrive {
    #[command(flatten)]
    chosen: Chosen,
    /// Maximum rate, for example 50/s or 100/min
    #[arg(long, value_parser = Rate::parse)]
    rate: Option<Rate>,
    /// First correct the body of one letter, as JSON in an editor
    #[arg(long, conflicts_with = "body")]
    edit: bool,
    /// The editor [default: vi]
    #[arg(long, env = "EDITOR", hide_env_values = true, hide = true)]
    editor: Option<String>,
    /// Send one letter with the JSON body in this file; `-` for standard input
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Set this header, or remove it if the value is empty; repeatable
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Expire the jobs at this instant instead
    #[arg(long, value_name = "RFC 3339")]
    not_after: Option<DateTime<Utc>>,
    /// Only print how many would be redriven, and what would become of them
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Discard {
    #[command(flatten)]
    chosen: Chosen,
    /// Reason, for the audit log
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
    /// Skip the confirmation
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    format: Format,
}

struct Operation {
    context: JetStream,
    letters: Letters,
    store: Store,
    clock: Clock,
    actor: String,
}

/// The selected letters.
struct Selection {
    /// Oldest first.
    numbers: Vec<u64>,
    /// Requested letters that are gone, each with how it ended.
    done_before: Vec<String>,
}

impl Operation {
    async fn open(source: &Source, by: Option<String>) -> Result<Self, Failed> {
        let store = connect::store(source, 4).await?;
        let context = connect::jetstream(source).await?;
        let letters = Letters::open(&context).await?;
        // Fail early: an empty insert needs the same table and privilege as a real one.
        let writable = store.record_audit(&[]).await;
        writable.map_err(|error| format!("nothing is done, because the audit log is not writable: {error}"))?;
        Ok(Self { context, letters, store, clock: Clock::system(), actor: actor(by) })
    }

    fn redrive(&self) -> redrive::Redriver<'_> {
        let Self { context, letters, store, clock, actor } = self;
        redrive::Redriver { context, letters, store, clock, actor }
    }

    /// Named letters or all, narrowed by the filters.
    async fn choose(&self, chosen: &Chosen) -> Result<Selection, Failed> {
        let filter = chosen.filters.filter(self.clock.now())?;
        let (named, job_ids): (Vec<&String>, Vec<&String>) =
            chosen.letters.iter().partition(|letter| letter.parse::<u64>().is_ok());
        if !chosen.all && chosen.filters.is_empty() && chosen.letters.is_empty() {
            return Err(Failed("select dead letters by number, job id or filter, or pass --all".into()));
        }
        let mut selection = Selection { numbers: Vec::new(), done_before: Vec::new() };
        if !job_ids.is_empty() || named.is_empty() {
            let of_jobs = Filter { job_ids: job_ids.iter().map(|id| (*id).clone()).collect(), ..Filter::default() };
            let mut found = BTreeSet::new();
            let take = |letter: Letter| {
                if of_jobs.takes(&letter) {
                    found.extend([letter.job_id, letter.root_id]);
                    selection.numbers.push(letter.number);
                }
            };
            self.letters.each(&filter, take).await?;
            for id in job_ids.into_iter().filter(|id| !found.contains(*id)) {
                selection.done_before.push(self.what_became_of_job(id).await?);
            }
        }
        for number in named.iter().filter_map(|number| number.parse().ok()) {
            match self.letters.get(number).await? {
                Some(letter) if filter.takes(&letter) => selection.numbers.push(number),
                Some(_) => note!("note: dead letter {number} does not match the filters"),
                None => selection.done_before.push(self.what_became_of(number).await?),
            }
        }
        selection.numbers.sort_unstable();
        selection.numbers.dedup();
        selection.numbers.truncate(chosen.limit.unwrap_or(usize::MAX));
        Ok(selection)
    }

    async fn what_became_of(&self, number: u64) -> Result<String, Failed> {
        let Some(entry) = self.store.audit_of_letter(number).await? else {
            return Err(Failed(format!("there is no dead letter {number}; `carebell dead-letters list` shows all")));
        };
        let at = entry.at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let what = entry.action.trim_start_matches("dead_letter.");
        Ok(format!("dead letter {number} was {what} at {at} by {}", entry.actor))
    }

    async fn what_became_of_job(&self, id: &str) -> Result<String, Failed> {
        let acts = self.store.audit_of(id).await?;
        let Some(entry) = acts.into_iter().rev().find(|entry| entry.action.starts_with("dead_letter.")) else {
            return Err(Failed(format!(
                "there is no such dead letter of job {id:?}; `carebell dead-letters list` shows all"
            )));
        };
        let at = entry.at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let what = entry.action.trim_start_matches("dead_letter.");
        Ok(format!("the dead letter of job {id} was {what} at {at} by {}", entry.actor))
    }

    async fn fetch(&self, numbers: &[u64]) -> Result<Vec<Letter>, Failed> {
        let fetched = try_join_all(numbers.iter().map(|number| self.letters.get(*number))).await?;
        Ok(fetched.into_iter().flatten().collect())
    }
}

pub(super) async fn redrive(source: &Source, args: Redrive) -> Result<(), Failed> {
    if let Some(past) = args.not_after.filter(|not_after| *not_after <= Clock::system().now()) {
        return Err(Failed(format!("--not-after {past} has passed: the jobs would expire")));
    }
    let operation = Operation::open(source, args.chosen.by.clone()).await?;
    let selection = operation.choose(&args.chosen).await?;
    for done in &selection.done_before {
        note!("note: {done}");
    }
    let change = Change {
        body: corrected_body(&operation, &selection, &args).await?,
        not_after: args.not_after,
        headers: args.headers.clone(),
        operation: None,
    };
    let total = selection.numbers.len();
    if args.dry_run {
        let (mut predictions, mut predicted) = (Vec::new(), Vec::new());
        for numbers in selection.numbers.chunks(CHUNK) {
            let letters = operation.fetch(numbers).await?;
            let now = operation.clock.now();
            let found = predict::of_letters(&operation.store, &letters, args.not_after, now).await?;
            if let Value::Array(rows) = predict::to_json(&letters, &found) {
                predicted.extend(rows);
            }
            predictions.extend(found);
        }
        let (letters, done_before) = (&selection.numbers, &selection.done_before);
        let json = json!({
            "would_redrive": total, "letters": letters, "done_before": done_before, "predictions": predicted
        });
        let text = format!("{total} dead letters would be redriven{}", predict::in_words(&predictions));
        return Ok(args.format.print(&json, &text)?);
    }
    let mut progress = Progress::new("redriven", total);
    let (mut redriven, mut expired, mut refused) = (0, 0, Vec::new());
    let pace = Pace::new(args.rate);
    for numbers in selection.numbers.chunks(pace.chunk) {
        pace.wait_for(redriven + refused.len()).await;
        let letters = operation.fetch(numbers).await?;
        let now = operation.clock.now();
        let late = |letter: &&Letter| predict::expiry(letter, now).is_some_and(|not_after| not_after <= now);
        expired += if args.not_after.is_none() { letters.iter().filter(late).count() } else { 0 };
        let sent =
            operation.redrive().redrive(&letters, &change).await.map_err(|why| interrupted(&why, redriven, total))?;
        for (letter, sent) in letters.iter().zip(sent) {
            match sent {
                Ok(()) => redriven += 1,
                Err(why) => refused.push((letter.number, why)),
            }
        }
        progress.at(redriven + refused.len());
    }
    progress.end();
    let failed: Vec<_> = refused.iter().map(|(letter, why)| json!({ "letter": letter, "why": why })).collect();
    let json =
        json!({ "redriven": redriven, "failed": failed, "done_before": selection.done_before, "expired": expired });
    let mut text = format!("{redriven} of {total} dead letters redriven");
    if expired > 0 {
        let _ =
            write!(text, "\n{expired} of them are past their expiry and will end as expired; --not-after extends it");
    }
    args.format.print(&json, &text)?;
    report(&refused)
}

fn interrupted(why: &str, done: usize, total: usize) -> String {
    format!(
        "{why}. {done} of {total} are redriven; some of the next may be published, but keep their letters. Repeat \
         the command to continue"
    )
}

fn report(refused: &[(u64, String)]) -> Result<(), Failed> {
    for (letter, why) in refused.iter().take(TOLD) {
        note!("dead letter {letter}: {}", visible(why));
    }
    match refused.len() {
        0 => Ok(()),
        count => Err(Failed(format!("{count} dead letters could not be redriven, and remain"))),
    }
}

async fn corrected_body(operation: &Operation, selection: &Selection, args: &Redrive) -> Result<Option<Bytes>, Failed> {
    if !args.edit && args.body.is_none() {
        return Ok(None);
    }
    let [number] = selection.numbers[..] else {
        return Err(Failed(format!(
            "only one letter can be corrected at a time; {} are selected",
            selection.numbers.len()
        )));
    };
    let letters = operation.fetch(&[number]).await?;
    let Some(letter) = letters.first() else {
        return Err(Failed("the letter is gone: redriven or discarded meanwhile".into()));
    };
    match &args.body {
        Some(file) => edit::from_file(letter, file).map(Some),
        None => match args.editor.as_deref().filter(|editor| !editor.is_empty()) {
            Some(editor) => edit::by_hand(letter, editor).await.map(Some),
            None if std::io::stdin().is_terminal() => edit::by_hand(letter, "vi").await.map(Some),
            None => Err(Failed("--edit needs a terminal, or an editor in $EDITOR; --body FILE needs neither".into())),
        },
    }
}

pub(super) async fn discard(source: &Source, args: Discard) -> Result<(), Failed> {
    let operation = Operation::open(source, args.chosen.by.clone()).await?;
    let selection = operation.choose(&args.chosen).await?;
    for done in &selection.done_before {
        note!("note: {done}");
    }
    let total = selection.numbers.len();
    if total > 0 && !args.yes && !confirmed(total)? {
        return Err(Failed("nothing is discarded".into()));
    }
    let mut progress = Progress::new("discarded", total);
    let mut discarded = 0;
    for numbers in selection.numbers.chunks(CHUNK) {
        let letters = operation.fetch(numbers).await?;
        operation.redrive().discard(&letters, args.why.as_deref()).await?;
        discarded += letters.len();
        progress.at(discarded);
    }
    progress.end();
    let json = json!({ "discarded": discarded, "done_before": selection.done_before, "by": operation.actor });
    Ok(args.format.print(&json, &format!("{discarded} dead letters discarded by {}", operation.actor))?)
}

fn confirmed(count: usize) -> Result<bool, Failed> {
    let mut input = std::io::stdin().lock();
    if !input.is_terminal() {
        return Err(Failed(format!("this would delete {count} dead letters for good; confirm with --yes")));
    }
    eprint!("Discard {count} dead letters for good? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

struct Pace {
    started: Instant,
    rate: Option<Rate>,
    chunk: usize,
}

impl Pace {
    /// A tenth of a second's worth, to keep the rate even.
    fn new(rate: Option<Rate>) -> Self {
        let chunk = rate.map_or(CHUNK, |rate| rate.within(Duration::from_millis(100)).clamp(1, CHUNK));
        Self { started: Instant::now(), rate, chunk }
    }

    async fn wait_for(&self, done: usize) {
        if let Some(rate) = self.rate {
            sleep_until(self.started + rate.time_for(done)).await;
        }
    }
}

/// A bar on a terminal, lines in a log.
struct Progress {
    bar: ProgressBar,
    what: &'static str,
    total: usize,
    told: usize,
}

impl Progress {
    fn new(what: &'static str, total: usize) -> Self {
        let bar = ProgressBar::new(total as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos} of {len}  {elapsed}, {eta} left") {
            bar.set_style(style);
        }
        Self { bar, what, total, told: 0 }
    }

    fn at(&mut self, done: usize) {
        self.bar.set_position(done as u64);
        if self.bar.is_hidden() && done / TELL_EVERY > self.told {
            self.told = done / TELL_EVERY;
            note!("{done} of {} {}", self.total, self.what);
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let token = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let ours = ["nats-", "carebell-dead-", "carebell-re", "carebell-root-id", "carebell-job-id"];
    if !token || value.contains(|c: char| c.is_control()) {
        return Err("expected NAME=VALUE, a header and its value on one line".into());
    }
    if ours.iter().any(|ours| name.to_ascii_lowercase().starts_with(ours)) {
        return Err(format!("{name} cannot be set: it identifies the job"));
    }
    Ok((name.to_owned(), value.to_owned()))
}
