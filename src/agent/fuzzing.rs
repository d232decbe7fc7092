//! What fuzzers of vendors' messages share.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use super::{
    Config, Context, Named, Outgoing,
    service::{Kind, Providers, vendor_of},
    tls_config,
};
use crate::{
    audio::Rate,
    call::{CallId, Rules},
};

/// A call of nobody's. `None`: there is no TLS here, and nothing is fuzzed.
static CONTEXT: LazyLock<Option<Context>> = LazyLock::new(|| {
    let outgoing = Outgoing::new(Arc::new(tls_config(None).ok()?), Duration::from_secs(1)).ok()?;
    Some(Context {
        call: CallId::new(),
        uuid: uuid::Uuid::nil(),
        rate: Rate::R8K,
        about: Arc::default(),
        tools: Arc::default(),
        orders: None,
        config: Arc::new(Config::default()),
        rules: Arc::new(Rules::new(crate::call::Config::default())),
        outgoing,
    })
});

/// The service of this name, without a key.
pub fn service(text: &str, kind: Kind) -> Option<(&'static Context, Named)> {
    let (vendor, rest) = vendor_of(text)?;
    Some((CONTEXT.as_ref()?, Named::parse(vendor, rest, kind, &Providers::default()).ok()?))
}
