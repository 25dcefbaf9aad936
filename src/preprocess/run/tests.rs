use super::*;

#[test]
fn chroma_of_an_odd_region_covers_it() {
    // Luma 3..8 needs chroma samples 1..4; the window starts half a sample in.
    assert_eq!(axis(3, 5, 0.0, 5.0, 2, 0.0), (1, 3, 0.5, 2.5));
    assert_eq!(axis(0, 641, 0.0, 641.0, 2, 0.25), (0, 321, 0.25, 320.5));
    assert_eq!(axis(3, 5, 1.5, 2.0, 1, 0.0), (3, 5, 1.5, 2.0));
}
