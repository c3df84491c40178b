//! The flattened device tree, as far as this kernel reads it: where RAM is, and the command line.
//!
//! Checked at every read: a tree that is cut short or wrong is a tree without what was looked for.
//! Devicetree specification, chapter 5.

#![cfg(not(target_arch = "x86_64"))]

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;

/// A property of a node at the first level, `visit`ed with both names and its value.
pub fn each_property<'t>(
    tree: &'t [u8],
    visit: &mut dyn FnMut(&str, &str, &'t [u8]),
) -> Option<()> {
    let (mut at, strings) = (word(tree, 8)? as usize, word(tree, 12)? as usize);
    let (mut node, mut depth) = ("", 0);
    loop {
        let token = word(tree, at)?;
        at += 4;
        match token {
            BEGIN_NODE => {
                let name = text(tree, at)?;
                at = (at + name.len() + 1).next_multiple_of(4);
                depth += 1;
                if depth == 2 {
                    node = name;
                }
            }
            END_NODE => depth -= 1,
            PROPERTY => {
                let len = word(tree, at)? as usize;
                let name = text(tree, strings.checked_add(word(tree, at + 4)? as usize)?)?;
                let value = tree.get(at + 8..(at + 8).checked_add(len)?)?;
                at = (at + 8 + len).next_multiple_of(4);
                if depth == 2 {
                    visit(node, name, value);
                }
            }
            NOP => {}
            _ => return Some(()),
        }
    }
}

/// The RAM around `addr`: its start and end.
pub fn ram_around(tree: &[u8], addr: u64) -> Option<(u64, u64)> {
    let mut found = None;
    each_property(tree, &mut |node, name, value| {
        if !node.starts_with("memory@") || name != "reg" {
            return;
        }
        // Two cells an address and two a length, as on both machines.
        for pair in value.chunks_exact(16) {
            let start = u64::from_be_bytes(pair[..8].try_into().unwrap_or_default());
            let len = u64::from_be_bytes(pair[8..].try_into().unwrap_or_default());
            if addr.checked_sub(start).is_some_and(|at| at < len) {
                found = Some((start, start + len));
            }
        }
    });
    found
}

/// What stands after `-append`.
pub fn command_line(tree: &[u8]) -> &str {
    let mut found: &[u8] = &[];
    each_property(tree, &mut |node, name, value| {
        if node == "chosen" && name == "bootargs" {
            found = value;
        }
    });
    core::str::from_utf8(found).unwrap_or("").trim_end_matches('\0')
}

/// The length of the tree whose first 8 bytes are these, if it is one.
pub fn len(head: &[u8]) -> Option<usize> {
    (word(head, 0)? == 0xd00d_feed).then_some(word(head, 4)? as usize)
}

fn word(tree: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(tree.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn text(tree: &[u8], at: usize) -> Option<&str> {
    let bytes = tree.get(at..)?;
    core::str::from_utf8(&bytes[..bytes.iter().position(|&byte| byte == 0)?]).ok()
}
