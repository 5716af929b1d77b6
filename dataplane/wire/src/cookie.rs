//! Cookies without state (RFC 7296 §2.6): a caller shows that it receives what is sent to the address that it calls from.
//!
//! The control core and the workers make and verify the same ones: what a worker lets through, the core believes.

use std::fmt;
use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip128::{Hasher128, SipHasher24};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Length of a cookie: the version of its secret, and 16 bytes that nobody without the secret can tell from random ones.
pub const COOKIE_LEN: usize = 1 + TAG_LEN;

const TAG_LEN: usize = 16;

/// Length of a secret in bytes.
pub const SECRET_LEN: usize = 16;

/// The present secret, and the one before: its cookies are still good.
#[derive(Clone)]
pub struct Cookies {
    current: Secret,
    previous: Option<Secret>,
}

#[derive(Clone, Zeroize, ZeroizeOnDrop)]
struct Secret {
    version: u8,
    key: [u8; SECRET_LEN],
}

/// What a cookie is for.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Ni.
    pub nonce: &'a [u8],
    /// IPi: the address alone, since a NAT may change the port between the two requests.
    pub address: IpAddr,
    /// SPIi.
    pub spi: u64,
}

impl Cookies {
    /// Cookies of a secret. Whoever shares it accepts the same.
    pub const fn new(version: u8, key: [u8; SECRET_LEN]) -> Self {
        Self { current: Secret { version, key }, previous: None }
    }

    /// Another secret from now on. The present one stays valid until the next call; `version` differs from its own.
    pub fn rotate(&mut self, version: u8, key: [u8; SECRET_LEN]) {
        self.previous = Some(std::mem::replace(&mut self.current, Secret { version, key }));
    }

    /// Cookie = version | SipHash-2-4-128(secret, IPi | SPIi | Ni). RFC 7296 §2.6 leaves the function to us.
    pub fn make(&self, caller: Caller<'_>) -> [u8; COOKIE_LEN] {
        self.current.make(caller)
    }

    /// Did we give this caller that cookie?
    pub fn verify(&self, cookie: &[u8], caller: Caller<'_>) -> bool {
        let secrets = [Some(&self.current), self.previous.as_ref()].into_iter().flatten();
        secrets
            .filter(|secret| cookie.first() == Some(&secret.version))
            .any(|secret| are_equal(&secret.make(caller), cookie))
    }
}

impl Secret {
    fn make(&self, Caller { nonce, address, spi }: Caller<'_>) -> [u8; COOKIE_LEN] {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        // Of different lengths, and told apart by the first byte: no two callers write the same bytes.
        match address {
            IpAddr::V4(address) => {
                hasher.write(&[4]);
                hasher.write(&address.octets());
            }
            IpAddr::V6(address) => {
                hasher.write(&[6]);
                hasher.write(&address.octets());
            }
        }
        hasher.write(&spi.to_be_bytes());
        hasher.write(nonce);
        let mut cookie = [self.version; COOKIE_LEN];
        for (to, from) in cookie.iter_mut().skip(1).zip(hasher.finish128().as_bytes()) {
            *to = from;
        }
        cookie
    }
}

/// Looks at every byte, whatever the others are.
fn are_equal(ours: &[u8; COOKIE_LEN], theirs: &[u8]) -> bool {
    theirs.len() == ours.len() && ours.iter().zip(theirs).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

impl fmt::Debug for Cookies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cookies").field("version", &self.current.version).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLER: Caller<'static> = Caller {
        nonce: &[7; 32],
        address: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)),
        spi: 0x0123_4567_89ab_cdef,
    };

    #[test]
    fn a_cookie_is_good_for_its_caller_alone() {
        let cookies = Cookies::new(1, [9; SECRET_LEN]);
        let cookie = cookies.make(CALLER);
        assert!(cookies.verify(&cookie, CALLER));
        let elsewhere = Caller { address: "192.0.2.8".parse().unwrap(), ..CALLER };
        // The same bytes as an IPv4 address and the beginning of what follows.
        let of_ipv6 = Caller { address: "c000:207:123:4567:89ab:cdef::".parse().unwrap(), ..CALLER };
        let another_nonce = Caller { nonce: &[8; 32], ..CALLER };
        let another_spi = Caller { spi: 1, ..CALLER };
        for caller in [elsewhere, of_ipv6, another_nonce, another_spi] {
            assert!(!cookies.verify(&cookie, caller), "{caller:?}");
        }
        for at in 0..COOKIE_LEN {
            let mut forged = cookie;
            forged[at] ^= 1;
            assert!(!cookies.verify(&forged, CALLER), "{at}");
        }
        assert!(!cookies.verify(&cookie[..16], CALLER) && !cookies.verify(&[], CALLER));
    }

    #[test]
    fn the_secret_before_is_still_good_and_no_older_one() {
        let mut cookies = Cookies::new(1, [1; SECRET_LEN]);
        let cookie = cookies.make(CALLER);
        cookies.rotate(2, [2; SECRET_LEN]);
        assert!(cookies.verify(&cookie, CALLER));
        assert_ne!(cookies.make(CALLER), cookie);
        cookies.rotate(3, [3; SECRET_LEN]);
        assert!(!cookies.verify(&cookie, CALLER));
    }

    #[test]
    fn the_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Cookies::new(1, [0xee; SECRET_LEN])), "Cookies { version: 1, .. }");
    }
}
