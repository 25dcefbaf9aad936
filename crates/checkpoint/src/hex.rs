//! Bytes as people and file names have them: two digits each. Pure.

/// Lower case, without anything in between.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
