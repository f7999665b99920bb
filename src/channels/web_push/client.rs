//! The HTTP client of the push services: bounded in time and in flight, one connection a host, nowhere else than asked.

use std::{path::Path, pin::pin, time::Duration};

use reqwest::{Request, Response, header::RETRY_AFTER};
use tokio::time::timeout;

use super::{
    AllowList, Endpoint, SettingsError,
    answer::{MAX_BODY, reason},
    hosts::{Host, Hosts},
};
use crate::{
    channels::outbound::{self, CONNECT_TIMEOUT, TIMEOUT, describe},
    clock::Clock,
    telemetry::traces::http_status,
};

/// The variable that names roots.
const CA_FILE: &str = "WEB_PUSH_CA_FILE";

/// How long it may take to see whether a push service answers at all.
const REACH_TIMEOUT: Duration = Duration::from_secs(3);

/// How long an answer's body may take after its status is there.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a connection is asked whether it is alive, and how long it may take to say so.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(5));

const POOL_IDLE: Duration = Duration::from_secs(90);

/// The client.
pub struct Client {
    http: reqwest::Client,
    hosts: Hosts,
    limit: Duration,
}

/// What a push service answered, as far as it is of use.
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The Retry-After header as it came.
    pub retry_after: Option<String>,
    /// The beginning of a refusal's body, where it holds no secret.
    pub why: Option<String>,
}

/// No answer came. The text names the fault and repeats nothing of the request.
pub struct NoReply(pub String);

impl Client {
    /// `limit` bounds one exchange up to the answer's status; connecting may take 5 s of it.
    pub fn new(
        allowed: &AllowList,
        ca_file: Option<&Path>,
        limit: Duration,
        clock: Clock,
    ) -> Result<Self, SettingsError> {
        let (interval, patience) = KEEP_ALIVE;
        let roots = ca_file.map(|file| outbound::roots(CA_FILE, file)).transpose()?.unwrap_or_default();
        let http = outbound::client(allowed.named(), roots)
            .connect_timeout(CONNECT_TIMEOUT.min(limit))
            .pool_idle_timeout(POOL_IDLE)
            .http2_keep_alive_interval(interval)
            .http2_keep_alive_timeout(patience)
            .http2_keep_alive_while_idle(true)
            .build()
            .map_err(|_| outbound::no_roots(CA_FILE))?;
        Ok(Self { http, hosts: Hosts::new(clock), limit })
    }

    /// Sends one request and reads its answer.
    ///
    /// `make` builds the request when its turn has come, so that a TTL is that of the moment. Waiting behind 100 others
    /// is not counted against the limit, since they are bounded by it themselves.
    pub async fn exchange<E>(
        &self,
        endpoint: &Endpoint,
        make: impl FnOnce() -> Result<Request, E>,
    ) -> Result<Result<Reply, NoReply>, E> {
        let host = self.hosts.get(endpoint.origin());
        let _slot = host.slot().await;
        let exchange = async {
            let alone = host.turn().await;
            let request = make()?;
            let mut response = pin!(self.respond(&host, request));
            if alone.is_some() {
                // The connection may stand and only this answer be late: that holds the others up no longer than half
                // of what they have. The next one goes alone in turn.
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

    /// Whether an origin answers: asks for its root, which sends nothing to anybody, and takes any answer.
    pub async fn reach(&self, origin: &str) -> Result<(), NoReply> {
        match timeout(REACH_TIMEOUT, self.http.head(origin).send()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(NoReply(describe(&error))),
            Err(_) => Err(NoReply(TIMEOUT.to_owned())),
        }
    }

    async fn respond(&self, host: &Host, request: Request) -> Result<Response, NoReply> {
        match self.http.execute(request).await {
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
}

async fn reply(response: Response, endpoint: &Endpoint) -> Reply {
    let status = response.status().as_u16();
    http_status(status);
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let accepted = response.status().is_success();
    // Read also where it does not matter: an answer that is left half read costs an HTTP/1.1 connection. A body that
    // does not end must not turn an accepted push into a failed one, so it has a limit of its own.
    let body = timeout(BODY_TIMEOUT, outbound::body(response, MAX_BODY)).await.unwrap_or_default();
    let why = if accepted { None } else { reason(&body, endpoint.url()) };
    Reply { status, retry_after, why }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_broken_ca_file_names_its_variable() {
        let directory = tempfile::tempdir().unwrap();
        let make = |file: &Path| {
            Client::new(&AllowList::default(), Some(file), CONNECT_TIMEOUT, Clock::system()).err().unwrap()
        };
        assert!(make(&directory.path().join("none.pem")).to_string().contains("cannot be read"));
        let empty = directory.path().join("empty.pem");
        fs::write(&empty, "").unwrap();
        let broken = directory.path().join("broken.pem");
        fs::write(&broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        for file in [&empty, &broken] {
            assert_eq!(make(file).variable(), "WEB_PUSH_CA_FILE", "{}", file.display());
        }
    }
}
