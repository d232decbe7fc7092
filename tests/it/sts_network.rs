//! The way to a speech-to-speech service: TLS with a certificate authority of one's own, and proxies.

use std::{sync::Arc, time::Duration};

use hark::{
    agent::{self, Outgoing, sts::Sts, tls_config},
    audio::Rate,
};
use hyper_util::client::proxy::matcher::Matcher;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;
use url::Url;

use crate::support::{
    agent_call::{AgentCall, context, set, speech},
    sts_server::{Mode, StsServer},
};

/// A certificate authority in a PEM file, and a server with a certificate of it.
pub fn authority(names: &[&str]) -> (tempfile::NamedTempFile, TlsAcceptor) {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // of the same name as what it signs, it would seem to be signed by itself
    params.distinguished_name.push(DnType::CommonName, "Authority of a test");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    (file, TlsAcceptor::from(Arc::new(config)))
}

fn with(mut context: agent::Context, ca_file: Option<&std::path::Path>, proxies: Matcher) -> agent::Context {
    let tls = Arc::new(tls_config(ca_file.map(Into::into)).unwrap());
    context.outgoing = Outgoing::with_proxies(tls, Duration::from_secs(5), proxies).unwrap();
    context
}

fn no_proxies() -> Matcher {
    Matcher::builder().build()
}

async fn echo(call: &mut AgentCall<Sts>) {
    let said = speech(160 * 20);
    call.say(Rate::R8K, &said);
    call.until(|call| call.heard() >= said.len()).await;
    assert_eq!(call.audio(), said);
}

#[tokio::test]
async fn a_service_whose_authority_is_in_ca_file_is_trusted() {
    let (file, acceptor) = authority(&["localhost"]);
    let server = StsServer::start_tls(Mode::Echo, acceptor).await;
    assert_eq!(server.url().scheme(), "wss");
    let context = with(context(Rate::R8K), Some(file.path()), no_proxies());
    echo(&mut AgentCall::new(Sts::start(server.url(), context))).await;
}

#[tokio::test]
async fn an_unknown_authority_and_a_wrong_name_are_refused_with_a_reason() {
    for (names, trusted, reason) in
        [(&["localhost"], false, "UnknownIssuer"), (&["other.example"], true, "not valid for name")]
    {
        let (file, acceptor) = authority(names);
        let server = StsServer::start_tls(Mode::Echo, acceptor).await;
        let context = with(context(Rate::R8K), trusted.then_some(file.path()), no_proxies());
        let mut call = AgentCall::new(Sts::start(server.url(), context));
        call.end().await;
        assert_eq!(call.others(), ["failed agent.sts.refused"]);
        let message = call.failure();
        assert!(message.contains("TLS with localhost failed") && message.contains(reason), "{message}");
    }
}

/// A proxy that knows only CONNECT: leads every tunnel to `target`, and reports the heads of the requests.
async fn proxy(target: std::net::SocketAddr, answer: &'static str) -> (std::net::SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heads, received) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            heads.send(String::from_utf8(head).unwrap()).await.unwrap();
            client.write_all(answer.as_bytes()).await.unwrap();
            if answer.contains(" 200 ") {
                let mut server = TcpStream::connect(target).await.unwrap();
                tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
            }
        }
    });
    (address, received)
}

#[tokio::test]
async fn a_proxy_leads_to_the_service() {
    let server = StsServer::start(Mode::Echo).await;
    let (proxy, mut heads) =
        proxy(server.address(), "HTTP/1.1 200 Connection established\r\nX-Proxy: yes\r\n\r\n").await;
    let proxies = Matcher::builder().all(format!("http://us:pass@{proxy}")).build();
    // A name that only the proxy can know.
    let url: Url = "ws://sts.invalid:6030/?from=1".parse().unwrap();
    let mut call = AgentCall::new(Sts::start(url, with(context(Rate::R8K), None, proxies)));
    echo(&mut call).await;
    let head = heads.recv().await.unwrap();
    assert!(head.starts_with("CONNECT sts.invalid:6030 HTTP/1.1\r\nHost: sts.invalid:6030\r\n"), "{head}");
    assert!(head.contains("Proxy-Authorization: Basic dXM6cGFzcw==\r\n"), "{head}");
    let record = server.session(0).await.record();
    assert_eq!(record.target, "/?from=1");
    assert!(record.headers.iter().all(|(name, _)| name != "proxy-authorization"));
}

#[tokio::test]
async fn tls_goes_through_the_tunnel_of_a_proxy() {
    let (file, acceptor) = authority(&["sts.invalid"]);
    let server = StsServer::start_tls(Mode::Echo, acceptor).await;
    let (proxy, mut heads) = proxy(server.address(), "HTTP/1.1 200 OK\r\n\r\n").await;
    let proxies = Matcher::builder().https(format!("http://{proxy}")).build();
    let context = with(context(Rate::R8K), Some(file.path()), proxies);
    echo(&mut AgentCall::new(Sts::start("wss://sts.invalid/".parse().unwrap(), context))).await;
    assert!(heads.recv().await.unwrap().starts_with("CONNECT sts.invalid:443 "));
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_with_its_answer() {
    let (proxy, _heads) = proxy(([127, 0, 0, 1], 9).into(), "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
    let proxies = Matcher::builder().all(format!("http://us:pass@{proxy}")).build();
    let mut context = with(context(Rate::R8K), None, proxies);
    set(&mut context, |config| config.reconnect_ms = 0);
    let mut call = AgentCall::new(Sts::start("ws://sts.invalid:6030/".parse().unwrap(), context));
    call.end().await;
    let message = call.failure();
    assert!(message.contains(&proxy.to_string()) && message.contains("407") && !message.contains("pass@"), "{message}");
}
