//! One HTTP request to the state service, on a connection of its own, bounded in time and size.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use axum::body::Bytes;
use berth_core::wire::ErrorReply;
use berth_state::given::Fault;
use berth_state::tls;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::HeaderValue;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::origin::Origin;
use super::token::Token;

/// Across a continent and a busy network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A poll waits almost half a minute.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);
/// All nodes of a large pool, or all changes of one reply, many times over.
const MAX_ANSWER: usize = 64 << 20;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{}", lines(.0))]
    Usage(Vec<Fault>),
    /// By the service, or its answer makes no sense.
    #[error("{0}")]
    Refused(String),
    /// The token, or the caller, by the service or by a proxy in between. Either may change while a command waits.
    #[error("{0}")]
    Denied(String),
    /// There is no such session or node.
    #[error("{0}")]
    Absent(String),
    #[error("{0}")]
    Unreachable(String),
    /// The service is well, and has too much to do for this now.
    #[error("{0}")]
    Busy(String),
    /// A node that leaves still had sessions at its deadline.
    #[error("{0}")]
    Remaining(String),
    /// Nothing is known of a node: it may have another name.
    #[error("{0}")]
    Unknown(String),
    /// A signal ended the command; this is its number.
    #[error("{1}")]
    Stopped(u8, String),
    #[error(transparent)]
    Output(#[from] std::io::Error),
}

impl Failure {
    /// It may succeed if it is tried again: the service, the token, or what a proxy in between lets through may change.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Busy(_) | Self::Denied(_))
    }
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n  ")
}

/// A PEM file, and the flag or variable that names it.
pub(super) struct Pem {
    pub(super) place: String,
    pub(super) is_flag: bool,
    pub(super) file: PathBuf,
}

impl Pem {
    fn named(&self) -> tls::Named<'_> {
        (&self.place, &self.file)
    }
}

/// What opens TLS connections, and whose certificate must be shown on them.
pub(super) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
    has_certificate: bool,
}

impl Tls {
    /// Reads the files if the service is `https://`; else the result is `None`, and a flag that names a file is a fault.
    ///
    /// # Errors
    /// Every fault, with its place.
    pub(super) fn read(
        origin: &Origin,
        ca: Option<&Pem>,
        own: Option<&(Pem, Pem)>,
    ) -> Result<Option<Self>, Vec<Fault>> {
        let Some(name) = origin.tls_name.clone() else {
            // From a variable they may be meant for other calls.
            let pems = ca.into_iter().chain(own.map(|(cert, _)| cert)).filter(|pem| pem.is_flag);
            let message = format!("is for https://, and the service is {origin}");
            let faults: Vec<Fault> = pems.map(|pem| Fault::new(&pem.place, &message)).collect();
            return if faults.is_empty() { Ok(None) } else { Err(faults) };
        };
        let connector =
            tls::connector(ca.map(Pem::named), own.map(|(cert, key)| (cert.named(), key.named())))?;
        Ok(Some(Self { connector, name, has_certificate: own.is_some() }))
    }
}

pub(super) struct Client {
    authority: String,
    token: Option<Token>,
    tls: Option<Tls>,
}

impl Client {
    pub(super) fn new(origin: &Origin, token: Option<Token>, tls: Option<Tls>) -> Self {
        Self { authority: format!("{}:{}", origin.host, origin.port), token, tls }
    }

    /// A page of Envoy's admin interface.
    pub(super) async fn page(&self, path: &str) -> Result<Bytes, Failure> {
        let (status, page) = self.send("GET", path, &[]).await?;
        if status.is_success() {
            return Ok(page);
        }
        let authority = &self.authority;
        Err(Failure::Refused(format!("{authority} answered {status}: is --admin Envoy's admin interface?")))
    }

    /// Sends a request and returns status and body of the answer.
    async fn send(&self, method: &str, path: &str, body: &[u8]) -> Result<(StatusCode, Bytes), Failure> {
        let unreachable =
            |reason: String| Failure::Unreachable(format!("cannot reach {}: {reason}", self.authority));
        let connect = async {
            let stream = TcpStream::connect(&self.authority).await.map_err(|error| error.to_string())?;
            match &self.tls {
                None => Ok(Box::new(stream) as Box<dyn Stream>),
                Some(Tls { connector, name, .. }) => {
                    let stream = connector.connect(name.clone(), stream).await;
                    Ok(Box::new(stream.map_err(|error| tls_advice(&error))?) as Box<dyn Stream>)
                }
            }
        };
        let authorization = self.token.as_ref().map(Token::header).transpose();
        let authorization = authorization.map_err(|fault| Failure::Denied(fault.to_string()))?;
        let stream = timeout(CONNECT_TIMEOUT, connect)
            .await
            .map_err(|_| unreachable("no connection in time".to_owned()))?
            .map_err(unreachable)?;
        let exchange =
            timeout(ANSWER_TIMEOUT, self.exchange(stream, authorization, method, path, body)).await;
        exchange
            .map_err(|_| unreachable("no answer in time".to_owned()))?
            .map_err(|error| unreachable(self.advice(&*error)))
    }

