//! What the byte budget lets through, and what it ends.

use super::*;

fn watched(description: &str, most: u64) -> (gst::Pipeline, Arc<ByteBudget>, Arc<Mutex<Vec<SourceError>>>) {
    gst::init().unwrap();
    let pipeline: gst::Pipeline = gst::parse::launch(description).unwrap().downcast().unwrap();
    let told: Arc<Mutex<Vec<_>>> = Arc::default();
    let at = At { stream: "dock".into(), place: "http://10.0.0.1/x".into(), element: String::new() };
    let listener = Arc::clone(&told);
    let report = Box::new(move |error| listener.lock().push(error));
    let budget = ByteBudget::with_limit(&pipeline, at, report, most);
    (pipeline, budget, told)
}

fn run(pipeline: &gst::Pipeline) {
    pipeline.set_state(gst::State::Playing).unwrap();
    let ends = [gst::MessageType::Eos, gst::MessageType::Error];
    pipeline.bus().unwrap().timed_pop_filtered(gst::ClockTime::from_seconds(60), &ends).unwrap();
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn what_enters_is_counted_until_nobody_holds_a_part_of_it() {
    let (_pipeline, budget, _) = watched("fakesrc ! fakesink", 1 << 20);
    let mut buffer = gst::Buffer::from_slice(vec![7; 10_000]);
    buffer.get_mut().unwrap().set_pts(gst::ClockTime::from_seconds(3));
    let counted = budget.counted(buffer);
    assert_eq!((counted.pts(), counted.size()), (Some(gst::ClockTime::from_seconds(3)), 10_000));
    assert_eq!(budget.held.load(Ordering::Relaxed), 10_000 + OVERHEAD);
    let part = counted.copy_region(gst::BufferCopyFlags::all() - gst::BufferCopyFlags::DEEP, 10..20).unwrap();
    drop(counted);
    assert_eq!(budget.held.load(Ordering::Relaxed), 10_000 + OVERHEAD);
    drop(part);
    assert_eq!(budget.held.load(Ordering::Relaxed), 0);
}

#[test]
fn what_was_allocated_and_never_written_costs_no_more_than_its_first_page() {
    gst::init().unwrap();
    let mut buffer = gst::Buffer::with_size(512 << 10).unwrap();
    buffer.get_mut().unwrap().set_size(10);
    assert_eq!(cost_of(&buffer), PAGE as u64 + OVERHEAD, "a crumb is not worth a copy");
    buffer.get_mut().unwrap().set_size(1448);
    assert_eq!(cost_of(&buffer), 1448 + OVERHEAD, "it is copied");
    buffer.get_mut().unwrap().set_size(500 << 10);
    assert_eq!(cost_of(&buffer), (500 << 10) + OVERHEAD);
    assert_eq!(cost_of(&gst::Buffer::from_slice([7; 10])), 10 + OVERHEAD);
}

#[test]
fn an_element_that_gives_nothing_back_is_given_no_more_than_it_may_hold() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("part");
    let headers = b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: 100000000\r\n\r\n";
    std::fs::write(&file, [headers.as_slice(), &vec![7; 5 << 20]].concat()).unwrap();
    let source = format!("filesrc location={} blocksize=65536", file.display());
    let (pipeline, _, told) = watched(&format!("{source} ! multipartdemux boundary=x ! fakesink"), 1 << 20);
    run(&pipeline);
    let told = told.lock();
    assert!(matches!(&told[..], [SourceError::TooMuch { what: Excess::Bytes(1_048_576), .. }]), "{told:?}");
    assert!(told[0].to_string().contains("multipartdemux"), "{told:?}");
}

#[test]
fn an_element_that_gives_something_now_and_then_is_left_alone() {
    let (pipeline, _, told) = watched(
        "videotestsrc num-buffers=100 ! video/x-raw,width=320,height=240 ! jpegenc ! jpegparse ! fakesink",
        1 << 20,
    );
    run(&pipeline);
    assert_eq!(*told.lock(), []);
}

#[test]
fn small_pieces_in_large_memory_cost_what_they_are() {
    let (_pipeline, budget, _) = watched("fakesrc ! fakesink", 1 << 20);
    let piece = |size| {
        let mut buffer = gst::Buffer::from_slice([7; 4096]);
        buffer.get_mut().unwrap().set_size(size);
        buffer
    };
    let counted = budget.counted(piece(1448));
    assert_eq!(budget.held.load(Ordering::Relaxed), 1448 + OVERHEAD);
    assert_eq!(counted.map_readable().unwrap().as_slice(), [7; 1448]);
    assert_eq!(cost_of(&counted), 1448 + OVERHEAD, "and so wherever it is held");
    assert_eq!(cost_of(&piece(2048)), 4096 + OVERHEAD);
    assert_eq!(cost_of(&piece(1)), 4096 + OVERHEAD);
}

#[test]
fn sources_of_this_machine_are_told_apart_by_what_they_read() {
    gst::init().unwrap();
    let local = |description: &str| is_local(&gst::parse::launch(description).unwrap());
    assert!(local("filesrc location=/tmp/a") && local("filesrc") && local("fakesrc"));
    assert!(!local("souphttpsrc location=http://10.0.0.1/") && !local("udpsrc") && !local("tcpclientsrc"));
    if gst::ElementFactory::find("giosrc").is_some() {
        assert!(local("giosrc location=file:///tmp/a") && !local("giosrc location=http://10.0.0.1/"));
    }
}

#[test]
fn demuxers_that_keep_each_stream_are_suspected_if_the_daemon_grows_by_what_goes_in() {
    gst::init().unwrap();
    let growth = |element: &str| Growth::of(&gst::ElementFactory::make(element).build().unwrap());
    let after = |growth: &Growth, bytes: u64, in_use: u64| growth.is_too_much(bytes, || Some(in_use));
    let ts = growth("tsdemux").unwrap();
    assert!(!after(&ts, MOST_GROWTH - 1, 0));
    assert!(!after(&ts, 1, 100), "the first look is at what is usual");
    assert!(!after(&ts, MOST_GROWTH / 2, u64::MAX), "it is not looked at before");
    assert!(!after(&ts, MOST_GROWTH / 2, 100 + MOST_GROWTH));
    assert!(!after(&ts, MOST_GROWTH, 100 + 2 * MOST_GROWTH), "others have grown since");
    assert!(after(&ts, MOST_GROWTH, 101 + 3 * MOST_GROWTH));
    let ogg = growth("oggdemux").unwrap();
    assert!(!after(&ogg, MOST_GROWTH, 100) && !after(&ogg, MOST_GROWTH, 100 + MOST_GROWTH / 2));
    assert!(after(&ogg, MOST_GROWTH, 101 + MOST_GROWTH));
    assert!(!Growth::default().is_too_much(u64::MAX, || None));
    // What an RTSP camera goes through: whatever else the daemon takes is none of its business.
    for element in ["rtpssrcdemux", "rtpptdemux", "rtph264depay", "h264parse", "multipartdemux", "qtdemux"] {
        assert!(growth(element).is_none(), "{element}");
    }
}
