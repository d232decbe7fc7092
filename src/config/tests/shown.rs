//! What of the settings is shown, any input at all, and what is declared by name.

use proptest::prelude::*;

use super::*;

#[test]
fn secrets_are_never_shown() {
    let secret = "hunter2";
    let url = "ws://me:hunter2@localhost:6030/?api_key=hunter2";
    let config =
        with_file("[webhooks]\nsecret = \"hunter2\"", &[("STS_URL", url), ("WEBHOOK_SECRET", secret)]).unwrap();
    assert_eq!(config.webhooks.secret.as_deref(), Some(secret));
    assert!(!format!("{config:?}").contains(secret), "{config:?}");
    assert!(!format!("{:?}", config.webhooks).contains(secret), "{:?}", config.webhooks);
    assert!(!format!("{:?}", config.settings).contains(secret), "{:?}", config.settings);
    assert!(config.settings.iter().any(|setting| setting.key == "webhooks.secret" && setting.value == "\"***\""));
    let faults = faults(&[
        ("WEBHOOK_SECRET", "hunter2\u{1}"),
        ("STS_URL", "smtp://me:hunter2@localhost"),
        ("ASR_URL", "//me:hunter2@localhost"),
        ("HARK__WEBHOOKS__SECRETE", secret),
    ]);
    assert_eq!(faults.0.len(), 4, "{faults}");
    assert!(!faults.to_string().contains(secret), "{faults}");
}

proptest! {
    #[test]
    fn any_environment_ends_in_a_value_or_faults(
        names in proptest::collection::vec(prop_oneof![
            Just("PORT".to_owned()), Just("VAD_MIN_SPEECH_FRAMES".to_owned()), Just("VAD_FRAME_SAMPLES".to_owned()),
            Just("AMBIENT_NOISE_LEVEL".to_owned()), Just("SYSTEM_MESSAGE".to_owned()), Just("STS_URL".to_owned()),
            Just("HARK__LIMITS__MEDIA_THREADS".to_owned()), Just("HARK__CALL__VAD".to_owned()), "HARK__[A-Z_.\\[\\]0-9]{0,12}",
        ], 1..8),
        values in proptest::collection::vec(prop_oneof!["\\PC{0,12}", "[-0-9.e]{0,24}", "[a-z:/@?]{0,12}"], 8),
    ) {
        let env: BTreeMap<String, String> = names.into_iter().zip(values).collect();
        let result = Config::load(&Sources { env, ..Sources::default() });
        if let Err(faults) = result {
            prop_assert!(!faults.is_empty());
            prop_assert!(faults.to_string().lines().count() == faults.0.len() + 2);
        }
    }

    #[test]
    fn any_file_ends_in_a_value_or_faults(text in "(\\[(call|webhooks|x)\\]\n|[a-z_.\"]{0,8} ?= ?[-0-9a-z\"\\[\\]{}.]{0,8}\n|\\PC{0,6}\n){0,8}") {
        let mut faults = Faults::default();
        Layer::from_file(&Schema::new(), Path::new("hark.toml"), &text, &mut faults);
        prop_assert!(faults.0.iter().all(|fault| !fault.to_string().contains('\n')));
    }
}

#[test]
fn dial_strings_have_names() {
    let file = "[outbound]\ncaller_id = \"Hark <1>\"\n[outbound.dial]\ndefault = \"PJSIP/{to}@trunk\"\noffice = \"Local/{to}@in\"";
    let config = with_file(file, &[]).unwrap();
    assert_eq!((config.outbound.dial.len(), config.outbound.dial["office"].as_str()), (2, "Local/{to}@in"));
    assert_eq!((config.outbound.caller_id.as_deref(), config.outbound.timeout_s), (Some("Hark <1>"), 30));
    let wrong = with_file("[outbound.dial]\ndefault = 7\n[outbound]\ntimeout_s = 0", &[]).unwrap_err();
    assert_eq!(wrong.0.len(), 2, "{wrong}");
}

#[test]
fn tools_are_declared_and_allowed_or_their_faults_told() {
    let declared = "[[tools]]\nname = \"crm\"\ndescription = \"Looks it up.\"\nurl = \"https://crm/x\"\nheaders = { A = \"${CRM}\" }\n";
    let right = format!(
        "{declared}[agent]\ntools = [\"crm\", \"transfer\"]\ntransfer_to = [\"600\"]\n[profiles.x]\nagent.tools = [\"hangup\"]\n"
    );
    let config = with_file(&right, &[("CRM", "hunter2")]).unwrap();
    assert_eq!((config.tools.len(), config.agent.tools.len(), config.profiles["x"].agent.tools.len()), (1, 2, 1));
    assert!(!format!("{:?}", config.tools).contains("hunter2"));
    let wrong = format!(
        "{declared}{declared}[[tools]]\nname = \"hangup\"\ndescription = \"\"\nurl = \"x\"\n[agent]\ntools = [\"cmr\", \"transfer\"]\n\
         [profiles.x]\nagent.tools = [\"nope\"]\n"
    );
    let told = with_file(&wrong, &[]).unwrap_err().to_string();
    for part in [
        "tools, number 1",
        "the environment has no CRM",
        "tools, number 2",
        "there is another tool \"hangup\"",
        "description is missing",
        "url begins with",
        "no tool \"cmr\"",
        "agent.transfer_to says nowhere",
        "profiles.x.agent.tools",
        "no tool \"nope\"",
    ] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    let told = with_file("[[tools]]\nname = \"a\"\nurl = \"x\"\nheaders = 7\n", &[]).unwrap_err().to_string();
    assert!(told.contains("tools, number 1") && told.contains("A tool has name"), "{told}");
}
