//! Postgres roles with exactly the grants of `helm/servers`.

use std::path::Path;

use carebell::store::Database;

use super::World;

/// Drop it with [`Role::drop`].
pub struct Role {
    pub name: String,
    /// URL of the world's database as this role.
    pub url: String,
    /// Privileges, each with its tables separated by `, `.
    pub grants: Vec<(String, String)>,
}

impl World {
    /// A role with the grants of `helm/servers/<file>.sql`.
    pub async fn role_with(&self, file: &str) -> Role {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("helm/servers/{file}.sql"));
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("--")).map(str::trim).collect();
        let name = format!("{file}_of_{}", self.database_url.rsplit('/').next().unwrap());
        self.sql(&format!("CREATE ROLE {name} LOGIN")).await;
        let mut grants = Vec::new();
        for statement in lines.join(" ").split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
            let schema = Database::SCHEMA;
            let statement = statement.replace(":\"schema\"", schema).replace(":'schema'", &format!("'{schema}'"));
            self.sql(&statement.replace(":\"role\"", &name)).await;
            let Some(what) = statement.strip_prefix("GRANT ") else { continue };
            let what = what.strip_suffix(" TO :\"role\"").unwrap();
            let (privilege, tables) = what.split_once(" ON ").unwrap();
            grants.push((privilege.to_owned(), tables.to_owned()));
        }
        let url = self.database_url.replace("postgres@", &format!("{name}@"));
        Role { name, url, grants }
    }
}

impl Role {
    /// Roles belong to the server, which tests share.
    pub async fn drop(self, world: &World) {
        world.sql(&format!("DROP OWNED BY {}", self.name)).await;
        world.sql(&format!("DROP ROLE {}", self.name)).await;
    }
}
