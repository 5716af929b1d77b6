//! Tables of aligned columns.

use std::io::{self, Write};

/// A table: its header, and rows of the same number of cells.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    numeric: Vec<bool>,
}

impl Table {
    /// A table with these columns; those whose name begins with `>` are aligned to the right.
    pub(super) fn new(columns: &[&str]) -> Self {
        let numeric = columns.iter().map(|column| column.starts_with('>')).collect();
        let header = columns.iter().map(|column| column.trim_start_matches('>').to_owned()).collect();
        Self { rows: vec![header], numeric }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// Writes the table, each line behind `indent` spaces; nothing if it has no rows.
    pub(super) fn write(&self, indent: usize, out: &mut impl Write) -> io::Result<()> {
        if self.rows.len() < 2 {
            return Ok(());
        }
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.numeric.len()).map(width).collect();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).zip(&self.numeric).map(|((cell, &width), numeric)| {
                if *numeric { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            writeln!(out, "{:indent$}{}", "", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let mut table = Table::new(&["NAME", ">COUNT", "NOTE"]);
        table.row(["a".into(), "7".into(), "x".into()]);
        table.row(["längster".into(), "12345678".into(), String::new()]);
        let mut out = Vec::new();
        table.write(2, &mut out).unwrap();
        let expected = "  NAME         COUNT  NOTE\n  a                7  x\n  längster  12345678\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
