//! A reader of single bits, first the highest of each byte, with the codes that headers are written in. `None` at the end.

/// See the module.
#[derive(Clone, Debug)]
pub struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Bits<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub fn bit(&mut self) -> Option<bool> {
        let bit = self.bytes.get(self.at / 8)? >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    /// A number of at most 32 bits.
    pub fn number(&mut self, bits: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..bits {
            value = value << 1 | u32::from(self.bit()?);
        }
        Some(value)
    }

    pub fn skip(&mut self, bits: usize) -> Option<()> {
        self.at = self.at.checked_add(bits)?;
        (self.at <= self.bytes.len() * 8).then_some(())
    }

    /// An unsigned Exp-Golomb code of at most 32 bits. Behind 31 zeros come 32 bits, whatever they are: libav reads those that no standard knows so.
    pub fn exp_golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while zeros < 31 && !self.clone().bit()? {
            self.at += 1;
            zeros += 1;
        }
        Some(self.number(zeros + 1)?.wrapping_sub(1))
    }

    /// One that must not be above `most`.
    pub fn up_to(&mut self, most: u32) -> Option<u32> {
        self.exp_golomb().filter(|value| *value <= most)
    }

    /// A signed one.
    pub fn signed(&mut self) -> Option<i64> {
        let code = i64::from(self.exp_golomb()?);
        Some(if code % 2 == 1 { code / 2 + 1 } else { -(code / 2) })
    }
}
