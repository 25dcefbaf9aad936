//! Addresses whose path is a credential, as those of chats' webhooks: whoever knows it may post. Pure.

use url::Url;

/// Services at which that is so, and everything below them.
const SERVICES: [&str; 9] = [
    "hooks.slack.com",
    "discord.com",
    "discordapp.com",
    "api.telegram.org",
    "webhook.office.com",
    "outlook.office.com",
    "hooks.zapier.com",
    "hook.make.com",
    "maker.ifttt.com",
];

/// What begins such a path at a server of one's own: Home Assistant's.
const BEGINNINGS: [&str; 1] = ["/api/webhook/"];

/// Letters and digits in one word from which on nobody has thought of it: Mattermost's have 26, a UUID 32.
const TOKEN: usize = 20;
/// Changes between letters and digits in it; in a word with a year there are two.
const CHANGES: usize = 3;

/// Whether the path of `url` is to be kept as a credential is.
pub fn is_credential(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let at_service = |service: &str| host.strip_suffix(service).is_some_and(|sub| sub.is_empty() || sub.ends_with('.'));
    url.path() != "/"
        && (SERVICES.into_iter().any(at_service)
            || BEGINNINGS.iter().any(|beginning| url.path().starts_with(beginning))
            || url.path_segments().into_iter().flatten().any(|segment| is_token(segment) || is_bot(segment)))
}

fn is_token(segment: &str) -> bool {
    let word: Vec<char> = segment.chars().filter(|c| !"-_~".contains(*c)).collect();
    let changes = word.windows(2).filter(|pair| pair[0].is_ascii_digit() != pair[1].is_ascii_digit()).count();
    word.len() >= TOKEN && word.iter().all(char::is_ascii_alphanumeric) && changes >= CHANGES
}

/// Telegram's, also of a server of one's own: `bot123456:ABC-DEF`.
fn is_bot(segment: &str) -> bool {
    let token = segment
        .strip_prefix("bot")
        .and_then(|rest| rest.replace("%3A", ":").split_once(':').map(|(id, _)| id.to_owned()));
    token.is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_whoever_knows_may_post_to_is_told_from_what_a_person_has_named() {
        let is = |url: &str| is_credential(&url.parse().unwrap());
        for url in [
            "https://hooks.slack.com/services/T0/B0/xyz",
            "https://canary.discord.com/api/webhooks/1/x",
            "https://acme.webhook.office.com/webhookb2/x",
            "https://hook.make.com/x",
            "https://maker.ifttt.com/trigger/x/with/key/y",
            "http://ha.home:8123/api/webhook/door",
            "https://chat.acme.test/hooks/ki1x8twm5pnd7g9ujqedh4rz3c",
            "https://n8n.acme.test/webhook/0b6f2a52-4c52-4f0e-9d19-7b0b8d0f3d7e",
            "https://tg.acme.test/bot123456:ABC-DEF/sendMessage",
        ] {
            assert!(is(url), "{url}");
        }
        for url in [
            "https://hooks.slack.com",
            "https://notdiscord.com/x",
            "https://hub.test/events",
            "https://hub.test/v1/sites/north-gate-2026-receiver/events",
            "https://hub.test/cameras-of-the-northern-car-park-events",
            "https://ntfy.test/botany:club",
        ] {
            assert!(!is(url), "{url}");
        }
    }
}
