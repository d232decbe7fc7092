use super::*;

fn endpoint(toml: &str) -> EndpointConfig {
    toml::from_str(&format!("url = \"https://crm.example/hark\"\n{toml}")).unwrap_or_else(|error| panic!("{error}"))
}

fn faults(toml: &str) -> Vec<Fault> {
    endpoint(toml).faults(&[])
}

fn keys(toml: &str) -> Vec<String> {
    faults(toml).into_iter().map(|fault| fault.key).collect()
}

#[test]
fn a_url_is_all_that_is_needed() {
    let ready = endpoint("").ready(&[]).unwrap();
    assert_eq!(ready.events, catalogue::CONTRACT);
    assert_eq!((ready.method, ready.schedule), (Method::POST, Schedule::DURABLE));
    assert!(matches!(ready.target, Target::Fixed(_)) && ready.auth == Auth::None && ready.keys.is_none());
}

#[test]
fn every_fault_is_found_at_once() {
    let found = keys(
        r#"events = ["call_ended", "cal_started"]
        method = "TRACE"
        headers = { "X Y" = "a", "X-Auth-Token" = "b", "Content-Type" = "c", "X-Ok" = "d\n" }
        auth = "BASIC_AUTH"
        auth_from = "env:X"
        secret = "a\nb"
        signing_secret = "hunter2"
        payload = "[1]"
        rate = -1.0"#,
    );
    let expected = [
        "events",
        "method",
        "headers.Content-Type",
        "headers.X Y",
        "headers.X-Auth-Token",
        "headers.X-Ok",
        "secret",
        "auth_user",
        "payload",
        "signing_secret",
        "rate",
    ];
    let (mut found, mut expected) = (found, expected.map(str::to_owned).to_vec());
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn secret_looking_headers_are_refused_with_a_hint() {
    for name in [
        "Authorization",
        "X-Auth",
        "X-Access-Token",
        "cookie",
        "X-Api-Key",
        "api_key",
        "X-Secret",
        "my-password",
        "X-Access-Key",
    ] {
        let found = faults(&format!("headers = {{ \"{name}\" = \"hunter2\" }}"));
        assert_eq!(found.len(), 1, "{name}");
        assert!(found[0].advice.contains("auth_from") && !found[0].reason.contains("hunter2"));
    }
    for name in ["X-Idempotency-Key", "X-Author", "X-Tenant"] {
        assert_eq!(faults(&format!("headers = {{ \"{name}\" = \"x\" }}")), [], "{name}");
    }
}

#[test]
fn credentials_are_named_and_never_written() {
    for toml in [
        "auth = \"BEARER_TOKEN\"\nauth_from = \"env:X\"",
        "auth = \"api_key\"\nauth_from = \"file:/x\"",
        "auth = \"CUSTOM_HEADER\"\nauth_from = \"file:/x\"\nauth_header = \"X-Tenant-Secret\"",
        "auth = \"BASIC_AUTH\"\nauth_from = \"file:/x\"\nauth_user = \"me\"",
    ] {
        assert_eq!(faults(toml), [], "{toml}");
    }
    for (toml, key) in [
        ("auth = \"BEARER_TOKEN\"", "auth_from"),
        ("auth = \"BEARER_TOKEN\"\nauth_from = \"hunter2\"", "auth_from"),
        ("auth_from = \"env:X\"", "auth"),
        ("auth = \"API_KEY\"\nauth_from = \"env:X\"\nauth_header = \"a b\"", "auth_header"),
        ("auth = \"BASIC_AUTH\"\nauth_from = \"env:X\"\nauth_user = \"a:b\"", "auth_user"),
    ] {
        assert_eq!(keys(toml), [key], "{toml}");
        assert!(!faults(toml)[0].reason.contains("hunter2"));
    }
}

#[test]
fn a_value_of_a_call_chooses_a_host_only_from_the_list() {
    let with = |url: &str| EndpointConfig { url: Some(url.to_owned()), ..EndpointConfig::default() };
    let allow = ["crm.example".parse().unwrap()];
    assert_eq!(with("https://crm.example/{{uuid}}").faults(&[]), []);
    let chosen = with("https://{{initial_context.crm}}/x");
    assert!(chosen.faults(&[])[0].advice.contains("routing.allow_hosts"));
    assert_eq!(chosen.faults(&allow), []);
    for url in [
        "https://u:p@crm.example/{{uuid}}",
        "https://crm.example/{{uuid}}?token=x",
        "{{scheme}}://x/",
        "",
        "ftp://x/",
        "http://",
    ] {
        assert_eq!(with(url).faults(&allow).len(), 1, "{url}");
    }
    assert_eq!(with("https://u:p@crm.example/?token=x").faults(&[]), [], "a fixed address is never stored");
}

#[test]
fn what_is_printed_holds_no_secret() {
    let endpoint = endpoint(
        "headers = { X-Tenant = \"hunter2\" }\nauth_from = \"hunter2\"\nsecret = \"hunter2\"\nsigning_secret = \"hunter2\"\nurl = \"https://u:hunter2@h/\"".replace("url", "payload = 'hunter2'\nauth_user").as_str(),
    );
    assert!(!format!("{endpoint:?}").contains("hunter2"), "{endpoint:?}");
}
