//! The HTTP client of the providers: bounded in time, nowhere else than asked, and exact about what may have happened
//! where no answer came.

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
        outbound::{CONNECT_TIMEOUT, MAX_BODY, body, describe, no_roots, roots, to_provider},
    },
    telemetry::traces::http_status,
};

/// The variable that names roots of one's own.
const CA_FILE: &str = "PROVIDER_CA_FILE";

/// How long it may take to see whether a provider answers at all.
const REACH_TIMEOUT: Duration = Duration::from_secs(3);

/// Shorter than servers keep an idle connection: a request over one that the server is closing at that moment may or
/// may not have been read.
const POOL_IDLE: Duration = Duration::from_secs(20);

/// The version of the API, which is its path.
const VERSION: &str = "2010-04-01";

/// The client.
pub struct Client {
    http: reqwest::Client,
    limit: Duration,
}

/// What a provider answered, as far as it is of use.
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The Retry-After header as it came.
    pub retry_after: Option<String>,
    /// The body; less if it broke off.
    pub body: Vec<u8>,
}

/// No answer came. The texts name the fault and repeat nothing of the request.
#[derive(Debug)]
pub enum NoReply {
    /// The request certainly did not go out: no such host, no connection, no TLS.
    NotSent {
        /// What went wrong.
        why: String,
        /// Whether that was silence.
        timed_out: bool,
    },
    /// The request went out, or part of it did.
    Lost(String),
}

impl Client {
    /// `limit` bounds one request up to the end of its answer; connecting may take 5 s of it.
    pub fn new(ca_file: Option<&Path>, limit: Duration) -> Result<Self, SettingsError> {
        let roots = ca_file.map(|file| roots(CA_FILE, file)).transpose()?.unwrap_or_default();
        let http = to_provider(roots)
            // Shorter than the limit in any case: what ends by the limit had a connection.
            .connect_timeout(CONNECT_TIMEOUT.min(limit / 2))
            .pool_idle_timeout(POOL_IDLE)
            .build()
            .map_err(|_| no_roots(CA_FILE))?;
        Ok(Self { http, limit })
    }

    /// Posts fields to a resource of an account.
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

    /// Whether a provider seems to be well. What has no such resource says so by 404, 405 or 501, and what refuses the
    /// account would refuse a message too, which is not lost by that: only a failure and silence say that it is not.
    pub async fn is_well(&self, account: &Account) -> bool {
        self.look(account).await.is_ok_and(|status| !is_failure(status))
    }

    /// Whether a provider answers, and knows the account.
    pub async fn reach(&self, account: &Account) -> Result<(), String> {
        match self.look(account).await {
            Ok(401) => Err(format!("refuses the account (401); see {}", account.variable)),
            Ok(status) if is_failure(status) => Err(format!("answers {status}")),
            Ok(_) => Ok(()),
            Err(NoReply::NotSent { why, .. } | NoReply::Lost(why)) => Err(why),
        }
    }

    /// Asks for the account itself, which sends nothing to anybody, and answers the status. The API is asked and not the
    /// root of its server, which may have nothing to do with it.
    async fn look(&self, account: &Account) -> Result<u16, NoReply> {
        let url = url(account, &format!("{}.json", account.sid))?;
        let request = self.http.get(url).timeout(REACH_TIMEOUT).basic_auth(&account.sid, Some(&account.token));
        let response = request.send().await.map_err(|error| no_reply(&error))?;
        Ok(response.status().as_u16())
    }
}

/// A resource of the API below its accounts.
fn url(account: &Account, resource: &str) -> Result<Url, NoReply> {
    let leads_nowhere = |_| NoReply::NotSent { why: format!("{} leads nowhere", account.variable), timed_out: false };
    account.base.join(&format!("{VERSION}/Accounts/{resource}")).map_err(leads_nowhere)
}

/// Whether a status is that of a failure, and not of an API that lacks what was asked for.
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
    // Whatever else it was, the request may have been read before that.
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
