//! What ends an ESP packet's text: padding 1, 2, 3, …, Pad Length and Next Header (RFC 4303 §2.4 to §2.6).
//!
//! Nearly all trailers fit the text's last eight bytes, and are read and written as one word: a cipher has just written these
//! bytes or is about to read them, and what is on its way to the cache in pieces makes it wait.

use crate::error::EspError;
use crate::header::TRAILER_LEN;

/// A trailer as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) pad_len: u8,
    pub(crate) next_header: u8,
}

const WORD_LEN: usize = size_of::<u64>();
/// Bytes of padding that fit a word before Pad Length and Next Header.
const PAD_MAX: u8 = (WORD_LEN - TRAILER_LEN) as u8;
/// That much padding, as the low bytes of a word.
const PADDING: u64 = u64::from_le_bytes([1, 2, 3, 4, 5, 6, 0, 0]);

/// A word of ones in the lowest `count` bytes, for less than eight.
const fn low_bytes(count: u8) -> u64 {
    (1 << (8 * count as u32)) - 1
}

/// Writes a trailer to the end of `text`. `None` if it doesn't fit.
#[inline]
pub(crate) fn write(text: &mut [u8], pad_len: u8, next_header: u8) -> Option<()> {
    match text.last_chunk_mut::<WORD_LEN>() {
        Some(last) if pad_len <= PAD_MAX => {
            let payload_len = PAD_MAX - pad_len;
            let payload = u64::from_le_bytes(*last) & low_bytes(payload_len);
            let padding = (PADDING & low_bytes(pad_len)) << (8 * u32::from(payload_len));
            let end = u64::from_le_bytes([0, 0, 0, 0, 0, 0, pad_len, next_header]);
            *last = (payload | padding | end).to_le_bytes();
            Some(())
        }
        _ => write_bytes(text, pad_len, next_header),
    }
}

fn write_bytes(text: &mut [u8], pad_len: u8, next_header: u8) -> Option<()> {
    let (rest, end) = text.split_last_chunk_mut()?;
    let start = rest.len().checked_sub(pad_len.into())?;
    rest.get_mut(start..)?.iter_mut().zip(1..=u8::MAX).for_each(|(byte, value)| *byte = value);
    *end = [pad_len, next_header];
    Some(())
}

/// Reads the trailer at the end of `text` and inspects the padding.
#[inline]
pub(crate) fn read(text: &[u8]) -> Result<Trailer, EspError> {
    if let Some(last) = text.last_chunk::<WORD_LEN>() {
        let [.., pad_len, next_header] = *last;
        if pad_len <= PAD_MAX {
            let before_end = u64::from_le_bytes(*last) & low_bytes(PAD_MAX);
            let padding = before_end >> (8 * u32::from(PAD_MAX - pad_len));
            // RFC 4303 §2.4: 1, 2, 3, …; the receiver SHOULD inspect the Padding field.
            let sound = padding == PADDING & low_bytes(pad_len);
            return if sound { Ok(Trailer { pad_len, next_header }) } else { Err(EspError::BadPadding) };
        }
    }
    read_bytes(text)
}

fn read_bytes(text: &[u8]) -> Result<Trailer, EspError> {
    let (rest, [pad_len, next_header]) = text.split_last_chunk().ok_or(EspError::Truncated)?;
    let start = rest.len().checked_sub(usize::from(*pad_len)).ok_or(EspError::BadPadding)?;
    let padding = rest.get(start..).ok_or(EspError::BadPadding)?;
    let sound = padding.iter().zip(1..=u8::MAX).all(|(found, expected)| *found == expected);
    if sound { Ok(Trailer { pad_len: *pad_len, next_header: *next_header }) } else { Err(EspError::BadPadding) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Words are only a faster way to do what the bytes do.
        #[test]
        fn words_and_bytes_agree(
            text in prop::collection::vec(prop_oneof![any::<u8>(), 0..8u8], 0..300),
            pad_len in prop_oneof![0..10u8, any::<u8>()],
            next_header in any::<u8>(),
            flipped in any::<prop::sample::Index>(),
        ) {
            prop_assert_eq!(read(&text), read_bytes(&text));
            let (mut by_word, mut by_byte) = (text.clone(), text);
            let written = write(&mut by_word, pad_len, next_header);
            prop_assert_eq!(write_bytes(&mut by_byte, pad_len, next_header), written);
            prop_assert_eq!(&by_word, &by_byte);
            if written.is_some() {
                prop_assert_eq!(read(&by_word), Ok(Trailer { pad_len, next_header }));
                prop_assert_eq!(read_bytes(&by_word), Ok(Trailer { pad_len, next_header }));
            }
            // One wrong byte of padding is noticed.
            if written.is_some() && pad_len > 0 {
                let at = by_word.len() - TRAILER_LEN - 1 - flipped.index(pad_len.into());
                by_word[at] ^= 0x80;
                prop_assert_eq!(read(&by_word), Err(EspError::BadPadding));
                prop_assert_eq!(read_bytes(&by_word), Err(EspError::BadPadding));
            }
        }
    }
}
