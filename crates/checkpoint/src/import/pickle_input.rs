//! The bytes of a pickle, one after the other. In: a part of a file; out: numbers, strings and lines of it, or the fault that
//! it ends too early. Fetched [`CHUNK`] bytes at a time.

use super::bytes::Bytes;
use super::unpickle::PickleFault;

/// Longest name of a module or a class.
pub(super) const MAX_NAME: usize = 256;

/// Bytes fetched at a time.
const CHUNK: usize = 64 << 10;

/// The bytes of the pickle, fetched piece by piece.
pub(super) struct Input<'a> {
    bytes: &'a dyn Bytes,
    /// What is fetched next.
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    used: usize,
}

impl<'a> Input<'a> {
    /// From byte `at` to before byte `end`, which must be in the file.
    pub(super) fn new(bytes: &'a dyn Bytes, at: u64, end: u64) -> Self {
        Self { bytes, at, end, buffer: Vec::new(), used: 0 }
    }

    /// The place in the file of the next byte.
    pub(super) fn place(&self) -> u64 {
        self.at - (self.buffer.len() - self.used) as u64
    }

    pub(super) fn byte(&mut self) -> Result<u8, PickleFault> {
        if self.used == self.buffer.len() {
            let len = (self.end.saturating_sub(self.at)).min(CHUNK as u64) as usize;
            if len == 0 {
                return Err(damaged("has a pickle that is cut short, or is longer than any checkpoint's"));
            }
            self.buffer.resize(len, 0);
            let read = self.bytes.read_at(self.at, &mut self.buffer);
            read.map_err(|e| damaged(format!("cannot be read: {e}")))?;
            self.at += len as u64;
            self.used = 0;
        }
        let byte = self.buffer[self.used];
        self.used += 1;
        Ok(byte)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleFault> {
        let mut array = [0; N];
        for byte in &mut array {
            *byte = self.byte()?;
        }
        Ok(array)
    }

    /// `len` bytes; nothing is allocated for those that are not there.
    pub(super) fn take(&mut self, len: u64) -> Result<Vec<u8>, PickleFault> {
        if len > self.end.saturating_sub(self.place()) {
            return Err(damaged("has a pickle with a string beyond its end"));
        }
        (0..len).map(|_| self.byte()).collect()
    }

    /// Up to the next line feed; at most [`MAX_NAME`] bytes.
    pub(super) fn line(&mut self) -> Result<String, PickleFault> {
        let mut line = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => return String::from_utf8(line).map_err(|_| damaged("has a class name that is no text")),
                _ if line.len() == MAX_NAME => return Err(damaged("has a class name without an end")),
                byte => line.push(byte),
            }
        }
    }
}

fn damaged(message: impl Into<String>) -> PickleFault {
    PickleFault::Damaged(message.into())
}
