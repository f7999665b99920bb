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

/// A way to prove who one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `Authorization: Bearer`.
    Token,
    /// A browser's cookie.
    Session,
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
}
