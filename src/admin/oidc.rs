//! Sign-in by `OpenID` Connect: the code flow with PKCE (RFC 7636), and a role from a claim of the ID token.

mod claims;
mod failed;
mod flow;
mod provider;

use serde::Deserialize;
use serde_json::Value;

use self::{
    claims::{Expected, Refused},
    provider::Provider,
};
pub use self::{failed::Failed, flow::Flow};
use super::access::Role;
use crate::{channels::SettingsError, clock::Clock, config::OidcConfig};

/// Begins the names of people who sign in so, in sessions and in the audit log: no claim can pretend to be a token.
const PREFIX: &str = "oidc:";

/// Characters of a name.
const LONGEST_NAME: usize = 100;

/// Characters of a code.
const LONGEST_CODE: usize = 4096;

/// The provider's answer, which a browser brings.
#[derive(Default, Deserialize)]
pub struct Answer {
    code: Option<String>,
    state: Option<String>,
    iss: Option<String>,
    error: Option<String>,
}

/// Whoever signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// In the audit log.
    pub name: String,
    /// Their right.
    pub role: Role,
    /// The provider's id of them, which never changes.
    pub subject: String,
}

/// Sign-in by one provider.
pub struct Oidc {
    settings: OidcConfig,
    provider: Provider,
    clock: Clock,
}

impl Oidc {
    /// Asks nobody yet.
    ///
    /// # Errors
    /// A file of certificates that cannot be read.
    pub fn new(settings: OidcConfig, clock: Clock) -> Result<Self, SettingsError> {
        let provider = Provider::new(settings.clone(), clock.clone())?;
        Ok(Self { settings, provider, clock })
    }

    /// The provider's host, for people.
    pub fn host(&self) -> &str {
        self.settings.issuer_url.host_str().unwrap_or_default()
    }

    /// The address to which the browser goes.
    ///
    /// # Errors
    /// If the provider is away.
    pub async fn begin(&self, flow: &Flow) -> Result<String, Failed> {
        let known = self.provider.known().await?;
        let mut url = known.authorization.clone();
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.settings.client_id)
            .append_pair("redirect_uri", &self.settings.redirect)
            .append_pair("scope", &self.settings.scopes)
            .append_pair("state", &flow.state())
            .append_pair("nonce", &flow.nonce())
            .append_pair("code_challenge", &flow.challenge())
            .append_pair("code_challenge_method", "S256");
        Ok(url.into())
    }

    /// Whoever comes back with this answer.
    ///
    /// # Errors
    /// If the answer is not to `flow`, proves nothing, or is of somebody without a role.
    pub async fn finish(&self, flow: &Flow, answer: &Answer) -> Result<Person, Failed> {
        let refused = |why: &str| Err(Failed::Refused(why.to_owned()));
        if answer.state.as_deref() != Some(&flow.state()) {
            return refused("this answer is not to the sign-in that this browser began last: begin again");
        }
        let known = self.provider.known().await?;
        // RFC 9207: an answer of another provider must not bring its code to this one.
        match answer.iss.as_deref() {
            Some(issuer) if issuer != self.settings.issuer => {
                return refused("the answer is of another provider than ADMIN_OIDC_ISSUER");
            }
            None if known.names_itself => return refused("the answer does not say which provider it is of"),
            _ => {}
        }
        if let Some(error) = &answer.error {
            return Err(Failed::Refused(format!("the provider says {}: begin again", provider::code(error))));
        }
        let Some(code) = answer.code.as_deref().filter(|code| !code.is_empty() && code.len() <= LONGEST_CODE) else {
            return refused("the answer has no code, or one that is too long");
        };
        let token = self.provider.exchange(&known, code, &flow.verifier()).await?;
        let nonce = flow.nonce();
        let expected = Expected {
            issuer: &self.settings.issuer,
            client_id: &self.settings.client_id,
            nonce: &nonce,
            now: self.clock.now(),
        };
        let checked = match claims::check(&token, &known.keys, &expected) {
            Err(Refused::UnknownKey) => {
                let known = self.provider.keys_again(&known).await?;
                claims::check(&token, &known.keys, &expected)
            }
            checked => checked,
        };
        self.person(&checked.map_err(|refused| Failed::Refused(format!("the ID token {refused}")))?)
    }

    fn person(&self, claims: &Value) -> Result<Person, Failed> {
        let OidcConfig { roles_claim, roles, .. } = &self.settings;
        let values: Vec<&str> = match claims::named(claims, roles_claim) {
            Some(Value::String(value)) => vec![value],
            Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let Some(role) = roles.best(values) else {
            return Err(Failed::NoRole(format!(
                "you are known, and have no role here: the claim {roles_claim} of your ID token has nothing that \
                 ADMIN_OIDC_ROLES maps to one"
            )));
        };
        let subject = claims["sub"].as_str().unwrap_or_default().to_owned();
        let name = self.name(claims).unwrap_or(&subject);
        Ok(Person { name: format!("{PREFIX}{name}"), role, subject })
    }

    fn name<'a>(&self, claims: &'a Value) -> Option<&'a str> {
        let claim = &self.settings.name_claim;
        // Anybody could register with another's address.
        if claim == "email" && claims.get("email_verified") == Some(&Value::Bool(false)) {
            return None;
        }
        let name = claims::named(claims, claim)?.as_str()?.trim();
        let is_plain = !name.is_empty() && name.chars().count() <= LONGEST_NAME && !name.contains(char::is_control);
        is_plain.then_some(name)
    }
}
