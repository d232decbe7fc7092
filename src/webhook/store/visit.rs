//! Looking into a store on which a gateway may be working: what `hark webhooks` does.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Config, Db, Store, StoreError, Writer};

impl Store {
    /// Opens the store beside whoever owns it: takes no lock, no lease and nothing over, and makes no tables. What a visitor changes is
    /// noticed by the owners within a second.
    ///
    /// # Errors
    /// There is no store yet, or it does not work.
    pub async fn visit(config: &Config) -> Result<Self, StoreError> {
        let db = match &config.url {
            Some(url) => Db::postgres(url)?,
            None if config.data_dir.join("hark.db").exists() => Db::sqlite(config)?,
            None => return Err(StoreError::Missing { path: config.data_dir.clone() }),
        };
        let (core, orphaned) = Self::core(db, config);
        let cancel = CancellationToken::new();
        let mut writer = Writer::visitor(Arc::clone(&core), cancel.clone());
        writer.connect().await?;
        Ok(Self::start(core, writer, orphaned, cancel))
    }
}
