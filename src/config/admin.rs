use std::net::IpAddr;

use ipnet::IpNet;
use url::Url;

use super::{
    error::{ConfigError, error},
    sign_in::{OidcConfig, ProxyConfig},
    source::Source,
};

/// The fewest characters of `ADMIN_TOKEN`.
const SHORTEST_TOKEN: usize = 16;

/// Settings of `carebell admin`.
#[derive(Clone, Default)]
pub struct AdminConfig {
    /// Port; 0 for any free one.
    pub port: u16,
    /// Port of its metrics; 0 for any free one. `None`: there are none.
    pub metrics_port: Option<u16>,
    /// Where browsers reach it, if not by that port.
    pub url: Option<Url>,
    /// A token of role admin beside those of the database.
    pub token: Option<String>,
    /// Proxies whose headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Sign-in by one of them.
    pub proxy: Option<ProxyConfig>,
    /// Sign-in by `OpenID` Connect.
    pub oidc: Option<OidcConfig>,
    /// Names of providers that the settings tell.
    pub providers: Vec<String>,
}

impl Source {
    /// Settings of `carebell admin`.
    ///
    /// # Errors
    /// The first malformed variable.
    pub fn admin(&self) -> Result<AdminConfig, ConfigError> {
        let token = self.get("ADMIN_TOKEN").map(ToOwned::to_owned);
        if token.as_ref().is_some_and(|token| token.len() < SHORTEST_TOKEN) {
            return Err(error("ADMIN_TOKEN", "is too short"));
        }
        let url = self.parse_with("ADMIN_URL", |text| {
            let url = Url::parse(text).ok()?;
            let is_plain = url.username().is_empty() && url.query().is_none() && url.fragment().is_none();
            (["http", "https"].contains(&url.scheme()) && url.has_host() && is_plain && url.path() == "/")
                .then_some(url)
        })?;
        let trusted_proxies = self.parse_with("ADMIN_TRUSTED_PROXIES", |text| {
            text.split(',').map(|place| network(place.trim())).collect::<Option<Vec<IpNet>>>()
        })?;
        let (proxy, oidc) = (self.admin_proxy()?, self.admin_oidc(url.as_ref())?);
        Ok(AdminConfig {
            port: self.parse("ADMIN_PORT", 3004)?,
            metrics_port: self.parse_with("ADMIN_METRICS_PORT", |text| text.parse().ok())?,
            url,
            token,
            trusted_proxies: trusted_proxies.unwrap_or_default(),
            proxy,
            oidc,
            providers: self.providers(),
        })
    }
}

/// An address or a network.
fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| Some(IpNet::from(text.parse::<IpAddr>().ok()?)))
}
