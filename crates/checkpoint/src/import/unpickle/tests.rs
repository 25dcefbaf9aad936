//! Pickles as PyTorch writes them, and as an attacker would.

use proptest::prelude::*;

use super::*;

fn run(pickle: &[u8]) -> Result<Pickle, PickleFault> {
    read(&pickle.to_vec(), 0, u64::MAX)
}

fn text(value: &str) -> Vec<u8> {
    [b"X".as_slice(), &(value.len() as u32).to_le_bytes(), value.as_bytes()].concat()
}

#[test]
fn every_class_that_is_not_a_tensor_is_refused_by_its_name() {
    let stacked = [b"\x80\x04".as_slice(), &text("os"), &text("system"), b"\x93"].concat();
    for (pickle, class) in [
        (b"cos\nsystem\n(S'true'\ntR.".as_slice(), "os.system"),
        (b"\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85R.", "posix.system"),
        (b"(ios\nsystem\n.", "os.system"),
        (b"c__builtin__\neval\n.", "__builtin__.eval"),
        (b"cbuiltins\ngetattr\n.", "builtins.getattr"),
        (b"ctorch\nload\n.", "torch.load"),
        (b"ctorch\nFloatStorageX\n.", "torch.FloatStorageX"),
        (b"ctorch._utils\n_rebuild_sparse_tensor\n.", "torch._utils._rebuild_sparse_tensor"),
        (b"ccollections\nOrderedDict.fromkeys\n.", "collections.OrderedDict.fromkeys"),
        (b"c\x1b[2J\nx\n.", "\\u{1b}[2J.x"),
        (b"\x82\x01.", "a class from the copyreg extension table"),
        (&stacked, "os.system"),
    ] {
        assert_eq!(run(pickle).unwrap_err(), PickleFault::Class(class.into()));
    }
}

#[test]
fn numbers_texts_and_containers_are_read() {
    let pickle = [b"\x80\x02}q\0(".as_slice(), &text("a"), b"K\x07", &text("b"), b"\x8a\x02\x00\xff", b"u."].concat();
    let read = run(&pickle).unwrap();
    let Some(Node::Dict(entries)) = read.node(read.top) else { panic!("{read:?}") };
    let entries: Vec<_> = entries.iter().map(|(k, v)| (read.text(*k).unwrap(), *v)).collect();
    assert_eq!(entries, [("a", Value::Int(7)), ("b", Value::Int(-256))]);
    assert_eq!(read.end, pickle.len() as u64);
    let one = |pickle: &[u8]| run(pickle).unwrap().top;
    assert_eq!(one(b"J\xff\xff\xff\xff."), Value::Int(-1));
    assert_eq!(one(b"M\x01\x02."), Value::Int(513));
    assert_eq!(one(b"\x8a\x00."), Value::Int(0));
    assert_eq!(one(b"N."), Value::None);
    assert_eq!(one(b"\x88."), Value::Bool(true));
}

#[test]
fn what_a_pickle_cannot_mean_is_damage() {
    for pickle in [
        b"".as_slice(),
        b".",
        b"R.",
        b"a.",
        b"s.",
        b"u.",
        b"t.",
        b"\x87.",
        b"h\x05.",
        b"q\x00.",
        b"Q.",
        b"KK",
        b"X\xff\xff\xff\xff",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
        b"X\x01\0\0\0\xff.",
        b"K\x01K\x02a.",
        b"K\x01(K\x02K\x03u.",
        b"}(K\x02u.",
        b"K\x01)R.",
        b"ctorch\nFloatStorage\n)R.",
        b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"ccollections\nOrderedDict\n(K\x01tR.",
        b"(K\x01tQ.",
        b"I5\n.",
        b"P0\n.",
        b"cos",
    ] {
        assert!(matches!(run(pickle), Err(PickleFault::Damaged(_))), "{pickle:?}");
    }
    let long = [b"c".as_slice(), &[b'x'; 1000], b"\ny\n."].concat();
    assert!(matches!(run(&long), Err(PickleFault::Damaged(_))));
}

#[test]
fn depth_and_repetition_cost_no_more_than_their_bytes() {
    // A million tuples around each other: neither reading nor dropping recurses.
    let mut deep = vec![b')'];
    deep.resize(1_000_000, 0x85);
    deep.push(b'.');
    assert!(run(&deep).is_ok());
    // More instructions than any checkpoint has.
    let endless = vec![b'N'; MAX_OPS as usize + 10];
    assert!(matches!(run(&endless), Err(PickleFault::Damaged(why)) if why.contains("instructions")));
    // A list of 1000 pairs, copied into a dictionary again and again.
    let mut copies = b"K\x01K\x02\x86q\0](".to_vec();
    copies.extend(b"h\0".repeat(1000));
    copies.extend(b"eq\x01");
    copies.extend(b"ccollections\nOrderedDict\nq\x02h\x01\x85R".repeat(5000));
    copies.push(b'.');
    assert!(matches!(run(&copies), Err(PickleFault::Damaged(why)) if why.contains("copies")));
}

proptest! {
    #[test]
    fn any_bytes_give_a_value_or_a_fault(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = run(&bytes);
    }

    #[test]
    fn any_sequence_of_known_instructions_gives_a_value_or_a_fault(
        ops in proptest::collection::vec(proptest::sample::select(vec![
            b".".to_vec(), b"(".to_vec(), b"0".to_vec(), b"1".to_vec(), b"N".to_vec(), b"K\x02".to_vec(), b")".to_vec(),
            b"\x85".to_vec(), b"\x86".to_vec(), b"\x87".to_vec(), b"t".to_vec(), b"]".to_vec(), b"l".to_vec(), b"}".to_vec(),
            b"d".to_vec(), b"a".to_vec(), b"e".to_vec(), b"s".to_vec(), b"u".to_vec(), b"q\0".to_vec(), b"h\0".to_vec(),
            b"\x94".to_vec(), b"R".to_vec(), b"\x81".to_vec(), b"b".to_vec(), b"Q".to_vec(), b"X\x07\0\0\0storage".to_vec(),
            b"ctorch\nFloatStorage\n".to_vec(), b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec(),
            b"ccollections\nOrderedDict\n".to_vec(), b"ctorch._utils\n_rebuild_parameter\n".to_vec(),
        ]), 0..80)
    ) {
        let _ = run(&[ops.concat(), b".".to_vec()].concat());
    }
}
