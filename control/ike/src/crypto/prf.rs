//! prf and prf+ (RFC 7296 §2.13).

use aws_lc_rs::hmac;
use zeroize::{Zeroize, Zeroizing};

use super::transform::Prf;

impl Prf {
    /// prf(key, parts one after the other).
    pub(crate) fn compute(self, key: &[u8], parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        let mut context = hmac::Context::with_key(&hmac::Key::new(self.hmac(), key));
        for part in parts {
            context.update(part);
        }
        Zeroizing::new(context.sign().as_ref().to_vec())
    }

    /// The first `len` bytes of prf+(key, seed). `len` is at most 255 times the PRF's output.
    pub(crate) fn expand(self, key: &[u8], seed: &[&[u8]], len: usize) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(len + self.key_len()));
        let mut block = Zeroizing::new(Vec::new());
        for counter in 1..=u8::MAX {
            if out.len() >= len {
                break;
            }
            // T1 = prf(K, S | 0x01), Tn = prf(K, Tn-1 | S | n)
            let mut parts: Vec<&[u8]> = vec![&block];
            parts.extend_from_slice(seed);
            let counter = [counter];
            parts.push(&counter);
            let next = self.compute(key, &parts);
            out.extend_from_slice(&next);
            block = next;
        }
        if let Some(surplus) = out.get_mut(len..) {
            surplus.zeroize();
        }
        out.truncate(len);
        out
    }
}
