use std::path::PathBuf;

use axum::http::HeaderName;
use url::Url;

use super::{
    error::{ConfigError, error},
    source::Source,
};
use crate::{admin::access::RoleMap, channels::outbound::may_be_asked};

/// The path to which a provider sends browsers back.
pub const OIDC_CALLBACK: &str = "/console/oidc/callback";

/// Headers that mean something else, or that proxies set for everybody.
const TAKEN: [&str; 8] =
    ["authorization", "cookie", "forwarded", "host", "origin", "sec-fetch-site", "x-forwarded-for", "x-forwarded-host"];

/// Sign-in by a trusted proxy.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Names the person.
    pub user: HeaderName,
    /// Names their groups, separated by commas or `|`.
    pub groups: HeaderName,
    /// Roles of groups.
    pub roles: RoleMap,
}

/// Sign-in by `OpenID` Connect.
#[derive(Clone)]
pub struct OidcConfig {
    /// The provider's name, to the letter.
    pub issuer: String,
    /// The same.
    pub issuer_url: Url,
    /// This client.
    pub client_id: String,
    /// Its secret; a public client has none.
    pub client_secret: Option<String>,
    /// Separated by spaces.
    pub scopes: String,
    /// The claim with a person's groups: its name, or a JSON pointer.
    pub roles_claim: String,
    /// Roles of the claim's values.
    pub roles: RoleMap,
    /// The claim with a person's name.
    pub name_claim: String,
    /// The address to which the provider sends browsers back.
    pub redirect: String,
    /// More root certificates.
    pub ca_file: Option<PathBuf>,
}

impl Source {
    pub(super) fn admin_proxy(&self) -> Result<Option<ProxyConfig>, ConfigError> {
        let header = |variable: &str| {
            self.parse_with(variable, |text| {
                text.parse().ok().filter(|name: &HeaderName| !TAKEN.contains(&name.as_str()))
            })
        };
        let (user, groups) = (header("ADMIN_PROXY_USER_HEADER")?, header("ADMIN_PROXY_ROLES_HEADER")?);
        let roles = self.parse_with("ADMIN_PROXY_ROLES", RoleMap::parse)?;
        let Some(user) = user else { return Ok(None) };
        let needs = |variable| error(variable, "is not set, but ADMIN_PROXY_USER_HEADER is");
        let groups = groups.ok_or_else(|| needs("ADMIN_PROXY_ROLES_HEADER"))?;
        let roles = roles.ok_or_else(|| needs("ADMIN_PROXY_ROLES"))?;
        self.require("ADMIN_TRUSTED_PROXIES").map_err(|_| needs("ADMIN_TRUSTED_PROXIES"))?;
        if user == groups {
            return Err(error("ADMIN_PROXY_ROLES_HEADER", "is the same as ADMIN_PROXY_USER_HEADER"));
        }
        Ok(Some(ProxyConfig { user, groups, roles }))
    }

