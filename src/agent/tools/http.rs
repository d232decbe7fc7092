//! Tools that are requests to a service of the operator's, as `[[tools]]` declare them.

use std::{collections::BTreeMap, fmt, time::Duration};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{
    Method,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::Outcome;
use crate::agent::{Context, llm::Tool, prompt, retry, service::Secret, websocket::escaped};

/// Longest answer that is read, in bytes.
const MAX_BODY: usize = 256 * 1024;
/// Longest value put into a URL, in bytes.
const MAX_VALUE: usize = 1_024;
/// What stands as it is in a part of a URL.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One of `[[tools]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// What the model calls it: at most 64 of `A-Z a-z 0-9 _ -`.
    pub name: String,
    /// What it does and when to call it, for the model.
    pub description: String,
    /// JSON Schema of its arguments.
    #[serde(default = "no_parameters")]
    pub parameters: Value,
    /// GET, POST, PUT, PATCH or DELETE.
    #[serde(default = "get")]
    pub method: String,
    /// Where to; `{{argument}}` and `{{call.from}}` take their places in path and query.
    pub url: String,
    /// Sent besides. `${NAME}` is the environment's.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// How long it may take, in ms.
    #[serde(default = "five_seconds")]
    pub timeout_ms: u64,
    /// What is said while the caller waits for it.
    #[serde(default)]
    pub say: Option<String>,
    /// Where in the JSON answer is what the model wants, as a dotted path; unset = all of it.
    #[serde(default)]
    pub result: Option<String>,
}

fn no_parameters() -> Value {
    json!({"type": "object", "properties": {}})
}

fn get() -> String {
    "GET".to_owned()
}

const fn five_seconds() -> u64 {
    5_000
}

/// A tool that is ready to be called.
#[derive(Clone)]
pub struct HttpTool {
    /// As models see it.
    pub tool: Tool,
    /// What is said while the caller waits for it.
    pub say: Option<String>,
    method: Method,
    url: String,
    /// Parts of the path, whatever is put into them.
    segments: usize,
    headers: HeaderMap,
    timeout: Duration,
    result: Option<String>,
}

/// Without the URL, which may hold a key.
impl fmt::Debug for HttpTool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTool").field("name", &self.tool.name).field("method", &self.method).finish_non_exhaustive()
    }
}

