//! `redrive` and `discard`: choose, confirm, do it in chunks with progress.

use std::{
    collections::BTreeSet,
    io::{BufRead, IsTerminal, Write as _},
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use futures::future::try_join_all;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::{super::actor, Failed, Which, edit};
use crate::{
    clock::Clock,
    config::Source,
    dead_letter::{
        Change, Filter, Letter, Letters,
        redrive::{self, CHUNK},
    },
    health::Health,
    nats,
    policy::Rate,
    store::Store,
};

/// Letters between two words on progress where nobody watches a bar.
const TELL_EVERY: usize = 1000;

/// Refused letters that are told of one by one.
const TOLD: usize = 20;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Chosen {
    /// The numbers that `list` gives them, or ids of their jobs
    letters: Vec<String>,
    #[command(flatten)]
    which: Which,
    /// All of them; needed where neither letters nor filters are given
    #[arg(long)]
    all: bool,
    /// No more than this many, the oldest first
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
    /// Who does it, for the audit log
    #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
    by: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Redrive {
    #[command(flatten)]
    chosen: Chosen,
    /// No faster than this, for example 50/s or 100/min
    #[arg(long, value_parser = Rate::parse)]
    rate: Option<Rate>,
    /// Correct the body of one letter first, as JSON in an editor
    #[arg(long, conflicts_with = "body")]
    edit: bool,
    /// The editor [default: vi]
    #[arg(long, env = "EDITOR", hide_env_values = true, hide = true)]
    editor: Option<String>,
    /// Send one letter with the body in this file in place of its own: JSON, `-` for standard input
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Send with this header; without a value, without that header. May be given several times
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Do not run them after this instant, whatever they said before
    #[arg(long, value_name = "RFC 3339")]
    not_after: Option<DateTime<Utc>>,
    /// Only say how many it would be
    #[arg(long)]
    dry_run: bool,
    /// One JSON object in place of words
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Discard {
    #[command(flatten)]
    chosen: Chosen,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// What the commands work with.
struct Desk {
    context: nats::JetStream,
    letters: Letters,
    store: Store,
    clock: Clock,
    actor: String,
}

/// What was chosen.
struct Choice {
    /// The oldest first.
    numbers: Vec<u64>,
    /// Those asked for by number that are there no more, with what became of them.
    done_before: Vec<String>,
}

impl Desk {
    async fn open(source: &Source, by: Option<String>) -> Result<Self, Failed> {
        let store = Store::new(&source.database_url()?, 4)?;
        let client = nats::connect(&source.nats()?, &Health::new()).await?;
        let context = nats::jetstream(&client);
        let letters = Letters::open(&context).await?;
        // Nothing is done that could not be written down: writing nothing needs the same table and permission.
        let writable = store.record_audit(&[]).await;
        writable.map_err(|error| format!("what is done could not be written down, so nothing is done: {error}"))?;
        Ok(Self { context, letters, store, clock: Clock::system(), actor: actor(by) })
    }

    fn redrive(&self) -> redrive::Redriver<'_> {
        let Self { context, letters, store, clock, actor } = self;
        redrive::Redriver { context, letters, store, clock, actor }
    }

    /// Those that are named, or all, as far as the filters take them.
    async fn choose(&self, chosen: &Chosen) -> Result<Choice, Failed> {
        let filter = chosen.which.filter(self.clock.now())?;
        let (named, job_ids): (Vec<&String>, Vec<&String>) =
            chosen.letters.iter().partition(|letter| letter.parse::<u64>().is_ok());
        if !chosen.all && chosen.which.is_empty() && chosen.letters.is_empty() {
            return Err(Failed("which ones? Give numbers, job ids or filters, or --all".into()));
        }
        let mut choice = Choice { numbers: Vec::new(), done_before: Vec::new() };
        if !job_ids.is_empty() || named.is_empty() {
            let of_jobs = Filter { job_ids: job_ids.iter().map(|id| (*id).clone()).collect(), ..Filter::default() };
            let mut found = BTreeSet::new();
            let take = |letter: Letter| {
                if of_jobs.takes(&letter) {
                    found.extend([letter.job_id, letter.root_id]);
                    choice.numbers.push(letter.number);
                }
            };
            self.letters.each(&filter, take).await?;
            for id in job_ids.into_iter().filter(|id| !found.contains(*id)) {
                choice.done_before.push(self.what_became_of_job(id).await?);
            }
        }
        for number in named.iter().filter_map(|number| number.parse().ok()) {
            match self.letters.get(number).await? {
                Some(letter) if filter.takes(&letter) => choice.numbers.push(number),
                Some(_) => eprintln!("note: dead letter {number} is not one that the filters take"),
                None => choice.done_before.push(self.what_became_of(number).await?),
            }
        }
        choice.numbers.sort_unstable();
        choice.numbers.dedup();
        choice.numbers.truncate(chosen.limit.unwrap_or(usize::MAX));
        Ok(choice)
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
                "there is no such dead letter of a job {id:?}; `carebell dead-letters list` shows all"
            )));
        };
        let at = entry.at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let what = entry.action.trim_start_matches("dead_letter.");
        Ok(format!("the dead letter of job {id} was {what} at {at} by {}", entry.actor))
    }

    /// The letters of a chunk that are still there.
    async fn fetch(&self, numbers: &[u64]) -> Result<Vec<Letter>, Failed> {
        let fetched = try_join_all(numbers.iter().map(|number| self.letters.get(*number))).await?;
        Ok(fetched.into_iter().flatten().collect())
    }
}

