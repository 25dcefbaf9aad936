//! Sizes in streams of real encoders, and in headers by hand.

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use proptest::prelude::*;

use super::*;

use bombs::{Writer, annex_b, escaped};

const START: Framing = Framing::StartCodes;

/// What is said of `pieces` where so many pixels are allowed.
fn look(codec: Codec, max_pixels: u64, pieces: &[impl AsRef<[u8]>]) -> Result<(), TooLarge> {
    let limits = Limits { max_pixels, max_side: 1 << 20, max_bytes: u64::MAX };
    let mut reader = Reader::new(codec, limits);
    pieces.iter().try_for_each(|piece| reader.frame(piece.as_ref()))
}

/// The size read of `pieces` is this, and no other is larger.
fn assert_size(codec: Codec, (width, height): (u64, u64), pieces: &[impl AsRef<[u8]>]) {
    let max = width * height - 1;
    assert_eq!(look(codec, max, pieces), Err(TooLarge::Pixels { width, height, max }), "{codec:?}");
    assert_eq!(look(codec, width * height, pieces), Ok(()), "{codec:?}");
}

/// Codec data and frames of what `encoder` makes of a test picture.
fn encoded(width: u32, height: u32, encoder: &str) -> (Option<Vec<u8>>, Vec<Vec<u8>>) {
    gst::init().unwrap();
    let description = format!(
        "videotestsrc num-buffers=3 ! video/x-raw,width={width},height={height} ! videoconvert ! {encoder} ! appsink name=sink sync=false"
    );
    let pipeline = gst::parse::launch(&description).unwrap().downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let (mut data, mut frames) = (None, Vec::new());
    while let Ok(sample) = sink.pull_sample() {
        let caps = sample.caps().unwrap().structure(0).unwrap();
        if let Ok(codec_data) = caps.get::<gst::Buffer>("codec_data") {
            data = Some(codec_data.map_readable().unwrap().to_vec());
        }
        frames.push(sample.buffer().unwrap().map_readable().unwrap().to_vec());
    }
    pipeline.set_state(gst::State::Null).unwrap();
    assert!(!frames.is_empty(), "{encoder} makes nothing");
    (data, frames)
}

#[test]
fn sizes_of_real_streams_are_found() {
    // Coded sizes: in whole blocks, whatever is cut off afterwards.
    for (encoder, codec, size) in [
        ("x264enc ! video/x-h264,stream-format=byte-stream", Codec::H264(START), (336, 192)),
        ("x264enc interlaced=true ! video/x-h264,stream-format=byte-stream", Codec::H264(START), (336, 192)),
        ("x264enc ! video/x-h264,stream-format=byte-stream,profile=high", Codec::H264(START), (336, 192)),
        ("openh264enc", Codec::H264(START), (336, 192)),
        ("x265enc ! video/x-h265,stream-format=byte-stream", Codec::H265(START), (328, 184)),
        ("vp8enc", Codec::Vp8, (322, 182)),
        ("vp9enc", Codec::Vp9, (322, 182)),
        ("av1enc cpu-used=8", Codec::Av1, (322, 182)),
        ("mpeg2enc", Codec::Mpeg2, (322, 182)),
        ("avenc_mpeg4", Codec::Mpeg4, (322, 182)),
        ("theoraenc", Codec::Theora, (336, 192)),
        ("jpegenc", Codec::Jpeg, (322, 182)),
        ("avenc_mjpeg", Codec::Jpeg, (322, 182)),
        ("pngenc", Codec::Png, (322, 182)),
        ("webpenc", Codec::Webp, (322, 182)),
        ("webpenc lossless=true", Codec::Webp, (322, 182)),
        ("openjpegenc", Codec::Jpeg2000, (322, 182)),
        ("avenc_bmp", Codec::Bmp, (322, 182)),
        ("avenc_tiff", Codec::Tiff, (322, 182)),
    ] {
        eprintln!("{encoder}");
        let (data, frames) = encoded(322, 182, encoder);
        // What an encoder tells beside the stream alone, others tell in it.
        let pieces: Vec<_> = data.filter(|_| codec == Codec::Mpeg4).into_iter().chain(frames).collect();
        assert_size(codec, size, &pieces);
    }
}

