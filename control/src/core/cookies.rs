//! The secret behind IKE's cookies.

use aws_lc_rs::hmac;
use rand_core::CryptoRng;
use vipsec_ike::Secret;
use vipsec_wire::cookie::{Cookies, SECRET_LEN};

/// What the pairing secret is used for here and nowhere else.
const PURPOSE: &[u8] = b"vipsec: cookies of IKE";

/// Both of a pair take each other's (a caller may come back when the other one owns the VIP); an appliance alone takes its own, until it ends.
pub(super) fn cookies(pairing: Option<&Secret>, rng: &mut dyn CryptoRng) -> Cookies {
    let mut key = [0; SECRET_LEN];
    match pairing {
        Some(secret) => {
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.expose()), PURPOSE);
            for (to, from) in key.iter_mut().zip(tag.as_ref()) {
                *to = *from;
            }
        }
        None => rng.fill_bytes(&mut key),
    }
    Cookies::new(0, key)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use vipsec_wire::cookie::Caller;

    use super::*;

    #[test]
    fn a_pair_takes_each_others_cookies_and_nobody_elses() {
        let of = |secret: Option<u8>, seed| {
            let secret = secret.map(|byte| Secret::new(vec![byte; 32]));
            cookies(secret.as_ref(), &mut StdRng::seed_from_u64(seed))
        };
        let caller = Caller { nonce: &[1; 32], address: [192, 0, 2, 7].into(), spi: 5 };
        let cookie = of(Some(7), 1).make(caller);
        assert!(of(Some(7), 2).verify(&cookie, caller));
        for other in [of(Some(8), 1), of(None, 1), of(None, 2)] {
            assert!(!other.verify(&cookie, caller));
        }
        assert!(!of(None, 1).verify(&of(None, 2).make(caller), caller));
    }
}
