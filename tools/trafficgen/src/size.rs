//! Frame lengths: one, or a mixture.

use std::str::FromStr;

use thiserror::Error;

/// Lengths in a mixture at most, and the most that one of them may weigh.
pub const LENGTHS_MAX: usize = 16;
/// See [`LENGTHS_MAX`].
pub const WEIGHT_MAX: u32 = 1000;

/// The lengths of the frames of a stream, in bytes without FCS, in the order in which they are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    /// Not empty.
    schedule: Vec<u16>,
}

/// A text is no mixture of lengths.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SizesError {
    /// Not `LEN:WEIGHT,…`.
    #[error("{0:?} is no mixture: write LEN:WEIGHT,LEN:WEIGHT,…, lengths in bytes without FCS")]
    Syntax(String),
    /// Too many lengths.
    #[error("a mixture has at most {LENGTHS_MAX} lengths")]
    TooMany,
    /// A weight out of range.
    #[error("a weight lies in 1..={WEIGHT_MAX}, {0} doesn't")]
    Weight(u32),
}

impl Sizes {
    /// All frames of one length.
    pub fn fixed(len: u16) -> Self {
        Self { schedule: vec![len] }
    }

    /// The usual Internet mix: of twelve frames seven of 64 bytes, four of 590, one of 1514.
    pub fn imix() -> Self {
        Self { schedule: interleave(&[(64, 7), (590, 4), (1514, 1)]) }
    }

    /// The length of the frame with that number in the stream, of which each of `flows` gets one in turn.
    pub fn len_of(&self, number: u64, flows: u64) -> u16 {
        // Within a round one flow after the other goes on in the schedule, and so does each flow from round to round: with the
        // number alone, flows and schedule with a common divisor would tie some lengths to some flows.
        let flows = flows.max(1);
        let place = (number % flows).wrapping_add(number / flows) % self.schedule.len().max(1) as u64;
        usize::try_from(place).ok().and_then(|place| self.schedule.get(place)).copied().unwrap_or_default()
    }

    /// The shortest.
    pub fn min(&self) -> u16 {
        self.schedule.iter().copied().min().unwrap_or_default()
    }

    /// The longest.
    pub fn max(&self) -> u16 {
        self.schedule.iter().copied().max().unwrap_or_default()
    }

    /// Mean length in bytes.
    pub fn mean(&self) -> f64 {
        self.schedule.iter().map(|&len| f64::from(len)).sum::<f64>() / self.schedule.len().max(1) as f64
    }
}

impl FromStr for Sizes {
    type Err = SizesError;

    /// `64:7,590:4,1514:1`.
    fn from_str(text: &str) -> Result<Self, SizesError> {
        let syntax = || SizesError::Syntax(text.to_owned());
        let mut weighted = Vec::new();
        for part in text.split(',') {
            let (len, weight) = part.split_once(':').ok_or_else(syntax)?;
            let (len, weight) = (len.parse().map_err(|_| syntax())?, weight.parse().map_err(|_| syntax())?);
            if !(1..=WEIGHT_MAX).contains(&weight) {
                return Err(SizesError::Weight(weight));
            }
            weighted.push((len, weight));
        }
        if weighted.len() > LENGTHS_MAX {
            return Err(SizesError::TooMany);
        }
        Ok(Self { schedule: interleave(&weighted) })
    }
}

/// A round in which each length occurs as often as it weighs, spread as evenly as that goes: each place goes to the length that is
/// furthest behind its share.
fn interleave(weighted: &[(u16, u32)]) -> Vec<u16> {
    let total: i64 = weighted.iter().map(|&(_, weight)| i64::from(weight)).sum();
    let mut behind = vec![0i64; weighted.len()];
    let mut schedule = Vec::new();
    for _ in 0..total {
        for (behind, &(_, weight)) in behind.iter_mut().zip(weighted) {
            *behind += i64::from(weight);
        }
        let furthest = behind.iter_mut().zip(weighted).max_by_key(|(behind, _)| **behind);
        let Some((behind, &(len, _))) = furthest else { break };
        *behind -= total;
        schedule.push(len);
    }
    schedule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imix_is_7_4_1_and_spread() {
        let sizes = Sizes::imix();
        assert_eq!(sizes, "64:7,590:4,1514:1".parse().unwrap());
        let round: Vec<u16> = (0..12).map(|number| sizes.len_of(number, u64::MAX)).collect();
        let count = |len| round.iter().filter(|&&l| l == len).count();
        assert_eq!((count(64), count(590), count(1514)), (7, 4, 1));
        let runs = round.chunk_by(|a, b| a == b).map(<[u16]>::len).max();
        assert!(runs <= Some(2), "{round:?}");
        assert_eq!((sizes.min(), sizes.max()), (64, 1514));
        assert_eq!(sizes.mean().round(), 360.0);
    }

    #[test]
    fn every_flow_gets_the_whole_mixture_however_many_flows_there_are() {
        let sizes = Sizes::imix();
        for flows in [1, 2, 11, 12, 24, 50, 1024] {
            for flow in 0..flows {
                let lengths: Vec<u16> = (0..12).map(|round| sizes.len_of(round * flows + flow, flows)).collect();
                let count = |len| lengths.iter().filter(|&&l| l == len).count();
                assert_eq!((count(64), count(590), count(1514)), (7, 4, 1), "flow {flow} of {flows}: {lengths:?}");
            }
        }
    }

    #[test]
    fn refuses() {
        for text in ["", "64", "64:", ":1", "64:1,", "64:1;590:1", "64:-1", "70000:1"] {
            assert!(matches!(text.parse::<Sizes>(), Err(SizesError::Syntax(_))), "{text}");
        }
        assert_eq!("64:0".parse::<Sizes>(), Err(SizesError::Weight(0)));
        assert_eq!("64:1001".parse::<Sizes>(), Err(SizesError::Weight(1001)));
        assert_eq!(vec!["64:1"; 17].join(",").parse::<Sizes>(), Err(SizesError::TooMany));
    }
}
