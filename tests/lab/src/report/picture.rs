//! A takeover as a picture: packets that arrived, over time, both ways. Plain SVG.

use std::fmt::Write;

use super::takeover::{Arrivals, Takeover, TakeoverReport};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 58.0;
const PANEL: f64 = 110.0;
const BETWEEN: f64 = 48.0;
const BOTTOM: f64 = 28.0;
/// What keeps text readable on lines and bars.
const HALO: &str = r##"stroke="#ffffff" stroke-width="3" stroke-linejoin="round" paint-order="stroke""##;
/// Shown before the owner's end, in milliseconds.
const BEFORE_MS: f64 = 150.0;
/// Shown after the last gap's end at least, in milliseconds.
const AFTER_MS: f64 = 200.0;
/// Shown after the owner's end at least, in milliseconds.
const SPAN_MS_MIN: f64 = 350.0;
/// Shown after the owner's end at most, in milliseconds.
const SPAN_MS_MAX: f64 = 5_000.0;
/// Bars that a panel has at most.
const BARS_MAX: f64 = 110.0;

/// From milliseconds to the picture's coordinates.
struct Axis {
    from: f64,
    to: f64,
    bin: f64,
}

impl Axis {
    fn of(takeover: &Takeover) -> Self {
        let arrivals = &takeover.arrivals;
        let resumed = |way: &[f64]| gap(way, arrivals.announced).map_or(0.0, |(_, end)| end);
        let to = (resumed(&arrivals.up).max(resumed(&arrivals.down)) + AFTER_MS).clamp(SPAN_MS_MIN, SPAN_MS_MAX);
        let round = |value: f64, step: f64| (value / step).ceil() * step;
        let bin = [10.0, 20.0, 50.0, 100.0].into_iter().find(|bin| (BEFORE_MS + to) / bin <= BARS_MAX).unwrap_or(100.0);
        Self { from: -round(BEFORE_MS, bin), to: round(to, bin), bin }
    }

