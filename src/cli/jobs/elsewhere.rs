//! A job that is not on record: it may wait in a stream, or be a dead letter.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::super::failed::Failed;
use crate::{
    cli::connect,
    config::Source,
    dead_letter::{Filter, Letter, Letters, sweep},
    streams::{Streams, Waiting},
    text::instant,
};

/// What NATS has of a job.
pub(super) struct Elsewhere {
    id: String,
    /// Messages, and whether a consumer takes them.
    waiting: Vec<(Waiting, bool)>,
    letters: Vec<Letter>,
}

impl Elsewhere {
    /// Looks into streams and dead letters. `None` if neither has it.
    /// Also the streams of which only a part was read.
    pub(super) async fn look(source: &Source, id: &str) -> Result<(Option<Self>, Vec<String>), Failed> {
        let context = connect::jetstream(source).await?;
        let streams = Streams::embedded(&source.adjustments()?)?;
        let mut waiting = Vec::new();
        let (found, longer) = streams.find(&context, id).await?;
        for message in found {
            let is_taken = sweep::is_taken(&context, &message.stream, &message.subject).await.unwrap_or(true);
            waiting.push((message, is_taken));
        }
        let mut letters = Vec::new();
        let filter = Filter { job_ids: vec![id.to_owned()], ..Filter::default() };
        Letters::open(&context).await?.each(&filter, |letter| letters.push(letter)).await?;
        let is_nowhere = waiting.is_empty() && letters.is_empty();
        Ok(((!is_nowhere).then(|| Self { id: id.to_owned(), waiting, letters }), longer))
    }

    pub(super) fn in_words(&self) -> String {
        let mut text = format!("job {}\n", self.id);
        for (Waiting { stream, sequence, subject, published }, is_taken) in &self.waiting {
            let fate = if *is_taken {
                "no worker has recorded it yet (`carebell queues list`)"
            } else {
                "no consumer takes this subject: it becomes a dead letter within 90 s"
            };
            let _ = writeln!(text, "  {stream} #{sequence}: waits on {subject} since {}; {fate}", instant(*published));
        }
        for Letter { number, reason, error, last, .. } in &self.letters {
            let _ = writeln!(
                text,
                "  dead since {} ({reason}): {error}; `carebell dead-letters show {number}`",
                instant(*last)
            );
        }
        text
    }

    pub(super) fn to_json(&self) -> Value {
        let waiting = self.waiting.iter().map(|(message, is_taken)| {
            json!({
                "stream": message.stream,
                "stream_seq": message.sequence,
                "subject": message.subject,
                "published_at": message.published,
                "has_consumer": is_taken,
            })
        });
        let letters = self.letters.iter().map(|letter| {
            json!({ "letter": letter.number, "reason": letter.reason, "error": letter.error, "died_at": letter.last })
        });
        json!({
            "root_id": self.id,
            "runs": [],
            "unpublished": [],
            "inbox": [],
            "deliveries": [],
            "delayed": null,
            "audit": [],
            "waiting": waiting.collect::<Value>(),
            "dead_letters": letters.collect::<Value>(),
        })
    }
}
