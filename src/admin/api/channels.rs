//! Channels and providers.

use axum::{Json, extract::State};
use serde_json::{Value, json};

use super::{
    extract::{self, Path},
    queues::{Pausing, pause_of, pause_to_json},
    schemas,
};
use crate::{
    admin::{
        access::Viewer,
        channels::{ChannelState, ProviderState},
        problem::Problem,
        state::Admin,
    },
    pauses::Scope,
    plan::Channel,
    store::lists::Holding,
};

/// What channels and providers did in the last hour, and what waits for them.
#[utoipa::path(
    get, path = "/providers", tag = "providers", security(("bearer" = ["viewer"])),
    responses((status = 200, description = "`channels` and `providers`; hosts of webhooks are left out", body = schemas::Providers))
)]
pub async fn list(State(admin): State<Admin>) -> Result<Json<Value>, Problem> {
    let found = admin.channels().await?;
    let held = |held: &Holding| json!({ "reason": held.reason, "deliveries": held.count, "next_at": held.next });
    let channel = |channel: &ChannelState| {
        json!({
            "channel": channel.name,
            "waiting": channel.load.map(|load| load.0),
            "in_flight": channel.load.map(|load| load.1),
            "accepted": channel.accepted,
            "failed": channel.failed,
            "held": channel.held.iter().map(held).collect::<Value>(),
            "paused": channel.pause.as_ref().map(pause_to_json),
        })
    };
    let provider = |provider: &ProviderState| {
        json!({
            "provider": provider.name,
            "channels": provider.channels,
            "accepted": provider.accepted,
            "failed": provider.failed,
            "last_accepted_at": provider.last_accepted,
            "paused": provider.pause.as_ref().map(pause_to_json),
        })
    };
    Ok(Json(json!({
        "channels": found.channels.iter().map(channel).collect::<Value>(),
        "providers": found.providers.iter().map(provider).collect::<Value>(),
        "since": found.since,
        "as_of": found.as_of,
    })))
}

/// Pauses a channel: its deliveries wait, and burn no attempt.
#[utoipa::path(
    post, path = "/channels/{channel}/pause", tag = "providers", security(("bearer" = ["operator"])),
    params(("channel" = String, Path, description = "web_push, email, sms, whatsapp, voice or webhook", example = "email")),
    request_body = Pausing,
    responses((status = 200, description = "It is paused", body = schemas::Paused), (status = 404, description = "There is none", body = Problem))
)]
pub async fn pause(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
    extract::Json(pausing): extract::Json<Pausing>,
) -> Result<Json<Value>, Problem> {
    Ok(Json(pause_of(&admin, &viewer, Scope::Channel, known(&name), &pausing).await?))
}

/// Resumes a channel.
#[utoipa::path(
    post, path = "/channels/{channel}/resume", tag = "providers", security(("bearer" = ["operator"])),
    params(("channel" = String, Path, description = "Its name", example = "email")),
    responses((status = 200, description = "It sends", body = schemas::Resumed), (status = 409, description = "It is not paused", body = Problem))
)]
pub async fn resume(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    admin.resume(&viewer, Scope::Channel, &name).await?;
    Ok(Json(json!({ "channel": known(&name), "paused": false })))
}

/// Its name, whichever it was asked for by.
fn known(name: &str) -> &str {
    match Channel::parse(name) {
        Some(channel) => channel.name(),
        None => name,
    }
}

/// Pauses a provider: its deliveries are parked, unless another provider of their channel takes them.
#[utoipa::path(
    post, path = "/providers/{provider}/pause", tag = "providers", security(("bearer" = ["operator"])),
    params(("provider" = String, Path, description = "A push service, a mail server, a gateway, as in the ledger", example = "smtp.example.org")),
    request_body = Pausing,
    responses((status = 200, description = "It is paused", body = schemas::Paused), (status = 404, description = "There is none", body = Problem))
)]
pub async fn pause_provider(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
    extract::Json(pausing): extract::Json<Pausing>,
) -> Result<Json<Value>, Problem> {
    Ok(Json(pause_of(&admin, &viewer, Scope::Provider, &name, &pausing).await?))
}

/// Resumes a provider.
#[utoipa::path(
    post, path = "/providers/{provider}/resume", tag = "providers", security(("bearer" = ["operator"])),
    params(("provider" = String, Path, description = "Its name", example = "smtp.example.org")),
    responses((status = 200, description = "It is used", body = schemas::Resumed), (status = 409, description = "It is not paused", body = Problem))
)]
pub async fn resume_provider(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    admin.resume(&viewer, Scope::Provider, &name).await?;
    Ok(Json(json!({ "provider": name, "paused": false })))
}
