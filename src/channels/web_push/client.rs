//! HTTP client of the push services: one connection per host.

use std::{path::Path, pin::pin, sync::Arc, time::Duration};

use reqwest::{Request, Response, header::RETRY_AFTER};
use rustls::ClientConfig;
use tokio::time::timeout;

use super::{
    AllowList, Endpoint,
    hosts::Host,
    outcome::{MAX_BODY, reason},
};
use crate::{
    channels::{
        MOST_HOSTS, SettingsError,
        outbound::{self, AllowedHost, CONNECT_TIMEOUT, Hosts, TIMEOUT, describe},
    },
    clock::Clock,
    telemetry::traces::http_status,
};

const CA_FILE: &str = "WEB_PUSH_CA_FILE";

const REACH_TIMEOUT: Duration = Duration::from_secs(3);

/// Limit of a body, after its status.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

const PING_EVERY: Duration = Duration::from_secs(20);

const PING_TIMEOUT: Duration = Duration::from_secs(5);

const POOL_IDLE: Duration = Duration::from_secs(90);

pub struct Client {
    tls: ClientConfig,
    named: Arc<[AllowedHost]>,
    hosts: Hosts<Host>,
    limit: Duration,
    clock: Clock,
}

pub struct Reply {
    pub status: u16,
    pub retry_after: Option<String>,
    /// Start of an error's body, without secrets.
    pub why: Option<String>,
}

/// No response. Repeats nothing of the request.
pub struct NoReply(pub String);

impl Client {
    /// `limit` bounds one exchange up to the status; connecting may take 5 s of it.
    pub fn new(
        allowed: &AllowList,
        ca_file: Option<&Path>,
        limit: Duration,
        clock: Clock,
    ) -> Result<Self, SettingsError> {
        let tls = outbound::tls(CA_FILE, ca_file)?;
        Ok(Self { tls, named: allowed.named().into(), hosts: Hosts::new(MOST_HOSTS), limit, clock })
    }

    fn http(&self) -> Result<reqwest::Client, NoReply> {
        outbound::client(Arc::clone(&self.named), self.tls.clone())
            .connect_timeout(CONNECT_TIMEOUT.min(self.limit))
            .pool_idle_timeout(POOL_IDLE)
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .http2_keep_alive_while_idle(true)
            .build()
            .map_err(|error| NoReply(describe(&error)))
    }

    /// Sends one request and reads the response.
    ///
    /// `make` builds the request on its turn, so that its TTL is current. Waiting for a permit doesn't count against
    /// the limit, which bounds the 100 exchanges ahead too.
    pub async fn exchange<E>(
        &self,
        endpoint: &Endpoint,
        make: impl FnOnce() -> Result<Request, E>,
    ) -> Result<Result<Reply, NoReply>, E> {
        let host = match self.hosts.get(endpoint.origin(), || Ok(Host::new(self.http()?, self.clock.clone()))) {
            Ok(host) => host,
            Err(none) => return Ok(Err(none)),
        };
        let _permit = host.permit().await;
        let exchange = async {
            let alone = host.turn().await;
            let request = make()?;
            let mut response = pin!(respond(&host, request));
            if alone.is_some() {
                // Perhaps only this response is late. Let the next request go after half of the limit.
                if let Ok(response) = timeout(self.limit / 2, response.as_mut()).await {
                    return Ok(response);
                }
                drop(alone);
            }
            Ok(response.await)
        };
        let response = timeout(self.limit, exchange).await.unwrap_or_else(|_| Ok(Err(NoReply(TIMEOUT.to_owned()))))?;
        Ok(match response {
            Ok(response) => Ok(reply(response, endpoint).await),
            Err(none) => Err(none),
        })
    }

    pub async fn reach(&self, origin: &str) -> Result<(), NoReply> {
        match timeout(REACH_TIMEOUT, self.http()?.head(origin).send()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(NoReply(describe(&error))),
            Err(_) => Err(NoReply(TIMEOUT.to_owned())),
        }
    }
}

async fn respond(host: &Host, request: Request) -> Result<Response, NoReply> {
    match host.http.execute(request).await {
        Ok(response) => {
            host.connected();
            Ok(response)
        }
        Err(error) => {
            host.disconnected();
            Err(NoReply(describe(&error)))
        }
    }
}

async fn reply(response: Response, endpoint: &Endpoint) -> Reply {
    let status = response.status().as_u16();
    http_status(status);
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let accepted = response.status().is_success();
    // An unread body costs an HTTP/1.1 connection. An endless one must not fail an accepted push, so it has its own
    // limit.
    let body = timeout(BODY_TIMEOUT, outbound::body(response, MAX_BODY)).await.unwrap_or_default();
    let why = if accepted { None } else { reason(&body, endpoint.url()) };
    Reply { status, retry_after, why }
}
