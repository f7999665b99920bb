//! Signing in and out.

use axum::{
    Extension, Form,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderValue, header::SET_COOKIE},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::{layout, refused::PageProblem, ui, visitor::ZONE};
use crate::{
    admin::{places::CONSOLE, problem::Problem, state::Admin},
    http::listener::Peer,
    schedule,
};

/// Of the sign-in page.
#[derive(Debug, Default, Deserialize)]
pub struct Wanted {
    /// The page that was asked for.
    pub(super) next: Option<String>,
}

/// Of the sign-in form.
#[derive(Deserialize)]
pub struct Given {
    token: String,
    next: Option<String>,
}

pub async fn home() -> Redirect {
    Redirect::to("/console")
}

pub async fn form(State(admin): State<Admin>, Query(wanted): Query<Wanted>) -> Markup {
    page(&admin, wanted.next.as_deref(), None)
}

pub async fn sign_in(
    State(admin): State<Admin>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    Form(given): Form<Given>,
) -> Result<Response, PageProblem> {
    let peer = peer.map(|Extension(peer)| peer);
    let owner = match admin.owner(given.token.trim(), &headers, peer).await {
        Ok(owner) => owner,
        Err(problem) => {
            let why = if problem.is_unauthorized() {
                "This token is not known, is revoked, or has expired."
            } else {
                problem.detail()
            };
            let mut response = page(&admin, given.next.as_deref(), Some(why)).into_response();
            problem.mark(&mut response);
            return Ok(response);
        }
    };
    let cookie = admin.open_session(owner).await?;
    Ok(with_cookie(Redirect::to(place(given.next.as_deref())), &cookie))
}

/// Asks before it takes the ticket: whoever looks at links beforehand must not use it up.
pub async fn offer(Path(ticket): Path<String>) -> Markup {
    let body = html! {
        section.card.signin {
            h1 { "Sign in" }
            p { "This way in is good once." }
            form method="post" action={ "/console/enter/" (utf8_percent_encode(&ticket, NON_ALPHANUMERIC)) } {
                div { button.main type="submit" autofocus { "Sign in" } }
            }
        }
    };
    layout::bare("Sign in", &body)
}

pub async fn enter(
    State(admin): State<Admin>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    Path(ticket): Path<String>,
) -> Result<Response, PageProblem> {
    let owner = admin.take_ticket(&ticket, &headers, peer.map(|Extension(peer)| peer))?;
    let cookie = admin.open_session(owner).await?;
    Ok(with_cookie(Redirect::to(CONSOLE), &cookie))
}

pub async fn sign_out(State(admin): State<Admin>, headers: HeaderMap) -> Result<Response, PageProblem> {
    let cookie = admin.end_session(&headers).await?;
    Ok(with_cookie(Redirect::to("/console/sign-in"), &cookie))
}

/// Of the form for the time zone.
#[derive(Deserialize)]
pub struct Chosen {
    zone: String,
    next: Option<String>,
}

/// Sets the zone in which times are shown to this browser.
pub async fn set_zone(Form(chosen): Form<Chosen>) -> Result<Response, PageProblem> {
    let zone = schedule::zone(chosen.zone.trim()).map_err(|error| Problem::field("zone", error.to_string()))?;
    let cookie = format!("{ZONE}={}; Path=/; Max-Age=31536000; SameSite=Lax", zone.name());
    Ok(with_cookie(Redirect::to(place(chosen.next.as_deref())), &cookie))
}

pub(super) fn with_cookie(to: Redirect, cookie: &str) -> Response {
    let mut response = to.into_response();
    if let Ok(value) = HeaderValue::from_str(cookie) {
        response.headers_mut().append(SET_COOKIE, value);
    }
    response
}

/// A page of the console, and nowhere else.
pub(super) fn place(next: Option<&str>) -> &str {
    let is_ours = |path: &&str| {
        let rest = path.strip_prefix(CONSOLE);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?'])) && !path.contains('\\')
    };
    next.filter(is_ours).unwrap_or(CONSOLE)
}

/// The page for signing in, perhaps after `problem`.
pub(super) fn page(admin: &Admin, next: Option<&str>, problem: Option<&str>) -> Markup {
    let encoded = utf8_percent_encode(place(next), NON_ALPHANUMERIC);
    let body = html! {
        section.card.signin {
            h1 { "Sign in" }
            @if let Some(why) = problem { (ui::note(ui::Tone::Bad, html! { span role="alert" { (why) } })) }
            @if let Some(oidc) = &admin.oidc {
                p { a.button.main autofocus href={ "/console/oidc?next=" (encoded) } { "Sign in at " (oidc.host()) } }
                p.hint { "Or with a token:" }
            }
            form method="post" action="/console/sign-in" {
                label for="token" { "Token" }
                input id="token" name="token" type="password" autocomplete="current-password" required
                    autofocus[admin.oidc.is_none()]
                    aria-describedby="token-hint";
                p.hint id="token-hint" { "As " code { "carebell tokens add" } " printed it." }
                @if let Some(next) = next { input type="hidden" name="next" value=(next); }
                div { button.main type="submit" { "Sign in" } }
            }
        }
    };
    layout::bare("Sign in", &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_in_leads_to_a_page_of_the_console() {
        for own in ["/console", "/console/jobs?state=dead", "/console?x=1"] {
            assert_eq!(place(Some(own)), own);
        }
        for foreign in
            ["https://evil.example", "//evil.example", "/admin", "/console.evil", "/\\evil", "/console/\\x", ""]
        {
            assert_eq!(place(Some(foreign)), "/console");
        }
        assert_eq!(place(None), "/console");
    }
}