    pub(super) fn admin_oidc(&self, url: Option<&Url>) -> Result<Option<OidcConfig>, ConfigError> {
        let issuer_url = self.parse_with("ADMIN_OIDC_ISSUER", |text| {
            let url = Url::parse(text).ok()?;
            let is_plain = url.username().is_empty() && url.query().is_none() && url.fragment().is_none();
            (is_plain && may_be_asked(&url)).then_some(url)
        })?;
        let roles = self.parse_with("ADMIN_OIDC_ROLES", RoleMap::parse)?;
        let scopes = self.parse_with("ADMIN_OIDC_SCOPES", |text| {
            text.split(' ').any(|scope| scope == "openid").then(|| text.to_owned())
        })?;
        let ca_file = self.path("ADMIN_OIDC_CA_FILE")?;
        let (Some(issuer), Some(issuer_url)) = (self.get("ADMIN_OIDC_ISSUER"), issuer_url) else { return Ok(None) };
        let needs = |variable| error(variable, "is not set, but ADMIN_OIDC_ISSUER is");
        let client_id = self.require("ADMIN_OIDC_CLIENT_ID").map_err(|_| needs("ADMIN_OIDC_CLIENT_ID"))?;
        let url = url.ok_or_else(|| needs("ADMIN_URL"))?;
        // Codes and cookies would cross the network in the open.
        if !may_be_asked(url) {
            return Err(error("ADMIN_URL", "has no TLS, which ADMIN_OIDC_ISSUER needs"));
        }
        let or = |variable: &str, default: &str| self.get(variable).unwrap_or(default).to_owned();
        Ok(Some(OidcConfig {
            issuer: issuer.to_owned(),
            issuer_url,
            client_id: client_id.to_owned(),
            client_secret: self.get("ADMIN_OIDC_CLIENT_SECRET").map(ToOwned::to_owned),
            scopes: scopes.unwrap_or_else(|| "openid profile".to_owned()),
            roles_claim: or("ADMIN_OIDC_ROLES_CLAIM", "groups"),
            roles: roles.ok_or_else(|| needs("ADMIN_OIDC_ROLES"))?,
            name_claim: or("ADMIN_OIDC_NAME_CLAIM", "preferred_username"),
            redirect: format!("{}{OIDC_CALLBACK}", url.as_str().trim_end_matches('/')),
            ca_file,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admin(values: &[(&str, &str)]) -> Result<super::super::AdminConfig, ConfigError> {
        Source::of(values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).admin()
    }

    const PROXY: [(&str, &str); 4] = [
        ("ADMIN_PROXY_USER_HEADER", "X-Forwarded-User"),
        ("ADMIN_PROXY_ROLES_HEADER", "X-Forwarded-Groups"),
        ("ADMIN_PROXY_ROLES", "care = coordinator, cn=oncall,dc=x=operator"),
        ("ADMIN_TRUSTED_PROXIES", "10.0.0.7, 10.244.0.0/16,fd00::/8"),
    ];
    const OIDC: [(&str, &str); 4] = [
        ("ADMIN_OIDC_ISSUER", "https://id.example.org/realms/care"),
        ("ADMIN_OIDC_CLIENT_ID", "carebell"),
        ("ADMIN_OIDC_ROLES", "oncall=operator"),
        ("ADMIN_URL", "https://console.example.org"),
    ];

    #[test]
    fn each_way_is_off_until_all_of_it_is_set() {
        let none = admin(&[]).unwrap();
        assert!(none.proxy.is_none() && none.oidc.is_none());
        for (way, of) in [(PROXY, "ADMIN_PROXY_USER_HEADER"), (OIDC, "ADMIN_OIDC_ISSUER")] {
            for (missing, _) in &way[1..] {
                let rest: Vec<_> = way.into_iter().filter(|(name, _)| name != missing).collect();
                let problem = admin(&rest).err().unwrap().to_string();
                assert!(problem.starts_with(&format!("{missing} is not set, but {of} is; expected ")), "{problem}");
            }
        }
        let oidc = admin(&OIDC).unwrap().oidc.unwrap();
        assert_eq!(oidc.redirect, "https://console.example.org/console/oidc/callback");
        assert_eq!((&*oidc.scopes, &*oidc.roles_claim), ("openid profile", "groups"));
    }

    #[test]
    fn each_mistake_names_its_variable_and_hides_its_value() {
        let mistakes = [
            ("ADMIN_PROXY_USER_HEADER", "secret header"),
            ("ADMIN_PROXY_USER_HEADER", "Cookie"),
            ("ADMIN_PROXY_ROLES_HEADER", "x-forwarded-user"),
            ("ADMIN_PROXY_ROLES", "secret"),
            ("ADMIN_PROXY_ROLES", "secret=boss"),
            ("ADMIN_PROXY_ROLES", "secret=viewer,secret=admin"),
            ("ADMIN_TRUSTED_PROXIES", "secret"),
            ("ADMIN_TRUSTED_PROXIES", "10.0.0.0/33"),
            ("ADMIN_OIDC_ISSUER", "http://secret.example"),
            ("ADMIN_OIDC_ISSUER", "https://ops:secret@id.example"),
            ("ADMIN_OIDC_ISSUER", "https://id.example/?secret"),
            ("ADMIN_OIDC_ROLES", "=admin"),
            ("ADMIN_OIDC_SCOPES", "profile secret"),
            ("ADMIN_OIDC_CA_FILE", "/no/such/secret"),
            ("ADMIN_TOKEN", "secret"),
            ("ADMIN_URL", "secret"),
            ("ADMIN_URL", "http://secret.example"),
        ];
        for (variable, value) in mistakes {
            let rest = PROXY.into_iter().chain(OIDC).filter(|(name, _)| *name != variable);
            let all: Vec<_> = rest.chain([(variable, value)]).collect();
            let text = admin(&all).err().unwrap_or_else(|| panic!("{variable}={value} is accepted")).to_string();
            assert!(text.starts_with(variable) && !text.contains("secret"), "{text}");
        }
    }
}
