//! What the data plane reads and writes of IKE (RFC 7296 §3): a caller's first message, and the answer that asks for a cookie.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                       IKE SA Initiator's SPI                  |
//! |                                                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                       IKE SA Responder's SPI                  |
//! |                                                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Next Payload | MjVer | MnVer | Exchange Type |     Flags     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                          Message ID                           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                            Length                             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use crate::Truncated;
use crate::cookie::COOKIE_LEN;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 28;

const VERSION: u8 = 0x20;
const IKE_SA_INIT: u8 = 34;
const FLAG_RESPONSE: u8 = 0x20;
const NO_NEXT_PAYLOAD: u8 = 0;
const NONCE: u8 = 40;
const NOTIFY: u8 = 41;
const COOKIE: u16 = 16390;
/// Length of a payload's generic header, and with it of what a notification has before its SPI.
const PAYLOAD_HEADER_LEN: usize = 4;
const NOTIFY_HEADER_LEN: usize = 8;
/// A caller has a cookie, an SA, a key, a nonce, and says what it can do. Who has more isn't read to the end.
const PAYLOADS_MAX: usize = 32;

/// Length of the answer that asks for a cookie.
pub const COOKIE_REQUEST_LEN: usize = HEADER_LEN + NOTIFY_HEADER_LEN + COOKIE_LEN;

/// A request for an IKE SA, as far as it takes to give its sender a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call<'a> {
    /// The initiator's SPI.
    pub spi: u64,
    /// Ni. Without one the message is malformed.
    pub nonce: Option<&'a [u8]>,
    /// The cookie that it shows.
    pub cookie: Option<&'a [u8]>,
}

impl<'a> Call<'a> {
    /// Reads an IKE message. `None`: it belongs to an IKE SA that there is, or says so.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let (header, payloads) = message.split_first_chunk::<HEADER_LEN>()?;
        let [s0, s1, s2, s3, s4, s5, s6, s7, responder @ .., next, _, exchange, flags, _, _, _, _, _, _, _, _] = header;
        if *exchange != IKE_SA_INIT || flags & FLAG_RESPONSE != 0 || responder.iter().any(|byte| *byte != 0) {
            return None;
        }
        let spi = u64::from_be_bytes([*s0, *s1, *s2, *s3, *s4, *s5, *s6, *s7]);
        let mut call = Self { spi, nonce: None, cookie: None };
        let (mut kind, mut rest) = (*next, payloads);
        for _ in 0..PAYLOADS_MAX {
            let Some((content, following, tail)) = split_payload(rest) else { break };
            match kind {
                NONCE => call.nonce = Some(content),
                NOTIFY if call.cookie.is_none() => call.cookie = cookie_in(content),
                _ => {}
            }
            (kind, rest) = (following, tail);
        }
        Some(call)
    }
}

/// A payload's content, the kind of the next one, and what comes behind.
fn split_payload(bytes: &[u8]) -> Option<(&[u8], u8, &[u8])> {
    let [next, _, high, low] = bytes.first_chunk::<PAYLOAD_HEADER_LEN>()?;
    let (payload, tail) = bytes.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
    Some((payload.get(PAYLOAD_HEADER_LEN..)?, *next, tail))
}

/// A COOKIE notification's data. It has no SPI (RFC 7296 §3.10).
fn cookie_in(content: &[u8]) -> Option<&[u8]> {
    let ([_, spi_len, high, low], data) = content.split_first_chunk::<PAYLOAD_HEADER_LEN>()?;
    (*spi_len == 0 && u16::from_be_bytes([*high, *low]) == COOKIE).then_some(data)
}

