//! The load of `make bench-providers` against a gateway in this process: that it measures what it says, not how fast.

use std::time::Duration;

use url::Url;

#[allow(dead_code, reason = "the bench uses all of it")]
#[path = "../../benches/providers/load.rs"]
mod load;

use crate::support::gateway::Gateway;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cascades_over_tls_are_measured_at_every_step() {
    let vendors = load::Vendors::start().await;
    let unused = Url::parse("ws://127.0.0.1:1/").unwrap();
    let gateway = Gateway::with(&unused, |config| {
        config.agent.sts_url = None;
        config.tls.ca_file = Some(vendors.authority.path().to_owned());
        load::configure(&mut config.agent, &vendors.addresses);
    })
    .await;
    let run = load::Run { calls: 3, ramp: 10, settle: Duration::from_secs(1), length: Duration::from_secs(8) };
    let seen = run.go(gateway.audiosocket.port(), &vendors, |_| {}).await;
    assert_eq!(seen.broken, 0);
    for (what, values) in
        [("model", &seen.to_model.took), ("voice", &seen.to_voice.took), ("phone", &seen.to_phone.took)]
    {
        assert!(values.len() >= 2, "{what}: {values:?}");
        assert!(values.iter().all(|ms| (0.0..5_000.0).contains(ms)), "{what}: {values:?}");
    }
}
