//! `carebell admin`, and whoever uses it.

use carebell::{
    admin::access::Role,
    dev::trail::Line,
    store::{AuditEntry, Store, TokenRow},
};
use reqwest::{
    Method, RequestBuilder, StatusCode,
    header::{CONTENT_TYPE, COOKIE},
};
use serde_json::Value;

use super::{Process, World, utc_now};

/// Of role admin.
pub const ADMIN_TOKEN: &str = "the-first-token-of-a-test";

/// The console of a world, in a process of its own.
pub struct Console {
    process: Process,
    pub url: String,
    pub client: reqwest::Client,
    store: Store,
}

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Console {
    pub async fn start(world: &World) -> Self {
        Self::with(world, &[]).await
    }

    pub async fn with(world: &World, more: &[(&str, &str)]) -> Self {
        Self::by(&["admin"], world, more).await
    }

    /// As this command serves it.
    pub async fn by(command: &[&str], world: &World, more: &[(&str, &str)]) -> Self {
        let mut environment = world.environment();
        let own = [("ADMIN_PORT", "0"), ("ADMIN_TOKEN", ADMIN_TOKEN)];
        environment.extend(own.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let mut process = Process::start(command, &environment, world.directory.path());
        let port = process.line("the console is served", Line::console_port).await;
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { process, url: format!("http://127.0.0.1:{port}"), client, store: world.store.clone() }
    }

    /// Of its metrics, if they are served.
    pub async fn metrics_port(&mut self) -> u64 {
        self.process.line("its metrics are served", Line::console_metrics_port).await
    }

    /// As a lost machine does.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// All that it has written.
    pub fn output(&self) -> String {
        self.process.output()
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// An answer of the API, with this token.
    pub async fn api(&self, method: Method, path: &str, token: &str, body: Option<Value>) -> Answer {
        let mut request = self.request(method, &format!("/admin/api/v1{path}")).bearer_auth(token);
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        answer(request).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.api(Method::GET, path, ADMIN_TOKEN, None).await
    }

    /// Makes a token.
    pub async fn token(&self, name: &str, role: Role) -> String {
        let secret = carebell::admin::draw_secret().unwrap();
        let now = utc_now();
        let row = TokenRow {
            id: name.to_owned(),
            name: name.to_owned(),
            role: role.name().to_owned(),
            created_at: now,
            created_by: "a test".into(),
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
        };
        let act = AuditEntry {
            at: now,
            actor: "a test".into(),
            action: "token.added".into(),
            job_id: None,
            root_id: None,
            detail: Value::Null,
        };
        assert!(self.store.add_token(&row, &carebell::admin::hash_secret(&secret), &act).await.unwrap());
        secret
    }

    /// Signs in as a browser does, and returns the cookie.
    pub async fn sign_in(&self, token: &str) -> String {
        let response = self.submit("/console/sign-in", "", &[("token", token)]).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::SEE_OTHER, "{}", response.text().await.unwrap());
        let cookie = response.headers()["set-cookie"].to_str().unwrap();
        cookie.split(';').next().unwrap().to_owned()
    }

    /// A form of one of its own pages, as whoever has this cookie.
    pub fn submit(&self, path: &str, cookie: &str, fields: &[(&str, &str)]) -> RequestBuilder {
        let request = self.request(Method::POST, path).header("Sec-Fetch-Site", "same-origin").header(COOKIE, cookie);
        filled(request, fields)
    }

    /// A page, as whoever has this cookie.
    pub async fn page(&self, path: &str, cookie: &str) -> (StatusCode, String) {
        let response = self.request(Method::GET, path).header(COOKIE, cookie).send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    }
}

pub async fn answer(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.unwrap();
    Answer { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
}

/// A request with a form.
pub fn filled(request: RequestBuilder, fields: &[(&str, &str)]) -> RequestBuilder {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
}
