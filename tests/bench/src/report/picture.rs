//! The picture: where a protected packet's time goes, as bars.

use std::fmt::Write;

use super::{count, way};
use crate::machine::Machine;
use crate::result::{Case, Row};

const LABELS: f64 = 190.0;
const BARS: f64 = 560.0;
const BAR: f64 = 16.0;
const STEP: f64 = 22.0;
const TOP: f64 = 60.0;
const MARGIN: f64 = 20.0;

/// A part of a bar: what it shows, its colour, how many nanoseconds.
type Part = (&'static str, &'static str, f64);

fn parts(row: &Row, rows: &[Row]) -> Vec<Part> {
    let forward = row.cheapest_forward_ns(rows).unwrap_or(0.0);
    let cipher = row.aead_ns.unwrap_or(0.0).min(row.ns_per_packet - forward);
    vec![
        ("plain forwarding", "#7a8ca3", forward),
        ("bare cipher", "#2f6fb2", cipher),
        ("the rest of ESP", "#d9822b", row.ns_per_packet - forward - cipher),
    ]
}

/// An SVG image of all ESP measurements.
pub(crate) fn picture(machine: &Machine, all: &[Row]) -> String {
    let rows: Vec<&Row> = all.iter().filter(|row| row.case == Case::Esp).collect();
    let longest = rows.iter().map(|row| row.ns_per_packet).fold(1.0, f64::max);
    let scale = BARS / longest;
    let (width, height) = (LABELS + BARS + 70.0, TOP + STEP * rows.len() as f64 + MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{MARGIN}\" y=\"22\" font-size=\"14\">ESP: nanoseconds per packet on {}</text>\n",
        escaped(&machine.cpu)
    );
    for (n, (name, colour, _)) in rows.first().map(|row| parts(row, all)).unwrap_or_default().iter().enumerate() {
        let x = LABELS + 150.0 * n as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.0}\" y=\"34\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{:.0}\" y=\"45\">{name}</text>",
            x + 18.0
        );
    }
    for (n, row) in rows.iter().enumerate() {
        let y = TOP + STEP * n as f64;
        let label = format!("{} SAs, {} bytes {}", count(row.sas), count(row.size_bytes), way(row.direction));
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{label}</text>",
            LABELS - 10.0,
            y + BAR - 3.0
        );
        let mut x = LABELS;
        for (_, colour, ns) in parts(row, all) {
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{y:.0}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>",
                ns * scale
            );
            x += ns * scale;
        }
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.0}\">{:.0}</text>", x + 6.0, y + BAR - 3.0, row.ns_per_packet);
    }
    svg.push_str("</svg>\n");
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
