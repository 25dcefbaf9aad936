//! PyTorch's two file formats, made by hand, and what is refused of them.

use super::super::raw::{Element, Part, RawStore};
use super::super::zip::made::archive;
use super::*;

fn text(value: &str) -> Vec<u8> {
    [b"X".as_slice(), &(value.len() as u32).to_le_bytes(), value.as_bytes()].concat()
}

fn int(value: i32) -> Vec<u8> {
    [b"J".as_slice(), &value.to_le_bytes()].concat()
}

fn tuple(values: &[i32]) -> Vec<u8> {
    [b"(".to_vec(), values.iter().flat_map(|v| int(*v)).collect(), b"t".to_vec()].concat()
}

/// A tensor as `torch.save` pickles it: storage `key` of `len` elements, then offset, shape and strides.
fn tensor(kind: &str, key: &str, len: i32, view: &[u8], offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        format!("ctorch\n{kind}\n").into_bytes(),
        text(key),
        text("cpu"),
        int(len),
        view.to_vec(),
        b"tQ".to_vec(),
        int(offset),
        tuple(shape),
        tuple(strides),
        b"\x89ccollections\nOrderedDict\n)RtR".to_vec(),
    ]
    .concat()
}

fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let body: Vec<u8> = entries.iter().flat_map(|(name, value)| [text(name), value.clone()].concat()).collect();
    [b"\x80\x02}(".to_vec(), body, b"u.".to_vec()].concat()
}

fn floats(range: std::ops::Range<u8>) -> Vec<u8> {
    range.flat_map(|n| f32::from(n).to_le_bytes()).collect()
}

fn store(file: Vec<u8>) -> Result<RawStore, ImportError> {
    let tensors = read(&file, Path::new("m.bin"), 0)?;
    Ok(RawStore { parts: vec![Part { path: "m.bin".into(), bytes: Box::new(file) }], tensors })
}

fn message(file: Vec<u8>) -> String {
    store(file).err().unwrap().to_string()
}

