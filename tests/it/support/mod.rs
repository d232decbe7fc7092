//! What several tests share.

pub mod agent_call;
pub mod ari;
pub mod cascade;
pub mod connector;
pub mod engines;
pub mod gateway;
pub mod language_model;
pub mod log;
pub mod models;
pub mod postgres;
pub mod receiver;
pub mod stores;
pub mod sts_server;

use std::{sync::Arc, time::Duration};

/// A test that takes longer hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// TLS settings that trust nobody: these tests stay on the loopback, without TLS.
pub fn tls() -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

/// An HTTP client for the loopback, as delivery uses it.
pub fn client() -> reqwest::Client {
    hark::webhook::client_builder(&tls()).build().unwrap()
}
