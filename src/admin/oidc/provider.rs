//! What is asked of the provider: its settings (`OpenID` Connect Discovery 1.0), its keys, and ID tokens for codes.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::jwk::Jwk;
use reqwest::{
    RequestBuilder,
    header::{ACCEPT, CONTENT_TYPE},
};
use serde_json::Value;
use tokio::sync::{Mutex, Semaphore};
use url::{Url, form_urlencoded};

use super::{claims::LONGEST_TOKEN, failed::Failed};
use crate::{
    channels::{
        SettingsError,
        outbound::{body, describe, may_be_asked, tls, to_provider},
    },
    clock::Clock,
    config::OidcConfig,
};

const CA_FILE: &str = "ADMIN_OIDC_CA_FILE";

/// Limit of one request with its answer.
const LIMIT: Duration = Duration::from_secs(5);

/// Bytes of an answer.
const LARGEST_ANSWER: usize = 256 * 1024;

/// Keys of a provider.
const MOST_KEYS: usize = 50;

/// Settings and keys are asked for again after this.
const FRESH: TimeDelta = TimeDelta::hours(1);

/// Keys are asked for no more often, whatever tokens name.
const KEYS_AGAIN: Duration = Duration::from_mins(1);

/// A provider that failed is left alone so long.
const REST: TimeDelta = TimeDelta::seconds(5);

/// Codes that are exchanged together. A provider that hangs must not take all connections.
const MOST_EXCHANGES: usize = 8;

/// The provider as it describes itself.
pub struct Known {
    /// The address to which browsers go.
    pub authorization: Url,
    /// Whether each of its answers names it (RFC 9207).
    pub names_itself: bool,
    /// Its keys.
    pub keys: Vec<Jwk>,
    token: Url,
    keys_url: Url,
    takes_secret_in_form: bool,
    since: DateTime<Utc>,
    keys_since: DateTime<Utc>,
}

#[derive(Default)]
struct Looked {
    known: Option<Arc<Known>>,
    failed: Option<(DateTime<Utc>, String)>,
}

/// The provider.
pub struct Provider {
    settings: OidcConfig,
    http: reqwest::Client,
    clock: Clock,
    looked: Mutex<Looked>,
    exchanges: Semaphore,
}

impl Provider {
    /// Asks nobody yet.
    ///
    /// # Errors
    /// A file of certificates that cannot be read.
    pub fn new(settings: OidcConfig, clock: Clock) -> Result<Self, SettingsError> {
        let http = to_provider(tls(CA_FILE, settings.ca_file.as_deref())?)
            .build()
            .map_err(|_| SettingsError::new(CA_FILE, "cannot be used"))?;
        Ok(Self { settings, http, clock, looked: Mutex::default(), exchanges: Semaphore::new(MOST_EXCHANGES) })
    }

    /// The provider as it describes itself, an hour old at most.
    ///
    /// # Errors
    /// If it does not answer, or not as a provider does.
    pub async fn known(&self) -> Result<Arc<Known>, Failed> {
        let mut looked = self.looked.lock().await;
        let now = self.clock.now();
        if let Some(known) = looked.known.as_ref().filter(|known| known.since + FRESH > now) {
            return Ok(Arc::clone(known));
        }
        if let Some((_, why)) = looked.failed.as_ref().filter(|(at, _)| *at + REST > now) {
            return Err(Failed::Away(why.clone()));
        }
        match self.discover().await {
            Ok(known) => {
                let known = Arc::new(known);
                *looked = Looked { known: Some(Arc::clone(&known)), failed: None };
                Ok(known)
            }
            Err(why) => {
                tracing::warn!("the provider of ADMIN_OIDC_ISSUER cannot be used: {why}");
                // From its end: those who waited meanwhile are told at once.
                looked.failed = Some((self.clock.now(), why.clone()));
                Err(Failed::Away(why))
            }
        }
    }

