//! Sixteen bytes that reach memory in one store.

/// A nonce or AAD, padded to 16 bytes, that was written with one store.
///
/// Ciphers load such blocks whole. A load that spans two stores which are still on their way to the cache can't be served from
/// either and waits for both, at the price of half a small packet's encryption. Left alone, the compiler writes a 16-byte integer
/// as two 8-byte ones.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(16))]
pub struct Block([u8; 16]);

impl Block {
    /// The bytes of a number, the most significant first.
    #[inline(always)]
    pub fn from_be(number: u128) -> Self {
        let bytes = number.to_be_bytes();
        #[cfg(target_arch = "x86_64")]
        {
            use core::arch::asm;
            use core::arch::x86_64::__m128i;
            // SAFETY: both are 16 bytes without padding, and every bit pattern is a value of either.
            let mut vector: __m128i = unsafe { core::mem::transmute(bytes) };
            // SAFETY: no instruction at all. That the value has to be in a vector register here is what keeps it in one piece.
            unsafe { asm!("/* {} */", inout(xmm_reg) vector, options(pure, nomem, nostack, preserves_flags)) };
            // SAFETY: as above.
            Self(unsafe { core::mem::transmute::<__m128i, [u8; 16]>(vector) })
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self(bytes)
    }

    /// The bytes.
    #[inline(always)]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_significant_byte_comes_first() {
        let bytes: [u8; 16] = std::array::from_fn(|index| index as u8 * 17);
        assert_eq!(Block::from_be(u128::from_be_bytes(bytes)).as_bytes(), &bytes);
    }
}
