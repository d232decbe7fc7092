//! What becomes of directories and databases that are opened.

use super::*;

#[tokio::test]
async fn a_data_directory_has_one_owner_and_the_refusal_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&sqlite(dir.path())).await;
    let refused = Store::open(&sqlite(dir.path())).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Locked { pid, .. } if *pid == std::process::id().to_string()),
        "{refused:?}"
    );
    assert!(refused.needs_a_person() && refused.to_string().contains("HARK_DATA_DIR"), "{refused}");
    assert!(store.close(soon()).await);
    open(&sqlite(dir.path())).await;
}

#[tokio::test]
async fn names_of_directories_may_hold_anything() {
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join("a b?c#d%41é&e=f");
    let store = open(&sqlite(&odd)).await;
    store.put(said(CallId::new(), "x")).await.unwrap();
    assert!(odd.join("hark.db").exists());
}

#[tokio::test]
async fn what_is_no_database_is_refused_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("hark.db"),
        "this is not a database, but it is long enough to look like a file".repeat(100),
    )
    .unwrap();
    let refused = Store::open(&sqlite(dir.path())).await.unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt(_)) && refused.needs_a_person(), "{refused:?}");
    let file = tempfile::NamedTempFile::new().unwrap();
    let refused = Store::open(&sqlite(file.path())).await.unwrap_err();
    assert_eq!(refused.code(), "store.directory");
}

#[tokio::test]
async fn a_database_of_the_first_version_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}?mode=rwc", dir.path().join("hark.db").display());
    let mut connection = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    let dump = include_str!("../../../fixtures/store/version1.sql");
    sqlx::raw_sql(dump).execute(&mut connection).await.unwrap();
    drop(connection);
    let refused = Store::visit(&sqlite(dir.path())).await.unwrap_err();
    assert!(
        refused.code() == "store.version" && refused.to_string().contains("start this version's gateway"),
        "{refused}"
    );
    let store = open(&sqlite(dir.path())).await;
    assert_eq!(store.retry_dead(None, SystemTime::UNIX_EPOCH).await.unwrap(), 1);
    let due = timeout(PATIENCE, store.next("default")).await.unwrap();
    assert_eq!((&*due.kind, due.seq, due.attempt, due.scheduled()), ("call_initiated", 1, 2, 1));
    store.put(Entry { to: vec![Recipient::plain("default".into())], ..said(due.call, "later") }).await.unwrap();
    done(&store, &due);
    assert_eq!(timeout(PATIENCE, store.next("default")).await.unwrap().seq, 2);
    Store::visit(&sqlite(dir.path())).await.unwrap();
}

#[tokio::test]
async fn a_server_of_the_first_version_is_brought_up_to_date() {
    let postgres = Postgres::start().await;
    let config = Config { url: Some(postgres.url()), ..Config::default() };
    assert!(open(&config).await.close(soon()).await);
    // the later versions' steps, backwards
    let back = "ALTER TABLE deliveries DROP COLUMN tries_before; ALTER TABLE announcements DROP COLUMN call, DROP COLUMN taken, \
                DROP COLUMN awaited, DROP COLUMN replaced; DROP INDEX deliveries_asking; DELETE FROM _sqlx_migrations WHERE version > 1";
    postgres.psql(back).unwrap();
    assert_eq!(Store::visit(&config).await.unwrap_err().code(), "store.version");
    let store = open(&config).await;
    store.put(said(CallId::new(), "x")).await.unwrap();
    assert_eq!(next(&store).await.tries_before, 0);
}

#[tokio::test]
async fn a_database_of_a_later_version_is_refused() {
    let dir: TempDir = tempfile::tempdir().unwrap();
    let store = open(&sqlite(dir.path())).await;
    assert!(store.close(soon()).await);
    drop(store);
    let url = format!("sqlite://{}", dir.path().join("hark.db").display());
    let mut connection = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    let later = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (99, 'x', 1, x'00', 0)";
    sqlx::query(later).execute(&mut connection).await.unwrap();
    drop(connection);
    let refused = Store::open(&sqlite(dir.path())).await.unwrap_err();
    assert!(matches!(refused, StoreError::Version(_)) && refused.needs_a_person(), "{refused:?}");
}
