//! Who may do what: roles, and the need of each route.

use std::collections::BTreeMap;

use axum::http::Method;

/// A right. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Ids and states; no names, no texts.
    Viewer,
    /// Also people, each look on record.
    Coordinator,
    /// Also acts.
    Operator,
    /// Also tokens, and what cannot be taken back.
    Admin,
}

impl Role {
    /// From the least to the most.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Coordinator, Self::Operator, Self::Admin];

    /// As in tables and documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Coordinator => "coordinator",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Parses the name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == text)
    }
}

/// Roles of groups, as a provider or a proxy names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleMap(Vec<(String, Role)>);

impl RoleMap {
    /// Parses `group=role,…`. A group may hold `=`, and a comma before the next one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut map: Vec<(String, Role)> = Vec::new();
        let mut rest = String::new();
        for part in text.split(',') {
            rest.push_str(part);
            // Names of directories have commas: `cn=oncall,dc=care=operator`.
            let Some((group, role)) =
                rest.rsplit_once('=').and_then(|(group, role)| Some((group, Role::parse(role.trim())?)))
            else {
                rest.push(',');
                continue;
            };
            let group = group.trim().to_owned();
            if group.is_empty() || map.iter().any(|(known, _)| *known == group) {
                return None;
            }
            map.push((group, role));
            rest.clear();
        }
        (rest.is_empty() && !map.is_empty()).then_some(Self(map))
    }

    /// The highest role of these groups.
    pub fn best<'a>(&self, groups: impl IntoIterator<Item = &'a str>) -> Option<Role> {
        groups
            .into_iter()
            .filter_map(|group| self.0.iter().find(|(known, _)| known == group))
            .map(|(_, role)| *role)
            .max()
    }
}

/// A way to prove who one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `Authorization: Bearer`.
    Token,
    /// A browser's cookie.
    Session,
    /// Headers of a trusted proxy.
    Proxy,
}

/// Whoever sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Viewer {
    /// In the audit log.
    pub name: String,
    /// Their right.
    pub role: Role,
    /// How they proved who they are.
    pub way: Way,
}

/// What a route asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Public,
    /// This right, or more.
    Role(Role),
}

/// The need of each route, by its path and method. What is not in it is refused.
#[derive(Clone, Debug, Default)]
pub struct Access(BTreeMap<String, Vec<(Method, Need)>>);

impl Access {
    /// Adds a route.
    pub fn add(&mut self, method: Method, path: &str, need: Need) {
        self.0.entry(path.to_owned()).or_default().push((method, need));
    }

    /// The need of a route. `Err` has the methods that there are.
    pub fn need(&self, method: &Method, path: &str) -> Result<Need, Vec<Method>> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let all = self.0.get(path).map(Vec::as_slice).unwrap_or_default();
        let found = all.iter().find(|(known, _)| known == method);
        found.map(|(_, need)| *need).ok_or_else(|| all.iter().map(|(method, _)| method.clone()).collect())
    }

    /// All routes: path, method, need.
    pub fn routes(&self) -> impl Iterator<Item = (&str, &Method, Need)> {
        self.0.iter().flat_map(|(path, all)| all.iter().map(move |(method, need)| (path.as_str(), method, *need)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_includes_those_before_it() {
        assert!(Role::ALL.is_sorted());
        assert!(Role::ALL.into_iter().all(|role| Role::parse(role.name()) == Some(role)));
    }

    #[test]
    fn somebody_of_several_groups_has_the_highest_of_their_roles() {
        let map = RoleMap::parse("care=coordinator, cn=on call,dc=x=operator,all=viewer").unwrap();
        assert_eq!(map.best(["all", "cn=on call,dc=x", "other"]), Some(Role::Operator));
        assert_eq!(map.best(["all", "care"]), Some(Role::Coordinator));
        assert_eq!(map.best(["Care", "", "operator"]), None);
        for wrong in ["", "care", "=admin", "care=boss", "a=viewer,", "a=viewer,a=admin", "care=Viewer"] {
            assert_eq!(RoleMap::parse(wrong), None, "{wrong}");
        }
    }
}