#[test]
fn codec_data_tell_as_much_as_the_stream() {
    for (encoder, codec, size) in [
        ("x264enc ! h264parse ! video/x-h264,stream-format=avc", Codec::H264(Framing::Lengths(4)), (336, 192)),
        ("x265enc ! h265parse ! video/x-h265,stream-format=hvc1", Codec::H265(Framing::Lengths(4)), (328, 184)),
    ] {
        let (data, frames) = encoded(322, 182, encoder);
        let data = data.unwrap_or_else(|| panic!("{encoder} tells no codec data"));
        let with = |max_pixels| {
            let limits = Limits { max_pixels, max_side: 1 << 20, max_bytes: u64::MAX };
            Reader::new(codec, limits).header(&data)
        };
        let (width, height) = size;
        assert_eq!(with(width * height), Ok(()), "{encoder}");
        assert_eq!(
            with(width * height - 1),
            Err(TooLarge::Pixels { width, height, max: width * height - 1 }),
            "{encoder}"
        );
        assert_eq!(look(codec, width * height, &frames), Ok(()), "{encoder}");
    }
}

#[test]
fn eight_k_passes_and_more_does_not() {
    let h264 =
        |w, h, refs| Reader::new(Codec::H264(START), Limits::CAMERA).frame(&annex_b(&[bombs::h264_sps(w, h, refs)]));
    let h265 =
        |w, h, kept| Reader::new(Codec::H265(START), Limits::CAMERA).frame(&annex_b(&[bombs::h265_sps(w, h, kept)]));
    for refs in [1, 5] {
        assert_eq!(h264(7680, 4320, refs), Ok(()));
        assert_eq!(h265(7680, 4320, refs + 1), Ok(()));
    }
    // As many references as there are, of a size for which they are meant.
    assert_eq!((h264(3840, 2160, 16), h265(3840, 2160, 16)), (Ok(()), Ok(())));
    for result in [h264(7680, 4320, 16), h265(7680, 4320, 16)] {
        assert!(
            matches!(result, Err(TooLarge::Bytes { width: 7680, height: 4320, frames: 16..=17, .. })),
            "{result:?}"
        );
    }
    for result in [h264(16_384, 16_384, 1), h265(16_384, 16_384, 1), h264(8192, 4112, 1)] {
        assert!(matches!(result, Err(TooLarge::Pixels { .. })), "{result:?}");
    }
    for result in [h264(16_400, 16, 1), h265(16, 65_000, 1), h264(1 << 35, 1 << 35, 1)] {
        assert!(matches!(result, Err(TooLarge::Side { .. })), "{result:?}");
    }
}

#[test]
fn every_parameter_set_counts_wherever_it_stands() {
    let (good, bad) = (bombs::h264_sps(640, 480, 1), bombs::h264_sps(16_384, 16_384, 1));
    let slice = vec![0x65, 0x88, 0x80, 0x10];
    let h264 = |framing, bytes: &[u8]| Reader::new(Codec::H264(framing), Limits::CAMERA).frame(bytes);
    assert!(h264(START, &annex_b(&[good.clone(), slice.clone()])).is_ok());
    // Behind others, behind the slices, of a layer beside the base.
    let mut layer = bad.clone();
    layer[0] = 0x6f;
    for units in [[&good, &bad, &slice], [&good, &slice, &bad], [&good, &layer, &slice]] {
        assert!(h264(START, &annex_b(&units.map(Clone::clone))).is_err());
    }
    // With lengths; behind a start code within such a unit, where libav finds it; as a record in a frame's place.
    let lengths = |units: &[&[u8]]| -> Vec<u8> {
        units.iter().flat_map(|unit| [&(unit.len() as u32).to_be_bytes(), *unit].concat()).collect()
    };
    let four = Framing::Lengths(4);
    assert!(h264(four, &lengths(&[&good, &slice])).is_ok());
    assert!(h264(four, &lengths(&[&good, &bad])).is_err());
    assert!(h264(four, &lengths(&[&[slice.as_slice(), &[0, 0, 1], &bad].concat()])).is_err());
    let record = |sets: &[&[u8]]| {
        let units: Vec<u8> = sets.iter().flat_map(|set| [&(set.len() as u16).to_be_bytes(), *set].concat()).collect();
        [&[1, 77, 0, 62, 0xff, 0xe0 | sets.len() as u8], units.as_slice(), &[1, 0, 7, 0x68, 0xee, 0x3c, 0x80, 0, 0, 0]]
            .concat()
    };
    assert!(h264(four, &record(&[&good, &bad])).is_err());
    let beside = |data: &[u8]| Reader::new(Codec::H264(four), Limits::CAMERA).header(data);
    assert!(beside(&record(&[&good])).is_ok());
    assert!(beside(&record(&[&good, &bad])).is_err());
    assert!(beside(&annex_b(&[good, bad])).is_err());
}

