//! What delivery asks the store about endpoints.

use futures_core::future::BoxFuture;

use super::{Store, StoreError};
use crate::{
    call::EventId,
    webhook::{Outcome, Report, sign::EndpointStore},
};

fn words(error: StoreError) -> String {
    error.to_string()
}

impl Store {
    async fn keys(&self, endpoint: &str) -> Result<Option<String>, StoreError> {
        let secrets = self.secrets(endpoint).await?;
        // the present one first; two are active at most
        let active: Vec<_> = secrets.into_iter().take(2).map(|secret| secret.secret).collect();
        Ok((!active.is_empty()).then(|| active.join(" ")))
    }
}

impl EndpointStore for Store {
    fn load<'a>(&'a self, endpoint: &'a str) -> BoxFuture<'a, Result<Option<String>, String>> {
        Box::pin(async move { self.keys(endpoint).await.map_err(words) })
    }

    fn establish<'a>(&'a self, endpoint: &'a str, keys: &'a str) -> BoxFuture<'a, Result<String, String>> {
        Box::pin(async move {
            self.ensure_secret(endpoint, keys).await.map_err(words)?;
            self.keys(endpoint)
                .await
                .map_err(words)?
                .ok_or_else(|| "the secret is not there after it was stored".to_owned())
        })
    }

    fn disabled<'a>(&'a self, endpoint: &'a str) -> BoxFuture<'a, Result<Option<String>, String>> {
        Box::pin(async move {
            let all = Self::disabled(self).await.map_err(words)?;
            Ok(all.into_iter().find(|disabled| disabled.endpoint == endpoint).map(|disabled| disabled.reason))
        })
    }

    fn disable<'a>(&'a self, endpoint: &'a str, reason: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move { self.set_disabled(endpoint, Some(reason)).await.map_err(words) })
    }

    fn answered<'a>(
        &'a self,
        event: EventId,
        endpoint: &'a str,
        outcome: Outcome,
        report: Report,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move { self.settle(event, endpoint, outcome, report).await.map_err(words) })
    }
}
