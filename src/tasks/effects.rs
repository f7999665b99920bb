//! Effects: jobs that an endpoint asks for. Each is read by its kind's own decoder before anything is recorded.

use std::collections::HashSet;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::told::{Told, ToldEffect};
use crate::{
    declared::Declaration,
    kind::Lane,
    meta::{LONGEST_DELAY, LONGEST_OWN_ID, OWN, is_job_id, split},
    pipeline::{Form, Registry},
    plan::{Effect, LARGEST_BODY},
};

/// Effects of effects: jobs of one origin that ask for each other.
pub const MOST_HOPS: usize = 32;

/// The effects of a job as they are committed.
///
/// # Errors
/// Names the field and what was expected; never a value.
pub fn read(
    registry: &Registry,
    declaration: &Declaration,
    job_id: &str,
    told: &Told,
    now: DateTime<Utc>,
) -> Result<Vec<Effect>, String> {
    let mut ids = HashSet::new();
    let one = |(number, effect): (usize, &ToldEffect)| {
        let wrong = |field: &str, why: String| format!("effects[{number}].{field}: {why}");
        if !is_job_id(&effect.id) {
            return Err(wrong("id", "expected 1 to 128 of the characters A-Z a-z 0-9 _ : . -".into()));
        }
        if !ids.insert(effect.id.clone()) {
            return Err(wrong("id", "another effect of this job has it".into()));
        }
        let id = id(job_id, &effect.id).map_err(|why| wrong("id", why))?;
        read_one(registry, declaration, id, effect, now).map_err(|(field, why)| wrong(field, why))
    };
    told.effects.iter().enumerate().map(one).collect()
}

/// The id of an effect's job. No application may choose one with [`OWN`].
fn id(job_id: &str, effect: &str) -> Result<String, String> {
    let hops = split(job_id).1.matches(OWN).count() + 1;
    if hops > MOST_HOPS {
        return Err(format!("effects of effects end after {MOST_HOPS}: go on with a job of your own"));
    }
    let id = format!("{job_id}{OWN}{effect}");
    if id.len() > LONGEST_OWN_ID {
        let over = id.len() - LONGEST_OWN_ID;
        return Err(format!("after the job's own it is {over} characters too long: at most {LONGEST_OWN_ID} together"));
    }
    Ok(id)
}

fn read_one(
    registry: &Registry,
    declaration: &Declaration,
    job_id: String,
    effect: &ToldEffect,
    now: DateTime<Utc>,
) -> Result<Effect, (&'static str, String)> {
    let may = &declaration.may_publish;
    if !may.contains(&effect.kind) {
        let known = if may.is_empty() { "none".into() } else { may.join(", ") };
        return Err(("kind", format!("the declaration of {} lets it publish {known} (may_publish)", declaration.kind)));
    }
    let kind = registry.kinds().iter().copied().find(|kind| kind.name == effect.kind && kind.is_published());
    let (Some(kind), Some(decoder)) = (kind, kind.and_then(|kind| registry.decoder(kind))) else {
        return Err(("kind", "this worker has no such kind that applications may publish".into()));
    };
    let lane = match &effect.lane {
        None => Lane::Normal,
        Some(text) => match Lane::parse(text).filter(|lane| kind.lanes.contains(lane)) {
            Some(lane) => lane,
            None if kind.lanes.is_empty() => return Err(("lane", format!("{kind} has no lanes: leave it out"))),
            None => {
                let known: Vec<_> = kind.lanes.iter().map(|lane| lane.name()).collect();
                return Err(("lane", format!("expected one of {}", known.join(", "))));
            }
        },
    };
    let at = match effect.at.as_deref().map(DateTime::parse_from_rfc3339) {
        None => None,
        Some(Ok(at)) if at.to_utc() - now > LONGEST_DELAY => return Err(("at", "must be within ten years".into())),
        Some(Ok(at)) => Some(at.to_utc()),
        Some(Err(_)) => {
            return Err(("at", "expected an RFC 3339 instant with its offset, as 2027-03-01T09:00:00Z".into()));
        }
    };
    let body = serde_json::to_vec(&effect.job).map_err(|_| ("job", "cannot be written as JSON".to_owned()))?;
    if body.len() > LARGEST_BODY {
        return Err(("job", format!("has {} bytes; at most {LARGEST_BODY} are possible", body.len())));
    }
    let job = decoder.decode(&Bytes::from(body.clone()), Form::Json).map_err(|why| ("job", why))?;
    let not_after = job.default_expiry(at.unwrap_or(now).max(now));
    Ok(Effect { job_id, kind, lane, body, at, not_after })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_effect_has_an_id_that_no_stranger_may_choose() {
        assert_eq!(id("lab-7", "critical").unwrap(), "lab-7~critical");
        assert!(!is_job_id("lab-7~critical"));
        assert_eq!(id("~app~lab-7", "critical").unwrap(), "~app~lab-7~critical");
        let mut page = "search".to_owned();
        for _ in 0..MOST_HOPS {
            page = id(&page, "p").unwrap();
        }
        assert!(id(&page, "p").unwrap_err().contains("end after 32"));
        assert!(id(&"x".repeat(128), &"y".repeat(64)).unwrap_err().contains("1 characters too long"));
    }
}