    /// The same with its present keys, unless these were asked for lately.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn keys_again(&self, seen: &Known) -> Result<Arc<Known>, Failed> {
        let mut looked = self.looked.lock().await;
        let Some(known) = looked.known.clone() else { return Err(Failed::Away("it has changed: begin again".into())) };
        let now = self.clock.now();
        // Another may have asked meanwhile.
        if known.keys_since != seen.keys_since || known.keys_since + self.clock.paced(KEYS_AGAIN) > now {
            return Ok(known);
        }
        let (keys, failed) = match self.keys(&known.keys_url).await {
            Ok(keys) => (keys, None),
            Err(why) => (known.keys.clone(), Some(why)),
        };
        let known = Arc::new(Known {
            keys,
            keys_since: self.clock.now(),
            authorization: known.authorization.clone(),
            token: known.token.clone(),
            keys_url: known.keys_url.clone(),
            ..*known
        });
        looked.known = Some(Arc::clone(&known));
        failed.map_or(Ok(known), |why| Err(Failed::Away(why)))
    }

    /// The ID token for a code.
    ///
    /// # Errors
    /// If the provider does not answer, or refuses the code.
    pub async fn exchange(&self, known: &Known, code: &str, verifier: &str) -> Result<String, Failed> {
        let busy = |_| Failed::Away("too many sign in at once: try again".into());
        let _permit = self.exchanges.try_acquire().map_err(busy)?;
        let OidcConfig { client_id, client_secret, redirect, .. } = &self.settings;
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect),
            ("code_verifier", verifier),
        ];
        let mut request = self.http.post(known.token.clone());
        match client_secret {
            None => fields.push(("client_id", client_id)),
            Some(secret) if known.takes_secret_in_form => {
                fields.extend([("client_id", client_id.as_str()), ("client_secret", secret)]);
            }
            // RFC 6749, section 2.3.1: both are encoded as in a form.
            Some(secret) => request = request.basic_auth(encoded(client_id), Some(encoded(secret))),
        }
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
        let (status, answer) = self.ask(request, "token endpoint").await.map_err(Failed::Away)?;
        if (400..500).contains(&status) {
            let error = code_of(&answer);
            // The others are about this client, and no person can mend them.
            return Err(if error == "invalid_grant" {
                Failed::Refused("the provider refuses the code (invalid_grant): begin again".into())
            } else {
                tracing::warn!("the token endpoint of ADMIN_OIDC_ISSUER answers {status}, {error}");
                Failed::Away(format!("its token endpoint answers {status}, {error}: see ADMIN_OIDC_CLIENT_ID"))
            });
        }
        if status != 200 {
            return Err(Failed::Away(format!("its token endpoint answers {status}")));
        }
        let token = answer["id_token"].as_str().filter(|token| token.len() <= LONGEST_TOKEN);
        token
            .map(str::to_owned)
            .ok_or_else(|| Failed::Away("its token endpoint gives no ID token that can be read".into()))
    }

    async fn discover(&self) -> Result<Known, String> {
        let issuer = &self.settings.issuer;
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let answer = self.get(&url, "/.well-known/openid-configuration").await?;
        if answer["issuer"] != *issuer {
            return Err("it calls itself by another name than ADMIN_OIDC_ISSUER, to the letter".into());
        }
        let endpoint = |name: &str| {
            let url = answer[name].as_str().and_then(|text| Url::parse(text).ok()).filter(may_be_asked);
            url.ok_or_else(|| format!("it names no {name} with TLS"))
        };
        let keys_url = endpoint("jwks_uri")?;
        let now = self.clock.now();
        let methods = &answer["token_endpoint_auth_methods_supported"];
        let takes = |method: &str| methods.as_array().is_some_and(|all| all.iter().any(|known| known == method));
        Ok(Known {
            authorization: endpoint("authorization_endpoint")?,
            token: endpoint("token_endpoint")?,
            keys: self.keys(&keys_url).await?,
            keys_url,
            names_itself: answer["authorization_response_iss_parameter_supported"] == true,
            takes_secret_in_form: takes("client_secret_post") && !takes("client_secret_basic"),
            since: now,
            keys_since: now,
        })
    }

    async fn keys(&self, url: &Url) -> Result<Vec<Jwk>, String> {
        let answer = self.get(url.as_str(), "jwks_uri").await?;
        let keys = answer["keys"].as_array().ok_or("its jwks_uri has no keys")?;
        if keys.len() > MOST_KEYS {
            return Err(format!("its jwks_uri has more than {MOST_KEYS} keys"));
        }
        // RFC 7517, section 5: those of kinds that are not known are passed over.
        Ok(keys.iter().filter_map(|key| serde_json::from_value(key.clone()).ok()).collect())
    }

    async fn get(&self, url: &str, place: &str) -> Result<Value, String> {
        match self.ask(self.http.get(url), place).await? {
            (200, answer) => Ok(answer),
            (status, _) => Err(format!("its {place} answers {status}")),
        }
    }

    async fn ask(&self, request: RequestBuilder, place: &str) -> Result<(u16, Value), String> {
        let sent = request.timeout(LIMIT).header(ACCEPT, "application/json").send().await;
        let response = sent.map_err(|error| format!("its {place}: {}", describe(&error)))?;
        let status = response.status().as_u16();
        let bytes = body(response, LARGEST_ANSWER + 1).await;
        if bytes.len() > LARGEST_ANSWER {
            return Err(format!("its {place} answers with more than {LARGEST_ANSWER} bytes"));
        }
        match serde_json::from_slice(&bytes) {
            Ok(answer) => Ok((status, answer)),
            Err(_) if status != 200 => Ok((status, Value::Null)),
            Err(_) => Err(format!("its {place} answers with something else than JSON, or breaks off")),
        }
    }
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn code_of(answer: &Value) -> &str {
    code(answer["error"].as_str().unwrap_or_default())
}

/// An error code of RFC 6749; any other text is not repeated.
pub fn code(error: &str) -> &str {
    let is_code = !error.is_empty() && error.len() <= 40 && error.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if is_code { error } else { "an error of no known form" }
}
