//! Blocked times as bars on a logarithmic scale: those of a pair and those of a restart are far apart.

use std::fmt::Write;

use vipsec_report::grouped;

use super::{Row, millis, name};

const LABELS: f64 = 240.0;
const BARS: f64 = 470.0;
const BAR: f64 = 16.0;
const STEP: f64 = 24.0;
const TOP: f64 = 62.0;
const BOTTOM: f64 = 30.0;
const RIGHT: f64 = 90.0;
/// The scale, in milliseconds.
const FROM: f64 = 1.0;
const TO: f64 = 10_000.0;

fn x(millis: f64) -> f64 {
    LABELS + BARS * (millis.clamp(FROM, TO) / FROM).log10() / (TO / FROM).log10()
}

/// The picture.
pub fn svg(rows: &[Row]) -> String {
    let (width, height) = (LABELS + BARS + RIGHT, TOP + STEP * rows.len() as f64 + BOTTOM);
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="12" fill="#1f2933">
<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>
<text x="20" y="24" font-size="16" font-weight="600">For how long a failover blocks traffic</text>
<text x="20" y="44" fill="#616e7c">milliseconds, logarithmic; bar: median, line: worst run; nothing: no datagram lost</text>
"##
    );
    let bottom = TOP + STEP * rows.len() as f64;
    let mut tick = FROM;
    while tick <= TO {
        let _ = writeln!(
            svg,
            r##"<path d="M{x:.1} {TOP}V{bottom}" stroke="#cbd2d9"/><text x="{x:.1}" y="{y}" text-anchor="middle" fill="#616e7c">{tick:.0}</text>"##,
            x = x(tick),
            y = bottom + 16.0
        );
        tick *= 10.0;
    }
    for (n, row) in rows.iter().enumerate() {
        let (y, blocked) = (TOP + STEP * n as f64 + (STEP - BAR) / 2.0, row.blocked_ms);
        let middle = y + BAR / 2.0;
        let colour = if row.policy == "restart" { "#d9822b" } else { "#2563eb" };
        let _ = writeln!(
            svg,
            r##"<text x="{tx}" y="{ty}" text-anchor="end">{name}, {tunnels}</text><rect x="{LABELS}" y="{y}" width="{bar:.1}" height="{BAR}" fill="{colour}"/><path d="M{from:.1} {middle}H{to:.1}" stroke="#1f2933"/><text x="{lx:.1}" y="{ty}">{value}</text>"##,
            tx = LABELS - 10.0,
            ty = y + BAR - 4.0,
            name = name(row.case),
            tunnels = grouped(row.tunnels),
            bar = x(blocked.median) - LABELS,
            from = x(blocked.median),
            to = x(blocked.worst),
            lx = x(blocked.worst) + 6.0,
            value = millis(blocked.median),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::*;
    use crate::scenario::failover::Case;

    #[test]
    fn each_case_has_a_bar_as_long_as_it_blocks() {
        let svg = svg(&[row(Case::Crash, 1), row(Case::Move, 100)]);
        assert_eq!(svg.matches("<rect x=").count(), 2);
        assert!(svg.contains("planned move, 100"), "{svg}");
        assert_eq!((x(1.0), x(100.0), x(1e9)), (LABELS, LABELS + BARS / 2.0, LABELS + BARS));
    }
}
