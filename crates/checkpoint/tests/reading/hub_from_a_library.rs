//! A hub as a program without vtagd's settings asks it: a server on loopback in place of a hub, and nothing of it is trusted.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use vtagd_checkpoint::hub::{HubError, HubSettings, NeverStopped, Pulled, REVISION, Repo, Request, TlsConfig, pull};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const CONTENT: &str = "{\"model_type\": \"clip\"}\n";

/// What a server says to a request for a path: status line and headers, without what ends them, and body.
type Says = fn(path: &str) -> (String, String);

/// Answers until the process ends; the address.
fn serve(says: Says) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().for_each(|connection| answer(connection.unwrap(), says)));
    format!("http://{address}")
}

fn answer(mut connection: TcpStream, says: Says) {
    let lines = BufReader::new(connection.try_clone().unwrap()).lines();
    let head: Vec<String> = lines.map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
    let Some(path) = head.first().and_then(|line| line.split(' ').nth(1)) else { return };
    let (head, body) = says(path);
    write!(connection, "HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
}

/// A repository with one file.
fn hub(path: &str) -> (String, String) {
    let hash: String = Sha256::digest(CONTENT).iter().map(|byte| format!("{byte:02x}")).collect();
    let body = match path.split('?').next().unwrap() {
        "/api/models/org/name/revision/main" => format!(
            "{{\"sha\": \"{COMMIT}\", \"siblings\": [{{\"rfilename\": \"config.json\", \"size\": {0}, \"lfs\": {{\"sha256\": \"{hash}\", \"size\": {0}}}}}]}}",
            CONTENT.len()
        ),
        "/org/name/resolve/0123456789abcdef0123456789abcdef01234567/config.json" => CONTENT.to_owned(),
        _ => return ("404 Not Found".into(), String::new()),
    };
    ("200 OK".into(), body)
}

fn pull_from(endpoint: &str, cache: &Path, tls: Option<TlsConfig>) -> Result<Pulled, HubError> {
    let settings = HubSettings {
        endpoint: endpoint.parse().unwrap(),
        token: None,
        offline: false,
        cache: cache.to_owned(),
        tls,
        agent: "test/1.0".into(),
    };
    let repo = Repo::parse("org/name", settings.endpoint_text()).unwrap();
    let request = Request { repo, revision: REVISION.into(), include: vec!["*.json".into()], out: None, retries: 0 };
    pull(&request, &settings, &NeverStopped, &mut |_| ())
}

#[test]
fn a_repository_becomes_a_folder_and_a_second_pull_fetches_nothing() {
    let cache = tempfile::tempdir().unwrap();
    let endpoint = serve(hub);
    let pulled = pull_from(&endpoint, cache.path(), None).unwrap();
    assert_eq!((pulled.fetched, pulled.origin.commit.as_str()), (CONTENT.len() as u64, COMMIT));
    assert_eq!(std::fs::read_to_string(pulled.dir.join("config.json")).unwrap(), CONTENT);
    assert_eq!(pull_from(&endpoint, cache.path(), None).unwrap().fetched, 0);
}

#[test]
fn a_hub_that_sends_on_to_an_encrypted_place_nobody_can_trust_is_an_error() {
    let cache = tempfile::tempdir().unwrap();
    let endpoint = serve(|_| ("302 Found\r\nLocation: https://127.0.0.1:9/elsewhere".into(), String::new()));
    let error = pull_from(&endpoint, cache.path(), None).unwrap_err();
    assert!(matches!(error, HubError::NoCertificates), "{error}");
    // ureq's own default has neither cryptography nor authorities in this crate.
    let error = pull_from(&endpoint, cache.path(), Some(TlsConfig::default())).unwrap_err();
    assert!(matches!(error, HubError::BadTls), "{error}");
}

#[test]
fn an_endpoint_with_a_password_is_refused_before_anything_is_written_and_not_repeated() {
    let cache = tempfile::tempdir().unwrap();
    for endpoint in ["http://me:secret@127.0.0.1:9", "http://127.0.0.1:9/?key=secret", "http://127.0.0.1:9/#secret"] {
        let error = pull_from(endpoint, cache.path(), None).unwrap_err();
        assert!(matches!(error, HubError::BadEndpoint { .. }) && !error.to_string().contains("secret"), "{error}");
    }
    assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0);
}
