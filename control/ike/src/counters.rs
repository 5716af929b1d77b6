//! Why messages were dropped or refused: one table gives the enum, the counter and the text.

use std::fmt;

macro_rules! drops {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// Why a message was dropped or refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Drop {
            $(#[doc = $text] $name,)*
        }

        impl Drop {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// A short text, for metrics and status.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }

        const DROPS: usize = Drop::ALL.len();
    };
}

drops! {
    Malformed = "malformed message",
    OldVersion = "major version below 2",
    NewVersion = "major version above 2",
    Oversized = "message too large",
    UnknownSpi = "no IKE SA with that SPI",
    WrongPeer = "SPI or role of the sender don't fit the IKE SA",
    NotAuthentic = "message is not authentic",
    FragmentUnwanted = "fragment is here already, or of an older cut of the message",
    FragmentLimit = "too many fragments, or too much in them",
    UnexpectedMessageId = "message ID outside the window",
    UnexpectedExchange = "exchange doesn't fit the state of the IKE SA",
    NotOwned = "VIP isn't owned here",
    NoConnection = "no connection for these addresses",
    NoProposalChosen = "no acceptable proposal in IKE_SA_INIT",
    InvalidKeyExchange = "key exchange in the wrong group",
    BadPublicValue = "public value is no point of its group",
    HalfOpenLimit = "too many half-open IKE SAs",
    IkeSaLimit = "too many IKE SAs",
    CookieAsked = "cookie asked for",
    CookieWrong = "cookie is wrong",
    UnprotectedError = "unprotected error notification",
    AuthenticationFailed = "authentication failed",
    RateLimited = "unprotected answer over the limit",
    NumbersExhausted = "the IKE SA's IVs or message IDs are used up",
}

/// How often each reason occurred.
#[derive(Clone, PartialEq, Eq)]
pub struct Counters([u64; DROPS]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; DROPS])
    }
}

impl Counters {
    pub(crate) fn count(&mut self, drop: Drop) {
        if let Some(counter) = self.0.get_mut(drop as usize) {
            *counter += 1;
        }
    }

    /// How often?
    pub fn get(&self, drop: Drop) -> u64 {
        self.0.get(drop as usize).copied().unwrap_or(0)
    }

    /// All reasons with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Drop, u64)> + '_ {
        Drop::ALL.iter().map(|drop| (*drop, self.get(*drop)))
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().filter(|(_, count)| *count > 0)).finish()
    }
}
