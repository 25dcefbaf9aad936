//! Checks sinks of type `nats`.

use std::time::Duration;

use super::{Nats, NatsLogin, NatsSettings, is_credentials, is_user_seed};
use crate::section;
use crate::sink::config::{SinkConfig, SinkItem};
use crate::sink::{Sink, SinkContext, SinkStartError, network_keys};
use crate::yaml::address;
use crate::yaml::field_reader::{At, Reader};
use crate::yaml::secrets::{self, SecretSource};

section! {
    pub struct Keys {
        /// URL | required | `nats://` or `tls://`
        "url" => url: String,
        /// words with dots between them | `vtagd` | events go to `<prefix>.events.<stream>`
        "subject_prefix" => subject_prefix: String,
        /// words with dots between them | `_INBOX` | what the subjects of acknowledgements begin with; the user has to be allowed to
        /// subscribe to `<prefix>.>`
        "inbox_prefix" => inbox_prefix: String,
        /// text | - | User name
        "username" => username: String,
        /// credential | - | Password
        "password" => password: SecretSource,
        /// credential | - | The seed of a user's key (`SU…`)
        "nkey" => nkey: SecretSource,
        /// credential | - | A `.creds` file: a user's JWT and the seed of its key
        "creds" => creds: SecretSource,
        /// path | the system's | With TLS: PEM file of certificate authorities
        "ca" => ca: String,
        /// path | - | With TLS: PEM file of the daemon's own certificate. All three files are read at every connection
        "cert" => cert: String,
        /// path | - | With TLS: PEM file of the key of `cert`
        "key" => key: String,
        /// 1s to 5m | `20s` | For connecting, and for an acknowledgement
        "timeout" => timeout: Duration,
    }
}

impl SinkConfig for NatsSettings {
    type Keys = Keys;

    fn check(at: &At<SinkItem>, raw: &Keys, reader: &mut Reader<'_>) -> Option<Self> {
        let address = network_keys::url(at, &raw.url, ["nats", "tls"], reader);
        // The seed of a key never goes over the wire.
        if let (Some(url), Some(found)) = (raw.url.given(), &address)
            && found.url.scheme() == "nats"
        {
            address::report_plain(url, &found.url, !raw.password.is_missing(), "use tls://", reader);
        }
        let login = login(raw, reader);
        let remedy = "write, for example, vtagd or site.vtagd";
        let subject_prefix = raw.subject_prefix.checked("vtagd".to_owned(), |prefix| subject(prefix, remedy, reader));
        let remedy = "write, for example, _INBOX_vtagd";
        let inbox_prefix = raw.inbox_prefix.checked("_INBOX".to_owned(), |prefix| subject(prefix, remedy, reader));
        let trust = network_keys::trust_of_url(at, &raw.url, "tls", [&raw.ca, &raw.cert, &raw.key], reader);
        let timeout = network_keys::timeout(&raw.timeout, reader);
        let address = address?;
        if let Some(url) = raw.url.given().filter(|_| address.had_credentials()) {
            return reader.refuse(url, address::VISIBLE, address::MOVE_THEM);
        }
        Some(Self {
            url: address.url,
            login: login?,
            subject_prefix: subject_prefix?,
            inbox_prefix: inbox_prefix?,
            trust: trust?,
            timeout: timeout?,
        })
    }

    fn target(&self) -> String {
        format!("{} {}", self.url, self.subject_prefix)
    }

    fn addresses(&self) -> Vec<(String, u16)> {
        self.url.host_str().map(|host| (host.to_owned(), self.url.port().unwrap_or(4222))).into_iter().collect()
    }

    fn open(&self, _: &SinkContext) -> Result<Box<dyn Sink>, SinkStartError> {
        Ok(Box::new(Nats::new(self.clone())))
    }
}

/// One of three: a user or a token, a key, a credentials file. `None`: a problem has been reported.
fn login(raw: &Keys, reader: &mut Reader<'_>) -> Option<NatsLogin> {
    let named = !raw.username.is_missing() || !raw.password.is_missing();
    if let Some(creds) = raw.creds.given() {
        if named || !raw.nkey.is_missing() {
            return reader.refuse(
                creds,
                "and `username`, `password` or `nkey` are two ways to log in",
                "remove one of them",
            );
        }
        let message = "is not the content of a .creds file: a user's JWT and the seed of its key";
        let told = [message, "make one: nsc generate creds, or nats auth user credentials"];
        return secrets::resolve_if(creds, is_credentials, told, reader).map(NatsLogin::Credentials);
    }
    if let Some(nkey) = raw.nkey.given() {
        if named {
            return reader.refuse(nkey, "and `username` or `password` are two ways to log in", "remove one of them");
        }
        let message = "is not the seed of a user's key: SU and 56 more letters and digits";
        let told = [message, "make one: nk -gen user -pubout; the server gets the line that begins with U"];
        return secrets::resolve_if(nkey, is_user_seed, told, reader).map(NatsLogin::Nkey);
    }
    let password = raw.password.checked(None, |password| secrets::resolve(password, reader).map(Some))?;
    Some(match (raw.username.value(), password) {
        (Some(name), password) => NatsLogin::User { name, password },
        (None, Some(token)) => NatsLogin::Token(token),
        (None, None) => NatsLogin::Nobody,
    })
}

/// Tokens with dots between them.
fn subject(at: &At<String>, remedy: &str, reader: &mut Reader<'_>) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    let good = at.value.split('.').all(|token| !token.is_empty() && token.chars().all(fits));
    let message = "is not a subject prefix: words of letters, digits, `_` and `-`, with dots between them";
    reader.accept(at, good, message, remedy)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::sink::SinkSettings;
    use crate::yaml::Document;
    use crate::yaml::field_reader::FromNode;

    /// The prefix of a sink with these keys, and what was said of them.
    fn inbox_prefix(keys: &str) -> (Option<String>, String) {
        let text = format!("{{ type: nats, url: \"nats://h\"{keys} }}");
        let document = Document::parse(Path::new("vtagd.yaml"), text.as_bytes()).unwrap();
        let mut reader = Reader::new(&document);
        let value = SinkItem::from_node(document.root(), "", &mut reader).unwrap();
        let at = At { value, place: document.root().place, path: String::new() };
        let settings = at.value.keys.as_ref().and_then(|keys| keys.check(&at, &mut reader));
        let prefix = settings.map(|settings| match settings {
            SinkSettings::Nats(nats) => nats.inbox_prefix,
            other => panic!("{other:?}"),
        });
        (prefix, reader.problems().iter().map(|problem| format!("{problem}\n")).collect())
    }

    #[test]
    fn an_inbox_prefix_is_words_with_dots_between_them_and_no_wildcard() {
        assert_eq!(inbox_prefix(""), (Some("_INBOX".into()), String::new()));
        for good in ["_INBOX_vtagd", "edge.box-1"] {
            assert_eq!(inbox_prefix(&format!(", inbox_prefix: {good}")), (Some(good.into()), String::new()));
        }
        for wrong in ["", "a..b", ".a", "a.", "a.*", ">", "a b", "ä"] {
            let (prefix, told) = inbox_prefix(&format!(", inbox_prefix: \"{wrong}\""));
            assert!(prefix.is_none() && told.contains("inbox_prefix: is not a subject prefix"), "{wrong}: {told}");
        }
    }
}
