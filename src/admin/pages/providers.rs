//! Channels and providers: what they did in the last hour, and pausing them.

use axum::{
    Form,
    extract::{Path, State},
    response::Redirect,
};
use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    queues::Pausing,
    refused::{Page, PageProblem},
    ui::{self, Tone, number, text},
    visitor::{Done, Visitor},
};
use crate::{
    admin::{
        access::Role,
        channels::{ChannelState, ProviderState},
        state::Admin,
    },
    pauses::{Pause, Scope},
};

pub async fn show(State(admin): State<Admin>, visitor: Visitor, done: Done) -> Page {
    let found = admin.channels().await?;
    let is_operator = visitor.viewer.role >= Role::Operator;
    let channels = found.channels.iter().map(|channel| channel_row(channel, &visitor)).collect();
    let providers = found.providers.iter().map(|provider| provider_row(provider, &visitor)).collect();
    let of_channels =
        [text("Channel"), text("State"), number("Accepted"), number("Failures"), number("Waiting"), text("Held")];
    let of_providers =
        [text("Provider"), text("State"), text("Channel"), number("Accepted"), number("Failed"), text("Last accepted")];
    let body = html! {
        div data-live-from="/console/live" {}
        div.titled {
            h1 { "Providers" }
            (ui::live("as-of", ui::as_of(&visitor.time(found.as_of), "/console/providers")))
        }
        @if let Some(done) = done.words() { (ui::note(Tone::Good, done)) }
        p.soft {
            "Since " (visitor.time(found.since)) ". Deliveries are held as " code { "provider_down" } " while a worker's "
            (ui::term("breaker", "Stops sends to a provider that does not answer, and tries again with one of them."))
            " is open. Hosts of webhooks are left out: they may be personal."
        }
        (ui::live("channels", html! {
            section { h2 { "Channels" } (ui::table("Channels in the last hour", &of_channels, channels, "")) }
            section {
                h2 { "Providers" }
                (ui::table("Providers in the last hour, by the newest 20,000 deliveries", &of_providers, providers, "None is known."))
            }
        }))
        @if is_operator {
            (choices("channels", &found.channels.iter().map(|one| (one.name, one.pause.is_some())).collect::<Vec<_>>()))
            (choices("providers", &found.providers.iter().map(|one| (one.name.as_str(), one.pause.is_some())).collect::<Vec<_>>()))
        }
    };
    Ok(visitor.page("/console/providers", "Providers", &body))
}

fn paused(pause: &Pause, visitor: &Visitor) -> Markup {
    html! {
        (ui::state("paused"))
        div.soft {
            "by " (pause.actor) ", "
            @match pause.until { Some(until) => { "until " (visitor.time(until)) }, None => "until it is resumed" }
            ": " (pause.reason)
        }
    }
}

fn channel_row(channel: &ChannelState, visitor: &Visitor) -> Vec<Markup> {
    let is_down = channel.held.iter().any(|held| held.reason == "provider_down");
    let idle = channel.accepted == 0 && channel.failed == 0;
    let state = match &channel.pause {
        Some(pause) => paused(pause, visitor),
        None if is_down => html! { (ui::state("down")) div.soft { "a breaker is or was open" } },
        None if idle => ui::state("no traffic"),
        None => ui::state("up"),
    };
    let listed = |count: u64, filter: &str| {
        html! { a href={ "/console/jobs?kind=deliver." (channel.name) "&" (filter) } { (ui::count(count)) } }
    };
    vec![
        html! { a.id href={ "/console/jobs?kind=deliver." (channel.name) } { (channel.name) } },
        state,
        listed(channel.accepted, "status=completed&since=1h"),
        listed(channel.failed, "status=failed&since=1h"),
        html! { @match channel.load { Some((waiting, _)) => (listed(waiting, "status=waiting")), None => "?" } },
        html! {
            @if channel.held.is_empty() { "–" }
            @for held in &channel.held {
                div {
                    a href={ "/console/jobs?status=held&kind=deliver." (channel.name) } { (ui::count(held.count)) }
                    " " code { (held.reason) }
                    @if let Some(next) = held.next { span.soft { ", the first until " (visitor.time(next)) } }
                }
            }
        },
    ]
}

fn provider_row(provider: &ProviderState, visitor: &Visitor) -> Vec<Markup> {
    let state = match &provider.pause {
        Some(pause) => paused(pause, visitor),
        None if provider.accepted > 0 => ui::state("up"),
        None if provider.failed > 0 => ui::state("failed"),
        None => ui::state("no traffic"),
    };
    vec![
        html! { span.id { (provider.name) } },
        state,
        html! { @if provider.channels.is_empty() { "–" } @else { (provider.channels.join(", ")) } },
        html! { (ui::count(provider.accepted)) },
        html! { (ui::count(provider.failed)) },
        html! { @match provider.last_accepted { Some(at) => (visitor.time(at)), None => "–" } },
    ]
}

/// Forms to pause one of them, and to resume each that is paused.
fn choices(of: &str, names: &[(&str, bool)]) -> Markup {
    let one = of.trim_end_matches('s');
    html! {
        section.card {
            h2 { "Pause or resume a " (one) }
            form.row method="post" action={ "/console/" (of) "/pause" } {
                label { (if one == "channel" { "Channel" } else { "Provider" })
                    select name="name" required { @for (name, _) in names { option { (name) } } }
                }
                label { "Why, for the colleagues" input name="reason" required maxlength="200" size="30"; }
                (super::queues::hours())
                button.danger type="submit" { "Pause this " (one) }
            }
            @for (name, _) in names.iter().filter(|(_, is_paused)| *is_paused) {
                form.row method="post" action={ "/console/" (of) "/" (utf8_percent_encode(name, NON_ALPHANUMERIC)) "/resume" } {
                    button.main type="submit" { "Resume " (name) }
                }
            }
        }
    }
}

async fn pause(admin: &Admin, visitor: &Visitor, scope: Scope, pausing: Pausing) -> Result<Redirect, PageProblem> {
    let until = pausing.until(admin.clock.now())?;
    let name = pausing.name.unwrap_or_default();
    admin.pause(&visitor.viewer, scope, &name, &pausing.reason, until).await?;
    Ok(Redirect::to("/console/providers?done=paused"))
}

pub async fn pause_channel(
    State(admin): State<Admin>,
    visitor: Visitor,
    Form(pausing): Form<Pausing>,
) -> Result<Redirect, PageProblem> {
    pause(&admin, &visitor, Scope::Channel, pausing).await
}

pub async fn pause_provider(
    State(admin): State<Admin>,
    visitor: Visitor,
    Form(pausing): Form<Pausing>,
) -> Result<Redirect, PageProblem> {
    pause(&admin, &visitor, Scope::Provider, pausing).await
}

pub async fn resume_channel(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Result<Redirect, PageProblem> {
    admin.resume(&visitor.viewer, Scope::Channel, &name).await?;
    Ok(Redirect::to("/console/providers?done=resumed"))
}

pub async fn resume_provider(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Result<Redirect, PageProblem> {
    admin.resume(&visitor.viewer, Scope::Provider, &name).await?;
    Ok(Redirect::to("/console/providers?done=resumed"))
}
