//! Whether somebody was told, and why not. Each look is on record.

use chrono::TimeDelta;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{access::Viewer, problem::Problem, query::given, state::Admin};
use crate::{
    explain::{About, DoseTime, Explanation, NotExplained, Question, explain},
    job::Invalid,
};

/// What somebody may have been told of. One of them, or the notifications of the last day.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PersonQuery {
    /// A dose of this medication; `at` says which.
    pub medication: Option<String>,
    /// When the dose is to be taken: an instant (RFC 3339), or 2026-12-01T09:00 on the care recipient's clocks.
    pub at: Option<String>,
    /// An appointment.
    pub appointment: Option<String>,
    /// A caregiver's shift.
    pub shift: Option<String>,
    /// A job, or one that followed from it.
    pub job: Option<String>,
    /// The notifications of this time, such as 6h or 7d; 24h if nothing is named.
    pub since: Option<String>,
}

impl PersonQuery {
    /// Reads it.
    ///
    /// # Errors
    /// Names the field that is wrong.
    pub fn about(&self) -> Result<About, Problem> {
        let text = |field: &Option<String>| given(field.as_ref()).map(str::to_owned);
        let named = [("medication", &self.medication), ("appointment", &self.appointment), ("shift", &self.shift)];
        let named = named.into_iter().chain([("job", &self.job), ("since", &self.since)]);
        let named: Vec<_> = named.filter_map(|(name, field)| Some((name, text(field)?))).collect();
        let at = text(&self.at);
        match (named.as_slice(), at) {
            ([_, (second, _), ..], _) => Err(Problem::field(*second, "expected one thing to ask about, not several")),
            ([("medication", medication_id)], Some(at)) => {
                let at = DoseTime::parse(&at).map_err(|why| Problem::field("at", why))?;
                Ok(About::Dose { medication_id: medication_id.clone(), at })
            }
            ([("medication", _)], None) => Err(Problem::field("at", "expected the time of the dose")),
            (_, Some(_)) => Err(Problem::field("medication", "expected the medication whose dose is at that time")),
            ([("appointment", id)], None) => Ok(About::Appointment(id.clone())),
            ([("shift", id)], None) => Ok(About::Shift(id.clone())),
            ([("job", id)], None) => Ok(About::Job(id.clone())),
            ([(_, since)], None) => {
                let time = humantime::parse_duration(since).ok().and_then(|time| TimeDelta::from_std(time).ok());
                let time = time.ok_or_else(|| Problem::field("since", "expected a while such as 6h or 7d"))?;
                Ok(About::Last(time))
            }
            ([], None) => Ok(About::Last(TimeDelta::hours(24))),
        }
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        Self::field(invalid.field, invalid.to_string())
    }
}

impl Admin {
    /// Whether a person was told, and why not. On record before anything is read.
    ///
    /// # Errors
    /// If the right is missing, the question is malformed, nobody knows the person, or the database is away.
    pub async fn explain(&self, viewer: &Viewer, user: &str, query: &PersonQuery) -> Result<Explanation, Problem> {
        let question = Question::new(user.to_owned(), query.about()?)?;
        self.look_at(viewer, user, "reminders").await?;
        explain(&self.store, &question, self.clock.now()).await.map_err(|why| match why {
            NotExplained::UnknownUser => Problem::not_found(why.to_string()),
            NotExplained::Store(error) => error.into(),
        })
    }
}
