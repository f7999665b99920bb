//! `carebell explain`: why somebody was or was not told.

use std::{fmt::Write as _, time::Duration};

use chrono::TimeDelta;
use clap::ArgGroup;

use super::{connect, failed::Failed, output::Format};
use crate::{
    clock::Clock,
    config::Source,
    explain::{About, DoseTime, Explanation, Fact, Question, explain},
    text::instant,
};

/// What is looked back at if nothing is asked about.
const DAY: Duration = Duration::from_hours(24);

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("about").args(["medication", "appointment", "shift", "job", "since"]))]
pub(super) struct Args {
    /// Whom: an id of `users`
    #[arg(long, value_name = "ID")]
    user: String,
    /// A dose of this medication; --at says which
    #[arg(long, value_name = "ID", requires = "at")]
    medication: Option<String>,
    /// When the dose is to be taken: 2026-12-01T09:00:00+01:00, or 2026-12-01T09:00 on the care recipient's clocks
    #[arg(long, value_name = "TIME", requires = "medication", value_parser = DoseTime::parse)]
    at: Option<DoseTime>,
    /// An appointment
    #[arg(long, value_name = "ID")]
    appointment: Option<String>,
    /// A caregiver's shift
    #[arg(long, value_name = "ID")]
    shift: Option<String>,
    /// A job, or one that followed from it
    #[arg(long, value_name = "ID")]
    job: Option<String>,
    /// The notifications of this time; 24h if nothing else is asked about
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(source: &Source, args: Args) -> Result<(), Failed> {
    let Args { user, medication, at, appointment, shift, job, since, format } = args;
    let about = match (medication.zip(at), appointment, shift, job) {
        (Some((medication_id, at)), ..) => About::Dose { medication_id, at },
        (_, Some(id), ..) => About::Appointment(id),
        (_, _, Some(id), _) => About::Shift(id),
        (_, _, _, Some(id)) => About::Job(id),
        // Longer than any number of days is refused with the rest.
        _ => About::Last(TimeDelta::from_std(since.unwrap_or(DAY)).unwrap_or(TimeDelta::MAX)),
    };
    let question = Question::new(user, about)?;
    let store = connect::store(source, 2).await?;
    let explained = explain(&store, &question, Clock::system().now()).await;
    store.close().await;
    let explained = explained?;
    format.print(&serde_json::to_value(&explained)?, &in_words(&explained))?;
    Ok(())
}

fn in_words(explained: &Explanation) -> String {
    let mut text = format!("{}\n", explained.sentence);
    for one in &explained.notifications {
        let _ = write!(text, "\n  {}  {}  {}", instant(one.at), one.reason, one.job_id);
    }
    if !explained.notifications.is_empty() {
        text.push('\n');
    }
    let shown = explained.facts.iter().skip(usize::from(explained.notifications.is_empty()));
    for Fact { reason, text: fact, .. } in shown.filter(|fact| explained.notifications.is_empty() || !fact.decides) {
        let _ = write!(text, "\n  {reason}: {fact}");
    }
    for step in &explained.next {
        let _ = write!(text, "\n  next: {step}");
    }
    let _ = write!(text, "\n  looked at: {}, as of {}", explained.looked_at.join(", "), instant(explained.as_of));
    text
}
