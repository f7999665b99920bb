use std::{path::Path, time::Duration};

use reqwest::{
    Response,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use url::{Url, form_urlencoded};

use super::Account;
use crate::{
    channels::{
        SettingsError,
        outbound::{CONNECT_TIMEOUT, MAX_BODY, body, describe, tls, to_provider},
    },
    telemetry::traces::http_status,
};

const CA_FILE: &str = "PROVIDER_CA_FILE";

/// Limit of a reachability check.
const REACH_TIMEOUT: Duration = Duration::from_secs(3);

/// Shorter than servers keep idle connections: a request may be lost on a closing one.
const POOL_IDLE: Duration = Duration::from_secs(20);

const VERSION: &str = "2010-04-01";

pub struct Client {
    http: reqwest::Client,
    limit: Duration,
}

pub struct Reply {
    pub status: u16,
    pub retry_after: Option<String>,
    /// Shorter if the connection broke.
    pub body: Vec<u8>,
}

/// No response. Texts repeat nothing of the request.
#[derive(Debug)]
pub enum NoReply {
    /// Certainly not sent: no host, connection or TLS.
    NotSent { why: String, timed_out: bool },
    /// At least part of it was sent.
    Lost(String),
}

impl Client {
    /// `limit` bounds one request with its response; connecting may take 5 s of it.
    pub fn new(ca_file: Option<&Path>, limit: Duration) -> Result<Self, SettingsError> {
        let http = to_provider(tls(CA_FILE, ca_file)?)
            // Shorter than the limit, so a request that hits the limit had a connection.
            .connect_timeout(CONNECT_TIMEOUT.min(limit / 2))
            .pool_idle_timeout(POOL_IDLE)
            .build()
            .map_err(|_| SettingsError::new(CA_FILE, "cannot be used"))?;
        Ok(Self { http, limit })
    }

    pub async fn post(
        &self,
        account: &Account,
        resource: &str,
        fields: &[(&'static str, String)],
    ) -> Result<Reply, NoReply> {
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let url = url(account, &format!("{}/{resource}", account.sid))?;
        let request = self
            .http
            .post(url)
            .timeout(self.limit)
            .basic_auth(&account.sid, Some(&account.token))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form);
        let response = request.send().await.map_err(|error| no_reply(&error))?;
        Ok(reply(response).await)
    }

    /// Whether a provider seems healthy. Only failures and silence count: 404, 405 and 501 mean a missing resource, and
    /// a refused account loses no messages.
    pub async fn is_well(&self, account: &Account) -> bool {
        self.look(account).await.is_ok_and(|status| !is_failure(status))
    }

    /// Checks that a provider answers and accepts the account.
    pub async fn reach(&self, account: &Account) -> Result<(), String> {
        match self.look(account).await {
            Ok(401) => Err(format!("refuses the account (401); see {}", account.variable)),
            Ok(status) if is_failure(status) => Err(format!("answers {status}")),
            Ok(_) => Ok(()),
            Err(NoReply::NotSent { why, .. } | NoReply::Lost(why)) => Err(why),
        }
    }

    /// Fetches the account itself, which sends nothing.
    async fn look(&self, account: &Account) -> Result<u16, NoReply> {
        let url = url(account, &format!("{}.json", account.sid))?;
        let request = self.http.get(url).timeout(REACH_TIMEOUT).basic_auth(&account.sid, Some(&account.token));
        let response = request.send().await.map_err(|error| no_reply(&error))?;
        Ok(response.status().as_u16())
    }
}

fn url(account: &Account, resource: &str) -> Result<Url, NoReply> {
    let leads_nowhere =
        |_| NoReply::NotSent { why: format!("{} is not a valid base URL", account.variable), timed_out: false };
    account.base.join(&format!("{VERSION}/Accounts/{resource}")).map_err(leads_nowhere)
}

/// 501 only means that the resource is missing.
fn is_failure(status: u16) -> bool {
    status >= 500 && status != 501
}

async fn reply(response: Response) -> Reply {
    let status = response.status().as_u16();
    http_status(status);
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
    Reply { status, retry_after, body: body(response, MAX_BODY).await }
}

fn no_reply(error: &reqwest::Error) -> NoReply {
    let why = describe(error);
    if error.is_connect() {
        return NoReply::NotSent { why, timed_out: error.is_timeout() };
    }
    if error.is_builder() {
        return NoReply::NotSent { why: "the request cannot be made".into(), timed_out: false };
    }
    // Any other error may have come after the request was read.
    NoReply::Lost(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_ca_file_names_its_variable() {
        let directory = tempfile::tempdir().unwrap();
        let error = Client::new(Some(&directory.path().join("none.pem")), CONNECT_TIMEOUT).err().unwrap();
        assert_eq!(error.variable(), "PROVIDER_CA_FILE");
        assert!(error.to_string().contains("cannot be read"), "{error}");
    }
}
