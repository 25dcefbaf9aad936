//! One request and its answer, on a thread that may block. The only file of this sink that knows `ureq`.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::{HeaderName, HeaderValue};
use ureq::{Agent, Proxy};

use super::WebhookSettings;
use super::answer::Answer;
use super::body_template::BodyTemplate;
use super::signature::Signer;
use crate::outbox::delivery::Delivery;
use crate::platform::no_proxy;
use crate::platform::tls::{self, Trust};

/// Bytes read of an answer's body: enough to use the connection again where an endpoint says a few words.
const BODY: u64 = 16 * 1024;

/// For name and connection; the rest of the timeout is for the answer.
const CONNECT: Duration = Duration::from_secs(10);

/// What is sent. The same on every attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Post {
    /// `webhook-id`.
    pub id: String,
    pub content_type: &'static str,
    pub body: Arc<[u8]>,
}

/// Sends to one address. Clones share their connections.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    url: String,
    signer: Signer,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// With `https`.
    trust: Option<Trust>,
    template: Option<BodyTemplate>,
}

impl Client {
    /// # Errors
    /// Certificates, keys or headers that cannot be used.
    pub fn new(settings: &WebhookSettings) -> Result<Self, String> {
        let proxy = Proxy::try_from_env().filter(|_| !no_proxy::excepts(&settings.url));
        let config = Agent::config_builder()
            .proxy(proxy)
            .tls_config(tls::of(&settings.trust)?)
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("vtagd/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_global(Some(settings.timeout))
            .timeout_connect(Some(CONNECT.min(settings.timeout)))
            .max_idle_connections(settings.concurrency)
            .max_idle_connections_per_host(settings.concurrency)
            .build();
        let header = |(name, value): &(String, crate::platform::secret::Secret)| {
            let header = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_str(value.expose()).ok());
            let (name, mut value) = header.ok_or_else(|| format!("header {name} cannot be sent"))?;
            value.set_sensitive(true);
            Ok((name, value))
        };
        Ok(Self {
            agent: config.into(),
            url: settings
                .secret_url
                .as_ref()
                .map_or_else(|| settings.url.to_string(), |url| url.expose().trim().to_owned()),
            signer: Signer::new(&settings.secrets).ok_or("a secret is not `whsec_` and base64")?,
            trust: (settings.url.scheme() == "https").then(|| settings.trust.clone()),
            headers: settings.headers.iter().map(header).collect::<Result<_, String>>()?,
            template: settings.template.as_ref().map(BodyTemplate::new).transpose()?,
        })
    }

    /// One event, whose id is the message's.
    ///
    /// # Errors
    /// Why the template makes nothing of it.
    pub fn single(&self, delivery: &Delivery) -> Result<Post, String> {
        let stored = &delivery.stored;
        let (content_type, body) = match &self.template {
            None => ("application/cloudevents+json; charset=utf-8", stored.body.as_bytes().into()),
            Some(template) => (template.content_type(), template.body(&stored.event)?.into_bytes().into()),
        };
        Ok(Post { id: stored.id().to_string(), content_type, body })
    }

    /// Sends it once, and waits for the answer.
    pub fn send(&self, post: &Post) -> Answer {
        let now = jiff::Timestamp::now();
        let mut request = self.agent.post(&self.url).header("content-type", post.content_type);
        request = request.header("webhook-id", &post.id).header("webhook-timestamp", now.as_second().to_string());
        if let Some(signature) = self.signer.sign(&post.id, now.as_second(), &post.body) {
            request = request.header("webhook-signature", signature);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        match request.send(&post.body[..]) {
            Ok(answer) => {
                let status = answer.status().as_u16();
                let retry_after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
                let meaning = Answer::of(status, retry_after, now);
                // What is longer is left unread, and the connection with it.
                let _ = std::io::copy(&mut answer.into_body().into_reader().take(BODY), &mut std::io::sink());
                meaning
            }
            Err(error) => {
                let told = self.trust.as_ref().and_then(|trust| tls::explained(cause(&error), trust));
                Answer::away(told.unwrap_or_else(|| plain(&error)))
            }
        }
    }
}

/// The library keeps what caused an error to itself.
fn cause(error: &ureq::Error) -> &(dyn std::error::Error + 'static) {
    match error {
        ureq::Error::Io(error) => error,
        ureq::Error::Rustls(error) => error,
        error => error,
    }
}

/// What went wrong, without what was sent: an error of the library may repeat it.
fn plain(error: &ureq::Error) -> String {
    use ureq::Error;
    match error {
        Error::Timeout(what) => format!("no answer in time ({what})"),
        Error::HostNotFound => "its host is not found".to_owned(),
        Error::ConnectionFailed => "cannot be connected to".to_owned(),
        Error::Io(error) => error.to_string(),
        Error::Rustls(error) => format!("TLS: {error}"),
        Error::Protocol(error) => format!("does not speak HTTP: {error}"),
        _ => "the request failed".to_owned(),
    }
}