#[test]
fn a_vp9_frame_is_read_in_a_superframe_and_without_a_keyframe() {
    let sized = |width: u64, height: u64| {
        let mut frame = Writer::default();
        // Marker, profile 0, not shown before, a keyframe, shown; colours.
        frame.bits(2, 2).bits(2, 0).bits(1, 0).bits(1, 0).bits(2, 2).bits(24, 0x49_83_42).bits(3, 2).bits(1, 0);
        frame.bits(16, width - 1).bits(16, height - 1).end()
    };
    let inter = |width: u64, height: u64| {
        let mut frame = Writer::default();
        // Shown, its references, and a size of its own instead of theirs.
        frame.bits(2, 2).bits(2, 0).bits(1, 0).bits(1, 1).bits(2, 2).bits(2, 0).bits(8, 0).bits(12, 0).bits(3, 0);
        frame.bits(16, width - 1).bits(16, height - 1).end()
    };
    assert_size(Codec::Vp9, (640, 480), &[sized(640, 480)]);
    assert_size(Codec::Vp9, (60_000, 30_000), &[sized(640, 480), inter(60_000, 30_000)]);
    let (first, second) = (sized(640, 480), inter(9000, 9000));
    let marker = 0xc0 | 1;
    let index = [marker, first.len() as u8, second.len() as u8, marker];
    assert_size(Codec::Vp9, (9000, 9000), &[[first.as_slice(), &second, &index].concat()]);
}

#[test]
fn an_av1_frame_may_be_larger_than_its_sequence() {
    let obu = |kind: u8, payload: Vec<u8>| [vec![kind << 3 | 2, payload.len() as u8], payload].concat();
    let mut sequence = Writer::default();
    // Main profile, no timing, one operating point of level 2.
    sequence.bits(3, 0).bits(2, 0).bits(1, 0).bits(1, 0).bits(5, 0).bits(12, 0).bits(5, 2);
    // 16 bits a side, 640x480, no ids, tools, no order, screen content as it comes, whole vectors too.
    sequence.bits(8, 0xff).bits(16, 639).bits(16, 479).bits(1, 0).bits(3, 0).bits(4, 0).bits(1, 0).bits(2, 3);
    let sequence = obu(1, sequence.bits(3, 0).bits(8, 0).end());
    let mut frame = Writer::default();
    // A keyframe, shown, with a size of its own.
    frame.bits(1, 0).bits(2, 0).bits(1, 1).bits(2, 0).bits(1, 1);
    let frame = obu(6, frame.bits(16, 59_999).bits(16, 29_999).end());
    assert_size(Codec::Av1, (640, 480), std::slice::from_ref(&sequence));
    assert_size(Codec::Av1, (60_000, 30_000), &[[sequence.clone(), frame.clone()].concat()]);
    assert_size(Codec::Av1, (60_000, 30_000), &[sequence.clone(), frame]);
    // Beside the stream, behind four bytes of a record.
    let record = [&[0x81, 0, 0, 0], sequence.as_slice()].concat();
    assert_eq!(
        Reader::new(Codec::Av1, Limits::of(1 << 18)).header(&record),
        Err(TooLarge::Pixels { width: 640, height: 480, max: 1 << 18 })
    );
}

