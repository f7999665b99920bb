//! Whoever looks at a page, and how it is shown to them.

use std::convert::Infallible;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use chrono::{DateTime, Utc};
use maud::Markup;

use super::{layout, refused::PageProblem, ui};
use crate::{
    admin::{access::Viewer, problem::Problem},
    schedule::{self, Zone},
};

/// The cookie with a viewer's time zone. It is no secret: the page's script may set it.
pub const ZONE: &str = "carebell_zone";

/// Whoever looks at a page.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// Who they are.
    pub viewer: Viewer,
    /// Theirs, or UTC.
    pub zone: Zone,
    /// That of the care recipient whom instants belong to, if they do.
    care: Option<Zone>,
}

impl<S: Sync> FromRequestParts<S> for Visitor {
    type Rejection = PageProblem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, PageProblem> {
        let viewer = parts.extensions.get::<Viewer>().cloned().ok_or_else(Problem::unauthorized)?;
        Ok(Self { viewer, zone: zone(&parts.headers), care: None })
    }
}

fn zone(headers: &HeaderMap) -> Zone {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let named = pairs.find(|(name, _)| *name == ZONE).and_then(|(_, name)| schedule::zone(name).ok());
    named.unwrap_or_else(Zone::utc)
}

impl Visitor {
    /// An instant in their zone, with the care recipient's beside it.
    pub fn time(&self, at: DateTime<Utc>) -> Markup {
        match self.care {
            Some(care) => ui::time_in_both(at, self.zone, care),
            None => ui::time(at, self.zone),
        }
    }

    /// The same, for instants that belong to a care recipient in this zone.
    #[must_use]
    pub fn beside(&self, care: Option<Zone>) -> Self {
        Self { care, ..self.clone() }
    }

    /// A page for them. `path` is its place in the navigation.
    pub fn page(&self, path: &str, title: &str, body: &Markup) -> Markup {
        layout::page(&self.viewer, self.zone.name(), path, title, body)
    }
}

/// An act that led to this page, told in fixed words: a link cannot make a page say anything else.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done(Option<&'static str>);

/// The word of an act after which a job may have no record yet.
const PUBLISHED: &str = "published";

const DONE: &[(&str, &str)] = &[
    ("redriven", "The job is sent back to its queue."),
    ("discarded", "The dead letter is discarded. Its job stays recorded as dead."),
    ("cancelled", "The job is cancelled."),
    ("retried", "The job is tried again."),
    ("begun", "The operation has begun."),
    ("stopped", "The operation is cancelled. What it has done stays."),
    ("asked", "Its endpoint may be at work: the job ends before its next attempt, or when its endpoint stops."),
    ("unstoppable", "It is being sent already, which cannot be stopped."),
    ("paused", "It is paused."),
    ("resumed", "It is resumed."),
    ("saved", "It is saved."),
    ("deleted", "It is deleted."),
    (PUBLISHED, "The job is published. A record of it begins when a worker takes it."),
];

impl Done {
    /// Whether a job was published, which may have no record yet.
    pub fn is_published(self) -> bool {
        DONE.iter().any(|(name, words)| *name == PUBLISHED && self.0 == Some(*words))
    }

    /// Its words.
    pub fn words(self) -> Option<&'static str> {
        self.0
    }
}

impl<S: Sync> FromRequestParts<S> for Done {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let pairs = parts.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        let act = pairs.filter(|(name, _)| *name == "done").map(|(_, act)| act).next();
        Ok(Self(act.and_then(|act| DONE.iter().find(|(name, _)| *name == act)).map(|(_, words)| *words)))
    }
}
