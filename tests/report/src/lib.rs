//! What the pages of figures share: how numbers are written, and what machine it was.
#![forbid(unsafe_code)]

mod machine;

pub use machine::{CpuInfo, kernel, load};

/// A number with commas between thousands.
pub fn grouped(number: impl Into<u128>) -> String {
    let digits = number.into().to_string();
    let mut grouped = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        let texts = [0u64, 999, 1000, 65_536, 1_000_000].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "65,536", "1,000,000"]);
    }
}