#[test]
fn an_extension_makes_an_mpeg_2_picture_larger() {
    let header = [0, 0, 1, 0xb3, 0x28, 0x01, 0xe0, 0x13];
    assert_size(Codec::Mpeg2, (640, 480), &[header]);
    // Two more bits of each side, in a later piece.
    let extension = [0, 0, 1, 0xb5, 0x14, 0x83, 0xe0, 0x00];
    assert_size(Codec::Mpeg2, (640 + (3 << 12), 480 + (3 << 12)), &[header, extension]);
}

#[test]
fn pictures_in_pieces_are_put_together() {
    for (codec, picture) in [
        (Codec::Jpeg, bombs::jpeg(20_000, 10_000)),
        (Codec::Png, bombs::png(20_000, 10_000)),
        (Codec::Webp, bombs::webp(16_384, 16_384)),
        (Codec::Webp, bombs::webp_canvas(1 << 24, 3)),
    ] {
        for size in [1, 2, 3, 7, 16, 31, 32, 33, 100, 5000] {
            let pieces: Vec<&[u8]> = picture.chunks(size).collect();
            assert!(look(codec, 1 << 24, &pieces).is_err(), "{codec:?} in pieces of {size}");
        }
    }
}

#[test]
fn a_thumbnail_is_not_the_picture_and_a_second_header_counts() {
    let (small, large) = (bombs::jpeg(640, 480), bombs::jpeg(20_000, 20_000));
    let metadata = |picture: &[u8], inner: &[u8]| {
        let length = (inner.len() as u16 + 2).to_be_bytes();
        [&picture[..2], &[0xff, 0xe1], &length, inner, &picture[2..]].concat()
    };
    assert_size(Codec::Jpeg, (640, 480), &[metadata(&small, &large)]);
    let long = metadata(&metadata(&large, &[7; 60_000]), &[7; 60_000]);
    assert_size(Codec::Jpeg, (20_000, 20_000), &[long]);
    // Damage in front, a length that is none, another header behind the first.
    for picture in [
        [&[0xff, 0xe1, 0xff, 0xff], large.as_slice()].concat(),
        [&[0xff, 0xd8, 0xff, 0xe1, 0xff, 0xff], large.as_slice()].concat(),
        [small.as_slice(), &large].concat(),
        [&small[..small.len() - 2], &large[2..]].concat(),
    ] {
        assert!(look(Codec::Jpeg, 1 << 25, &[picture]).is_err());
    }
    // The number of lines comes behind the picture.
    assert_size(Codec::Jpeg, (640, 65_535), &[bombs::jpeg(640, 0)]);
}

#[test]
fn still_images_of_every_kind_are_read() {
    assert_size(Codec::Gif, (500, 400), &[bombs::gif((500, 400), (2, 2))]);
    assert_size(Codec::Gif, (30_000, 20_000), &[bombs::gif((2, 2), (30_000, 20_000))]);
    assert_size(Codec::Bmp, (30_000, 20_000), &[bombs::bmp(30_000, 20_000)]);
    assert_size(Codec::Tiff, (30_000, 20_000), &[bombs::tiff(30_000, 20_000, 1000)]);
    assert_eq!(look(Codec::Tiff, 1 << 25, &[&bombs::tiff(640, 480, 1000)[..900]]), Err(TooLarge::Untold));
    assert_size(Codec::Png, (30_000, 20_000), &[bombs::png(30_000, 20_000)]);
}

#[test]
fn unknown_blocks_do_not_hide_the_rest_of_a_gif() {
    let gif = bombs::gif((2, 2), (30_000, 20_000));
    let at = gif.windows(2).position(|two| two == [0x2c, 0]).unwrap();
    assert_size(Codec::Gif, (30_000, 20_000), &[[&gif[..at], &[0, 7], &gif[at..]].concat()]);
    let ended = [&gif[..at], &[0x3b], &gif[at..]].concat();
    assert_eq!(look(Codec::Gif, 1 << 20, &[ended]), Ok(()));
}

