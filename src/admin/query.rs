//! Which jobs a list has, as a query or a form names them.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use url::form_urlencoded::Serializer;
use utoipa::IntoParams;

use super::problem::{FieldError, Problem};
use crate::{
    job::{Invalid, field},
    jobs,
    kind::{Kind, Lane, Queue},
    near::nearest,
    store::lists::{JobFilter, JobState},
    when::{WHEN, parse_when},
};

/// Which jobs, and which page of them. An empty field lets all pass, as forms send it.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JobQuery {
    /// A state, or a word of older systems: waiting, active, completed, failed, delayed, paused, stalled.
    pub status: Option<String>,
    /// For example reminder.medication.
    pub kind: Option<String>,
    /// For example `notification_normal`. Not beside `kind`.
    pub queue: Option<String>,
    /// Jobs that concern this user. Needs the role coordinator, and is on record.
    pub user: Option<String>,
    /// Of this application.
    pub application: Option<String>,
    /// First recorded since: an instant (RFC 3339), or an age such as 2h.
    pub since: Option<String>,
    /// First recorded before: an instant, or an age.
    pub until: Option<String>,
    /// 1 to 100; 50 if it is not named.
    pub limit: Option<String>,
    /// The `next` of the page before, with the same filters.
    pub cursor: Option<String>,
}

impl JobQuery {
    /// Reads it. All fields that are wrong are named.
    ///
    /// # Errors
    /// If any is.
    pub fn filter(&self, now: DateTime<Utc>) -> Result<JobFilter, Problem> {
        let mut errors = Vec::new();
        let mut wrong = |path: &str, detail: String| errors.push(FieldError { path: path.to_owned(), detail });
        let mut filter = JobFilter::default();
        if let Some(status) = given(self.status.as_ref()) {
            match JobState::named(status) {
                Some(states) => filter.states = Some(states),
                None => wrong("status", JobState::unknown(status)),
            }
        }
        match (given(self.kind.as_ref()), given(self.queue.as_ref())) {
            (Some(_), Some(_)) => wrong("queue", "expected a kind or a queue, not both".to_owned()),
            (Some(name), None) => match kind_named(name) {
                Ok(kind) => filter.kind = Some(kind),
                Err(why) => wrong("kind", why),
            },
            (None, Some(name)) => match queue_named(name) {
                Ok((kind, lane)) => (filter.kind, filter.lane) = (Some(kind), lane),
                Err(why) => wrong("queue", why),
            },
            (None, None) => {}
        }
        let mut id = |name, text: Option<&String>| {
            let checked = given(text).map(|text| field::id(name, text.to_owned())).transpose();
            checked.unwrap_or_else(|why: Invalid| {
                wrong(name, why.to_string());
                None
            })
        };
        filter.user = id("user", self.user.as_ref());
        filter.application = id("application", self.application.as_ref());
        let mut instant = |name, text: Option<&String>| {
            let text = given(text)?;
            let read = parse_when(text, now);
            if read.is_none() {
                wrong(name, WHEN.to_owned());
            }
            read
        };
        filter.since = instant("since", self.since.as_ref());
        filter.until = instant("until", self.until.as_ref());
        if errors.is_empty() { Ok(filter) } else { Err(Problem::fields(errors)) }
    }

    /// All fields but the cursor, for links. An age becomes the instant that it was on the first page: with each page it
    /// would be another list.
    #[must_use]
    pub fn in_link(&self, filter: &JobFilter) -> String {
        let instant = |at: Option<DateTime<Utc>>| at.map(|at| at.to_rfc3339());
        let pairs = [
            ("status", self.status.clone()),
            ("kind", self.kind.clone()),
            ("queue", self.queue.clone()),
            ("user", self.user.clone()),
            ("application", self.application.clone()),
            ("since", instant(filter.since)),
            ("until", instant(filter.until)),
            ("limit", self.limit.clone()),
        ];
        let given = pairs.into_iter().filter_map(|(name, value)| Some((name, value.filter(|text| !text.is_empty())?)));
        Serializer::new(String::new()).extend_pairs(given).finish()
    }
}

/// A field that holds something.
pub fn given(text: Option<&String>) -> Option<&str> {
    text.map(|text| text.trim()).filter(|text| !text.is_empty())
}

fn kind_named(name: &str) -> Result<Kind, String> {
    let registry = jobs::registry();
    let found = registry.kinds().iter().find(|kind| kind.name == name).copied();
    found.ok_or_else(|| {
        unknown("kind", name, &registry.kinds().iter().map(|kind| kind.name.to_owned()).collect::<Vec<_>>())
    })
}

fn queue_named(name: &str) -> Result<(Kind, Option<Lane>), String> {
    let queues: Vec<_> = jobs::registry().kinds().iter().flat_map(Kind::queues).collect();
    let found = queues.iter().find(|queue| queue.durable() == name).map(|queue| (queue.kind, queue.lane));
    found.ok_or_else(|| unknown("queue", name, &queues.iter().map(Queue::durable).collect::<Vec<_>>()))
}

fn unknown(what: &str, name: &str, known: &[String]) -> String {
    let meant = nearest(name, known.iter().map(String::as_str)).map(|near| format!(": did you mean {near}?"));
    let meant = meant.unwrap_or_else(|| format!("; there are {}", known.join(", ")));
    format!("there is no {what} {name:?}{meant}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pairs: &str) -> JobQuery {
        let uri = format!("/?{pairs}").parse().unwrap();
        axum::extract::Query::try_from_uri(&uri).map(|axum::extract::Query(query)| query).unwrap()
    }

    #[test]
    fn all_fields_that_are_wrong_are_named_together() {
        let now = DateTime::UNIX_EPOCH + chrono::TimeDelta::days(9000);
        let empty = query("status=&kind=&queue=&user=&since=").filter(now).unwrap();
        assert_eq!(empty, JobFilter::default());
        let wrong = query("status=fine&queue=notification_normla&user=%00&since=soon").filter(now).unwrap_err();
        let json = serde_json::to_value(&wrong).unwrap();
        let paths: Vec<_> =
            json["errors"].as_array().unwrap().iter().map(|error| error["path"].as_str().unwrap()).collect();
        assert_eq!(paths, ["status", "queue", "user", "since"]);
        assert!(wrong.detail().contains("did you mean notification_normal?"), "{}", wrong.detail());
        assert!(query("kind=notification&queue=notification_bulk").filter(now).is_err());
    }

    #[test]
    fn an_age_becomes_an_instant_in_links() {
        let now = DateTime::UNIX_EPOCH + chrono::TimeDelta::days(9000);
        let query = query("status=failed&since=1h&cursor=x");
        let link = query.in_link(&query.filter(now).unwrap());
        assert_eq!(link, "status=failed&since=1994-08-22T23%3A00%3A00%2B00%3A00");
    }
}
