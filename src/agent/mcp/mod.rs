//! Tools of servers that speak the Model Context Protocol. They are connected and listed before a call needs them.

mod config;

use std::{
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rmcp::{
    ClientHandler, RoleClient, ServiceExt as _,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ClientCapabilities, ClientConfig, Implementation,
    },
    service::{NotificationContext, Peer, RunningService},
    transport::{
        StreamableHttpClientTransport, TokioChildProcess, streamable_http_client::StreamableHttpClientTransportConfig,
    },
};
use serde_json::Value;
use tokio::{process::Command, sync::Notify, task::JoinSet};

use self::config::Place;
pub use self::config::{Declared, McpConfig};
use super::{
    llm::Tool,
    tools::{Outcome, is_name},
    websocket::escaped,
};

/// How long a server may take to be connected and to list its tools.
const CONNECT: Duration = Duration::from_secs(15);
/// Pauses between attempts; they double.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Tools of one server.
const MAX_TOOLS: usize = 128;
/// Longest description and schema of one, in bytes.
const MAX_DESCRIPTION: usize = 4 * 1024;
const MAX_SCHEMA: usize = 32 * 1024;
/// Longest event of a server, in bytes.
const MAX_EVENT: usize = 1 << 20;
/// Variables of ours that a program gets: none that could hold a key.
const INHERITED: [&str; 3] = ["PATH", "HOME", "LANG"];

/// Between the names of a server and its tool.
pub const SEPARATOR: &str = "__";

/// All servers. Their connections end with this.
#[derive(Debug, Default)]
pub struct Servers {
    all: Vec<Arc<Server>>,
    _tasks: JoinSet<()>,
}

/// One server, as calls see it.
#[derive(Debug)]
pub struct Server {
    declared: Declared,
    now: Mutex<Option<Connected>>,
}

/// What there is while a connection stands.
#[derive(Debug, Clone)]
struct Connected {
    peer: Peer<RoleClient>,
    tools: Arc<[Tool]>,
}

impl Servers {
    /// Connects them, and again whenever a connection breaks. Must be called inside a tokio runtime.
    #[must_use]
    pub fn start(declared: &[Declared], http: &reqwest::Client) -> Self {
        let mut tasks = JoinSet::new();
        let all = declared.iter().map(|declared| {
            let server = Arc::new(Server { declared: declared.clone(), now: Mutex::default() });
            tasks.spawn(keep(Arc::clone(&server), http.clone()));
            server
        });
        Self { all: all.collect(), _tasks: tasks }
    }

    /// The servers.
    #[must_use]
    pub fn all(&self) -> &[Arc<Server>] {
        &self.all
    }
}

impl Server {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.declared.name
    }

    /// What is said while the caller waits for one of its tools.
    #[must_use]
    pub fn say(&self) -> Option<&str> {
        self.declared.say.as_deref()
    }

    /// Its tools as models see them; none while there is no connection.
    #[must_use]
    pub fn tools(&self) -> Arc<[Tool]> {
        self.connected().map(|connected| connected.tools).unwrap_or_default()
    }

    /// Has `tool` (without the server's name) called. Dropping the future tells the server that it is given up.
    pub async fn call(&self, tool: &str, arguments: Value) -> Outcome {
        let name = self.name();
        let Some(Connected { peer, .. }) = self.connected() else {
            return Outcome::failed(format!("the server {name} is not there"));
        };
        let mut params = CallToolRequestParams::new(tool.to_owned());
        params.arguments = match arguments {
            Value::Object(arguments) => Some(arguments),
            _ => None,
        };
        let limit = Duration::from_millis(self.declared.timeout_ms);
        match tokio::time::timeout(limit, peer.call_tool_once(params)).await {
            Ok(Ok(CallToolResponse::Complete(result))) => outcome(result),
            Ok(Ok(_)) => Outcome::failed("it wants to ask somebody, and nobody can answer".to_owned()),
            Ok(Err(error)) => Outcome::failed(escaped(&error.to_string())),
            Err(_) => Outcome::failed(format!("it did not answer within {} ms", limit.as_millis())),
        }
    }

    fn connected(&self) -> Option<Connected> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, connected: Option<Connected>) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = connected;
    }
}

/// What a model is told of a result: its texts, else its structure.
fn outcome(result: CallToolResult) -> Outcome {
    let texts: Vec<&str> =
        result.content.iter().filter_map(|block| block.as_text()).map(|text| text.text.as_str()).collect();
    let output = match (texts.is_empty(), &result.structured_content) {
        (true, Some(value)) => value.to_string(),
        (true, None) => "It answered without text.".to_owned(),
        (false, _) => texts.join("\n"),
    };
    if result.is_error == Some(true) { Outcome::failed(output) } else { Outcome::done(output) }
}