/// HDR(A,0), N(COOKIE): what a caller has to send again in front of its request (RFC 7296 §2.6).
pub fn emit_cookie_request(spi: u64, cookie: &[u8; COOKIE_LEN], out: &mut [u8]) -> Result<(), Truncated> {
    let out = out.get_mut(..COOKIE_REQUEST_LEN).ok_or(Truncated)?;
    let (header, notify) = out.split_at_mut_checked(HEADER_LEN).ok_or(Truncated)?;
    header.fill(0);
    put(header, 0, &spi.to_be_bytes());
    put(header, 16, &[NOTIFY, VERSION, IKE_SA_INIT, FLAG_RESPONSE]);
    put(header, 24, &(COOKIE_REQUEST_LEN as u32).to_be_bytes());
    let len = ((NOTIFY_HEADER_LEN + COOKIE_LEN) as u16).to_be_bytes();
    let kind = COOKIE.to_be_bytes();
    put(notify, 0, &[NO_NEXT_PAYLOAD, 0, len[0], len[1], 0, 0, kind[0], kind[1]]);
    put(notify, NOTIFY_HEADER_LEN, cookie);
    Ok(())
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in out.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header and payloads, each with its kind.
    fn message(exchange: u8, flags: u8, responder: u64, payloads: &[(u8, &[u8])]) -> Vec<u8> {
        let mut out = 0x1122_3344_5566_7788_u64.to_be_bytes().to_vec();
        out.extend_from_slice(&responder.to_be_bytes());
        out.extend_from_slice(&[payloads.first().map_or(0, |(kind, _)| *kind), VERSION, exchange, flags, 0, 0, 0, 0]);
        let len = HEADER_LEN + payloads.iter().map(|(_, content)| 4 + content.len()).sum::<usize>();
        out.extend_from_slice(&(len as u32).to_be_bytes());
        for (n, (_, content)) in payloads.iter().enumerate() {
            let next = payloads.get(n + 1).map_or(0, |(kind, _)| *kind);
            out.extend_from_slice(&[next, 0]);
            out.extend_from_slice(&(4 + content.len() as u16).to_be_bytes());
            out.extend_from_slice(content);
        }
        out
    }

    #[test]
    fn a_call_with_and_without_a_cookie() {
        let call = message(34, 8, 0, &[(33, &[0; 40]), (34, &[0; 36]), (NONCE, b"sixteen bytes...")]);
        let expected = Call { spi: 0x1122_3344_5566_7788, nonce: Some(b"sixteen bytes..."), cookie: None };
        assert_eq!(Call::parse(&call), Some(expected));
        let cookie = [b"\0\0\x40\x06".as_slice(), &[7; COOKIE_LEN]].concat();
        let other = b"\0\0\x40\x2e".as_slice();
        let call = message(34, 8, 0, &[(NOTIFY, other), (NOTIFY, &cookie), (NONCE, b"sixteen bytes...")]);
        assert_eq!(Call::parse(&call).and_then(|call| call.cookie), Some(&[7; COOKIE_LEN][..]));
    }

    #[test]
    fn what_belongs_to_an_ike_sa_is_no_call() {
        for (exchange, flags, responder) in [(34, 0x20, 0), (34, 8, 1), (35, 8, 0), (37, 8, 9)] {
            assert_eq!(Call::parse(&message(exchange, flags, responder, &[(NONCE, &[0; 16])])), None);
        }
        assert_eq!(Call::parse(&[0; 27]), None);
    }

    #[test]
    fn a_call_cut_anywhere_is_read_as_far_as_it_goes() {
        let call = message(34, 8, 0, &[(33, &[0; 40]), (NONCE, &[1; 32])]);
        for len in HEADER_LEN..call.len() {
            assert_eq!(Call::parse(&call[..len]).unwrap().nonce, None, "{len}");
        }
        let mut endless = message(34, 8, 0, &[(NONCE, &[1; 32])]);
        endless[30..32].fill(0);
        assert_eq!(Call::parse(&endless).unwrap().nonce, None, "a payload of no length");
    }

    #[test]
    fn the_cookie_that_is_asked_for_is_the_one_that_is_shown() {
        let cookie: [u8; COOKIE_LEN] = std::array::from_fn(|n| n as u8);
        let mut answer = [0xee; COOKIE_REQUEST_LEN + 3];
        emit_cookie_request(0x1122_3344_5566_7788, &cookie, &mut answer).unwrap();
        assert_eq!(answer[COOKIE_REQUEST_LEN..], [0xee; 3]);
        let payload = [b"\0\0\x40\x06".as_slice(), &cookie].concat();
        assert_eq!(answer[..COOKIE_REQUEST_LEN], message(34, 0x20, 0, &[(NOTIFY, &payload)]));
        assert!(emit_cookie_request(1, &cookie, &mut [0; COOKIE_REQUEST_LEN - 1]).is_err());
    }
}
