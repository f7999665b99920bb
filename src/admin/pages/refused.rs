//! A problem as a page.

use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::layout;
use crate::admin::problem::Problem;

/// A problem as a page.
pub fn refused(problem: &Problem) -> Response {
    let body = html! {
        section.card {
            h1 { (problem.title()) }
            p { (problem.detail()) }
            p { a href="/console" { "Back to the overview" } }
        }
    };
    let mut response = layout::bare(problem.title(), &body).into_response();
    problem.mark(&mut response);
    response
}

/// The answer of a page.
pub type Page = Result<Markup, PageProblem>;

/// A problem that is shown as a page.
pub struct PageProblem(Problem);

impl<E: Into<Problem>> From<E> for PageProblem {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for PageProblem {
    fn into_response(self) -> Response {
        refused(&self.0)
    }
}