/// What a server tells us.
#[derive(Debug, Clone)]
struct Handler {
    changed: Arc<Notify>,
}

impl ClientHandler for Handler {
    fn get_info(&self) -> ClientConfig {
        ClientConfig::new(ClientCapabilities::default(), Implementation::new("hark", env!("CARGO_PKG_VERSION")))
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.changed.notify_one();
    }
}

type Running = RunningService<RoleClient, Handler>;

/// Keeps a server connected for as long as the gateway lives.
async fn keep(server: Arc<Server>, http: reqwest::Client) {
    let (mut pause, mut told) = (FIRST_PAUSE, false);
    loop {
        let changed = Arc::new(Notify::new());
        let handler = Handler { changed: Arc::clone(&changed) };
        let connected = tokio::time::timeout(CONNECT, connect(&server.declared, handler, &http)).await;
        let why = match connected.unwrap_or_else(|_| Err(format!("nothing came of it in {} s", CONNECT.as_secs()))) {
            Ok((running, tools)) => {
                tracing::info!(mcp = server.name(), tools = tools.len(), "an MCP server is connected");
                server.set(Some(Connected { peer: running.peer().clone(), tools }));
                (pause, told) = (FIRST_PAUSE, false);
                let why = serve(&server, running, &changed).await;
                server.set(None);
                why
            }
            Err(why) => why,
        };
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(
                code = "agent.mcp.unreachable",
                mcp = server.name(),
                "an MCP server cannot be used, and calls go on without its tools; it is tried again: {}",
                escaped(&why)
            );
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Until the connection ends: lists the tools anew when they have changed.
async fn serve(server: &Server, running: Running, changed: &Notify) -> String {
    let peer = running.peer().clone();
    let ended = running.waiting();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            reason = &mut ended => return format!("the connection ended ({reason:?})"),
            () = changed.notified() => match tokio::time::timeout(CONNECT, listed(server.name(), &peer)).await {
                Ok(Ok(tools)) => {
                    tracing::info!(mcp = server.name(), tools = tools.len(), "the tools of an MCP server have changed");
                    server.set(Some(Connected { peer: peer.clone(), tools }));
                }
                Ok(Err(why)) => return why,
                Err(_) => return "it does not list its tools any more".to_owned(),
            },
        }
    }
}

async fn connect(
    declared: &Declared,
    handler: Handler,
    http: &reqwest::Client,
) -> Result<(Running, Arc<[Tool]>), String> {
    let running = match &declared.place {
        Place::Http { url, headers } => {
            let config = StreamableHttpClientTransportConfig::with_uri(url.as_str())
                .custom_headers(headers.clone())
                .max_sse_event_size(MAX_EVENT);
            let transport = StreamableHttpClientTransport::with_client(http.clone(), config);
            handler.serve(transport).await.map_err(|error| error.to_string())?
        }
        Place::Program { command, env } => {
            let transport = program(command, env).map_err(|error| format!("it does not start: {error}"))?;
            handler.serve(transport).await.map_err(|error| error.to_string())?
        }
    };
    let tools = listed(&declared.name, running.peer()).await?;
    Ok((running, tools))
}

fn program(command: &[String], env: &[(String, String)]) -> std::io::Result<TokioChildProcess> {
    let (name, arguments) = command.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(name);
    // our own environment holds keys
    command.args(arguments).env_clear().envs(env.iter().map(|(name, value)| (name, value))).kill_on_drop(true);
    for name in INHERITED.iter().filter(|name| !env.iter().any(|(known, _)| known == *name)) {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let (transport, _) = TokioChildProcess::builder(command).stderr(Stdio::null()).spawn()?;
    Ok(transport)
}

/// The tools as models see them: with the server's name in front.
async fn listed(server: &str, peer: &Peer<RoleClient>) -> Result<Arc<[Tool]>, String> {
    let all = peer.list_all_tools().await.map_err(|error| format!("it does not list its tools: {error}"))?;
    let mut tools = Vec::new();
    for tool in all {
        let name = format!("{server}{SEPARATOR}{}", tool.name);
        let schema = Value::Object((*tool.input_schema).clone());
        if !is_name(&name) || schema.to_string().len() > MAX_SCHEMA || tools.len() >= MAX_TOOLS {
            tracing::warn!(
                code = "agent.mcp.tool",
                tool = escaped(&name),
                "this tool is left out: its name (at most 64 letters, digits, _ and -), its schema, or the number of tools is too long"
            );
            continue;
        }
        let mut description = tool.description.or(tool.title.map(Into::into)).unwrap_or_default().into_owned();
        let end = (0..=MAX_DESCRIPTION.min(description.len())).rev().find(|at| description.is_char_boundary(*at));
        description.truncate(end.unwrap_or_default());
        tools.push(Tool { name, description, parameters: schema });
    }
    Ok(tools.into())
}
