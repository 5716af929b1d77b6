//! What an appliance's log says about a takeover: second-hand, beside what clients, targets and captures saw.

use std::path::Path;

use crate::clock::Stamp;

/// Lines of a takeover that a timeline shows at most.
const LINES_MAX: usize = 6;
/// Longest text of a line, in characters.
const TEXT_CHARS_MAX: usize = 90;
/// What the lines speak of that belong into a timeline.
const SUBJECTS: [&str; 3] = ["take over", "own the VIP", "renegotiated"];

/// The lines of a takeover since `since`, with their moments.
pub(in crate::scenario) fn lines(log: &Path, since: Stamp) -> Vec<(Stamp, String)> {
    let log = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines = log.lines().filter(|line| SUBJECTS.iter().any(|subject| line.contains(subject))).filter_map(line);
    lines.filter(|(stamp, _)| *stamp >= since).take(LINES_MAX).collect()
}

/// `2025-01-31T23:59:59.123456Z  INFO text`.
fn line(line: &str) -> Option<(Stamp, String)> {
    let mut words = line.split_whitespace();
    let stamp = Stamp::of_real(nanos_since_1970(words.next()?)?);
    let level = words.next()?;
    let text: Vec<&str> = words.collect();
    let text: String = text.join(" ").chars().take(TEXT_CHARS_MAX).collect();
    Some((stamp, if level == "INFO" { text } else { format!("{level} {text}") }))
}

/// Reads a UTC time as RFC 3339 writes it.
fn nanos_since_1970(text: &str) -> Option<i128> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let numbers = |text: &str, separator: char| {
        text.split(separator).map(|part| part.parse().ok()).collect::<Option<Vec<i128>>>()
    };
    let [year, month, day] = numbers(date, '-')?.try_into().ok()?;
    let [hour, minute, second] = numbers(time, ':')?.try_into().ok()?;
    let nanos: i128 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    // Years begin in March, so that the leap day comes last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000_000 + nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_date() {
        // date -u -d 2024-02-29T12:34:56 +%s, and so on
        assert_eq!(nanos_since_1970("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(nanos_since_1970("2024-02-29T12:34:56.5Z"), Some(1_709_210_096_500_000_000));
        assert_eq!(nanos_since_1970("2025-12-31T23:59:59.123456Z"), Some(1_767_225_599_123_456_000));
        assert_eq!(nanos_since_1970("2000-03-01T00:00:00Z"), Some(951_868_800_000_000_000));
        assert_eq!(nanos_since_1970("yesterday"), None);
    }
}
