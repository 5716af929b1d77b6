//! `swanctl --raw` output: the nested text form of a vici message.

use std::collections::BTreeMap;

/// A section of a vici message: its values and lists as text, its sections by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Section {
    /// Values and lists.
    pub(super) values: BTreeMap<String, String>,
    /// Sections.
    pub(super) sections: BTreeMap<String, Section>,
}

impl Section {
    /// A value as text, empty if there is none.
    pub(super) fn text(&self, key: &str) -> &str {
        self.values.get(key).map_or("", String::as_str)
    }

    /// A value as a number, zero if there is none.
    pub(super) fn number(&self, key: &str) -> u64 {
        self.text(key).parse().unwrap_or(0)
    }
}

/// Sections may nest this deep; vici needs four.
const DEPTH_MAX: usize = 16;

/// Parses one line such as `list-sa event {branch {uniqueid=1 child-sas {net-1 {name=net local-ts=[10.9.0.0/16]}}}}`: what stands
/// between the outermost braces. `None` if it isn't of that form.
pub(super) fn parse(line: &str) -> Option<Section> {
    let begin = line.find('{')?;
    let (section, rest) = section(line.get(begin + 1..)?, 0)?;
    rest.trim().is_empty().then_some(section)
}

/// Parses a section's content and its closing brace; returns what follows.
fn section(mut text: &str, depth: usize) -> Option<(Section, &str)> {
    if depth > DEPTH_MAX {
        return None;
    }
    let mut found = Section::default();
    loop {
        text = text.trim_start();
        if let Some(rest) = text.strip_prefix('}') {
            return Some((found, rest));
        }
        let end = text.find(['=', '{'])?;
        let (name, rest) = text.split_at_checked(end)?;
        let name = name.trim().to_owned();
        if let Some(inside) = rest.strip_prefix('{') {
            let (inner, after) = section(inside, depth + 1)?;
            found.sections.insert(name, inner);
            text = after;
        } else {
            let (value, after) = value(rest.strip_prefix('=')?)?;
            found.values.insert(name, value.to_owned());
            text = after;
        }
    }
}

/// A value ends before the next `name=`, `name {` or brace; a list ends with its bracket.
fn value(text: &str) -> Option<(&str, &str)> {
    if let Some(list) = text.strip_prefix('[') {
        return list.split_once(']');
    }
    let end = text.find([' ', '}'])?;
    text.split_at_checked(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_swanctl_prints_is_read() {
        let line = "list-sa event {branch {uniqueid=1 version=2 state=ESTABLISHED initiator=yes nat-remote=yes \
                    child-sas {net-1 {name=net uniqueid=1 spi-in=c1 packets-in=42 local-ts=[10.9.0.0/16 10.8.0.0/16] \
                    remote-ts=[192.0.2.1/32]} net-2 {name=net spi-in=c2}}}}";
        let message = parse(line).expect("parses");
        let branch = &message.sections["branch"];
        assert_eq!(branch.text("state"), "ESTABLISHED");
        let children = &branch.sections["child-sas"].sections;
        assert_eq!(children["net-1"].number("packets-in"), 42);
        assert_eq!(children["net-1"].text("local-ts"), "10.9.0.0/16 10.8.0.0/16");
        assert_eq!(children["net-2"].text("spi-in"), "c2");
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        assert_eq!(parse("list-sa event {branch {uniqueid=1"), None);
        assert_eq!(parse("no SAs"), None);
    }
}