    fn x(&self, millis: f64) -> f64 {
        let share = (millis.clamp(self.from, self.to) - self.from) / (self.to - self.from);
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    /// How many arrived in each bin.
    fn count(&self, arrivals: &[f64]) -> Vec<u32> {
        let mut bins = vec![0; ((self.to - self.from) / self.bin).round() as usize];
        for at in arrivals.iter().filter(|at| **at >= self.from) {
            if let Some(bin) = bins.get_mut(((at - self.from) / self.bin) as usize) {
                *bin += 1;
            }
        }
        bins
    }

    /// Where the labels stand: at round numbers.
    fn ticks(&self) -> impl Iterator<Item = f64> {
        let span = self.to - self.from;
        let step = [50.0, 100.0, 200.0, 500.0].into_iter().find(|step| span / step <= 12.0).unwrap_or(1_000.0);
        let first = (self.from / step).ceil() as i64;
        let last = (self.to / step).floor() as i64;
        (first..=last).map(move |nth| nth as f64 * step)
    }
}

/// The silence around the successor's announcement.
fn gap(arrivals: &[f64], announced: f64) -> Option<(f64, f64)> {
    let after = arrivals.partition_point(|at| *at < announced);
    Some((*arrivals.get(after.checked_sub(1)?)?, *arrivals.get(after)?))
}

/// The picture.
pub fn svg(takeover: &Takeover) -> String {
    let Takeover { report, arrivals } = takeover;
    let axis = Axis::of(takeover);
    let height = TOP + 2.0 * PANEL + BETWEEN + BOTTOM;
    let mut out = String::new();
    let _ = write!(
        out,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" font-size="12" fill="#1f2933">
<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>
<text x="{LEFT}" y="26" font-size="16" font-weight="600">{title}</text>
<text x="{LEFT}" y="44" fill="#616e7c">packets per {bin:.0} ms, {rate:.0} sent per second each way</text>
"##,
        title = title(report),
        bin = axis.bin,
        rate = arrivals.rate,
    );
    let ways = [
        ("client → target", "#2563eb", &arrivals.up, report.blocked_ms.up, report.probes.up.lost),
        ("target → client", "#0d9488", &arrivals.down, report.blocked_ms.down, report.probes.down.lost),
    ];
    for (nth, (name, colour, way, blocked_ms, lost)) in ways.into_iter().enumerate() {
        let top = TOP + nth as f64 * (PANEL + BETWEEN);
        panel(&mut out, &axis, top, colour, way, arrivals);
        let _ = writeln!(
            out,
            r##"<text x="{LEFT}" y="{y}" font-weight="600" fill="{colour}">{name}</text>"##,
            y = top + 12.0
        );
        if let Some((begin, end)) = gap(way, arrivals.announced) {
            let (middle, y) = ((axis.x(begin) + axis.x(end)) / 2.0, top + 66.0);
            let _ = writeln!(
                out,
                r##"<g text-anchor="middle" fill="#b91c1c" {HALO}><text x="{middle:.1}" y="{y}" font-size="15" font-weight="600">{blocked_ms:.0} ms</text><text x="{middle:.1}" y="{below}">{lost} lost</text></g>"##,
                below = y + 16.0,
            );
        }
    }
    for (at, label, anchor, shift) in [
        (0.0, format!("{} ends", report.owner), "end", -4.0),
        (arrivals.announced, format!("{} announced", report.successor), "start", 4.0),
    ] {
        let x = axis.x(at);
        let (top, bottom) = (TOP + 2.0, height - BOTTOM);
        let y = TOP + PANEL + BETWEEN - 16.0;
        let _ = writeln!(
            out,
            r##"<path d="M{x:.1} {top}V{bottom}" stroke="#52606d" stroke-dasharray="3 3"/><text x="{tx:.1}" y="{y}" text-anchor="{anchor}" fill="#52606d" {HALO}>{label}</text>"##,
            tx = x + shift,
        );
    }
    out.push_str("</svg>\n");
    out
}

fn title(report: &TakeoverReport) -> String {
    let tcp = report.tcp;
    let kept = format!("{} of {} connections kept", tcp.kept, tcp.kept + tcp.reset + tcp.moved);
    format!("Appliance {} dies, {} takes over: {kept}", report.owner, report.successor)
}

/// Bars, the gap's shade, and the axis of one way.
fn panel(out: &mut String, axis: &Axis, top: f64, colour: &str, way: &[f64], all: &Arrivals) {
    let (base, bars_top) = (top + PANEL, top + 18.0);
    let bins = axis.count(way);
    let usual = all.rate * axis.bin / 1e3;
    // Room for what a burst brings, but not for a flood: the usual height stays readable.
    let most = f64::from(bins.iter().copied().max().unwrap_or(1)).clamp(usual * 1.2, usual * 2.5).max(1.0);
    if let Some((begin, end)) = gap(way, all.announced) {
        let (x, width) = (axis.x(begin), axis.x(end) - axis.x(begin));
        let _ = writeln!(
            out,
            r##"<rect x="{x:.1}" y="{bars_top}" width="{width:.1}" height="{height}" fill="#fee2e2"/>"##,
            height = base - bars_top
        );
    }
    let mut bars = String::new();
    let width = axis.x(axis.from + axis.bin) - axis.x(axis.from) - 0.8;
    for (nth, count) in bins.iter().enumerate().filter(|(_, count)| **count > 0) {
        let height = (f64::from(*count) / most).min(1.0) * (base - bars_top);
        let x = axis.x(axis.from + nth as f64 * axis.bin) + 0.4;
        let _ = write!(bars, "M{x:.1} {base}v-{height:.1}h{width:.1}V{base}z");
    }
    let _ = writeln!(out, r##"<path d="{bars}" fill="{colour}"/>"##);
    let y = base - usual / most * (base - bars_top);
    let _ = writeln!(
        out,
        r##"<path d="M{LEFT} {y:.1}H{right}" stroke="#9aa5b1" stroke-width="0.5"/><text x="{tx}" y="{ty:.1}" text-anchor="end" fill="#616e7c">{usual:.0}</text>"##,
        right = WIDTH - RIGHT,
        tx = LEFT - 6.0,
        ty = y + 4.0,
    );
    let _ = writeln!(
        out,
        r##"<path d="M{LEFT} {base}H{right}" stroke="#323f4b"/><text x="{tx}" y="{base}" text-anchor="end" fill="#616e7c">0</text>"##,
        right = WIDTH - RIGHT,
        tx = LEFT - 6.0,
    );
    for tick in axis.ticks() {
        let (x, y) = (axis.x(tick), base + 14.0);
        let unit = if tick == 0.0 { " ms" } else { "" };
        let _ = writeln!(
            out,
            r##"<text x="{x:.1}" y="{y}" text-anchor="middle" font-size="10" fill="#616e7c" {HALO}>{tick:.0}{unit}</text>"##
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_arrival_is_in_one_bin_and_the_gap_is_the_one_of_the_takeover() {
        let axis = Axis { from: -150.0, to: 350.0, bin: 10.0 };
        let way: Vec<f64> = (-200..0).step_by(2).chain((71..400).step_by(2)).map(f64::from).collect();
        let bins = axis.count(&way);
        let counted = bins.iter().sum::<u32>() as usize;
        assert_eq!(counted, way.iter().filter(|at| (-150.0..350.0).contains(*at)).count());
        assert_eq!((bins[14], bins[15], bins[21], bins[22]), (5, 0, 0, 5));
        assert_eq!(gap(&way, 70.0), Some((-2.0, 71.0)));
    }
}