    /// The same as [`Self::ask`], connection included, in less time than a poll may take.
    pub(super) async fn ask_within(
        &self,
        time: Duration,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Result<Bytes, Failure> {
        let late = |_| Failure::Unreachable(format!("{} did not answer in {time:?}", self.authority));
        timeout(time, self.ask(method, path, body)).await.map_err(late)?
    }

    /// Sends a request to the state service and returns the body of a 2xx answer.
    pub(super) async fn ask(&self, method: &str, path: &str, body: &[u8]) -> Result<Bytes, Failure> {
        let (status, answer) = self.send(method, path, body).await?;
        if status.is_success() {
            return Ok(answer);
        }
        let Ok(ErrorReply { error }) = serde_json::from_slice(&answer) else {
            return Err(self.not_by_the_service(status));
        };
        let mut message = error.message;
        for fault in error.faults {
            let _ = write!(message, "\n  {fault}");
        }
        Err(match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Failure::Busy(message),
            _ if status.is_server_error() => Failure::Unreachable(message),
            StatusCode::UNAUTHORIZED if self.token.is_none() => Failure::Denied(
                "the service asks for a token: give yours with --token, --token-file or BERTH_TOKEN"
                    .to_owned(),
            ),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Failure::Denied(format!("{message}; give it with --token, --token-file or BERTH_TOKEN"))
            }
            StatusCode::NOT_FOUND => Failure::Absent(message),
            _ => Failure::Refused(message),
        })
    }

    /// What a failure means whose body no state service wrote: a proxy in between answered, or another server.
    fn not_by_the_service(&self, status: StatusCode) -> Failure {
        let authority = &self.authority;
        let answered = format!("{authority} answered {status}, and not as a state service does");
        match status {
            StatusCode::FORBIDDEN => Failure::Denied(format!(
                "{answered}: a proxy in between refused it. In a mesh an AuthorizationPolicy of the state service must name this \
                 caller's service account"
            )),
            StatusCode::UNAUTHORIZED => {
                Failure::Denied(format!("{answered}: a proxy in between asks for other credentials"))
            }
            StatusCode::TOO_MANY_REQUESTS => {
                Failure::Busy(format!("{answered}: a proxy in between limits requests"))
            }
            _ if status.is_server_error() => {
                Failure::Unreachable(format!("{answered}: a proxy in between cannot reach it"))
            }
            _ => Failure::Unreachable(format!("{answered}: check --server, and the proxies in between")),
        }
    }

    /// What to do about a connection that broke.
    fn advice(&self, error: &(dyn std::error::Error + 'static)) -> String {
        let mut cause = Some(error);
        while let Some(at) = cause {
            if let Some(error) = at.downcast_ref::<std::io::Error>()
                && error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
            {
                return tls_advice(error);
            }
            // It answered with bytes that are no HTTP, such as an alert of TLS.
            if self.tls.is_none() && at.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
                return format!("{at}: does it serve https://?");
            }
            cause = at.source();
        }
        if self.tls.as_ref().is_some_and(|tls| !tls.has_certificate) {
            // Its alert may be lost when it closes the connection at once.
            return format!("{error}: if it asks for a client certificate, name yours with --client-cert");
        }
        error.to_string()
    }

    async fn exchange(
        &self,
        stream: Box<dyn Stream>,
        authorization: Option<HeaderValue>,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // A call that is given up closes its connection.
        let mut connections = JoinSet::new();
        connections.spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let response = sender.send_request(request.body(Full::new(Bytes::copy_from_slice(body)))?).await?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), MAX_ANSWER).collect().await?.to_bytes();
        Ok((status, answer))
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What went wrong between two that speak TLS, and what to do.
fn tls_advice(error: &std::io::Error) -> String {
    use rustls::{AlertDescription, CertificateError, Error};
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let advice = match inner {
        // Another authority of the same name signed it.
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            "name the authority that signed its certificate with --ca"
        }
        Some(Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => "its certificate is for another name: use that in --server",
        Some(Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => "its certificate has expired: renew it, or set this machine's clock",
        Some(Error::InvalidMessage(_)) => "does it serve http://?",
        Some(Error::AlertReceived(AlertDescription::CertificateRequired)) => {
            "it asks for a client certificate: name yours with --client-cert"
        }
        Some(Error::AlertReceived(
            AlertDescription::UnknownCA | AlertDescription::BadCertificate | AlertDescription::DecryptError,
        )) => "it does not take the certificate of --client-cert",
        _ => return format!("TLS: {error}"),
    };
    format!("TLS: {error}: {advice}")
}
