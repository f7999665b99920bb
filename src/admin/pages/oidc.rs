//! Signing in at a provider (`OpenID` Connect).

use axum::{
    Extension,
    extract::{Query, State},
    http::{HeaderMap, HeaderValue, header::SET_COOKIE},
    response::{IntoResponse, Redirect, Response},
};

use super::{
    refused::PageProblem,
    session::{Wanted, page, place, with_cookie},
};
use crate::{
    admin::{oidc::Answer, problem::Problem, state::Admin},
    http::listener::Peer,
};

/// Bytes of the page that was asked for.
const LONGEST_NEXT: usize = 1000;

/// Sends a browser to the provider. No form: its policy would have to name the provider.
pub async fn begin(State(admin): State<Admin>, Query(wanted): Query<Wanted>) -> Result<Response, PageProblem> {
    // It goes into a cookie, and browsers drop long ones.
    let next = place(wanted.next.as_deref().filter(|next| next.len() <= LONGEST_NEXT));
    Ok(match admin.begin_oidc(next).await {
        Ok((address, cookie)) => with_cookie(Redirect::to(&address), &cookie),
        Err(problem) => again(&admin, Some(next), &problem),
    })
}

/// Takes it back.
pub async fn finish(
    State(admin): State<Admin>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    answer: Result<Query<Answer>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, PageProblem> {
    let answer = answer.map(|Query(answer)| answer).unwrap_or_default();
    let finished = admin.finish_oidc(&answer, &headers, peer.map(|Extension(peer)| peer)).await;
    let mut response = match finished {
        Ok((owner, next)) => {
            let cookie = admin.open_session(owner).await?;
            with_cookie(Redirect::to(place(Some(&next))), &cookie)
        }
        Err(problem) => again(&admin, None, &problem),
    };
    // Whatever came of it, this answer is good only once.
    if let Ok(cookie) = HeaderValue::from_str(&admin.end_flow()) {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    Ok(response)
}

fn again(admin: &Admin, next: Option<&str>, problem: &Problem) -> Response {
    let mut response = page(admin, next, Some(problem.detail())).into_response();
    problem.mark(&mut response);
    response
}
