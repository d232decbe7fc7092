//! Settings: compiled-in `default.toml` < `hark.toml` < `HARK__SECTION__KEY` < the contract's own variables.
