//! What a new owner of a VIP tells the targets' agents, and what they answer: one line each way, authenticated by a secret that
//! appliances and agents share.
//!
//! ```text
//! --> owner 192.0.2.1 7 2 5f1d…      VIP, epoch, appliance id; HMAC-SHA-256 of the words before
//! <-- known 192.0.2.1 7 2 9a03…      it is the owner that the agent knows now
//! <-- newer 192.0.2.1 8 1 44c7…      the agent knows of a newer one: this one
//! ```
//!
//! Owners are ordered by (epoch, appliance id). Who can't prove that it knows the secret gets no answer.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use aws_lc_rs::hmac;
use thiserror::Error;

/// Most bytes of a line, its end included.
pub const NOTICE_BYTES_MAX: usize = 256;

/// Most VIPs that an agent keeps in mind.
const VIPS_MAX: usize = 1024;

/// Who owns a VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// The VIP's address.
    pub vip: IpAddr,
    /// Its ownership number.
    pub epoch: u32,
    /// The owner's appliance id.
    pub owner: u8,
}

/// What an agent answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It knows this owner, and no newer one.
    Known(Notice),
    /// It was told of a newer owner: this one.
    Newer(Notice),
}

/// A line that isn't what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NoticeError {
    /// Other words.
    #[error("not a line about an owner")]
    Malformed,
    /// Written with another secret, or changed on the way.
    #[error("the line does not authenticate")]
    NotAuthentic,
}

/// Makes and checks the lines.
pub struct NoticeKey(hmac::Key);

impl NoticeKey {
    /// From the secret that appliances and agents share.
    pub fn new(secret: &[u8]) -> Self {
        // For nothing else, whatever else the secret may be used for.
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"vipsec target agent");
        Self(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }

    /// What an appliance sends.
    pub fn notice(&self, notice: &Notice) -> String {
        self.line("owner", notice)
    }

    /// What an agent answers.
    pub fn answer(&self, answer: &Answer) -> String {
        match answer {
            Answer::Known(notice) => self.line("known", notice),
            Answer::Newer(notice) => self.line("newer", notice),
        }
    }

    /// Reads what an appliance sent.
    ///
    /// # Errors
    /// See [`NoticeError`].
    pub fn read_notice(&self, line: &str) -> Result<Notice, NoticeError> {
        match self.read(line)? {
            ("owner", notice) => Ok(notice),
            _ => Err(NoticeError::Malformed),
        }
    }

    /// Reads what an agent answered.
    ///
    /// # Errors
    /// See [`NoticeError`].
    pub fn read_answer(&self, line: &str) -> Result<Answer, NoticeError> {
        match self.read(line)? {
            ("known", notice) => Ok(Answer::Known(notice)),
            ("newer", notice) => Ok(Answer::Newer(notice)),
            _ => Err(NoticeError::Malformed),
        }
    }

    fn line(&self, word: &str, Notice { vip, epoch, owner }: &Notice) -> String {
        let mut line = format!("{word} {vip} {epoch} {owner}");
        let tag = hmac::sign(&self.0, line.as_bytes());
        line.push(' ');
        for byte in tag.as_ref() {
            // Writing into a string can't fail.
            let _ = write!(line, "{byte:02x}");
        }
        line + "\n"
    }

    fn read<'a>(&self, line: &'a str) -> Result<(&'a str, Notice), NoticeError> {
        let line = line.trim_end_matches(['\r', '\n']);
        let (said, tag) = line.rsplit_once(' ').ok_or(NoticeError::Malformed)?;
        let tag = unhex(tag).ok_or(NoticeError::Malformed)?;
        hmac::verify(&self.0, said.as_bytes(), &tag).map_err(|_| NoticeError::NotAuthentic)?;
        let mut words = said.split(' ');
        let mut next = || words.next().ok_or(NoticeError::Malformed);
        let word = next()?;
        let vip = next()?.parse().map_err(|_| NoticeError::Malformed)?;
        let epoch = next()?.parse().map_err(|_| NoticeError::Malformed)?;
        let owner = next()?.parse().map_err(|_| NoticeError::Malformed)?;
        Ok((word, Notice { vip, epoch, owner }))
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| digit.try_into().ok())).collect();
    let digits = digits.filter(|digits| digits.len() == 64)?;
    digits.chunks_exact(2).map(|pair| Some(pair.first()? << 4 | pair.last()?)).collect()
}