#[test]
fn start_codes_in_place_of_lengths_are_seen_and_a_length_is_none() {
    let lengths = Codec::H264(Framing::Lengths(4));
    let set = annex_b(&[bombs::h264_sps(16_384, 16_384, 1)]);
    assert_size(lengths, (16_384, 16_384), std::slice::from_ref(&set));
    assert_size(lengths, (16_384, 16_384), &[&set[set.iter().position(|byte| *byte == 1).unwrap() - 2..]]);
    // 0, 0, 1, 0x67 is the length of a picture's slice, within which everything may stand.
    let inner = [&[0x41], &bombs::h264_sps(16_384, 16_384, 1)[1..]].concat();
    let unit = [inner.clone(), vec![0xaa; 0x167 - inner.len()]].concat();
    assert_eq!(look(lengths, 1 << 20, &[[&[0, 0, 1, 0x67], unit.as_slice()].concat()]), Ok(()));
}

#[test]
fn a_code_of_more_zeros_than_there_are_bits_is_read_as_libav_does() {
    let code = |zeros: u32, rest: u32| {
        let mut bits = Writer::default();
        (0..zeros).for_each(|_| {
            bits.bits(1, 0);
        });
        let bytes = bits.bits(32, rest.into()).bits(8, 0).end();
        Bits::new(&bytes).exp_golomb()
    };
    assert_eq!(code(31, 0x8000_0005), Some(0x8000_0004));
    assert_eq!(code(31, 17), Some(16));
    assert_eq!(code(31, 0), Some(u32::MAX));
    assert_eq!(code(30, 0xc000_0000), Some(0x5fff_ffff));
    assert_eq!(Bits::new(&[0; 7]).exp_golomb(), None);
}

#[test]
fn vp9_frames_behind_those_that_only_show_another_count() {
    let (_, frames) = encoded(322, 182, "vp9enc");
    // Profiles 0 and 3, with and without zeros behind.
    for shown in [&[0x88][..], &[0x8f, 0, 0], &[0xb4, 0x80], &[0x88, 0x89, 0]] {
        assert_size(Codec::Vp9, (322, 182), &[[shown, frames[0].as_slice()].concat()]);
    }
    let index = vp9_index(&frames[0]).unwrap();
    let indexed = [frames[0].as_slice(), &index].concat();
    assert_eq!(vp9_index(&indexed), None);
    assert_size(Codec::Vp9, (322, 182), &[indexed]);
    assert_eq!(vp9_index(&[]), None);
}

#[test]
fn zeros_between_obus_hide_nothing() {
    let (_, frames) = encoded(322, 182, "av1enc cpu-used=8");
    for zeros in 1..4 {
        assert_size(Codec::Av1, (322, 182), &[[vec![0; zeros], frames[0].clone()].concat()]);
    }
}

#[test]
fn limits_grow_together() {
    assert_eq!(Limits::CAMERA, Limits { max_pixels: 1 << 25, max_side: 16_384, max_bytes: 18 << 25 });
    assert_eq!(Limits::FILE, Limits { max_pixels: 200_000_000, max_side: 32_768, max_bytes: 1 << 30 });
    // A small limit is no reason to refuse an ordinary number of references.
    assert_eq!(Limits::of(1 << 21).max_bytes, Limits::CAMERA.max_bytes);
    assert_eq!(Limits::of(1 << 26).max_side, 32_768);
}

proptest! {
    #[test]
    fn no_bytes_make_it_fail(bytes in prop::collection::vec(any::<u8>(), 0..300), codec in 0..super::fuzz::CODECS.len() as u8) {
        super::fuzz::any_bytes(&[&[codec], bytes.as_slice()].concat());
    }

    #[test]
    fn sizes_by_hand_are_those_that_are_read(w in 1..2000_u64, h in 1..2000_u64, refs in 0..16_u64) {
        let sps = annex_b(&[bombs::h264_sps(w * 16, h * 16, refs)]);
        assert_size(Codec::H264(START), (w * 16, h * 16), &[sps]);
        let sps = annex_b(&[bombs::h265_sps(w * 8, h * 8, refs + 1)]);
        assert_size(Codec::H265(START), (w * 8, h * 8), &[sps]);
    }

    #[test]
    fn what_keeps_start_codes_out_is_taken_away(payload in prop::collection::vec(0..5_u8, 0..60)) {
        let unit = escaped(&[], &payload);
        // A last 0 of a unit belongs to the next start code.
        prop_assert_eq!(nal::unescaped(&unit, 1000), payload);
    }
}
