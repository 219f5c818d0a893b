//! TLS: whom to trust, and that nothing leads away from it.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use runtime::image::{PullOptions, RegistryError, Speak};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::image::Image;
use super::shelf::Shelf;
use super::stage::{Stage, options, registry};
use super::stub::{Reply, Request, Stream, Stub};

/// A server that speaks TLS, and the certificate by which to trust it.
struct Secure {
    stub: Stub,
    _dir: tempfile::TempDir,
    certificate: PathBuf,
}

impl Secure {
    fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let names = ["127.0.0.1".to_owned()];
        let CertifiedKey { cert, key_pair: key } = generate_simple_self_signed(names).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let certificate = dir.path().join("ca.crt");
        std::fs::write(&certificate, cert.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let wrap = move |stream: TcpStream| -> io::Result<Box<dyn Stream>> {
            let server = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
            Ok(Box::new(StreamOwned::new(server, stream)))
        };
        Self { stub: Stub::wrapped(answer, wrap), _dir: dir, certificate }
    }

    fn options(&self) -> PullOptions {
        let mut options = options();
        options.registry.speak.insert(self.stub.host(), Speak::Tls);
        options.registry.authorities.push(self.certificate.clone());
        options
    }

    fn name(&self) -> String {
        format!("{}/app", self.stub.host())
    }
}

#[tokio::test]
async fn a_registry_is_trusted_by_its_certificate_and_not_without() {
    let image = Image::usual();
    let shelf = Shelf::of("latest", &image);
    let secure = Secure::start(move |request| shelf.answer(request));
    let mut strangers = secure.options();
    let other = Secure::start(|_| Reply::new(500, ""));
    strangers.registry.authorities = vec![other.certificate.clone()];
    let error = registry(Stage::new().refused(&secure.name(), &strangers).await);
    assert!(matches!(error, RegistryError::Tls { .. }), "{error:?}");
    assert!(secure.stub.seen().is_empty());
    let stage = Stage::new();
    stage.pull_with(&secure.name(), &secure.options()).await.unwrap();
    stage.holds(&image);
}

#[tokio::test]
async fn a_registry_without_tls_is_said_to_have_none() {
    // What servers of plain HTTP answer to a record of TLS.
    let answer = |mut stream: TcpStream| -> io::Result<Box<dyn Stream>> {
        let mut head = [0; 5];
        stream.read_exact(&mut head)?;
        let length = u16::from_be_bytes([head[3], head[4]]);
        stream.read_exact(&mut vec![0; length.into()])?;
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\nthis port is for plain HTTP")?;
        Err(io::ErrorKind::InvalidData.into())
    };
    let stub = Stub::wrapped(|_| Reply::new(500, ""), answer);
    let secure = Secure::start(|_| Reply::new(500, ""));
    let mut options = secure.options();
    options.registry.speak.insert(stub.host(), Speak::Tls);
    let error = registry(Stage::new().refused(&format!("{}/app", stub.host()), &options).await);
    assert!(matches!(error, RegistryError::NoTls { .. }), "{error:?}");
}

#[tokio::test]
async fn nothing_leads_from_tls_to_where_there_is_none() {
    let image = Image::usual();
    let plain = Stub::start(|_| Reply::new(200, "{\"token\":\"x\"}"));
    let place = format!("http://{}/", plain.host());
    let challenge = format!("Bearer realm=\"{place}\"");
    let shelf = Shelf::of("latest", &image);
    let layer = image.layers[0].digest().to_string();
    let redirecting = Secure::start(move |request| {
        if request.path.contains(&layer) {
            return Reply::new(307, "").with("Location", place.clone());
        }
        shelf.answer(request)
    });
    let challenging =
        Secure::start(move |_| Reply::new(401, "").with("WWW-Authenticate", challenge.clone()));
    for secure in [redirecting, challenging] {
        let error = Stage::new().refused(&secure.name(), &secure.options()).await;
        let error = registry(error);
        assert!(matches!(error, RegistryError::Forbidden { .. }), "{error:?}");
    }
    assert!(plain.seen().is_empty());
}

#[tokio::test]
async fn a_file_without_certificates_is_an_error() {
    let secure = Secure::start(|_| Reply::new(500, ""));
    let empty = secure.certificate.with_file_name("empty");
    std::fs::write(&empty, "no certificate").unwrap();
    for path in [empty, PathBuf::from("/nonexistent/ca.crt")] {
        let mut options = secure.options();
        options.registry.authorities.push(path.clone());
        let error = registry(Stage::new().refused(&secure.name(), &options).await);
        assert!(
            matches!(&error, RegistryError::Authorities { path: said, .. } if *said == path),
            "{error:?}"
        );
    }
}
