//! How a session begins, or does not.

use super::*;

#[tokio::test]
async fn a_refused_connection_is_tried_again_and_the_second_try_is_used() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut call = AgentCall::new(Sts::start(format!("ws://{address}/").parse().unwrap(), context(R8K)));
    // The first try is over when the agent has come to rest.
    assert!(tokio::time::timeout(Duration::from_millis(100), call.until(|_| false)).await.is_err());
    let server = StsServer::on(TcpListener::bind(address).await.unwrap(), Mode::Echo, None);
    call.say(R8K, &speech(160));
    call.during(server.session(0)).await;
    call.until(|call| call.audio().len() == 160).await;
    assert_eq!(call.others(), Vec::<String>::new());
}

#[tokio::test]
async fn a_connection_refused_for_good_is_a_failure() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut context = context(R8K);
    set(&mut context, |config| config.reconnect_ms = 300);
    let mut call = AgentCall::new(Sts::start(format!("ws://us:secret@{address}/").parse().unwrap(), context));
    call.end().await;
    assert_eq!(call.others(), ["failed agent.sts.refused"]);
    let message = call.failure();
    assert!(
        message.contains(&address.to_string()) && message.contains("refused") && !message.contains("secret"),
        "{message}"
    );
}

#[tokio::test]
async fn a_service_that_hangs_is_a_failure_after_the_time_limit() {
    // The kernel accepts the connection; nobody ever answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut context = context(R8K);
    set(&mut context, |config| config.connect_timeout_ms = 200);
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let mut call = AgentCall::new(Sts::start(url.parse().unwrap(), context));
    call.end().await;
    assert_eq!(call.others(), ["failed agent.sts.refused"]);
    assert!(call.failure().ends_with("did not answer within 200 ms"), "{}", call.failure());
}

#[tokio::test]
async fn a_service_that_answers_something_else_is_a_failure_in_its_own_words() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let answer = "HTTP/1.1 404 Not Found\r\nContent-Length: 13\r\n\r\nno such\x1b path";
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 4096]).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        // Open until the client is done with it.
        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1]).await;
    });
    let mut call = AgentCall::new(Sts::start(url.parse().unwrap(), context(R8K)));
    call.end().await;
    assert_eq!(call.others(), ["failed agent.sts.refused"]);
    assert!(call.failure().contains("404") && !call.failure().contains('\x1b'), "{}", call.failure());
}

#[tokio::test]
async fn query_parameters_and_path_arrive_byte_exact() {
    let server = StsServer::start(Mode::Script(vec![])).await;
    let target = "/?from=2000&to=5001&uniqueid=1770758888.32&channel=PJSIP%2F2000-00000013&recording=false&name=A+B%23";
    let mut call = AgentCall::new(Sts::start(server.url().join(target).unwrap(), context(R8K)));
    let record = open(&mut call, &server).await.record();
    assert_eq!(record.target, target);
    let names: Vec<&str> = record.headers.iter().map(|(name, _)| name.as_str()).collect();
    for absent in ["sec-websocket-protocol", "authorization"] {
        assert!(!names.contains(&absent), "{absent} was sent");
    }
}
