//! Standard Webhooks 1.0 signatures: HMAC-SHA256 over `id.timestamp.body`, one for each secret. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::platform::secret::Secret;

/// Keys of an endpoint, the current one first; two while one replaces the other.
#[derive(Clone)]
pub struct Signer(Vec<Hmac<Sha256>>);

impl Signer {
    /// `None` for a secret that is not `whsec_` and base64; the configuration has refused those.
    pub fn new(secrets: &[Secret]) -> Option<Self> {
        let key = |secret: &Secret| {
            let bytes = STANDARD.decode(secret.expose().strip_prefix("whsec_")?).ok()?;
            Hmac::new_from_slice(&bytes).ok()
        };
        secrets.iter().map(key).collect::<Option<Vec<_>>>().map(Self)
    }

    /// The value of `webhook-signature`; `None` without a secret.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> Option<String> {
        let one = |key: &Hmac<Sha256>| {
            let mut mac = key.clone();
            mac.update(format!("{id}.{timestamp}.").as_bytes());
            mac.update(body);
            format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
        };
        let all: Vec<String> = self.0.iter().map(one).collect();
        (!all.is_empty()).then(|| all.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const NEW: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    fn verify(secret: &str, signature: &str, id: &str, timestamp: i64, body: &[u8]) -> bool {
        let mut headers = ureq::http::HeaderMap::new();
        for (name, value) in
            [("webhook-id", id), ("webhook-timestamp", &timestamp.to_string()), ("webhook-signature", signature)]
        {
            headers.insert(name, value.parse().unwrap());
        }
        standardwebhooks::Webhook::new(secret).unwrap().verify(body, &headers).is_ok()
    }

    #[test]
    fn an_independent_library_verifies_both_signatures_of_a_rotation_and_no_other() {
        let (id, body) = ("019a1b2c-0000-7000-8000-000000000001", br#"{"a":"\u00fc"}"#);
        let now = jiff::Timestamp::now().as_second();
        let signed = Signer::new(&[Secret::new(NEW), Secret::new(OLD)]).unwrap().sign(id, now, body).unwrap();
        assert_eq!(signed.split(' ').count(), 2);
        assert!(verify(NEW, &signed, id, now, body) && verify(OLD, &signed, id, now, body));
        assert!(!verify("whsec_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA=", &signed, id, now, body));
        assert!(!verify(NEW, &signed, id, now, b"{}") && !verify(NEW, &signed, "other", now, body));
        assert!(Signer::new(&[]).unwrap().sign(id, now, body).is_none());
    }

    #[test]
    fn the_example_of_the_specification_comes_out_the_same() {
        let signer = Signer::new(&[Secret::new(OLD)]).unwrap();
        let signed = signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
    }
}
