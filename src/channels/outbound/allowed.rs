use std::fmt;

use url::{Host, Url};

use crate::channels::SettingsError;

const HTTPS_PORT: u16 = 443;

/// A host from a variable such as `WEB_PUSH_ALLOWED_HOSTS`: `host` (port 443) or `host:port`; IPv6 in brackets. Only
/// these may have another port, be an IP address, or resolve to a private address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHost {
    host: Host<String>,
    port: u16,
}

impl AllowedHost {
    /// Reads the comma-separated variable. The error shows the first invalid part.
    pub fn list(variable: &'static str, text: &str) -> Result<Vec<Self>, SettingsError> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(|part| Self::parse(part).ok_or_else(|| broken(variable, part))).collect()
    }

    fn parse(text: &str) -> Option<Self> {
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte)) {
            return None;
        }
        let url = Url::parse(&format!("https://{text}/")).ok()?;
        let host = url.host()?.to_owned();
        let port = url.port_or_known_default().unwrap_or(HTTPS_PORT);
        let rooted = matches!(&host, Host::Domain(name) if name.ends_with('.'));
        (!rooted && port != 0).then_some(Self { host, port })
    }

    /// Whether it is this domain, on any port.
    #[must_use]
    pub fn is(&self, domain: &str) -> bool {
        matches!(&self.host, Host::Domain(name) if name == domain)
    }

    /// Whether it has this host, on any port.
    #[must_use]
    pub fn has(&self, host: &Host<&str>) -> bool {
        self.host == host.to_owned()
    }

    /// Whether it has this host and port.
    #[must_use]
    pub fn is_at(&self, host: &Host<&str>, port: u16) -> bool {
        self.has(host) && self.port == port
    }
}

fn broken(variable: &'static str, part: &str) -> SettingsError {
    let part: String = part.chars().filter(|c| !c.is_control()).take(80).collect();
    SettingsError::new(
        variable,
        format!("should be a comma-separated list of `host` or `host:port`, and `{part}` is neither"),
    )
}

impl fmt::Display for AllowedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_list_of_hosts_names_its_variable() {
        for text in ["*.example.com", "https://a.example", "a.example/path", "user@a.example", "a.example:99999", "::1"]
        {
            let error = AllowedHost::list("WEB_PUSH_ALLOWED_HOSTS", text).unwrap_err();
            assert_eq!(error.variable(), "WEB_PUSH_ALLOWED_HOSTS", "{text}");
            assert!(error.to_string().contains("host:port"), "{error}");
        }
        assert_eq!(
            AllowedHost::list("WEB_PUSH_ALLOWED_HOSTS", "a.example.:1").unwrap_err().variable(),
            "WEB_PUSH_ALLOWED_HOSTS"
        );
        assert_eq!(AllowedHost::list("WEB_PUSH_ALLOWED_HOSTS", " ,").unwrap(), []);
    }
}