impl HttpTool {
    /// Checks what is declared; `env` looks up `${NAME}`.
    ///
    /// # Errors
    /// Everything that is wrong with it, in words and without secrets.
    pub fn new(config: HttpConfig, env: impl Fn(&str) -> Option<String>) -> Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        if !super::is_name(&config.name) {
            faults.push("name is 1 to 64 letters, digits, _ and -".to_owned());
        }
        if config.description.trim().is_empty() {
            faults.push("description is missing: without one no model knows when to call it".to_owned());
        }
        if config.parameters.get("type").and_then(Value::as_str) != Some("object") {
            faults.push(
                "parameters is the JSON Schema of an object: { type = \"object\", properties = { … } }".to_owned(),
            );
        }
        let method = match config.method.as_str() {
            "GET" => Method::GET,
            "POST" => Method::POST,
            "PUT" => Method::PUT,
            "PATCH" => Method::PATCH,
            "DELETE" => Method::DELETE,
            _ => {
                faults.push("method is GET, POST, PUT, PATCH or DELETE".to_owned());
                Method::GET
            }
        };
        if !(1..=120_000).contains(&config.timeout_ms) {
            faults.push("timeout_ms is 1 to 120000".to_owned());
        }
        let segments = checked(&config).map_err(|fault| faults.push(fault)).unwrap_or_default();
        let headers = headers(&config.headers, env, &mut faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            tool: Tool { name: config.name, description: config.description, parameters: config.parameters },
            say: config.say.filter(|say| !say.trim().is_empty()),
            method,
            url: config.url,
            segments,
            headers,
            timeout: Duration::from_millis(config.timeout_ms),
            result: config.result.filter(|path| !path.is_empty()),
        })
    }

    /// Asks the service. Dropping the future cancels the request.
    pub async fn call(&self, ctx: &Context, arguments: &Value) -> Outcome {
        let url = match self.filled(ctx, arguments) {
            Ok(url) => url,
            Err(what) => return Outcome::failed(what),
        };
        let uuid = ctx.uuid.to_string();
        let mut request = ctx.outgoing.vendors.request(self.method.clone(), url).headers(self.headers.clone());
        request = request.header("X-UUID", &uuid).header("X-AVR-UUID", &uuid);
        if self.method != Method::GET && self.method != Method::DELETE {
            request = request.header(CONTENT_TYPE, "application/json").body(arguments.to_string());
        }
        let answered = async {
            let response = request.send().await.map_err(|error| retry::explain(&error))?;
            let status = response.status();
            Ok::<_, String>((status, retry::beginning_of(response, MAX_BODY, self.timeout).await))
        };
        match tokio::time::timeout(self.timeout, answered).await {
            Err(_) => Outcome::failed(format!("it did not answer within {} ms", self.timeout.as_millis())),
            Ok(Err(what)) => Outcome::failed(what),
            Ok(Ok((status, body))) if status.is_success() => self.mapped(&body),
            Ok(Ok((status, body))) => {
                let words = escaped(&String::from_utf8_lossy(&body));
                Outcome::failed(format!("it answered with status {}: {words}", status.as_u16()))
            }
        }
    }

    fn filled(&self, ctx: &Context, arguments: &Value) -> Result<Url, String> {
        let mut strange = None;
        let text = put_in(&self.url, |name| {
            let value = match name.strip_prefix("call.") {
                Some("uuid") => ctx.uuid.to_string(),
                Some("call_id") => ctx.call.to_string(),
                Some(path) => prompt::of(&ctx.about, path),
                None => arguments.as_object().map(|map| prompt::of(map, name)).unwrap_or_default(),
            };
            if value.len() > MAX_VALUE {
                strange = Some(format!("{name} is longer than {MAX_VALUE} bytes"));
            }
            utf8_percent_encode(&value, PLAIN).to_string()
        });
        let url = Url::parse(&text).map_err(|error| format!("its URL is wrong: {error}"))?;
        // `..` would lead elsewhere
        if parts(&url) != self.segments {
            strange = Some("an argument is empty or leads out of the path".to_owned());
        }
        strange.map_or(Ok(url), Err)
    }

    /// What of an answer the model is told.
    fn mapped(&self, body: &[u8]) -> Outcome {
        let Some(path) = &self.result else {
            return Outcome::done(String::from_utf8_lossy(body).into_owned());
        };
        let answer: Value = match serde_json::from_slice(body) {
            Ok(answer) => answer,
            Err(_) => return Outcome::failed("its answer is no JSON".to_owned()),
        };
        let found = path.split('.').try_fold(&answer, |value, name| match value {
            Value::Array(values) => values.get(name.parse::<usize>().ok()?),
            other => other.get(name),
        });
        match found {
            Some(Value::String(text)) => Outcome::done(text.clone()),
            Some(other) => Outcome::done(other.to_string()),
            None => Outcome::failed(format!("its answer has no {path}")),
        }
    }
}

/// Parts of a path: as many as there are, whatever values say.
fn parts(url: &Url) -> usize {
    url.path_segments().map_or(0, |segments| segments.filter(|part| !part.is_empty()).count())
}