pub(super) async fn redrive(source: &Source, args: Redrive) -> Result<(), Failed> {
    if let Some(past) = args.not_after.filter(|not_after| *not_after <= Clock::system().now()) {
        return Err(Failed(format!("--not-after is {past}, which has passed: the jobs would end as expired")));
    }
    let desk = Desk::open(source, args.chosen.by.clone()).await?;
    let choice = desk.choose(&args.chosen).await?;
    for done in &choice.done_before {
        eprintln!("note: {done}");
    }
    let change = Change {
        body: corrected_body(&desk, &choice, &args).await?,
        not_after: args.not_after,
        headers: args.headers.clone(),
    };
    let total = choice.numbers.len();
    if args.dry_run {
        println!("{total} dead letters would be redriven");
        return Ok(());
    }
    let mut progress = Progress::new("redriven", total);
    let (mut redriven, mut expired, mut refused) = (0, 0, Vec::new());
    let pace = Pace::new(args.rate);
    for numbers in choice.numbers.chunks(pace.chunk) {
        pace.wait_for(redriven + refused.len()).await;
        let letters = desk.fetch(numbers).await?;
        let now = desk.clock.now();
        let late = |letter: &&Letter| edit::not_after(letter, now).is_some_and(|not_after| not_after <= now);
        expired += if args.not_after.is_none() { letters.iter().filter(late).count() } else { 0 };
        let sent = desk.redrive().redrive(&letters, &change).await.map_err(|why| interrupted(&why, redriven, total))?;
        for (letter, sent) in letters.iter().zip(sent) {
            match sent {
                Ok(()) => redriven += 1,
                Err(why) => refused.push((letter.number, why)),
            }
        }
        progress.at(redriven + refused.len());
    }
    progress.end();
    if args.json {
        let failed: Vec<_> = refused.iter().map(|(letter, why)| json!({ "letter": letter, "why": why })).collect();
        println!(
            "{}",
            json!({ "redriven": redriven, "failed": failed, "done_before": choice.done_before, "expired": expired })
        );
    } else {
        println!("{redriven} of {total} dead letters redriven");
        if expired > 0 {
            println!("{expired} of them are past their expiry and will end as expired; --not-after gives more time");
        }
    }
    report(&refused)
}

fn interrupted(why: &str, done: usize, total: usize) -> String {
    format!(
        "{why}. {done} of {total} are redriven; of the next ones some may be published, and their letters stay. The same command goes on \
         where it stopped"
    )
}

fn report(refused: &[(u64, String)]) -> Result<(), Failed> {
    for (letter, why) in refused.iter().take(TOLD) {
        eprintln!("dead letter {letter}: {why}");
    }
    match refused.len() {
        0 => Ok(()),
        count => Err(Failed(format!("{count} dead letters could not be redriven, and are still there"))),
    }
}

async fn corrected_body(desk: &Desk, choice: &Choice, args: &Redrive) -> Result<Option<Bytes>, Failed> {
    if !args.edit && args.body.is_none() {
        return Ok(None);
    }
    let [number] = choice.numbers[..] else {
        return Err(Failed(format!(
            "a body is corrected one letter at a time, and {} are chosen",
            choice.numbers.len()
        )));
    };
    let letters = desk.fetch(&[number]).await?;
    let Some(letter) = letters.first() else { return Err(Failed("somebody else has just redriven it".into())) };
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
    let desk = Desk::open(source, args.chosen.by.clone()).await?;
    let choice = desk.choose(&args.chosen).await?;
    for done in &choice.done_before {
        eprintln!("note: {done}");
    }
    let total = choice.numbers.len();
    if total > 0 && !args.yes && !confirmed(total)? {
        return Err(Failed("nothing is discarded".into()));
    }
    let mut progress = Progress::new("discarded", total);
    let mut discarded = 0;
    for numbers in choice.numbers.chunks(CHUNK) {
        let letters = desk.fetch(numbers).await?;
        desk.redrive().discard(&letters, args.why.as_deref()).await?;
        discarded += letters.len();
        progress.at(discarded);
    }
    progress.end();
    println!("{discarded} dead letters discarded by {}", desk.actor);
    Ok(())
}

fn confirmed(count: usize) -> Result<bool, Failed> {
    let mut input = std::io::stdin().lock();
    if !input.is_terminal() {
        return Err(Failed(format!("{count} dead letters would be gone for good: --yes says that this is meant")));
    }
    eprint!("Discard {count} dead letters for good? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

/// When the next chunk may go.
struct Pace {
    started: Instant,
    rate: Option<Rate>,
    chunk: usize,
}

impl Pace {
    /// Chunks of a tenth of a second's worth, so that a rate is kept evenly.
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

/// A bar for whoever watches, lines for a log.
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
            eprintln!("{done} of {} {}", self.total, self.what);
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
        return Err("expected NAME=VALUE, a header's name and its value on one line".into());
    }
    if ours.iter().any(|ours| name.to_ascii_lowercase().starts_with(ours)) {
        return Err(format!("{name} cannot be set: it is what makes the job the same job"));
    }
    Ok((name.to_owned(), value.to_owned()))
}
