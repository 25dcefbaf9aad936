//! Single pictures through a running pipeline, in this process, with an encoder that is made up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vtagd::frame::Picture;
use vtagd::frame::view::{NamedView, View, ViewMode, Views};
use vtagd::pipeline;
use vtagd::pipeline::on_demand::NoEmbedding;
use vtagd::platform::shutdown;

use crate::common::daemon::DEADLINE;
use crate::common::model::{Counting, stages};

fn picture() -> Picture {
    Picture::from_rgb(64, 48, vec![7; 64 * 48 * 3]).unwrap()
}

#[test]
fn a_picture_gets_its_embedding_or_is_told_that_it_was_lost_and_nobody_keeps_the_pipeline_from_ending() {
    let (_trigger, shutdown) = shutdown::channel();
    let encoder = Counting { pictures: Arc::default(), each: Duration::ZERO, failures: 1 };
    let (intake, threads) = pipeline::start(stages(encoder, 4), &shutdown).unwrap();
    let on_demand = intake.on_demand();
    assert_eq!(on_demand.embed(picture(), &Views::default()), Err(NoEmbedding::Failed));
    // The made-up encoder counts its pictures.
    let embedding = |n: f32| vec![vec![(n * 0.02).cos(), (n * 0.02).sin()]];
    assert_eq!(on_demand.embed(picture(), &Views::default()), Ok(embedding(0.0)));
    let at_once: Vec<_> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..4).map(|_| scope.spawn(|| on_demand.embed(picture(), &Views::default()))).collect();
        asked.into_iter().map(|asked| asked.join().unwrap().unwrap()).collect()
    });
    let wanted: Vec<_> = (1..5).map(|n| embedding(n as f32)).collect();
    assert!(at_once.iter().all(|one| wanted.contains(one)), "{at_once:?}");

    // Of each view its own, tile by tile.
    let view = |mode| NamedView { view: View { mode, ..View::default() }, ..NamedView::default() };
    let views = Views::new(vec![view(ViewMode::Model), view(ViewMode::Tiles)]).unwrap();
    let of_views = on_demand.embed(picture(), &views).unwrap();
    assert_eq!(of_views.iter().map(Vec::len).collect::<Vec<_>>(), [2, 4], "{of_views:?}");

    drop(intake);
    let deadline = Instant::now() + DEADLINE;
    for (name, thread) in threads {
        while !thread.is_finished() {
            assert!(Instant::now() < deadline, "{name} does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
        thread.join().unwrap();
    }
    assert_eq!(on_demand.embed(picture(), &Views::default()), Err(NoEmbedding::Stopping));
}
