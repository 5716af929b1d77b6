//! Cookies without state (RFC 7296 §2.6).

use std::net::SocketAddr;

use aws_lc_rs::{constant_time, hmac};
use rand_core::CryptoRng;

use crate::crypto::Secret;

/// The secrets that cookies are made from: the present one and the one before, each with its version.
#[derive(Debug)]
pub(super) struct Cookies {
    current: (u8, Secret),
    previous: Option<(u8, Secret)>,
}

impl Cookies {
    pub(super) fn new(rng: &mut dyn CryptoRng) -> Self {
        let mut secret = vec![0; 32];
        rng.fill_bytes(&mut secret);
        Self { current: (0, Secret::new(secret)), previous: None }
    }

    pub(super) fn set(&mut self, version: u8, secret: Secret) {
        let previous = std::mem::replace(&mut self.current, (version, secret));
        self.previous = Some(previous);
    }

    /// Cookie = version | HMAC(secret, Ni | IPi | SPIi)
    pub(super) fn make(&self, nonce: &[u8], remote: SocketAddr, spi: u64) -> Vec<u8> {
        compute(&self.current, nonce, remote, spi)
    }

    pub(super) fn verify(&self, cookie: &[u8], nonce: &[u8], remote: SocketAddr, spi: u64) -> bool {
        [Some(&self.current), self.previous.as_ref()]
            .into_iter()
            .flatten()
            .filter(|(version, _)| cookie.first() == Some(version))
            .any(|secret| constant_time::verify_slices_are_equal(&compute(secret, nonce, remote, spi), cookie).is_ok())
    }
}

fn compute((version, secret): &(u8, Secret), nonce: &[u8], remote: SocketAddr, spi: u64) -> Vec<u8> {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret.expose()));
    context.update(nonce);
    // The address alone: a NAT may change the port between the two requests.
    match remote {
        SocketAddr::V4(remote) => context.update(&remote.ip().octets()),
        SocketAddr::V6(remote) => context.update(&remote.ip().octets()),
    }
    context.update(&spi.to_be_bytes());
    let mut cookie = vec![*version];
    cookie.extend_from_slice(context.sign().as_ref());
    cookie
}
