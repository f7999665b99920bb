//! `carebell gateway`, and an application that uses it.

use carebell::dev::trail::Line;
use reqwest::{
    Method, RequestBuilder, StatusCode,
    header::{CONTENT_TYPE, HeaderMap},
};
use serde_json::Value;

use super::{Answer, Process, World, answer};

/// The gateway of a world, in a process of its own, with a token for all kinds.
pub struct Door {
    pub process: Process,
    pub url: String,
    pub token: String,
    client: reqwest::Client,
}

impl Door {
    pub async fn start(world: &World) -> Self {
        Self::with(world, &[]).await
    }

    pub async fn with(world: &World, more: &[(&str, &str)]) -> Self {
        let token = Self::token(world, "test", &["--kinds", "notification,reminder.*,alert.*"], &[]).await;
        Self::with_token(world, more, token).await
    }

    pub async fn with_token(world: &World, more: &[(&str, &str)], token: String) -> Self {
        let mut environment = world.environment();
        environment.insert("GATEWAY_PORT".into(), "0".into());
        environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let mut process = Process::start(&["gateway"], &environment, world.directory.path());
        let port = process.line("the gateway is served", Line::gateway_port).await;
        let door = Self {
            process,
            url: format!("http://127.0.0.1:{port}"),
            token,
            client: reqwest::Client::builder().build().unwrap(),
        };
        world
            .eventually("NATS is reached", async || {
                let ready = door.client.get(format!("{}/ready", door.url)).send().await.ok()?;
                (ready.status() == StatusCode::OK).then_some(())
            })
            .await;
        door
    }

    /// Makes a token by the command.
    pub async fn token(world: &World, name: &str, args: &[&str], more: &[(&str, &str)]) -> String {
        let args = [&["gateway", "tokens", "add", name, "--by", "a test"], args].concat();
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_carebell"));
        command.env_clear().envs(world.environment()).envs(more.iter().copied()).args(args);
        let made = command.output().await.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    pub async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path)).await
    }

    pub async fn delete(&self, id: &str) -> Answer {
        answer(self.request(Method::DELETE, &format!("/v1/jobs/{id}"))).await
    }

    pub async fn post(&self, job: &Value) -> Answer {
        answer(self.json(job.to_string())).await
    }

    pub fn json(&self, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.request(Method::POST, "/v1/jobs").header(CONTENT_TYPE, "application/json").body(body)
    }

    /// Status, headers, and the answer to each line.
    pub async fn lines(&self, body: impl Into<reqwest::Body>) -> (StatusCode, HeaderMap, Vec<Value>) {
        let request = self.request(Method::POST, "/v1/jobs").header(CONTENT_TYPE, "application/x-ndjson").body(body);
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        (status, headers, text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    pub async fn metrics(&mut self) -> String {
        self.process.get("/metrics").await.1
    }
}
