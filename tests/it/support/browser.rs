//! A real browser: Debian's chromium with its driver, installed where that can be done.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command as AsyncCommand},
    time::{Instant, sleep},
};

use super::{LIMIT, not_checked};

/// A browser with one window, driven by `WebDriver` (W3C).
pub struct Browser {
    driver: Child,
    client: reqwest::Client,
    session: String,
}

/// How a browser is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    pub without_scripts: bool,
    pub is_dark: bool,
}

/// Under which `WebDriver` hands out an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

impl Browser {
    /// `None`, with a word about it, if there is none and none can be installed.
    pub async fn start(settings: Settings) -> Option<Self> {
        if !is_there() {
            not_checked(
                "chromium and chromedriver are missing, and apt-get cannot install them: no page is tried in a browser",
            );
            return None;
        }
        let mut driver = AsyncCommand::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = loop {
            let line = lines.next_line().await.unwrap().expect("chromedriver tells its port");
            if let Some(port) = line.split("successfully on port ").nth(1) {
                break port.trim_end_matches('.').to_owned();
            }
        };
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let mut arguments = vec!["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"];
        if settings.is_dark {
            arguments.push("--force-dark-mode");
        }
        let mut options = json!({ "args": arguments });
        if settings.without_scripts {
            options["prefs"] = json!({ "profile.managed_default_content_settings.javascript": 2 });
        }
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let client = reqwest::Client::builder().timeout(LIMIT).build().unwrap();
        let mut browser = Self { driver, client, session: format!("http://127.0.0.1:{port}/session") };
        let begun = browser.post("", wanted).await;
        browser.session = format!("{}/{}", browser.session, begun["sessionId"].as_str().unwrap());
        browser.resize(1200, 900).await;
        Some(browser)
    }

    async fn post(&self, command: &str, body: Value) -> Value {
        self.try_post(command, body).await.unwrap_or_else(|why| panic!("{command}: {why}"))
    }

    async fn try_post(&self, command: &str, body: Value) -> Result<Value, String> {
        let request = self.client.post(format!("{}{command}", self.session)).header("content-type", "application/json");
        let answer = request.body(body.to_string()).send().await.map_err(|error| error.to_string())?;
        let (well, text) = (answer.status().is_success(), answer.text().await.unwrap());
        let value: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        if well {
            Ok(value["value"].clone())
        } else {
            Err(value["value"]["message"].as_str().unwrap_or(&text).to_owned())
        }
    }

    pub async fn open(&self, url: &str) {
        self.post("/url", json!({ "url": url })).await;
    }

    pub async fn resize(&self, width: u32, height: u32) {
        self.post("/window/rect", json!({ "width": width, "height": height })).await;
    }

    /// The first element of a CSS selector, once it is there.
    async fn find(&self, css: &str) -> String {
        let since = Instant::now();
        loop {
            match self.try_post("/element", json!({ "using": "css selector", "value": css })).await {
                Ok(found) => return found[ELEMENT].as_str().unwrap().to_owned(),
                Err(why) => assert!(since.elapsed() < LIMIT, "{css}: {why}"),
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn click(&self, css: &str) {
        let element = self.find(css).await;
        self.post(&format!("/element/{element}/click"), json!({})).await;
    }

    pub async fn write(&self, css: &str, text: &str) {
        let element = self.find(css).await;
        self.post(&format!("/element/{element}/value"), json!({ "text": text })).await;
    }

    /// Writes into a field in place of what is there.
    pub async fn fill(&self, css: &str, text: &str) {
        let element = self.find(css).await;
        self.post(&format!("/element/{element}/clear"), json!({})).await;
        self.write(css, text).await;
    }

    /// Presses keys wherever the focus is. `\u{e004}` is Tab, `\u{e007}` is Enter.
    pub async fn press(&self, keys: &str) {
        let strokes: Vec<Value> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|what| json!({ "type": what, "value": key.to_string() })))
            .collect();
        self.post("/actions", json!({ "actions": [{ "type": "key", "id": "keys", "actions": strokes }] })).await;
    }

    /// The value of a script's last `return`.
    pub async fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// The text that is shown.
    pub async fn text(&self, css: &str) -> String {
        let element = self.find(css).await;
        let answer = self.client.get(format!("{}/element/{element}/text", self.session)).send().await.unwrap();
        let value: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        value["value"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an element shows this.
    pub async fn shows(&self, css: &str, expected: &str) {
        let since = Instant::now();
        loop {
            let text = self.text(css).await;
            if text.contains(expected) {
                return;
            }
            assert!(since.elapsed() < LIMIT, "{css} shows {text:?}, and not {expected:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Messages of the console: refusals by the policy are among them.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.post("/se/log", json!({ "type": "browser" })).await;
        let messages = log.as_array().unwrap().iter().filter(|entry| entry["level"] == "SEVERE");
        messages.map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    /// Findings of axe-core on this page: the rule, its help, and the elements. None without Node.
    pub async fn findings(&self) -> Vec<String> {
        let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/axe");
        let Some(packages) = super::node_packages("axe", &place) else { return Vec::new() };
        let axe = std::fs::read_to_string(packages.join("node_modules/axe-core/axe.min.js")).unwrap();
        self.run(&axe).await;
        let ask = "const done = arguments[0]; axe.run().then((result) => done(result.violations), (why) => done([why.message]));";
        let found = self.post("/execute/async", json!({ "script": ask, "args": [] })).await;
        let found = found.as_array().unwrap().iter();
        found
            .map(|one| {
                let places: Vec<String> =
                    one["nodes"].as_array().into_iter().flatten().map(|node| node["target"].to_string()).collect();
                format!("{}: {} {}", one["id"], one["help"], places.join(" "))
            })
            .collect()
    }

    /// Whether the page is wider than its window.
    pub async fn overflows(&self) -> bool {
        let script = "return document.documentElement.scrollWidth > document.documentElement.clientWidth";
        self.run(script).await.as_bool().unwrap()
    }

    /// A picture of the window, in `target/console/`.
    pub async fn picture(&self, name: &str) {
        use base64::{Engine, engine::general_purpose::STANDARD};

        let answer = self.client.get(format!("{}/screenshot", self.session)).send().await.unwrap();
        let value: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../console");
        std::fs::create_dir_all(&directory).unwrap();
        let bytes = STANDARD.decode(value["value"].as_str().unwrap()).unwrap();
        std::fs::write(directory.join(format!("{name}.png")), bytes).unwrap();
    }

    pub async fn close(mut self) {
        let _ = self.client.delete(&self.session).send().await;
        let _ = self.driver.kill().await;
    }
}

/// Installs both once, if root may.
fn is_there() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    let finds =
        |program: &str| Command::new(program).arg("--version").output().is_ok_and(|answer| answer.status.success());
    let both = move || finds("chromium") && finds("chromedriver");
    *THERE.get_or_init(|| {
        let is_root = || Command::new("id").arg("-u").output().is_ok_and(|answer| answer.stdout == b"0\n");
        if both() || !is_root() {
            return both();
        }
        let install = "apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver \
                       fonts-dejavu-core";
        let _ = Command::new("sh").args(["-c", install]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        both()
    })
}
