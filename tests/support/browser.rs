//! A real Chromium, controlled through its driver (WebDriver).

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use serde_json::{Value, json};

use super::eventually;
use super::exporter::free_address;
use super::namespace::program;

/// The time limit for the driver and the browser to start on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// A browser with one window. It is ended when this is dropped.
pub(crate) struct Browser {
    driver: Child,
    session: String,
    directory: tempfile::TempDir,
}

impl Browser {
    /// Starts it.
    pub(crate) fn start() -> Self {
        program("chromium", "chromium");
        let directory = tempfile::Builder::new().prefix("browser-test-").tempdir().unwrap();
        let address = free_address();
        let log = File::create(directory.path().join("log")).unwrap();
        let driver = Command::new(program("chromedriver", "chromium-driver"))
            .arg(format!("--port={}", address.port()))
            .env("HOME", directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut browser = Self { driver, session: format!("http://{address}"), directory };
        eventually(DEADLINE, || browser.call("GET", "/status", &Value::Null));
        let profile = browser.directory.path().join("profile");
        let arguments = json!([
            "--headless",
            // As root, and in a container, Chromium cannot make a sandbox.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-proxy-server",
            "--window-size=1280,900",
            format!("--user-data-dir={}", profile.display()),
        ]);
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let session = browser.call("POST", "/session", &wanted).unwrap();
        browser.session = format!("http://{address}/session/{}", session["sessionId"].as_str().unwrap());
        browser
    }

    /// Goes to a page, and waits until it is loaded.
    pub(crate) fn open(&self, url: &str) {
        self.call("POST", "/url", &json!({"url": url})).unwrap();
    }

    /// What a function's body returns in the page.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.call("POST", "/execute/sync", &json!({"script": script, "args": []}))
            .unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Presses keys, one after the other, wherever the focus is.
    pub(crate) fn press(&self, keys: &str) {
        let strokes: Vec<_> = keys
            .chars()
            .flat_map(|key| {
                [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})]
            })
            .collect();
        let keyboard = json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]});
        self.call("POST", "/actions", &keyboard).unwrap();
    }

    /// Sends a command of the Chrome DevTools Protocol.
    pub(crate) fn devtools(&self, command: &str, parameters: &Value) {
        let command = json!({"cmd": command, "params": parameters});
        self.call("POST", "/goog/cdp/execute", &command).unwrap();
    }

    /// The messages in the page's console log since the last call.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let entries = self.call("POST", "/se/log", &json!({"type": "browser"})).unwrap();
        let entries = entries.as_array().into_iter().flatten();
        entries.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Writes a screenshot of the window, for a person to look at.
    pub(crate) fn picture(&self, file: &Path) {
        let png = self.call("GET", "/screenshot", &Value::Null).unwrap();
        let png = base64::engine::general_purpose::STANDARD.decode(png.as_str().unwrap()).unwrap();
        std::fs::write(file, png).unwrap();
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(DEADLINE))
            .http_status_as_error(false)
            .proxy(None)
            .build()
            .new_agent();
        let url = format!("{}{path}", self.session);
        let sent = match method {
            "POST" => agent.post(&url).header("content-type", "application/json").send(body.to_string()),
            "DELETE" => agent.delete(&url).call(),
            _ => agent.get(&url).call(),
        };
        let mut response = sent.map_err(|error| error.to_string())?;
        // A screenshot exceeds the default limit of an answer.
        let text = response.body_mut().with_config().limit(64 << 20).read_to_string();
        let text = text.map_err(|error| error.to_string())?;
        let mut answer: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        let is_ok = response.status().is_success();
        let value = answer["value"].take();
        if is_ok { Ok(value) } else { Err(value.to_string()) }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser with the session. If the driver were killed, the browser would go on.
        if self.session.contains("/session/") {
            let _ = self.call("DELETE", "", &Value::Null);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            eprintln!("--- what the browser's driver wrote ---\n{log}---");
        }
    }
}
