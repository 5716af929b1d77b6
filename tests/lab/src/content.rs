//! The content of bulk transfers: bytes that anyone can compute again from their offset, so that a lost, doubled, moved or
//! changed byte shows.

/// Makes or checks the content from the first byte on.
#[derive(Debug, Clone, Default)]
pub struct Content {
    offset: u64,
}

impl Content {
    /// The next bytes of the content, as many as `buffer` holds.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        let mut rest = buffer;
        while !rest.is_empty() {
            let word = word_at(self.offset / 8).to_le_bytes();
            let begin = (self.offset % 8) as usize;
            let count = rest.len().min(8 - begin);
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&word[begin..begin + count]);
            self.offset += count as u64;
            rest = later;
        }
    }

    /// Are these the next bytes of the content?
    pub fn check(&mut self, bytes: &[u8]) -> bool {
        let mut expected = [0_u8; 4096];
        bytes.chunks(expected.len()).all(|chunk| {
            let expected = &mut expected[..chunk.len()];
            self.fill(expected);
            expected == chunk
        })
    }
}

/// The 8 bytes at word `index`: the finalizer of splitmix64 over the index, which has no period within a transfer.
fn word_at(index: u64) -> u64 {
    let mut z = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_does_not_depend_on_how_it_is_cut() {
        let mut whole = vec![0; 10_000];
        Content::default().fill(&mut whole);
        let mut checker = Content::default();
        assert!(whole.chunks(1_371).all(|piece| checker.check(piece)));
    }

    #[test]
    fn a_changed_a_lost_and_a_repeated_byte_show() {
        let mut whole = vec![0; 10_000];
        Content::default().fill(&mut whole);
        let mut changed = whole.clone();
        changed[7_777] ^= 1;
        assert!(!Content::default().check(&changed));
        let mut lost = whole.clone();
        lost.remove(5_000);
        assert!(!Content::default().check(&lost));
        let mut repeated = whole.clone();
        repeated.copy_within(1_400..2_800, 2_800);
        assert!(!Content::default().check(&repeated));
    }
}
