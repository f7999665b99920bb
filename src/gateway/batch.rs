//! Many jobs in one request: a line each, and an answer a line.

use std::collections::HashMap;

use axum::{
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use serde::Serialize;

use super::{
    access::Caller,
    job::{Identity, Job, Refused},
    problem::Problem,
    publish::{Accepted, Answer},
    state::Gateway,
};

/// Lines of a request.
pub const MOST_LINES: usize = 10_000;

/// Jobs whose rows are written together.
const CHUNK: usize = 1000;

/// Chunks under way: one is noted while another is published.
const CHUNKS: usize = 2;

/// Its number and its text.
type Line<'a> = (usize, &'a [u8]);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LineAnswer<'a> {
    line: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<&'a str>,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum What<'a> {
    Accepted { status: u16, duplicate: bool },
    Refused(&'a Problem),
}

/// A line that has been read.
enum Read {
    Job(Job),
    Refused(Refused),
    /// The same job as that of an earlier line, by its index.
    Again(usize),
}

/// A line that was answered.
enum Slot {
    Answer(Answer),
    /// See [`Read::Again`].
    Again(usize),
}

/// The index and the job of the first line with an id.
type Seen = HashMap<String, (usize, Identity)>;

/// Splits a body into lines, without empty ones.
///
/// # Errors
/// If there are none, or too many.
pub fn lines(body: &[u8]) -> Result<Vec<Line<'_>>, Problem> {
    let lines = (1..).zip(body.split(|byte| *byte == b'\n')).map(|(number, line)| (number, line.trim_ascii()));
    let lines: Vec<Line<'_>> = lines.filter(|(_, line)| !line.is_empty()).take(MOST_LINES + 1).collect();
    match lines.len() {
        0 => Err(Problem::field("", "the body is empty: expected a job on each line")),
        1..=MOST_LINES => Ok(lines),
        _ => Err(Problem::too_large(format!("a batch has at most {MOST_LINES} lines"))),
    }
}

impl Gateway {
    /// Publishes a job for each line, and answers each.
    pub async fn batch(&self, caller: &Caller, lines: &[Line<'_>], trace: Option<&str>) -> Response {
        let mut seen = Seen::new();
        let chunks = stream::iter((0..lines.len()).step_by(CHUNK)).map(|start| {
            let chunk = start..(start + CHUNK).min(lines.len());
            let read = chunk.map(|index| self.line(caller, lines, index, &mut seen)).collect();
            self.chunk(caller, read, trace)
        });
        let mut chunks = std::pin::pin!(chunks.buffered(CHUNKS));
        let mut answers: Vec<Answer> = Vec::with_capacity(lines.len());
        while let Some(slots) = chunks.next().await {
            for slot in slots {
                answers.push(match slot {
                    Slot::Answer(answer) => answer,
                    Slot::Again(first) => answers[first].clone().map(|first| Accepted { duplicate: true, ..first }),
                });
            }
        }
        for answer in &answers {
            self.count(answer);
        }
        // A producer that looks only at the status must not take these for stored.
        let all_unavailable = answers.iter().all(|answer| matches!(answer, Err(no) if no.problem.is_unavailable()));
        match answers.first() {
            Some(Err(Refused { problem, .. })) if all_unavailable => (**problem).clone().into_response(),
            _ => ([(CONTENT_TYPE, "application/x-ndjson")], written(lines, &answers)).into_response(),
        }
    }

    fn line(&self, caller: &Caller, lines: &[Line<'_>], index: usize, seen: &mut Seen) -> Read {
        let job = match self.reader.read(caller, lines[index].1, None) {
            Ok(job) => job,
            Err(refused) => return Read::Refused(refused),
        };
        let identity = job.identity();
        match seen.get(&job.id) {
            None => {
                seen.insert(job.id.clone(), (index, identity));
                Read::Job(job)
            }
            Some((first, same)) if *same == identity => Read::Again(*first),
            Some((first, _)) => {
                let detail = format!("line {} has the id {} with another job", lines[*first].0, job.id);
                Read::Refused(Refused { id: Some(job.id), problem: Problem::conflict(detail).into() })
            }
        }
    }

    async fn chunk(&self, caller: &Caller, read: Vec<Read>, trace: Option<&str>) -> Vec<Slot> {
        let mut jobs = Vec::with_capacity(read.len());
        let mut slots: Vec<Option<Slot>> = Vec::with_capacity(read.len());
        for read in read {
            slots.push(match read {
                Read::Job(job) => {
                    jobs.push(job);
                    None
                }
                Read::Refused(refused) => Some(Slot::Answer(Err(refused))),
                Read::Again(first) => Some(Slot::Again(first)),
            });
        }
        let mut answers = self.publish(caller, jobs, trace).await.into_iter();
        slots.into_iter().filter_map(|slot| slot.or_else(|| answers.next().map(Slot::Answer))).collect()
    }
}

fn written(lines: &[Line<'_>], answers: &[Answer]) -> Vec<u8> {
    let mut text = Vec::with_capacity(answers.len() * 80);
    for ((line, _), answer) in lines.iter().zip(answers) {
        let answer = match answer {
            Ok(Accepted { id, duplicate }) => LineAnswer {
                line: *line,
                job_id: Some(id),
                what: What::Accepted { status: StatusCode::ACCEPTED.as_u16(), duplicate: *duplicate },
            },
            Err(Refused { id, problem }) => {
                LineAnswer { line: *line, job_id: id.as_deref(), what: What::Refused(problem) }
            }
        };
        // Writing to a Vec cannot fail.
        let _ = serde_json::to_writer(&mut text, &answer);
        text.push(b'\n');
    }
    text
}