/// Whom an agent knows as owners.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owners(BTreeMap<IpAddr, (u32, u8)>);

impl Owners {
    /// Takes an owner's word, unless it is older than what is known.
    pub fn take(&mut self, notice: Notice) -> Answer {
        let Notice { vip, epoch, owner } = notice;
        match self.0.get(&vip) {
            Some((known_epoch, known)) if (*known_epoch, *known) > (epoch, owner) => {
                Answer::Newer(Notice { vip, epoch: *known_epoch, owner: *known })
            }
            _ => {
                if self.0.len() >= VIPS_MAX && !self.0.contains_key(&vip) {
                    self.0.pop_first();
                }
                self.0.insert(vip, (epoch, owner));
                Answer::Known(notice)
            }
        }
    }

    /// A line for each VIP: address, epoch, appliance id.
    pub fn to_text(&self) -> String {
        self.0.iter().map(|(vip, (epoch, owner))| format!("{vip} {epoch} {owner}\n")).collect()
    }

    /// What [`Owners::to_text`] wrote; other lines are left out.
    pub fn from_text(text: &str) -> Self {
        let line = |line: &str| {
            let mut words = line.split(' ');
            let vip = words.next()?.parse().ok()?;
            Some((vip, (words.next()?.parse().ok()?, words.next()?.parse().ok()?)))
        };
        Self(text.lines().filter_map(line).take(VIPS_MAX).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(epoch: u32, owner: u8) -> Notice {
        Notice { vip: [192, 0, 2, 1].into(), epoch, owner }
    }

    #[test]
    fn a_line_tells_what_was_said_to_who_knows_the_secret() {
        let key = NoticeKey::new(b"a secret that is long enough for this");
        let line = key.notice(&notice(7, 2));
        assert!(line.starts_with("owner 192.0.2.1 7 2 ") && line.len() < NOTICE_BYTES_MAX);
        assert_eq!(key.read_notice(&line), Ok(notice(7, 2)));
        assert_eq!(NoticeKey::new(b"another secret").read_notice(&line), Err(NoticeError::NotAuthentic));
        let changed = line.replace(" 7 ", " 9 ");
        assert_eq!(key.read_notice(&changed), Err(NoticeError::NotAuthentic));
        for answer in [Answer::Known(notice(7, 2)), Answer::Newer(notice(8, 1))] {
            assert_eq!(key.read_answer(&key.answer(&answer)), Ok(answer));
        }
        // Neither passes for the other.
        assert_eq!(key.read_answer(&line), Err(NoticeError::Malformed));
        assert_eq!(key.read_notice(&key.answer(&Answer::Known(notice(7, 2)))), Err(NoticeError::Malformed));
        for garbage in ["", " ", "\n", "owner 192.0.2.1 7 2", "ready up 75%", "x ü", &"f".repeat(64)] {
            assert_eq!(key.read_notice(garbage), Err(NoticeError::Malformed), "{garbage:?}");
        }
    }

    #[test]
    fn an_agent_refuses_an_older_owner() {
        let mut owners = Owners::default();
        assert_eq!(owners.take(notice(7, 2)), Answer::Known(notice(7, 2)));
        assert_eq!(owners.take(notice(7, 2)), Answer::Known(notice(7, 2)), "told once more");
        assert_eq!(owners.take(notice(6, 3)), Answer::Newer(notice(7, 2)), "a lower epoch");
        assert_eq!(owners.take(notice(7, 1)), Answer::Newer(notice(7, 2)), "the same, and a lower id");
        assert_eq!(owners.take(notice(7, 3)), Answer::Known(notice(7, 3)));
        let other = Notice { vip: [192, 0, 2, 2].into(), ..notice(1, 1) };
        assert_eq!(owners.take(other), Answer::Known(other), "each VIP has its own");
        assert_eq!(owners.to_text(), "192.0.2.1 7 3\n192.0.2.2 1 1\n");
        assert_eq!(Owners::from_text(&owners.to_text()), owners);
        assert_eq!(Owners::from_text("nonsense\n192.0.2.1 7\n"), Owners::default());
    }
}