/// Checks the URL: what a model or a caller says chooses neither host nor scheme. How many parts its path has.
fn checked(config: &HttpConfig) -> Result<usize, String> {
    let place = config.url.find("://").map(|at| {
        &config.url[..config.url[at + 3..].find(['/', '?', '#']).map_or(config.url.len(), |end| at + 3 + end)]
    });
    let Some(place) = place.filter(|place| place.starts_with("http://") || place.starts_with("https://")) else {
        return Err("url begins with http:// or https://".to_owned());
    };
    if place.contains("{{") {
        return Err("url: only path and query may hold {{…}}, not the host".to_owned());
    }
    let known = config.parameters.get("properties").and_then(Value::as_object);
    let mut unknown = None;
    let text = put_in(&config.url, |name| {
        let argument = name.split('.').next().unwrap_or_default();
        if !name.starts_with("call.") && !known.is_some_and(|known| known.contains_key(argument)) {
            unknown = Some(name.to_owned());
        }
        "x".to_owned()
    });
    if let Some(name) = unknown {
        return Err(format!(
            "url: {{{{{name}}}}} is no property of parameters; what is known about the call is {{{{call.from}}}} and so on"
        ));
    }
    Url::parse(&text).map(|url| parts(&url)).map_err(|error| format!("url: {error}"))
}

/// `text` with values in the place of `{{name}}`.
fn put_in(text: &str, mut value: impl FnMut(&str) -> String) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, (name, after))) =
        rest.split_once("{{").and_then(|(before, tail)| Some((before, tail.split_once("}}")?)))
    {
        out.push_str(before);
        out.push_str(&value(name.trim()));
        rest = after;
    }
    out.push_str(rest);
    out
}

fn headers(
    declared: &BTreeMap<String, Secret>,
    env: impl Fn(&str) -> Option<String>,
    faults: &mut Vec<String>,
) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/plain;q=0.9, */*;q=0.1"));
    for (name, value) in declared {
        let value = match super::from_env(value.expose(), &env) {
            Ok(value) => value,
            Err(variable) => {
                faults.push(format!("headers.{name}: the environment has no {variable}"));
                continue;
            }
        };
        match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&value)) {
            (Ok(name), Ok(mut value)) => {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
            _ => faults.push(format!("headers.{name} holds characters that no header has")),
        }
    }
    headers
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn config(toml: &str) -> HttpConfig {
        toml::from_str(&format!("name = \"order\"\ndescription = \"Looks up an order.\"\n{toml}")).unwrap()
    }

    fn made(toml: &str) -> Result<HttpTool, Vec<String>> {
        HttpTool::new(config(toml), |name| (name == "CRM_TOKEN").then(|| "hunter2".to_owned()))
    }

    const ID: &str = "parameters = { type = \"object\", properties = { id = { type = \"string\" } } }";

    #[test]
    fn faults_are_told_at_once_and_without_secrets() {
        let faults =
            made("url = \"ftp://x\"\nmethod = \"get\"\nheaders = { A = \"${NOPE}\", B = \"hunter\\n2\" }").unwrap_err();
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(!format!("{faults:?}").contains("hunter"));
        for url in ["http://{{id}}/x", "https://crm.example{{id}}/x", "https://crm/{{nope}}", "https://"] {
            assert!(made(&format!("url = \"{url}\"\n{ID}")).is_err(), "{url}");
        }
        let tool = made("url = \"https://crm/x\"\nheaders = { Authorization = \"Bearer ${CRM_TOKEN}\" }").unwrap();
        assert_eq!(tool.headers["authorization"], "Bearer hunter2");
        assert!(!format!("{tool:?} {:?}", tool.headers).contains("hunter"));
    }

    #[test]
    fn answers_are_mapped() {
        let mapped = |path: &str, body: &str| {
            made(&format!("url = \"https://crm/\"\nresult = \"{path}\"")).unwrap().mapped(body.as_bytes())
        };
        let body = r#"{"data": {"orders": [{"state": "sent"}], "n": 7}}"#;
        assert_eq!(mapped("data.orders.0.state", body), Outcome::done("sent".to_owned()));
        assert_eq!(mapped("data.n", body), Outcome::done("7".to_owned()));
        assert_eq!(mapped("", body), Outcome::done(body.to_owned()));
        assert!(mapped("data.x", body).failed && mapped("data", "<html>").failed);
    }
}
