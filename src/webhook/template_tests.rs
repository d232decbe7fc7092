use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn context() -> Context {
    let json = json!({
        "uuid": "u-1",
        "initial_context": {"name": "Ada \"L\"", "age": 36, "vip": true, "tags": ["a", "b"], "empty": "", "nothing": null, "deep": {"er": {"x": 1.5}}},
        "root_only": "r",
        "recording_url": null,
    });
    // Thursday
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_268_800);
    Context { members: json.as_object().unwrap().clone(), now }
}

fn text(template: &str) -> String {
    Text::parse(template).render(&context())
}

#[test]
fn placeholders_are_looked_up_and_written_as_text() {
    for (template, expected) in [
        ("plain", "plain"),
        ("", ""),
        ("Hi {{initial_context.name}}!", "Hi Ada \"L\"!"),
        ("{{ initial_context.age }} {{initial_context.vip}}", "36 True"),
        ("{{initial_context.tags}}", r#"["a","b"]"#),
        ("{{initial_context.deep}}", r#"{"er":{"x":1.5}}"#),
        ("{{initial_context.deep.er.x}}", "1.5"),
        ("{{initial_context.tags.0}}", ""),
        ("{{missing}}{{recording_url}}{{initial_context.nothing}}{{initial_context.name.x}}", ""),
        ("{{initial_context.root_only}}", "r"),
        ("{{missing | Unknown}}", "Unknown"),
        ("{{missing|fallback:Un known}}", "Un known"),
        ("{{missing | fallback : a:b }}", "a:b"),
        ("{{initial_context.empty | x}}{{recording_url | y}}", "xy"),
        ("{{initial_context.age | x}}", "36"),
        ("{{first_name | fallback}}", "First Name"),
        ("{{initial_context.first_name|fallback}}", "Initial Context.First Name"),
        ("{{missing | fallbacks}}", "fallbacks"),
        ("{{missing | }}", ""),
        ("{{current_time}}", "2026-01-01 12:00:00 UTC"),
        ("{{current_weekday}}", "Thursday"),
        ("{{current_time_Europe/Berlin}}", "2026-01-01 13:00:00 CET"),
        ("{{current_time_UTC}}", "2026-01-01 12:00:00 UTC"),
        ("{{current_weekday}} {{current_time_Pacific/Auckland}}", "Friday 2026-01-02 01:00:00 NZDT"),
        ("{{current_time}}, {{current_weekday_America/New_York}}", "2026-01-01 07:00:00 EST, Thursday"),
        ("{{current_time_Asia/Tokyo}} {{current_weekday_UTC}}", "2026-01-01 21:00:00 JST Thursday"),
        ("{{current_time_Mars/Olympus | never}}{{current_timely}}{{current_time_}}", "never"),
        ("{{initial_context.vip}} {{initial_context.tags}}", r#"True ["a","b"]"#),
        (r"a\nb", "a\nb"),
        ("{{ a b }} {{}} {{ | x}} {{", "{{ a b }} {{}} {{ | x}} {{"),
        ("{{{uuid}}} }}", "{u-1} }}"),
        ("{{a{{uuid}}", "{{au-1"),
        ("{{uuid", "{{uuid"),
    ] {
        assert_eq!(text(template), expected, "{template:?}");
    }
}

#[test]
fn payloads_keep_their_shape_and_names_are_rendered_too() {
    let template = json!({
        "{{uuid}}": ["{{initial_context.age}}", 7, null, {"x": "{{initial_context.deep.er}}"}],
        "said": "{{initial_context.name}}", "lone": "{{missing}}", "kept": true,
    });
    let rendered = Template::new(&template, false).render(&context());
    let expected = json!({"u-1": ["36", 7, null, {"x": "{\"x\":1.5}"}], "said": "Ada \"L\"", "lone": "", "kept": true});
    assert_eq!(rendered.to_string(), expected.to_string());
    let typed = Template::new(&template, true).render(&context());
    let expected = json!({"u-1": [36, 7, null, {"x": {"x": 1.5}}], "said": "Ada \"L\"", "lone": null, "kept": true});
    assert_eq!(typed.to_string(), expected.to_string());
    let typed = |text: &str| Template::new(&json!(text), true).render(&context());
    assert_eq!(typed("{{missing | 5}}"), json!("5"));
    assert_eq!(typed("is {{initial_context.age}}"), json!("is 36"));
}

fn url(template: &str) -> Result<String, BadUrl> {
    UrlTemplate::new(template)?.render(&context()).map(String::from)
}

#[test]
fn values_in_an_address_stay_in_their_place() {
    let with = |value: &str| {
        let mut context = context();
        context.members.insert("v".to_owned(), value.into());
        UrlTemplate::new("https://crm.example/a/{{v}}/c?x={{v}}#f").unwrap().render(&context).map(String::from)
    };
    for (value, encoded) in
        [("a/../../b?c#d", "a%2F..%2F..%2Fb%3Fc%23d"), ("ü &=+%", "%C3%BC%20%26%3D%2B%25"), ("+49-1.2", "%2B49-1.2")]
    {
        assert_eq!(with(value), Ok(format!("https://crm.example/a/{encoded}/c?x={encoded}#f")));
    }
    for value in [".", ".."] {
        assert_eq!(with(value), Err(BadUrl::Dots), "{value}");
    }
    // in the path these would be resolved away; as they are encoded they cannot be
    assert!(with("%2e%2e").unwrap().contains("/%252e%252e/"));
    assert_eq!(with(""), Err(BadUrl::Empty("v".to_owned())));
    assert_eq!(url("http://h/{{initial_context.tags}}"), Err(BadUrl::Structure("initial_context.tags".to_owned())));
    assert_eq!(url("http://h/{{missing | d}}/{{initial_context.age}}"), Ok("http://h/d/36".to_owned()));
    assert_eq!(url("{{uuid}}://h/"), Err(BadUrl::Scheme));
    assert_eq!(url("ftp://h/{{uuid}}"), Err(BadUrl::Scheme));
    assert_eq!(with(&"x".repeat(9_000)), Err(BadUrl::Long));
}

#[test]
fn a_template_that_chooses_the_host_is_known_as_one() {
    let chooses = |text: &str| UrlTemplate::new(text).unwrap().chooses_host();
    for text in ["http://{{h}}/", "http://a.{{h}}", "http://u:{{p}}@h/", "http://h:{{p}}/x", "https://{{h}}?x"] {
        assert!(chooses(text), "{text}");
    }
    // URL parsers skip further slashes and leave out line breaks and tabs
    for text in ["http:///{{h}}/", "http:////{{h}}", "http://\\{{h}}/x", "http://\\n/{{h}}/", "http://\t/{{h}}?x"] {
        assert!(chooses(text), "{text:?}");
    }
    for text in ["http://h/{{x}}", "http://h?{{x}}", "http://h#{{x}}", "https://u:p@h:1/a?b={{x}}", "http://h"] {
        assert!(!chooses(text), "{text}");
    }
    assert!(UrlTemplate::is_one("http://h/{{x}}") && !UrlTemplate::is_one("http://h/{x}"));
}

#[test]
fn errors_name_the_placeholder_and_never_its_value() {
    assert_eq!(
        url("http://h/{{missing}}").unwrap_err().to_string(),
        "{{missing}} has no value; give it one with {{missing | …}}"
    );
}

proptest! {
    #[test]
    fn a_text_without_placeholders_is_itself(template in "[^{\\\\]{0,60}|[^}\\\\]{0,60}") {
        prop_assert_eq!(text(&template), template);
    }

    #[test]
    fn any_text_is_a_template(template in "([a-z{}|.: \\\\n]|\\{\\{|\\}\\}|initial_context\\.name|current_(time|weekday)_?|Europe/Rome|ü){0,40}", typed: bool) {
        let _ = Template::new(&json!({ template.as_str(): [template.as_str()] }), typed).render(&context());
        if let Ok(url) = UrlTemplate::new(&format!("http://h/{template}")) {
            let _ = (url.render(&context()), url.chooses_host());
        }
    }

    #[test]
    fn a_value_comes_back_whole_from_its_place(value in ".{1,40}") {
        let mut context = context();
        context.members.insert("v".to_owned(), value.as_str().into());
        prop_assert_eq!(Text::parse("<{{v}}>").render(&context), format!("<{value}>"));
        let rendered = UrlTemplate::new("http://h.example:81/a/{{v}}/b?q={{v}}").unwrap().render(&context);
        if value == "." || value == ".." {
            prop_assert_eq!(rendered, Err(BadUrl::Dots));
        } else {
            let url = rendered.unwrap();
            prop_assert_eq!((url.scheme(), url.host_str(), url.port()), ("http", Some("h.example"), Some(81)));
            let segments: Vec<_> = url.path_segments().unwrap().collect();
            prop_assert_eq!(segments.len(), 3);
            prop_assert_eq!(percent_encoding::percent_decode_str(segments[1]).decode_utf8().unwrap(), value.as_str());
            let query: Vec<_> = url.query_pairs().into_owned().collect();
            prop_assert_eq!(query, vec![("q".to_owned(), value)]);
        }
    }

    #[test]
    fn a_host_from_a_value_is_a_host_or_an_error(value in ".{1,30}|[a-z@:/?#\\\\.%]{1,20}") {
        let mut context = context();
        context.members.insert("v".to_owned(), value.into());
        if let Ok(url) = UrlTemplate::new("http://{{v}}/path").unwrap().render(&context) {
            prop_assert_eq!((url.username(), url.password(), url.path()), ("", None, "/path"));
        }
    }
}