#[test]
fn a_zip_file_gives_its_tensors_with_strides_offsets_and_shared_storages() {
    let half: Vec<u8> = [1.5_f32, -2.0].iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    let pickle = dict(&[
        ("whole", tensor("FloatStorage", "0", 6, b"", 0, &[2, 3], &[3, 1])),
        ("turned", tensor("FloatStorage", "0", 6, b"", 0, &[3, 2], &[1, 3])),
        ("tail", tensor("FloatStorage", "0", 6, b"", 4, &[2], &[1])),
        ("half", tensor("HalfStorage", "1", 2, b"", 0, &[2], &[1])),
        ("scalar", tensor("FloatStorage", "0", 6, b"", 3, &[], &[])),
        ("epoch", int(3)),
    ]);
    let records: [(&str, &[u8]); 4] =
        [("m/data.pkl", &pickle), ("m/byteorder", b"little"), ("m/data/0", &floats(0..6)), ("m/data/1", &half)];
    for zip64 in [false, true] {
        let store = store(archive(&records, zip64)).unwrap();
        assert_eq!(store.tensors.len(), 5);
        assert_eq!(store.read("whole", None).unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(store.read("turned", None).unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(store.read("tail", None).unwrap(), [4.0, 5.0]);
        assert_eq!(store.read("half", None).unwrap(), [1.5, -2.0]);
        assert_eq!(store.read("scalar", None).unwrap(), [3.0]);
        assert_eq!(store.tensors["half"].element, Element::F16);
    }
}

#[test]
fn a_training_checkpoint_gives_the_tensors_of_its_state_dict() {
    let inner = dict(&[("w", tensor("FloatStorage", "0", 2, b"", 0, &[2], &[1]))]);
    // Without its protocol and its end, a pickle can stand within another.
    let inner = inner[2..inner.len() - 1].to_vec();
    let of = |entries: &[(&str, Vec<u8>)]| {
        let pickle = dict(entries);
        store(archive(&[("a/data.pkl", &pickle), ("a/data/0", &floats(7..9))], false))
    };
    for key in ["state_dict", "model_state_dict", "model", "module"] {
        let store = of(&[("epoch", int(3)), (key, inner.clone())]).unwrap();
        assert_eq!(store.read("w", None).unwrap(), [7.0, 8.0], "{key}");
    }
    let error = of(&[("model", inner.clone()), ("state_dict", inner)]).err().unwrap().to_string();
    assert!(error.contains("`model`") && error.contains("`state_dict`"), "{error}");
}

/// A file as PyTorch wrote it before 1.6.
fn legacy(object: &[u8], storages: &[(&str, u64, Vec<u8>)]) -> Vec<u8> {
    let keys: Vec<u8> = storages.iter().flat_map(|(key, ..)| text(key)).collect();
    let mut file = [b"\x80\x02\x8a\x0a".as_slice(), &MAGIC, b".\x80\x02M\xe9\x03."].concat();
    file.extend(dict(&[("protocol_version", int(1001)), ("little_endian", vec![0x88])]));
    file.extend(object);
    file.extend([b"\x80\x02](".to_vec(), keys, b"e.".to_vec()].concat());
    for (_, count, data) in storages {
        file.extend(count.to_le_bytes());
        file.extend(data);
    }
    file
}

#[test]
fn a_file_from_before_1_6_gives_its_tensors_and_views() {
    let view = [b"(".to_vec(), text("v"), int(1), int(2), b"t".to_vec()].concat();
    let object = dict(&[
        ("a", tensor("FloatStorage", "94", 3, b"N", 0, &[3], &[1])),
        ("b", tensor("FloatStorage", "17", 4, b"N", 2, &[2], &[1])),
        ("c", tensor("FloatStorage", "17", 4, &view, 1, &[1], &[1])),
    ]);
    let file = legacy(&object, &[("17", 4, floats(10..14)), ("94", 3, floats(0..3))]);
    let read = store(file.clone()).unwrap();
    assert_eq!(read.read("a", None).unwrap(), [0.0, 1.0, 2.0]);
    assert_eq!(read.read("b", None).unwrap(), [12.0, 13.0]);
    assert_eq!(read.read("c", None).unwrap(), [12.0]);
    for cut in 0..file.len() {
        assert!(store(file[..cut].to_vec()).is_err(), "{cut}");
    }
    assert!(message(legacy(&object, &[("17", u64::MAX, floats(10..14))])).contains("cut short"));
    assert!(message(legacy(&object, &[("17", 4, floats(10..14))])).contains("storage `94`"));
    assert!(message(legacy(&object, &[("3", 4, floats(10..14))])).contains("no tensor uses"));
}

#[test]
fn what_is_not_a_state_dict_is_refused_with_its_kind() {
    let evil = store(b"\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85R.".to_vec()).err().unwrap();
    assert!(matches!(&evil, ImportError::Refused { class, .. } if class == "posix.system"), "{evil}");
    let inside = archive(&[("m/data.pkl", b"cos\nsystem\n(S'x'\ntR.")], false);
    assert!(message(inside).contains("`os.system`"));
    let tensors = dict(&[("t", tensor("FloatStorage", "0", 1, b"", 0, &[1], &[1]))]);
    assert!(message(archive(&[("m/data.pkl", &tensors), ("m/constants.pkl", b"")], false)).contains("TorchScript"));
    assert!(message(archive(&[("m/data.pkl", &tensors), ("m/byteorder", b"big")], false)).contains("big-endian"));
    assert!(message(archive(&[("a.txt", b"")], false)).contains("no PyTorch file"));
    assert!(message(archive(&[("m/data.pkl", b"\x80\x02}.")], false)).contains("no tensor in it"));
    assert!(message(b"\x80\x02K\x01.".to_vec()).contains("not one that torch.save wrote"));
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    assert!(message(tar).contains("tar file"));
}

#[test]
fn storages_that_are_missing_or_too_short_are_refused() {
    let file = |offset, shape: &[i32], strides: &[i32], len, record: &[u8]| {
        let pickle = dict(&[("t", tensor("FloatStorage", "0", len, b"", offset, shape, strides))]);
        archive(&[("m/data.pkl", &pickle), ("m/data/0", record)], false)
    };
    assert!(message(file(0, &[4], &[1], 4, &[0; 15])).contains("too short"));
    assert!(message(file(0, &[4], &[1], i32::MAX, &[0; 16])).contains("too short"));
    assert!(message(file(-1, &[4], &[1], 4, &[0; 16])).contains("proper storage"));
    assert!(message(file(0, &[1; 9], &[1; 9], 4, &[0; 16])).contains("proper storage"));
    for (offset, shape, strides) in [
        (1, &[4][..], &[1][..]),
        (0, &[2, 2], &[3, 1]),
        (0, &[2, 2], &[i32::MAX, 1]),
        (0, &[1000, 1000], &[0, 0]),
        (0, &[4], &[1, 1]),
    ] {
        let store = store(file(offset, shape, strides, 4, &[0; 16])).unwrap();
        assert!(matches!(store.read("t", None), Err(ImportError::Damaged { .. })), "{offset} {shape:?}");
    }
    let pickle = dict(&[("t", tensor("FloatStorage", "0", 1, b"", 0, &[1], &[1]))]);
    assert!(message(archive(&[("m/data.pkl", &pickle)], false)).contains("does not have"));
}
