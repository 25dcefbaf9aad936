//! The sink between a sender, as the outbox's end of it, and a real HTTP server.

use std::time::Instant;

use crossbeam_channel::bounded;

use super::*;
use crate::event::EventKind;
use crate::outbox::delivery::tests::{delivery, event};
use crate::outbox::delivery::{self, DeliveryOutcome, Phase, States};
use crate::sink::runner;

#[path = "../../../tests/common/hook.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod hook;

use hook::{Hook, Reply};

#[test]
fn a_label_that_the_endpoint_never_takes_leaves_room_for_the_others() {
    let hook = Hook::start(|_, request| {
        let cat = request.json()["data"]["label"] == "cat";
        Reply::Status(if cat { 422 } else { 204 }, "")
    });
    let settings = WebhookSettings {
        url: hook.url().parse().unwrap(),
        secret_url: None,
        secrets: Vec::new(),
        headers: Vec::new(),
        trust: Trust::default(),
        timeout: Duration::from_secs(60),
        concurrency: 16,
        batch: None,
        template: None,
    };
    let (sender, receiver) = delivery::link("hook", States::default(), bounded(1).0);
    let thread = runner::start(Box::new(Webhook::new(settings)), receiver, runner::ladder()).unwrap();
    let (mut position, mut held, mut delivered, mut dead) = (0, 0, 0, 0);
    let deadline = Instant::now() + Duration::from_secs(240);
    // More dogs than could pass before the cats have filled the window.
    while delivered < WINDOW + 200 {
        while held < WINDOW {
            position += 1;
            let label = if position % 2 == 0 { "cat" } else { "dog" };
            sender.offer(delivery(position, event("gate", label, EventKind::Start))).unwrap();
            held += 1;
        }
        for outcome in sender.settled().into_values() {
            match outcome {
                DeliveryOutcome::Delivered => delivered += 1,
                DeliveryOutcome::Dead { .. } => dead += 1,
                DeliveryOutcome::Failed { .. } => continue,
            }
            held -= 1;
        }
        assert!(Instant::now() < deadline, "{delivered} delivered, {dead} dead");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(dead > 0);
    sender.advance(Phase::Closed);
    thread.join().unwrap();
}
