//! Providers by their names.

use super::source::Source;
use crate::channels::web_push;

impl Source {
    /// Those that Carebell knows, and those of the settings that can be read here. Not the hosts of webhooks: users name
    /// them.
    #[must_use]
    pub fn providers(&self) -> Vec<String> {
        let mut names: Vec<String> = web_push::services().map(str::to_owned).collect();
        if let Ok(Some(settings)) = self.web_push() {
            let host = |host: String| host.strip_suffix(":443").map_or_else(|| host.clone(), str::to_owned);
            names.extend(settings.allowed_hosts.iter().map(|allowed| host(allowed.to_string())));
        }
        if let Ok(Some(settings)) = self.email() {
            names.extend(settings.servers.iter().map(|server| server.host.clone()));
        }
        let gateways = self.gateways().unwrap_or_default();
        names.extend(gateways.iter().flat_map(|settings| &settings.accounts).map(|account| account.name.clone()));
        names
    }
}
